"""The state of one shard, and `apply`: the only place where it changes. Replay is a loop over `apply`.

Invariants (asserted where they can break; a breach stops the shard, it never answers wrongly):
S1  A promise (hold, allocation, cross-shard hold) never takes `free` of a position below zero and never deepens a shortage.
    Stock facts (counts, damage, store sales, safety) may: the position is then short and sells nothing.
S2  held and allocated of a position equal the sums over local legs of open orders plus legs held for other shards.
S3  held, allocated, safety, claimed are never negative; nor is what a node has given away of a day's capacity.
S4  A terminal order (released, expired, cancelled) never changes again; a repeat gets the first outcome.
S5  A hold is live iff its state is held and journaled time < its effective expiry, swept or not.
S6  Applying an event to a part reads no other part. Parts: one node's stock ("node:7"), one slot's orders ("slot:US100"),
    and "misc". An entry is applied only to parts older than it.
S7  State is a function of the journal: nothing here reads a clock, draws a random number or iterates over a set. (Only keys
    that are forgotten early, because there are too many, come back with a replay.)

Transitions of an order: held -> committed (decide_legs.commit) | released, expired (decide_legs.end_hold);
committed -> cancelled (decide_legs.cancel). Of a leg: see orders.LegState; each step is decide_legs.act.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np

from engine.domain import boxes
from engine.domain.boxes import Box
from engine.domain.catalog import Catalog
from engine.domain.errors import InvariantBreach
from engine.domain.events import (
    Cause,
    DriveAcked,
    Event,
    InboundSet,
    LegDriven,
    LegHeld,
    LegShifted,
    OrderPut,
    OrdersClosed,
    PositionSet,
    Recovered,
    StockCounted,
    StockMoved,
    WaveDone,
)
from engine.domain.expected import Expected
from engine.domain.feeds import Feeds, note_count
from engine.domain.ids import EPOCH_2020_MS, order_no_time_ms
from engine.domain.keys import KeyTable, hash_of
from engine.domain.movements import Movements
from engine.domain.orders import LegState, OrderRecord, OrderState, decode_record, encode_record, is_at_end
from engine.domain.positions import Capacity, Positions
from engine.domain.stock import apply_capacity, apply_stock, change_on_hand, note_short, refence

__all__ = ["ForeignLeg", "ShardState", "apply", "decode_record", "encode_record", "leg_key"]

DEDUPE_WINDOW_MS = 24 * 3_600_000
DEDUPE_WINDOW_MIN_MS = 3_600_000
DEDUPE_STEP_MS = 600_000
HOLD_LIFE_MAX_MS = 24 * 3_600_000
LEG_NO_MAX = (1 << 12) - 1


def leg_key(order_no: int, leg_no: int) -> int:
    """One integer for (order number, leg number); numeric order is that of the pair."""
    return order_no << 12 | leg_no


class ForeignLeg(msgspec.Struct, array_like=True, gc=False):
    """A leg at a node of ours of an order whose home is another shard. `resolved` once home has spoken about it."""

    home: int
    txn: int
    slot: str
    order_no: int
    leg_no: int
    state: int
    ship_day: int
    capacity_units: int
    lines: tuple[tuple[int, int], ...]
    held_at_ms: int
    resolved: bool = False
    shipped: tuple[tuple[int, int], ...] = ()
    version: int = 0
    """Version of the home record that it was last driven to."""
    written_off: tuple[tuple[int, int], ...] = ()
    emptied: tuple[int, ...] = ()
    takes: tuple[tuple[int, int, int], ...] = ()
    takes_capacity: tuple[tuple[int, int], ...] = ()
    """What it will take over of older legs of its order, see events.LegHeld."""


class NodePart:
    """What a node's part holds beside its positions: dedupe, feeds, late movements, settings, inbound, legs of foreign orders."""

    __slots__ = ("dedupe", "feeds", "foreign", "inbound", "movements", "settings")

    def __init__(self) -> None:
        self.dedupe = KeyTable()
        self.feeds: Feeds = {}
        self.movements = Movements()
        self.settings: dict[int, tuple[str, int, int]] = {}
        """Supply mode, trust in basis points and daily cap by item, where they differ from plain counted."""
        self.foreign: dict[int, ForeignLeg] = {}
        """By leg_key."""
        self.inbound: dict[str, tuple[int, int, int]] = {}
        """(item, units still expected, expected at in ms) by inbound id, see inbound.py."""


