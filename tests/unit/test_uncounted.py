"""Suppliers that nobody counts: a cap a day, whatever is cancelled, shipped, recounted or restarted meanwhile."""

from __future__ import annotations

import random
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace

from engine.actors.planner import SolverPlanner
from engine.domain.commands import (
    ActOnLeg,
    AdjustStock,
    CancelOrder,
    CountStock,
    GetAvailability,
    GetOrder,
    SetPosition,
    StockMove,
)
from engine.domain.orders import OnShort
from engine.domain.replies import OrderView, Problem, StockReply
from engine.protocol.driver import ACK_WAIT_MS
from engine.settings import Settings
from tests.builders import a_network, a_node, a_place, an_order
from tests.sim.lone_core import LoneCore
from tests.unit.test_edits import a_cluster, check, live

ZONE = "America/New_York"
EVENING_MS = int(datetime(2026, 10, 31, 20, 0, tzinfo=ZoneInfo(ZONE)).timestamp() * 1_000)
HOUR_MS = 3_600_000


def a_supplier(cap: int = 5, *, safety: int = 0, **options: Any) -> LoneCore:
    """One supplier SUP with SKU-0 uncounted and SKU-1 counted; Saturday, 20:00, the night before the clocks go back."""
    nodes = [a_node("SUP", kind="supplier", time_zone=ZONE, working_days=tuple(range(7)))]
    shop = LoneCore(a_network(nodes=nodes), **options)
    shop.now_ms = EVENING_MS
    capped(shop, cap, safety=safety)
    return shop


def capped(shop: LoneCore, cap: int, *, safety: int = 0, mode: str = "uncounted") -> StockReply:
    reply = shop.ask(SetPosition("SUP", (("SKU-0", safety, mode, 10_000, cap),)))
    assert isinstance(reply, StockReply), reply
    return reply


def bought(shop: LoneCore, order_id: str, units: int) -> OrderView | Problem:
    reply = shop.ask(a_place(an_order(order_id, {"SKU-0": units})))
    assert isinstance(reply, OrderView | Problem)
    return reply


def left(shop: LoneCore, sku: str = "SKU-0") -> int:
    (view,) = shop.ask(GetAvailability((sku,))).positions
    return int(view.available_to_promise)


def test_a_supplier_promises_its_cap_a_day_and_begins_anew_at_local_midnight() -> None:
    shop = a_supplier(5)
    assert left(shop) == 5
    assert isinstance(bought(shop, "A-1", 4), OrderView)
    refused = bought(shop, "A-2", 2)
    assert isinstance(refused, Problem)
    assert (refused.code, refused.errors[0].facts["available_to_promise"]) == ("out_of_stock", 1)
    shop.pass_time(4 * HOUR_MS - 1_001)
    assert left(shop) == 1
    shop.pass_time(1_001)
    assert left(shop) == 5
    assert isinstance(bought(shop, "A-3", 5), OrderView)
    shop.pass_time(24 * HOUR_MS)  # this day has 25 hours
    assert left(shop) == 0
    shop.pass_time(HOUR_MS)
    assert left(shop) == 5


def test_shipping_gives_nothing_back_and_cancelling_does() -> None:
    shop = a_supplier(3)
    view = bought(shop, "A-1", 3)
    assert isinstance(view, OrderView)
    for action in ("release", "accept", "pick", "ship"):
        assert isinstance(shop.ask(ActOnLeg(view.slot, view.order_no, 1, action)), OrderView)
    assert left(shop) == 0
    shop.pass_time(5 * HOUR_MS)
    view = bought(shop, "A-2", 3)
    assert isinstance(view, OrderView)
    shop.ask(CancelOrder(view.slot, view.order_no, (("1", 2),)))
    assert left(shop) == 2


