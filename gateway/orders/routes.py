"""/v1/allocations: decide and commit an order in one step, read it, cancel it; many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import lru_cache, partial
from typing import Annotated

import msgspec
from msgspec import Meta

from engine.domain.commands import CancelOrder, ClearHolds, GetOrder, PlaceOrder, PlaceQuoted
from engine.domain.ids import OrderRef, parse_public_id, slot_of
from engine.domain.orders import OrderRequest
from engine.domain.replies import Opened, OrderView, Problem, Reply
from gateway.call import VALUES_FREE_BYTES, Answer, Ask, Call, Route
from gateway.errors import DECODE_ERRORS, decode_problem, problem, problem_value, refuse, status_of
from gateway.history.past import ELSEWHERE
from gateway.idempotency import fingerprint, hash_key, key_time
from gateway.key_slots import once, place_elsewhere
from gateway.orders import examples
from gateway.orders.opened import opened_allocation
from gateway.orders.schemas import (
    HOLD_STATES,
    ORDERS_PER_BATCH_MAX,
    Allocation,
    Batch,
    BatchAnswer,
    BatchItem,
    BatchOrder,
    Cancel,
    ClearHoldsBody,
    Order,
    allocation_shown,
    line_pairs,
    order_request,
    too_many_lines,
)
from gateway.quotes.sealed import take_up
from gateway.schemas import Decoder

SLICE = 100
"""A batch goes to the shards in slices, so that single orders get their turn in between."""
SLICES_IN_FLIGHT = 2
BATCH_LINES_MAX = 20_000
"""Lines of all orders of a batch: what decoding them at one go may cost everybody else."""
VALUES_PER_LINE_MAX = 64
LINES_LIMIT_MAX = 10_000
"""The highest that QM_MAX_LINES can be."""
BATCH_KEY_POINTER = "/idempotency_key"
REPLAYED = (b"idempotent-replayed", b"true")

_ALLOCATE = b"allocate"
_CANCEL = b"cancel"
_CLEAR_HOLDS = b"clear-holds"
_order = Decoder(Order)
_batch_order = Decoder(BatchOrder)
_batch = Decoder(Batch)
_cancel = Decoder(Cancel)
_clear_holds = Decoder(ClearHoldsBody)


class _LineCount(msgspec.Struct):
    lines: Annotated[list[msgspec.Raw], Meta(max_length=LINES_LIMIT_MAX)] = []


class _RawBatch(msgspec.Struct, forbid_unknown_fields=True):
    orders: Annotated[list[msgspec.Raw], Meta(max_length=ORDERS_PER_BATCH_MAX)]


_line_count = Decoder(_LineCount)
_raw_batch = Decoder(_RawBatch)


def lines_problem(call: Call) -> Problem | None:
    """Refuses a large body with too many lines before the lines are built."""
    body = call.body
    if len(body) <= VALUES_FREE_BYTES:
        return None
    limit = call.gateway.settings.max_lines
    if not call.packed_in and body.count(b",") > VALUES_PER_LINE_MAX * limit:
        return too_many_lines(body.count(b"{") - 1, limit)
    try:
        count = len(_line_count.decode(body, packed=call.packed_in).lines)
    except DECODE_ERRORS as error:
        found = decode_problem(error)
        too_long = found.errors and found.errors[0].pointer == "/lines" and "length" in found.errors[0].detail
        return too_many_lines(limit + 1, limit) if too_long else found
    return too_many_lines(count, limit) if count > limit else None


_slot = lru_cache(maxsize=65_536)(slot_of)
"""Destinations repeat."""


def home_slot(call: Call, order: OrderRequest) -> str | Problem:
    """The slot that decides an order: its destination's, else its channel's demand centre's."""
    if order.ship_to is not None:
        return _slot(order.ship_to.country, order.ship_to.postal_code)
    catalog = call.gateway.cluster.catalog
    index = catalog.channel_of.get(order.channel)
    channel = catalog.channels[index] if index is not None else None
    if channel is None:
        return refuse("unknown_channel", "/channel", f"no channel {order.channel!r}")
    return slot_of(channel.demand_centre.country, channel.demand_centre.postal_code)


def channel_problem(call: Call, channel: str) -> Problem | None:
    """A key of some channels asks for another one."""
    if call.principal.may_channel(channel):
        return None
    return problem("forbidden", f"this key is not for channel {channel!r}")


