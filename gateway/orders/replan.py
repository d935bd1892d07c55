"""The one edit verb: another address, another service, added, changed and removed lines, of an allocation or a reservation."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta
from msgspec.structs import replace

from engine.domain.commands import EditOrder
from engine.domain.orders import LineRequest
from engine.domain.replies import Problem, ProblemItem, Reply
from gateway.call import Answer, Call, Route
from gateway.idempotency import fingerprint
from gateway.orders import examples
from gateway.orders.routes import (
    LINES_LIMIT_MAX,
    VALUES_PER_LINE_MAX,
    foreign,
    ref_of,
    shown_order,
)
from gateway.orders.schemas import (
    ON_SHORT,
    Allocation,
    HeldOrder,
    LineQuantity,
    Order,
    OrderLine,
    PlainId,
    destination,
    line_pairs,
    order_request,
)
from gateway.pipeline import version_of_etag
from gateway.reservations.routes import shown_hold
from gateway.schemas import Body, Decoder, Id, Reason, ShipTo

_REPLAN = b"replan"
_UNITS_OF_LINE = re.compile(r"^/lines/\d+/quantity$")


class Replan(Body, kw_only=True):
    """What is to change of an order; at least one thing. What is not named stays as it is.

    `lines`: the units that a line is to have in all, those that have left included. `remove_lines`: lines of which nothing is
    wanted any more. `on_short` is about units that are added: refuse, or let them wait.
    """

    ship_to: ShipTo | None = None
    service: PlainId | None = None
    lines: Annotated[tuple[LineQuantity, ...], Meta(max_length=LINES_LIMIT_MAX)] = ()
    add_lines: Annotated[list[OrderLine], Meta(max_length=LINES_LIMIT_MAX)] = []
    remove_lines: Annotated[tuple[Id, ...], Meta(max_length=LINES_LIMIT_MAX)] = ()
    on_short: Literal["refuse", "partial", "park"] | None = None
    reason: Reason = ""


_replan = Decoder(Replan)


async def replan_allocation(call: Call) -> Answer | Problem:
    reply = await _replan_order(call, "alc", "allocation")
    return reply if isinstance(reply, Problem) else shown_order(call, reply)


async def replan_reservation(call: Call) -> Answer | Problem:
    reply = await _replan_order(call, "res", "reservation")
    return reply if isinstance(reply, Problem) else shown_hold(call, reply)


async def _replan_order(call: Call, prefix: str, what: str) -> Reply:
    ref = ref_of(call, prefix, what)
    if type(ref) is Problem:
        return ref
    body = _replan.of(call)
    if type(body) is Problem:
        return _said_better(body)
    assert type(body) is Replan
    lines = line_pairs(body.lines)
    if type(lines) is Problem:
        return lines
    ship_to = destination(body.ship_to) if body.ship_to is not None else None
    if type(ship_to) is Problem:
        return ship_to
    added = _added(call, body)
    if type(added) is Problem:
        return added
    refusal = await foreign(call, ref, what)
    if refusal is not None:
        return refusal
    on_short = ON_SHORT[body.on_short] if body.on_short is not None else None
    mark = fingerprint(
        _REPLAN, (ref, ship_to, body.service, lines, added, body.remove_lines, on_short, body.reason, prefix)
    )
    command = EditOrder(
        ref.slot,
        ref.order_no,
        ship_to,
        body.service,
        lines or (),
        added,
        body.remove_lines,
        on_short,
        _seen(call),
        body.reason,
        call.key_hash,
        mark,
        prefix == "res",
        call.key_ms,
    )
    return await call.gateway.ask_slot(ref.slot, command)


def _said_better(found: Problem) -> Problem:
    """Who asks for none of a line means to remove it."""
    fault = found.errors[0] if found.errors else None
    if fault is None or not _UNITS_OF_LINE.match(fault.pointer):
        return found
    detail = f"{fault.detail}; a line of which nothing is wanted goes into remove_lines"
    return replace(found, errors=(replace(fault, detail=detail),))


def _seen(call: Call) -> int | None:
    """The version that If-Match names; None = any will do."""
    header = call.headers.get(b"if-match")
    if header is None or header.strip() == b"*":
        return None
    version = version_of_etag(header)
    return version if version is not None else -1


def _added(call: Call, body: Replan) -> tuple[LineRequest, ...] | Problem:
    """Added lines are checked as those of a new order are."""
    service = body.service if body.service is not None else "-"
    order = Order(order_id="-", channel="-", service=service, lines=body.add_lines)
    request = order_request(order, max_lines=call.gateway.settings.max_lines, needs_destination=False)
    if isinstance(request, Problem):
        return replace(request, errors=tuple([_of_added(item) for item in request.errors]))
    return request.lines


def _of_added(item: ProblemItem) -> ProblemItem:
    """A fault of an order's lines, at the place where an edit has them."""
    facts = dict(item.facts)
    if "first" in facts:
        facts["first"] = _in_added(facts["first"])
    return replace(item, pointer=_in_added(item.pointer), facts=facts)


def _in_added(pointer: str) -> str:
    return pointer.replace("/lines", "/add_lines", 1)


_PROBLEMS = (
    "wrong_state",
    "version_mismatch",
    "out_of_stock",
    "no_capable_node",
    "unknown_sku",
    "unknown_node",
    "unknown_service",
    "unknown_destination",
    "currency_not_priced",
    "too_many_lines",
    "key_reused",
    "dedupe_full",
    "journal_full",
)
_SAYS = (
    "Another address, another service, added, changed and removed lines: in one step, or not at all. The order is planned again "
    "with its own units counted as free; what was covered stays covered, or the answer is a refusal with numbers and the order "
    "is as it was. "
)

ROUTES = [
    Route(
        "POST",
        "/v1/allocations/{allocation_id}/replan",
        "allocate:write",
        replan_allocation,
        "Edit an allocation",
        "allocations",
        _SAYS
        + "Legs that were released stay where they are, go where they went before, and are named in `edit.fixed_legs`; "
        "no line can shrink below them. `edit` also says what it cost before. `If-Match` refuses where the order changed since "
        "that ETag.",
        body=Replan,
        values_max=VALUES_PER_LINE_MAX * LINES_LIMIT_MAX,
        answer=Allocation,
        needs_key=True,
        if_match=True,
        etag=True,
        problems=_PROBLEMS,
        body_examples=examples.REPLANS,
        answer_example=examples.REPLANNED,
    ),
    Route(
        "POST",
        "/v1/reservations/{reservation_id}/replan",
        "allocate:write",
        replan_reservation,
        "Edit a reservation",
        "reservations",
        _SAYS + "It stays held, until the same moment, and within the caps on holds.",
        body=Replan,
        values_max=VALUES_PER_LINE_MAX * LINES_LIMIT_MAX,
        answer=HeldOrder,
        needs_key=True,
        if_match=True,
        etag=True,
        problems=(*_PROBLEMS, "expired", "hold_cap"),
        body_examples=examples.REPLANS,
        answer_example=examples.RESERVATION,
    ),
]
