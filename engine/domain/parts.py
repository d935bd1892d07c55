"""Packing state into snapshot parts and back. A part is self-contained (S6): a node's stock, a slot's orders, or the rest.

Format: msgpack of the structs below, schema first. Unknown schema = refused, never guessed.
"""

from __future__ import annotations

import msgspec
import numpy as np

from engine.domain.boxes import GONE, pack_box, rows_of, unpack_box
from engine.domain.keys import KeyTable
from engine.domain.movements import Packed, Sealed
from engine.domain.positions import COLUMNS
from engine.domain.state import ForeignLeg, NodePart, ShardState, SlotPart, leg_key, note_holder
from engine.domain.stock import refence

SCHEMA = 1
NODE_SCHEMA = 2
"""1 had no `sealed`: all movements were in `movements`."""
_KEPT = tuple(name for name in COLUMNS if name != "claimed" and name != "fenced")


class NodeSnapshot(msgspec.Struct, array_like=True):
    """`items` and each column: little-endian int32 bytes, one value a position, in item order."""

    schema: int
    items: bytes
    columns: dict[str, bytes]
    capacity: list[tuple[int, int]]
    dedupe: list[tuple[int, int, int]]
    """(key hash, fingerprint, journal time), oldest first."""
    feeds: dict[str, tuple[int, int]]
    movements: Packed
    """Those not sealed, see Movements.pack."""
    settings: list[tuple[int, str, int, int]]
    foreign: list[ForeignLeg]
    inbound: list[tuple[str, int, int, int]] = []
    """(inbound id, item, units expected, expected at in ms)"""
    dedupe_cutoff_ms: int = 0
    """See KeyTable.cutoff_ms: it stays with the keys that are left, wherever the part goes."""
    sealed: list[Sealed] = []
    """Movements older than `movements`."""


class SlotSnapshot(msgspec.Struct, array_like=True):
    schema: int
    orders: list[tuple[int, bytes]]
    dedupe: list[tuple[int, int, int, int]]
    """(key hash, fingerprint, order number, journal time), oldest first."""
    dedupe_cutoff_ms: int = 0


class MiscSnapshot(msgspec.Struct, array_like=True):
    schema: int
    recovered_at_ms: int
    grace_until_ms: int
    txn_offset: int = 0
    waves_ms: list[tuple[int, int]] = []
    """(node, until when its release waves are done)"""


_encode = msgspec.msgpack.Encoder().encode
_NODE = msgspec.msgpack.Decoder(NodeSnapshot)
_SLOT = msgspec.msgpack.Decoder(SlotSnapshot)
_MISC = msgspec.msgpack.Decoder(MiscSnapshot)


class UnknownSchema(ValueError):
    """A snapshot part of a schema this version does not read."""


