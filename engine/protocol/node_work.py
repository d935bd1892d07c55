"""What a node has still to do, as each shard sees it: units of its stock, and legs of its orders. For watching a drain."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from engine.domain.commands import GetNodeWork
from engine.domain.decide_legs import find_leg
from engine.domain.decide_orders import refuse
from engine.domain.orders import LegState
from engine.domain.replies import NodeWork
from engine.domain.state import LEG_NO_MAX

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

LEGS_COUNTED_MAX = 2_000
"""Legs of a node that one look goes through, newest first as those have most likely not left; beyond them it says that there are more."""


def node_work(core: ShardCore, conn: int, corr: int, command: GetNodeWork, now_ms: int) -> None:
    catalog, state = core.catalog, core.state
    node = catalog.node_of.get(command.node_id)
    if node is None:
        core.answer(conn, corr, refuse("not_found", "", f"no node {command.node_id!r}"))
        return
    held = allocated = 0
    is_owner = catalog.owns_node(node)
    if is_owner:
        positions = state.positions
        rows = positions.node[: positions.size] == node
        held = int(positions.held[: positions.size][rows].sum())
        allocated = int(positions.allocated[: positions.size][rows].sum())
    legs: dict[str, int] = {}
    overdue = 0
    work = state.work.get(node, {})
    for key, slot in islice(reversed(work.items()), LEGS_COUNTED_MAX):
        record = state.order(slot, key >> 12)
        leg = find_leg(record, key & LEG_NO_MAX) if record is not None else None
        if leg is not None:
            label = LegState(leg.state).name.lower()
            legs[label] = legs.get(label, 0) + 1
            overdue += leg.overdue
    core.answer(conn, corr, NodeWork(is_owner, held, allocated, legs, overdue, len(work) > LEGS_COUNTED_MAX))
