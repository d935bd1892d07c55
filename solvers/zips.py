"""US ZIP codes to coordinates, from the `zipcodes` package.

Asking the package takes half a second and 40 MB in every process that does. The table made of its answers is kept beside the compiled
kernel instead, one file a version of the package, and mapped into memory: processes share it.
"""

from __future__ import annotations

import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

import solvers.jit  # noqa: F401 - says where compiled code is kept

CODES = 100_000
PREFIXES = 1_000
_SHAPE = (2, CODES + PREFIXES)
_F64 = NDArray[np.float64]


class Point(NamedTuple):
    lat: float
    lon: float


_new = tuple.__new__
"""Makes a point in a third of the time: the constructor of a named tuple is a function in Python."""


class ZipTable:
    """ZIP codes to points; a code that is not listed falls back to the mean of its first three digits."""

    def __init__(self) -> None:
        self._lat: memoryview | None = None
        self._lon: memoryview | None = None

    def load(self) -> None:
        """Map the table, making it where no process has yet; nothing where it is mapped already."""
        if self._lat is not None:
            return
        # Beside the compiled kernel (solvers/jit.py), whatever that is a version of: the table is not.
        path = Path(numba.config.CACHE_DIR).parent / f"zips-{version('zipcodes')}.npy"
        table = _mapped(path)
        if table is None:
            table = make_table()
            _keep(table, path)
        # One number is read at a time: several times as fast from a view as from an array.
        self._lat, self._lon = table[0].data, table[1].data

    def find(self, postal_code: str) -> Point | None:
        """The point of "10001", "10001-1234"; None where even its first three digits are unknown."""
        digits = postal_code if len(postal_code) == 5 else postal_code.strip()[:5]
        if len(digits) < 3 or not (digits.isascii() and digits.isdigit()):
            return None
        if self._lat is None:
            self.load()
        assert self._lat is not None and self._lon is not None
        if len(digits) == 5:
            at = int(digits)
            lat = self._lat[at]
            if lat == lat:  # not NaN
                return _new(Point, (lat, self._lon[at]))
        at = CODES + int(digits[:3])
        lat = self._lat[at]
        return Point(lat, self._lon[at]) if lat == lat else None


def make_table() -> _F64:
    """Latitudes and longitudes of all codes, then of all first three digits (means); NaN = unknown. float64[2, CODES + PREFIXES]."""
    import zipcodes

    table = np.full(_SHAPE, np.nan)
    for start in range(100):
        for row in zipcodes.similar_to(f"{start:02d}"):
            lat, lon = float(row["lat"]), float(row["long"])
            if lat or lon:
                table[:, int(row["zip_code"])] = lat, lon
    for prefix in range(PREFIXES):
        part = table[:, prefix * 100 : prefix * 100 + 100]
        known = ~np.isnan(part[0])
        if known.any():
            table[:, CODES + prefix] = part[0][known].mean(), part[1][known].mean()
    return table


def _mapped(path: Path) -> _F64 | None:
    """The table of a file; None where there is none, or half of one."""
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if table.shape != _SHAPE or table.dtype != np.float64:
        return None
    return np.asarray(table)  # still mapped, but indexed as fast as any array


def _keep(table: _F64, path: Path) -> None:
    """Write the file whole or not at all; a folder that cannot be written is no reason to stop: the table is in memory."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
            np.save(part, table)
        os.replace(part.name, path)
    except OSError:
        return


US_ZIPS = ZipTable()
"""One table a process: it never changes."""
