"""Commands: what gateways, other shards and operators ask of a shard. On the wire: msgpack arrays whose first item is the tag.

Every command that changes something carries `key_hash` (64 bits of the caller's idempotency key, scoped to its API key; 0 =
none) and `fingerprint` (64 bits of its body): a repeat gets the first answer, another body under the same key is refused. What
a caller asks of a shard has `key_ms` too: when the key says that it was made (UUIDv7, ULID; 0 = it does not say).
One file, because it is one register: the tags of all commands, in the order in which they came to be.
"""

from __future__ import annotations

from msgspec import Struct

from engine.domain.move_commands import (
    AbandonMove,
    AddShard,
    AdmitShard,
    BeginMove,
    EndShard,
    FinishMove,
    ListParts,
    OfferPart,
    ShowNode,
)
from engine.domain.orders import DemandRow, Destination, LineRequest, OrderRequest


class PlaceOrder(Struct, array_like=True, tag=1, frozen=True, gc=False):
    """Plan and hold (`ttl_s` > 0: a reservation), or plan and commit in one (`ttl_s` = 0: an allocation)."""

    order: OrderRequest
    ttl_s: int = 0
    key_hash: int = 0
    fingerprint: int = 0
    after: str | None = None
    """Commit token that the shard's views must contain first."""
    holder: str = ""
    """API key that a hold counts for, where holds are capped by key."""
    brief: bool = False
    """The asker keeps the order: a plain one is answered with `Opened`, which leaves out what the order says."""
    key_ms: int = 0


class CommitHold(Struct, array_like=True, tag=2, frozen=True, gc=False):
    """Commit a hold, wholly or the given units by line; what is left out is released.

    Another `ship_to` than the hold's: it is planned again, and old units are exchanged for new ones in one step.
    """

    slot: str
    order_no: int
    lines: tuple[tuple[str, int], ...] | None = None
    key_hash: int = 0
    fingerprint: int = 0
    ship_to: Destination | None = None
    key_ms: int = 0


class ExtendHold(Struct, array_like=True, tag=3, frozen=True, gc=False):
    slot: str
    order_no: int
    ttl_s: int
    key_hash: int = 0
    fingerprint: int = 0
    key_ms: int = 0


class ReleaseHold(Struct, array_like=True, tag=4, frozen=True, gc=False):
    slot: str
    order_no: int
    key_hash: int = 0
    fingerprint: int = 0
    key_ms: int = 0


class CancelOrder(Struct, array_like=True, tag=5, frozen=True, gc=False):
    """Cancel lines (line id, units) or, with None, all that has not left.

    is_duplicate: an order of the same id, opened earlier in another slot, is the one that counts. What has been released to a
    node is left: somebody must look at it.
    """

    slot: str
    order_no: int
    lines: tuple[tuple[str, int], ...] | None = None
    reason: str = ""
    key_hash: int = 0
    fingerprint: int = 0
    is_duplicate: bool = False
    key_ms: int = 0
    of_hold: bool | None = None
    """Whether the caller knows it as a hold, which ends whole; None = either will do."""


class ClearHolds(Struct, array_like=True, tag=17, frozen=True, gc=False):
    """Take reasons for which an order is on hold off it: those named, or with None all."""

    slot: str
    order_no: int
    reasons: tuple[str, ...] | None = None
    key_hash: int = 0
    fingerprint: int = 0
    key_ms: int = 0
    reason: str = ""
    """Why, in the caller's words."""


class ActOnLeg(Struct, array_like=True, tag=6, frozen=True, gc=False):
    """One step of a leg's life: `action` is release, accept, pick, ship, deliver or reject.

    `lines` (line id, units) narrows ship and reject; `stock_effect` (none, zero_until_count, write_off) goes with reject.
    """

    slot: str
    order_no: int
    leg_no: int
    action: str
    lines: tuple[tuple[str, int], ...] | None = None
    reason: str = ""
    stock_effect: str = "none"
    parcels: int | None = None
    tracking: tuple[str, ...] = ()
    actual_cost_minor: int | None = None
    key_hash: int = 0
    fingerprint: int = 0
    key_ms: int = 0


class GetOrder(Struct, array_like=True, tag=7, frozen=True, gc=False):
    slot: str
    order_no: int


