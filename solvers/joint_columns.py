"""From a batch of orders to the few columns worth a joint look, where money is additive in lines. Compiled, int64 only.

B orders, at most L lines, K candidate nodes each:

    lines[B]       lines of an order                      fixed[B, K]      money of opening a candidate
    money[B, L, K] money of a line there; >= NEVER = not  row[B, L, K]     stock row that the line would take from
    units[B, L]    units of the line (whole, one node)    stock[R]         free units

1. `own_optima`: every order by itself. If nobody over-asks a row, that is the joint optimum.
2. `in_turn`: the same one after another against what is left: the incumbent.
3. `narrow`: which (line, candidate) pairs can be part of an answer better than the incumbent, which rows they can over-ask,
   and which orders hang together over those rows. The regret of a component (its incumbent above its own optima) is a budget:
   a pair that costs its order more than that is useless, which frees rows, which splits components, which shrinks regrets.
4. `columns`: the ways to serve the orders of components with regret, one per distinct use of critical rows, within budget.
   Complete: with `full` False the best of them is the best of all splits over these candidates and at most `legs` nodes.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations

import numpy as np

from solvers.joint_flat import Flags, Ints, compiled

NEVER = 2**40
"""Money of a line at a candidate that cannot serve it."""


@lru_cache
def node_sets(candidates: int, legs: int) -> Ints:
    """[S, legs]: all sets of 1..legs candidates, small sets first; -1 fills."""
    sets = [s + (-1,) * (legs - n) for n in range(1, legs + 1) for s in combinations(range(candidates), n)]
    return np.array(sets, dtype=np.int64)


@compiled
def best_split(sets: Ints, lines: int, fixed: Ints, money: Ints, pick: Ints) -> int:
    """Cheapest way to serve one order; `pick[line]` = candidate. Returns its money, >= NEVER = none."""
    best: int = 2**62
    best_set = -1
    for s in range(len(sets)):
        total = np.int64(0)
        for k in sets[s]:
            if k >= 0:
                total += fixed[k]
        for line in range(lines):
            least = np.int64(2**61)
            for k in sets[s]:
                if k >= 0 and money[line, k] < least:
                    least = money[line, k]
            total += least
            if total >= best:
                break
        if total < best:
            best = total
            best_set = s
    for line in range(lines):
        pick[line] = sets[best_set, 0]
        for k in sets[best_set]:
            if k >= 0 and money[line, k] < money[line, pick[line]]:
                pick[line] = k
    return best


@compiled
def own_optima(
    sets: Ints, lines: Ints, fixed: Ints, money: Ints, row: Ints, units: Ints, stock: Ints, pick: Ints
) -> tuple[Ints, bool]:
    """(cost[B], whether some row is over-asked); `pick[B, L]` is filled in. Every line must have a candidate."""
    cost = np.zeros(len(lines), np.int64)
    asked = np.zeros(len(stock), np.int64)
    over = False
    for b in range(len(lines)):
        cost[b] = best_split(sets, lines[b], fixed[b], money[b], pick[b])
        for line in range(lines[b]):
            r = row[b, line, pick[b, line]]
            asked[r] += units[b, line]
            over = over or asked[r] > stock[r]
    return cost, over


@compiled
def in_turn(sets: Ints, lines: Ints, fixed: Ints, money: Ints, row: Ints, units: Ints, stock: Ints, pick: Ints) -> Ints:
    """cost[B] of each order after its forerunners, >= NEVER where nothing is left for it (then it takes nothing)."""
    left = stock.copy()
    cost = np.zeros(len(lines), np.int64)
    now = np.zeros(money.shape[1:], np.int64)
    for b in range(len(lines)):
        for line in range(lines[b]):
            for k in range(fixed.shape[1]):
                now[line, k] = money[b, line, k]
                if now[line, k] < NEVER and left[row[b, line, k]] < units[b, line]:
                    now[line, k] = NEVER
        cost[b] = best_split(sets, lines[b], fixed[b], now, pick[b])
        if cost[b] < NEVER:
            for line in range(lines[b]):
                left[row[b, line, pick[b, line]]] -= units[b, line]
    return cost


@compiled
def _pair_regrets(sets: Ints, lines: int, fixed: Ints, money: Ints, own: int, regret: Ints) -> None:
    """regret[line, k] = what an order loses at least, against its own optimum, by serving `line` from k."""
    regret[:] = 2**61
    for s in range(len(sets)):
        total = np.int64(0)
        for k in sets[s]:
            if k >= 0:
                total += fixed[k]
        for line in range(lines):
            least = np.int64(2**50)
            for k in sets[s]:
                if k >= 0 and money[line, k] < least:
                    least = money[line, k]
            total += least
        if total >= NEVER:
            continue
        for line in range(lines):
            least = np.int64(2**50)
            for k in sets[s]:
                if k >= 0 and money[line, k] < least:
                    least = money[line, k]
            for k in sets[s]:
                if k >= 0 and money[line, k] < NEVER:
                    regret[line, k] = min(regret[line, k], total - least + money[line, k] - own)


@compiled
def narrow(
    sets: Ints,
    lines: Ints,
    fixed: Ints,
    money: Ints,
    row: Ints,
    units: Ints,
    stock: Ints,
    own: Ints,
    cost: Ints,
    pick: Ints,
) -> tuple[Flags, Flags, Ints, Ints]:
    """`own`, `cost`, `pick`: own optima and the incumbent (its picks), all feasible.

    Returns (useful[B, L, K], critical[R], budget[B]: regret of the order's component, part[B]: its component's first order).
    """
    batch, candidates = fixed.shape
    regret = np.zeros(money.shape, np.int64)
    useful = np.zeros(money.shape, np.bool_)
    budget = np.full(batch, np.sum(cost - own), np.int64)
    part = np.arange(batch)
    for b in range(batch):
        _pair_regrets(sets, lines[b], fixed[b], money[b], own[b], regret[b])
    rows = len(stock)
    critical = np.ones(rows, np.bool_)
    first = np.zeros(rows, np.int64)
    pairs = -1
    while True:
        ask = np.zeros(rows, np.int64)
        count = 0
        for b in range(batch):
            for line in range(lines[b]):
                for k in range(candidates):
                    useful[b, line, k] = regret[b, line, k] < budget[b] or k == pick[b, line]
                    if useful[b, line, k]:
                        count += 1
                        ask[row[b, line, k]] += units[b, line]
        if count == pairs:
            return useful, critical, budget, part
        pairs = count
        for r in range(rows):
            critical[r] = ask[r] > stock[r]
            first[r] = -1
        for b in range(batch):
            part[b] = b
        for b in range(batch):
            for line in range(lines[b]):
                for k in range(candidates):
                    r = row[b, line, k]
                    if not useful[b, line, k] or not critical[r]:
                        continue
                    if first[r] < 0:
                        first[r] = b
                        continue
                    x, y = first[r], b
                    while part[x] != x:
                        x = part[x]
                    while part[y] != y:
                        y = part[y]
                    part[max(x, y)] = min(x, y)
        total = np.zeros(batch, np.int64)
        for b in range(batch):
            part[b] = part[part[b]]  # roots come before their members
            total[part[b]] += cost[b] - own[b]
        for b in range(batch):
            budget[b] = total[part[b]]


@compiled
def columns(
    sets: Ints,
    lines: int,
    fixed: Ints,
    money: Ints,
    row: Ints,
    useful: Flags,
    critical: Flags,
    dearest: int,
    out_cost: Ints,
    out_pick: Ints,
) -> tuple[int, bool]:
    """Ways to serve one order for less than `dearest`, one (the cheapest) per distinct use of critical rows.

    Column 0 is in place already (cost and picks of the incumbent). Returns (columns, whether `out_cost` was too short).
    """
    found = 1
    full = False
    legs = sets.shape[1]
    ways = np.zeros((lines, legs), np.int64)  # the candidates of a set worth trying for a line
    width = np.zeros(lines, np.int64)
    digit = np.zeros(lines, np.int64)
    for s in range(len(sets)):
        base = np.int64(0)
        for k in sets[s]:
            if k >= 0:
                base += fixed[k]
        possible: bool = base < dearest
        for line in range(lines):
            if not possible:
                break
            # The cheapest place that is not critical, and every critical place that is cheaper than it.
            free = -1
            for k in sets[s]:
                if (
                    k >= 0
                    and useful[line, k]
                    and not critical[row[line, k]]
                    and (free < 0 or money[line, k] < money[line, free])
                ):
                    free = k
            width[line] = 0
            for k in sets[s]:
                if k < 0 or not useful[line, k]:
                    continue
                if k == free or (critical[row[line, k]] and (free < 0 or money[line, k] < money[line, free])):
                    ways[line, width[line]] = k
                    width[line] += 1
            possible = width[line] > 0
            digit[line] = 0
        while possible:
            total = base
            for line in range(lines):
                total += money[line, ways[line, digit[line]]]
            if total < dearest:
                same = -1
                for c in range(found):
                    same = c
                    for line in range(lines):
                        a, b = row[line, out_pick[c, line]], row[line, ways[line, digit[line]]]
                        if a != b and (critical[a] or critical[b]):
                            same = -1
                            break
                    if same >= 0:
                        break
                if same < 0 and found == len(out_cost):
                    full = True
                elif same < 0 or total < out_cost[same]:
                    at = found if same < 0 else same
                    found += same < 0
                    out_cost[at] = total
                    for line in range(lines):
                        out_pick[at, line] = ways[line, digit[line]]
            # Next combination.
            line = 0
            while line < lines:
                digit[line] += 1
                if digit[line] < width[line]:
                    break
                digit[line] = 0
                line += 1
            possible = line < lines
    return found, full
