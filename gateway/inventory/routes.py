"""/v1/inventory and /v1/availability: stock in, stock shown."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.domain.commands import AdjustStock, CountStock, SetPosition, StockMove
from engine.domain.replies import Problem, ProblemItem, Reply, StockReply
from gateway.call import Answer, Call, Route
from gateway.errors import refuse
from gateway.idempotency import fingerprint
from gateway.inventory import examples
from gateway.inventory.availability import availability
from gateway.inventory.inbound import ROUTES as INBOUND
from gateway.inventory.schemas import (
    ROWS_MAX,
    Adjustment,
    Availability,
    AvailabilityQuery,
    Count,
    Positions,
    Stock,
    stock_shown,
)
from gateway.inventory.short import ROUTE as SHORT
from gateway.inventory.stores import ROUTE as STORES
from gateway.orders.routes import REPLAYED, unexpected
from gateway.schemas import Decoder
from gateway.times import ms_of

_ADJUST = b"adjust"
_COUNT = b"count"
_SET = b"set"
_adjustment = Decoder(Adjustment)
_count = Decoder(Count)
_positions = Decoder(Positions)


async def adjust(call: Call) -> Answer | Problem:
    body = _adjustment.of(call)
    if type(body) is Problem:
        return body
    assert type(body) is Adjustment
    single = body.moves is None
    if body.moves is None:
        for name, value in (("sku", body.sku), ("kind", body.kind), ("quantity", body.quantity)):
            if value is None:
                return refuse("invalid_field", f"/{name}", "this field is required (or several movements in moves)")
        assert body.sku is not None and body.kind is not None and body.quantity is not None
        moves = (StockMove(body.sku, body.kind, body.quantity, body.reason),)
        expected: tuple[int | None, ...] = (body.expected_on_hand,)
    elif any(value is not None for value in (body.sku, body.kind, body.quantity, body.expected_on_hand)):
        return refuse("invalid_field", "/moves", "either one movement or a list of them")
    else:
        moves = tuple([StockMove(m.sku, m.kind, m.quantity, m.reason or body.reason) for m in body.moves])
        expected = tuple([m.expected_on_hand for m in body.moves])
    if all(units is None for units in expected):
        expected = ()
    asked = (body.node_id, moves, expected) if expected else (body.node_id, moves)
    mark = fingerprint(_ADJUST, asked)
    command = AdjustStock(body.node_id, moves, call.key_hash, mark, call.key_ms, expected)
    reply = await call.gateway.ask_node(body.node_id, command)
    if single and isinstance(reply, Problem):
        reply = _repointed(reply, "/moves/0", "")
    return _stock(call, body.node_id, reply)


def _repointed(found: Problem, old: str, new: str) -> Problem:
    """A problem whose pointers name the fields as the caller sent them."""
    errors = tuple([ProblemItem(e.pointer.replace(old, new, 1), e.detail, e.facts) for e in found.errors])
    return msgspec.structs.replace(found, errors=errors)


async def count(call: Call) -> Answer | Problem:
    body = _count.of(call)
    if type(body) is Problem:
        return body
    assert type(body) is Count
    rows = tuple([(row.sku, row.quantity) for row in body.rows])
    values: tuple[Any, ...] = (body.node_id, body.source, ms_of(body.as_of), body.source_seq, body.scope, rows)
    command = CountStock(*values, call.key_hash, fingerprint(_COUNT, values), call.key_ms)
    return _stock(call, body.node_id, await call.gateway.ask_node(body.node_id, command))


async def set_positions(call: Call) -> Answer | Problem:
    body = _positions.of(call)
    if type(body) is Problem:
        return body
    assert type(body) is Positions
    rows = tuple([(p.sku, p.safety_units, p.supply, p.trust_bp, p.daily_cap_units) for p in body.positions])
    command = SetPosition(body.node_id, rows, call.key_hash, fingerprint(_SET, (body.node_id, rows)), call.key_ms)
    reply = await call.gateway.ask_node(body.node_id, command)
    if isinstance(reply, Problem):
        reply = _repointed(reply, "/rows/", "/positions/")
        reply = _repointed(reply, "/safety", "/safety_units")
        reply = _repointed(reply, "/daily_cap", "/daily_cap_units")
    return _stock(call, body.node_id, reply)


def _stock(call: Call, node_id: str, reply: Reply | None) -> Answer | Problem:
    if reply is None:
        return refuse("unknown_node", "/node_id", f"no node {node_id!r}")
    if not isinstance(reply, StockReply):
        return unexpected(reply)
    if reply.replayed:
        call.gateway.metrics.replayed += 1
        return Answer(stock_shown(reply, node_id), 200, (REPLAYED,))
    return Answer(stock_shown(reply, node_id))


_NAMING = ("unknown_sku", "unknown_node", "key_reused", "dedupe_full", "moved")

ROUTES = [
    Route(
        "POST",
        "/v1/inventory/adjustments",
        "inventory:write",
        adjust,
        "Book stock movements",
        "inventory",
        "Facts are never refused for being inconvenient: they may leave a position short, which `short_by` and "
        "`legs_short` then show. A repeat of the same key books nothing and shows no positions. With `expected_on_hand` it is "
        "a compare and set: the shard books it only if that is still true.",
        body=Adjustment,
        answer=Stock,
        needs_key=True,
        problems=(*_NAMING, "stock_changed"),
        body_examples=examples.ADJUSTMENTS,
        answer_example=examples.STOCK,
    ),
    Route(
        "POST",
        "/v1/inventory/counts",
        "inventory:write",
        count,
        "Take a stock count",
        "inventory",
        "A count is absolute as of its instant. Movements that the engine booked after it are applied on top, so a late "
        "count never puts shipped units back.",
        body=Count,
        values_max=4 * ROWS_MAX,
        answer=Stock,
        needs_key=True,
        problems=(*_NAMING, "stale_count"),
        body_examples=examples.COUNTS,
        answer_example=examples.STOCK,
    ),
    Route(
        "PUT",
        "/v1/inventory/positions",
        "inventory:write",
        set_positions,
        "Set safety stock and supply mode of positions",
        "inventory",
        body=Positions,
        values_max=100_000,
        answer=Stock,
        takes_key=True,
        problems=_NAMING,
        body_examples=examples.POSITIONS,
        answer_example=examples.STOCK,
    ),
    SHORT,
    STORES,
    *INBOUND,
    Route(
        "GET",
        "/v1/availability",
        "inventory:read",
        availability,
        "What is available to promise",
        "inventory",
        "Answered from the gateway's own view of all stock, which follows the shards within milliseconds: `as_of` says what "
        "it contains and how old it can be. `consistency=strict` asks the shards that own the stock. With `X-QM-After` the "
        "answer contains that token, or is `view_behind` after a second. Nodes that are off, do not serve the channel or do "
        "not offer the method are left out. Of a kit, the shards that own its components say how many each node could make "
        "(`supply` is `kit`): the sum over the nodes is the kit's. With a destination (`postal_code` and `country`, or `lat` and "
        "`lon`) the owners are asked for nodes that could ship there at all, nearest first: those within the distance that plans look "
        "at and a carrier serves, whatever the goods.",
        query=AvailabilityQuery,
        answer=Availability,
        takes_after=True,
        problems=("unknown_sku", "unknown_node", "unknown_channel", "unknown_destination", "view_behind"),
        answer_example=examples.AVAILABILITY,
    ),
]
