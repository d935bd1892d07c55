"""What the joint path is measured against: CP-SAT on a column model, built lean, one worker, `linearization_level=2`."""

from __future__ import annotations

from loadtests.runs import BenchError
from solvers.joint_cpsat import solve_columns
from solvers.joint_flat import flatten
from solvers.joint_wire import JointArrays

_TIME_LIMIT_S = 20.0


class PeerUnfinished(BenchError):
    """CP-SAT proved nothing within its limit: the instance cannot be compared."""


def column_model(problem: JointArrays) -> int:
    """Proven optimum of a joint problem, its model built here. Raises PeerUnfinished."""
    answer = solve_columns(flatten(*problem), deterministic_limit=_TIME_LIMIT_S, wall_limit_s=_TIME_LIMIT_S)
    if not answer.exact:
        raise PeerUnfinished(f"{len(problem.cost)} columns: bound {answer.bound} after {_TIME_LIMIT_S} s")
    return answer.bound
