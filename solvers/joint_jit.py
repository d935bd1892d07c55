"""How the joint solver is compiled: Numba, nopython, cached on disk under a hash of its own sources.

As `solvers.jit` does for the kernel, and for the same reason: Numba notices a change of a function's own file, not of the files
whose functions it calls. Two hashes, because the kernel's names a decision and must not change with a search.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import numba

from solvers.jit import KERNEL_HASH

F = TypeVar("F", bound=Callable[..., Any])


def _cache_dir() -> str:
    digest = blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.glob("joint_*.py")):
        digest.update(path.read_bytes())
    kernel_dir = Path(numba.config.CACHE_DIR)  # solvers.jit has found a place that we may write to
    assert KERNEL_HASH in kernel_dir.name
    return str(kernel_dir.with_name(f"joint-{digest.hexdigest()}"))


_CACHE_DIR = _cache_dir()


def compiled(function: F) -> F:
    """Compile with Numba: no Python objects, exact integers, machine code kept on disk."""
    kernel_dir = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = _CACHE_DIR
    try:
        result: F = numba.njit(cache=True, nogil=True)(function)
    finally:
        numba.config.CACHE_DIR = kernel_dir
    return result
