"""Bodies and answers that methods put together and take apart; callers never see them."""

from __future__ import annotations

from datetime import datetime

import msgspec

from quartermaster_client.base import Answer, CountScope, OnShort, Request, StockEffect
from quartermaster_client.models import Allocation, LineQuantity, Order, OrderLine, ShipTo
from quartermaster_client.models_stock import CountRow, Move, PositionSettings


class ReserveBody(Order, kw_only=True):
    ttl_s: int = 900


class BatchOrder(Order, kw_only=True):
    idempotency_key: str


class PickupOptions(Request, kw_only=True):
    limit: int = 3
    radius_km: int = 50


class QuoteBody(Order, kw_only=True):
    ttl_s: int | None = None
    pickup: PickupOptions | None = None


class CommitBody(Request, kw_only=True):
    lines: list[LineQuantity] | None = None
    ship_to: ShipTo | None = None


class ExtendBody(Request, kw_only=True):
    ttl_s: int


class CancelBody(Request, kw_only=True):
    lines: list[LineQuantity] | None = None
    reason: str = ""


class ReplanBody(Request, kw_only=True):
    ship_to: ShipTo | None = None
    service: str | None = None
    lines: list[LineQuantity] = []
    add_lines: list[OrderLine] = []
    remove_lines: list[str] = []
    on_short: OnShort | None = None
    reason: str = ""


class ClearHoldsBody(Request, kw_only=True):
    reasons: list[str] | None = None
    reason: str = ""


class StepBody(Request, kw_only=True):
    reason: str = ""


class RejectBody(Request, kw_only=True):
    reason: str
    lines: list[LineQuantity] | None = None
    stock_effect: StockEffect = "none"


class ShipBody(Request, kw_only=True):
    lines: list[LineQuantity] | None = None
    parcels: int | None = None
    tracking: tuple[str, ...] = ()
    actual_cost_minor: int | None = None


class AdjustmentBody(Request, kw_only=True):
    node_id: str
    moves: list[Move]


class CountBody(Request, kw_only=True):
    node_id: str
    source: str
    as_of: datetime
    source_seq: int
    rows: list[CountRow]
    scope: CountScope = "delta"


class PositionsBody(Request, kw_only=True):
    node_id: str
    positions: list[PositionSettings]


class Page(Answer, kw_only=True, frozen=True):
    """A page of configuration documents."""

    data: list[msgspec.Raw]
    next_cursor: str | None
    has_more: bool


class BatchItem(Answer, kw_only=True, frozen=True):
    status: int
    body: Allocation | None = None
    problem: dict[str, object] | None = None
    replayed: bool = False


class BatchAnswer(Answer, kw_only=True, frozen=True):
    results: list[BatchItem]
