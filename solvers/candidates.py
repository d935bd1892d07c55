"""Which nodes are looked at for an order: those that hold units of it and may serve it, nearest first.

Of all holders the kernel keeps at most `limit`: half of them the nearest that hold everything, then for every group its two
nearest full holders, then the nearest of the rest. Nothing else of the network is touched: the walk is over the positions of
the order's items.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from solvers.jit import jit
from solvers.layout import (
    B_EXCLUDED,
    B_POLICY,
    B_REACH,
    B_STALE,
    B_SWITCH,
    B_TAGS,
    CANDIDATES_MAX,
    F_CHANNEL,
    F_ON,
    F_PICKUP,
    F_SHIP,
    F_STORE,
    GROUPS_EXACT,
    I32,
    I64,
    L_GROUP,
    L_ITEM,
    L_UNITS,
    LIMIT,
    N_OFFER,
    N_SAFETY,
    O_CHANNEL,
    O_DEST,
    O_EXCLUDED,
    O_EXCLUDED_COUNT,
    O_HOME,
    O_LINE,
    O_LINE_COUNT,
    O_METHOD,
    O_ONLY_HOME,
    O_POLICY,
    R_BLOCKED,
    STALE_EXCLUDED,
    STALE_SAFETY,
    Batch,
    Load,
    Network,
    Stock,
)
from solvers.legs import NOTE_COLLIDED

PICKUP = 1
_SHIFT = 32


class Work(NamedTuple):
    """Scratch of one batch; each part overwrites it. N nodes, K candidates, L lines of the longest part."""

    stamp: I32
    """[N] part that saw the node last."""
    slot: I32
    """[N] place among the seen, or -1 - reason it may not serve."""
    seen_key: I64
    """[N] distance << 32 | node."""
    seen_full: I64
    """[N] bits of the groups it holds whole (up to 6 groups)."""
    seen_lines: I32
    """[N] lines it holds whole."""
    seen_group: I32
    """[N, 6] lines of each group that it holds whole."""
    excluded: I32
    """[N] part that excludes the node."""
    of_node: I32
    """[N] candidate of a node, -1 = none."""
    node: I64
    """[K]"""
    km: I64
    full: I64
    """[K] bits of groups held whole."""
    free: I64
    """[K, L] units free."""
    row: I64
    """[K, L] position row, -1 = none."""
    zones: I32
    """[K, S] tariff zone by service."""
    floor: I64
    """[K] least parcel price, NEVER = no service reaches."""
    days: I64
    """[K] least days to the door."""
    group: I64
    """[L] dense group of each line."""
    group_size: I64
    unit_weight: I64
    """[L] of one unit"""
    unit_volume: I64
    unit_value: I64
    need: I64
    """[L] handling bits"""
    alone: I64
    """[L] number among the ship-alone lines, -1 = packed with others."""
    canon: I64
    """[L] first line of the same item."""
    whole: I64
    """[L] units that all lines of its item ask: what a node must have to hold the line whole."""
    any_units: I64
    """[L] units free anywhere, may the node serve or not."""
    may_units: I64
    """[L] units free at nodes that may serve."""
    most_units: I64
    """[L] most units free at one node that may serve."""
    taken_row: I64
    """[H] open-addressed table of rows taken by this batch, -1 = empty."""
    taken_units: I64
    notes: I64
    notes_of_part: I64


@jit
def make_work(nodes: int, lines: int, services: int, batch_lines: int) -> Work:
    """Arrays for a batch."""
    size = 64
    while size < batch_lines * 8:
        size *= 2
    k = CANDIDATES_MAX
    return Work(
        stamp=np.full(nodes, -1, np.int32),
        slot=np.empty(nodes, np.int32),
        seen_key=np.empty(nodes, np.int64),
        seen_full=np.empty(nodes, np.int64),
        seen_lines=np.empty(nodes, np.int32),
        seen_group=np.empty((nodes, GROUPS_EXACT), np.int32),
        excluded=np.full(nodes, -1, np.int32),
        of_node=np.full(nodes, -1, np.int32),
        node=np.empty(k, np.int64),
        km=np.empty(k, np.int64),
        full=np.empty(k, np.int64),
        free=np.empty((k, lines), np.int64),
        row=np.empty((k, lines), np.int64),
        zones=np.empty((k, max(1, services)), np.int32),
        floor=np.empty(k, np.int64),
        days=np.empty(k, np.int64),
        group=np.empty(lines, np.int64),
        group_size=np.empty(lines, np.int64),
        unit_weight=np.empty(lines, np.int64),
        unit_volume=np.empty(lines, np.int64),
        unit_value=np.empty(lines, np.int64),
        need=np.empty(lines, np.int64),
        alone=np.empty(lines, np.int64),
        canon=np.empty(lines, np.int64),
        whole=np.empty(lines, np.int64),
        any_units=np.empty(lines, np.int64),
        may_units=np.empty(lines, np.int64),
        most_units=np.empty(lines, np.int64),
        taken_row=np.full(size, -1, np.int64),
        taken_units=np.zeros(size, np.int64),
        notes=np.zeros(2, np.int64),
        notes_of_part=np.zeros(2, np.int64),
    )


@jit
def taken_at(work: Work, row: int) -> int:
    """Units of a row that this batch has taken."""
    mask = work.taken_row.shape[0] - 1
    n = (row * 0x9E3779B1) & mask
    while work.taken_row[n] >= 0:
        if work.taken_row[n] == row:
            return work.taken_units[n]
        n = (n + 1) & mask
    return 0


@jit
def take(work: Work, row: int, units: int) -> None:
    """Count units of a row as taken (negative = given back)."""
    mask = work.taken_row.shape[0] - 1
    n = (row * 0x9E3779B1) & mask
    while work.taken_row[n] >= 0 and work.taken_row[n] != row:
        n = (n + 1) & mask
    if work.taken_row[n] < 0:
        work.taken_row[n] = row
        work.taken_units[n] = 0
    work.taken_units[n] += units


@jit
def free_units(stock: Stock, nodes: I64, load: Load, row: int, node: int, method: int) -> int:
    """Units of a position that may be promised for a method."""
    safety = max(stock.safety[row], nodes[node, N_SAFETY + method])
    if load.stale[node] == STALE_SAFETY:
        safety = max(1, 2 * safety)
    return stock.on_hand[row] - safety - stock.held[row] - stock.allocated[row] - stock.claimed[row] - stock.fenced[row]


@jit
def block_of(network: Network, load: Load, batch: Batch, order: I64, work: Work, part: int, node: int) -> int:
    """Why a node may not serve a part at all (B_ reasons but tags), -1 = it may."""
    flags = network.flags[order[O_CHANNEL], node]
    home = node == order[O_HOME]
    if order[O_ONLY_HOME] and not home:
        return B_SWITCH
    method = F_PICKUP if order[O_METHOD] == PICKUP else F_SHIP
    if home and flags & F_STORE and order[O_METHOD] != PICKUP:
        method = F_STORE
    needed = F_ON | F_CHANNEL | method
    if flags & needed != needed:
        return B_SWITCH
    if work.excluded[node] == part:
        return B_EXCLUDED
    if load.stale[node] == STALE_EXCLUDED:
        return B_STALE
    if network.policy_node[order[O_POLICY], node] >= LIMIT:
        return B_POLICY
    if order[O_DEST] >= 0:
        km = batch.km[order[O_DEST], node]
        if km < 0 or (batch.reach_km > 0 and km > batch.reach_km):
            return B_REACH
    elif not home:
        return B_REACH
    return -1


@jit
def group_lines(batch: Batch, order: I64, work: Work) -> int:
    """Number the groups of a part densely in `work.group`; how many there are. Lines without a group are one each.

    Lines of the same item are tied together: a node holds one of them whole only if it has the units of all.
    """
    first = order[O_LINE]
    count = order[O_LINE_COUNT]
    groups = 0
    for i in range(count):
        own = batch.lines[first + i, L_GROUP]
        work.group[i] = -1
        if own > 0:
            for j in range(i):
                if batch.lines[first + j, L_GROUP] == own:
                    work.group[i] = work.group[j]
                    break
        if work.group[i] < 0:
            work.group[i] = groups
            work.group_size[groups] = 0
            groups += 1
        work.group_size[work.group[i]] += 1
        work.canon[i] = i
        work.whole[i] = batch.lines[first + i, L_UNITS]
        for j in range(i):
            if batch.lines[first + j, L_ITEM] == batch.lines[first + i, L_ITEM]:
                work.canon[i] = j
                work.whole[j] += work.whole[i]
                break
    for i in range(count):
        work.whole[i] = work.whole[work.canon[i]]
    return groups


@jit
def see_holders(
    network: Network,
    stock: Stock,
    load: Load,
    batch: Batch,
    order: I64,
    part: int,
    groups: int,
    work: Work,
    result: I64,
    notes: I64,
) -> int:
    """Walk the positions of the part's items: who holds what; how many nodes may serve."""
    nodes = network.nodes
    for n in range(order[O_EXCLUDED_COUNT]):
        work.excluded[batch.excluded[order[O_EXCLUDED] + n]] = part
    seen = 0
    first = order[O_LINE]
    small = groups <= GROUPS_EXACT
    for i in range(order[O_LINE_COUNT]):
        item = batch.lines[first + i, L_ITEM]
        units = work.whole[i]
        need = work.need[i]
        g = work.group[i]
        any_units = 0
        may_units = 0
        most = 0
        if item < stock.head.shape[0]:
            row = stock.offset[item]
            end = stock.offset[item + 1]
            if row == end:
                row = stock.head[item]
            while row >= 0:
                node = stock.node[row]
                free = free_units(stock, nodes, load, row, node, order[O_METHOD])
                if free < units and notes[NOTE_COLLIDED] == 0 and taken_at(work, row) > 0:
                    notes[NOTE_COLLIDED] = 1
                if free > 0:
                    any_units += free
                    if work.stamp[node] != part:
                        work.stamp[node] = part
                        block = block_of(network, load, batch, order, work, part, node)
                        if block >= 0:
                            work.slot[node] = -1 - block
                            result[R_BLOCKED + block] += 1
                        else:
                            work.slot[node] = seen
                            km = batch.km[order[O_DEST], node] if order[O_DEST] >= 0 else 0
                            work.seen_key[seen] = (np.int64(km) << _SHIFT) | node
                            work.seen_full[seen] = 0
                            work.seen_lines[seen] = 0
                            if small:
                                for j in range(groups):
                                    work.seen_group[seen, j] = 0
                            seen += 1
                    slot = work.slot[node]
                    if slot >= 0:
                        if need & ~nodes[node, N_OFFER] != 0:
                            result[R_BLOCKED + B_TAGS] += 1
                        else:
                            may_units += free
                            most = max(most, free)
                            if free >= units:
                                work.seen_lines[slot] += 1
                                if small:
                                    work.seen_group[slot, g] += 1
                                    if work.seen_group[slot, g] == work.group_size[g]:
                                        work.seen_full[slot] |= 1 << g
                if row < end:
                    row += 1
                    if row == end:
                        row = stock.head[item]
                else:
                    row = stock.next[row]
        work.any_units[i] = any_units
        work.may_units[i] = may_units
        work.most_units[i] = most
    return seen


