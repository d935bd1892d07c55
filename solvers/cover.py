"""Large orders, and orders that three nodes do not cover: greedy cover, then moves, all legs priced in full.

A line's quantity is divided among nodes only where it may be and no single candidate has all of it. Two greedy orders are
tried (most goods a leg, least money for the goods), for short orders also every near candidate as the first leg; the plan that
leaves least unfilled wins, then the cheapest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from solvers.candidates import Work
from solvers.jit import jit
from solvers.layout import (
    I64,
    L_SPLIT,
    L_UNITS,
    LEG_COLUMNS,
    LEGS_MAX,
    NEVER,
    O_LINE,
    O_LINE_COUNT,
    Batch,
    Calendar,
    Load,
    Network,
)
from solvers.legs import (
    Q_COLUMNS,
    Q_LINES,
    Q_NEED,
    Q_OPPORTUNITY,
    Q_PACKED,
    Q_UNITS,
    Q_VALUE,
    Q_VOLUME,
    Q_WEIGHT,
    price_leg,
)
from solvers.tariff import times

ROUNDS = 3
SHORT_LINES = 12
STARTS = 8
MOST_GOODS, LEAST_MONEY = 0, 1


class Cover(NamedTuple):
    """Scratch and answer of a cover. `units[leg, line]`; -1 in `candidate` = no leg."""

    candidate: I64
    units: I64
    goods: I64
    score: I64
    left: I64
    divisible: I64
    available: I64
    """[K, L] units still free, by the first line of the item."""
    opened: I64
    first: I64
    """[G] first line of a group"""
    next: I64
    """[L] next line of the group, -1 = none"""
    best_candidate: I64
    best_units: I64
    kept: I64
    """[3] legs, units unfilled and score of the best cover so far."""
    alone_units: I64
    trial: I64
    trial_2: I64
    leg: I64


@jit
def make_cover(candidates: int, lines: int) -> Cover:
    return Cover(
        candidate=np.full(LEGS_MAX, -1, np.int64),
        units=np.zeros((LEGS_MAX, lines), np.int64),
        goods=np.zeros((LEGS_MAX, Q_COLUMNS), np.int64),
        score=np.zeros(LEGS_MAX, np.int64),
        left=np.zeros(lines, np.int64),
        divisible=np.zeros(lines, np.int64),
        available=np.zeros((candidates, lines), np.int64),
        opened=np.zeros(candidates, np.int64),
        first=np.zeros(lines, np.int64),
        next=np.zeros(lines, np.int64),
        best_candidate=np.full(LEGS_MAX, -1, np.int64),
        best_units=np.zeros((LEGS_MAX, lines), np.int64),
        kept=np.zeros(3, np.int64),
        alone_units=np.zeros((LEGS_MAX + 2, lines), np.int64),
        trial=np.zeros(Q_COLUMNS, np.int64),
        trial_2=np.zeros(Q_COLUMNS, np.int64),
        leg=np.zeros(LEG_COLUMNS, np.int64),
    )


@jit
def add_goods(work: Work, goods: I64, alone_units: I64, i: int, units: int, price: int) -> None:
    """Add units of a line to a leg's goods (negative = take away; its handling needs then stay)."""
    goods[Q_LINES] += 1 if units > 0 else -1
    goods[Q_UNITS] += units
    goods[Q_NEED] |= work.need[i]
    many = abs(units)
    sign = 1 if units > 0 else -1
    goods[Q_VALUE] += sign * times(many, work.unit_value[i])
    goods[Q_OPPORTUNITY] += sign * times(many, price)
    if work.alone[i] >= 0:
        alone_units[work.alone[i]] += units
    else:
        goods[Q_PACKED] += units
        goods[Q_WEIGHT] += sign * times(many, work.unit_weight[i])
        goods[Q_VOLUME] += sign * times(many, work.unit_volume[i])


@jit
def _price_of(stock_prices: I64, work: Work, c: int, i: int) -> int:
    row = work.row[c, i]
    return stock_prices[row] if row >= 0 and row < stock_prices.shape[0] else 0


@jit
def _start(batch: Batch, order: I64, work: Work, cover: Cover, kept: int, groups: int) -> None:
    count = order[O_LINE_COUNT]
    first = order[O_LINE]
    for g in range(groups):
        cover.first[g] = -1
    for i in range(count - 1, -1, -1):
        g = work.group[i]
        cover.next[i] = cover.first[g]
        cover.first[g] = i
    for i in range(count):
        cover.divisible[i] = 0
        if batch.lines[first + i, L_SPLIT] and work.group_size[work.group[i]] == 1:
            most = 0
            for c in range(kept):
                if work.floor[c] != NEVER:
                    most = max(most, work.free[c, i])
            if most < work.whole[i]:
                cover.divisible[i] = 1


