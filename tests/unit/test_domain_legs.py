"""The life of holds and legs: commit, expiry, cancel, ship, reject; who may do what in which state."""

from __future__ import annotations

from typing import Any

import pytest

from engine.domain.commands import (
    ActOnLeg,
    AdjustStock,
    CancelOrder,
    ClearHolds,
    CommitHold,
    ExtendHold,
    GetOrder,
    ListLegs,
    ReleaseHold,
    StockMove,
)
from engine.domain.config import NodeCapacity
from engine.domain.ids import OrderRef, encode_number, public_id
from engine.domain.orders import Destination, Method, OnShort
from engine.domain.replies import OrderView, Problem
from engine.domain.state import HOLD_LIFE_MAX_MS
from tests.builders import a_destination, a_line, a_network, a_node, a_place, an_order
from tests.sim.lone_core import LoneCore
from tests.unit.test_domain_orders import a_shop, free, problem


def act(shop: LoneCore, view: OrderView, action: str, leg: int = 1, **fields: Any) -> Any:
    return shop.ask(ActOnLeg(view.slot, view.order_no, leg, action, **fields))


def position(shop: LoneCore, sku: str = "SKU-0", node: str = "N-0") -> tuple[int, int, int]:
    """(on hand, held, allocated)"""
    positions = shop.state.positions
    row = positions.find(shop.catalog.item_of[sku], shop.catalog.node_of[node])
    return positions.v_on_hand[row], positions.v_held[row], positions.v_allocated[row]


# -- holds --------------------------------------------------------------------------------------------------------


def test_a_hold_is_committed_released_or_expires_and_only_once() -> None:
    shop = a_shop({"N-0": {"SKU-0": 9}})
    held = shop.ask(a_place(an_order(lines={"SKU-0": 3}), ttl_s=60))
    assert (held.state, position(shop)) == ("held", (9, 3, 0))
    view = shop.ask(CommitHold(held.slot, held.order_no, key_hash=5, fingerprint=1))
    assert (view.state, view.expires_at_ms, position(shop)) == ("allocated", 0, (9, 0, 3))
    second = shop.ask(CommitHold(held.slot, held.order_no))
    assert problem(second)[0] == "wrong_state"
    assert second.errors[0].facts["allocation_id"] == public_id("alc", OrderRef(held.slot, held.order_no))
    assert problem(shop.ask(ReleaseHold(held.slot, held.order_no)))[0] == "wrong_state"
    assert shop.ask(CommitHold(held.slot, held.order_no, key_hash=5, fingerprint=1)).replayed


def test_what_a_partial_commit_leaves_out_is_released_in_the_same_step() -> None:
    shop = a_shop({"N-0": {"SKU-0": 2, "SKU-1": 5}, "N-1": {"SKU-0": 2}})
    held = shop.ask(a_place(an_order(lines={"SKU-0": 4, "SKU-1": 1}), ttl_s=60))
    view = shop.ask(CommitHold(held.slot, held.order_no, (("1", 3),)))
    assert [(leg.node_id, leg.state, [(x.sku, x.quantity) for x in leg.lines]) for leg in view.legs] == [
        ("N-0", "allocated", [("SKU-0", 2)]),
        ("N-1", "allocated", [("SKU-0", 1)]),
    ]
    assert (free(shop, "SKU-0", "N-1"), free(shop, "SKU-1", "N-0")) == (1, 5)


@pytest.mark.parametrize("ship_to", [None, a_destination("90001")], ids=["here", "elsewhere"])
@pytest.mark.parametrize(
    ("lines", "cancelled", "waits"),
    [
        ((("1", 1),), [4, 2, 1], 0),
        ((("1", 4),), [1, 2, 1], 1),
        ((("1", 3), ("2", 1), ("3", 1)), [2, 1, 0], 1),
        ((("2", 2),), [5, 0, 1], 2),
    ],
    ids=["some held", "held and waiting", "of each line", "waiting alone"],
)
def test_a_partial_commit_cancels_what_waits_and_what_is_digital_unless_it_names_it(
    lines: Any, cancelled: list[int], waits: int, ship_to: Destination | None
) -> None:
    """3 of line 1 are held and 2 wait, 2 of line 2 wait, line 3 is digital."""
    shop = a_shop({"N-0": {"SKU-0": 3}})
    asked = [
        a_line("SKU-0", 5),
        a_line("SKU-1", 2, line_id="2"),
        a_line("SKU-2", 1, line_id="3", method=Method.DIGITAL),
    ]
    held = shop.ask(a_place(an_order(lines=asked, on_short=OnShort.PARK), ttl_s=60))
    view = shop.ask(CommitHold(held.slot, held.order_no, lines, ship_to=ship_to))
    assert [line.cancelled for line in view.lines] == cancelled
    assert sum(line.quantity for line in view.unfilled) == waits
    assert position(shop) == (3, 0, min(3, 5 - cancelled[0]))
    shop.check_recovery({})