def place(call: Call, order: Order, *, route: bytes, ttl_s: int, needs_destination: bool) -> Ask | Problem:
    """The command of an order, and where it goes."""
    request = order_request(order, max_lines=call.gateway.settings.max_lines, needs_destination=needs_destination)
    if type(request) is Problem:
        return request
    assert type(request) is OrderRequest
    if call.principal.channels is not None:
        refusal = channel_problem(call, request.channel)
        if refusal is not None:
            return refusal
    slot = home_slot(call, request)
    if type(slot) is Problem:
        return slot
    assert type(slot) is str
    holder = call.principal.key_id if ttl_s and call.gateway.settings.hold_units_per_key else ""
    if order.quote_id is not None:
        return place_quoted(call, order, request, slot, route=route, ttl_s=ttl_s, holder=holder)
    mark = fingerprint(route, (ttl_s, request))
    command = PlaceOrder(request, ttl_s, call.key_hash, mark, call.after(), holder, brief=True, key_ms=call.key_ms)
    return Ask(slot, command, partial(allocated, request))


def place_quoted(
    call: Call, order: Order, request: OrderRequest, slot: str, *, route: bytes, ttl_s: int, holder: str
) -> Ask | Problem:
    """The command of an order that is to keep a quote; a quote that is not ours, or of another order, is refused here."""
    found = take_up(call.gateway.cluster.catalog, order, request)
    if isinstance(found, Problem):
        return found
    service, quoted = found
    request = msgspec.structs.replace(request, service=service)
    mark = fingerprint(route, (ttl_s, request, order.quote_id, quoted.option))
    return Ask(
        slot,
        PlaceQuoted(request, ttl_s, call.key_hash, mark, call.after(), holder, key_ms=call.key_ms, quoted=quoted),
        partial(allocated, request),
    )


def allocate(call: Call) -> Ask | Problem | Awaitable[Answer | Problem]:
    refusal = lines_problem(call)
    if refusal is not None:
        return refusal
    order = _order.of(call)
    if type(order) is Problem:
        return order
    ask = place(call, order, route=_ALLOCATE, ttl_s=0, needs_destination=True)
    return ask if type(ask) is Problem else once(call, ask)


def allocated(order: OrderRequest, call: Call, reply: Reply) -> Answer | Problem:
    """201 with the allocation, the first time and at every repeat. order: what was asked for."""
    if type(reply) is Opened:
        opened = opened_allocation(order, reply)
        return Answer(
            opened, 201, ((b"location", b"/v1/allocations/" + opened.allocation_id.encode()),), opened.version
        )
    if type(reply) is not OrderView:
        return unexpected(reply)
    shown = allocation_shown(reply)
    location = (b"location", b"/v1/allocations/" + shown.allocation_id.encode())
    if reply.replayed:
        call.gateway.metrics.replayed += 1
        return Answer(shown, 201, (location, REPLAYED), reply.version)
    return Answer(shown, 201, (location,), reply.version)


def unexpected(reply: Reply) -> Problem:
    """A problem as it came; any other reply that the route cannot show is a fault of ours."""
    if isinstance(reply, Problem):
        return reply
    raise TypeError(f"a shard answered {type(reply).__name__}")


def shown_order(call: Call, reply: Reply) -> Answer | Problem:
    """The allocation as it is now. A hold is not one yet; another channel's is none of the key's business."""
    if type(reply) is not OrderView:
        return unexpected(reply)
    if not call.principal.may_channel(reply.channel) or reply.state in HOLD_STATES:
        return problem("not_found", "no such allocation")
    headers = (REPLAYED,) if reply.replayed else ()
    return Answer(allocation_shown(reply), 200, headers, reply.version)


def ref_of(call: Call, prefix: str, what: str) -> OrderRef | Problem:
    """The order that the path names."""
    found = parse_public_id(call.params[0], prefix)
    if found is None:
        how = ", and GET /v1/allocations finds it by your order_id" if prefix == "alc" else ""
        return problem("not_found", f"no such {what}: its id begins with {prefix}_{how}")
    return found[0]


def get_allocation(call: Call) -> Ask | Problem:
    ref = ref_of(call, "alc", "allocation")
    if type(ref) is Problem:
        return ref
    return Ask(ref.slot, GetOrder(ref.slot, ref.order_no), shown_order)


async def foreign(call: Call, ref: OrderRef, what: str) -> Problem | None:
    """Keys of some channels only: the order is read first, so that nothing of another channel is changed."""
    if call.principal.channels is None:
        return None
    reply = await call.gateway.ask_slot(ref.slot, GetOrder(ref.slot, ref.order_no))
    if isinstance(reply, Problem):
        return reply
    if isinstance(reply, OrderView) and call.principal.may_channel(reply.channel):
        return None
    return problem("not_found", f"no such {what}")


