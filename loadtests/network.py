"""A generated fulfilment network: nodes in real US places, a skewed catalogue, carriers, and stock sized to demand.

Everything follows from the spec and its seed. What is real: the places, their coordinates and time zones, the zone breaks.
What is made up: names, the catalogue, prices, who carries what. Where demand sits is estimated (see loadtests.places).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from engine.domain.config import Carrier, Channel, Component, Item, Node, NodeCapacity
from engine.domain.config import Place as ConfigPlace
from loadtests.carriers import carriers
from loadtests.places import Place, Places, distance_km, unit_vectors, us_places

CHANNEL = "web"
_CITY_APART_KM = 40.0


@dataclass(frozen=True)
class NetworkSpec:
    """What to generate. Stock covers `orders` orders of `units_per_order` units times `coverage`."""

    seed: int = 1
    warehouses: int = 12
    stores: int = 88
    skus: int = 10_000
    orders: int = 100_000
    units_per_order: float = 4.0
    coverage: float = 1.5
    """Stock of all nodes over expected demand, per SKU."""
    zipf: float = 0.9
    """Popularity of the SKU of rank r is 1 / r ** zipf."""
    warehouse_carry: float = 0.5
    """Share of the catalogue that a warehouse stocks; popular SKUs are carried more often."""
    store_carry: float = 0.25
    store_range: float = 1.0
    """Share of the catalogue, by popularity, that a store chooses from: what hardly anybody asks for is in warehouses only."""
    warehouse_weight: float = 4.0
    """Units that a warehouse gets of a SKU over what a store gets that has the same demand around it."""
    warehouse_units_min: int = 1
    kit_share: float = 0.0
    """Share of SKUs that are kits of two or three others."""
    handling_share: float = 0.02
    """Share of SKUs that are hazmat or oversize: only warehouses take them."""
    capacity_slack: float = 0.0
    """Orders a node ships a day over its expected share of `orders`; 0 = no limit."""
    sku_prefix: str = "SKU"
    safety_units: int = 0
    """Units that a store never promises of a SKU of which it has at least four times as many."""
    flat_units: int = 0
    """Instead of sizing to demand: this many units at every position (load tests that must not run dry)."""
    regions: int = 0
    """Cut the country into this many bands of postal codes, as the placement map does for that many shards, and stock
    SKU i only in band i modulo regions: the share of orders that crosses shards is then the traffic's to choose."""


class Stock(NamedTuple):
    """Positions as columns of equal length: indexes into `nodes` and `items`, units on the shelf, safety units."""

    node: np.ndarray
    item: np.ndarray
    units: np.ndarray
    safety: np.ndarray

    def by_node(self) -> Iterator[tuple[int, np.ndarray]]:
        """(node index, row numbers of its positions), in node order."""
        order = np.argsort(self.node, kind="stable")
        nodes, first = np.unique(self.node[order], return_index=True)
        yield from zip(nodes.tolist(), np.split(order, first[1:]), strict=True)


@dataclass(frozen=True)
class Network:
    """Configuration documents, stock, and what traffic needs: popularity by item (sums to 1) and where people live."""

    spec: NetworkSpec
    nodes: list[Node]
    items: list[Item]
    channels: list[Channel]
    carriers: list[Carrier]
    stock: Stock
    popularity: np.ndarray
    places: Places


def build_network(
    spec: NetworkSpec,
    *,
    places: Places | None = None,
    nodes: list[Node] | None = None,
    items: list[Item] | None = None,
    demand_units: np.ndarray | None = None,
) -> Network:
    """Generate what is not given. `demand_units[i]` = expected units of `items[i]`; both come from a file of orders."""
    places = places or us_places()
    seeds = np.random.SeedSequence(spec.seed).spawn(4)
    if nodes is None:
        nodes = make_nodes(spec, places, np.random.default_rng(seeds[0]))
    if items is None:
        items = make_items(spec, np.random.default_rng(seeds[1]))
    if demand_units is None:
        demand_units = zipf_popularity(len(items), spec.zipf) * spec.orders * spec.units_per_order
    demand_units = np.asarray(demand_units, float)
    share = demand_share(nodes, places)
    stock = make_stock(spec, nodes, items, demand_units, share, np.random.default_rng(seeds[2]))
    if spec.capacity_slack:
        for node, part in zip(nodes, share, strict=True):
            node.capacity = NodeCapacity(
                per_day=max(20, round(spec.orders * float(part) * spec.capacity_slack)),
                hard=node.kind == "warehouse",
                over_price_minor=0 if node.kind == "warehouse" else 150,
            )
    centre = places.rows[int(np.argmax(places.unit @ (places.weight @ places.unit)))]
    total = demand_units.sum()
    return Network(
        spec=spec,
        nodes=nodes,
        items=items,
        channels=make_channels(centre),
        carriers=carriers(),
        stock=stock,
        popularity=demand_units / total if total else np.full(len(items), 1 / max(1, len(items))),
        places=places,
    )


