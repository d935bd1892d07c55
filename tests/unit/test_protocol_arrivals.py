"""Shipped legs that nobody reports as delivered: taken to have arrived after their time, so that orders can leave memory."""

from __future__ import annotations

import msgspec

from engine.domain.commands import ActOnLeg, AdjustStock, StockMove
from engine.domain.events import Cause, Event, OrderPut
from engine.domain.orders import LegState
from engine.domain.replies import OrderView, Problem
from engine.verify.books import Books
from tests.builders import a_network, a_place, an_order
from tests.sim.little_cluster import LittleCluster
from tests.sim.lone_core import LoneCore

DAY_MS = 86_400_000
_events = msgspec.msgpack.Decoder(list[Event])


def a_core(days: int = 30) -> LoneCore:
    lone = LoneCore(a_network(nodes=2, items=2), assume_delivered_after_ms=days * DAY_MS)
    lone.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 50),)))
    return lone


def shipped(lone: LoneCore, order_id: str = "A-1", key: int = 7, units: int = 1) -> OrderView:
    view = lone.ask(a_place(an_order(order_id, {"SKU-0": units}), key=key))
    assert isinstance(view, OrderView), view
    for action in ("release", "ship"):
        reply = lone.ask(ActOnLeg(view.slot, view.order_no, view.legs[0].leg_no, action))
        assert not isinstance(reply, Problem), reply
    return view


def leg_states(lone: LoneCore, view: OrderView) -> list[int]:
    record = lone.state.order(view.slot, view.order_no)
    assert record is not None
    return [leg.state for leg in record.legs]


def due_in_ms(lone: LoneCore, view: OrderView) -> int:
    record = lone.state.order(view.slot, view.order_no)
    assert record is not None
    leg = record.legs[0]
    return max(leg.shipped_at_ms, leg.deliver_by_s * 1_000) + 30 * DAY_MS - lone.now_ms


def test_a_shipped_leg_arrives_by_assumption_and_its_order_leaves() -> None:
    lone = a_core()
    view = shipped(lone)
    lone.pass_time(due_in_ms(lone, view) - 1)
    assert leg_states(lone, view) == [LegState.SHIPPED]
    lone.pass_time(1)
    assert leg_states(lone, view) == [LegState.DELIVERED]
    [event] = _events.decode(lone.entries[-1].payload)
    assert isinstance(event, OrderPut) and event.cause == Cause.DELIVERY_ASSUMED and event.stock == ()
    assert lone.core.counts["deliveries_assumed"] == 1
    lone.core.archived(lone.state.seq, lone.state.time_ms)
    lone.pass_time(3_600_000)
    assert lone.state.order(view.slot, view.order_no) is None
    assert lone.state.open_orders == 0


def test_a_report_before_its_time_is_what_stands_and_one_after_it_is_a_repeat() -> None:
    lone = a_core()
    early, late = shipped(lone, "A-1", 1), shipped(lone, "A-2", 2)
    assert not isinstance(lone.ask(ActOnLeg(early.slot, early.order_no, early.legs[0].leg_no, "deliver")), Problem)
    lone.pass_time(2 * 30 * DAY_MS)
    assert lone.core.counts["deliveries_assumed"] == 1
    entries = len(lone.entries)
    assert not isinstance(lone.ask(ActOnLeg(late.slot, late.order_no, late.legs[0].leg_no, "deliver")), Problem)
    assert len(lone.entries) == entries


def test_each_shipment_has_its_own_time() -> None:
    lone = a_core()
    view = lone.ask(a_place(an_order("A-1", {"SKU-0": 3}), key=1))
    leg_no = view.legs[0].leg_no
    lone.ask(ActOnLeg(view.slot, view.order_no, leg_no, "release"))
    lone.ask(ActOnLeg(view.slot, view.order_no, leg_no, "ship", lines=(("1", 1),)))
    lone.pass_time(10 * DAY_MS)
    lone.ask(ActOnLeg(view.slot, view.order_no, leg_no, "ship"))
    second_ms = lone.now_ms
    lone.pass_time(20 * DAY_MS + 5 * DAY_MS)
    record = lone.state.order(view.slot, view.order_no)
    assert record is not None
    by_due = sorted(record.legs, key=lambda leg: leg.shipped_at_ms)
    assert [leg.state for leg in by_due] == [LegState.DELIVERED, LegState.SHIPPED]
    lone.pass_time(second_ms + 35 * DAY_MS - lone.now_ms)
    assert leg_states(lone, view) == [LegState.DELIVERED, LegState.DELIVERED]


def test_zero_days_assume_nothing() -> None:
    lone = a_core(days=0)
    view = shipped(lone)
    lone.pass_time(5_000 * DAY_MS)
    assert leg_states(lone, view) == [LegState.SHIPPED]


def test_recovery_goes_on_watching_and_the_auditor_agrees() -> None:
    lone = a_core()
    view = shipped(lone)
    names = ["misc", *(f"node:{node}" for node in lone.state.nodes), *(f"slot:{slot}" for slot in lone.state.slots)]
    lone.check_recovery({name: lone.core.pack_part(name) for name in names})
    again = lone.recovered_from({})
    assert again.poll(now_ms=lone.now_ms + due_in_ms(lone, view)).append is not None
    record = again.state.order(view.slot, view.order_no)
    assert record is not None and record.legs[0].state == LegState.DELIVERED
    lone.pass_time(due_in_ms(lone, view))
    books = Books()
    for entry in lone.entries:
        list(books.apply(entry.seq, entry.time_ms, entry.payload))
    assert books.faults == []


def test_a_leg_at_another_shard_is_assumed_by_its_home_alone() -> None:
    cluster = LittleCluster(shards=2, nodes=4, items=2)
    home = cluster.cores[0]
    away = cluster.stock_at(1)
    view = cluster.ask(0, a_place(an_order(), key=7))
    assert isinstance(view, OrderView) and [leg.node_id for leg in view.legs] == [away]
    for action in ("release", "ship"):
        assert not isinstance(cluster.ask(0, ActOnLeg(view.slot, view.order_no, view.legs[0].leg_no, action)), Problem)
    cluster.settle()
    cluster.now_ms += 60 * DAY_MS
    cluster.settle()
    record = home.state.order(view.slot, view.order_no)
    assert record is not None and record.legs[0].state == LegState.DELIVERED
    assert [core.counts["deliveries_assumed"] for core in cluster.cores] == [1, 0]
