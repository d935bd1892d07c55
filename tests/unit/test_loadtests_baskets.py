"""A file of invoices as demand: its products, units and baskets; stores as nodes, evenly over the country."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.cli.formats.table import FormatError
from loadtests.baskets import (
    MAX_LEGS,
    basket_bodies,
    basket_network,
    find_population,
    read_file,
    read_store_network,
    stocked,
    warehouse_count,
)

INVOICES = """invoice,sku,qty,ts,price,customer,country
1,85048,12,2009-12-01 07:45:00,6.95,13085,United Kingdom
1,79323P,1,2009-12-01 07:45:00,6.75,13085,United Kingdom
2,85048,3,2009-12-03 07:45:00,6.95,,United Kingdom
C3,85048,-12,2009-12-03 07:45:00,6.95,13085,United Kingdom
4,79323P,2,2009-12-04 07:45:00,6.75,13085,United Kingdom
"""


@pytest.fixture
def invoices(tmp_path: Path) -> Path:
    path = tmp_path / "invoices.csv"
    path.write_text(INVOICES)
    return path


def test_demand_is_what_the_baskets_add_up_to(invoices: Path) -> None:
    file = read_file(invoices)
    assert dict(zip(file.skus, file.demand_units.tolist(), strict=True)) == {"85048": 15.0, "79323P": 3.0}
    assert [len(basket.lines) for basket in file.baskets] == [2, 1, 1]
    assert file.span_days == 4
    assert file.report.counts == {"returns": 1}


def test_a_file_without_orders_says_so(tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.write_text(INVOICES.splitlines()[0] + "\nC1,A,-1,2009-12-01 07:45:00,1,9,UK\n")
    with pytest.raises(FormatError, match=r"no orders.*1 rows of returns"):
        read_file(path)


def test_stock_is_the_demand_times_the_coverage(invoices: Path) -> None:
    network = basket_network(read_file(invoices), None, node_count=8, coverage=2.0, seed=1)
    units = np.zeros(2)
    np.add.at(units, network.stock.item, network.stock.units)
    assert (units >= [30, 6]).all()
    assert network.items[0].weight_g is None, "weights are not in the file and are not invented"


def test_warehouses_carry_nearly_all_and_deep_enough_for_a_basket(invoices: Path) -> None:
    file = read_file(invoices)
    network = basket_network(file, None, node_count=16, coverage=1.0, seed=1)
    stores = {n for n, node in enumerate(network.nodes) if node.kind == "store"}
    assert [warehouse_count(count) for count in (2, 12, 60, 2_992)] == [1, 1, 7, 24]
    at = zip(network.stock.node.tolist(), network.stock.item.tolist(), network.stock.units.tolist(), strict=True)
    held = {(node, item): units for node, item, units in at}
    assert all(held[node, item] >= 24 for node in range(16) if node not in stores for item in range(2))
    assert not any((node, 1) in held for node in stores), "what hardly sells is in warehouses only"
    assert stocked(file, network) == sum(held.values()) / 18


def test_baskets_are_played_in_order_and_a_customer_lives_in_one_place(invoices: Path) -> None:
    bodies = list(basket_bodies(read_file(invoices), None))
    assert [body["order_id"] for body in bodies] == ["1", "2", "4"]
    assert bodies[0]["ship_to"] == bodies[2]["ship_to"]
    assert "customer_id" not in bodies[1]
    assert all(body["on_short"] == "partial" and body["max_legs"] == MAX_LEGS for body in bodies)


def test_a_population_beside_the_invoices_is_found_and_used(invoices: Path) -> None:
    assert find_population(invoices) is None
    folder = invoices.parent / "us-network"
    folder.mkdir()
    path = folder / "zcta_population_2010.csv"
    path.write_text("Zip Code ZCTA,2010 Census Population,Country\n10001,5,US\n")
    assert find_population(invoices) == path
    bodies = list(basket_bodies(read_file(invoices), path))
    assert {body["ship_to"]["postal_code"] for body in bodies} == {"10001"}


def test_stores_are_taken_evenly_from_west_to_east(tmp_path: Path) -> None:
    path = tmp_path / "stores.csv"
    places = [("94103", 37.7, -122.4), ("80202", 39.7, -105.0), ("60614", 41.9, -87.6), ("10001", 40.7, -74.0)]
    rows = "".join(f"{n},{code},{lat},{lon}\n" for n, (code, lat, lon) in enumerate(reversed(places), 1))
    path.write_text(f"storenum,ZIPCODE,LAT,LON\n{rows}x,ABC,1,1\n")
    nodes, bad = read_store_network(path, 2)
    assert [node.postal_code for node in nodes] == ["94103", "60614"]
    assert [node.kind for node in nodes] == ["store", "warehouse"], "a file of stores has no warehouse behind them"
    assert [row.line for row in bad] == [6]
    with pytest.raises(FormatError, match="has 4 stores, 5 nodes"):
        read_store_network(path, 5)
