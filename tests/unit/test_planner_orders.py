"""What the planner does with single orders: methods, masks, capacity, calendars, splits, large orders."""

from __future__ import annotations

import time
from typing import Any

import pytest

from engine.actors.planner import SolverPlanner
from engine.domain.config import Carrier, Item, Node, NodeCapacity, Place, RateCard
from engine.domain.decide_orders import Prepared, is_refused, prepare, shortage
from engine.domain.decisions import EXCLUSIONS, Verdict, candidates_of, decode, legs_of
from engine.domain.events import StockCounted
from engine.domain.orders import Destination, LineRecord, Method, OnShort
from engine.domain.plan import Plan, PlanRequest
from engine.domain.state import ShardState, apply
from engine.settings import Settings
from solvers.kernel import plan_batch
from solvers.ways import enumerate_ways
from tests.builders import NOW_MS, a_catalog, a_channel, a_line, a_node, a_place, a_service, an_item, an_order, as_docs

DAY_MS = 86_400_000
NEAR, MIDDLE, FAR = 0, 1, 2


def a_state(
    stock: dict[tuple[int, int], int],
    *,
    nodes: list[Node] | None = None,
    items: list[Item] | None = None,
    services: list[Any] | None = None,
    **channel: Any,
) -> ShardState:
    """Three plain nodes 0, 300 and 600 km west of New York, unless others are given; the second zone costs more."""
    card = RateCard(
        break_g=[1_000, 5_000, 30_000], price_minor=[[500 + 200 * z, 700 + 300 * z, 1_500] for z in range(4)]
    )
    plain = a_service(band_km=[200, 500, 800, 9_000], transit_days=[1, 2, 3, 5], cards=[card])
    catalog = a_catalog(
        documents=[
            a_channel(**{"transit_day_bp": 0, **channel}),
            Carrier(carrier_id="acme", services=services or [plain]),
            *(items or [an_item(f"SKU-{n}", weight_g=400, unit_value_minor=2_000) for n in range(4)]),
            *(nodes or [a_node(f"N-{n}", lat=40.75, lon=-74.0 - 3.55 * n) for n in range(3)]),
        ]
    )
    state = ShardState(catalog)
    for (item, node), units in stock.items():
        row = state.positions.ensure(item, node)
        state.positions.v_on_hand[row] = units
    return state


def a_request(
    units: dict[int, int], *, max_legs: int = 3, excluded: tuple[int, ...] = (), **fields: Any
) -> PlanRequest:
    """Units by item; `line` = further fields of every line record."""
    line = fields.pop("line", {})
    lines = [a_line(f"SKU-{item}", count, line_id=str(item)) for item, count in units.items()]
    records = [LineRecord(one.line_id, int(one.sku[4:]), one.quantity, **line) for one in lines]
    fields.setdefault("ship_to", Destination("US", "10001", lat=40.75, lon=-74.0))
    return PlanRequest(an_order("A-1", lines, **fields), records, 0, excluded, max_legs)


def planned(state: ShardState, request: PlanRequest, *, now_ms: int = NOW_MS, **settings: Any) -> Plan:
    (plan,) = SolverPlanner(state, Settings(**settings)).plan([request], now_ms=now_ms)
    return plan


def nodes_of(plan: Plan) -> list[int]:
    return [leg.node for leg in plan.legs]


def test_a_refusal_names_the_lines_that_are_short_and_no_others() -> None:
    """Two of the first line lie at two nodes: it is not what keeps the order from being served."""
    state = a_state({(0, NEAR): 3, (0, MIDDLE): 6, (1, MIDDLE): 5})
    planner = SolverPlanner(state, Settings())
    lines = [a_line("SKU-0", 2, line_id="0"), a_line("SKU-1", 50, line_id="1")]
    prepared = prepare(state, planner, a_place(an_order("A-1", lines)))
    assert isinstance(prepared, Prepared)
    (plan,) = planner.plan([prepared.request], now_ms=NOW_MS)
    assert is_refused(a_place(an_order("A-1", lines)), prepared, plan)
    refused = shortage(state, prepared, plan, now_ms=NOW_MS)
    assert [
        (error.pointer, error.facts["requested"], error.facts["available_to_promise"]) for error in refused.errors
    ] == [("/lines/1", 50, 5)]