class ListLegs(Struct, array_like=True, tag=8, frozen=True, gc=False):
    """A node's work list on this home shard, by (slot, order number, leg number) after the cursor."""

    node_id: str
    state: str | None = None
    limit: int = 100
    cursor: str = ""


class StockMove(Struct, array_like=True, frozen=True, gc=False):
    """One typed movement; `quantity` is signed by kind (a positive `damaged` takes units away)."""

    sku: str
    kind: str
    quantity: int
    reason: str = ""


class AdjustStock(Struct, array_like=True, tag=9, frozen=True, gc=False):
    """Typed movements at one node, all or none."""

    node_id: str
    moves: tuple[StockMove, ...]
    key_hash: int = 0
    fingerprint: int = 0
    key_ms: int = 0
    expected: tuple[int | None, ...] = ()
    """Units that must be on hand when a movement's turn comes, by movement; None = whatever is there. Empty = of none of them."""


class CountStock(Struct, array_like=True, tag=10, frozen=True, gc=False):
    """An absolute count from a feed: units on the shelf by SKU as of an instant; the shard nets its later movements.

    scope: `full` (a SKU not listed has none), `nonzero` (as full, rows of 0 were left out by the sender), `delta`
    (only the rows given). An older `source_seq` of the same source is refused.
    """

    node_id: str
    source: str
    as_of_ms: int
    source_seq: int
    scope: str
    rows: tuple[tuple[str, int], ...]
    key_hash: int = 0
    fingerprint: int = 0
    key_ms: int = 0
    dry_run: bool = False
    """Only say what it would change."""
    listed: tuple[str, ...] = ()
    """SKUs that earlier commands of this count had, of the same `source_seq` or an older one: a count is put in parts where it is long."""


class SetPosition(Struct, array_like=True, tag=11, frozen=True, gc=False):
    """Settings of positions at a node: (sku, safety units, supply mode, trust in basis points, daily cap); None = as it is."""

    node_id: str
    rows: tuple[tuple[str, int, str | None, int | None, int | None], ...]
    key_hash: int = 0
    fingerprint: int = 0
    key_ms: int = 0


class GetAvailability(Struct, array_like=True, tag=12, frozen=True, gc=False):
    """ATP of SKUs at this shard's own nodes (or one of them), for a channel and method; of those that could send to `ship_to`."""

    skus: tuple[str, ...]
    node_id: str | None = None
    channel: str | None = None
    method: int = 0
    ship_to: Destination | None = None


class GetDecision(Struct, array_like=True, tag=13, frozen=True, gc=False):
    slot: str
    order_no: int
    decision: int
    at: tuple[int, int, int] | None = None
    """What a DecisionAt says, for the shard that it names: it answers whoever has the slot by now."""


class ExplainNode(Struct, array_like=True, tag=18, frozen=True, gc=False):
    """Why an order would or would not go to a node as things are now, its own units counted as free. Changes nothing."""

    slot: str
    order_no: int
    node_id: str


class GetStatus(Struct, array_like=True, tag=14, frozen=True, gc=False):
    """Epoch, sequence, queue, counters: everything `/metrics` and `status` show of a shard."""


class DumpPart(Struct, array_like=True, tag=15, frozen=True, gc=False):
    """What the shard has, for the auditor, in pages: rows of a kind (`node`, `slot`, `foreign`, `capacity`, `inbound`) from a cursor on."""

    kind: str
    cursor: str = ""
    limit: int = 1_000


class FindKey(Struct, array_like=True, tag=16, frozen=True, gc=False):
    """What an idempotency key made in a slot: its first answer, `key_reused` where the body was another, Done(0) = nothing.

    Asked by a gateway that has the key for another slot; decided after all orders that came before it.
    """

    slot: str
    key_hash: int
    fingerprint: int
    key_ms: int = 0


class PutConfig(Struct, array_like=True, tag=20, frozen=True, gc=False):
    """Put documents of one kind (control shard), all or none: each is the JSON text of a struct of engine.domain.config.

    `if_version` = version of the single document replaced (0 = there must be none yet), else 412.
    """

    kind: str
    documents: tuple[bytes, ...]
    if_version: int | None = None
    key_hash: int = 0
    fingerprint: int = 0


class GetConfig(Struct, array_like=True, tag=21, frozen=True, gc=False):
    kind: str
    name: str


class ListConfig(Struct, array_like=True, tag=22, frozen=True, gc=False):
    """Documents of a kind after a name, in name order."""

    kind: str
    after: str = ""
    limit: int = 100


