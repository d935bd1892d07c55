"""Lists, their entries, and which state of which shard they show."""

from __future__ import annotations

from datetime import datetime
from typing import Generic, TypeVar

from quartermaster_client.base import Answer, Request
from quartermaster_client.models_stock import Position

T = TypeVar("T")


class IndexAsOf(Answer, kw_only=True, frozen=True):
    """How far the index behind a list has followed a shard. `complete`: nothing older is missing."""

    shard: str
    epoch: int
    seq: int
    at: datetime | None
    complete: bool


class ListPage(Answer, Generic[T], kw_only=True, frozen=True):
    """A page. `next_cursor` goes into `cursor` of the next call; `as_of` is empty where the shards themselves answered."""

    data: list[T]
    next_cursor: str | None
    has_more: bool
    as_of: list[IndexAsOf] = []


class DecisionListed(Answer, kw_only=True, frozen=True):
    decision_id: str
    allocation_id: str
    order_id: str
    channel: str
    number: int
    rung: str
    decided_at: datetime | None


class DemandLine(Answer, kw_only=True, frozen=True):
    """Units of a line that wait for stock. `ahead`: orders that wait for the same item and are served before it."""

    demand_id: str
    allocation_id: str
    order_id: str
    line_id: str
    sku: str
    quantity: int
    state: str
    reason: str
    priority: int
    ahead: int
    channel: str
    customer_id: str | None
    since: datetime
    cancel_at: datetime | None
    next_try_at: datetime | None


class Note(Answer, kw_only=True, frozen=True):
    """One entry of the demand log: what was asked for, and what became of it."""

    at: datetime
    outcome: str
    sku: str
    channel: str
    region: str
    quantity: int
    waited_s: int


class DemandLog(Answer, kw_only=True, frozen=True):
    """A page of the demand log. `lost`: entries before this page are gone."""

    data: list[Note]
    next_cursor: str
    has_more: bool
    lost: bool


class ExceptionOrder(Answer, kw_only=True, frozen=True):
    """One of the orders of an exception; `ended_at` is None while it is open. An order that is not committed has a `reservation_id`."""

    allocation_id: str | None
    reservation_id: str | None
    state: str
    opened_at: datetime
    ended_at: datetime | None


class ExceptionListed(Answer, kw_only=True, frozen=True):
    """`order` was opened while `first` was open under the same `order_id`. `is_open`: both are open still, somebody must decide."""

    kind: str
    order_id: str
    channel: str
    is_open: bool
    order: ExceptionOrder
    first: ExceptionOrder


class Movement(Answer, kw_only=True, frozen=True):
    """One change of a position, and its balance afterwards where that is known."""

    at: datetime | None
    kind: str
    on_hand: int
    held: int
    allocated: int
    balance_on_hand: int | None
    balance_held: int | None
    balance_allocated: int | None
    order_id: str | None
    allocation_id: str | None
    note: str | None
    entry: str


class ReasonGiven(Answer, kw_only=True, frozen=True):
    """Why an order changed, in the words of who asked for it; `leg_id` where it is said of one of its legs."""

    at: datetime | None
    kind: str
    leg_id: str | None
    reason: str
    entry: str


class ShortPosition(Answer, kw_only=True, frozen=True):
    """A position that promised more than it has, and its unreleased legs, least urgent first."""

    position: Position
    lacking_units: int
    legs: list[str]


class PrioritiseBody(Request, kw_only=True):
    priority: int


class CancelDemandBody(Request, kw_only=True):
    reason: str = ""
