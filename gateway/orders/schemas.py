"""Orders as the API takes them and shows them; and between those and the domain's own types.

One file: a field of an order is taken, checked, handed on and shown again, and changes in all four places at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from engine.domain.ids import encode_number, order_no_time_ms
from engine.domain.orders import Destination, LineRequest, Method, OnShort, OrderRequest
from engine.domain.replies import LegView, OrderLineView, OrderView, Problem
from gateway.errors import ID_SENTENCE, refuse
from gateway.schemas import (
    VALUE_MAX_MINOR,
    Body,
    Id,
    MoneyMinor,
    ProblemShown,
    Quantity,
    Reason,
    ShipTo,
    ShortText,
    Shown,
    Tags,
    ship_to_problem,
)
from gateway.times import iso, ms_of

MethodName = Literal["ship", "pickup", "ship_to_store", "digital"]
METHODS: dict[MethodName, Method] = {
    "ship": Method.SHIP,
    "pickup": Method.PICKUP,
    "ship_to_store": Method.SHIP_TO_STORE,
    "digital": Method.DIGITAL,
}
SHIP, PICKUP = Method.SHIP, Method.PICKUP
METHOD_NAMES: dict[int, MethodName] = {int(method): name for name, method in METHODS.items()}
ON_SHORT = {"refuse": OnShort.REFUSE, "partial": OnShort.PARTIAL, "park": OnShort.PARK}
INSTANT_MIN_MS = 946_684_800_000
"""2000-01-01: nothing older is a time of an order."""
INSTANT_MAX_MS = 4_102_444_800_000
"""2100-01-01."""
HOLD_STATES = ("held", "released", "expired")
ORDERS_PER_BATCH_MAX = 1_000
TTL_DEFAULT_S = 900
QUOTE_ID_MAX = 16_384
"""A quote of 32 levels and 10 stores, each with names of 64 characters, has 9,114."""
SERVICE_DEFAULT = "standard"

PlainId = Annotated[str, Meta(min_length=1, max_length=64, extra_json_schema={"pattern": r"^[!-~][ -~]*$"})]
"""`Id` without its regular expression, which costs more than the rest of decoding an order. `order_request` checks instead."""
QuoteId = Annotated[str, Meta(min_length=1, max_length=QUOTE_ID_MAX)]
Instant = Annotated[datetime, Meta(tz=True)]
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)")]


# -- requests -----------------------------------------------------------------------------------------------------


class OrderLine(Body, kw_only=True):
    """One line. `group`: lines of one group leave together from one node."""

    line_id: PlainId
    sku: PlainId
    quantity: Quantity
    unit_price_minor: MoneyMinor = 0
    method: MethodName = "ship"
    pickup_node_id: PlainId | None = None
    group: PlainId | None = None
    splittable: bool = True
    tags: Tags = ()


class Order(Body, kw_only=True):
    """An order as the storefront states it. `cancel_after`: units that still wait for stock then are cancelled.

    `quote_id`: keep what this quote promised with its option `quote_option` (default: the option of `service` where that is not
    `standard`, else the best one for its lines), or be refused.
    """

    order_id: PlainId
    channel: PlainId
    lines: Annotated[list[OrderLine], Meta(min_length=1)]
    service: PlainId = SERVICE_DEFAULT
    ship_to: ShipTo | None = None
    placed_at: Instant | None = None
    customer_id: PlainId | None = None
    currency: Currency = "USD"
    on_short: Literal["refuse", "partial", "park"] | None = None
    priority: Annotated[int, Meta(ge=0, le=1_000)] = 0
    tags: Tags = ()
    promised_by: Instant | None = None
    ship_after: Instant | None = None
    cancel_after: Instant | None = None
    max_legs: Annotated[int, Meta(ge=1, le=16)] | None = None
    hold_reasons: Annotated[tuple[ShortText, ...], Meta(max_length=16)] = ()
    quote_id: QuoteId | None = None
    quote_option: PlainId | None = None
    paid: bool = False


class Reservation(Order, kw_only=True):
    """An order to hold units for, for `ttl_s` seconds. Without `ship_to` it is planned for the channel's demand centre."""

    ttl_s: Annotated[int, Meta(ge=1)] = TTL_DEFAULT_S


