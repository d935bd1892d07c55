"""Shipped legs that nobody reports as delivered: after some days they are taken to have arrived, so that their orders can close.

Carriers and stores often stop at "shipped". Without this such orders would stay in the shard's memory for ever.

D1  The time runs from when the leg left, or should have arrived, whichever is later, and passes by journal time.
D2  What is assumed is told from what was reported: the entry's cause is DELIVERY_ASSUMED. A report that comes later is a repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.domain.events import Cause
from engine.domain.orders import LegRecord, LegState, OrderRecord, OrderState
from engine.protocol.expiry import ExpiryQueue

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

ORDERS_PER_POLL = 64
BUSY_MS = 60_000
"""Until an order is looked at again that has a transaction under way, or is just moving."""


class Arrivals:
    """Legs of this home's orders that are on their way."""

    def __init__(self, core: ShardCore, assume_after_ms: int) -> None:
        self._core = core
        self._after_ms = assume_after_ms
        """0 = nothing is ever assumed."""
        self._queue = ExpiryQueue()

    def watch(self, slot: str, order_no: int, record: OrderRecord) -> None:
        """Take up what an order has on its way: one entry, for the leg that is due first."""
        if not self._after_ms or record.state != OrderState.COMMITTED:
            return
        due_ms = [self._due_ms(leg) for leg in record.legs if leg.state == LegState.SHIPPED]
        if due_ms:
            self._queue.push(min(due_ms), slot, order_no)

    def recovered(self, on_their_way: list[tuple[str, int]]) -> None:
        for slot, order_no in on_their_way:
            record = self._core.state.order(slot, order_no)
            assert record is not None
            self.watch(slot, order_no, record)

    def wake_at_ms(self, now_ms: int) -> int | None:
        due_ms = self._queue.next_ms()
        return max(due_ms, now_ms + 1) if due_ms is not None else None

    def tick(self, now_ms: int, room: Callable[[], int]) -> None:
        if not len(self._queue):
            return
        time_ms = self._core.time_ms(now_ms)
        for _ in range(ORDERS_PER_POLL):
            if not room():
                return
            entry = self._queue.pop_due(time_ms)
            if entry is None:
                return
            _, slot, order_no = entry
            self._look(slot, order_no, time_ms, now_ms)

    def _due_ms(self, leg: LegRecord) -> int:
        return max(leg.shipped_at_ms, leg.deliver_by_s * 1_000) + self._after_ms

    def _look(self, slot: str, order_no: int, time_ms: int, now_ms: int) -> None:
        core = self._core
        record = core.state.order(slot, order_no)
        if record is None:
            return  # moved away, or closed
        if core.moves.watching and core.moves.is_closing(slot):
            self._queue.push(time_ms + BUSY_MS, slot, order_no)
            return
        if core.two_phase.pending_of(order_no) is not None or core.replans.is_busy(order_no):
            self._queue.push(time_ms + BUSY_MS, slot, order_no)
            return
        arrived = [leg for leg in record.legs if leg.state == LegState.SHIPPED and self._due_ms(leg) <= time_ms]
        for leg in arrived:
            leg.state = LegState.DELIVERED
        if arrived:
            core.count("deliveries_assumed")
            core.put_order(core.batch(now_ms), Cause.DELIVERY_ASSUMED, slot, order_no, record, [], [])
        self.watch(slot, order_no, record)
