"""Edits of open orders: all or nothing, its own units free, released legs untouched; on one shard and over several."""

from __future__ import annotations

from typing import Any

import pytest

from engine.domain.commands import (
    ActOnLeg,
    AdjustStock,
    CancelOrder,
    CommitHold,
    EditOrder,
    GetOrder,
    StockMove,
)
from engine.domain.orders import OnShort
from engine.domain.replies import OrderView, Problem
from engine.protocol.hold_caps import HoldLimits
from engine.verify.books import Books
from tests.builders import a_destination, a_line, a_network, a_node, a_place, an_item, an_order
from tests.sim.checker import JournalFold, check_agreement, check_core
from tests.sim.little_cluster import LittleCluster
from tests.sim.lone_core import LoneCore
from tests.unit.test_resourcing import a_shop, place, receive, switch


def edit(shop: LoneCore, view: OrderView, **fields: Any) -> Any:
    return shop.ask(EditOrder(view.slot, view.order_no, **fields))


def live(view: OrderView) -> dict[str, int]:
    """Units by node in legs that have not ended."""
    units: dict[str, int] = {}
    for leg in view.legs:
        if leg.state not in ("cancelled", "rejected"):
            units[leg.node_id] = units.get(leg.node_id, 0) + sum(line.quantity for line in leg.lines)
    return units


def the_fault(reply: Any) -> tuple[str, str]:
    assert isinstance(reply, Problem), reply
    return reply.code, reply.errors[0].pointer


def test_another_address_uses_the_units_that_the_order_has() -> None:
    shop = a_shop({"N-0": {"SKU-0": 2}, "N-1": {"SKU-0": 1}})
    order = place(shop, "A", {"SKU-0": 3})
    edited = edit(shop, order, ship_to=a_destination("90210"))
    assert isinstance(edited, OrderView), edited
    assert live(edited) == {"N-0": 2, "N-1": 1}
    assert edited.version == order.version + 1
    shop.check_recovery({})


def test_a_leg_that_the_new_plan_leaves_as_it_is_keeps_its_number() -> None:
    shop = a_shop({"N-0": {"SKU-0": 3}, "N-1": {"SKU-1": 3}})
    order = place(shop, "A", {"SKU-0": 1})
    edited = edit(shop, order, added=(a_line("SKU-1", 1, line_id="2"),))
    assert [(leg.leg_no, leg.node_id, leg.state) for leg in edited.legs] == [
        (1, "N-0", "allocated"),
        (2, "N-1", "allocated"),
    ]


def test_quantities_lines_and_address_change_in_one_step() -> None:
    shop = a_shop({"N-0": {"SKU-0": 9, "SKU-1": 9, "SKU-2": 9}})
    order = place(shop, "A", {"SKU-0": 2, "SKU-1": 2})
    edited = edit(
        shop,
        order,
        ship_to=a_destination("60601"),
        lines=(("1", 5),),
        removed=("2",),
        added=(a_line("SKU-2", 4, line_id="3"),),
    )
    assert isinstance(edited, OrderView), edited
    (leg,) = [leg for leg in edited.legs if leg.state == "allocated"]
    assert [(line.line_id, line.quantity) for line in leg.lines] == [("1", 5), ("3", 4)]
    (given_up,) = [leg for leg in edited.legs if leg.state == "cancelled"]
    assert given_up.end_reason == "edited"
    shop.check_recovery({})
    back = edit(shop, edited, lines=(("1", 1), ("2", 3)))
    (leg,) = [leg for leg in back.legs if leg.state == "allocated"]
    assert [(line.line_id, line.quantity) for line in leg.lines] == [("1", 1), ("2", 3), ("3", 4)]


