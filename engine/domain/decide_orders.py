"""Deciding new orders: look-up before planning, the record after it. Pure: values in, events and replies out.

A plan is a proposal. What makes it an order is the OrderPut made here, applied and journaled in the same batch.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.domain.commands import PlaceOrder
from engine.domain.config import Item
from engine.domain.events import Cause, OrderPut
from engine.domain.ids import slot_of
from engine.domain.orders import (
    DemandRecord,
    LegRecord,
    LegState,
    LineRecord,
    LineRequest,
    Method,
    OnShort,
    OrderRecord,
    OrderState,
)
from engine.domain.plan import Plan, Planner, PlanRequest
from engine.domain.problems import CODES
from engine.domain.replies import Problem, ProblemItem
from engine.domain.state import ShardState, encode_record

HOLD_LIFE_MAX_MS = 24 * 3_600_000
ON_SHORT = {"refuse": OnShort.REFUSE, "partial": OnShort.PARTIAL, "park": OnShort.PARK}
_NO_STOCK_METHODS = (Method.DIGITAL,)


class Prepared(NamedTuple):
    """An order looked up and ready to plan. `lines` are all lines; `request.lines` those that need stock."""

    slot: str
    request: PlanRequest
    lines: list[LineRecord]
    planned: list[int]
    """Index into `lines` of each of `request.lines`."""
    on_short: int


def refuse(code: str, pointer: str, detail: str, **facts: object) -> Problem:
    """A problem with one fault."""
    return Problem(code, CODES[code].title, (ProblemItem(pointer, detail, facts),))


def slot_for(state: ShardState, command: PlaceOrder) -> str | None:
    """The slot of an order: its destination's, else its channel's demand centre's; None = the channel is not known."""
    order = command.order
    if order.ship_to is not None:
        return slot_of(order.ship_to.country, order.ship_to.postal_code)
    index = state.catalog.channel_of.get(order.channel)
    channel = state.catalog.channels[index] if index is not None else None
    if channel is None:
        return None
    return slot_of(channel.demand_centre.country, channel.demand_centre.postal_code)


def prepare(state: ShardState, planner: Planner, command: PlaceOrder) -> Prepared | Problem:
    """Look everything up that the order names. Any unknown name is a problem that points at its field."""
    catalog = state.catalog
    order = command.order
    channel_index = catalog.channel_of.get(order.channel)
    channel = catalog.channels[channel_index] if channel_index is not None else None
    if channel is None or channel_index is None:
        return refuse("unknown_channel", "/channel", f"no channel {order.channel!r}")
    if order.currency != channel.currency:
        return refuse("currency_mismatch", "/currency", f"channel {order.channel} sells in {channel.currency}")
    if order.service not in catalog.levels:
        return refuse("unknown_service", "/service", f"no carrier serves {order.service!r}")
    ship_to = order.ship_to
    if ship_to is not None:
        if not planner.locates(ship_to):
            return refuse("unknown_destination", "/ship_to", f"cannot locate {ship_to.postal_code} {ship_to.country}")
        slot = slot_of(ship_to.country, ship_to.postal_code)
    else:
        centre = channel.demand_centre
        slot = slot_of(centre.country, centre.postal_code)

    lines: list[LineRecord] = []
    planned: list[int] = []
    groups: dict[str, int] = {}
    item_of, items = catalog.item_of, catalog.items
    for i, line in enumerate(order.lines):
        index = item_of.get(line.sku)
        if index is None:
            return refuse("unknown_sku", f"/lines/{i}/sku", f"no item {line.sku!r}", sku=line.sku)
        pickup = -1
        if line.pickup_node_id is not None:
            pickup = catalog.node_of.get(line.pickup_node_id, -1)
            if pickup < 0:
                return refuse("unknown_node", f"/lines/{i}/pickup_node_id", f"no node {line.pickup_node_id!r}")
        elif line.method == Method.PICKUP:
            return refuse("invalid_field", f"/lines/{i}/pickup_node_id", "a pickup line names its node")
        group = 0
        if line.group is not None:
            group = groups.setdefault(line.group, len(groups) + 1)
        item = items[index]
        if item is not None and item.components:
            problem = _add_kit(state, i, line, item, groups, lines, planned)
            if problem is not None:
                return problem
            continue
        if line.method not in _NO_STOCK_METHODS and (item is None or item.tracked):
            planned.append(len(lines))
        lines.append(
            LineRecord(
                line.line_id,
                index,
                line.quantity,
                line.unit_price_minor,
                line.method,
                group,
                pickup,
                0,
                line.splittable,
            )
        )
    on_short = order.on_short if order.on_short is not None else ON_SHORT[channel.on_short]
    if order.paid and on_short == OnShort.REFUSE:
        on_short = OnShort.PARK
    max_legs = order.max_legs if order.max_legs is not None else channel.max_legs
    to_plan = lines if len(planned) == len(lines) else [lines[i] for i in planned]
    return Prepared(slot, PlanRequest(order, to_plan, channel_index, (), max_legs), lines, planned, on_short)