def test_the_nearest_node_with_all_units_ships() -> None:
    state = a_state({(0, NEAR): 1, (0, MIDDLE): 9, (1, MIDDLE): 9, (0, FAR): 9, (1, FAR): 9})
    plan = planned(state, a_request({0: 2, 1: 1}))
    assert nodes_of(plan) == [MIDDLE]
    record = decode(plan.record)
    verdicts = {candidate.node: candidate for candidate in candidates_of(record)}
    assert verdicts[MIDDLE].verdict == Verdict.CHOSEN
    assert (verdicts[NEAR].verdict, verdicts[NEAR].numbers) == (Verdict.SHORT, (0, 1))
    assert (verdicts[FAR].verdict, verdicts[FAR].numbers) == (Verdict.DEARER, (300, 0))
    assert record.runner_up == [300, 0, 0, 0, FAR]
    (leg,) = legs_of(record)
    assert (leg.node, leg.cash_parcels, leg.lines) == (MIDDLE, 1_000, ())


def test_the_record_counts_nodes_that_may_not_serve_by_reason() -> None:
    nodes = [
        a_node("N-0", lat=40.75, lon=-74.0),
        a_node("N-1", state="off"),
        a_node("N-2", channels=["shop"]),
        a_node("N-3", channels=["shop"]),
        a_node("N-4", offers=["pickup"]),
    ]
    plan = planned(a_state({(0, n): 5 for n in range(5)}, nodes=nodes), a_request({0: 1}))
    counted = dict(zip(EXCLUSIONS, decode(plan.record).counts[3:], strict=True))
    assert nodes_of(plan) == [0]
    assert {reason: count for reason, count in counted.items() if count} == {
        "switched off or draining": 1,
        "does not serve the channel": 2,
        "does not offer the method, or is not the place asked for": 1,
    }


def test_the_record_names_what_was_seen_of_other_shards() -> None:
    state = a_state({(0, NEAR): 5})
    assert decode(planned(state, a_request({0: 1})).record).views == []
    state.view_points.update({3: (2, 70_000), 1: (1, 12)})
    record = decode(planned(state, a_request({0: 1})).record)
    assert (record.gap, record.views) == ([], [1, 1, 12, 3, 2, 70_000])


def test_only_cards_in_the_order_s_currency_price_it() -> None:
    """Cheaper by number, in another currency: not compared. A service with cards of both is one service in each."""
    dollars = RateCard(break_g=[30_000], price_minor=[[900], [900]])
    euros = RateCard(break_g=[30_000], price_minor=[[700], [700]], currency="EUR")
    later = RateCard(break_g=[30_000], price_minor=[[5], [5]], currency="EUR", effective_from="2026-01-01")
    services = [
        a_service("euro", cards=[euros]),
        a_service("both", cards=[dollars, later]),
        a_service("dear", cards=[RateCard(break_g=[30_000], price_minor=[[2_000], [2_000]])]),
    ]
    for currency, cash_minor, service in (("USD", 900, 1), ("EUR", 5, 1), ("GBP", 0, -1)):
        state = a_state({(0, 0): 5}, services=services, currency=currency)
        plan = planned(state, a_request({0: 1}, currency=currency))
        assert (sum(plan.legs[0].cash_minor) if plan.legs else 0, plan.legs[0].service if plan.legs else -1) == (
            cash_minor,
            service,
        )
        assert bool(plan.unfilled) == (currency == "GBP")


def test_an_order_is_split_where_no_node_has_it_all() -> None:
    plan = planned(a_state({(0, NEAR): 1, (1, FAR): 1}), a_request({0: 1, 1: 1}))
    assert nodes_of(plan) == [NEAR, FAR]
    assert [leg.lines for leg in legs_of(decode(plan.record))] == [(0,), (1,)]


def test_a_quantity_is_split_only_where_it_may_be_and_must_be() -> None:
    stock = {(0, NEAR): 2, (0, MIDDLE): 2, (0, FAR): 1}
    plan = planned(a_state(stock), a_request({0: 3}))
    assert [(leg.node, leg.lines) for leg in plan.legs] == [(NEAR, [(0, 2)]), (MIDDLE, [(0, 1)])]
    whole = planned(a_state(stock), a_request({0: 3}, line={"splittable": False}))
    assert (whole.legs, whole.unfilled) == ([], [(0, 3, "no_node")])
    assert nodes_of(planned(a_state({**stock, (0, FAR): 3}), a_request({0: 3}))) == [FAR]


