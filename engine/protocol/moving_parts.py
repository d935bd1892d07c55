"""What a part's coming and going means for the protocol's memory: all that is derived from a slot's orders or a node's stock.

`part_legs` makes a part self-contained before it is boxed: legs of this shard's own orders at its own nodes become legs that the
node's part holds for another home, though that home may be this very shard. Home then drives them like any other. `keep_grace` does the
same for the end of a hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.domain.boxes import rows_of
from engine.domain.decide_legs import drive_target
from engine.domain.events import Cause
from engine.domain.ids import order_no_time_ms
from engine.domain.keys import hash_of
from engine.domain.move_events import LegsParted
from engine.domain.orders import LegState, OrderState, decode_record, encode_record, is_at_end
from engine.domain.state import index_work, leg_key
from engine.domain.stock import note_short, refence

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

_LIVE = (LegState.HELD, LegState.ALLOCATED, LegState.RELEASED, LegState.ACCEPTED, LegState.PICKING)


def part_legs(core: ShardCore, slot: str, order_no: int, node: int, *, now_ms: int) -> bool:
    """Part an order's live legs at a node (-1 = at every node) from its record; False where it has none."""
    record = core.state.order(slot, order_no)
    if record is None:
        return False
    legs = [leg for leg in record.legs if leg.local and leg.state in _LIVE and node in (-1, leg.node)]
    if not legs:
        return False
    rows = []
    for leg in legs:
        stale = core.state.foreign_node.get(leg_key(order_no, leg.leg_no))
        if stale is not None:
            core.participant.free_stale(order_no, leg.leg_no, stale, now_ms)
        leg.local = False
        leg.txn = core.two_phase.next_txn()
        target = drive_target(record, leg)
        rows.append(
            (
                leg.leg_no,
                leg.node,
                leg.txn,
                target.to,
                leg.ship_day,
                leg.capacity_units,
                target.lines,
                target.shipped,
                target.written_off,
                target.emptied,
            )
        )
    batch = core.batch(now_ms)
    core.put(batch, LegsParted(slot, order_no, encode_record(record), record.version, tuple(rows)))
    batch.size += 64 * len(rows) + 400
    core.two_phase.overtake(order_no)
    for leg in legs:
        core.participant.took_over(order_no, leg.leg_no, now_ms)
    return True


def keep_grace(core: ShardCore, slot: str, order_no: int, *, now_ms: int) -> None:
    """Write the end of a hold that was open while this shard was away into its record: the grace period is this shard's own."""
    record = core.state.order(slot, order_no)
    if record is None or record.state != OrderState.HELD:
        return
    expires_at_ms = core.state.effective_expiry_ms(order_no, record)
    if expires_at_ms > record.expires_at_ms:
        record.expires_at_ms = expires_at_ms
        core.put_order(core.batch(now_ms), Cause.EXTENDED, slot, order_no, record, [], [])


def slot_leaves(core: ShardCore, slot: str) -> None:
    """Forget what is derived from a slot's orders; they are still there, and will not be."""
    state = core.state
    part = state.slots.get(slot)
    for order_no, packed in part.orders.items() if part is not None else ():
        record = decode_record(packed)
        if record.state == OrderState.HELD:
            state.open_holds -= 1
            if core.hold_caps is not None:
                core.hold_caps.ended(record)
        elif record.state == OrderState.COMMITTED:
            state.open_orders -= 1
            for leg in record.legs:
                entries = state.work.get(leg.node)
                if entries is not None:
                    entries.pop(order_no << 12 | leg.leg_no, None)
        core.demand.left(order_no)
        for leg in record.legs:
            core.driver.forget(order_no, leg.leg_no)


def slot_came(core: ShardCore, slot: str, now_ms: int) -> None:
    """Take up everything that a slot's orders need."""
    state = core.state
    part = state.slots.get(slot)
    if part is None:
        return
    part.ids = {}
    for order_no in sorted(part.orders):
        record = decode_record(part.orders[order_no])
        part.ids[hash_of(record.order_id)] = order_no
        if is_at_end(record):
            core.closing.ended(slot, order_no, max(state.time_ms, order_no_time_ms(order_no)))
        if record.state == OrderState.HELD:
            state.open_holds += 1
            core.watch_expiry(record.expires_at_ms, slot, order_no)
            if core.hold_caps is not None:
                core.hold_caps.opened(record)
        elif record.state == OrderState.COMMITTED:
            state.open_orders += 1
            index_work(state, slot, order_no, record)
            core.acceptance.watch(slot, order_no, record)
            core.arrivals.watch(slot, order_no, record)
            if record.demand:
                core.demand.index(slot, order_no, record)
        core.driver.drive(state.seq, slot, order_no, record)


def node_leaves(core: ShardCore, node: int) -> None:
    """Forget what is kept at a node for waiting orders: its next owner decides about that."""
    core.demand.keeping.leave(node)


def node_came(core: ShardCore, node: int, now_ms: int) -> None:
    """Take up what a node's stock and legs need, and show it to whoever follows."""
    state = core.state
    items = state.positions.items()
    part = state.nodes.get(node)
    for row in rows_of(state, node).tolist():
        item = int(items[row])
        refence(state, node, item, row)
        note_short(state, node, item, row)
        state.touched[item << 32 | node] = None
    state.touched_capacity[node] = None
    state.touched_counts[node] = None
    state.counts_heard += 1
    core.demand.keeping.came(node)
    core.supply.look_again()
    legs = list(part.foreign.values()) if part is not None else []
    for leg in legs:
        key = leg_key(leg.order_no, leg.leg_no)
        for other, other_part in list(state.nodes.items()):
            twin = other_part.foreign.get(key) if other != node else None
            if twin is not None:
                older = other if state.foreign_node[key] == node else node
                core.participant.free_stale(leg.order_no, leg.leg_no, older, now_ms)
    for leg in [leg for leg in legs if state.foreign_node.get(leg_key(leg.order_no, leg.leg_no)) == node]:
        core.participant.took_over(leg.order_no, leg.leg_no, now_ms)
