"""Where a US ZIP code lies, from the `zipcodes` package: for files that name places only by address."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple


class ZipPlace(NamedTuple):
    city: str
    region: str
    lat: float
    lon: float
    time_zone: str


@cache
def zip_places() -> dict[str, ZipPlace]:
    """All US ZIP codes with a place and a time zone, by code. Half a second, once."""
    import zipcodes

    return {
        z["zip_code"]: ZipPlace(z["city"], z["state"], float(z["lat"]), float(z["long"]), z["timezone"])
        for z in zipcodes.list_all()
        if z["country"] == "US" and "/" in z["timezone"]
    }


def find_zip(postal_code: str) -> ZipPlace | None:
    """The place of a code ("2116" and "02116-1234" are 02116), or of a neighbouring one of its area; None = no such area."""
    code = postal_code.strip().split("-")[0].zfill(5)
    places = zip_places()
    found = places.get(code)
    if found is not None or len(code) != 5 or not code.isdigit():
        return found
    area = int(code[:3]) * 100
    near = [n for n in range(area, area + 100) if f"{n:05d}" in places]
    return places[f"{min(near, key=lambda n: abs(n - int(code))):05d}"] if near else None
