"""A configuration document that was put is in use when the answer comes: it can be ordered, stocked and named at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from engine.domain.replies import ConfigDoc
from tests.conftest import eventually
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed

LATE_S = 0.15


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[GatewayEngine]:
    engine = await GatewayEngine(tmp_path, shards=2).start()
    yield engine
    await engine.close()


def make_late(engine: GatewayEngine) -> None:
    """Every stock shard hears of changes later than the client hears its answer."""
    for shard in engine.stock:
        assert shard.cluster is not None
        configure = shard.cluster.on_config

        def later(docs: Iterable[ConfigDoc], version: int, apply: object = configure) -> None:
            asyncio.get_running_loop().call_later(LATE_S, apply, docs, version)

        shard.cluster.on_config = later


async def test_what_was_put_can_be_ordered_at_once(engine: GatewayEngine) -> None:
    make_late(engine)
    made = await engine.client.put("/v1/items/NEW", json={"sku": "NEW", "weight_g": 100})
    assert made.status_code == 201, made.text
    for n, postal_code in enumerate(("10001", "94105")):
        body = an_order_body(f"A-{n}", sku="NEW", ship_to={"country": "US", "postal_code": postal_code})
        answer = await engine.client.post("/v1/allocations", json=body, headers=keyed(f"k-{n}"))
        assert answer.json()["code"] == "out_of_stock", answer.text
    repeated = await engine.client.put("/v1/items/NEW", json={"sku": "NEW", "weight_g": 100})
    assert repeated.status_code == 200


async def test_a_repeat_of_a_put_waits_too(engine: GatewayEngine) -> None:
    """The client that lost its answer asks again before the shards have heard."""
    make_late(engine)
    item = {"sku": "NEW", "weight_g": 100}
    lost = asyncio.create_task(engine.client.put("/v1/items/NEW", json=item))

    async def stored() -> bool:
        return (await engine.client.get("/v1/items/NEW")).status_code == 200

    await eventually(stored, every_s=0.001)
    repeated = await engine.client.put("/v1/items/NEW", json=item)
    assert repeated.status_code == 200
    answer = await engine.client.post("/v1/allocations", json=an_order_body(sku="NEW"), headers=keyed("k-1"))
    assert answer.json()["code"] == "out_of_stock", answer.text
    assert (await lost).status_code == 201


async def test_an_import_is_done_when_its_items_can_be_ordered(engine: GatewayEngine) -> None:
    make_late(engine)
    rows = "".join(f'{{"sku": "I-{n}"}}\n' for n in range(1_200))
    started = await engine.client.post(
        "/v1/items/import", content=rows, headers={"content-type": "application/x-ndjson"}
    )

    async def done() -> bool:
        return bool((await engine.client.get(started.headers["location"])).json()["state"] == "done")

    await eventually(done, every_s=0.001)
    answer = await engine.client.post("/v1/allocations", json=an_order_body(sku="I-1199"), headers=keyed("k-1"))
    assert answer.json()["code"] == "out_of_stock", answer.text


async def test_a_shard_that_is_away_holds_a_put_up_for_a_moment_only(engine: GatewayEngine) -> None:
    gone = engine.stock.pop()
    del engine.directory.found[gone.shard]
    await gone.stop()
    started = time.monotonic()
    made = await engine.client.put("/v1/items/NEW", json={"sku": "NEW", "weight_g": 100})
    assert made.status_code == 201, made.text
    assert time.monotonic() - started < engine.settings.request_timeout_ms / 1_000, "as for one that is only slow"
