"""Packing state into snapshot parts and back. A part is self-contained (S6): a node's stock, a slot's orders, or the rest.

Format: msgpack of the structs below, schema first. Unknown schema = refused, never guessed.
"""

from __future__ import annotations

import msgspec
import numpy as np

from engine.domain.positions import COLUMNS
from engine.domain.state import ForeignLeg, ShardState, leg_key
from engine.domain.stock import refence

SCHEMA = 1
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
    movements: tuple[int, bytes, bytes, bytes]
    """See Movements.pack."""
    settings: list[tuple[int, str, int, int]]
    foreign: list[ForeignLeg]


class SlotSnapshot(msgspec.Struct, array_like=True):
    schema: int
    orders: list[tuple[int, bytes]]
    dedupe: list[tuple[int, int, int, int]]
    """(key hash, fingerprint, order number, journal time), oldest first."""


class MiscSnapshot(msgspec.Struct, array_like=True):
    schema: int
    recovered_at_ms: int
    grace_until_ms: int


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
    """Bytes of one part as of now."""
    kind, _, name = part.partition(":")
    if kind == "misc":
        return _encode(MiscSnapshot(SCHEMA, state.recovered_at_ms, state.grace_until_ms))
    if kind == "slot":
        slot = state.slots[name]
        return _encode(
            SlotSnapshot(
                SCHEMA,
                list(slot.orders.items()),
                list(slot.dedupe.rows()),
            )
        )
    node = int(name)
    rows, items = index.rows(state, node)
    held = state.node(node)
    return _encode(
        NodeSnapshot(
            SCHEMA,
            items.astype("<i4").tobytes(),
            {column: getattr(state.positions, column)[rows].astype("<i4").tobytes() for column in _KEPT},
            state.capacity.rows(node),
            [(key, fingerprint, ms) for key, fingerprint, _, ms in held.dedupe.rows()],
            held.feeds,
            held.movements.pack(),
            [(item, *setting) for item, setting in held.settings.items()],
            list(held.foreign.values()),
        )
    )


def load_part(state: ShardState, part: str, seq: int, data: bytes) -> None:
    """Put a part into an empty state; entries up to `seq` are in it. Raises UnknownSchema, msgspec.MsgspecError."""
    kind, _, name = part.partition(":")
    state.part_seq[part] = seq
    if kind == "misc":
        misc = _MISC.decode(data)
        _check(misc.schema)
        state.recovered_at_ms, state.grace_until_ms = misc.recovered_at_ms, misc.grace_until_ms
    elif kind == "slot":
        loaded = _SLOT.decode(data)
        _check(loaded.schema)
        slot = state.slot(name)
        slot.orders = dict(loaded.orders)
        for key, fingerprint, order_no, ms in loaded.dedupe:
            slot.dedupe.put(key, fingerprint, order_no, ms)
    else:
        _load_node(state, int(name), _NODE.decode(data))


def _check(schema: int) -> None:
    if schema != SCHEMA:
        raise UnknownSchema(f"snapshot schema {schema}, this version reads {SCHEMA}")


def _load_node(state: ShardState, node: int, loaded: NodeSnapshot) -> None:
    _check(loaded.schema)
    positions = state.positions
    items = np.frombuffer(loaded.items, "<i4")
    rows = positions.add_many(items, node)
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
    part.movements.load(loaded.movements)
    part.settings = {item: (mode, trust_bp, cap) for item, mode, trust_bp, cap in loaded.settings}
    part.foreign = {leg_key(leg.order_no, leg.leg_no): leg for leg in loaded.foreign}
    for item in part.settings:
        row = positions.find(item, node)
        if row >= 0:
            refence(state, node, item, row)
