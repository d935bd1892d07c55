"""Orders of other homes in an owner's queue: they stand in line, have their turn, and are forgotten; and the home's side of it."""

from __future__ import annotations

from typing import Any

import pytest

from engine.domain.commands import AdjustStock, CancelOrder, GetOrder, ShowDemand, StockMove, TakeTurn, TryLegs
from engine.domain.orders import DemandRow, OnShort
from engine.domain.replies import Done, OrderView, Problem, TryReply, TurnOver
from engine.protocol import demand_guests
from engine.protocol.demand_guests import TURN_MS
from engine.protocol.demand_queue import ATTEMPTS_PER_POLL
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

    def show(self, *rows: DemandRow, begins: bool = False, ends: bool = False, said: int = 0) -> None:
        self.said = said or self.said + 100
        self.core.receive(
            self.CONN, 1_000_000, ShowDemand(HOME, (1, self.said), rows, begins, ends), now_ms=self.now_ms
        )
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
    for end in (lambda s: s.core.disconnected(s.CONN), lambda s: s.show(begins=True, ends=True)):
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
    assert first.command == ShowDemand(0, (1, 1), (), True, True)
    view = home.ask(a_place(an_order(lines={"SKU-0": 1}, on_short=OnShort.PARK)))
    home.pass_time(1_000)
    assert len(home.told) == 1, "one message at a time"
    home.pass_time(TURN_MS)
    assert [row[0] for row in home.told[1].command.rows] == [view.order_no]
    assert home.told[1].command.begins and home.told[1].command.ends
    home.core.peer_replied(OTHER, home.told[1].corr, Done(1), now_ms=home.now_ms)
    home.pass_time(TURN_MS)
    assert len(home.told) == 2


# -- what a reading found -----------------------------------------------------------------------------------------


def wait_for(cluster: LittleCluster, shard: int, order_id: str, lines: Any, **fields: Any) -> OrderView:
    order = an_order(order_id, lines, ship_to=a_destination(("01001", "51001")[shard]), on_short=OnShort.PARK, **fields)
    view = cluster.ask(shard, a_place(order))
    assert isinstance(view, OrderView) and view.state == "parked"
    pass_time(cluster)
    return view


def receive(cluster: LittleCluster, node: int, units: int = 1) -> None:
    cluster.ask(node, AdjustStock(f"N-{node}", (StockMove("SKU-0", "received", units),)))
    pass_time(cluster, 3_000)


def state_of(cluster: LittleCluster, shard: int, view: OrderView) -> str:
    return str(cluster.ask(shard, GetOrder(view.slot, view.order_no)).state)  # type: ignore[union-attr]


def test_a_collection_elsewhere_is_not_given_up_because_the_order_is_tried_at_home() -> None:
    cluster = a_cluster(2)
    whole = wait_for(cluster, 0, "W", [a_line("SKU-0", 3, group="g")])
    small = wait_for(cluster, 1, "S", [a_line("SKU-0", 2, group="g")])
    for node in (1, 1, 0, 1):
        receive(cluster, node)
    pass_time(cluster, 20_000)
    assert (state_of(cluster, 0, whole), state_of(cluster, 1, small)) == ("allocated", "parked")
    check_guests(cluster.cores)


@pytest.mark.parametrize("home", [0, 1])
def test_who_ranks_before_a_collector_takes_what_it_collects_wherever_its_home_is(home: int) -> None:
    cluster = a_cluster(2)
    whole = wait_for(cluster, 1, "W", [a_line("SKU-0", 3, group="g")])
    receive(cluster, 1, 2)
    for _ in range(4_000):  # by now it is tried every quarter of an hour
        cluster.now_ms += 1_000
        cluster.settle()
    urgent = an_order(
        "U", {"SKU-0": 1}, ship_to=a_destination(("01001", "51001")[home]), priority=9, on_short=OnShort.PARK
    )
    view = cluster.ask(home, a_place(urgent))
    assert isinstance(view, OrderView)
    pass_time(cluster, 3_000)
    assert (state_of(cluster, home, view), state_of(cluster, 1, whole)) == ("allocated", "parked")