@pytest.mark.parametrize(
    ("lines", "pointer"),
    [
        ((("9", 1),), "/lines/0/line_id"),
        ((("1", 4),), "/lines/0/quantity"),
        ((("1", 0),), "/lines/0/quantity"),
        ((), "/lines"),
    ],
)
def test_a_partial_commit_names_units_that_are_there(lines: Any, pointer: str) -> None:
    shop = a_shop({"N-0": {"SKU-0": 9}})
    held = shop.ask(a_place(an_order(lines={"SKU-0": 3}), ttl_s=60))
    assert problem(shop.ask(CommitHold(held.slot, held.order_no, lines))) == ("invalid_field", pointer)
    assert position(shop) == (9, 3, 0)


def test_a_hold_counts_until_now_reaches_its_expiry_swept_or_not() -> None:
    # S5: a hold lives iff entry time < expires_at_ms.
    shop = a_shop({"N-0": {"SKU-0": 1}})
    held = shop.ask(a_place(ttl_s=10))
    shop.now_ms = held.expires_at_ms - 1
    assert problem(shop.ask(a_place(an_order("B"))))[0] == "out_of_stock"
    shop.now_ms = held.expires_at_ms
    assert isinstance(shop.ask(a_place(an_order("B"))), OrderView)
    assert shop.ask(GetOrder(held.slot, held.order_no)).state == "expired"
    assert problem(shop.ask(CommitHold(held.slot, held.order_no)))[0] == "expired"
    assert problem(shop.ask(ExtendHold(held.slot, held.order_no, 60)))[0] == "expired"


def test_an_entry_being_built_keeps_its_time_so_nothing_in_it_expires_early() -> None:
    # P4: while an append is outstanding, the next entry has the time it was begun at.
    shop = a_shop({"N-0": {"SKU-0": 9}})
    held = shop.ask(a_place(ttl_s=1))
    shop.send(a_place(an_order("B")))
    shop.poll(durable=False)
    shop.send(a_place(an_order("C")))
    shop.poll(durable=False)
    shop.now_ms = held.expires_at_ms + 5_000
    shop.poll(durable=False)
    assert shop.state.order(held.slot, held.order_no).state == 0  # type: ignore[union-attr]
    shop.core.appended(shop.entries[-1].seq)
    shop.settle()
    assert shop.ask(GetOrder(held.slot, held.order_no)).state == "expired"
    assert all(entry.time_ms >= held.expires_at_ms for entry in shop.entries[-1:])


def test_an_extension_is_never_shorter_and_has_an_end() -> None:
    shop = a_shop({"N-0": {"SKU-0": 9}})
    held = shop.ask(a_place(ttl_s=100))
    assert shop.ask(ExtendHold(held.slot, held.order_no, 10)).expires_at_ms == held.expires_at_ms
    assert shop.ask(ExtendHold(held.slot, held.order_no, 200)).expires_at_ms == shop.now_ms + 200_000
    far = shop.ask(ExtendHold(held.slot, held.order_no, 10**9)).expires_at_ms
    assert far - shop.now_ms <= HOLD_LIFE_MAX_MS
    shop.pass_time(200_000)
    assert shop.ask(GetOrder(held.slot, held.order_no)).state == "held"


def test_many_holds_expire_a_bounded_number_an_entry() -> None:
    shop = a_shop({"N-0": {"SKU-0": 500}})
    for n in range(300):
        shop.send(a_place(an_order(f"A-{n}"), ttl_s=1))
    shop.settle()
    entries = len(shop.entries)
    shop.pass_time(1_000)
    assert position(shop) == (500, 0, 0)
    assert len(shop.entries) - entries >= 300 // 64


