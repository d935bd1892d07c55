"""Quotes as the API takes them and shows them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from gateway.orders.schemas import CostParts, LegLine, Order, PlainId
from gateway.schemas import Shown


class QuoteRequest(Order, kw_only=True):
    """An order to quote: the body of an allocation, of which `order_id` may be left out. Without `ship_to` it is planned for the
    channel's demand centre. `ttl_s`: a shorter validity than the engine's; what is beyond that is cut.
    """

    order_id: PlainId = "quote"
    ttl_s: Annotated[int, Meta(ge=1)] | None = None


class QuoteLeg(Shown):
    """What one node would ship."""

    node_id: str
    lines: list[LegLine]
    carrier: str | None
    service: str | None
    parcels: int
    ship_by: str | None
    deliver_by: str | None
    cost_minor: int


class QuoteUnfilled(Shown):
    """Units of a line that this option leaves out or that would wait for stock, and why."""

    line_id: str
    quantity: int
    reason: str


class QuoteOption(Shown):
    """One way to deliver the order. cost_minor is expected cash; `score` is the sum of all that was weighed."""

    option_id: str
    service: str
    cheapest: bool
    fastest: bool
    best: bool
    """The least score of those that leave the fewest units out: the option of an order that names none."""
    ship_by: str | None
    deliver_by: str | None
    cost_minor: int
    cost_parts: CostParts
    service_minor: int
    policy_minor: int
    opportunity_minor: int
    score: int
    fills_all: bool
    unfilled: list[QuoteUnfilled]
    legs: list[QuoteLeg]
    rung: str


class QuoteFacts(Shown):
    """What the options rest on: the state of a shard at an entry, a version of the configuration, and how far was looked."""

    shard: int
    epoch: int
    seq: int
    config_version: int
    quoted_at: str | None
    services_planned: int
    services_left_out: int
    """Service levels beyond the limit of one quote (QM_QUOTE_OPTIONS_MAX)."""


class Quote(Shown):
    """Delivery options, cheapest first. Nothing is held; `quote_id` in an order keeps what one of them promised until then."""

    quote_id: str
    valid_until: str | None
    currency: str
    channel: str
    options: list[QuoteOption]
    decision: QuoteFacts
    token: str
