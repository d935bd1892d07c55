"""Split orders are planned again before the wave that would release them: what has come in since may serve them for less.

B1  Only orders of which nothing is released, driven or waiting, and only for a plan that costs less cash and is promised no later.
    It is taken with one entry (exchange.py), or not at all: nothing is retried, and the wave does not wait for it.
B2  LEAD_MS before a wave, the newest LOOKS_MAX legs of the node are looked at (older ones are the likeliest to have left), and
    ORDERS_MAX orders planned, the oldest of them first. One node a turn: many have a wave at the same minute.
B3  First together: what all of them hold counts as free, the highest priority and of equals the oldest plans first. Orders whose old
    and new legs have a position or a day in common change together or not at all, in one entry: each served in full and promised
    no later, and all of them for less cash, although one may cost more than before. Then one by one, those that stayed.
B4  Together only where no other shard is to be asked, every line is shipped, and nobody waits for the items: what such orders gave
    up would be kept for those who do.
B5  Where they collide, the solver is asked as for new orders (claims.py, L4), and orders that have changed when it answers, or at its
    deadline, are left alone, all of them where the configuration has: nothing is held for them meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from heapq import nlargest
from typing import TYPE_CHECKING, NamedTuple

from engine.domain.decide_edit import MOVABLE, give_up
from engine.domain.decide_legs import Change, park_freed, units_in_legs
from engine.domain.decide_orders import fits
from engine.domain.errors import InvariantBreach
from engine.domain.events import Cause, OrderPut
from engine.domain.orders import LegRecord, LegState, Method, OrderRecord, OrderState, encode_record
from engine.domain.plan import Plan
from engine.domain.state import LEG_NO_MAX
from engine.protocol.exchange import Exchange, legs_free, plan_with_own
from engine.protocol.recommit import prepare_again

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

LEAD_MS = 60_000
LOOKS_MAX = 512
ORDERS_MAX = 32
LINES_MAX = 1_024
"""Lines of the orders that are planned together: all their records have room in one entry."""
_ENDED = (int(LegState.CANCELLED), int(LegState.REJECTED))


class _Better(Exchange):
    """One attempt to serve an order for less."""

    cause = int(Cause.REPLANNED)
    reason = "improved"

    def change(self, core: ShardCore, record: OrderRecord, plan: Plan, change: Change, *, time_ms: int) -> None:
        record.demand = []  # there is none but of `let_go`

    def done(self, core: ShardCore, record: OrderRecord, *, now_ms: int) -> None:
        core.count("orders_improved")

    def overtaken(self, core: ShardCore, *, now_ms: int) -> None:
        """The order stays as it has become."""

    def planned_again(self, core: ShardCore, plan: Plan, *, now_ms: int) -> None:
        """The order stays as it is."""

    def let_go(self, core: ShardCore, record: OrderRecord, *, now_ms: int) -> None:
        """Give the old legs up before the new ones are there: their units wait, for the rest of this entry."""
        change = Change(self.cause, [], [], [])
        for leg in _legs(record, self.gone):
            change.freed.extend(leg.lines)
            give_up(record, leg, change, reason=self.reason, state=self.ends_as)
        batch = core.batch(now_ms)
        park_freed(core.catalog, record, change.freed, reason=self.reason, now_ms=batch.time_ms)
        record.version += 1
        # Not `put_order`: nobody is to serve what waits, and no list is to change but by the event that ends the waiting.
        packed = encode_record(record)
        event = OrderPut(
            self.cause, self.slot, self.order_no, packed, tuple(change.stock), tuple(change.capacity), 0, 0
        )
        core.put(batch, event)
        self.version = record.version
        self.gone = ()


class _Part(NamedTuple):
    """An order that is planned together with others."""

    better: _Better
    record: OrderRecord
    """As it was planned for."""
    plan: Plan
    """What is new; `better.whole` has all of it."""

    @property
    def saves_minor(self) -> int:
        """Of an order that units were cancelled of, nothing: its legs are booked at what they cost with them."""
        saved = self.record.money_minor[0] - self.better.whole.money_minor[0]
        return min(0, saved) if any(line.cancelled for line in self.record.lines) else saved


_Open = tuple[str, int, OrderRecord]
"""(slot, order number, record)"""


def improve(core: ShardCore, node: int, *, now_ms: int) -> None:
    """Plan the split orders with legs at a node again: together (B3), then one by one (B2)."""
    _Together(core, _open_orders(core, node)).plan(now_ms)


def _open_orders(core: ShardCore, node: int) -> list[_Open]:
    """B2."""
    work = core.state.work.get(node, {})
    found: dict[int, _Open] = {}
    for key in reversed(nlargest(LOOKS_MAX, work)):
        slot, order_no = work[key], key >> 12
        record = core.state.order(slot, order_no) if order_no not in found else None
        if record is not None and _is_open(core, slot, order_no, record):
            found[order_no] = (slot, order_no, record)
            if len(found) == ORDERS_MAX:
                break
    return list(found.values())


def _is_open(core: ShardCore, slot: str, order_no: int, record: OrderRecord) -> bool:
    """B1."""
    legs = [leg for leg in record.legs if leg.state not in _ENDED]
    return (
        record.state == OrderState.COMMITTED
        and len(legs) > 1
        and not record.demand
        and all(leg.state == LegState.ALLOCATED and not leg.driving for leg in legs)
        and core.two_phase.pending_of(order_no) is None
        and not core.replans.is_busy(order_no)
        and not (core.moves.watching and core.moves.is_closing(slot))
    )


def _try(core: ShardCore, slot: str, order_no: int, record: OrderRecord, now_ms: int) -> None:
    better = _better(core, slot, order_no, record)
    plan = plan_with_own(core, record, better.gone, better.prepared.request, now_ms=now_ms)
    if plan.money_minor[0] < record.money_minor[0] and _is_as_good(record, plan):
        better.use(core, record, plan, now_ms=now_ms)


def _better(core: ShardCore, slot: str, order_no: int, record: OrderRecord) -> _Better:
    gone = tuple([leg.leg_no for leg in record.legs if leg.state in MOVABLE])
    prepared = prepare_again(core, slot, record, record.ship_to, units_in_legs(record, MOVABLE))
    return _Better(slot, order_no, record.version, prepared, gone)


def _is_as_good(record: OrderRecord, plan: Plan) -> bool:
    """Whether a plan serves an order in full, and is promised no later."""
    return not plan.unfilled and plan.promise_ms[1] <= record.promise[1]


def _legs(record: OrderRecord, numbers: tuple[int, ...]) -> list[LegRecord]:
    return [leg for leg in record.legs if leg.leg_no in numbers]


# -- together (B3) --------------------------------------------------------------------------------------------------


class _Together:
    """Open orders of a node, planned together; the solver may be asked about some of them (B5)."""

    def __init__(self, core: ShardCore, found: list[_Open]) -> None:
        self._core = core
        self._found = found
        self._chosen: list[_Better] = []
        self._plans: list[Plan] = []
        self._awaited = 0
        """Components that the solver has."""
        self._version = core.catalog.version

    def plan(self, now_ms: int) -> None:
        core = self._core
        chosen: list[tuple[_Better, OrderRecord]] = []
        lines = 0
        for slot, order_no, record in self._found:
            if lines + len(record.lines) <= LINES_MAX and _may_join(core, record):
                lines += len(record.lines)
                chosen.append((_better(core, slot, order_no, record), record))
        if len(chosen) < 2:
            self._conclude(now_ms)
            return
        chosen.sort(key=lambda entry: -entry[1].priority)
        self._chosen = [better for better, _ in chosen]
        with ExitStack() as freed:
            for better, record in chosen:
                freed.enter_context(legs_free(core.state, record, _legs(record, better.gone)))
            self._plans = core.planner.plan([better.prepared.request for better in self._chosen], now_ms=now_ms)
        components = dict.fromkeys(plan.component for plan in self._plans if plan.component)
        self._awaited = len(components)
        for component in components:
            core.claims.ask(component, partial(self._answered, component), now_ms=now_ms)
        if not components:
            self._conclude(now_ms)

    def _answered(self, component: int, answer: bytes | None, now_ms: int) -> None:
        members = [n for n, plan in enumerate(self._plans) if plan.component == component]
        for n, plan in zip(members, self._core.planner.improved(component, answer), strict=True):
            self._plans[n] = plan
        self._awaited -= 1
        if not self._awaited:
            self._conclude(now_ms)

    def _conclude(self, now_ms: int) -> None:
        """Take what is better together, then try the others one by one."""
        core = self._core
        parts = list(self._parts()) if core.catalog.version == self._version else []
        for group in _tied(parts):
            if not _is_cheaper(group) or not core.has_room():
                continue
            if all(_is_ours(core, part) for part in group) and _fit(core, group):
                _put(core, group, now_ms=now_ms)
        for slot, order_no, planned_for in self._found:
            if not core.has_room():
                return
            record = core.state.order(slot, order_no)
            if record is not None and record.version == planned_for.version and _is_open(core, slot, order_no, record):
                _try(core, slot, order_no, record, now_ms)

    def _parts(self) -> Iterator[_Part]:
        """What the orders could be that are still as they were. One that stays as it is saves nothing, and is tied to no other."""
        core = self._core
        for better, plan in zip(self._chosen, self._plans, strict=True):
            record = core.state.order(better.slot, better.order_no)
            if (
                record is not None
                and record.version == better.version
                and _is_open(core, better.slot, better.order_no, record)
                and _may_join(core, record)
            ):
                yield _Part(better, record, better.narrowed(record, plan))


def _is_cheaper(group: list[_Part]) -> bool:
    """Whether a group saves cash in one currency, and in none costs more: amounts of two are not compared."""
    saved: dict[str, int] = {}
    for part in group:
        saved[part.record.currency] = saved.get(part.record.currency, 0) + part.saves_minor
    return min(saved.values()) >= 0 < max(saved.values())


def _may_join(core: ShardCore, record: OrderRecord) -> bool:
    """B4. Of lines that are shipped a node keeps the same units back: in whatever order they are put, they fit or do not."""
    legs = [leg for leg in record.legs if leg.state not in _ENDED]
    lines = [record.lines[i] for leg in legs for i, _ in leg.lines]
    return all(leg.local for leg in legs) and all(
        line.method == Method.SHIP and not core.demand.is_waited_for(line.item) for line in lines
    )


def _is_ours(core: ShardCore, part: _Part) -> bool:
    """Whether a plan may be taken, and asks no other shard."""
    return (
        _is_as_good(part.record, part.better.whole)
        and all(core.catalog.owner[leg.node] == core.shard for leg in part.plan.legs)
        and part.better.first_leg_no(core) + len(part.plan.legs) <= LEG_NO_MAX
    )


def _tied(parts: list[_Part]) -> list[list[_Part]]:
    """Parts by what their old and new legs have in common: what one group does is nothing to the others."""
    groups: list[tuple[set[tuple[int, ...]], list[_Part]]] = []
    for part in parts:
        touched, together = _touched(part), [part]
        apart = []
        for keys, members in groups:
            if touched.isdisjoint(keys):
                apart.append((keys, members))
            else:
                touched |= keys
                together = [*members, *together]
        groups = [*apart, (touched, together)]
    return [members for _, members in groups]


def _touched(part: _Part) -> set[tuple[int, ...]]:
    """(node, item, 0) of positions and (node, day) of capacity."""
    old, lines = _legs(part.record, part.better.gone), part.better.prepared.request.lines
    keys: set[tuple[int, ...]] = {(leg.node, part.record.lines[i].item, 0) for leg in old for i, _ in leg.lines}
    keys |= {(leg.node, lines[i].item, 0) for leg in part.plan.legs for i, _ in leg.lines}
    keys |= {(leg.node, leg.ship_day) for leg in old if leg.capacity_units}
    keys |= {(leg.node, leg.ship_day) for leg in part.plan.legs if leg.capacity_units}
    return keys


def _fit(core: ShardCore, group: list[_Part]) -> bool:
    """Whether all new legs of a group can be held once its old ones are given up."""
    with ExitStack() as freed:
        for part in group:
            freed.enter_context(legs_free(core.state, part.record, _legs(part.record, part.better.gone)))
        return fits(core.state, [(part.better.prepared, part.plan.legs) for part in group])


def _put(core: ShardCore, group: list[_Part], *, now_ms: int) -> None:
    """Change a group that fits, in one entry. Each event leaves no position short (S1): who needs units that another one still has
    comes after it, and where they wait for each other, one lets go of its old legs first."""
    left = group
    while left:
        later = []
        for part in left:
            first = part.better.first_leg_no(core)
            if part.better.journal(core, part.plan, first=first, txn=0, now_ms=now_ms) is None:
                later.append(part)
        if len(later) == len(left):
            holder = next((part for part in later if part.better.gone), None)
            if holder is None:
                raise InvariantBreach("legs that fit together do not fit one after the other")
            holder.better.let_go(core, holder.record, now_ms=now_ms)
        left = later
