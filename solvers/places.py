"""Where destinations are, and how far nodes are from them.

Coordinates come with the address, or from its postal code: US ZIP codes from the `zipcodes` package (read once, half a second), any
other from nodes and channels that lie in the same postal area. Distances are great circles in a fixed order of operations,
rounded to whole kilometres, so that a replay counts the same.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from solvers.jit import jit
from solvers.layout import I16

EARTH_KM = 6_371.0
POOL_BYTES = 64 * 1024 * 1024
POOL_ROWS_MIN = 1_024
POOL_ROWS_MAX = 65_536
LOCATED_MAX = 4_096
_F64 = NDArray[np.float64]


class Point(NamedTuple):
    lat: float
    lon: float


class ZipTable:
    """US ZIP codes to coordinates; a code that is not listed falls back to the mean of its first three digits."""

    def __init__(self) -> None:
        self._lat: list[float] | None = None
        self._lon: list[float] | None = None
        self._near: dict[int, Point] = {}

    def load(self) -> None:
        """Read the package's table; nothing where it is read already."""
        if self._lat is not None:
            return
        import zipcodes

        lat = np.full(100_000, np.nan)
        lon = np.full(100_000, np.nan)
        for start in range(100):
            for row in zipcodes.similar_to(f"{start:02d}"):
                code, at_lat, at_lon = int(row["zip_code"]), float(row["lat"]), float(row["long"])
                if at_lat or at_lon:
                    lat[code], lon[code] = at_lat, at_lon
        for prefix in range(1_000):
            part = slice(prefix * 100, prefix * 100 + 100)
            known = ~np.isnan(lat[part])
            if known.any():
                self._near[prefix] = Point(float(lat[part][known].mean()), float(lon[part][known].mean()))
        self._lat, self._lon = lat.tolist(), lon.tolist()  # read one by one: lists are faster

    def find(self, postal_code: str) -> Point | None:
        """The point of "10001", "10001-1234"; None where even its first three digits are unknown."""
        digits = postal_code.strip()[:5]
        if len(digits) < 3 or not (digits.isascii() and digits.isdigit()):
            return None
        self.load()
        assert self._lat is not None and self._lon is not None
        if len(digits) == 5:
            code = int(digits)
            lat = self._lat[code]
            if lat == lat:  # not NaN
                return Point(lat, self._lon[code])
        return self._near.get(int(digits[:3]))


US_ZIPS = ZipTable()
"""One table a process: it never changes."""


@jit
def fill_km(out: I16, lat: _F64, lon: _F64, at_lat: float, at_lon: float) -> None:
    """Distance of every node from a point, whole km, -1 for a node without coordinates."""
    radians = math.pi / 180.0
    phi = at_lat * radians
    cos_phi = math.cos(phi)
    for n in range(len(lat)):
        if math.isnan(lat[n]):
            out[n] = -1
            continue
        sin_lat = math.sin((lat[n] * radians - phi) / 2.0)
        sin_lon = math.sin((lon[n] - at_lon) * radians / 2.0)
        h = sin_lat * sin_lat + cos_phi * math.cos(lat[n] * radians) * sin_lon * sin_lon
        out[n] = int(2.0 * EARTH_KM * math.asin(min(1.0, math.sqrt(h))) + 0.5)


class Destinations:
    """Distances from each destination to all nodes, one int16 row each, by a small integer; the pool starts again when full.

    A number is good until the next call of `start`: ask for the numbers of a batch after one `start`.
    """

    def __init__(self, lat: _F64, lon: _F64, areas: dict[str, Point]) -> None:
        self._lat = lat
        self._lon = lon
        self._areas = areas
        """Points of postal areas: "GB SW1A1AA" and "GB SW1" alike."""
        self._capacity = max(POOL_ROWS_MIN, min(POOL_ROWS_MAX, POOL_BYTES // max(2, 2 * len(lat))))
        self._rows = 256
        self.km: I16 = np.zeros((self._rows, max(1, len(lat))), np.int16)
        self._number: dict[tuple[str, str, float | None, float | None], int] = {}
        self._located: dict[tuple[str, str, float | None, float | None], Point] = {}
        """Points that `knows` found and `number` has not asked for yet."""

    def start(self, needed: int) -> None:
        """Make room for a batch with at most `needed` new destinations; numbers given before may become invalid."""
        if len(self._number) + needed > self._capacity:
            self._number.clear()
        want = len(self._number) + needed
        if want > self._rows:
            self._grow(max(want, min(self._capacity, self._rows * 2)))

    def _grow(self, rows: int) -> None:
        grown = np.zeros((rows, self.km.shape[1]), np.int16)
        grown[: len(self.km)] = self.km
        self.km = grown
        self._rows = rows

    def locate(self, country: str, postal_code: str, lat: float | None, lon: float | None) -> Point | None:
        """Own coordinates first, then the postal code."""
        if lat is not None and lon is not None:
            return Point(lat, lon)
        if country == "US":
            found = US_ZIPS.find(postal_code)
            if found is not None:
                return found
        code = "".join(c for c in postal_code.upper() if c.isalnum())
        return self._areas.get(f"{country} {code}") or self._areas.get(f"{country} {code[:3]}")

    def knows(self, country: str, postal_code: str, lat: float | None, lon: float | None) -> bool:
        """Whether a destination can be placed on the map."""
        key = (country, postal_code, lat, lon)
        if key in self._number or key in self._located:
            return True
        point = self.locate(country, postal_code, lat, lon)
        if point is None:
            return False
        if len(self._located) >= LOCATED_MAX:
            self._located.clear()
        self._located[key] = point
        return True

    def number(self, country: str, postal_code: str, lat: float | None, lon: float | None) -> int:
        """Row of `km` for a destination; -1 = it cannot be placed on the map."""
        key = (country, postal_code, lat, lon)
        number = self._number.get(key)
        if number is not None:
            return number
        point = self._located.pop(key, None) or self.locate(country, postal_code, lat, lon)
        if point is None:
            return -1
        number = len(self._number)
        if number == self._rows:  # a batch with more stores than was thought
            self._grow(2 * self._rows)
        self._number[key] = number
        fill_km(self.km[number], self._lat, self._lon, point.lat, point.lon)
        return number
