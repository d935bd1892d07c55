"""/v1/demand through the whole gateway, on two shards: listed in one queue, cancelled, moved up, served, noted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.times import iso
from tests.conftest import eventually
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed

POSTAL_CODES = ("10001", "60601")
"""One of each shard."""


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[GatewayEngine]:
    engine = await GatewayEngine(tmp_path, shards=2).start()
    yield engine
    await engine.close()


async def park(engine: GatewayEngine, order_id: str, postal_code: str = "10001", **fields: Any) -> dict[str, Any]:
    fields.setdefault("on_short", "park")
    body = an_order_body(order_id, ship_to={"country": "US", "postal_code": postal_code}, **fields)
    answer = await engine.client.post("/v1/allocations", json=body, headers=keyed(f"k-{order_id}"))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def listed(engine: GatewayEngine, **params: Any) -> dict[str, Any]:
    answer = await engine.client.get("/v1/demand", params=params)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_an_empty_queue_is_an_empty_page(engine: GatewayEngine) -> None:
    assert await listed(engine) == {"data": [], "next_cursor": None, "has_more": False}


async def test_the_queue_of_all_shards_is_one_and_is_read_page_by_page(engine: GatewayEngine) -> None:
    orders = [await park(engine, f"P-{n}", POSTAL_CODES[n % 2], priority=n % 3) for n in range(9)]
    assert {order["allocation_id"][:7] for order in orders} == {"alc_US1", "alc_US6"}
    whole = (await listed(engine))["data"]
    assert len(whole) == 9
    assert [line["priority"] for line in whole] == [2, 2, 2, 1, 1, 1, 0, 0, 0]
    first = whole[0]
    assert (first["state"], first["reason"], first["quantity"], first["sku"]) == ("parked", "out_of_stock", 1, "SKU-0")
    assert (first["cancel_at"], first["ahead"]) == (None, 0)
    for limit in (1, 2, 4):
        pages: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = await listed(engine, limit=limit, **({"cursor": cursor} if cursor else {}))
            assert len(page["data"]) <= limit
            pages += page["data"]
            cursor = page["next_cursor"]
            if not page["has_more"]:
                break
        assert [line["demand_id"] for line in pages] == [line["demand_id"] for line in whole]


async def test_filters(engine: GatewayEngine) -> None:
    await engine.stock_up("N-0", "SKU-1", 1)
    await park(engine, "P-1")
    await park(engine, "P-2", lines=[{"line_id": "1", "sku": "SKU-1", "quantity": 3}], on_short="partial")
    found = await listed(engine, sku="SKU-1")
    assert [(line["order_id"], line["state"], line["quantity"]) for line in found["data"]] == [("P-2", "partial", 2)]
    assert [line["order_id"] for line in (await listed(engine, state="parked"))["data"]] == ["P-1"]
    assert (await listed(engine, reason="capacity"))["data"] == []
    assert len((await listed(engine, channel="web"))["data"]) == 2
    for params, code in (({"sku": "NONE"}, "unknown_sku"), ({"channel": "no"}, "unknown_channel")):
        answer = await engine.client.get("/v1/demand", params=params)
        assert answer.json()["code"] == code
    assert (await engine.client.get("/v1/demand", params={"cursor": "x.y"})).json()["code"] == "invalid_cursor"


async def test_demand_is_cancelled_and_answers_a_repeat(engine: GatewayEngine) -> None:
    order = await park(engine, "P-1")
    path = f"/v1/demand/{order['unfilled'][0]['demand_id']}/cancel"
    for _ in range(2):
        answer = await engine.client.post(path, headers=keyed("c-1"))
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert (await engine.client.post(path, headers=keyed("c-2"))).json()["code"] == "not_found"
    assert (await listed(engine))["data"] == []


async def test_who_is_moved_up_is_served_first(engine: GatewayEngine) -> None:
    first, second = await park(engine, "P-1"), await park(engine, "P-2")
    path = f"/v1/demand/{second['unfilled'][0]['demand_id']}/prioritise"
    answer = await engine.client.post(path, json={"priority": 9}, headers=keyed("p-1"))
    assert (answer.status_code, answer.json()["state"]) == (200, "parked")
    assert [line["order_id"] for line in (await listed(engine))["data"]] == ["P-2", "P-1"]
    assert (await engine.client.post(path, json={"priority": -1}, headers=keyed("p-2"))).status_code == 422
    await engine.stock_up("N-0", "SKU-0", 1)
    await until(engine, second, "allocated")
    assert (await engine.client.get(f"/v1/allocations/{first['allocation_id']}")).json()["state"] == "parked"


async def until(engine: GatewayEngine, order: dict[str, Any], wanted: str) -> None:
    """Poll until an order is in a state, or its only live leg at a node."""

    async def reached() -> bool:
        shown = (await engine.client.get(f"/v1/allocations/{order['allocation_id']}")).json()
        nodes = [leg["node_id"] for leg in shown["legs"] if leg["state"] == "allocated"]
        return bool(shown["state"] == wanted or nodes == [wanted])

    await eventually(reached, what=f"{order['order_id']} is {wanted}")


async def test_stock_at_another_shard_serves_what_waits(engine: GatewayEngine) -> None:
    order = await park(engine, "P-1", "10001")
    await engine.stock_up("N-1", "SKU-0", 1)
    assert engine.cluster.shard_of_node("N-1") != engine.cluster.shard_of_slot("US100")
    await until(engine, order, "allocated")


async def test_the_log_says_what_customers_did_not_get(engine: GatewayEngine) -> None:
    refused = await engine.client.post("/v1/allocations", json=an_order_body("R-1", quantity=4), headers=keyed("r"))
    assert refused.status_code == 409
    order = await park(engine, "P-1", "60601")
    page = (await engine.client.get("/v1/demand/log")).json()
    assert [(n["outcome"], n["quantity"], n["region"]) for n in page["data"]] == [
        ("refused", 4, "US100"),
        ("parked", 1, "US606"),
    ]
    await engine.stock_up("N-0", "SKU-0", 1)
    await until(engine, order, "allocated")
    more = (await engine.client.get("/v1/demand/log", params={"cursor": page["next_cursor"]})).json()
    assert [(n["outcome"], n["sku"], n["quantity"]) for n in more["data"]] == [("served", "SKU-0", 1)]
    assert not more["lost"]
    assert "quartermaster_shard_demand_units_refused" in (await engine.client.get("/metrics")).text


async def test_a_key_of_one_channel_sees_its_own(engine: GatewayEngine) -> None:
    order = await park(engine, "P-1")
    client = engine.client_for(await engine.token("*", channels=["shop"]))
    assert (await client.get("/v1/demand")).json()["data"] == []
    assert (await client.get("/v1/demand", params={"channel": "web"})).json()["code"] == "forbidden"
    path = f"/v1/demand/{order['unfilled'][0]['demand_id']}/cancel"
    assert (await client.post(path, headers=keyed("c-1"))).json()["code"] == "not_found"
    assert (await client.get("/v1/demand/log")).json()["data"] == []
    await client.aclose()


async def test_an_order_may_say_when_it_no_longer_waits(engine: GatewayEngine) -> None:
    order = await park(engine, "P-1", cancel_after="2026-01-01T00:00:00Z")
    await until(engine, order, "cancelled")
    bad = await engine.client.post(
        "/v1/allocations", json=an_order_body("P-2", cancel_after="1999-01-01T00:00:00Z"), headers=keyed("k-2")
    )
    assert bad.json()["errors"][0]["pointer"] == "/cancel_after"


async def test_a_short_position_is_listed_and_its_legs_go_elsewhere(engine: GatewayEngine) -> None:
    assert (await engine.client.get("/v1/inventory/short")).json() == {
        "data": [],
        "next_cursor": None,
        "has_more": False,
    }
    await engine.seen_by_all(await engine.stock_up("N-0", "SKU-0", 3))
    released = await park(engine, "P-0")
    leg_id = released["legs"][0]["leg_id"]
    assert (await engine.client.post(f"/v1/legs/{leg_id}/release", headers=keyed("rel"))).status_code == 200
    orders = [await park(engine, f"P-{n + 1}", POSTAL_CODES[n]) for n in range(2)]
    assert {order["legs"][0]["node_id"] for order in orders} == {"N-0"}
    await engine.stock_up("N-3", "SKU-0", 5)
    count = {
        "node_id": "N-0",
        "source": "wms",
        "source_seq": 1,
        "as_of": iso(engine.door.gateway.now_ms()),
        "scope": "delta",
        "rows": [{"sku": "SKU-0", "quantity": 0}],
    }
    answer = await engine.client.post("/v1/inventory/counts", json=count, headers=keyed("count"))
    assert answer.status_code == 200, answer.text
    for order in orders:
        await until(engine, order, "N-3")

    async def left() -> bool:  # the order has moved; its old units leave the owner's books a moment later
        (row,) = (await engine.client.get("/v1/inventory/short", params={"node_id": "N-0"})).json()["data"]
        return (row["position"]["short_by"], row["lacking_units"], row["legs"]) == (1, 1, [])

    await eventually(left, what="short by what was released")
    assert (await engine.client.get("/v1/inventory/short", params={"cursor": "?"})).json()["code"] == "invalid_cursor"
