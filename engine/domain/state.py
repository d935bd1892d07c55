"""The state of one shard, and `apply`: the only place where it changes. Replay is a loop over `apply`.

Invariants (asserted where they can break; a breach stops the shard, it never answers wrongly):
S1  A promise (hold, allocation, cross-shard hold) never takes `free` of a position below zero and never deepens a shortage.
    Stock facts (counts, damage, store sales, safety) may: the position is then short and sells nothing.
S2  held and allocated of a position equal the sums over local legs of open orders plus legs held for other shards.
S3  held, allocated, safety, claimed are never negative.
S4  A terminal order (released, expired, cancelled) never changes again; a repeat gets the first outcome.
S5  A hold is live iff its state is held and journaled time < its effective expiry, swept or not.
S6  Applying an event to a part reads no other part. Parts: one node's stock ("node:7"), one slot's orders ("slot:US100"),
    and "misc". An entry is applied only to parts older than it.
S7  State is a function of the journal: nothing here reads a clock, draws a random number or iterates over a set.

Transitions of an order: held -> committed (decide_holds.commit) | released (release) | expired (expire);
committed -> cancelled (decide_orders.cancel). Of a leg: see orders.LegState; each step is decide_legs.act.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from engine.domain.catalog import Catalog
from engine.domain.errors import InvariantBreach
from engine.domain.events import (
    Cause,
    Event,
    LegDriven,
    LegHeld,
    OrderPut,
    PositionSet,
    Recovered,
    StockCounted,
    StockMoved,
)
from engine.domain.ids import EPOCH_2020_MS
from engine.domain.orders import LegState, OrderRecord, OrderState
from engine.domain.positions import Capacity, Positions

DEDUPE_WINDOW_MS = 24 * 3_600_000
DEDUPE_WINDOW_MIN_MS = 3_600_000
MOVEMENTS_KEPT_MS = 48 * 3_600_000
_RECORD = msgspec.msgpack.Decoder(OrderRecord)
decode_record = _RECORD.decode
encode_record = msgspec.msgpack.Encoder().encode


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


class NodePart:
    """What a node's part holds beside its positions: dedupe, feeds, late movements, settings, legs of foreign orders."""

    __slots__ = ("dedupe", "feeds", "foreign", "movements", "settings")

    def __init__(self) -> None:
        self.dedupe: dict[int, int] = {}
        self.feeds: dict[str, tuple[int, int]] = {}
        """Newest (source_seq, as_of_ms) by source."""
        self.movements: list[tuple[int, int, int]] = []
        """(time_ms, item, change of on hand) of the last two days, to net counts that arrive late."""
        self.settings: dict[int, tuple[str, int, int]] = {}
        """Supply mode, trust in basis points and daily cap by item, where they differ from plain counted."""
        self.foreign: dict[tuple[int, int], ForeignLeg] = {}
        """By (order number, leg number)."""


class SlotPart:
    """A slot's orders (packed records by number), their ids, and its idempotency keys."""

    __slots__ = ("dedupe", "order_ids", "orders")

    def __init__(self) -> None:
        self.orders: dict[int, bytes] = {}
        self.order_ids: dict[str, int] = {}
        """Newest order number by the caller's order id."""
        self.dedupe: dict[int, int] = {}
        """Key hash -> fingerprint, order number, journal time packed into one integer (see pack_dedupe)."""


def pack_dedupe(fingerprint: int, order_no: int, time_ms: int) -> int:
    """One integer instead of a tuple: a third of the memory at millions of keys."""
    return (fingerprint << 128) | (order_no << 64) | time_ms


def unpack_dedupe(packed: int) -> tuple[int, int, int]:
    """(fingerprint, order number, journal time in ms)."""
    mask = (1 << 64) - 1
    return packed >> 128, (packed >> 64) & mask, packed & mask


