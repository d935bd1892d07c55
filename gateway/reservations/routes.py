"""/v1/reservations: hold units for a while; commit, extend or release the hold."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial

from engine.domain.commands import CommitHold, ExtendHold, GetOrder, PlaceOrder, PlaceQuoted, ReleaseHold
from engine.domain.ids import OrderRef
from engine.domain.orders import OrderRequest
from engine.domain.replies import Opened, OrderView, Problem, Reply
from engine.domain.views import whole_view
from gateway.call import Answer, Ask, Call, Route
from gateway.errors import problem, refuse
from gateway.idempotency import fingerprint
from gateway.key_slots import once
from gateway.orders import examples
from gateway.orders.routes import (
    LINES_LIMIT_MAX,
    PLACING,
    REPLAYED,
    VALUES_PER_LINE_MAX,
    foreign,
    lines_problem,
    place,
    ref_of,
    unexpected,
)
from gateway.orders.schemas import (
    Allocation,
    Commit,
    Extend,
    HeldOrder,
    Reservation,
    allocation_shown,
    destination,
    line_pairs,
    reservation_shown,
)
from gateway.schemas import Decoder

_RESERVE = b"reserve"
_COMMIT = b"commit"
_EXTEND = b"extend"
_RELEASE = b"release"
_reservation = Decoder(Reservation)
_commit = Decoder(Commit)
_extend = Decoder(Extend)
_COMMIT_ALL = Commit()


def _ttl_problem(call: Call, ttl_s: int) -> Problem | None:
    limit = call.gateway.settings.hold_ttl_max_s
    if ttl_s > limit:
        return refuse("invalid_field", "/ttl_s", f"at most {limit} seconds", limit=limit)
    return None


def reserve(call: Call) -> Ask | Problem | Awaitable[Answer | Problem]:
    refusal = lines_problem(call)
    if refusal is not None:
        return refusal
    body = _reservation.of(call)
    if type(body) is Problem:
        return body
    assert type(body) is Reservation
    refusal = _ttl_problem(call, body.ttl_s)
    if refusal is not None:
        return refusal
    ask = place(call, body, route=_RESERVE, ttl_s=body.ttl_s, needs_destination=False)
    if type(ask) is Problem:
        return ask
    command = ask.command
    assert type(command) is PlaceOrder or type(command) is PlaceQuoted
    return once(call, ask._replace(finish=partial(reserved, command.order)))


def reserved(order: OrderRequest, call: Call, reply: Reply) -> Answer | Problem:
    """201 with the hold, the first time and at every repeat. order: what was asked for."""
    if type(reply) is Opened:
        reply = whole_view(order, reply)
    if type(reply) is not OrderView:
        return unexpected(reply)
    shown = reservation_shown(reply)
    location = (b"location", b"/v1/reservations/" + shown.reservation_id.encode())
    if reply.replayed:
        call.gateway.metrics.replayed += 1
        return Answer(shown, 201, (location, REPLAYED), reply.version)
    return Answer(shown, 201, (location,), reply.version)


def shown_hold(call: Call, reply: Reply) -> Answer | Problem:
    """The reservation as it is now; another channel's is none of the key's business."""
    if type(reply) is not OrderView:
        return unexpected(reply)
    if not call.principal.may_channel(reply.channel):
        return problem("not_found", "no such reservation")
    headers = (REPLAYED,) if reply.replayed else ()
    return Answer(reservation_shown(reply), 200, headers, reply.version)


def committed(call: Call, reply: Reply) -> Answer | Problem:
    """The allocation that a hold became."""
    if type(reply) is not OrderView:
        return unexpected(reply)
    if reply.state == "held":
        return problem("wrong_state", "the reservation is still held")
    shown = allocation_shown(reply)
    headers: tuple[tuple[bytes, bytes], ...] = ((b"location", b"/v1/allocations/" + shown.allocation_id.encode()),)
    if reply.replayed:
        call.gateway.metrics.replayed += 1
        headers += (REPLAYED,)
    return Answer(shown, 200, headers, reply.version)


def get_reservation(call: Call) -> Ask | Problem:
    ref = ref_of(call, "res", "reservation")
    if type(ref) is Problem:
        return ref
    return Ask(ref.slot, GetOrder(ref.slot, ref.order_no), shown_hold)


def _change(call: Call, ref: OrderRef, ask: Ask) -> Ask | Awaitable[Answer | Problem]:
    """At once for a key of all channels; after a look at the order's channel for any other."""
    return ask if call.principal.channels is None else _after_look(call, ref, ask)


