"""Deciding new orders: look-up before planning, the record after it. Pure: values in, events and replies out.

A plan is a proposal. What makes it an order is the OrderPut made here, applied and journaled in the same batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from engine.domain.catalog import Catalog
from engine.domain.commands import PlaceOrder
from engine.domain.config import Item
from engine.domain.events import Cause, OrderPut
from engine.domain.ids import make_slot, slot_of
from engine.domain.orders import (
    DemandRecord,
    LegRecord,
    LegState,
    LineRecord,
    LineRequest,
    Method,
    OnShort,
    OrderRecord,
    OrderRequest,
    OrderState,
    encode_record,
    promise_of,
)
from engine.domain.plan import Plan, PlannedLeg, Planner, PlanRequest
from engine.domain.problems import CODES
from engine.domain.promising import METHOD_TAGS, TAG_OF, available_units, could_serve, extra_safety
from engine.domain.replies import Problem, ProblemItem
from engine.domain.state import HOLD_LIFE_MAX_MS, ShardState

ON_SHORT = {"refuse": OnShort.REFUSE, "partial": OnShort.PARTIAL, "park": OnShort.PARK}
# Plain integers: looking a member up in its enum costs more than the comparison.
_PICKUP, _STORE, _DIGITAL = int(Method.PICKUP), int(Method.SHIP_TO_STORE), int(Method.DIGITAL)
_HELD, _COMMITTED = int(OrderState.HELD), int(OrderState.COMMITTED)
_LEG_HELD, _LEG_ALLOCATED = int(LegState.HELD), int(LegState.ALLOCATED)
_REFUSE, _PARK = int(OnShort.REFUSE), int(OnShort.PARK)
_RESERVED_CAUSE, _ALLOCATED_CAUSE = int(Cause.RESERVED), int(Cause.ALLOCATED)
UNITS_MAX = 1_000_000_000
LINES_MAX = 10_000


class Prepared(Struct, frozen=True, gc=False):
    """An order looked up and ready to plan. `lines` are all lines; `request.lines` those that need stock."""

    slot: str
    request: PlanRequest
    lines: list[LineRecord]
    planned: list[int]
    """Index into `lines` of each of `request.lines`."""
    on_short: int
    plain: bool = False
    """Every line of the order is one line here and is shipped from stock: no kits, nothing collected, digital or untracked."""


def refuse(code: str, pointer: str, detail: str, **facts: object) -> Problem:
    """A problem with one fault."""
    return Problem(code, CODES[code].title, (ProblemItem(pointer, detail, facts),))


def not_on_the_map(country: str, postal_code: str, pointer: str = "/ship_to", **facts: object) -> Problem:
    """A destination whose postal code says nothing, and that has no coordinates."""
    detail = f"cannot locate {postal_code} {country} by its postal code: correct it, or give lat and lon"
    return refuse("unknown_destination", pointer, detail, **facts)


def slot_for(state: ShardState, command: PlaceOrder) -> str | None:
    """The slot of an order: its destination's, else its channel's demand centre's; None = the channel is not known."""
    order = command.order
    if order.ship_to is not None:
        return make_slot(order.ship_to.country, order.ship_to.postal_code)
    index = state.catalog.channel_of.get(order.channel)
    channel = state.catalog.channels[index] if index is not None else None
    if channel is None:
        return None
    return slot_of(channel.demand_centre.country, channel.demand_centre.postal_code)


def prepare(
    state: ShardState,
    planner: Planner,
    command: PlaceOrder,
    slot: str | None = None,
    point: tuple[float, float] | None = None,
) -> Prepared | Problem:
    """Look everything up that the order names. Any unknown name is a problem that points at its field.

    point: where the destination is, where that is known.
    """
    catalog = state.catalog
    order = command.order
    channel_index = catalog.channel_of.get(order.channel)
    channel = catalog.channels[channel_index] if channel_index is not None else None
    if channel is None or channel_index is None:
        return refuse("unknown_channel", "/channel", f"no channel {order.channel!r}")
    if order.currency != channel.currency:
        return refuse("currency_mismatch", "/currency", f"channel {order.channel} sells in {channel.currency}")
    if order.service not in catalog.levels_in.get(order.currency, ()):
        refusal = _unserved(catalog, order)
        if refusal is not None:
            return refusal
    ship_to = order.ship_to
    if point is None and ship_to is not None:
        point = planner.locate(ship_to)
        if point is None:
            return not_on_the_map(ship_to.country, ship_to.postal_code)
    if slot is None:
        slot = slot_for(state, command)
        assert slot is not None  # the channel is known
    count = len(order.lines)
    if not 0 < count <= LINES_MAX:
        return refuse("too_many_lines" if count else "invalid_field", "/lines", f"1 to {LINES_MAX} lines", lines=count)

    looked_up = _plain_lines(catalog, order.lines) or _lines(catalog, order.lines)
    if isinstance(looked_up, Problem):
        return looked_up
    lines, planned, plain = looked_up
    if not plain:
        refusal = _cannot_collect(catalog, order, lines)
        if refusal is not None:
            return refusal
    on_short = order.on_short if order.on_short is not None else ON_SHORT[channel.on_short]
    if order.paid and on_short == _REFUSE:
        on_short = _PARK
    max_legs = order.max_legs if order.max_legs is not None else channel.max_legs
    to_plan = lines if len(planned) == len(lines) else [lines[i] for i in planned]
    return Prepared(
        slot, PlanRequest(order, to_plan, channel_index, (), max_legs, point), lines, planned, on_short, plain
    )


