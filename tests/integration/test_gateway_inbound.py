"""Inbound supply over HTTP: stated, listed in pages, dated availability, received, late; on one and on two shards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import quartermaster_client as qm
from tests.conftest import eventually
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed

INBOUND = "/v1/inventory/inbound"


@pytest.fixture(params=[1, 2])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[GatewayEngine]:
    engine = await GatewayEngine(tmp_path, shards=request.param).start()
    yield engine
    await engine.close()


def on_day(engine: GatewayEngine, days: int) -> str:
    instant = datetime.fromtimestamp(engine.door.gateway.now_ms() // 1_000, UTC) + timedelta(days=days)
    return instant.isoformat().replace("+00:00", "Z")


async def stated(engine: GatewayEngine, node_id: str, inbound_id: str, quantity: int, days: int, **fields: Any) -> None:
    row = {
        "inbound_id": inbound_id,
        "sku": "SKU-0",
        "quantity": quantity,
        "expected_at": on_day(engine, days),
        **fields,
    }
    answer = await engine.client.put(INBOUND, json={"node_id": node_id, "inbound": [row]})
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["quantity"] == quantity


async def dated(engine: GatewayEngine, **params: Any) -> tuple[int, int, int, list[tuple[int, list[str], int]]]:
    answer = await engine.client.get("/v1/availability/dated", params={"sku": "SKU-0", **params})
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["data"]
    steps = [(step["units"], step["inbound_ids"], step["available_to_promise"]) for step in row["steps"]]
    return row["available_to_promise"], row["waiting_units"], row["late_units"], steps


async def test_dates_are_what_is_free_and_expected_less_what_waits(engine: GatewayEngine) -> None:
    await engine.stock_up("N-0", "SKU-0", 2)
    day = on_day(engine, 3)
    await stated(engine, "N-0", "PO-1", 5, 3, expected_at=day)
    await stated(engine, "N-1", "PO-2", 4, 3, expected_at=day)
    await stated(engine, "N-1", "PO-3", 6, 9)
    await stated(engine, "N-2", "PO-4", 9, -1)
    assert await dated(engine) == (2, 0, 9, [(9, ["PO-1", "PO-2"], 11), (6, ["PO-3"], 17)])
    body = an_order_body("A-1", quantity=5, on_short="park")
    placed = await engine.client.post("/v1/allocations", json=body, headers=keyed("k-1"))
    assert placed.status_code == 201, placed.text
    now, waiting, _, steps = await dated(engine)
    assert now + 5 - waiting == 2
    assert [step[2] for step in steps] == [6, 12]
    assert (await dated(engine, node_id="N-1"))[0] == 0
    # it is late: what was promised for the third day now is for the ninth
    await stated(engine, "N-0", "PO-1", 5, -1)
    await stated(engine, "N-1", "PO-2", 4, -1)
    assert [step[2] for step in (await dated(engine))[3]] == [3]
    late = (await engine.client.get(INBOUND, params={"late": "true"})).json()["data"]
    assert sorted(row["inbound_id"] for row in late if row["is_late"]) == ["PO-1", "PO-2", "PO-4"]


async def test_a_receipt_serves_who_waits(engine: GatewayEngine) -> None:
    await stated(engine, "N-0", "PO-1", 5, 3)
    body = an_order_body("A-1", quantity=3, on_short="park")
    placed = (await engine.client.post("/v1/allocations", json=body, headers=keyed("k-1"))).json()
    assert placed["state"] == "parked"
    receipt = {"node_id": "N-0", "inbound_id": "PO-1", "quantity": 4}
    for _ in range(2):  # a repeat books nothing
        received = await engine.client.post(f"{INBOUND}/receive", json=receipt, headers=keyed("r-1"))
        assert received.status_code == 200, received.text

    async def served() -> bool:
        order = (await engine.client.get(f"/v1/allocations/{placed['allocation_id']}")).json()
        return bool(order["state"] == "allocated")

    await eventually(served)
    (row,) = (await engine.client.get(INBOUND)).json()["data"]
    assert row["quantity"] == 1
    gone = await engine.client.post(f"{INBOUND}/cancel", json={"node_id": "N-0", "inbound_id": "PO-1"})
    assert gone.json()["data"][0]["quantity"] == 0
    again = await engine.client.post(f"{INBOUND}/cancel", json={"node_id": "N-0", "inbound_id": "PO-1"})
    assert (again.status_code, again.json()["code"]) == (404, "not_found")


async def test_the_list_comes_in_pages_over_all_shards_and_through_the_client(engine: GatewayEngine) -> None:
    async with engine.served() as url, qm.AsyncClient(url, engine.admin) as client:
        for n in range(4):
            row = qm.InboundRow(
                inbound_id=f"PO-{n}", sku="SKU-1", quantity=n + 1, expected_at=datetime(2031, 1, 4 - n, tzinfo=UTC)
            )
            kept = await client.put_inbound(f"N-{n}", [row])
            assert kept[0].quantity == n + 1
        seen = [row.inbound_id async for row in client.iter_inbound(sku="SKU-1", page_size=1)]
        assert seen == ["PO-3", "PO-2", "PO-1", "PO-0"]
        (sku,) = await client.dated_availability("SKU-1")
        assert [step.available_to_promise for step in sku.steps] == [4, 7, 9, 10]
        stock = await client.receive_inbound("N-3", "PO-3")
        assert stock.positions[0].on_hand == 4
        await client.cancel_inbound("N-2", "PO-2")
        assert [row.inbound_id async for row in client.iter_inbound()] == ["PO-1", "PO-0"]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"sku": "nope"}, "/inbound/0/sku"),
        ({"quantity": 0}, "/inbound/0/quantity"),
        ({"expected_at": "soon"}, "/inbound/0/expected_at"),
        ({"colour": "red"}, "/inbound/0/colour"),
    ],
)
async def test_faults_name_their_field(tmp_path: Path, fields: dict[str, Any], pointer: str) -> None:
    engine = await GatewayEngine(tmp_path, shards=1).start()
    try:
        row = {"inbound_id": "P", "sku": "SKU-0", "quantity": 1, "expected_at": on_day(engine, 1), **fields}
        answer = await engine.client.put(INBOUND, json={"node_id": "N-0", "inbound": [row]})
        assert (answer.status_code // 100, answer.json()["errors"][0]["pointer"]) == (4, pointer), answer.text
        assert (await engine.client.get(INBOUND, params={"cursor": "bm8"})).json()["code"] == "invalid_cursor"
    finally:
        await engine.close()


async def test_dates_that_would_leave_something_out_are_refused(
    engine: GatewayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.inventory.inbound.STEPS_MAX", 2)
    for n in range(3):
        await stated(engine, "N-0", f"in-{n}", 5, days=n + 1)
        answer = await engine.client.get("/v1/availability/dated", params={"sku": "SKU-0"})
        assert answer.status_code == (200 if n < 2 else 422)
    assert answer.json()["errors"][0]["limit"] == 2
