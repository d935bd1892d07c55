"""Orders of other homes in an owner's queue: they stand in line, have their turn, and are forgotten; and the home's side of it."""

from __future__ import annotations

from typing import Any

import pytest

from engine.domain.commands import AdjustStock, CancelOrder, GetOrder, ShowDemand, StockMove, TakeTurn, TryLegs
from engine.domain.orders import DemandRow, OnShort
from engine.domain.replies import Done, OrderView, Problem, TryReply, TurnOver
from engine.protocol import demand_guests
from engine.protocol.demand_guests import TURN_MS
from engine.protocol.view_feed import PUSH_INTERVAL_MS
from tests.builders import a_destination, a_line, a_network, a_node, a_place, an_order
from tests.sim.checker import check_guests
from tests.sim.little_cluster import LittleCluster
from tests.sim.lone_core import LoneCore
from tests.unit.test_protocol_two_phase import OTHER, Home

HOME = 0
GUEST = 77
"""Number of an order at HOME."""
FIRST = -(1 << 40)
"""A rank before all others."""


def waits(units: int, *, rank: int = FIRST, order_no: int = GUEST, collects: int = 0) -> DemandRow:
    """An order waits for SKU-0, and collects some at N-1."""
    return order_no, rank, ((0, units),) if units else (), ((0, 1, collects),) if collects else ()


class Owner(LoneCore):
    """Shard 1 with node N-1; the test plays shard 0, the home of guests."""

    CONN = 9

    def __init__(self) -> None:
        nodes = [a_node("N-0", postal_code="01001"), a_node("N-1", postal_code="51001")]
        super().__init__(a_network(nodes=nodes, shards=2), shard=1)
        self.said = 0

    def show(self, *rows: DemandRow, full: bool = False, said: int = 0) -> None:
        self.said = said or self.said + 100
        self.core.receive(self.CONN, 1_000_000, ShowDemand(HOME, (1, self.said), full, rows), now_ms=self.now_ms)
        self.settle()

    def receive(self, units: int) -> None:
        assert not isinstance(self.ask(AdjustStock("N-1", (StockMove("SKU-0", "received", units),))), Problem)

    def park(self, units: int, **fields: Any) -> OrderView:
        order = an_order(lines={"SKU-0": units}, ship_to=a_destination("51001"), on_short=OnShort.PARK, **fields)
        view = self.ask(a_place(order))
        assert isinstance(view, OrderView), view
        return view

    def buys(self, units: int = 1) -> bool:
        """Whether somebody who does not wait gets some."""
        return isinstance(self.ask(a_place(an_order("B", {"SKU-0": units}, ship_to=a_destination("51001")))), OrderView)

    def turn(self) -> TakeTurn:
        """The turn that was given."""
        (send,) = self.take_sent()
        assert send.shard == HOME and isinstance(send.command, TakeTurn)
        self.corr = send.corr
        return send.command

    def answer(self, reply: Any) -> None:
        self.core.peer_replied(HOME, self.corr, reply, now_ms=self.now_ms)
        self.settle()

    def over(self, row: DemandRow) -> None:
        self.answer(TurnOver(row, (1, self.said + 1)))

    def state_of(self, view: OrderView) -> str:
        return str(self.ask(GetOrder(view.slot, view.order_no)).state)


def a_try(units: int, place: tuple[int, ...] = ()) -> TryLegs:
    return TryLegs(HOME, 1, "US010", GUEST, ((1, 1, 9, 0, ((0, units),)),), place=place)


# -- the owner ----------------------------------------------------------------------------------------------------


def test_a_guest_has_its_turn_before_who_ranks_behind_it() -> None:
    shop = Owner()
    own = shop.park(1)
    shop.show(waits(1))
    shop.receive(1)
    assert shop.turn() == TakeTurn(GUEST, ((0, 1, 1),))
    assert not shop.buys(), "what is kept for a guest is for sale"
    shop.pass_time(100)
    assert shop.state_of(own) == "parked"
    assert shop.ask(a_try(1, (FIRST, GUEST))).ok
    shop.over(waits(0))
    assert shop.state_of(own) == "parked" and not shop.core.demand.guests.by_order
    shop.receive(1)
    assert shop.state_of(own) == "allocated" and not shop.take_sent()


