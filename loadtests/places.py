"""Where people live, as far as the `zipcodes` package tells: postal codes with coordinates, time zone and a demand weight.

The package has no population. The stand-in is the density of postal codes: weight = (ZIPs within 25 km) ** 0.75, which
against the census of 2010 gives a correlation of 0.73 and a misplaced mass of 25 % over three-digit areas (equal weights:
0.46 and 34 %). A file of real populations (`engine.cli.formats.population`) replaces it wherever one is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np

NEAR_KM = 25.0
EARTH_KM = 6_371.0
_FAR_STATES = frozenset({"AK", "HI", "PR", "VI", "GU", "MP", "AS", "PW", "MH", "FM"})


class Place(NamedTuple):
    postal_code: str
    city: str
    region: str
    lat: float
    lon: float
    time_zone: str


class Places:
    """P postal codes of the contiguous states with weights that sum to 1. `rows[i]` belongs to `weight[i]`, `unit[i]`."""

    def __init__(self, rows: list[Place], weight: np.ndarray) -> None:
        self.rows = rows
        self.weight = weight / weight.sum()
        self.unit = unit_vectors(np.array([r.lat for r in rows]), np.array([r.lon for r in rows]))
        self._cumulative = np.cumsum(self.weight)
        self.index = {row.postal_code: i for i, row in enumerate(rows)}

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Indexes of `count` destinations drawn by weight, int64[count]."""
        return self.pick(rng.random(count))

    def pick(self, uniform: np.ndarray) -> np.ndarray:
        """Indexes at given quantiles in [0, 1): the same number always gives the same place."""
        return np.minimum(np.searchsorted(self._cumulative, uniform, side="right"), len(self.rows) - 1)

    def nearest(self, lat: float, lon: float) -> Place:
        return self.rows[int(np.argmax(self.unit @ unit_vectors(np.array([lat]), np.array([lon]))[0]))]

    def reweighted(self, population: Mapping[str, int]) -> Places:
        """The same places by real population (postal code -> people); codes without people are left out.

        Raises ValueError where not one code of the file is known.
        """
        people = np.array([population.get(row.postal_code, 0) for row in self.rows], float)
        kept = np.flatnonzero(people > 0)
        if not len(kept):
            raise ValueError("no postal code of the population file is a known US ZIP code")
        return Places([self.rows[i] for i in kept], people[kept])


@cache
def us_places() -> Places:
    """All ordinary ZIP codes of the 48 contiguous states and DC, with the density weight. About 0.8 s, once a process."""
    import zipcodes

    codes = [
        z
        for z in zipcodes.list_all()
        if z["active"] and z["country"] == "US" and z["timezone"] and z["state"] not in _FAR_STATES
    ]
    lat = np.array([float(z["lat"]) for z in codes])
    lon = np.array([float(z["long"]) for z in codes])
    near = _neighbours(lat, lon)
    ordinary = [i for i, z in enumerate(codes) if z["zip_code_type"] == "STANDARD"]
    rows = [
        Place(
            codes[i]["zip_code"],
            codes[i]["city"],
            codes[i]["state"],
            float(lat[i]),
            float(lon[i]),
            codes[i]["timezone"],
        )
        for i in ordinary
    ]
    return Places(rows, near[ordinary] ** 0.75)


def _neighbours(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """How many of the given points lie within NEAR_KM of each, itself included."""
    order = np.argsort(lat, kind="stable")
    unit = unit_vectors(lat[order], lon[order])
    band = np.degrees(NEAR_KM / EARTH_KM)
    first = np.searchsorted(lat[order], lat[order] - band)
    last = np.searchsorted(lat[order], lat[order] + band, side="right")
    closest = np.cos(NEAR_KM / EARTH_KM)
    near = np.empty(len(lat))
    for i in range(len(lat)):
        near[order[i]] = np.count_nonzero(unit[first[i] : last[i]] @ unit[i] >= closest)
    return near


def unit_vectors(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Points on the unit sphere, float64[n, 3]."""
    phi, theta = np.radians(lat), np.radians(lon)
    return np.stack((np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi)), axis=1)


def distance_km(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Great-circle distances between unit vectors, float64[len(a), len(b)]."""
    cosine: np.ndarray = np.clip(a @ b.T, -1.0, 1.0)
    km: np.ndarray = EARTH_KM * np.arccos(cosine)
    return km