def _add_kit(
    state: ShardState,
    i: int,
    line: LineRequest,
    kit: Item,
    groups: dict[str, int],
    lines: list[LineRecord],
    planned: list[int],
) -> Problem | None:
    """One record per component, in one group: the components of a kit leave from one node."""
    group = groups.setdefault(line.group if line.group is not None else f"\0kit{i}", len(groups) + 1)
    pickup = state.catalog.node_of.get(line.pickup_node_id or "", -1)
    per_kit = sum(c.quantity for c in kit.components)
    for component in kit.components:
        index = state.catalog.item_of.get(component.sku)
        if index is None:
            return refuse("unknown_sku", f"/lines/{i}/sku", f"kit {line.sku} needs {component.sku!r}, no such item")
        planned.append(len(lines))
        lines.append(
            LineRecord(
                line.line_id,
                index,
                component.quantity * line.quantity,
                line.unit_price_minor // per_kit,
                line.method,
                group,
                pickup,
                0,
                False,
                line.quantity,
            )
        )
    return None


def shortage(state: ShardState, prepared: Prepared, plan: Plan) -> Problem:
    """Why the order is refused, line by line, with the numbers."""
    order = prepared.request.order
    pointer_of = {line.line_id: i for i, line in enumerate(order.lines)}
    errors = []
    codes = set()
    for index, units, reason in plan.unfilled:
        line = prepared.request.lines[index]
        i = pointer_of.get(line.line_id, 0)
        atp = state.free_total(line.item)
        codes.add(reason)
        errors.append(
            ProblemItem(
                f"/lines/{i}",
                _REASONS.get(reason, reason),
                {
                    "line_id": line.line_id,
                    "sku": order.lines[i].sku,
                    "requested": line.quantity,
                    "available_to_promise": atp,
                    "unfilled": units,
                    "reason": reason,
                },
            )
        )
    code = "out_of_stock" if codes & {"out_of_stock"} or not codes else "no_capable_node"
    return Problem(code, CODES[code].title, tuple(errors))


_REASONS = {
    "out_of_stock": "not enough units are available to promise",
    "no_node": "no node that can serve this line has the units",
    "max_legs": "serving this line would take more legs than allowed",
    "capacity": "no node has capacity left in the days ahead",
}


def legs_of(
    state: ShardState, prepared_index: list[int], plan: Plan, *, leg_state: int, first: int, txn: int = 0
) -> list[LegRecord]:
    """Leg records of a plan; numbers start at `first`, line indexes are those of the order's record."""
    catalog = state.catalog
    owner, shard = catalog.owner, catalog.shard
    legs = []
    for n, leg in enumerate(plan.legs):
        legs.append(
            LegRecord(
                first + n,
                leg.node,
                owner[leg.node] == shard,
                leg_state,
                [(prepared_index[i], units) for i, units in leg.lines],
                leg.service,
                leg.parcels,
                leg.ship_day,
                leg.ship_by_ms,
                leg.deliver_by_ms,
                leg.cash_minor,
                leg.capacity_units,
            )
        )
        if txn and not legs[-1].local:
            legs[-1].txn = txn
    return legs


def stock_of(record: OrderRecord, legs: list[LegRecord], *, held: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What taking local legs does to stock and capacity (flat, see events)."""
    stock: list[int] = []
    capacity: list[int] = []
    lines = record.lines
    for leg in legs:
        if not leg.local:
            continue
        node = leg.node
        for i, units in leg.lines:
            if held:
                stock += (node, lines[i].item, 0, units, 0)
            else:
                stock += (node, lines[i].item, 0, 0, units)
        if leg.capacity_units:
            capacity += (node, leg.ship_day, leg.capacity_units)
    return tuple(stock), tuple(capacity)


def build_record(
    state: ShardState, command: PlaceOrder, prepared: Prepared, plan: Plan, *, now_ms: int, txn: int = 0
) -> OrderRecord:
    """The record of a planned order: held where the command asks for a hold, else committed."""
    order = command.order
    held = command.ttl_s > 0
    parked = prepared.on_short == OnShort.PARK
    return OrderRecord(
        order.order_id,
        prepared.request.channel,
        order.service,
        OrderState.HELD if held else OrderState.COMMITTED,
        order.placed_at_ms,
        now_ms,
        order.ship_to,
        prepared.lines,
        legs_of(
            state, prepared.planned, plan, leg_state=LegState.HELD if held else LegState.ALLOCATED, first=1, txn=txn
        ),
        order.currency,
        order.customer_id,
        now_ms + command.ttl_s * 1_000 if held else 0,
        order.priority,
        [DemandRecord(prepared.planned[i], units, reason, now_ms, parked) for i, units, reason in plan.unfilled],
        plan.money_minor,
        plan.promise_ms,
        plan.rung,
        0,
        1,
        state.catalog.version,
        prepared.request.max_legs,
        prepared.on_short,
        order.tags,
        order.hold_reasons,
        (),
        command.key_hash,
        txn,
        order.promised_by_ms,
        order.ship_after_ms,
        now_ms + HOLD_LIFE_MAX_MS if held else 0,
    )


def open_order(slot: str, order_no: int, record: OrderRecord, command: PlaceOrder) -> OrderPut:
    """The event that makes the order: record and stock in one."""
    held = record.state == OrderState.HELD
    stock, capacity = stock_of(record, record.legs, held=held)
    return OrderPut(
        Cause.RESERVED if held else Cause.ALLOCATED,
        slot,
        order_no,
        encode_record(record),
        stock,
        capacity,
        command.key_hash,
        command.fingerprint,
    )
