"""GET /v1/legs/summary: what a node has still to do. How a drain is watched."""

from __future__ import annotations

from engine.client.node_work import summed
from engine.domain.commands import GetNodeWork
from engine.domain.replies import NodeWork, Problem
from gateway.call import Answer, Call, Route
from gateway.errors import problem, refuse
from gateway.orders.routes import unexpected
from gateway.schemas import Body, Id, Shown, query_of


class SummaryQuery(Body, kw_only=True):
    node_id: Id


class NodeSummary(Shown):
    """What a node has still to do. `finished`: no unit is held or allocated there, and no leg waits to be shipped."""

    node_id: str
    node_state: str
    units_held: int
    units_allocated: int
    legs: dict[str, int]
    """Legs of committed orders by state; shipped ones until they are delivered."""
    legs_to_ship: int
    legs_overdue: int
    """Released legs that were not accepted in time and that no other node can serve."""
    legs_more: bool
    """True where there are more legs than were counted, newest first. `units_allocated` and `finished` are of all."""
    finished: bool


async def node_summary(call: Call) -> Answer | Problem:
    """Every shard may have orders with legs at the node; its owner knows the units."""
    if call.principal.channels is not None:
        return problem("forbidden", "a node's work spans channels; this key is for some channels only")
    query = query_of(call, SummaryQuery)
    catalog = call.gateway.cluster.catalog
    node = catalog.node_of.get(query.node_id)
    document = catalog.nodes[node] if node is not None else None
    if document is None:
        return refuse("unknown_node", "/node_id", f"no node {query.node_id!r}", parameter="node_id")
    replies = (await call.gateway.cluster.ask_all(GetNodeWork(query.node_id))).values()
    found: list[NodeWork] = []
    for reply in replies:
        if not isinstance(reply, NodeWork):
            return unexpected(reply)
        found.append(reply)
    return Answer(NodeSummary(**summed(query.node_id, document.state, found)))


_EXAMPLE = {
    "node_id": "ST-9",
    "node_state": "drain",
    "units_held": 0,
    "units_allocated": 7,
    "legs": {"allocated": 1, "released": 3, "shipped": 12},
    "legs_to_ship": 4,
    "legs_overdue": 0,
    "legs_more": False,
    "finished": False,
}

ROUTES = [
    Route(
        "GET",
        "/v1/legs/summary",
        "legs:read",
        node_summary,
        "Count a node's work",
        "legs",
        "Units that are held and allocated at a node, and legs of committed orders by state: what a node that is drained has "
        "still to finish.",
        query=SummaryQuery,
        answer=NodeSummary,
        problems=("unknown_node",),
        answer_example=_EXAMPLE,
    ),
]
