"""Where destinations are, and how far nodes are from them.

Coordinates come with the address, or from its postal code: US ZIP codes from a table (zips.py), any other from nodes and channels
that lie in the same postal area. Distances are great circles in a fixed order of operations, rounded to whole kilometres, so that
a replay counts the same.
"""

from __future__ import annotations

import math

import numpy as np

from solvers.jit import jit
from solvers.layout import F64, I64
from solvers.zips import US_ZIPS, Point

EARTH_KM = 6_371.0
LOCATED_MAX = 4_096


# asin(t) = t + t * z * P(z) / Q(z), z = t * t <= 1/4: exact to the last place but one (the approximation of fdlibm)
_P0, _P1, _P2 = 1.66666666666666657415e-01, -3.25565818622400915405e-01, 2.01212532134862925881e-01
_P3, _P4, _P5 = -4.00555345006794114027e-02, 7.91534994289814532176e-04, 3.47933107596021167570e-05
_Q1, _Q2 = -2.40339491173441421878e00, 2.02094576023350569471e00
_Q3, _Q4 = -6.88283971605453293030e-01, 7.70381505559019352791e-02
_DOUBT_KM = 1e-6
"""How near to a half kilometre `put_km` leaves the rounding to the formula that defines it; its own error is below 1e-8 km."""
_FAR = 0.99
"""Sine of half the angle beyond which it does so, too: there (18,200 km) the last places count for more."""
_RADIANS = math.pi / 180.0
KEY_SHIFT = 32
_NODE_MASK = (1 << KEY_SHIFT) - 1
_DOUBTFUL = 1 << 20


@jit
def exact_km(lat: float, lon: float, at_lat: float, at_lon: float) -> int:
    """Distance of two points, whole km: the haversine formula, in this order of operations."""
    phi = at_lat * _RADIANS
    sin_lat = math.sin((lat * _RADIANS - phi) / 2.0)
    sin_lon = math.sin((lon - at_lon) * _RADIANS / 2.0)
    h = sin_lat * sin_lat + math.cos(phi) * math.cos(lat * _RADIANS) * sin_lon * sin_lon
    return int(2.0 * EARTH_KM * math.asin(min(1.0, math.sqrt(h))) + 0.5)


@jit
def put_km(keys: I64, sphere: F64, chord: F64, at_lat: float, at_lon: float) -> None:
    """Put the distance of every node from a point on top of it: node -> km << 32 | node; km = -1 for a node that is nowhere.

    `chord`: scratch, at least as long as `keys`. The second sweep takes the angle from the chord and runs in vector instructions,
    six times as fast as the haversine formula. Where its error could change what is rounded, that formula decides: the answer is
    always `exact_km`.
    """
    phi = at_lat * _RADIANS
    at_x = math.cos(phi) * math.cos(at_lon * _RADIANS)
    at_y = math.cos(phi) * math.sin(at_lon * _RADIANS)
    at_z = math.sin(phi)
    x = sphere[2]
    y = sphere[3]
    z = sphere[4]
    doubtful = 0
    for n in range(len(keys)):
        node = keys[n]
        dx = x[node] - at_x
        dy = y[node] - at_y
        dz = z[node] - at_z
        chord[n] = dx * dx + dy * dy + dz * dz
    for n in range(len(keys)):
        h = chord[n] * 0.25
        sine = math.sqrt(h)
        wide = sine > 0.5
        t2 = (1.0 - sine) * 0.5 if wide else h
        t = math.sqrt(t2)
        p = t2 * (_P0 + t2 * (_P1 + t2 * (_P2 + t2 * (_P3 + t2 * (_P4 + t2 * _P5)))))
        angle = t + t * (p / (1.0 + t2 * (_Q1 + t2 * (_Q2 + t2 * (_Q3 + t2 * _Q4)))))
        angle = math.pi * 0.5 - 2.0 * angle if wide else angle
        km = 2.0 * EARTH_KM * angle + 0.5
        whole = math.floor(km)
        part = km - whole
        doubt = (part < _DOUBT_KM) | (part > 1.0 - _DOUBT_KM) | (sine > _FAR)
        value = np.int64(np.int32(whole)) if sine == sine else np.int64(-1)
        value = np.int64(_DOUBTFUL) if doubt else value
        keys[n] |= value << KEY_SHIFT
        doubtful |= doubt
    if doubtful:
        for n in range(len(keys)):
            if keys[n] >> KEY_SHIFT == _DOUBTFUL:
                node = keys[n] & _NODE_MASK
                keys[n] = (exact_km(sphere[0, node], sphere[1, node], at_lat, at_lon) << KEY_SHIFT) | node


def sphere(lat: F64, lon: F64) -> F64:
    """Where nodes are, float64[5, node]: latitude, longitude, point on the unit sphere. NaN = nowhere."""
    phi, lam = np.radians(lat), np.radians(lon)
    return np.stack([lat, lon, np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)])


class Destinations:
    """Points of a batch's destinations, each by its number in the batch."""

    def __init__(self, areas: dict[str, Point]) -> None:
        self._areas = areas
        """Points of postal areas: "GB SW1A1AA" and "GB SW1" alike."""
        self._located: dict[tuple[str, str], Point] = {}
        self._points: list[float] = []

    def start(self) -> None:
        """Begin a batch: numbers start at 0 again."""
        self._points = []

    def points(self) -> F64:
        """The batch's destinations so far, float64[number, (lat, lon)]."""
        return np.array(self._points, np.float64).reshape(-1, 2)

    def _of_area(self, country: str, postal_code: str) -> Point | None:
        code = "".join(c for c in postal_code.upper() if c.isalnum())
        return self._areas.get(f"{country} {code}") or self._areas.get(f"{country} {code[:3]}")

    def locate(self, country: str, postal_code: str, lat: float | None, lon: float | None) -> Point | None:
        """Own coordinates first, then the postal code; None = it cannot be placed on the map."""
        if lat is not None and lon is not None:
            return Point(lat, lon)
        if country == "US":  # found in a table as fast as it could be remembered
            point = US_ZIPS.find(postal_code)
            if point is not None:
                return point
        key = (country, postal_code)
        point = self._located.get(key)
        if point is None:
            point = self._of_area(country, postal_code)
            if point is not None:
                if len(self._located) >= LOCATED_MAX:
                    self._located.clear()
                self._located[key] = point
        return point

    def number(self, country: str, postal_code: str, lat: float | None, lon: float | None) -> int:
        """Number of a destination in the batch; -1 = it cannot be placed on the map."""
        point = self.locate(country, postal_code, lat, lon)
        return self.put(point) if point is not None else -1

    def put(self, point: tuple[float, float]) -> int:
        """Number in the batch of a destination that is located."""
        points = self._points
        points += point
        return (len(points) >> 1) - 1
