"""Lists of the past: what they are asked by, and what they show."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta

from gateway.legs.schemas import LegStateName, OrderLeg
from gateway.orders.schemas import Allocation
from gateway.schemas import Body, Id, Limit, Page, ShortText, Shown

Cursor = Annotated[str, Meta(max_length=200)]
Instant = Annotated[datetime, Meta(tz=True)]
Sort = Literal["-opened_at", "opened_at"]
AllocationStateName = Literal["allocated", "partially_allocated", "parked", "shipped", "delivered", "cancelled"]
ExceptionKind = Literal["duplicate_order"]
RungName = Literal["separable", "exact", "time_boxed", "greedy"]


class Listed(Body, kw_only=True):
    """`opened_from` (included) and `opened_to` (not included) bound the instant at which the order was opened."""

    order_id: Id | None = None
    customer_id: Id | None = None
    sku: Id | None = None
    node_id: Id | None = None
    channel: Id | None = None
    opened_from: Instant | None = None
    opened_to: Instant | None = None
    sort: Sort = "-opened_at"
    limit: Limit = 100
    cursor: Cursor | None = None


class AllocationsQuery(Listed, kw_only=True):
    state: AllocationStateName | None = None


class LegHistoryQuery(Listed, kw_only=True):
    state: LegStateName | None = None


class DecisionsQuery(Listed, kw_only=True):
    rung: RungName | None = None


class ExceptionsQuery(Body, kw_only=True):
    """`opened_from` (included) and `opened_to` (not included) bound the instant at which the later order was opened."""

    kind: ExceptionKind | None = None
    is_open: bool | None = None
    order_id: Id | None = None
    channel: Id | None = None
    opened_from: Instant | None = None
    opened_to: Instant | None = None
    sort: Sort = "-opened_at"
    limit: Limit = 100
    cursor: Cursor | None = None


class MovementsQuery(Body, kw_only=True):
    """One position. `at_from` (included) and `at_to` (not included) bound the instant of the movement."""

    node_id: Id
    sku: Id
    kind: ShortText | None = None
    at_from: Instant | None = None
    at_to: Instant | None = None
    limit: Limit = 100
    cursor: Cursor | None = None


class ReasonsQuery(Body, kw_only=True):
    limit: Limit = 100
    cursor: Cursor | None = None


class IndexAsOf(Shown):
    """Up to which entry of a shard the list is true. `complete` = the index knows its whole past."""

    shard: str
    epoch: int
    seq: int
    at: str | None
    complete: bool


class ListPage(Page):
    """A page, and what it is true as of: an order changed since then may show its older state."""

    as_of: list[IndexAsOf]


class AllocationsPage(ListPage):
    data: list[Allocation]


class LegHistoryPage(ListPage):
    data: list[OrderLeg]


class DecisionListed(Shown):
    """A decision in short. `number` 0 is the first of its order."""

    decision_id: str
    allocation_id: str
    order_id: str
    channel: str
    number: int
    rung: str
    decided_at: str | None


class DecisionsPage(ListPage):
    data: list[DecisionListed]


class Movement(Shown):
    """One change of a position, and what it held after it. `entry` = shard and sequence of the journal entry behind it. The balance is null where
    the index does not know the position's whole past."""

    at: str | None
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


class MovementsPage(ListPage):
    data: list[Movement]


class ReasonGiven(Shown):
    """Why an order changed, in the words of who asked for it. `leg_id` is null where it is said of the order; `entry` as in movements."""

    at: str | None
    kind: str
    leg_id: str | None
    reason: str
    entry: str


class ReasonsPage(ListPage):
    data: list[ReasonGiven]


class ExceptionOrder(Shown):
    """One of the orders that an exception is about. `ended_at` is null while it is open. Exactly one of the two ids is there: an order
    that is not committed is a reservation."""

    allocation_id: str | None
    reservation_id: str | None
    state: str
    opened_at: str | None
    ended_at: str | None


class ExceptionListed(Shown):
    """`order` was opened while `first` was open, in another slot, under the same `order_id`. `is_open` = both are open still: look at them."""

    kind: str
    order_id: str
    channel: str
    is_open: bool
    order: ExceptionOrder
    first: ExceptionOrder


class ExceptionsPage(ListPage):
    data: list[ExceptionListed]
