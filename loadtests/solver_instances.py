"""Batches of orders for the solver benchmark: random places, Zipf baskets, K candidate nodes per order.

    400 SKUs by Zipf (exponent 1), 1-4 lines of 1-2 units; nodes uniform on a 4,000 x 2,500 km map,
    destinations within about 100 km of one of 8 metros, metros by Zipf
    a node carries a SKU with chance 0.4; tight stock 1-3 units, normal stock four times that
    parcel: 450 + 90 per zone (8 zones by distance); line: 35 per line + 20 per unit + weight 1-8 x zone x 2 per unit (minor units)
    K = 8 candidates: the two cheapest nodes of every line, then the nodes with the cheapest parcel + lines

Every order of a batch can be served after its forerunners (who gets the last unit is settled before cost is): the generator
draws until enough are. Money is additive in parcels and lines, so that the peers' models are exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from loadtests.solver_additive import in_turn, node_sets
from solvers.joint_columns import NEVER
from solvers.joint_wire import Ints

CANDIDATES = 8
LEGS_MAX = 3
LINES_MAX = 4
SKUS = 400
METROS = 8


class Batch(NamedTuple):
    """B orders of at most L lines over R = SKUs x nodes rows, K candidates each."""

    lines: Ints
    """[B]"""
    nodes: Ints
    """[B, K] node number of each candidate"""
    fixed: Ints
    """[B, K] money of opening it"""
    money: Ints
    """[B, L, K] money of a line there, NEVER = not offered"""
    row: Ints
    """[B, L, K]"""
    units: Ints
    """[B, L] from one node"""
    stock: Ints
    """[R] free units"""

    @property
    def body(self) -> tuple[Ints, Ints, Ints, Ints, Ints, Ints]:
        """What the kernel functions take: lines, fixed, money, row, units, stock."""
        return self.lines, self.fixed, self.money, self.row, self.units, self.stock


def make_batch(seed: int, *, orders: int, nodes: int, stock_factor: int) -> Batch:
    """One batch. `stock_factor` 1 = tight, 4 = normal. Seeded: the same arguments give the same batch."""
    rng = np.random.default_rng([seed, orders, nodes])
    places = rng.uniform((0, 0), (4000, 2500), (nodes, 2))
    metros = rng.uniform((0, 0), (4000, 2500), (METROS, 2))
    people = 1 / np.arange(1, METROS + 1)
    people /= people.sum()
    stock = rng.integers(1, 4, (SKUS, nodes)) * (rng.random((SKUS, nodes)) < 0.4) * stock_factor
    weight = rng.integers(1, 9, SKUS)
    share = 1 / np.arange(1, SKUS + 1)
    share /= share.sum()
    drawn: list[tuple[Ints, ...]] = []
    sets = node_sets(CANDIDATES, LEGS_MAX)
    while len(drawn) < orders:
        lines = int(rng.integers(1, LINES_MAX + 1))
        skus = rng.choice(SKUS, lines, replace=False, p=share)
        units = np.zeros(LINES_MAX, np.int64)
        units[:lines] = rng.integers(1, 3, lines)
        km = np.hypot(*(places - rng.normal(metros[rng.choice(METROS, p=people)], 100.0)).T)
        zone = 1 + np.digitize(km, (150, 300, 600, 1000, 1400, 1800, 2500))
        fixed = 450 + 90 * zone
        money = np.full((LINES_MAX, nodes), NEVER, np.int64)
        for i, sku in enumerate(skus):
            offered = stock[sku] >= units[i]
            money[i, offered] = 35 + units[i] * (20 + 2 * weight[sku] * zone[offered])
        chosen = _candidates(lines, fixed, money)
        if (money[:lines, chosen].min(axis=1) >= NEVER).any():
            continue
        row = np.zeros((LINES_MAX, CANDIDATES), np.int64)
        row[:lines] = skus[:, None] * nodes + chosen[None, :]
        drawn.append((np.int64(lines), chosen, fixed[chosen], np.ascontiguousarray(money[:, chosen]), row, units))
        if len(drawn) == orders:
            batch = Batch(*(np.array(column, dtype=np.int64) for column in zip(*drawn, strict=True)), stock.ravel())
            pick = np.zeros((orders, LINES_MAX), np.int64)
            served = in_turn(sets, *batch.body, pick) < NEVER
            drawn = [order for order, ok in zip(drawn, served, strict=True) if ok]
    return batch


def _candidates(lines: int, fixed: Ints, money: Ints) -> Ints:
    """Up to two cheapest nodes of every line, then the cheapest by parcel + lines (a missing line costs a parcel)."""
    alone = fixed + np.minimum(money[:lines], int(fixed.max())).sum(axis=0)
    chosen: list[int] = []
    for line in range(lines):
        for node in np.lexsort((np.arange(len(fixed)), money[line] + fixed))[:2].tolist():
            if money[line, node] < NEVER and node not in chosen:
                chosen.append(node)
    for node in np.lexsort((np.arange(len(fixed)), alone)).tolist():
        if len(chosen) < CANDIDATES and node not in chosen:
            chosen.append(node)
    return np.array(sorted(chosen), dtype=np.int64)
