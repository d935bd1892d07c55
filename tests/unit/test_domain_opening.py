"""The short way of opening many orders and the long way of opening each give the same entries, answers and state."""

from __future__ import annotations

import random
from typing import Any

import pytest
from msgspec.structs import replace

import engine.protocol.placing as placing
from engine.domain.commands import AdjustStock, PlaceOrder, StockMove
from engine.domain.config import NodeCapacity
from engine.domain.orders import Method, OnShort, OrderRequest, Rung
from engine.domain.plan import Plan
from engine.domain.replies import Opened
from engine.domain.views import whole_view
from gateway.orders.opened import opened_allocation
from gateway.orders.schemas import allocation_shown
from tests.builders import a_destination, a_line, a_network, a_node, a_place, an_item, an_order
from tests.sim.checker import digest
from tests.sim.greedy_planner import GreedyPlanner
from tests.sim.lone_core import LoneCore


class Varied(GreedyPlanner):
    """Plans with services, parcels and promises, so that every field of a record is something."""

    def plan(self, requests: Any, *, now_ms: int) -> list[Plan]:
        plans = []
        for n, plan in enumerate(super().plan(requests, now_ms=now_ms)):
            legs = [
                replace(
                    leg,
                    service=k % 2 - 1,
                    parcels=k + 1,
                    ship_by_ms=now_ms + 3_600_000 * k + 123,
                    deliver_by_ms=now_ms + 86_400_000 * (k + 1) + 999,
                    cash_minor=(700 + k, 10, 5, 0),
                )
                for k, leg in enumerate(plan.legs)
            ]
            promise_ms = (now_ms, now_ms + 5) if n % 3 else (0, 0)
            if n % 4 == 1 and legs:
                promise_ms = (
                    max(leg.ship_by_ms for leg in legs) // 1_000 * 1_000,
                    max(leg.deliver_by_ms for leg in legs) // 1_000 * 1_000,
                )
            plans.append(
                replace(
                    plan,
                    legs=legs,
                    money_minor=(100 * n, n, -n, 3),
                    promise_ms=promise_ms,
                    rung=Rung(n % 4),
                    record=b"why" * (n % 3),
                )
            )
        return plans


def an_arbitrary_order(rng: random.Random, n: int) -> PlaceOrder:
    lines = []
    for i, sku in enumerate(rng.sample(range(6), rng.randint(1, 4))):
        method = rng.choice([Method.SHIP, Method.SHIP, Method.SHIP, Method.PICKUP, Method.DIGITAL])
        lines.append(
            a_line(
                "KIT" if sku == 5 else f"SKU-{sku}",
                rng.randint(1, 3),
                line_id=f"L{i}",
                unit_price_minor=rng.randint(0, 10_000),
                method=method,
                pickup_node_id=f"N-{rng.randrange(3)}" if method == Method.PICKUP else None,
                group=rng.choice([None, None, None, "g"]),
                splittable=rng.random() < 0.8,
                tags=rng.choice([(), (), (), ("cold",)]),
            )
        )
    odd = rng.random() < 0.3
    order = an_order(
        f"A-{n}" if rng.random() < 0.9 else f"A-{n // 2}",
        lines,
        ship_to=rng.choice(
            [
                a_destination("10001", region="NY"),
                a_destination(residential=False),
                a_destination(lat=40.0, lon=-73.0),
                None,
            ]
        ),
        placed_at_ms=rng.choice([0, 1_790_000_000_000]),
        customer_id=rng.choice([None, "C-1"]),
        on_short=rng.choice([None, *OnShort]) if odd else None,
        priority=rng.randint(0, 2) if odd else 0,
        tags=("vip",) if odd and rng.random() < 0.5 else (),
        max_legs=rng.choice([None, 2]) if odd else None,
        promised_by_ms=5 if odd and rng.random() < 0.3 else None,
        hold_reasons=("fraud",) if odd and rng.random() < 0.3 else (),
        paid=rng.random() < 0.1,
    )
    return a_place(order, ttl_s=rng.choice([0, 0, 60, 10**6]), key=rng.choice([0, n + 1]), brief=rng.random() < 0.7)


def a_shop() -> LoneCore:
    nodes = [
        a_node("N-0", offers=("ship", "pickup", "cold")),
        a_node("N-1", capacity=NodeCapacity(unit="units", per_day=40)),
        a_node("N-2", safety_by_method={"ship": 2, "pickup": 1}),
    ]
    items = [
        *[an_item(f"SKU-{n}", tracked=n != 4) for n in range(5)],
        an_item("KIT", components={"SKU-0": 1, "SKU-1": 2}),
    ]
    shop = LoneCore(a_network(nodes=nodes, items=items), make_planner=Varied)
    for node in range(3):
        moves = tuple(StockMove(f"SKU-{n}", "received", 150) for n in range(4))
        shop.ask(AdjustStock(f"N-{node}", moves))
    return shop


