"""Public files of the US: store locations with an opening date (Walmart, 1962-2006), and population by postal area."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from engine.cli.formats.table import BadRow, BadValue, Row, decimal, integer, read_table, typed
from engine.cli.formats.us_zip import find_zip


class StoreRow(NamedTuple):
    """A store: where it is, and in which time zone."""

    line: int
    number: str
    name: str
    region: str
    postal_code: str
    lat: float
    lon: float
    time_zone: str


def read_stores(path: Path) -> Iterator[StoreRow | BadRow]:
    """Stores of a location file. A store outside the US, or without a ZIP code that has a time zone, is a bad row."""
    aliases = {
        "storenum": ("store_number", "store_id", "node_id", "id"),
        "city": ("STRCITY",),
        "region": ("STRSTATE", "state"),
        "postal_code": ("ZIPCODE", "zip"),
        "lat": ("latitude",),
        "lon": ("longitude", "long"),
        "type_store": (),
    }
    return typed(read_table(path, required=("storenum", "postal_code", "lat", "lon"), aliases=aliases), _store)


def _store(line: int, row: Row) -> StoreRow:
    if not row["storenum"]:
        raise BadValue("the store number is empty")
    lat, lon = decimal(row, "lat"), decimal(row, "lon")
    if not (-90 <= lat <= 90 and -180 <= lon <= 180):
        raise BadValue(f"{lat}, {lon} is no place on Earth")
    place = find_zip(row["postal_code"])
    if place is None:
        raise BadValue(f"postal code {row['postal_code']!r} is in no area of the US")
    city = row.get("city") or place.city
    kind = row.get("type_store", "")
    return StoreRow(
        line,
        row["storenum"],
        f"{city} {kind}".strip(),
        row.get("region") or place.region,
        row["postal_code"].split("-")[0].zfill(5),
        lat,
        lon,
        place.time_zone,
    )


class PopulationRow(NamedTuple):
    line: int
    postal_code: str
    people: int


def read_population(path: Path) -> Iterator[PopulationRow | BadRow]:
    """People by ZIP code tabulation area; areas without people are left out."""
    aliases = {
        "postal_code": ("Zip Code ZCTA", "zcta", "zip"),
        "people": ("2010 Census Population", "population"),
    }
    return typed(read_table(path, required=("postal_code", "people"), aliases=aliases), _population)


def _population(line: int, row: Row) -> PopulationRow | None:
    people = integer(row, "people")
    if people < 0 or not row["postal_code"].isdigit():
        raise BadValue(f"{row['postal_code']!r} with {people} people is no postal area")
    return PopulationRow(line, row["postal_code"].zfill(5), people) if people else None