def _unserved(catalog: Catalog, order: OrderRequest) -> Problem | None:
    """Why no carrier can be priced for an order; None = it needs none."""
    if order.service not in catalog.levels:
        return refuse("unknown_service", "/service", f"no carrier serves {order.service!r}")
    if not any(line.method in (Method.SHIP, Method.SHIP_TO_STORE) for line in order.lines):
        return None
    priced = [currency for currency, levels in catalog.levels_in.items() if order.service in levels]
    detail = f"no rate card of {order.service!r} is in {order.currency}, only in {', '.join(priced)}"
    return refuse("currency_not_priced", "/currency", detail, currency=order.currency, priced_in=priced)


def unserved(catalog: Catalog, service: str, currency: str, lines: Sequence[LineRecord]) -> Problem | None:
    """Why an order in a currency cannot have a service level; None = it can, or ships nothing."""
    if service in catalog.levels_in.get(currency, ()):
        return None
    asked = tuple([LineRequest(line.line_id, "", line.quantity, 0, line.method) for line in lines])
    return _unserved(catalog, OrderRequest("", "", service, None, asked, currency))


_Lines = tuple[list[LineRecord], list[int], bool]
"""(line records, those that need stock, whether the order is plain)"""
_COUNTS = [list(range(n)) for n in range(64)]


def _plain_lines(catalog: Catalog, asked: tuple[LineRequest, ...]) -> _Lines | None:
    """The lines of an order of which each ships an item that is tracked and no kit, as most do; None = it is another one."""
    plain_of = catalog.plain_of
    lines = []
    ids = set()
    for line in asked:
        line_id, quantity = line.line_id, line.quantity
        index = plain_of.get(line.sku)
        if (
            index is None
            or line.method
            or line.pickup_node_id is not None
            or line.group is not None
            or not line.splittable
            or line.tags
            or not 0 < quantity <= UNITS_MAX
        ):
            return None
        ids.add(line_id)
        lines.append(LineRecord(line_id, index, quantity, line.unit_price_minor))
    count = len(lines)
    if len(ids) < count:
        return None
    return lines, _COUNTS[count] if count < 64 else list(range(count)), True


