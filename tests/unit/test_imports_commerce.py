"""Stock files of Shopify and Magento, as those systems write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cli.formats.commerce import (
    SHOPIFY_COLUMNS,
    SetRow,
    is_magento,
    is_shopify,
    read_magento,
    read_shopify,
)
from engine.cli.formats.own import StockRow
from engine.cli.formats.table import BadRow, FormatError
from engine.cli.stock_uploads import Places
from engine.cli.uploads import UploadError

FILES = Path(__file__).parent / "files"


def test_a_shopify_file_gives_its_changes_and_nothing_else() -> None:
    path = FILES / "shopify_inventory.csv"
    assert is_shopify(path)
    assert not is_magento(path)
    assert path.read_text("utf-8-sig").splitlines()[0].split(",") == list(SHOPIFY_COLUMNS)
    assert list(read_shopify(path)) == [
        SetRow(2, "Chicago, Wabash Ave", "PAN-24", 18, 16),
        SetRow(4, "Newark Warehouse", "PAN-28", 0, 40),
        BadRow(6, "On hand (new) is 'ten', expected a whole number"),
        BadRow(7, "SKU is empty"),
        BadRow(8, "On hand (new) is -3, expected 0 to 1000000000"),
        SetRow(9, "Newark Warehouse", "LID-28", -2, 0),
        BadRow(10, "18 values, the header has 19 columns"),
        SetRow(12, "Newark Warehouse", "KÖNIG-1", 5, 7),
    ]


def test_an_older_shopify_file_is_taken_without_comparing(tmp_path: Path) -> None:
    path = tmp_path / "old.csv"
    columns = [*SHOPIFY_COLUMNS[:12], "Incoming", "Unavailable", "Committed", "Available", "On hand"]
    rows = [["pan", "Pan", *[""] * 6, "PAN-24", "", "", "Newark", "0", "0", "1", "9", "10"]]
    rows += [["pan", "Pan", *[""] * 6, "PAN-28", "", "", "Newark", "0", "0", "0", "not stocked", "not stocked"]]
    path.write_text("\n".join(",".join(row) for row in [columns, *rows]))
    assert is_shopify(path)
    assert list(read_shopify(path)) == [SetRow(2, "Newark", "PAN-24", None, 10)]


def test_a_magento_file_gives_counts_and_what_its_status_says() -> None:
    path = FILES / "stock_sources.csv"
    assert is_magento(path)
    assert not is_shopify(path)
    assert list(read_magento(path)) == [
        StockRow(2, "default", "24-MB01", 100, None),
        StockRow(3, "default", "24-MB04", 0, None),
        StockRow(4, "nj_warehouse", "24-MB01", 12, None),
        BadRow(5, "quantity is '2.5000', expected a whole number"),
        BadRow(6, "status is '', expected 0 or 1"),
        BadRow(7, "quantity is -4, expected 0 to 1000000000"),
        BadRow(8, "sku is empty"),
    ]


def test_a_file_without_the_columns_is_no_such_file(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("Handle,SKU,Location\na,b,c\n")
    assert not is_shopify(path)
    with pytest.raises(FormatError, match="no column On hand"):
        list(read_shopify(path))


def test_places_are_told_or_are_the_nodes_id_or_its_only_name() -> None:
    nodes = [
        {"node_id": "NJ-1", "name": "Newark Warehouse"},
        {"node_id": "CHI", "name": "Twin"},
        {"node_id": "CHI-2", "name": "Twin", "state": "off"},
    ]
    places = Places(nodes, {"default": "NJ-1"})
    assert places.node_of("default") == "NJ-1"
    assert places.node_of("CHI") == "CHI"
    assert places.node_of("newark warehouse") == "NJ-1"
    assert places.node_of("Twin") is None, "two nodes have that name"
    assert places.node_of("Nowhere") is None
    with pytest.raises(UploadError, match="no node MARS"):
        Places(nodes, {"a": "MARS"})
