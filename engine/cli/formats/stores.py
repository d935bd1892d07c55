"""Files of store locations as nodes of the API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.cli.formats.own import DocumentRow
from engine.cli.formats.table import BadRow, header_of, plain_name
from engine.cli.formats.us_network import StoreRow, read_stores


def is_stores(path: Path) -> bool:
    """Whether the header is one of store locations."""
    there = {plain_name(name) for name in header_of(path)}
    return "storenum" in there and {"zipcode", "zip", "postalcode"} & there != set()


def read_store_nodes(path: Path) -> Iterator[DocumentRow | BadRow]:
    """Stores as nodes that ship and hand out, seven days a week."""
    for row in read_stores(path):
        yield row if isinstance(row, BadRow) else DocumentRow(row.line, f"ST-{row.number}", store_document(row))


def store_document(row: StoreRow) -> dict[str, Any]:
    return {
        "node_id": f"ST-{row.number}",
        "name": row.name,
        "kind": "store",
        "region": row.region,
        "postal_code": row.postal_code,
        "lat": row.lat,
        "lon": row.lon,
        "time_zone": row.time_zone,
        "working_days": [0, 1, 2, 3, 4, 5, 6],
        "cut_off": "14:00",
        "processing_minutes": 240,
        "handling_line_minor": 90,
        "handling_unit_minor": 35,
        "surcharge_minor": 110,
        "offers": ["ship", "pickup", "ship_to_store"],
    }