async def cancel(call: Call) -> Answer | Problem:
    ref = ref_of(call, "alc", "allocation")
    if type(ref) is Problem:
        return ref
    body = _cancel.of(call) if call.body else Cancel()
    if type(body) is Problem:
        return body
    lines = line_pairs(body.lines)
    if type(lines) is Problem:
        return lines
    refusal = await foreign(call, ref, "allocation")
    if refusal is not None:
        return refusal
    mark = fingerprint(_CANCEL, (ref, lines, body.reason))
    command = CancelOrder(
        ref.slot, ref.order_no, lines, body.reason, call.key_hash, mark, key_ms=call.key_ms, of_hold=False
    )
    return shown_order(call, await call.gateway.ask_slot(ref.slot, command))


async def clear_holds(call: Call) -> Answer | Problem:
    ref = ref_of(call, "alc", "allocation")
    if type(ref) is Problem:
        return ref
    body = _clear_holds.of(call) if call.body else ClearHoldsBody()
    if type(body) is Problem:
        return body
    assert type(body) is ClearHoldsBody
    refusal = await foreign(call, ref, "allocation")
    if refusal is not None:
        return refusal
    mark = fingerprint(_CLEAR_HOLDS, (ref, body.reasons, body.reason))
    command = ClearHolds(ref.slot, ref.order_no, body.reasons, call.key_hash, mark, call.key_ms, body.reason)
    return shown_order(call, await call.gateway.ask_slot(ref.slot, command))


# -- batch --------------------------------------------------------------------------------------------------------


def allocate_batch(call: Call) -> Awaitable[Answer | Problem] | Problem:
    """Decode at once where all orders are well formed; else one by one, so that a bad one spoils only itself."""
    try:
        orders: list[BatchOrder | Problem] = list(_batch.decode(call.body, packed=call.packed_in).orders)
    except msgspec.ValidationError as error:
        return _one_by_one(call, error)
    except DECODE_ERRORS as error:
        return decode_problem(error)
    return _allocate_all(call, orders)


def _one_by_one(call: Call, error: msgspec.ValidationError) -> Awaitable[Answer | Problem] | Problem:
    try:
        raw = _raw_batch.decode(call.body, packed=call.packed_in).orders
    except DECODE_ERRORS as unreadable:
        found = decode_problem(unreadable)
        return found if found.errors and found.errors[0].pointer == "/orders" else decode_problem(error)
    if not raw:
        return decode_problem(error)
    orders: list[BatchOrder | Problem] = []
    for item in raw:
        try:
            orders.append(_batch_order.decode(bytes(item), packed=call.packed_in))
        except DECODE_ERRORS as bad:
            orders.append(decode_problem(bad, BatchOrder))
    return _allocate_all(call, orders)


async def _allocate_all(call: Call, orders: list[BatchOrder | Problem]) -> Answer | Problem:
    """Results in the order of the request. Slices wait for each other, at most two are with the shards."""
    lines = sum(len(order.lines) for order in orders if type(order) is BatchOrder)
    if lines > BATCH_LINES_MAX:
        detail = f"{lines} lines in one batch, the limit is {BATCH_LINES_MAX}"
        return refuse("too_many_lines", "/orders", detail, lines=lines, limit=BATCH_LINES_MAX)
    call.gateway.metrics.batch(len(orders))
    results: list[BatchItem] = []
    waiting: list[list[Problem | tuple[Ask, asyncio.Future[Reply]]]] = []
    for start in range(0, len(orders), SLICE):
        if len(waiting) == SLICES_IN_FLIGHT:
            await _collect(call, waiting.pop(0), results)
        waiting.append(_submit(call, orders[start : start + SLICE]))
    for part in waiting:
        await _collect(call, part, results)
    return Answer(BatchAnswer(results))


def _submit(call: Call, orders: list[BatchOrder | Problem]) -> list[Problem | tuple[Ask, asyncio.Future[Reply]]]:
    cluster, prefix = call.gateway.cluster, call.principal.hash_prefix
    now_ms = call.gateway.now_ms()
    part: list[Problem | tuple[Ask, asyncio.Future[Reply]]] = []
    for order in orders:
        if type(order) is Problem:
            part.append(order)
            continue
        assert type(order) is BatchOrder
        key = order.idempotency_key.encode()
        found: Ask | Problem | int = key_time(key, now_ms=now_ms, pointer=BATCH_KEY_POINTER)
        if type(found) is int:
            call.key_hash, call.key_ms = hash_key(prefix, key), found
            found = place(call, order, route=_ALLOCATE, ttl_s=0, needs_destination=True)
        if type(found) is Ask:
            known = call.gateway.key_slots.sent(call.key_hash, found.slot)
            if known == found.slot:
                part.append((found, cluster.submit(cluster.shard_of_slot(known), found.command)))
            else:
                part.append((found, asyncio.ensure_future(place_elsewhere(call.gateway, found, known))))
        else:
            assert type(found) is Problem
            part.append(found)
    return part