def run(seed: int) -> tuple[LoneCore, list[tuple[OrderRequest, Opened]]]:
    """A shop after some orders, its brief answers made whole; and those answers as they were."""
    rng = random.Random(seed)
    shop = a_shop()
    asked = {}
    for _ in range(12):
        for _ in range(rng.randint(1, 12)):
            command = an_arbitrary_order(rng, len(asked))
            asked[shop.send(command)] = command
        shop.settle()
        shop.pass_time(rng.choice([0, 1_000, 61_000]))
    shop.check_recovery({})
    brief = []
    for corr, command in asked.items():
        (reply,) = shop.replies[corr]
        if isinstance(reply, Opened):
            assert command.brief
            brief.append((command.order, reply))
            shop.replies[corr] = [whole_view(command.order, reply)]
    return shop, brief


def the_long_way(core: Any, flights: Any, plans: Any, *, now_ms: int) -> Any:
    """What `open_plain` does, with the steps that every other order takes."""
    pairs = list(zip(flights, plans, strict=True))
    plain = [(f, p) for f, p in pairs if placing.is_plain(core.catalog, f.prepared, p) and not f.order_no]
    if placing.find_rows(core.state, [(f.command, f.prepared, p) for f, p in plain]) is None:
        return pairs
    for flight, plan in plain:
        placing.finish_place(core, flight, plan, now_ms=now_ms)
    return [(f, p) for f, p in pairs if not any(f is other for other, _ in plain)]


@pytest.mark.parametrize("seed", range(12))
def test_both_ways_give_the_same_entries_answers_and_state(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = 0
    apply_opened = placing.apply_opened

    def counted(*args: Any, **fields: Any) -> None:
        nonlocal opened
        opened += 1
        apply_opened(*args, **fields)

    monkeypatch.setattr(placing, "apply_opened", counted)
    short, brief = run(seed)
    assert opened >= 5, "the short way was hardly taken"
    assert opened >= len(brief) > 0
    monkeypatch.setattr(placing, "open_plain", the_long_way)
    long, none = run(seed)
    assert not none
    assert short.replies == long.replies
    assert [entry.payload for entry in short.entries] == [entry.payload for entry in long.entries]
    assert [entry.decisions for entry in short.entries] == [entry.decisions for entry in long.entries]
    assert digest(short.state) == digest(long.state)
    assert short.core.counts == long.core.counts


def test_a_brief_answer_is_shown_like_the_whole_one() -> None:
    pairs = [pair for seed in range(12) for pair in run(seed)[1]]
    shop = LoneCore(a_network(nodes=2), make_planner=Varied)
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 9),)))
    shop.ask(AdjustStock("N-1", (StockMove("SKU-1", "received", 9),)))
    split = an_order("A-1", {"SKU-0": 1, "SKU-1": 2})
    opened = shop.ask(a_place(split, brief=True))
    assert isinstance(opened, Opened) and len(opened.legs) == 2
    committed = [(order, opened) for order, opened in [*pairs, (split, opened)] if not opened.expires_at_ms]
    assert any(order.ship_to is None for order, _ in committed)
    assert any(opened.promise_ms != (0, 0) for _, opened in committed)
    for order, opened in committed:
        assert opened_allocation(order, opened) == allocation_shown(whole_view(order, opened))


def test_a_repeat_in_the_same_batch_is_answered_wholly() -> None:
    shop = a_shop()
    order = an_order("A-1", {"SKU-0": 1})
    first = shop.send(a_place(order, key=5, brief=True))
    again = shop.send(a_place(order, key=5))
    shop.settle()
    (opened,), (repeated,) = shop.replies[first], shop.replies[again]
    assert isinstance(opened, Opened)
    assert repeated == replace(whole_view(order, opened), replayed=True, token=repeated.token)


def test_orders_that_do_not_fit_together_go_the_long_way() -> None:
    class Overbooked(GreedyPlanner):
        """Plans each order as if it were alone, until it is asked about one."""

        def plan(self, requests: Any, *, now_ms: int) -> list[Plan]:
            return [super(Overbooked, self).plan([request], now_ms=now_ms)[0] for request in requests]

    shop = LoneCore(a_network(nodes=1), make_planner=Overbooked)
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 3),)))
    corrs = [shop.send(a_place(an_order(f"A-{n}", {"SKU-0": 2}))) for n in range(2)]
    shop.settle()
    assert [getattr(shop.replies[corr][0], "state", "refused") for corr in corrs] == ["allocated", "refused"]
