"""Counts that are too old: everybody follows what the node asks for, its owner, the other shards and the gateways."""

from __future__ import annotations

from typing import Any

import pytest

from engine.actors.planner import SolverPlanner
from engine.actors.planner_network import STALE_AGAIN_MS
from engine.domain.commands import (
    AdjustStock,
    CountStock,
    FollowStock,
    FollowView,
    GetAvailability,
    SetPosition,
    StockMove,
)
from engine.domain.decide_orders import Prepared, fits, prepare
from engine.domain.events import StockCounted
from engine.domain.feed_age import Counts, Lateness, lateness, lateness_at
from engine.domain.orders import Method
from engine.domain.replies import StockUpdate, ViewUpdate
from engine.domain.state import apply
from engine.protocol import view_feed
from engine.protocol.moving_parts import node_came
from engine.protocol.view_feed import HEARTBEAT_MS, PUSH_INTERVAL_MS
from engine.settings import Settings
from tests.builders import NOW_MS, a_line, a_network, a_node, a_place, an_order
from tests.sim.lone_core import LoneCore
from tests.unit.test_domain_orders import a_shop
from tests.unit.test_planner_orders import a_request, a_state
from tests.unit.test_protocol_two_phase import OTHER
from tests.unit.test_stores import a_street, near

HOUR_S = 3_600
HOUR_MS = HOUR_S * 1_000


def two_nodes(**last: Any) -> dict[str, Any]:
    """N-0 of shard 0 and N-1, which has a feed that may be an hour old, of shard 1."""
    fields = {"max_feed_age_s": HOUR_S, "on_stale": "exclude", **last}
    return a_network(nodes=[a_node("N-0", postal_code="01001"), a_node("N-1", postal_code="51001", **fields)], shards=2)


def counted(shop: LoneCore, node: str, *, ago_ms: int = 0, seq: int = 1, **rows: int) -> None:
    units = {sku.replace("_", "-"): quantity for sku, quantity in rows.items()}
    shop.ask(CountStock(node, "wms", shop.now_ms - ago_ms, seq, "delta", tuple(units.items())))


@pytest.mark.parametrize(
    ("on_stale", "late"),
    [("serve", Lateness.FRESH), ("exclude", Lateness.EXCLUDED), ("extra_safety", Lateness.KEEPS_MORE)],
)
def test_a_count_is_late_when_it_is_older_than_the_node_allows(on_stale: Any, late: Lateness) -> None:
    node = a_node("N", max_feed_age_s=HOUR_S, on_stale=on_stale)
    assert lateness(node, NOW_MS, NOW_MS + HOUR_MS) is Lateness.FRESH
    assert lateness(node, NOW_MS, NOW_MS + HOUR_MS + 1) is late
    assert lateness(node, 0, NOW_MS) is Lateness.FRESH, "never counted"
    assert lateness(a_node("N", on_stale=on_stale), NOW_MS, NOW_MS + 1_000 * HOUR_MS) is Lateness.FRESH


def test_other_shards_hear_of_counts_at_first_and_of_every_later_one() -> None:
    owner, home = LoneCore(two_nodes(), shard=1), LoneCore(two_nodes())
    counted(owner, "N-1", ago_ms=2 * HOUR_MS, SKU_0=5)
    corr = owner.send(FollowView(0))
    owner.settle()

    def told() -> list[Counts]:
        """What the owner said since it was asked last, which home hears."""
        updates = owner.replies.pop(corr)
        for update in updates:
            home.core.peer_replied(OTHER, home.core.views.corr, update, now_ms=home.now_ms)
        return [update.counts for update in updates if isinstance(update, ViewUpdate) and update.counts]

    assert told() == [((1, owner.now_ms - 2 * HOUR_MS),)]
    assert lateness_at(home.state, 1, home.now_ms) is Lateness.EXCLUDED
    counted(owner, "N-1", ago_ms=1_000, seq=2, SKU_0=5)
    at_ms = owner.now_ms - 1_000
    owner.pass_time(PUSH_INTERVAL_MS)
    assert told() == [((1, at_ms),)]
    assert lateness_at(home.state, 1, home.now_ms) is Lateness.FRESH
    owner.pass_time(HEARTBEAT_MS)
    assert told() == []
    assert lateness_at(home.state, 1, at_ms + HOUR_MS + 1) is Lateness.EXCLUDED, "it gets old by the own clock"


def test_counts_come_before_the_stock_of_a_large_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_feed, "ROWS_PER_UPDATE", 1)
    owner = LoneCore(two_nodes(), shard=1)
    counted(owner, "N-1", ago_ms=1_000, SKU_0=5, SKU_1=5)
    at_ms = owner.now_ms - 1_000
    corr = owner.send(FollowView(0))
    owner.settle()
    picture = [reply for reply in owner.replies[corr] if isinstance(reply, ViewUpdate) and reply.positions]
    assert [update.counts for update in picture] == [((1, at_ms),), ()]


def test_a_node_that_came_brings_its_counts_to_whoever_follows() -> None:
    owner = LoneCore(two_nodes(), shard=1)
    counted(owner, "N-1", ago_ms=1_000, SKU_0=5)
    at_ms = owner.now_ms - 1_000
    corr = owner.send(FollowView(0))
    owner.settle()
    owner.pass_time(HEARTBEAT_MS)
    del owner.replies[corr]
    assert owner.core.views.node_update(1).counts == ((1, at_ms),)
    node_came(owner.core, 1, owner.now_ms)
    counted(owner, "N-1", ago_ms=10_000, seq=2)  # an older one, for an entry to close
    owner.pass_time(PUSH_INTERVAL_MS)
    told = [reply.counts for reply in owner.replies[corr] if isinstance(reply, ViewUpdate) and reply.counts]
    assert told == [((1, at_ms),)]


