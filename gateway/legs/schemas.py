"""Legs as node systems take and show them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from engine.domain.ids import OrderRef
from engine.domain.orders import Destination, Method
from engine.domain.replies import LegView
from gateway.orders.schemas import (
    HOLD_STATES,
    METHOD_NAMES,
    Allocation,
    CostParts,
    LegLine,
    Lines,
    MethodName,
    id_tail,
    leg_shown,
    ship_to_shown,
)
from gateway.schemas import Body, Id, Limit, MoneyMinor, Reason, ShipTo, ShortText, Shown
from gateway.times import iso

LegStateName = Literal[
    "held", "allocated", "released", "accepted", "picking", "shipped", "delivered", "cancelled", "rejected"
]


class LegsQuery(Body, kw_only=True):
    node_id: Id
    state: LegStateName | None = None
    limit: Limit = 100
    cursor: Annotated[str, Meta(max_length=200)] | None = None


class Step(Body, kw_only=True):
    """`reason` is free text for whoever reads the order later (`/v1/allocations/{allocation_id}/reasons`)."""

    reason: Reason = ""


class Reject(Body, kw_only=True):
    """What the node will not ship (all of it without `lines`). `stock_effect`: none; zero_until_count (the shelf is empty);
    write_off (the units are gone)."""

    reason: Annotated[Reason, Meta(min_length=1)]
    lines: Lines | None = None
    stock_effect: Literal["none", "zero_until_count", "write_off"] = "none"


class Ship(Body, kw_only=True):
    """What leaves now (all of it without `lines`). The rest stays in the leg; what left becomes a leg of its own."""

    lines: Lines | None = None
    parcels: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    tracking: Annotated[tuple[ShortText, ...], Meta(max_length=100)] = ()
    actual_cost_minor: MoneyMinor | None = None


class OrderLeg(Shown):
    """A leg with the order it belongs to. `allocation_id` is null while the order is only held."""

    leg_id: str
    order_id: str
    allocation_id: str | None
    node_id: str
    state: str
    lines: list[LegLine]
    carrier: str | None
    service: str | None
    parcels: int
    ship_by: str | None
    deliver_by: str | None
    cost_minor: int
    cost_parts: CostParts
    tracking: tuple[str, ...]
    actual_cost_minor: int | None
    ready_at: str | None
    """When the customer can collect it; null = it goes to the door."""
    channel: str
    method: MethodName
    pickup_node_id: str | None
    """The store where the customer collects it: its own goods, or what another node sends there."""
    ship_to: ShipTo | None
    """Where it is sent; null where it goes to a store or nowhere. No name and no street: they are kept under `order_id`."""


class LegAnswer(Shown):
    """The leg after the step, and its order: a rejection or partial shipment changes other legs too."""

    leg: OrderLeg
    allocation: Allocation


class LegPage(Shown):
    data: list[OrderLeg]
    next_cursor: str | None
    has_more: bool


def order_leg(
    ref: OrderRef,
    order_id: str,
    view: LegView,
    *,
    channel: str,
    ship_to: Destination | None,
    order_state: str | None = None,
) -> OrderLeg:
    """ship_to: the order's, which a leg that was released before it changed does not follow."""
    goes_to = (view.ship_to or ship_to) if view.method == Method.SHIP else None
    tail = id_tail(ref.slot, ref.order_no)
    leg = leg_shown(view, tail)
    held = view.state == "held" or order_state in HOLD_STATES
    return OrderLeg(
        leg.leg_id,
        order_id,
        None if held else f"alc_{tail}",
        leg.node_id,
        leg.state,
        leg.lines,
        leg.carrier,
        leg.service,
        leg.parcels,
        leg.ship_by,
        leg.deliver_by,
        leg.cost_minor,
        leg.cost_parts,
        view.tracking,
        view.actual_cost_minor,
        iso(view.ready_at_ms),
        channel,
        METHOD_NAMES[view.method],
        view.pickup_node_id,
        ship_to_shown(goes_to) if goes_to is not None else None,
    )
