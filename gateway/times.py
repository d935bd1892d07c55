"""Instants: RFC 3339 in UTC with `Z` outside, integer milliseconds since 1970 inside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


@lru_cache(maxsize=8_192)
def iso(ms: int) -> str | None:
    """ "2026-12-01T18:00:00.123Z"; None for 0, which means "not set" everywhere inside. Ship and delivery days repeat, so it
    remembers them."""
    if not ms:
        return None
    instant = _EPOCH + timedelta(milliseconds=ms)
    text = instant.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{ms % 1_000:03d}Z" if ms % 1_000 else f"{text}Z"


def ms_of(instant: datetime) -> int:
    """Milliseconds of an instant that carries its time zone."""
    return (instant - _EPOCH) // _MS