def test_what_does_not_fit_changes_nothing_and_says_what_there_is() -> None:
    shop = a_shop({"N-0": {"SKU-0": 3}})
    order = place(shop, "A", {"SKU-0": 2})
    entries = len(shop.entries)
    refused = edit(shop, order, ship_to=a_destination("60601"), lines=(("1", 4),))
    assert the_fault(refused) == ("out_of_stock", "/lines/0/quantity")
    facts = refused.errors[0].facts
    assert (facts["requested"], facts["available_to_promise"]) == (4, 3)
    assert len(shop.entries) == entries
    assert live(shop.ask(GetOrder(order.slot, order.order_no))) == {"N-0": 2}


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({}, ""),
        ({"lines": (("7", 1),)}, "/lines/0/line_id"),
        ({"removed": ("7",)}, "/remove_lines/0"),
        ({"lines": (("1", 1),), "removed": ("1",)}, "/remove_lines/0"),
        ({"lines": (("1", 1), ("1", 2))}, "/lines/1/line_id"),
        ({"added": (a_line("SKU-1", 1, line_id="1"),)}, "/add_lines/0/line_id"),
        ({"added": (a_line("SKU-1", 1, line_id="5"), a_line("SKU-1", 1, line_id="5"))}, "/add_lines/1/line_id"),
        ({"removed": ("1",)}, "/remove_lines/0"),
    ],
)
def test_edits_that_say_nothing_or_contradict_are_refused_by_field(fields: dict[str, Any], pointer: str) -> None:
    shop = a_shop({"N-0": {"SKU-0": 3}})
    order = place(shop, "A", {"SKU-0": 2})
    assert the_fault(edit(shop, order, **fields)) == ("invalid_field", pointer)


def test_unknown_names_are_refused_by_field() -> None:
    shop = a_shop({"N-0": {"SKU-0": 3}})
    order = place(shop, "A", {"SKU-0": 2})
    assert the_fault(edit(shop, order, added=(a_line("NONE", 1, line_id="9"),))) == ("unknown_sku", "/add_lines/0/sku")
    assert the_fault(edit(shop, order, service="by-pigeon")) == ("unknown_service", "/service")
    assert the_fault(edit(shop, order, if_version=7)) == ("version_mismatch", "")


def test_released_legs_stay_and_no_line_shrinks_below_them() -> None:
    shop = a_shop({"N-0": {"SKU-0": 2}, "N-1": {"SKU-0": 9}})
    order = place(shop, "A", {"SKU-0": 4}, max_legs=3)
    (leg,) = [leg for leg in order.legs if leg.node_id == "N-0"]
    shop.ask(ActOnLeg(order.slot, order.order_no, leg.leg_no, "release"))
    refused = edit(shop, order, lines=(("1", 1),))
    assert the_fault(refused) == ("wrong_state", "/lines/0/quantity")
    assert refused.errors[0].facts["at_least"] == 2
    assert refused.errors[0].facts["legs"][0]["state"] == "released"
    assert the_fault(edit(shop, order, removed=("1",))) == ("wrong_state", "/remove_lines/0")
    moved = edit(shop, order, ship_to=a_destination("60601"), lines=(("1", 6),))
    assert live(moved) == {"N-0": 2, "N-1": 4}
    (stayed,) = [leg for leg in moved.legs if leg.node_id == "N-0"]
    assert stayed.state == "released" and stayed.ship_to == a_destination()
    fewer = edit(shop, moved, lines=(("1", 2),))
    assert live(fewer) == {"N-0": 2}
    shop.check_recovery({})


def test_part_of_a_released_leg_goes_where_the_leg_goes() -> None:
    shop = a_shop({"N-0": {"SKU-0": 2}})
    order = place(shop, "A", {"SKU-0": 2})
    shop.ask(ActOnLeg(order.slot, order.order_no, 1, "release"))
    edit(shop, order, ship_to=a_destination("90210"))
    part = shop.ask(ActOnLeg(order.slot, order.order_no, 1, "ship", lines=(("1", 1),)))
    assert [(leg.state, leg.ship_to) for leg in part.legs] == [
        ("released", a_destination()),
        ("shipped", a_destination()),
    ]
    shop.check_recovery({})


@pytest.mark.parametrize(
    ("on_short", "reasons"),
    [(OnShort.REFUSE, None), (OnShort.PARTIAL, False), (OnShort.PARK, True)],
)
def test_added_units_follow_on_short(on_short: int, reasons: bool | None) -> None:
    shop = a_shop({"N-0": {"SKU-0": 2, "SKU-1": 1}})
    order = place(shop, "A", {"SKU-0": 2})
    reply = edit(shop, order, added=(a_line("SKU-1", 3, line_id="2"),), on_short=on_short)
    if reasons is None:
        assert the_fault(reply) == ("out_of_stock", "/add_lines/0")
        return
    assert [(u.line_id, u.quantity) for u in reply.unfilled] == [("2", 2)]
    record = shop.state.order(order.slot, order.order_no)
    assert record is not None and record.demand[0].parked is reasons
    receive(shop, "N-0", {"SKU-1": 5})
    shop.pass_time(5_000)
    assert shop.ask(GetOrder(order.slot, order.order_no)).state == "allocated"