def test_waiting_orders_are_served_when_the_day_begins() -> None:
    shop = a_supplier(2)
    bought(shop, "A-1", 2)
    view = shop.ask(a_place(an_order("A-2", {"SKU-0": 2}, on_short=OnShort.PARK)))
    assert view.state == "parked"
    shop.pass_time(5 * HOUR_MS)
    assert shop.core.state.order(view.slot, view.order_no).legs  # type: ignore[union-attr]
    assert left(shop) == 0


def test_another_cap_counts_at_once_and_never_makes_short() -> None:
    shop = a_supplier(5)
    bought(shop, "A-1", 4)
    assert (left(shop), capped(shop, 7).positions[0].available_to_promise) == (1, 3)
    assert capped(shop, 7, safety=2).positions[0].available_to_promise == 3  # there is nothing that safety would keep
    assert capped(shop, 2).positions[0].available_to_promise == 0
    assert not shop.state.short_positions
    view = capped(shop, 0, mode="counted").positions[0]
    assert (view.on_hand, view.allocated, view.available_to_promise, view.short_by) == (4, 4, 0, 0)
    shop.pass_time(24 * HOUR_MS)
    assert left(shop) == 0  # nobody renews what is counted
    shop.ask(CountStock("SUP", "feed", shop.now_ms, 1, "delta", (("SKU-0", 9),)))
    assert left(shop) == 5


def test_counts_say_nothing_about_it_and_movements_are_refused() -> None:
    shop = a_supplier(5)
    reply = shop.ask(CountStock("SUP", "feed", shop.now_ms, 1, "full", (("SKU-0", 900), ("SKU-1", 7))))
    assert not isinstance(reply, Problem)
    assert (left(shop), left(shop, "SKU-1")) == (5, 7)
    refused = shop.ask(AdjustStock("SUP", (StockMove("SKU-0", "received", 1),)))
    assert (refused.code, refused.errors[0].pointer) == ("invalid_field", "/moves/0/sku")


def test_the_day_is_begun_once_whatever_restarts() -> None:
    shop = a_supplier(5)
    bought(shop, "A-1", 5)
    shop.pass_time(5 * HOUR_MS)
    view = bought(shop, "A-2", 3)
    assert isinstance(view, OrderView)
    shop.check_recovery({})
    entries = len(shop.entries)
    core = shop.recovered_from({})
    shop.core = core
    shop.settle()
    shop.now_ms += 2_000
    shop.settle()
    assert left(shop) == 2
    assert len(shop.entries) == entries  # nothing was journaled by the restart


def test_a_day_that_finds_no_room_in_the_entry_waits_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = a_supplier(5)
    bought(shop, "A-1", 4)
    shop.now_ms += 4 * HOUR_MS
    monkeypatch.setattr(shop.core, "has_room", lambda: False)
    effects = shop.poll()
    assert effects.append is None and effects.wake_at_ms == shop.now_ms + 1, "not at once, again and again"
    monkeypatch.undo()
    shop.pass_time(1)
    assert left(shop) == 5


def test_settings_that_leave_every_position_counted_are_looked_through_once() -> None:
    shop = a_supplier(5)
    capped(shop, 0, mode="trusted")
    part = shop.state.nodes[0]
    looks: list[int] = []

    class Noted(dict[int, tuple[str, int, int]]):
        def values(self) -> Any:
            looks.append(1)
            return super().values()

    part.settings = Noted(part.settings)
    for _ in range(5):
        shop.pass_time(1_001)
    assert len(looks) <= 1
    capped(shop, 7)
    assert left(shop) == 7
    shop.pass_time(5 * HOUR_MS)
    assert isinstance(bought(shop, "A-1", 7), OrderView)
    shop.pass_time(24 * HOUR_MS)
    assert left(shop) == 7, "its days begin as ever"


