"""The kernel never reads or writes beside its arrays: it is compiled without Python's negative indices (solvers/jit.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PROBE = """
import numpy as np
from solvers.jit import jit

@jit
def at(numbers, place):
    return numbers[place]

caught = 0
for place in (-1, 3):
    try:
        at(np.arange(3), place)
    except IndexError:
        caught += 1
print(caught)
"""
PLANS = (
    "tests/property/test_joint_brute_force.py",
    "tests/property/test_solvers_brute_force.py",
    "tests/property/test_solvers_cover.py",
    "tests/unit/test_planner_contention.py",
    "tests/unit/test_planner_decisions.py",
    "tests/unit/test_planner_orders.py",
    "tests/unit/test_planner_prepare.py",
)


def test_no_index_of_the_kernel_is_out_of_bounds(tmp_path: Path) -> None:
    """The tests of planning once more, every index checked; a probe shows that the checks are there."""
    probe = tmp_path / "probe.py"
    probe.write_text(_PROBE)
    env = dict(os.environ, NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=str(tmp_path / "cache"), PYTHONPATH=str(ROOT))

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-4_000:]
        return done.stdout

    assert run(str(probe)).split() == ["2"]
    assert " passed" in run("-m", "pytest", "-q", "-p", "no:cacheprovider", *PLANS)
