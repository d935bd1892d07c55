"""One order id in two slots, over real sockets: found in the index, cancelled by the shards, and shown by the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.actors.duplicates import Duplicates
from engine.archive.reader import IndexReader
from engine.client.cluster import Cluster
from tests.conftest import eventually
from tests.integration.gateway_engine import an_order_body, keyed
from tests.integration.test_gateway_history import Past


@pytest.fixture
async def past(tmp_path: Path) -> AsyncIterator[Past]:
    made = await Past(tmp_path).start()
    await made.engine.seen_by_all(*[await made.engine.stock_up(node, "SKU-0", 50) for node in ("N-2", "N-3")])
    yield made
    await made.close()


async def settled(past: Past) -> bool:
    """What the archiver does after it has written the index, with its own way to the shards."""
    past.fold()
    cluster, reader = Cluster(past.engine.directory.find, kinds=("placement",)), IndexReader(past.url)
    try:
        await cluster.start()
        assert await cluster.wait_configured(60.0)
        return await Duplicates(reader, cluster, now_ms=past.engine.settings.pace.now_ms).settle()
    finally:
        await cluster.close()
        reader.close()
        past.fold()


async def placed(past: Past, order_id: str, postal_code: str) -> dict[str, Any]:
    body = an_order_body(order_id, ship_to={"country": "US", "postal_code": postal_code})
    answer = await past.engine.client.post("/v1/allocations", json=body, headers=keyed(order_id + postal_code))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def test_the_later_order_is_cancelled_and_both_are_listed(past: Past) -> None:
    assert past.engine.cluster.shard_of_slot("US100") != past.engine.cluster.shard_of_slot("US900")
    first, later = await placed(past, "TWICE", "10001"), await placed(past, "TWICE", "90001")
    assert await settled(past)
    page = await past.get("/v1/exceptions")
    (shown,) = page["data"]
    assert (shown["kind"], shown["order_id"], shown["is_open"]) == ("duplicate_order", "TWICE", False)
    assert shown["first"] | {"opened_at": None} == {
        "allocation_id": first["allocation_id"],
        "reservation_id": None,
        "state": "allocated",
        "opened_at": None,
        "ended_at": None,
    }
    assert (shown["order"]["allocation_id"], shown["order"]["state"]) == (later["allocation_id"], "cancelled")
    assert shown["order"]["opened_at"] <= shown["order"]["ended_at"]
    assert {point["shard"] for point in page["as_of"]} == {"0", "1", "control"}
    live = [(await past.get(f"/v1/allocations/{one['allocation_id']}"))["state"] for one in (first, later)]
    assert live == ["allocated", "cancelled"]
    kept = sum(line["quantity"] for leg in first["legs"] for line in leg["lines"])

    async def given_back() -> bool:  # units at another shard come back a moment after the order has ended
        held = await past.get("/v1/availability", sku="SKU-0", consistency="strict")
        return sum(row["allocated"] for row in held["data"]) == kept

    await eventually(given_back, what="the units of the one that is cancelled")


async def test_what_was_released_is_left_for_a_person(past: Past) -> None:
    await placed(past, "BOTH", "10001")
    later = await placed(past, "BOTH", "90001")
    for leg in later["legs"]:
        done = await past.engine.client.post(f"/v1/legs/{leg['leg_id']}/release", headers=keyed("go" + leg["leg_id"]))
        assert done.status_code == 200, done.text
    assert await settled(past)
    (shown,) = (await past.get("/v1/exceptions", is_open=True))["data"]
    assert (shown["order"]["state"], shown["order"]["ended_at"]) == ("allocated", None)
    cancelled = await past.engine.client.post(
        f"/v1/allocations/{later['allocation_id']}/cancel", headers=keyed("by hand")
    )
    assert cancelled.status_code == 200, cancelled.text
    past.fold()
    assert (await past.get("/v1/exceptions", is_open=True))["data"] == []
    assert [row["order_id"] for row in (await past.get("/v1/exceptions", is_open=False))["data"]] == ["BOTH"]


async def test_pages_filters_and_channels(past: Past) -> None:
    for order_id in ("ONE", "TWO", "THREE"):
        for postal_code in ("10001", "90001"):
            await placed(past, order_id, postal_code)
    assert await settled(past)
    page = await past.get("/v1/exceptions", limit=2)
    rest = await past.get("/v1/exceptions", limit=2, cursor=page["next_cursor"])
    assert [row["order_id"] for row in page["data"] + rest["data"]] == ["THREE", "TWO", "ONE"]
    assert (page["has_more"], rest["has_more"], rest["next_cursor"]) == (True, False, None)
    oldest = await past.get("/v1/exceptions", sort="opened_at", kind="duplicate_order")
    assert [row["order_id"] for row in oldest["data"]] == ["ONE", "TWO", "THREE"]
    assert [row["order_id"] for row in (await past.get("/v1/exceptions", order_id="TWO"))["data"]] == ["TWO"]
    assert (await past.get("/v1/exceptions", opened_from="2100-01-01T00:00:00Z"))["data"] == []
    for query, code in (({"channel": "nope"}, "unknown_channel"), ({"cursor": "x"}, "invalid_cursor")):
        answer = await past.engine.client.get("/v1/exceptions", params=query)
        assert answer.json()["code"] == code, answer.text
    other = past.engine.client_for(await past.engine.token("allocate:read", channels=["shop"]))
    assert (await other.get("/v1/exceptions")).json()["data"] == []
