"""Orders that collide: who is tied to whom, and their joint problem.

An order's own optimum on the whole stock is a bound on what it costs in any joint plan. Where every order of a batch has its own
optimum, the batch is at its joint optimum and no solver is needed. Otherwise the orders that lost something, and all that are
tied to them, form a component. Two orders are tied by an item where the batch asks more of it than some position of it has: that
position is critical. Stock rows that are not critical can never bind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from solvers.joint_wire import JointArrays
from solvers.layout import I64, J_PART, J_SCORE, J_TAKE, J_TAKE_COUNT, X_TAKE_FREE, X_TAKE_ROW, X_TAKE_UNITS

COMPONENT_MAX = 32
"""Orders of one component; those beyond keep their greedy plans, whose units are then not for the others."""
COLUMNS_MAX = 640
"""Ways of all components of a batch: the more orders, the fewer each."""


class Incumbent(NamedTuple):
    """The greedy plan of an order: its score, and (row, units) as in the takes of ways."""

    score: int
    takes: tuple[tuple[int, int], ...]


class Joint(NamedTuple):
    """A component's problem. `way_of[column]` = row of `ways`, -1 = the greedy plan (the first column of each order)."""

    arrays: JointArrays
    way_of: I64


def split_components(members: Sequence[int], items_of: Mapping[int, Sequence[int]]) -> list[list[int]]:
    """Members grouped by shared items (`items_of` = the critical items of each), in the order given."""
    root: dict[int, int] = {member: member for member in members}

    def find(member: int) -> int:
        while root[member] != member:
            root[member] = root[root[member]]
            member = root[member]
        return member

    holder: dict[int, int] = {}
    for member in members:
        for item in items_of[member]:
            first = holder.setdefault(item, member)
            a, b = find(first), find(member)
            root[max(a, b)] = min(a, b)
    groups: dict[int, list[int]] = {}
    for member in members:
        groups.setdefault(find(member), []).append(member)
    return list(groups.values())


def part_ways(ways: I64, part: int) -> slice:
    """Rows of a part's ways: they follow each other."""
    own = np.flatnonzero(ways[:, J_PART] == part)
    return slice(int(own[0]), int(own[-1]) + 1) if len(own) else slice(0, 0)


def part_takes(ways: I64, rows: slice) -> slice:
    """Takes of ways that follow each other."""
    if rows.start == rows.stop:
        return slice(0, 0)
    last = rows.stop - 1
    return slice(int(ways[rows.start, J_TAKE]), int(ways[last, J_TAKE] + ways[last, J_TAKE_COUNT]))


def joint_problem(
    parts: Sequence[int],
    incumbents: Sequence[Incumbent],
    ways: I64,
    takes: I64,
    held_by_others: Mapping[int, int],
) -> Joint:
    """The joint problem of some parts: their greedy plans first, then their ways, on the stock that others leave.

    ways, takes: rows as in layout.Ways, of these parts and maybe of others. held_by_others: units by row that plans outside
    the component take.
    """
    way_of: list[I64] = []
    ptr = [0]
    cost: list[I64] = []
    counts: list[I64] = []
    rows: list[I64] = []
    units: list[I64] = []
    free: list[I64] = []
    columns = 0
    for part, incumbent in zip(parts, incumbents, strict=True):
        own = part_ways(ways, part)
        taken = takes[part_takes(ways, own)]
        pairs = np.array(incumbent.takes, np.int64).reshape(-1, 2)
        way_of.append(np.arange(own.start - 1, own.stop, dtype=np.int64))
        way_of[-1][0] = -1
        cost += (np.array([incumbent.score], np.int64), ways[own, J_SCORE])
        counts += (np.array([len(pairs)], np.int64), ways[own, J_TAKE_COUNT])
        rows += (pairs[:, 0], taken[:, X_TAKE_ROW])
        units += (pairs[:, 1], taken[:, X_TAKE_UNITS])
        free += (np.zeros(len(pairs), np.int64), taken[:, X_TAKE_FREE])
        columns += 1 + own.stop - own.start
        ptr.append(columns)
    names, index = np.unique(np.concatenate(rows), return_inverse=True)
    index = index.astype(np.int64).reshape(-1)
    stock = np.zeros(len(names), np.int64)
    np.maximum.at(stock, index, np.concatenate(free))
    place = {row: n for n, row in enumerate(names.tolist())}
    for row, many in held_by_others.items():
        if row in place:
            stock[place[row]] -= many
    own_units = np.zeros(len(names), np.int64)
    for incumbent in incumbents:
        for row, many in incumbent.takes:
            own_units[place[row]] += many
    take_ptr = np.zeros(columns + 1, np.int64)
    np.cumsum(np.concatenate(counts), out=take_ptr[1:])
    arrays = JointArrays(
        np.array(ptr, np.int64),
        np.concatenate(cost),
        take_ptr,
        index,
        np.concatenate(units),
        np.maximum(stock, own_units),
    )
    return Joint(arrays, np.concatenate(way_of))
