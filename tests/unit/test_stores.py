"""Stores by distance as one shard answers: what they have, kits included, and when it would be ready."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from engine.domain.commands import AdjustStock, CountStock, FindStores, GetAvailability, StockMove
from engine.domain.config import NodeCapacity, Placement
from engine.domain.orders import Method
from engine.domain.replies import Problem, StoresReply
from engine.protocol.stores import UNLIMITED, free_at
from solvers.places import exact_km
from tests.builders import a_network, a_node, a_place, an_item, an_order
from tests.sim.lone_core import LoneCore
from tests.unit.test_collection import NOW_MS, ZONE, pickup

HERE = {"country": "US", "lat": 40.75, "lon": -73.99}


def a_street(stock: dict[str, dict[str, int]], **first: Any) -> LoneCore:
    """Stores S-0, S-1, S-2... each 0.1 degrees (11.1 km) north of the one before; S-0 is where the customer is."""
    nodes = [
        a_node(
            f"S-{n}",
            kind="store",
            lat=40.75 + n / 10,
            time_zone=ZONE,
            offers=("ship", "pickup") if n != 2 else ("ship", "pickup", "ship_to_store"),
            pickup_ready_minutes=30,
            **(first if n == 0 else {}),
        )
        for n in range(4)
    ]
    nodes.append(a_node("WH", lat=40.75, time_zone=ZONE))
    items = [an_item(f"SKU-{n}") for n in range(3)]
    items += [an_item("CODE", tracked=False), an_item("KIT", components={"SKU-0": 2, "SKU-1": 1, "CODE": 1})]
    shop = LoneCore(a_network(nodes=nodes, items=items))
    shop.now_ms = NOW_MS
    for node, units in stock.items():
        moves = tuple(StockMove(sku, "received", quantity) for sku, quantity in units.items())
        assert not isinstance(shop.ask(AdjustStock(node, moves)), Problem)
    return shop


def near(shop: LoneCore, *wanted: tuple[str, int], **fields: Any) -> StoresReply:
    reply = shop.ask(FindStores(wanted or (("SKU-0", 1),), **{**HERE, **fields}))
    assert isinstance(reply, StoresReply), reply
    return reply


def rows(reply: StoresReply) -> list[tuple[str, int, tuple[int, ...], str]]:
    return [
        (
            store.node_id,
            round(store.distance_m / 1_000),
            store.units,
            datetime.fromtimestamp(store.ready_at_ms / 1_000, ZoneInfo(ZONE)).strftime("%a %H:%M")
            if store.ready_at_ms
            else "",
        )
        for store in reply.stores
    ]


def test_stores_come_by_distance_with_units_and_ready_time() -> None:
    shop = a_street({"S-0": {"SKU-1": 2}, "S-1": {"SKU-0": 3}, "S-3": {"SKU-0": 1}, "WH": {"SKU-0": 50}})
    assert rows(near(shop)) == [
        ("S-0", 0, (0,), ""),
        ("S-1", 11, (3,), "Wed 10:30"),
        ("S-2", 22, (0,), ""),
        ("S-3", 33, (1,), "Wed 10:30"),
    ]
    assert [row[0] for row in rows(near(shop, in_stock=True))] == ["S-1", "S-3"]
    assert [row[0] for row in rows(near(shop, in_stock=True, radius_km=12))] == ["S-1"]
    assert rows(near(shop, ("SKU-0", 2), ("SKU-1", 1), in_stock=True)) == []
    assert [row[2] for row in rows(near(shop, ("SKU-0", 2), ("SKU-1", 1)))][:2] == [(0, 2), (3, 0)]


def test_pages_follow_each_other_without_gap_or_repeat() -> None:
    shop = a_street({f"S-{n}": {"SKU-0": 1} for n in range(4)})
    seen: list[str] = []
    after, more = (-1, ""), True
    while more:
        reply = near(shop, limit=1, after=after)
        (store,) = reply.stores
        seen.append(store.node_id)
        after, more = (store.distance_m, store.node_id), reply.more
    assert seen == ["S-0", "S-1", "S-2", "S-3"]


def test_what_is_promised_kept_back_or_switched_off_is_not_there() -> None:
    shop = a_street({"S-0": {"SKU-0": 4}}, safety_by_method={"pickup": 1})
    assert rows(near(shop, limit=1))[0][2] == (3,)
    shop.ask(a_place(an_order("A-1", [pickup(quantity=2, node="S-0")])))
    assert rows(near(shop, limit=1))[0][2] == (1,)
    node = shop.catalog.nodes[0]
    assert node is not None
    shop.put(a_node("S-4", state="off", offers=("pickup",)))
    shop.put(a_node("S-5", channels=["trade"], offers=("pickup",)))
    assert [row[0] for row in rows(near(shop, channel="web"))] == ["S-0", "S-1", "S-2", "S-3"]
    assert [row[0] for row in rows(near(shop, method=int(Method.SHIP_TO_STORE)))] == ["S-2"]


def test_a_day_without_room_is_left_out_of_the_ready_time() -> None:
    shop = a_street({"S-0": {"SKU-0": 9}}, capacity=NodeCapacity(unit="units", per_day=3))
    assert rows(near(shop, ("SKU-0", 3), limit=1))[0][3] == "Wed 10:30"
    view = shop.ask(a_place(an_order("A-1", [pickup(quantity=2, node="S-0")])))
    assert view.state == "allocated"
    assert rows(near(shop, ("SKU-0", 1), limit=1))[0][3] == "Wed 10:30"
    assert rows(near(shop, ("SKU-0", 2), limit=1))[0][3] == "Thu 09:30"
    assert rows(near(shop, ("SKU-0", 4), limit=1))[0][3] == ""  # no day has room for so many


def test_a_kit_counts_whole_kits_at_each_store() -> None:
    shop = a_street({"S-0": {"SKU-0": 5, "SKU-1": 9}, "S-1": {"SKU-0": 9, "SKU-1": 1}, "S-3": {"SKU-0": 9}})
    assert [(row[0], row[2]) for row in rows(near(shop, ("KIT", 1)))] == [
        ("S-0", (2,)),
        ("S-1", (1,)),
        ("S-2", (0,)),
        ("S-3", (0,)),
    ]
    assert rows(near(shop, ("CODE", 7), limit=1))[0][2:] == ((UNLIMITED,), "Wed 10:30")
    reply = shop.ask(GetAvailability(("KIT", "SKU-1")))
    assert [(p.sku, p.node_id, p.on_hand, p.available_to_promise, p.supply) for p in reply.positions] == [
        ("KIT", "S-0", 2, 2, "kit"),
        ("KIT", "S-1", 1, 1, "kit"),
        ("SKU-1", "S-0", 9, 9, "counted"),
        ("SKU-1", "S-1", 1, 1, "counted"),
    ]
    shop.ask(a_place(an_order("A-1", [pickup("KIT", 1, node="S-0")])))
    after = shop.ask(GetAvailability(("KIT",), node_id="S-0"))
    assert [(p.on_hand, p.available_to_promise) for p in after.positions] == [(2, 1)]


@pytest.mark.parametrize(
    ("fields", "code", "pointer"),
    [
        ({"wanted": (("nope", 1),)}, "unknown_sku", "/sku/0"),
        ({"wanted": ()}, "invalid_field", "/sku"),
        ({"method": int(Method.SHIP)}, "invalid_field", "/method"),
        ({"country": "FR", "lat": None, "lon": None, "postal_code": "75001"}, "unknown_destination", "/postal_code"),
    ],
)
def test_what_cannot_be_answered_is_named(fields: dict[str, Any], code: str, pointer: str) -> None:
    shop = a_street({})
    reply = shop.ask(FindStores(**{"wanted": (("SKU-0", 1),), **HERE, **fields}))
    assert isinstance(reply, Problem)
    assert (reply.code, reply.errors[0].pointer) == (code, pointer)


def test_distances_are_those_that_planners_count() -> None:
    shop = a_street({})
    for store in near(shop, radius_km=100).stores:
        node = shop.catalog.nodes[shop.catalog.node_of[store.node_id]]
        assert node is not None
        assert exact_km(node.lat, node.lon, 40.75, -73.99) == int(store.distance_m / 1_000 + 0.5)


@pytest.mark.parametrize("on_stale", ["serve", "extra_safety", "exclude"])
def test_units_at_many_stores_are_those_of_each_position(on_stale: str) -> None:
    """Merged positions and new ones, holds, safety, old counts, a kit and what is not tracked: counted at once as one by one."""
    first = {"safety_by_method": {"pickup": 2}, "max_feed_age_s": 60, "on_stale": on_stale}
    shop = a_street({f"S-{n}": {"SKU-0": 7 + n, "SKU-1": 3 - n} for n in range(3)}, **first)
    shop.ask(CountStock("S-0", "wms", shop.now_ms - 61_000, 1, "delta", ()))
    shop.state.positions.merge()
    shop.ask(AdjustStock("S-3", (StockMove("SKU-1", "received", 4), StockMove("SKU-0", "received", 3))))
    assert not isinstance(shop.ask(a_place(an_order("A", [pickup("SKU-0", 2, node="S-1")]))), Problem)
    wanted = ("SKU-0", "SKU-1", "SKU-2", "CODE", "KIT")
    reply = near(shop, *[(sku, 1) for sku in wanted])
    method = Method.PICKUP
    assert [store.node_id for store in reply.stores] == ["S-0", "S-1", "S-2", "S-3"]
    for store in reply.stores:
        node = shop.catalog.node_of[store.node_id]
        units = [free_at(shop.core, node, shop.catalog.item_of[sku], method, shop.now_ms) for sku in wanted[:3]]
        assert store.units == (*units, UNLIMITED, min(units[0] // 2, units[1])), store
    assert near(shop, ("SKU-0", 1), lat=-40.0).stores == ()


def test_a_shard_speaks_of_its_own_stores_only() -> None:
    shop = a_street({"S-0": {"SKU-0": 1}})
    shop.put(Placement(shard_count=2, nodes={f"S-{n}": 1 for n in range(1, 4)}))
    assert [row[0] for row in rows(near(shop))] == ["S-0"]
