"""Caps on held units: by API key, by customer, by share of a position; and what they leave alone."""

from __future__ import annotations

from typing import Any

import pytest

from engine.domain.commands import AdjustStock, CancelOrder, CommitHold, EditOrder, ReleaseHold, StockMove, TryLegs
from engine.domain.replies import OrderView, Problem, TryReply
from engine.protocol.hold_caps import HoldCaps, HoldLimits
from tests.builders import a_line, a_network, a_place, an_order
from tests.sim.little_cluster import LittleCluster
from tests.sim.lone_core import LoneCore
from tests.unit.test_protocol_two_phase import Home, Owner, a_try


class Shop(LoneCore):
    """One shard whose node N-0 has ten units of SKU-0; every step is checked against H3."""

    def __init__(self, **limits: int) -> None:
        super().__init__(a_network(nodes=1), hold_limits=HoldLimits(**limits))
        self.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 10),)))
        self.orders = 0

    def hold(self, units: int, *, ttl_s: int = 60, holder: str = "", **order: Any) -> Any:
        self.orders += 1
        request = an_order(f"A-{self.orders}", {"SKU-0": units}, **order)
        return self.ask(a_place(request, ttl_s=ttl_s, holder=holder))


def capped(reply: object) -> dict[str, Any]:
    """The numbers of a refusal by a cap."""
    assert isinstance(reply, Problem) and reply.code == "hold_cap", reply
    return {"pointer": reply.errors[0].pointer, **reply.errors[0].facts}


def test_a_customer_may_hold_so_many_units_in_all() -> None:
    shop = Shop(units_per_customer=5)
    assert isinstance(shop.hold(3, customer_id="C-1"), OrderView)
    assert capped(shop.hold(3, customer_id="C-1")) == {
        "pointer": "/customer_id",
        "cap": "customer",
        "customer": "C-1",
        "held": 3,
        "requested": 3,
        "limit": 5,
    }
    assert isinstance(shop.hold(2, customer_id="C-1"), OrderView), "up to the cap, not below it"
    assert isinstance(shop.hold(5, customer_id="C-2"), OrderView), "another one's are not theirs"


def test_a_key_may_hold_so_many_units_whoever_it_holds_them_for() -> None:
    shop = Shop(units_per_key=5)
    assert isinstance(shop.hold(3, holder="web", customer_id="C-1"), OrderView)
    assert capped(shop.hold(3, holder="web", customer_id="C-2"))["cap"] == "key"
    assert isinstance(shop.hold(3, holder="app"), OrderView)
    assert isinstance(shop.hold(4), OrderView), "without a key nothing is counted"


def test_a_position_may_be_held_to_a_share_of_its_shelf() -> None:
    shop = Shop(position_share_bp=5_000)
    assert isinstance(shop.hold(4), OrderView)
    assert capped(shop.hold(2)) == {
        "pointer": "/lines/0",
        "cap": "position",
        "sku": "SKU-0",
        "node_id": "N-0",
        "held": 4,
        "requested": 2,
        "limit": 5,
    }
    assert isinstance(shop.hold(6, ttl_s=0), OrderView), "an order that is allocated at once is no hold"


@pytest.mark.parametrize("how", ["release", "commit", "cancel", "expiry", "part"])
def test_units_no_longer_held_no_longer_count(how: str) -> None:
    shop = Shop(units_per_customer=3, units_per_key=3)
    held = shop.hold(3, customer_id="C-1", holder="web")
    at = (held.slot, held.order_no)
    if how == "expiry":
        shop.pass_time(60_000)
    else:
        shop.ask(
            {
                "release": ReleaseHold(*at),
                "commit": CommitHold(*at),
                "cancel": CancelOrder(*at),
                "part": CommitHold(*at, (("1", 1),)),
            }[how]
        )
    assert isinstance(shop.hold(3, customer_id="C-1", holder="web"), OrderView)


