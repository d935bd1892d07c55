"""Waiting demand: planned again when something comes back, foremost first, and not overtaken by those who come later."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from engine.domain import demand
from engine.domain.commands import (
    ActOnLeg,
    AdjustStock,
    CancelDemand,
    CancelOrder,
    CommitHold,
    CountStock,
    EditOrder,
    GetOrder,
    ReleaseHold,
    SetPosition,
    StockMove,
)
from engine.domain.config import NodeCapacity
from engine.domain.orders import DemandRecord, Destination, LineRecord, Method, OnShort, OrderRecord, OrderState
from engine.domain.replies import OrderView, Problem
from engine.protocol.demand_queue import ATTEMPTS_PER_POLL, PATIENT_MISSES, REFUSED_RETRY_MS
from engine.protocol.view_feed import PUSH_INTERVAL_MS
from tests.builders import (
    NOW_MS,
    a_channel,
    a_destination,
    a_line,
    a_network,
    a_node,
    a_place,
    an_item,
    an_order,
    as_docs,
)
from tests.sim.little_cluster import LittleCluster
from tests.sim.lone_core import LoneCore
from tests.unit.test_resourcing import switch

DAY_MS = 86_400_000


def a_shop(stock: dict[str, dict[str, int]] | None = None, **network: Any) -> LoneCore:
    network.setdefault("nodes", 2)
    network.setdefault("items", 3)
    shop = LoneCore(a_network(**network))
    for node, units in (stock or {}).items():
        receive(shop, node, units)
    return shop


def receive(shop: LoneCore, node: str, units: dict[str, int]) -> None:
    moves = tuple(StockMove(sku, "received", quantity) for sku, quantity in units.items())
    assert not isinstance(shop.ask(AdjustStock(node, moves)), Problem)
    shop.pass_time(1)


def park(shop: LoneCore, order_id: str, lines: Any, **fields: Any) -> OrderView:
    fields.setdefault("on_short", OnShort.PARK)
    view = shop.ask(a_place(an_order(order_id, lines, **fields)))
    assert isinstance(view, OrderView), view
    return view


def state_of(shop: LoneCore, view: OrderView) -> str:
    return str(now(shop, view).state)


def now(shop: LoneCore, view: OrderView) -> OrderView:
    found = shop.ask(GetOrder(view.slot, view.order_no))
    assert isinstance(found, OrderView)
    return found


def tried(shop: LoneCore) -> int:
    return shop.core.counts["demand_tried"]


def test_the_clock_alone_gives_an_order_no_more_legs() -> None:
    """It was planned when it came; it is planned again when something comes back."""
    shop = a_shop({"N-0": {"SKU-0": 1}, "N-1": {"SKU-0": 1}})
    order = park(shop, "P-1", {"SKU-0": 3})
    before = tried(shop)
    shop.pass_time(10_000)
    assert tried(shop) == before
    receive(shop, "N-1", {"SKU-0": 1})
    assert now(shop, order).state == "allocated"


def test_waiting_is_no_way_around_the_most_legs_an_order_may_have() -> None:
    shop = a_shop()
    order = park(shop, "P-1", {"SKU-0": 2}, max_legs=1)
    receive(shop, "N-1", {"SKU-0": 1})
    assert len(now(shop, order).legs) == 1
    receive(shop, "N-0", {"SKU-0": 1})
    shop.pass_time(60_000)
    assert (len(now(shop, order).legs), state_of(shop, order)) == (1, "partially_allocated")
    for action in ("release", "accept", "pick", "ship"):
        assert not isinstance(shop.ask(ActOnLeg(order.slot, order.order_no, 1, action)), Problem)
    shop.pass_time(20 * 60_000)
    assert [leg.node_id for leg in now(shop, order).legs] == ["N-1", "N-0"]


# -- what wakes it ------------------------------------------------------------------------------------------------


def test_a_parked_order_is_served_when_its_item_is_received() -> None:
    shop = a_shop()
    order = park(shop, "P-1", {"SKU-0": 2})
    assert order.state == "parked"
    receive(shop, "N-1", {"SKU-0": 1})
    half = now(shop, order)
    assert (half.state, half.unfilled[0].quantity, half.unfilled[0].demand_no) == ("partially_allocated", 1, 0)
    receive(shop, "N-0", {"SKU-0": 5})
    whole = now(shop, order)
    assert (whole.state, whole.unfilled, [leg.node_id for leg in whole.legs]) == ("allocated", (), ["N-1", "N-0"])
    assert not shop.core.demand.entries and not shop.core.demand.by_item and not shop.state.kept


def test_the_rest_of_a_partial_order_waits_as_a_parked_one_does() -> None:
    shop = a_shop({"N-0": {"SKU-0": 1}})
    order = park(shop, "P-1", {"SKU-0": 3}, on_short=OnShort.PARTIAL)
    assert order.state == "partially_allocated"
    receive(shop, "N-0", {"SKU-0": 2})
    assert state_of(shop, order) == "allocated"


def test_a_count_a_release_an_expiry_a_cancellation_and_a_rejection_wake_it() -> None:
    def count(shop: LoneCore) -> None:
        shop.ask(CountStock("N-0", "wms", shop.now_ms, 1, "delta", (("SKU-0", 4),)))

    def release(shop: LoneCore) -> None:
        shop.ask(ReleaseHold(held.slot, held.order_no))

    def expire(shop: LoneCore) -> None:
        shop.pass_time(61_000)

    def cancel(shop: LoneCore) -> None:
        shop.ask(CancelOrder(sold.slot, sold.order_no))

    def reject(shop: LoneCore) -> None:
        shop.ask(ActOnLeg(sold.slot, sold.order_no, 1, "reject"))

    def safety(shop: LoneCore) -> None:
        shop.ask(SetPosition("N-1", (("SKU-0", 0, "counted", 0, 0),)))

    for wake in (count, release, expire, cancel, reject, safety):
        shop = a_shop({"N-0": {"SKU-0": 2}, "N-1": {"SKU-0": 1}})
        shop.ask(SetPosition("N-1", (("SKU-0", 1, "counted", 0, 0),)))
        held = shop.ask(a_place(an_order("H-1", {"SKU-0": 1}), ttl_s=60))
        sold = shop.ask(a_place(an_order("S-1", {"SKU-0": 1})))
        order = park(shop, "P-1", {"SKU-0": 1})
        assert order.state == "parked", wake.__name__
        wake(shop)
        shop.pass_time(1)
        assert state_of(shop, order) == "allocated", wake.__name__


def test_units_of_other_items_wake_nobody() -> None:
    shop = a_shop({"N-0": {"SKU-0": 2}})
    park(shop, "P-1", {"SKU-1": 1})
    shop.pass_time(600_000)
    before = tried(shop)
    for n in range(5):
        receive(shop, "N-0", {"SKU-0": 1, "SKU-2": 1})
        shop.ask(a_place(an_order(f"S-{n}", {"SKU-0": 1})))
    assert tried(shop) == before


def test_a_node_that_is_switched_on_wakes_everybody() -> None:
    shop = a_shop({"N-1": {"SKU-0": 3}}, nodes=[a_node("N-0"), a_node("N-1", state="off")])
    order = park(shop, "P-1", {"SKU-0": 2})
    assert order.state == "parked"
    shop.documents = [d if getattr(d, "node_id", "") != "N-1" else a_node("N-1") for d in shop.documents]
    docs_version = shop.catalog.network_version

    shop.core.configure(as_docs(shop.documents, first_version=docs_version + 1), docs_version + len(shop.documents))
    shop.pass_time(1)
    shop.pass_time(2_000)
    assert state_of(shop, order) == "allocated"


def test_a_new_ship_day_brings_capacity_back() -> None:
    node = a_node("N-0", capacity=NodeCapacity(unit="orders", per_day=1))
    shop = a_shop({"N-0": {"SKU-0": 9}}, nodes=[node])
    for n in range(3):
        shop.ask(a_place(an_order(f"S-{n}", {"SKU-0": 1})))
    order = park(shop, "P-1", {"SKU-0": 1})
    assert (order.state, order.unfilled[0].reason) == ("parked", "capacity")
    shop.pass_time(DAY_MS)
    shop.pass_time(120_000)
    assert state_of(shop, order) == "allocated"


def test_capacity_given_back_is_used_at_once() -> None:
    node = a_node("N-0", capacity=NodeCapacity(unit="orders", per_day=1))
    shop = a_shop({"N-0": {"SKU-0": 9}}, nodes=[node])
    sold = [shop.ask(a_place(an_order(f"S-{n}", {"SKU-0": 1}))) for n in range(3)]
    order = park(shop, "P-1", {"SKU-0": 1})
    shop.pass_time(2_000)
    shop.ask(CancelOrder(sold[1].slot, sold[1].order_no))
    shop.pass_time(1)
    assert state_of(shop, order) == "allocated"


def test_a_hold_waits_only_once_it_is_committed() -> None:
    shop = a_shop()
    held = shop.ask(a_place(an_order("H-1", {"SKU-0": 1}, on_short=OnShort.PARK), ttl_s=600))
    receive(shop, "N-0", {"SKU-0": 1})
    assert state_of(shop, held) == "held"
    assert shop.ask(CommitHold(held.slot, held.order_no)).state == "parked"
    shop.pass_time(1_500)
    assert state_of(shop, held) == "allocated"


def test_a_restart_takes_up_what_waits() -> None:
    shop = a_shop()
    order = park(shop, "P-1", {"SKU-0": 1})
    core = shop.recovered_from({})
    assert list(core.demand.entries) == [order.order_no]
    assert core.demand.by_item == shop.core.demand.by_item
    assert core.demand.wake_at_ms(shop.now_ms) is not None


# -- bounded ------------------------------------------------------------------------------------------------------


def test_a_batch_plans_a_few_of_many_and_the_rest_in_the_next_ones() -> None:
    shop = a_shop()
    orders = [park(shop, f"P-{n}", {"SKU-0": 1}) for n in range(3 * ATTEMPTS_PER_POLL)]
    corr = shop.send(AdjustStock("N-0", (StockMove("SKU-0", "received", len(orders)),)))
    for turn in range(4):
        shop.poll()
        assert shop.core.counts["replanned"] == turn * ATTEMPTS_PER_POLL
        if turn == 1:
            assert corr in shop.replies
    shop.settle()
    assert {state_of(shop, order) for order in orders} == {"allocated"}


def test_who_cannot_be_served_is_tried_less_and_less_often() -> None:
    shop = a_shop({"N-1": {"SKU-0": 1}}, nodes=[a_node("N-0", offers=("pickup",)), a_node("N-1")])
    line = a_line("SKU-0", 1, method=1, pickup_node_id="N-0")
    order = park(shop, "P-1", [line])
    for _ in range(200):
        receive(shop, "N-1", {"SKU-0": 1})
    assert state_of(shop, order) == "parked"
    assert tried(shop) < 12


# -- who is first -------------------------------------------------------------------------------------------------


def test_the_foremost_is_served_first_and_the_rest_in_their_order() -> None:
    shop = a_shop()
    plain = park(shop, "plain", {"SKU-0": 1})
    shop.pass_time(1_000)
    dear = park(shop, "dear", [a_line("SKU-0", 1, unit_price_minor=1_000_000)])
    urgent = park(shop, "urgent", {"SKU-0": 1}, priority=3)
    for expected in (urgent, dear, plain):
        receive(shop, "N-0", {"SKU-0": 1})
        waiting = [o for o in (plain, dear, urgent) if state_of(shop, o) == "parked"]
        assert expected not in waiting
        assert len(waiting) == [urgent, dear, plain][::-1].index(expected)


def test_a_priority_level_is_worth_a_day_so_age_wins_in_the_end() -> None:
    day = demand.PRIORITY_STEP_MS
    assert demand.rank_of(NOW_MS, 0, 0) < demand.rank_of(NOW_MS + 2 * day, 1, 0)
    assert demand.rank_of(NOW_MS, 0, 0) > demand.rank_of(NOW_MS + day // 2, 1, 0)
    assert demand.rank_of(NOW_MS, 0, 1 << 60) == NOW_MS - demand.VALUE_MS_MAX


def test_received_units_are_kept_for_those_who_wait() -> None:
    shop = a_shop()
    order = park(shop, "P-1", {"SKU-0": 2})
    move = shop.send(AdjustStock("N-0", (StockMove("SKU-0", "received", 2),)))
    snatcher = shop.send(a_place(an_order("S-1", {"SKU-0": 1})))
    shop.settle()
    assert shop.replies[move][0].positions[0].available_to_promise == 0
    assert shop.replies[snatcher][0].code == "out_of_stock"
    shop.pass_time(1)
    assert state_of(shop, order) == "allocated"


def test_what_is_left_over_is_for_sale() -> None:
    shop = a_shop()
    park(shop, "P-1", {"SKU-0": 2})
    shop.send(AdjustStock("N-0", (StockMove("SKU-0", "received", 5),)))
    taken = shop.send(a_place(an_order("S-1", {"SKU-0": 3})))
    shop.settle()
    assert isinstance(shop.replies[taken][0], OrderView)


def test_a_higher_order_takes_what_a_lower_one_waits_for() -> None:
    shop = a_shop()
    order = park(shop, "P-1", {"SKU-0": 2})
    shop.send(AdjustStock("N-0", (StockMove("SKU-0", "received", 2),)))
    higher = shop.send(a_place(an_order("S-1", {"SKU-0": 2}, priority=5)))
    shop.settle()
    assert isinstance(shop.replies[higher][0], OrderView)
    assert state_of(shop, order) == "parked"


def test_a_line_that_may_not_be_split_collects_until_it_is_whole() -> None:
    shop = a_shop()
    big = park(shop, "big", [a_line("SKU-0", 4, group="g")])
    for n in range(4):
        receive(shop, "N-0", {"SKU-0": 1})
        shop.pass_time(700)
        if n < 3:
            reply = shop.ask(a_place(an_order(f"S-{n}", {"SKU-0": 1})))
            assert isinstance(reply, Problem), f"round {n}: a later order took what the first collects"
    shop.pass_time(20_000)
    assert state_of(shop, big) == "allocated"
    assert not shop.state.kept


def test_a_node_that_cannot_serve_it_keeps_nothing_for_it() -> None:
    shop = a_shop({"N-1": {"SKU-0": 2}}, nodes=[a_node("N-0", offers=("pickup",)), a_node("N-1")])
    park(shop, "P-1", [a_line("SKU-0", 1, method=1, pickup_node_id="N-0")])
    receive(shop, "N-1", {"SKU-0": 1})
    shop.pass_time(20_000)
    assert isinstance(shop.ask(a_place(an_order("S-1", {"SKU-0": 3}))), OrderView)


def test_kept_units_never_make_a_position_short() -> None:
    shop = a_shop()
    park(shop, "big", [a_line("SKU-0", 5, group="g")])
    receive(shop, "N-0", {"SKU-0": 3})
    shop.pass_time(5_000)
    assert shop.state.kept
    reply = shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "damaged", 2),)))
    assert (reply.positions[0].short_by, reply.positions[0].available_to_promise) == (0, 0)


def test_a_kit_waits_for_all_of_its_parts() -> None:
    shop = a_shop(items=[an_item("A"), an_item("B"), an_item("KIT", components={"A": 1, "B": 2})])
    order = park(shop, "K-1", {"KIT": 1})
    receive(shop, "N-0", {"A": 1})
    assert state_of(shop, order) == "parked"
    receive(shop, "N-1", {"A": 1, "B": 2})
    shop.pass_time(5_000)
    assert state_of(shop, order) == "allocated"


def test_who_is_refused_by_another_shard_is_tried_now_and_then_and_served_in_the_end() -> None:
    """An owner that has heard of a drained node before the home has: no numbers tell the home that it asks in vain."""
    cluster = LittleCluster(shards=2, nodes=2)
    order = cluster.ask(0, a_place(an_order("P-1", {"SKU-0": 2}, on_short=OnShort.PARK)))
    assert isinstance(order, OrderView)
    home, owner = cluster.cores
    node = owner.catalog.nodes[1]
    assert node is not None
    switch(owner, 1, replace(node, state="drain"))
    cluster.send(1, AdjustStock("N-1", (StockMove("SKU-0", "received", 5),)))

    def pass_time(ms: int) -> None:
        for _ in range(ms // 10):
            cluster.now_ms += 10
            cluster.step()

    pass_time(2 * REFUSED_RETRY_MS)
    assert PATIENT_MISSES < home.counts["demand_tried"] <= PATIENT_MISSES + 3
    switch(owner, 1, node)
    pass_time(REFUSED_RETRY_MS + 200)
    assert home.state.open_orders and not home.demand.entries


# -- beside what needs no stock -----------------------------------------------------------------------------------


def expire(shop: LoneCore, order: OrderView) -> None:
    shop.pass_time(61_000)


def cancel_demand(shop: LoneCore, order: OrderView) -> None:
    shop.ask(CancelDemand(order.slot, order.order_no, 0))


def cancel_line(shop: LoneCore, order: OrderView) -> None:
    shop.ask(CancelOrder(order.slot, order.order_no, (("1", 1),)))


def remove_line(shop: LoneCore, order: OrderView) -> None:
    shop.ask(EditOrder(order.slot, order.order_no, removed=("1",)))


@pytest.mark.parametrize("method", [Method.SHIP, Method.DIGITAL])
@pytest.mark.parametrize("end", [expire, cancel_demand, cancel_line, remove_line])
def test_an_order_whose_other_lines_need_no_stock_outlasts_the_line_that_waits(end: Any, method: int) -> None:
    items = [an_item("SKU-0"), an_item("CODE", tracked=False)]
    shop = a_shop(items=items, channel=a_channel(auto_cancel_s=60))
    order = park(shop, "P-1", [a_line("SKU-0"), a_line("CODE", line_id="2", method=method)])
    end(shop, order)
    assert (now(shop, order).state, [line.cancelled for line in now(shop, order).lines]) == ("allocated", [1, 0])
    assert shop.ask(CancelOrder(order.slot, order.order_no)).state == "cancelled"
    shop.check_recovery({})


def test_a_kit_that_is_given_up_takes_its_components_along_that_need_no_stock() -> None:
    items = [an_item("A"), an_item("CARD", tracked=False), an_item("KIT", components={"A": 2, "CARD": 1})]
    shop = a_shop(items=items)
    order = park(shop, "K-1", {"KIT": 3})
    ended = shop.ask(CancelDemand(order.slot, order.order_no, 0))
    assert (ended.state, ended.lines[0].cancelled) == ("cancelled", 3)


# -- rules on records ---------------------------------------------------------------------------------------------


def a_record(*demands: DemandRecord, **fields: Any) -> OrderRecord:
    lines = [LineRecord("1", 0, 5, 100), LineRecord("2", 1, 5, 100)]
    return OrderRecord(
        "A-1", 0, "standard", OrderState.COMMITTED, 0, 1, None, lines, [], demand=list(demands), **fields
    )


def test_demand_is_cancelled_by_line_and_an_empty_order_with_it() -> None:
    record = a_record(DemandRecord(0, 5, "out_of_stock", 1, True), DemandRecord(1, 5, "out_of_stock", 1, True))
    assert isinstance(demand.cancel(record, 3), Problem)
    assert not isinstance(demand.cancel(record, 1), Problem)
    assert (record.lines[1].cancelled, record.state) == (5, OrderState.COMMITTED)
    assert not isinstance(demand.cancel(record, 0), Problem)
    assert record.state == OrderState.CANCELLED


def test_demand_expires_at_its_own_date() -> None:
    record = a_record(DemandRecord(0, 5, "x", 1, True, 50), DemandRecord(1, 5, "x", 1, True, 60))
    assert demand.expire(record, now_ms=49) is None
    assert demand.expire(record, now_ms=50) is not None
    assert [d.line for d in record.demand] == [1]


def test_units_of_a_line_that_waited_longer_end_alone_but_a_kit_s_together() -> None:
    record = a_record(DemandRecord(0, 1, "x", 1, True, 50), DemandRecord(0, 2, "rejected", 30, True, 80))
    assert demand.expire(record, now_ms=50) is not None
    assert [(d.line, d.quantity) for d in record.demand] == [(0, 2)]
    kit = a_record(DemandRecord(0, 1, "x", 1, True, 50), DemandRecord(1, 2, "rejected", 30, True, 80))
    for line in kit.lines:
        line.line_id, line.kits = "1", 1
    assert demand.expire(kit, now_ms=50) is not None
    assert kit.demand == []


@pytest.mark.parametrize("priority", [-1, 1_001])
def test_priorities_have_limits(priority: int) -> None:
    assert isinstance(demand.prioritise(a_record(DemandRecord(0, 5, "x", 1, True)), 0, priority), Problem)


# -- dates --------------------------------------------------------------------------------------------------------


def test_an_order_is_cancelled_at_its_date() -> None:
    shop = a_shop({"N-0": {"SKU-0": 1}})
    order = park(shop, "P-1", {"SKU-0": 2}, cancel_after_ms=NOW_MS + 5_000)
    shop.pass_time(4_000)
    assert state_of(shop, order) == "partially_allocated"
    shop.pass_time(2_000)
    assert (state_of(shop, order), shop.core.counts["demand_expired"]) == ("allocated", 1)
    receive(shop, "N-0", {"SKU-0": 1})
    assert len(now(shop, order).legs) == 1


def test_the_channel_gives_unpaid_orders_a_date() -> None:
    shop = a_shop(channel=a_channel(on_short="park", auto_cancel_s=60))
    unpaid = park(shop, "P-1", {"SKU-0": 1})
    paid = park(shop, "P-2", {"SKU-0": 1}, paid=True)
    shop.pass_time(61_000)
    assert (state_of(shop, unpaid), state_of(shop, paid)) == ("cancelled", "parked")
    shop.check_recovery({})


def reject(shop: LoneCore, order: OrderView) -> None:
    assert not isinstance(shop.ask(ActOnLeg(order.slot, order.order_no, 1, "reject")), Problem)


def lose(shop: LoneCore, order: OrderView) -> None:
    shop.ask(CountStock("N-0", "wms", shop.now_ms, 1, "delta", (("SKU-0", 0),)))
    shop.pass_time(1_000)


def add(shop: LoneCore, order: OrderView) -> None:
    edited = shop.ask(EditOrder(order.slot, order.order_no, lines=(("1", 3),), on_short=OnShort.PARK))
    assert isinstance(edited, OrderView), edited


@pytest.mark.parametrize("paid", [False, True])
@pytest.mark.parametrize("ttl_s", [0, 60], ids=["placed", "held"])
@pytest.mark.parametrize("begin", [reject, lose, add])
def test_the_channel_s_time_is_for_units_that_begin_to_wait_later_too(begin: Any, ttl_s: int, paid: bool) -> None:
    """It counts from when they began to wait, not from when the order was placed."""
    shop = a_shop({"N-0": {"SKU-0": 2}}, channel=a_channel(auto_cancel_s=60))
    order = shop.ask(a_place(an_order(lines={"SKU-0": 2}, paid=paid), ttl_s=ttl_s))
    if ttl_s:
        shop.ask(CommitHold(order.slot, order.order_no))
    shop.pass_time(3_600_000)
    begin(shop, order)
    began = now(shop, order)
    assert began.unfilled and began.state in ("parked", "partially_allocated")
    shop.pass_time(58_000)
    assert now(shop, order).unfilled == began.unfilled
    shop.pass_time(2_001)
    ended = "allocated" if began.state == "partially_allocated" else "cancelled"
    assert state_of(shop, order) == (began.state if paid else ended)
    shop.check_recovery({})


@pytest.mark.parametrize("ship_to", [None, a_destination("60601")], ids=["here", "elsewhere"])
@pytest.mark.parametrize("stock", [0, 1], ids=["parked", "partial"])
def test_the_channel_s_time_counts_from_the_commit_of_a_hold(stock: int, ship_to: Destination | None) -> None:
    shop = a_shop({"N-0": {"SKU-0": stock}} if stock else None, channel=a_channel(auto_cancel_s=60))
    held = shop.ask(a_place(an_order(lines={"SKU-0": 2}, on_short=OnShort.PARK), ttl_s=900))
    shop.pass_time(120_000)
    made = shop.ask(CommitHold(held.slot, held.order_no, ship_to=ship_to))
    shop.pass_time(59_000)
    assert now(shop, made).unfilled == made.unfilled != ()
    shop.pass_time(2_000)
    assert not now(shop, made).unfilled


def test_units_that_begin_to_wait_later_end_at_the_order_s_own_date() -> None:
    shop = a_shop({"N-0": {"SKU-0": 1}}, channel=a_channel(auto_cancel_s=60))
    order = shop.ask(a_place(an_order(lines={"SKU-0": 1}, cancel_after_ms=shop.now_ms + 120_000)))
    reject(shop, order)
    shop.pass_time(119_000)
    assert state_of(shop, order) == "parked"
    shop.pass_time(2_000)
    assert state_of(shop, order) == "cancelled"


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("why", ["rejected", "short"])
def test_units_that_lose_their_node_after_the_order_s_date_are_served_by_another_shard_s_too(
    why: str, shards: int
) -> None:
    """The date is for what finds no node: while other shards are asked, that is not known yet."""
    cluster = LittleCluster(shards=shards, nodes=2)
    cluster.ask(0, AdjustStock("N-0", (StockMove("SKU-0", "received", 2),)))
    order = cluster.ask(0, a_place(an_order(lines={"SKU-0": 2}, cancel_after_ms=cluster.now_ms + 60_000)))
    assert isinstance(order, OrderView)
    cluster.ask(shards - 1, AdjustStock("N-1", (StockMove("SKU-0", "received", 5),)))
    cluster.now_ms += 120_000
    cluster.settle()
    if why == "rejected":
        cluster.ask(0, ActOnLeg(order.slot, order.order_no, 1, "reject"))
    else:
        cluster.ask(0, AdjustStock("N-0", (StockMove("SKU-0", "damaged", 2),)))
    cluster.now_ms += 2_000
    cluster.settle()
    after = cluster.ask(0, GetOrder(order.slot, order.order_no))
    assert isinstance(after, OrderView)
    assert (after.state, after.legs[-1].node_id) == ("allocated", "N-1")


def test_units_that_come_back_while_an_order_is_placed_across_shards_serve_it() -> None:
    """It waits only once its transaction is through: what came meanwhile found nobody to wake."""
    cluster = LittleCluster(shards=2)
    for shard, node in ((0, "N-0"), (1, "N-1")):
        cluster.ask(shard, AdjustStock(node, (StockMove("SKU-0", "received", 1),)))
    cluster.now_ms += PUSH_INTERVAL_MS
    cluster.settle()
    corr = cluster.send(0, a_place(an_order("A-1", {"SKU-0": 4}, on_short=OnShort.PARK)))
    cluster.step()
    assert cluster.cores[0].two_phase.pending_count == 1
    cluster.send(0, AdjustStock("N-0", (StockMove("SKU-0", "received", 2),)))
    cluster.settle()
    placed = cluster.replies[corr]
    assert isinstance(placed, OrderView)
    assert [line.quantity for line in placed.unfilled] == [2]
    found = cluster.ask(0, GetOrder(placed.slot, placed.order_no))
    assert isinstance(found, OrderView)
    assert found.unfilled == (), "served at once, not by the clock"