def _lines(catalog: Catalog, asked: tuple[LineRequest, ...]) -> _Lines | Problem:
    """The lines of any order, kits as their components; or the first fault."""
    lines: list[LineRecord] = []
    planned: list[int] = []
    groups: dict[str, int] = {}
    ways: dict[int, tuple[int, int]] = {}
    """Method and pickup node of each group."""
    seen: dict[str, None] = {}
    has_kits = False
    for i, line in enumerate(asked):
        line_id, quantity, method = line.line_id, line.quantity, line.method
        index = catalog.item_of.get(line.sku)
        item = catalog.items[index] if index is not None else None
        if index is None or item is None:
            return refuse("unknown_sku", f"/lines/{i}/sku", f"no item {line.sku!r}", sku=line.sku)
        if not 0 < quantity <= UNITS_MAX:
            return refuse("invalid_field", f"/lines/{i}/quantity", f"1 to {UNITS_MAX} units", quantity=str(quantity))
        if line_id in seen:
            return refuse("invalid_field", f"/lines/{i}/line_id", f"{line_id!r} is listed twice")
        seen[line_id] = None
        if method not in METHOD_TAGS and method != _DIGITAL:
            return refuse("invalid_field", f"/lines/{i}/method", f"there is no method {method}")
        pickup = -1
        if line.pickup_node_id is not None:
            pickup = catalog.node_of.get(line.pickup_node_id, -1)
            if pickup < 0:
                return refuse("unknown_node", f"/lines/{i}/pickup_node_id", f"no node {line.pickup_node_id!r}")
            if method not in (_PICKUP, _STORE):
                detail = f"a line that is not collected at a node names none: {line.pickup_node_id!r}"
                return refuse("invalid_field", f"/lines/{i}/pickup_node_id", detail)
        elif method == _PICKUP:
            return refuse("invalid_field", f"/lines/{i}/pickup_node_id", "a pickup line names its node")
        elif method == _STORE:
            return refuse("invalid_field", f"/lines/{i}/pickup_node_id", "a ship_to_store line names its store")
        group = 0
        if line.group is not None:
            group = groups.setdefault(line.group, len(groups) + 1)
            if ways.setdefault(group, (method, pickup)) != (method, pickup):
                return refuse(
                    "invalid_field", f"/lines/{i}/group", "lines of one group go the same way to the same place"
                )
        if item.components:
            has_kits = True
            problem = _add_kit(catalog, i, line, item, groups, pickup, lines, planned)
            if problem is not None:
                return problem
            continue
        if item.tracked and method != _DIGITAL:
            planned.append(len(lines))
        lines.append(
            LineRecord(
                line_id,
                index,
                quantity,
                line.unit_price_minor,
                method,
                group,
                pickup,
                0,
                line.splittable,
                tags=line.tags,
            )
        )
    plain = len(planned) == len(lines) and not has_kits and not any(line.method for line in lines)
    return lines, planned, plain


def look_up_lines(catalog: Catalog, asked: tuple[LineRequest, ...]) -> _Lines | Problem:
    """Records of the lines that a request names, kits as their components, and which of them need stock; or the first fault."""
    return _plain_lines(catalog, asked) or _lines(catalog, asked)


def _add_kit(
    catalog: Catalog,
    i: int,
    line: LineRequest,
    kit: Item,
    groups: dict[str, int],
    pickup: int,
    lines: list[LineRecord],
    planned: list[int],
) -> Problem | None:
    """One record per component, in one group: the components of a kit leave from one node."""
    group = groups.setdefault(line.group if line.group is not None else f"\0kit{i}", len(groups) + 1)
    kit_index = catalog.item_of[kit.sku]
    per_kit = sum(c.quantity for c in kit.components)
    for component in kit.components:
        index = catalog.item_of.get(component.sku)
        item = catalog.items[index] if index is not None else None
        if index is None or item is None:
            return refuse("unknown_sku", f"/lines/{i}/sku", f"kit {line.sku} needs {component.sku!r}, no such item")
        units = component.quantity * line.quantity
        if units > UNITS_MAX:
            return refuse("invalid_field", f"/lines/{i}/quantity", f"more than {UNITS_MAX} of {component.sku}")
        if item.tracked and line.method != Method.DIGITAL:
            planned.append(len(lines))
        price = line.unit_price_minor // per_kit
        lines.append(
            LineRecord(
                line.line_id,
                index,
                units,
                price,
                line.method,
                group,
                pickup,
                0,
                False,
                line.quantity,
                kit_index,
                line.tags,
            )
        )
    return None


def line_to_plan(line: LineRecord, units: int) -> LineRecord:
    """Some units of an order's line, as a request to plan them again has it."""
    return LineRecord(
        line.line_id,
        line.item,
        units,
        line.unit_price_minor,
        line.method,
        line.group,
        line.pickup_node,
        0,
        line.splittable,
        tags=line.tags,
    )


def is_refused(command: PlaceOrder, prepared: Prepared, plan: Plan) -> bool:
    """Whether what the plan leaves unfilled makes it a refusal."""
    if not plan.unfilled or prepared.on_short == OnShort.PARK:
        return False
    return prepared.on_short == OnShort.REFUSE or (not plan.legs and not command.order.paid)