def test_a_feed_that_is_late_stays_late_though_suppliers_begin_their_day() -> None:
    """`max_feed_age_s` is about counts: a renewal is none."""
    nodes = [a_node("SUP", time_zone=ZONE, max_feed_age_s=6 * 3_600, on_stale="exclude", working_days=tuple(range(7)))]
    shop = LoneCore(a_network(nodes=nodes), make_planner=lambda state: SolverPlanner(state, Settings()))
    shop.now_ms = EVENING_MS
    capped(shop, 5)
    shop.ask(CountStock("SUP", "feed", shop.now_ms, 1, "delta", (("SKU-1", 7),)))
    assert isinstance(shop.ask(a_place(an_order("A-1", {"SKU-1": 1}))), OrderView)
    shop.pass_time(7 * HOUR_MS)
    assert isinstance(shop.ask(a_place(an_order("A-2", {"SKU-1": 1}))), Problem)


DEADLINE_S = 600


def a_supplier_and_a_store() -> LoneCore:
    """SUP with a cap of 5, which has ten minutes to accept what was released to it; STORE has nothing yet."""
    always = {"working_days": tuple(range(7)), "time_zone": ZONE, "acceptance_deadline_s": DEADLINE_S}
    shop = LoneCore(a_network(nodes=[a_node("SUP", kind="supplier", **always), a_node("STORE", **always)]))
    shop.now_ms = EVENING_MS
    capped(shop, 5)
    return shop


def stocked(shop: LoneCore, units: int) -> None:
    assert isinstance(shop.ask(AdjustStock("STORE", (StockMove("SKU-0", "received", units),))), StockReply)


def acted(shop: LoneCore, view: OrderView, leg_no: int, action: str, **fields: Any) -> OrderView:
    reply = shop.ask(ActOnLeg(view.slot, view.order_no, leg_no, action, **fields))
    assert isinstance(reply, OrderView), reply
    return reply


def now(shop: LoneCore, view: OrderView) -> list[tuple[str, str, str]]:
    found = shop.ask(GetOrder(view.slot, view.order_no))
    assert isinstance(found, OrderView)
    return [(leg.node_id, leg.state, leg.end_reason) for leg in found.legs]


def left_at_supplier(shop: LoneCore) -> int:
    (view,) = shop.ask(GetAvailability(("SKU-0",), "SUP")).positions
    return int(view.available_to_promise)


def test_what_a_supplier_does_not_answer_goes_to_the_next_node_and_is_free_again_today() -> None:
    shop = a_supplier_and_a_store()
    view = bought(shop, "A-1", 2)
    assert isinstance(view, OrderView)
    stocked(shop, 2)
    acted(shop, view, 1, "release")
    shop.pass_time(DEADLINE_S * 1_000 - 1_000)
    assert (now(shop, view), left_at_supplier(shop)) == ([("SUP", "released", "")], 3)
    shop.pass_time(2_000)
    assert now(shop, view) == [("SUP", "rejected", "not_accepted"), ("STORE", "allocated", "")]
    assert left_at_supplier(shop) == 5
    shop.check_recovery({})


def test_where_nobody_else_has_it_the_supplier_keeps_the_leg_and_may_confirm_it_the_next_day() -> None:
    shop = a_supplier_and_a_store()
    view = bought(shop, "A-1", 2)
    assert isinstance(view, OrderView)
    acted(shop, view, 1, "release")
    shop.pass_time(DEADLINE_S * 1_000 + 1_000)
    found = shop.ask(GetOrder(view.slot, view.order_no))
    assert (found.legs[0].node_id, found.legs[0].state, found.legs[0].overdue) == ("SUP", "released", True)
    shop.pass_time(5 * HOUR_MS)
    assert left_at_supplier(shop) == 5, "what is still open is no part of the new day's cap"
    assert [leg.overdue for leg in acted(shop, view, 1, "accept").legs] == [False]
    stocked(shop, 2)
    shop.pass_time(HOUR_MS)
    assert now(shop, view) == [("SUP", "accepted", "")]
    shop.check_recovery({})


