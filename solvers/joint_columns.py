"""From priced legs to the few columns worth a joint look. Compiled, int64 only.

A batch of B orders, at most L lines in G groups, K candidate nodes each; M = 2^G:

    score[B, K, M]  money of candidate k handing over exactly the groups in mask m (full tariff); >= NEVER = it cannot
    groups[B]       groups of an order                   lines[B]         its lines
    group[B, L]     group of a line                      units[B, L]      its units (whole, from one node)
    row[B, L, K]    stock row the line would take from   stock[R]         free units; number only rows the batch can touch

`own[B]` is every order's optimum by itself, `cost[B]` and `pick[B, G]` (candidate of each group) the incumbent: the orders one
after another against what is left. Then

1. `narrow`: which (group, candidate) pairs can be part of an answer better than the incumbent, which rows they can over-ask, and
   which orders hang together over those rows. The regret of a component (its incumbent above its own optima) is a budget: a
   pair that costs its order more is useless, which frees rows, which splits components, which shrinks budgets, and so on.
2. `columns`: the ways to serve the orders of components with regret, one (the cheapest) per distinct use of critical rows, within
   budget. Unless an order hits `columns_max`, the best choice among them is the best of all splits over the candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from solvers.joint_flat import Flags
from solvers.joint_jit import compiled
from solvers.joint_wire import Ints, JointArrays

NEVER = 2**45
"""Money of a leg that cannot be."""


class Columns(NamedTuple):
    """The joint problem of a batch's open orders, and what its columns mean."""

    problem: JointArrays
    orders: Ints
    """[O] order of the batch that each order of the problem is."""
    pick: Ints
    """[C, G] candidate of each group."""
    row_ids: Ints
    """[R] the caller's number of each row of the problem."""
    truncated: bool
    """Some order had more columns than `columns_max`: its cheapest were kept, the answer is the best among those."""


@compiled
def _bounds(score: Ints, groups: int, one: Ints, two: Ints) -> None:
    """one[m], two[m] = least money to serve mask m by one leg, by at most two (perhaps at the same node: a bound)."""
    masks = 1 << groups
    one[0] = two[0] = 0
    for m in range(1, masks):
        one[m] = NEVER
        for k in range(len(score)):
            one[m] = min(one[m], score[k, m])
    for m in range(1, masks):
        two[m] = one[m]
        part = (m - 1) & m
        while part > 0:
            two[m] = min(two[m], one[part] + one[m ^ part])
            part = (part - 1) & m


@compiled
def narrow(
    score: Ints,
    groups: Ints,
    lines: Ints,
    group: Ints,
    row: Ints,
    units: Ints,
    stock: Ints,
    own: Ints,
    cost: Ints,
    pick: Ints,
    legs: int,
) -> tuple[Flags, Flags, Ints, Ints]:
    """Only feasible orders. `legs` = most nodes of an order, 1..3.

    Returns (useful[B, G, K], critical[R], budget[B]: regret of the order's component, part[B]: its component's first order).
    """
    batch, candidates, masks = score.shape
    rows = len(stock)
    regret = np.full((batch, pick.shape[1], candidates), NEVER, np.int64)
    one, two = np.zeros(masks, np.int64), np.zeros(masks, np.int64)
    for b in range(batch):
        _bounds(score[b], groups[b], one, two)
        everything = (1 << groups[b]) - 1
        for k in range(candidates):
            for m in range(1, everything + 1):
                rest = everything ^ m
                if rest > 0 and legs == 1:
                    continue
                loss = score[b, k, m] + (one[rest] if legs == 2 else two[rest]) - own[b]
                for g in range(groups[b]):
                    if m >> g & 1 and loss < regret[b, g, k]:
                        regret[b, g, k] = loss
    useful = np.zeros(regret.shape, np.bool_)
    critical = np.ones(rows, np.bool_)
    first = np.zeros(rows, np.int64)
    budget = np.full(batch, np.sum(cost - own), np.int64)
    part = np.arange(batch)
    pairs = -1
    while True:
        ask = np.zeros(rows, np.int64)
        count = 0
        for b in range(batch):
            for g in range(groups[b]):
                for k in range(candidates):
                    useful[b, g, k] = regret[b, g, k] < budget[b] or k == pick[b, g]
                    count += useful[b, g, k]
            for line in range(lines[b]):
                for k in range(candidates):
                    if useful[b, group[b, line], k]:
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
                    if not useful[b, group[b, line], k] or not critical[r]:
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