def test_what_was_covered_stays_covered_whatever_on_short_says() -> None:
    shop = a_shop({"N-0": {"SKU-0": 2}})
    order = place(shop, "A", {"SKU-0": 2})
    switch(shop.core, 0, a_node("N-0", state="drain"))
    reply = edit(shop, order, ship_to=a_destination("60601"), on_short=OnShort.PARK)
    assert the_fault(reply)[0] in ("out_of_stock", "no_capable_node")
    assert live(shop.ask(GetOrder(order.slot, order.order_no))) == {"N-0": 2}


def test_units_that_waited_may_go_on_waiting_and_keep_their_place() -> None:
    shop = a_shop({"N-0": {"SKU-0": 2}})
    order = place(shop, "A", {"SKU-0": 5}, on_short=OnShort.PARK)
    since = shop.state.order(order.slot, order.order_no).demand[0].since_ms  # type: ignore[union-attr]
    shop.now_ms += 60_000
    edited = edit(shop, order, ship_to=a_destination("60601"), on_short=OnShort.REFUSE)
    assert [u.quantity for u in edited.unfilled] == [3]
    fewer = edit(shop, order, lines=(("1", 3),))
    assert [u.quantity for u in fewer.unfilled] == [1]
    assert shop.state.order(order.slot, order.order_no).demand[0].since_ms == since  # type: ignore[union-attr]
    assert edit(shop, order, lines=(("1", 2),)).state == "allocated"


def test_units_kept_for_an_order_are_there_for_its_edit() -> None:
    shop = a_shop({})
    order = place(shop, "A", [a_line("SKU-0", 10, group="g")], on_short=OnShort.PARK)
    receive(shop, "N-0", {"SKU-0": 5})
    shop.pass_time(10_000)
    assert shop.state.kept
    assert live(edit(shop, order, lines=(("1", 5),))) == {"N-0": 5}
    shop.check_recovery({})


def test_units_kept_for_an_order_that_ranks_behind_are_there_for_an_edit() -> None:
    shop = a_shop({"N-0": {"SKU-0": 2}})
    first = place(shop, "A", {"SKU-0": 2}, priority=9)
    place(shop, "B", [a_line("SKU-0", 10, group="g")], on_short=OnShort.PARK)
    receive(shop, "N-0", {"SKU-0": 5})
    shop.pass_time(10_000)
    assert shop.state.kept
    assert live(edit(shop, first, lines=(("1", 3),))) == {"N-0": 3}
    shop.check_recovery({})


def test_kits_and_groups_survive() -> None:
    items = [an_item("A"), an_item("B"), an_item("KIT", components={"A": 2, "B": 1})]
    shop = a_shop({"N-0": {"A": 9, "B": 2}, "N-1": {"A": 20, "B": 9}}, items=items)
    order = place(shop, "K", [a_line("KIT", 2), a_line("A", 1, line_id="2")])
    edited = edit(shop, order, lines=(("1", 4),), ship_to=a_destination("60601"))
    legs = [leg for leg in edited.legs if leg.state == "allocated"]
    kits = [leg for leg in legs if any(line.sku == "B" for line in leg.lines)]
    assert [leg.node_id for leg in kits] == ["N-1"]
    assert sum(line.quantity for line in kits[0].lines if (line.line_id, line.sku) == ("1", "A")) == 8
    one = edit(shop, edited, lines=(("1", 1),))
    (kit,) = [leg for leg in one.legs if leg.state == "allocated" and any(line.sku == "B" for line in leg.lines)]
    assert [(line.sku, line.quantity) for line in kit.lines if line.line_id == "1"] == [("A", 2), ("B", 1)]
    refused = edit(shop, one, lines=(("1", 40),))
    assert the_fault(refused) == ("out_of_stock", "/lines/0/quantity")
    grouped = [a_line("A", 1, line_id="5", group="g"), a_line("B", 1, line_id="6", group="g")]
    together = edit(shop, one, added=tuple(grouped))
    (pair,) = [leg for leg in together.legs if leg.state == "allocated" and any(x.line_id == "5" for x in leg.lines)]
    assert {x.line_id for x in pair.lines} >= {"5", "6"}