class ShardState:
    """Everything a shard knows. Change it only through `apply`; `claimed` of positions is the one in-memory exception."""

    def __init__(self, catalog: Catalog, *, dedupe_max: int = 5_000_000) -> None:
        self.catalog = catalog
        self.positions = Positions()
        self.capacity = Capacity()
        self.slots: dict[str, SlotPart] = {}
        self.nodes: dict[int, NodePart] = {}
        self.seq = 0
        self.time_ms = 0
        """Journal time of the newest entry applied: never goes back."""
        self.recovered_at_ms = 0
        self.grace_until_ms = 0
        self.part_seq: dict[str, int] = {}
        """While replaying: the entry each loaded part is true after."""
        self.dirty: dict[str, None] = {}
        """Parts changed since they were last packed, oldest change first."""
        self.touched: dict[tuple[int, int], None] = {}
        """Positions (node, item) changed since views were last told; node, -1 = its capacity."""
        self.open_holds = 0
        self.open_orders = 0
        self.short_positions: dict[tuple[int, int], None] = {}
        self.dedupe_count = 0
        self.dedupe_max = dedupe_max
        self.foreign_node: dict[tuple[int, int], int] = {}
        """Node of each leg held for another home, by (order number, leg number)."""
        self.driving: list[tuple[str, int]] = []
        """After a recovery: orders with legs that other shards have not acknowledged."""
        self.work: dict[int, dict[tuple[int, int], str]] = {}
        """Slot by (order number, leg number) of each node's legs that are committed and not yet delivered or ended."""

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
        return _RECORD.decode(packed) if packed is not None else None

    def effective_expiry_ms(self, record: OrderRecord) -> int:
        """A hold that was open while the shard was away lives on for a grace period, at most to its longest life."""
        if record.opened_at_ms <= self.recovered_at_ms and record.expires_at_ms < self.grace_until_ms:
            return max(record.expires_at_ms, min(self.grace_until_ms, record.hold_max_until_ms))
        return record.expires_at_ms

    def free_total(self, item: int) -> int:
        """Units available to promise of an item over all positions this shard sees, its own and its views'."""
        positions = self.positions
        return sum(max(0, positions.free(row)) for row in positions.rows(item))


def apply(state: ShardState, event: Event, *, seq: int, time_ms: int, replay: bool = False) -> None:
    """Make an event's effect. `replay` = skip the parts whose snapshot already contains entry `seq` (S6)."""
    kind = type(event)
    if kind is OrderPut:
        _apply_order(state, event, seq, time_ms, replay)  # type: ignore[arg-type]
    elif kind is LegHeld:
        _apply_leg_held(state, event, seq, time_ms, replay)  # type: ignore[arg-type]
    elif kind is LegDriven:
        _apply_leg_driven(state, event, seq, time_ms, replay)  # type: ignore[arg-type]
    elif kind is StockMoved:
        _apply_moved(state, event, seq, time_ms, replay)  # type: ignore[arg-type]
    elif kind is StockCounted:
        _apply_counted(state, event, seq, time_ms, replay)  # type: ignore[arg-type]
    elif kind is PositionSet:
        _apply_set(state, event, seq, time_ms, replay)  # type: ignore[arg-type]
    elif kind is Recovered:
        assert isinstance(event, Recovered)
        if not replay or seq > state.part_seq.get("misc", 0):
            state.recovered_at_ms = event.at_ms
            state.grace_until_ms = event.grace_until_ms
            state.dirty["misc"] = None
    else:
        raise InvariantBreach(f"unknown event {event!r}")