class BatchOrder(Order, kw_only=True):
    """An order of a batch, with an idempotency key of its own."""

    idempotency_key: Annotated[str, Meta(min_length=1, max_length=255)]


class Batch(Body, kw_only=True):
    orders: Annotated[list[BatchOrder], Meta(min_length=1, max_length=ORDERS_PER_BATCH_MAX)]


class LineQuantity(Body, kw_only=True):
    line_id: Id
    quantity: Quantity


Lines = Annotated[tuple[LineQuantity, ...], Meta(min_length=1, max_length=10_000)]


class Commit(Body, kw_only=True):
    """`lines`: commit only these units and release the rest; without it, everything held."""

    lines: Lines | None = None
    ship_to: ShipTo | None = None


class Extend(Body, kw_only=True):
    ttl_s: Annotated[int, Meta(ge=1)]


class ClearHoldsBody(Body, kw_only=True):
    """`reasons`: take these hold reasons off the order; without it, all."""

    reasons: Annotated[tuple[ShortText, ...], Meta(min_length=1, max_length=16)] | None = None
    reason: Reason = ""


class Cancel(Body, kw_only=True):
    """`lines`: cancel these units; without it, all that has not left."""

    lines: Lines | None = None
    reason: Reason = ""


# -- answers ------------------------------------------------------------------------------------------------------


class LegLine(Shown):
    line_id: str
    sku: str
    quantity: int


class CostParts(Shown):
    """Expected cash of a leg by part."""

    parcels_minor: int
    handling_lines_minor: int
    handling_units_minor: int
    node_surcharge_minor: int


class Leg(Shown):
    """What one node ships of one order, or hands over: `ready_at` = when the customer can collect it at the lines' node."""

    leg_id: str
    node_id: str
    state: str
    lines: list[LegLine]
    carrier: str | None
    service: str | None
    parcels: int
    ship_by: str | None
    deliver_by: str | None
    cost_minor: int
    cost_parts: CostParts
    tracking: tuple[str, ...] | UnsetType = UNSET
    actual_cost_minor: int | UnsetType = UNSET
    ready_at: str | UnsetType = UNSET
    accept_by: str | UnsetType = UNSET
    """Until when its node is to accept it, once it is released."""
    overdue: bool | UnsetType = UNSET
    """True where it was not accepted in time and no other node can serve it."""
    end_reason: str | UnsetType = UNSET
    """edited, improved or not_accepted, where that ended it."""
    ship_to: ShipTo | UnsetType = UNSET
    """Where it goes, where the order's address was changed after it had been released."""
    method: MethodName | UnsetType = UNSET
    """Left out where it is `ship`."""
    pickup_node_id: str | UnsetType = UNSET
    """The store where the customer collects it."""


class Unfilled(Shown):
    """Units of a line that no leg covers, and why; `demand_id` where they are parked."""

    line_id: str
    quantity: int
    reason: str
    demand_id: str | None


class Promise(Shown):
    ship_by: str | None
    deliver_by: str | None


class EditShown(Shown):
    """The newest edit of an order: what it cost before, the difference, and the released legs that stayed as they were."""

    cost_before_minor: int
    cost_change_minor: int
    fixed_legs: list[str]


class OrderedLine(Shown):
    """A line as it was ordered, in units of what was ordered: a kit is one line here, its components are in the legs."""

    line_id: str
    sku: str
    quantity: int
    """Of these, `cancelled` are no longer wanted."""
    cancelled: int = 0
    method: MethodName = "ship"
    pickup_node_id: str | None = None


class Allocation(Shown):
    """A committed order: its legs, money, promise, and the decision behind it.

    cost_minor is expected cash; service, policy and opportunity are what else was weighed; `score` is their sum.
    """

    allocation_id: str
    order_id: str
    state: str
    channel: str
    customer_id: str | None
    legs: list[Leg]
    unfilled: list[Unfilled]
    cost_minor: int
    service_minor: int
    policy_minor: int
    opportunity_minor: int
    score: int
    currency: str
    promise: Promise
    decision_id: str
    rung: str
    version: int
    token: str
    opened_at: str
    """When the engine took the order."""
    ship_to: ShipTo | None
    """Where it goes, as far as the engine keeps it: no name and no street, they are yours to keep under `order_id`."""
    lines: list[OrderedLine]
    edit: EditShown | UnsetType = UNSET


