"""Waiting for work in threads, which cannot be stopped."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: asyncio.Future[T]) -> T:
    """The work's outcome. A cancellation waits for its end too: nothing may go on that nobody knows of, or be left half-known."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait({work})
        raise