class FollowConfig(Struct, array_like=True, tag=23, frozen=True, gc=False):
    """Every change after a version, then each new one as it happens (answered many times on one correlation id)."""

    after_version: int
    kinds: tuple[str, ...] | None = None
    """Only these kinds (a gateway does not need every item); None = all."""


class TryLegs(Struct, array_like=True, tag=30, frozen=True, gc=False):
    """First phase at a node's shard: check stock and capacity and hold. `legs` = (leg no, node, ship day, capacity, lines).

    lines = (item index, units). A transaction id is (home epoch << 32 | counter); it is never used twice.
    """

    home: int
    txn: int
    slot: str
    order_no: int
    legs: tuple[tuple[int, int, int, int, tuple[tuple[int, int], ...]], ...]
    spare: tuple[tuple[int, int, int], ...] = ()
    """(node, item, units) that must stay free beyond what is held: safety by method."""
    replaces: tuple[int, ...] = ()
    """Held legs of the order that end in the step that decides these: their units count as free."""
    hold_share_bp: int = 0
    """Most that may be held of a position, in basis points of its shelf; 0 = no cap, or not for a hold."""
    place: tuple[int, ...] = ()
    """(rank, order number) of an order that waits: only what is kept for those before it is kept from it."""


class DriveLeg(Struct, array_like=True, tag=31, frozen=True, gc=False):
    """Second phase, idempotent: bring the leg to a target. What is neither left nor shipped is freed.

    to = allocated, shipped, cancelled or rejected; lines = (item index, units that stay allocated). shipped, written_off =
    (item index, units) in all so far, of which the participant books the difference to what it last knew; emptied = items
    whose shelf is empty until the next count. An older `version` than the last one changes nothing.
    """

    home: int
    txn: int
    slot: str
    order_no: int
    leg_no: int
    to: int
    lines: tuple[tuple[int, int], ...]
    version: int = 0
    shipped: tuple[tuple[int, int], ...] = ()
    written_off: tuple[tuple[int, int], ...] = ()
    emptied: tuple[int, ...] = ()
    node: int = -1
    """Where the leg is: a shard that does not own the node answers `moved`, also when it knows no such leg."""


class ResolveTxn(Struct, array_like=True, tag=32, frozen=True, gc=False):
    """A participant asks the home shard what became of a transaction: committed, pending or aborted.

    Committed legs of `shard` (the asker) that home has decided about are driven to it again.
    """

    txn: int
    slot: str
    order_no: int
    shard: int = -1


class FollowView(Struct, array_like=True, tag=33, frozen=True, gc=False):
    """Subscribe to the owner's positions and capacity: all of them once, then absolute values of touched ones with seq."""

    shard: int


class ShowDemand(Struct, array_like=True, tag=34, frozen=True, gc=False):
    """What orders of a home wait for, told to all who own stock. Each row is all of one order.

    begins, ends = the first and last message of a full telling: what is not told in between waits no more.
    said = (epoch, number): what has a smaller one was overtaken. (A correlation id would not do: links number frames of their own.)
    """

    shard: int
    said: tuple[int, int]
    rows: tuple[DemandRow, ...]
    begins: bool = False
    ends: bool = False


class TakeTurn(Struct, array_like=True, tag=35, frozen=True, gc=False):
    """An owner of stock lets an order of another home try before those behind it; answered with TurnOver when it has.

    rows = (item, node, units that are free for this order, what is kept for it included).
    """

    order_no: int
    rows: tuple[tuple[int, int, int], ...]


class ListDemand(Struct, array_like=True, tag=40, frozen=True, gc=False):
    """Units that wait at this home shard, foremost first, after a place (rank, order number, demand number).

    sku, state (parked, partial) and reason narrow it; channels: only orders of these; None = all.
    """

    sku: str | None = None
    state: str | None = None
    reason: str | None = None
    channels: tuple[str, ...] | None = None
    after: tuple[int, int, int] | None = None
    limit: int = 100


class CancelDemand(Struct, array_like=True, tag=41, frozen=True, gc=False):
    """Give up the waiting units of one line."""

    slot: str
    order_no: int
    no: int
    reason: str = ""
    key_hash: int = 0
    fingerprint: int = 0
    key_ms: int = 0