def test_plans_follow_a_count_at_once_and_time_within_a_second() -> None:
    state = a_state({(0, 0): 5}, nodes=[a_node("N-0", max_feed_age_s=HOUR_S, on_stale="exclude")])
    planner = SolverPlanner(state, Settings())

    def serves(now_ms: int) -> bool:
        (plan,) = planner.plan([a_request({0: 1})], now_ms=now_ms)
        return bool(plan.legs)

    apply(state, StockCounted(0, "wms", 1, NOW_MS - HOUR_MS, "delta", ()), seq=1, time_ms=NOW_MS)
    assert serves(NOW_MS) and not serves(NOW_MS + STALE_AGAIN_MS)
    apply(state, StockCounted(0, "wms", 2, NOW_MS, "delta", ()), seq=2, time_ms=NOW_MS)
    assert serves(NOW_MS + STALE_AGAIN_MS)


def test_a_new_picture_of_an_owner_begins_with_its_counts() -> None:
    home = LoneCore(two_nodes())
    for seq, counts in enumerate([((1, NOW_MS),), ()]):
        update = ViewUpdate(OTHER, 1 + seq, 1, True, True, b"", b"", counts)
        home.core.peer_replied(OTHER, home.core.views.corr, update, now_ms=home.now_ms)
    assert home.state.heard_counts == {}


def test_gateways_hear_of_counts_too() -> None:
    owner = LoneCore(two_nodes(), shard=1)
    counted(owner, "N-1", ago_ms=5_000, SKU_0=5)
    at_ms = owner.now_ms - 5_000
    corr = owner.send(FollowStock())
    owner.settle()
    counted(owner, "N-1", seq=2, SKU_0=5)
    then_ms = owner.now_ms
    owner.pass_time(PUSH_INTERVAL_MS)
    told = [reply for reply in owner.replies[corr] if isinstance(reply, StockUpdate) and reply.counts]
    assert [(update.begin, update.counts) for update in told] == [(True, ((1, at_ms),)), (False, ((1, then_ms),))]


@pytest.mark.parametrize(
    ("on_stale", "fresh", "late"),
    [("serve", (3, 2), (3, 2)), ("exclude", (3, 2), (3, 0)), ("extra_safety", (3, 2), (6, 0))],
)
def test_availability_is_what_an_order_would_get(on_stale: str, fresh: tuple[int, int], late: tuple[int, int]) -> None:
    node = a_node("N-0", max_feed_age_s=HOUR_S, on_stale=on_stale, safety_by_method={"ship": 2})
    shop = a_shop(nodes=[node])
    counted(shop, "N-0", SKU_0=5)
    shop.ask(SetPosition("N-0", (("SKU-0", 1, "counted", 0, 0),)))

    def numbers() -> tuple[int, int]:
        (shown,) = shop.ask(GetAvailability(("SKU-0",))).positions
        return shown.safety, shown.available_to_promise

    assert numbers() == fresh
    shop.pass_time(HOUR_MS + 1_000)
    assert numbers() == late


@pytest.mark.parametrize(("on_stale", "units"), [("serve", 4), ("exclude", 0), ("extra_safety", 3)])
def test_a_store_with_an_old_count_has_less_to_hand_out(on_stale: str, units: int) -> None:
    street = a_street({"S-0": {"SKU-0": 5}}, safety_by_method={"pickup": 1}, max_feed_age_s=HOUR_S, on_stale=on_stale)
    counted(street, "S-0", SKU_0=5)
    assert near(street, limit=1).stores[0].units == (4,)
    street.pass_time(HOUR_MS + 1_000)
    assert near(street, limit=1).stores[0].units == (units,)


@pytest.mark.parametrize("on_hand", range(7))
@pytest.mark.parametrize("own", range(3))
@pytest.mark.parametrize("by_method", range(3))
def test_what_the_planner_chooses_can_be_held(on_hand: int, own: int, by_method: int) -> None:
    """Safety of a position and of a method add up, for both."""
    state = a_state({(0, 0): on_hand}, nodes=[a_node("N-0", safety_by_method={"ship": by_method})])
    state.positions.v_safety[state.positions.find(0, 0)] = own
    planner = SolverPlanner(state, Settings())
    for units in range(1, 5):
        command = a_place(an_order("A-1", [a_line("SKU-0", units)]))
        prepared = prepare(state, planner, command)
        assert isinstance(prepared, Prepared)
        (plan,) = planner.plan([prepared.request], now_ms=NOW_MS)
        assert bool(plan.legs) == (units <= on_hand - own - by_method)
        assert fits(state, [(prepared, plan.legs)])


def test_methods_keep_back_their_own() -> None:
    shop = a_shop(
        {"N-0": {"SKU-0": 5}}, nodes=[a_node("N-0", offers=("ship", "pickup"), safety_by_method={"pickup": 2})]
    )
    (shown,) = shop.ask(GetAvailability(("SKU-0",), method=Method.PICKUP)).positions
    assert (shown.safety, shown.available_to_promise) == (2, 3)
    assert not shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "damaged", 4),))).positions[0].short_by
