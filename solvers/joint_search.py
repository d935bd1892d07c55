"""Prices and exact search for one component of a joint problem. Compiled, int64 only: the same answer on every machine.

1. `price_rows`: Lagrangian relaxation. Every row gets a price; each order then takes its cheapest column by itself. That is a
   bound on every joint answer, whatever the prices are; a subgradient step raises the price of an over-asked row. The orders'
   choices, repaired to fit the stock, give better incumbents on the way.
2. `drop_dear`: with a bound close to the incumbent most columns cost too much to be in a better answer.
3. `search`: depth-first over what is left. A node is cut when the money already lost against the bound (dearer columns
   chosen, priced units that nobody can use any more) leaves nothing to win.

Money here is relative to each order's cheapest column and multiplied by `scale`, so that prices have fractions.
"""

from __future__ import annotations

import numpy as np

from solvers.joint_flat import Flags, Flat, compiled
from solvers.joint_wire import Ints

SCALE_MAX = 256
_MAGNITUDE_MAX = 2**62


def scale_for(flat: Flat) -> int:
    """Largest power of two that keeps every sum of `price_rows` and `search` inside int64; 0 = none does."""
    if not flat.orders:
        return 0
    low = np.minimum.reduceat(flat.cost, flat.ptr[:-1])
    high = np.maximum.reduceat(flat.cost, flat.ptr[:-1])
    spread = int((high - low).sum()) + 1
    asks = sum(flat.units.tolist()) + sum(flat.stock.tolist()) + 1
    scale = SCALE_MAX
    while scale and (1024 * scale * spread * asks > _MAGNITUDE_MAX or 256 * asks * asks > _MAGNITUDE_MAX):
        scale //= 2
    return scale


@compiled
def cheapest(ptr: Ints, cost: Ints) -> Ints:
    """Cost of each order's cheapest column."""
    low = np.zeros(len(ptr) - 1, np.int64)
    for o in range(len(ptr) - 1):
        low[o] = cost[ptr[o]]
        for c in range(ptr[o] + 1, ptr[o + 1]):
            low[o] = min(low[o], cost[c])
    return low


