"""Replies: what a shard answers. On the wire: msgpack arrays whose first item is the tag. Gateways turn them into HTTP."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from engine.domain.orders import DemandRow, Destination


class ProblemItem(Struct, array_like=True, frozen=True):
    """One fault: a JSON pointer into the request, a sentence, and numbers by name."""

    pointer: str
    detail: str
    facts: dict[str, Any] = {}


class Problem(Struct, array_like=True, tag=1, frozen=True):
    """A typed refusal. `code` is one of engine.domain.problems.CODES, which also fixes the HTTP status."""

    code: str
    detail: str
    errors: tuple[ProblemItem, ...] = ()
    retry_after_ms: int | None = None


class LegLineView(Struct, array_like=True, frozen=True, gc=False):
    line_id: str
    sku: str
    quantity: int


class LegView(Struct, array_like=True, frozen=True, gc=False):
    leg_no: int
    node_id: str
    state: str
    lines: tuple[LegLineView, ...]
    carrier: str = ""
    service: str = ""
    parcels: int = 0
    ship_by_ms: int = 0
    deliver_by_ms: int = 0
    cost_minor: int = 0
    cost_parts: tuple[int, ...] = ()
    """Parcels, handling by line, handling by unit, node surcharge."""
    tracking: tuple[str, ...] = ()
    actual_cost_minor: int | None = None
    ready_at_ms: int = 0
    """When the customer can collect it; 0 = it goes to the door."""
    accept_by_ms: int = 0
    """Until when its node is to accept it; 0 = no deadline."""
    overdue: bool = False
    end_reason: str = ""
    ship_to: Destination | None = None
    """Where it goes, where that is no longer the order's address."""
    method: int = 0
    """engine.domain.orders.Method; the lines of a leg go the same way."""
    pickup_node_id: str | None = None


class UnfilledView(Struct, array_like=True, frozen=True, gc=False):
    line_id: str
    quantity: int
    reason: str
    demand_no: int | None = None


class EditView(Struct, array_like=True, frozen=True, gc=False):
    """The newest edit of an order: cash before and after it, and the numbers of the legs that it could not move."""

    cost_before_minor: int
    cost_after_minor: int
    fixed: tuple[int, ...]


class OrderLineView(Struct, array_like=True, frozen=True, gc=False):
    """A line as it was ordered: a kit is one line, in kits."""

    line_id: str
    sku: str
    quantity: int
    method: int = 0
    """engine.domain.orders.Method"""
    pickup_node_id: str | None = None
    cancelled: int = 0


class OrderView(Struct, array_like=True, tag=2, frozen=True, gc=False):
    """An order as the API shows it: reservation while held, allocation once committed."""

    slot: str
    order_no: int
    order_id: str
    state: str
    """held, allocated, partially_allocated, parked, released, expired, cancelled, shipped, delivered..."""
    legs: tuple[LegView, ...]
    unfilled: tuple[UnfilledView, ...] = ()
    cost_minor: int = 0
    service_minor: int = 0
    policy_minor: int = 0
    opportunity_minor: int = 0
    currency: str = "USD"
    ship_by_ms: int = 0
    deliver_by_ms: int = 0
    decision: int = 0
    rung: str = "separable"
    token: str = ""
    expires_at_ms: int = 0
    version: int = 0
    replayed: bool = False
    """True where this answers a repeat of an idempotency key."""
    channel: str = ""
    customer_id: str | None = None
    edit: EditView | None = None
    ship_to: Destination | None = None
    lines: tuple[OrderLineView, ...] = ()


class OpenedLeg(Struct, array_like=True, frozen=True, gc=False):
    node_id: str
    lines: list[tuple[int, int]]
    """(index into the order's lines, units)"""
    carrier: str
    service: str
    parcels: int
    ship_by_ms: int
    deliver_by_ms: int
    cost_parts: tuple[int, ...]
    """As in LegView."""


class Opened(Struct, array_like=True, tag=14, frozen=True, gc=False):
    """What became of a plain order that was placed just now, for who has the order: `domain.views.whole_view` puts both together."""

    slot: str
    order_no: int
    token: str
    expires_at_ms: int
    """0 = it is no hold."""
    money_minor: tuple[int, int, int, int]
    """Cash, service, policy, opportunity."""
    promise_ms: tuple[int, int]
    """Ship by, deliver by, as the plan says; (0, 0) = the latest of the legs."""
    rung: int
    legs: list[OpenedLeg]


