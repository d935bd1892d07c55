"""/v1/legs: a node's work list, and the steps of a leg's life."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from engine.domain.commands import ActOnLeg, GetOrder, ListLegs
from engine.domain.ids import OrderRef, parse_public_id
from engine.domain.replies import LegList, LegView, OrderView, Problem, Reply, WorkLeg
from gateway.call import Answer, Ask, Call, Route
from gateway.cursors import decode_cursor, encode_cursor, is_number
from gateway.errors import problem, refuse
from gateway.idempotency import fingerprint
from gateway.legs import examples
from gateway.legs.schemas import LegAnswer, LegPage, LegsQuery, OrderLeg, Reject, Ship, Step, order_leg
from gateway.orders.routes import REPLAYED, foreign, unexpected
from gateway.orders.schemas import allocation_shown, line_pairs
from gateway.schemas import Decoder, query_of

_Place = tuple[int, int]
"""(order number, leg number)"""
_ACT = b"leg:"
_step = Decoder(Step)
_reject = Decoder(Reject)
_ship = Decoder(Ship)


def _leg_of(call: Call) -> tuple[OrderRef, int] | Problem:
    return parse_public_id(call.params[0], "leg", has_suffix=True) or problem("not_found", "no such leg")


def get_leg(call: Call) -> Ask | Problem:
    found = _leg_of(call)
    if type(found) is Problem:
        return found
    ref, leg_no = found

    def shown(call: Call, reply: Reply) -> Answer | Problem:
        if type(reply) is not OrderView:
            return unexpected(reply)
        leg = _find(reply, leg_no)
        if leg is None or not call.principal.may_channel(reply.channel):
            return problem("not_found", "no such leg")
        answer = order_leg(
            ref, reply.order_id, leg, channel=reply.channel, ship_to=reply.ship_to, order_state=reply.state
        )
        return Answer(answer, 200, (), reply.version)

    return Ask(ref.slot, GetOrder(ref.slot, ref.order_no), shown)


def _find(view: OrderView, leg_no: int) -> LegView | None:
    return next((leg for leg in view.legs if leg.leg_no == leg_no), None)


def _acting(
    action: str, decoder: Decoder[Any], fields: Callable[[Any], dict[str, Any]]
) -> Callable[[Call], Awaitable[Answer | Problem]]:
    """The handler of one step."""

    async def act(call: Call) -> Answer | Problem:
        found = _leg_of(call)
        if type(found) is Problem:
            return found
        ref, leg_no = found
        body = decoder.of(call) if call.body else decoder.kind()
        if type(body) is Problem:
            return body
        lines = line_pairs(getattr(body, "lines", None))
        if type(lines) is Problem:
            return lines
        refusal = await foreign(call, ref, "leg")
        if refusal is not None:
            return refusal
        values = {"lines": lines, **fields(body)}
        mark = fingerprint(_ACT + action.encode(), (ref, leg_no, values))
        values |= {"key_hash": call.key_hash, "fingerprint": mark, "key_ms": call.key_ms}
        command = ActOnLeg(ref.slot, ref.order_no, leg_no, action, **values)
        return _acted(call, ref, leg_no, await call.gateway.ask_slot(ref.slot, command))

    return act


def _acted(call: Call, ref: OrderRef, leg_no: int, reply: Reply) -> Answer | Problem:
    if type(reply) is not OrderView:
        return unexpected(reply)
    leg = _find(reply, leg_no)
    if leg is None:
        return problem("not_found", "no such leg")
    headers = (REPLAYED,) if reply.replayed else ()
    if reply.replayed:
        call.gateway.metrics.replayed += 1
    shown = order_leg(ref, reply.order_id, leg, channel=reply.channel, ship_to=reply.ship_to)
    answer = LegAnswer(shown, allocation_shown(reply))
    return Answer(answer, 200, headers, reply.version)


async def list_legs(call: Call) -> Answer | Problem:
    """Orders live at the shard of their destination, so every shard may have legs of this node.

    All sort alike, by order number and leg, so one cursor fits all.
    """
    if call.principal.channels is not None:
        return problem("forbidden", "a node's work list spans channels; this key is for some channels only")
    query = query_of(call, LegsQuery)
    if call.gateway.cluster.shard_of_node(query.node_id) is None:
        return refuse("unknown_node", "/node_id", f"no node {query.node_id!r}", parameter="node_id")
    cursor = _decode_cursor(query.cursor)
    if cursor is None:
        return problem("invalid_cursor")
    command = ListLegs(query.node_id, query.state, query.limit, cursor)
    lists: list[LegList] = []
    for reply in (await call.gateway.cluster.ask_all(command)).values():
        if not isinstance(reply, LegList):
            return unexpected(reply)
        lists.append(reply)
    rows, last = merged(lists, query.limit)
    data = [
        order_leg(OrderRef(row.slot, row.order_no), row.order_id, row.leg, channel=row.channel, ship_to=row.ship_to)
        for row in rows
    ]
    next_cursor = encode_cursor("{}-{}".format(*last)) if last is not None else None
    return Answer(LegPage(data, next_cursor, next_cursor is not None))


def merged(lists: Sequence[LegList], limit: int) -> tuple[list[WorkLeg], _Place | None]:
    """One page of all shards' lists, and the place after which the next one begins; None = there is no more.

    A list with a cursor says nothing of what is behind it, however few legs it shows: the page ends there for all.
    """
    ends = [_place_of(found.cursor) for found in lists if found.cursor]
    end = min(ends, default=None)
    rows = sorted([row for found in lists for row in found.legs if end is None or _place(row) <= end], key=_place)
    if len(rows) > limit:
        rows = rows[:limit]
        end = _place(rows[-1])
    return rows, end


def _place(row: WorkLeg) -> _Place:
    return row.order_no, row.leg.leg_no


def _place_of(cursor: str) -> _Place:
    order_no, leg_no = cursor.split("-")
    return int(order_no), int(leg_no)


def _decode_cursor(cursor: str | None) -> str | None:
    """The shards' own form, '' for the beginning; None = it is none of ours."""
    if not cursor:
        return ""
    text = decode_cursor(cursor)
    parts = text.split("-") if text is not None else []
    return text if len(parts) == 2 and all(is_number(part, 19) for part in parts) else None


