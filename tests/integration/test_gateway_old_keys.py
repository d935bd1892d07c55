"""A time-ordered key older than its shard remembers is refused by every route that takes one: what it made may be forgotten."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.protocol.shard_core import ShardCore
from gateway.errors import KEY_POINTER
from gateway.orders.routes import BATCH_KEY_POINTER
from gateway.times import iso
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed

HOUR_MS = 3_600_000
PO = {"inbound_id": "PO-1", "sku": "SKU-0", "quantity": 5}


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[GatewayEngine]:
    engine = await GatewayEngine(tmp_path, shards=1).start()
    await engine.stock_up("N-0", "SKU-0", 10)
    yield engine
    await engine.close()


def made_at(ms: int) -> str:
    """A UUIDv7 of then."""
    return str(uuid.UUID(int=ms << 80 | 7 << 76 | 2 << 62 | 5))


def forget(engine: GatewayEngine, cutoff_ms: int) -> None:
    """As if keys of before then had been forgotten for want of room."""
    core: Any = engine.stock[0].core
    assert isinstance(core, ShardCore)
    for table in core.state.key_tables():
        table.cutoff_ms = cutoff_ms


async def test_every_route_with_a_key_says_when_the_key_was_made(engine: GatewayEngine) -> None:
    client, now_ms = engine.client, engine.door.gateway.now_ms()
    order = (await client.post("/v1/allocations", json=an_order_body("A-1"), headers=keyed("k-1"))).json()
    hold = (await client.post("/v1/reservations", json=an_order_body("A-3", ttl_s=600), headers=keyed("k-3"))).json()
    quote = (await client.post("/v1/quotes", json=an_order_body("A-4"))).json()
    parked = an_order_body("A-2", quantity=99, on_short="park")
    await client.post("/v1/allocations", json=parked, headers=keyed("k-2"))
    allocation, reservation = f"/v1/allocations/{order['allocation_id']}", f"/v1/reservations/{hold['reservation_id']}"
    leg = f"/v1/legs/{order['legs'][0]['leg_id']}"
    (line,) = [row for row in (await client.get("/v1/demand")).json()["data"] if row["order_id"] == "A-2"]
    waiting = f"/v1/demand/{line['demand_id']}"
    expected = {"node_id": "N-0", "inbound": [{**PO, "expected_at": iso(now_ms + HOUR_MS)}]}
    counted = {"node_id": "N-0", "source": "wms", "source_seq": 1, "as_of": iso(now_ms), "scope": "delta"}
    requests: list[tuple[str, str, dict[str, Any] | None]] = [
        ("POST", "/v1/allocations", an_order_body("B-1")),
        ("POST", "/v1/allocations", an_order_body("A-4", quote_id=quote["quote_id"])),
        ("POST", "/v1/reservations", an_order_body("B-2", ttl_s=60)),
        ("POST", f"{allocation}/replan", {"service": "standard"}),
        ("POST", f"{allocation}/clear-holds", None),
        ("POST", f"{leg}/release", None),
        ("POST", f"{allocation}/cancel", None),
        ("POST", f"{reservation}/extend", {"ttl_s": 900}),
        ("POST", f"{reservation}/replan", {"service": "standard"}),
        ("POST", f"{reservation}/commit", None),
        ("DELETE", reservation, None),
        ("POST", f"{waiting}/prioritise", {"priority": 3}),
        ("POST", f"{waiting}/cancel", None),
        (
            "POST",
            "/v1/inventory/adjustments",
            {"node_id": "N-0", "sku": "SKU-0", "kind": "received", "quantity": 1},
        ),
        ("POST", "/v1/inventory/counts", {**counted, "rows": [{"sku": "SKU-0", "quantity": 5}]}),
        ("PUT", "/v1/inventory/positions", {"node_id": "N-0", "positions": [{"sku": "SKU-0", "safety_units": 1}]}),
        ("PUT", "/v1/inventory/inbound", expected),
        ("POST", "/v1/inventory/inbound/receive", {"node_id": "N-0", "inbound_id": "PO-1"}),
        ("POST", "/v1/inventory/inbound/cancel", {"node_id": "N-0", "inbound_id": "PO-1"}),
    ]
    old = made_at(now_ms - 3 * HOUR_MS)
    forget(engine, now_ms - 2 * HOUR_MS)
    for method, path, body in requests:
        answer = await client.request(method, path, json=body, headers=keyed(old))
        assert (answer.status_code, answer.json()["code"]) == (409, "key_too_old"), (path, answer.text)
        (error,) = answer.json()["errors"]
        assert (error["pointer"], error["made_at_ms"]) == (KEY_POINTER, now_ms - 3 * HOUR_MS)
    batch = {"orders": [{**an_order_body("B-3"), "idempotency_key": old}]}
    (item,) = (await client.post("/v1/allocations/batch", json=batch)).json()["results"]
    assert (item["problem"]["code"], item["problem"]["errors"][0]["pointer"]) == ("key_too_old", BATCH_KEY_POINTER)
    taken = await client.post(f"{reservation}/commit", headers=keyed(made_at(now_ms - HOUR_MS)))
    assert taken.status_code == 200, taken.text