def test_a_guest_behind_own_orders_comes_after_them() -> None:
    shop = Owner()
    own = shop.park(1)
    shop.show(waits(1, rank=1 << 50))
    shop.receive(1)
    assert shop.state_of(own) == "allocated" and not shop.take_sent()
    shop.receive(1)
    assert shop.turn().order_no == GUEST


def test_a_try_without_a_place_gets_nothing_of_what_is_kept() -> None:
    shop = Owner()
    shop.show(waits(2))
    shop.receive(2)
    shop.turn()
    for place in ((), (FIRST + 1, GUEST + 1)):
        reply = shop.ask(a_try(1, place))
        assert isinstance(reply, TryReply) and (reply.ok, reply.short) == (False, ((0, 1, 0),))
    assert shop.ask(a_try(2, (FIRST, GUEST))).ok


@pytest.mark.parametrize("reply", [None, Problem("unavailable", "away")])
def test_a_home_that_does_not_take_its_turn_loses_it(reply: Any) -> None:
    shop = Owner()
    own = shop.park(1)
    shop.show(waits(1))
    shop.receive(1)
    shop.turn()
    if reply is None:
        shop.pass_time(TURN_MS - 1)
        assert shop.state_of(own) == "parked"
        shop.pass_time(1)
    else:
        shop.answer(reply)
    assert shop.state_of(own) == "allocated"
    shop.core.peer_replied(HOME, shop.corr, TurnOver(waits(1), (1, 1 << 40)), now_ms=shop.now_ms)
    shop.settle()


def test_a_guest_that_is_not_helped_collects_and_waits_longer_each_time() -> None:
    shop = Owner()
    own = shop.park(1)
    shop.show(waits(3))
    for turn in range(1, 4):
        shop.receive(1)
        assert shop.turn().rows == ((0, 1, turn),)
        shop.over(waits(3, collects=3))
        assert shop.state_of(own) == "parked" and not shop.buys()
    shop.receive(1)
    assert not shop.take_sent(), "it was not helped three times: not asked at once again"
    assert shop.state_of(own) == "allocated", "what a guest does not collect is for those behind it"
    shop.pass_time(20_000)
    assert shop.turn().rows == ((0, 1, 3),)


def test_units_that_come_during_a_turn_are_offered_once_more() -> None:
    shop = Owner()
    shop.show(waits(3))
    shop.receive(1)
    shop.turn()
    shop.receive(1)
    assert not shop.take_sent(), "one turn at a time"
    shop.over(waits(3))
    assert shop.turn().rows == ((0, 1, 2),)


def test_what_is_told_late_is_out_of_date() -> None:
    shop = Owner()
    shop.show(waits(2), said=10)
    shop.show(waits(0), said=20)
    shop.show(waits(2), said=15)
    assert not shop.core.demand.guests.by_order
    shop.show(waits(2), said=30)
    shop.receive(1)
    shop.turn()
    shop.show(waits(1), said=40)
    shop.answer(TurnOver(waits(2), (1, 35)))
    assert shop.core.demand.guests.by_order[GUEST].items == {0: 1}


def test_a_home_that_is_gone_keeps_nothing() -> None:
    for end in (lambda s: s.core.disconnected(s.CONN), lambda s: s.show(full=True)):
        shop = Owner()
        shop.show(waits(3, collects=3))
        shop.receive(1)
        shop.turn()
        assert shop.state.kept
        end(shop)
        shop.pass_time(TURN_MS)
        assert not shop.state.kept and not shop.core.demand.guests.by_item
        assert shop.buys()


def test_who_finds_no_room_does_not_stand_in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demand_guests, "GUESTS_MAX", 1)
    shop = Owner()
    shop.show(waits(1), waits(1, order_no=GUEST + 1))
    assert list(shop.core.demand.guests.by_order) == [GUEST]
    assert shop.core.counts["demand_guests_left_out"] == 1
    shop.show(waits(2))
    assert shop.core.demand.guests.by_order[GUEST].items == {0: 2}, "who stands in line may change"


