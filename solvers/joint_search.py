"""Exact search of one component: depth-first over the columns that prices left. Compiled, int64 only.

What a choice loses against the priced bound is an *excess*: how much dearer the column is, at these prices, than its order's
cheapest. Units with a price that nobody can use any more are lost too. The budget is what an answer cheaper by one may lose. A
node decides the open order with the fewest columns that still fit stock and budget, and is cut when the losses so far and the
least losses of all other orders leave nothing to win.
"""

from __future__ import annotations

import numpy as np

from solvers.joint_jit import compiled
from solvers.joint_prices import cheapest, excess_of, fits
from solvers.joint_wire import Ints


@compiled
def search(
    ptr: Ints,
    cost: Ints,
    take_ptr: Ints,
    row: Ints,
    units: Ints,
    stock: Ints,
    incumbent: Ints,
    price: Ints,
    scale: int,
    bound: int,
    nodes_max: int,
) -> int:
    """Look for an answer cheaper than `incumbent` (edited in place), at most `nodes_max` nodes.

    Returns the nodes visited; `nodes_max` or more = it stopped early and proved nothing.
    """
    orders, rows = len(ptr) - 1, len(stock)
    low = cheapest(ptr, cost)
    excess = excess_of(ptr, cost, take_ptr, row, units, price, scale, low)
    budget = -bound - scale  # what an answer cheaper by one may lose against the bound
    for o in range(orders):
        budget += scale * (cost[incumbent[o]] - low[o])

    sorted_columns = np.zeros(len(cost), np.int64)  # by excess within their order
    for o in range(orders):
        sorted_columns[ptr[o] : ptr[o + 1]] = np.argsort(excess[ptr[o] : ptr[o + 1]], kind="mergesort") + ptr[o]

    # Per order, the most it asks of each row by a useful column (list in CSR form); slack[r] = units that nobody can use.
    ask_ptr = np.zeros(orders + 1, np.int64)
    ask_row = np.zeros(len(row), np.int64)
    ask_units = np.zeros(len(row), np.int64)
    position = np.full(rows, -1, np.int64)
    slack = stock.copy()
    k = 0
    for o in range(orders):
        start = k
        for c in range(ptr[o], ptr[o + 1]):
            if excess[c] > budget:
                continue
            for t in range(take_ptr[c], take_ptr[c + 1]):
                r = row[t]
                if position[r] < start:
                    position[r] = k
                    ask_row[k] = r
                    ask_units[k] = 0
                    k += 1
                ask_units[position[r]] = max(ask_units[position[r]], units[t])
        ask_ptr[o + 1] = k
        for a in range(start, k):
            slack[ask_row[a]] -= ask_units[a]
    wasted = 0
    for r in range(rows):
        wasted += price[r] * max(slack[r], 0)

    left = stock.copy()
    chosen = np.full(orders, -1, np.int64)
    order_at = np.full(
        orders, -1, np.int64
    )  # by depth: the order decided there, its next column, money lost before it and
    cursor = np.zeros(orders, np.int64)  # the least that the orders after it will lose
    lost = np.zeros(orders + 1, np.int64)
    rest = np.zeros(orders, np.int64)
    lost[0] = wasted
    nodes = 0
    depth = 0
    while depth >= 0:
        if order_at[depth] < 0:
            nodes += 1
            if nodes >= nodes_max:
                break
            o, rest[depth] = _next_order(
                ptr, take_ptr, row, units, left, chosen, excess, sorted_columns, budget - lost[depth]
            )
            if o < 0:
                depth -= 1
                continue
            order_at[depth] = o
            cursor[depth] = ptr[o]
        o = order_at[depth]
        if chosen[o] >= 0:  # back from below: give the units back
            c = chosen[o]
            chosen[o] = -1
            for t in range(take_ptr[c], take_ptr[c + 1]):
                left[row[t]] += units[t]
                slack[row[t]] += units[t]
            for a in range(ask_ptr[o], ask_ptr[o + 1]):
                slack[ask_row[a]] -= ask_units[a]
        found = False
        c = -1
        while cursor[depth] < ptr[o + 1] and not found:
            c = sorted_columns[cursor[depth]]
            cursor[depth] += 1
            if lost[depth] + excess[c] + rest[depth] > budget:
                cursor[depth] = ptr[o + 1]
                break
            found = fits(c, take_ptr, row, units, left)
        if not found:
            order_at[depth] = -1
            depth -= 1
            continue
        # The order's asks are decided: what it leaves of them nobody else may want.
        loss = lost[depth] + excess[c]
        for a in range(ask_ptr[o], ask_ptr[o + 1]):
            r = ask_row[a]
            loss -= price[r] * max(slack[r], 0)
            slack[r] += ask_units[a]
            loss += price[r] * max(slack[r], 0)
        for t in range(take_ptr[c], take_ptr[c + 1]):
            r = row[t]
            left[r] -= units[t]
            loss -= price[r] * max(slack[r], 0)
            slack[r] -= units[t]
            loss += price[r] * max(slack[r], 0)
        chosen[o] = c
        if loss + rest[depth] > budget:
            continue
        if depth + 1 < orders:
            depth += 1
            lost[depth] = loss
            continue
        incumbent[:] = chosen
        budget = -bound - scale
        for i in range(orders):
            budget += scale * (cost[incumbent[i]] - low[i])
    return nodes


@compiled
def _next_order(
    ptr: Ints,
    take_ptr: Ints,
    row: Ints,
    units: Ints,
    left: Ints,
    chosen: Ints,
    excess: Ints,
    sorted_columns: Ints,
    budget: int,
) -> tuple[int, int]:
    """The open order with the fewest columns that fit the stock and the budget, and what the others lose at least; -1 = none can win."""
    orders = len(chosen)
    least = np.zeros(orders, np.int64)
    first = np.zeros(orders, np.int64)
    total = 0
    for o in range(orders):
        if chosen[o] >= 0:
            continue
        at = ptr[o]
        while at < ptr[o + 1] and not fits(sorted_columns[at], take_ptr, row, units, left):
            at += 1
        if at == ptr[o + 1]:
            return -1, 0
        first[o] = at
        least[o] = excess[sorted_columns[at]]
        total += least[o]
        if total > budget:
            return -1, 0
    best = -1
    fewest = 2**40
    for o in range(orders):
        if chosen[o] >= 0:
            continue
        count = 0
        for at in range(first[o], ptr[o + 1]):
            c = sorted_columns[at]
            if total - least[o] + excess[c] > budget or count >= fewest:
                break
            count += fits(c, take_ptr, row, units, left)
        if count < fewest:
            fewest = count
            best = o
            if count == 1:
                break
    return best, total - least[best]
