"""What the solver process does with a message: a joint problem in, its answer out. Pure; sockets and restarts are the shell's."""

from __future__ import annotations

import random

from solvers.joint import JointColumn, JointProblem, pack_answer, pack_problem, solve_arrays, unpack_arrays
from solvers.joint_cpsat import solve_columns
from solvers.joint_flat import flatten
from solvers.numba_load import load_numba

DETERMINISTIC_LIMIT = 0.25
"""CP-SAT's work per unproven component; about as many seconds on a slow core."""


def answer(packed_problem: bytes, *, deadline_ms: int, deterministic_limit: float = DETERMINISTIC_LIMIT) -> bytes:
    """Answer a packed problem within about `deadline_ms` of wall time.

    Raises msgspec.DecodeError: the bytes are no problem; ValueError: its incumbent overdraws the stock.
    Both are the sender's fault: the shell answers them as errors and goes on.
    """
    problem = unpack_arrays(packed_problem)
    return pack_answer(solve_arrays(problem, deterministic_limit=deterministic_limit, deadline_ms=deadline_ms))


def warm() -> None:
    """Compile or load every compiled function, and load OR-Tools, before the process says that it is ready."""
    load_numba()
    # Twelve orders that want units of six scarce rows: nothing in it is settled early. Then the same for CP-SAT alone.
    rng = random.Random(12)
    columns = []
    for _ in range(12):
        ways = [JointColumn(900, [])]
        ways += [
            JointColumn(rng.randint(100, 400), [(r, rng.randint(1, 2)) for r in rng.sample(range(6), 2)])
            for _ in range(6)
        ]
        columns.append(ways)
    packed = pack_problem(JointProblem(columns, [3, 2, 3, 2, 3, 2]))
    answer(packed, deadline_ms=60_000)
    solve_columns(flatten(*unpack_arrays(packed)), deterministic_limit=0.01, wall_limit_s=60.0)
