"""Is another engine at work on this server? Two of them would fence each other's shards for ever."""

from __future__ import annotations

import asyncio
import time

from engine.client.cluster import Cluster
from engine.client.link import Finder
from engine.domain.commands import GetStatus
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import StatusReply

ANSWER_S = 1.0
PATIENCE_S = 10.0
"""Processes of an engine whose command was killed need some seconds to end."""
EVERY_S = 0.5


async def living_neighbour(find: Finder, *, token: str = "", patience_s: float = PATIENCE_S) -> str | None:
    """Where the control shard of another engine answers, for as long as we are patient; None = nobody does.

    find: the directory of the server. A shard that cannot be reached from here (another host, without TCP) is not found.
    """
    deadline = time.monotonic() + patience_s
    while True:
        found = await find(CONTROL_SHARD)
        if found is None or not await _answers(find, token):
            return None
        if time.monotonic() >= deadline:
            return ", ".join(found.addresses)
        await asyncio.sleep(EVERY_S)


async def _answers(find: Finder, token: str) -> bool:
    cluster = Cluster(find, token=token, timeout_s=ANSWER_S)
    try:
        return isinstance(await cluster.ask(CONTROL_SHARD, GetStatus(), timeout_s=ANSWER_S), StatusReply)
    finally:
        await cluster.close()
