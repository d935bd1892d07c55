"""The story of the demo: seven scenes on a running engine, each with its numbers, each checked.

Scenes are in `story_routing` (who ships, and why) and `story_promises` (what must never happen). They know neither terminal nor
processes: a `Teller` shows what they say, a `Stage` holds the engine's client and what earlier scenes left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import quartermaster_client as qm
from engine.domain.config import Node
from loadtests.client_orders import order_of
from loadtests.network import Network, NetworkSpec, build_network
from loadtests.places import distance_km
from loadtests.shadow import Pricer, Shadows
from loadtests.traffic import Order, Traffic, TrafficSpec

SKUS = 2_000
STOCKED_ORDERS = 20_000
"""Shelves are sized for this many orders: not every store has everything, and nothing runs out in the story."""


class Teller(Protocol):
    """Shows the story. Lines are wrapped by whoever shows them; tables are made to fit 78 columns."""

    def scene(self, title: str) -> None: ...

    def say(self, text: str) -> None: ...

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]], *, strong: int = -1) -> None:
        """Columns after the first that hold figures are set right. `strong` = a row to stress."""

    def check(self, held: bool, text: str) -> None:
        """A fact that the scene claims. A scene holds if all its facts do."""


class Audited(NamedTuple):
    """What an audit found."""

    drift: int
    lost: int
    looked_for: int
    not_checked: tuple[str, ...] = ()


@dataclass
class Setting:
    """What the engine is filled with, and the shadow ledgers beside it."""

    network: Network
    orders: list[Order]
    shadows: Shadows
    pricer: Pricer


def prepare(*, seed: int, node_count: int, orders: int) -> Setting:
    """Some seconds of work: the network, its orders, and a planner that prices what other rules choose."""
    warehouses = max(1, node_count // 6)
    spec = NetworkSpec(
        seed=seed,
        warehouses=warehouses,
        stores=node_count - warehouses,
        skus=SKUS,
        orders=STOCKED_ORDERS,
        units_per_order=3.1,
        coverage=1.5,
        warehouse_carry=0.7,
        store_carry=min(0.3, max(0.05, 18 / node_count)),
    )
    network = build_network(spec)
    drawn = Traffic(network, TrafficSpec(seed=seed, marketplace=0.15)).draw(orders)
    return Setting(network, drawn, Shadows(network), Pricer(network))


@dataclass
class Stage:
    """What scenes work with."""

    client: qm.AsyncClient
    url: str
    api_key: str
    transport: qm.AsyncTransport
    setting: Setting
    teller: Teller
    run: str
    """Prefix of all ids of this telling."""
    shoppers: int
    load_per_s: float
    shard_pids: Callable[[], Awaitable[dict[str, int]]]
    """Process id by shard name, as of now; 0 while one does not answer."""
    audit: Callable[[set[str]], Awaitable[Audited]]
    """The journal against the live shards; looks for the given order ids."""
    acknowledged: set[str] = field(default_factory=set)
    """Every order that the engine said yes to."""
    made: list[tuple[Order, qm.Allocation]] = field(default_factory=list)
    """Orders of the first scene, as the engine allocated them."""

    def __post_init__(self) -> None:
        self._nodes = {node.node_id: node for node in self.setting.network.nodes}

    def node(self, node_id: str) -> Node:
        return self._nodes[node_id]

    def named(self, node_id: str) -> str:
        """A node as people know it."""
        node = self._nodes[node_id]
        return f"{node.name}, {node.region} ({node_id})"

    def nearest(self, order: Order, *, kind: str | None = None) -> Node:
        """The node nearest to an order's destination."""
        nodes = self.setting.network.nodes
        by_distance = self.setting.shadows.by_distance(order)
        return next(nodes[n] for n in by_distance if kind is None or nodes[n].kind == kind)

    def km(self, order: Order, node_id: str) -> int:
        places = self.setting.network.places
        number = next(n for n, node in enumerate(self.setting.network.nodes) if node.node_id == node_id)
        row = places.unit[order.place : order.place + 1]
        return round(float(distance_km(row, self.setting.shadows.node_unit[number : number + 1])[0, 0]))

    def place(self, order: Order) -> str:
        place = self.setting.network.places.rows[order.place]
        return f"{place.city}, {place.region} {place.postal_code}"

    def order(self, drawn: Order, order_id: str) -> qm.Order:
        """A drawn order as the storefront sends it."""
        return order_of(self.setting.network, drawn, f"{self.run}-{order_id}")

    def took(self, made: qm.Allocation) -> qm.Allocation:
        """Remember that the engine said yes."""
        self.acknowledged.add(made.order_id)
        return made


Scene = Callable[[Stage], Awaitable[None]]


def money(minor: float) -> str:
    sign = "-" if minor < 0 else ""
    return f"{sign}${abs(minor) / 100:,.2f}"


def share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
