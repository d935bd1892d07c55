"""Reservations, the legs they become, and keys of some channels only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import a_channel, a_network
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[GatewayEngine]:
    engine = await GatewayEngine(tmp_path).start([*a_network(nodes=4, items=3, shards=2), a_channel("shop")])
    await engine.stock_up("N-0", "SKU-0", 10)
    await engine.stock_up("N-1", "SKU-1", 10)
    yield engine
    await engine.close()


async def reserve(engine: GatewayEngine, key: str = "r-1", **fields: Any) -> dict[str, Any]:
    answer = await engine.client.post("/v1/reservations", json=an_order_body(**fields), headers=keyed(key))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def test_hold_extend_commit(engine: GatewayEngine) -> None:
    held = await reserve(engine, quantity=4, ttl_s=60)
    assert (held["state"], held["allocation_id"]) == ("held", None)
    path = f"/v1/reservations/{held['reservation_id']}"
    longer = await engine.client.post(f"{path}/extend", json={"ttl_s": 600}, headers=keyed("e-1"))
    assert longer.status_code == 200, longer.text
    assert longer.json()["expires_at"] > held["expires_at"]
    committed = await engine.client.post(
        f"{path}/commit", json={"lines": [{"line_id": "1", "quantity": 3}]}, headers=keyed("c-1")
    )
    assert committed.status_code == 200, committed.text
    body = committed.json()
    assert (body["state"], body["legs"][0]["lines"][0]["quantity"]) == ("allocated", 3)
    again = await engine.client.post(
        f"{path}/commit", json={"lines": [{"line_id": "1", "quantity": 3}]}, headers=keyed("c-1")
    )
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["allocation_id"] == body["allocation_id"]
    other = await engine.client.post(f"{path}/commit", headers=keyed("c-2"))
    assert (other.status_code, other.json()["code"]) == (409, "wrong_state")
    assert other.json()["errors"][0]["allocation_id"] == body["allocation_id"]
    now = (await engine.client.get(path)).json()
    assert (now["state"], now["allocation_id"]) == ("committed", body["allocation_id"])
    late = await engine.client.delete(path)
    assert (late.status_code, late.json()["code"]) == (409, "wrong_state")


async def test_commit_without_a_body_takes_everything(engine: GatewayEngine) -> None:
    held = await reserve(engine, quantity=4)
    path = f"/v1/reservations/{held['reservation_id']}/commit"
    committed = await engine.client.post(path, headers=keyed("c-1"))
    assert committed.json()["legs"][0]["lines"][0]["quantity"] == 4


async def test_release_is_idempotent_and_frees_the_units(engine: GatewayEngine) -> None:
    held = await reserve(engine, quantity=10)
    short = await engine.client.post("/v1/reservations", json=an_order_body("A-2"), headers=keyed("r-2"))
    assert short.status_code == 409
    path = f"/v1/reservations/{held['reservation_id']}"
    for _ in range(2):
        released = await engine.client.delete(path)
        assert (released.status_code, released.json()["state"]) == (200, "released")
    await reserve(engine, "r-3", order_id="A-3", quantity=10)


async def test_a_hold_without_destination_uses_the_demand_centre(engine: GatewayEngine) -> None:
    body = an_order_body()
    del body["ship_to"]
    held = await engine.client.post("/v1/reservations", json=body, headers=keyed("r-1"))
    assert held.status_code == 201, held.text
    refused = await engine.client.post("/v1/allocations", json={**body, "order_id": "A-2"}, headers=keyed("k-1"))
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/ship_to"


async def test_a_hold_is_no_allocation(engine: GatewayEngine) -> None:
    held = await reserve(engine)
    missing = await engine.client.get(f"/v1/allocations/{held['reservation_id'].replace('res_', 'alc_')}")
    assert missing.status_code == 404


async def test_ttl_has_a_limit(engine: GatewayEngine) -> None:
    answer = await engine.client.post("/v1/reservations", json=an_order_body(ttl_s=86_401), headers=keyed("r-1"))
    assert answer.status_code == 422
    assert answer.json()["errors"][0] == {"pointer": "/ttl_s", "detail": "at most 86400 seconds", "limit": 86_400}


async def test_a_leg_from_release_to_delivery(engine: GatewayEngine) -> None:
    placed = await engine.client.post("/v1/allocations", json=an_order_body(quantity=3), headers=keyed("k-1"))
    leg_id = placed.json()["legs"][0]["leg_id"]
    work = await engine.client.get("/v1/legs", params={"node_id": "N-0", "state": "allocated"})
    assert [leg["leg_id"] for leg in work.json()["data"]] == [leg_id]
    for n, action in enumerate(("release", "accept", "pick")):
        step = await engine.client.post(f"/v1/legs/{leg_id}/{action}", headers=keyed(f"s-{n}"))
        assert step.status_code == 200, step.text
    shipped = await engine.client.post(
        f"/v1/legs/{leg_id}/ship",
        json={"parcels": 1, "tracking": ["1Z"], "actual_cost_minor": 911, "lines": [{"line_id": "1", "quantity": 1}]},
        headers=keyed("s-4"),
    )
    body = shipped.json()
    assert [(leg["state"], leg["lines"][0]["quantity"]) for leg in body["allocation"]["legs"]] == [
        ("picking", 2),
        ("shipped", 1),
    ]
    parcel = body["allocation"]["legs"][1]
    assert (parcel["tracking"], parcel["actual_cost_minor"]) == (["1Z"], 911)
    delivered = await engine.client.post(f"/v1/legs/{parcel['leg_id']}/deliver", headers=keyed("s-5"))
    assert delivered.json()["leg"]["state"] == "delivered"
    wrong = await engine.client.post(f"/v1/legs/{leg_id}/deliver", headers=keyed("s-6"))
    assert (wrong.status_code, wrong.json()["code"]) == (409, "wrong_state")
    one = await engine.client.get(f"/v1/legs/{leg_id}")
    assert (one.json()["state"], one.json()["order_id"]) == ("picking", "A-1")


async def test_a_rejected_leg_is_planned_elsewhere(engine: GatewayEngine) -> None:
    await engine.stock_up("N-2", "SKU-0", 5)
    placed = await engine.client.post("/v1/allocations", json=an_order_body(quantity=2), headers=keyed("k-1"))
    leg_id = placed.json()["legs"][0]["leg_id"]
    refused = await engine.client.post(f"/v1/legs/{leg_id}/reject", json={}, headers=keyed("j-0"))
    assert refused.json()["errors"][0]["pointer"] == "/reason"
    for n, text in enumerate(("", "a\x00b", "x" * 201)):  # a database takes no NUL
        body = {"reason": text}
        answer = await engine.client.post(f"/v1/legs/{leg_id}/reject", json=body, headers=keyed(f"bad-{n}"))
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/reason")
    rejected = await engine.client.post(
        f"/v1/legs/{leg_id}/reject", json={"reason": "empty", "stock_effect": "zero_until_count"}, headers=keyed("j-1")
    )
    assert rejected.status_code == 200, rejected.text

    async def moved() -> bool:
        legs = (await engine.client.get(placed.headers["location"])).json()["legs"]
        return [(leg["node_id"], leg["state"]) for leg in legs] == [("N-0", "rejected"), ("N-2", "allocated")]

    from tests.conftest import eventually

    await eventually(moved, what="the units are planned at another node")


async def test_the_work_list_pages_over_all_shards(engine: GatewayEngine) -> None:
    """Orders of both regions send legs to one node; pages neither repeat nor lose one."""
    stocked = await engine.stock_up("N-0", "SKU-2", 10)
    for n in range(7):
        order = an_order_body(
            f"A-{n}", sku="SKU-2", ship_to={"country": "US", "postal_code": "10001" if n % 2 else "90001"}
        )
        answer = await engine.client.post(
            "/v1/allocations", json=order, headers=keyed(f"k-{n}", **{"x-qm-after": stocked})
        )
        assert answer.status_code == 201, answer.text
    seen: list[str] = []
    cursor = None
    while True:
        query = {"node_id": "N-0", "limit": 2, **({"cursor": cursor} if cursor else {})}
        page = (await engine.client.get("/v1/legs", params=query)).json()
        seen += [leg["order_id"] for leg in page["data"]]
        cursor = page["next_cursor"]
        assert page["has_more"] is (cursor is not None)
        if cursor is None:
            break
    assert sorted(seen) == [f"A-{n}" for n in range(7)]
    bad = await engine.client.get("/v1/legs", params={"node_id": "N-0", "cursor": "nonsense"})
    assert (bad.status_code, bad.json()["code"]) == (400, "invalid_cursor")


async def test_a_key_of_one_channel_reaches_no_other(engine: GatewayEngine) -> None:
    placed = await engine.client.post("/v1/allocations", json=an_order_body(), headers=keyed("k-1"))
    held = await reserve(engine, order_id="A-2")
    shop = engine.client_for(
        await engine.token(
            "allocate:write", "allocate:read", "legs:read", "legs:write", "inventory:read", channels=["shop"]
        )
    )
    forbidden = await shop.post("/v1/allocations", json=an_order_body("A-3"), headers=keyed("k-1"))
    assert (forbidden.status_code, forbidden.json()["code"]) == (403, "forbidden")
    own = await shop.post("/v1/allocations", json=an_order_body("A-4", channel="shop"), headers=keyed("k-2"))
    assert own.status_code == 201
    leg_id = placed.json()["legs"][0]["leg_id"]
    for method, path in (
        ("GET", placed.headers["location"]),
        ("POST", f"{placed.headers['location']}/cancel"),
        ("GET", f"/v1/reservations/{held['reservation_id']}"),
        ("DELETE", f"/v1/reservations/{held['reservation_id']}"),
        ("POST", f"/v1/reservations/{held['reservation_id']}/commit"),
        ("GET", f"/v1/legs/{leg_id}"),
        ("POST", f"/v1/legs/{leg_id}/release"),
    ):
        answer = await shop.request(method, path, headers=keyed(f"x-{method}-{path}"))
        assert answer.status_code == 404, (method, path, answer.text)
    assert (await shop.get("/v1/legs", params={"node_id": "N-0"})).status_code == 403
    assert (await shop.get("/v1/availability", params={"sku": "SKU-0", "channel": "web"})).status_code == 403
    assert (await shop.get("/v1/availability", params={"sku": "SKU-0"})).status_code == 200
    released = await engine.client.get(f"/v1/reservations/{held['reservation_id']}")
    assert released.json()["state"] == "held"
