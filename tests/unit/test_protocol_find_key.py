"""FindKey: what a key made in a slot, in all stages of the order under it."""

from __future__ import annotations

import msgspec

from engine.domain.commands import AdjustStock, FindKey, StockMove
from engine.domain.replies import Done, OrderView, TryReply
from tests.builders import NOW_MS, a_network, a_place, an_order
from tests.sim.lone_core import LoneCore
from tests.unit.test_domain_orders import problem
from tests.unit.test_protocol_two_phase import Home


def test_a_key_that_made_an_order_gives_the_first_answer_or_says_the_body_is_another() -> None:
    lone = LoneCore(a_network())
    lone.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 5),)))
    command = a_place(key=5)
    view = lone.ask(command)
    again = lone.ask(FindKey("US100", 5, command.fingerprint))
    assert isinstance(again, OrderView) and again.replayed and again.order_no == view.order_no
    assert problem(lone.ask(FindKey("US100", 5, 99)))[0] == "key_reused"
    assert lone.ask(FindKey("US100", 6, 99)) == Done(0)
    assert lone.ask(FindKey("US101", 5, 99)) == Done(0)


def test_a_key_older_than_those_that_are_left_may_have_made_one() -> None:
    lone = LoneCore(a_network())
    lone.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 5),)))
    lone.ask(a_place(key=5))
    lone.state.slots["US100"].dedupe.cutoff_ms = NOW_MS
    assert problem(lone.ask(FindKey("US100", 6, 99, NOW_MS - 1)))[0] == "key_too_old"
    assert problem(lone.ask(FindKey("US100", 5, 99, NOW_MS - 1)))[0] == "key_reused", "it is known"
    assert lone.ask(FindKey("US100", 6, 99, NOW_MS)) == lone.ask(FindKey("US100", 6, 99)) == Done(0)


def test_it_is_decided_after_the_orders_that_came_before_it() -> None:
    lone = LoneCore(a_network())
    lone.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 5),)))
    lone.send(a_place(key=5))
    corr = lone.send(FindKey("US100", 5, 99))
    lone.settle()
    assert problem(lone.replies[corr][0])[0] == "key_reused"


def test_an_order_under_way_is_joined() -> None:
    home = Home()
    command = a_place(an_order(lines={"SKU-0": 3}), key=5)
    placed = home.send(command)
    home.settle()
    assert problem(home.ask(FindKey("US100", 5, 99)))[0] == "key_reused"
    corr = home.send(FindKey("US100", 5, command.fingerprint))
    home.settle()
    assert corr not in home.replies
    home.peer(TryReply(True, token="1:1:5"))
    assert home.answer(corr) == home.answer(placed)


def test_an_order_that_waits_for_its_token_is_said_to_run() -> None:
    home = Home()
    home.send(msgspec.structs.replace(a_place(key=5), after="1:1:99"))
    home.settle()
    assert problem(home.ask(FindKey("US100", 5, 99)))[0] == "key_in_use"


def test_a_slot_of_another_shard_is_not_answered_for() -> None:
    assert problem(Home().ask(FindKey("US900", 5, 99)))[0] == "moved"
