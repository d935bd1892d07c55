"""New legs for units of committed orders that lost their node (a rejection), never at a node that rejected the order.

N1  One attempt an order at a time; what was freed meanwhile is planned when it ends.
N2  What finds no node stays parked demand of the order.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from engine.domain.decide_orders import Prepared, fits, legs_of, line_to_plan, stock_of
from engine.domain.events import Cause
from engine.domain.orders import (
    LegState,
    LineRecord,
    LineRequest,
    OnShort,
    OrderRecord,
    OrderRequest,
    OrderState,
    promise_of,
    way_of,
)
from engine.domain.plan import Plan, PlanRequest
from engine.domain.state import LEG_NO_MAX
from engine.protocol.placing import plan_alone
from engine.protocol.two_phase import ROUNDS_MAX, Pending

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

ATTEMPTS_MAX = 4


class Replan:
    """One attempt: the purpose of a transaction for new legs of an old order."""

    __slots__ = ("attempts", "order_no", "prepared", "rounds", "slot", "wanted_again")

    def __init__(self, slot: str, order_no: int, prepared: Prepared, attempts: int) -> None:
        self.slot = slot
        self.order_no = order_no
        self.prepared = prepared
        self.attempts = attempts
        """How many this one is, without a pause."""
        self.rounds = 0
        self.wanted_again = False

    def first_leg_no(self, core: ShardCore) -> int:
        record = core.state.order(self.slot, self.order_no)
        return _next_leg_no(record) if record is not None else 1

    def gives_up(self, core: ShardCore) -> tuple[int, ...]:
        """The order's other legs stay: what it plans anew has no leg."""
        return ()

    def committed(self, core: ShardCore, pending: Pending, *, now_ms: int) -> OrderRecord | None:
        if not fits(core.state, [(self.prepared, pending.plan.legs)]):
            return None
        record = _add_legs(core, self, pending.plan, first=pending.first_leg, txn=pending.txn, now_ms=now_ms)
        if record is not None:
            core.replans.ended(self, now_ms=now_ms)
        return record

    def overtaken(self, core: ShardCore, *, now_ms: int) -> None:
        """The order, or the stock, changed while the shards were asked: start afresh."""
        self.wanted_again = self.attempts < ATTEMPTS_MAX
        core.replans.ended(self, now_ms=now_ms)

    def planned_again(self, core: ShardCore, plan: Plan, *, now_ms: int) -> None:
        if self.rounds > ROUNDS_MAX:
            core.replans.ended(self, now_ms=now_ms)
        else:
            core.replans.use(self, plan, now_ms=now_ms)


class Replans:
    """Attempts under way, by order."""

    def __init__(self, core: ShardCore) -> None:
        self._core = core
        self._under_way: dict[int, Replan] = {}
        self._deferred: dict[int, str] = {}
        """Slot by order number of orders that another transaction holds up (T7)."""

    def start(self, slot: str, order_no: int, *, now_ms: int, attempts: int = 1) -> None:
        """Find nodes for the parked units of an order."""
        core = self._core
        if core.moves.watching and core.moves.is_closing(slot):
            return  # its next home takes it up
        running = self._under_way.get(order_no)
        if running is not None:
            running.wanted_again = True
            return
        if core.two_phase.pending_of(order_no) is not None:
            self._deferred[order_no] = slot
            return
        record = core.state.order(slot, order_no)
        if record is None or record.state != OrderState.COMMITTED or not record.demand:
            return
        full = [d.line for d in record.demand if legs_left(record, record.lines[d.line]) <= 0]
        prepared = prepare_waiting(core, slot, record, without=full)
        if not prepared.planned:
            core.demand.ended(order_no, now_ms)
            return
        replan = Replan(slot, order_no, prepared, attempts)
        self._under_way[order_no] = replan
        with core.demand.trying(order_no):
            self.use(replan, plan_alone(core, replan.prepared.request, now_ms=now_ms), now_ms=now_ms)

    def is_busy(self, order_no: int) -> bool:
        """Whether an attempt is under way, or will be once another transaction of the order has ended."""
        return order_no in self._under_way or order_no in self._deferred

    def any_in(self, slot: str) -> bool:
        """Whether an attempt for an order of a slot is under way."""
        return any(replan.slot == slot for replan in self._under_way.values())

    def resume(self, order_no: int, *, now_ms: int) -> None:
        """A transaction of an order has ended: start what waited for that."""
        slot = self._deferred.pop(order_no, None)
        if slot is not None:
            self.start(slot, order_no, now_ms=now_ms)

    def use(self, replan: Replan, plan: Plan, *, now_ms: int) -> None:
        """Take a plan's legs: at once where all nodes are ours, else as a transaction."""
        core = self._core
        if plan.legs and any(core.catalog.owner[leg.node] != core.shard for leg in plan.legs):
            core.two_phase.attempt(replan, plan, now_ms=now_ms)
            return
        if plan.legs and fits(core.state, [(replan.prepared, plan.legs)]):
            first = replan.first_leg_no(core)
            _add_legs(core, replan, plan, first=first, txn=0, now_ms=now_ms)
        self.ended(replan, now_ms=now_ms)

    def ended(self, replan: Replan, *, now_ms: int) -> None:
        del self._under_way[replan.order_no]
        if replan.wanted_again:
            self.start(replan.slot, replan.order_no, now_ms=now_ms, attempts=replan.attempts + 1)
        else:
            self._core.demand.ended(replan.order_no, now_ms, refused=replan.rounds > 0)


