"""Quotes as the API takes them and shows them."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from gateway.orders.schemas import CostParts, LegLine, Order, PlainId
from gateway.schemas import Body, Shown

PICKUPS_MAX = 10


class PickupOptions(Body, kw_only=True):
    """Stores to offer as options too: at most `limit` within `radius_km` of `ship_to`, nearest first, those that have everything
    before the others. The lines that would be shipped are collected there instead."""

    limit: Annotated[int, Meta(ge=1, le=PICKUPS_MAX)] = 3
    radius_km: Annotated[int, Meta(ge=1, le=20_040)] = 50


class QuoteRequest(Order, kw_only=True):
    """An order to quote: the body of an allocation, of which `order_id` may be left out. Without `ship_to` it is planned for the
    channel's demand centre. `ttl_s`: a shorter validity than the engine's; what is beyond that is cut.
    """

    order_id: PlainId = "quote"
    ttl_s: Annotated[int, Meta(ge=1)] | None = None
    pickup: PickupOptions | None = None
    """Stores to offer beside the service levels; it needs a `ship_to` to be near. Left out: none."""


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
    """One way to deliver the order. cost_minor is expected cash; `score` is the sum of all that was weighed.

    An option to collect is taken up by an order whose shipped lines say so: `method` pickup at its `pickup_node_id`.
    """

    option_id: str
    """The service level; of an option to collect the node."""
    service: str
    cheapest: bool
    fastest: bool
    best: bool
    """The least score of those that leave the fewest units out. An order that names no option gets the best one for its lines."""
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
    pickup_node_id: str | UnsetType = UNSET
    """Where the lines that would be shipped are collected instead; their leg's dates are when they are ready there."""
    distance_km: float | UnsetType = UNSET
    """Of that node from `ship_to`."""


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