class WorkLeg(Struct, array_like=True, frozen=True, gc=False):
    """A leg with what its node wants to know of the order."""

    slot: str
    order_no: int
    order_id: str
    leg: LegView
    channel: str
    ship_to: Destination | None
    """The order's; the leg's own goes before it."""


class LegList(Struct, array_like=True, tag=3, frozen=True, gc=False):
    """A page of legs; an empty cursor is the end."""

    legs: tuple[WorkLeg, ...]
    cursor: str


class StockView(Struct, array_like=True, frozen=True, gc=False):
    node_id: str
    sku: str
    on_hand: int
    held: int
    allocated: int
    safety: int
    available_to_promise: int
    short_by: int = 0
    supply: str = "counted"
    feed_age_s: int | None = None
    node_state: str = "on"
    distance_m: int = -1
    """From the destination that was asked about; -1 = about none."""


class WouldChange(Struct, array_like=True, frozen=True, gc=False):
    """What a count would do to positions; `left_out_count` of them are none that it lists: they would be 0, as of its instant."""

    position_count: int
    left_out_count: int
    units_added: int
    units_taken: int


class StockReply(Struct, array_like=True, tag=4, frozen=True, gc=False):
    """Positions with the shard, epoch and sequence they are true at, and the age of the state in milliseconds."""

    positions: tuple[StockView, ...]
    shard: int
    epoch: int
    seq: int
    token: str = ""
    replayed: bool = False
    legs_short: tuple[str, ...] = ()
    """Unreleased legs, lowest priority and newest first, of positions that are now short."""
    settled: tuple[tuple[int, int, int, int], ...] = ()
    """Of availability: as in StockUpdate."""
    would_change: WouldChange | None = None
    """Of a dry run."""


class DecisionReply(Struct, array_like=True, tag=5, frozen=True, gc=False):
    record: bytes
    """Packed decision record (engine.domain.decisions.DecisionRecord)."""
    entry: tuple[int, int, int] | None = None
    """Shard, epoch and sequence of the entry it was journaled with: the state after the entry before is what it was made on."""


class DecisionAt(Struct, array_like=True, tag=15, frozen=True, gc=False):
    """The record is in the journal of another shard, which had the order when it decided. Ask that one (`GetDecision.at`)."""

    shard: int
    epoch: int
    seq: int
    place: int


class NodeReply(Struct, array_like=True, tag=13, frozen=True, gc=False):
    """engine.domain.decisions.NodeVerdict with the node's name for its index."""

    node_id: str
    km: int
    """-1 = the destination or the node is not on the map."""
    verdict: str
    numbers: tuple[int, ...]
    text: str


class StatusReply(Struct, array_like=True, tag=6, frozen=True):
    facts: dict[str, Any]


class DumpReply(Struct, array_like=True, tag=7, frozen=True):
    rows: tuple[tuple[Any, ...], ...]
    cursor: str
    seq: int


class ConfigDoc(Struct, array_like=True, frozen=True):
    kind: str
    name: str
    index: int
    version: int
    """Configuration version that last changed it: its ETag. Every change of a document has a version of its own."""
    document: bytes
    """JSON text; decode it with the kind's struct of engine.domain.config."""


class ConfigReply(Struct, array_like=True, tag=8, frozen=True):
    """Documents, in version order for a follower and in name order for a list. A put answers every document it named.

    version: for a follower, the version it has now reached; else the newest one. more = another page follows at once.
    point: for a follower, (epoch, seq) of the control shard that a last page brings it to: what a commit token names.
    """

    documents: tuple[ConfigDoc, ...]
    version: int
    cursor: str = ""
    more: bool = False
    point: tuple[int, int] = (0, 0)


class Done(Struct, array_like=True, tag=9, frozen=True, gc=False):
    """Journaled; nothing else to say. `detail` = number of rows taken, or the state reached."""

    detail: int = 0
    token: str = ""


class TryReply(Struct, array_like=True, tag=10, frozen=True, gc=False):
    """All held (`ok`), or the positions that fell short: (item, node, units free), and full capacity days (node, day, used).

    token: the entry that holds them, or the one that the numbers are true at.
    """

    ok: bool
    short: tuple[tuple[int, int, int], ...] = ()
    full: tuple[tuple[int, int, int], ...] = ()
    token: str = ""
    over_cap: tuple[tuple[int, int, int, int], ...] = ()
    """Positions of which too much would be held: (item, node, units held, most that may be)."""