def test_a_group_leaves_one_node_together() -> None:
    stock = {(0, NEAR): 1, (1, NEAR): 0, (0, FAR): 1, (1, FAR): 1}
    assert nodes_of(planned(a_state(stock), a_request({0: 1, 1: 1}, line={"group": 1}))) == [FAR]
    apart = planned(a_state({(0, NEAR): 1, (1, FAR): 1}), a_request({0: 1, 1: 1}, line={"group": 1}))
    assert [reason for _, _, reason in apart.unfilled] == ["no_node", "no_node"]


def test_max_legs_decides_and_what_is_left_says_so() -> None:
    state = a_state({(0, NEAR): 1, (1, MIDDLE): 1, (2, FAR): 1})
    assert nodes_of(planned(state, a_request({0: 1, 1: 1, 2: 1}))) == [0, 1, 2]
    refused = planned(state, a_request({0: 1, 1: 1, 2: 1}, max_legs=2))
    assert refused.legs == [] and {reason for _, _, reason in refused.unfilled} == {"max_legs"}
    partial = planned(state, a_request({0: 1, 1: 1, 2: 1}, max_legs=2, on_short=OnShort.PARTIAL))
    assert len(partial.legs) == 2 and [reason for _, _, reason in partial.unfilled] == ["max_legs"]


def test_a_paid_order_is_never_refused() -> None:
    state = a_state({(0, NEAR): 1})
    assert planned(state, a_request({0: 1, 1: 1})).legs == []
    plan = planned(state, a_request({0: 1, 1: 1}, paid=True))
    assert nodes_of(plan) == [NEAR] and plan.unfilled == [(1, 1, "out_of_stock")]


def test_a_refused_order_takes_nothing_from_those_behind_it() -> None:
    planner = SolverPlanner(a_state({(0, NEAR): 1}), Settings())
    refused, served = planner.plan([a_request({0: 1, 1: 1}), a_request({0: 1})], now_ms=NOW_MS)
    assert refused.legs == [] and nodes_of(served) == [NEAR]


@pytest.mark.parametrize(
    ("fields", "chosen"),
    [
        ({}, NEAR),
        ({"state": "drain"}, MIDDLE),
        ({"state": "off"}, MIDDLE),
        ({"channels": ["other"]}, MIDDLE),
        ({"channels": ["other", "web"]}, NEAR),
        ({"offers": ("pickup",)}, MIDDLE),
        ({"surcharge_minor": 600}, MIDDLE),
        ({"handling_unit_minor": 600}, MIDDLE),
        ({"safety_by_method": {"ship": 5}}, MIDDLE),
        ({"safety_by_method": {"pickup": 5}}, NEAR),
    ],
)
def test_a_node_serves_by_its_document(fields: dict[str, Any], chosen: int) -> None:
    nodes = [a_node("N-0", lat=40.75, lon=-74.0, **fields), a_node("N-1", lat=40.75, lon=-77.55)]
    assert nodes_of(planned(a_state({(0, 0): 5, (0, 1): 5}, nodes=nodes), a_request({0: 1}))) == [chosen]


def test_excluded_nodes_and_nodes_beyond_reach_are_counted() -> None:
    state = a_state({(0, NEAR): 5, (0, MIDDLE): 5, (0, FAR): 5})
    plan = planned(state, a_request({0: 1}, excluded=(NEAR,)), reach_km=400)
    assert nodes_of(plan) == [MIDDLE]
    seen, considered, assumed, *blocked = decode(plan.record).counts
    assert (seen, considered, assumed) == (1, 1, 0)
    assert blocked == [0, 1, 0, 1]


def test_handling_tags_need_a_node_and_a_service() -> None:
    card = RateCard(break_g=[30_000], price_minor=[[500]])
    services = [
        a_service("plain", band_km=[9_000], transit_days=[2], cards=[card]),
        a_service(
            "chilled",
            band_km=[9_000],
            transit_days=[1],
            cards=[RateCard(break_g=[30_000], price_minor=[[900]])],
            tags=["cold"],
        ),
    ]
    nodes = [a_node("N-0", lat=40.75, lon=-74.0), a_node("N-1", lat=40.75, lon=-77.55, offers=("ship", "cold"))]
    items = [an_item("SKU-0", weight_g=400, tags=["cold"]), an_item("SKU-1", weight_g=400)]
    state = a_state({(0, 0): 5, (0, 1): 5, (1, 0): 5}, nodes=nodes, items=items, services=services)
    plan = planned(state, a_request({0: 1}))
    assert nodes_of(plan) == [1] and plan.legs[0].service == 1
    assert planned(state, a_request({1: 1})).legs[0].service == 0
    assert planned(state, a_request({1: 1}, line={"tags": ("cold",)})).unfilled == [(0, 1, "no_node")]
    nobody = a_state({(0, 0): 5}, items=[an_item("SKU-0", weight_g=1, tags=["glowing"])])
    assert planned(nobody, a_request({0: 1})).unfilled == [(0, 1, "no_node")]