class SlotPart:
    """A slot's orders (packed records by number), their ids, and its idempotency keys."""

    __slots__ = ("dedupe", "ids", "orders")

    def __init__(self) -> None:
        self.orders: dict[int, bytes] = {}
        self.ids: dict[int, int] = {}
        """Newest order number by hash of the caller's order id. Derived. The record says whether it is really that id."""
        self.dedupe = KeyTable()


class ShardState:
    """Everything a shard knows. Change it only through `apply`; claims (positions, capacity) are the in-memory exception."""

    def __init__(self, catalog: Catalog, *, dedupe_max: int = 5_000_000) -> None:
        self.catalog = catalog
        self.positions = Positions()
        self.capacity = Capacity()
        self.slots: dict[str, SlotPart] = {}
        self.nodes: dict[int, NodePart] = {}
        self.seq = 0
        self.time_ms = 0
        """Journal time of the newest entry applied: never goes back."""
        self.counts_heard = 0
        """Goes up with every count, of own nodes and of others."""
        self.heard_counts: dict[int, int] = {}
        """Instant (ms) of the newest count by node, as other owners said (feed_age.py, A2)."""
        self.view_points: dict[int, tuple[int, int]] = {}
        """(epoch, seq) that the view of each other shard contains: what a decision saw of the stock elsewhere. In memory."""
        self.closed_orders = 0
        """Orders that left since this process began."""
        self.recovered_at_ms = 0
        self.grace_until_ms = 0
        self.waves_ms: dict[int, int] = {}
        """Until when each node's release waves are done for this home's orders."""
        self.expected = Expected(self)
        self.boxes: dict[str, Box] = {}
        """Parts on their way to or from another shard: nothing of them is live here."""
        self.gone: dict[str, None] = {}
        """Parts that left, or did not come: their snapshots say so."""
        self.txn_offset = 0
        """Added to the epoch in transaction numbers, so that they follow those of the homes that moved slots were at before."""
        self.part_seq: dict[str, int] = {}
        """While replaying: the entry each loaded part is true after."""
        self.dirty: dict[int | str, None] = {}
        """Parts changed since they were last packed, oldest change first: a node's index, a slot's name, '' = misc."""
        self.watched = False
        """Whether anybody follows this shard's positions: else `touched` need not be kept."""
        self.touched: dict[int, None] = {}
        """Positions (item << 32 | node) changed since the views were last told."""
        self.touched_capacity: dict[int, None] = {}
        """Nodes whose capacity changed since the views were last told."""
        self.touched_counts: dict[int, None] = {}
        """Nodes that were counted since the views were last told."""
        self.open_holds = 0
        self.open_orders = 0
        self.short_positions: dict[tuple[int, int], None] = {}
        """(node, item) of positions that promised more than they have. Derived."""
        self.kept: dict[int, int] = {}
        """Units (item << 32 | node) kept from general sale for demand that waits for them, as far as they are free. In memory."""
        self.dedupe_count = 0
        self.dedupe_max = dedupe_max
        self.dedupe_cutoff_ms = 0
        """The latest cut-off of the tables (KeyTable.cutoff_ms): how far back every key is still known."""
        self.foreign_node: dict[int, int] = {}
        """Node of each leg held for another home, by leg_key. Derived."""
        self.work: dict[int, dict[int, str]] = {}
        """Slot by leg_key of each node's legs that are committed and not yet delivered or ended. Derived."""

    def slot(self, key: str) -> SlotPart:
        part = self.slots.get(key)
        if part is None:
            part = self.slots[key] = SlotPart()
        return part

    def node(self, node: int) -> NodePart:
        part = self.nodes.get(node)
        if part is None:
            part = self.nodes[node] = NodePart()
        return part

    def order(self, slot: str, order_no: int) -> OrderRecord | None:
        """The unpacked record; None where this shard has no such order."""
        part = self.slots.get(slot)
        packed = part.orders.get(order_no) if part else None
        return decode_record(packed) if packed is not None else None

    def order_of_id(self, slot: str, order_id: str) -> tuple[int, OrderRecord] | None:
        """The newest order under the caller's id in a slot."""
        part = self.slots.get(slot)
        order_no = part.ids.get(hash_of(order_id)) if part else None
        packed = part.orders.get(order_no) if part is not None and order_no is not None else None
        if packed is None or order_no is None:
            return None
        record = decode_record(packed)
        return (order_no, record) if record.order_id == order_id else None

    def foreign_leg(self, order_no: int, leg_no: int) -> tuple[int, ForeignLeg] | None:
        """(node, leg) of a leg held here for another home."""
        key = leg_key(order_no, leg_no)
        node = self.foreign_node.get(key)
        return (node, self.nodes[node].foreign[key]) if node is not None else None

    def effective_expiry_ms(self, order_no: int, record: OrderRecord) -> int:
        """A hold that was open while the shard was away lives on for a grace period, at most to its longest life."""
        expires_at_ms = record.expires_at_ms
        if expires_at_ms < self.grace_until_ms:
            opened_ms = order_no_time_ms(order_no)
            if opened_ms <= self.recovered_at_ms:
                return max(expires_at_ms, min(self.grace_until_ms, opened_ms + HOLD_LIFE_MAX_MS))
        return expires_at_ms

    def free_total(self, item: int) -> int:
        """Units available to promise of an item over all positions this shard sees, its own and its views'."""
        return self.positions.free_total(item)

    def key_tables(self) -> list[KeyTable]:
        return [part.dedupe for part in self.slots.values()] + [part.dedupe for part in self.nodes.values()]

    def make_room(self, now_ms: int) -> bool:
        """Whether another idempotency key can be remembered; forgets the oldest early, but none of the last hour's."""
        while self.dedupe_count >= self.dedupe_max:
            tables = [table for table in self.key_tables() if len(table)]
            oldest = min(table.oldest_ms() for table in tables)
            cutoff = min(oldest + DEDUPE_STEP_MS, now_ms - DEDUPE_WINDOW_MIN_MS)
            if oldest >= cutoff:
                return False
            for table in tables:
                forgotten = table.forget(cutoff, limit=len(table))
                if forgotten:
                    self.dedupe_count -= forgotten
                    table.cutoff_ms = max(table.cutoff_ms, cutoff)
            self.dedupe_cutoff_ms = max(self.dedupe_cutoff_ms, cutoff)
        return True

    def dedupe_window_ms(self, now_ms: int) -> int:
        """How far back every key is still known."""
        return min(DEDUPE_WINDOW_MS, now_ms - self.dedupe_cutoff_ms)


