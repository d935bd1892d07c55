"""The exact search: all ways to give the groups of an order to at most three of its candidates, priced in full.

A leg's tariff is not additive in its goods (breaks, dimensional weight, several parcels), but a plan's cost is additive in its
legs. So: for every subset of groups the three cheapest candidates that hold it whole, then the best partition into at most
three subsets with different nodes. Three entries a subset are enough, because two others can block at most two. An additive
under-estimate (least fixed cost of a leg + least cost of each group) keeps subsets that cannot matter from being priced.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from solvers.candidates import Work
from solvers.jit import jit
from solvers.layout import (
    G_DELIVER_DAY,
    GROUPS_EXACT,
    I64,
    LEG_COLUMNS,
    N_LINE,
    N_SURCHARGE,
    N_UNIT,
    NEVER,
    O_POLICY,
    O_TRANSIT_BP,
    Y_LEG_VALUE,
    Y_NEUTRAL,
    Calendar,
    Load,
    Network,
)
from solvers.legs import (
    A_COLUMNS,
    A_GROUP,
    A_UNITS,
    Q_COLUMNS,
    Q_LINES,
    Q_NEED,
    Q_OPPORTUNITY,
    Q_UNITS,
    Q_VALUE,
    price_leg,
)

SUBSETS = 1 << GROUPS_EXACT
KEPT = 3


class Search(NamedTuple):
    """Scratch of the exact search, and its answer."""

    goods: I64
    """[2^G, Q] goods of each subset of groups."""
    opportunity: I64
    """[K, G] price of the units of each group at each candidate."""
    alone: I64
    """[L, A] lines that ship alone."""
    alone_units: I64
    done: I64
    """[2^G] 1 = its entries are known."""
    score: I64
    """[2^G, 3]"""
    candidate: I64
    day: I64
    floor: I64
    """[2^G] never above the subset's best score."""
    leg: I64
    best: I64
    """Score, last delivery day, legs, then masks and candidates of the legs (three each), then its nodes in order."""
    runner: I64
    """The same, of the best plan with another set of nodes."""
    trial: I64
    sums: I64


T_SCORE, T_DAY, T_LEGS, T_MASK, T_CANDIDATE, T_NODE = 0, 1, 2, 3, 6, 9
TRIAL_COLUMNS = 12


@jit
def make_search(candidates: int, lines: int) -> Search:
    return Search(
        goods=np.zeros((SUBSETS, Q_COLUMNS), np.int64),
        opportunity=np.zeros((candidates, GROUPS_EXACT), np.int64),
        alone=np.zeros((lines, A_COLUMNS), np.int64),
        alone_units=np.zeros(lines, np.int64),
        done=np.zeros(SUBSETS, np.int64),
        score=np.zeros((SUBSETS, KEPT), np.int64),
        candidate=np.zeros((SUBSETS, KEPT), np.int64),
        day=np.zeros((SUBSETS, KEPT), np.int64),
        floor=np.zeros(SUBSETS, np.int64),
        leg=np.zeros(LEG_COLUMNS, np.int64),
        best=np.zeros(TRIAL_COLUMNS, np.int64),
        runner=np.zeros(TRIAL_COLUMNS, np.int64),
        trial=np.zeros(TRIAL_COLUMNS, np.int64),
        sums=np.zeros(4, np.int64),
    )


@jit
def fill_subsets(search: Search, groups: int) -> None:
    """Goods of all subsets from those of the single groups (already in `goods[1 << g]`)."""
    goods = search.goods
    goods[0, :] = 0
    for m in range(1, 1 << groups):
        search.done[m] = 0
        low = m & -m
        rest = m ^ low
        if rest:
            for q in range(Q_COLUMNS):
                goods[m, q] = goods[low, q] + goods[rest, q]
            goods[m, Q_NEED] = goods[low, Q_NEED] | goods[rest, Q_NEED]


@jit
def price_subset(
    network: Network,
    calendar: Calendar,
    load: Load,
    order: I64,
    work: Work,
    search: Search,
    alone_count: int,
    total_value: int,
    c: int,
    m: int,
    leg: I64,
    notes: I64,
) -> int:
    """Score of a subset of groups at a candidate; its details in `leg`."""
    goods = search.goods[m]
    g = 0
    rest = m
    opportunity = 0
    while rest:
        if rest & 1:
            opportunity += search.opportunity[c, g]
        rest >>= 1
        g += 1
    goods[Q_OPPORTUNITY] = opportunity
    for n in range(alone_count):
        inside = (m >> search.alone[n, A_GROUP]) & 1
        search.alone_units[n] = search.alone[n, A_UNITS] if inside else 0
    return price_leg(
        network,
        calendar,
        load,
        order,
        work.node[c],
        work.zones[c],
        goods,
        total_value,
        search.alone,
        search.alone_units,
        alone_count,
        leg,
        notes,
    )


