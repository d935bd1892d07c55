"""Where destinations are and how far nodes are from them."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from solvers.places import EARTH_KM, KEY_SHIFT, Destinations, exact_km, put_km, sphere
from solvers.zips import CODES, US_ZIPS, Point, ZipTable, make_table
from tests.property.solvers_reference import kilometres


def test_zip_codes_fall_back_to_their_area() -> None:
    manhattan = US_ZIPS.find("10001")
    assert manhattan is not None and abs(manhattan.lat - 40.75) < 0.05 and abs(manhattan.lon + 73.99) < 0.05
    assert US_ZIPS.find("10001-9999") == manhattan
    area = US_ZIPS.find("10050")
    assert area is not None and kilometres(manhattan, area) < 20
    assert US_ZIPS.find("100") == area
    assert US_ZIPS.find("00000") is US_ZIPS.find("12") is US_ZIPS.find("K1A") is None


def test_the_kept_table_is_the_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path / "kernel"))
    made, kept = ZipTable(), ZipTable()
    made.load()
    (file,) = tmp_path.glob("zips-*")
    table = np.load(file)
    np.testing.assert_array_equal(table, make_table())
    monkeypatch.setattr("solvers.zips.make_table", lambda: pytest.fail("there is a file"))
    kept.load()
    assert [kept.find(code) for code in ("10001", "10050", "96799", "00000")] == [
        made.find(code) for code in ("10001", "10050", "96799", "00000")
    ]
    assert np.isnan(table[:, :CODES]).any() and not np.isnan(table[:, 10_001]).any()
    monkeypatch.undo()
    file.write_bytes(file.read_bytes()[:1_000])  # half of one is none
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path / "kernel"))
    again = ZipTable()
    again.load()
    assert again.find("10001") == made.find("10001") and len(file.read_bytes()) > 1_000_000


def km_of(nodes: list[tuple[float, float]], place: tuple[float, float]) -> list[int]:
    """Distances as the kernel takes them."""
    lat, lon = (np.array(column) for column in zip(*nodes, strict=True))
    keys = np.arange(len(nodes))
    put_km(keys, sphere(lat, lon), np.zeros(len(nodes)), *place)
    assert (keys & (1 << KEY_SHIFT) - 1).tolist() == list(range(len(nodes)))
    found: list[int] = (keys >> KEY_SHIFT).tolist()
    return found


def test_distances_are_great_circles_in_whole_kilometres() -> None:
    places = [(40.75, -73.99), (34.05, -118.24), (-33.87, 151.21), (90.0, 0.0), (0.0, 179.9)]
    for place in places:
        assert km_of(places, place) == [kilometres(place, other) for other in places]
    assert km_of([(math.nan, 0.0), (0.0, 0.0)], (0.0, 0.0)) == [-1, 0]


def test_the_quick_sweep_rounds_as_the_formula_does() -> None:
    rng = np.random.default_rng(5)
    near = list(zip(rng.uniform(25, 48, 200).tolist(), rng.uniform(-123, -68, 200).tolist(), strict=True))
    far = list(zip(rng.uniform(-90, 90, 100).tolist(), rng.uniform(-180, 180, 100).tolist(), strict=True))
    # Half a kilometre more than whole, as nearly as a float says it, seen from (0, 0); the other side of the world.
    halves = [(math.degrees((n + 0.5) / EARTH_KM), 0.0) for n in range(100)]
    nodes = [*near, *far, *halves, (0.0, 180.0), (0.0, 179.999)]
    for place in [(0.0, 0.0), near[0], *far[:40]]:
        assert km_of(nodes, place) == [exact_km(*node, *place) for node in nodes]


def test_destinations_are_numbered_by_batch() -> None:
    places = Destinations({"GB SW1": Point(51.5, -0.13)})
    for batch in range(3):
        places.start()
        assert places.number("US", "", 40.0 + batch, -74.0) == 0
        assert places.number("GB", "EC1", None, None) == -1
        assert places.number("GB", "sw1a 1aa", None, None) == 1
        assert places.points().tolist() == [[40.0 + batch, -74.0], [51.5, -0.13]]
    places.start()
    assert places.points().shape == (0, 2)


def test_what_was_located_is_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solvers.places.LOCATED_MAX", 2)
    places = Destinations({f"GB A{n}": Point(50.0 + n, 0.0) for n in range(5)})
    for _ in range(2):
        assert [places.locate("GB", f"A{n}", None, None) for n in range(5)] == [Point(50.0 + n, 0.0) for n in range(5)]


def test_the_solvers_load_neither_ray_nor_the_engine() -> None:
    code = "import sys, solvers.kernel, solvers.network; print({'ray', 'redis', 'fastapi', 'engine', 'ortools'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