class PrioritiseDemand(Struct, array_like=True, tag=42, frozen=True, gc=False):
    """Another priority for the waiting units of one line."""

    slot: str
    order_no: int
    no: int
    priority: int
    key_hash: int = 0
    fingerprint: int = 0
    key_ms: int = 0


class ReadDemandLog(Struct, array_like=True, tag=43, frozen=True, gc=False):
    """What was refused, quoted, parked and served after waiting, oldest first, after a number of the log."""

    after: int = 0
    limit: int = 1_000


class ListShort(Struct, array_like=True, tag=44, frozen=True, gc=False):
    """This shard's positions that promised more than they have, with their unreleased legs, by node and item after a key."""

    node_id: str | None = None
    after: int = -1
    """node << 32 | item"""
    limit: int = 100


class FindShortLegs(Struct, array_like=True, tag=45, frozen=True, gc=False):
    """An owner asks a home: which of its unreleased legs at a node could give up some units of an item, and in which order?"""

    node: int
    item: int
    units: int


class ResourceLeg(Struct, array_like=True, tag=46, frozen=True, gc=False):
    """An owner asks a home to serve units of a leg from elsewhere, because the node does not have them.

    had = units of the item that the leg has, as the owner knows it: where that is no longer so, nothing happens (so that a
    repeat does nothing).
    """

    slot: str
    order_no: int
    leg_no: int
    node: int
    item: int
    units: int
    had: int


class QuoteOrder(Struct, array_like=True, tag=50, frozen=True, gc=False):
    """Delivery options of an order: its plan at each service level that is priced in its currency. Nothing is held or journaled.

    levels_max: most levels that are planned, the order's own first. pickups_max: most nodes within radius_km of the destination at
    which its shipped lines are planned to be collected instead.
    """

    order: OrderRequest
    levels_max: int = 16
    after: str | None = None
    pickups_max: int = 0
    radius_km: int = 0


class Quoted(Struct, array_like=True, frozen=True, gc=False):
    """What a quote promised: the terms that an order placed with it must keep. Instants in ms; 0 = no date was promised."""

    option: str = ""
    made_at_ms: int = 0
    valid_until_ms: int = 0
    ship_by_ms: int = 0
    deliver_by_ms: int = 0
    cost_minor: int = 0
    unfilled_units: int = 0


class PlaceQuoted(PlaceOrder, array_like=True, tag=51, frozen=True, gc=False):
    """PlaceOrder that keeps what a quote promised, or is refused (`quote_changed`). The order's service is the quoted option's."""

    quoted: Quoted = Quoted()


class FollowStock(Struct, array_like=True, tag=80, frozen=True, gc=False):
    """A gateway subscribes to this shard's own positions: a sign that it begins, then what closed entries touched.

    The picture itself is asked for by GetStockPage, over the same connection and after this.
    """


class GetStockPage(Struct, array_like=True, tag=81, frozen=True, gc=False):
    """Own positions by (item, node) after a key (item << 32 | node; -1 = from the first), at most `limit` looked at.

    What is due to followers is pushed first, so that `limit` 0 asks for nothing but that.
    """

    after: int = -1
    limit: int = 0


class FindItems(Struct, array_like=True, tag=82, frozen=True, gc=False):
    """Indexes of SKUs, and SKUs of indexes."""

    skus: tuple[str, ...] = ()
    indexes: tuple[int, ...] = ()


class FindStores(Struct, array_like=True, tag=60, frozen=True, gc=False):
    """Own nodes that hand goods to customers (`method` pickup or ship_to_store) near a place, nearest first.

    wanted = (SKU, units); lat and lon go before the postal code; after = (metres, node id) of the last one seen;
    in_stock = only those that have all that is wanted.
    """

    wanted: tuple[tuple[str, int], ...]
    country: str
    postal_code: str = ""
    lat: float | None = None
    lon: float | None = None
    radius_km: int = 50
    method: int = 1
    channel: str | None = None
    in_stock: bool = False
    after: tuple[int, str] = (-1, "")
    limit: int = 20


class PutInbound(Struct, array_like=True, tag=61, frozen=True, gc=False):
    """State what is on its way to a node: (inbound id, SKU, units expected, expected at in ms). A known id is replaced."""

    node_id: str
    rows: tuple[tuple[str, str, int, int], ...]
    key_hash: int = 0
    fingerprint: int = 0
    key_ms: int = 0


