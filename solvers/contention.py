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

COMPONENT_MAX = 48
"""Orders of one component; those beyond keep their greedy plans, whose units are then not for the others."""


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
    way_of: list[int] = []
    ptr = [0]
    cost: list[int] = []
    take_ptr = [0]
    rows: list[I64] = []
    units: list[I64] = []
    free: dict[int, int] = {}
    taken = 0
    for part, incumbent in zip(parts, incumbents, strict=True):
        way_of.append(-1)
        cost.append(incumbent.score)
        pairs = np.array(incumbent.takes, np.int64).reshape(-1, 2)
        rows.append(pairs[:, 0])
        units.append(pairs[:, 1])
        taken += len(pairs)
        take_ptr.append(taken)
        own = np.flatnonzero(ways[:, J_PART] == part)
        for n in own.tolist():
            start, count = int(ways[n, J_TAKE]), int(ways[n, J_TAKE_COUNT])
            way_of.append(n)
            cost.append(int(ways[n, J_SCORE]))
            rows.append(takes[start : start + count, X_TAKE_ROW])
            units.append(takes[start : start + count, X_TAKE_UNITS])
            taken += count
            take_ptr.append(taken)
        ptr.append(len(cost))
    for row, there in zip(takes[:, X_TAKE_ROW].tolist(), takes[:, X_TAKE_FREE].tolist(), strict=True):
        free[row] = there
    all_rows = np.concatenate(rows)
    names, index = np.unique(all_rows, return_inverse=True)
    own_units = np.zeros(len(names), np.int64)
    place = {row: n for n, row in enumerate(names.tolist())}
    for incumbent in incumbents:
        for row, many in incumbent.takes:
            own_units[place[row]] += many
    stock = [max(0, free.get(row, 0) - held_by_others.get(row, 0)) for row in names.tolist()]
    arrays = JointArrays(
        np.array(ptr, np.int64),
        np.array(cost, np.int64),
        np.array(take_ptr, np.int64),
        index.astype(np.int64).reshape(-1),
        np.concatenate(units),
        np.maximum(np.array(stock, np.int64), own_units),
    )
    return Joint(arrays, np.array(way_of, np.int64))
