"""New orders: what is refused and why, partial and parked lines, kits, groups, capacity, idempotency."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from engine.domain.commands import (
    ActOnLeg,
    AdjustStock,
    CancelOrder,
    CommitHold,
    CountStock,
    ExtendHold,
    GetAvailability,
    GetOrder,
    GetStatus,
    PlaceQuoted,
    PutInbound,
    Quoted,
    ReleaseHold,
    SetPosition,
    StockMove,
)
from engine.domain.config import NodeCapacity
from engine.domain.ids import order_no_time_ms
from engine.domain.orders import Method, OnShort
from engine.domain.replies import OrderView, Problem
from tests.builders import NOW_MS, a_channel, a_destination, a_line, a_network, a_node, a_place, an_item, an_order
from tests.sim.lone_core import LoneCore


def a_shop(stock: dict[str, dict[str, int]] | None = None, **network: Any) -> LoneCore:
    """Two plain nodes and three items unless told otherwise; `stock` = units by SKU by node."""
    network.setdefault("nodes", 2)
    shop = LoneCore(a_network(**network))
    for node, units in (stock or {}).items():
        moves = tuple(StockMove(sku, "received", quantity) for sku, quantity in units.items())
        assert not isinstance(shop.ask(AdjustStock(node, moves)), Problem)
    return shop


def free(shop: LoneCore, sku: str, node: str) -> int:
    positions = shop.state.positions
    return positions.free(positions.find(shop.catalog.item_of[sku], shop.catalog.node_of[node]))


def problem(reply: Any) -> tuple[str, str]:
    assert isinstance(reply, Problem), reply
    return reply.code, reply.errors[0].pointer if reply.errors else ""


@pytest.mark.parametrize(
    ("order", "code", "pointer"),
    [
        (an_order(channel="nope"), "unknown_channel", "/channel"),
        (an_order(currency="EUR"), "currency_mismatch", "/currency"),
        (an_order(service="teleport"), "unknown_service", "/service"),
        (an_order(ship_to=a_destination(country="XX")), "unknown_destination", "/ship_to"),
        (an_order(lines=[]), "invalid_field", "/lines"),
        (an_order(lines=[a_line("nope")]), "unknown_sku", "/lines/0/sku"),
        (an_order(lines=[a_line(), a_line("nope", line_id="2")]), "unknown_sku", "/lines/1/sku"),
        (an_order(lines=[a_line(), a_line("SKU-1")]), "invalid_field", "/lines/1/line_id"),
        (an_order(lines=[a_line(quantity=0)]), "invalid_field", "/lines/0/quantity"),
        (an_order(lines=[a_line(quantity=-1)]), "invalid_field", "/lines/0/quantity"),
        (an_order(lines=[a_line(quantity=2**63 - 1)]), "invalid_field", "/lines/0/quantity"),
        (an_order(lines=[a_line(method=9)]), "invalid_field", "/lines/0/method"),
        (an_order(lines=[a_line(method=Method.PICKUP)]), "invalid_field", "/lines/0/pickup_node_id"),
        (an_order(lines=[a_line(pickup_node_id="nope")]), "unknown_node", "/lines/0/pickup_node_id"),
        (an_order(lines=[a_line(line_id=str(n)) for n in range(10_001)]), "too_many_lines", "/lines"),
    ],
)
def test_what_an_order_names_must_exist(order: Any, code: str, pointer: str) -> None:
    destination = order.ship_to
    if destination is not None and destination.country == "XX":
        shop = a_shop()
    else:
        shop = a_shop({"N-0": {"SKU-0": 5}})
    entries = len(shop.entries)
    assert problem(shop.ask(a_place(order))) == (code, pointer)
    assert len(shop.entries) == entries, "a refusal was journaled"


def test_a_destination_that_is_not_on_the_map_says_what_would_put_it_there() -> None:
    reply = a_shop().ask(a_place(an_order(ship_to=a_destination(country="XX"))))
    assert isinstance(reply, Problem)
    assert "XX by its postal code: correct it, or give lat and lon" in reply.errors[0].detail


def test_a_refusal_names_the_line_and_the_numbers() -> None:
    shop = a_shop({"N-0": {"SKU-0": 1, "SKU-1": 9}, "N-1": {"SKU-0": 2}})
    reply = shop.ask(a_place(an_order(lines={"SKU-1": 1, "SKU-0": 5})))
    assert problem(reply) == ("out_of_stock", "/lines/1")
    assert reply.errors[0].facts == {
        "line_id": "2",
        "sku": "SKU-0",
        "requested": 5,
        "available_to_promise": 3,
        "unfilled": 2,
        "reason": "out_of_stock",
    }
    assert free(shop, "SKU-1", "N-0") == 9, "a refused order holds nothing"


def test_a_refusal_counts_only_units_of_nodes_that_could_serve() -> None:
    """It says the same number as availability does."""
    nodes = [
        a_node("N-0", state="drain"),
        a_node("N-1", channels=["store"]),
        a_node("N-2", offers=("pickup",)),
        a_node("N-3", safety_by_method={"ship": 4}),
    ]
    shop = LoneCore(a_network(nodes=nodes))
    for node, units in (("N-0", 2), ("N-1", 3), ("N-2", 4), ("N-3", 5)):
        shop.ask(AdjustStock(node, (StockMove("SKU-0", "received", units),)))
    reply = shop.ask(a_place(an_order(lines={"SKU-0": 50})))
    seen = shop.ask(GetAvailability(("SKU-0",), channel="web")).positions
    assert reply.errors[0].facts["available_to_promise"] == sum(p.available_to_promise for p in seen) == 1


def test_partial_keeps_what_there_is_and_parked_waits_for_more() -> None:
    shop = a_shop({"N-0": {"SKU-0": 2}})
    partial = shop.ask(a_place(an_order("P-1", {"SKU-0": 3}, on_short=OnShort.PARTIAL)))
    assert (partial.state, partial.unfilled[0].quantity, partial.unfilled[0].demand_no) == (
        "partially_allocated",
        1,
        0,
    )
    parked = shop.ask(a_place(an_order("P-2", {"SKU-0": 3}, on_short=OnShort.PARK)))
    assert (parked.state, parked.legs, parked.unfilled[0].demand_no) == ("parked", (), 0)
    assert problem(shop.ask(a_place(an_order("P-3", {"SKU-0": 1}, on_short=OnShort.PARTIAL))))[0] == "out_of_stock"


def test_an_order_that_is_paid_is_never_refused() -> None:
    shop = a_shop()
    for on_short in OnShort:
        view = shop.ask(a_place(an_order(f"P-{on_short}", {"SKU-0": 3}, on_short=on_short, paid=True)))
        assert isinstance(view, OrderView)
        assert (view.state, view.unfilled[0].demand_no) == ("parked", 0)


def test_the_channel_says_what_happens_when_the_order_does_not() -> None:
    shop = a_shop(channel=a_channel(on_short="park"))
    assert shop.ask(a_place(an_order(lines={"SKU-0": 1}))).state == "parked"


def test_who_gets_the_last_unit_is_settled_by_priority_then_arrival() -> None:
    shop = a_shop({"N-0": {"SKU-0": 1}})
    low, first, second = (
        shop.send(a_place(an_order(name, {"SKU-0": 1}, priority=priority)))
        for name, priority in (("low", 0), ("first", 5), ("second", 5))
    )
    shop.settle()
    assert isinstance(shop.replies[first][0], OrderView)
    assert problem(shop.replies[second][0])[0] == problem(shop.replies[low][0])[0] == "out_of_stock"


def test_two_lines_of_one_item_are_added_up_before_they_are_checked() -> None:
    shop = a_shop({"N-0": {"SKU-0": 3}})
    lines = [a_line("SKU-0", 2, line_id="1"), a_line("SKU-0", 2, line_id="2")]
    assert problem(shop.ask(a_place(an_order(lines=lines))))[0] == "out_of_stock"
    assert isinstance(
        shop.ask(a_place(an_order(lines=[a_line("SKU-0", 2), a_line("SKU-0", 1, line_id="2")]))), OrderView
    )


# -- kits ---------------------------------------------------------------------------------------------------------


def a_kit_shop(stock: dict[str, dict[str, int]]) -> LoneCore:
    return a_shop(stock, items=[an_item("A"), an_item("B"), an_item("KIT", components={"A": 1, "B": 2})])


def test_the_components_of_a_kit_leave_from_one_node() -> None:
    shop = a_kit_shop({"N-0": {"A": 5, "B": 1}, "N-1": {"A": 2, "B": 4}})
    view = shop.ask(a_place(an_order(lines={"KIT": 2})))
    assert [(leg.node_id, [(x.line_id, x.sku, x.quantity) for x in leg.lines]) for leg in view.legs] == [
        ("N-1", [("1", "A", 2), ("1", "B", 4)])
    ]
    reply = shop.ask(a_place(an_order("K-2", {"KIT": 1})))
    assert problem(reply) == ("out_of_stock", "/lines/0")
    assert {(e.facts["sku"], e.facts["kit"]) for e in reply.errors} == {("A", "KIT"), ("B", "KIT")}


def test_kits_are_committed_and_cancelled_in_kits() -> None:
    shop = a_kit_shop({"N-0": {"A": 3, "B": 6}})
    held = shop.ask(a_place(an_order(lines={"KIT": 3}), ttl_s=60))
    view = shop.ask(CommitHold(held.slot, held.order_no, (("1", 2),)))
    assert [(x.sku, x.quantity) for x in view.legs[0].lines] == [("A", 2), ("B", 4)]
    view = shop.ask(CancelOrder(held.slot, held.order_no, (("1", 1),)))
    assert [(x.sku, x.quantity) for x in view.legs[0].lines] == [("A", 1), ("B", 2)]
    assert problem(shop.ask(CancelOrder(held.slot, held.order_no, (("1", 2),))))[1] == "/lines/0/quantity"
    assert (free(shop, "A", "N-0"), free(shop, "B", "N-0")) == (2, 4)


def test_a_parked_kit_is_short_by_kits() -> None:
    shop = a_kit_shop({})
    view = shop.ask(a_place(an_order(lines={"KIT": 2}, on_short=OnShort.PARK)))
    assert [(u.line_id, u.quantity) for u in view.unfilled] == [("1", 2)]


# -- methods and untracked items ----------------------------------------------------------------------------------


def test_digital_and_untracked_lines_need_no_stock_and_can_be_cancelled_until_something_left() -> None:
    shop = a_shop({"N-0": {"SKU-0": 1}}, items=[an_item("SKU-0"), an_item("WRAP", tracked=False), an_item("CODE")])
    lines = [a_line("SKU-0"), a_line("WRAP", line_id="2"), a_line("CODE", line_id="3", method=Method.DIGITAL)]
    view = shop.ask(a_place(an_order(lines=lines)))
    assert [line.sku for leg in view.legs for line in leg.lines] == ["SKU-0"]
    only = shop.ask(a_place(an_order("D-1", [a_line("CODE", method=Method.DIGITAL)])))
    assert (only.state, only.legs) == ("allocated", ())
    assert shop.ask(CancelOrder(only.slot, only.order_no)).state == "cancelled"
    assert shop.ask(CancelOrder(view.slot, view.order_no)).state == "cancelled"


def test_a_pickup_line_comes_from_its_node_or_not_at_all() -> None:
    nodes = [a_node("N-0"), a_node("N-1", offers=("ship", "pickup"))]
    shop = a_shop({"N-0": {"SKU-0": 5}, "N-1": {"SKU-0": 1}}, nodes=nodes)
    line = a_line("SKU-0", 1, method=Method.PICKUP, pickup_node_id="N-1")
    assert shop.ask(a_place(an_order(lines=[line]))).legs[0].node_id == "N-1"
    reply = shop.ask(a_place(an_order("P-2", lines=[line])))
    assert reply.errors[0].facts["available_to_promise"] == 0


# -- capacity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "taken"), [("orders", 1), ("lines", 2), ("units", 5)])
def test_capacity_is_taken_and_given_back_with_the_leg(unit: str, taken: int) -> None:
    nodes = [a_node("N-0", capacity=NodeCapacity(unit=unit, per_day=100))]  # type: ignore[arg-type]
    shop = a_shop({"N-0": {"SKU-0": 9, "SKU-1": 9}}, nodes=nodes)
    view = shop.ask(a_place(an_order(lines={"SKU-0": 2, "SKU-1": 3})))
    day = shop.now_ms // 86_400_000
    assert shop.state.capacity.rows(0) == [(day, taken)]
    shop.ask(CancelOrder(view.slot, view.order_no, (("1", 1),)))
    assert shop.state.capacity.get(0, day) == {"orders": 1, "lines": 2, "units": 4}[unit]
    shop.ask(CancelOrder(view.slot, view.order_no))
    assert shop.state.capacity.rows(0) == []


def test_a_full_day_moves_the_leg_to_the_next_one_and_then_refuses() -> None:
    shop = a_shop({"N-0": {"SKU-0": 99}}, nodes=[a_node("N-0", capacity=NodeCapacity(unit="orders", per_day=1))])
    for n in range(3):
        assert isinstance(shop.ask(a_place(an_order(f"C-{n}", {"SKU-0": 1}))), OrderView)
    day = shop.now_ms // 86_400_000
    assert shop.state.capacity.rows(0) == [(day, 1), (day + 1, 1), (day + 2, 1)]
    reply = shop.ask(a_place(an_order("C-9", {"SKU-0": 1})))
    assert problem(reply)[0] == "no_capable_node"
    assert reply.errors[0].facts["reason"] == "capacity"


def test_safety_by_method_is_left_on_the_shelf() -> None:
    shop = a_shop({"N-0": {"SKU-0": 3}}, nodes=[a_node("N-0", safety_by_method={"ship": 2}, offers=("ship", "pickup"))])
    assert problem(shop.ask(a_place(an_order(lines={"SKU-0": 2}))))[0] == "out_of_stock"
    line = a_line("SKU-0", 3, method=Method.PICKUP, pickup_node_id="N-0")
    assert isinstance(shop.ask(a_place(an_order(lines=[line]))), OrderView)


# -- idempotency --------------------------------------------------------------------------------------------------


def test_a_repeated_key_gets_the_first_answer_and_another_body_is_refused() -> None:
    shop = a_shop({"N-0": {"SKU-0": 5}})
    first = shop.ask(a_place(key=7))
    again = shop.ask(a_place(key=7))
    assert (again.order_no, again.replayed, first.replayed) == (first.order_no, True, False)
    assert problem(shop.ask(a_place(key=7, fingerprint=99)))[0] == "key_reused"
    assert free(shop, "SKU-0", "N-0") == 4


def test_a_repeat_within_one_batch_waits_for_the_first() -> None:
    shop = a_shop({"N-0": {"SKU-0": 5}})
    one, two = shop.send(a_place(key=7)), shop.send(a_place(key=7))
    other = shop.send(a_place(an_order("A-1"), key=8))
    shop.settle()
    assert shop.replies[one][0].order_no == shop.replies[two][0].order_no  # type: ignore[union-attr]
    assert problem(shop.replies[other][0]) == ("duplicate_order", "/order_id")
    assert free(shop, "SKU-0", "N-0") == 4


def test_an_order_id_can_be_used_again_once_its_order_has_ended() -> None:
    shop = a_shop({"N-0": {"SKU-0": 1}})
    first = shop.ask(a_place(ttl_s=60))
    reply = shop.ask(a_place())
    assert problem(reply) == ("duplicate_order", "/order_id")
    assert reply.errors[0].facts["id"].startswith("res_US100_")
    shop.ask(ReleaseHold(first.slot, first.order_no))
    second = shop.ask(a_place())
    assert second.order_no > first.order_no
    assert shop.ask(GetOrder(first.slot, first.order_no)).state == "released"


def test_a_refusal_is_decided_again() -> None:
    shop = a_shop()
    assert problem(shop.ask(a_place(key=7)))[0] == "out_of_stock"
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 1),)))
    assert isinstance(shop.ask(a_place(key=7)), OrderView)


def test_keys_past_their_room_are_forgotten_oldest_first_but_never_the_last_hour_s() -> None:
    shop = LoneCore(a_network(nodes=1), dedupe_max=3)
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 99),)))
    for n in range(3):
        assert isinstance(shop.ask(a_place(an_order(f"A-{n}"), key=n + 1)), OrderView)
        shop.pass_time(1_000)
    assert problem(shop.ask(a_place(an_order("A-3"), key=4)))[0] == "dedupe_full"
    assert isinstance(shop.ask(a_place(an_order("A-3"))), OrderView), "a command without a key needs no room"
    shop.pass_time(2 * 3_600_000)
    assert isinstance(shop.ask(a_place(an_order("A-4"), key=5)), OrderView)
    facts = shop.ask(GetStatus()).facts
    assert facts["dedupe_entries"] <= 3
    assert facts["dedupe_window_ms"] < 24 * 3_600_000


@pytest.mark.parametrize(
    "fact",
    [
        AdjustStock("N-0", (StockMove("SKU-0", "received", 1),), key_hash=9),
        CountStock("N-0", "wms", NOW_MS, 1, "delta", (("SKU-0", 7),), key_hash=9),
        SetPosition("N-0", (("SKU-0", 1, "counted", 0, 0),), key_hash=9),
        PutInbound("N-0", (("PO-1", "SKU-0", 5, NOW_MS + 1),), key_hash=9),
    ],
    ids=lambda fact: type(fact).__name__,
)
def test_the_keys_of_stock_facts_need_room_too(fact: Any) -> None:
    shop = LoneCore(a_network(nodes=1), dedupe_max=2)
    move = AdjustStock("N-0", (StockMove("SKU-0", "received", 5),), key_hash=1)
    shop.ask(move)
    held = shop.ask(a_place(key=2, ttl_s=600))
    entries = len(shop.entries)
    refused = shop.ask(fact)
    assert (problem(refused)[0], refused.retry_after_ms) == ("dedupe_full", 60_000)
    assert problem(shop.ask(ExtendHold(held.slot, held.order_no, 900, key_hash=3)))[0] == "dedupe_full"
    assert len(shop.entries) == entries
    assert shop.ask(move).replayed, "a repeat needs no room"
    assert not isinstance(shop.ask(replace(move, key_hash=0)), Problem), "nor does a fact without a key"
    shop.pass_time(3_601_000)
    assert not isinstance(shop.ask(fact), Problem)
    assert shop.state.dedupe_count <= 2


def test_what_finishes_or_frees_is_taken_with_a_full_table() -> None:
    shop = LoneCore(a_network(nodes=1), dedupe_max=3)
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 9),)))
    kept, given_up, placed = (shop.ask(a_place(an_order(f"A-{n}"), key=n + 1, ttl_s=60 * (n < 2))) for n in range(3))
    assert problem(shop.ask(a_place(an_order("A-3"), key=4)))[0] == "dedupe_full"
    assert shop.ask(CommitHold(kept.slot, kept.order_no, key_hash=5)).state == "allocated"
    assert shop.ask(ReleaseHold(given_up.slot, given_up.order_no, key_hash=6)).state == "released"
    assert shop.ask(CancelOrder(placed.slot, placed.order_no, key_hash=7)).state == "cancelled"
    for n, action in enumerate(("release", "ship")):
        assert not isinstance(shop.ask(ActOnLeg(kept.slot, kept.order_no, 1, action, key_hash=8 + n)), Problem)


def a_shop_that_forgot(made_ms: int) -> tuple[LoneCore, OrderView]:
    """A cancelled order and a receipt, both with keys made then, that gave way to others after two hours."""
    shop = LoneCore(a_network(nodes=1), dedupe_max=2)
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 9),), key_hash=1, key_ms=made_ms))
    order = shop.ask(a_place(key=2, key_ms=made_ms))
    shop.ask(CancelOrder(order.slot, order.order_no, (("1", 1),)))
    shop.pass_time(2 * 3_600_000)
    for n in (3, 4):
        assert isinstance(shop.ask(a_place(an_order(f"B-{n}"), key=n)), OrderView)
    return shop, order


@pytest.mark.parametrize("restarted", [False, True])
def test_a_time_ordered_key_that_may_be_a_forgotten_one_is_refused(restarted: bool) -> None:
    shop, order = a_shop_that_forgot(NOW_MS)
    if restarted:
        parts = {part: shop.core.pack_part(part) for part in shop.core.dirty_parts()}
        shop.core = shop.recovered_from(parts)
    entries = len(shop.entries)
    refused = [
        shop.ask(command)
        for command in (
            a_place(key=2, key_ms=NOW_MS),
            a_place(an_order("A-9"), key=2, key_ms=NOW_MS),
            PlaceQuoted(an_order(), 0, 2, 15, key_ms=NOW_MS, quoted=Quoted()),
            AdjustStock("N-0", (StockMove("SKU-0", "received", 9),), key_hash=1, key_ms=NOW_MS),
            CancelOrder(order.slot, order.order_no, (("1", 1),), key_hash=5, key_ms=NOW_MS),
        )
    ]
    assert [problem(reply)[0] for reply in refused] == ["key_too_old"] * 5
    facts = refused[0].errors[0].facts
    assert facts["made_at_ms"] == NOW_MS
    assert 3_600_000 <= facts["window_ms"] < shop.now_ms - NOW_MS
    assert len(shop.entries) == entries


def test_keys_within_the_shard_s_window_or_without_a_time_are_taken() -> None:
    shop, _ = a_shop_that_forgot(NOW_MS)
    assert shop.ask(a_place(an_order("B-3"), key=3, key_ms=NOW_MS)).replayed, "it is known"
    assert problem(shop.ask(a_place(an_order("B-3"), key=7, key_ms=NOW_MS)))[0] == "duplicate_order"
    shop.pass_time(2 * 3_600_000)
    assert isinstance(shop.ask(a_place(an_order("C-1"), key=8, key_ms=shop.now_ms - 3_600_000)), OrderView)
    assert isinstance(shop.ask(a_place(an_order("C-2"), key=2)), OrderView)


def test_keys_are_forgotten_after_a_day() -> None:
    shop = a_shop({"N-0": {"SKU-0": 9}})
    shop.ask(a_place(key=1))
    shop.pass_time(25 * 3_600_000)
    for n in range(2):
        shop.ask(a_place(an_order(f"B-{n}"), key=n + 2))
    assert shop.state.dedupe_count == 2
    assert shop.state.slots["US100"].dedupe.get(1) is None


# -- numbers ------------------------------------------------------------------------------------------------------


def test_order_numbers_ascend_also_when_the_clock_goes_back_and_after_a_restart() -> None:
    shop = a_shop({"N-0": {"SKU-0": 9}})
    first = shop.ask(a_place(an_order("A")))
    shop.now_ms -= 3_600_000
    second = shop.ask(a_place(an_order("B")))
    assert second.order_no > first.order_no
    again = shop.recovered_from({})
    again.receive(1, 1, a_place(an_order("C")), now_ms=shop.now_ms)
    effects = again.poll(now_ms=shop.now_ms)
    assert effects.append is not None
    again.appended(effects.append.seq)
    (answer,) = again.poll(now_ms=shop.now_ms).answers
    assert isinstance(answer.reply, OrderView)
    assert answer.reply.order_no > second.order_no
    assert order_no_time_ms(answer.reply.order_no) > order_no_time_ms(second.order_no)


def test_the_answer_names_the_entry_it_rests_on() -> None:
    shop = a_shop({"N-0": {"SKU-0": 9}})
    view = shop.ask(a_place())
    assert view.token == f"0:1:{len(shop.entries)}"


def test_a_hold_without_a_destination_is_not_committed_without_one() -> None:
    shop = a_shop({"N-0": {"SKU-0": 5}})
    held = shop.ask(a_place(an_order(lines={"SKU-0": 1}, ship_to=None), ttl_s=600))
    assert isinstance(held, OrderView)
    refused = shop.ask(CommitHold(held.slot, held.order_no))
    assert problem(refused)[0] == "invalid_field"
    assert refused.errors[0].pointer == "/ship_to"
    assert shop.ask(ReleaseHold(held.slot, held.order_no)).state == "released"