class TxnState(Struct, array_like=True, tag=11, frozen=True, gc=False):
    state: str
    """committed, pending or aborted."""


class ViewUpdate(Struct, array_like=True, tag=12, frozen=True, gc=False):
    """Absolute values of an owner's positions and capacity days, true at (epoch, seq). `full` starts a new picture.

    positions: packed int32 rows (item, node, on_hand, held + allocated, safety) as little-endian bytes.
    capacity: packed int32 rows (node, day, used). `last` = the picture is complete with this part.
    counts: (node, instant in ms) of newest counts that the follower does not know yet.
    """

    shard: int
    epoch: int
    seq: int
    full: bool
    last: bool
    positions: bytes
    capacity: bytes
    counts: tuple[tuple[int, int], ...] = ()


class TurnOver(Struct, array_like=True, tag=16, frozen=True, gc=False):
    """An order that was let before others has tried, or does not want to: `row` = what it waits for now.

    said = its number among all that its home tells (ShowDemand): what has a greater one is newer.
    """

    row: DemandRow
    said: tuple[int, int]


class DemandView(Struct, array_like=True, frozen=True, gc=False):
    """Units of one line that wait. `rank` = its order's place in the queue, the smaller the earlier."""

    rank: int
    slot: str
    order_no: int
    no: int
    order_id: str
    line_id: str
    sku: str
    quantity: int
    reason: str
    state: str
    """parked or partial."""
    priority: int
    since_ms: int
    cancel_at_ms: int
    next_try_ms: int
    """When it is planned again whatever comes back; 0 = only when something does, or by the slow round over all."""
    ahead: int
    """Orders of this home that wait for the same item and come first."""
    channel: str
    customer_id: str | None = None


class DemandList(Struct, array_like=True, tag=40, frozen=True, gc=False):
    """Waiting units after the place asked, foremost first. `reached` = how far this page looked; None = to the end."""

    rows: tuple[DemandView, ...]
    reached: tuple[int, int, int] | None = None


class DemandNote(Struct, array_like=True, frozen=True, gc=False):
    """One thing that happened to demand (engine.protocol.demand_log)."""

    no: int
    at_ms: int
    outcome: str
    """refused, quoted, parked, partial or served."""
    sku: str
    slot: str
    channel: str
    quantity: int
    waited_ms: int = 0


class DemandNotes(Struct, array_like=True, tag=41, frozen=True, gc=False):
    """Notes after a number; `first` = the oldest one that is kept, `next` = what the next one will be."""

    notes: tuple[DemandNote, ...]
    first: int
    next: int
    epoch: int


class ShortView(Struct, array_like=True, frozen=True, gc=False):
    """A position that promised more than it has. `legs` = unreleased ones that hold its item: the first ones to give up."""

    key: int
    """node << 32 | item"""
    stock: StockView
    lacking: int
    """Units promised that are not on the shelf; what else it is short by, safety or distrust withholds."""
    legs: tuple[str, ...]


class ShortList(Struct, array_like=True, tag=42, frozen=True, gc=False):
    rows: tuple[ShortView, ...]
    more: bool


class ShortLegs(Struct, array_like=True, tag=43, frozen=True, gc=False):
    """(priority, order number, leg number, slot, units) of a home's unreleased legs, in the order in which they give up."""

    legs: tuple[tuple[int, int, int, str, int], ...]


class OptionView(Struct, array_like=True, frozen=True, gc=False):
    """One way to deliver an order, as it would be planned now. Legs have no numbers yet."""

    service: str
    legs: tuple[LegView, ...]
    unfilled: tuple[UnfilledView, ...]
    unfilled_units: int
    money_minor: tuple[int, int, int, int]
    """Cash, service, policy, opportunity."""
    ship_by_ms: int
    deliver_by_ms: int
    rung: str
    pickup_node_id: str = ""
    """Where the lines that would be shipped are collected instead."""
    distance_m: int = 0
    """Of that node from the destination."""


