"""Released legs that their node does not accept in time: they go to the next node, never to the same one.

A1  The deadline begins when the leg is released and is kept in the record (`accept_by_s`), so that a later change of the node's
    setting, or a replay, moves nothing. It passes by journal time.
A2  The old leg ends in the entry that begins the new ones (exchange.py). The node counts as one that rejected the order.
A3  Where nobody else has all of the leg's units it stays where it is and can still be accepted; it is marked `overdue`, and
    tried again, less and less often.
A4  After a recovery every leg has GRACE_MS: its node could not answer while the shard was away.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.domain.decide_legs import Change
from engine.domain.events import Cause
from engine.domain.orders import LegRecord, LegState, OrderRecord, OrderState
from engine.domain.plan import Plan
from engine.protocol.exchange import Exchange
from engine.protocol.placing import plan_alone
from engine.protocol.recommit import prepare_again
from engine.protocol.replan import legs_left
from engine.protocol.two_phase import ROUNDS_MAX

if TYPE_CHECKING:
    from engine.domain.decide_orders import Prepared
    from engine.protocol.shard_core import ShardCore

LOOKS_PER_POLL = 16
GRACE_MS = 30_000
BUSY_MS = 1_000
"""Until a leg is looked at again whose order has another transaction under way."""
AGAIN_MS = 60_000
AGAIN_MAX_MS = 15 * 60_000


class _Taken(Exchange):
    """One attempt to serve a leg from elsewhere."""

    cause = int(Cause.NOT_ACCEPTED)
    reason = "not_accepted"
    ends_as = int(LegState.REJECTED)
    adds = True

    def __init__(self, slot: str, order_no: int, version: int, prepared: Prepared, leg: LegRecord) -> None:
        super().__init__(slot, order_no, version, prepared, (leg.leg_no,))
        self.leg_no = leg.leg_no
        self.node = leg.node

    def change(self, core: ShardCore, record: OrderRecord, plan: Plan, change: Change, *, time_ms: int) -> None:
        if self.node not in record.rejected_nodes:
            record.rejected_nodes = (*record.rejected_nodes, self.node)

    def done(self, core: ShardCore, record: OrderRecord, *, now_ms: int) -> None:
        core.count("legs_not_accepted")
        core.acceptance.ended(self)

    def overtaken(self, core: ShardCore, *, now_ms: int) -> None:
        core.acceptance.look_again(self.slot, self.order_no, self.leg_no, now_ms + BUSY_MS)

    def planned_again(self, core: ShardCore, plan: Plan, *, now_ms: int) -> None:
        record = core.state.order(self.slot, self.order_no)
        if record is None or record.version != self.version:
            self.overtaken(core, now_ms=now_ms)
        elif plan.unfilled or self.rounds > ROUNDS_MAX:
            core.acceptance.stays(self, record, now_ms=now_ms)
        else:
            self.gone = (self.leg_no,)
            self.use(core, record, plan, now_ms=now_ms)


class Acceptance:
    """Deadlines of this home's released legs."""

    def __init__(self, core: ShardCore) -> None:
        self._core = core
        self._due: list[tuple[int, str, int, int]] = []
        """(when to look, slot, order number, leg number), a heap; what has changed meanwhile is found out then."""
        self._waits_ms: dict[tuple[int, int], int] = {}
        """How long an overdue leg (order number, leg number) was last let alone."""
        self._grace_until_ms = 0

    def begin(self, record: OrderRecord, leg_no: int, time_ms: int) -> None:
        """A leg was released: put its deadline into the record (A1)."""
        leg = next(leg for leg in record.legs if leg.leg_no == leg_no)
        document = self._core.catalog.nodes[leg.node]
        if document is not None and document.acceptance_deadline_s is not None:
            leg.accept_by_s = -(-time_ms // 1_000) + document.acceptance_deadline_s

    def watch(self, slot: str, order_no: int, record: OrderRecord) -> None:
        """Take up what an order's record says of deadlines."""
        for leg in record.legs:
            if leg.accept_by_s and leg.state == LegState.RELEASED:
                at_ms = max(leg.accept_by_s * 1_000, self._grace_until_ms)
                heapq.heappush(self._due, (at_ms, slot, order_no, leg.leg_no))

    def recovered(self, waiting: list[tuple[str, int]], now_ms: int) -> None:
        """A4."""
        self._grace_until_ms = now_ms + GRACE_MS
        for slot, order_no in waiting:
            record = self._core.state.order(slot, order_no)
            assert record is not None
            self.watch(slot, order_no, record)

    def tick(self, now_ms: int, room: Callable[[], int]) -> None:
        due = self._due
        for _ in range(LOOKS_PER_POLL):
            if not due or due[0][0] > self._core.time_ms(now_ms) or not room():
                return
            _, slot, order_no, leg_no = heapq.heappop(due)
            self._look(slot, order_no, leg_no, now_ms)

    def wake_at_ms(self, now_ms: int) -> int | None:
        return max(self._due[0][0], now_ms + 1) if self._due else None

    def look_again(self, slot: str, order_no: int, leg_no: int, at_ms: int) -> None:
        heapq.heappush(self._due, (at_ms, slot, order_no, leg_no))

    def ended(self, taken: _Taken) -> None:
        self._waits_ms.pop((taken.order_no, taken.leg_no), None)

    def _look(self, slot: str, order_no: int, leg_no: int, now_ms: int) -> None:
        """A deadline has come: if the leg is still released, find it another node."""
        core = self._core
        record = core.state.order(slot, order_no)
        leg = next((leg for leg in record.legs if leg.leg_no == leg_no), None) if record is not None else None
        if record is None or leg is None or not _is_late(record, leg, core.time_ms(now_ms)):
            self._waits_ms.pop((order_no, leg_no), None)
            return
        closing = core.moves.watching and core.moves.is_closing(slot)
        if closing or core.two_phase.pending_of(order_no) is not None or core.replans.is_busy(order_no):
            self.look_again(slot, order_no, leg_no, now_ms + BUSY_MS)
            return
        taken = _Taken(slot, order_no, record.version, _elsewhere(core, slot, record, leg), leg)
        plan = plan_alone(core, taken.prepared.request, now_ms=now_ms)
        if plan.unfilled:
            self.stays(taken, record, now_ms=now_ms)
        else:
            taken.use(core, record, plan, now_ms=now_ms)

    def stays(self, taken: _Taken, record: OrderRecord, *, now_ms: int) -> None:
        """A3."""
        core = self._core
        leg = next(leg for leg in record.legs if leg.leg_no == taken.leg_no)
        if not leg.overdue:
            leg.overdue = True
            core.put_order(core.batch(now_ms), Cause.LEG_OVERDUE, taken.slot, taken.order_no, record, [], [])
            core.count("legs_overdue")
        at = (taken.order_no, taken.leg_no)
        wait_ms = min(AGAIN_MAX_MS, self._waits_ms[at] * 2) if at in self._waits_ms else AGAIN_MS
        self._waits_ms[at] = wait_ms
        self.look_again(taken.slot, taken.order_no, taken.leg_no, now_ms + wait_ms)


def _is_late(record: OrderRecord, leg: LegRecord, time_ms: int) -> bool:
    return (
        record.state == OrderState.COMMITTED
        and leg.state == LegState.RELEASED
        and 0 < leg.accept_by_s * 1_000 <= time_ms
    )


def _elsewhere(core: ShardCore, slot: str, record: OrderRecord, leg: LegRecord) -> Prepared:
    """A leg's units as a request around its node and those that rejected the order. `max_legs`: the leg makes room for one.

    They go to the order's address: that the leg goes to an older one ends with it.
    """
    keep = [0] * len(record.lines)
    for i, units in leg.lines:
        keep[i] += units
    prepared = prepare_again(core, slot, record, record.ship_to, keep)
    request = prepared.request
    max_legs = max(1, legs_left(record, record.lines[leg.lines[0][0]]) + 1)
    return replace(prepared, request=replace(request, excluded=(*request.excluded, leg.node), max_legs=max_legs))
