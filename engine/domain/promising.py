"""What a node may promise of its stock: whether it takes work of a method, what it keeps back, and what is left."""

from __future__ import annotations

from engine.domain.config import Node
from engine.domain.feed_age import Lateness, kept_units, lateness_at
from engine.domain.orders import LineRecord, Method
from engine.domain.state import ShardState
from engine.domain.stock import distrusted

METHOD_TAGS = {Method.SHIP: "ship", Method.PICKUP: "pickup", Method.SHIP_TO_STORE: "ship_to_store"}
TAG_OF = tuple(METHOD_TAGS.get(method, "") for method in Method)


def could_serve(document: Node | None, tag: str, channel_id: str | None) -> bool:
    """Whether a node takes new work of a method for a channel (None = of any): what availability shows and refusals add up."""
    return (
        document is not None
        and document.state == "on"
        and tag in document.offers
        and (channel_id is None or document.channels is None or channel_id in document.channels)
    )


def extra_safety(state: ShardState, node: int, method: int) -> int:
    """Units of every position of a node that this method must leave, beyond the position's own safety."""
    nodes = state.catalog.nodes
    document = nodes[node] if node < len(nodes) else None
    if document is None or not document.safety_by_method:
        return 0
    return document.safety_by_method.get(TAG_OF[method], 0) if method < len(TAG_OF) else 0


def to_promise(state: ShardState, row: int, method: int, *, now_ms: int) -> tuple[int, int]:
    """(units of a position that stay on the shelf for a method, units that it may still promise): safety, and old counts."""
    positions = state.positions
    node, own = positions.v_node[row], positions.v_safety[row]
    late = lateness_at(state, node, now_ms)
    kept = kept_units(late, own + extra_safety(state, node, method))
    return kept, 0 if late is Lateness.EXCLUDED else max(0, positions.free(row) + own - kept)


def to_promise_with(state: ShardState, node: int, item: int, method: int, units: int, *, now_ms: int) -> int:
    """Units that a position could promise with so many more on its shelf; what is kept for waiting demand is among them."""
    late = lateness_at(state, node, now_ms)
    if late is Lateness.EXCLUDED:
        return 0
    positions, kept = state.positions, extra_safety(state, node, method)
    row = positions.find(item, node)
    if row >= 0:
        kept += positions.v_safety[row]
        on_hand = positions.v_on_hand[row] + units
        free = positions.free(row) + positions.v_safety[row] + positions.v_fenced[row] + units
    else:
        on_hand = free = units
    return max(0, free - distrusted(state, node, item, on_hand) - kept_units(late, kept))


def available_units(state: ShardState, line: LineRecord, channel_id: str, now_ms: int) -> tuple[int, int]:
    """Units a line could get: at its own node where it names one, else at all that could serve it. And free units it may not have."""
    if not state.free_total(line.item):
        return 0, 0
    positions, nodes = state.positions, state.catalog.nodes
    tag = TAG_OF[line.method]
    units = elsewhere = 0
    for row in positions.rows(line.item):
        free = max(0, positions.free(row))
        node = positions.v_node[row]
        serves = tag if line.method != Method.SHIP_TO_STORE or node == line.pickup_node else "ship"
        is_its_own = line.method != Method.PICKUP or node == line.pickup_node
        if free and is_its_own and node < len(nodes) and could_serve(nodes[node], serves, channel_id):
            usable = min(free, to_promise(state, row, line.method, now_ms=now_ms)[1])
            units += usable
            free -= usable
        elsewhere += free
    return units, elsewhere
