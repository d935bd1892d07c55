"""Released legs that nobody accepts: they go to the next node, never to the same one; on one shard and over several."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from engine.domain.commands import ActOnLeg, AdjustStock, CancelOrder, EditOrder, GetOrder, StockMove
from engine.domain.replies import LegView, OrderView
from engine.protocol.acceptance import AGAIN_MS, GRACE_MS
from tests.builders import a_destination, a_node, a_place, an_order
from tests.sim.lone_core import LoneCore
from tests.unit.test_edits import a_cluster, check, live
from tests.unit.test_resourcing import a_shop, place, receive, switch

DEADLINE_S = 600
NODES = [a_node(f"N-{n}", postal_code="01001", lat=40.0 + n, acceptance_deadline_s=DEADLINE_S) for n in range(3)]


def act(shop: LoneCore, view: OrderView, leg_no: int, action: str, **fields: Any) -> Any:
    return shop.ask(ActOnLeg(view.slot, view.order_no, leg_no, action, **fields))


def now(shop: LoneCore, view: OrderView) -> OrderView:
    found = shop.ask(GetOrder(view.slot, view.order_no))
    assert isinstance(found, OrderView)
    return found


def legs(view: OrderView) -> list[tuple[str, str]]:
    return [(leg.node_id, leg.state) for leg in view.legs]


def a_released_order(stock: dict[str, dict[str, int]], units: int = 2) -> tuple[LoneCore, OrderView, LegView]:
    shop = a_shop(stock, nodes=NODES)
    order = place(shop, "A", {"SKU-0": units})
    (leg,) = order.legs
    released = act(shop, order, leg.leg_no, "release")
    assert released.legs[0].accept_by_ms == (shop.state.time_ms + 999) // 1_000 * 1_000 + DEADLINE_S * 1_000
    return shop, released, released.legs[0]


def test_a_leg_that_is_not_accepted_goes_to_the_next_node_and_to_the_next() -> None:
    shop, order, first = a_released_order({f"N-{n}": {"SKU-0": 2} for n in range(3)})
    shop.pass_time(first.accept_by_ms - shop.now_ms - 1)
    assert legs(now(shop, order)) == [(first.node_id, "released")]
    shop.pass_time(1)
    moved = now(shop, order)
    assert [(leg.state, leg.end_reason) for leg in moved.legs] == [("rejected", "not_accepted"), ("allocated", "")]
    assert moved.legs[1].node_id != first.node_id
    assert moved.decision == order.decision + 1
    act(shop, moved, 2, "release")
    shop.pass_time(DEADLINE_S * 1_000 + 1_000)
    again = now(shop, order)
    assert {leg.node_id for leg in again.legs} == {"N-0", "N-1", "N-2"}
    assert [leg.state for leg in again.legs] == ["rejected", "rejected", "allocated"]
    shop.check_recovery({})


@pytest.mark.parametrize("action", ["accept", "pick", "ship"])
def test_a_leg_that_is_taken_up_in_time_stays(action: str) -> None:
    shop, order, leg = a_released_order({f"N-{n}": {"SKU-0": 2} for n in range(3)})
    shop.pass_time(DEADLINE_S * 1_000 - 5_000)
    taken = act(shop, order, leg.leg_no, action)
    assert taken.legs[0].accept_by_ms == 0
    shop.pass_time(DEADLINE_S * 1_000)
    assert legs(now(shop, order)) == legs(taken)


def test_a_leg_that_is_not_accepted_is_planned_for_the_address_that_its_order_has_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop, order, first = a_released_order({f"N-{n}": {"SKU-0": 2} for n in range(2)})
    shop.ask(EditOrder(order.slot, order.order_no, ship_to=a_destination("90210")))
    asked: list[str] = []
    plan = shop.core.planner.plan

    def spy(requests: Any, *, now_ms: int) -> Any:
        asked.extend(request.order.ship_to.postal_code for request in requests)
        return plan(requests, now_ms=now_ms)

    monkeypatch.setattr(shop.core.planner, "plan", spy)
    shop.pass_time(first.accept_by_ms - shop.now_ms)
    moved = now(shop, order)
    assert (moved.legs[1].state, moved.legs[1].ship_to) == ("allocated", None), "it goes to the order's address"
    assert asked == ["90210"]


def test_where_nobody_else_has_it_the_leg_waits_and_can_still_be_accepted_or_moved() -> None:
    shop, order, leg = a_released_order({"N-0": {"SKU-0": 2}})
    shop.pass_time(DEADLINE_S * 1_000 + 1_000)
    waiting = now(shop, order)
    assert (legs(waiting), waiting.legs[0].overdue) == ([("N-0", "released")], True)
    entries = len(shop.entries)
    shop.pass_time(AGAIN_MS)
    assert len(shop.entries) == entries, "it is marked once"
    receive(shop, "N-1", {"SKU-0": 1})
    shop.pass_time(2 * AGAIN_MS)
    assert legs(now(shop, order)) == [("N-0", "released")], "all of it or nothing"
    receive(shop, "N-2", {"SKU-0": 2})
    shop.pass_time(15 * 60_000)
    moved = now(shop, order)
    assert (moved.legs[0].state, sum(live(moved).values())) == ("rejected", 2)
    assert "N-0" not in live(moved)
    late, order, leg = a_released_order({"N-0": {"SKU-0": 2}})
    late.pass_time(DEADLINE_S * 1_000 + 1_000)
    accepted = act(late, order, leg.leg_no, "accept")
    assert (accepted.legs[0].state, accepted.legs[0].overdue) == ("accepted", False)
    late.check_recovery({})


def test_the_deadline_is_what_the_record_says_whatever_the_node_says_later() -> None:
    shop, order, leg = a_released_order({"N-0": {"SKU-0": 2}, "N-1": {"SKU-0": 2}})
    nodes = {node.node_id: n for n, node in enumerate(NODES)}
    switch(shop.core, nodes[leg.node_id], replace(NODES[nodes[leg.node_id]], acceptance_deadline_s=None))
    shop.pass_time(DEADLINE_S * 1_000 + 1_000)
    assert now(shop, order).legs[0].state == "rejected"


def test_after_a_recovery_nodes_have_a_grace_period() -> None:
    shop, order, leg = a_released_order({f"N-{n}": {"SKU-0": 2} for n in range(3)})
    shop.now_ms += DEADLINE_S * 1_000 * 3
    shop.core = shop.recovered_from({})
    shop.settle()
    assert legs(now(shop, order)) == [(leg.node_id, "released")]
    shop.pass_time(GRACE_MS)
    assert [state for _, state in legs(now(shop, order))] == ["rejected", "allocated"]


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_legs_move_between_shards_and_the_books_stay_straight(shards: int) -> None:
    cluster = a_cluster(shards, units=3)
    for core in cluster.cores:
        core.catalog.nodes = [replace(node, acceptance_deadline_s=60) if node else None for node in core.catalog.nodes]
    placed = cluster.ask(0, a_place(an_order(lines={"SKU-0": 5}, max_legs=4)))
    assert isinstance(placed, OrderView), placed
    at = (placed.slot, placed.order_no)
    for leg in placed.legs:
        cluster.ask(0, ActOnLeg(*at, leg.leg_no, "release"))
    first, second = placed.legs
    cluster.ask(0, ActOnLeg(*at, second.leg_no, "accept"))
    cluster.now_ms += 61_000
    cluster.settle()
    moved = cluster.ask(0, GetOrder(*at))
    assert isinstance(moved, OrderView)
    assert moved.legs[0].state == "rejected" and moved.legs[1].state == "accepted"
    assert first.node_id not in live(moved) and sum(live(moved).values()) == 5
    cluster.now_ms += 3_000
    cluster.settle()
    check(cluster)
    cluster.ask(0, CancelOrder(*at))
    cluster.now_ms += 3_000
    cluster.settle()
    check(cluster)


@pytest.mark.parametrize("shards", [2, 4])
def test_an_acceptance_that_comes_while_others_are_asked_wins(shards: int) -> None:
    cluster = a_cluster(shards, units=3)
    for core in cluster.cores:
        core.catalog.nodes = [replace(node, acceptance_deadline_s=60) if node else None for node in core.catalog.nodes]
    cluster.ask(0, AdjustStock("N-0", (StockMove("SKU-0", "received", 2),)))
    placed = cluster.ask(0, a_place(an_order(lines={"SKU-0": 5})))
    assert isinstance(placed, OrderView) and [leg.node_id for leg in placed.legs] == ["N-0"]
    at = (placed.slot, placed.order_no)
    cluster.ask(0, ActOnLeg(*at, 1, "release"))
    cluster.now_ms += 61_000
    cluster.step()
    assert cluster.cores[0].two_phase.pending_count == 1, "the other shards are asked"
    cluster.send(0, ActOnLeg(*at, 1, "accept"))
    cluster.settle()
    cluster.now_ms += 3_000
    cluster.settle()
    found = cluster.ask(0, GetOrder(*at))
    assert isinstance(found, OrderView)
    assert [(leg.node_id, leg.state) for leg in found.legs] == [("N-0", "accepted")]
    check(cluster)
