"""What the shards say of themselves, asked once for everybody who asks at the same time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from engine.domain.commands import GetStatus
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import Problem, Reply, StatusReply

if TYPE_CHECKING:
    from gateway.gateway import ClusterPort

TIMEOUT_S = 1.0
FRESH_S = 0.25


class ShardStatuses:
    """Facts by shard (the control shard included), or the problem it answered. At most a quarter of a second old."""

    def __init__(self, cluster: ClusterPort) -> None:
        self._cluster = cluster
        self._asking: asyncio.Task[dict[int, dict[str, Any] | Problem]] | None = None
        self._asked_s = 0.0

    async def all(self) -> dict[int, dict[str, Any] | Problem]:
        now_s = time.monotonic()
        if self._asking is None or (self._asking.done() and now_s - self._asked_s > FRESH_S):
            self._asked_s = now_s
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> dict[int, dict[str, Any] | Problem]:
        cluster = self._cluster
        control, stock = await asyncio.gather(
            cluster.ask(CONTROL_SHARD, GetStatus(), timeout_s=TIMEOUT_S),
            cluster.ask_all(GetStatus(), timeout_s=TIMEOUT_S),
        )
        return {shard: _facts(reply) for shard, reply in sorted({CONTROL_SHARD: control, **stock}.items())}


def _facts(reply: Reply) -> dict[str, Any] | Problem:
    if isinstance(reply, StatusReply):
        return reply.facts
    if isinstance(reply, Problem):
        return reply
    raise TypeError(f"a shard answered {type(reply).__name__} to GetStatus")