@jit
def _nearest(work: Work, seen: int, need: int, lines: int, count: int, kept: int, limit: int) -> int:
    """Add up to `count` of the nearest seen nodes that hold `need` whole and `lines` lines; how many are kept now.

    A kept node has its slot's key in `work.node` and its key turned negative.
    """
    for _ in range(count):
        if kept == limit:
            break
        best = -1
        for n in range(seen):
            if work.seen_key[n] < 0 or work.seen_full[n] & need != need or work.seen_lines[n] < lines:
                continue
            if best < 0 or work.seen_key[n] < work.seen_key[best]:
                best = n
        if best < 0:
            break
        work.node[kept] = best
        work.seen_key[best] = ~work.seen_key[best]
        kept += 1
    return kept


@jit
def choose_candidates(work: Work, seen: int, groups: int, lines: int, limit: int) -> int:
    """Keep at most `limit` of the seen nodes as candidates, nearest first; how many."""
    kept = 0
    if seen <= limit:
        for n in range(seen):
            work.node[n] = n
            work.seen_key[n] = ~work.seen_key[n]
        kept = seen
    elif groups <= GROUPS_EXACT:
        everything = (1 << groups) - 1
        kept = _nearest(work, seen, everything, 0, limit // 2, kept, limit)
        if groups > 1:
            for g in range(groups):
                kept = _nearest(work, seen, 1 << g, 0, 2, kept, limit)
        kept = _nearest(work, seen, 0, 0, limit - kept, kept, limit)
    else:
        most = 0
        for n in range(seen):
            most = max(most, work.seen_lines[n])
        while most > 0 and kept < limit // 2:  # those that hold most lines, nearest first among equals
            before = kept
            kept = _nearest(work, seen, 0, most, limit // 2 - kept, kept, limit)
            if kept == before or kept < limit // 2:
                most = most * 3 // 4
        kept = _nearest(work, seen, 0, 0, limit - kept, kept, limit)
    for a in range(1, kept):  # by distance
        slot = work.node[a]
        key = ~work.seen_key[slot]
        b = a - 1
        while b >= 0 and ~work.seen_key[work.node[b]] > key:
            work.node[b + 1] = work.node[b]
            b -= 1
        work.node[b + 1] = slot
    for c in range(kept):
        slot = work.node[c]
        key = ~work.seen_key[slot]
        work.full[c] = work.seen_full[slot]
        work.node[c] = key & ((1 << _SHIFT) - 1)
        work.km[c] = key >> _SHIFT
    return kept


@jit
def read_candidates(
    network: Network, stock: Stock, load: Load, batch: Batch, order: I64, work: Work, kept: int
) -> None:
    """Fill `free` and `row` of the candidates from the positions; a line that may not leave a node has 0 free there."""
    nodes = network.nodes
    first = order[O_LINE]
    count = order[O_LINE_COUNT]
    for c in range(kept):
        work.of_node[work.node[c]] = c
        for i in range(count):
            work.free[c, i] = 0
            work.row[c, i] = -1
    for i in range(count):
        item = batch.lines[first + i, L_ITEM]
        need = work.need[i]
        if item >= stock.head.shape[0]:
            continue
        row = stock.offset[item]
        end = stock.offset[item + 1]
        if row == end:
            row = stock.head[item]
        while row >= 0:
            node = stock.node[row]
            c = work.of_node[node]
            if c >= 0:
                work.row[c, i] = row
                if need & ~nodes[node, N_OFFER] == 0:
                    work.free[c, i] = max(0, free_units(stock, nodes, load, row, node, order[O_METHOD]))
            if row < end:
                row += 1
                if row == end:
                    row = stock.head[item]
            else:
                row = stock.next[row]
    for c in range(kept):
        work.of_node[work.node[c]] = -1