def make_channels(centre: Place) -> list[Channel]:
    """A storefront and a marketplace; a reservation without destination is planned against the centre of demand."""
    at = ConfigPlace(country="US", postal_code=centre.postal_code, lat=centre.lat, lon=centre.lon)
    return [
        Channel(
            channel_id=CHANNEL,
            name="Web shop",
            demand_centre=at,
            promise_days={"standard": 5, "express": 2},
            max_legs=3,
        ),
        Channel(
            channel_id="marketplace",
            name="Marketplace",
            demand_centre=at,
            promise_days={"standard": 4, "express": 2},
            late_day_minor=900,
            max_legs=2,
        ),
    ]


def make_nodes(spec: NetworkSpec, places: Places, rng: np.random.Generator) -> list[Node]:
    """Stores where people live; warehouses likewise but far apart, so that they cover the country."""
    nodes = []
    for kind, count in (("warehouse", spec.warehouses), ("store", spec.stores)):
        apart_km = 2_400 / max(1, count) ** 0.5 if kind == "warehouse" else _CITY_APART_KM / (1 + count / 200)
        for n, at in enumerate(_spread(places, count, apart_km, rng), 1):
            nodes.append(node_at(places.rows[at], kind, n))
    return nodes


def node_at(place: Place, kind: str, number: int, *, node_id: str = "", name: str = "") -> Node:
    """A warehouse or a store at a place, with what such a node usually is: days, cut-off, handling, what it can take."""
    warehouse = kind == "warehouse"
    return Node(
        node_id=node_id or f"{'WH' if warehouse else 'ST'}-{number:04d}",
        name=name or f"{place.city} {'fulfilment centre' if warehouse else 'store'}",
        kind="warehouse" if warehouse else "store",
        region=place.region,
        postal_code=place.postal_code,
        lat=place.lat,
        lon=place.lon,
        time_zone=place.time_zone,
        working_days=(0, 1, 2, 3, 4, 5) if warehouse else (0, 1, 2, 3, 4, 5, 6),
        cut_off="16:00" if warehouse else "14:00",
        cut_off_by_service={"express": "18:00" if warehouse else "15:00"},
        processing_minutes=120 if warehouse else 240,
        handling_line_minor=45 if warehouse else 90,
        handling_unit_minor=12 if warehouse else 35,
        surcharge_minor=0 if warehouse else 110,
        offers=("ship", "hazmat", "oversize") if warehouse else ("ship", "pickup", "ship_to_store"),
        safety_by_method={} if warehouse else {"pickup": 1},
    )


def _spread(places: Places, count: int, apart_km: float, rng: np.random.Generator) -> list[int]:
    """Indexes of `count` different places drawn by weight, at least `apart_km` apart while that can be had."""
    chosen: list[int] = []
    taken: set[int] = set()
    while len(chosen) < count:
        for at in places.draw(rng, 4 * count + 64).tolist():
            if len(chosen) == count:
                break
            if at in taken:
                continue
            if chosen and apart_km > 1:
                near = distance_km(places.unit[at : at + 1], places.unit[chosen]).min()
                if near < apart_km:
                    continue
            chosen.append(at)
            taken.add(at)
        apart_km *= 0.8
        if len(taken) == len(places.rows):
            raise ValueError(f"{count} nodes asked for, there are {len(taken)} places")
    return chosen


class _Category(NamedTuple):
    name: str
    weight_g: float
    spread: float
    density_g_per_l: float
    value_per_kg_minor: float


