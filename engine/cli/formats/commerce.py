"""Stock files of shop systems: Shopify's inventory CSV and Magento's stock_sources.csv. docs/reference/file-formats.md describes both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from engine.cli.formats.own import UNITS_MAX, StockRow
from engine.cli.formats.table import BadRow, BadValue, Row, header_of, integer, plain_name, read_table, typed

SHOPIFY_COLUMNS = (
    "Handle",
    "Title",
    "Option1 Name",
    "Option1 Value",
    "Option2 Name",
    "Option2 Value",
    "Option3 Name",
    "Option3 Value",
    "SKU",
    "HS Code",
    "COO",
    "Location",
    "Bin name",
    "Incoming (not editable)",
    "Unavailable (not editable)",
    "Committed (not editable)",
    "Available (not editable)",
    "On hand (current)",
    "On hand (new)",
)
MAGENTO_COLUMNS = ("source_code", "sku", "status", "quantity")
NOT_STOCKED = "not stocked"
_CURRENT, _NEW, _OLD_STYLE = "On hand (current)", "On hand (new)", "On hand"


class SetRow(NamedTuple):
    """What a place should hold. `seen_units`: set it only if the engine still says this; None = whatever it says."""

    line: int
    place: str
    """A location or source, in the words of the system that wrote the file."""
    sku: str
    seen_units: int | None
    new_units: int


def is_shopify(path: Path) -> bool:
    names = {plain_name(name) for name in header_of(path)}
    return {"handle", "sku", "location"} <= names and bool({"onhandnew", "onhand"} & names)


def is_magento(path: Path) -> bool:
    return {plain_name(name) for name in MAGENTO_COLUMNS} <= {plain_name(name) for name in header_of(path)}


def read_shopify(path: Path) -> Iterator[SetRow | BadRow]:
    """Rows whose `On hand (new)` says something. Rows without a change, and places that do not stock the item, are no rows.

    Files from before 2025 have one column `On hand` instead of two: it is taken as it is, with nothing to compare.
    """
    new_style = "onhandnew" in {plain_name(name) for name in header_of(path)}
    required = ["SKU", "Location", *([_CURRENT, _NEW] if new_style else [_OLD_STYLE])]
    return typed(read_table(path, required=required), _shopify_new if new_style else _shopify_old)


def _shopify_new(line: int, row: Row) -> SetRow | None:
    if not row[_NEW] or row[_NEW].casefold() == NOT_STOCKED:
        return None
    new_units = _units(row, _NEW)
    if row[_CURRENT].casefold() == NOT_STOCKED:
        return _placed(line, row, 0, new_units)
    seen_units = integer(row, _CURRENT)
    return None if seen_units == new_units else _placed(line, row, seen_units, new_units)


def _shopify_old(line: int, row: Row) -> SetRow | None:
    if not row[_OLD_STYLE] or row[_OLD_STYLE].casefold() == NOT_STOCKED:
        return None
    return _placed(line, row, None, _units(row, _OLD_STYLE))


def _placed(line: int, row: Row, seen_units: int | None, new_units: int) -> SetRow:
    for name in ("SKU", "Location"):
        if not row[name]:
            raise BadValue(f"{name} is empty")
    return SetRow(line, row["Location"], row["SKU"], seen_units, new_units)


def read_magento(path: Path) -> Iterator[StockRow | BadRow]:
    """Counts by source. `status` 0 means that the source sells nothing of it, whatever its quantity: counted as none."""
    return typed(read_table(path, required=MAGENTO_COLUMNS), _magento)


def _magento(line: int, row: Row) -> StockRow:
    for name in ("source_code", "sku"):
        if not row[name]:
            raise BadValue(f"{name} is empty")
    if row["status"] not in ("0", "1"):
        raise BadValue(f"status is {row['status']!r}, expected 0 or 1")
    units = _units(row, "quantity")
    return StockRow(line, row["source_code"], row["sku"], units if row["status"] == "1" else 0, None)


def _units(row: Row, name: str) -> int:
    units = integer(row, name)
    if not 0 <= units <= UNITS_MAX:
        raise BadValue(f"{name} is {units}, expected 0 to {UNITS_MAX}")
    return units
