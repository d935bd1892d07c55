"""Dated inbound supply: what is on its way to a node. Pure.

B1  A record is a statement of whoever sends the goods: a node, an id, an item, the units still expected and the instant of their
    coming. Stating it again replaces it; an instant may move at will. One that has passed makes the record late.
B2  Expected units are never on hand and never in `free`: no hold, leg or plan is made of them. Who is to have them waits as demand,
    in its rank, and is planned when they have come (docs/adr/0014).
B3  A receipt is a movement like any other and the smaller record, in one entry: units are expected or on hand, never both.
"""

from __future__ import annotations

from engine.domain.commands import CancelInbound, PutInbound, ReceiveInbound
from engine.domain.decide_orders import refuse
from engine.domain.decide_stock import UNITS_MAX, find_node
from engine.domain.events import InboundSet, StockMoved
from engine.domain.replies import Problem
from engine.domain.state import ShardState
from engine.domain.supply import is_uncounted

ROWS_MAX = 1_000
RECORDS_MAX = 50_000
"""Of one node."""
INSTANT_MAX_MS = 4_102_444_800_000
"""The year 2100."""


def put(state: ShardState, command: PutInbound) -> InboundSet | Problem:
    """New records of a node, or what they say now: all or none."""
    node = find_node(state, command.node_id)
    if isinstance(node, Problem):
        return node
    if not 0 < len(command.rows) <= ROWS_MAX:
        return refuse("invalid_field", "/inbound", f"1 to {ROWS_MAX} records", records=len(command.rows))
    part = state.nodes.get(node)
    known = part.inbound if part is not None else {}
    rows: dict[str, tuple[str, int, int, int]] = {}
    for n, (inbound_id, sku, quantity, expected_at_ms) in enumerate(command.rows):
        index = state.catalog.item_of.get(sku)
        item = state.catalog.items[index] if index is not None else None
        if index is None or item is None:
            return refuse("unknown_sku", f"/inbound/{n}/sku", f"no item {sku!r}", sku=sku)
        if item.components or not item.tracked:
            what = "a kit: its components come" if item.components else "not tracked"
            return refuse("invalid_field", f"/inbound/{n}/sku", f"{sku} is {what}", sku=sku)
        if is_uncounted(part, index):
            return refuse("invalid_field", f"/inbound/{n}/sku", f"nobody counts {sku} here: it has no shelf", sku=sku)
        if not 0 < quantity <= UNITS_MAX:
            return refuse("invalid_field", f"/inbound/{n}/quantity", f"{quantity} is not a quantity")
        if not 0 < expected_at_ms < INSTANT_MAX_MS:
            return refuse("invalid_field", f"/inbound/{n}/expected_at", "1970 to 2099")
        if inbound_id in rows:
            return refuse("invalid_field", f"/inbound/{n}/inbound_id", f"{inbound_id} is listed twice")
        if inbound_id in known and known[inbound_id][0] != index:
            was = state.catalog.sku(known[inbound_id][0])
            return refuse("invalid_field", f"/inbound/{n}/sku", f"{inbound_id} brings {was}", expected_sku=was)
        rows[inbound_id] = (inbound_id, index, quantity, expected_at_ms)
    count = len(known) + sum(inbound_id not in known for inbound_id in rows)
    if count > RECORDS_MAX:
        return refuse("invalid_field", "/inbound", f"a node has at most {RECORDS_MAX} records", records=count)
    return InboundSet(node, tuple(rows.values()), command.key_hash, command.fingerprint)


def cancel(state: ShardState, command: CancelInbound) -> InboundSet | Problem:
    """It does not come."""
    found = _find(state, command.node_id, command.inbound_id)
    if isinstance(found, Problem):
        return found
    node, item, _, expected_ms = found
    return InboundSet(node, ((command.inbound_id, item, 0, expected_ms),), command.key_hash, command.fingerprint)


def receive(state: ShardState, command: ReceiveInbound) -> tuple[StockMoved, InboundSet] | Problem:
    """Units have come (None = all that are expected), more than were expected, too. The rest goes on being expected unless it was the last."""
    found = _find(state, command.node_id, command.inbound_id)
    if isinstance(found, Problem):
        return found
    node, item, expected, expected_ms = found
    quantity = expected if command.quantity is None else command.quantity
    row = state.positions.find(item, node)
    on_hand = state.positions.v_on_hand[row] if row >= 0 else 0
    if not 0 < quantity <= UNITS_MAX or on_hand + quantity > UNITS_MAX:
        return refuse("invalid_field", "/quantity", f"{quantity} is not a quantity", on_hand=on_hand)
    if is_uncounted(state.nodes.get(node), item):
        return refuse("invalid_field", "/inbound_id", f"nobody counts {state.catalog.sku(item)} here: it has no shelf")
    left = 0 if command.is_last else max(0, expected - quantity)
    moved = StockMoved(
        node,
        ((item, "received", quantity),),
        f"inbound {command.inbound_id}",
        command.key_hash,
        command.fingerprint,
    )
    return moved, InboundSet(node, ((command.inbound_id, item, left, expected_ms),))


def _find(state: ShardState, node_id: str, inbound_id: str) -> tuple[int, int, int, int] | Problem:
    """(node, item, units expected, expected at)"""
    node = find_node(state, node_id)
    if isinstance(node, Problem):
        return node
    part = state.nodes.get(node)
    record = part.inbound.get(inbound_id) if part is not None else None
    if record is None:
        return refuse("not_found", "/inbound_id", f"nothing of that id is expected at {node_id}")
    return (node, *record)