def test_a_repeat_gets_the_first_answer_and_another_body_none() -> None:
    shop = a_shop({"N-0": {"SKU-0": 9}})
    order = place(shop, "A", {"SKU-0": 2})
    first = edit(shop, order, lines=(("1", 3),), key_hash=7, fingerprint=1)
    again = edit(shop, order, lines=(("1", 3),), key_hash=7, fingerprint=1)
    assert again.replayed and again.version == first.version
    assert edit(shop, order, lines=(("1", 4),), key_hash=7, fingerprint=2).code == "key_reused"


def test_a_hold_is_edited_and_stays_a_hold_within_its_caps() -> None:
    limits = HoldLimits(units_per_customer=4, position_share_bp=5_000)
    shop = LoneCore(a_network(nodes=1), hold_limits=limits)
    receive(shop, "N-0", {"SKU-0": 6, "SKU-1": 20})
    held = shop.ask(a_place(an_order("H", {"SKU-0": 2}, customer_id="C-1"), ttl_s=60))
    assert isinstance(held, OrderView), held
    more = edit(shop, held, lines=(("1", 3),), ship_to=a_destination("60601"))
    assert (more.state, live(more), more.expires_at_ms) == ("held", {"N-0": 3}, held.expires_at_ms)
    assert edit(shop, held, lines=(("1", 4),)).errors[0].facts["cap"] == "position"
    assert edit(shop, held, added=(a_line("SKU-1", 2, line_id="2"),)).errors[0].facts["cap"] == "customer"
    assert live(edit(shop, held, lines=(("1", 1),))) == {"N-0": 1}
    committed = shop.ask(CommitHold(held.slot, held.order_no))
    assert committed.state == "allocated"
    shop.pass_time(61_000)
    assert the_fault(edit(shop, held, lines=(("1", 9),)))[0] == "out_of_stock"


def test_an_ended_order_is_not_edited() -> None:
    shop = a_shop({"N-0": {"SKU-0": 9}})
    order = place(shop, "A", {"SKU-0": 2})
    shop.ask(CancelOrder(order.slot, order.order_no))
    assert the_fault(edit(shop, order, lines=(("1", 3),)))[0] == "wrong_state"
    held = shop.ask(a_place(an_order("H", {"SKU-0": 2}), ttl_s=1))
    shop.pass_time(2_000)
    assert edit(shop, held, lines=(("1", 3),)).code == "expired"


# -- over several shards --------------------------------------------------------------------------------------------


def a_cluster(shards: int, units: int = 2, **fields: Any) -> LittleCluster:
    cluster = LittleCluster(shards=shards, nodes=4, **fields)
    for node in range(4):
        moves = tuple(StockMove(f"SKU-{i}", "received", units) for i in range(3))
        cluster.ask(node % shards, AdjustStock(f"N-{node}", moves))
    cluster.now_ms += 50
    cluster.settle()
    return cluster


def check(cluster: LittleCluster) -> None:
    """The books of each shard, the records and the owners agree."""
    from tests.sim.harness import _events

    for shard, entries in enumerate(cluster.entries):
        books = Books()
        owned = {n for n in range(4) if cluster.cores[shard].catalog.owns_node(n)}
        fold = JournalFold(owned)
        for entry in entries:
            for _ in books.apply(entry.seq, entry.time_ms, entry.payload):
                pass
            fold.add(entry.seq, _events.decode(entry.payload))
        assert not books.faults, books.faults
        check_core(cluster.cores[shard])
        positions = cluster.cores[shard].state.positions
        for item, node in zip(positions.items().tolist(), positions.node[: positions.size].tolist(), strict=True):
            if node in owned:
                row = positions.find(item, node)
                at = books.position(item << 32 | node)
                assert (at.held, at.allocated) == (positions.v_held[row], positions.v_allocated[row])
    check_agreement(cluster.cores)


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("ttl_s", [0, 60])
def test_an_order_that_holds_all_there_is_moves_to_another_address(shards: int, ttl_s: int) -> None:
    cluster = a_cluster(shards, per_day=4)
    placed = cluster.ask(0, a_place(an_order(lines={"SKU-0": 8}, max_legs=4), ttl_s=ttl_s))
    assert isinstance(placed, OrderView), placed
    command = EditOrder(placed.slot, placed.order_no, a_destination("99501"), lines=(("1", 7),))
    edited = cluster.ask(0, command)
    assert isinstance(edited, OrderView), edited
    assert sum(live(edited).values()) == 7
    assert edited.state == ("held" if ttl_s else "allocated")
    cluster.now_ms += 100
    cluster.settle()
    check(cluster)
    more = cluster.ask(0, EditOrder(placed.slot, placed.order_no, added=(a_line("SKU-1", 2, line_id="2"),)))
    assert isinstance(more, OrderView), more
    refused = cluster.ask(0, EditOrder(placed.slot, placed.order_no, lines=(("1", 9),)))
    assert the_fault(refused) == ("out_of_stock", "/lines/0/quantity")
    if ttl_s:
        assert isinstance(cluster.ask(0, CommitHold(placed.slot, placed.order_no)), OrderView)
        cluster.now_ms += 100
        cluster.settle()
    check(cluster)
    cancelled = cluster.ask(0, CancelOrder(placed.slot, placed.order_no))
    assert isinstance(cancelled, OrderView) and cancelled.state == "cancelled"
    cluster.now_ms += 100
    cluster.settle()
    check(cluster)


