"""Idempotency keys: UUIDv7, so that the engine can tell a key that is too old from one that it never saw."""

from __future__ import annotations

import secrets
import time


def new_key() -> str:
    """A new UUIDv7: 48 bits of the time in milliseconds, then 74 random bits."""
    made_ms = time.time_ns() // 1_000_000
    random_bits = secrets.randbits(74)
    value = (made_ms & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | (random_bits >> 62) << 64 | 0b10 << 62
    value |= random_bits & ((1 << 62) - 1)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