def test_open_holds_get_a_grace_after_an_outage_and_not_beyond_their_longest_life() -> None:
    shop = a_shop({"N-0": {"SKU-0": 5}})
    held = shop.ask(a_place(ttl_s=10))
    shop.now_ms += 60_000  # the shard was away
    again = shop.recovered_from({})
    effects = again.poll(now_ms=shop.now_ms)
    assert effects.append is not None
    record = again.state.order(held.slot, held.order_no)
    assert record is not None
    assert again.state.effective_expiry_ms(held.order_no, record) == shop.now_ms + 30_000
    again.appended(effects.append.seq)
    again.receive(1, 9, GetOrder(held.slot, held.order_no), now_ms=shop.now_ms + 20_000)
    [shown] = [answer.reply for answer in again.poll(now_ms=shop.now_ms + 20_000).answers if answer.corr == 9]
    assert isinstance(shown, OrderView)
    assert (shown.state, shown.expires_at_ms) == ("held", shop.now_ms + 30_000), "the end that counts"
    again.receive(1, 1, CommitHold(held.slot, held.order_no), now_ms=shop.now_ms + 29_999)
    again.poll(now_ms=shop.now_ms + 29_999)
    assert again.state.order(held.slot, held.order_no).state == 1  # type: ignore[union-attr]


# -- commit elsewhere ---------------------------------------------------------------------------------------------


def test_a_commit_to_another_destination_is_planned_again_with_its_own_units() -> None:
    shop = a_shop({"N-0": {"SKU-0": 2}})
    held = shop.ask(a_place(an_order(lines={"SKU-0": 2}, ship_to=None), ttl_s=60))
    view = shop.ask(CommitHold(held.slot, held.order_no, ship_to=a_destination("90001"), key_hash=3, fingerprint=3))
    assert (view.state, position(shop)) == ("allocated", (2, 0, 2))
    assert [leg.state for leg in view.legs] == ["cancelled", "allocated"]
    record = shop.state.order(held.slot, held.order_no)
    assert record is not None and record.ship_to == a_destination("90001")
    assert (record.decision, view.decision) == (1, 1)
    assert shop.ask(
        CommitHold(held.slot, held.order_no, ship_to=a_destination("90001"), key_hash=3, fingerprint=3)
    ).replayed


@pytest.mark.parametrize("stock", [0, 1, 2], ids=["all waits", "some waits", "all is held"])
def test_a_hold_of_shipped_lines_is_committed_with_an_address_only(stock: int) -> None:
    shop = a_shop({"N-0": {"SKU-0": stock}} if stock else {})
    held = shop.ask(a_place(an_order(lines={"SKU-0": 2}, ship_to=None, on_short=OnShort.PARK), ttl_s=60))
    assert problem(shop.ask(CommitHold(held.slot, held.order_no))) == ("invalid_field", "/ship_to")
    view = shop.ask(CommitHold(held.slot, held.order_no, ship_to=a_destination("90001")))
    assert (view.ship_to, sum(line.quantity for line in view.unfilled)) == (a_destination("90001"), 2 - stock)


def test_a_commit_to_a_place_nobody_knows_leaves_the_hold() -> None:
    shop = a_shop({"N-0": {"SKU-0": 2}})
    held = shop.ask(a_place(ttl_s=60))
    command = CommitHold(held.slot, held.order_no, ship_to=a_destination(country="XX"))
    assert problem(shop.ask(command)) == ("unknown_destination", "/ship_to")
    assert position(shop) == (2, 1, 0)


# -- legs ---------------------------------------------------------------------------------------------------------


def test_a_leg_goes_its_way_step_by_step() -> None:
    shop = a_shop({"N-0": {"SKU-0": 3}})
    view = shop.ask(a_place(an_order(lines={"SKU-0": 2})))
    assert problem(act(shop, view, "ship"))[0] == "wrong_state"
    for action, state in (("release", "released"), ("accept", "accepted"), ("pick", "picking")):
        assert act(shop, view, action).legs[0].state == state
        assert act(shop, view, action).legs[0].state == state, "a repeat is answered, not refused"
    assert problem(act(shop, view, "release"))[0] == "wrong_state"
    shipped = act(shop, view, "ship", parcels=2, tracking=("T1",), actual_cost_minor=777)
    assert (shipped.state, position(shop)) == ("shipped", (1, 0, 0))
    leg = shipped.legs[0]
    assert (leg.parcels, leg.tracking, leg.actual_cost_minor) == (2, ("T1",), 777)
    assert act(shop, view, "deliver").state == "delivered"
    refused = shop.ask(CancelOrder(view.slot, view.order_no))
    assert problem(refused)[0] == "wrong_state"
    public = shop.ask(GetOrder(view.slot, view.order_no)).state
    (item,) = refused.errors
    assert item.facts == {"state": public} and public != "committed"
    assert item.detail.startswith("cannot cancel: ") and item.detail.endswith(f"the order is {public}")


def test_an_order_on_hold_is_not_released() -> None:
    shop = a_shop({"N-0": {"SKU-0": 3}})
    view = shop.ask(a_place(an_order(hold_reasons=("fraud",))))
    assert problem(act(shop, view, "release"))[0] == "wrong_state"


