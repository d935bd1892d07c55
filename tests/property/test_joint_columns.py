"""Narrowing and columns lose nothing: the joint answer over them is the best of all splits of the whole batch, tried out."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from solvers.joint import EXACT, solve_arrays
from solvers.joint_columns import NEVER, joint_columns, narrow
from solvers.joint_wire import Ints

CANDIDATES = 3
GROUPS_MAX = 3


class Batch(NamedTuple):
    """Arrays as `narrow` takes them. Legs are priced at random: nothing is additive, a leg may be impossible."""

    score: Ints
    groups: Ints
    lines: Ints
    group: Ints
    row: Ints
    units: Ints
    stock: Ints


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """2-3 orders, 1-3 groups of 1-2 lines, 3 candidates, few rows."""
    orders = draw(st.integers(2, 3))
    rows = draw(st.integers(2, 5))
    score = np.full((orders, CANDIDATES, 1 << GROUPS_MAX), NEVER, np.int64)
    groups, lines = np.zeros(orders, np.int64), np.zeros(orders, np.int64)
    group, units = np.zeros((orders, 4), np.int64), np.zeros((orders, 4), np.int64)
    row = np.zeros((orders, 4, CANDIDATES), np.int64)
    for b in range(orders):
        groups[b] = draw(st.integers(1, GROUPS_MAX))
        lines[b] = draw(st.integers(int(groups[b]), int(groups[b]) + 1))
        for line in range(lines[b]):
            group[b, line] = line % groups[b]
            units[b, line] = draw(st.integers(1, 2))
            row[b, line] = draw(st.lists(st.integers(0, rows - 1), min_size=CANDIDATES, max_size=CANDIDATES))
        for k in range(CANDIDATES):
            for m in range(1, 1 << int(groups[b])):
                score[b, k, m] = draw(st.one_of(st.integers(1, 40), st.just(NEVER)))
    stock = np.array(draw(st.lists(st.integers(1, 3), min_size=rows, max_size=rows)), dtype=np.int64)
    return Batch(score, groups, lines, group, row, units, stock)


def ways(batch: Batch, b: int, legs: int) -> list[tuple[int, tuple[int, ...], Ints]]:
    """(money, candidate of each group, units by row) of every split of an order that it could have alone."""
    found = []
    count = int(batch.groups[b])
    for pick in itertools.product(range(CANDIDATES), repeat=count):
        masks: dict[int, int] = {}
        for g, k in enumerate(pick):
            masks[k] = masks.get(k, 0) | 1 << g
        money = sum(int(batch.score[b, k, m]) for k, m in masks.items())
        taken = np.zeros_like(batch.stock)
        for line in range(int(batch.lines[b])):
            taken[batch.row[b, line, pick[int(batch.group[b, line])]]] += batch.units[b, line]
        if money < NEVER and len(masks) <= legs and (taken <= batch.stock).all():
            found.append((money, pick, taken))
    return sorted(found, key=lambda way: way[:2])


def admitted(batch: Batch, legs: int) -> tuple[Batch, list[list[tuple[int, tuple[int, ...], Ints]]]]:
    """The orders that can be served after their forerunners (who gets the last unit is settled before), and their ways."""
    kept, every, left = [], [], batch.stock
    for b in range(len(batch.groups)):
        order = ways(batch, b, legs)
        way = next((way for way in order if (way[2] <= left).all()), None)
        if way is not None:
            kept.append(b)
            every.append(order)
            left = left - way[2]
    return Batch(*(array[kept] for array in batch[:-1]), batch.stock), every


@settings(max_examples=300, deadline=None)
@given(batches(), st.integers(1, 3))
def test_the_joint_answer_is_the_best_of_all_splits(batch: Batch, legs: int) -> None:
    batch, every = admitted(batch, legs)
    assume(every)
    own = np.array([order[0][0] for order in every], dtype=np.int64)
    cost, pick = np.zeros_like(own), np.zeros((len(own), GROUPS_MAX), np.int64)
    left = batch.stock
    for b, order in enumerate(every):
        way = next(way for way in order if (way[2] <= left).all())
        cost[b], left = way[0], left - way[2]
        pick[b, : len(way[1])] = way[1]
    best = min(
        sum(way[0] for way in choice)
        for choice in itertools.product(*every)
        if (sum(way[2] for way in choice) <= batch.stock).all()
    )

    useful, critical, budget, _part = narrow(*batch, own, cost, pick, legs)
    joint = joint_columns(*batch, own, cost, pick, useful, critical, budget, legs=legs, columns_max=200)
    answer = solve_arrays(joint.problem, deterministic_limit=1.0, deadline_ms=60_000)

    assert not joint.truncated
    assert answer.status == EXACT
    assert int(cost[budget == 0].sum()) + answer.cost == best
    # The plans that the answer means fit the stock, together with those that stayed out.
    plans = [tuple(pick[b, : batch.groups[b]].tolist()) for b in range(len(own))]
    for b, c in zip(joint.orders.tolist(), joint.problem.ptr[:-1] + answer.chosen, strict=True):
        plans[b] = tuple(joint.pick[c, : batch.groups[b]].tolist())
    chosen = [next(way for way in order if way[1] == plan) for order, plan in zip(every, plans, strict=True)]
    assert (sum(way[2] for way in chosen) <= batch.stock).all()
    assert sum(way[0] for way in chosen) == best


@settings(max_examples=100, deadline=None)
@given(batches())
def test_too_few_columns_is_said(batch: Batch) -> None:
    batch, every = admitted(batch, 3)
    assume(every)
    own = np.array([order[0][0] for order in every], dtype=np.int64)
    dearest = np.array([order[-1][0] for order in every], dtype=np.int64)
    pick = np.zeros((len(own), GROUPS_MAX), np.int64)
    for b, order in enumerate(every):
        pick[b, : len(order[-1][1])] = order[-1][1]
    useful = np.ones((len(own), GROUPS_MAX, CANDIDATES), np.bool_)
    critical = np.ones(len(batch.stock), np.bool_)
    budget = dearest - own + 1
    arguments = (*batch, own, dearest, pick, useful, critical, budget)
    whole = joint_columns(*arguments, legs=3, columns_max=200)
    few = joint_columns(*arguments, legs=3, columns_max=2)
    most = int(np.diff(whole.problem.ptr).max())
    assert not whole.truncated
    assert few.truncated == (most > 2)
    assert int(np.diff(few.problem.ptr).max()) == min(most, 2)


def test_an_order_may_lose_almost_all_that_another_wins() -> None:
    """One unit at candidate 0: greedy gives it to the first order and the second loses 30; the first would lose 29."""
    score = np.full((2, 2, 2), NEVER, np.int64)
    score[:, :, 1] = [[10, 39], [10, 40]]
    one = np.ones(2, np.int64)
    row = np.array([[[0, 1]], [[0, 1]]], dtype=np.int64)
    batch = Batch(score, one, one, np.zeros((2, 1), np.int64), row, np.ones((2, 1), np.int64), np.array([1, 9]))
    own, cost = np.array([10, 10]), np.array([10, 40])
    pick = np.array([[0], [1]])
    found = narrow(*batch, own, cost, pick, 3)
    joint = joint_columns(*batch, own, cost, pick, *found[:3], legs=3, columns_max=9)
    answer = solve_arrays(joint.problem, deterministic_limit=1.0, deadline_ms=60_000)
    assert (answer.chosen, answer.cost) == ([1, 1], 49)
