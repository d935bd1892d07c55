"""Cancels orders whose id an older order in another slot has: only the index sees both.

D1  The index finds them, the shards decide. Of two orders that the index shows open the younger is cancelled only after the home of the
    older one has said that it is open now: the index may not have heard yet that it ended.
D2  Nothing is remembered. What is still to be done is what the index says, so a killed archiver goes on where it was.
D3  An outcome that is unknown is tried again: cancelling twice is cancelling once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import groupby

import structlog

from engine.archive.reader import IndexReader, OrderEnd, Pair
from engine.client.cluster import Cluster
from engine.domain.commands import CancelOrder, GetOrder
from engine.domain.ids import OrderRef, public_id
from engine.domain.replies import OrderView, Problem

PAGE = 200
_SETTLED = frozenset(("not_found", "wrong_state", "expired"))
"""Answers after which nothing is left to do: it has ended, or all that is left of it was released to nodes."""
_ENDED = frozenset(("released", "expired", "cancelled", "delivered"))
log = structlog.get_logger(__name__)


class Duplicates:
    """Goes through what is open, once each time it is asked to. Used by one task."""

    def __init__(self, reader: IndexReader, cluster: Cluster, *, now_ms: Callable[[], int]) -> None:
        self._reader = reader
        self._cluster = cluster
        self._now_ms = now_ms

    async def settle(self) -> bool:
        """Cancel what is to be cancelled; False = something is unknown and to be tried again (D3). Raises Unavailable."""
        after_no: int | None = 0
        all_known = True
        while after_no is not None:
            pairs, after_no = await asyncio.to_thread(self._reader.open_duplicates, after_no=after_no, limit=PAGE)
            groups = [(order, [pair.older for pair in group]) for order, group in groupby(pairs, key=_order_of)]
            known = await asyncio.gather(*(self._settle_one(order, older) for order, older in groups))
            all_known = all_known and all(known)
        return all_known

    async def _settle_one(self, order: OrderEnd, older: list[OrderEnd]) -> bool:
        """False = unknown."""
        for other in older:
            is_open = await self._is_open(other)
            if is_open is None:
                return False
            if is_open:
                return await self._cancel(order, other)
        return True

    async def _is_open(self, order: OrderEnd) -> bool | None:
        """What its home says (D1); None = nothing."""
        cluster, slot = self._cluster, order.slot
        reply = await cluster.ask_owner(lambda: cluster.shard_of_slot(slot), GetOrder(slot, order.order_no))
        if isinstance(reply, OrderView):
            over = reply.state == "held" and reply.expires_at_ms <= self._now_ms()
            return reply.state not in _ENDED and not over
        if isinstance(reply, Problem) and reply.code in _SETTLED:
            return False
        return None

    async def _cancel(self, order: OrderEnd, other: OrderEnd) -> bool:
        """False = unknown."""
        cluster, slot = self._cluster, order.slot
        command = CancelOrder(slot, order.order_no, is_duplicate=True)
        reply = await cluster.ask_owner(lambda: cluster.shard_of_slot(slot), command)
        if isinstance(reply, OrderView):
            log.info(
                "a duplicate order was cancelled",
                order_id=reply.order_id,
                cancelled=public_id("alc", OrderRef(slot, order.order_no)),
                kept=public_id("alc", OrderRef(other.slot, other.order_no)),
                state=reply.state,
            )
            return True
        return isinstance(reply, Problem) and reply.code in _SETTLED


def _order_of(pair: Pair) -> OrderEnd:
    return pair.order
