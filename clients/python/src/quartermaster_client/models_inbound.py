"""What is on its way to nodes, and what it will make available."""

from __future__ import annotations

from datetime import datetime

from quartermaster_client.base import Answer, Request
from quartermaster_client.models_stock import AsOf


class InboundRow(Request, kw_only=True):
    """Units of a SKU that are expected at an instant. `inbound_id` is yours."""

    inbound_id: str
    sku: str
    quantity: int
    expected_at: datetime


class Inbound(Answer, kw_only=True, frozen=True):
    """Units that are still expected; 0 = the record is gone. `is_late`: the instant has passed."""

    node_id: str
    inbound_id: str
    sku: str
    quantity: int
    expected_at: datetime
    is_late: bool


class InboundPage(Answer, kw_only=True, frozen=True):
    """A page, next first. `next_cursor` goes into `cursor` of the next call."""

    data: list[Inbound]
    next_cursor: str | None
    has_more: bool
    as_of: list[AsOf]


class DatedStep(Answer, kw_only=True, frozen=True):
    """What a new order could be promised from an instant on, and the receipts that make it so."""

    at: datetime
    units: int
    inbound_ids: list[str]
    available_to_promise: int


class DatedSku(Answer, kw_only=True, frozen=True):
    """`available_to_promise` now; `waiting_units`: what orders wait for and get first; `late_units`: what should have come."""

    sku: str
    available_to_promise: int
    waiting_units: int
    late_units: int
    steps: list[DatedStep]

    def first_for(self, units: int) -> datetime | None:
        """From when so many units could be promised; None = nothing that is expected makes it so. Now is not among the answers."""
        return next((step.at for step in self.steps if step.available_to_promise >= units), None)


class InboundStated(Answer, kw_only=True, frozen=True):
    data: list[Inbound]
    as_of: AsOf | None
    token: str


class DatedAvailability(Answer, kw_only=True, frozen=True):
    data: list[DatedSku]
    as_of: list[AsOf]
    token: str


class InboundBody(Request, kw_only=True):
    node_id: str
    inbound: list[InboundRow]


class InboundCancelBody(Request, kw_only=True):
    node_id: str
    inbound_id: str


class InboundReceiptBody(Request, kw_only=True):
    node_id: str
    inbound_id: str
    quantity: int | None = None
    is_last: bool = False
