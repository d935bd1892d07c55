"""Why not that node? The planner asked again for an order as things are now: for what its decision record no longer says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.domain import decide_legs
from engine.domain.catalog import Catalog
from engine.domain.commands import ExplainNode
from engine.domain.decide_orders import refuse
from engine.domain.decisions import NodeVerdict
from engine.domain.orders import LegState, OrderRecord
from engine.domain.replies import NodeReply
from engine.protocol.placing import moved
from engine.protocol.recommit import own_units_free, prepare_again

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

_OPEN = tuple(
    int(state) for state in (LegState.HELD, LegState.ALLOCATED, LegState.RELEASED, LegState.ACCEPTED, LegState.PICKING)
)


def explain_node(core: ShardCore, conn: int, corr: int, command: ExplainNode, now_ms: int) -> None:
    """What the order would do if it were planned now: its open and parked units, those that it has counted as free."""
    if not core.views.owns_slot(command.slot):
        core.answer(conn, corr, moved(core, command.slot))
        return
    record = core.state.order(command.slot, command.order_no)
    if record is None:
        core.answer(conn, corr, refuse("not_found", "", "no such order"))
        return
    node = core.catalog.node_of.get(command.node_id)
    if node is None:
        core.answer(conn, corr, refuse("unknown_node", "/node_id", f"no node {command.node_id!r}"))
        return
    wanted = decide_legs.units_in_legs(record, _OPEN)
    for demand in record.demand:
        wanted[demand.line] += demand.quantity
    if not any(wanted):
        core.answer(conn, corr, refuse("wrong_state", "", "nothing of the order is open any more"))
        return
    prepared = prepare_again(core, command.slot, record, record.ship_to, wanted)
    with own_units_free(core.state, record, states=_OPEN):
        verdict = core.planner.explain_node(prepared.request, node, now_ms=now_ms)
    component = missing_component(core.catalog, record, prepared.planned, verdict)
    core.answer(
        conn, corr, NodeReply(command.node_id, verdict.km, verdict.verdict, verdict.numbers, verdict.text + component)
    )


def missing_component(catalog: Catalog, record: OrderRecord, planned: Sequence[int], verdict: NodeVerdict) -> str:
    """Which component of a kit a node is short of; empty where it is no kit that it is short of."""
    if verdict.verdict != "short":
        return ""
    line = record.lines[planned[verdict.numbers[0]]]
    if line.kits <= 0 or line.kit < 0:
        return ""
    return f" ({catalog.sku(line.item)}, a component of {catalog.sku(line.kit)})"
