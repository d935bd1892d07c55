"""Shadow ledgers: the same orders under other routing rules, on copies of the same stock, priced by the same tariff.

A rule says which node gives which units (`policies`). What that costs is asked of the engine's own planner: the pricer shows it
exactly those units and no others, so that all it has left to choose is ship day and carrier, as it does for its own plans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from engine.actors.planner import SolverPlanner
from engine.domain.decide_orders import prepare
from engine.domain.plan import PlanRequest
from engine.domain.replies import Problem
from engine.settings import Settings
from loadtests.in_process import LocalShard, commands_of
from loadtests.network import Network
from loadtests.places import distance_km, unit_vectors
from loadtests.policies import Take, fewest_nodes, walk
from loadtests.traffic import Order
from solvers.calendar import add_business_days

DAY_MS = 86_400_000
LEGS_MAX = 16
"""More legs than this no rule is allowed: such an order counts as not filled."""
_NOON_MS = DAY_MS // 2


class Priced(NamedTuple):
    """Money in minor units: expected cash, and what days late and days in transit are worth to the channel."""

    cash_minor: int
    service_minor: int
    legs: int
    late: bool


class Pricer:
    """What an order costs when given nodes give given units."""

    def __init__(self, network: Network) -> None:
        self._network = network
        shard = LocalShard(network)
        self._state = shard.core.state
        self._planner = SolverPlanner(self._state, Settings.model_validate({}))
        self._positions = self._state.positions
        self._positions.on_hand[:] = 0
        catalog = self._state.catalog
        self._item = [catalog.item_of[item.sku] for item in network.items]
        self._node = [catalog.node_of[node.node_id] for node in network.nodes]

    def price(self, order: Order, takes: Sequence[Take], *, now_ms: int) -> Priced:
        """Raises ValueError where the planner cannot do what the takes say."""
        rows: list[int] = []
        on_hand = self._positions.v_on_hand
        for take in takes:
            row = self._positions.find(self._item[order.lines[take.line][0]], self._node[take.node])
            if row < 0:
                raise ValueError(f"there is no position for {take}")
            on_hand[row] += take.units
            rows.append(row)
        try:
            (plan,) = self._planner.plan([self._request(order)], now_ms=now_ms)
        finally:
            for row in rows:
                on_hand[row] = 0
        nodes = {take.node for take in takes}
        if plan.unfilled or len(plan.legs) != len(nodes):
            raise ValueError(f"{len(nodes)} nodes were to ship, the planner found {len(plan.legs)}: {plan.unfilled}")
        promised = self._promised_day(order, now_ms)
        # The end of a local day anywhere in the country is before noon UTC of the next.
        late = any((leg.deliver_by_ms - _NOON_MS) // DAY_MS > promised for leg in plan.legs)
        return Priced(plan.money_minor[0], plan.money_minor[1], len(plan.legs), late)

    def _request(self, order: Order) -> PlanRequest:
        (command,) = commands_of(self._network, [order], prefix="shadow-")
        found = prepare(self._state, self._planner, command)
        if isinstance(found, Problem):
            raise ValueError(f"{found.code}: {found.errors}")
        return replace(found.request, max_legs=LEGS_MAX)

    def _promised_day(self, order: Order, now_ms: int) -> int:
        channel = next(one for one in self._network.channels if one.channel_id == order.channel)
        return int(add_business_days(now_ms // DAY_MS, channel.promise_days[order.service]))


@dataclass
class Totals:
    """Sums over orders. Money in minor units."""

    orders: int = 0
    cash_minor: int = 0
    service_minor: int = 0
    legs: int = 0
    split: int = 0
    late: int = 0

    def add(self, priced: Priced) -> None:
        self.orders += 1
        self.cash_minor += priced.cash_minor
        self.service_minor += priced.service_minor
        self.legs += priced.legs
        self.split += priced.legs > 1
        self.late += priced.late

    @property
    def score_minor(self) -> int:
        return self.cash_minor + self.service_minor


Rule = Callable[[Sequence[int], np.ndarray, np.ndarray], list[Take] | None]


@dataclass
class Ledger:
    """One rule's own copy of the stock, and what became of each order: its takes, or None where it could not be filled."""

    name: str
    units: np.ndarray
    """int64[items, nodes]: what is left."""
    taken: list[list[Take] | None] = field(default_factory=list)

    def take(self, order: Order, takes: list[Take] | None) -> None:
        """Book what a rule chose. Raises ValueError where it is not there: the ledger cannot oversell."""
        if takes is not None and len({take.node for take in takes}) > LEGS_MAX:
            takes = None
        for take in takes or ():
            item = order.lines[take.line][0]
            if self.units[item, take.node] < take.units:
                raise ValueError(f"{self.name} takes {take.units} of {self.units[item, take.node]} units")
            self.units[item, take.node] -= take.units
        self.taken.append(takes)


class Shadows:
    """Three rules beside each other, each on its own copy of a network's stock."""

    def __init__(self, network: Network) -> None:
        stock = network.stock
        self._network = network
        self._units = np.zeros((len(network.items), len(network.nodes)), np.int64)
        np.add.at(self._units, (stock.item, stock.node), stock.units - stock.safety)
        self.node_unit = unit_vectors(
            np.array([n.lat for n in network.nodes]), np.array([n.lon for n in network.nodes])
        )
        on_shelf = np.bincount(stock.node, weights=stock.units, minlength=len(network.nodes))
        stores = np.array([node.kind != "warehouse" for node in network.nodes])
        self._fixed = np.lexsort((-on_shelf, stores)).tolist()
        """Warehouses first, the fullest first: how a priority list is usually made."""
        self.ledgers = [self.ledger("nearest"), self.ledger("priority list"), self.ledger("fewest nodes")]

    def ledger(self, name: str) -> Ledger:
        """An untouched copy of the stock."""
        return Ledger(name, self._units.copy())

    def by_distance(self, order: Order) -> list[int]:
        """Node indexes from the destination outwards."""
        km = distance_km(self._network.places.unit[order.place : order.place + 1], self.node_unit)[0]
        nodes: list[int] = np.argsort(km, kind="stable").tolist()
        return nodes

    def play(self, orders: Sequence[Order]) -> None:
        """Route the orders, in turn, by every rule."""
        nearest, fixed, fewest = self.ledgers
        for order in orders:
            items = np.array([item for item, _ in order.lines])
            need = np.array([units for _, units in order.lines])
            near = self.by_distance(order)
            nearest.take(order, walk(near, need, nearest.units[items]))
            fixed.take(order, walk(self._fixed, need, fixed.units[items]))
            fewest.take(order, fewest_nodes(near, need, fewest.units[items]))


def compare(
    pricer: Pricer, orders: Sequence[Order], ledgers: Sequence[Ledger], *, now_ms: int
) -> tuple[dict[str, Totals], list[int]]:
    """(totals by ledger, which orders they are of): those that every ledger filled, so that nobody looks cheap by refusing."""
    filled = [n for n in range(len(orders)) if all(ledger.taken[n] is not None for ledger in ledgers)]
    out = {ledger.name: Totals() for ledger in ledgers}
    for ledger in ledgers:
        for n in filled:
            takes = ledger.taken[n]
            assert takes is not None
            out[ledger.name].add(pricer.price(orders[n], takes, now_ms=now_ms))
    return out, filled