def apply(state: ShardState, event: Event, *, seq: int, time_ms: int, replay: bool = False) -> None:
    """Make an event's effect. `replay` = skip the parts whose snapshot already contains entry `seq` (S6)."""
    handler = _APPLY.get(type(event))
    if handler is None:
        raise InvariantBreach(f"unknown event {event!r}")
    handler(state, event, seq, time_ms, replay)


def _apply_order(state: ShardState, event: OrderPut, seq: int, time_ms: int, replay: bool) -> None:
    if event.stock:
        apply_stock(state, event.stock, seq, time_ms, replay)
    if event.capacity:
        apply_capacity(state, event.capacity, seq, replay)
    slot = event.slot
    if replay and seq <= state.part_seq.get("slot:" + slot, 0):
        return
    part = state.slots.get(slot) or state.slot(slot)
    part.orders[event.order_no] = event.record
    if event.key_hash:
        remember(state, part.dedupe, event.key_hash, event.fingerprint, event.order_no, time_ms)
    state.dirty[slot] = None


def _apply_acked(state: ShardState, event: DriveAcked, seq: int, time_ms: int, replay: bool) -> None:
    if replay and seq <= state.part_seq.get("slot:" + event.slot, 0):
        return
    orders = state.slot(event.slot).orders
    record = decode_record(orders[event.order_no])
    for leg in record.legs:
        if leg.leg_no in event.leg_nos:
            leg.driving = False
    orders[event.order_no] = encode_record(record)
    state.dirty[event.slot] = None