_CATEGORIES = (
    _Category("apparel", 350, 0.5, 180, 9_000),
    _Category("shoes", 1_100, 0.3, 160, 6_500),
    _Category("beauty", 220, 0.6, 600, 8_500),
    _Category("books", 520, 0.4, 900, 3_200),
    _Category("toys", 800, 0.8, 200, 4_000),
    _Category("kitchen", 1_900, 0.8, 280, 2_800),
    _Category("electronics", 900, 0.9, 350, 22_000),
    _Category("grocery", 700, 0.6, 750, 1_400),
    _Category("garden", 3_600, 0.9, 260, 1_600),
    _Category("tools", 2_200, 0.8, 700, 3_800),
)


def make_items(spec: NetworkSpec, rng: np.random.Generator) -> list[Item]:
    """The catalogue in order of popularity. Weights are log-normal by category, dimensions follow from a density."""
    count = spec.skus
    category = rng.integers(len(_CATEGORIES), size=count)
    noise = rng.standard_normal((4, count))
    special = rng.random(count)
    items = []
    for i in range(count):
        kind = _CATEGORIES[int(category[i])]
        weight_g = int(np.clip(kind.weight_g * np.exp(kind.spread * noise[0, i]), 20, 28_000))
        volume_mm3 = weight_g / (kind.density_g_per_l * np.exp(0.3 * noise[1, i])) * 1e6
        edge = float(np.clip(volume_mm3, 2e4, 1.4e8)) ** (1 / 3)
        flat = float(np.exp(0.3 * noise[2, i]))
        value = max(199, int(weight_g / 1_000 * kind.value_per_kg_minor * np.exp(0.4 * noise[3, i])) // 100 * 100 + 99)
        oversize = special[i] < spec.handling_share / 2
        hazmat = spec.handling_share / 2 <= special[i] < spec.handling_share
        items.append(
            Item(
                sku=f"{spec.sku_prefix}-{i + 1:06d}",
                name=f"{kind.name} {i + 1}",
                category=kind.name,
                weight_g=weight_g,
                length_mm=max(10, int(edge * flat * 1.4)),
                width_mm=max(10, int(edge * flat)),
                height_mm=max(5, int(edge / (flat * flat * 1.4))),
                ship_alone=bool(oversize),
                tags=["oversize"] if oversize else ["hazmat"] if hazmat else [],
                unit_value_minor=value,
                margin_bp=int(rng.integers(1_500, 5_500)),
            )
        )
    for i in _kit_indexes(spec, rng).tolist():
        parts = rng.choice(max(1, i), size=min(i, int(rng.integers(2, 4))), replace=False)
        plain = [items[p] for p in parts.tolist() if not items[p].components]
        if len(plain) >= 2:
            items[i].components = [Component(sku=part.sku, quantity=int(rng.integers(1, 3))) for part in plain]
            items[i].ship_alone, items[i].tags = False, []
    return items


def _kit_indexes(spec: NetworkSpec, rng: np.random.Generator) -> np.ndarray:
    kits = round(spec.skus * spec.kit_share)
    if not kits or spec.skus < 10:
        return np.empty(0, int)
    return np.sort(rng.choice(np.arange(5, spec.skus), size=min(kits, spec.skus - 5), replace=False))


def zipf_popularity(count: int, exponent: float) -> np.ndarray:
    """Popularity by rank, sums to 1."""
    weight: np.ndarray = 1 / np.arange(1, count + 1) ** exponent
    share: np.ndarray = weight / weight.sum()
    return share


def demand_share(nodes: list[Node], places: Places) -> np.ndarray:
    """Share of demand that has each node as its nearest one, smoothed so that no node is left without; sums to 1."""
    unit = unit_vectors(np.array([n.lat for n in nodes]), np.array([n.lon for n in nodes]))
    share = np.zeros(len(nodes))
    for first in range(0, len(places.rows), 2_000):
        nearest = np.argmax(places.unit[first : first + 2_000] @ unit.T, axis=1)
        np.add.at(share, nearest, places.weight[first : first + 2_000])
    return 0.7 * share + 0.3 / len(nodes)


def make_stock(
    spec: NetworkSpec,
    nodes: list[Node],
    items: list[Item],
    demand_units: np.ndarray,
    share: np.ndarray,
    rng: np.random.Generator,
) -> Stock:
    """Who carries what, and how much: a SKU's units = demand x coverage, split over its carriers by their demand share.

    What the components of kits need is added to their own demand. Every SKU without components has at least one carrier.
    """
    demand = demand_units.copy()
    index = {item.sku: i for i, item in enumerate(items)}
    for i, item in enumerate(items):
        for part in item.components:
            demand[index[part.sku]] += demand_units[i] * part.quantity
        if item.components:
            demand[i] = 0
    warehouse = np.array([node.kind == "warehouse" for node in nodes])
    carry = np.where(warehouse, spec.warehouse_carry, spec.store_carry)
    weight = share * np.where(warehouse, spec.warehouse_weight, 1.0)
    at_least = np.where(warehouse, spec.warehouse_units_min, 1)
    rank = np.empty(len(items))
    rank[np.argsort(-demand, kind="stable")] = (np.arange(len(items)) + 0.5) / len(items)
    band = np.array([band_of(node.postal_code, spec.regions) for node in nodes]) if spec.regions else None
    columns: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for first in range(0, len(items), 1_000):
        block = slice(first, min(first + 1_000, len(items)))
        lean = 1.5 - rank[block]  # mean 1: popular SKUs are carried half as often again, the tail half as often
        mask = rng.random((block.stop - first, len(nodes))) < np.minimum(1.0, carry[None, :] * lean[:, None])
        mask &= warehouse[None, :] | (rank[block] <= spec.store_range)[:, None]
        if band is not None:
            mask &= band[None, :] == (np.arange(first, block.stop) % spec.regions)[:, None]
        _only_capable(mask, items[block], warehouse, band, spec.regions, first)
        columns.append(_split_units(spec, mask, demand[block] * spec.coverage, weight, at_least, first))
    at_node = np.concatenate([c[1] for c in columns]).astype(np.int32)
    of_item = np.concatenate([c[0] for c in columns]).astype(np.int32)
    units = np.concatenate([c[2] for c in columns]).astype(np.int64)
    safety = np.where(~warehouse[at_node] & (units >= 4 * spec.safety_units), spec.safety_units, 0)
    return Stock(at_node, of_item, units, safety)


def band_of(postal_code: str, regions: int) -> int:
    """Band of a postal code: with as many shards as regions, the shard that owns it."""
    return int(postal_code[:3]) * regions // 1_000


def _only_capable(
    mask: np.ndarray, items: list[Item], warehouse: np.ndarray, band: np.ndarray | None, regions: int, first: int
) -> None:
    """Handling tags go to warehouses only; a SKU that nobody carries gets one node; a kit has no stock of its own."""
    everywhere = np.flatnonzero(warehouse) if warehouse.any() else np.arange(len(warehouse))
    by_band = [everywhere] if band is None else [everywhere[band[everywhere] == b] for b in range(regions)]
    if not all(len(nodes) for nodes in by_band):
        raise ValueError("a region has no warehouse: ask for more of them")
    for row, item in enumerate(items):
        capable = by_band[(first + row) % len(by_band)]
        if item.tags and warehouse.any():
            mask[row, ~warehouse] = False
        if item.components:
            mask[row] = False
        elif not mask[row].any():
            mask[row, capable[row % len(capable)]] = True


def _split_units(
    spec: NetworkSpec, mask: np.ndarray, wanted: np.ndarray, weight: np.ndarray, at_least: np.ndarray, first: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(item, node, units) of every carried position. Sums are kept exactly (cumulative rounding), but for the least that a node has."""
    row, node = np.nonzero(mask)
    if spec.flat_units:
        return row + first, node, np.full(len(row), spec.flat_units)
    part = mask * weight[None, :]
    running = np.cumsum(part, axis=1)
    total = np.maximum(running[:, -1:], 1e-12)
    edges = np.ceil(running / total * np.ceil(wanted)[:, None] - 1e-9)
    units = np.diff(edges, axis=1, prepend=0.0)
    return row + first, node, np.maximum(at_least[node], units[row, node]).astype(np.int64)