def _apply_order(state: ShardState, event: OrderPut, seq: int, time_ms: int, replay: bool) -> None:
    if event.stock:
        apply_stock(state, event.stock, seq, time_ms, replay, promise=event.cause <= Cause.ALLOCATED)
    if event.capacity:
        apply_capacity(state, event.capacity, seq, replay)
    part_name = "slot:" + event.slot
    if replay and seq <= state.part_seq.get(part_name, 0):
        return
    part = state.slot(event.slot)
    part.orders[event.order_no] = event.record
    if event.cause <= Cause.ALLOCATED:  # the first record of this order
        record = _RECORD.decode(event.record) if replay else None
        if record is not None:
            index_order(state, event.slot, event.order_no, record)
    if event.key_hash:
        remember(state, part.dedupe, event.key_hash, pack_dedupe(event.fingerprint, event.order_no, time_ms), time_ms)
    state.dirty[part_name] = None


def index_order(state: ShardState, slot: str, order_no: int, record: OrderRecord) -> None:
    """Index a new record by its order id. Live, the decider calls this with the record it has at hand."""
    state.slot(slot).order_ids[record.order_id] = order_no


def apply_stock(
    state: ShardState, stock: tuple[int, ...], seq: int, time_ms: int, replay: bool, *, promise: bool = False
) -> None:
    """Add flat (node, item, on_hand, held, allocated) changes to the positions. A promise is checked against S1."""
    positions = state.positions
    find, v_held, v_allocated = positions.find, positions.v_held, positions.v_allocated
    touched, dirty = state.touched, state.dirty
    for i in range(0, len(stock), 5):
        node, item, on_hand, held, allocated = stock[i : i + 5]
        part_name = f"node:{node}"
        if replay and seq <= state.part_seq.get(part_name, 0):
            continue
        row = find(item, node)
        if row < 0:
            row = positions.ensure(item, node)
            v_held, v_allocated = positions.v_held, positions.v_allocated
        if on_hand:
            positions.v_on_hand[row] += on_hand
            record_movement(state, node, item, on_hand, time_ms)
            refence(state, node, item, row)
        if held:
            v_held[row] = units = v_held[row] + held
            if units < 0:
                raise InvariantBreach(f"S3: held of node {node} item {item} is {units} at entry {seq}")
        if allocated:
            v_allocated[row] = units = v_allocated[row] + allocated
            if units < 0:
                raise InvariantBreach(f"S3: allocated of node {node} item {item} is {units} at entry {seq}")
        if promise and not replay and positions.free(row) < 0:
            raise InvariantBreach(f"S1: a promise leaves node {node} item {item} short at entry {seq}")
        touched[(node, item)] = None
        dirty[part_name] = None


def apply_capacity(state: ShardState, capacity: tuple[int, ...], seq: int, replay: bool) -> None:
    """Add flat (node, day, units) changes to the capacity that nodes have given away."""
    for i in range(0, len(capacity), 3):
        node, day, units = capacity[i : i + 3]
        part_name = f"node:{node}"
        if replay and seq <= state.part_seq.get(part_name, 0):
            continue
        state.capacity.add(node, day, units)
        state.touched[(node, -1)] = None
        state.dirty[part_name] = None


def _apply_leg_held(state: ShardState, event: LegHeld, seq: int, time_ms: int, replay: bool) -> None:
    part_name = f"node:{event.node}"
    if replay and seq <= state.part_seq.get(part_name, 0):
        return
    stock: list[int] = []
    for item, units in event.lines:
        stock += (event.node, item, 0, units, 0)
    apply_stock(state, tuple(stock), seq, time_ms, replay)
    if event.capacity_units:
        apply_capacity(state, (event.node, event.ship_day, event.capacity_units), seq, replay)
    state.node(event.node).foreign[(event.order_no, event.leg_no)] = ForeignLeg(
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
    )
    state.foreign_node[(event.order_no, event.leg_no)] = event.node
    state.dirty[part_name] = None