def joint_columns(
    score: Ints,
    groups: Ints,
    lines: Ints,
    group: Ints,
    row: Ints,
    units: Ints,
    stock: Ints,
    own: Ints,
    cost: Ints,
    pick: Ints,
    useful: Flags,
    critical: Flags,
    budget: Ints,
    *,
    legs: int,
    columns_max: int,
) -> Columns:
    """The columns of the orders with a budget; the others keep their incumbent. The last arguments are what `narrow` returned."""
    ptr, money, take_ptr, takes, amounts, free, orders, picks, row_ids, truncated = _columns(
        score, groups, lines, group, row, units, stock, own, cost, pick, useful, critical, budget, legs, columns_max
    )
    return Columns(JointArrays(ptr, money, take_ptr, takes, amounts, free), orders, picks, row_ids, truncated)


@compiled
def _columns(
    score: Ints,
    groups: Ints,
    lines: Ints,
    group: Ints,
    row: Ints,
    units: Ints,
    stock: Ints,
    own: Ints,
    cost: Ints,
    pick: Ints,
    useful: Flags,
    critical: Flags,
    budget: Ints,
    legs: int,
    columns_max: int,
) -> tuple[Ints, Ints, Ints, Ints, Ints, Ints, Ints, Ints, Ints, bool]:
    orders = np.flatnonzero(budget > 0)
    most = len(orders) * columns_max
    ptr = np.zeros(len(orders) + 1, np.int64)
    money = np.empty(most, np.int64)
    picks = np.zeros((most, pick.shape[1]), np.int64)
    take_ptr = np.zeros(most + 1, np.int64)
    takes = np.empty(most * row.shape[1], np.int64)
    amounts = np.empty(most * row.shape[1], np.int64)
    number = np.full(len(stock), -1, np.int64)
    row_ids = np.empty(len(stock), np.int64)
    key = np.empty(columns_max, np.int64)
    rows = taken = columns = 0
    truncated = False
    for i in range(len(orders)):
        b = orders[i]
        start = columns
        money[start] = cost[b]
        picks[start] = pick[b]
        out_money, out_picks = money[start : start + columns_max], picks[start : start + columns_max]
        found, cut = _ways(
            score[b],
            groups[b],
            lines[b],
            group[b],
            row[b],
            useful[b],
            critical,
            own[b] + budget[b],
            legs,
            out_money,
            out_picks,
            key,
        )
        truncated = truncated or cut
        columns = start + found
        ptr[i + 1] = columns
        for c in range(start, columns):
            for line in range(lines[b]):
                r = row[b, line, picks[c, group[b, line]]]
                if not critical[r]:
                    continue
                if number[r] < 0:
                    number[r] = rows
                    row_ids[rows] = r
                    rows += 1
                takes[taken] = number[r]
                amounts[taken] = units[b, line]
                taken += 1
            take_ptr[c + 1] = taken
    row_ids = row_ids[:rows].copy()
    return (
        ptr,
        money[:columns].copy(),
        take_ptr[: columns + 1].copy(),
        takes[:taken].copy(),
        amounts[:taken].copy(),
        stock[row_ids],
        orders,
        picks[:columns].copy(),
        row_ids,
        truncated,
    )


