"""How the kernel is compiled: Numba, nopython, cached on disk under a hash of the kernel's sources.

Numba notices a change of a function's own file, not of the files whose functions it inlined. A cache keyed by all sources
can never run an old tariff inside a new kernel.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba import types
from numba.np import arrayobj

_HERE = Path(__file__).parent
_SOURCES = (
    "calendar",
    "candidates",
    "columns",
    "cover",
    "explain",
    "jit",
    "kernel",
    "layout",
    "legs",
    "look",
    "pack",
    "places",
    "tariff",
    "ways",
)
F = TypeVar("F", bound=Callable[..., Any])


def _source_hash() -> str:
    digest = blake2b(digest_size=8)
    for name in _SOURCES:
        digest.update((_HERE / f"{name}.py").read_bytes())
    return digest.hexdigest()


KERNEL_HASH = _source_hash()
"""Identity of the compiled decision: named by every decision record."""
KERNEL_VERSION = int(KERNEL_HASH[:4], 16)
"""The hash's first 16 bits: small enough to repeat in every record, enough to see that two kernels differ."""


def _cache_dir() -> str:
    name = f"kernel-{KERNEL_HASH}"
    if numba.config.CACHE_DIR:
        return str(Path(numba.config.CACHE_DIR) / name)
    base = _HERE / "__pycache__"
    try:
        base.mkdir(exist_ok=True)
        probe = base / f".{name}"
        probe.touch()
        probe.unlink()
    except OSError:  # an installation that we may not write to
        base = Path(tempfile.gettempdir()) / f"quartermaster-{Path.home().name}"
    return str(base / name)


numba.config.CACHE_DIR = _cache_dir()


def _index_as_it_is(context: Any, builder: Any, kind: Any, index: Any, size: Any) -> Any:
    return context.cast(builder, index, kind, types.intp if kind.signed else types.uintp)


# Numba lets negative indices count from the end, as Python does: a comparison and a selection at every access, a fifth of the
# kernel's time. No index of the kernel is negative: its tests run with all of them checked, too (NUMBA_BOUNDSCHECK=1).
arrayobj.fix_integer_index = _index_as_it_is


def jit(function: F) -> F:
    """Compile without the interpreter, without fast-math (replay is exact), kept on disk.

    Without Numba's runtime, too: the kernel allocates nothing, and counting references of thirty arrays at every call would cost
    more than the calls. Constants in calls are typed as plain integers: one version of each function, not one for every value
    that it is called with.
    """
    return _compile(function)


def inner(function: F) -> F:
    """As `jit`, for functions that only compiled code calls: no wrappers for the interpreter, which take longest to compile."""
    return _compile(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def _compile(function: F, **options: bool) -> F:
    compiled = numba.njit(cache=True, nogil=True, error_model="numpy", _nrt=False, **options)(function)
    template = compiled.get_call_template
    compiled.get_call_template = lambda args, kws: template([types.unliteral(a) for a in args], kws)
    return cast(F, compiled)
