"""Release waves: at the node's local times, once each, over restarts, clock changes and shards."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from random import Random
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from msgspec.structs import replace

from engine.domain.commands import ActOnLeg, AdjustStock, ClearHolds, GetOrder, StockMove
from engine.domain.config import Node, NodeCapacity
from engine.domain.events import Cause, Event, OrderPut, WaveDone
from engine.domain.orders import LegRecord, LegState, OnShort, decode_record
from engine.domain.plan import Plan, PlanRequest
from engine.domain.replies import OrderView
from engine.domain.waves import Wave, last_wave, next_wave
from engine.protocol import improving, waves
from engine.protocol.waves import LEGS_PER_POLL
from engine.verify.books import Books
from tests.builders import a_destination, a_network, a_node, a_place, an_order
from tests.sim.checker import check_books
from tests.sim.greedy_planner import CollidingPlanner, GreedyPlanner
from tests.sim.lone_core import LoneCore
from tests.unit.test_acceptance import now
from tests.unit.test_edits import a_cluster, check, live
from tests.unit.test_resourcing import a_shop, place, receive, switch

NEW_YORK = ZoneInfo("America/New_York")
DAY_MS = 86_400_000
_events = msgspec.msgpack.Decoder(list[Event])


def at(text: str, zone: ZoneInfo = NEW_YORK, *, fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp() * 1_000)


def a_wave_node(*waves: str, **fields: Any) -> Node:
    fields.setdefault("time_zone", "America/New_York")
    return a_node("N-0", postal_code="01001", waves=list(waves), **fields)


# -- when -----------------------------------------------------------------------------------------------------------


def test_waves_come_on_working_days_at_local_times() -> None:
    node = a_wave_node("13:00", "08:30", holidays=["2026-12-01"])
    assert next_wave(node, at("2026-11-30T08:29:59")) == at("2026-11-30T08:30")
    assert next_wave(node, at("2026-11-30T08:30")) == at("2026-11-30T13:00")
    assert next_wave(node, at("2026-11-30T13:00")) == at("2026-12-02T08:30"), "the first of December is a holiday"
    assert next_wave(node, at("2026-12-04T13:00")) == at("2026-12-07T08:30"), "a weekend"
    assert last_wave(node, at("2026-12-06T12:00")) == at("2026-12-04T13:00")
    assert last_wave(node, at("2026-12-07T08:30")) == at("2026-12-07T08:30")
    assert next_wave(replace(node, working_days=()), at("2026-12-06T12:00")) is None
    assert last_wave(replace(node, working_days=()), at("2026-12-06T12:00")) == 0


def test_a_clock_change_neither_skips_nor_repeats_a_wave() -> None:
    node = a_wave_node("01:30", "02:30", working_days=(0, 1, 2, 3, 4, 5, 6))

    def waves(since_ms: int, until_ms: int) -> list[int]:
        found, wave_ms = [], next_wave(node, since_ms)
        while wave_ms is not None and wave_ms < until_ms:
            found.append(wave_ms)
            wave_ms = next_wave(node, wave_ms)
        return found

    spring = waves(at("2026-03-08T00:00"), at("2026-03-09T00:00"))
    assert spring == [at("2026-03-08T01:30"), at("2026-03-08T03:30")], "02:30 does not exist: with the earlier offset"
    autumn = waves(at("2026-11-01T00:00"), at("2026-11-02T00:00"))
    assert autumn == [at("2026-11-01T01:30"), at("2026-11-01T02:30")], "01:30 comes twice: the first counts"


def test_a_wave_takes_what_ships_that_day_and_what_the_next_wave_would_be_too_late_for() -> None:
    def a_leg(day: str, ship_by: str) -> LegRecord:
        ship_day = date.fromisoformat(day).toordinal() - date(1970, 1, 1).toordinal()
        return LegRecord(1, 0, True, LegState.ALLOCATED, [(0, 1)], ship_day=ship_day, ship_by_s=at(ship_by) // 1_000)

    node = a_wave_node("09:00", "16:00", processing_minutes=60, cut_off="15:00")
    morning, evening = Wave(node, at("2026-11-30T09:00")), Wave(node, at("2026-11-30T16:00"))
    today, late = a_leg("2026-11-30", "2026-11-30T15:00"), a_leg("2026-11-27", "2026-11-27T15:00")
    tomorrow = a_leg("2026-12-01", "2026-12-01T15:00")
    assert [morning.takes(leg) for leg in (late, today, tomorrow)] == [True, True, False]
    assert not evening.takes(tomorrow), "tomorrow's first wave is early enough"
    only = a_wave_node("16:00", processing_minutes=60, cut_off="15:00")
    assert Wave(only, at("2026-11-30T16:00")).takes(tomorrow), "tomorrow's wave would be too late"


# -- what it does ---------------------------------------------------------------------------------------------------


def a_wave_shop(*, per_day: int = 0, **fields: Any) -> LoneCore:
    """N-0 with waves at 09:00 and 13:00 in New York, on every day; it is 07:00."""
    fields.setdefault("working_days", (0, 1, 2, 3, 4, 5, 6))
    shop = a_shop({}, nodes=[a_wave_node("09:00", "13:00", **fields), a_node("N-1", postal_code="01001", lat=60.0)])
    shop.now_ms = at("2026-11-30T07:00")
    receive(shop, "N-0", {"SKU-0": 1_000})
    return shop


def wait_until(shop: LoneCore, text: str) -> None:
    shop.pass_time(at(text) - shop.now_ms)


def states(shop: LoneCore, orders: list[OrderView]) -> list[str]:
    return [now(shop, order).legs[0].state for order in orders]


def waves_done(shop: LoneCore) -> list[int]:
    events = [event for entry in shop.entries for event in _events.decode(entry.payload)]
    return [event.at_ms for event in events if isinstance(event, WaveDone)][1:]


def test_legs_are_released_by_the_wave_and_not_before() -> None:
    shop = a_wave_shop()
    order = place(shop, "A", {"SKU-0": 1})
    wait_until(shop, "2026-11-30T08:59:59")
    assert states(shop, [order]) == ["allocated"]
    wait_until(shop, "2026-11-30T09:00")
    assert states(shop, [order]) == ["released"]
    later = place(shop, "B", {"SKU-0": 1})
    wait_until(shop, "2026-11-30T12:59")
    assert states(shop, [later]) == ["allocated"]
    wait_until(shop, "2026-11-30T13:00")
    assert states(shop, [later]) == ["released"]
    assert waves_done(shop) == [at("2026-11-30T09:00"), at("2026-11-30T13:00")]
    shop.check_recovery({})


def test_orders_on_hold_and_nodes_that_are_off_wait_for_the_next_wave() -> None:
    shop = a_wave_shop()
    held_up = place(shop, "A", {"SKU-0": 1}, hold_reasons=("fraud",))
    wait_until(shop, "2026-11-30T09:00")
    assert states(shop, [held_up]) == ["allocated"]
    shop.ask(ClearHolds(held_up.slot, held_up.order_no))
    wait_until(shop, "2026-11-30T13:00")
    assert states(shop, [held_up]) == ["released"]
    drained = place(shop, "B", {"SKU-0": 1})
    switch(shop.core, 0, a_wave_node("09:00", working_days=(0, 1, 2, 3, 4, 5, 6), state="drain"))
    wait_until(shop, "2026-12-01T09:00")
    assert states(shop, [drained]) == ["released"], "a drained node finishes what it has"


def test_a_large_wave_goes_over_several_entries_and_leaves_what_came_later() -> None:
    shop = a_wave_shop()
    orders = [place(shop, f"A-{n}", {"SKU-0": 1}) for n in range(LEGS_PER_POLL + 10)]
    shop.now_ms = at("2026-11-30T09:00")
    shop.poll()
    assert states_now(shop, orders).count("released") == LEGS_PER_POLL
    later = shop.send(a_place(an_order("late", {"SKU-0": 1})))
    shop.settle()
    (late,) = shop.replies[later]
    assert isinstance(late, OrderView)
    assert set(states(shop, orders)) == {"released"}
    assert states(shop, [late]) == ["allocated"]


def states_now(shop: LoneCore, orders: list[OrderView]) -> list[str]:
    """Without a poll."""
    records = [shop.state.order(order.slot, order.order_no) for order in orders]
    return [LegState(record.legs[0].state).name.lower() for record in records if record is not None]


def test_a_restart_runs_the_wave_that_was_missed_and_repeats_none() -> None:
    shop = a_wave_shop()
    early = place(shop, "A", {"SKU-0": 1})
    wait_until(shop, "2026-11-30T09:00")
    later = place(shop, "B", {"SKU-0": 1})
    shop.core = shop.recovered_from({})
    shop.settle()
    assert states(shop, [early, later]) == ["released", "allocated"], "the wave of 09:00 is done"
    shop.now_ms = at("2026-12-03T10:00")
    shop.core = shop.recovered_from({})
    shop.settle()
    assert states(shop, [later]) == ["released"]
    assert waves_done(shop) == [at("2026-11-30T09:00"), at("2026-12-03T09:00")], "one stands for all that were missed"


def test_a_new_schedule_begins_with_its_next_wave() -> None:
    shop = a_wave_shop()
    switch(shop.core, 0, a_wave_node())
    order = place(shop, "A", {"SKU-0": 1})
    wait_until(shop, "2026-11-30T14:00")
    assert states(shop, [order]) == ["allocated"]
    switch(shop.core, 0, a_wave_node("15:30"))
    wait_until(shop, "2026-11-30T15:29")
    assert states(shop, [order]) == ["allocated"]
    wait_until(shop, "2026-11-30T15:30")
    assert states(shop, [order]) == ["released"]


def test_times_of_a_changed_schedule_that_have_passed_were_not_missed() -> None:
    fields: dict[str, Any] = {"cut_off": "23:00", "working_days": (0, 1, 2, 3, 4, 5, 6)}
    shop = a_wave_shop(cut_off="23:00")
    wait_until(shop, "2026-12-01T15:00")
    order = place(shop, "A", {"SKU-0": 1})
    switch(shop.core, 0, a_wave_node("14:00", "18:00", **fields))
    shop.pass_time(1_000)
    assert states(shop, [order]) == ["allocated"]
    switch(shop.core, 0, a_wave_node(**fields))
    wait_until(shop, "2026-12-01T16:00")
    switch(shop.core, 0, a_wave_node("15:30", "18:00", **fields))
    wait_until(shop, "2026-12-01T17:59")
    assert states(shop, [order]) == ["allocated"]
    wait_until(shop, "2026-12-01T18:00")
    assert states(shop, [order]) == ["released"]


def test_a_deadline_begins_with_the_wave() -> None:
    shop = a_wave_shop(acceptance_deadline_s=600)
    receive(shop, "N-1", {"SKU-0": 5})
    order = place(shop, "A", {"SKU-0": 1}, ship_to=a_destination("01001"))
    wait_until(shop, "2026-11-30T09:00")
    (leg,) = now(shop, order).legs
    assert (leg.state, leg.accept_by_ms) == ("released", at("2026-11-30T09:10"))
    wait_until(shop, "2026-11-30T09:10")
    assert [leg.node_id for leg in now(shop, order).legs] == ["N-0", "N-1"]


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_homes_release_their_own_legs_wherever_the_node_is(shards: int) -> None:
    cluster = a_cluster(shards, units=3)
    for core in cluster.cores:
        core.catalog.nodes = [
            replace(node, waves=["15:00"], working_days=(0, 1, 2, 3, 4, 5, 6)) if node else None
            for node in core.catalog.nodes
        ]
        core.catalog.version += 1
    cluster.settle()
    slots = [f"{shard * 1_000 // shards + 10:03d}01" for shard in range(shards)]
    orders = []
    for shard, code in enumerate(slots):
        cluster.ask(shard, AdjustStock(f"N-{shard}", (StockMove("SKU-0", "received", 1),)))
        order = an_order(f"A-{shard}", {"SKU-0": 2}, ship_to=a_destination(code), max_legs=4)
        placed = cluster.ask(shard, a_place(order))
        assert isinstance(placed, OrderView), placed
        orders.append((shard, placed))
    cluster.now_ms += DAY_MS
    cluster.settle()
    for shard, placed in orders:
        found = cluster.ask(shard, GetOrder(placed.slot, placed.order_no))
        assert isinstance(found, OrderView)
        assert {leg.state for leg in found.legs} == {"released"}
    cluster.now_ms += 3_000
    cluster.settle()
    check(cluster)


# -- split orders, before the wave ----------------------------------------------------------------------------------


def a_split_order(shop: LoneCore) -> OrderView:
    """Over both nodes: N-0 had two units when it came."""
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "damaged", 998),)))
    receive(shop, "N-1", {"SKU-0": 2})
    order = place(shop, "split", {"SKU-0": 4})
    assert live(order) == {"N-0": 2, "N-1": 2}
    return order


def test_a_split_order_is_planned_again_before_the_wave_that_would_release_it() -> None:
    shop = a_wave_shop()
    order = a_split_order(shop)
    receive(shop, "N-0", {"SKU-0": 2})
    wait_until(shop, "2026-11-30T08:58:59")
    assert live(now(shop, order)) == {"N-0": 2, "N-1": 2}
    wait_until(shop, "2026-11-30T08:59:00")
    better = now(shop, order)
    assert live(better) == {"N-0": 4}
    assert (better.cost_minor, better.decision) == (100, order.decision + 1)
    assert {leg.end_reason for leg in better.legs if leg.state == "cancelled"} == {"improved"}
    wait_until(shop, "2026-11-30T09:00")
    assert [leg.state for leg in now(shop, order).legs if leg.node_id == "N-0" and leg.lines] == ["released"]
    shop.check_recovery({})


@pytest.mark.parametrize("what", ["no_stock", "released", "on_the_way"])
def test_an_order_that_cannot_be_served_for_less_stays_as_it_is(what: str) -> None:
    shop = a_wave_shop()
    order = a_split_order(shop)
    if what != "no_stock":
        receive(shop, "N-0", {"SKU-0": 2})
    if what == "released":
        shop.ask(ActOnLeg(order.slot, order.order_no, 1, "release"))
    if what == "on_the_way":
        for action in ("release", "ship"):
            shop.ask(ActOnLeg(order.slot, order.order_no, 2, action))
    before = now(shop, order)
    wait_until(shop, "2026-11-30T08:59:30")
    assert now(shop, order).version == before.version


def test_legs_that_have_left_hide_no_split_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(improving, "LOOKS_MAX", 3)
    shop = a_wave_shop()
    for n in range(3):
        gone = place(shop, f"gone-{n}", {"SKU-0": 1})
        for action in ("release", "ship"):
            shop.ask(ActOnLeg(gone.slot, gone.order_no, 1, action))
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "damaged", 995),)))
    receive(shop, "N-1", {"SKU-0": 2})
    order = place(shop, "split", {"SKU-0": 4})
    assert live(order) == {"N-0": 2, "N-1": 2}
    receive(shop, "N-0", {"SKU-0": 2})
    wait_until(shop, "2026-11-30T08:59:01")
    assert live(now(shop, order)) == {"N-0": 4}


def test_nodes_with_a_wave_at_the_same_minute_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[tuple[int, int]] = []

    def note(core: Any, node: int, *, now_ms: int) -> None:
        looked.append((now_ms, node))

    monkeypatch.setattr(waves, "improve", note)
    nodes = [a_node(f"N-{n}", time_zone="America/New_York", waves=["09:00"]) for n in range(3)]
    shop = a_shop({}, nodes=nodes)
    shop.now_ms = at("2026-11-30T07:00")
    shop.settle()
    shop.now_ms = at("2026-11-30T08:59")
    effects = shop.poll()
    assert len(looked) == 1 and effects.wake_at_ms == shop.now_ms + 1
    shop.pass_time(1)
    shop.pass_time(1)
    assert sorted(node for _, node in looked) == [0, 1, 2]


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_split_orders_are_joined_over_shards(shards: int) -> None:
    cluster = a_cluster(shards, units=1)
    placed = cluster.ask(0, a_place(an_order("A", {"SKU-0": 4}, max_legs=4)))
    assert isinstance(placed, OrderView) and len(live(placed)) == 4
    for core in cluster.cores:
        core.catalog.nodes = [
            replace(node, waves=["15:00"], working_days=(0, 1, 2, 3, 4, 5, 6)) if node else None
            for node in core.catalog.nodes
        ]
        core.catalog.version += 1
    cluster.ask(1 % shards, AdjustStock("N-1", (StockMove("SKU-0", "received", 2),)))
    cluster.now_ms += 100
    cluster.settle()
    node = cluster.cores[0].catalog.nodes[0]
    assert node is not None
    wave_ms = next_wave(node, cluster.now_ms)
    assert wave_ms is not None and wave_ms > cluster.now_ms + 60_000
    cluster.now_ms = wave_ms - 50_000
    cluster.settle()
    joined = cluster.ask(0, GetOrder(placed.slot, placed.order_no))
    assert isinstance(joined, OrderView)
    assert live(joined) == {"N-0": 1, "N-1": 3}
    assert {leg.state for leg in joined.legs if leg.lines} == {"allocated"}
    cluster.now_ms += 3_000
    cluster.settle()
    check(cluster)


# -- split orders, together -----------------------------------------------------------------------------------------


class LaterTogether(GreedyPlanner):
    """Of orders that are planned together the last one is promised a day later."""

    def plan(self, requests: Sequence[PlanRequest], *, now_ms: int) -> list[Plan]:
        plans = super().plan(requests, now_ms=now_ms)
        if len(plans) > 1:
            ship_by_ms, deliver_by_ms = plans[-1].promise_ms
            plans[-1] = replace(plans[-1], promise_ms=(ship_by_ms + DAY_MS, deliver_by_ms + DAY_MS))
        return plans


def a_crossed_shop(**options: Any) -> tuple[LoneCore, OrderView, OrderView]:
    """Two orders, each over both nodes: what one has at N-1 the other would need there, and the other way round."""
    nodes = [
        a_wave_node("09:00", working_days=(0, 1, 2, 3, 4, 5, 6)),
        *[a_node(f"N-{n}", postal_code="01001", lat=60.0) for n in (1, 2)],
    ]
    shop = LoneCore(a_network(nodes=nodes, items=3), **options)
    shop.now_ms = at("2026-11-30T07:00")
    receive(shop, "N-0", {"SKU-0": 1})
    receive(shop, "N-1", {"SKU-1": 1})
    first = place(shop, "first", {"SKU-0": 1, "SKU-1": 1})
    receive(shop, "N-0", {"SKU-1": 1})
    receive(shop, "N-1", {"SKU-0": 1})
    second = place(shop, "second", {"SKU-0": 1, "SKU-1": 1})
    assert [live(order) for order in (first, second)] == [{"N-0": 1, "N-1": 1}] * 2
    return shop, first, second


def improved(shop: LoneCore, since: int) -> list[list[tuple[int, int]]]:
    """(order number, version) of the records that entries put, by entry."""
    found = []
    for entry in shop.entries[since:]:
        puts = [event for event in _events.decode(entry.payload) if isinstance(event, OrderPut)]
        assert {event.cause for event in puts} <= {Cause.REPLANNED}
        found.append([(event.order_no, decode_record(event.record).version) for event in puts])
    return [puts for puts in found if puts]


def check_books_of(shop: LoneCore) -> None:
    """The journal as the auditor reads it shows what the shard shows."""
    books = Books()
    for entry in shop.entries:
        for _ in books.apply(entry.seq, entry.time_ms, entry.payload):
            pass
    check_books([shop.core], {shop.shard: books})


def test_two_orders_that_hold_what_the_other_needs_are_joined_in_one_entry() -> None:
    shop, first, second = a_crossed_shop()
    since = len(shop.entries)
    wait_until(shop, "2026-11-30T08:59:00")
    orders = [now(shop, order) for order in (first, second)]
    assert [live(order) for order in orders] == [{"N-0": 2}, {"N-1": 2}]
    assert [order.cost_minor for order in orders] == [100, 100]
    (puts,) = improved(shop, since)
    assert puts == [(first.order_no, 2), (second.order_no, 2), (first.order_no, 3)], "one lets go of its legs first"
    assert [after.decision - before.decision for after, before in zip(orders, (first, second), strict=True)] == [1, 1]
    assert shop.core.counts["orders_improved"] == 2
    check_books_of(shop)
    shop.check_recovery({})
    del shop.entries[since:]
    older = shop.recovered_from({}).state
    for order in (first, second):
        record = older.order(order.slot, order.order_no)
        assert record is not None and record.version == 1, "without that entry neither of them has changed"


def test_who_needs_what_another_one_gives_up_comes_after_it() -> None:
    shop = LoneCore(a_network(nodes=[a_wave_node("09:00"), a_node("N-1", postal_code="01001", lat=60.0)], items=3))
    shop.now_ms = at("2026-11-30T07:00")
    receive(shop, "N-0", {"SKU-0": 1})
    receive(shop, "N-1", {"SKU-1": 1})
    first = place(shop, "first", {"SKU-0": 1, "SKU-1": 1})
    receive(shop, "N-0", {"SKU-1": 1})
    receive(shop, "N-1", {"SKU-2": 1})
    second = place(shop, "second", {"SKU-1": 1, "SKU-2": 1})
    receive(shop, "N-1", {"SKU-1": 1})
    since = len(shop.entries)
    wait_until(shop, "2026-11-30T08:59:00")
    assert [live(now(shop, order)) for order in (first, second)] == [{"N-0": 2}, {"N-1": 2}]
    assert improved(shop, since) == [[(second.order_no, 2), (first.order_no, 2)]]
    check_books_of(shop)


def test_an_order_that_would_be_later_keeps_everything_as_it_was() -> None:
    shop, first, second = a_crossed_shop(make_planner=LaterTogether)
    since = len(shop.entries)
    wait_until(shop, "2026-11-30T08:59:30")
    assert not improved(shop, since)
    assert [now(shop, order).version for order in (first, second)] == [1, 1]


def test_an_order_that_stays_as_it_is_gets_no_event() -> None:
    shop, first, second = a_crossed_shop()
    receive(shop, "N-0", {"SKU-2": 1})
    receive(shop, "N-2", {"SKU-2": 1})
    stays = place(shop, "stays", {"SKU-2": 2})
    since = len(shop.entries)
    wait_until(shop, "2026-11-30T08:59:00")
    (puts,) = improved(shop, since)
    assert {order_no for order_no, _ in puts} == {first.order_no, second.order_no}
    assert now(shop, stays).version == 1


def test_an_order_that_would_be_later_is_nothing_to_those_that_share_nothing_with_it() -> None:
    shop, first, second = a_crossed_shop(make_planner=LaterTogether)
    receive(shop, "N-0", {"SKU-2": 1})
    receive(shop, "N-2", {"SKU-2": 1})
    place(shop, "later", {"SKU-2": 2})
    receive(shop, "N-0", {"SKU-2": 1})
    wait_until(shop, "2026-11-30T08:59:00")
    assert [live(now(shop, order)) for order in (first, second)] == [{"N-0": 2}, {"N-1": 2}]


def test_what_somebody_waits_for_is_not_exchanged() -> None:
    shop, first, second = a_crossed_shop()
    place(shop, "waits", {"SKU-0": 9}, on_short=OnShort.PARK)
    wait_until(shop, "2026-11-30T08:59:30")
    assert [now(shop, order).version for order in (first, second)] == [1, 1]


@pytest.mark.parametrize("per_day", [0, 3])
@pytest.mark.parametrize("seed", range(20))
def test_together_or_alone_every_unit_stays_promised_and_none_costs_more(seed: int, per_day: int) -> None:
    rng = Random(seed)
    limit = {"capacity": NodeCapacity(unit="orders", per_day=per_day, hard=True)} if per_day else {}
    nodes = [a_wave_node("09:00", working_days=(0, 1, 2, 3, 4, 5, 6), **limit)]
    nodes += [a_node(f"N-{n}", postal_code="01001", **limit) for n in range(1, 4)]
    shop = LoneCore(a_network(nodes=nodes, items=3))
    shop.now_ms = at("2026-11-30T07:00")
    orders = []
    for n in range(12):
        for _ in range(2):
            receive(shop, f"N-{rng.randrange(4)}", {f"SKU-{rng.randrange(3)}": rng.randint(1, 2)})
        wanted = {f"SKU-{item}": rng.randint(1, 2) for item in rng.sample(range(3), 2)}
        placed = shop.ask(a_place(an_order(f"A-{n}", wanted, max_legs=4, priority=rng.randrange(2))))
        if isinstance(placed, OrderView):
            orders.append(placed)
    before = [now(shop, order) for order in orders]
    wait_until(shop, "2026-11-30T08:59:30")
    after = [now(shop, order) for order in orders]
    assert [sum(live(order).values()) for order in after] == [sum(live(order).values()) for order in before]
    assert sum(order.cost_minor for order in after) <= sum(order.cost_minor for order in before)
    check_books_of(shop)
    shop.check_recovery({})


@pytest.mark.parametrize(
    ("orders", "cheaper"),
    [
        ([("USD", 500, 400, 0)], True),
        ([("USD", 500, 500, 0)], False),
        ([("USD", 500, 300, 0), ("USD", 500, 600, 0)], True),
        ([("USD", 500, 400, 0), ("USD", 500, 600, 0)], False),
        ([("JPY", 900, 100, 0), ("USD", 500, 501, 0)], False),
        ([("JPY", 900, 100, 0), ("USD", 500, 500, 0)], True),
        ([("USD", 900, 100, 1), ("USD", 500, 501, 0)], False),
        ([("USD", 900, 100, 1), ("USD", 500, 499, 0)], True),
    ],
    ids=["less", "the same", "in sum", "not in sum", "of two currencies", "of one of them", "cancelled", "without it"],
)
def test_a_group_is_cheaper_by_what_can_be_compared(orders: list[tuple[str, int, int, int]], cheaper: bool) -> None:
    """An order that units were cancelled of is booked at what they cost too: what it seems to save pays for nobody."""
    group: list[Any] = []
    for currency, was_minor, would_be_minor, cancelled in orders:
        lines = [SimpleNamespace(cancelled=cancelled)]
        record: Any = SimpleNamespace(currency=currency, money_minor=(was_minor, 0, 0, 0), lines=lines)
        better: Any = SimpleNamespace(whole=SimpleNamespace(money_minor=(would_be_minor, 0, 0, 0)))
        group.append(improving._Part(better, record, Plan([], [])))
    assert improving._is_cheaper(group) is cheaper


def asked_together(**options: Any) -> tuple[LoneCore, OrderView, OrderView]:
    """The two crossed orders while the solver has them. Its plans prefer high nodes, greedy ones low nodes."""
    shop, first, second = a_crossed_shop(make_planner=CollidingPlanner, solver_deadline_ms=40, **options)
    wait_until(shop, "2026-11-30T08:59:00")
    return shop, first, second


@pytest.mark.parametrize("answers", [True, False])
def test_the_solver_is_asked_about_orders_that_collide(answers: bool) -> None:
    shop, first, second = asked_together(solver_in_flight_max=1)
    (solve,) = shop.solves
    assert [now(shop, order).version for order in (first, second)] == [1, 1]
    assert not shop.state.positions.claimed.any()
    since = len(shop.entries)
    if answers:
        shop.core.solved(solve.component, b"better", now_ms=shop.now_ms)
        shop.settle()
    else:
        shop.pass_time(40)
    nodes = ["N-1", "N-0"] if answers else ["N-0", "N-1"]
    assert [live(now(shop, order)) for order in (first, second)] == [{node: 2} for node in nodes]
    assert len(improved(shop, since)) == 1
    check_books_of(shop)


def test_without_room_at_the_solver_the_greedy_plans_count() -> None:
    shop, first, second = asked_together(solver_in_flight_max=0)
    assert not shop.solves
    assert [live(now(shop, order)) for order in (first, second)] == [{"N-0": 2}, {"N-1": 2}]


@pytest.mark.parametrize("what", ["changed", "taken", "waited_for", "configured"])
def test_what_changed_while_the_solver_was_asked_stays_as_it_has_become(what: str) -> None:
    shop, first, second = a_crossed_shop(make_planner=CollidingPlanner, solver_deadline_ms=40, solver_in_flight_max=1)
    if what == "taken":
        receive(shop, "N-2", {"SKU-0": 1, "SKU-1": 1})  # where the solver sends the first of them
    wait_until(shop, "2026-11-30T08:59:00")
    if what == "changed":
        shop.ask(ActOnLeg(second.slot, second.order_no, 1, "release"))
    if what == "taken":
        assert live(place(shop, "takes", {"SKU-0": 1})) == {"N-2": 1}
    if what == "waited_for":
        place(shop, "waits", {"SKU-0": 9}, on_short=OnShort.PARK)
    if what == "configured":
        shop.put(a_node("N-2", postal_code="01001", lat=60.0, state="drain"))
    before = [now(shop, order).version for order in (first, second)]
    shop.core.solved(shop.solves[0].component, b"better", now_ms=shop.now_ms)
    shop.settle()
    assert [now(shop, order).version for order in (first, second)] == before
    check_books_of(shop)