async def _after_look(call: Call, ref: OrderRef, ask: Ask) -> Answer | Problem:
    refusal = await foreign(call, ref, "reservation")
    if refusal is not None:
        return refusal
    return ask.finish(call, await call.gateway.ask_slot(ref.slot, ask.command))


def commit(call: Call) -> Ask | Problem | Awaitable[Answer | Problem]:
    ref = ref_of(call, "res", "reservation")
    if type(ref) is Problem:
        return ref
    body = _commit.of(call) if call.body else _COMMIT_ALL
    if type(body) is Problem:
        return body
    lines = line_pairs(body.lines)
    if type(lines) is Problem:
        return lines
    ship_to = destination(body.ship_to) if body.ship_to is not None else None
    if type(ship_to) is Problem:
        return ship_to
    mark = fingerprint(_COMMIT, (ref, lines, ship_to))
    command = CommitHold(ref.slot, ref.order_no, lines, call.key_hash, mark, ship_to, call.key_ms)
    return _change(call, ref, Ask(ref.slot, command, committed))


def extend(call: Call) -> Ask | Problem | Awaitable[Answer | Problem]:
    ref = ref_of(call, "res", "reservation")
    if type(ref) is Problem:
        return ref
    body = _extend.of(call)
    if type(body) is Problem:
        return body
    refusal = _ttl_problem(call, body.ttl_s)
    if refusal is not None:
        return refusal
    mark = fingerprint(_EXTEND, (ref, body.ttl_s))
    command = ExtendHold(ref.slot, ref.order_no, body.ttl_s, call.key_hash, mark, call.key_ms)
    return _change(call, ref, Ask(ref.slot, command, shown_hold))


def release(call: Call) -> Ask | Problem | Awaitable[Answer | Problem]:
    """Releasing twice is releasing once, so a key is welcome but not needed."""
    ref = ref_of(call, "res", "reservation")
    if type(ref) is Problem:
        return ref
    command = ReleaseHold(ref.slot, ref.order_no, call.key_hash, fingerprint(_RELEASE, ref), call.key_ms)
    return _change(call, ref, Ask(ref.slot, command, shown_hold))


ROUTES = [
    Route(
        "POST",
        "/v1/reservations",
        "allocate:write",
        reserve,
        "Hold an order's units",
        "reservations",
        "Plans and holds for `ttl_s` seconds; then the units go back by themselves. `ship_to` may be left out: the "
        "plan is then made for the channel's demand centre.",
        body=Reservation,
        values_max=VALUES_PER_LINE_MAX * LINES_LIMIT_MAX,
        answer=HeldOrder,
        status=201,
        needs_key=True,
        takes_after=True,
        etag=True,
        problems=(*PLACING, "hold_cap"),
        body_examples=examples.RESERVATIONS,
        answer_example=examples.RESERVATION,
    ),
    Route(
        "GET",
        "/v1/reservations/{reservation_id}",
        "allocate:read",
        get_reservation,
        "Read a reservation",
        "reservations",
        answer=HeldOrder,
        etag=True,
        answer_example=examples.RESERVATION,
    ),
    Route(
        "POST",
        "/v1/reservations/{reservation_id}/commit",
        "allocate:write",
        commit,
        "Commit a reservation, wholly or in part",
        "reservations",
        "What is not committed is released in the same step, and does not wait either; units that wait and digital lines are named like "
        "held ones. With another `ship_to` it is planned again with its own units counted as free; a refusal leaves it held.",
        body=Commit,
        body_required=False,
        answer=Allocation,
        needs_key=True,
        finishing=True,
        etag=True,
        problems=("wrong_state", "expired", "key_reused", "out_of_stock", "no_capable_node", "unknown_destination"),
        body_examples=examples.COMMITS,
        answer_example=examples.ALLOCATION,
    ),
    Route(
        "POST",
        "/v1/reservations/{reservation_id}/extend",
        "allocate:write",
        extend,
        "Hold for longer",
        "reservations",
        "The hold then ends `ttl_s` seconds from now, never earlier than before and at most a day after it began.",
        body=Extend,
        answer=HeldOrder,
        needs_key=True,
        etag=True,
        problems=("wrong_state", "expired", "key_reused", "dedupe_full"),
        body_examples=examples.EXTENDS,
        answer_example=examples.RESERVATION,
    ),
    Route(
        "DELETE",
        "/v1/reservations/{reservation_id}",
        "allocate:write",
        release,
        "Release a reservation",
        "reservations",
        answer=HeldOrder,
        takes_key=True,
        finishing=True,
        etag=True,
        problems=("wrong_state", "key_reused"),
        answer_example=examples.RESERVATION,
    ),
]
