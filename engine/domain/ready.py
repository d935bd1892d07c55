"""When goods can be collected at a node: its pickup days and hours, and the time that making them ready takes.

A pickup day D takes what is ordered before `closes(D) - ready minutes`. Goods are ready `pickup_ready_minutes` after the order, or
after the opening that follows it. Where a node releases its work in waves, the first wave after the order stands for it; where
making ready takes longer than a node is open, clock time counts, open or not. So D is also the ship day that planners give such a
leg (solvers.calendar, with the closing time as cut-off): the tests hold them together.
Local times that a clock change skips or repeats are read with the earlier offset, as everywhere.

The instants are results that the journal keeps: replay never computes them again, whatever the time zone database says by then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime

from msgspec.structs import replace

from engine.domain.catalog import Catalog
from engine.domain.config import Node
from engine.domain.local_time import EPOCH_ORDINAL, MINUTE_MS, instant_ms, minute_of, zone_of
from engine.domain.orders import LineRecord, Method
from engine.domain.plan import LegTerms, Plan, PlannedLeg, PlanRequest
from engine.domain.waves import next_wave

_SEARCH_DAYS = 800
_SHIP, _PICKUP, _STORE = int(Method.SHIP), int(Method.PICKUP), int(Method.SHIP_TO_STORE)


def _collects(node: Node, day: int) -> bool:
    """Whether customers can collect on a local day (days since 1970)."""
    days = node.pickup_days if node.pickup_days is not None else node.working_days
    if (day + 3) % 7 not in days:
        return False
    return not node.holidays or date.fromordinal(EPOCH_ORDINAL + day).isoformat() not in node.holidays


def ready_on(node: Node, day: int, from_ms: int) -> int:
    """When goods asked for at an instant are ready on a pickup day that takes them; a full minute."""
    zone = zone_of(node.time_zone)
    opens, closes = minute_of(node.pickup_opens), minute_of(node.pickup_closes)
    opens_ms = instant_ms(zone, day, opens)
    preparing_ms = node.pickup_ready_minutes * MINUTE_MS
    if node.pickup_ready_minutes <= closes - opens:
        ready_ms = max(from_ms, opens_ms) + preparing_ms
    else:
        ready_ms = max(from_ms + preparing_ms, opens_ms)
    return -(-ready_ms // MINUTE_MS) * MINUTE_MS


def ready_at(node: Node, from_ms: int) -> int | None:
    """When goods that are brought to a node at an instant can be collected; None = it has no pickup day within two years."""
    return _first_ready(node, from_ms, lambda day: True)


def begins_at(node: Node, ordered_ms: int) -> int:
    """When a node begins to make ready what is ordered of its own stock: with its next wave, if it has any."""
    wave_ms = next_wave(node, ordered_ms) if node.waves else None
    return wave_ms if wave_ms is not None else ordered_ms


def first_ready(node: Node, ordered_ms: int, has_room: Callable[[int], bool]) -> int | None:
    """When goods of a node's own stock can be collected, on the first pickup day (days since 1970) that has room."""
    from_ms = begins_at(node, ordered_ms)
    return _first_ready(node, from_ms, has_room, in_time_ms=0 if from_ms == ordered_ms else 1)


def _first_ready(node: Node, from_ms: int, has_room: Callable[[int], bool], *, in_time_ms: int = 0) -> int | None:
    """`in_time_ms` = 1: work that begins at the very last instant is in time."""
    zone = zone_of(node.time_zone)
    today = datetime.fromtimestamp(from_ms // 1_000, zone).toordinal() - EPOCH_ORDINAL
    closes = minute_of(node.pickup_closes)
    for day in range(today, today + _SEARCH_DAYS):
        last_ms = instant_ms(zone, day, closes) - node.pickup_ready_minutes * MINUTE_MS
        if _collects(node, day) and from_ms < last_ms + in_time_ms and has_room(day):
            return ready_on(node, day, from_ms)
    return None


def has_collection(lines: Sequence[LineRecord]) -> bool:
    """Whether a customer collects any of the lines at a node."""
    return any(line.method in (_PICKUP, _STORE) for line in lines)


def _ready_ms(catalog: Catalog, request: PlanRequest, leg: PlannedLeg, now_ms: int) -> int:
    """When a leg's lines can be collected; 0 = it goes to the customer's door."""
    line = request.lines[leg.lines[0][0]]
    if line.method not in (_PICKUP, _STORE) or line.pickup_node < 0:
        return 0
    store = catalog.nodes[line.pickup_node]
    if store is None:
        return 0
    if leg.node != line.pickup_node:
        return ready_at(store, leg.deliver_by_ms) or leg.deliver_by_ms
    from_ms = max(now_ms, request.order.ship_after_ms or 0)
    first = first_ready(store, from_ms, lambda day: True)
    if first is None:
        return leg.deliver_by_ms
    if leg.ship_day:  # where the first day has no capacity left, the planner took a later one
        return max(first, ready_on(store, leg.ship_day, begins_at(store, from_ms)))
    return first


def with_ready_times(catalog: Catalog, request: PlanRequest, plan: Plan, *, now_ms: int) -> Plan:
    """A plan whose collected legs say when they are ready: at the node itself that is also by when it must hand them over."""
    if not plan.legs or not has_collection(request.lines):
        return plan
    terms = plan.terms or (LegTerms(),) * len(plan.legs)
    legs: list[PlannedLeg] = []
    made: list[LegTerms] = []
    for leg, term in zip(plan.legs, terms, strict=True):
        ready_ms = term.ready_ms or _ready_ms(catalog, request, leg, now_ms)
        if ready_ms and leg.node == request.lines[leg.lines[0][0]].pickup_node:
            leg = replace(leg, ship_by_ms=ready_ms, deliver_by_ms=ready_ms)
        legs.append(leg)
        made.append(replace(term, ready_ms=ready_ms))
    promise_ms = (
        max(leg.ship_by_ms for leg in legs),
        max(max(leg.deliver_by_ms, term.ready_ms) for leg, term in zip(legs, made, strict=True)),
    )
    return replace(plan, legs=legs, terms=tuple(made), promise_ms=promise_ms)