@jit
def fill_entries(
    network: Network,
    calendar: Calendar,
    load: Load,
    order: I64,
    work: Work,
    search: Search,
    kept: int,
    alone_count: int,
    total_value: int,
    m: int,
    notes: I64,
) -> None:
    """The three cheapest candidates for a subset, by (score, delivery day, node)."""
    if search.done[m]:
        return
    search.done[m] = 1
    score, candidate, day = search.score[m], search.candidate[m], search.day[m]
    for e in range(KEPT):
        score[e] = NEVER
        candidate[e] = -1
        day[e] = NEVER
    nodes = network.nodes
    goods = search.goods[m]
    policy_row = order[O_POLICY]
    neutral = network.policy[policy_row, Y_NEUTRAL] != 0
    for c in range(kept):
        if work.full[c] & m != m or work.floor[c] == NEVER:
            continue
        node = work.node[c]
        if neutral:
            least = work.floor[c] + nodes[node, N_SURCHARGE] + network.policy_node[policy_row, node]
            least += nodes[node, N_LINE] * goods[Q_LINES] + nodes[node, N_UNIT] * goods[Q_UNITS]
            least += work.days[c] * (goods[Q_VALUE] * order[O_TRANSIT_BP] // 10_000)
            if least > score[KEPT - 1]:
                continue
        s = price_subset(
            network, calendar, load, order, work, search, alone_count, total_value, c, m, search.leg, notes
        )
        if s == NEVER:
            continue
        d = search.leg[G_DELIVER_DAY]
        e = KEPT - 1
        while e >= 0 and (
            s < score[e] or (s == score[e] and (d < day[e] or (d == day[e] and node < work.node[candidate[e]])))
        ):
            if e < KEPT - 1:
                score[e + 1], candidate[e + 1], day[e + 1] = score[e], candidate[e], day[e]
            score[e], candidate[e], day[e] = s, c, d
            e -= 1


@jit
def set_floors(network: Network, order: I64, work: Work, search: Search, kept: int, groups: int) -> None:
    """Under-estimates of all subsets: least fixed cost of any leg + least variable cost of each group."""
    nodes = network.nodes
    policy_row = order[O_POLICY]
    if network.policy[policy_row, Y_NEUTRAL] == 0:
        search.floor[:] = -NEVER // 8
        return
    fixed = NEVER
    for c in range(kept):
        if work.floor[c] != NEVER:
            node = work.node[c]
            fixed = min(fixed, work.floor[c] + nodes[node, N_SURCHARGE] + network.policy_node[policy_row, node])
    search.floor[0] = 0
    for g in range(groups):
        goods = search.goods[1 << g]
        least = NEVER
        transit = goods[Q_VALUE] * order[O_TRANSIT_BP] // 10_000
        for c in range(kept):
            if (work.full[c] >> g) & 1 and work.floor[c] != NEVER:
                node = work.node[c]
                cost = nodes[node, N_LINE] * goods[Q_LINES] + nodes[node, N_UNIT] * goods[Q_UNITS]
                cost += work.days[c] * transit + search.opportunity[c, g]
                least = min(least, cost)
        search.floor[1 << g] = least
    for m in range(1, 1 << groups):
        low = m & -m
        if m != low:
            total = search.floor[low] + search.floor[m ^ low]
            search.floor[m] = min(total, NEVER)
    for m in range(1, 1 << groups):
        search.floor[m] = min(search.floor[m] + fixed, NEVER)


@jit
def _less(a: I64, b: I64) -> bool:
    """Whether a trial comes before another: score, last delivery day, node numbers."""
    if a[T_SCORE] != b[T_SCORE]:
        return a[T_SCORE] < b[T_SCORE]
    if a[T_DAY] != b[T_DAY]:
        return a[T_DAY] < b[T_DAY]
    for n in range(3):
        if a[T_NODE + n] != b[T_NODE + n]:
            return a[T_NODE + n] < b[T_NODE + n]
    return a[T_MASK] < b[T_MASK]


@jit
def _consider(search: Search, work: Work, legs: int) -> None:
    """Compare `trial` (score, day, masks, candidates filled in) with the best and the runner-up."""
    trial, best, runner = search.trial, search.best, search.runner
    trial[T_LEGS] = legs
    for n in range(3):
        trial[T_NODE + n] = work.node[trial[T_CANDIDATE + n]] if n < legs else NEVER
        if n >= legs:
            trial[T_MASK + n] = 0
            trial[T_CANDIDATE + n] = 0
    for a in range(1, legs):
        for b in range(a, 0, -1):
            if trial[T_NODE + b] < trial[T_NODE + b - 1]:
                trial[T_NODE + b], trial[T_NODE + b - 1] = trial[T_NODE + b - 1], trial[T_NODE + b]
    same = best[T_LEGS] == legs
    for n in range(3):
        same = same and best[T_NODE + n] == trial[T_NODE + n]
    if _less(trial, best):
        if not same and best[T_LEGS] > 0:
            runner[:] = best
        best[:] = trial
    elif not same and _less(trial, runner):
        runner[:] = trial


@jit
def search_plan(
    network: Network,
    calendar: Calendar,
    load: Load,
    order: I64,
    work: Work,
    search: Search,
    kept: int,
    groups: int,
    wanted: int,
    alone_count: int,
    total_value: int,
    max_legs: int,
    notes: I64,
) -> bool:
    """Best plan and runner-up for the groups in `wanted`; False = at most three (or `max_legs`) nodes cannot serve them."""
    search.best[:] = 0
    search.best[T_SCORE] = NEVER
    search.runner[:] = 0
    search.runner[T_SCORE] = NEVER
    trial = search.trial
    score, candidate, day = search.score, search.candidate, search.day
    least_value = network.policy[order[O_POLICY], Y_LEG_VALUE]
    fill_entries(network, calendar, load, order, work, search, kept, alone_count, total_value, wanted, notes)
    for e in range(KEPT):
        if candidate[wanted, e] < 0:
            break
        trial[T_SCORE], trial[T_DAY] = score[wanted, e], day[wanted, e]
        trial[T_MASK], trial[T_CANDIDATE] = wanted, candidate[wanted, e]
        _consider(search, work, 1)
    if max_legs < 2 or wanted & (wanted - 1) == 0:
        return search.best[T_LEGS] > 0
    set_floors(network, order, work, search, kept, groups)
    floor = search.floor
    low = wanted & -wanted
    rest = wanted ^ low
    sub = rest
    while sub:  # `sub` = what the leg of the lowest group leaves to the others
        a = wanted ^ sub
        if search.goods[a, Q_VALUE] >= least_value:
            if floor[a] + floor[sub] <= search.runner[T_SCORE] and search.goods[sub, Q_VALUE] >= least_value:
                _try_two(network, calendar, load, order, work, search, kept, alone_count, total_value, a, sub, notes)
            if max_legs >= 3:
                low_2 = sub & -sub
                rest_2 = sub ^ low_2
                c = rest_2
                while c:
                    b = sub ^ c
                    if (
                        floor[a] + floor[b] + floor[c] <= search.runner[T_SCORE]
                        and search.goods[b, Q_VALUE] >= least_value
                        and search.goods[c, Q_VALUE] >= least_value
                    ):
                        _try_three(
                            network,
                            calendar,
                            load,
                            order,
                            work,
                            search,
                            kept,
                            alone_count,
                            total_value,
                            a,
                            b,
                            c,
                            notes,
                        )
                    c = (c - 1) & rest_2
        sub = (sub - 1) & rest
    return search.best[T_LEGS] > 0


@jit
def _try_two(
    network: Network,
    calendar: Calendar,
    load: Load,
    order: I64,
    work: Work,
    search: Search,
    kept: int,
    alone_count: int,
    total_value: int,
    a: int,
    b: int,
    notes: I64,
) -> None:
    score, candidate, day, trial = search.score, search.candidate, search.day, search.trial
    fill_entries(network, calendar, load, order, work, search, kept, alone_count, total_value, a, notes)
    fill_entries(network, calendar, load, order, work, search, kept, alone_count, total_value, b, notes)
    for x in range(KEPT):
        if candidate[a, x] < 0:
            break
        for y in range(KEPT):
            if candidate[b, y] < 0:
                break
            if candidate[a, x] == candidate[b, y]:
                continue
            trial[T_SCORE] = score[a, x] + score[b, y]
            trial[T_DAY] = max(day[a, x], day[b, y])
            trial[T_MASK], trial[T_MASK + 1] = a, b
            trial[T_CANDIDATE], trial[T_CANDIDATE + 1] = candidate[a, x], candidate[b, y]
            _consider(search, work, 2)


@jit
def _try_three(
    network: Network,
    calendar: Calendar,
    load: Load,
    order: I64,
    work: Work,
    search: Search,
    kept: int,
    alone_count: int,
    total_value: int,
    a: int,
    b: int,
    c: int,
    notes: I64,
) -> None:
    score, candidate, day, trial = search.score, search.candidate, search.day, search.trial
    fill_entries(network, calendar, load, order, work, search, kept, alone_count, total_value, a, notes)
    fill_entries(network, calendar, load, order, work, search, kept, alone_count, total_value, b, notes)
    fill_entries(network, calendar, load, order, work, search, kept, alone_count, total_value, c, notes)
    for x in range(KEPT):
        if candidate[a, x] < 0:
            break
        for y in range(KEPT):
            if candidate[b, y] < 0:
                break
            if candidate[a, x] == candidate[b, y]:
                continue
            for z in range(KEPT):
                if candidate[c, z] < 0:
                    break
                if candidate[c, z] == candidate[a, x] or candidate[c, z] == candidate[b, y]:
                    continue
                trial[T_SCORE] = score[a, x] + score[b, y] + score[c, z]
                trial[T_DAY] = max(day[a, x], day[b, y], day[c, z])
                trial[T_MASK], trial[T_MASK + 1], trial[T_MASK + 2] = a, b, c
                trial[T_CANDIDATE] = candidate[a, x]
                trial[T_CANDIDATE + 1] = candidate[b, y]
                trial[T_CANDIDATE + 2] = candidate[c, z]
                _consider(search, work, 3)