def _apply_closed(state: ShardState, event: OrdersClosed, seq: int, time_ms: int, replay: bool) -> None:
    if replay and seq <= state.part_seq.get("slot:" + event.slot, 0):
        return
    part = state.slot(event.slot)
    for order_no in event.order_nos:
        packed = part.orders.pop(order_no, None)
        if packed is not None:
            id_hash = hash_of(decode_record(packed).order_id)
            if part.ids.get(id_hash) == order_no:
                del part.ids[id_hash]
            state.closed_orders += 1
    state.dirty[event.slot] = None


def _newer(state: ShardState, node: int, seq: int, replay: bool) -> bool:
    """Whether an entry is to be applied to a node's part."""
    return not replay or seq > state.part_seq.get(f"node:{node}", 0)


def _apply_leg_held(state: ShardState, event: LegHeld, seq: int, time_ms: int, replay: bool) -> None:
    node = event.node
    if not _newer(state, node, seq, replay):
        return
    stock: list[int] = []
    for item, units in event.lines:
        stock += (node, item, 0, units, 0)
    apply_stock(state, tuple(stock), seq, time_ms, replay)
    if event.capacity_units:
        apply_capacity(state, (node, event.ship_day, event.capacity_units), seq, replay)
    key = leg_key(event.order_no, event.leg_no)
    foreign = state.node(node).foreign
    if key in foreign:
        raise InvariantBreach(f"S2: leg {event.leg_no} of order {event.order_no} is held twice at entry {seq}")
    foreign[key] = ForeignLeg(
        event.home,
        event.txn,
        event.slot,
        event.order_no,
        event.leg_no,
        LegState.HELD,
        event.ship_day,
        event.capacity_units,
        event.lines,
        time_ms,
        takes=event.takes,
        takes_capacity=event.takes_capacity,
    )
    state.foreign_node[key] = node
    state.dirty[node] = None


def _apply_leg_driven(state: ShardState, event: LegDriven, seq: int, time_ms: int, replay: bool) -> None:
    node = event.node
    if not _newer(state, node, seq, replay):
        return
    if event.stock:
        apply_stock(state, event.stock, seq, time_ms, replay)
    if event.capacity:
        apply_capacity(state, event.capacity, seq, replay)
    key = leg_key(event.order_no, event.leg_no)
    foreign = state.node(node).foreign
    if event.lines:
        leg = foreign[key]
        leg.state = event.to
        leg.lines = event.lines
        leg.shipped = event.shipped
        leg.capacity_units = event.capacity_left
        leg.version = event.version
        leg.written_off = event.written_off
        leg.emptied = event.emptied
        leg.resolved = True
    else:  # nothing of it is left here: a repeat of the drive needs no leg to be acknowledged
        del foreign[key]
        if state.foreign_node.get(key) == node:  # replaying: a newer part may hold the leg at another node by now
            del state.foreign_node[key]
    state.dirty[node] = None


def _apply_leg_shifted(state: ShardState, event: LegShifted, seq: int, time_ms: int, replay: bool) -> None:
    if not _newer(state, event.node, seq, replay):
        return
    if event.stock:
        apply_stock(state, event.stock, seq, time_ms, replay)
    foreign = state.node(event.node).foreign
    old, new = foreign[leg_key(event.order_no, event.from_leg)], foreign[leg_key(event.order_no, event.to_leg)]
    left, more = dict(old.lines), dict(new.lines)
    for item, units in event.lines:
        left[item] -= units
        more[item] = more.get(item, 0) + units
    old.lines = tuple([(item, units) for item, units in sorted(left.items()) if units])
    new.lines = tuple(sorted(more.items()))
    old.capacity_units -= event.capacity_units
    new.capacity_units += event.capacity_units
    new.takes = tuple([entry for entry in new.takes if entry[0] != event.from_leg])
    new.takes_capacity = tuple([entry for entry in new.takes_capacity if entry[0] != event.from_leg])
    if event.version > 0:  # the home has decided: what it said of the older leg before is out of date
        old.resolved, old.version = True, max(old.version, event.version)
    if min(left.values(), default=0) < 0 or old.capacity_units < 0:
        raise InvariantBreach(f"S3: leg {event.from_leg} of order {event.order_no} gives more than it has, entry {seq}")
    state.dirty[event.node] = None


def _apply_moved(state: ShardState, event: StockMoved, seq: int, time_ms: int, replay: bool) -> None:
    if not _newer(state, event.node, seq, replay):
        return
    for item, _kind, change in event.moves:
        change_on_hand(state, event.node, item, change, moved_ms=time_ms)
    _remember_at_node(state, event, time_ms)