class HeldOrder(Shown):
    """A reservation: what is held, where, at what cost, until when. Once committed it names the allocation it became."""

    reservation_id: str
    order_id: str
    state: str
    """held, committed, released or expired."""
    expires_at: str | None
    allocation_id: str | None
    channel: str
    customer_id: str | None
    legs: list[Leg]
    unfilled: list[Unfilled]
    cost_minor: int
    service_minor: int
    policy_minor: int
    opportunity_minor: int
    score: int
    currency: str
    promise: Promise
    decision_id: str
    rung: str
    version: int
    token: str
    opened_at: str
    """When the engine took the order."""
    ship_to: ShipTo | None
    """Where it goes, as far as the engine keeps it: no name and no street, they are yours to keep under `order_id`."""
    lines: list[OrderedLine]
    edit: EditShown | UnsetType = UNSET


class BatchItem(Shown):
    """Result of one order of a batch: `body` where it was allocated, `problem` where not."""

    status: int
    body: Allocation | UnsetType = UNSET
    problem: ProblemShown | UnsetType = UNSET
    replayed: bool = False


class BatchAnswer(Shown):
    results: list[BatchItem]


# -- between ------------------------------------------------------------------------------------------------------


def order_request(order: Order, *, max_lines: int, needs_destination: bool) -> OrderRequest | Problem:
    """The domain's request, or the first thing that no type can say about the order."""
    lines_in = order.lines
    if len(lines_in) > max_lines:
        return too_many_lines(len(lines_in), max_lines)
    names = [order.order_id, order.channel, order.service]
    if order.customer_id is not None:
        names.append(order.customer_id)
    if order.quote_option is not None and order.quote_id is None:
        return refuse("invalid_field", "/quote_option", "an option goes with a quote_id")
    value_minor = 0
    ships = False
    lines = []
    line_ids = []
    methods = METHODS
    for line in lines_in:
        method = methods[line.method]
        names.append(line.sku)
        line_ids.append(line.line_id)
        pickup_node_id = line.pickup_node_id
        if pickup_node_id is not None:
            names.append(pickup_node_id)
        elif method is SHIP:
            ships = True
        elif method is PICKUP:
            pointer = f"/lines/{len(lines)}/pickup_node_id"
            return refuse("invalid_field", pointer, "a pickup line names its node", line_id=line.line_id)
        if line.group is not None:
            names.append(line.group)
        value_minor += line.quantity * line.unit_price_minor
        lines.append(
            LineRequest(
                line.line_id,
                line.sku,
                line.quantity,
                line.unit_price_minor,
                method,
                pickup_node_id,
                line.group,
                line.splittable,
                line.tags,
            )
        )
    if not _are_ids(names + line_ids):
        problem = _first_bad_id(order)
        if problem is not None:
            return problem
    if len(set(line_ids)) < len(line_ids):
        return _duplicate_line(line_ids)
    if value_minor > VALUE_MAX_MINOR:
        return refuse("invalid_field", "/lines", "the order is worth too much", limit_minor=VALUE_MAX_MINOR)
    ship_to = order.ship_to
    destination = None
    if ship_to is not None:
        problem = ship_to_problem(ship_to)
        if problem is not None:
            return problem
        destination = _destination(ship_to)
    elif needs_destination and ships:
        return refuse("invalid_field", "/ship_to", "lines that are shipped need a destination")
    placed_at_ms, promised_by_ms, ship_after_ms = 0, None, None
    if order.placed_at is not None:
        placed_at_ms = ms_of(order.placed_at)
        if not INSTANT_MIN_MS <= placed_at_ms <= INSTANT_MAX_MS:
            return _no_instant("/placed_at")
    if order.promised_by is not None:
        promised_by_ms = ms_of(order.promised_by)
        if not INSTANT_MIN_MS <= promised_by_ms <= INSTANT_MAX_MS:
            return _no_instant("/promised_by")
    if order.ship_after is not None:
        ship_after_ms = ms_of(order.ship_after)
        if not INSTANT_MIN_MS <= ship_after_ms <= INSTANT_MAX_MS:
            return _no_instant("/ship_after")
    cancel_after_ms = None
    if order.cancel_after is not None:
        cancel_after_ms = ms_of(order.cancel_after)
        if not INSTANT_MIN_MS <= cancel_after_ms <= INSTANT_MAX_MS:
            return _no_instant("/cancel_after")
    return OrderRequest(
        order.order_id,
        order.channel,
        order.service,
        destination,
        tuple(lines),
        order.currency,
        placed_at_ms,
        order.customer_id,
        ON_SHORT[order.on_short] if order.on_short is not None else None,
        order.priority,
        order.tags,
        promised_by_ms,
        ship_after_ms,
        order.max_legs,
        order.hold_reasons,
        None,  # what a quote says travels beside the order (gateway/quotes/sealed.py)
        order.paid,
        cancel_after_ms,
    )