class QuoteReply(Struct, array_like=True, tag=50, frozen=True, gc=False):
    """Delivery options in the order of service levels asked, then of stores by distance, true at (shard, epoch, seq), with the configuration's version.

    levels, left_out: service levels that were planned, and those beyond the limit, of all that are priced in the currency.
    """

    options: tuple[OptionView, ...]
    slot: str
    shard: int
    epoch: int
    seq: int
    config: int
    at_ms: int
    levels: int
    left_out: int
    token: str = ""


class StockUpdate(Struct, array_like=True, tag=80, frozen=True, gc=False):
    """Absolute values of own positions, true at (epoch, seq) at least. `begin` = a picture is to be asked for from here on.

    rows: packed int32 rows as little-endian bytes: item, node, on_hand, held, allocated, safety, free units (negative = short),
    instant of the last count (s since 2020, 0 = never), place in engine.domain.decide_stock.SUPPLY_MODES.
    settled: (shard, newest entry of this one up to which that shard has done what orders at home here needed of it, epoch and entry
    of its own by which it had); 0 = not known. Of a shard that is not named nothing was needed.
    counts: (node, instant in ms) of newest counts that the follower does not know yet.
    """

    shard: int
    epoch: int
    seq: int
    begin: bool
    rows: bytes
    settled: tuple[tuple[int, int, int, int], ...] = ()
    counts: tuple[tuple[int, int], ...] = ()


class StockPage(Struct, array_like=True, tag=81, frozen=True, gc=False):
    """Own positions by (item, node), rows as in StockUpdate. `next` = the key to go on after; -1 = this was the last page."""

    epoch: int
    seq: int
    rows: bytes
    next: int


class ItemsReply(Struct, array_like=True, tag=82, frozen=True, gc=False):
    """What FindItems asked for, in its order; -1 and "" for what this shard does not know, or a kit, which has no positions."""

    indexes: tuple[int, ...]
    skus: tuple[str, ...]


class NodeWork(Struct, array_like=True, tag=55, frozen=True, gc=False):
    """What a node has still to do, as one shard sees it."""

    is_owner: bool
    """Whether this shard owns the node's stock: it alone knows the units."""
    held: int
    allocated: int
    legs: dict[str, int]
    """Legs of this home's orders by state; shipped ones until they are delivered."""
    overdue: int
    """Released legs that were not accepted in time and that nobody else can serve."""
    more: bool
    """There are more legs than were counted."""


class StoreView(Struct, array_like=True, frozen=True, gc=False):
    """A node near a place: units of each SKU that was asked for, and when they could be collected (0 = it lacks some)."""

    node_id: str
    distance_m: int
    units: tuple[int, ...]
    ready_at_ms: int = 0


class StoresReply(Struct, array_like=True, tag=60, frozen=True, gc=False):
    """Stores by distance, true at (epoch, seq) of the shard that owns them. `more` = there are more within the radius."""

    stores: tuple[StoreView, ...]
    more: bool
    shard: int
    epoch: int
    seq: int


class InboundView(Struct, array_like=True, frozen=True, gc=False):
    node_id: str
    inbound_id: str
    sku: str
    quantity: int
    expected_at_ms: int
    promised: int = 0
    """Of a list for selling: units that it will add to what can be promised, after all that comes to its position before."""


class InboundReply(Struct, array_like=True, tag=61, frozen=True, gc=False):
    """Inbound records, true at (epoch, seq). free, waiting = by SKU asked for: units to promise now, units of this home's demand."""

    rows: tuple[InboundView, ...]
    more: bool
    shard: int
    epoch: int
    seq: int
    token: str = ""
    free: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()


class PartsReply(Struct, array_like=True, tag=70, frozen=True, gc=False):
    """What a stock shard owns: (part as operators call it, bytes or so of its state, orders placed or legs held in it)."""

    parts: tuple[tuple[str, int, int], ...]


Reply = (
    Problem
    | OrderView
    | Opened
    | LegList
    | StockReply
    | DecisionReply
    | DecisionAt
    | NodeReply
    | StatusReply
    | DumpReply
    | ConfigReply
    | Done
    | TryReply
    | TxnState
    | ViewUpdate
    | TurnOver
    | DemandList
    | DemandNotes
    | ShortList
    | ShortLegs
    | PartsReply
    | NodeWork
    | QuoteReply
    | StockUpdate
    | StockPage
    | ItemsReply
    | StoresReply
    | InboundReply
)
