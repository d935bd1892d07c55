"""Cancelling an order because an earlier one has its id: what has been released to a node is left."""

from __future__ import annotations

from engine.domain.commands import ActOnLeg, CancelOrder, GetOrder
from engine.domain.orders import OnShort
from engine.domain.replies import OrderView, Problem
from tests.builders import a_place, an_order
from tests.unit.test_domain_orders import a_shop, free, problem


def test_all_of_a_duplicate_goes_back_while_nothing_is_released() -> None:
    shop = a_shop({"N-0": {"SKU-0": 5}})
    view = shop.ask(a_place(an_order(lines={"SKU-0": 7}, on_short=OnShort.PARK)))
    assert (view.state, free(shop, "SKU-0", "N-0")) == ("partially_allocated", 0)
    command = CancelOrder(view.slot, view.order_no, is_duplicate=True)
    assert (shop.ask(command).state, free(shop, "SKU-0", "N-0")) == ("cancelled", 5)
    again = shop.ask(command)
    assert (again.state, free(shop, "SKU-0", "N-0")) == ("cancelled", 5), "a repeat changes nothing"


def test_a_hold_that_is_a_duplicate_is_given_up() -> None:
    shop = a_shop({"N-0": {"SKU-0": 5}})
    held = shop.ask(a_place(an_order(lines={"SKU-0": 2}), ttl_s=60))
    command = CancelOrder(held.slot, held.order_no, is_duplicate=True)
    assert (shop.ask(command).state, free(shop, "SKU-0", "N-0")) == ("released", 5)
    assert problem(shop.ask(command))[0] == "wrong_state"


def test_a_released_leg_of_a_duplicate_stays_and_the_rest_is_cancelled() -> None:
    shop = a_shop({"N-0": {"SKU-0": 2}, "N-1": {"SKU-1": 2}})
    view = shop.ask(a_place(an_order(lines={"SKU-0": 1, "SKU-1": 1})))
    first, second = view.legs
    assert not isinstance(shop.ask(ActOnLeg(view.slot, view.order_no, first.leg_no, "release")), Problem)
    command = CancelOrder(view.slot, view.order_no, is_duplicate=True)
    after = shop.ask(command)
    assert isinstance(after, OrderView)
    assert [(leg.leg_no, leg.state) for leg in after.legs] == [
        (first.leg_no, "released"),
        (second.leg_no, "cancelled"),
    ]
    assert after.state == "allocated"
    assert problem(shop.ask(command))[0] == "wrong_state", "nothing is left that may be cancelled unasked"
    by_hand = shop.ask(CancelOrder(view.slot, view.order_no))
    assert by_hand.state == shop.ask(GetOrder(view.slot, view.order_no)).state == "cancelled"
