"""Cursors of lists: a place in base64url, which callers give back and do not look into."""

from __future__ import annotations

import base64
import binascii


def encode_cursor(place: str) -> str:
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str | None:
    """The place; None = it is no cursor of ours."""
    try:
        packed = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        return base64.b64decode(packed, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return None


def is_number(text: str, digits_max: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= digits_max