def _are_ids(names: list[str]) -> bool:
    """Whether all are what `Id` says, at one go. False may be a false alarm, where an id has "! " inside."""
    text = "!".join(names)
    return text.isascii() and text.isprintable() and text[0] != " " and "! " not in text


def _first_bad_id(order: Order) -> Problem | None:
    problem = _id_problem(
        "",
        order_id=order.order_id,
        channel=order.channel,
        service=order.service,
        customer_id=order.customer_id,
    )
    for n, line in enumerate(order.lines):
        problem = problem or _id_problem(
            f"/lines/{n}",
            sku=line.sku,
            line_id=line.line_id,
            group=line.group,
            pickup_node_id=line.pickup_node_id,
        )
    return problem


def _id_problem(pointer: str, **ids: str | None) -> Problem | None:
    """The first of some ids that is not one: what `Id` says, by hand."""
    for name, value in ids.items():
        if value is not None and not (value.isascii() and value.isprintable() and value[0] != " "):
            return refuse("invalid_field", f"{pointer}/{name}", f"expected {ID_SENTENCE}")
    return None


def too_many_lines(lines: int, limit: int) -> Problem:
    return refuse("too_many_lines", "/lines", f"{lines} lines, the limit is {limit}", lines=lines, limit=limit)


def _duplicate_line(line_ids: list[str]) -> Problem:
    """What is wrong with line ids of which one is there twice."""
    n = next(n for n, line_id in enumerate(line_ids) if line_id in line_ids[:n])
    first, line_id = line_ids.index(line_ids[n]), line_ids[n]
    detail = f"line {line_id} is listed twice"
    return refuse("invalid_field", f"/lines/{n}/line_id", detail, line_id=line_id, first=f"/lines/{first}")


def _no_instant(pointer: str) -> Problem:
    return refuse("invalid_field", pointer, "an instant between the years 2000 and 2100")


def _destination(ship_to: ShipTo) -> Destination:
    return Destination(
        ship_to.country, ship_to.postal_code, ship_to.region, ship_to.residential, ship_to.lat, ship_to.lon
    )


def destination(ship_to: ShipTo) -> Destination | Problem:
    return ship_to_problem(ship_to) or _destination(ship_to)


def line_pairs(lines: Sequence[LineQuantity] | None) -> tuple[tuple[str, int], ...] | Problem | None:
    """(line id, units) pairs; a line listed twice is a problem."""
    if lines is None:
        return None
    if len({line.line_id for line in lines}) != len(lines):
        seen: set[str] = set()
        for n, line in enumerate(lines):
            if line.line_id in seen:
                return refuse("invalid_field", f"/lines/{n}/line_id", f"line {line.line_id} is listed twice")
            seen.add(line.line_id)
    return tuple([(line.line_id, line.quantity) for line in lines])


def id_tail(slot: str, order_no: int) -> str:
    """What all ids of one order share."""
    return f"{slot}_{encode_number(order_no)}"