def test_a_pickup_line_goes_to_its_node_without_a_carrier() -> None:
    nodes = [a_node("N-0", lat=40.75, lon=-74.0), a_node("N-1", lat=34.0, lon=-118.0, offers=("ship", "pickup"))]
    state = a_state({(0, 0): 5, (0, 1): 5}, nodes=nodes)
    plan = planned(state, a_request({0: 2}, line={"method": Method.PICKUP, "pickup_node": 1}))
    (leg,) = plan.legs
    assert (leg.node, leg.service, leg.parcels, leg.cash_minor) == (1, -1, 0, (0, 0, 0, 0))
    assert leg.deliver_by_ms == leg.ship_by_ms == plan.promise_ms[1]
    nowhere = planned(state, a_request({0: 2}, line={"method": Method.PICKUP, "pickup_node": 0}))
    assert nowhere.unfilled == [(0, 2, "no_node")]


def test_ship_to_store_goes_to_the_store_and_costs_nothing_where_it_is_there_already() -> None:
    nodes = [
        a_node("N-0", lat=40.75, lon=-74.0),
        a_node("N-1", lat=40.75, lon=-77.55),
        a_node("N-2", lat=40.75, lon=-77.6, offers=("ship_to_store",)),
    ]
    line = {"method": Method.SHIP_TO_STORE, "pickup_node": 2}
    plan = planned(a_state({(0, 0): 5, (0, 1): 5}, nodes=nodes), a_request({0: 1}, line=line))
    assert nodes_of(plan) == [1] and plan.money_minor[0] == 500  # the first zone, seen from the store
    plan = planned(a_state({(0, 0): 5, (0, 1): 5, (0, 2): 1}, nodes=nodes), a_request({0: 1}, line=line))
    assert nodes_of(plan) == [2] and plan.money_minor[0] == 0


def test_lines_of_different_methods_are_planned_apart_and_refused_together() -> None:
    nodes = [a_node("N-0", lat=40.75, lon=-74.0), a_node("N-1", lat=40.75, lon=-77.55, offers=("pickup",))]
    state = a_state({(0, 0): 5, (1, 1): 1, (2, 0): 5}, nodes=nodes)
    mixed = a_request({0: 1, 1: 1, 2: 1})
    mixed.lines[1].method, mixed.lines[1].pickup_node = Method.PICKUP, 1  # type: ignore[index]
    plan = planned(state, mixed)
    assert [(leg.node, leg.lines) for leg in plan.legs] == [(0, [(0, 1), (2, 1)]), (1, [(1, 1)])]
    assert [leg.lines for leg in legs_of(decode(plan.record))] == [(0, 2), (1,)]
    state.positions.v_on_hand[state.positions.find(1, 1)] = 0
    plan = planned(state, mixed)
    assert (plan.legs, plan.unfilled) == ([], [(1, 1, "out_of_stock")])


def test_a_full_day_moves_the_order_to_the_next_ship_day_and_a_soft_one_costs() -> None:
    hard = a_node("N-0", lat=40.75, lon=-74.0, capacity=NodeCapacity(unit="orders", per_day=2))
    planner = SolverPlanner(a_state({(0, 0): 50}, nodes=[hard]), Settings())
    plans = planner.plan([a_request({0: 1}) for _ in range(5)], now_ms=NOW_MS)
    days = [plan.legs[0].ship_day for plan in plans]
    assert [day - days[0] for day in days] == [0, 0, 1, 1, 2]
    assert [plan.legs[0].capacity_units for plan in plans] == [1] * 5
    state = a_state({(0, 0): 50}, nodes=[hard])
    state.capacity.add(0, days[0], 2)
    assert planned(state, a_request({0: 1})).legs[0].ship_day == days[0] + 1
    soft = NodeCapacity(unit="units", per_day=3, hard=False, over_price_minor=70)
    state = a_state({(0, 0): 50}, nodes=[a_node("N-0", lat=40.75, lon=-74.0, capacity=soft)])
    assert planned(state, a_request({0: 5})).money_minor == (700, 0, 0, 140)


def test_a_node_that_is_full_for_weeks_ships_nothing() -> None:
    none = a_node("N-0", lat=40.75, lon=-74.0, capacity=NodeCapacity(unit="units", per_day=3))
    plan = planned(a_state({(0, 0): 50}, nodes=[none]), a_request({0: 4}))
    assert plan.unfilled == [(0, 4, "capacity")]