@pytest.mark.parametrize("shards", [2, 4])
def test_an_edit_right_after_another_counts_units_that_are_still_on_their_way(shards: int) -> None:
    """D3: what other shards have not done yet, and what their views do not show yet, is no reason to refuse."""
    cluster = a_cluster(shards, units=3)
    placed = cluster.ask(0, a_place(an_order(lines={"SKU-0": 12}, max_legs=4)))
    assert isinstance(placed, OrderView), placed
    cluster.now_ms += 100
    cluster.settle()
    views, late = cluster.cores[0].views, []
    take = views.update
    views.update = lambda reply, now_ms: late.append((now_ms + 300, reply))  # type: ignore[method-assign]

    def edited(units: int) -> Any:
        asked = cluster.send(0, EditOrder(placed.slot, placed.order_no, lines=(("1", units),)))
        while asked not in cluster.replies:
            cluster.now_ms += 1
            cluster.step()
            while late and late[0][0] <= cluster.now_ms:
                take(late.pop(0)[1], cluster.now_ms)
        return cluster.replies[asked]

    for units in (7, 12, 4, 12):
        view = edited(units)
        assert isinstance(view, OrderView), view
        assert sum(live(view).values()) == units
    refused = edited(13)
    assert the_fault(refused) == ("out_of_stock", "/lines/0/quantity")


@pytest.mark.parametrize("shards", [2, 4])
def test_edits_and_cancels_at_once_leave_the_books_straight(shards: int) -> None:
    cluster = a_cluster(shards)
    placed = cluster.ask(0, a_place(an_order(lines={"SKU-0": 6}, max_legs=4)))
    assert isinstance(placed, OrderView), placed
    at = (placed.slot, placed.order_no)
    commands = [
        EditOrder(*at, a_destination("99501"), key_hash=1, fingerprint=1),
        EditOrder(*at, a_destination("99501"), key_hash=1, fingerprint=1),
        CancelOrder(*at, (("1", 1),)),
        EditOrder(*at, a_destination("60601"), added=(a_line("SKU-1", 5, line_id="2"),)),
        CancelOrder(*at, (("1", 2),)),
        EditOrder(*at, lines=(("1", 4),)),
    ]
    replies = cluster.ask_each(0, commands)
    cluster.now_ms += 3_000
    cluster.settle()
    assert all(isinstance(reply, OrderView | Problem) for reply in replies)
    assert not [reply for reply in replies if isinstance(reply, Problem) and reply.code == "internal"]
    check(cluster)
    last = cluster.ask(0, GetOrder(*at))
    assert isinstance(last, OrderView)
    assert last.state == "allocated"


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_a_hold_on_all_there_is_is_committed_to_another_address(shards: int) -> None:
    cluster = a_cluster(shards, per_day=4)
    held = cluster.ask(0, a_place(an_order(lines={"SKU-0": 8}, max_legs=4), ttl_s=60))
    assert isinstance(held, OrderView), held
    refused = cluster.ask(0, CommitHold(held.slot, held.order_no, ship_to=a_destination("1000", country="CA")))
    assert isinstance(refused, Problem), refused
    still = cluster.ask(0, GetOrder(held.slot, held.order_no))
    assert isinstance(still, OrderView)
    assert (still.state, live(still)) == ("held", live(held))
    done = cluster.ask(0, CommitHold(held.slot, held.order_no, ship_to=a_destination("99501")))
    assert isinstance(done, OrderView), done
    assert (done.state, sum(live(done).values())) == ("allocated", 8)
    cluster.now_ms += 3_000
    cluster.settle()
    check(cluster)
