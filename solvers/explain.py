"""What the kernel remembers about a decision: the runner-up's money, and a verdict on up to eight candidates."""

from __future__ import annotations

from solvers.columns import price_subset
from solvers.cover import add_money
from solvers.jit import inner
from solvers.layout import (
    D_CANDIDATE,
    D_LEGS,
    D_MASK,
    D_NODE,
    G_CASH,
    G_CASH_LINES,
    G_CASH_SURCHARGE,
    G_CASH_UNITS,
    G_LATE,
    G_NODE,
    G_OPPORTUNITY,
    G_POLICY,
    G_TRANSIT,
    I64,
    NEVER,
    O_LINE_COUNT,
    R_CANDIDATE_COUNT,
    R_LEG,
    R_LEG_COUNT,
    R_RUNNER_CASH,
    R_RUNNER_LEGS,
    R_RUNNER_NODE,
    RECORD_CANDIDATES,
    T_WHOLE,
    V_A,
    V_B,
    V_CASH,
    V_CHOSEN,
    V_CODE,
    V_DEARER,
    V_FULL,
    V_KM,
    V_NO_SERVICE,
    V_NODE,
    V_PART,
    V_SHORT,
    W_CAPACITY,
    W_COVER_BEST,
    W_COVER_RUNNER,
    W_FLOOR,
    W_FULL,
    W_GROUPS,
    W_KEPT,
    W_KM,
    W_LEG,
    W_NODE,
    W_ORDER,
    W_RUNNER,
    W_SUMS,
    X_FREE,
    Outcome,
    Scratch,
)


@inner
def _sum_chosen(w: I64, outcome: Outcome, result: I64) -> None:
    """Cash, service, policy and opportunity money of the part's legs, at W_SUMS."""
    legs = outcome.legs
    for n in range(4):
        w[W_SUMS + n] = 0
    for n in range(result[R_LEG], result[R_LEG] + result[R_LEG_COUNT]):
        w[W_SUMS] += legs[n, G_CASH] + legs[n, G_CASH_LINES] + legs[n, G_CASH_UNITS] + legs[n, G_CASH_SURCHARGE]
        w[W_SUMS + 1] += legs[n, G_LATE] + legs[n, G_TRANSIT]
        w[W_SUMS + 2] += legs[n, G_POLICY]
        w[W_SUMS + 3] += legs[n, G_OPPORTUNITY]


@inner
def _leg_at(outcome: Outcome, result: I64, node: int) -> int:
    """Number of the part's leg at a node, -1 = none."""
    for n in range(result[R_LEG_COUNT]):
        if outcome.legs[result[R_LEG] + n, G_NODE] == node:
            return n
    return -1


@inner
def explain_part(m: I64, scratch: Scratch, outcome: Outcome, result: I64, exact: bool, at: int) -> int:
    """Fill the runner-up of a part and the rows of its candidates from row `at` on; the next row.

    First the chosen nodes, then the runner-up's, then the nearest.
    """
    w = scratch.w
    alone = scratch.alone
    _sum_chosen(w, outcome, result)
    if exact and w[W_RUNNER + D_LEGS] > 0:
        legs = w[W_RUNNER + D_LEGS]
        result[R_RUNNER_LEGS] = legs
        for n in range(legs):
            result[R_RUNNER_NODE + n] = w[W_RUNNER + D_NODE + n]
        for n in range(4):
            result[R_RUNNER_CASH + n] = -w[W_SUMS + n]
        for n in range(legs):
            price_subset(m, w, alone, w[W_RUNNER + D_CANDIDATE + n], w[W_RUNNER + D_MASK + n], W_LEG)
            add_money(w, result, R_RUNNER_CASH)
    elif not exact and w[W_COVER_RUNNER] > 0 and w[W_COVER_RUNNER + 1] == w[W_COVER_BEST + 1]:
        legs = w[W_COVER_RUNNER]
        result[R_RUNNER_LEGS] = legs
        for n in range(legs):
            result[R_RUNNER_NODE + n] = w[W_COVER_RUNNER + 7 + n]
        for n in range(4):
            result[R_RUNNER_CASH + n] = w[W_COVER_RUNNER + 3 + n] - w[W_SUMS + n]
    everything = (1 << w[W_GROUPS]) - 1
    for turn in range(3):
        for c in range(w[W_KEPT]):
            if result[R_CANDIDATE_COUNT] == RECORD_CANDIDATES:
                return at
            node = w[W_NODE + c]
            chosen = _leg_at(outcome, result, node)
            rank = 2
            if chosen >= 0:
                rank = 0
            else:
                for n in range(result[R_RUNNER_LEGS]):
                    if result[R_RUNNER_NODE + n] == node:
                        rank = 1
            if rank != turn:
                continue
            row = outcome.candidates[at]
            at += 1
            result[R_CANDIDATE_COUNT] += 1
            row[:] = 0
            row[V_NODE] = node
            row[V_KM] = w[W_KM + c]
            if chosen >= 0:
                row[V_CODE] = V_CHOSEN
                row[V_A] = chosen
            elif w[W_FLOOR + c] == NEVER:
                row[V_CODE] = V_NO_SERVICE
            elif exact and w[W_FULL + c] == everything:
                w[W_CAPACITY] = 0
                if price_subset(m, w, alone, c, everything, W_LEG) == NEVER:
                    row[V_CODE] = V_FULL if w[W_CAPACITY] else V_NO_SERVICE
                else:
                    row[V_CODE] = V_DEARER
                    for n in range(4):
                        row[V_CASH + n] = -w[W_SUMS + n]
                    add_money(w, row, V_CASH)
            else:
                row[V_CODE] = V_PART
                for i in range(w[W_ORDER + O_LINE_COUNT]):
                    if scratch.grid[X_FREE, c, i] < scratch.table[i, T_WHOLE]:
                        row[V_CODE] = V_SHORT
                        row[V_A] = i
                        row[V_B] = scratch.grid[X_FREE, c, i]
                        break
    return at
