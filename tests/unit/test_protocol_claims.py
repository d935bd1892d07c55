"""Colliding orders at the solver: claims, answers, deadlines, and the orders that wait for their end."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.domain.commands import AdjustStock, GetAvailability, GetStatus, StockMove
from engine.domain.replies import OrderView, Problem
from engine.protocol.claims import WAIT_MS
from tests.builders import a_network, a_place, an_order
from tests.sim.greedy_planner import CollidingPlanner
from tests.sim.lone_core import LoneCore
from tests.unit.test_domain_orders import free, problem


def a_shop(stock: dict[str, int], **options: Any) -> LoneCore:
    """Units of SKU-0 by node; a planner whose "solver" prefers high nodes."""
    options.setdefault("solver_in_flight_max", 1)
    shop = LoneCore(a_network(nodes=3), make_planner=CollidingPlanner, solver_deadline_ms=40, **options)
    for node, units in stock.items():
        shop.ask(AdjustStock(node, (StockMove("SKU-0", "received", units),)))
    return shop


def two_that_collide(shop: LoneCore, **fields: Any) -> list[int]:
    corrs = [shop.send(a_place(an_order(name, {"SKU-0": 1}, **fields), key=n + 1)) for n, name in enumerate("AB")]
    shop.settle()
    return corrs


def nodes_of(shop: LoneCore, corr: int) -> list[str]:
    (view,) = shop.replies[corr]
    assert isinstance(view, OrderView), view
    return [leg.node_id for leg in view.legs]


def test_colliding_orders_are_claimed_and_placed_as_the_solver_says() -> None:
    shop = a_shop({"N-0": 5, "N-2": 5})
    corrs = two_that_collide(shop)
    assert not any(corr in shop.replies for corr in corrs)
    (solve,) = shop.solves
    assert (solve.deadline_ms, solve.problem) == (shop.now_ms + 40, b"problem 1")
    assert free(shop, "SKU-0", "N-0") == 3, "claimed units count against ATP"
    assert shop.ask(GetAvailability(("SKU-0",), "N-0")).positions[0].available_to_promise == 3
    entries = len(shop.entries)
    shop.core.solved(solve.component, b"better", now_ms=shop.now_ms)
    shop.settle()
    assert [nodes_of(shop, corr) for corr in corrs] == [["N-2"], ["N-2"]]
    assert len(shop.entries) == entries + 1
    assert (free(shop, "SKU-0", "N-0"), free(shop, "SKU-0", "N-2")) == (5, 3)


def test_no_answer_by_the_deadline_means_the_greedy_plans() -> None:
    shop = a_shop({"N-0": 5, "N-2": 5})
    corrs = two_that_collide(shop)
    shop.pass_time(39)
    assert corrs[0] not in shop.replies
    shop.pass_time(1)
    assert [nodes_of(shop, corr) for corr in corrs] == [["N-0"], ["N-0"]]
    assert shop.core.counts["components_unanswered"] == 1
    shop.core.solved(shop.solves[0].component, b"too late", now_ms=shop.now_ms)
    shop.settle()
    assert shop.ask(GetStatus()).facts["claims_in_flight"] == 0


def test_an_answer_that_no_longer_fits_means_the_greedy_plans() -> None:
    shop = a_shop({"N-0": 5, "N-2": 2})
    corrs = two_that_collide(shop)
    shop.ask(AdjustStock("N-2", (StockMove("SKU-0", "damaged", 1),)))
    shop.core.solved(shop.solves[0].component, b"better", now_ms=shop.now_ms)
    shop.settle()
    assert [nodes_of(shop, corr) for corr in corrs] == [["N-0"], ["N-0"]]
    assert shop.core.counts["components_overtaken"] == 1


def test_claimed_units_that_a_fact_took_are_planned_again_and_never_oversold() -> None:
    shop = a_shop({"N-0": 2})
    corrs = two_that_collide(shop)
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "damaged", 1),)))
    assert not shop.state.short_positions, "claims are not promises"
    shop.core.solved(shop.solves[0].component, None, now_ms=shop.now_ms)
    shop.settle()
    replies = [shop.replies[corr][0] for corr in corrs]
    assert [type(reply) for reply in replies] == [OrderView, Problem]


def test_without_room_at_the_solver_greedy_plans_are_placed_at_once() -> None:
    shop = a_shop({"N-0": 9, "N-2": 9}, solver_in_flight_max=0)
    corrs = two_that_collide(shop)
    assert [nodes_of(shop, corr) for corr in corrs] == [["N-0"], ["N-0"]]
    assert not shop.solves
    busy = a_shop({"N-0": 9, "N-2": 9})
    two_that_collide(busy)
    more = [busy.send(a_place(an_order(name, {"SKU-0": 1}))) for name in "CD"]
    busy.settle()
    assert [nodes_of(busy, corr) for corr in more] == [["N-0"], ["N-0"]]


def test_an_order_short_only_for_a_claim_waits_for_its_end() -> None:
    shop = a_shop({"N-0": 2, "N-2": 1})
    two_that_collide(shop)  # claims both units of N-0; the solver's plans use N-2 and N-0
    waiting = shop.send(a_place(an_order("C", {"SKU-0": 2})))
    shop.settle()
    assert waiting not in shop.replies
    assert shop.ask(GetStatus()).facts["count_waited_for_claim"] == 1
    shop.core.solved(shop.solves[0].component, None, now_ms=shop.now_ms)
    shop.settle()
    assert problem(shop.replies[waiting][0])[0] == "out_of_stock"
    shop2 = a_shop({"N-0": 2, "N-2": 1})
    corrs = two_that_collide(shop2)
    waiting = shop2.send(a_place(an_order("C", {"SKU-0": 2})))
    shop2.settle()
    shop2.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 1),)))
    shop2.core.solved(shop2.solves[0].component, None, now_ms=shop2.now_ms)
    shop2.settle()
    assert isinstance(shop2.replies[waiting][0], OrderView)
    assert all(isinstance(shop2.replies[corr][0], OrderView) for corr in corrs)


def test_who_joined_a_brief_order_that_waited_is_answered_wholly_and_so_is_its_asker() -> None:
    shop = a_shop({"N-0": 2, "N-2": 1})
    two_that_collide(shop)
    command = a_place(an_order("C", {"SKU-0": 2}), key=9, brief=True)
    asked, joined = shop.send(command), shop.send(msgspec.structs.replace(command, brief=False))
    shop.settle()
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 1),)))
    shop.core.solved(shop.solves[0].component, None, now_ms=shop.now_ms)
    shop.settle()
    (view,) = shop.replies[asked]
    assert isinstance(view, OrderView) and not view.replayed
    assert shop.replies[joined] == [view]


def test_waiting_for_claims_has_an_end() -> None:
    shop = a_shop({"N-0": 2})
    component = 0
    two_that_collide(shop)
    waiting = shop.send(a_place(an_order("C", {"SKU-0": 1})))
    shop.settle()
    shop.core.solver_deadline_ms = 10**6  # a solver that never answers, had the core no deadline of its own
    del component
    shop.pass_time(WAIT_MS)
    assert problem(shop.replies[waiting][0])[0] == "out_of_stock"


def test_a_repeat_of_an_order_at_the_solver_waits_with_it() -> None:
    shop = a_shop({"N-0": 5, "N-2": 5})
    corrs = two_that_collide(shop)
    again = shop.send(a_place(an_order("A", {"SKU-0": 1}), key=1))
    other_body = shop.send(a_place(an_order("A", {"SKU-0": 1}), key=1, fingerprint=999))
    same_id = shop.send(a_place(an_order("B", {"SKU-0": 1}), key=9))
    shop.settle()
    assert problem(shop.replies[other_body][0])[0] == "key_reused"
    assert problem(shop.replies[same_id][0])[0] == "duplicate_order"
    assert again not in shop.replies
    shop.core.solved(shop.solves[0].component, b"better", now_ms=shop.now_ms)
    shop.settle()
    assert shop.replies[again][0] == shop.replies[corrs[0]][0]


def test_claims_die_with_the_process() -> None:
    shop = a_shop({"N-0": 5, "N-2": 5})
    two_that_collide(shop)
    again = shop.recovered_from({part: shop.core.pack_part(part) for part in shop.core.dirty_parts()})
    assert not again.state.positions.claimed.any()
    assert again.state.positions.free(again.state.positions.find(0, 0)) == 5
