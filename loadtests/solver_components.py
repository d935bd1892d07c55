"""Which solver for a contended component, by its size: `python -m loadtests.solver_components [--seed N]`.

Times in ms (median over instances), model building counted, everything proven unless marked: our prices and search, CP-SAT on
columns (`linearization_level=2`), CP-SAT on columns with our implied rows, HiGHS and GLOP through MathOpt on columns (GLOP = the
LP relaxation alone; the share of instances whose LP came out whole is printed). The components are those that the planner makes
of tight batches of 16 to 192 orders on 20 nodes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

from ortools.math_opt.python import mathopt

from loadtests.solver_batches import components, forget, make_batch
from solvers import worker
from solvers.joint import solve_arrays
from solvers.joint_cpsat import solve_columns
from solvers.joint_cuts import strengthen
from solvers.joint_flat import flatten
from solvers.joint_wire import JointArrays, unpack_arrays

Answer = tuple[float, bool]
"""Cost (or LP bound), and whether it is a proven whole optimum."""


def by_search(problem: JointArrays) -> Answer:
    answer = solve_arrays(problem, deterministic_limit=20.0, deadline_ms=20_000)
    return answer.cost, answer.status == 0


def by_cp_sat(problem: JointArrays) -> Answer:
    answer = solve_columns(flatten(*problem), deterministic_limit=20.0, wall_limit_s=20.0)
    return answer.bound, answer.exact


def by_cp_sat_with_cuts(problem: JointArrays) -> Answer:
    answer = solve_columns(strengthen(flatten(*problem)), deterministic_limit=20.0, wall_limit_s=20.0)
    return answer.bound, answer.exact


def by_highs(problem: JointArrays) -> Answer:
    return _by_mathopt(problem, mathopt.SolverType.HIGHS, whole=True)


def by_glop(problem: JointArrays) -> Answer:
    return _by_mathopt(problem, mathopt.SolverType.GLOP, whole=False)


def _by_mathopt(problem: JointArrays, solver: mathopt.SolverType, *, whole: bool) -> Answer:
    ptr, cost, take_ptr, row, units, stock = (array.tolist() for array in problem)
    model = mathopt.Model()
    columns = [model.add_variable(lb=0.0, ub=1.0, is_integer=whole) for _ in cost]
    for start, stop in pairwise(ptr):
        model.add_linear_constraint(mathopt.fast_sum(columns[start:stop]) == 1.0)
    rows = [model.add_linear_constraint(ub=float(free)) for free in stock]
    for c, column in enumerate(columns):
        for t in range(take_ptr[c], take_ptr[c + 1]):
            rows[row[t]].set_coefficient(column, float(units[t]))
        model.objective.set_linear_coefficient(column, float(cost[c]))
    result = mathopt.solve(model, solver)
    values = result.variable_values(columns)
    return result.objective_value(), all(min(v, 1 - v) < 1e-6 for v in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=1)
    seed = parser.parse_args().seed
    worker.warm()
    ways: list[Callable[[JointArrays], Answer]] = [by_search, by_cp_sat, by_cp_sat_with_cuts, by_highs, by_glop]
    for orders in (16, 32, 64, 128, 192):
        problems = []
        for i in range(6):
            batch = make_batch(seed + i, orders=orders, nodes=20, stock_factor=1)
            plans = batch.plan()
            problems += [unpack_arrays(batch.planner.component_problem(number)) for number in components(plans)]
            forget(batch, plans)
        sizes = [len(problem.ptr) - 1 for problem in problems]
        columns = [len(problem.cost) for problem in problems]
        print(f"{orders} in the batch, {min(sizes)}-{max(sizes)} contended, {min(columns)}-{max(columns)} columns:")
        for way in ways:
            way(problems[0])
            spent, proven = [], 0
            for problem in problems:
                started = time.perf_counter()
                _, exact = way(problem)
                spent.append((time.perf_counter() - started) * 1e3)
                proven += exact
            print(
                f"  {way.__name__:20} {statistics.median(spent):8.2f} ms (max {max(spent):8.2f}), whole {proven}/{len(problems)}"
            )


if __name__ == "__main__":
    main()