@jit
def _fits(cover: Cover, work: Work, c: int, g: int) -> bool:
    """Whether a candidate still has all that a group lacks (lines of one item within it are counted apart)."""
    i = cover.first[g]
    while i >= 0:
        if cover.left[i] <= 0 or cover.available[c, work.canon[i]] < cover.left[i]:
            return False
        i = cover.next[i]
    return True


@jit
def _gain(
    network: Network,
    calendar: Calendar,
    load: Load,
    order: I64,
    work: Work,
    cover: Cover,
    prices: I64,
    alone: I64,
    alone_count: int,
    total_value: int,
    groups: int,
    c: int,
    mode: int,
    notes: I64,
) -> tuple[int, int]:
    """(rank, units) of what opening a candidate would bring; the lowest rank is best; units 0 = nothing."""
    goods = cover.trial
    goods[:] = 0
    units_alone = cover.alone_units[LEGS_MAX]
    units_alone[:alone_count] = 0
    share = 0
    for g in range(groups):
        i = cover.first[g]
        if cover.left[i] <= 0:
            continue
        if cover.divisible[i]:
            units = min(cover.left[i], cover.available[c, work.canon[i]])
            if units > 0:
                share += units * 1_000 // work.whole[i] + 1
                add_goods(work, goods, units_alone, i, units, _price_of(prices, work, c, i))
        elif _fits(cover, work, c, g):
            while i >= 0:
                share += 1_000
                add_goods(work, goods, units_alone, i, cover.left[i], _price_of(prices, work, c, i))
                i = cover.next[i]
    if share == 0:
        return NEVER, 0
    if mode == MOST_GOODS:
        return -(share * 64 - c), goods[Q_UNITS]
    score = price_leg(
        network,
        calendar,
        load,
        order,
        work.node[c],
        work.zones[c],
        goods,
        total_value,
        alone,
        units_alone,
        alone_count,
        cover.leg,
        notes,
    )
    if score == NEVER:
        return NEVER, 0
    return min(score, NEVER // 4_096) * 1_000 // share, goods[Q_UNITS]


@jit
def _open(cover: Cover, work: Work, prices: I64, alone_count: int, groups: int, c: int, leg: int) -> int:
    """Give a new leg all that its candidate can take; units given."""
    cover.opened[c] = 1
    cover.candidate[leg] = c
    cover.units[leg, :] = 0
    cover.goods[leg, :] = 0
    units_alone = cover.alone_units[leg]
    units_alone[:alone_count] = 0
    given = 0
    for g in range(groups):
        i = cover.first[g]
        if cover.left[i] <= 0:
            continue
        if cover.divisible[i]:
            units = min(cover.left[i], cover.available[c, work.canon[i]])
            if units > 0:
                _move_in(cover, work, prices, c, leg, i, units)
                cover.left[i] -= units
                given += units
        elif _fits(cover, work, c, g):
            while i >= 0:
                units = cover.left[i]
                if cover.available[c, work.canon[i]] < units:
                    break
                _move_in(cover, work, prices, c, leg, i, units)
                cover.left[i] = 0
                given += units
                i = cover.next[i]
            if i >= 0:  # two lines of one item in a group: together they do not fit
                j = cover.first[g]
                while j != i:
                    given -= cover.units[leg, j]
                    cover.left[j] = cover.units[leg, j]
                    _move_out(cover, work, prices, c, leg, j)
                    j = cover.next[j]
    return given


@jit
def _move_in(cover: Cover, work: Work, prices: I64, c: int, leg: int, i: int, units: int) -> None:
    cover.units[leg, i] += units
    cover.available[c, work.canon[i]] -= units
    add_goods(work, cover.goods[leg], cover.alone_units[leg], i, units, _price_of(prices, work, c, i))


@jit
def _move_out(cover: Cover, work: Work, prices: I64, c: int, leg: int, i: int) -> None:
    units = cover.units[leg, i]
    cover.units[leg, i] = 0
    cover.available[c, work.canon[i]] += units
    add_goods(work, cover.goods[leg], cover.alone_units[leg], i, -units, _price_of(prices, work, c, i))


@jit
def _price(
    network: Network,
    calendar: Calendar,
    load: Load,
    order: I64,
    work: Work,
    cover: Cover,
    alone: I64,
    alone_count: int,
    total_value: int,
    leg: int,
    notes: I64,
) -> int:
    """Score of a leg as it is; 0 when it is empty."""
    c = cover.candidate[leg]
    if cover.goods[leg, Q_LINES] == 0:
        return 0
    return price_leg(
        network,
        calendar,
        load,
        order,
        work.node[c],
        work.zones[c],
        cover.goods[leg],
        total_value,
        alone,
        cover.alone_units[leg],
        alone_count,
        cover.leg,
        notes,
    )


@jit
def _improve(
    network: Network,
    calendar: Calendar,
    load: Load,
    order: I64,
    work: Work,
    cover: Cover,
    prices: I64,
    alone: I64,
    alone_count: int,
    total_value: int,
    groups: int,
    kept: int,
    legs: int,
    notes: I64,
) -> None:
    """Move single groups between legs, and legs to unused candidates, while that is cheaper."""
    for _ in range(ROUNDS):
        changed = False
        if legs > 1:
            for g in range(groups):
                i = cover.first[g]
                if cover.divisible[i] or cover.left[i] > 0:
                    continue
                a = 0
                while a < legs and cover.units[a, i] == 0:
                    a += 1
                if a == legs:
                    continue
                for b in range(legs):
                    if b != a and _try_move(
                        network,
                        calendar,
                        load,
                        order,
                        work,
                        cover,
                        prices,
                        alone,
                        alone_count,
                        total_value,
                        g,
                        a,
                        b,
                        notes,
                    ):
                        changed = True
                        break
        for a in range(legs):
            if cover.goods[a, Q_LINES] == 0:
                continue
            for c in range(kept):
                if cover.opened[c] == 0 and work.floor[c] != NEVER:
                    if _try_swap(
                        network,
                        calendar,
                        load,
                        order,
                        work,
                        cover,
                        prices,
                        alone,
                        alone_count,
                        total_value,
                        a,
                        c,
                        notes,
                    ):
                        changed = True
        if not changed:
            return


@jit
def _try_move(
    network: Network,
    calendar: Calendar,
    load: Load,
    order: I64,
    work: Work,
    cover: Cover,
    prices: I64,
    alone: I64,
    alone_count: int,
    total_value: int,
    g: int,
    a: int,
    b: int,
    notes: I64,
) -> bool:
    ca, cb = cover.candidate[a], cover.candidate[b]
    if cover.goods[b, Q_LINES] == 0:
        return False
    i = cover.first[g]
    while i >= 0:
        if cover.available[cb, work.canon[i]] < work.whole[i]:
            return False
        i = cover.next[i]
    before = cover.score[a] + cover.score[b]
    i = cover.first[g]
    while i >= 0:
        units = cover.units[a, i]
        _move_out(cover, work, prices, ca, a, i)
        _move_in(cover, work, prices, cb, b, i, units)
        i = cover.next[i]
    score_a = _price(network, calendar, load, order, work, cover, alone, alone_count, total_value, a, notes)
    score_b = _price(network, calendar, load, order, work, cover, alone, alone_count, total_value, b, notes)
    if score_a != NEVER and score_b != NEVER and score_a + score_b < before:
        cover.score[a], cover.score[b] = score_a, score_b
        return True
    i = cover.first[g]
    while i >= 0:
        units = cover.units[b, i]
        _move_out(cover, work, prices, cb, b, i)
        _move_in(cover, work, prices, ca, a, i, units)
        i = cover.next[i]
    return False


@jit
def _try_swap(
    network: Network,
    calendar: Calendar,
    load: Load,
    order: I64,
    work: Work,
    cover: Cover,
    prices: I64,
    alone: I64,
    alone_count: int,
    total_value: int,
    a: int,
    c: int,
    notes: I64,
) -> bool:
    count = order[O_LINE_COUNT]
    for i in range(count):
        units = cover.units[a, i]
        if units > 0 and cover.available[c, work.canon[i]] < max(
            units, work.whole[i] if cover.divisible[i] == 0 else 0
        ):
            return False
    goods = cover.trial
    goods[:] = cover.goods[a]
    goods[Q_OPPORTUNITY] = 0
    for i in range(count):
        goods[Q_OPPORTUNITY] += times(cover.units[a, i], _price_of(prices, work, c, i))
    score = price_leg(
        network,
        calendar,
        load,
        order,
        work.node[c],
        work.zones[c],
        goods,
        total_value,
        alone,
        cover.alone_units[a],
        alone_count,
        cover.leg,
        notes,
    )
    if score >= cover.score[a]:
        return False
    old = cover.candidate[a]
    for i in range(count):
        units = cover.units[a, i]
        if units > 0:
            cover.available[old, work.canon[i]] += units
            cover.available[c, work.canon[i]] -= units
    cover.opened[old], cover.opened[c] = 0, 1
    cover.candidate[a] = c
    cover.goods[a, :] = goods
    cover.score[a] = score
    return True


@jit
def _attempt(
    network: Network,
    calendar: Calendar,
    load: Load,
    batch: Batch,
    order: I64,
    work: Work,
    cover: Cover,
    prices: I64,
    alone: I64,
    alone_count: int,
    total_value: int,
    groups: int,
    kept: int,
    max_legs: int,
    mode: int,
    start: int,
    notes: I64,
) -> None:
    """One greedy cover with moves; kept where it beats the best so far."""
    count = order[O_LINE_COUNT]
    first = order[O_LINE]
    for i in range(count):
        cover.left[i] = batch.lines[first + i, L_UNITS]
    for c in range(kept):
        cover.opened[c] = 0
        for i in range(count):
            cover.available[c, i] = work.free[c, i]
    legs = 0
    forced = start
    while legs < max_legs:
        best_c = -1
        best_rank = NEVER
        best_units = 0
        if forced >= 0:
            best_c = forced
            forced = -1
        else:
            for c in range(kept):
                if cover.opened[c] or work.floor[c] == NEVER:
                    continue
                rank, units = _gain(
                    network,
                    calendar,
                    load,
                    order,
                    work,
                    cover,
                    prices,
                    alone,
                    alone_count,
                    total_value,
                    groups,
                    c,
                    mode,
                    notes,
                )
                if units > 0 and (rank < best_rank or (rank == best_rank and units > best_units)):
                    best_c, best_rank, best_units = c, rank, units
        if best_c < 0:
            break
        if _open(cover, work, prices, alone_count, groups, best_c, legs) > 0:
            cover.score[legs] = _price(
                network, calendar, load, order, work, cover, alone, alone_count, total_value, legs, notes
            )
            if cover.score[legs] == NEVER:  # no room or no service for so much: give it back
                for i in range(count):
                    if cover.units[legs, i] > 0:
                        cover.left[i] += cover.units[legs, i]
                        cover.available[best_c, work.canon[i]] += cover.units[legs, i]
                        cover.units[legs, i] = 0
                cover.goods[legs, :] = 0
            else:
                legs += 1
    if legs == 0:
        return
    _improve(
        network,
        calendar,
        load,
        order,
        work,
        cover,
        prices,
        alone,
        alone_count,
        total_value,
        groups,
        kept,
        legs,
        notes,
    )
    unfilled = 0
    for i in range(count):
        unfilled += cover.left[i]
    score = 0
    for a in range(legs):
        score += cover.score[a]
    if cover.kept[0] == 0 or unfilled < cover.kept[1] or (unfilled == cover.kept[1] and score < cover.kept[2]):
        cover.kept[0], cover.kept[1], cover.kept[2] = legs, unfilled, score
        for a in range(legs):
            cover.best_candidate[a] = cover.candidate[a] if cover.goods[a, Q_LINES] > 0 else -1
            for i in range(count):
                cover.best_units[a, i] = cover.units[a, i]


@jit
def cover_order(
    network: Network,
    calendar: Calendar,
    load: Load,
    batch: Batch,
    order: I64,
    work: Work,
    cover: Cover,
    prices: I64,
    alone: I64,
    alone_count: int,
    total_value: int,
    groups: int,
    kept: int,
    max_legs: int,
    notes: I64,
) -> int:
    """Cover as much of a part as stock and legs allow; the legs are in `best_candidate`, `best_units`; how many (with gaps)."""
    _start(batch, order, work, cover, kept, groups)
    cover.kept[:] = 0
    legs_max = min(max_legs, LEGS_MAX)
    for mode in range(2):
        _attempt(
            network,
            calendar,
            load,
            batch,
            order,
            work,
            cover,
            prices,
            alone,
            alone_count,
            total_value,
            groups,
            kept,
            legs_max,
            mode,
            -1,
            notes,
        )
    if order[O_LINE_COUNT] <= SHORT_LINES:
        for c in range(min(kept, STARTS)):
            if work.floor[c] != NEVER:
                _attempt(
                    network,
                    calendar,
                    load,
                    batch,
                    order,
                    work,
                    cover,
                    prices,
                    alone,
                    alone_count,
                    total_value,
                    groups,
                    kept,
                    legs_max,
                    LEAST_MONEY,
                    c,
                    notes,
                )
    return cover.kept[0]