def _apply_leg_driven(state: ShardState, event: LegDriven, seq: int, time_ms: int, replay: bool) -> None:
    part_name = f"node:{event.node}"
    if replay and seq <= state.part_seq.get(part_name, 0):
        return
    apply_stock(state, event.stock, seq, time_ms, replay)
    apply_capacity(state, event.capacity, seq, replay)
    foreign = state.node(event.node).foreign
    key = (event.order_no, event.leg_no)
    leg = foreign.get(key)
    if leg is not None:
        leg.state = event.to
        leg.lines = event.lines
        leg.shipped = event.shipped
        leg.capacity_units = event.capacity_left
        leg.resolved = True
        if event.to in (LegState.CANCELLED, LegState.REJECTED):
            del foreign[key]
            state.foreign_node.pop(key, None)
    state.dirty[part_name] = None


def _apply_moved(state: ShardState, event: StockMoved, seq: int, time_ms: int, replay: bool) -> None:
    part_name = f"node:{event.node}"
    if replay and seq <= state.part_seq.get(part_name, 0):
        return
    for item, _kind, change in event.moves:
        change_on_hand(state, event.node, item, change, time_ms)
    if event.key_hash:
        node = state.node(event.node)
        remember(state, node.dedupe, event.key_hash, pack_dedupe(event.fingerprint, 0, time_ms), time_ms)
    state.dirty[part_name] = None