def _next_leg_no(record: OrderRecord) -> int:
    return max((leg.leg_no for leg in record.legs), default=0) + 1


def legs_left(record: OrderRecord, line: LineRecord, *, since: int = LegState.HELD) -> int:
    """Legs that a line's way of delivery may have beside those that have not left yet: what waits is no way around `max_legs`.

    since = the first state of those that count.
    """
    way = way_of(line)
    return record.max_legs - sum(
        since <= leg.state < LegState.SHIPPED and way_of(record.lines[leg.lines[0][0]]) == way for leg in record.legs
    )


def prepare_waiting(core: ShardCore, slot: str, record: OrderRecord, *, without: Collection[int] = ()) -> Prepared:
    """The units of an order that no leg covers as a request to plan, but for some lines."""
    catalog = core.catalog
    channel = catalog.channels[record.channel]
    parked: dict[int, int] = {}
    for demand in record.demand:
        if demand.line not in without:
            parked[demand.line] = parked.get(demand.line, 0) + demand.quantity
    lines = [line_to_plan(record.lines[i], units) for i, units in parked.items()]
    max_legs = max(1, min([legs_left(record, line) for line in lines], default=1))
    request = OrderRequest(
        record.order_id,
        channel.channel_id if channel else "",
        record.service,
        record.ship_to,
        tuple(
            [
                LineRequest(line.line_id, catalog.sku(line.item), line.quantity, line.unit_price_minor, line.method)
                for line in lines
            ]
        ),
        record.currency,
        record.placed_at_ms,
        record.customer_id,
        OnShort.PARK,
        record.priority,
        record.tags,
        record.due_by_ms,
        record.ship_after_ms,
        max_legs,
    )
    plan_request = PlanRequest(request, lines, record.channel, record.rejected_nodes, max_legs)
    return Prepared(slot, plan_request, lines, list(parked), OnShort.PARK)


def _add_legs(core: ShardCore, replan: Replan, plan: Plan, *, first: int, txn: int, now_ms: int) -> OrderRecord | None:
    """Journal the new legs; None where the order no longer wants them, or has given their numbers away."""
    record = core.state.order(replan.slot, replan.order_no)
    if record is None or record.state != OrderState.COMMITTED or _next_leg_no(record) > first:
        return None
    if first + len(plan.legs) > LEG_NO_MAX or any(leg.node in record.rejected_nodes for leg in plan.legs):
        return None
    wanted: dict[int, int] = {}
    for planned in plan.legs:
        for i, units in planned.lines:
            line = replan.prepared.planned[i]
            wanted[line] = wanted.get(line, 0) + units
    parked: dict[int, int] = {}
    for demand in record.demand:
        parked[demand.line] = parked.get(demand.line, 0) + demand.quantity
    if any(parked.get(line, 0) < units for line, units in wanted.items()):
        return None
    time_ms = core.time_ms(now_ms)
    for demand in record.demand:
        taken = min(demand.quantity, wanted.get(demand.line, 0))
        core.demand_log.served(replan.slot, record, demand, taken, time_ms)
        demand.quantity -= taken
        wanted[demand.line] = wanted.get(demand.line, 0) - taken
    record.demand = [demand for demand in record.demand if demand.quantity]
    batch = core.batch(now_ms)
    legs = legs_of(core.state, replan.prepared.planned, plan, leg_state=LegState.ALLOCATED, first=first, txn=txn)
    for leg in legs:
        leg.driving = not leg.local
    promise_ms = tuple(max(a, b) for a, b in zip(record.promise, plan.promise_ms, strict=True))
    record.legs += legs
    record.promise_ms = (0, 0) if promise_ms == promise_of(record.legs) else (promise_ms[0], promise_ms[1])
    old, new = record.money_minor, plan.money_minor
    record.money_minor = (old[0] + new[0], old[1] + new[1], old[2] + new[2], old[3] + new[3])
    if plan.record:
        record.decided_at = [*record.decided_at, (core.epoch, batch.seq, len(batch.decisions), core.shard)]
        batch.decisions.append(plan.record)
        batch.size += len(plan.record)
    stock, capacity = stock_of(record, legs, held=False)
    core.put_order(batch, Cause.REPLANNED, replan.slot, replan.order_no, record, list(stock), list(capacity))
    core.count("replanned")
    return record
