"""Where destinations are and how far nodes are from them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from solvers.places import US_ZIPS, Destinations, Point, fill_km
from tests.property.solvers_reference import kilometres


def test_zip_codes_fall_back_to_their_area() -> None:
    manhattan = US_ZIPS.find("10001")
    assert manhattan is not None and abs(manhattan.lat - 40.75) < 0.05 and abs(manhattan.lon + 73.99) < 0.05
    assert US_ZIPS.find("10001-9999") == manhattan
    area = US_ZIPS.find("10050")
    assert area is not None and kilometres(manhattan, area) < 20
    assert US_ZIPS.find("100") == area
    assert US_ZIPS.find("00000") is US_ZIPS.find("12") is US_ZIPS.find("K1A") is None


def test_distances_are_great_circles_in_whole_kilometres() -> None:
    places = [(40.75, -73.99), (34.05, -118.24), (-33.87, 151.21), (90.0, 0.0), (0.0, 179.9)]
    lat, lon = (np.array(column) for column in zip(*places, strict=True))
    out = np.zeros(len(places), np.int16)
    for place in places:
        fill_km(out, lat, lon, *place)
        assert out.tolist() == [kilometres(place, other) for other in places]
    fill_km(out, np.full(5, np.nan), lon, 0.0, 0.0)
    assert out.tolist() == [-1] * 5


def test_the_pool_starts_again_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solvers.places.POOL_ROWS_MAX", 4)
    monkeypatch.setattr("solvers.places.POOL_ROWS_MIN", 4)
    pool = Destinations(np.array([40.0]), np.array([-74.0]), {"GB SW1": Point(51.5, -0.13)})
    for batch in range(6):
        pool.start(2)
        first = pool.number("US", "", 40.0 + batch, -74.0)
        second = pool.number("GB", "sw1a 1aa", None, None)
        assert pool.km[first, 0] == kilometres((40.0 + batch, -74.0), (40.0, -74.0))
        assert pool.km[second, 0] == kilometres((51.5, -0.13), (40.0, -74.0))
        assert first < 4 and second < 4 and len(pool.km) <= 256
    assert pool.number("GB", "EC1", None, None) == -1
    assert pool.knows("GB", "SW1", None, None) and not pool.knows("GB", "EC1", None, None)


def test_more_destinations_than_were_announced_find_room() -> None:
    pool = Destinations(np.array([40.0]), np.array([-74.0]), {})
    pool.start(1)
    numbers = [pool.number("US", "", 40.0, -74.0 + n / 100) for n in range(700)]
    assert numbers == list(range(700))
    assert pool.km[numbers[-1], 0] == kilometres((40.0, -67.01), (40.0, -74.0))


def test_the_solvers_load_neither_ray_nor_the_engine() -> None:
    code = "import sys, solvers.kernel, solvers.network; print({'ray', 'redis', 'fastapi', 'engine', 'ortools'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
