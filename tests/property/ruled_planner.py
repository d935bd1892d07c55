"""The planner with rules and prices of positions: what the kernel reads, and nothing of the engine fills yet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random
from unittest.mock import patch

import numpy as np

from engine.actors import planner_network
from engine.actors.planner import SolverPlanner
from engine.actors.planner_input import Flat
from engine.domain.state import ShardState
from engine.settings import Settings
from solvers import layout as at
from solvers.network import Compiled, PolicySpec
from tests.property.solvers_reference import Rules


class RuledPlanner(SolverPlanner):
    """Prices by (item, node); the requests of a batch have the rules in turn."""

    def __init__(
        self, state: ShardState, settings: Settings, rules: Sequence[Rules], prices: dict[tuple[int, int], int]
    ) -> None:
        super().__init__(state, settings)
        self._policies = [
            PolicySpec(each.node_minor, each.banned, each.max_legs, each.leg_value_minor, each.weight_bp)
            for each in rules
        ]
        if prices:
            self._prices = np.zeros(state.positions.size, np.int32)
            for (item, node), minor in prices.items():
                self._prices[state.positions.find(item, node)] = minor

    def _refresh_network(self) -> None:
        with patch.object(planner_network, "Compiled", partial(Compiled, policies=self._policies)):
            super()._refresh_network()

    def _run(self, flat: Flat) -> tuple[at.Batch, int]:
        ends = [*flat.first_part[1:], len(flat.parts) // at.ORDER_COLUMNS]
        for n, (first, end) in enumerate(zip(flat.first_part, ends, strict=True)):
            for part in range(first, end):
                flat.parts[part * at.ORDER_COLUMNS + at.O_POLICY] = n % len(self._policies)
        return super()._run(flat)


def money_rules(rng: Random, nodes: int) -> Rules:
    """Rules that bounds on costs still hold for: bans and money of nodes."""
    banned = frozenset(n for n in range(nodes) if rng.random() < 0.1)
    return Rules(banned, {n: rng.choice([-700, -40, 0, 250, 3_000]) for n in range(nodes) if rng.random() < 0.5})


def all_rules(rng: Random, nodes: int) -> Rules:
    rules = money_rules(rng, nodes)
    if rng.random() < 0.2:
        return rules
    return rules._replace(
        max_legs=rng.choice([16, 16, 16, 2, 1]),
        leg_value_minor=rng.choice([0, 0, 1_200, 5_000]),
        weight_bp=tuple(rng.choice([10_000, 10_000, 0, 3_333, 25_000]) for _ in range(7)),
    )


def position_prices(rng: Random, keys: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Of some positions; none at all in every third world."""
    if rng.random() < 0.33:
        return {}
    return {key: rng.choice([1, 90, 400, 2_500]) for key in keys if rng.random() < 0.6}
