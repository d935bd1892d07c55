"""Opening many orders at once: the common case in few steps. Pure but for the state that it applies to.

Most orders of a batch are plain: every line is stock that ships, every leg lies at this shard's own nodes, nothing is missing. For
those the steps of decide_orders, orders.encode_record, state.apply and views.order_view are fused here, because objects that
are built only to be packed and shown once cost more than the decision. What comes out is the same, byte for byte: the tests
hold one path to the other, and replay knows only the events.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.domain.catalog import Catalog
from engine.domain.commands import PlaceOrder
from engine.domain.decide_orders import Prepared
from engine.domain.events import Cause, OrderPut
from engine.domain.orders import LegState, OnShort, OrderState, particular_line, without_defaults
from engine.domain.plan import Plan
from engine.domain.promising import extra_safety
from engine.domain.replies import Opened, OpenedLeg
from engine.domain.state import HOLD_LIFE_MAX_MS, ShardState, remember

_encode = msgspec.msgpack.Encoder().encode
_REFUSE = int(OnShort.REFUSE)
_HELD, _COMMITTED = int(OrderState.HELD), int(OrderState.COMMITTED)
_LEG_HELD, _LEG_ALLOCATED = int(LegState.HELD), int(LegState.ALLOCATED)
_RESERVED_CAUSE, _ALLOCATED_CAUSE = int(Cause.RESERVED), int(Cause.ALLOCATED)


class Opening(msgspec.Struct, frozen=True, gc=False):
    """A plain order that is ready to be made: what is asked, what is planned, and the rows of its positions, in leg order."""

    command: PlaceOrder
    prepared: Prepared
    plan: Plan
    rows: Sequence[int]


def is_plain(catalog: Catalog, prepared: Prepared, plan: Plan) -> bool:
    """Whether an order takes the short way."""
    if plan.unfilled or plan.component or not prepared.plain:
        return False
    owner, shard = catalog.owner, catalog.shard
    legs = plan.legs
    if len(legs) == 1:
        return owner[legs[0].node] == shard
    return all(owner[leg.node] == shard for leg in legs)


def find_rows(state: ShardState, plans: list[tuple[PlaceOrder, Prepared, Plan]]) -> list[Opening] | None:
    """Rows of all positions that the plans take from; None where they do not all fit together (see decide_orders.fits)."""
    positions, capacity, nodes = state.positions, state.capacity, state.catalog.nodes
    find, size, node_of, item_of = positions.find, positions.size, positions.v_node, positions.v_item
    need: dict[int, int] = {}
    kept: dict[int, int] = {}
    """Units that must stay at a row beyond its own safety, for the methods that take from it."""
    room: dict[tuple[int, int], int] = {}
    openings = []
    for command, prepared, plan in plans:
        lines, known = prepared.lines, plan.rows
        hinted = len(known)
        rows = []
        place = 0
        for leg in plan.legs:
            node = leg.node
            document = nodes[node]
            safety_by_method = document.safety_by_method if document is not None else None
            for i, units in leg.lines:
                item = lines[i].item
                row = known[place] if place < hinted else -1
                place += 1
                if not 0 <= row < size or node_of[row] != node or item_of[row] != item:
                    row = find(item, node)
                    if row < 0:
                        return None
                need[row] = need[row] + units if row in need else units
                rows.append(row)
                if safety_by_method:
                    kept[row] = max(kept.get(row, 0), extra_safety(state, node, lines[i].method))
            if leg.capacity_units:
                day = (node, leg.ship_day)
                room[day] = room.get(day, 0) + leg.capacity_units
        openings.append(Opening(command, prepared, plan, rows))
    on_hand, safety, held = positions.v_on_hand, positions.v_safety, positions.v_held
    allocated, claimed, fenced = positions.v_allocated, positions.v_claimed, positions.v_fenced
    for row, units in need.items():
        free = on_hand[row] - safety[row] - held[row] - allocated[row] - claimed[row] - fenced[row]
        if free < units or (row in kept and free - kept[row] < units):
            return None
    for (node, day_no), units in room.items():
        document = nodes[node]
        limit = document.capacity if document is not None else None
        if limit is not None and limit.hard and capacity.get(node, day_no) + units > limit.per_day:
            return None
    return openings


def open_event(
    opening: Opening, order_no: int, *, now_ms: int, config: int, decided_at: tuple[int, int, int] | None
) -> OrderPut:
    """The event that makes the order: the same as decide_orders.open_order(build_record(...))."""
    command, prepared, plan = opening.command, opening.prepared, opening.plan
    order = command.order
    held = command.ttl_s > 0
    lines = prepared.lines
    legs: list[object] = []
    stock: list[int] = []
    capacity: list[int] = []
    leg_state = _LEG_HELD if held else _LEG_ALLOCATED
    ship_by_s = deliver_by_s = 0
    for leg_no, leg in enumerate(plan.legs, 1):
        node, taken, ship_day, units_of_day = leg.node, leg.lines, leg.ship_day, leg.capacity_units
        by_s, at_s = leg.ship_by_ms // 1_000, leg.deliver_by_ms // 1_000
        if by_s > ship_by_s:
            ship_by_s = by_s
        if at_s > deliver_by_s:
            deliver_by_s = at_s
        legs.append(
            (
                leg_no,
                node,
                True,
                leg_state,
                taken,
                leg.service,
                leg.parcels,
                ship_day,
                by_s,
                at_s,
                leg.cash_minor,
                units_of_day,
            )
        )
        if held:
            for i, units in taken:
                stock += (node, lines[i].item, 0, units, 0)
        else:
            for i, units in taken:
                stock += (node, lines[i].item, 0, 0, units)
        if units_of_day:
            capacity += (node, ship_day, units_of_day)
    ship_to = order.ship_to
    record: list[object] = [
        order.order_id,
        prepared.request.channel,
        order.service,
        _HELD if held else _COMMITTED,
        order.placed_at_ms,
        1,
        (ship_to.country, ship_to.postal_code, ship_to.region)
        if ship_to is not None and ship_to.residential and ship_to.lat is None and ship_to.lon is None
        else ship_to,
        [
            (line.line_id, line.item, line.quantity, line.unit_price_minor)
            if line.splittable and not line.group and not line.tags  # plain lines are shipped: none is collected
            else particular_line(line)
            for line in lines
        ],
        legs,
        config,
        (decided_at,) if decided_at is not None else (),
        plan.money_minor,
    ]
    promise_ms = plan.promise_ms
    if promise_ms == (ship_by_s * 1_000, deliver_by_s * 1_000):
        promise_ms = (0, 0)
    expires_at_ms = now_ms + min(command.ttl_s * 1_000, HOLD_LIFE_MAX_MS) if held else 0
    _add_tail(record, opening, expires_at_ms, promise_ms)
    return OrderPut(
        _RESERVED_CAUSE if held else _ALLOCATED_CAUSE,
        prepared.slot,
        order_no,
        _encode(record),
        tuple(stock),
        tuple(capacity),
        command.key_hash,
        command.fingerprint,
    )


def _add_tail(record: list[object], opening: Opening, expires_at_ms: int, promise_ms: tuple[int, int]) -> None:
    """The rest of the record up to its last field that is not the default (see orders.encode_record)."""
    prepared, plan = opening.prepared, opening.plan
    order = opening.command.order
    max_legs = prepared.request.max_legs
    if (
        promise_ms == (0, 0)
        and prepared.on_short == _REFUSE
        and max_legs == 3
        and not order.priority
        and order.currency == "USD"
        and not order.tags
        and not order.hold_reasons
        and order.promised_by_ms is None
        and order.ship_after_ms is None
        and order.cancel_after_ms is None
        and not order.paid
    ):
        if plan.rung:
            record += (order.customer_id, expires_at_ms, plan.rung)
        elif expires_at_ms:
            record += (order.customer_id, expires_at_ms)
        elif order.customer_id is not None:
            record.append(order.customer_id)
        return
    tail: tuple[object, ...] = (
        order.customer_id,
        expires_at_ms,
        plan.rung,
        promise_ms,
        [],
        prepared.on_short,
        max_legs,
        order.priority,
        order.currency,
        order.tags,
        order.hold_reasons,
        (),
        order.promised_by_ms,
        order.ship_after_ms,
        order.cancel_after_ms,
        "",
        0,
        None,
        order.paid,
    )
    record += without_defaults(tail)


def apply_opened(state: ShardState, opening: Opening, event: OrderPut, id_hash: int, *, time_ms: int) -> None:
    """What state.apply makes of the event, and the indexes of the new order; the rows are known and were checked."""
    stock, order_no, slot = event.stock, event.order_no, event.slot
    dirty = state.dirty
    held = event.cause == _RESERVED_CAUSE
    column = state.positions.v_held if held else state.positions.v_allocated
    for row, units in zip(opening.rows, stock[3 if held else 4 :: 5], strict=True):
        column[row] += units
    if state.watched:
        touched = state.touched
        for place in range(0, len(stock), 5):
            touched[stock[place + 1] << 32 | stock[place]] = None
    if event.capacity:
        numbers = iter(event.capacity)
        add = state.capacity.add
        for node, day, units in zip(numbers, numbers, numbers, strict=True):
            add(node, day, units)
            state.touched_capacity[node] = None
            dirty[node] = None
    part = state.slots.get(slot) or state.slot(slot)
    part.orders[order_no] = event.record
    if event.key_hash:
        remember(state, part.dedupe, event.key_hash, event.fingerprint, order_no, time_ms)
    dirty[slot] = None
    part.ids[id_hash] = order_no
    if held:
        state.open_holds += 1
    else:
        state.open_orders += 1
    work = state.work
    for key, leg in enumerate(opening.plan.legs, (order_no << 12) + 1):
        node = leg.node
        dirty[node] = None
        if not held:
            entries = work.get(node)
            if entries is None:
                entries = work[node] = {}
            entries[key] = slot


def opened(catalog: Catalog, opening: Opening, order_no: int, *, token: str, expires_at_ms: int) -> Opened:
    """What the shard knows of a new order beyond what was asked for."""
    plan = opening.plan
    nodes, service_name = catalog.nodes, catalog.service_name
    legs = []
    for leg in plan.legs:
        document = nodes[leg.node]
        carrier, name = service_name(leg.service)
        legs.append(
            OpenedLeg(
                document.node_id if document is not None else f"#{leg.node}",
                leg.lines,
                carrier,
                name,
                leg.parcels,
                leg.ship_by_ms // 1_000 * 1_000,
                leg.deliver_by_ms // 1_000 * 1_000,
                leg.cash_minor,
            )
        )
    return Opened(
        opening.prepared.slot, order_no, token, expires_at_ms, plan.money_minor, plan.promise_ms, plan.rung, legs
    )
