"""What the joint path is measured against: CP-SAT on line-node and column models, built lean, one worker, `linearization_level=2`."""

from __future__ import annotations

import numpy as np
from ortools.sat.python import cp_model

from loadtests.solver_instances import LEGS_MAX, Batch
from solvers.joint_columns import NEVER
from solvers.joint_cpsat import solve_columns
from solvers.joint_flat import Flags, flatten
from solvers.joint_wire import Ints, JointArrays

_TIME_LIMIT_S = 20.0


class PeerUnfinished(RuntimeError):
    """CP-SAT proved nothing within its limit: the instance cannot be compared."""


def full_model(batch: Batch) -> int:
    """Optimum of the whole batch over its pruned candidates, proven."""
    return line_node_model(batch, np.arange(len(batch.lines)), batch.money < NEVER)


def line_node_model(batch: Batch, orders: Ints, allowed: Flags) -> int:
    """Optimum of some orders: x[line, candidate] <= y[candidate], at most LEGS_MAX y, stock rows that could bind.

    `allowed[B, L, K]`: pairs that exist. Raises PeerUnfinished.
    """
    model = cp_model.CpModel()
    variables: list[cp_model.IntVar] = []
    money: list[int] = []
    takers: dict[int, list[cp_model.IntVar]] = {}
    amounts: dict[int, list[int]] = {}
    for b in orders.tolist():
        lines = int(batch.lines[b])
        fixed, prices, rows = batch.fixed[b].tolist(), batch.money[b].tolist(), batch.row[b].tolist()
        exists, units = allowed[b].tolist(), batch.units[b].tolist()
        opened = [model.new_bool_var("") for _ in fixed]
        variables += opened
        money += fixed
        if lines > LEGS_MAX:
            model.add_linear_constraint(cp_model.LinearExpr.sum(opened), 0, LEGS_MAX)
        for line in range(lines):
            served = []
            for k, y in enumerate(opened):
                if not exists[line][k]:
                    continue
                x = model.new_bool_var("")
                model.add_implication(x, y)
                served.append(x)
                variables.append(x)
                money.append(prices[line][k])
                takers.setdefault(rows[line][k], []).append(x)
                amounts.setdefault(rows[line][k], []).append(units[line])
            model.add_exactly_one(served)
    for r, xs in takers.items():
        free = int(batch.stock[r])
        if sum(amounts[r]) > free:
            model.add_linear_constraint(cp_model.LinearExpr.weighted_sum(xs, amounts[r]), 0, free)
    model.minimize(cp_model.LinearExpr.weighted_sum(variables, money))
    return _optimum(model, len(orders))


def column_model(problem: JointArrays) -> int:
    """Optimum of a joint problem. Raises PeerUnfinished."""
    answer = solve_columns(flatten(*problem), deterministic_limit=_TIME_LIMIT_S, wall_limit_s=_TIME_LIMIT_S)
    if not answer.exact:
        raise PeerUnfinished(f"{len(problem.cost)} columns: bound {answer.bound} after {_TIME_LIMIT_S} s")
    return answer.bound


def _optimum(model: cp_model.CpModel, orders: int) -> int:
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 7
    solver.parameters.linearization_level = 2
    solver.parameters.max_time_in_seconds = _TIME_LIMIT_S
    status = solver.solve(model)
    if status != cp_model.OPTIMAL:
        raise PeerUnfinished(f"{orders} orders: {solver.status_name(status)} after {solver.wall_time:.1f} s")
    return round(solver.objective_value)
