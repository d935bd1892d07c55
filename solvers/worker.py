"""What the solver process does with a message: a joint problem in, its answer out. Pure; sockets and restarts are the shell's.

OR-Tools leaks a little and its memory limit is not enforced, so the shell starts a fresh process after RECYCLE_AFTER answers.
"""

from __future__ import annotations

from solvers.joint import JointColumn, JointProblem, pack_answer, pack_problem, solve_arrays, unpack_arrays

RECYCLE_AFTER = 20_000
"""Answers after which the process should be replaced, between two messages."""

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
    # Three orders who want two units of the one cheap row, in more combinations than the tiny path takes.
    column = [JointColumn(60, [(2, 1)])] + [JointColumn(10 + 7 * i, [(i % 2, 1)]) for i in range(6)]
    problem = JointProblem([list(column) for _ in range(3)], [1, 1, 3])
    answer(pack_problem(problem), deadline_ms=60_000)
