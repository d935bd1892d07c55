"""Stock as the API takes and shows it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from engine.domain.replies import StockReply, StockView
from gateway.schemas import (
    INT_MAX,
    UNITS_MAX,
    Body,
    Country,
    Id,
    Latitude,
    Longitude,
    PostalCode,
    Reason,
    Shown,
    SignedQuantity,
)

MOVES_MAX = 1_000
ROWS_MAX = 50_000
SKUS_MAX = 100
MoveKind = Literal[
    "received", "found", "returned", "transferred_in", "damaged", "lost", "sold_in_store", "transferred_out", "adjusted"
]
Units = Annotated[int, Meta(ge=0, le=UNITS_MAX)]


# -- requests -----------------------------------------------------------------------------------------------------


class Move(Body, kw_only=True):
    """One movement. The kind says the sign; only `adjusted` takes a signed quantity."""

    sku: Id
    kind: MoveKind
    quantity: SignedQuantity
    reason: Reason = ""
    expected_on_hand: SignedQuantity | None = None


class Adjustment(Body, kw_only=True):
    """One movement (`sku`, `kind`, `quantity`), or several at once in `moves`, all or none."""

    node_id: Id
    sku: Id | None = None
    kind: MoveKind | None = None
    quantity: SignedQuantity | None = None
    reason: Reason = ""
    expected_on_hand: SignedQuantity | None = None
    moves: Annotated[tuple[Move, ...], Meta(min_length=1, max_length=MOVES_MAX)] | None = None


class CountRow(Body, kw_only=True):
    sku: Id
    quantity: Units


class Count(Body, kw_only=True):
    """What the shelf held as of an instant. `scope`: full (SKUs not listed have none), nonzero (as full, rows of 0 were left
    out), delta (only these). A `source` counts its counts up in `source_seq`; an older one is refused."""

    node_id: Id
    source: Id
    as_of: Annotated[datetime, Meta(tz=True)]
    source_seq: Annotated[int, Meta(ge=0, le=INT_MAX)]
    rows: Annotated[tuple[CountRow, ...], Meta(max_length=ROWS_MAX)]
    scope: Literal["full", "nonzero", "delta"] = "delta"


class PositionSettings(Body, kw_only=True):
    """`safety_units` are never promised; `trust_bp` = share of the count that is trusted, in basis points.

    `supply` uncounted: a supplier ships it whose stock nobody counts; it promises `daily_cap_units` a local day. A field that is
    left out goes to its default; null leaves `supply`, `trust_bp` or `daily_cap_units` as it is.
    """

    sku: Id
    safety_units: Units = 0
    supply: Literal["counted", "trusted", "uncounted"] | None = "counted"
    trust_bp: Annotated[int, Meta(ge=0, le=10_000)] | None = 10_000
    daily_cap_units: Units | None = 0


class Positions(Body, kw_only=True):
    node_id: Id
    positions: Annotated[tuple[PositionSettings, ...], Meta(min_length=1, max_length=10_000)]


class AvailabilityQuery(Body, kw_only=True):
    sku: Annotated[list[Id], Meta(min_length=1, max_length=SKUS_MAX)]
    node_id: Id | None = None
    channel: Id | None = None
    method: Literal["ship", "pickup", "ship_to_store"] = "ship"
    country: Country | None = None
    postal_code: PostalCode | None = None
    lat: Latitude | None = None
    lon: Longitude | None = None
    consistency: Literal["local", "strict"] = "local"


# -- answers ------------------------------------------------------------------------------------------------------


class Position(Shown):
    """Units of one SKU at one node. `short_by` > 0: facts left it with less than was promised, and it sells nothing.

    `node_state`: a node that is not `on` sells nothing either; availability shows it, with 0 to promise, when it is named.
    """

    node_id: str
    sku: str
    on_hand: int
    held: int
    allocated: int
    safety: int
    available_to_promise: int
    short_by: int
    supply: str
    feed_age_s: int | None
    node_state: str
    distance_km: float | UnsetType = UNSET
    """From the destination, where one was named."""


class AsOf(Shown):
    """Which state of a shard an answer shows; `age_ms` = how old it can be by now."""

    shard: int
    epoch: int
    seq: int
    age_ms: int


class Stock(Shown):
    """Positions after a change. `legs_short`: unreleased legs, least urgent first, of positions that are now short.

    Legs of orders that other shards keep are among them as of priority 0, and may be released by now.
    """

    node_id: str
    positions: list[Position]
    legs_short: tuple[str, ...]
    as_of: AsOf
    token: str


class SkuTotal(Shown):
    sku: str
    available_to_promise: int


class Availability(Shown):
    """Positions by SKU and node, or nearest first where a destination was named; the sum of each SKU, and which state of which shard they show."""

    data: list[Position]
    totals: list[SkuTotal]
    as_of: list[AsOf]
    token: str


def position_shown(view: StockView) -> Position:
    return Position(
        view.node_id,
        view.sku,
        view.on_hand,
        view.held,
        view.allocated,
        view.safety,
        view.available_to_promise,
        view.short_by,
        view.supply,
        view.feed_age_s,
        view.node_state,
        round(view.distance_m / 1_000, 1) if view.distance_m >= 0 else UNSET,
    )


def stock_shown(reply: StockReply, node_id: str) -> Stock:
    return Stock(
        node_id,
        [position_shown(view) for view in reply.positions],
        reply.legs_short,
        AsOf(reply.shard, reply.epoch, reply.seq, 0),
        reply.token,
    )