def with_room(*room: tuple[str, int] | None) -> list[Node]:
    """Nodes as in `a_state`, each with room for so many lines or units a day; None = for as many as it has."""
    return [
        a_node(
            f"N-{n}",
            lat=40.75,
            lon=-74.0 - 3.55 * n,
            capacity=None if one is None else NodeCapacity(unit=one[0], per_day=one[1]),
        )
        for n, one in enumerate(room)
    ]


def light_items(count: int) -> list[Item]:
    return [an_item(f"SKU-{n}", weight_g=400) for n in range(count)]


def test_a_large_order_takes_what_the_days_of_each_node_have_room_for() -> None:
    """Every node has all ten lines in stock and room for four to six of them: the order is covered, not refused for capacity."""
    nodes = with_room(("lines", 4), ("units", 12), ("lines", 6))
    state = a_state({(item, node): 5 for item in range(10) for node in range(3)}, nodes=nodes, items=light_items(10))
    plan = planned(state, a_request(dict.fromkeys(range(10), 3)))
    assert plan.unfilled == []
    assert sorted(line for leg in plan.legs for line in leg.lines) == [(line, 3) for line in range(10)]
    assert len(set(nodes_of(plan))) == len(plan.legs)
    for leg in plan.legs:
        lines, units = len(leg.lines), sum(units for _, units in leg.lines)
        assert leg.capacity_units == (units if leg.node == MIDDLE else lines)
        assert leg.capacity_units <= (4, 12, 6)[leg.node]


def test_a_line_too_large_for_a_node_leaves_it_to_smaller_ones() -> None:
    """Thirteen lines, the first of twenty units: the node with room for twelve takes the others."""
    nodes = with_room(("units", 12), ("units", 20))
    state = a_state({(item, node): 25 for item in range(13) for node in range(2)}, nodes=nodes, items=light_items(13))
    plan = planned(state, a_request({0: 20} | dict.fromkeys(range(1, 13), 1)))
    assert plan.unfilled == []
    assert [(leg.node, leg.capacity_units) for leg in plan.legs] == [(0, 12), (1, 20)]


def test_a_full_node_does_not_take_the_place_of_two_that_cover_the_order() -> None:
    """It has everything and room for one line; with two legs at most the other two are the only way."""
    nodes = with_room(("lines", 1), None, None, None)
    stock = {(item, NEAR): 5 for item in range(10)} | {(item, 1 + (item > 7)): 5 for item in range(10)} | {(9, 3): 5}
    state = a_state(stock, nodes=nodes, items=light_items(10))
    plan = planned(state, a_request(dict.fromkeys(range(10), 1), max_legs=2))
    assert plan.unfilled == [] and nodes_of(plan) == [1, 2]


def test_of_a_divided_line_a_node_takes_what_there_is_room_for() -> None:
    """Ten units, nowhere together: seven at a node that can send four a day, six at another."""
    state = a_state({(0, 0): 7, (0, 1): 6}, nodes=with_room(("units", 4), None))
    plan = planned(state, a_request({0: 10}))
    assert plan.unfilled == []
    assert [(leg.node, leg.lines) for leg in plan.legs] == [(0, [(0, 4)]), (1, [(0, 6)])]


def test_what_no_node_has_room_for_is_named_capacity() -> None:
    nodes = with_room(("lines", 4), ("lines", 5))
    state = a_state({(item, node): 5 for item in range(10) for node in range(2)}, nodes=nodes, items=light_items(10))
    plan = planned(state, a_request(dict.fromkeys(range(10), 1), on_short=OnShort.PARTIAL))
    assert sum(len(leg.lines) for leg in plan.legs) == 9
    assert [(units, reason) for _, units, reason in plan.unfilled] == [(1, "capacity")]


def test_what_is_shipped_together_or_asked_for_twice_keeps_to_the_room_of_its_node() -> None:
    """Eight lines: three that go together, and one item on two lines that one node has not the units for."""
    nodes = with_room(("lines", 4), ("lines", 5))
    state = a_state({(item, node): 5 for item in range(7) for node in range(2)}, nodes=nodes, items=light_items(7))
    skus = [6, 6, 0, 1, 2, 3, 4, 5]
    lines = [a_line(f"SKU-{sku}", 4, line_id=str(n)) for n, sku in enumerate(skus)]
    records = [LineRecord(str(n), sku, 4, 0, group=1 if sku < 3 else 0) for n, sku in enumerate(skus)]
    order = an_order("A-1", lines, ship_to=Destination("US", "10001", lat=40.75, lon=-74.0))
    plan = planned(state, PlanRequest(order, records, 0))
    assert plan.unfilled == []
    places = {i: leg.node for leg in plan.legs for i, _ in leg.lines}
    assert places[2] == places[3] == places[4] and places[0] != places[1]
    assert all(len(leg.lines) <= (4, 5)[leg.node] for leg in plan.legs)


