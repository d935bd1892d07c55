"""GET /v1/availability: asked of the shards that own the stock, so that it is true when they answer."""

from __future__ import annotations

import time
from collections.abc import Mapping

from engine.domain.commands import GetAvailability
from engine.domain.replies import Problem, Reply, StockReply
from engine.protocol.tokens import make_token, parse_token
from gateway.call import Answer, Call
from gateway.errors import problem, refuse
from gateway.inventory.schemas import AsOf, Availability, AvailabilityQuery, SkuTotal, position_shown
from gateway.orders.routes import unexpected
from gateway.orders.schemas import METHODS
from gateway.schemas import query_of


async def availability(call: Call) -> Answer | Problem:
    query = query_of(call, AvailabilityQuery)
    if len(set(query.sku)) != len(query.sku):
        return refuse("invalid_field", "/sku", "a SKU is named twice", parameter="sku")
    channel = query.channel
    cluster, principal = call.gateway.cluster, call.principal
    if channel is None and principal.channels is not None:
        if len(principal.channels) != 1:
            return problem("forbidden", "this key is for some channels only: name one of them in `channel`")
        [channel] = principal.channels
    if channel is not None:
        if not principal.may_channel(channel):
            return problem("forbidden", f"this key is not for channel {channel!r}")
        if channel not in cluster.catalog.channel_of:
            return refuse("unknown_channel", "/channel", f"no channel {channel!r}", parameter="channel")
    command = GetAvailability(tuple(query.sku), query.node_id, channel, METHODS[query.method])
    asked_s = time.monotonic()
    if query.node_id is not None:
        reply = await call.gateway.ask_node(query.node_id, command)
        if reply is None:
            detail = f"no node {query.node_id!r}"
            return refuse("unknown_node", "/node_id", detail, parameter="node_id")
        replies: Mapping[int, Reply] = {-1: reply}
    else:
        futures = {shard: cluster.submit(shard, command) for shard in cluster.shards}
        replies = {shard: await future for shard, future in futures.items()}
    age_ms = int((time.monotonic() - asked_s) * 1_000)
    return _shown(call, query.sku, replies, age_ms)


def _shown(call: Call, skus: list[str], replies: Mapping[int, Reply], age_ms: int) -> Answer | Problem:
    positions = []
    points: dict[int, tuple[int, int]] = {}
    as_of = []
    for reply in replies.values():
        if type(reply) is not StockReply:
            return unexpected(reply)
        positions += [position_shown(view) for view in reply.positions]
        points[reply.shard] = (reply.epoch, reply.seq)
        as_of.append(AsOf(reply.shard, reply.epoch, reply.seq, age_ms))
    behind = _behind(call.after(), points)
    if behind is not None:
        return behind
    positions.sort(key=lambda position: (position.sku, position.node_id))
    totals = dict.fromkeys(skus, 0)
    for position in positions:
        totals[position.sku] += position.available_to_promise
    shown = [SkuTotal(sku, units) for sku, units in totals.items()]
    return Answer(Availability(positions, shown, as_of, make_token(points)))


def _behind(after: str | None, points: dict[int, tuple[int, int]]) -> Problem | None:
    """X-QM-After: owners always show their newest entry, so only a token of nothing we know is refused."""
    if after is None:
        return None
    wanted = parse_token(after)
    if wanted is None:
        return problem("invalid_token")
    for shard, point in wanted.items():
        if shard in points and points[shard] < point:
            return problem("view_behind", retry_after_ms=100)
    return None
