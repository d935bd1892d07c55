"""Batches of orders for the solver benchmark, planned by the production planner.

    a generated network (warehouses and stores in real US places, its carriers' full tariffs), 400 SKUs by Zipf (exponent 1)
    a node carries a SKU with chance 0.4; tight stock 1-3 units, normal stock four times that
    64 orders of 1-4 lines of 1-2 units, destinations by population

Every order of a batch is served whole after its forerunners (who gets the last unit is settled before cost is): orders are drawn
until enough are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from engine.actors.planner import SolverPlanner
from engine.domain.orders import LineRecord
from engine.domain.plan import Plan, PlanRequest
from engine.settings import Settings
from loadtests.in_process import PLACED_AT_MS, LocalShard, commands_of
from loadtests.network import NetworkSpec, Stock, build_network
from loadtests.traffic import Order

SKUS = 400
LINES_MAX = 4
UNITS_MAX = 2
CARRIED = 0.4
STOCK_UNITS_MAX = 3
LEGS_MAX = 3
_ROUNDS = 50
"""Draws after which a network is given up: it could not serve so many orders."""


class Batch(NamedTuple):
    """Orders that are all served in full, and the planner of the shard that has the stock. Planning changes nothing."""

    planner: SolverPlanner
    requests: list[PlanRequest]

    def plan(self) -> list[Plan]:
        """The planner's answer; components wait in it until they are concluded with `improved`."""
        return self.planner.plan(self.requests, now_ms=PLACED_AT_MS)


def make_batch(seed: int, *, orders: int, nodes: int, stock_factor: int) -> Batch:
    """One batch. `stock_factor` 1 = tight, 4 = normal. Seeded: the same arguments give the same batch.

    Raises ValueError: the stock does not serve so many orders.
    """
    rng = np.random.default_rng([seed, nodes])
    warehouses = max(4, nodes // 5)
    spec = NetworkSpec(seed=seed, warehouses=warehouses, stores=nodes - warehouses, skus=SKUS, handling_share=0.0)
    network = build_network(spec)
    node, item = np.nonzero(rng.random((nodes, SKUS)) < CARRIED)
    units = rng.integers(1, STOCK_UNITS_MAX + 1, len(node)) * stock_factor
    network = replace(network, stock=Stock(node, item, units, np.zeros_like(units)))
    planner = SolverPlanner(LocalShard(network).core.state, Settings())
    weight = 1 / np.arange(1, SKUS + 1)
    share = weight / weight.sum()
    kept: list[PlanRequest] = []
    for round_no in range(_ROUNDS):
        drawn = []
        for place in network.places.draw(rng, orders - len(kept)).tolist():
            items = rng.choice(SKUS, int(rng.integers(1, LINES_MAX + 1)), replace=False, p=share).tolist()
            drawn.append(Order(place, [(one, int(rng.integers(1, UNITS_MAX + 1))) for one in items]))
        for order, command in zip(drawn, commands_of(network, drawn, prefix=f"s{round_no}-"), strict=True):
            records = [LineRecord(str(n), one, many, 0) for n, (one, many) in enumerate(order.lines, 1)]
            kept.append(PlanRequest(command.order, records, 0, (), LEGS_MAX))
        batch = Batch(planner, kept)
        plans = batch.plan()
        forget(batch, plans)
        kept = [request for request, plan in zip(kept, plans, strict=True) if plan.legs and not plan.unfilled]
        if len(kept) == orders:
            return Batch(planner, kept)
    raise ValueError(f"{nodes} nodes serve only {len(kept)} of {orders} orders")


def components(plans: list[Plan]) -> dict[int, list[int]]:
    """Positions in the batch of the orders of each component."""
    found: dict[int, list[int]] = {}
    for n, plan in enumerate(plans):
        if plan.component:
            found.setdefault(plan.component, []).append(n)
    return found


def forget(batch: Batch, plans: list[Plan]) -> None:
    """Conclude all components with their greedy plans."""
    for component in components(plans):
        batch.planner.improved(component, None)
