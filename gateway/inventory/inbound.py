"""/v1/inventory/inbound: what is on its way to nodes; /v1/availability/dated: what that makes available, and when."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta

from engine.domain.commands import CancelInbound, ListInbound, PutInbound, ReceiveInbound
from engine.domain.replies import InboundReply, InboundView, Problem, StockReply
from engine.protocol.tokens import make_token
from gateway.call import Answer, Call, Route
from gateway.cursors import decode_cursor, encode_cursor, is_number
from gateway.errors import problem, refuse
from gateway.idempotency import fingerprint
from gateway.inventory import examples
from gateway.inventory.availability import channel_asked
from gateway.inventory.schemas import SKUS_MAX, AsOf, Stock, stock_shown
from gateway.orders.routes import REPLAYED, unexpected
from gateway.orders.schemas import METHODS
from gateway.schemas import Body, Decoder, Id, Limit, Quantity, Shown, query_of
from gateway.times import iso, ms_of

ROWS_MAX = 1_000
STEPS_MAX = 5_000
"""Inbound records of one dated answer: far more than anybody looks ahead."""
_PUT, _CANCEL, _RECEIVE = b"inbound:put", b"inbound:cancel", b"inbound:receive"
Instant = Annotated[datetime, Meta(tz=True)]


class InboundRow(Body, kw_only=True):
    """Units of a SKU that are expected at an instant. `inbound_id` is yours: a purchase order's line, an advice, a transfer."""

    inbound_id: Id
    sku: Id
    quantity: Quantity
    expected_at: Instant


class InboundBody(Body, kw_only=True):
    """Records of one node, all or none; a known id is replaced by what is said now."""

    node_id: Id
    inbound: Annotated[tuple[InboundRow, ...], Meta(min_length=1, max_length=ROWS_MAX)]


class InboundCancel(Body, kw_only=True):
    node_id: Id
    inbound_id: Id


class InboundReceipt(Body, kw_only=True):
    """`quantity` null: all that was expected. `is_last`: what is missing is not expected any more."""

    node_id: Id
    inbound_id: Id
    quantity: Quantity | None = None
    is_last: bool = False


class InboundQuery(Body, kw_only=True):
    """`late=true`: only what should have come by now."""

    node_id: Id | None = None
    sku: Id | None = None
    late: bool = False
    limit: Limit = 100
    cursor: Annotated[str, Meta(max_length=400)] | None = None


class DatedQuery(Body, kw_only=True):
    sku: Annotated[list[Id], Meta(min_length=1, max_length=SKUS_MAX)]
    node_id: Id | None = None
    channel: Id | None = None
    method: Literal["ship", "pickup", "ship_to_store"] = "ship"


class InboundShown(Shown):
    """Units that are still expected; 0 = the record is gone. `is_late`: the instant has passed."""

    node_id: str
    inbound_id: str
    sku: str
    quantity: int
    expected_at: str
    is_late: bool


class InboundStated(Shown):
    data: list[InboundShown]
    as_of: AsOf | None
    token: str


class InboundPage(Shown):
    data: list[InboundShown]
    next_cursor: str | None
    has_more: bool
    as_of: list[AsOf]


class DatedStep(Shown):
    """What a new order could be promised from an instant on, and the receipts that make it so."""

    at: str
    units: int
    inbound_ids: list[str]
    available_to_promise: int


class DatedSku(Shown):
    """`available_to_promise` now; `waiting_units`: units that orders wait for, which come first; `late_units`: should have come and are
    counted at no instant. `steps`: by instant."""

    sku: str
    available_to_promise: int
    waiting_units: int
    late_units: int
    steps: list[DatedStep]


class DatedAvailability(Shown):
    data: list[DatedSku]
    as_of: list[AsOf]
    token: str


_body = Decoder(InboundBody)
_cancellation = Decoder(InboundCancel)
_receipt = Decoder(InboundReceipt)