def test_hold_reasons_are_cleared_one_by_one_or_all() -> None:
    shop = a_shop({"N-0": {"SKU-0": 3}})
    view = shop.ask(a_place(an_order(hold_reasons=("fraud", "address", "payment"))))
    command = ClearHolds(view.slot, view.order_no, ("fraud",), key_hash=5, fingerprint=1)
    assert shop.ask(command).version == view.version + 1
    entries = len(shop.entries)
    assert shop.ask(command).replayed
    assert shop.ask(ClearHolds(view.slot, view.order_no, ("fraud", "other"))).version == view.version + 1
    assert len(shop.entries) == entries, "what is off already is not journaled again"
    assert "address, payment" in act(shop, view, "release").errors[0].detail
    shop.ask(ClearHolds(view.slot, view.order_no))
    assert act(shop, view, "release").legs[0].state == "released"
    assert problem(shop.ask(ClearHolds(view.slot, 1)))[0] == "not_found"
    held = shop.ask(a_place(an_order("H", hold_reasons=("fraud",)), ttl_s=60))
    assert problem(shop.ask(ClearHolds(held.slot, held.order_no)))[0] == "wrong_state"
    shop.check_recovery({})


def test_the_first_shipment_of_a_leg_keeps_the_order_that_it_took_of_the_day() -> None:
    """Where capacity counts orders, cancelling what stays behind gives nothing back: a parcel of the order has left."""
    shop = a_shop(
        {"N-0": {"SKU-0": 5, "SKU-1": 5}}, nodes=[a_node("N-0", capacity=NodeCapacity(unit="orders", per_day=9))]
    )
    view = shop.ask(a_place(an_order(lines={"SKU-0": 3, "SKU-1": 1})))
    ((day, used),) = shop.state.capacity.rows(0)
    act(shop, view, "release")
    act(shop, view, "ship", lines=(("1", 2),))
    assert (used, shop.state.capacity.get(0, day)) == (1, 1)
    shop.ask(CancelOrder(view.slot, view.order_no))
    assert shop.state.capacity.get(0, day) == 1


def test_what_a_leg_costs_goes_with_its_first_shipment() -> None:
    """As if what stays behind had been cancelled before anything left."""
    shop = a_shop({"N-0": {"SKU-0": 5}})
    view = shop.ask(a_place(an_order(lines={"SKU-0": 2})))
    act(shop, view, "release")
    part = act(shop, view, "ship", lines=(("1", 1),))
    assert (part.cost_minor, [(leg.state, leg.cost_minor) for leg in part.legs]) == (
        view.cost_minor,
        [("released", 0), ("shipped", view.cost_minor)],
    )
    rest = shop.ask(CancelOrder(view.slot, view.order_no))
    assert (rest.state, rest.cost_minor) == ("shipped", view.cost_minor)
    assert view.cost_minor > 0


def test_part_of_a_leg_ships_as_a_shipment_of_its_own() -> None:
    shop = a_shop(
        {"N-0": {"SKU-0": 5, "SKU-1": 5}}, nodes=[a_node("N-0", capacity=NodeCapacity(unit="units", per_day=99))]
    )
    view = shop.ask(a_place(an_order(lines={"SKU-0": 3, "SKU-1": 1})))
    act(shop, view, "release")
    part = act(shop, view, "ship", lines=(("1", 2),))
    assert [(leg.leg_no, leg.state, [(x.sku, x.quantity) for x in leg.lines]) for leg in part.legs] == [
        (1, "released", [("SKU-0", 1), ("SKU-1", 1)]),
        (2, "shipped", [("SKU-0", 2)]),
    ]
    assert (position(shop), part.state) == ((3, 0, 1), "allocated")
    rest = shop.ask(CancelOrder(view.slot, view.order_no))
    assert rest.state == "shipped"
    day = shop.now_ms // 86_400_000
    assert shop.state.capacity.get(0, day) == 2, "what left used the day, what was cancelled gave it back"


@pytest.mark.parametrize(("effect", "on_hand"), [("none", 10), ("write_off", 7), ("zero_until_count", 2)])
def test_a_rejection_says_what_is_on_the_shelf_and_the_units_go_elsewhere(effect: str, on_hand: int) -> None:
    shop = a_shop({"N-0": {"SKU-0": 10}, "N-1": {"SKU-0": 10}})
    shop.ask(a_place(an_order("other", {"SKU-0": 2})))
    view = shop.ask(a_place(an_order(lines={"SKU-0": 3})))
    assert problem(act(shop, view, "reject", stock_effect="burn")) == ("invalid_field", "/stock_effect")
    after = act(shop, view, "reject", stock_effect=effect)
    assert position(shop) == (on_hand, 0, 2)
    assert [(leg.node_id, leg.state) for leg in after.legs] == [("N-0", "rejected"), ("N-1", "allocated")]
    after = act(shop, view, "reject", leg=2)
    assert after.state == "parked", "never back to a node that rejected it"
    assert [leg.state for leg in after.legs] == ["rejected", "rejected"]


