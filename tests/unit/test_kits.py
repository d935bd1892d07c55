"""A kit's life after it was placed: what is cancelled, rejected, shipped or missing of it is whole kits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from engine.domain.commands import (
    ActOnLeg,
    AdjustStock,
    CancelOrder,
    CommitHold,
    CountStock,
    GetAvailability,
    GetOrder,
    SetPosition,
    StockMove,
)
from engine.domain.decisions import NodeVerdict
from engine.domain.orders import OnShort
from engine.domain.replies import OrderView, Problem
from engine.protocol.explaining import missing_component
from tests.builders import a_line, a_network, a_place, an_item, an_order
from tests.sim.lone_core import LoneCore


def a_shop(stock: dict[str, dict[str, int]]) -> LoneCore:
    """KIT = 2 of A and 1 of B."""
    items = [an_item("A"), an_item("B"), an_item("KIT", components={"A": 2, "B": 1})]
    shop = LoneCore(a_network(items=items))
    for node, units in stock.items():
        shop.ask(AdjustStock(node, tuple(StockMove(sku, "received", quantity) for sku, quantity in units.items())))
    return shop


def placed(shop: LoneCore, kits: int = 3, **fields: Any) -> OrderView:
    view = shop.ask(a_place(an_order("A-1", [a_line("KIT", kits, line_id="1")], **fields)))
    assert isinstance(view, OrderView), view
    return view


def act(shop: LoneCore, view: OrderView, leg_no: int, action: str, **fields: Any) -> OrderView:
    reply = shop.ask(ActOnLeg(view.slot, view.order_no, leg_no, action, **fields))
    assert isinstance(reply, OrderView), reply
    shop.settle()
    return reply


def live(shop: LoneCore, view: OrderView) -> list[tuple[str, str, dict[str, int]]]:
    """(node, state, units by SKU) of the legs that are not over; every one of them holds whole kits."""
    found = []
    for leg in shop.ask(GetOrder(view.slot, view.order_no)).legs:
        if leg.state in ("cancelled", "rejected"):
            continue
        units: Counter[str] = Counter()
        for line in leg.lines:
            units[line.sku] += line.quantity
        assert units["A"] == 2 * units["B"], "half a kit"
        found.append((leg.node_id, leg.state, dict(units)))
    return found


def test_an_answer_names_the_kit_that_was_ordered_beside_the_components_that_leave() -> None:
    shop = a_shop({"N-0": {"A": 6, "B": 3}})
    opened = placed(shop)
    assert [(line.line_id, line.sku, line.quantity) for line in opened.lines] == [("1", "KIT", 3)]
    assert {(line.line_id, line.sku, line.quantity) for line in opened.legs[0].lines} == {("1", "A", 6), ("1", "B", 3)}
    shop.ask(CancelOrder(opened.slot, opened.order_no, (("1", 2),)))
    read = shop.ask(GetOrder(opened.slot, opened.order_no))
    assert [(line.sku, line.quantity, line.cancelled) for line in read.lines] == [("KIT", 3, 2)]
    assert read.ship_to == opened.ship_to is not None


def test_a_kit_has_no_stock_of_its_own() -> None:
    """Units booked on it would be shown as available and never sold."""
    shop = a_shop({"N-0": {"A": 2, "B": 1}})
    for command, pointer in (
        (AdjustStock("N-0", (StockMove("A", "received", 1), StockMove("KIT", "received", 3))), "/moves/1/sku"),
        (CountStock("N-0", "feed", shop.now_ms, 1, "delta", (("A", 2), ("KIT", 3))), "/rows/1/sku"),
        (SetPosition("N-0", (("KIT", 1, "counted", 10_000, 0),)), "/rows/0/sku"),
    ):
        refused = shop.ask(command)
        assert isinstance(refused, Problem), command
        assert (refused.code, refused.errors[0].pointer) == ("invalid_field", pointer)
        assert refused.errors[0].facts["components"] == ["A", "B"]
    taken = shop.ask(CountStock("N-0", "feed", shop.now_ms, 1, "full", (("A", 2), ("B", 1), ("KIT", 0))))
    assert not isinstance(taken, Problem), "a feed lists its whole catalogue"


def test_a_rejected_part_is_whole_kits_and_finds_another_node() -> None:
    shop = a_shop({"N-0": {"A": 6, "B": 3}, "N-1": {"A": 4, "B": 2}})
    view = placed(shop)
    act(shop, view, 1, "release")
    act(shop, view, 1, "reject", lines=(("1", 2),), reason="broken")
    assert live(shop, view) == [("N-0", "released", {"A": 2, "B": 1}), ("N-1", "allocated", {"A": 4, "B": 2})]


def test_a_part_that_leaves_first_is_whole_kits() -> None:
    shop = a_shop({"N-0": {"A": 6, "B": 3}})
    view = placed(shop)
    for action in ("release", "accept", "pick"):
        act(shop, view, 1, action)
    act(shop, view, 1, "ship", lines=(("1", 1),))
    assert live(shop, view) == [("N-0", "picking", {"A": 4, "B": 2}), ("N-0", "shipped", {"A": 2, "B": 1})]


def test_a_component_that_needs_no_stock_goes_with_the_others_of_its_kit() -> None:
    items = [an_item("WRAP", tracked=False), an_item("A"), an_item("KIT", components={"WRAP": 1, "A": 2})]
    shop = LoneCore(a_network(items=items))
    shop.ask(AdjustStock("N-0", (StockMove("A", "received", 12),)))
    shop.ask(AdjustStock("N-1", (StockMove("A", "received", 2),)))
    held = shop.ask(a_place(an_order(lines=[a_line("KIT", 5)]), ttl_s=60))
    view = shop.ask(CommitHold(held.slot, held.order_no, (("1", 4),)))
    act(shop, view, 1, "release")
    act(shop, view, 1, "reject", lines=(("1", 1),))
    act(shop, view, 1, "ship", lines=(("1", 1),))
    rest = shop.ask(CancelOrder(view.slot, view.order_no, (("1", 2),)))
    assert [(leg.node_id, leg.state, [(line.sku, line.quantity) for line in leg.lines]) for leg in rest.legs] == [
        ("N-0", "released", [("A", 2)]),
        ("N-1", "cancelled", []),
        ("N-0", "shipped", [("A", 2)]),
    ]
    record = shop.state.order(view.slot, view.order_no)
    assert record is not None and [line.cancelled for line in record.lines] == [3, 6]


def test_cancelled_kits_go_back_whole() -> None:
    shop = a_shop({"N-0": {"A": 7, "B": 3}})
    view = placed(shop)
    shop.ask(CancelOrder(view.slot, view.order_no, (("1", 2),)))
    assert live(shop, view) == [("N-0", "allocated", {"A": 2, "B": 1})]
    found = shop.ask(GetAvailability(("A", "B", "KIT"))).positions
    assert {p.sku: p.available_to_promise for p in found} == {"A": 5, "B": 2, "KIT": 2}
    refused = shop.ask(CancelOrder(view.slot, view.order_no, (("1", 2),)))
    assert isinstance(refused, Problem)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_kits_whose_component_is_not_there_leave_the_node_whole(elsewhere: bool) -> None:
    stock = {"N-0": {"A": 6, "B": 3}}
    if elsewhere:
        stock["N-1"] = {"A": 6, "B": 3}
    shop = a_shop(stock)
    view = placed(shop, on_short=OnShort.PARK)
    shop.ask(CountStock("N-0", "feed", shop.now_ms, 1, "delta", (("B", 2),)))
    for _ in range(3):
        shop.pass_time(5_000)
    assert not shop.state.short_positions
    order = shop.ask(GetOrder(view.slot, view.order_no))
    whole = sum(units["B"] for _, _, units in live(shop, view))
    assert whole + sum(entry.quantity for entry in order.unfilled) == 3
    assert all(node == "N-1" for node, _, _ in live(shop, view)) or not elsewhere


def test_a_node_that_is_short_of_a_component_is_told_which() -> None:
    shop = a_shop({"N-0": {"A": 6, "B": 3}})
    opened = placed(shop)
    record = shop.state.order(opened.slot, opened.order_no)
    assert record is not None
    said = [
        missing_component(shop.core.catalog, record, (0, 1), NodeVerdict(1, 5, "short", (line, 0), ""))
        for line in (0, 1)
    ]
    assert sorted(said) == [" (A, a component of KIT)", " (B, a component of KIT)"]
    assert missing_component(shop.core.catalog, record, (0, 1), NodeVerdict(1, 5, "dearer", (0,), "")) == ""