async def put(call: Call) -> Answer | Problem:
    body = _body.of(call)
    if isinstance(body, Problem):
        return body
    rows = tuple([(row.inbound_id, row.sku, row.quantity, ms_of(row.expected_at)) for row in body.inbound])
    values = (body.node_id, rows)
    command = PutInbound(*values, call.key_hash, fingerprint(_PUT, values), call.key_ms)
    return await _stated(call, body.node_id, command)


async def cancel(call: Call) -> Answer | Problem:
    body = _cancellation.of(call)
    if isinstance(body, Problem):
        return body
    values = (body.node_id, body.inbound_id)
    command = CancelInbound(*values, call.key_hash, fingerprint(_CANCEL, values), call.key_ms)
    return await _stated(call, body.node_id, command)


async def _stated(call: Call, node_id: str, command: PutInbound | CancelInbound) -> Answer | Problem:
    reply = await call.gateway.ask_node(node_id, command)
    if reply is None:
        return refuse("unknown_node", "/node_id", f"no node {node_id!r}")
    if type(reply) is StockReply and reply.replayed:
        call.gateway.metrics.replayed += 1
        return Answer(InboundStated([], None, reply.token), 200, (REPLAYED,))
    if type(reply) is not InboundReply:
        return unexpected(reply)
    now_ms = call.gateway.now_ms()
    as_of = AsOf(reply.shard, reply.epoch, reply.seq, 0)
    return Answer(InboundStated([_shown(row, now_ms) for row in reply.rows], as_of, reply.token))


async def receive(call: Call) -> Answer | Problem:
    body = _receipt.of(call)
    if isinstance(body, Problem):
        return body
    values = (body.node_id, body.inbound_id, body.quantity, body.is_last)
    command = ReceiveInbound(*values, call.key_hash, fingerprint(_RECEIVE, values), call.key_ms)
    reply = await call.gateway.ask_node(body.node_id, command)
    if reply is None:
        return refuse("unknown_node", "/node_id", f"no node {body.node_id!r}")
    if type(reply) is not StockReply:
        return unexpected(reply)
    if reply.replayed:
        call.gateway.metrics.replayed += 1
        return Answer(stock_shown(reply, body.node_id), 200, (REPLAYED,))
    return Answer(stock_shown(reply, body.node_id))


async def list_inbound(call: Call) -> Answer | Problem:
    """Every shard lists its own nodes; all sort by (instant, node id, inbound id), so one cursor fits all."""
    query = query_of(call, InboundQuery)
    if query.node_id is not None and query.node_id not in call.gateway.cluster.catalog.node_of:
        return refuse("unknown_node", "/node_id", f"no node {query.node_id!r}", parameter="node_id")
    after = _decode(query.cursor)
    if after is None:
        return problem("invalid_cursor")
    now_ms = call.gateway.now_ms()
    skus = (query.sku,) if query.sku is not None else ()
    before_ms = now_ms if query.late else 0
    found = await _ask(call, ListInbound(skus, query.node_id, before_ms=before_ms, after=after, limit=query.limit))
    if isinstance(found, Problem):
        return found
    replies, as_of = found
    rows = sorted([row for reply in replies for row in reply.rows], key=_place)
    more = len(rows) > query.limit or any(reply.more for reply in replies)
    rows = rows[: query.limit]
    cursor = _encode(rows[-1]) if more and rows else None
    return Answer(InboundPage([_shown(row, now_ms) for row in rows], cursor, cursor is not None, as_of))


