"""What a node has still to do, over HTTP: waves release it, deadlines show, a drain is watched to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quartermaster_client import AsyncClient
from tests.builders import a_node
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[GatewayEngine]:
    engine = await GatewayEngine(tmp_path, shards=2).start()
    await engine.stock_up("N-0", "SKU-0", 10)
    yield engine
    await engine.close()


async def test_a_drain_is_watched_to_its_end(engine: GatewayEngine) -> None:
    node = a_node("N-0", postal_code="01001", lat=40.0, lon=-74.0)
    node.acceptance_deadline_s = 3_600
    await engine.put(node)
    order = (await engine.client.post("/v1/allocations", json=an_order_body(quantity=2), headers=keyed("k-1"))).json()
    [leg] = order["legs"]
    node.state = "drain"
    await engine.put(node)
    async with engine.served() as url, AsyncClient(url, engine.admin) as client:
        before = await client.node_summary("N-0")
        assert (before.node_state, before.units_allocated, before.legs) == ("drain", 2, {"allocated": 1})
        assert (before.legs_to_ship, before.finished) == (1, False)
        released = await client.release_leg(leg["leg_id"])
        assert released.leg.state == "released"
        [shown] = (await client.get_allocation(order["allocation_id"])).legs
        assert shown.accept_by is not None and not shown.overdue
        await client.ship_leg(leg["leg_id"])
        after = await client.node_summary("N-0")
        assert (after.units_allocated, after.legs, after.finished) == (0, {"shipped": 1}, True)


async def test_what_cannot_be_counted_is_refused_by_field(engine: GatewayEngine) -> None:
    unknown = await engine.client.get("/v1/legs/summary?node_id=NOWHERE")
    assert (unknown.status_code, unknown.json()["errors"][0]["pointer"]) == (422, "/node_id")
    assert (await engine.client.get("/v1/legs/summary")).status_code == 422
    limited = engine.client_for(await engine.token("legs:read", channels=["web"]))
    assert (await limited.get("/v1/legs/summary?node_id=N-0")).status_code == 403
    await limited.aclose()
