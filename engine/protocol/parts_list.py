"""What a shard owns, part by part, with sizes good enough to plan moves by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.domain.move_commands import ListParts
from engine.domain.placement import band_count, band_of_slot, shard_of_band
from engine.domain.replies import PartsReply

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

ORDER_BYTES = 300
KEY_BYTES = 40
POSITION_BYTES = 44


def list_parts(core: ShardCore, conn: int, corr: int, command: ListParts, now_ms: int) -> None:
    """Nodes, slots that have orders or keys or are listed in the map, and bands."""
    state, catalog = core.state, core.catalog
    placement = catalog.placement
    rows: list[tuple[str, int, int]] = []
    positions = state.positions
    per_node = np.bincount(positions.node[: positions.size], minlength=len(catalog.nodes))
    for node, owner in enumerate(catalog.owner):
        if owner == core.shard:
            part = state.nodes.get(node)
            legs = len(state.work.get(node, ())) + (len(part.foreign) if part is not None else 0)
            rows.append((f"node:{catalog.node_id(node)}", int(per_node[node]) * POSITION_BYTES, legs))
    names = dict.fromkeys([*state.slots, *(slot for slot, owner in placement.slots.items() if owner == core.shard)])
    for slot in names:
        if not core.views.owns_slot(slot):
            continue
        held = state.slots.get(slot)
        orders, keys = (len(held.orders), len(held.dedupe)) if held is not None else (0, 0)
        if orders or keys or slot in placement.slots:
            rows.append((f"slot:{slot}", orders * ORDER_BYTES + keys * KEY_BYTES, orders))
    for band in range(band_count(placement)):
        if shard_of_band(placement, band) == core.shard:
            rows.append((f"band:{band}", 0, sum(band_of_slot(placement, slot) == band for slot in state.slots)))
    core.answer(conn, corr, PartsReply(tuple(rows)))