def leg_shown(view: LegView, tail: str) -> Leg:
    parts = view.cost_parts
    return Leg(
        f"leg_{tail}_{view.leg_no}",
        view.node_id,
        view.state,
        [LegLine(line.line_id, line.sku, line.quantity) for line in view.lines],
        view.carrier or None,
        view.service or None,
        view.parcels,
        iso(view.ship_by_ms),
        iso(view.deliver_by_ms),
        view.cost_minor,
        CostParts(*parts) if len(parts) == 4 else CostParts(view.cost_minor, 0, 0, 0),
        view.tracking or UNSET,
        view.actual_cost_minor if view.actual_cost_minor is not None else UNSET,
        iso(view.ready_at_ms) or UNSET,
        iso(view.accept_by_ms) or UNSET,
        view.overdue or UNSET,
        view.end_reason or UNSET,
        ship_to_shown(view.ship_to) if view.ship_to is not None else UNSET,
        METHOD_NAMES[view.method] if view.method else UNSET,
        view.pickup_node_id or UNSET,
    )


def ship_to_shown(ship_to: Destination) -> ShipTo:
    return ShipTo(
        country=ship_to.country,
        postal_code=ship_to.postal_code,
        region=ship_to.region,
        residential=ship_to.residential,
        lat=ship_to.lat,
        lon=ship_to.lon,
    )


def opened_at(order_no: int) -> str:
    """Its number says when the order was opened. Seconds repeat among orders, milliseconds hardly: only those are remembered."""
    ms = order_no_time_ms(order_no)
    part = ms % 1_000
    second = iso(ms - part) or ""
    return f"{second[:-1]}.{part:03d}Z" if part else second


def _lines_shown(lines: tuple[OrderLineView, ...]) -> list[OrderedLine]:
    return [
        OrderedLine(
            line.line_id, line.sku, line.quantity, line.cancelled, METHOD_NAMES[line.method], line.pickup_node_id
        )
        for line in lines
    ]


def _edit_shown(view: OrderView, tail: str) -> EditShown | UnsetType:
    edit = view.edit
    if edit is None:
        return UNSET
    fixed = [f"leg_{tail}_{leg_no}" for leg_no in edit.fixed]
    return EditShown(edit.cost_before_minor, edit.cost_after_minor - edit.cost_before_minor, fixed)


def allocation_shown(view: OrderView) -> Allocation:
    tail = id_tail(view.slot, view.order_no)
    return Allocation(
        f"alc_{tail}",
        view.order_id,
        view.state,
        view.channel,
        view.customer_id,
        [leg_shown(leg, tail) for leg in view.legs],
        _unfilled(view, tail) if view.unfilled else [],
        view.cost_minor,
        view.service_minor,
        view.policy_minor,
        view.opportunity_minor,
        view.cost_minor + view.service_minor + view.policy_minor + view.opportunity_minor,
        view.currency,
        Promise(iso(view.ship_by_ms), iso(view.deliver_by_ms)),
        f"dec_{tail}_{view.decision}",
        view.rung,
        view.version,
        view.token,
        opened_at(view.order_no),
        ship_to_shown(view.ship_to) if view.ship_to is not None else None,
        _lines_shown(view.lines),
        _edit_shown(view, tail),
    )


def reservation_shown(view: OrderView) -> HeldOrder:
    tail = id_tail(view.slot, view.order_no)
    state = view.state
    committed = state not in HOLD_STATES
    return HeldOrder(
        f"res_{tail}",
        view.order_id,
        "committed" if committed else state,
        iso(view.expires_at_ms),
        f"alc_{tail}" if committed else None,
        view.channel,
        view.customer_id,
        [leg_shown(leg, tail) for leg in view.legs],
        _unfilled(view, tail) if view.unfilled else [],
        view.cost_minor,
        view.service_minor,
        view.policy_minor,
        view.opportunity_minor,
        view.cost_minor + view.service_minor + view.policy_minor + view.opportunity_minor,
        view.currency,
        Promise(iso(view.ship_by_ms), iso(view.deliver_by_ms)),
        f"dec_{tail}_{view.decision}",
        view.rung,
        view.version,
        view.token,
        opened_at(view.order_no),
        ship_to_shown(view.ship_to) if view.ship_to is not None else None,
        _lines_shown(view.lines),
        _edit_shown(view, tail),
    )


def _unfilled(view: OrderView, tail: str) -> list[Unfilled]:
    return [
        Unfilled(u.line_id, u.quantity, u.reason, f"dem_{tail}_{u.demand_no}" if u.demand_no is not None else None)
        for u in view.unfilled
    ]