async def dated(call: Call) -> Answer | Problem:
    query = query_of(call, DatedQuery)
    channel = channel_asked(call, query.channel)
    if isinstance(channel, Problem):
        return channel
    if len(set(query.sku)) != len(query.sku):
        return refuse("invalid_field", "/sku", "a SKU is named twice", parameter="sku")
    if query.node_id is not None and query.node_id not in call.gateway.cluster.catalog.node_of:
        return refuse("unknown_node", "/node_id", f"no node {query.node_id!r}", parameter="node_id")
    skus = tuple(query.sku)
    command = ListInbound(skus, query.node_id, channel, METHODS[query.method], True, limit=STEPS_MAX)
    found = await _ask(call, command)
    if isinstance(found, Problem):
        return found
    replies, as_of = found
    if any(reply.more for reply in replies):  # what is not told would be missing from the dates
        detail = f"over {STEPS_MAX} records are expected of these SKUs: ask for fewer at once, or of one node"
        return refuse("invalid_field", "/sku", detail, parameter="sku", limit=STEPS_MAX)
    rows: dict[str, list[InboundView]] = {sku: [] for sku in skus}
    for row in sorted([row for reply in replies for row in reply.rows], key=_place):
        rows[row.sku].append(row)
    now_ms = call.gateway.now_ms()
    data = []
    for n, sku in enumerate(skus):
        free = sum(reply.free[n] for reply in replies)
        waiting = sum(reply.waiting[n] for reply in replies)
        data.append(_dated(sku, free, waiting, rows[sku], now_ms))
    token = make_token({reply.shard: (reply.epoch, reply.seq) for reply in replies})
    return Answer(DatedAvailability(data, as_of, token))


def _dated(sku: str, free: int, waiting: int, rows: list[InboundView], now_ms: int) -> DatedSku:
    """ATP by instant. Receipts only add, so what can be promised from an instant on is what there is by then, less what waits.

    What safety stock, distrust and shortages take of a receipt is told by its node's owner.
    """
    left = free - waiting
    late = 0
    steps: list[DatedStep] = []
    reached_ms = 0
    for row in rows:
        if row.expected_at_ms < now_ms:
            late += row.quantity
            continue
        left += row.promised
        if row.expected_at_ms != reached_ms:
            reached_ms = row.expected_at_ms
            steps.append(DatedStep(iso(reached_ms) or "", 0, [], 0))
        step = steps[-1]
        step.units += row.quantity
        step.inbound_ids.append(row.inbound_id)
        step.available_to_promise = max(0, left)
    return DatedSku(sku, free, waiting, late, steps)


async def _ask(call: Call, command: ListInbound) -> tuple[list[InboundReply], list[AsOf]] | Problem:
    """The answers of all shards, by shard."""
    asked_s = time.monotonic()
    answers = await call.gateway.cluster.ask_all(command)
    age_ms = int((time.monotonic() - asked_s) * 1_000)
    replies = []
    for reply in answers.values():
        if type(reply) is not InboundReply:
            return unexpected(reply)
        replies.append(reply)
    return replies, [AsOf(reply.shard, reply.epoch, reply.seq, age_ms) for reply in replies]


def _place(row: InboundView) -> tuple[int, str, str]:
    return row.expected_at_ms, row.node_id, row.inbound_id


def _shown(row: InboundView, now_ms: int) -> InboundShown:
    is_late = row.quantity > 0 and row.expected_at_ms < now_ms
    return InboundShown(row.node_id, row.inbound_id, row.sku, row.quantity, iso(row.expected_at_ms) or "", is_late)


def _encode(last: InboundView) -> str:
    text = "\0".join((str(last.expected_at_ms), last.node_id, last.inbound_id))
    return encode_cursor(text)


def _decode(cursor: str | None) -> tuple[int, str, str] | None:
    """(instant, node id, inbound id) of the last record shown; None = it is no cursor of ours."""
    if not cursor:
        return (-1, "", "")
    text = decode_cursor(cursor)
    if text is None:
        return None
    words = text.split("\0")
    if len(words) != 3 or not is_number(words[0], 14):
        return None
    return (int(words[0]), words[1], words[2])


