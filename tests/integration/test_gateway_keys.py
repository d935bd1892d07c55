"""One idempotency key, two destinations: whatever slot and shard they belong to, the key makes one order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.protocol.hold_caps import HoldCaps, HoldLimits
from engine.protocol.shard_core import ShardCore
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed

PLACES = ("10001", "10501", "60601", "94105")
"""Four slots; with two or four shards, of several homes."""


@pytest.fixture(params=[1, 2, 4], ids=lambda n: f"{n}-shards")
async def engine(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[GatewayEngine]:
    engine = await GatewayEngine(tmp_path, shards=request.param).start()
    await engine.seen_by_all(await engine.stock_up("N-0", "SKU-0", 10))
    yield engine
    await engine.close()


def to(postal_code: str, order_id: str = "A-1", **fields: Any) -> dict[str, Any]:
    return an_order_body(order_id, ship_to={"country": "US", "postal_code": postal_code}, **fields)


async def held_and_allocated(engine: GatewayEngine) -> int:
    answer = await engine.client.get(
        "/v1/availability", params={"sku": "SKU-0", "node_id": "N-0", "consistency": "strict"}
    )
    [position] = answer.json()["data"]
    return int(10 - position["available_to_promise"])


async def test_a_key_used_again_with_another_destination_is_refused(engine: GatewayEngine) -> None:
    first = await engine.client.post("/v1/allocations", json=to(PLACES[0]), headers=keyed("k-1"))
    assert first.status_code == 201, first.text
    for n, place in enumerate(PLACES[1:]):
        other = await engine.client.post("/v1/allocations", json=to(place, f"B-{n}"), headers=keyed("k-1"))
        assert (other.status_code, other.json()["code"]) == (422, "key_reused")
        hold = await engine.client.post(
            "/v1/reservations", json={**to(place, f"C-{n}"), "ttl_s": 60}, headers=keyed("k-1")
        )
        assert (hold.status_code, hold.json()["code"]) == (422, "key_reused")
    again = await engine.client.post("/v1/allocations", json=to(PLACES[0]), headers=keyed("k-1"))
    assert again.json()["allocation_id"] == first.json()["allocation_id"]
    assert await held_and_allocated(engine) == 1


async def test_a_key_whose_order_was_refused_may_go_elsewhere(engine: GatewayEngine) -> None:
    """Refusals are not stored: a retry decides again, also for another address."""
    refused = await engine.client.post("/v1/allocations", json=to(PLACES[0], quantity=11), headers=keyed("k-1"))
    assert refused.status_code == 409, refused.text
    token = await engine.stock_up("N-0", "SKU-0", 1)  # until the other home has seen the units
    headers = keyed("k-1", **{"x-qm-after": token})
    taken = await engine.client.post("/v1/allocations", json=to(PLACES[3]), headers=headers)
    assert taken.status_code == 201, taken.text
    back = await engine.client.post("/v1/allocations", json=to(PLACES[0]), headers=keyed("k-1"))
    assert back.json()["code"] == "key_reused"


async def test_of_many_at_once_one_is_taken(engine: GatewayEngine) -> None:
    answers = await asyncio.gather(
        *(
            engine.client.post("/v1/allocations", json=to(place, f"A-{n}"), headers=keyed("k-1"))
            for n, place in enumerate(PLACES)
        )
    )
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [201, 422, 422, 422], [answer.text for answer in answers]
    assert await held_and_allocated(engine) == 1


async def test_the_orders_of_a_batch_are_held_to_it_too(engine: GatewayEngine) -> None:
    orders = [{**to(place, f"A-{n}"), "idempotency_key": "k-1"} for n, place in enumerate(PLACES)]
    answer = await engine.client.post("/v1/allocations/batch", json={"orders": orders})
    assert [item["status"] for item in answer.json()["results"]] == [201, 422, 422, 422], answer.text


async def test_a_reservation_over_the_cap_of_its_api_key_is_refused_with_the_numbers(tmp_path: Path) -> None:
    engine = await GatewayEngine(tmp_path, hold_units_per_key=3).start()
    for shard in engine.stock:
        assert isinstance(shard.core, ShardCore)
        shard.core.hold_caps = HoldCaps(shard.core, HoldLimits(units_per_key=3))
    await engine.stock_up("N-0", "SKU-0", 10)
    first = await engine.client.post("/v1/reservations", json=to(PLACES[0], quantity=2, ttl_s=60), headers=keyed("k-1"))
    assert first.status_code == 201, first.text
    over = await engine.client.post(
        "/v1/reservations", json=to(PLACES[0], "A-2", quantity=2, ttl_s=60), headers=keyed("k-2")
    )
    assert (over.status_code, over.json()["code"]) == (409, "hold_cap")
    [error] = over.json()["errors"]
    assert (error["cap"], error["held"], error["requested"], error["limit"]) == ("key", 2, 2, 3)
    hold = first.json()["reservation_id"]
    assert (await engine.client.post(f"/v1/reservations/{hold}/commit", headers=keyed("k-3"))).status_code == 200
    again = await engine.client.post(
        "/v1/reservations", json=to(PLACES[0], "A-2", quantity=2, ttl_s=60), headers=keyed("k-2")
    )
    assert again.status_code == 201, again.text
    await engine.close()