@pytest.mark.parametrize(("effect", "today"), [("none", 5), ("zero_until_count", 0)])
def test_a_supplier_that_says_no_loses_the_leg_and_with_an_empty_shelf_the_rest_of_its_day(
    effect: str, today: int
) -> None:
    shop = a_supplier_and_a_store()
    view = bought(shop, "A-1", 2)
    assert isinstance(view, OrderView)
    stocked(shop, 2)
    acted(shop, view, 1, "release")
    acted(shop, view, 1, "reject", stock_effect=effect)
    shop.pass_time(1_000)
    assert [leg[:2] for leg in now(shop, view)] == [("SUP", "rejected"), ("STORE", "allocated")]
    assert left_at_supplier(shop) == today
    shop.pass_time(4 * HOUR_MS)
    assert left_at_supplier(shop) == 5
    shop.check_recovery({})


@pytest.mark.parametrize("shards", [2, 4])
def test_a_leg_that_a_supplier_of_another_shard_does_not_answer_goes_to_the_next_node(shards: int) -> None:
    cluster = a_cluster(shards)
    for core in cluster.cores:
        core.catalog.nodes = [replace(node, acceptance_deadline_s=60) if node else None for node in core.catalog.nodes]
    assert cluster.cores[0].catalog.owner[1] == 1
    cluster.ask(1, SetPosition("N-1", (("SKU-5", 0, "uncounted", 10_000, 3),)))
    cluster.now_ms += 50
    cluster.settle()
    placed = cluster.ask(0, a_place(an_order(lines={"SKU-5": 2})))
    assert isinstance(placed, OrderView), placed
    assert live(placed) == {"N-1": 2}
    at = (placed.slot, placed.order_no)
    cluster.ask(0, AdjustStock("N-0", (StockMove("SKU-5", "received", 2),)))
    cluster.ask(0, ActOnLeg(*at, 1, "release"))
    cluster.now_ms += 61_000
    cluster.settle()
    moved = cluster.ask(0, GetOrder(*at))
    assert isinstance(moved, OrderView)
    assert (moved.legs[0].state, moved.legs[0].end_reason, live(moved)) == ("rejected", "not_accepted", {"N-0": 2})
    (there,) = cluster.ask(1, GetAvailability(("SKU-5",), "N-1")).positions  # type: ignore[union-attr]
    assert (there.available_to_promise, there.allocated) == (3, 0)
    cluster.now_ms += ACK_WAIT_MS
    cluster.settle()
    check(cluster)


@pytest.mark.parametrize("seed", range(12))
def test_no_day_promises_more_than_the_cap_beyond_what_was_open(seed: int) -> None:
    """U1, over a random history: units open now <= units open when the day began + cap."""
    rng = random.Random(seed)
    cap = rng.randint(1, 6)
    shop = a_supplier(cap)
    live: list[OrderView] = []
    shipped_today = opened = 0
    zone, today = ZoneInfo(ZONE), None
    for n in range(60):
        shop.pass_time(rng.choice([0, 60_000, 3 * HOUR_MS]))
        position = shop.ask(GetAvailability(("SKU-0",))).positions[0]
        day = datetime.fromtimestamp(shop.now_ms / 1_000, zone).date()
        if day != today:
            today, opened, shipped_today = day, position.held + position.allocated, 0
        step = rng.random()
        if step < 0.6:
            ttl_s = rng.choice([0, 0, 3_600])
            reply = shop.ask(a_place(an_order(f"A-{n}", {"SKU-0": rng.randint(1, 4)}), ttl_s=ttl_s))
            if isinstance(reply, OrderView) and not ttl_s:
                live.append(reply)
        elif live and step < 0.8:
            view = live.pop(rng.randrange(len(live)))
            shop.ask(CancelOrder(view.slot, view.order_no))
        elif live:
            view = live.pop(rng.randrange(len(live)))
            units = view.legs[0].lines[0].quantity
            for action in ("release", "accept", "pick", "ship"):
                shop.ask(ActOnLeg(view.slot, view.order_no, 1, action))
            shipped_today += units
        position = shop.ask(GetAvailability(("SKU-0",))).positions[0]
        assert position.held + position.allocated + shipped_today <= opened + cap
    shop.check_recovery({})
