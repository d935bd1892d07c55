"""Parts on their way between shards: boxes, and what the events of moves do to a state.

A box takes the place of its part: the same name, the same snapshots, true after the same entries (S6). Nothing of a boxed part is
live, so whatever still runs for it finds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from engine.domain.errors import InvariantBreach
from engine.domain.move_events import LegsParted, PartBoxed, PartForgotten, PartOpened, PartReceived
from engine.domain.orders import LegState
from engine.domain.positions import COLUMNS

if TYPE_CHECKING:
    from engine.domain.state import ShardState

BOX_MARK = b"\xc1box1"
"""Before a snapshot part that is a box. 0xc1 begins no msgpack value."""
GONE = b"\xc1gone"
"""The snapshot of a part that is not here: it left, or was on its way here and did not come. What this shard sees of such a
node is a view, and no part."""
CHUNK_BYTES = 1024 * 1024


class Box(msgspec.Struct, array_like=True):
    """One boxed part, at its source or, whole or in part, at its target."""

    move_id: int
    source: int
    target: int
    """-1 = this shard."""
    chunks: list[bytes]
    of: int
    digest: bytes
    seq: int
    """Entry of the source at which it was boxed."""
    time_ms: int
    txn_epoch: int = 0
    kept_slots: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        return len(self.chunks) == self.of

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)


_encode = msgspec.msgpack.Encoder().encode
_BOX = msgspec.msgpack.Decoder(Box)


def digest_of(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


def pack_box(box: Box) -> bytes:
    return BOX_MARK + _encode(box)


def unpack_box(data: bytes) -> Box | None:
    """None where a snapshot part is no box."""
    return _BOX.decode(data[len(BOX_MARK) :]) if data.startswith(BOX_MARK) else None


def part_key(part: str) -> int | str:
    """The part's name in `ShardState.dirty`."""
    kind, _, name = part.partition(":")
    return int(name) if kind == "node" else name if kind == "slot" else part


def rows_of(state: ShardState, node: int) -> np.ndarray:
    positions = state.positions
    return np.flatnonzero(positions.node[: positions.size] == node)


def _newer(state: ShardState, part: str, seq: int, replay: bool) -> bool:
    return not replay or seq > state.part_seq.get(part, 0)


def clear_part(state: ShardState, part: str) -> None:
    """Nothing of a part is live any more. What was claimed of its positions stays claimed until whoever claimed gives it back."""
    kind, _, name = part.partition(":")
    if kind == "slot":
        slot = state.slots.pop(name, None)
        if slot is not None:
            state.dedupe_count -= len(slot.dedupe)
            state.closed_orders += 1  # the auditor's list of numbers is made anew
    elif kind == "node":
        node = int(name)
        part_of_node = state.nodes.pop(node, None)
        if part_of_node is not None:
            if part_of_node.inbound:
                state.expected.forget()
            state.dedupe_count -= len(part_of_node.dedupe)
            for key in part_of_node.foreign:
                if state.foreign_node.get(key) == node:
                    del state.foreign_node[key]
        rows = rows_of(state, node)
        for column in COLUMNS:
            if column != "claimed":
                getattr(state.positions, column)[rows] = 0
        for day, units in state.capacity.rows(node):
            state.capacity.add(node, day, -units)
        for position in [position for position in state.short_positions if position[0] == node]:
            del state.short_positions[position]
    state.dirty[part_key(part)] = None


def _apply_parted(state: ShardState, event: LegsParted, seq: int, time_ms: int, replay: bool) -> None:
    from engine.domain.state import ForeignLeg, leg_key

    if _newer(state, "slot:" + event.slot, seq, replay):
        state.slot(event.slot).orders[event.order_no] = event.record
        state.dirty[event.slot] = None
    for leg_no, node, txn, leg_state, day, capacity, lines, shipped, written_off, emptied in event.legs:
        if not _newer(state, f"node:{node}", seq, replay):
            continue
        key = leg_key(event.order_no, leg_no)
        foreign = state.node(node).foreign
        if key in foreign:
            raise InvariantBreach(f"S2: leg {leg_no} of order {event.order_no} is held twice at entry {seq}")
        foreign[key] = ForeignLeg(
            state.catalog.shard,
            txn,
            event.slot,
            event.order_no,
            leg_no,
            leg_state,
            day,
            capacity,
            lines,
            time_ms,
            leg_state != LegState.HELD,
            shipped,
            event.version,
            written_off,
            emptied,
        )
        state.foreign_node[key] = node
        state.dirty[node] = None


def _apply_boxed(state: ShardState, event: PartBoxed, seq: int, time_ms: int, replay: bool) -> None:
    from engine.domain.parts import pack_live

    if not _newer(state, event.part, seq, replay):
        return
    data = pack_live(state, event.part)
    clear_part(state, event.part)
    chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
    state.boxes[event.part] = Box(
        event.move_id,
        state.catalog.shard,
        event.target,
        chunks,
        len(chunks),
        digest_of(data),
        seq,
        time_ms,
        kept_slots=event.kept_slots,
    )


def _apply_received(state: ShardState, event: PartReceived, seq: int, time_ms: int, replay: bool) -> None:
    if not _newer(state, event.part, seq, replay):
        return
    box = state.boxes.get(event.part)
    if event.n == 0:
        box = state.boxes[event.part] = Box(
            event.move_id,
            event.source,
            -1,
            [],
            event.of,
            event.digest,
            event.seq,
            event.time_ms,
            event.txn_epoch,
        )
    if box is None or box.move_id != event.move_id or len(box.chunks) != event.n:
        raise InvariantBreach(f"entry {seq} brings chunk {event.n} of {event.part}, which does not follow")
    box.chunks.append(event.data)
    state.dirty[part_key(event.part)] = None


def _apply_opened(state: ShardState, event: PartOpened, seq: int, time_ms: int, replay: bool) -> None:
    from engine.domain.parts import load_live

    if _newer(state, "misc", seq, replay) and event.txn_offset > state.txn_offset:
        state.txn_offset = event.txn_offset
        state.dirty[""] = None
    if not _newer(state, event.part, seq, replay):
        return
    box = state.boxes.pop(event.part, None)
    if box is None or not box.is_whole or digest_of(box.data) != box.digest:
        raise InvariantBreach(f"entry {seq} opens {event.part}, which is not here whole")
    clear_part(state, event.part)
    load_live(state, event.part, box.data)
    state.gone.pop(event.part, None)
    state.dirty[part_key(event.part)] = None


def _apply_forgotten(state: ShardState, event: PartForgotten, seq: int, time_ms: int, replay: bool) -> None:
    if _newer(state, event.part, seq, replay):
        state.boxes.pop(event.part, None)
        state.gone[event.part] = None
        state.dirty[part_key(event.part)] = None


APPLY: dict[type, Callable[[ShardState, Any, int, int, bool], None]] = {
    LegsParted: _apply_parted,
    PartBoxed: _apply_boxed,
    PartReceived: _apply_received,
    PartOpened: _apply_opened,
    PartForgotten: _apply_forgotten,
}