def _apply_counted(state: ShardState, event: StockCounted, seq: int, time_ms: int, replay: bool) -> None:
    if not _newer(state, event.node, seq, replay):
        return
    counted_s, counted_ms = divmod(max(1_000, event.as_of_ms - EPOCH_2020_MS), 1_000)
    for item, change in event.rows:
        row = change_on_hand(state, event.node, item, change, moved_ms=None)
        state.positions.v_counted_s[row] = counted_s
        state.positions.v_counted_ms[row] = counted_ms
    note_count(state.node(event.node).feeds, event, time_ms)
    state.touched_counts[event.node] = None
    state.counts_heard += 1
    _remember_at_node(state, event, time_ms)


def _apply_set(state: ShardState, event: PositionSet, seq: int, time_ms: int, replay: bool) -> None:
    node = event.node
    if not _newer(state, node, seq, replay):
        return
    part = state.node(node)
    for item, safety, mode, trust_bp, daily_cap in event.rows:
        row = state.positions.ensure(item, node)
        state.positions.v_safety[row] = safety
        if mode == "counted":
            part.settings.pop(item, None)
        else:
            part.settings[item] = (mode, trust_bp, daily_cap)
        refence(state, node, item, row)
        state.touched[item << 32 | node] = None
        note_short(state, node, item, row)
    _remember_at_node(state, event, time_ms)


def _apply_inbound(state: ShardState, event: InboundSet, seq: int, time_ms: int, replay: bool) -> None:
    if not _newer(state, event.node, seq, replay):
        return
    inbound = state.node(event.node).inbound
    for inbound_id, item, quantity, expected_ms in event.rows:
        old = inbound.get(inbound_id)
        new = (item, quantity, expected_ms) if quantity else None
        if new is not None:
            inbound[inbound_id] = new
        elif old is not None:
            del inbound[inbound_id]
        state.expected.changed(event.node, inbound_id, old, new)
    _remember_at_node(state, event, time_ms)


def _remember_at_node(
    state: ShardState, event: StockMoved | StockCounted | PositionSet | InboundSet, time_ms: int
) -> None:
    if event.key_hash:
        remember(state, state.node(event.node).dedupe, event.key_hash, event.fingerprint, 0, time_ms)
    state.dirty[event.node] = None


def _apply_wave(state: ShardState, event: WaveDone, seq: int, time_ms: int, replay: bool) -> None:
    if not replay or seq > state.part_seq.get("misc", 0):
        state.waves_ms[event.node] = event.at_ms
        state.dirty[""] = None


def _apply_recovered(state: ShardState, event: Recovered, seq: int, time_ms: int, replay: bool) -> None:
    if not replay or seq > state.part_seq.get("misc", 0):
        state.recovered_at_ms = event.at_ms
        state.grace_until_ms = event.grace_until_ms
        state.dirty[""] = None


_APPLY: dict[type, Callable[[ShardState, Any, int, int, bool], None]] = {
    OrderPut: _apply_order,
    DriveAcked: _apply_acked,
    LegHeld: _apply_leg_held,
    LegShifted: _apply_leg_shifted,
    LegDriven: _apply_leg_driven,
    StockMoved: _apply_moved,
    StockCounted: _apply_counted,
    PositionSet: _apply_set,
    Recovered: _apply_recovered,
    OrdersClosed: _apply_closed,
    WaveDone: _apply_wave,
    InboundSet: _apply_inbound,
    **boxes.APPLY,
}


def remember(state: ShardState, table: KeyTable, key_hash: int, fingerprint: int, order_no: int, time_ms: int) -> None:
    """Remember an idempotency key, and forget two of the same part that are past the window, where there are any."""
    if table.put(key_hash, fingerprint, order_no, time_ms):
        state.dedupe_count += 1
    state.dedupe_count -= table.forget(time_ms - DEDUPE_WINDOW_MS, limit=2)


def note_holder(state: ShardState, key: int, node: int) -> None:
    """Index a leg that a node's part holds. Where another node holds one of its number, the one of the newer transaction counts."""
    other = state.foreign_node.get(key, node)
    if other == node or state.nodes[other].foreign[key].txn < state.nodes[node].foreign[key].txn:
        state.foreign_node[key] = node


