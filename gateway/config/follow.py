"""A change of the configuration is answered when it is in use: this gateway and every shard within reach work with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from engine.domain.commands import GetStatus
from engine.domain.replies import StatusReply

if TYPE_CHECKING:
    from gateway.gateway import Gateway

PUT_WAIT_S = 1.0
IMPORT_WAIT_S = 30.0
WAIT_MIN_S = 0.0005
WAIT_MAX_S = 0.02


async def in_use(gateway: Gateway, version: int, *, within_s: float = PUT_WAIT_S) -> bool:
    """Whether all work with a configuration version, waiting for those that do not yet.

    A shard that is away takes no orders either, and has the newest configuration when it is back: nobody waits for it longer than
    `within_s`. One that is connected will take the next order, however slow it is: it is waited for as long as a request may take.
    """
    slow_s = gateway.settings.request_timeout_ms / 1_000
    try:
        async with asyncio.timeout(max(within_s, slow_s)):
            reached = await asyncio.gather(
                _own(gateway, version),
                *[_of_shard(gateway, shard, version, within_s) for shard in gateway.cluster.shards],
            )
    except TimeoutError:
        return False
    return all(reached)


async def _own(gateway: Gateway, version: int) -> bool:
    wait_s = WAIT_MIN_S
    while gateway.cluster.catalog.version < version:
        await asyncio.sleep(wait_s)
        wait_s = min(WAIT_MAX_S, wait_s * 2)
    return True


async def _of_shard(gateway: Gateway, shard: int, version: int, within_s: float) -> bool:
    cluster = gateway.cluster
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    wait_s = WAIT_MIN_S
    while True:
        asked = asyncio.ensure_future(cluster.ask(shard, GetStatus()))
        while not asked.done():
            await asyncio.wait({asked}, timeout=max(WAIT_MAX_S, deadline - loop.time()))
            link = cluster.links().get(shard)
            if not asked.done() and loop.time() >= deadline and (link is None or not link.connected):
                asked.cancel()
                return False
        reply = asked.result()
        if not isinstance(reply, StatusReply):
            return False
        if reply.facts["config_version"] >= version:
            return True
        await asyncio.sleep(wait_s)
        wait_s = min(WAIT_MAX_S, wait_s * 2)