class RowIndex:
    """Rows by node, sorted once and kept until positions move; rows that came since are looked for one by one.

    So packing a node costs its own rows, and not a sort of all positions whenever a new one appears.
    """

    UNSORTED_MAX = 65_536

    def __init__(self) -> None:
        self._size = 0
        self._base = -1
        self._order = np.empty(0, np.int64)
        self._sorted_nodes = np.empty(0, np.int32)

    def rows(self, state: ShardState, node: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, items) of a node in item order."""
        positions = state.positions
        size = positions.size
        if positions.base != self._base or size - self._size > self.UNSORTED_MAX:
            self._size, self._base = size, positions.base
            nodes = positions.node[:size]
            self._order = np.argsort(nodes, kind="stable")
            self._sorted_nodes = nodes[self._order]
        lo, hi = np.searchsorted(self._sorted_nodes, [node, node + 1])
        rows = self._order[lo:hi]
        since = np.flatnonzero(positions.node[self._size : size] == node)
        if len(since):
            rows = np.concatenate([rows, since + self._size])
        items = positions.items()[rows]
        order = np.argsort(items, kind="stable")
        return rows[order], items[order]


def pack_part(state: ShardState, part: str, index: RowIndex) -> bytes:
    """Bytes of one part as of now: live, empty where it left, or boxed."""
    kind, _, name = part.partition(":")
    if kind == "misc":
        return _encode(
            MiscSnapshot(
                SCHEMA, state.recovered_at_ms, state.grace_until_ms, state.txn_offset, list(state.waves_ms.items())
            )
        )
    box = state.boxes.get(part) if state.boxes else None
    if box is not None:
        return pack_box(box)
    if kind == "band" or part in state.gone:
        return GONE
    if kind == "node":
        return _pack_node(state, int(name), *index.rows(state, int(name)))
    return pack_live(state, part)


def pack_live(state: ShardState, part: str) -> bytes:
    """Bytes of a part that is live, or empty."""
    kind, _, name = part.partition(":")
    if kind == "band":
        return b""
    if kind == "slot":
        slot = state.slots.get(name) or SlotPart()
        return _encode(
            SlotSnapshot(
                SCHEMA,
                list(slot.orders.items()),
                list(slot.dedupe.rows()),
                slot.dedupe.cutoff_ms,
            )
        )
    node = int(name)
    rows = rows_of(state, node)
    items = state.positions.items()[rows]
    order = np.argsort(items, kind="stable")
    return _pack_node(state, node, rows[order], items[order])


def _pack_node(state: ShardState, node: int, rows: np.ndarray, items: np.ndarray) -> bytes:
    held = state.nodes.get(node) or NodePart()
    movements, sealed = held.movements.pack()
    return _encode(
        NodeSnapshot(
            NODE_SCHEMA,
            items.astype("<i4").tobytes(),
            {column: getattr(state.positions, column)[rows].astype("<i4").tobytes() for column in _KEPT},
            state.capacity.rows(node),
            [(key, fingerprint, ms) for key, fingerprint, _, ms in held.dedupe.rows()],
            held.feeds,
            movements,
            [(item, *setting) for item, setting in held.settings.items()],
            list(held.foreign.values()),
            [(inbound_id, *record) for inbound_id, record in held.inbound.items()],
            held.dedupe.cutoff_ms,
            sealed,
        )
    )


def load_part(state: ShardState, part: str, seq: int, data: bytes) -> None:
    """Put a part into an empty state; entries up to `seq` are in it. Raises UnknownSchema, msgspec.MsgspecError."""
    state.part_seq[part] = seq
    if part == "misc":
        misc = _MISC.decode(data)
        _check(misc.schema)
        state.recovered_at_ms, state.grace_until_ms = misc.recovered_at_ms, misc.grace_until_ms
        state.txn_offset = misc.txn_offset
        state.waves_ms = dict(misc.waves_ms)
        return
    box = unpack_box(data)
    if box is not None:
        state.boxes[part] = box
    elif data == GONE:
        state.gone[part] = None
    else:
        load_live(state, part, data, is_first=True)


def load_live(state: ShardState, part: str, data: bytes, *, is_first: bool = False) -> None:
    """Put a slot or a node into a state that has nothing of it. is_first = nor any position of the node, not even a view."""
    kind, _, name = part.partition(":")
    if kind == "slot":
        loaded = _SLOT.decode(data)
        _check(loaded.schema)
        if not (loaded.orders or loaded.dedupe or loaded.dedupe_cutoff_ms):
            return
        slot = state.slot(name)
        slot.orders = dict(loaded.orders)
        for key, fingerprint, order_no, ms in loaded.dedupe:
            slot.dedupe.put(key, fingerprint, order_no, ms)
        _count_keys(state, slot.dedupe, loaded.dedupe_cutoff_ms)
    elif kind == "node":
        _load_node(state, int(name), _NODE.decode(data), is_first)


def _count_keys(state: ShardState, table: KeyTable, cutoff_ms: int) -> None:
    """The keys of a part that was loaded count here now."""
    table.cutoff_ms = cutoff_ms
    state.dedupe_cutoff_ms = max(state.dedupe_cutoff_ms, cutoff_ms)
    state.dedupe_count += len(table)


def _check(schema: int, newest: int = SCHEMA) -> None:
    if not 1 <= schema <= newest:
        raise UnknownSchema(f"snapshot schema {schema}, this version reads 1 to {newest}")


def _rows_for(state: ShardState, node: int, items: np.ndarray) -> np.ndarray:
    """Rows of a node's positions, made where they are missing."""
    positions = state.positions
    positions.add_many(np.setdiff1d(items, positions.items()[rows_of(state, node)]), node)
    rows = rows_of(state, node)
    there = positions.items()[rows]
    order = np.argsort(there, kind="stable")
    return rows[order][np.searchsorted(there[order], items)]


def _load_node(state: ShardState, node: int, loaded: NodeSnapshot, is_first: bool) -> None:
    _check(loaded.schema, NODE_SCHEMA)
    positions = state.positions
    items = np.frombuffer(loaded.items, "<i4")
    rows = positions.add_many(items, node) if is_first else _rows_for(state, node, items)
    for column in _KEPT:
        packed = loaded.columns.get(column)
        if packed is not None:
            getattr(positions, column)[rows] = np.frombuffer(packed, "<i4")
        elif column == "counted_ms":  # parts that older versions wrote: no count of that second may overtake
            positions.counted_ms[rows] = 999
        else:
            raise KeyError(column)
    for day, used in loaded.capacity:
        state.capacity.put(node, day, used)
    part = state.node(node)
    for key, fingerprint, ms in loaded.dedupe:
        part.dedupe.put(key, fingerprint, 0, ms)
    part.feeds = dict(loaded.feeds)
    part.movements.load(loaded.movements, loaded.sealed)
    part.settings = {item: (mode, trust_bp, cap) for item, mode, trust_bp, cap in loaded.settings}
    part.foreign = {leg_key(leg.order_no, leg.leg_no): leg for leg in loaded.foreign}
    part.inbound = {inbound_id: (item, units, ms) for inbound_id, item, units, ms in loaded.inbound}
    state.expected.forget()
    _count_keys(state, part.dedupe, loaded.dedupe_cutoff_ms)
    for key in part.foreign:
        note_holder(state, key, node)
    for item in part.settings:
        row = positions.find(item, node)
        if row >= 0:
            refence(state, node, item, row)