def shortage(state: ShardState, prepared: Prepared, plan: Plan, *, now_ms: int) -> Problem:
    """Why the order is refused, line by line, with the numbers."""
    order = prepared.request.order
    pointer_of = {line.line_id: i for i, line in enumerate(order.lines)}
    errors = []
    codes = []
    for index, units, reason in plan.unfilled:
        line = prepared.request.lines[index]
        i = pointer_of.get(line.line_id, 0)
        sku = state.catalog.sku(line.item)
        available, elsewhere = available_units(state, line, order.channel, now_ms)
        if reason == "no_node" and available < line.quantity and _anybody_serves(state.catalog, line, order.channel):
            reason = "out_of_stock"  # to the customer it is sold out, whatever lies where it cannot leave from
        codes.append(reason)
        facts = {
            "line_id": line.line_id,
            "sku": sku,
            "requested": line.quantity,
            "available_to_promise": available,
            "unfilled": units,
            "reason": reason,
        }
        if elsewhere:
            facts["units_elsewhere"] = elsewhere
        if line.kits:
            facts["kit"] = order.lines[i].sku
        if line.pickup_node >= 0:
            facts["node_id"] = state.catalog.node_id(line.pickup_node)
        detail = _REASONS.get(reason, reason)
        if reason == "no_node" and available >= line.quantity:
            detail = _TOGETHER if len(order.lines) > 1 else _ALONE
        errors.append(ProblemItem(f"/lines/{i}", detail, facts))
    code = "out_of_stock" if "out_of_stock" in codes or not codes else "no_capable_node"
    if "out_of_stock" in codes:
        # Where one line is short no plan is looked for: what is said of lines that have their units is no finding.
        errors = [
            error
            for error, reason in zip(errors, codes, strict=True)
            if reason == "out_of_stock" or error.facts["available_to_promise"] < error.facts["requested"]
        ]
    return Problem(code, CODES[code].title, tuple(errors))


def _cannot_collect(catalog: Catalog, order: OrderRequest, lines: list[LineRecord]) -> Problem | None:
    """The first line that names a node at which its goods cannot be collected; a paid order only waits for a node to be on."""
    for line in lines:
        if line.pickup_node < 0:
            continue
        facts: dict[str, object] = {"line_id": line.line_id}
        fault = _about_collection(catalog, line, order.channel, facts)
        if fault is not None and not (order.paid and "node_state" in facts):
            i = next(n for n, asked in enumerate(order.lines) if asked.line_id == line.line_id)
            return refuse("no_capable_node", f"/lines/{i}/pickup_node_id", fault, **facts)
    return None


def _about_collection(catalog: Catalog, line: LineRecord, channel_id: str, facts: dict[str, object]) -> str | None:
    """Why goods cannot be collected at the node that a line names, with the facts; None = they could be."""
    node = catalog.nodes[line.pickup_node]
    tag = TAG_OF[line.method]
    if node is None:
        return None
    facts["node_id"] = node.node_id
    if node.state != "on":
        facts["node_state"] = node.state
        return f"{node.node_id} takes no orders: it is switched to {node.state}"
    if tag not in node.offers:
        facts["offers"] = list(node.offers)
        return f"{node.node_id} does not offer {tag}"
    if not could_serve(node, tag, channel_id):
        return f"{node.node_id} does not serve channel {channel_id}"
    return None


def _anybody_serves(catalog: Catalog, line: LineRecord, channel_id: str) -> bool:
    """Whether there is a node at all that a line of this method and channel could come from."""
    if line.method == _PICKUP:
        return True  # its one node may serve, see _cannot_collect; nobody cares which other ones may not
    tag = "ship" if line.method == _STORE else TAG_OF[line.method]
    return any(could_serve(document, tag, channel_id) for document in catalog.nodes)


_TOGETHER = "no allowed choice of nodes serves this line together with the rest of the order"
_ALONE = (
    "nodes have the units, but no allowed choice of them serves this line: no carrier reaches the place, distance, days or "
    "handling forbid it, or it must leave whole"
)
_REASONS = {
    "out_of_stock": "not enough units are available to promise",
    "no_node": "no node that can serve this line has the units",
    "max_legs": "serving this line would take more legs than allowed",
    "capacity": "no node has capacity left in the days ahead",
}


def fits(state: ShardState, plans: list[tuple[Prepared, list[PlannedLeg]]]) -> bool:
    """Whether legs at this shard's own nodes can all be held as the state stands (S1, hard capacity, safety by method).

    A planner is asked about copies of these numbers, and a solver about old ones: what they say is checked, never believed.
    """
    catalog, positions = state.catalog, state.positions
    owner, shard, nodes = catalog.owner, catalog.shard, catalog.nodes
    find = positions.find
    on_hand, safety, held = positions.v_on_hand, positions.v_safety, positions.v_held
    allocated, claimed, fenced = positions.v_allocated, positions.v_claimed, positions.v_fenced
    need: dict[int, int] = {}
    room: dict[tuple[int, int], int] = {}
    for prepared, legs in plans:
        lines = prepared.request.lines
        for leg in legs:
            node = leg.node
            if owner[node] != shard:
                continue
            document = nodes[node]
            if document is None:
                return False
            extra = bool(document.safety_by_method)
            for i, units in leg.lines:
                line = lines[i]
                row = find(line.item, node)
                if row < 0:
                    return False
                need[row] = wanted = need.get(row, 0) + units
                free = on_hand[row] - safety[row] - held[row] - allocated[row] - claimed[row] - fenced[row]
                if free < wanted or (extra and free - extra_safety(state, node, line.method) < wanted):
                    return False
            if leg.capacity_units and document.capacity is not None and document.capacity.hard:
                day = (node, leg.ship_day)
                room[day] = taken = room.get(day, 0) + leg.capacity_units
                if state.capacity.get(node, leg.ship_day) + taken > document.capacity.per_day:
                    return False
    return True


