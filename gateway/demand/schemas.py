"""Waiting demand as operators and forecasts take it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from engine.domain.ids import OrderRef, public_id
from engine.domain.replies import DemandNote, DemandView
from gateway.schemas import Body, Id, Limit, Reason, Shown
from gateway.times import iso

Cursor = Annotated[str, Meta(max_length=4_000)]
ReasonCode = Annotated[str, Meta(pattern=r"^[a-z_]{1,32}$(?!\n)")]


class DemandQuery(Body, kw_only=True):
    """`sku`, `channel`, `state` and `reason` narrow the list; a kit is found under each of its components."""

    sku: Id | None = None
    channel: Id | None = None
    state: Literal["parked", "partial"] | None = None
    reason: ReasonCode | None = None
    limit: Limit = 100
    cursor: Cursor | None = None


class LogQuery(Body, kw_only=True):
    limit: Limit = 100
    cursor: Cursor | None = None


class CancelDemandBody(Body, kw_only=True):
    """`reason` is free text."""

    reason: Reason = ""


class Prioritise(Body, kw_only=True):
    """A level is worth a day of waiting."""

    priority: Annotated[int, Meta(ge=0, le=1_000)]


class DemandLine(Shown):
    """Units of one line that no node covers yet. `state`: parked, or partial where the order was to be served as far as possible.

    `ahead`: orders, of all home shards, that wait for the same item and come first. `next_try_at` null: planned again when
    something that may serve it comes back. `cancel_at` null: it waits without an end.
    """

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
    since: str
    cancel_at: str | None
    next_try_at: str | None


class DemandPage(Shown):
    data: list[DemandLine]
    next_cursor: str | None
    has_more: bool


class Note(Shown):
    """One thing that happened to demand. `region` is the bundle of destinations; `waited_s` goes with served."""

    at: str
    outcome: str
    sku: str
    channel: str
    region: str
    quantity: int
    waited_s: int


class LogPage(Shown):
    """`next_cursor` always continues the log, also from its end. `lost`: notes between the cursor and this page are gone."""

    data: list[Note]
    next_cursor: str
    has_more: bool
    lost: bool


def demand_line(view: DemandView) -> DemandLine:
    ref = OrderRef(view.slot, view.order_no)
    return DemandLine(
        public_id("dem", ref, view.no),
        public_id("alc", ref),
        view.order_id,
        view.line_id,
        view.sku,
        view.quantity,
        view.state,
        view.reason,
        view.priority,
        view.ahead,
        view.channel,
        view.customer_id,
        str(iso(view.since_ms)),
        iso(view.cancel_at_ms),
        iso(view.next_try_ms),
    )


def note_shown(note: DemandNote) -> Note:
    return Note(
        str(iso(note.at_ms)),
        note.outcome,
        note.sku,
        note.channel,
        note.slot,
        note.quantity,
        note.waited_ms // 1_000,
    )
