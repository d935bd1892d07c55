"""Quotes: delivery options of an order before it is one."""

from __future__ import annotations

from datetime import datetime

from quartermaster_client.base import Answer
from quartermaster_client.models import CostParts, LegLine


class QuoteLeg(Answer, kw_only=True, frozen=True):
    """What one node would ship."""

    node_id: str
    lines: list[LegLine]
    carrier: str | None
    service: str | None
    parcels: int
    ship_by: datetime | None
    deliver_by: datetime | None
    cost_minor: int


class QuoteUnfilled(Answer, kw_only=True, frozen=True):
    """Units of a line that an option leaves out or that would wait for stock, and why."""

    line_id: str
    quantity: int
    reason: str


class QuoteOption(Answer, kw_only=True, frozen=True):
    """One way to deliver the order. `cost_minor` is expected cash, `score` the sum of all that was weighed."""

    option_id: str
    service: str
    cheapest: bool
    fastest: bool
    best: bool
    ship_by: datetime | None
    deliver_by: datetime | None
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
    pickup_node_id: str | None = None
    """Of an option to collect: the order that takes it up has its lines collected there (`collected_at`)."""
    distance_km: float | None = None


class QuoteFacts(Answer, kw_only=True, frozen=True):
    """What the options rest on: an entry of a shard's journal, a version of the configuration, how far was looked."""

    shard: int
    epoch: int
    seq: int
    config_version: int
    quoted_at: datetime | None
    services_planned: int
    services_left_out: int


class Quote(Answer, kw_only=True, frozen=True):
    """Delivery options, cheapest first. Nothing is held: `quote_id` in an order keeps what one of them promised, until then."""

    quote_id: str
    valid_until: datetime | None
    currency: str
    channel: str
    options: list[QuoteOption]
    decision: QuoteFacts
    token: str

    @property
    def cheapest(self) -> QuoteOption:
        return next(option for option in self.options if option.cheapest)

    @property
    def fastest(self) -> QuoteOption:
        return next(option for option in self.options if option.fastest)

    @property
    def best(self) -> QuoteOption:
        """What is offered at the least score; with stores among the options it may be one of them."""
        return next(option for option in self.options if option.best)