def _reason(body: Step) -> dict[str, Any]:
    return {"reason": body.reason}


def _rejected(body: Reject) -> dict[str, Any]:
    return {"reason": body.reason, "stock_effect": body.stock_effect}


def _shipped(body: Ship) -> dict[str, Any]:
    return {"parcels": body.parcels, "tracking": body.tracking, "actual_cost_minor": body.actual_cost_minor}


def _step_route(action: str, summary: str, description: str = "") -> Route:
    return Route(
        "POST",
        f"/v1/legs/{{leg_id}}/{action}",
        "legs:write",
        _acting(action, _step, _reason),
        summary,
        "legs",
        description,
        body=Step,
        body_required=False,
        answer=LegAnswer,
        needs_key=True,
        finishing=True,
        etag=True,
        problems=("wrong_state", "key_reused"),
        body_examples=examples.STEPS,
        answer_example=examples.LEG_ANSWER,
    )


ROUTES = [
    Route(
        "GET",
        "/v1/legs",
        "legs:read",
        list_legs,
        "A node's work list",
        "legs",
        "Legs of one node by order number, oldest first, over all shards. A short page, or an empty one, is the last only if `has_more` is false: "
        "with `state`, a page ends after some thousands of other legs.",
        query=LegsQuery,
        answer=LegPage,
        problems=("unknown_node", "invalid_cursor"),
        answer_example=examples.LEG_PAGE,
    ),
    Route(
        "GET",
        "/v1/legs/{leg_id}",
        "legs:read",
        get_leg,
        "Read a leg",
        "legs",
        answer=OrderLeg,
        etag=True,
        answer_example=examples.ORDER_LEG,
    ),
    _step_route("release", "Give a leg to its node", "From here on the node may work on it."),
    _step_route("accept", "The node takes the leg on"),
    _step_route("pick", "The node began to pick", "A leg being picked can no longer be cancelled."),
    Route(
        "POST",
        "/v1/legs/{leg_id}/reject",
        "legs:write",
        _acting("reject", _reject, _rejected),
        "The node will not ship",
        "legs",
        "The units are planned again at once, never at the same node; where no other node has them they are parked. While other shards are "
        "asked the answer still shows them parked: the order's next version, moments later, has the new leg.",
        body=Reject,
        answer=LegAnswer,
        needs_key=True,
        finishing=True,
        etag=True,
        problems=("wrong_state", "key_reused"),
        body_examples=examples.REJECTS,
        answer_example=examples.LEG_ANSWER,
    ),
    Route(
        "POST",
        "/v1/legs/{leg_id}/ship",
        "legs:write",
        _acting("ship", _ship, _shipped),
        "Units left the node",
        "legs",
        body=Ship,
        body_required=False,
        answer=LegAnswer,
        needs_key=True,
        finishing=True,
        etag=True,
        problems=("wrong_state", "key_reused"),
        body_examples=examples.SHIPMENTS,
        answer_example=examples.LEG_ANSWER,
    ),
    _step_route("deliver", "The parcels arrived"),
]
