"""Quotes in a core: they change nothing, and what they promised is kept or refused with both."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from engine.actors.planner import SolverPlanner
from engine.domain.commands import (
    AdjustStock,
    CommitHold,
    EditOrder,
    PlaceQuoted,
    Quoted,
    QuoteOrder,
    ReadDemandLog,
    StockMove,
)
from engine.domain.config import Carrier, CarrierService, Document, NodeCapacity, RateCard
from engine.domain.orders import LineRequest, Method, OnShort, OrderRequest, collected_at
from engine.domain.replies import OptionView, OrderView, Problem, QuoteReply
from engine.domain.state import ShardState
from engine.protocol import quoting
from engine.settings import Settings
from tests.builders import a_destination, a_line, a_network, a_node, a_place, a_service, an_item, an_order
from tests.sim.lone_core import LoneCore
from tests.unit.test_resourcing import switch

NOW_MS = int(datetime(2026, 11, 24, 14, 0, tzinfo=UTC).timestamp() * 1_000)
TTL_MS = 900_000
LA = a_destination("90001", lat=33.97, lon=-118.25)


def a_planner(state: ShardState) -> SolverPlanner:
    return SolverPlanner(state, Settings())


def a_carrier_service(
    service_id: str, levels: list[str], days: list[int], price: list[int], **fields: Any
) -> CarrierService:
    card = RateCard(break_g=[30_000], price_minor=[[price[0]], [price[1]]])
    return a_service(service_id, levels=levels, band_km=[300, 9_000], transit_days=days, cards=[card], **fields)


def a_country(stock: dict[str, int], *, air_is_standard: bool = False, **near: Any) -> LoneCore:
    """Nodes NEAR in New York and FAR in Los Angeles; ground takes 1 or 5 days, air 1 or 1. Now = Tuesday noon."""
    every_day = {"working_days": (0, 1, 2, 3, 4, 5, 6), "offers": ("ship", "pickup", "ship_to_store")}
    nodes = [
        a_node("NEAR", **every_day, **near),
        a_node("FAR", postal_code="90001", lat=33.97, lon=-118.25, **every_day),
    ]
    documents: list[Document] = [*a_network(nodes=nodes, items=[an_item("SKU-0", weight_g=400)])]
    air = ["express", "standard"] if air_is_standard else ["express"]
    documents[2] = Carrier(
        carrier_id="acme",
        services=[
            a_carrier_service("ground", ["standard"], [1, 5], [700, 900]),
            a_carrier_service("air", air, [1, 1], [3_000, 4_000]),
        ],
    )
    shop = LoneCore(documents, make_planner=a_planner)
    shop.now_ms = NOW_MS
    for node, units in stock.items():
        assert not isinstance(shop.ask(AdjustStock(node, (StockMove("SKU-0", "received", units),))), Problem)
    return shop


def move(shop: LoneCore, node: str, kind: str, units: int) -> None:
    assert not isinstance(shop.ask(AdjustStock(node, (StockMove("SKU-0", kind, units),))), Problem)


def options_of(shop: LoneCore, order: OrderRequest) -> dict[str, OptionView]:
    reply = shop.ask(QuoteOrder(order))
    assert isinstance(reply, QuoteReply), reply
    return {option.service: option for option in reply.options}


def terms(option: OptionView, *, made_at_ms: int = NOW_MS) -> Quoted:
    return Quoted(
        option.service,
        made_at_ms,
        made_at_ms + TTL_MS,
        option.ship_by_ms,
        option.deliver_by_ms,
        option.money_minor[0],
        option.unfilled_units,
    )


def with_quote(order: OrderRequest, option: OptionView, *, key: int = 0, ttl_s: int = 0) -> PlaceQuoted:
    return PlaceQuoted(replace(order, service=option.service), ttl_s, key, key, quoted=terms(option))


def day(ms: int) -> int:
    return datetime.fromtimestamp(ms / 1_000, UTC).day


def test_a_quote_shows_every_level_and_changes_nothing() -> None:
    shop = a_country({"NEAR": 5, "FAR": 5})
    entries = len(shop.entries)
    options = options_of(shop, an_order(lines={"SKU-0": 2}))
    assert list(options) == ["standard", "express"]
    assert [(o.money_minor[0], day(o.deliver_by_ms), o.unfilled_units) for o in options.values()] == [
        (700, 25, 0),
        (3_000, 25, 0),
    ]
    assert [leg.node_id for leg in options["standard"].legs] == ["NEAR"]
    assert len(shop.entries) == entries
    assert shop.core.idle
    assert sum(shop.state.positions.v_allocated) == sum(shop.state.positions.v_held) == 0


def test_an_order_with_a_quote_gets_what_was_quoted() -> None:
    shop = a_country({"NEAR": 5, "FAR": 5})
    order = an_order(lines={"SKU-0": 2})
    for n, option in enumerate(options_of(shop, order).values()):
        view = shop.ask(with_quote(replace(order, order_id=f"A-{n}"), option))
        assert isinstance(view, OrderView), view
        assert (view.ship_by_ms, view.deliver_by_ms, view.cost_minor) == (
            option.ship_by_ms,
            option.deliver_by_ms,
            option.money_minor[0],
        )
    assert shop.core.counts["quotes_kept"] == 2


def test_a_promise_that_stock_moved_away_from_is_refused_with_both() -> None:
    shop = a_country({"NEAR": 1, "FAR": 5})
    order = an_order()
    option = options_of(shop, order)["standard"]
    move(shop, "NEAR", "damaged", 1)
    refused = shop.ask(with_quote(order, option, key=7))
    assert isinstance(refused, Problem)
    (item,) = refused.errors
    assert (refused.code, item.pointer, item.facts["option_id"]) == ("quote_changed", "/quote_id", "standard")
    assert item.facts["quoted"]["cost_minor"] == 700
    assert item.facts["quoted"]["deliver_by"].startswith("2026-11-25")
    assert item.facts["offered"]["cost_minor"] == 900
    assert item.facts["offered"]["deliver_by"].startswith("2026-12-01")
    assert sum(shop.state.positions.v_allocated) == 0
    move(shop, "NEAR", "received", 1)  # a refusal is not remembered
    assert isinstance(shop.ask(with_quote(order, option, key=7)), OrderView)


def test_a_date_is_kept_at_a_higher_cost_where_that_can_be() -> None:
    """What is cheapest now would be late: the date is a must, the cost is ours to bear."""
    shop = a_country({"NEAR": 1, "FAR": 5}, air_is_standard=True)
    order = an_order()
    option = options_of(shop, order)["standard"]
    move(shop, "NEAR", "damaged", 1)
    (now,) = [o for o in options_of(shop, order).values() if o.service == "standard"]
    assert now.deliver_by_ms > option.deliver_by_ms, "without the quote it would be later"
    view = shop.ask(with_quote(order, option))
    assert isinstance(view, OrderView), view
    assert view.deliver_by_ms <= option.deliver_by_ms
    assert (view.legs[0].node_id, view.legs[0].service, view.cost_minor) == ("FAR", "air", 4_000)


def test_fewer_units_than_quoted_are_a_change_line_by_line() -> None:
    shop = a_country({"NEAR": 3})
    order = an_order(lines={"SKU-0": 3})
    option = options_of(shop, order)["standard"]
    move(shop, "NEAR", "damaged", 1)
    refused = shop.ask(with_quote(order, option))
    assert isinstance(refused, Problem)
    assert [error.pointer for error in refused.errors] == ["/quote_id", "/lines/0"]
    assert (refused.errors[1].facts["requested"], refused.errors[1].facts["available_to_promise"]) == (3, 2)
    partial = replace(order, on_short=OnShort.PARTIAL)
    assert shop.ask(with_quote(partial, option)).code == "quote_changed"
    part = options_of(shop, partial)["standard"]
    assert part.unfilled_units == 1
    assert isinstance(shop.ask(with_quote(partial, part)), OrderView)


@pytest.mark.parametrize("on_short", [OnShort.PARTIAL, OnShort.PARK])
def test_units_that_were_left_out_and_came_since_make_no_order_late(on_short: OnShort) -> None:
    shop = a_country({"NEAR": 2})
    order = an_order(lines={"SKU-0": 3}, on_short=on_short)
    option = options_of(shop, order)["standard"]
    move(shop, "FAR", "received", 1)
    view = shop.ask(with_quote(order, option))
    assert isinstance(view, OrderView), view
    assert view.deliver_by_ms == option.deliver_by_ms
    assert [(leg.node_id, sum(line.quantity for line in leg.lines)) for leg in view.legs] == [("NEAR", 2)]


def test_a_day_that_filled_up_meanwhile_is_a_change() -> None:
    shop = a_country({"NEAR": 5}, capacity=NodeCapacity(unit="orders", per_day=1, hard=True))
    order = an_order()
    option = options_of(shop, order)["standard"]
    assert isinstance(shop.ask(with_quote(replace(order, order_id="B-1"), option)), OrderView)
    refused = shop.ask(with_quote(order, option))
    assert isinstance(refused, Problem)
    assert refused.errors[0].facts["offered"]["deliver_by"] > refused.errors[0].facts["quoted"]["deliver_by"]


def test_an_expired_quote_is_refused_but_not_the_repeat_of_its_key() -> None:
    shop = a_country({"NEAR": 5})
    order = an_order()
    option = options_of(shop, order)["standard"]
    first = shop.ask(with_quote(order, option, key=1))
    assert isinstance(first, OrderView)
    shop.now_ms += TTL_MS + 1
    again = shop.ask(with_quote(order, option, key=1))
    assert isinstance(again, OrderView) and again.order_no == first.order_no
    late = shop.ask(with_quote(replace(order, order_id="A-2"), option, key=2))
    assert isinstance(late, Problem)
    assert (late.code, late.errors[0].pointer) == ("quote_expired", "/quote_id")
    assert late.errors[0].facts["valid_until"] == "2026-11-24T14:15:00Z"


def test_a_paid_order_is_never_refused_for_its_quote() -> None:
    shop = a_country({"NEAR": 1, "FAR": 5})
    order = an_order(paid=True)
    option = options_of(shop, order)["standard"]
    move(shop, "NEAR", "damaged", 1)
    shop.now_ms += TTL_MS + 1
    view = shop.ask(with_quote(order, option))
    assert isinstance(view, OrderView)
    assert view.deliver_by_ms > option.deliver_by_ms
    assert shop.core.counts["quotes_changed"] == 1


@pytest.mark.parametrize("method", [Method.PICKUP, Method.SHIP_TO_STORE])
def test_goods_to_collect_are_ready_as_long_after_the_order_as_was_quoted(method: Method) -> None:
    shop = a_country({"NEAR": 5})
    line: LineRequest = a_line(method=method, pickup_node_id="NEAR")
    order = an_order(lines=[line], ship_to=None)
    option = options_of(shop, order)["standard"]
    shop.now_ms += 10 * 60_000
    view = shop.ask(with_quote(order, option))
    assert isinstance(view, OrderView), view
    assert view.deliver_by_ms - option.deliver_by_ms == 10 * 60_000


def test_goods_to_collect_are_ready_as_long_after_a_commit_elsewhere_as_after_the_hold() -> None:
    shop = a_country({"NEAR": 5})
    order = an_order(lines=[a_line(method=Method.PICKUP, pickup_node_id="NEAR")], ship_to=None)
    option = options_of(shop, order)["standard"]
    held = shop.ask(with_quote(order, option, ttl_s=900))
    shop.now_ms += 2 * 60_000
    committed = shop.ask(CommitHold(held.slot, held.order_no, ship_to=LA))
    assert isinstance(committed, OrderView), committed
    assert committed.deliver_by_ms - option.deliver_by_ms == 2 * 60_000
    record = shop.state.order(held.slot, held.order_no)
    assert record is not None and record.due_by_ms == committed.deliver_by_ms


def pickups_of(shop: LoneCore, order: OrderRequest, *, most: int = 3, radius_km: int = 9_000) -> list[OptionView]:
    reply = shop.ask(QuoteOrder(order, pickups_max=most, radius_km=radius_km))
    assert isinstance(reply, QuoteReply), reply
    return [option for option in reply.options if option.pickup_node_id]


def nodes_of(options: list[OptionView]) -> list[str]:
    return [option.pickup_node_id for option in options]


def test_stores_near_by_are_options_too_where_that_is_asked_for() -> None:
    shop = a_country({"NEAR": 5, "FAR": 5})
    entries = len(shop.entries)
    order = an_order(lines={"SKU-0": 2})
    near, far = pickups_of(shop, order)
    assert (near.pickup_node_id, near.distance_m // 1_000 < 10, near.unfilled_units) == ("NEAR", True, 0)
    assert (far.pickup_node_id, far.distance_m // 1_000 > 3_000) == ("FAR", True)
    assert near.ship_by_ms == near.deliver_by_ms > NOW_MS
    (leg,) = near.legs
    assert (leg.node_id, leg.method, leg.carrier, leg.ready_at_ms) == ("NEAR", Method.PICKUP, "", near.deliver_by_ms)
    assert nodes_of(pickups_of(shop, order, most=1)) == nodes_of(pickups_of(shop, order, radius_km=50)) == ["NEAR"]
    assert pickups_of(shop, order, most=0) == []
    assert pickups_of(shop, an_order(lines=[a_line(method=Method.DIGITAL)])) == [], "nothing of it would be shipped"
    assert len(shop.entries) == entries


def test_stores_that_have_everything_come_first_and_alone_where_the_order_is_all_or_nothing() -> None:
    shop = a_country({"NEAR": 1, "FAR": 5})
    order = an_order(lines={"SKU-0": 2})
    assert nodes_of(pickups_of(shop, order)) == ["FAR"]
    partial = pickups_of(shop, replace(order, on_short=OnShort.PARTIAL))
    assert [(option.pickup_node_id, option.unfilled_units) for option in partial] == [("FAR", 0), ("NEAR", 1)]
    move(shop, "NEAR", "damaged", 1)
    assert nodes_of(pickups_of(shop, replace(order, on_short=OnShort.PARTIAL))) == ["FAR"], "NEAR has nothing"


def test_only_what_would_be_shipped_is_collected_instead() -> None:
    shop = a_country({"NEAR": 5, "FAR": 5})
    at_far = a_line(line_id="2", method=Method.PICKUP, pickup_node_id="FAR")
    (option,) = pickups_of(shop, an_order(lines=[a_line(), at_far]), most=1)
    assert option.pickup_node_id == "NEAR"
    assert sorted((leg.node_id, leg.lines[0].line_id) for leg in option.legs) == [("FAR", "2"), ("NEAR", "1")]


def test_a_store_without_room_for_years_is_no_option() -> None:
    shop = a_country({"NEAR": 5, "FAR": 5}, capacity=NodeCapacity(unit="orders", per_day=0, hard=True))
    assert nodes_of(pickups_of(shop, an_order())) == ["FAR"]


def test_stores_alone_are_offered_where_nothing_can_be_shipped() -> None:
    shop = a_country({"NEAR": 5}, safety_by_method={"ship": 5})
    reply = shop.ask(QuoteOrder(an_order(), pickups_max=3, radius_km=50))
    assert isinstance(reply, QuoteReply), reply
    assert [option.pickup_node_id for option in reply.options] == ["NEAR"]


def test_an_option_of_a_store_is_kept_or_refused_with_both() -> None:
    shop = a_country({"NEAR": 2})
    order = an_order(lines={"SKU-0": 2})
    (option,) = pickups_of(shop, order)
    collected = collected_at(order, "NEAR")
    shop.now_ms += 60_000
    view = shop.ask(with_quote(collected, option, ttl_s=600))
    assert isinstance(view, OrderView), view
    assert view.deliver_by_ms - option.deliver_by_ms == 60_000, "ready as long after the order as was quoted"
    assert view.legs[0].node_id == "NEAR"
    refused = shop.ask(with_quote(replace(collected, order_id="A-2"), option))
    assert isinstance(refused, Problem)
    assert (refused.code, [error.pointer for error in refused.errors]) == ("quote_changed", ["/quote_id", "/lines/0"])
    facts = refused.errors[0].facts
    assert (facts["quoted"]["unfilled_units"], facts["offered"]) == (0, None)


def test_a_hold_keeps_its_quoted_date_wherever_it_is_committed() -> None:
    shop = a_country({"NEAR": 1})
    order = an_order()
    option = options_of(shop, order)["standard"]
    held = shop.ask(with_quote(order, option, ttl_s=600))
    assert isinstance(held, OrderView)
    refused = shop.ask(CommitHold(held.slot, held.order_no, ship_to=LA))
    assert isinstance(refused, Problem)
    assert (refused.code, refused.errors[0].pointer) == ("quote_changed", "/ship_to")
    kept = shop.ask(CommitHold(held.slot, held.order_no))
    assert isinstance(kept, OrderView) and kept.deliver_by_ms == option.deliver_by_ms


@pytest.mark.parametrize("quoted", [False, True])
def test_a_hold_that_is_committed_after_its_ship_date_gets_the_dates_of_an_order_placed_then(quoted: bool) -> None:
    shop = a_country({"NEAR": 2, "FAR": 2})
    order = an_order()
    option = options_of(shop, order)["standard"]
    held = shop.ask(with_quote(order, option, ttl_s=86_400) if quoted else a_place(order, ttl_s=86_400))
    shop.pass_time(held.ship_by_ms - shop.now_ms)
    committed = shop.ask(CommitHold(held.slot, held.order_no))
    fresh = shop.ask(a_place(replace(order, order_id="A-2")))
    assert (committed.ship_by_ms, committed.deliver_by_ms) == (fresh.ship_by_ms, fresh.deliver_by_ms)
    assert committed.deliver_by_ms > held.deliver_by_ms
    shop.check_recovery({})


def test_a_hold_that_cannot_be_planned_again_after_its_ship_date_is_committed_as_it_is() -> None:
    shop = a_country({"NEAR": 1})
    held = shop.ask(a_place(an_order(), ttl_s=86_400))
    move(shop, "FAR", "received", 1)
    shop.pass_time(held.ship_by_ms - shop.now_ms)
    switch(shop.core, 0, a_node("NEAR", state="drain"))
    committed = shop.ask(CommitHold(held.slot, held.order_no))
    assert isinstance(committed, OrderView), committed
    assert [(leg.state, leg.ship_by_ms) for leg in committed.legs] == [("allocated", held.ship_by_ms)]


@pytest.mark.parametrize(
    ("option", "edits", "refused"),
    [
        ("express", [EditOrder("", 0, service="standard")], False),
        ("standard", [EditOrder("", 0, ship_to=LA), EditOrder("", 0, ship_to=a_destination("10001"))], False),
        ("standard", [EditOrder("", 0, lines=(("1", 2),))], True),
    ],
    ids=["another service", "later", "kept"],
)
def test_a_date_that_an_edit_gave_up_binds_no_commit(option: str, edits: list[EditOrder], refused: bool) -> None:
    shop = a_country({"NEAR": 2})
    order = an_order()
    held = shop.ask(with_quote(order, options_of(shop, order)[option], ttl_s=600))
    for edit in edits:
        view = shop.ask(replace(edit, slot=held.slot, order_no=held.order_no))
        assert isinstance(view, OrderView), view
    committed = shop.ask(CommitHold(held.slot, held.order_no, ship_to=LA))
    assert isinstance(committed, Problem if refused else OrderView)


def test_later_plans_aim_at_the_quoted_date_until_it_is_given_up() -> None:
    shop = a_country({"NEAR": 2})
    told_ms = NOW_MS + 9 * 86_400_000
    order = an_order(promised_by_ms=told_ms)
    option = options_of(shop, order)["standard"]
    held = shop.ask(with_quote(order, option, ttl_s=600))
    record = shop.state.order(held.slot, held.order_no)
    assert record is not None and record.due_by_ms == option.deliver_by_ms < told_ms
    shop.ask(EditOrder(held.slot, held.order_no, service="express"))
    record = shop.state.order(held.slot, held.order_no)
    assert record is not None and record.due_by_ms == told_ms


def test_nothing_to_offer_is_a_shortage() -> None:
    shop = a_country({"NEAR": 1})
    reply = shop.ask(QuoteOrder(an_order(lines={"SKU-0": 2})))
    assert isinstance(reply, Problem)
    assert (reply.code, reply.errors[0].facts["available_to_promise"]) == ("out_of_stock", 1)
    assert shop.ask(QuoteOrder(an_order(channel="nope"))).code == "unknown_channel"


def test_levels_beyond_the_limit_are_counted() -> None:
    shop = a_country({"NEAR": 1})
    reply = shop.ask(QuoteOrder(an_order(service="express"), levels_max=1))
    assert isinstance(reply, QuoteReply)
    assert ([o.service for o in reply.options], reply.levels, reply.left_out) == (["express"], 1, 1)


def test_a_large_quote_takes_turns_with_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = a_country({"NEAR": 5, "FAR": 5})
    whole = shop.ask(QuoteOrder(an_order()))
    seq = shop.state.seq
    monkeypatch.setattr(quoting, "LINES_PER_TURN", 1)
    asked = shop.send(QuoteOrder(an_order()))
    effects = shop.poll()
    assert asked not in shop.replies and effects.wake_at_ms == shop.now_ms, "one level of two"
    shop.send(a_place(an_order("B")))
    shop.poll()
    assert shop.core.counts["placed"] == 1 and asked not in shop.replies, "an order does not wait for the rest of it"
    shop.settle()
    (reply,) = shop.replies.pop(asked)
    assert isinstance(reply, QuoteReply) and isinstance(whole, QuoteReply)
    assert (reply.options, reply.levels, reply.seq) == (whole.options, 2, seq), "it says what it was begun on"
    assert not shop.core.quoting.working


def test_what_was_quoted_is_in_the_demand_log() -> None:
    shop = a_country({"NEAR": 9})
    options_of(shop, an_order(lines={"SKU-0": 4}))
    log: Any = shop.ask(ReadDemandLog())
    assert [(row.outcome, row.sku, row.quantity) for row in log.notes] == [("quoted", "SKU-0", 4)]


@pytest.mark.parametrize("queued", [3, 2_001])
def test_quotes_wait_behind_orders_and_too_many_are_shed(queued: int) -> None:
    shop = a_country({"NEAR": 9})
    asked = [shop.send(QuoteOrder(an_order())) for _ in range(queued)]
    placed = shop.send(with_quote(an_order(), OptionView("standard", (), (), 0, (0, 0, 0, 0), 0, 0, "separable")))
    for _ in range(3_000):
        shop.poll()
        if asked[-1] in shop.replies and asked[0] in shop.replies:
            break
    assert isinstance(shop.replies[placed][0], OrderView)
    answers = [shop.replies[corr][0] for corr in asked if corr in shop.replies]
    shed = [reply for reply in answers if isinstance(reply, Problem)]
    assert len(shed) == max(0, queued - 2_000)
    assert all(reply.code == "overloaded" for reply in shed)