def test_lateness_and_days_have_their_price() -> None:
    """Promised in two business days: the near node needs three working days, the far one delivers in time."""
    slow = a_service("slow", band_km=[200], transit_days=[6], cards=[RateCard(break_g=[30_000], price_minor=[[400]])])
    fast = a_service("fast", band_km=[9_000], transit_days=[1], cards=[RateCard(break_g=[30_000], price_minor=[[900]])])
    state = a_state({(0, 0): 5}, services=[slow, fast], promise_days={"standard": 2}, late_day_minor=300)
    assert planned(state, a_request({0: 1})).legs[0].service == 1
    relaxed = a_state({(0, 0): 5}, services=[slow, fast], promise_days={"standard": 20}, late_day_minor=300)
    assert planned(relaxed, a_request({0: 1})).legs[0].service == 0
    hurried = a_state({(0, 0): 5}, services=[slow, fast], transit_day_bp=500)
    plan = planned(hurried, a_request({0: 2}))
    assert plan.legs[0].service == 1 and plan.money_minor[1] > 0


def test_an_order_for_later_ships_later() -> None:
    state = a_state({(0, NEAR): 5})
    now = planned(state, a_request({0: 1})).legs[0]
    later = planned(state, a_request({0: 1}, ship_after_ms=NOW_MS + 14 * DAY_MS)).legs[0]
    assert 14 <= later.ship_day - now.ship_day <= 16
    assert later.ship_by_ms > NOW_MS + 14 * DAY_MS


def test_an_old_feed_excludes_its_node_or_keeps_more_back() -> None:
    def counted(on_stale: str) -> ShardState:
        nodes = [
            a_node("N-0", lat=40.75, lon=-74.0, max_feed_age_s=3_600, on_stale=on_stale),
            a_node("N-1", lat=40.75, lon=-77.55),
        ]
        state = a_state({(0, 0): 1, (0, 1): 5}, nodes=nodes)
        apply(state, StockCounted(0, "wms", 1, NOW_MS - 2 * 3_600_000, "full", ()), seq=1, time_ms=NOW_MS)
        return state

    assert nodes_of(planned(counted("serve"), a_request({0: 1}))) == [0]
    assert nodes_of(planned(counted("exclude"), a_request({0: 1}))) == [1]
    assert nodes_of(planned(counted("extra_safety"), a_request({0: 1}))) == [1]
    assert nodes_of(planned(counted("exclude"), a_request({0: 1}), now_ms=NOW_MS - 3_600_000)) == [0]


def test_destinations_by_coordinates_zip_code_prefix_or_not_at_all() -> None:
    planner = SolverPlanner(a_state({(0, NEAR): 5}), Settings())
    assert planner.locate(Destination("US", "10001")) is not None
    assert planner.locate(Destination("US", "10001-1234")) is not None
    assert planner.locate(Destination("US", "10050")) is not None  # not a code, but 100 is Manhattan
    assert planner.locate(Destination("FR", "75001", lat=48.86, lon=2.34)) is not None
    assert planner.locate(Destination("FR", "75001")) is None
    assert planner.locate(Destination("US", "00000")) is None
    assert planner.locate(Destination("US", "ABC")) is None
    state = a_state({(0, 0): 5}, nodes=[a_node("N-0", country="FR", postal_code="75002", lat=48.86, lon=2.34)])
    assert SolverPlanner(state, Settings()).locate(Destination("FR", "75011")) is not None  # a node lies in 750


def test_without_a_destination_the_demand_centre_counts() -> None:
    state = a_state({(0, NEAR): 5, (0, FAR): 5}, demand_centre=Place(postal_code="10001", lat=40.75, lon=-81.2))
    assert nodes_of(planned(state, a_request({0: 1}, ship_to=None))) == [FAR]


