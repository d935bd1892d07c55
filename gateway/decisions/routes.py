"""/v1/decisions: why an order went where it went."""

from __future__ import annotations

from engine.domain.commands import ExplainNode, GetDecision, GetOrder
from engine.domain.ids import parse_public_id
from engine.domain.replies import DecisionReply, OrderView, Problem
from gateway.call import Answer, Call, Route
from gateway.decisions import examples
from gateway.decisions.shown import Decision, DecisionQuery, decision_shown
from gateway.errors import problem
from gateway.orders.routes import unexpected
from gateway.schemas import query_of


async def get_decision(call: Call) -> Answer | Problem:
    query = query_of(call, DecisionQuery)
    found = parse_public_id(call.params[0], "dec", has_suffix=True)
    if found is None:
        return problem("not_found", "no such decision")
    ref, number = found
    order = await call.gateway.ask_slot(ref.slot, GetOrder(ref.slot, ref.order_no))
    if not isinstance(order, OrderView):
        return unexpected(order)
    if not call.principal.may_channel(order.channel):
        return problem("not_found", "no such decision")
    reply = await call.gateway.cluster.ask_decision(GetDecision(ref.slot, ref.order_no, number))
    if isinstance(reply, Problem) and reply.code == "not_found":  # trimmed, or its order has left
        archived = await call.gateway.history.decision(ref.order_no, number)
        if not isinstance(archived, DecisionReply):
            return problem("not_found", "no such decision") if archived is None else archived
        reply = archived
    if not isinstance(reply, DecisionReply):
        return unexpected(reply)
    catalog = call.gateway.cluster.catalog
    now = None
    if query.node_id is not None:
        now = await call.gateway.ask_slot(ref.slot, ExplainNode(ref.slot, ref.order_no, query.node_id))
    shown = decision_shown(call.params[0], order, reply, catalog, query.node_id, now)
    return shown if isinstance(shown, Problem) else Answer(shown)


ROUTES = [
    Route(
        "GET",
        "/v1/decisions/{decision_id}",
        "decisions:read",
        get_decision,
        "Read a decision",
        "decisions",
        "What was chosen, what it was weighed against, how the choice was reached; `quartermaster explain` prints the same "
        "as a table. Kept as long as its entry is in the journal or the archive.",
        query=DecisionQuery,
        answer=Decision,
        problems=("unknown_node",),
        answer_example=examples.DECISION,
    ),
]
