"""A joint problem as flat integer arrays, and what makes it small before anybody searches. Compiled, int64 only.

A flat problem has O orders, C columns, T takes, R rows:

    ptr[O+1]        columns ptr[o]..ptr[o+1]-1 belong to order o        cost[C]     money of a column
    take_ptr[C+1]   takes of a column, likewise                         row[T], units[T]
    stock[R]        free units of a row                                 incumbent[O]  column of o in the best known answer
    price[R]        a first guess of the price of a row's unit          source[C]   column number in the problem it is part of

Invariants, kept by every function here:
F1  the incumbent columns are jointly feasible, and alive;
F2  dropping a column never removes the last answer that is strictly cheaper than the incumbent;
F3  a row is critical only while the orders that are still open could ask for more than it has left.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from solvers.joint_jit import compiled
from solvers.joint_wire import Ints

Flags: TypeAlias = NDArray[np.bool_]


class Flat(NamedTuple):
    """A problem or a part of one. Shapes: see the head of this module."""

    ptr: Ints
    cost: Ints
    take_ptr: Ints
    row: Ints
    units: Ints
    stock: Ints
    incumbent: Ints
    price: Ints
    source: Ints

    @property
    def orders(self) -> int:
        return len(self.ptr) - 1

    def cost_of(self, chosen: Ints) -> int:
        """Money of one chosen column per order."""
        return int(self.cost[chosen].sum())


def flatten(ptr: Ints, cost: Ints, take_ptr: Ints, row: Ints, units: Ints, stock: Ints) -> Flat:
    """A checked problem (solvers.joint_wire.JointArrays); the first column of every order is the incumbent.

    Raises ValueError: the incumbents do not fit the stock together.
    """
    units = units.copy()
    over = merge_takes(ptr, take_ptr, row, units, stock)
    if over >= 0:
        raise ValueError(f"the incumbent columns ask for more of row {over} than its {stock[over]} units")
    source = np.arange(len(cost), dtype=np.int64)
    return Flat(ptr, cost, take_ptr, row, units, stock, ptr[:-1].copy(), np.zeros(len(stock), np.int64), source)


@compiled
def merge_takes(ptr: Ints, take_ptr: Ints, row: Ints, units: Ints, stock: Ints) -> int:
    """Add up takes of one row within a column (in place). Returns a row that the incumbent overdraws, or -1."""
    left = stock.copy()
    for c in range(len(take_ptr) - 1):
        for t in range(take_ptr[c], take_ptr[c + 1]):
            for earlier in range(take_ptr[c], t):
                if row[earlier] == row[t]:
                    units[earlier] += units[t]
                    units[t] = 0
                    break
    for o in range(len(ptr) - 1):
        for t in range(take_ptr[ptr[o]], take_ptr[ptr[o] + 1]):
            left[row[t]] -= units[t]
            if left[row[t]] < 0:
                return int(row[t])
    return -1


@compiled
def reduce(
    ptr: Ints,
    cost: Ints,
    take_ptr: Ints,
    row: Ints,
    units: Ints,
    stock: Ints,
    incumbent: Ints,
    alive: Flags,
) -> tuple[Flags, Ints]:
    """Drop columns and rows until nothing changes; `stock`, `incumbent`, `alive` are edited in place.

    Dropped: what the stock left cannot serve; what costs more over its order's cheapest than the whole incumbent does over
    all of theirs; what another column of the order beats in cost and in every critical row; rows that can never bind.
    An order with one column left is settled: its units leave the stock.
    Returns (critical[R], part[O]): part = number of the order's connected component over critical rows, -1 = settled.
    """
    orders, rows = len(ptr) - 1, len(stock)
    settled = np.zeros(orders, np.bool_)
    critical = np.ones(rows, np.bool_)
    best = np.zeros(rows, np.int64)
    seen = np.full(rows, -1, np.int64)
    mask = np.zeros(len(cost), np.uint64)
    changed = True
    while changed:
        changed = False
        # 1. Regret of the incumbent over the orders' own optima: no better answer holds a column dearer than that.
        regret = 0
        low = np.zeros(orders, np.int64)
        for o in range(orders):
            low[o] = cost[incumbent[o]]
            for c in range(ptr[o], ptr[o + 1]):
                if alive[c] and cost[c] < low[o]:
                    low[o] = cost[c]
            regret += cost[incumbent[o]] - low[o]
        ask = np.zeros(rows, np.int64)
        for o in range(orders):
            if settled[o]:
                continue
            for c in range(ptr[o], ptr[o + 1]):
                if not alive[c]:
                    continue
                useless = cost[c] - low[o] >= regret
                for t in range(take_ptr[c], take_ptr[c + 1]):
                    useless = useless or units[t] > stock[row[t]]
                if useless and c != incumbent[o]:
                    alive[c] = False
                    changed = True
                    continue
                for t in range(take_ptr[c], take_ptr[c + 1]):
                    r = row[t]
                    if seen[r] != o:
                        seen[r] = o
                        best[r] = 0
                    if units[t] > best[r]:
                        ask[r] += units[t] - best[r]
                        best[r] = units[t]
        seen[:] = -1
        # 2. Rows that cannot bind any more.
        for r in range(rows):
            if critical[r] and ask[r] <= stock[r]:
                critical[r] = False
                changed = True
        for c in range(len(cost)):
            mask[c] = 0
            for t in range(take_ptr[c], take_ptr[c + 1]):
                if critical[row[t]] and units[t] > 0:
                    mask[c] |= np.uint64(1) << np.uint64(row[t] % 64)
        # 3. Dominated columns; an order that keeps one column is settled.
        for o in range(orders):
            if settled[o]:
                continue
            kept = 0
            for c in range(ptr[o + 1] - 1, ptr[o] - 1, -1):  # of two equal columns the first stays
                if not alive[c]:
                    continue
                by = _dominator(c, ptr[o], ptr[o + 1], cost, take_ptr, row, units, critical, alive, mask)
                if by < 0:
                    kept += 1
                    continue
                alive[c] = False
                changed = True
                if incumbent[o] == c:
                    incumbent[o] = by
            if kept == 1:
                settled[o] = True
                changed = True
                for t in range(take_ptr[incumbent[o]], take_ptr[incumbent[o] + 1]):
                    stock[row[t]] -= units[t]
    return critical, _parts(ptr, take_ptr, row, units, critical, alive, settled)


@compiled
def _dominator(
    c: int,
    start: int,
    stop: int,
    cost: Ints,
    take_ptr: Ints,
    row: Ints,
    units: Ints,
    critical: Flags,
    alive: Flags,
    mask: NDArray[np.uint64],
) -> int:
    """A column of the same order that is as cheap and takes no more of any critical row; -1 = none."""
    for other in range(start, stop):
        if other == c or not alive[other] or (mask[other] & ~mask[c]) != 0:
            continue
        if cost[other] > cost[c]:
            continue
        fits = True
        for t in range(take_ptr[other], take_ptr[other + 1]):
            if not critical[row[t]] or units[t] == 0:
                continue
            mine = 0
            for u in range(take_ptr[c], take_ptr[c + 1]):
                if row[u] == row[t]:
                    mine = max(mine, units[u])
            if mine < units[t]:
                fits = False
                break
        if fits:
            return other
    return -1


@compiled
def _parts(ptr: Ints, take_ptr: Ints, row: Ints, units: Ints, critical: Flags, alive: Flags, settled: Flags) -> Ints:
    """Connected components of the open orders over critical rows, numbered by their first order."""
    orders = len(ptr) - 1
    root = np.arange(orders)
    first = np.full(len(critical), -1, np.int64)
    for o in range(orders):
        if settled[o]:
            continue
        for c in range(ptr[o], ptr[o + 1]):
            if not alive[c]:
                continue
            for t in range(take_ptr[c], take_ptr[c + 1]):
                r = row[t]
                if not critical[r] or units[t] == 0:
                    continue
                if first[r] < 0:
                    first[r] = o
                    continue
                a, b = first[r], o
                while root[a] != a:
                    a = root[a]
                while root[b] != b:
                    b = root[b]
                root[max(a, b)] = min(a, b)
    part = np.full(orders, -1, np.int64)
    parts = 0
    for o in range(orders):
        if settled[o]:
            continue
        a = o
        while root[a] != a:
            a = root[a]
        if a == o:
            part[o] = parts
            parts += 1
        else:
            part[o] = part[a]
    return part


@compiled
def extract(
    ptr: Ints,
    cost: Ints,
    take_ptr: Ints,
    row: Ints,
    units: Ints,
    stock: Ints,
    incumbent: Ints,
    price: Ints,
    alive: Flags,
    critical: Flags,
    part: Ints,
    wanted: int,
) -> tuple[Ints, Ints, Ints, Ints, Ints, Ints, Ints, Ints, Ints]:
    """The part `wanted` as a problem of its own: its orders, living columns, critical takes; rows numbered anew."""
    orders = 0
    columns = 0
    takes = 0
    for o in range(len(ptr) - 1):
        if part[o] != wanted:
            continue
        orders += 1
        for c in range(ptr[o], ptr[o + 1]):
            if alive[c]:
                columns += 1
                takes += take_ptr[c + 1] - take_ptr[c]
    new_ptr = np.zeros(orders + 1, np.int64)
    new_cost = np.zeros(columns, np.int64)
    source = np.zeros(columns, np.int64)
    new_take_ptr = np.zeros(columns + 1, np.int64)
    new_row = np.zeros(takes, np.int64)
    new_units = np.zeros(takes, np.int64)
    new_incumbent = np.zeros(orders, np.int64)
    number = np.full(len(stock), -1, np.int64)
    new_stock = np.zeros(min(len(stock), takes), np.int64)
    new_price = np.zeros(min(len(stock), takes), np.int64)
    rows = 0
    i = j = k = 0
    for o in range(len(ptr) - 1):
        if part[o] != wanted:
            continue
        for c in range(ptr[o], ptr[o + 1]):
            if not alive[c]:
                continue
            for t in range(take_ptr[c], take_ptr[c + 1]):
                r = row[t]
                if not critical[r] or units[t] == 0:
                    continue
                if number[r] < 0:
                    number[r] = rows
                    new_stock[rows] = stock[r]
                    new_price[rows] = price[r]
                    rows += 1
                new_row[k] = number[r]
                new_units[k] = units[t]
                k += 1
            if incumbent[o] == c:
                new_incumbent[i] = j
            new_cost[j] = cost[c]
            source[j] = c
            j += 1
            new_take_ptr[j] = k
        i += 1
        new_ptr[i] = j
    return (
        new_ptr,
        new_cost,
        new_take_ptr,
        new_row[:k].copy(),
        new_units[:k].copy(),
        new_stock[:rows].copy(),
        new_incumbent,
        new_price[:rows].copy(),
        source,
    )