class CancelInbound(Struct, array_like=True, tag=62, frozen=True, gc=False):
    """What was on its way does not come."""

    node_id: str
    inbound_id: str
    key_hash: int = 0
    fingerprint: int = 0
    key_ms: int = 0


class ReceiveInbound(Struct, array_like=True, tag=63, frozen=True, gc=False):
    """Units have come; None = all that are expected. is_last = the rest is not expected any more."""

    node_id: str
    inbound_id: str
    quantity: int | None = None
    is_last: bool = False
    key_hash: int = 0
    fingerprint: int = 0
    key_ms: int = 0


class ListInbound(Struct, array_like=True, tag=64, frozen=True, gc=False):
    """What is on its way to own nodes, by (expected at, node id, inbound id) after a place; of each SKU named, what is free and waits.

    selling = only to nodes that serve the method and the channel; before_ms = only what is expected before then, 0 = all.
    """

    skus: tuple[str, ...] = ()
    node_id: str | None = None
    channel: str | None = None
    method: int = 0
    selling: bool = False
    before_ms: int = 0
    after: tuple[int, str, str] = (-1, "", "")
    limit: int = 100


class EditOrder(Struct, array_like=True, tag=55, frozen=True, gc=False):
    """Change an open order and plan it again, atomically: its units that are not released yet count as free.

    lines = (line id, units wanted in all, what has left included); removed = line ids; added = new lines. on_short (OnShort)
    is about added units only, None = the order's. if_version = the record's version that the caller saw.
    """

    slot: str
    order_no: int
    ship_to: Destination | None = None
    service: str | None = None
    lines: tuple[tuple[str, int], ...] = ()
    added: tuple[LineRequest, ...] = ()
    removed: tuple[str, ...] = ()
    on_short: int | None = None
    if_version: int | None = None
    reason: str = ""
    key_hash: int = 0
    fingerprint: int = 0
    of_hold: bool | None = None
    """Whether the caller knows it as a hold; None = either will do."""
    key_ms: int = 0


class GetNodeWork(Struct, array_like=True, tag=56, frozen=True, gc=False):
    """What a node has still to do: units of its stock (its owner says), and legs of this home's orders by state."""

    node_id: str


Command = (
    PlaceOrder
    | CommitHold
    | ExtendHold
    | ReleaseHold
    | CancelOrder
    | ClearHolds
    | ActOnLeg
    | GetOrder
    | ListLegs
    | AdjustStock
    | CountStock
    | SetPosition
    | GetAvailability
    | GetDecision
    | ExplainNode
    | GetStatus
    | DumpPart
    | FindKey
    | PutConfig
    | GetConfig
    | ListConfig
    | FollowConfig
    | TryLegs
    | DriveLeg
    | ResolveTxn
    | FollowView
    | ShowDemand
    | TakeTurn
    | ListDemand
    | CancelDemand
    | PrioritiseDemand
    | ReadDemandLog
    | ListShort
    | FindShortLegs
    | ResourceLeg
    | BeginMove
    | FinishMove
    | AbandonMove
    | OfferPart
    | ShowNode
    | AddShard
    | AdmitShard
    | EndShard
    | ListParts
    | EditOrder
    | GetNodeWork
    | QuoteOrder
    | PlaceQuoted
    | FollowStock
    | GetStockPage
    | FindItems
    | FindStores
    | PutInbound
    | CancelInbound
    | ReceiveInbound
    | ListInbound
)

FINISHING = (
    CommitHold,
    ReleaseHold,
    CancelOrder,
    ClearHolds,
    ActOnLeg,
    DriveLeg,
    ResolveTxn,
    CancelDemand,
    PrioritiseDemand,
    ResourceLeg,
    OfferPart,
    EditOrder,
    ShowDemand,
    TakeTurn,
    FinishMove,
    AbandonMove,
)
"""Commands that free or settle stock, or open a part again that moves: they go before new work."""
READS = (
    GetOrder,
    ListLegs,
    GetAvailability,
    GetDecision,
    ExplainNode,
    GetStatus,
    DumpPart,
    GetConfig,
    ListConfig,
    ListDemand,
    ReadDemandLog,
    ListShort,
    FindShortLegs,
    ShowNode,
    ListParts,
    GetNodeWork,
    QuoteOrder,
    FollowStock,
    GetStockPage,
    FindItems,
    FindStores,
    ListInbound,
)
