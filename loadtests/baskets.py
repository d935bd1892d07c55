"""A file of invoices as demand: its products, the units it will ask for, its baskets in order, and nodes from a file of stores.

Nothing is invented about products but what the file lacks: weights and dimensions stay unknown, and the engine marks them as
assumed. Destinations follow population (a file beside the invoices, else the density of ZIP codes), the same for a customer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engine.cli.formats.invoices import Draw, basket_order, destinations
from engine.cli.formats.online_retail import Basket, Report, read_baskets
from engine.cli.formats.stores import store_document
from engine.cli.formats.table import BadRow, FormatError
from engine.cli.formats.us_network import StoreRow, read_stores
from engine.domain.config import Item, Node
from loadtests.network import Network, NetworkSpec, build_network

MAX_LEGS = 8
WAREHOUSES_MAX = 24
WAREHOUSE_UNITS_MIN = 24
"""Of every product that a warehouse carries: two usual lines of a wholesale basket."""
POPULATION_NAMES = ("zcta_population*.csv*", "us-network/zcta_population*.csv*")


@dataclass
class BasketFile:
    """A file, read once."""

    path: Path
    baskets: list[Basket]
    report: Report
    skus: list[str] = field(default_factory=list)
    price_minor: list[int] = field(default_factory=list)
    demand_units: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def span_days(self) -> int:
        if not self.baskets:
            return 0
        return (self.baskets[-1].placed_at - self.baskets[0].placed_at).days + 1


def read_file(path: Path, *, limit: int | None = None) -> BasketFile:
    """All baskets (or the first `limit`) with the demand they add up to. Raises FormatError where there are none."""
    report = Report()
    baskets: list[Basket] = []
    for row in read_baskets(path, report):
        if isinstance(row, BadRow):
            continue
        baskets.append(row)
        if limit is not None and len(baskets) == limit:
            break
    if not baskets:
        raise FormatError(f"{path} has no orders: {report.sentence()}")
    out = BasketFile(path, baskets, report)
    index: dict[str, int] = {}
    units: list[int] = []
    for basket in baskets:
        for line in basket.lines:
            at = index.get(line.sku)
            if at is None:
                at = index[line.sku] = len(units)
                out.skus.append(line.sku)
                out.price_minor.append(line.price_minor)
                units.append(0)
            units[at] += line.quantity
    out.demand_units = np.array(units, float)
    return out


def basket_network(
    file: BasketFile, nodes: list[Node] | None, *, node_count: int, coverage: float, seed: int
) -> Network:
    """Stock for the file's whole demand times `coverage`, over given nodes or generated ones.

    Baskets are long, so a few warehouses carry nearly everything, deep enough for a basket; stores a wide range of what sells.
    Products that hardly sell have that least depth beyond the coverage: `stocked` tells what it comes to.
    """
    warehouses = warehouse_count(node_count)
    spec = NetworkSpec(
        seed=seed,
        warehouses=warehouses,
        stores=node_count - warehouses,
        coverage=coverage,
        # Popular products are carried half as often again: by every warehouse, and the last of the tail by 95 % of them.
        warehouse_carry=1.9,
        warehouse_weight=16.0,
        warehouse_units_min=WAREHOUSE_UNITS_MIN,
        store_carry=0.6 if node_count <= 200 else 120 / node_count,
        store_range=0.6,
    )
    items = [
        Item(sku=sku, name=sku, category="gift", unit_value_minor=price)
        for sku, price in zip(file.skus, file.price_minor, strict=True)
    ]
    return build_network(spec, nodes=nodes, items=items, demand_units=file.demand_units)


def warehouse_count(node_count: int) -> int:
    """How many of so many nodes are stocked as warehouses: an eighth, but no more than a country has."""
    return max(1, min(WAREHOUSES_MAX, node_count // 8))


def stocked(file: BasketFile, network: Network) -> float:
    """Units on all shelves over the units that the file asks for."""
    return float(network.stock.units.sum() / file.demand_units.sum())


def read_store_network(path: Path, count: int) -> tuple[list[Node], list[BadRow]]:
    """`count` stores of a file, evenly from west to east; with the rows that could not be read.

    The stores of a file have no warehouse behind them: some of them, as evenly spread, are stocked as warehouses.

    Raises FormatError where the file has fewer.
    """
    stores: list[StoreRow] = []
    bad: list[BadRow] = []
    for row in read_stores(path):
        if isinstance(row, BadRow):
            bad.append(row)
        else:
            stores.append(row)
    if len(stores) < count:
        raise FormatError(f"{path} has {len(stores):,} stores, {count:,} nodes were asked for")
    stores.sort(key=lambda store: (store.lon, store.lat, store.number))
    chosen = [stores[i * len(stores) // count] for i in range(count)]
    nodes = [msgspec.convert(store_document(store), Node, strict=False) for store in chosen]
    warehouses = warehouse_count(count)
    for i in range(warehouses):
        nodes[(2 * i + 1) * count // (2 * warehouses)].kind = "warehouse"
    return nodes, bad


def find_population(orders: Path) -> Path | None:
    """A file of populations beside the invoices."""
    for pattern in POPULATION_NAMES:
        found = sorted(orders.parent.glob(pattern))
        if found:
            return found[0]
    return None


def basket_bodies(file: BasketFile, population: Path | None) -> Iterator[dict[str, Any]]:
    """Orders of the API, in the order of the file; what stock cannot serve is left unfilled, not refused."""
    draw: Draw = destinations(population)
    for basket in file.baskets:
        body = basket_order(basket, draw, on_short="partial").body
        body["max_legs"] = MAX_LEGS
        yield body
