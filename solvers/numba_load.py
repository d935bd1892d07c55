"""Numba without what it does not need: it takes SciPy's linear algebra wherever it finds it, 26 MB and a tenth of a second of every
process, for functions that nothing here calls.
"""

from __future__ import annotations

import importlib
import sys

_TAKEN = "scipy.linalg"


def load_numba() -> None:
    """Import what Numba loads with the first compiled function, as if SciPy were not installed. Afterwards it is there again."""
    if _TAKEN in sys.modules:
        return
    sys.modules[_TAKEN] = None  # type: ignore[assignment]  # what the import system reads as "not there"
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        del sys.modules[_TAKEN]