def test_holds_of_one_batch_are_counted_one_after_the_other() -> None:
    shop = Shop(units_per_customer=3)
    corrs = [shop.send(a_place(an_order(f"B-{n}", {"SKU-0": 2}, customer_id="C-1"), ttl_s=60)) for n in range(3)]
    shop.settle()
    assert [type(shop.replies[corr][0]) for corr in corrs] == [OrderView, Problem, Problem]


def test_what_is_held_is_counted_after_a_restart() -> None:
    for with_snapshots in (True, False):
        shop = Shop(units_per_customer=5, units_per_key=9)
        shop.hold(3, customer_id="C-1", holder="web")
        gone = shop.hold(2, customer_id="C-1", holder="web")
        shop.ask(ReleaseHold(gone.slot, gone.order_no))
        parts = {part: shop.core.pack_part(part) for part in shop.core.dirty_parts()}
        shop.core = shop.recovered_from(parts if with_snapshots else {})
        shop.settle()
        assert shop.core.hold_caps is not None
        assert (shop.core.hold_caps.by_key, shop.core.hold_caps.by_customer) == ({"web": 3}, {"C-1": 3})
        assert capped(shop.hold(3, customer_id="C-1"))["held"] == 3


def test_a_hold_over_shards_asks_their_owners_for_the_share_and_is_refused_with_theirs() -> None:
    home = Home(own=0, others=9, hold_limits=HoldLimits(position_share_bp=5_000))
    corr = home.place(3, ttl_s=60)
    tried = home.peer(TryReply(False, (), (), "1:1:5", ((0, 1, 4, 5),)))
    assert isinstance(tried, TryLegs) and tried.hold_share_bp == 5_000
    assert capped(home.answer(corr))["held"] == 4
    assert not home.state.positions.claimed.any() and len(home.core.flights) == 0
    home.take_sent()
    home.send(a_place(an_order("B", {"SKU-0": 3})))
    home.settle()
    assert home.take_sent()[0].command.hold_share_bp == 0, "an allocation is no hold"


def test_an_owner_holds_no_more_than_the_share() -> None:
    owner = Owner(units=5)
    assert owner.ask(a_try(2, hold_share_bp=5_000)).ok
    reply = owner.ask(a_try(1, order_no=78, hold_share_bp=5_000))
    assert (reply.ok, reply.over_cap) == (False, ((0, 1, 2, 2),))
    assert owner.ask(a_try(1, order_no=79)).ok


def test_a_hold_that_was_tried_while_others_came_first_is_refused_at_the_end() -> None:
    home = Home(own=3, others=5, hold_limits=HoldLimits(units_per_customer=6))
    corr = home.send(a_place(an_order("A", {"SKU-0": 4}, customer_id="C-1"), ttl_s=60))
    home.settle()
    (tried,) = home.sent
    home.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 5),)))
    other = home.send(a_place(an_order("B", {"SKU-0": 5}, customer_id="C-1"), ttl_s=60))
    home.settle()
    assert isinstance(home.answer(other), OrderView)
    home.core.peer_replied(1, tried.corr, TryReply(True, token="1:1:5"), now_ms=home.now_ms)
    home.settle()
    assert capped(home.answer(corr))["held"] == 5


def test_an_edit_that_was_tried_while_others_came_first_is_refused_at_the_end() -> None:
    cluster = LittleCluster(shards=2, nodes=2)
    home = cluster.cores[0]
    home.hold_caps = HoldCaps(home, HoldLimits(units_per_customer=4))
    for shard in range(2):
        cluster.ask(shard, AdjustStock(f"N-{shard}", (StockMove(f"SKU-{shard}", "received", 9),)))
    cluster.now_ms += 100
    cluster.settle()
    held = [cluster.ask(0, a_place(an_order(f"H-{n}", {"SKU-0": 1}, customer_id="C-1"), ttl_s=600)) for n in range(2)]
    more = (a_line("SKU-1", 2, line_id="9"),)
    first, second = cluster.ask_each(0, [EditOrder(hold.slot, hold.order_no, added=more) for hold in held])
    assert isinstance(first, OrderView), first
    assert capped(second)["held"] == 4
    assert home.hold_caps.by_customer == {"C-1": 4}
