"""A planner that was prepared has built everything before the first order, and answers it as any other would."""

from __future__ import annotations

import pytest

from engine.actors import planner as planners
from engine.actors.planner import SolverPlanner
from engine.domain.state import ShardState
from engine.settings import Settings
from tests.builders import NOW_MS, a_catalog, a_channel, a_node, as_docs
from tests.unit.test_planner_orders import a_request, a_state


def test_the_first_order_after_a_change_finds_its_tables_built(monkeypatch: pytest.MonkeyPatch) -> None:
    state = a_state({(0, 1): 5, (1, 1): 5})
    prepared, plain = SolverPlanner(state, Settings()), SolverPlanner(state, Settings())
    prepared.prepare(now_ms=NOW_MS)
    state.catalog.apply(as_docs([a_channel(name="renamed")], first_version=1_000), 1_000)
    prepared.prepare(now_ms=NOW_MS)
    order = a_request({0: 1, 1: 2})
    (expected,) = plain.plan([order], now_ms=NOW_MS)
    monkeypatch.setattr(planners, "NetworkView", lambda catalog: pytest.fail("built when the order was there"))
    (plan,) = prepared.plan([order], now_ms=NOW_MS)
    assert plan.legs == expected.legs and plan.legs


@pytest.mark.parametrize("documents", [[], [a_channel()], [a_node()]], ids=["nothing", "no items", "no channel"])
def test_an_unfinished_configuration_can_be_prepared(documents: list[object]) -> None:
    planner = SolverPlanner(ShardState(a_catalog(documents=documents)), Settings())
    planner.prepare(now_ms=NOW_MS)
    assert planner.plan([], now_ms=NOW_MS) == [] and planner._network_version >= 0