def test_the_network_follows_the_catalogue() -> None:
    state = a_state({(0, NEAR): 5, (0, MIDDLE): 5})
    planner = SolverPlanner(state, Settings())
    request = a_request({0: 1})
    assert nodes_of(planner.plan([request], now_ms=NOW_MS)[0]) == [NEAR]
    docs = as_docs([a_node("N-0", lat=40.75, lon=-74.0, state="off")], first_version=state.catalog.version + 1)
    state.catalog.apply(docs, docs[-1].version)
    assert nodes_of(planner.plan([request], now_ms=NOW_MS)[0]) == [MIDDLE]
    docs = as_docs([an_item("SKU-0", weight_g=4_000)], first_version=state.catalog.version + 1)
    state.catalog.apply(docs, docs[-1].version)
    assert planner.plan([request], now_ms=NOW_MS)[0].money_minor[0] == 1_000  # zone 2, the second weight break


def test_a_missing_weight_is_the_mean_of_its_category_and_marked() -> None:
    items = [
        an_item("SKU-0", category="tea"),
        an_item("SKU-1", category="tea", weight_g=2_000),
        an_item("SKU-2", category="tea", weight_g=4_000),
    ]
    plan = planned(a_state({(0, NEAR): 5}, items=items), a_request({0: 1}))
    assert plan.money_minor[0] == 700 and decode(plan.record).counts[2] == 1


def test_goods_that_ship_alone_are_parcels_of_their_own() -> None:
    items = [an_item("SKU-0", weight_g=400, ship_alone=True), an_item("SKU-1", weight_g=400)]
    plan = planned(a_state({(0, NEAR): 5, (1, NEAR): 5}, items=items), a_request({0: 2, 1: 2}))
    assert (plan.legs[0].parcels, plan.legs[0].cash_minor[0]) == (3, 1_500)


@pytest.mark.parametrize("lines", [7, 40, 500, 1_000])
def test_a_large_order_is_covered(lines: int) -> None:
    """Item i lies at node i % 5 and at the far node of all: five near legs, or one far one where legs are few."""
    nodes = [a_node(f"N-{n}", lat=40.75, lon=-74.0 - 0.05 * n) for n in range(5)]
    nodes.append(a_node("N-5", lat=34.0, lon=-118.0))
    items = [an_item(f"SKU-{n}", weight_g=400) for n in range(lines)]
    stock = {(i, i % 5): 3 for i in range(lines)} | {(i, 5): 3 for i in range(lines)}
    planner = SolverPlanner(a_state(stock, nodes=nodes, items=items), Settings())
    for max_legs in (1, 16):
        request = a_request({i: 1 + i % 3 for i in range(lines)}, max_legs=max_legs)
        started = time.perf_counter()
        (plan,) = planner.plan([request], now_ms=NOW_MS)
        assert time.perf_counter() - started < 60
        assert not plan.unfilled
        got = sorted(i for leg in plan.legs for i, _ in leg.lines)
        assert got == list(range(lines))
        if max_legs == 1:
            assert nodes_of(plan) == [5]
    thin = {(i, i % 5): 3 for i in range(lines)}
    plan = planned(a_state(thin, nodes=nodes, items=items), a_request(dict.fromkeys(range(lines), 1), max_legs=16))
    assert nodes_of(plan) == [0, 1, 2, 3, 4] and not plan.unfilled


def test_one_compiled_version_of_the_kernel_serves_everything() -> None:
    """A second set of argument types would compile for seconds in the middle of the work."""
    planned(a_state({(0, NEAR): 1}), a_request({0: 1}))
    assert len(plan_batch.signatures) == 1  # type: ignore[attr-defined]
    assert len(enumerate_ways.signatures) == 1  # type: ignore[attr-defined]


def test_absurd_numbers_stay_in_range() -> None:
    items = [an_item("SKU-0", weight_g=2_000_000_000, length_mm=2_000_000_000, width_mm=2_000_000_000, height_mm=1)]
    state = a_state({(0, NEAR): 2_000_000_000}, items=items, late_day_minor=10**12, promise_days={"standard": 0})
    request = a_request({0: 1_000_000_000}, line={"unit_price_minor": 10**12})
    plan = planned(state, request)
    assert nodes_of(plan) == [NEAR]
    assert 0 < sum(plan.money_minor) < 2**60