def legs_of(
    state: ShardState, prepared_index: list[int], plan: Plan, *, leg_state: int, first: int, txn: int = 0
) -> list[LegRecord]:
    """Leg records of a plan; numbers start at `first`, line indexes are those of the order's record."""
    owner, shard = state.catalog.owner, state.catalog.shard
    legs: list[LegRecord] = []
    for leg in plan.legs:
        local = owner[leg.node] == shard
        record = LegRecord(
            first,
            leg.node,
            local,
            leg_state,
            [(prepared_index[i], units) for i, units in leg.lines],
            leg.service,
            leg.parcels,
            leg.ship_day,
            leg.ship_by_ms // 1_000,
            leg.deliver_by_ms // 1_000,
            leg.cash_minor,
            leg.capacity_units,
        )
        if not local:
            record.txn = txn
        if plan.terms:
            record.ready_s = plan.terms[len(legs)].ready_ms // 1_000
        legs.append(record)
        first += 1
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
    planned = prepared.planned
    legs = legs_of(state, planned, plan, leg_state=_LEG_HELD if held else _LEG_ALLOCATED, first=1, txn=txn)
    demand = []
    if plan.unfilled:
        parked = prepared.on_short == _PARK or order.paid
        channel = prepared.request.channel
        asked_ms = order.cancel_after_ms
        cancel_at_ms = auto_cancel_ms(state.catalog, channel, asked_ms=asked_ms, paid=order.paid, since_ms=now_ms)
        demand = [
            DemandRecord(planned[i], units, reason, now_ms, parked, cancel_at_ms) for i, units, reason in plan.unfilled
        ]
    promise_ms = plan.promise_ms
    return OrderRecord(
        order.order_id,
        prepared.request.channel,
        order.service,
        _HELD if held else _COMMITTED,
        order.placed_at_ms,
        1,
        order.ship_to,
        prepared.lines,
        legs,
        state.catalog.version,
        [],
        plan.money_minor,
        order.customer_id,
        now_ms + min(command.ttl_s * 1_000, HOLD_LIFE_MAX_MS) if held else 0,
        plan.rung,
        (0, 0) if promise_ms == promise_of(legs) else promise_ms,
        demand,
        prepared.on_short,
        prepared.request.max_legs,
        order.priority,
        order.currency,
        order.tags,
        order.hold_reasons,
        (),
        order.promised_by_ms,
        order.ship_after_ms,
        order.cancel_after_ms,
        command.holder if held else "",
        paid=order.paid,
    )


def auto_cancel_ms(catalog: Catalog, channel: int, *, asked_ms: int | None, paid: bool, since_ms: int) -> int:
    """When demand is given up: at the order's own date, else after the channel's time, which is not for paid orders; 0 = never."""
    if asked_ms is not None:
        return max(asked_ms, 1)
    document = catalog.channels[channel]
    if document is None or not document.auto_cancel_s or paid:
        return 0
    return since_ms + document.auto_cancel_s * 1_000


def given_up_at_ms(catalog: Catalog, record: OrderRecord, *, since_ms: int) -> int:
    """When units of an open order that begin to wait now are given up."""
    asked_ms = record.cancel_after_ms
    return auto_cancel_ms(catalog, record.channel, asked_ms=asked_ms, paid=record.paid, since_ms=since_ms)


def open_order(slot: str, order_no: int, record: OrderRecord, command: PlaceOrder) -> OrderPut:
    """The event that makes the order: record and stock in one."""
    held = record.state == _HELD
    stock, capacity = stock_of(record, record.legs, held=held)
    return OrderPut(
        _RESERVED_CAUSE if held else _ALLOCATED_CAUSE,
        slot,
        order_no,
        encode_record(record),
        stock,
        capacity,
        command.key_hash,
        command.fingerprint,
    )
