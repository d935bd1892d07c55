"""Stock, jobs and health, as typed structs."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from quartermaster_client.base import Answer, MoveKind, Request

# -- stock --------------------------------------------------------------------------------------------------------


class Move(Request, kw_only=True):
    """One movement. The kind says the sign; only `adjusted` takes a signed quantity.

    `expected_on_hand`: book only if so many units are on hand now (else Conflict, `stock_changed`, and nothing is booked).
    """

    sku: str
    kind: MoveKind
    quantity: int
    reason: str = ""
    expected_on_hand: int | None = None


class CountRow(Request, kw_only=True):
    sku: str
    quantity: int


class PositionSettings(Request, kw_only=True):
    """`safety_units` are never promised; `trust_bp` = share of the count that is trusted, in basis points.

    `supply` uncounted: a supplier ships it whose stock nobody counts; it promises `daily_cap_units` a local day. A field that is
    left out goes to its default; None leaves `supply`, `trust_bp` or `daily_cap_units` as it is.
    """

    sku: str
    safety_units: int = 0
    supply: Literal["counted", "trusted", "uncounted"] | None = "counted"
    trust_bp: int | None = 10_000
    daily_cap_units: int | None = 0


class Position(Answer, kw_only=True, frozen=True):
    """Units of one SKU at one node. `short_by` > 0: facts left it with less than was promised, and it sells nothing."""

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
    node_state: str = "on"
    distance_km: float | None = None
    """From the destination, where one was named."""


class AsOf(Answer, kw_only=True, frozen=True):
    """Which state of a shard an answer shows; `age_ms` = how old it can be by now."""

    shard: int
    epoch: int
    seq: int
    age_ms: int


class Stock(Answer, kw_only=True, frozen=True):
    """Positions after a change; `legs_short`: unreleased legs of positions that are now short, least urgent first."""

    node_id: str
    positions: list[Position]
    legs_short: tuple[str, ...]
    as_of: AsOf
    token: str


class SkuTotal(Answer, kw_only=True, frozen=True):
    sku: str
    available_to_promise: int


class Availability(Answer, kw_only=True, frozen=True):
    data: list[Position]
    totals: list[SkuTotal]
    as_of: list[AsOf]
    token: str

    def units(self, sku: str) -> int:
        """Units of a SKU that can be promised, over all nodes asked for; 0 where the answer does not name it."""
        return next((total.available_to_promise for total in self.totals if total.sku == sku), 0)


class Store(Answer, kw_only=True, frozen=True):
    """A node that hands goods to customers; hours are local, `days` 0 = Monday. `units` are shown up to 999.

    `has_all`: it has every unit that was asked for; then `ready_at` is when an order that is placed now could be collected.
    """

    node_id: str
    name: str
    distance_km: float
    country: str
    region: str
    postal_code: str
    lat: float
    lon: float
    time_zone: str
    opens: str
    closes: str
    days: tuple[int, ...]
    units: list[SkuTotal]
    has_all: bool
    ready_at: datetime | None


class Stores(Answer, kw_only=True, frozen=True):
    """Stores by distance. `next_cursor` goes into `cursor` of the next call."""

    data: list[Store]
    next_cursor: str | None
    has_more: bool
    as_of: list[AsOf]
    token: str


# -- jobs and health -----------------------------------------------------------------------------------------------------


class JobError(Answer, kw_only=True, frozen=True):
    """A row that was not taken: its line in the file (the header of a CSV is line 1), and what is wrong with it."""

    line: int
    pointer: str
    detail: str


class CountChange(Answer, kw_only=True, frozen=True):
    """What counts would do to positions. `left_out_count` of the `position_count` are none that were listed."""

    position_count: int
    left_out_count: int
    units_added: int
    units_taken: int


class Job(Answer, kw_only=True, frozen=True):
    """An import. `state`: waiting, running, done (perhaps with failed rows) or failed (`problem` says why). `rows_done` counts the
    failed ones too. `would_change` is of a dry run."""

    job_id: str
    kind: str
    state: str
    rows_total: int
    rows_done: int
    rows_failed: int
    bytes_total: int
    errors: list[JobError]
    problem: dict[str, object] | None
    created_at: datetime | None
    finished_at: datetime | None
    would_change: CountChange | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "failed")


class ShardHealth(Answer, kw_only=True, frozen=True):
    shard: str
    state: str
    epoch: int | None
    seq: int | None
    why: str | None


class Ready(Answer, kw_only=True, frozen=True):
    status: str
    reason: str | None
    durability: str
    config_version: int
    shards: list[ShardHealth]


class Version(Answer, kw_only=True, frozen=True):
    version: str
    api: str
    python: str