def test_a_silent_home_holds_up_nobody_elses_items_and_is_passed_over_after_one_turn() -> None:
    items, guests = demand_guests.TURNS_MAX + 6, 5
    nodes = [a_node("N-0", postal_code="01001"), a_node("N-1", postal_code="51001")]
    shop = LoneCore(a_network(nodes=nodes, shards=2, items=items + 1), shard=1)
    rows = tuple(
        (1_000 + item * guests + n, FIRST + n, ((item, 1),), ()) for item in range(items) for n in range(guests)
    )
    shop.core.receive(9, 1_000_000, ShowDemand(HOME, (1, 1), rows, True, True), now_ms=shop.now_ms)
    shop.settle()
    waiting = []
    for item in (0, items):
        order = an_order(
            f"P-{item}", {f"SKU-{item}": 1}, ship_to=a_destination("51001"), on_short=OnShort.PARK, priority=0
        )
        waiting.append(shop.ask(a_place(order)))
    shop.ask(AdjustStock("N-1", tuple(StockMove(f"SKU-{item}", "received", 1) for item in range(items + 1))))
    for _ in range(20):
        shop.pass_time(10)

    def states() -> list[str]:
        return [shop.ask(GetOrder(view.slot, view.order_no)).state for view in waiting]

    assert len(shop.core.demand.guests.turns) == demand_guests.TURNS_MAX
    assert states() == ["parked", "allocated"], "who waits alone for an item waits for no turn of others"
    shop.pass_time(TURN_MS)
    for _ in range(10):
        shop.pass_time(100)
    assert states() == ["allocated", "allocated"], "each guest of a home that says nothing costs a turn"
    given = shop.core.counts["demand_turns_given"]
    shop.core.receive(9, 1_000_001, ShowDemand(HOME, (1, 2), ()), now_ms=shop.now_ms)
    shop.ask(AdjustStock("N-1", (StockMove("SKU-1", "received", 1),)))
    assert shop.core.counts["demand_turns_given"] > given, "it speaks again"


class Visitor(Home):
    """Shard 0, whose order waits; the test plays the owner of N-1."""

    def __init__(self, units: int = 1) -> None:
        super().__init__(own=0, others=0)
        line = a_line("SKU-0", units, group="g")
        self.order = self.ask(a_place(an_order("W", [line], on_short=OnShort.PARK)))

    def turn(self, free: int, corr: int = 500) -> int:
        self.core.receive(7, corr, TakeTurn(self.order.order_no, ((0, 1, free),)), now_ms=self.now_ms)
        self.settle()
        self.pass_time(1)
        return corr

    def over(self, corr: int) -> TurnOver | None:
        replies = self.replies.get(corr, [])
        return replies[0] if replies else None  # type: ignore[return-value]


def test_a_try_that_is_refused_within_a_turn_is_planned_again_with_what_is_kept() -> None:
    """Its day is full: the next one is asked for, of the same units."""
    home = Visitor()
    corr = home.turn(1)
    first = home.sent.pop(0)
    day = first.command.legs[0][2]
    assert first.command.place == home.core.demand.entries[home.order.order_no].place
    home.core.peer_replied(OTHER, first.corr, TryReply(False, (), ((1, day, 9),), token="1:1:2"), now_ms=home.now_ms)
    home.settle()
    assert home.over(corr) is None, "the turn is not over"
    again = next(send for send in home.sent if isinstance(send.command, TryLegs))
    assert again.command.legs[0][1] == 1


def test_a_turn_during_another_attempt_is_used_after_it() -> None:
    home = Visitor(2)
    first = home.turn(2)
    second = home.turn(2, corr=501)
    assert home.over(first) is None and home.over(second) is None
    send = home.sent.pop(0)
    home.core.peer_replied(OTHER, send.corr, TryReply(True, token="1:1:2"), now_ms=home.now_ms)
    home.settle()
    for corr in (first, second):
        over = home.over(corr)
        assert over is not None and over.row[2] == (), "both are told that it waits no more"


def test_turns_are_planned_a_few_at_a_time() -> None:
    home = Home(own=0, others=0)
    orders = [
        home.ask(a_place(an_order(f"W-{n}", [a_line("SKU-0", 2, group="g")], on_short=OnShort.PARK)))
        for n in range(3 * ATTEMPTS_PER_POLL)
    ]
    for n, order in enumerate(orders):
        home.core.receive(7, 500 + n, TakeTurn(order.order_no, ((0, 1, 1),)), now_ms=home.now_ms)
    home.poll()
    before = home.core.counts["demand_turns_taken"]
    home.poll()
    assert home.core.counts["demand_turns_taken"] - before <= ATTEMPTS_PER_POLL
    home.settle()
    home.pass_time(10)
    assert home.core.counts["demand_turns_taken"] == len(orders) and not home.core.demand.visits.working


