"""Positions that promised what they do not have: unreleased legs are served from elsewhere, lowest priority and newest first."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from engine.domain.commands import ActOnLeg, AdjustStock, CountStock, GetOrder, ListShort, SetPosition, StockMove
from engine.domain.config import Node
from engine.domain.ids import OrderRef, public_id
from engine.domain.replies import OrderView, Problem, ShortList, StockReply
from engine.protocol.resourcing import LOOK_MS, POSITIONS_PER_POLL
from engine.protocol.shard_core import ShardCore
from engine.protocol.view_feed import PUSH_INTERVAL_MS
from tests.builders import a_destination, a_line, a_network, a_node, a_place, an_item, an_order, as_docs
from tests.sim.little_cluster import LittleCluster
from tests.sim.lone_core import LoneCore


def a_shop(stock: dict[str, dict[str, int]], **network: Any) -> LoneCore:
    network.setdefault("nodes", 2)
    network.setdefault("items", 3)
    shop = LoneCore(a_network(**network))
    for node, units in stock.items():
        receive(shop, node, units)
    return shop


def receive(shop: LoneCore, node: str, units: dict[str, int]) -> None:
    moves = tuple(StockMove(sku, "received", quantity) for sku, quantity in units.items())
    assert not isinstance(shop.ask(AdjustStock(node, moves)), Problem)


def place(shop: LoneCore, order_id: str, lines: Any, **fields: Any) -> OrderView:
    view = shop.ask(a_place(an_order(order_id, lines, **fields)))
    assert isinstance(view, OrderView), view
    return view


def damage(shop: LoneCore, node: str, units: int, sku: str = "SKU-0") -> None:
    shop.ask(AdjustStock(node, (StockMove(sku, "damaged", units),)))
    shop.pass_time(LOOK_MS + 1)


def nodes_of(shop: LoneCore, view: OrderView) -> list[str]:
    found = shop.ask(GetOrder(view.slot, view.order_no))
    return [leg.node_id for leg in found.legs if leg.state == "allocated"]


def short(shop: LoneCore, **fields: Any) -> ShortList:
    reply = shop.ask(ListShort(**fields))
    assert isinstance(reply, ShortList)
    return reply


def test_the_lowest_priority_and_then_the_newest_gives_up() -> None:
    shop = a_shop({"N-0": {"SKU-0": 4}})
    orders = [
        place(shop, name, {"SKU-0": 1}, priority=priority)
        for name, priority in (("a", 5), ("b", 0), ("c", 0), ("d", 9))
    ]
    receive(shop, "N-1", {"SKU-0": 9})
    damage(shop, "N-0", 1)
    assert [nodes_of(shop, order) for order in orders] == [["N-0"], ["N-0"], ["N-1"], ["N-0"]]
    damage(shop, "N-0", 2)
    assert [nodes_of(shop, order) for order in orders] == [["N-1"], ["N-1"], ["N-1"], ["N-0"]]
    assert not shop.state.short_positions


def test_an_order_that_nobody_else_can_serve_is_parked_and_comes_back() -> None:
    shop = a_shop({"N-0": {"SKU-0": 2}})
    order = place(shop, "P-1", {"SKU-0": 2})
    damage(shop, "N-0", 1)
    view = shop.ask(GetOrder(order.slot, order.order_no))
    assert (view.state, [(u.quantity, u.reason) for u in view.unfilled]) == ("partially_allocated", [(1, "short")])
    receive(shop, "N-0", {"SKU-0": 1})
    shop.pass_time(5_000)
    assert shop.ask(GetOrder(order.slot, order.order_no)).state == "allocated"


def test_a_released_leg_stays_where_it_is() -> None:
    shop = a_shop({"N-0": {"SKU-0": 2}})
    order = place(shop, "P-1", {"SKU-0": 2})
    shop.ask(ActOnLeg(order.slot, order.order_no, 1, "release"))
    receive(shop, "N-1", {"SKU-0": 9})
    damage(shop, "N-0", 2)
    assert shop.ask(GetOrder(order.slot, order.order_no)).legs[0].node_id == "N-0"
    (row,) = short(shop).rows
    assert (row.stock.short_by, row.lacking, row.legs) == (2, 2, ())


def test_what_the_customer_collects_there_stays() -> None:
    shop = a_shop({"N-0": {"SKU-0": 1}, "N-1": {"SKU-0": 1}}, nodes=[a_node("N-0", offers=("pickup",)), a_node("N-1")])
    order = place(shop, "P-1", [a_line("SKU-0", 1, method=1, pickup_node_id="N-0")])
    damage(shop, "N-0", 1)
    assert nodes_of(shop, order) == ["N-0"]


def test_a_kit_leaves_with_all_of_its_parts() -> None:
    shop = a_shop(
        {"N-0": {"A": 1, "B": 1}}, items=[an_item("A"), an_item("B"), an_item("KIT", components={"A": 1, "B": 1})]
    )
    order = place(shop, "K-1", {"KIT": 1})
    receive(shop, "N-1", {"A": 1, "B": 1})
    damage(shop, "N-0", 1, "A")
    assert nodes_of(shop, order) == ["N-1"]


def test_safety_stock_withholds_from_sale_but_breaks_no_plan() -> None:
    shop = a_shop({"N-0": {"SKU-0": 2}, "N-1": {"SKU-0": 1}})
    order = place(shop, "P-1", {"SKU-0": 2}, max_legs=1)
    shop.ask(SetPosition("N-0", (("SKU-0", 5, "counted", 0, 0),)))
    shop.pass_time(LOOK_MS + 1)
    assert nodes_of(shop, order) == ["N-0"]
    (row,) = short(shop).rows
    assert (row.stock.short_by, row.lacking, len(row.legs)) == (5, 0, 1)


def test_short_positions_are_read_page_by_page() -> None:
    shop = a_shop({"N-0": {"SKU-0": 1, "SKU-1": 1}, "N-1": {"SKU-2": 1}})
    assert short(shop) == ShortList((), False)
    for n in range(3):
        order = place(shop, f"P-{n}", {f"SKU-{n}": 1})
        shop.ask(ActOnLeg(order.slot, order.order_no, 1, "release"))
    shop.ask(CountStock("N-0", "wms", shop.now_ms, 1, "delta", (("SKU-0", 0), ("SKU-1", 0))))
    shop.ask(CountStock("N-1", "wms", shop.now_ms, 1, "delta", (("SKU-2", 0),)))
    whole = short(shop).rows
    assert [(row.stock.node_id, row.stock.sku) for row in whole] == [
        ("N-0", "SKU-0"),
        ("N-0", "SKU-1"),
        ("N-1", "SKU-2"),
    ]
    first = short(shop, limit=2)
    assert first.more
    rest = short(shop, limit=2, after=first.rows[-1].key)
    assert (rest.rows, rest.more) == (whole[2:], False)
    assert [row.stock.sku for row in short(shop, node_id="N-1").rows] == ["SKU-2"]


def test_a_position_that_cannot_be_helped_is_looked_at_less_often() -> None:
    shop = a_shop({"N-0": {"SKU-0": 1}})
    order = place(shop, "P-1", {"SKU-0": 1})
    shop.ask(ActOnLeg(order.slot, order.order_no, 1, "release"))
    damage(shop, "N-0", 1)
    for _ in range(20):
        shop.pass_time(LOOK_MS)
    _, next_ms, wait_ms = shop.core.resourcing._waits[(0, 0)]
    assert wait_ms >= 8 * LOOK_MS and next_ms > shop.now_ms - wait_ms


def test_many_short_positions_are_queued_once_however_slowly_they_are_looked_at() -> None:
    positions = 3 * POSITIONS_PER_POLL
    shop = a_shop({}, items=positions)
    shop.ask(SetPosition("N-0", tuple([(f"SKU-{n}", 5, "counted", 10_000, 0) for n in range(positions)])))
    assert len(shop.state.short_positions) == positions
    queued = []
    for _ in range(12):
        shop.now_ms += LOOK_MS + 1
        shop.poll()
        queued.append(len(shop.core.resourcing._todo))
    assert max(queued) < positions, f"a queue that only grows: {queued}"
    assert 0 in queued


def test_positions_that_are_short_no_more_leave_the_queue_and_let_the_shard_sleep() -> None:
    positions = 10 * POSITIONS_PER_POLL
    shop = a_shop({}, items=positions)
    shop.ask(SetPosition("N-0", tuple([(f"SKU-{n}", 5, "counted", 10_000, 0) for n in range(positions)])))
    shop.now_ms += LOOK_MS + 1
    shop.poll()
    assert shop.core.resourcing._todo
    shop.ask(SetPosition("N-0", tuple([(f"SKU-{n}", 0, "counted", 10_000, 0) for n in range(positions)])))
    for _ in range(positions):
        effects = shop.poll()
    assert not shop.state.short_positions
    assert effects.wake_at_ms is None or effects.wake_at_ms > shop.now_ms + 1


def test_legs_of_orders_of_other_shards_give_up_in_one_order_with_our_own() -> None:
    cluster = LittleCluster(shards=2, nodes=4, items=2)
    cluster.ask(0, AdjustStock("N-0", (StockMove("SKU-0", "received", 4),)))
    cluster.now_ms += PUSH_INTERVAL_MS
    cluster.settle()
    homes = (("own-1", "10001", 0, 0), ("far-1", "60601", 1, 0), ("far-2", "60601", 1, 3), ("own-2", "10001", 0, 5))
    orders = {}
    for name, postal_code, shard, priority in homes:
        order = an_order(name, {"SKU-0": 1}, ship_to=a_destination(postal_code), priority=priority)
        orders[name] = cluster.ask(shard, a_place(order))
        assert isinstance(orders[name], OrderView), orders[name]
        assert orders[name].legs[0].node_id == "N-0"
    cluster.ask(1, AdjustStock("N-3", (StockMove("SKU-0", "received", 9),)))

    def where() -> dict[str, str]:
        found = {}
        for name, _, shard, _ in homes:
            view = cluster.ask(shard, GetOrder(orders[name].slot, orders[name].order_no))
            assert isinstance(view, OrderView)
            found[name] = next((leg.node_id for leg in view.legs if leg.state == "allocated"), view.state)
        return found

    def lose(units: int) -> None:
        cluster.ask(0, AdjustStock("N-0", (StockMove("SKU-0", "damaged", units),)))
        for _ in range(3):
            cluster.now_ms += LOOK_MS + 1
            cluster.settle()

    lose(1)
    assert where() == {"own-1": "N-0", "far-1": "N-3", "far-2": "N-0", "own-2": "N-0"}
    lose(2)
    assert where() == {"own-1": "N-3", "far-1": "N-3", "far-2": "N-3", "own-2": "N-0"}
    assert not cluster.cores[0].state.short_positions


@pytest.mark.parametrize("shards", [2, 4])
def test_what_is_damaged_names_the_legs_of_other_homes_too(shards: int) -> None:
    cluster = LittleCluster(shards=shards, nodes=shards)
    last = shards - 1
    cluster.ask(last, AdjustStock(f"N-{last}", (StockMove("SKU-0", "received", 4),)))
    cluster.now_ms += PUSH_INTERVAL_MS
    cluster.settle()
    destinations = [f"{n * 1_000 // shards + 10:03d}01" for n in range(shards)]
    views = []
    for home, postal_code in enumerate(destinations):
        order = an_order(f"A-{home}", {"SKU-0": 1}, ship_to=a_destination(postal_code))
        view = cluster.ask(home, a_place(order))
        assert isinstance(view, OrderView), view
        assert [leg.node_id for leg in view.legs] == [f"N-{last}"]
        views.append(view)
    reply = cluster.ask(last, AdjustStock(f"N-{last}", (StockMove("SKU-0", "damaged", 4),)))
    assert isinstance(reply, StockReply)
    assert reply.positions[0].short_by == shards
    newest_first = sorted(views, key=lambda view: -view.order_no)
    assert reply.legs_short == tuple(public_id("leg", OrderRef(v.slot, v.order_no), 1) for v in newest_first)


# -- the node switch ----------------------------------------------------------------------------------------------


def switch(core: ShardCore, index: int, node: Node) -> None:
    (doc,) = as_docs([node])
    version = core.catalog.version + 1
    core.configure([structs.replace(doc, index=index, version=version)], version)


def switched(shop: LoneCore, state: str) -> None:
    switch(shop.core, 0, a_node("N-0", postal_code="01001", state=state))
    shop.pass_time(LOOK_MS + 1)


def act(shop: LoneCore, view: OrderView, action: str) -> Any:
    return shop.ask(ActOnLeg(view.slot, view.order_no, 1, action))


def two_orders() -> tuple[LoneCore, OrderView, OrderView]:
    """At N-0: an order that is released and one that is not."""
    shop = a_shop({"N-0": {"SKU-0": 3}}, nodes=[a_node("N-0", postal_code="01001"), a_node("N-1", postal_code="01001")])
    released, waiting = place(shop, "released", {"SKU-0": 1}), place(shop, "waiting", {"SKU-0": 1})
    act(shop, released, "release")
    return shop, released, waiting


def test_a_drained_node_takes_nothing_new_and_finishes_what_it_has() -> None:
    shop, released, waiting = two_orders()
    receive(shop, "N-1", {"SKU-0": 9})
    switched(shop, "drain")
    assert [leg.node_id for leg in place(shop, "new", {"SKU-0": 1}).legs] == ["N-1"]
    assert nodes_of(shop, waiting) == ["N-0"]
    for action in ("release", "accept", "pick", "ship", "deliver"):
        assert isinstance(act(shop, waiting, action), OrderView)
    assert isinstance(act(shop, released, "ship"), OrderView)


def test_the_unreleased_legs_of_a_node_that_is_off_are_served_from_elsewhere() -> None:
    shop, released, waiting = two_orders()
    receive(shop, "N-1", {"SKU-0": 9})
    switched(shop, "off")
    assert nodes_of(shop, waiting) == ["N-1"]
    assert [leg.node_id for leg in place(shop, "new", {"SKU-0": 1}).legs] == ["N-1"]
    refused = act(shop, released, "accept")
    assert (refused.code, refused.errors[0].facts["node_state"]) == ("wrong_state", "off")
    assert isinstance(act(shop, released, "release"), OrderView), "a repeat is answered"
    assert isinstance(act(shop, released, "ship"), OrderView), "what left has left"


def test_what_finds_no_other_node_waits_until_the_node_is_on_again() -> None:
    shop, _, waiting = two_orders()
    switched(shop, "off")
    assert shop.ask(GetOrder(waiting.slot, waiting.order_no)).state == "parked"
    entries = len(shop.entries)
    for _ in range(5):
        shop.pass_time(LOOK_MS)
    assert len(shop.entries) == entries
    switched(shop, "on")
    shop.pass_time(120_000)
    assert nodes_of(shop, waiting) == ["N-0"]


def test_other_homes_take_their_legs_from_a_node_that_is_off() -> None:
    cluster = LittleCluster(shards=2, nodes=2)
    for shard in (0, 1):
        cluster.ask(shard, AdjustStock(f"N-{shard}", (StockMove("SKU-0", "received", 2 * shard + 1),)))
    cluster.now_ms += PUSH_INTERVAL_MS
    cluster.settle()
    order = an_order("A", {"SKU-0": 3}, ship_to=a_destination("01001"))
    view = cluster.ask(0, a_place(order))
    assert isinstance(view, OrderView), view
    cluster.ask(0, AdjustStock("N-0", (StockMove("SKU-0", "received", 9),)))
    for core in cluster.cores:
        switch(core, 1, a_node("N-1", postal_code="51001", state="off"))
    for _ in range(4):
        cluster.now_ms += LOOK_MS
        cluster.settle()
    seen = cluster.ask(0, GetOrder(view.slot, view.order_no))
    assert isinstance(seen, OrderView)
    assert {leg.node_id for leg in view.legs} == {"N-0", "N-1"}
    assert {leg.node_id for leg in seen.legs if leg.state == "allocated"} == {"N-0"}