async def _collect(
    call: Call, part: list[Problem | tuple[Ask, asyncio.Future[Reply]]], results: list[BatchItem]
) -> None:
    metrics = call.gateway.metrics
    for entry in part:
        if type(entry) is Problem:
            reply: Reply = entry
        else:
            assert type(entry) is tuple
            ask, future = entry
            reply = await future
            if type(reply) is Problem and reply.code in ELSEWHERE:
                reply = await call.gateway.ask_slot(ask.slot, ask.command)
        if type(reply) is Opened:
            assert type(entry) is tuple and type(ask.command) is PlaceOrder
            results.append(BatchItem(201, opened_allocation(ask.command.order, reply)))
        elif type(reply) is OrderView:
            metrics.replayed += reply.replayed
            results.append(BatchItem(201, allocation_shown(reply), replayed=reply.replayed))
        else:
            found = unexpected(reply)
            metrics.refused(found.code)
            shown = problem_value(found, call.request_id, key_pointer=BATCH_KEY_POINTER)
            results.append(BatchItem(status_of(found), problem=shown))


_PLACING = (
    "invalid_quote",
    "quote_mismatch",
    "quote_expired",
    "quote_changed",
    "out_of_stock",
    "no_capable_node",
    "duplicate_order",
    "key_in_use",
    "key_too_old",
    "key_reused",
    "unknown_sku",
    "unknown_node",
    "unknown_channel",
    "unknown_service",
    "unknown_destination",
    "currency_mismatch",
    "currency_not_priced",
    "too_many_lines",
    "invalid_token",
    "dedupe_full",
    "journal_full",
    "view_behind",
)
PLACING = _PLACING
"""Problems of deciding an order."""

ROUTES = [
    Route(
        "POST",
        "/v1/allocations",
        "allocate:write",
        allocate,
        "Allocate an order",
        "allocations",
        "Decides and commits in one step: when this answers 201, the stock is held durably. A repeat of the same "
        "idempotency key gets the same allocation, as it is now, with `Idempotent-Replayed: true`.",
        body=Order,
        values_max=VALUES_PER_LINE_MAX * LINES_LIMIT_MAX,
        answer=Allocation,
        status=201,
        needs_key=True,
        takes_after=True,
        etag=True,
        problems=_PLACING,
        body_examples=examples.ORDERS,
        answer_example=examples.ALLOCATION,
    ),
    Route(
        "POST",
        "/v1/allocations/batch",
        "allocate:write",
        allocate_batch,
        "Allocate up to 1,000 orders",
        "allocations",
        "Each order carries its own `idempotency_key` and gets its own status, in the order of the request. Orders are "
        "independent: some may be refused while others are allocated.",
        body=Batch,
        values_max=16 * BATCH_LINES_MAX,
        answer=BatchAnswer,
        takes_after=True,
        body_examples=examples.BATCHES,
        answer_example=examples.BATCH_ANSWER,
    ),
    Route(
        "GET",
        "/v1/allocations/{allocation_id}",
        "allocate:read",
        get_allocation,
        "Read an allocation",
        "allocations",
        answer=Allocation,
        etag=True,
        answer_example=examples.ALLOCATION,
    ),
    Route(
        "POST",
        "/v1/allocations/{allocation_id}/cancel",
        "allocate:write",
        cancel,
        "Cancel an allocation, wholly or in part",
        "allocations",
        "Units without a node go first, then legs that picking has not reached. What has left cannot be cancelled.",
        body=Cancel,
        body_required=False,
        answer=Allocation,
        needs_key=True,
        finishing=True,
        etag=True,
        problems=("wrong_state", "key_reused"),
        body_examples=examples.CANCELS,
        answer_example=examples.ALLOCATION,
    ),
    Route(
        "POST",
        "/v1/allocations/{allocation_id}/clear-holds",
        "allocate:write",
        clear_holds,
        "Take hold reasons off an allocation",
        "allocations",
        "Legs of an order on hold are not released. Once its last reason is off they can be; reasons that are off already stay so.",
        body=ClearHoldsBody,
        body_required=False,
        answer=Allocation,
        needs_key=True,
        finishing=True,
        etag=True,
        problems=("wrong_state", "key_reused"),
        body_examples=examples.CLEARED_HOLDS,
        answer_example=examples.ALLOCATION,
    ),
]
