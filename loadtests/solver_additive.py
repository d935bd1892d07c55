"""The compiled enumeration of the benchmark's additive instances: what the kernel does for real tariffs.

Money is a fixed part per opened candidate plus a part per line, so that CP-SAT's line-node model prices exactly the same plans.
Arrays as in `loadtests.solver_instances.Batch`.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations

import numpy as np

from solvers.joint_columns import NEVER
from solvers.joint_jit import compiled
from solvers.joint_wire import Ints


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
def leg_scores(lines: Ints, fixed: Ints, money: Ints) -> Ints:
    """score[B, K, 2^L] of every leg, each line a group of its own (solvers.joint_columns); >= NEVER = a line is not there."""
    batch, width, candidates = money.shape
    score = np.full((batch, candidates, 1 << width), NEVER, np.int64)
    for b in range(batch):
        for k in range(candidates):
            score[b, k, 0] = fixed[b, k]
            for m in range(1, 1 << lines[b]):
                line = 0
                while not m >> line & 1:
                    line += 1
                if score[b, k, m & (m - 1)] < NEVER and money[b, line, k] < NEVER:
                    score[b, k, m] = score[b, k, m & (m - 1)] + money[b, line, k]
            score[b, k, 0] = NEVER
    return score