def test_why_not_that_node() -> None:
    nodes = [
        a_node("N-0", lat=40.75, lon=-74.0),
        a_node("N-1", lat=40.75, lon=-77.55),
        a_node("N-2", lat=40.75, lon=-81.1),
        a_node("N-3", lat=40.75, lon=-74.0, state="off"),
        a_node("N-4", lat=40.75, lon=-74.0, channels=["other"]),
        a_node("N-5", lat=40.75, lon=-74.0, offers=("pickup",)),
        a_node("N-6", lat=40.75, lon=-74.0),
        a_node("N-7", lat=40.75, lon=-74.0, capacity=NodeCapacity(unit="units", per_day=1)),
        a_node("N-8", lat=21.3, lon=-157.8),
    ]
    card = RateCard(break_g=[30_000], price_minor=[[500], [700], [900]])
    services = [a_service(band_km=[200, 500, 800], transit_days=[1, 2, 3], cards=[card])]
    stock = {(0, n): 9 for n in range(9) if n != 6} | {(1, n): 9 for n in range(9) if n not in (2, 6)}
    planner = SolverPlanner(a_state(stock, nodes=nodes, services=services), Settings())
    request = a_request({0: 2, 1: 2}, excluded=(99,))
    told = {n: planner.explain_node(request, n, now_ms=NOW_MS) for n in range(10)}
    assert {n: verdict.verdict for n, verdict in told.items()} == {
        0: "chosen",
        1: "dearer",
        2: "short",
        3: "excluded",
        4: "excluded",
        5: "excluded",
        6: "holds_none",
        7: "no_capacity",
        8: "no_service",
        9: "excluded",
    }
    assert told[1].numbers == (200, 0, 0, 0) and told[1].km == 299
    assert told[2].numbers == (1, 0) and told[2].text == "has 0 of line 1, which asks 2"
    assert [told[n].text for n in (3, 4, 5)] == [
        "is switched to off",
        "does not serve channel web",
        "does not offer ship",
    ]
    assert planner.plan([request], now_ms=NOW_MS) == planner.plan([request], now_ms=NOW_MS)


@pytest.mark.parametrize("far_stock", [{0: 1, 1: 1}, {1: 1}])
def test_the_only_holder_of_something_is_a_candidate_however_far_it_is(far_stock: dict[int, int]) -> None:
    """Thirty near nodes have the first item, only the farthest has the second."""
    nodes = [a_node(f"N-{n}", lat=40.75, lon=-74.0 - 0.01 * n) for n in range(30)]
    nodes.append(a_node("N-30", lat=34.0, lon=-118.0))
    stock = {(0, n): 5 for n in range(30)} | {(item, 30): units for item, units in far_stock.items()}
    plan = planned(a_state(stock, nodes=nodes), a_request({0: 1, 1: 1}), candidates=4)
    assert 30 in nodes_of(plan) and not plan.unfilled
    seen, considered, *_ = decode(plan.record).counts
    assert (seen, considered) == (31, 4)


def test_the_nearest_full_holders_come_first_among_many() -> None:
    nodes = [a_node(f"N-{n}", lat=40.75, lon=-74.0 - 0.5 * ((n * 7) % 40)) for n in range(40)]
    plan = planned(a_state({(0, n): 5 for n in range(40)}, nodes=nodes), a_request({0: 1}), candidates=6)
    found = sorted((candidate.km, candidate.node) for candidate in candidates_of(decode(plan.record)))
    assert [node for _, node in found] == sorted(range(40), key=lambda n: (n * 7) % 40)[:6]


def test_orders_of_one_batch_keep_their_own_terms() -> None:
    """Alike but for what they say of shortage, of dates and of a quote: each is planned as it is alone."""
    stock = {(0, NEAR): 900, (1, NEAR): 1, (1, MIDDLE): 1}
    terms: list[dict[str, Any]] = [
        {"on_short": OnShort.REFUSE},
        {"on_short": OnShort.PARTIAL},
        {},
        {"quote_id": "Q-1"},
        {"promised_by_ms": NOW_MS + 1},
        {"on_short": OnShort.PARTIAL, "quote_id": "Q-1"},
    ]
    requests = [a_request({0: 1, 1: 5}, **one) for one in terms] + [a_request({0: 1}, **one) for one in terms]
    state = a_state(stock, late_day_minor=100, promise_days={"standard": 0})
    for order in (requests, requests[::-1]):
        together = SolverPlanner(state, Settings()).plan(order, now_ms=NOW_MS)
        alone = [planned(state, request) for request in order]
        assert [bool(plan.legs) for plan in together] == [bool(plan.legs) for plan in alone]
        whole = [n for n, request in enumerate(order) if len(request.lines) == 1]
        assert [together[n].money_minor for n in whole] == [alone[n].money_minor for n in whole]
    assert len({plan.money_minor for plan in alone}) > 1, "the terms make no difference here"