def test_units_are_cancelled_where_nothing_was_picked_yet_last_leg_first() -> None:
    shop = a_shop({"N-0": {"SKU-0": 2}, "N-1": {"SKU-0": 2}})
    view = shop.ask(a_place(an_order(lines={"SKU-0": 5}, on_short=OnShort.PARK)))
    act(shop, view, "release")
    act(shop, view, "pick")
    view = shop.ask(CancelOrder(view.slot, view.order_no, (("1", 2),)))
    assert (view.unfilled, [x.quantity for leg in view.legs for x in leg.lines]) == ((), [2, 1])
    assert problem(shop.ask(CancelOrder(view.slot, view.order_no, (("1", 2),))))[1] == "/lines/0/quantity"
    view = shop.ask(CancelOrder(view.slot, view.order_no))
    assert [leg.state for leg in view.legs] == ["picking", "cancelled"]
    assert view.state == "allocated"


def test_a_work_list_has_open_legs_of_a_node_in_pages() -> None:
    shop = a_shop({"N-0": {"SKU-0": 9}})
    views = [shop.ask(a_place(an_order(f"A-{n}"))) for n in range(5)]
    act(shop, views[1], "release")
    shop.ask(CancelOrder(views[2].slot, views[2].order_no))
    page = shop.ask(ListLegs("N-0", limit=3))
    assert [row.order_id for row in page.legs] == ["A-0", "A-1", "A-3"]
    assert [(row.channel, row.ship_to) for row in page.legs] == [("web", views[0].ship_to)] * 3
    assert views[0].ship_to is not None
    assert [(row.leg.method, row.leg.pickup_node_id) for row in page.legs] == [(Method.SHIP, None)] * 3
    page = shop.ask(ListLegs("N-0", limit=3, cursor=page.cursor))
    assert ([row.order_id for row in page.legs], page.cursor) == (["A-4"], "")
    released = shop.ask(ListLegs("N-0", state="released"))
    assert [row.order_id for row in released.legs] == ["A-1"]
    assert problem(shop.ask(ListLegs("N-0", cursor="x")))[0] == "invalid_cursor"
    assert problem(shop.ask(ListLegs("N-0", state="lost"))) == ("invalid_field", "/state")
    assert problem(shop.ask(ListLegs("nope")))[0] == "unknown_node"


def test_a_command_for_no_order_or_no_leg_is_told_so() -> None:
    shop = a_shop({"N-0": {"SKU-0": 9}})
    view = shop.ask(a_place())
    assert problem(shop.ask(CommitHold(view.slot, 1)))[0] == "not_found"
    assert problem(act(shop, view, "ship", leg=9))[0] == "not_found"
    assert problem(act(shop, view, "dance"))[0] == "not_found"


def test_a_kept_stock_fact_can_leave_a_position_short_and_names_legs_to_re_source() -> None:
    shop = a_shop({"N-0": {"SKU-0": 4}})
    first = shop.ask(a_place(an_order("old", {"SKU-0": 1})))
    vip = shop.ask(a_place(an_order("vip", {"SKU-0": 1}, priority=9)))
    newest = shop.ask(a_place(an_order("new", {"SKU-0": 2})))
    act(shop, first, "release")
    reply = shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "damaged", 3),)))
    assert not isinstance(reply, Problem)
    assert (reply.positions[0].short_by, reply.positions[0].available_to_promise) == (3, 0)
    assert [name.split("_")[2] for name in reply.legs_short] == [
        name.split("_")[2] for name in (f"leg_US100_{_encoded(newest)}_1", f"leg_US100_{_encoded(vip)}_1")
    ]
    assert shop.ask(a_place(an_order("more"))).code == "out_of_stock"
    shop.ask(CancelOrder(newest.slot, newest.order_no))
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "found", 1),)))
    assert not shop.state.short_positions


def _encoded(view: OrderView) -> str:

    return encode_number(view.order_no)


def test_the_network_builder_makes_a_core_that_answers() -> None:
    assert isinstance(LoneCore(a_network()).ask(GetOrder("US100", 1)), Problem)