def test_no_more_turns_at_once_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.protocol.demand_queue.TURNS_MAX", 1)
    shop = Owner()
    shop.show(waits(1), (GUEST + 1, FIRST, ((1, 1),), ()))
    shop.ask(AdjustStock("N-1", (StockMove("SKU-0", "received", 1), StockMove("SKU-1", "received", 1))))
    assert shop.turn().order_no == GUEST
    shop.over(waits(0))
    assert shop.turn().order_no == GUEST + 1


def test_places_count_the_orders_of_all_homes() -> None:
    shop = Owner()
    own = shop.park(1)
    entry = shop.core.demand.entries[own.order_no]
    assert shop.core.demand.ahead_of(entry, 0) == 0
    shop.show(waits(1), waits(1, order_no=GUEST + 1), waits(1, order_no=GUEST + 2, rank=1 << 50))
    assert shop.core.demand.ahead_of(entry, 0) == 2


# -- the home -----------------------------------------------------------------------------------------------------


def a_cluster(shards: int) -> LittleCluster:
    return LittleCluster(shards=shards, nodes=shards, items=1)


def pass_time(cluster: LittleCluster, ms: int = 200) -> None:
    for _ in range(0, ms, PUSH_INTERVAL_MS):
        cluster.now_ms += PUSH_INTERVAL_MS
        cluster.settle()


def test_turns_of_several_owners_at_once_are_all_taken() -> None:
    cluster = a_cluster(3)
    lines = [a_line("SKU-0", 2)]
    view = cluster.ask(0, a_place(an_order("W", lines, ship_to=a_destination("01001"), on_short=OnShort.PARK)))
    assert isinstance(view, OrderView) and view.state == "parked"
    pass_time(cluster)
    owners = [n for n in range(3) if cluster.cores[0].catalog.owner[n] != 0]
    for node in owners:
        cluster.send(
            cluster.cores[0].catalog.owner[node], AdjustStock(f"N-{node}", (StockMove("SKU-0", "received", 1),))
        )
    pass_time(cluster, 3_000)
    now = cluster.ask(0, GetOrder(view.slot, view.order_no))
    assert isinstance(now, OrderView)
    assert (now.state, [leg.node_id for leg in now.legs]) == ("allocated", [f"N-{node}" for node in owners])
    check_guests(cluster.cores)
    assert not any(core.state.kept for core in cluster.cores)


def test_an_order_that_is_gone_is_told_to_all() -> None:
    cluster = a_cluster(2)
    view = cluster.ask(0, a_place(an_order("W", {"SKU-0": 2}, ship_to=a_destination("01001"), on_short=OnShort.PARK)))
    assert isinstance(view, OrderView)
    pass_time(cluster)
    assert list(cluster.cores[1].demand.guests.by_order) == [view.order_no]
    cluster.ask(0, CancelOrder(view.slot, view.order_no))
    pass_time(cluster)
    assert not cluster.cores[1].demand.guests.by_order
    check_guests(cluster.cores)


def test_a_turn_for_an_order_that_waits_no_more_is_given_back_at_once() -> None:
    home = LoneCore(a_network(nodes=2, shards=2))
    reply = home.ask(TakeTurn(GUEST, ((0, 1, 5),)))
    assert isinstance(reply, TurnOver) and reply.row == waits(0, rank=0)


def test_what_is_not_acknowledged_is_told_again() -> None:
    home = Home(own=0, others=0)
    home.pass_time(20)
    (first,) = home.told
    assert first.command == ShowDemand(0, (1, 1), True, ())
    view = home.ask(a_place(an_order(lines={"SKU-0": 1}, on_short=OnShort.PARK)))
    home.pass_time(1_000)
    assert len(home.told) == 1, "one message at a time"
    home.pass_time(TURN_MS)
    assert [row[0] for row in home.told[1].command.rows] == [view.order_no] and home.told[1].command.full
    home.core.peer_replied(OTHER, home.told[1].corr, Done(1), now_ms=home.now_ms)
    home.pass_time(TURN_MS)
    assert len(home.told) == 2
