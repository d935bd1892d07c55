"""What a fresh interpreter loads: the pure parts load no Ray, Redis, HTTP or solver; a gateway never loads Ray; a kernel no SciPy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_PROBE = """
import importlib, pkgutil, sys
root = importlib.import_module(sys.argv[1])
if hasattr(root, "__path__"):
    for found in pkgutil.walk_packages(root.__path__, root.__name__ + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
print("\\n".join(sorted(sys.modules)))
"""


def modules_loaded_by(module: str) -> set[str]:
    """Names of all modules that a fresh interpreter has after importing `module` and everything below it."""
    run = subprocess.run([sys.executable, "-c", _PROBE, module], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("engine.domain", {"ray", "redis", "fastapi", "ortools", "numba", "solvers", "gateway", "asyncio"}),
        ("engine.protocol", {"ray", "redis", "fastapi", "ortools", "numba", "solvers", "gateway", "asyncio"}),
        ("engine.client", {"ray", "fastapi", "ortools", "numba", "solvers", "gateway"}),
        ("engine.journal", {"ray", "fastapi", "ortools", "numba", "solvers", "gateway"}),
        ("solvers", {"ray", "redis", "fastapi", "engine", "gateway", "loadtests"}),
        ("gateway", {"ray", "ortools", "numba", "solvers", "engine.actors", "engine.cli", "loadtests"}),
        ("engine.verify.books", {"engine.domain", "engine.protocol", "engine.journal", "ray", "redis", "numpy"}),
    ],
)
def test_a_fresh_interpreter_loads_no_more_than_the_layer_may(module: str, never: set[str]) -> None:
    loaded = modules_loaded_by(module)
    assert module in loaded
    assert not never & loaded


@pytest.mark.parametrize("layer", ["domain", "protocol"])
def test_the_core_imports_the_standard_library_numpy_and_msgspec_only(layer: str) -> None:
    imported = {"engine"}
    for path in (ROOT / "engine" / layer).rglob("*.py"):
        for found in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(found, ast.Import):
                imported |= {name.name.partition(".")[0] for name in found.names}
            elif isinstance(found, ast.ImportFrom):
                imported.add((found.module or "").partition(".")[0])
    assert imported - set(sys.stdlib_module_names) <= {"engine", "numpy", "msgspec"}


def test_a_warm_kernel_has_loaded_no_linear_algebra() -> None:
    """Numba would take SciPy's where it is installed: 26 MB of every shard. It can still be imported afterwards."""
    code = """
import sys
from solvers.warm import warm
warm()
print("scipy.linalg" in sys.modules)
import scipy.linalg
print(scipy.linalg.norm([3.0, 4.0]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "5.0"]
