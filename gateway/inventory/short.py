"""GET /v1/inventory/short: positions that promised more than they have, over all shards."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from engine.domain.commands import ListShort
from engine.domain.replies import Problem, ShortList, ShortView
from gateway.call import Answer, Call, Route
from gateway.cursors import decode_cursor, encode_cursor, is_number
from gateway.errors import problem, refuse
from gateway.inventory.examples import POSITION
from gateway.inventory.schemas import Position, position_shown
from gateway.orders.routes import unexpected
from gateway.schemas import Body, Id, Limit, Shown, query_of


class ShortQuery(Body, kw_only=True):
    node_id: Id | None = None
    limit: Limit = 100
    cursor: Annotated[str, Meta(max_length=64)] | None = None


class ShortPosition(Shown):
    """A position that facts left with less than was promised; it sells nothing.

    `lacking_units`: promised units that are not on the shelf; the rest of `short_by` is withheld by safety stock or distrust.
    `legs`: unreleased legs that give up units, those that do so first in front, at most 100.
    """

    position: Position
    lacking_units: int
    legs: tuple[str, ...]


class ShortPage(Shown):
    data: list[ShortPosition]
    next_cursor: str | None
    has_more: bool


async def list_short(call: Call) -> Answer | Problem:
    """Shards own different nodes, and all sort by the same key: one cursor fits all."""
    query = query_of(call, ShortQuery)
    if query.node_id is not None and call.gateway.cluster.shard_of_node(query.node_id) is None:
        return refuse("unknown_node", "/node_id", f"no node {query.node_id!r}", parameter="node_id")
    after = _decode(query.cursor)
    if after is None:
        return problem("invalid_cursor")
    rows: list[ShortView] = []
    more = False
    for reply in (await call.gateway.cluster.ask_all(ListShort(query.node_id, after, query.limit))).values():
        if not isinstance(reply, ShortList):
            return unexpected(reply)
        rows += reply.rows
        more = more or reply.more
    rows.sort(key=lambda row: row.key)
    more = more or len(rows) > query.limit
    rows = rows[: query.limit]
    cursor = encode_cursor(str(rows[-1].key)) if more and rows else None
    data = [ShortPosition(position_shown(row.stock), row.lacking, row.legs) for row in rows]
    return Answer(ShortPage(data, cursor, cursor is not None))


def _decode(cursor: str | None) -> int | None:
    """The key of the last position shown, -1 for the beginning; None = it is no cursor of ours."""
    if not cursor:
        return -1
    text = decode_cursor(cursor)
    return int(text) if text is not None and is_number(text, 18) else None


SHORT_PAGE: dict[str, Any] = {
    "data": [
        {
            "position": {**POSITION, "on_hand": 10, "available_to_promise": 0, "short_by": 5},
            "lacking_units": 3,
            "legs": ["leg_US100_0f5k3v9q2m0ab_1"],
        }
    ],
    "next_cursor": "NDI5NDk2NzI5Nw",
    "has_more": True,
}
ROUTE = Route(
    "GET",
    "/v1/inventory/short",
    "inventory:read",
    list_short,
    "Positions that are short",
    "inventory",
    "Unreleased legs of positions that lack units are served from elsewhere by themselves, lowest priority and newest first; "
    "what finds no other node waits (see `/v1/demand`).",
    query=ShortQuery,
    answer=ShortPage,
    problems=("unknown_node", "invalid_cursor"),
    answer_example=SHORT_PAGE,
)
