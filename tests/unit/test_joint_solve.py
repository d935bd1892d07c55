"""What the joint solver promises, one small problem each."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import msgspec
import pytest
from ortools.sat.python import cp_model

from solvers import worker
from solvers.joint import (
    EXACT,
    TIME_BOXED,
    JointAnswer,
    JointColumn,
    JointProblem,
    pack_answer,
    pack_problem,
    solve,
    unpack_answer,
    unpack_problem,
)
from solvers.joint_wire import to_arrays


def run(problem: JointProblem, *, deterministic_limit: float = 1.0, deadline_ms: int = 60_000) -> JointAnswer:
    return solve(problem, deterministic_limit=deterministic_limit, deadline_ms=deadline_ms)


def two_orders_one_unit() -> JointProblem:
    """Greedy gives the unit of row 0 to the first order, for whom the alternative costs 1; for the second it costs 50."""
    return JointProblem(
        columns=[
            [JointColumn(100, [(0, 1)]), JointColumn(101, [(1, 1)])],
            [JointColumn(150, [(1, 1)]), JointColumn(100, [(0, 1)])],
        ],
        stock=[1, 2],
    )


ARRAYS = [array.tobytes() for array in to_arrays(two_orders_one_unit())]


def many_orders(seed: int, *, orders: int, rows: int) -> JointProblem:
    """Scarce rows, a dear way out for everybody as the incumbent."""
    rng = random.Random(seed)
    columns = []
    for _ in range(orders):
        ways = [JointColumn(3_000, [])]
        for _ in range(rng.randint(3, 12)):
            wanted = rng.sample(range(rows), rng.randint(1, 3))
            ways.append(JointColumn(rng.randint(500, 1_500), [(row, rng.randint(1, 2)) for row in wanted]))
        columns.append(ways)
    return JointProblem(columns, [rng.randint(1, 4) for _ in range(rows)])


def optimum_by_cp_sat(problem: JointProblem) -> int:
    """An independent, plain model of the same problem."""
    model = cp_model.CpModel()
    picked = [[model.new_bool_var("") for _ in order] for order in problem.columns]
    for order in picked:
        model.add_exactly_one(order)
    flat = [(v, c) for order, vs in zip(problem.columns, picked, strict=True) for c, v in zip(order, vs, strict=True)]
    for row, free in enumerate(problem.stock):
        model.add(sum(units * v for v, c in flat for r, units in c.takes if r == row) <= free)
    model.minimize(sum(c.cost * v for v, c in flat))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.linearization_level = 2
    assert solver.solve(model) == cp_model.OPTIMAL
    return round(solver.objective_value)


def test_gives_the_last_unit_to_whom_it_saves_more() -> None:
    answer = run(two_orders_one_unit())
    assert (answer.chosen, answer.cost, answer.bound, answer.status) == ([1, 1], 201, 201, EXACT)


def test_nobody_collides_everybody_gets_the_cheapest() -> None:
    problem = JointProblem([[JointColumn(9, [(0, 1)]), JointColumn(3, [(0, 2)])] for _ in range(3)], [6])
    assert run(problem).chosen == [1, 1, 1]


def test_no_orders_is_an_empty_answer() -> None:
    assert run(JointProblem([], [3])) == JointAnswer([], 0, 0, EXACT, 0)


def test_takes_of_one_row_in_one_column_add_up() -> None:
    problem = JointProblem([[JointColumn(9, []), JointColumn(1, [(0, 1), (0, 1)])]], [1])
    assert run(problem).chosen == [0]


def test_of_equal_answers_the_incumbent_stays() -> None:
    problem = JointProblem([[JointColumn(5, [(0, 1)]), JointColumn(5, [(0, 1)])] for _ in range(2)], [2])
    assert run(problem).chosen == [0, 0]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("orders", "rows"), [(12, 6), (40, 25)])
def test_larger_components_match_an_independent_model(seed: int, orders: int, rows: int) -> None:
    problem = many_orders(seed, orders=orders, rows=rows)
    answer = run(problem, deterministic_limit=20.0)
    assert answer.status == EXACT
    assert answer.cost == answer.bound == optimum_by_cp_sat(problem)


def test_without_time_the_incumbent_comes_back_with_an_honest_bound() -> None:
    problem = many_orders(3, orders=30, rows=8)
    answer = run(problem, deadline_ms=0)
    assert answer.status == TIME_BOXED
    assert answer.cost <= 30 * 3_000
    assert answer.bound <= optimum_by_cp_sat(problem)


def test_a_work_limit_is_repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solvers.joint._NODES_MAX", 50)
    problem = many_orders(0, orders=100, rows=60)
    answers = [run(problem, deterministic_limit=0.02) for _ in range(3)]
    assert answers[0].status == TIME_BOXED, "the limit was meant to bite"
    assert answers[0].bound <= answers[0].cost
    assert len({(tuple(a.chosen), a.cost, a.bound) for a in answers}) == 1


def test_money_and_units_near_the_limits_do_not_overflow() -> None:
    big, many = 2**50, 2**39
    problem = JointProblem(
        [[JointColumn(big, [(1, many)]), JointColumn(-big + i, [(0, many)])] for i in range(7)],
        [many, 7 * many],
    )
    answer = run(problem)
    assert answer.chosen.count(1) == 1 and answer.chosen[0] == 1
    assert answer.cost == 6 * big - big


def test_a_large_problem_ends_near_its_deadline() -> None:
    """2,000 orders on scarce rows, far beyond a batch: every step is bounded by work, so the deadline is overrun by little."""
    problem = many_orders(1, orders=2_000, rows=400)
    run(many_orders(1, orders=12, rows=6))  # compiled
    started_s = time.process_time()
    answer = run(problem, deadline_ms=100)
    assert time.process_time() - started_s < 2.0
    assert answer.status == TIME_BOXED
    assert answer.bound <= answer.cost < 2_000 * 3_000


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (JointProblem([[]], []), "order 0 has no columns"),
        (JointProblem([[JointColumn(1, [(2, 1)])]], [5, 5]), "row 2"),
        (JointProblem([[JointColumn(1, [(-1, 1)])]], [5, 5]), "row -1"),
        (JointProblem([[JointColumn(1, [(0, -1)])]], [5, 5]), "units -1"),
        (JointProblem([[JointColumn(1, [])] * 2_049], []), "of one order"),
        (JointProblem([[JointColumn(2**60, [])]], []), "money"),
        (JointProblem([[JointColumn(1, [])]], [-1]), "stock -1"),
        (JointProblem([[JointColumn(1, [(0, 2)])], [JointColumn(1, [(0, 2)])]], [3]), "more of row 0"),
    ],
)
def test_contradictions_are_refused(problem: JointProblem, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(problem)


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        b"\x93",
        pack_problem(two_orders_one_unit())[:-3],
        msgspec.msgpack.encode(["joint2", *ARRAYS]),
        msgspec.msgpack.encode(["joint1", *ARRAYS[:-1]]),
        msgspec.msgpack.encode(["joint1", *ARRAYS[:-1], "text"]),
        msgspec.msgpack.encode(["joint1", *ARRAYS[:-1], ARRAYS[-1][:-1]]),  # not whole numbers of 8 bytes
        msgspec.msgpack.encode(["joint1", *ARRAYS[:-1], b""]),  # rows that do not exist
        msgspec.msgpack.encode(["joint1", b"", *ARRAYS[1:]]),
        msgspec.msgpack.encode(["joint1", *ARRAYS[:1], b"", *ARRAYS[2:]]),
    ],
)
def test_malformed_bytes_raise(packed: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        unpack_problem(packed)
    with pytest.raises(msgspec.DecodeError):
        worker.answer(packed, deadline_ms=100)


def test_messages_survive_the_wire() -> None:
    problem = two_orders_one_unit()
    assert unpack_problem(pack_problem(problem)) == problem
    answer = JointAnswer([1, 0], 7, 5, TIME_BOXED, 12)
    assert unpack_answer(pack_answer(answer)) == answer


def test_warm_leaves_nothing_to_compile() -> None:
    """In a fresh process: what is still uncompiled then would stop the first real answer for seconds."""
    script = """
from solvers import joint_cuts, joint_flat, joint_prices, joint_search, worker
worker.warm()
inner = {"_dominator", "_parts", "_repair", "_make_room", "_move", "excess_of", "_next_order", "fits"}  # compiled into their callers
modules = joint_cuts, joint_flat, joint_prices, joint_search
found = {n: len(f.signatures) for m in modules for n, f in vars(m).items() if hasattr(f, "signatures")}
print({n for n, count in found.items() if count == 0} - inner, {n for n, count in found.items() if count > 1})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.strip() == "set() set()", done.stdout


def test_worker_answers_bytes_with_bytes() -> None:
    worker.warm()
    answer = unpack_answer(worker.answer(pack_problem(two_orders_one_unit()), deadline_ms=1_000))
    assert (answer.chosen, answer.status) == ([1, 1], EXACT)
