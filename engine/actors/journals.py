"""The journal of a shard on the server that the settings name."""

from __future__ import annotations

from engine.journal.redis_journal import RedisJournal
from engine.settings import Settings


def open_journal(settings: Settings, shard: int) -> RedisJournal:
    """Not connected yet: the first call connects, and raises Misconfigured where durability cannot be proven."""
    assert settings.redis_url is not None, "bootstrap sets the server's address"
    return RedisJournal(
        settings.redis_url.get_secret_value(), shard, durability=settings.durability, append_timeout_s=settings.lease_s
    )