INBOUND: dict[str, Any] = {
    "node_id": "RENO",
    "inbound_id": "PO-4711-1",
    "sku": "SKU-1",
    "quantity": 200,
    "expected_at": "2026-12-04T08:00:00Z",
    "is_late": False,
}
_AS_OF = {"shard": 0, "epoch": 3, "seq": 4712, "age_ms": 0}
_STATED = {"data": [INBOUND], "as_of": _AS_OF, "token": "0:3:4712"}
_ROW = {name: INBOUND[name] for name in ("inbound_id", "sku", "quantity", "expected_at")}
_ONE = {"node_id": "RENO", "inbound_id": "PO-4711-1"}
_NAMING = ("unknown_sku", "unknown_node", "key_reused", "dedupe_full", "moved")
ROUTES = [
    Route(
        "PUT",
        "/v1/inventory/inbound",
        "inventory:write",
        put,
        "State what is on its way",
        "inventory",
        "Units that are expected at a node, with the instant. They are never on hand before they are received: "
        "`/v1/availability/dated` shows what they will make available, and parked orders get them in their turn. A record is moved, "
        "or made larger or smaller, by stating it again.",
        body=InboundBody,
        values_max=4 * ROWS_MAX + 8,
        answer=InboundStated,
        takes_key=True,
        problems=_NAMING,
        body_examples={"order": {"value": {"node_id": "RENO", "inbound": [_ROW]}}},
        answer_example=_STATED,
    ),
    Route(
        "GET",
        "/v1/inventory/inbound",
        "inventory:read",
        list_inbound,
        "What is on its way, next first",
        "inventory",
        "`late=true` lists what should have come: state another instant, receive it or cancel it.",
        query=InboundQuery,
        answer=InboundPage,
        problems=("unknown_sku", "unknown_node", "invalid_cursor"),
        answer_example={"data": [INBOUND], "next_cursor": None, "has_more": False, "as_of": [_AS_OF]},
    ),
    Route(
        "POST",
        "/v1/inventory/inbound/receive",
        "inventory:write",
        receive,
        "Receive what was on its way",
        "inventory",
        "One step: the units are on hand and expected no more. More or fewer than expected may come; the rest goes on being expected "
        "unless `is_last` says otherwise.",
        body=InboundReceipt,
        answer=Stock,
        needs_key=True,
        problems=("not_found", "unknown_node", "key_reused", "dedupe_full", "moved"),
        body_examples={"all": {"value": _ONE}},
        answer_example=examples.STOCK,
    ),
    Route(
        "POST",
        "/v1/inventory/inbound/cancel",
        "inventory:write",
        cancel,
        "Expect it no more",
        "inventory",
        body=InboundCancel,
        answer=InboundStated,
        takes_key=True,
        problems=("not_found", "unknown_node", "key_reused", "dedupe_full", "moved"),
        body_examples={"one": {"value": _ONE}},
        answer_example={**_STATED, "data": [{**INBOUND, "quantity": 0}]},
    ),
    Route(
        "GET",
        "/v1/availability/dated",
        "inventory:read",
        dated,
        "What will be available to promise, and when",
        "inventory",
        "By instant, what a new order could be promised: what is free now, plus what is expected by then, less what orders wait for "
        "already. What is expected counts as far as its node could promise it: a shortage, safety stock and distrust of its counts come first. Supply that is late is counted at no instant, so its lateness moves the promise by itself. Nodes that are off, do not "
        "serve the channel or do not offer the method are left out.",
        query=DatedQuery,
        answer=DatedAvailability,
        problems=("unknown_sku", "unknown_node", "unknown_channel"),
        answer_example={
            "data": [
                {
                    "sku": "SKU-1",
                    "available_to_promise": 0,
                    "waiting_units": 12,
                    "late_units": 0,
                    "steps": [
                        {
                            "at": "2026-12-04T08:00:00Z",
                            "units": 200,
                            "inbound_ids": ["PO-4711-1"],
                            "available_to_promise": 188,
                        }
                    ],
                }
            ],
            "as_of": [_AS_OF],
            "token": "0:3:4712",
        },
    ),
]