def _apply_counted(state: ShardState, event: StockCounted, seq: int, time_ms: int, replay: bool) -> None:
    part_name = f"node:{event.node}"
    if replay and seq <= state.part_seq.get(part_name, 0):
        return
    node = state.node(event.node)
    counted_s = max(1, (event.as_of_ms - EPOCH_2020_MS) // 1_000)
    for item, change in event.rows:
        row = change_on_hand(state, event.node, item, change, time_ms, late=event.as_of_ms)
        state.positions.v_counted_s[row] = counted_s
    newest = node.feeds.get(event.source, (-1, 0))
    node.feeds[event.source] = (max(newest[0], event.source_seq), max(newest[1], event.as_of_ms))
    if event.key_hash:
        remember(state, node.dedupe, event.key_hash, pack_dedupe(event.fingerprint, 0, time_ms), time_ms)
    state.dirty[part_name] = None


def _apply_set(state: ShardState, event: PositionSet, seq: int, time_ms: int, replay: bool) -> None:
    part_name = f"node:{event.node}"
    if replay and seq <= state.part_seq.get(part_name, 0):
        return
    node = state.node(event.node)
    for item, safety, mode, trust_bp, daily_cap in event.rows:
        row = state.positions.ensure(item, event.node)
        state.positions.v_safety[row] = safety
        if mode == "counted":
            node.settings.pop(item, None)
        else:
            node.settings[item] = (mode, trust_bp, daily_cap)
        refence(state, event.node, item, row)
        state.touched[(event.node, item)] = None
        note_short(state, event.node, item, row)
    if event.key_hash:
        remember(state, node.dedupe, event.key_hash, pack_dedupe(event.fingerprint, 0, time_ms), time_ms)
    state.dirty[part_name] = None


def change_on_hand(state: ShardState, node: int, item: int, change: int, time_ms: int, late: int | None = None) -> int:
    """Add to the shelf and remember the movement at the instant it is true of (`late`: a count's as_of). Returns the row."""
    positions = state.positions
    row = positions.ensure(item, node)
    positions.v_on_hand[row] += change
    if change:
        record_movement(state, node, item, change, time_ms if late is None else late)
    refence(state, node, item, row)
    state.touched[(node, item)] = None
    note_short(state, node, item, row)
    return row


def record_movement(state: ShardState, node: int, item: int, change: int, time_ms: int) -> None:
    """Keep two days of shelf movements, so that a count taken before them can be netted."""
    movements = state.node(node).movements
    movements.append((time_ms, item, change))
    if len(movements) > 64 and movements[0][0] < state.time_ms - MOVEMENTS_KEPT_MS:
        oldest = state.time_ms - MOVEMENTS_KEPT_MS
        movements[:] = [m for m in movements if m[0] >= oldest]


def movement_after(state: ShardState, node: int, as_of_ms: int) -> dict[int, int]:
    """Net change of the shelf by item after an instant, from the movements kept."""
    part = state.nodes.get(node)
    net: dict[int, int] = {}
    if part is not None:
        for time_ms, item, change in part.movements:
            if time_ms > as_of_ms:
                net[item] = net.get(item, 0) + change
    return net


def refence(state: ShardState, node: int, item: int, row: int) -> None:
    """Units of a count that is trusted only in part are fenced off, rounded against the promise."""
    part = state.nodes.get(node)
    setting = part.settings.get(item) if part is not None and part.settings else None
    on_hand = max(0, state.positions.v_on_hand[row])
    if setting is not None and setting[0] == "trusted":
        state.positions.v_fenced[row] = on_hand - on_hand * setting[1] // 10_000
    elif state.positions.v_fenced[row]:
        state.positions.v_fenced[row] = 0


def note_short(state: ShardState, node: int, item: int, row: int) -> None:
    """Keep the list of positions that promised more than they have."""
    if state.positions.free(row) + state.positions.v_claimed[row] < 0:
        state.short_positions[(node, item)] = None
    else:
        state.short_positions.pop((node, item), None)


def remember(state: ShardState, dedupe: dict[int, int], key_hash: int, packed: int, time_ms: int) -> None:
    """Remember an idempotency key and forget a few that are past the window (dicts keep insertion order = time order)."""
    if key_hash not in dedupe:
        state.dedupe_count += 1
    dedupe[key_hash] = packed
    window_ms = DEDUPE_WINDOW_MS if state.dedupe_count <= state.dedupe_max else DEDUPE_WINDOW_MIN_MS
    oldest = time_ms - window_ms
    for _ in range(2):
        first = next(iter(dedupe))
        if dedupe[first] & ((1 << 64) - 1) >= oldest:
            break
        del dedupe[first]
        state.dedupe_count -= 1


def rebuild_indexes(state: ShardState) -> Iterable[tuple[int, str, int]]:
    """After loading and replaying: recount what is derived. Yields (expires_at_ms, slot, order number) of each open hold."""
    state.open_holds = state.open_orders = 0
    state.work.clear()
    state.dedupe_count = sum(len(s.dedupe) for s in state.slots.values()) + sum(
        len(n.dedupe) for n in state.nodes.values()
    )
    for slot, part in state.slots.items():
        for order_no, packed in part.orders.items():
            record = _RECORD.decode(packed)
            if any(leg.driving for leg in record.legs):
                state.driving.append((slot, order_no))
            if part.order_ids.get(record.order_id, 0) <= order_no:
                part.order_ids[record.order_id] = order_no
            if record.state == OrderState.HELD:
                state.open_holds += 1
                yield record.expires_at_ms, slot, order_no
            elif record.state == OrderState.COMMITTED:
                state.open_orders += 1
                index_work(state, slot, order_no, record)
    positions = state.positions
    positions.merge()
    n = positions.size
    free = positions.on_hand[:n] - positions.safety[:n] - positions.held[:n] - positions.allocated[:n]
    short = np.flatnonzero(free - positions.fenced[:n] < 0)
    for item, node in zip(positions.items()[short].tolist(), positions.node[short].tolist(), strict=True):
        state.short_positions[(node, item)] = None


_ON_WORK_LIST = (LegState.ALLOCATED, LegState.RELEASED, LegState.ACCEPTED, LegState.PICKING, LegState.SHIPPED)


def index_work(state: ShardState, slot: str, order_no: int, record: OrderRecord) -> None:
    """Put a committed order's legs on their nodes' work lists, or take them off."""
    for leg in record.legs:
        if leg.state in _ON_WORK_LIST:
            state.work.setdefault(leg.node, {})[(order_no, leg.leg_no)] = slot
        else:
            entries = state.work.get(leg.node)
            if entries is not None:
                entries.pop((order_no, leg.leg_no), None)
