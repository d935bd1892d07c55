"""What a storefront asks for, and the record the engine keeps of it.

Requests are decoded from the wire, validated by the gateway and never changed. Records are what a home shard keeps: packed
msgpack bytes in memory, these structs when touched. Adding a field = appending one with a default; nothing is ever removed
or retyped (golden journals hold it to that).
"""

from __future__ import annotations

from enum import IntEnum

import msgspec
from msgspec import Struct
from msgspec.structs import replace


class Method(IntEnum):
    SHIP = 0
    PICKUP = 1
    SHIP_TO_STORE = 2
    DIGITAL = 3


class OnShort(IntEnum):
    REFUSE = 0
    PARTIAL = 1
    PARK = 2


class OrderState(IntEnum):
    """held -> committed | released | expired; a committed order's label is derived from its legs and demand."""

    HELD = 0
    COMMITTED = 1
    RELEASED = 2
    EXPIRED = 3
    CANCELLED = 4


class LegState(IntEnum):
    """allocated -> released -> accepted -> picking -> shipped -> delivered | cancelled | rejected; held before commit."""

    HELD = 0
    ALLOCATED = 1
    RELEASED = 2
    ACCEPTED = 3
    PICKING = 4
    SHIPPED = 5
    DELIVERED = 6
    CANCELLED = 7
    REJECTED = 8


class Rung(IntEnum):
    """How a decision was reached."""

    SEPARABLE = 0
    EXACT = 1
    TIME_BOXED = 2
    GREEDY = 3


class LineRequest(Struct, array_like=True, frozen=True, gc=False):
    line_id: str
    sku: str
    quantity: int
    unit_price_minor: int = 0
    method: int = Method.SHIP
    pickup_node_id: str | None = None
    group: str | None = None
    splittable: bool = True
    tags: tuple[str, ...] = ()


class Destination(Struct, array_like=True, frozen=True, gc=False):
    country: str
    postal_code: str
    region: str = ""
    residential: bool = True
    lat: float | None = None
    lon: float | None = None


class OrderRequest(Struct, array_like=True, frozen=True, gc=False):
    """One order as the storefront states it; the home shard adds nothing to it, it answers it."""

    order_id: str
    channel: str
    service: str
    ship_to: Destination | None
    lines: tuple[LineRequest, ...]
    currency: str = "USD"
    placed_at_ms: int = 0
    customer_id: str | None = None
    on_short: int | None = None
    """OnShort; None = the channel's."""
    priority: int = 0
    """Higher is served first when units are short."""
    tags: tuple[str, ...] = ()
    promised_by_ms: int | None = None
    ship_after_ms: int | None = None
    max_legs: int | None = None
    hold_reasons: tuple[str, ...] = ()
    quote_id: str | None = None
    paid: bool = False
    """A paid order is never refused: what cannot be served is parked."""
    cancel_after_ms: int | None = None
    """Units that still wait then are cancelled; None = after the channel's time, if it has one."""


def collected_at(order: OrderRequest, node_id: str) -> OrderRequest:
    """The same order, with the lines that would be shipped collected at a node instead."""
    lines = [
        replace(line, method=Method.PICKUP, pickup_node_id=node_id) if line.method == Method.SHIP else line
        for line in order.lines
    ]
    return replace(order, lines=tuple(lines))


class LineRecord(Struct, array_like=True, gc=False):
    """A line after look-up: `item` is the item index. A kit line becomes one record per component, all with its line id.

    Most lines need the first four fields only.
    """

    line_id: str
    item: int
    quantity: int
    unit_price_minor: int = 0
    method: int = Method.SHIP
    group: int = 0
    pickup_node: int = -1
    cancelled: int = 0
    splittable: bool = True
    kits: int = 0
    """How many kits the line asked for, where this is a component of one; 0 = a plain line."""
    kit: int = -1
    """Item index of that kit; -1 = a plain line, or a record of before this was kept."""
    tags: tuple[str, ...] = ()
    """Handling tags beside those of the item; those of a kit's line are in each of its components."""


def way_of(line: LineRecord) -> tuple[int, int]:
    """(method, node where it is collected or -1): lines of one way are delivered together, and a leg has lines of one way only."""
    return line.method, line.pickup_node if line.method in (Method.PICKUP, Method.SHIP_TO_STORE) else -1


