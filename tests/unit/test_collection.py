"""Lines that a customer collects: at a node that has them, or at a store that they are sent to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from engine.actors.planner import SolverPlanner
from engine.domain.commands import ActOnLeg, AdjustStock, CancelOrder, EditOrder, GetOrder, StockMove
from engine.domain.config import Carrier, Document, Node, NodeCapacity, RateCard
from engine.domain.orders import LineRequest, Method, OnShort
from engine.domain.replies import LegView, OrderView, Problem
from engine.domain.state import ShardState
from engine.settings import Settings
from tests.builders import a_destination, a_line, a_network, a_node, a_place, a_service, an_item, an_order
from tests.sim.lone_core import LoneCore

ZONE = "America/New_York"
NOW_MS = int(datetime(2026, 11, 25, 10, 0, tzinfo=ZoneInfo(ZONE)).timestamp() * 1_000)


def a_planner(state: ShardState) -> SolverPlanner:
    return SolverPlanner(state, Settings())


def a_store(node_id: str = "ST", **fields: Any) -> Node:
    fields.setdefault("offers", ("pickup", "ship_to_store"))
    fields.setdefault("lon", -77.0)
    return a_node(node_id, kind="store", time_zone=ZONE, pickup_ready_minutes=90, **fields)


def a_town(stock: dict[str, dict[str, int]], *, nodes: Sequence[Node] | None = None, **options: Any) -> LoneCore:
    """A warehouse WH and a store ST, 250 km apart, unless told otherwise; now = Wednesday, 10:00 in New York."""
    nodes = nodes or [a_node("WH", time_zone=ZONE), a_store()]
    items = [an_item(f"SKU-{n}", weight_g=400, unit_value_minor=2_000) for n in range(3)]
    items += [an_item("CODE", tracked=False), an_item("KIT", components={"SKU-0": 2, "SKU-1": 1})]
    documents: list[Document] = [*a_network(nodes=nodes, items=items)]
    card = RateCard(break_g=[30_000], price_minor=[[700], [900]])
    documents[2] = Carrier(
        carrier_id="acme", services=[a_service(band_km=[300, 9_000], transit_days=[1, 3], cards=[card])]
    )
    shop = LoneCore(documents, make_planner=a_planner, **options)
    shop.now_ms = NOW_MS
    for node, units in stock.items():
        moves = tuple(StockMove(sku, "received", quantity) for sku, quantity in units.items())
        assert not isinstance(shop.ask(AdjustStock(node, moves)), Problem)
    return shop


def pickup(sku: str = "SKU-0", quantity: int = 1, line_id: str = "1", node: str = "ST", **fields: Any) -> LineRequest:
    return a_line(sku, quantity, line_id=line_id, method=Method.PICKUP, pickup_node_id=node, **fields)


def sent(sku: str = "SKU-0", quantity: int = 1, line_id: str = "1", node: str = "ST", **fields: Any) -> LineRequest:
    return a_line(sku, quantity, line_id=line_id, method=Method.SHIP_TO_STORE, pickup_node_id=node, **fields)


def placed(shop: LoneCore, lines: Sequence[LineRequest], order_id: str = "A-1", **fields: Any) -> OrderView:
    view = shop.ask(a_place(an_order(order_id, lines, **fields)))
    assert isinstance(view, OrderView), view
    return view


def refused(shop: LoneCore, lines: Sequence[LineRequest], **fields: Any) -> tuple[str, str, str]:
    reply = shop.ask(a_place(an_order("R-1", lines, **fields)))
    assert isinstance(reply, Problem), reply
    return reply.code, reply.errors[0].pointer, reply.errors[0].detail


def local(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1_000, ZoneInfo(ZONE)).strftime("%a %H:%M")


def at(leg: LegView) -> tuple[str, str, int]:
    return leg.node_id, local(leg.ready_at_ms) if leg.ready_at_ms else "", leg.cost_minor


def test_a_pickup_line_is_ready_at_its_node_without_parcel_or_carrier() -> None:
    shop = a_town({"WH": {"SKU-0": 5}, "ST": {"SKU-0": 2}})
    view = placed(shop, [pickup(quantity=2)])
    (leg,) = view.legs
    assert at(leg) == ("ST", "Wed 11:30", 0)
    assert (leg.carrier, leg.parcels, leg.ship_by_ms) == ("", 0, leg.ready_at_ms)
    assert (view.ship_by_ms, view.deliver_by_ms) == (leg.ready_at_ms, leg.ready_at_ms)
    code, pointer, _ = refused(shop, [pickup()])  # the warehouse's units are not at the store
    assert (code, pointer) == ("out_of_stock", "/lines/0")


def test_where_work_is_released_in_waves_a_pickup_is_ready_after_the_next_one() -> None:
    shop = a_town({"ST": {"SKU-0": 1}}, nodes=[a_node("WH", time_zone=ZONE), a_store(waves=["12:00"])])
    order = placed(shop, [pickup()])
    assert local(order.legs[0].ready_at_ms) == "Wed 13:30"
    shop.pass_time(2 * 3_600_000)
    released = shop.ask(GetOrder(order.slot, order.order_no))
    assert (local(shop.now_ms), released.legs[0].state) == ("Wed 12:00", "released")


def test_a_ship_to_store_line_is_ready_after_arrival_and_at_once_where_the_store_has_it() -> None:
    shop = a_town({"WH": {"SKU-0": 5}, "ST": {"SKU-1": 1}})
    view = placed(shop, [sent("SKU-0"), sent("SKU-1", line_id="2")])
    there, here = sorted(view.legs, key=lambda leg: leg.node_id, reverse=True)
    assert at(there) == ("WH", "Fri 10:30", 700)  # handed over today, at the store tomorrow, ready in the morning after
    assert local(there.deliver_by_ms) == "Thu 23:59"
    assert at(here) == ("ST", "Wed 11:30", 0)
    assert view.deliver_by_ms == there.ready_at_ms


def test_a_leg_that_an_edit_leaves_where_it_is_is_ready_when_its_new_dates_say() -> None:
    shop = a_town({"ST": {"SKU-0": 1}})
    order = placed(shop, [pickup()])
    shop.pass_time(3 * 3_600_000)
    edited = shop.ask(
        EditOrder(order.slot, order.order_no, added=(a_line("CODE", line_id="2", method=Method.DIGITAL),))
    )
    (leg,) = edited.legs
    assert (local(leg.deliver_by_ms), local(leg.ready_at_ms)) == ("Wed 14:30", "Wed 14:30")
    assert edited.deliver_by_ms == leg.ready_at_ms


def test_one_order_is_shipped_collected_and_digital() -> None:
    shop = a_town({"WH": {"SKU-0": 5, "SKU-1": 5}, "ST": {"SKU-0": 5, "SKU-2": 5}})
    lines = [
        a_line("SKU-0", 2, line_id="door"),
        pickup("SKU-2", 1, "counter"),
        sent("SKU-1", 1, "store"),
        a_line("CODE", 1, line_id="mail", method=Method.DIGITAL),
    ]
    view = placed(shop, lines, ship_to=a_destination("10001", lat=40.75, lon=-74.0))
    by_line = {leg.lines[0].line_id: leg for leg in view.legs}
    assert {line: at(leg)[0] for line, leg in by_line.items()} == {"door": "WH", "counter": "ST", "store": "WH"}
    assert [bool(by_line[line].ready_at_ms) for line in ("door", "counter", "store")] == [False, True, True]
    assert shop.ask(GetOrder(view.slot, view.order_no)).legs == view.legs


def test_a_pickup_order_needs_no_destination() -> None:
    view = placed(a_town({"ST": {"SKU-0": 1}}), [pickup()], ship_to=None)
    assert at(view.legs[0]) == ("ST", "Wed 11:30", 0)
    assert (view.legs[0].method, view.legs[0].pickup_node_id, view.ship_to) == (Method.PICKUP, "ST", None)
    assert [(line.method, line.pickup_node_id) for line in view.lines] == [(Method.PICKUP, "ST")]


@pytest.mark.parametrize(
    ("lines", "code", "pointer", "says"),
    [
        ([pickup(node="WH")], "no_capable_node", "/lines/0/pickup_node_id", "WH does not offer pickup"),
        ([a_line(), sent(line_id="2", node="WH")], "no_capable_node", "/lines/1/pickup_node_id", "does not offer"),
        ([pickup(node="OFF")], "no_capable_node", "/lines/0/pickup_node_id", "OFF takes no orders"),
        ([pickup(node="B2B")], "no_capable_node", "/lines/0/pickup_node_id", "does not serve channel web"),
        ([pickup(node="nope")], "unknown_node", "/lines/0/pickup_node_id", "no node"),
        ([a_line(pickup_node_id="ST")], "invalid_field", "/lines/0/pickup_node_id", "names none"),
        ([a_line(method=Method.SHIP_TO_STORE)], "invalid_field", "/lines/0/pickup_node_id", "names its store"),
        ([pickup(group="g"), a_line(line_id="2", group="g")], "invalid_field", "/lines/1/group", "the same way"),
    ],
)
def test_a_line_that_cannot_be_collected_is_named(lines: Any, code: str, pointer: str, says: str) -> None:
    nodes = [a_node("WH"), a_store(), a_store("OFF", state="off"), a_store("B2B", channels=["trade"])]
    shop = a_town({"WH": {"SKU-0": 9}, "ST": {"SKU-0": 9}}, nodes=nodes)
    found = refused(shop, lines)
    assert found[:2] == (code, pointer) and says in found[2]


def test_a_paid_pickup_at_a_store_that_is_off_waits_for_it() -> None:
    shop = a_town({}, nodes=[a_node("WH"), a_store("OFF", state="off")])
    assert placed(shop, [pickup(node="OFF")], paid=True).state == "parked"
    reply = shop.ask(a_place(an_order("R-1", [pickup(node="WH")], paid=True)))
    assert isinstance(reply, Problem)


def test_pickups_that_wait_are_ready_after_the_units_came() -> None:
    shop = a_town({})
    view = placed(shop, [pickup()], on_short=OnShort.PARK)
    assert (view.state, view.legs) == ("parked", ())
    shop.now_ms += 3_600_000
    shop.ask(AdjustStock("ST", (StockMove("SKU-0", "received", 1),)))
    shop.settle()
    (leg,) = shop.ask(GetOrder(view.slot, view.order_no)).legs
    assert at(leg) == ("ST", "Wed 12:30", 0)


def test_a_full_day_makes_a_pickup_ready_on_the_next() -> None:
    nodes = [a_node("WH"), a_store(capacity=NodeCapacity(unit="orders", per_day=1))]
    shop = a_town({"ST": {"SKU-0": 9}}, nodes=nodes)
    assert at(placed(shop, [pickup()], "A-1").legs[0])[1] == "Wed 11:30"
    assert at(placed(shop, [pickup()], "A-2").legs[0])[1] == "Thu 10:30"


def test_what_waits_at_the_counter_can_be_cancelled_until_it_is_handed_over() -> None:
    shop = a_town({"ST": {"SKU-0": 4}, "WH": {"SKU-1": 1}})
    view = placed(shop, [pickup(quantity=3), a_line("SKU-1", 1, line_id="2")])
    counter = next(leg for leg in view.legs if leg.node_id == "ST")
    door = next(leg for leg in view.legs if leg.node_id == "WH")
    for action in ("release", "accept", "pick"):
        for leg in (counter, door):
            assert not isinstance(shop.ask(ActOnLeg(view.slot, view.order_no, leg.leg_no, action)), Problem)
    assert isinstance(
        shop.ask(CancelOrder(view.slot, view.order_no, (("2", 1),))), Problem
    )  # it is in somebody's hands
    after = shop.ask(CancelOrder(view.slot, view.order_no, (("1", 1),)))
    assert [line.quantity for leg in after.legs for line in leg.lines if leg.node_id == "ST"] == [2]
    shown = shop.ask(ActOnLeg(view.slot, view.order_no, counter.leg_no, "ship"))
    assert isinstance(shown, OrderView)
    assert isinstance(shop.ask(CancelOrder(view.slot, view.order_no, (("1", 1),))), Problem)
    positions = shop.state.positions
    row = positions.find(shop.catalog.item_of["SKU-0"], shop.catalog.node_of["ST"])
    assert (positions.v_on_hand[row], positions.v_allocated[row]) == (2, 0)


def test_a_kit_is_collected_whole() -> None:
    shop = a_town({"ST": {"SKU-0": 4, "SKU-1": 1}})
    view = placed(shop, [pickup("KIT", 1)])
    assert [(leg.node_id, [line.quantity for line in leg.lines]) for leg in view.legs] == [("ST", [2, 1])]
    assert refused(shop, [pickup("KIT", 1)])[0] == "out_of_stock"


def test_what_is_sold_out_where_it_may_ship_from_is_out_of_stock_and_only_that_line_is_named() -> None:
    """Units of a store that does not ship are no help, and the other line is no trouble."""
    shop = a_town({"WH": {"SKU-0": 50, "SKU-1": 1}, "ST": {"SKU-1": 5}})
    reply = shop.ask(a_place(an_order(lines={"SKU-0": 2, "SKU-1": 2})))
    assert isinstance(reply, Problem)
    assert reply.code == "out_of_stock"
    (error,) = reply.errors
    facts = error.facts
    assert (facts["sku"], facts["available_to_promise"], facts["units_elsewhere"]) == ("SKU-1", 1, 5)
    assert facts["reason"] == "out_of_stock"


def test_a_method_that_no_node_offers_is_not_called_out_of_stock() -> None:
    shop = a_town({"ST": {"SKU-0": 5}}, nodes=[a_store()])
    reply = shop.ask(a_place(an_order(lines={"SKU-0": 1})))
    assert isinstance(reply, Problem)
    assert reply.code == "no_capable_node"
    assert reply.errors[0].facts["units_elsewhere"] == 5


@pytest.mark.parametrize(("more", "said"), [([], "it must leave whole"), ([a_line("SKU-1", line_id="2")], "together")])
def test_units_that_are_there_and_may_not_leave_are_told_without_a_rest_of_the_order_that_is_not_there(
    more: list[LineRequest], said: str
) -> None:
    shop = a_town({"WH": {"SKU-0": 5, "SKU-1": 5}, "W2": {"SKU-0": 5, "SKU-1": 5}}, nodes=[a_node("WH"), a_node("W2")])
    reply = shop.ask(a_place(an_order(lines=[a_line(quantity=10, splittable=False), *more])))
    assert isinstance(reply, Problem)
    assert reply.code == "no_capable_node"
    assert said in reply.errors[0].detail


def test_each_way_of_delivery_may_have_so_many_legs() -> None:
    """As it was placed, so it is edited, and so units that wait are planned."""
    shop = a_town({"WH": {"SKU-0": 5}})
    lines = [a_line("SKU-0", 1, line_id="1"), pickup("SKU-1", 1, "2")]
    view = placed(shop, lines, max_legs=1, on_short=OnShort.PARTIAL)
    assert [leg.node_id for leg in view.legs] == ["WH"]
    shop.ask(AdjustStock("ST", (StockMove("SKU-1", "received", 5),)))
    shop.pass_time(60_000)
    assert [leg.node_id for leg in shop.ask(GetOrder(view.slot, view.order_no)).legs] == ["WH", "ST"]
    shop.ask(ActOnLeg(view.slot, view.order_no, 2, "release"))
    edited = shop.ask(EditOrder(view.slot, view.order_no, ship_to=a_destination("10002")))
    assert isinstance(edited, OrderView), edited
    more = shop.ask(EditOrder(view.slot, view.order_no, added=(pickup("SKU-1", 1, "3"),), on_short=OnShort.REFUSE))
    assert isinstance(more, Problem) and more.errors[0].facts["reason"] == "max_legs", more