def test_what_is_told_just_before_a_connection_ends_is_forgotten_with_it() -> None:
    shop = Owner()
    command = ShowDemand(HOME, (1, 1), (waits(3, collects=3),), True, True)
    shop.core.receive(shop.CONN, 1_000_000, command, now_ms=shop.now_ms)
    shop.core.disconnected(shop.CONN)
    shop.settle()
    shop.receive(1)
    assert not shop.core.demand.guests.by_order and not shop.state.kept


def test_while_all_is_told_again_nobody_leaves_the_line() -> None:
    shop = Owner()
    shop.show(waits(3, collects=3), waits(1, order_no=GUEST + 1), begins=True, ends=True)
    shop.receive(1)
    shop.show(waits(1, order_no=GUEST + 2), begins=True)
    assert shop.state.kept and set(shop.core.demand.guests.by_order) == {GUEST, GUEST + 1, GUEST + 2}
    shop.show(waits(3, collects=3), ends=True)
    assert set(shop.core.demand.guests.by_order) == {GUEST, GUEST + 2}, "who was not told again waits no more"


def test_a_full_telling_goes_in_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demand_guests, "ROWS_PER_MESSAGE", 2)
    home = Home(own=0, others=0)
    for n in range(5):
        home.ask(a_place(an_order(f"W-{n}", {"SKU-0": 1}, on_short=OnShort.PARK)))
    home.show(0, seq=9)  # a new connection
    home.told.clear()
    for _ in range(5):
        home.pass_time(20)
        home.core.peer_replied(OTHER, home.told[-1].corr, Done(1), now_ms=home.now_ms)
    said = [(send.command.begins, len(send.command.rows), send.command.ends) for send in home.told]
    assert said == [(True, 2, False), (False, 2, False), (False, 1, True)]


def test_nothing_is_remembered_for_an_owner_that_does_not_listen() -> None:
    home = Home(own=0, others=0)
    for n in range(40):
        view = home.ask(a_place(an_order(f"W-{n}", {"SKU-0": 1}, on_short=OnShort.PARK)))
        home.ask(CancelOrder(view.slot, view.order_no))
        home.pass_time(TURN_MS)
    (listener,) = home.core.demand.visits._listeners.values()
    assert len(listener.due) <= 2


def test_an_owner_tells_nobody_about_guests() -> None:
    shop = Owner()
    shop.core.demand.visits.connected(HOME)
    shop.pass_time(20)
    shop.core.peer_replied(HOME, shop.told[-1].corr, Done(0), now_ms=shop.now_ms)
    shop.show(waits(3, collects=3))
    shop.show(waits(0))
    shop.pass_time(100)
    assert [send.command.rows for send in shop.told] == [()]


def test_a_node_that_leaves_takes_nothing_of_what_is_collected_at_others() -> None:
    nodes = [a_node(f"N-{n}", postal_code=code) for n, code in enumerate(("01001", "51001", "61001"))]
    shop = LoneCore(a_network(nodes=nodes, shards=2), shard=1)
    row = (GUEST, FIRST, ((0, 4),), ((0, 1, 2), (0, 2, 2)))
    shop.core.receive(9, 1_000_000, ShowDemand(HOME, (1, 1), (row,), True, True), now_ms=shop.now_ms)
    for node in ("N-1", "N-2"):
        shop.ask(AdjustStock(node, (StockMove("SKU-0", "received", 1),)))
    shop.pass_time(TURN_MS)
    assert set(shop.state.kept) == {1, 2}
    shop.core.demand.keeping.leave(1)
    assert set(shop.state.kept) == {2}
    shop.core.demand.keeping.came(1)
    assert set(shop.state.kept) == {1, 2}


def test_when_a_home_goes_what_its_orders_collected_together_is_let_go() -> None:
    shop = Owner()
    shop.show(waits(2, collects=2), waits(3, order_no=GUEST + 1, collects=3))
    shop.receive(4)
    assert shop.state.kept == {1: 5}
    shop.core.disconnected(shop.CONN)
    assert not shop.state.kept
