"""Allocations through the whole gateway: decide, replay, read, cancel."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from engine.domain.ids import decode_number, order_no_time_ms
from engine.protocol.shard_core import ShardCore
from tests.conftest import eventually
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[GatewayEngine]:
    engine = await GatewayEngine(tmp_path).start()
    await engine.stock_up("N-0", "SKU-0", 10)
    yield engine
    await engine.close()


async def test_an_order_is_allocated_and_read_back(engine: GatewayEngine) -> None:
    answer = await engine.client.post("/v1/allocations", json=an_order_body(quantity=2), headers=keyed("k-1"))
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body["order_id"] == "A-1"
    assert body["state"] == "allocated"
    assert [(leg["node_id"], leg["lines"]) for leg in body["legs"]] == [
        ("N-0", [{"line_id": "1", "sku": "SKU-0", "quantity": 2}])
    ]
    assert body["score"] == sum(body[f"{part}_minor"] for part in ("cost", "service", "policy", "opportunity"))
    assert body["allocation_id"].startswith("alc_US100_")
    assert body["decision_id"] == body["allocation_id"].replace("alc_", "dec_") + "_0"
    assert body["promise"]["ship_by"].endswith("Z")
    assert body["ship_to"]["postal_code"] == an_order_body()["ship_to"]["postal_code"]
    assert [(line["sku"], line["quantity"], line["method"]) for line in body["lines"]] == [("SKU-0", 2, "ship")]
    opened = datetime.fromisoformat(body["opened_at"])
    assert opened.timestamp() * 1_000 == order_no_time_ms(decode_number(body["allocation_id"].split("_")[2]))
    assert answer.headers["location"] == f"/v1/allocations/{body['allocation_id']}"
    read = await engine.client.get(answer.headers["location"])
    assert read.status_code == 200
    assert read.headers["etag"] == answer.headers["etag"]
    assert {**read.json(), "token": ""} == {**body, "token": ""}
    (row,) = (await engine.client.get("/v1/legs", params={"node_id": "N-0"})).json()["data"]
    assert (row["ship_to"], row["channel"], row["method"], row["pickup_node_id"]) == (
        body["ship_to"],
        "web",
        "ship",
        None,
    )


async def test_a_repeat_gets_the_first_answer_in_either_format(engine: GatewayEngine) -> None:
    body = an_order_body(quantity=3)
    first = await engine.client.post("/v1/allocations", json=body, headers=keyed("k-1"))
    assert "idempotent-replayed" not in first.headers
    packed = msgspec.msgpack.encode({**body, "service": "standard"})  # a default spelled out is the same request
    again = await engine.client.post(
        "/v1/allocations",
        content=packed,
        headers=keyed("k-1", **{"content-type": "application/vnd.msgpack", "accept": "application/x-msgpack"}),
    )
    assert again.status_code == 201
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["content-type"] == "application/vnd.msgpack"
    shown = msgspec.msgpack.decode(again.content)
    assert shown["allocation_id"] == first.json()["allocation_id"]
    other = await engine.client.post("/v1/allocations", json=an_order_body(quantity=4), headers=keyed("k-1"))
    assert other.status_code == 422
    assert other.json()["code"] == "key_reused"


async def test_a_shortage_says_so_with_the_numbers(engine: GatewayEngine) -> None:
    answer = await engine.client.post("/v1/allocations", json=an_order_body(quantity=11), headers=keyed("k-1"))
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["code"] == "out_of_stock"
    assert body["type"] == "/problems/out_of_stock"
    assert body["request_id"] == answer.headers["x-request-id"]
    [error] = body["errors"]
    assert (error["pointer"], error["sku"], error["requested"], error["available_to_promise"]) == (
        "/lines/0",
        "SKU-0",
        11,
        10,
    )


async def test_cancel_gives_the_units_back(engine: GatewayEngine) -> None:
    first = await engine.client.post("/v1/allocations", json=an_order_body(quantity=10), headers=keyed("k-1"))
    path = first.headers["location"]
    part = await engine.client.post(
        f"{path}/cancel", json={"lines": [{"line_id": "1", "quantity": 4}]}, headers=keyed("k-2")
    )
    assert part.status_code == 200, part.text
    assert part.json()["legs"][0]["lines"][0]["quantity"] == 6
    rest = await engine.client.post(f"{path}/cancel", headers=keyed("k-3"))
    assert rest.json()["state"] == "cancelled"
    again = await engine.client.post("/v1/allocations", json=an_order_body("A-2", quantity=10), headers=keyed("k-4"))
    assert again.status_code == 201


async def test_a_reservation_is_no_allocation_to_cancel(engine: GatewayEngine) -> None:
    answer = await engine.client.post(
        "/v1/reservations", json={**an_order_body(quantity=2), "ttl_s": 60}, headers=keyed("k-1")
    )
    path = answer.headers["location"]
    for n, body in enumerate(({}, {"lines": [{"line_id": "1", "quantity": 1}]})):
        wrong = path.replace("reservations/res_", "allocations/alc_")
        refused = await engine.client.post(f"{wrong}/cancel", json=body, headers=keyed(f"k-2{n}"))
        assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    assert (await engine.client.get(path)).json()["state"] == "held"


async def test_an_order_on_hold_is_released_once_its_reasons_are_cleared(engine: GatewayEngine) -> None:
    body = {**an_order_body(), "hold_reasons": ["fraud", "address"]}
    first = await engine.client.post("/v1/allocations", json=body, headers=keyed("k-1"))
    path, leg = first.headers["location"], f"/v1/legs/{first.json()['legs'][0]['leg_id']}/release"
    refused = await engine.client.post(leg, headers=keyed("k-2"))
    assert (refused.status_code, refused.json()["code"]) == (409, "wrong_state")
    one = await engine.client.post(f"{path}/clear-holds", json={"reasons": ["fraud"]}, headers=keyed("k-3"))
    assert (one.status_code, one.json()["version"]) == (200, first.json()["version"] + 1)
    assert "on hold: address" in (await engine.client.post(leg, headers=keyed("k-4"))).text
    for _ in range(2):
        cleared = await engine.client.post(f"{path}/clear-holds", headers=keyed("k-5"))
        assert cleared.status_code == 200, cleared.text
    assert cleared.headers["idempotent-replayed"] == "true"
    assert (await engine.client.post(leg, headers=keyed("k-6"))).status_code == 200
    nothing = await engine.client.post("/v1/allocations/alc_US100_1/clear-holds", headers=keyed("k-7"))
    assert nothing.status_code == 404


async def test_fields_that_nothing_acts_upon_yet_are_refused_by_name(engine: GatewayEngine) -> None:
    rows = [{"sku": "SKU-0", "daily_cap_units": 5}]
    capped = await engine.client.put(
        "/v1/inventory/positions", json={"node_id": "N-0", "positions": rows}, headers=keyed("k-2")
    )
    assert (capped.status_code, capped.json()["errors"][0]["pointer"]) == (422, "/positions/0/daily_cap_units")


async def test_a_request_id_is_kept_when_it_is_sane(engine: GatewayEngine) -> None:
    kept = await engine.client.get("/livez", headers={"x-request-id": "trace-7:1"})
    assert kept.headers["x-request-id"] == "trace-7:1"
    replaced = await engine.client.get("/livez", headers={"x-request-id": "a b\tc"})
    assert replaced.headers["x-request-id"] != "a b\tc"


async def test_health_tells_what_is_reachable(engine: GatewayEngine) -> None:
    ready = await engine.client.get("/readyz")
    assert ready.status_code == 200, ready.text
    assert [(s["shard"], s["state"]) for s in ready.json()["shards"]] == [
        ("0", "serving"),
        ("1", "serving"),
        ("control", "serving"),
    ]


_SAMPLE = re.compile(r"^(quartermaster_[a-z0-9_]+?)(_total|_bucket|_count|_sum)?(?:\{([^}]*)\})? [-+0-9.einf]+$")
_UNITS = {
    *("seconds", "bytes", "ratio", "requests", "commands", "connections", "orders", "answers", "problems"),
    *("decisions", "holds", "entries", "positions", "parts", "legs", "claims", "transactions", "documents"),
    *("streams", "events", "gaps"),
}
"""What the last word of a measurement's name may be; those of the shards' own counts of events are words of their own."""


async def test_metrics_are_those_promised(engine: GatewayEngine) -> None:
    for shard in engine.stock:
        core = shard.core
        assert isinstance(core, ShardCore)
        await eventually(lambda core=core: core.shell_facts)  # type: ignore[misc]
        core.note_shell({**core.shell_facts, "redis_used_bytes": 250, "redis_limit_bytes": 1_000})
    text = (await engine.client.get("/metrics")).text
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("quartermaster_"):
            sample = _SAMPLE.match(line)
            assert sample is not None, line
            found[sample[1]] = sample[3] or ""
            assert "pid" not in sample[1]
    promised = {
        "quartermaster_gateway_queue_age_seconds",
        "quartermaster_shard_batch_size_mean_decisions",
        "quartermaster_shard_append_p99_seconds",
        "quartermaster_shard_view_lag_seconds",
        "quartermaster_shard_dedupe_window_seconds",
        "quartermaster_shard_dedupe_entries",
        "quartermaster_shard_open_holds",
        "quartermaster_shard_redis_headroom_ratio",
    }
    assert promised <= set(found)
    assert {found[name] for name in promised} <= {'shard="0"', 'shard="1"', 'shard="control"'}
    assert 'quartermaster_shard_redis_headroom_ratio{shard="0"} 0.75' in text
    again = (await engine.client.get("/metrics")).text
    assert 'quartermaster_gateway_requests_total{route="GET /metrics",status="200"} 1.0' in again
    own = {name for name in found if name.startswith("quartermaster_gateway_")}
    assert own
    assert {name.rpartition("_")[2] for name in own | promised} <= _UNITS


async def test_paths_and_methods_that_do_not_exist(engine: GatewayEngine) -> None:
    nowhere = await engine.client.get("/v1/nothing")
    assert (nowhere.status_code, nowhere.json()["code"]) == (404, "not_found")
    wrong = await engine.client.put("/v1/allocations", json={})
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "GET, HEAD, POST"
    mine = await engine.client.get("/v1/allocations/A-1001")
    assert (mine.status_code, mine.json()["code"]) == (404, "not_found")
    assert "begins with alc_" in mine.json()["detail"], "the caller's own id is no allocation id: it says where to look"
    assert "begins with res_" in (await engine.client.get("/v1/reservations/A-1001")).json()["detail"]


async def test_served_over_a_real_socket(engine: GatewayEngine) -> None:
    import httpx

    async with engine.served() as url, httpx.AsyncClient(base_url=url) as client:
        answer = await client.post(
            "/v1/allocations",
            json=an_order_body(),
            headers=keyed("k-1", authorization=f"Bearer {engine.admin}"),
        )
        assert answer.status_code == 201, answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"
