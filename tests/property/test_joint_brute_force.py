"""The joint solver against every choice there is, on problems small enough to try them all."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.joint import EXACT, JointAnswer, JointColumn, JointProblem, pack_problem, solve, unpack_problem


@st.composite
def problems(draw: st.DrawFn) -> JointProblem:
    """Up to 5 orders of up to 5 columns over up to 5 rows; columns 0 fit because the stock is made at least as large."""
    rows = draw(st.integers(1, 5))
    take = st.tuples(st.integers(0, rows - 1), st.integers(0, 3))
    column = st.builds(JointColumn, cost=st.integers(-5, 30), takes=st.lists(take, max_size=3))
    columns = draw(st.lists(st.lists(column, min_size=1, max_size=5), min_size=1, max_size=5))
    stock = [draw(st.integers(0, 2)) for _ in range(rows)]
    for order in columns:
        for row, units in order[0].takes:
            stock[row] += units
    return JointProblem(columns, stock)


def fits(problem: JointProblem, chosen: tuple[int, ...]) -> bool:
    left = list(problem.stock)
    for order, k in zip(problem.columns, chosen, strict=True):
        for row, units in order[k].takes:
            left[row] -= units
    return min(left) >= 0


def cost_of(problem: JointProblem, chosen: tuple[int, ...]) -> int:
    return sum(order[k].cost for order, k in zip(problem.columns, chosen, strict=True))


def cheapest(problem: JointProblem) -> int:
    every = itertools.product(*(range(len(order)) for order in problem.columns))
    return min(cost_of(problem, chosen) for chosen in every if fits(problem, chosen))


def assert_sound(problem: JointProblem, answer: JointAnswer, optimum: int) -> None:
    assert fits(problem, tuple(answer.chosen))
    assert answer.cost == cost_of(problem, tuple(answer.chosen))
    assert answer.cost <= cost_of(problem, (0,) * len(problem.columns))  # J1
    assert answer.bound <= optimum  # J3
    if answer.status == EXACT:
        assert answer.cost == answer.bound == optimum  # J2


@settings(max_examples=400, deadline=None)
@given(problems())
def test_finds_and_proves_the_optimum(problem: JointProblem) -> None:
    answer = solve(problem, deterministic_limit=1.0, deadline_ms=60_000)
    assert answer.status == EXACT
    assert_sound(problem, answer, cheapest(problem))


@pytest.mark.parametrize("shortcut", ["tiny", "priced", "cp_sat", "cp_sat_cut", "too_big_to_price"])
@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_every_path_is_sound(shortcut: str, problem: JointProblem) -> None:
    """Each way to an answer alone: the search without prices, prices always, CP-SAT with and without time, no prices at all."""
    with pytest.MonkeyPatch.context() as patch:
        if shortcut == "tiny":
            patch.setattr("solvers.joint._TINY_PRODUCT", 10**9)
        if shortcut != "tiny":
            patch.setattr("solvers.joint._TINY_PRODUCT", 0)
        if shortcut.startswith("cp_sat"):
            patch.setattr("solvers.joint._NODES_MAX", 1)
            patch.setattr("solvers.joint._PRICE_ROUNDS", 1)
        if shortcut == "too_big_to_price":
            patch.setattr("solvers.joint.scale_for", lambda flat: 0)
        limit = 0.0 if shortcut == "cp_sat_cut" else 1.0
        answer = solve(problem, deterministic_limit=limit, deadline_ms=60_000)
    assert_sound(problem, answer, cheapest(problem))
    assert answer.status == EXACT or shortcut == "cp_sat_cut"


@settings(max_examples=100, deadline=None)
@given(problems())
def test_no_time_keeps_the_incumbent_or_better_and_an_honest_bound(problem: JointProblem) -> None:
    assert_sound(problem, solve(problem, deterministic_limit=1.0, deadline_ms=0), cheapest(problem))


@settings(max_examples=100, deadline=None)
@given(problems())
def test_same_problem_same_answer_also_over_the_wire(problem: JointProblem) -> None:
    def run(asked: JointProblem) -> tuple[list[int], int, int, int]:
        answer = solve(asked, deterministic_limit=1.0, deadline_ms=60_000)
        return answer.chosen, answer.cost, answer.bound, answer.status

    assert run(problem) == run(unpack_problem(pack_problem(problem)))  # J4