def index_order(state: ShardState, slot: str, order_no: int, record: OrderRecord) -> None:
    """Index a new record by its order id. Live, the decider calls this with the record it has at hand."""
    (state.slots.get(slot) or state.slot(slot)).ids[hash_of(record.order_id)] = order_no


_HELD, _COMMITTED, _LEG_RELEASED = int(OrderState.HELD), int(OrderState.COMMITTED), int(LegState.RELEASED)
_LEG_SHIPPED = int(LegState.SHIPPED)
_ON_WORK_LIST = tuple(
    int(state)
    for state in (LegState.ALLOCATED, LegState.RELEASED, LegState.ACCEPTED, LegState.PICKING, LegState.SHIPPED)
)


def index_work(state: ShardState, slot: str, order_no: int, record: OrderRecord) -> None:
    """Put a committed order's legs on their nodes' work lists, or take them off."""
    work = state.work
    for leg in record.legs:
        entries = work.get(leg.node)
        if entries is None:
            entries = work[leg.node] = {}
        if leg.state in _ON_WORK_LIST:
            entries[order_no << 12 | leg.leg_no] = slot
        else:
            entries.pop(order_no << 12 | leg.leg_no, None)


class Derived(NamedTuple):
    """What recovery finds out for the protocol while it rebuilds the indexes."""

    holds: list[tuple[int, str, int]]
    """(expires_at_ms, slot, order number) of each open hold."""
    driving: list[tuple[str, int]]
    """Orders with legs that other shards have not acknowledged."""
    newest_order_no: dict[int, int]
    """By the shard that made it."""
    waiting: list[tuple[str, int]]
    """Committed orders with demand."""
    ended: list[tuple[str, int]]
    """Orders that may leave the state."""
    to_accept: list[tuple[str, int]]
    """Orders with released legs that have a deadline."""
    on_their_way: list[tuple[str, int]]
    """Orders with legs that are shipped and not yet delivered."""


def rebuild_indexes(state: ShardState) -> Derived:
    """After loading and replaying: recount what is derived."""
    derived = Derived([], [], {}, [], [], [], [])
    state.open_holds = state.open_orders = 0
    state.work.clear()
    state.dedupe_count = sum(len(table) for table in state.key_tables())
    state.foreign_node = {}
    for node, node_part in sorted(state.nodes.items()):
        for key in node_part.foreign:
            note_holder(state, key, node)
    newest = derived.newest_order_no
    for slot, part in state.slots.items():
        numbers = sorted(part.orders)
        part.ids = ids = {}
        for order_no in numbers:
            record = decode_record(part.orders[order_no])
            ids[hash_of(record.order_id)] = order_no
            driving = unaccepted = shipped = False
            for leg in record.legs:
                driving = driving or leg.driving
                unaccepted = unaccepted or (leg.accept_by_s != 0 and leg.state == _LEG_RELEASED)
                shipped = shipped or leg.state == _LEG_SHIPPED
            if driving:
                derived.driving.append((slot, order_no))
            if record.state == _HELD:
                derived.holds.append((record.expires_at_ms, slot, order_no))
                continue
            if is_at_end(record):
                derived.ended.append((slot, order_no))
            if record.state == _COMMITTED:
                state.open_orders += 1
                index_work(state, slot, order_no, record)
                if record.demand:
                    derived.waiting.append((slot, order_no))
                if unaccepted:
                    derived.to_accept.append((slot, order_no))
                if shipped:
                    derived.on_their_way.append((slot, order_no))
        for order_no in numbers:
            maker = order_no >> 14 & 0xFF
            if order_no > newest.get(maker, 0):
                newest[maker] = order_no
    state.open_holds = len(derived.holds)
    positions = state.positions
    positions.merge()
    n = positions.size
    free = positions.on_hand[:n] - positions.safety[:n] - positions.held[:n] - positions.allocated[:n]
    short = np.flatnonzero(free - positions.fenced[:n] < 0)
    state.short_positions = {
        (node, item): None
        for item, node in zip(positions.items()[short].tolist(), positions.node[short].tolist(), strict=True)
    }
    return derived


OPENING = (Cause.RESERVED, Cause.ALLOCATED)
"""Causes of an order's first record."""