@compiled
def price_rows(
    ptr: Ints,
    cost: Ints,
    take_ptr: Ints,
    row: Ints,
    units: Ints,
    stock: Ints,
    incumbent: Ints,
    price: Ints,
    scale: int,
    rounds: int,
) -> int:
    """Raise the bound for at most `rounds` steps; `price` and `incumbent` are edited in place, never to a dearer one.

    Returns the bound above the sum of the orders' cheapest columns, in 1/scale money, at the prices left in `price`.
    """
    orders, rows = len(ptr) - 1, len(stock)
    low = cheapest(ptr, cost)
    upper = 0
    for o in range(orders):
        upper += cost[incumbent[o]] - low[o]
    ceiling = scale * (upper + 1)
    bound = -ceiling
    now = np.minimum(price, ceiling)
    heading = np.zeros(rows, np.int64)
    choice = np.zeros(orders, np.int64)
    excess = np.zeros(len(cost), np.int64)
    theta, stalled = 128, 0
    for step in range(rounds):
        total = 0
        used = np.zeros(rows, np.int64)
        for o in range(orders):
            least = 2**62
            for c in range(ptr[o], ptr[o + 1]):
                money = scale * (cost[c] - low[o])
                for t in range(take_ptr[c], take_ptr[c + 1]):
                    money += now[row[t]] * units[t]
                excess[c] = money
                if money < least:
                    least = money
                    choice[o] = c
            total += least
            for t in range(take_ptr[choice[o]], take_ptr[choice[o] + 1]):
                used[row[t]] += units[t]
        for r in range(rows):
            total -= now[r] * stock[r]
        if total > bound:
            bound = total
            price[:] = now
            stalled = 0
        else:
            stalled += 1
            if stalled == 6:
                stalled = 0
                theta = theta * 5 // 8
        found = _repair(ptr, cost, take_ptr, row, units, stock, choice, excess, step)
        money = 0
        for o in range(orders):
            money += cost[choice[o]] - low[o]
        if found and money < upper:
            upper = money
            incumbent[:] = choice
        if bound > scale * (upper - 1) or theta == 0:
            break
        norm = 0
        for r in range(rows):
            over = used[r] - stock[r]
            if over < 0 and now[r] == 0:
                over = 0
            # Three parts of the new direction, one of the old: without memory the steps zigzag.
            heading[r] = (3 * 16 * over + heading[r]) // 4
            norm += heading[r] * heading[r]
        if norm == 0:
            break
        gap = min(scale * upper - total, 4 * ceiling)
        for r in range(rows):
            now[r] = min(max(now[r] + theta * gap // 8 * heading[r] // norm, 0), ceiling)
    return bound


@compiled
def _repair(
    ptr: Ints,
    cost: Ints,
    take_ptr: Ints,
    row: Ints,
    units: Ints,
    stock: Ints,
    choice: Ints,
    excess: Ints,
    turn: int,
) -> bool:
    """Make `choice` fit the stock: refused orders take their cheapest priced column that fits; then single moves pay in."""
    orders = len(ptr) - 1
    left = stock.copy()
    waiting = np.zeros(orders, np.bool_)
    for i in range(orders):
        o = (i + turn) % orders
        c = choice[o]
        for t in range(take_ptr[c], take_ptr[c + 1]):
            if units[t] > left[row[t]]:
                waiting[o] = True
        if not waiting[o]:
            for t in range(take_ptr[c], take_ptr[c + 1]):
                left[row[t]] -= units[t]
    for sweep in range(3):
        moved = False
        for i in range(orders):
            o = (i + turn) % orders
            if sweep == 0 and not waiting[o]:
                continue
            if sweep > 0:
                for t in range(take_ptr[choice[o]], take_ptr[choice[o] + 1]):
                    left[row[t]] += units[t]
            best = -1
            for c in range(ptr[o], ptr[o + 1]):
                if best >= 0 and (excess[c] >= excess[best] if sweep == 0 else cost[c] >= cost[best]):
                    continue
                fits = True
                for t in range(take_ptr[c], take_ptr[c + 1]):
                    fits = fits and units[t] <= left[row[t]]
                if fits:
                    best = c
            if best < 0:
                return False
            moved = moved or best != choice[o]
            choice[o] = best
            for t in range(take_ptr[best], take_ptr[best + 1]):
                left[row[t]] -= units[t]
        if sweep > 0 and not moved:
            break
    return True


@compiled
def drop_dear(
    ptr: Ints,
    cost: Ints,
    take_ptr: Ints,
    row: Ints,
    units: Ints,
    incumbent: Ints,
    price: Ints,
    scale: int,
    bound: int,
) -> Flags:
    """alive[C]: columns that, at these prices, can still be part of an answer cheaper than the incumbent (or are in it)."""
    alive = np.ones(len(cost), np.bool_)
    low = cheapest(ptr, cost)
    budget = -bound - scale
    for o in range(len(low)):
        budget += scale * (cost[incumbent[o]] - low[o])
    excess = _excess(ptr, cost, take_ptr, row, units, price, scale, low)
    for o in range(len(low)):
        for c in range(ptr[o], ptr[o + 1]):
            alive[c] = excess[c] <= budget or c == incumbent[o]
    return alive


@compiled
def _excess(ptr: Ints, cost: Ints, take_ptr: Ints, row: Ints, units: Ints, price: Ints, scale: int, low: Ints) -> Ints:
    """Priced cost of each column above the least priced cost of its order."""
    excess = np.zeros(len(cost), np.int64)
    for o in range(len(low)):
        least = np.int64(2**62)
        for c in range(ptr[o], ptr[o + 1]):
            excess[c] = scale * (cost[c] - low[o])
            for t in range(take_ptr[c], take_ptr[c + 1]):
                excess[c] += price[row[t]] * units[t]
            least = min(least, excess[c])
        for c in range(ptr[o], ptr[o + 1]):
            excess[c] -= least
    return excess


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
    excess = _excess(ptr, cost, take_ptr, row, units, price, scale, low)
    budget = -bound - scale  # what an answer cheaper by one may lose against the bound
    for o in range(orders):
        budget += scale * (cost[incumbent[o]] - low[o])

    # Columns by excess within their order; orders with few useful columns first.
    sorted_columns = np.zeros(len(cost), np.int64)
    useful = np.zeros(orders, np.int64)
    for o in range(orders):
        by_excess = np.argsort(excess[ptr[o] : ptr[o + 1]], kind="mergesort") + ptr[o]
        sorted_columns[ptr[o] : ptr[o + 1]] = by_excess
        for c in by_excess:
            useful[o] += excess[c] <= budget
    sequence = np.argsort(useful, kind="mergesort")

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
    cursor = np.zeros(orders + 1, np.int64)
    lost = np.zeros(orders + 1, np.int64)
    lost[0] = wasted
    chosen = np.full(orders, -1, np.int64)
    if wasted > budget:
        return 1
    nodes = 0
    depth = 0
    cursor[0] = ptr[sequence[0]]
    while depth >= 0:
        o = sequence[depth]
        if chosen[o] >= 0:  # back from below: give the units back
            c = chosen[o]
            chosen[o] = -1
            for t in range(take_ptr[c], take_ptr[c + 1]):
                left[row[t]] += units[t]
                slack[row[t]] += units[t]
            for a in range(ask_ptr[o], ask_ptr[o + 1]):
                slack[ask_row[a]] -= ask_units[a]
        if cursor[depth] == ptr[o + 1]:
            depth -= 1
            continue
        c = sorted_columns[cursor[depth]]
        cursor[depth] += 1
        if lost[depth] + excess[c] > budget:
            cursor[depth] = ptr[o + 1]
            continue
        nodes += 1
        if nodes >= nodes_max:
            break
        fits = True
        for t in range(take_ptr[c], take_ptr[c + 1]):
            fits = fits and units[t] <= left[row[t]]
        if not fits:
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
        if loss > budget:
            continue
        if depth + 1 < orders:
            depth += 1
            lost[depth] = loss
            cursor[depth] = ptr[sequence[depth]]
            continue
        incumbent[:] = chosen
        budget = -bound - scale
        for i in range(orders):
            budget += scale * (cost[incumbent[i]] - low[i])
    return nodes
