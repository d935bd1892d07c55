"""Prices for the rows of one component. Compiled, int64 only: the same answer on every machine.

`price_rows`: Lagrangian relaxation. Every row gets a price; each order then takes its cheapest column by itself. That is a
bound on every joint answer, whatever the prices are; a subgradient step raises the price of an over-asked row. The orders'
choices, repaired to fit the stock, give better incumbents on the way.
`drop_dear`: with a bound close to the incumbent most columns cost too much to be in a better answer.

Money here is relative to each order's cheapest column and multiplied by `scale`, so that prices have fractions.
"""

from __future__ import annotations

import numpy as np

from solvers.joint_flat import Flags, Flat
from solvers.joint_jit import compiled
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
                if fits(c, take_ptr, row, units, left):
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
def improve(ptr: Ints, cost: Ints, take_ptr: Ints, row: Ints, units: Ints, stock: Ints, chosen: Ints) -> int:
    """Cheaper columns for single orders and for pairs, one making room for the other, until none helps; returns the saving.

    `chosen` (edited in place) fits the stock before and after.
    """
    orders = len(ptr) - 1
    left = stock.copy()
    for o in range(orders):
        _move(left, chosen[o], take_ptr, row, units, -1)
    saving = 0
    moved = True
    while moved:
        moved = False
        for o in range(orders):
            _move(left, chosen[o], take_ptr, row, units, 1)
            best, best_other, best_way, gain = chosen[o], -1, -1, 0
            for c in range(ptr[o], ptr[o + 1]):
                spared = cost[chosen[o]] - cost[c]
                if spared <= gain:
                    continue
                if fits(c, take_ptr, row, units, left):
                    best, best_other, gain = c, -1, spared
                    continue
                _move(left, c, take_ptr, row, units, -1)
                other, way, price = _make_room(ptr, cost, take_ptr, row, units, left, chosen, o, c, spared - gain)
                _move(left, c, take_ptr, row, units, 1)
                if other >= 0:
                    best, best_other, best_way, gain = c, other, way, spared - price
            chosen[o] = best
            _move(left, best, take_ptr, row, units, -1)
            if best_other >= 0:
                _move(left, chosen[best_other], take_ptr, row, units, 1)
                chosen[best_other] = best_way
                _move(left, best_way, take_ptr, row, units, -1)
            saving += gain
            moved = moved or gain > 0
    return saving


@compiled
def _make_room(
    ptr: Ints,
    cost: Ints,
    take_ptr: Ints,
    row: Ints,
    units: Ints,
    left: Ints,
    chosen: Ints,
    mover: int,
    wanted: int,
    most: int,
) -> tuple[int, int, int]:
    """(order, its new column, what it costs more): the cheapest move of one other order, for less than `most`, after which no row
    that the mover's column `wanted` takes from is overdrawn; -1 = none. `left` is negative where one is."""
    over = 0
    for t in range(take_ptr[wanted], take_ptr[wanted + 1]):
        over += left[row[t]] < 0
    found, way = -1, -1
    for o in range(len(chosen)):
        if o == mover:
            continue
        freed = 0
        for t in range(take_ptr[chosen[o]], take_ptr[chosen[o] + 1]):
            freed += left[row[t]] < 0 and left[row[t]] + units[t] >= 0
        if freed < over:
            continue
        _move(left, chosen[o], take_ptr, row, units, 1)
        for c in range(ptr[o], ptr[o + 1]):
            price = cost[c] - cost[chosen[o]]
            if price < most and fits(c, take_ptr, row, units, left):
                found, way, most = o, c, price
        _move(left, chosen[o], take_ptr, row, units, -1)
    return found, way, most


@compiled
def _move(left: Ints, c: int, take_ptr: Ints, row: Ints, units: Ints, sign: int) -> None:
    """Give a column's units back (1) or take them (-1)."""
    for t in range(take_ptr[c], take_ptr[c + 1]):
        left[row[t]] += sign * units[t]


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
    excess = excess_of(ptr, cost, take_ptr, row, units, price, scale, low)
    for o in range(len(low)):
        for c in range(ptr[o], ptr[o + 1]):
            alive[c] = excess[c] <= budget or c == incumbent[o]
    return alive


@compiled
def excess_of(
    ptr: Ints, cost: Ints, take_ptr: Ints, row: Ints, units: Ints, price: Ints, scale: int, low: Ints
) -> Ints:
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
def fits(c: int, take_ptr: Ints, row: Ints, units: Ints, left: Ints) -> bool:
    """Whether a column's units are there."""
    for t in range(take_ptr[c], take_ptr[c + 1]):  # noqa: SIM110 - a generator does not compile to a plain loop
        if units[t] > left[row[t]]:
            return False
    return True
