"""The column model of one component in CP-SAT: for what the compiled search leaves unproven. The only import of ortools here.

One Boolean per column, exactly one per order, one row per critical position. Built with lists, not operators: building costs as
much as solving. `linearization_level=2` is what makes one worker prove optimality; see docs on the default's failure.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ortools.sat.python import cp_model

from solvers.joint_flat import Flat
from solvers.joint_wire import Ints

SEED = 7


class CpAnswer(NamedTuple):
    """Columns chosen (flat numbers), a bound on every answer, and whether it is met."""

    chosen: Ints
    bound: int
    exact: bool


def solve_columns(flat: Flat, *, deterministic_limit: float, wall_limit_s: float) -> CpAnswer:
    """Best columns within the limits; the incumbent if nothing cheaper turns up.

    deterministic_limit: CP-SAT's own count of work, in its "seconds"; wall_limit_s: ends it whatever it has counted.
    """
    low = np.minimum.reduceat(flat.cost, flat.ptr[:-1])
    base = int(low.sum())
    relative = (flat.cost - np.repeat(low, np.diff(flat.ptr))).tolist()
    ptr, take_ptr = flat.ptr.tolist(), flat.take_ptr.tolist()
    row, units = flat.row.tolist(), flat.units.tolist()

    model = cp_model.CpModel()
    columns = [model.new_bool_var("") for _ in relative]
    for o in range(flat.orders):
        model.add_exactly_one(columns[ptr[o] : ptr[o + 1]])
    takers: list[list[cp_model.IntVar]] = [[] for _ in range(len(flat.stock))]
    amounts: list[list[int]] = [[] for _ in range(len(flat.stock))]
    for c, column in enumerate(columns):
        for t in range(take_ptr[c], take_ptr[c + 1]):
            takers[row[t]].append(column)
            amounts[row[t]].append(units[t])
    for r, free in enumerate(flat.stock.tolist()):
        model.add_linear_constraint(cp_model.LinearExpr.weighted_sum(takers[r], amounts[r]), 0, free)
    model.minimize(cp_model.LinearExpr.weighted_sum(columns, relative))
    # A hint that leaves a variable out is ignored: give all of them.
    hinted = set(flat.incumbent.tolist())
    for c, column in enumerate(columns):
        model.add_hint(column, c in hinted)

    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = SEED
    solver.parameters.linearization_level = 2
    solver.parameters.max_deterministic_time = deterministic_limit
    solver.parameters.max_time_in_seconds = max(wall_limit_s, 0.001)
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return CpAnswer(flat.incumbent, base, False)
    chosen = np.array([c for c, column in enumerate(columns) if solver.boolean_value(column)], dtype=np.int64)
    if flat.cost_of(chosen) > flat.cost_of(flat.incumbent):
        chosen = flat.incumbent
    if status == cp_model.OPTIMAL:
        return CpAnswer(chosen, flat.cost_of(chosen), True)
    # The bound is a float near an integer: round so that it never claims more than was proved.
    return CpAnswer(chosen, base + int(np.ceil(solver.best_objective_bound - 1e-6)), False)
