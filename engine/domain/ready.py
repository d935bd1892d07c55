"""When goods can be collected at a node: its pickup days and hours, and the time that making them ready takes.

A pickup day D takes what is ordered before `closes(D) - ready minutes`. Goods are ready `pickup_ready_minutes` after the order, or
after the opening that follows it; where making ready takes longer than a node is open, clock time counts, open or not. So D is
also the ship day that planners give such a leg (solvers.calendar, with the closing time as cut-off): the tests hold them together.
Local times that a clock change skips or repeats are read with the earlier offset, as everywhere.

The instants are results that the journal keeps: replay never computes them again, whatever the time zone database says by then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from msgspec.structs import replace

from engine.domain.catalog import Catalog
from engine.domain.config import Node
from engine.domain.orders import LineRecord, Method
from engine.domain.plan import LegTerms, Plan, PlannedLeg, PlanRequest

MINUTE_MS = 60_000
EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_SEARCH_DAYS = 800
_SHIP, _PICKUP, _STORE = int(Method.SHIP), int(Method.PICKUP), int(Method.SHIP_TO_STORE)


@lru_cache(maxsize=1_024)
def zone_of(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def minute_of(clock: str) -> int:
    return int(clock[:2]) * 60 + int(clock[3:])


def instant_ms(zone: ZoneInfo, day: int, minute: int) -> int:
    local = datetime.fromordinal(EPOCH_ORDINAL + day) + timedelta(minutes=minute)
    offset = local.replace(tzinfo=zone).utcoffset() or timedelta()
    return (day * 1_440 + minute) * MINUTE_MS - (offset.days * 86_400 + offset.seconds) * 1_000


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
    """When goods that are at a node from an instant on can be collected; None = it has no pickup day within two years."""
    return first_ready(node, from_ms, lambda day: True)


def first_ready(node: Node, from_ms: int, has_room: Callable[[int], bool]) -> int | None:
    """The same, on the first pickup day (days since 1970) that has room."""
    zone = zone_of(node.time_zone)
    today = datetime.fromtimestamp(from_ms // 1_000, zone).toordinal() - EPOCH_ORDINAL
    closes = minute_of(node.pickup_closes)
    for day in range(today, today + _SEARCH_DAYS):
        last_ms = instant_ms(zone, day, closes) - node.pickup_ready_minutes * MINUTE_MS
        if _collects(node, day) and from_ms < last_ms and has_room(day):
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
    first = ready_at(store, from_ms)
    if first is None:
        return leg.deliver_by_ms
    if leg.ship_day:  # where the first day has no capacity left, the planner took a later one
        return max(first, ready_on(store, leg.ship_day, from_ms))
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
