"""What the fields of bodies and answers mean: the texts below their definitions, and this table where a name says too little.

A key is `Shape.field`, or `field` where it means the same in every shape.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import msgspec.inspect as mi

from engine.domain.orders import LegState

_ORDER_STATES = (
    "held, released or expired while it is a reservation; then allocated, partially_allocated (some units wait), parked (all wait), "
    "shipped (all legs have left), delivered or cancelled. An order of which a part has left is still `allocated`: look at its legs."
)
_LEG_STATES = ", ".join(state.name.lower() for state in LegState) + "."
_REASONS = (
    "out_of_stock: too few units are left; no_node: no node that has them may serve the line, or no carrier goes there; max_legs: it would take "
    "more legs than allowed; capacity: no node has room in the days ahead; short: its node lacked the units; rejected: its node refused."
)
FIELD_HELP = {
    "Allocation.state": _ORDER_STATES,
    "Leg.state": _LEG_STATES,
    "OrderLeg.state": _LEG_STATES,
    "Leg.lines": "Units still in the leg: none once it is cancelled or rejected. Components of a kit have the line id of the kit's line.",
    "OrderLeg.lines": "Units still in the leg. Components of a kit have the line id of the kit's line.",
    "expected_on_hand": "Book only if so many units are on hand now, movements before it in `moves` counted in; else nothing of the request is "
    "booked (`stock_changed`).",
    "Movement.kind": "As it was booked (received, damaged, ...); counted; what an order did: reserved, allocated, committed, released, "
    "expired, cancelled, ...; leg_held, leg_allocated, leg_shipped, ... of orders that live at another shard (`order_id` may be null there); "
    "leg_shifted: units went from one leg of an order to another.",
    "ReasonGiven.kind": "What was done: leg_released, leg_accepted, leg_picked, leg_delivered, leg_rejected, cancelled, edited, holds_cleared or "
    "demand_cancelled.",
    "Allocation.decision_id": "The newest decision; `GET /v1/decisions?order_id=` lists all of them.",
    "HeldOrder.decision_id": "The newest decision; `GET /v1/decisions?order_id=` lists all of them.",
    "deliver_by": "The end of the last day on which it may arrive, local to the node. Show the date that this instant has in the node's "
    "`time_zone`; in UTC that is often the next day.",
    "ship_by": "When it leaves the node at the latest.",
    "rung": "How the plan was found: separable, exact, time_boxed or greedy. No matter to a shop.",
    "score": "What was minimised: the sum of the four kinds of money.",
    "splittable": "Whether units of the line may leave in several parts.",
    "hold_reasons": "Names of your own, such as `fraud`: while one is left no leg is released (`/clear-holds`).",
    "priority": "Higher first, when units are short.",
    "on_short": "refuse: all or nothing; partial: what there is, the rest waits if anything was served; park: what is not there waits. "
    "Left out: the channel's.",
    "paid": "A paid order is never refused for want of stock: what cannot be served waits.",
    "promised_by": "What the customer was told: later costs money in the plan.",
    "ship_after": "No leg leaves before it.",
    "max_legs": "Legs that each way of delivery may have at the most: what is shipped, and what is collected at one store, by method.",
    "unit_price_minor": "What a day in transit costs is measured by it; nothing is charged.",
    "Order.tags": "Of your own; the engine keeps them.",
    "OrderLine.tags": "Handling tags beside those of the item, for every plan that is ever made for the line.",
    "Item.tags": "Handling tags that a node must offer and a carrier service carry: hazmat, cold, ...",
    "Item.components": "Makes it a kit: SKUs and how many of each are in one. A kit has no stock of its own.",
    "Item.ship_alone": "Never in one parcel with anything else.",
    "Item.margin_bp": "Basis points of its value that are earned: 3,000 = 30 %.",
    "Item.tracked": "false: always there, nobody counts it (gift wrap, a warranty).",
    "CarrierService.countries": "Countries that it delivers to; null = all.",
    "CarrierService.band_km": "Upper bounds of the zones by distance, ascending.",
    "CarrierService.divisor_mm3_per_g": "A parcel weighs at least its volume over this: 5,000 mm3 count as a gram.",
    "CarrierService.delivery_days": "Weekdays on which it delivers, 0 = Monday.",
    "CarrierService.oversize_g": "From this weight on a parcel pays the oversize price.",
    "RateCard.break_g": "Upper bounds of weight, ascending; heavier than the last is not carried.",
    "RateCard.fuel_bp": "Added to the price, basis points.",
    "Node.cut_off": "Local time until when an order leaves on the same day.",
    "Node.cut_off_by_service": "The same, by id of a carrier service, where it is another time.",
    "Node.processing_minutes": "From the order until it can leave.",
    "Node.max_feed_age_s": "The newest count of the node, of whatever feed, is stale when it is older than this; null = never.",
    "Node.on_stale": "What happens when the node's newest count is stale, in plans and in availability: serve as before, keep twice as much safety (one unit at least), or exclude the node.",
    "Node.safety_by_method": "Units kept back beyond a position's own safety, by method.",
    "Node.kind": "A word for people; what a node does is in `offers`.",
    "Channel.on_short": "What an order gets that does not say it itself.",
    "Version.version": "Of the program.",
    "Channel.promise_days": "Business days promised by service level, beyond which a day costs `late_day_minor`.",
    "short_by": "Units by which more is promised than there is.",
    "version": "Goes up with every change; the number in the ETag.",
    "stock_effect": "none; zero_until_count: the shelf is empty; write_off: the units are gone.",
    "unfilled": "Units that no leg covers.",
    "Unfilled.reason": _REASONS,
    "QuoteUnfilled.reason": _REASONS,
    "DemandLine.reason": _REASONS,
    "DemandLine.state": "parked, or partial where the order was to be served as far as possible.",
    "ShipTo.country": "Two letters.",
    "ShipTo.postal_code": "Says where it is: US ZIP codes; in other countries the postal areas in which you have nodes or channel centres. "
    "Elsewhere send `lat` and `lon`.",
    "ShipTo.residential": "Whether rate cards add their price for a home.",
    "Count.source": "Who counts; its counts are numbered for each node by itself.",
    "Count.source_seq": "Higher with every count of this source at this node.",
    "Count.as_of": "When it was counted: at most two days ago, and at most a minute ahead of the engine's clock.",
    "Count.rows": "A SKU that is not known refuses the whole count.",
    "Commit.ship_to": "Where it goes after all; planned again where that differs, or refused, and then it is still held.",
    "customer_id": "Yours; orders can be listed by it.",
}


def describe(components: dict[str, Any], types: Iterable[Any]) -> None:
    """Put the texts into schemas that have none."""
    for struct in _structs(types):
        schema = components.get(struct.__name__)
        if schema is None:
            continue
        texts = _said(struct)
        for name, field in schema.get("properties", {}).items():
            text = FIELD_HELP.get(f"{struct.__name__}.{name}") or texts.get(name) or FIELD_HELP.get(name)
            if text and not field.get("description"):
                field["description"] = text


def _structs(types: Iterable[Any]) -> Iterator[type]:
    """Every struct within some types."""
    seen: dict[type, None] = {}
    stack = list(mi.multi_type_info(types))
    while stack:
        found = stack.pop()
        if isinstance(found, mi.StructType) and found.cls not in seen:
            seen[found.cls] = None
            stack += [field.type for field in found.fields]
        elif isinstance(found, mi.UnionType):
            stack += found.types
        elif isinstance(found, mi.DictType):
            stack.append(found.value_type)
        elif isinstance(found, mi.TupleType):
            stack += found.item_types
        elif isinstance(found, mi.Metadata):
            stack.append(found.type)
        elif isinstance(found, mi.CollectionType):
            stack.append(found.item_type)
    return iter(seen)


@cache
def _said(struct: type) -> dict[str, str]:
    """Texts that stand below fields, of a struct and those that it is made from."""
    out: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if not base.__module__.startswith(("engine.", "gateway.")):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                out[field.target.id] = " ".join(text.value.value.split())
    return out
