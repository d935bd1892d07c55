"""Demand: units of committed orders that no leg covers. Who is served first, what is given up, and what an item waits for. Pure.

W1  Demand waits from the moment its order is committed until a leg covers it, it is cancelled, or its date has come.
W2  The queue is one order of instants: `since - priority * PRIORITY_STEP - value`, earliest first. So priority goes before age, age
    before value, and age raises everybody: whoever came a priority step later for each level above is behind. The rank of what
    waits never changes by waiting, so nobody is overtaken for ever.
W3  Demand of a kit's components is demand of its line: given up together, and with them components that need no stock.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.domain.decide_legs import Change, cancel_loose
from engine.domain.decide_orders import refuse
from engine.domain.events import Cause
from engine.domain.orders import DemandRecord, OrderRecord, OrderState, nothing_left
from engine.domain.replies import Problem

PRIORITY_STEP_MS = 24 * 3_600_000
"""How much waiting one level of priority is worth."""
VALUE_MS_MAX = 3_600_000
"""How much waiting a large order is worth at most."""
VALUE_MINOR_PER_MS = 28
"""1,000.00 of goods are worth an hour."""
PRIORITY_MAX = 1_000
RANK_LAST = 1 << 62
"""Behind everybody: the rank of the general public where it takes units without waiting."""


def rank_of(since_ms: int, priority: int, value_minor: int) -> int:
    """Place in the queue (W2): milliseconds, the smaller the earlier."""
    return since_ms - priority * PRIORITY_STEP_MS - min(VALUE_MS_MAX, value_minor // VALUE_MINOR_PER_MS)


def priority_of(record: OrderRecord, demand: DemandRecord) -> int:
    """Its own priority where it was given one, else the order's."""
    return demand.priority if demand.priority >= 0 else record.priority


def value_minor(record: OrderRecord) -> int:
    """What the waiting units of an order are worth."""
    return sum(demand.quantity * record.lines[demand.line].unit_price_minor for demand in record.demand)


def order_rank(record: OrderRecord) -> int:
    """An order's place: that of its foremost demand. RANK_LAST = nothing of it waits."""
    value = value_minor(record)
    ranks = [rank_of(d.since_ms, priority_of(record, d), value) for d in record.demand]
    return min(ranks, default=RANK_LAST)


def units_by_item(record: OrderRecord) -> dict[int, int]:
    """What an order waits for."""
    units: dict[int, int] = {}
    for demand in record.demand:
        item = record.lines[demand.line].item
        units[item] = units.get(item, 0) + demand.quantity
    return units


def waits(record: OrderRecord) -> bool:
    """W1."""
    return record.state == OrderState.COMMITTED and bool(record.demand)


def demand_no(record: OrderRecord, line: int) -> int:
    """Number of a line's demand within its order: the first record line of its line id (W3). It never changes."""
    line_id = record.lines[line].line_id
    return next(i for i, other in enumerate(record.lines) if other.line_id == line_id)


class Waiting(NamedTuple):
    """Demand of one line as it is listed: its components and its repeated shortages added up."""

    no: int
    line_id: str
    item: int
    quantity: int
    """Kits, where the line is one."""
    reason: str
    parked: bool
    since_ms: int
    cancel_at_ms: int
    """0 = it waits without an end."""
    priority: int


def by_line(record: OrderRecord) -> list[Waiting]:
    """The demand of an order, by line."""
    found: dict[int, Waiting] = {}
    units: dict[tuple[int, int], int] = {}
    for demand in record.demand:
        line = record.lines[demand.line]
        no = demand_no(record, demand.line)
        key = (no, demand.line)
        units[key] = units.get(key, 0) + demand.quantity
        quantity = -(-units[key] * line.kits // line.quantity) if line.kits else units[key]
        known = found.get(no)
        if known is None:
            found[no] = Waiting(
                no,
                line.line_id,
                line.item,
                quantity,
                demand.reason,
                demand.parked,
                demand.since_ms,
                demand.cancel_at_ms,
                priority_of(record, demand),
            )
            continue
        dates = [at_ms for at_ms in (known.cancel_at_ms, demand.cancel_at_ms) if at_ms]
        found[no] = known._replace(
            quantity=max(known.quantity, quantity),
            parked=known.parked or demand.parked,
            since_ms=min(known.since_ms, demand.since_ms),
            cancel_at_ms=min(dates, default=0),
            priority=max(known.priority, priority_of(record, demand)),
        )
    return list(found.values())


def next_cancel_ms(record: OrderRecord) -> int:
    """When the first of an order's demand is given up; 0 = never."""
    return min((demand.cancel_at_ms for demand in record.demand if demand.cancel_at_ms), default=0)


def _give_up(record: OrderRecord, gone: list[DemandRecord], cause: int) -> Change:
    """Cancel demand; an order of which nothing is left is cancelled with it."""
    for demand in gone:
        record.lines[demand.line].cancelled += demand.quantity
    record.demand = [demand for demand in record.demand if not any(demand is other for other in gone)]
    cancel_loose(record)
    if nothing_left(record):
        record.state = OrderState.CANCELLED
    return Change(cause, [], [], [])


def cancel(record: OrderRecord, no: int) -> Change | Problem:
    """Give up the demand of one line."""
    gone = [demand for demand in record.demand if demand_no(record, demand.line) == no]
    if not gone or not waits(record):
        return refuse("not_found", "", "nothing of this line waits any more")
    return _give_up(record, gone, Cause.DEMAND_CANCELLED)


def expire(record: OrderRecord, *, now_ms: int) -> Change | None:
    """Give up what has waited until its date; with a component, the whole line (W3). None = nothing is due."""
    due = [d for d in record.demand if d.cancel_at_ms and d.cancel_at_ms <= now_ms]
    kits = {demand_no(record, d.line) for d in due if record.lines[d.line].kits}
    gone = [d for d in record.demand if d in due or demand_no(record, d.line) in kits]
    return _give_up(record, gone, Cause.DEMAND_EXPIRED) if gone and waits(record) else None


def prioritise(record: OrderRecord, no: int, priority: int) -> Change | Problem:
    """Another priority for the demand of one line."""
    if not 0 <= priority <= PRIORITY_MAX:
        return refuse("invalid_field", "/priority", f"0 to {PRIORITY_MAX}")
    chosen = [demand for demand in record.demand if demand_no(record, demand.line) == no]
    if not chosen or not waits(record):
        return refuse("not_found", "", "nothing of this line waits any more")
    for demand in chosen:
        demand.priority = priority
    return Change(Cause.PRIORITISED, [], [], [])
