"""The stock side of `apply`: what events do to positions and capacity, and what is derived from it. Part of state.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.domain.errors import InvariantBreach

if TYPE_CHECKING:
    from engine.domain.state import ShardState


def apply_stock(state: ShardState, stock: tuple[int, ...], seq: int, time_ms: int, replay: bool) -> None:
    """Add flat (node, item, on_hand, held, allocated) changes to the positions. What takes more units is checked against S1."""
    positions = state.positions
    find, v_held, v_allocated, v_on_hand = positions.find, positions.v_held, positions.v_allocated, positions.v_on_hand
    v_safety, v_claimed, v_fenced = positions.v_safety, positions.v_claimed, positions.v_fenced
    touched, dirty, short = state.touched, state.dirty, state.short_positions
    numbers = iter(stock)
    for node, item, on_hand, held, allocated in zip(numbers, numbers, numbers, numbers, numbers, strict=True):
        if replay and seq <= state.part_seq.get(f"node:{node}", 0):
            continue
        row = find(item, node)
        if row < 0:
            row = positions.ensure(item, node)
            find, v_held, v_allocated = positions.find, positions.v_held, positions.v_allocated
            v_on_hand, v_safety = positions.v_on_hand, positions.v_safety
            v_claimed, v_fenced = positions.v_claimed, positions.v_fenced
        if on_hand:
            positions.v_on_hand[row] += on_hand
            state.node(node).movements.add(time_ms, item, on_hand, now_ms=time_ms)
        if held:
            v_held[row] = units = v_held[row] + held
            if units < 0:
                raise InvariantBreach(f"S3: held of node {node} item {item} is {units} at entry {seq}")
        if allocated:
            v_allocated[row] = units = v_allocated[row] + allocated
            if units < 0:
                raise InvariantBreach(f"S3: allocated of node {node} item {item} is {units} at entry {seq}")
        if (
            held + allocated > 0
            and not replay
            and v_on_hand[row] - v_safety[row] - v_held[row] - v_allocated[row] - v_claimed[row] - v_fenced[row] < 0
        ):
            raise InvariantBreach(f"S1: a promise leaves node {node} item {item} short at entry {seq}")
        if on_hand:
            refence(state, node, item, row)
        if on_hand or short:
            note_short(state, node, item, row)
        touched[item << 32 | node] = None
        dirty[node] = None


def apply_capacity(state: ShardState, capacity: tuple[int, ...], seq: int, replay: bool) -> None:
    """Add flat (node, day, units) changes to the capacity that nodes have given away."""
    numbers = iter(capacity)
    for node, day, units in zip(numbers, numbers, numbers, strict=True):
        if replay and seq <= state.part_seq.get(f"node:{node}", 0):
            continue
        if state.capacity.add(node, day, units) < 0:
            raise InvariantBreach(f"S3: capacity of node {node} on day {day} is negative at entry {seq}")
        state.touched_capacity[node] = None
        state.dirty[node] = None


def change_on_hand(state: ShardState, node: int, item: int, change: int, *, moved_ms: int | None) -> int:
    """Add to the shelf, and remember it as a movement of then. Returns the row.

    None = a count: nothing moved. A count before it leaves the position alone, so it is never netted.
    """
    positions = state.positions
    row = positions.ensure(item, node)
    positions.v_on_hand[row] += change
    if change and moved_ms is not None:
        state.node(node).movements.add(moved_ms, item, change, now_ms=moved_ms)
    refence(state, node, item, row)
    state.touched[item << 32 | node] = None
    note_short(state, node, item, row)
    return row


def trust_fence(state: ShardState, node: int, item: int, row: int) -> int:
    return distrusted(state, node, item, state.positions.v_on_hand[row])


def distrusted(state: ShardState, node: int, item: int, on_hand: int) -> int:
    """Units of a count that is trusted only in part, rounded against the promise."""
    part = state.nodes.get(node)
    setting = part.settings.get(item) if part is not None and part.settings else None
    if setting is None or setting[0] != "trusted":
        return 0
    on_hand = max(0, on_hand)
    return int(on_hand - on_hand * setting[1] // 10_000)


def refence(state: ShardState, node: int, item: int, row: int) -> None:
    """Fence off what is not to be trusted of a count, and of the rest what is kept for waiting demand, as far as it is free."""
    positions = state.positions
    fenced = trust_fence(state, node, item, row)
    if state.kept:
        kept = state.kept.get(item << 32 | node, 0)
        if kept:
            fenced += max(0, min(kept, positions.free(row) + positions.v_fenced[row] - fenced))
    if positions.v_fenced[row] != fenced:
        positions.v_fenced[row] = fenced


def note_short(state: ShardState, node: int, item: int, row: int) -> None:
    """Keep the list of positions that promised more than they have; claims are not promises yet."""
    if state.positions.free(row) + state.positions.v_claimed[row] < 0:
        state.short_positions[(node, item)] = None
    else:
        state.short_positions.pop((node, item), None)
