"""Rows that follow from the stock rows because units are whole: they bring the priced bound close to the true optimum.

Prices alone see fractions: two orders of 2 units on a stock of 3 look like one and a half. Two kinds, both implied by a row
sum(units x) <= stock, so that no answer is lost:

    rounding   sum(floor(units / d) x) <= floor(stock / d)          for d = a number of units somebody asks, d not dividing stock
    clique     big takes + one order's small takes, at most one     big: more than half the stock; small: does not fit beside the
               smallest big one. One row per such order.
"""

from __future__ import annotations

import numpy as np

from solvers.joint_flat import Flat
from solvers.joint_jit import compiled
from solvers.joint_wire import Ints

CLIQUES_MAX = 32
"""Clique rows of one stock row: every big take of it is in all of them."""
UNITS_CUT_MAX = 16
"""Takes beyond this are never rounded: with large numbers fractions do little harm."""


def strengthen(flat: Flat) -> Flat:
    """The same problem with the implied rows added after its own."""
    take_ptr, row, units, stock = _with_cuts(flat.ptr, flat.take_ptr, flat.row, flat.units, flat.stock)
    price = np.zeros(len(stock), dtype=np.int64)
    price[: len(flat.price)] = flat.price
    return flat._replace(take_ptr=take_ptr, row=row, units=units, stock=stock, price=price)


@compiled
def _with_cuts(ptr: Ints, take_ptr: Ints, row: Ints, units: Ints, stock: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    orders, rows, columns = len(ptr) - 1, len(stock), len(take_ptr) - 1
    # asked[r, u]: somebody asks u units of r; small_big[r]: the smallest take of more than half the stock, 0 = none.
    asked = np.zeros((rows, UNITS_CUT_MAX + 1), np.bool_)
    small_big = np.zeros(rows, np.int64)
    for t in range(len(row)):
        r, u = row[t], units[t]
        asked[r, min(u, UNITS_CUT_MAX)] = True
        if 2 * u > stock[r] and (small_big[r] == 0 or u < small_big[r]):
            small_big[r] = u

    # Numbers of the new rows: rounding by (row, divisor), cliques by (row, order) in the order met.
    rounding = np.full((rows, UNITS_CUT_MAX), -1, np.int64)
    new_stock = [np.int64(s) for s in stock]
    for r in range(rows):
        for d in range(2, UNITS_CUT_MAX):
            if asked[r, d] and stock[r] >= d and stock[r] % d != 0:
                rounding[r, d] = len(new_stock)
                new_stock.append(stock[r] // d)
    clique_row = [np.int64(0) for _ in range(0)]  # row of each clique
    clique_order = [np.int64(0) for _ in range(0)]
    last_order = np.full(rows, -1, np.int64)
    cliques_of = np.zeros(rows, np.int64)
    first_clique = len(new_stock)
    for o in range(orders):
        for c in range(ptr[o], ptr[o + 1]):
            for t in range(take_ptr[c], take_ptr[c + 1]):
                r = row[t]
                small = 2 * units[t] <= stock[r] and small_big[r] > 0 and units[t] + small_big[r] > stock[r]
                if small and last_order[r] != o and cliques_of[r] < CLIQUES_MAX:
                    cliques_of[r] += 1
                    last_order[r] = o
                    clique_row.append(np.int64(r))
                    clique_order.append(np.int64(o))
                    new_stock.append(np.int64(1))
    cliques = len(clique_row)
    by_row = np.zeros(rows + 1, np.int64)
    for q in range(cliques):
        by_row[clique_row[q] + 1] += 1
    for r in range(rows):
        by_row[r + 1] += by_row[r]
    fill = by_row.copy()
    listed = np.zeros(cliques, np.int64)
    for q in range(cliques):
        listed[fill[clique_row[q]]] = q
        fill[clique_row[q]] += 1

    new_take_ptr = np.zeros(columns + 1, np.int64)
    new_row = [np.int64(0) for _ in range(0)]
    new_units = [np.int64(0) for _ in range(0)]
    for o in range(orders):
        for c in range(ptr[o], ptr[o + 1]):
            for t in range(take_ptr[c], take_ptr[c + 1]):
                r, u = row[t], units[t]
                new_row.append(r)
                new_units.append(u)
                for d in range(2, min(u, UNITS_CUT_MAX - 1) + 1):
                    if rounding[r, d] >= 0:
                        new_row.append(rounding[r, d])
                        new_units.append(u // d)
                if small_big[r] == 0 or u + small_big[r] <= stock[r]:
                    continue
                for i in range(by_row[r], by_row[r + 1]):
                    if 2 * u > stock[r] or clique_order[listed[i]] == o:
                        new_row.append(np.int64(first_clique + listed[i]))
                        new_units.append(np.int64(1))
            new_take_ptr[c + 1] = len(new_row)
    return new_take_ptr, np.array(new_row), np.array(new_units), np.array(new_stock)