class LegRecord(Struct, array_like=True, gc=False):
    """What one node ships. `lines` = (position in the record's lines, units still in the leg)."""

    leg_no: int
    node: int
    local: bool
    """True where this shard owns the node, so that its stock part is touched by the same entry."""
    state: int
    lines: list[tuple[int, int]]
    service: int = -1
    """Index of the carrier service in its version of the configuration; -1 = none (pickup, digital)."""
    parcels: int = 0
    ship_day: int = 0
    """Local day at the node, days since 1970."""
    ship_by_s: int = 0
    deliver_by_s: int = 0
    """Instants, seconds since 1970: four bytes less than milliseconds, in every leg."""
    cash_minor: tuple[int, ...] = ()
    """Parcels, lines and units handling, node surcharge: expected cash by part."""
    capacity_units: int = 0
    """What the leg takes of the node's capacity on `ship_day`."""
    tracking: tuple[str, ...] = ()
    actual_cost_minor: int | None = None
    shipped_at_ms: int = 0
    driving: bool = False
    """Decided here, not yet acknowledged by the shard that owns the node."""
    stock_effect: str = "none"
    """What the newest rejection says about the shelf."""
    source_leg: int = 0
    """The leg this shipment was split from, where only a part of it left; 0 = a leg of its own."""
    txn: int = 0
    """Cross-shard transaction that took it; 0 = it was local."""
    written_off: list[tuple[int, int]] = []
    """(line, units) of this leg, at another shard's node, that rejections wrote off in all."""
    emptied: tuple[int, ...] = ()
    """Items of which a rejection said that the shelf of another shard's node is empty."""
    ship_to: Destination | None = None
    """Where it goes, where the order's address was changed after it had been released; None = the order's."""
    accept_by_s: int = 0
    """Until when its node is to accept it, seconds since 1970, while it is released; 0 = no deadline."""
    overdue: bool = False
    """It was not accepted in time and nobody else can serve it."""
    end_reason: str = ""
    """Why it ended, where an edit, a better plan or a deadline ended it: edited, improved, not_accepted."""
    ready_s: int = 0
    """When the customer can collect it, seconds since 1970; 0 = it goes to the door."""


class DemandRecord(Struct, array_like=True, gc=False):
    """Units of a line that are not covered: durable, and planned again when units, capacity or a node come back (demand.py)."""

    line: int
    quantity: int
    reason: str
    since_ms: int
    parked: bool
    """False = the rest of a line that was to be served as far as possible: it waits like any other."""
    cancel_at_ms: int = 0
    """When it is given up; 0 = never."""
    priority: int = -1
    """-1 = the order's."""


DemandRow = tuple[int, int, tuple[tuple[int, int], ...], tuple[tuple[int, int, int], ...]]
"""What one order waits for, as shards tell each other: (order number, rank, units it waits for, units it collects), the units as
(item, units) and (item, node, units). Without units it waits no more."""


class LastEdit(Struct, array_like=True, frozen=True, gc=False):
    """What the newest edit of an order was made against."""

    cost_before_minor: int
    """Expected cash before it."""
    cost_after_minor: int
    fixed: tuple[int, ...]
    """Legs that it could not move: they had been released."""


class OrderRecord(Struct, array_like=True, gc=False):
    """The home shard's record of one order: the only decision about it.

    What most orders have comes first: `encode_record` leaves the trailing defaults away. The order number says when it was
    opened (ids.order_no_time_ms).
    """

    order_id: str
    channel: int
    service: str
    state: int
    placed_at_ms: int
    version: int
    """Goes up with every change: the ETag."""
    ship_to: Destination | None
    lines: list[LineRecord]
    legs: list[LegRecord]
    config: int = 0
    """Configuration version the plan was made with."""
    decided_at: list[tuple[int, ...]] = []
    """Where each decision record is, by decision number: epoch, entry sequence, place in the entry, and the shard whose journal that is.
    The shard is left away for what opened the order, whose number tells it; old records never name it."""
    money_minor: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Cash, service, policy, opportunity of the plan in force."""
    customer_id: str | None = None
    expires_at_ms: int = 0
    """0 = not a hold."""
    rung: int = Rung.SEPARABLE
    promise_ms: tuple[int, int] = (0, 0)
    """Ship by, deliver by, where the promise is not simply the latest of the legs; (0, 0) = it is."""
    demand: list[DemandRecord] = []
    on_short: int = OnShort.REFUSE
    max_legs: int = 3
    priority: int = 0
    currency: str = "USD"
    tags: tuple[str, ...] = ()
    hold_reasons: tuple[str, ...] = ()
    rejected_nodes: tuple[int, ...] = ()
    """Nodes that rejected a leg of this order: never asked again."""
    promised_by_ms: int | None = None
    ship_after_ms: int | None = None
    cancel_after_ms: int | None = None
    held_by: str = ""
    """API key that placed it, where holds are capped by key."""
    quoted_by_ms: int = 0
    """The instant by which a quote promised it at the door; 0 = it was placed without one, or without a date, or an edit gave it up."""
    last_edit: LastEdit | None = None
    paid: bool = False
    """Then the channel's time is not for what waits of it. False also in records of before this was kept."""

    @property
    def decision(self) -> int:
        """Number of the decision in force; the first is 0."""
        return max(0, len(self.decided_at) - 1)

    @property
    def due_by_ms(self) -> int | None:
        """The instant that plans aim at: what the customer was told or what a quote promised, whichever is earlier."""
        dates = [by_ms for by_ms in (self.promised_by_ms, self.quoted_by_ms or None) if by_ms is not None]
        return min(dates, default=None)

    @property
    def promise(self) -> tuple[int, int]:
        """(ship by, deliver by) in ms."""
        if self.promise_ms != (0, 0):
            return self.promise_ms
        return promise_of(self.legs)