@compiled
def _ways(
    score: Ints,
    groups: int,
    lines: int,
    group: Ints,
    row: Ints,
    useful: Flags,
    critical: Flags,
    dearest: int,
    legs: int,
    money: Ints,
    picks: Ints,
    key: Ints,
) -> tuple[int, bool]:
    """Ways to serve one order for less than `dearest`, after the incumbent at 0: (how many, whether there was no room for all)."""
    candidates, masks = score.shape
    one, two = np.zeros(masks, np.int64), np.zeros(masks, np.int64)
    _bounds(score, groups, one, two)
    serves = np.zeros(candidates, np.int64)  # groups worth serving from a candidate
    for g in range(groups):
        for k in range(candidates):
            serves[k] |= useful[g, k] << g
    found = 1
    key[0] = _key(lines, group, row, critical, picks[0])
    cut = False
    trial = np.zeros(picks.shape[1], np.int64)
    everything = (1 << groups) - 1
    spare = everything & (everything - 1)  # all but the lowest group: what the first leg may leave
    rest = spare
    while True:
        a = everything ^ rest
        others = two[rest] if legs > 2 else one[rest]
        for k in range(candidates):
            if a & ~serves[k] != 0 or score[k, a] + others >= dearest or (legs == 1 and rest > 0):
                continue
            _assign(trial, a, k)
            if rest == 0:
                found, cut = _keep(found, cut, lines, group, row, critical, trial, score[k, a], money, picks, key)
                continue
            spare_2 = rest & (rest - 1)
            last = spare_2 if legs > 2 else 0
            while True:
                b = rest ^ last
                so_far = score[k, a] + one[last]
                for k_2 in range(candidates):
                    if k_2 == k or b & ~serves[k_2] != 0 or so_far + score[k_2, b] >= dearest:
                        continue
                    _assign(trial, b, k_2)
                    if last == 0:
                        total = score[k, a] + score[k_2, b]
                        found, cut = _keep(found, cut, lines, group, row, critical, trial, total, money, picks, key)
                        continue
                    for k_3 in range(candidates):
                        total = score[k, a] + score[k_2, b] + score[k_3, last]
                        if k_3 in (k, k_2) or last & ~serves[k_3] != 0 or total >= dearest:
                            continue
                        _assign(trial, last, k_3)
                        found, cut = _keep(found, cut, lines, group, row, critical, trial, total, money, picks, key)
                if last == 0:
                    break
                last = (last - 1) & spare_2
        if rest == 0:
            return found, cut
        rest = (rest - 1) & spare


@compiled
def _assign(trial: Ints, mask: int, k: int) -> None:
    g = 0
    while mask > 0:
        if mask & 1:
            trial[g] = k
        mask >>= 1
        g += 1


@compiled
def _key(lines: int, group: Ints, row: Ints, critical: Flags, pick: Ints) -> int:
    """Hash of the critical rows that a way takes from, line by line."""
    key = 1469598103934665603
    for line in range(lines):
        r = row[line, pick[group[line]]]
        key = (key ^ (r + 2 if critical[r] else 1)) * 1099511628211
    return key


@compiled
def _keep(
    found: int,
    cut: bool,
    lines: int,
    group: Ints,
    row: Ints,
    critical: Flags,
    trial: Ints,
    total: int,
    money: Ints,
    picks: Ints,
    key: Ints,
) -> tuple[int, bool]:
    """Keep a way: instead of a dearer one with the same use of critical rows, or as a new one; full = instead of the dearest."""
    wanted = _key(lines, group, row, critical, trial)
    at = -1
    for c in range(found):
        if key[c] == wanted:
            at = c
            break
    if at >= 0:
        if total >= money[at]:
            return found, cut
    elif found < len(money):
        at = found
        found += 1
    else:
        cut = True
        at = 1
        for c in range(2, found):
            if money[c] > money[at]:
                at = c
        if total >= money[at]:
            return found, cut
    money[at] = total
    picks[at] = trial
    key[at] = wanted
    return found, cut
