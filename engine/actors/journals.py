"""Opens the journal of a shard on the server that the settings name."""

from __future__ import annotations

import asyncio

import structlog

from engine.journal.port import Journal, Unavailable
from engine.journal.redis_journal import RedisJournal
from engine.settings import Settings

RETRY_S = 0.2
log = structlog.get_logger(__name__)


async def open_journal(settings: Settings, shard: int) -> Journal:
    """Connected and its durability proven; waits for a server that is away. Raises JournalError where it is not durable."""
    assert settings.redis_url is not None, "bootstrap sets the server's address"
    journal = RedisJournal(settings.redis_url.get_secret_value(), shard, durability=settings.durability)
    while True:
        try:
            await journal.connect()
        except Unavailable as error:
            log.warning("journal unreachable", shard=shard, error=str(error))
            await asyncio.sleep(RETRY_S)
            continue
        return journal