_LEG_CANCELLED = int(LegState.CANCELLED)


def promise_of(legs: list[LegRecord]) -> tuple[int, int]:
    """Latest (ship by, deliver by) in ms of the legs that are not cancelled or rejected."""
    ship_by_s = deliver_by_s = 0
    for leg in legs:
        if leg.state < _LEG_CANCELLED:
            if leg.ship_by_s > ship_by_s:
                ship_by_s = leg.ship_by_s
            if leg.deliver_by_s > deliver_by_s:
                deliver_by_s = leg.deliver_by_s
            if leg.ready_s > deliver_by_s:
                deliver_by_s = leg.ready_s
    return ship_by_s * 1_000, deliver_by_s * 1_000


_ENDED = (int(OrderState.RELEASED), int(OrderState.EXPIRED), int(OrderState.CANCELLED))
_LEG_ENDED = (int(LegState.DELIVERED), int(LegState.CANCELLED), int(LegState.REJECTED))


def has_ended(record: OrderRecord) -> bool:
    """Whether nothing of an order is to be done any more: its hold ended, or all legs ended and nothing waits."""
    if record.state in _ENDED:
        return True
    return (
        record.state == OrderState.COMMITTED
        and not record.demand
        and all(leg.state in _LEG_ENDED for leg in record.legs)
    )


def nothing_left(record: OrderRecord) -> bool:
    """Whether every unit of an order was cancelled, those that need no stock as well."""
    return all(line.cancelled >= line.quantity for line in record.lines)


def is_at_end(record: OrderRecord) -> bool:
    """Whether nothing of an order can change any more: it has ended, and no leg is still to be told another shard."""
    return has_ended(record) and not record.demand and not any(leg.driving for leg in record.legs)


_encode = msgspec.msgpack.Encoder().encode
decode_record = msgspec.msgpack.Decoder(OrderRecord).decode
_TAIL_DEFAULTS: tuple[object, ...] = (
    None,
    0,
    int(Rung.SEPARABLE),
    (0, 0),
    [],
    int(OnShort.REFUSE),
    3,
    0,
    "USD",
    (),
    (),
    (),
    None,
    None,
    None,
    "",
    0,
    None,
    False,
)
_TAIL_ENDS = _TAIL_DEFAULTS[3:]


def without_defaults(tail: tuple[object, ...]) -> tuple[object, ...]:
    """The last fields of a record, from `customer_id` on, as far as one of them is no default."""
    kept = len(tail)
    while kept and tail[kept - 1] == _TAIL_DEFAULTS[kept - 1]:
        kept -= 1
    return tail[:kept]


def particular_line(line: LineRecord) -> object:
    """A line with more than its first four fields, as it is packed: without tags where it has none."""
    if line.tags:
        return line
    return (
        line.line_id,
        line.item,
        line.quantity,
        line.unit_price_minor,
        line.method,
        line.group,
        line.pickup_node,
        line.cancelled,
        line.splittable,
        line.kits,
        line.kit,
    )


def encode_record(record: OrderRecord) -> bytes:
    """msgpack of a record without its trailing defaults, which `decode_record` puts back: half the bytes in journal and memory."""
    ship_to = record.ship_to
    head: list[object] = [
        record.order_id,
        record.channel,
        record.service,
        record.state,
        record.placed_at_ms,
        record.version,
        (ship_to.country, ship_to.postal_code, ship_to.region)
        if ship_to is not None and ship_to.residential and ship_to.lat is None and ship_to.lon is None
        else ship_to,
        [
            (line.line_id, line.item, line.quantity, line.unit_price_minor)
            if not (line.method or line.group or line.cancelled or line.kits or line.tags)
            and line.pickup_node < 0
            and line.splittable
            else particular_line(line)
            for line in record.lines
        ],
        [
            (
                leg.leg_no,
                leg.node,
                leg.local,
                leg.state,
                leg.lines,
                leg.service,
                leg.parcels,
                leg.ship_day,
                leg.ship_by_s,
                leg.deliver_by_s,
                leg.cash_minor,
                leg.capacity_units,
            )
            if leg.local
            and not (leg.shipped_at_ms or leg.source_leg or leg.tracking or leg.ready_s)
            and leg.stock_effect == "none"
            and not (leg.accept_by_s or leg.end_reason or leg.ship_to is not None)
            else leg
            for leg in record.legs
        ],
        record.config,
        record.decided_at,
        record.money_minor,
    ]
    tail: tuple[object, ...] = (
        record.customer_id,
        record.expires_at_ms,
        record.rung,
        record.promise_ms,
        record.demand,
        record.on_short,
        record.max_legs,
        record.priority,
        record.currency,
        record.tags,
        record.hold_reasons,
        record.rejected_nodes,
        record.promised_by_ms,
        record.ship_after_ms,
        record.cancel_after_ms,
        record.held_by,
        record.quoted_by_ms,
        record.last_edit,
        record.paid,
    )
    head += without_defaults(tail[:3] if tail[3:] == _TAIL_ENDS else tail)
    return _encode(head)
