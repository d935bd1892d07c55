"""Bad input and too much of it: typed, quick, and nothing half done. Where bytes on a wire matter, over a real socket."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import time
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from engine.domain.commands import GetStatus
from engine.domain.replies import StatusReply
from gateway.health.status import ShardStatuses
from gateway.limits import Buckets
from tests.conftest import eventually
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed

ANSWER_S = 5.0
"""Far above the 50 ms promised (which `python -m loadtests.acceptance input` measures): on any machine, nothing is worked through."""


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[GatewayEngine]:
    engine = await GatewayEngine(tmp_path, shards=1).start()
    await engine.stock_up("N-0", "SKU-0", 10)
    yield engine
    await engine.close()


async def seq_of(engine: GatewayEngine) -> int:
    reply = await engine.cluster.ask(0, GetStatus())
    assert isinstance(reply, StatusReply)
    return int(reply.facts["seq"])


def line(**fields: Any) -> dict[str, Any]:
    return {"line_id": "1", "sku": "SKU-0", "quantity": 1, **fields}


BAD_ORDERS: list[tuple[str, dict[str, Any], int, str, str]] = [
    ("quantity 0", {"lines": [line(quantity=0)]}, 422, "invalid_field", "/lines/0/quantity"),
    ("quantity -1", {"lines": [line(quantity=-1)]}, 422, "invalid_field", "/lines/0/quantity"),
    ("quantity 2^63", {"lines": [line(quantity=2**63)]}, 422, "invalid_field", "/lines/0/quantity"),
    ("quantity 2^70", {"lines": [line(quantity=2**70)]}, 422, "invalid_field", "/lines/0/quantity"),
    ("price 2^63", {"lines": [line(unit_price_minor=2**63)]}, 422, "invalid_field", "/lines/0/unit_price_minor"),
    ("too dear", {"lines": [line(quantity=10**9, unit_price_minor=10**9)]}, 422, "invalid_field", "/lines"),
    ("unknown SKU", {"lines": [line(), line(line_id="2", sku="NO")]}, 422, "unknown_sku", "/lines/1/sku"),
    ("NUL in a SKU", {"lines": [line(), line(line_id="2", sku="a\0b")]}, 422, "invalid_field", "/lines/1/sku"),
    ("confusable SKU", {"lines": [line(sku="ЅKU-0")]}, 422, "invalid_field", "/lines/0/sku"),
    ("no lines", {"lines": []}, 422, "invalid_field", "/lines"),
    ("a line twice", {"lines": [line(), line()]}, 422, "invalid_field", "/lines/1/line_id"),
    ("unknown country", {"ship_to": {"country": "XX", "postal_code": "1"}}, 422, "invalid_field", "/ship_to/country"),
    ("bad country", {"ship_to": {"country": "usa", "postal_code": "1"}}, 422, "invalid_field", "/ship_to/country"),
    ("short ZIP", {"ship_to": {"country": "US", "postal_code": "1000"}}, 422, "invalid_field", "/ship_to/postal_code"),
    ("half a place", {"ship_to": {"country": "US", "postal_code": "1", "lat": 1}}, 422, "invalid_field", "/ship_to"),
    ("pickup nowhere", {"lines": [line(method="pickup")]}, 422, "invalid_field", "/lines/0/pickup_node_id"),
    ("unknown channel", {"channel": "NO"}, 422, "unknown_channel", "/channel"),
    ("unknown service", {"service": "teleport"}, 422, "unknown_service", "/service"),
    ("currency", {"currency": "EUR"}, 422, "currency_mismatch", "/currency"),
    ("unknown field", {"colour": "red"}, 422, "invalid_field", "/colour"),
    ("no time zone", {"placed_at": "2026-12-01T18:00:00"}, 422, "invalid_field", "/placed_at"),
    ("the year 1", {"placed_at": "0001-01-01T00:00:00Z"}, 422, "invalid_field", "/placed_at"),
    ("1001 lines", {"lines": [line(line_id=str(n)) for n in range(1_001)]}, 422, "too_many_lines", "/lines"),
    ("100k lines", {"lines": [line(line_id=str(n)) for n in range(100_000)]}, 422, "too_many_lines", "/lines"),
]


@pytest.mark.parametrize("packed", [False, True], ids=["json", "msgpack"])
async def test_bad_orders_are_typed_and_change_nothing(engine: GatewayEngine, packed: bool) -> None:
    before = await seq_of(engine)
    for name, fields, status, code, pointer in BAD_ORDERS:
        body = an_order_body(**fields)
        if packed and name == "quantity 2^70":
            continue  # MessagePack has no such integer
        content = msgspec.msgpack.encode(body) if packed else json.dumps(body).encode()
        kind = "application/vnd.msgpack" if packed else "application/json"
        started = time.monotonic()
        answer = await engine.client.post(
            "/v1/allocations", content=content, headers=keyed(f"k-{name}", **{"content-type": kind})
        )
        assert time.monotonic() - started < ANSWER_S, name
        assert answer.status_code == status, (name, answer.text)
        problem = answer.json()
        assert (problem["code"], problem["errors"][0]["pointer"]) == (code, pointer), (name, problem)
    assert await seq_of(engine) == before


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("application/json", b""),
        ("application/json", b"{"),
        ("application/json", json.dumps(an_order_body()).encode() + b"x"),
        ("application/json", b'{"order_id": "\xff"}'),
        ("application/json", b'{"order_id": NaN}'),
        ("application/json", b'{"order_id": "\\ud800"}'),
        ("application/json", b"\xef\xbb\xbf{}"),
        ("application/vnd.msgpack", b"\xc1"),
        ("application/vnd.msgpack", b"\x81"),
        ("application/vnd.msgpack", b"\x81\xa5lines\xdd\xff\xff\xff\xff"),
        ("application/vnd.msgpack", b"\x81\xa8order_id\xdb\xff\xff\xff\xffx"),
    ],
)
async def test_bodies_that_are_no_bodies(engine: GatewayEngine, kind: str, content: bytes) -> None:
    for path in ("/v1/allocations", "/v1/allocations/batch", "/v1/reservations", "/v1/inventory/counts"):
        answer = await engine.client.post(path, content=content, headers=keyed("k-1", **{"content-type": kind}))
        assert (answer.status_code, answer.json()["code"]) in ((400, "malformed_body"), (422, "invalid_field")), path
    answer = await engine.client.post(
        "/v1/allocations", content=content, headers=keyed("k-1", **{"content-type": kind})
    )
    assert answer.status_code == 400 or content == b'{"order_id": "\\ud800"}', answer.text


async def test_deep_nesting_is_refused(engine: GatewayEngine) -> None:
    for content in (b"[" * 1_000_000, b'{"orders":' * 100_000, b'{"orders":[{"lines":' + b"[" * 1_000_000):
        started = time.monotonic()
        for path in ("/v1/allocations", "/v1/allocations/batch"):
            answer = await engine.client.post(
                path, content=content, headers=keyed("k-1", **{"content-type": "application/json"})
            )
            assert answer.status_code in (400, 422)
        assert time.monotonic() - started < ANSWER_S


async def test_media_types(engine: GatewayEngine) -> None:
    body = json.dumps(an_order_body()).encode()
    text = await engine.client.post(
        "/v1/allocations", content=body, headers=keyed("k-1", **{"content-type": "text/plain"})
    )
    assert (text.status_code, text.json()["code"]) == (415, "unsupported_media_type")
    none = await engine.client.post("/v1/allocations", content=body, headers=keyed("k-1"))
    assert none.status_code == 415
    html = await engine.client.post("/v1/allocations", json=an_order_body(), headers=keyed("k-1", accept="text/html"))
    assert (html.status_code, html.json()["code"]) == (406, "not_acceptable")
    packed = await engine.client.get("/v1/items/none", headers={"accept": "application/msgpack"})
    assert msgspec.msgpack.decode(packed.content)["code"] == "not_found"
    assert (await engine.client.get("/metrics", headers={"accept": "application/json"})).status_code == 406


async def test_an_idempotency_key_is_needed(engine: GatewayEngine) -> None:
    for path in (
        "/v1/allocations",
        "/v1/reservations",
        "/v1/inventory/adjustments",
        "/v1/inventory/counts",
        "/v1/reservations/res_US100_0000000000001/commit",
        "/v1/legs/leg_US100_0000000000001_1/ship",
    ):
        answer = await engine.client.post(path, json={})
        assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_required"), path
    long = await engine.client.post("/v1/allocations", json=an_order_body(), headers=keyed("x" * 256))
    assert (long.status_code, long.json()["code"]) == (422, "invalid_field")


_FLOODS = {
    "lines": (
        "/v1/allocations",
        b'{"order_id":"A","channel":"web","lines":[%s]}',
        b'{"line_id":"1","sku":"a","quantity":1}',
        "too_many_lines",
    ),
    "no lines": ("/v1/allocations", b'{"order_id":"A","channel":"web","lines":[%s]}', b"{}", "body_too_large"),
    "tags": ("/v1/allocations", b'{"order_id":"A","channel":"web","tags":[%s]}', b'"a"', "body_too_large"),
    "hold": ("/v1/reservations", b'{"order_id":"A","channel":"web","lines":[%s]}', b"{}", "body_too_large"),
    "orders": ("/v1/allocations/batch", b'{"orders":[%s]}', b"{}", "body_too_large"),
    "no orders": ("/v1/allocations/batch", b'{"orders":[%s]}', b"0", "body_too_large"),
    "moves": (
        "/v1/inventory/adjustments",
        b'{"node_id":"N-0","moves":[%s]}',
        b'{"sku":"a","kind":"lost","quantity":1}',
        "body_too_large",
    ),
    "rows": ("/v1/inventory/counts", b'{"node_id":"N-0","rows":[%s]}', b'{"sku":"a","quantity":1}', "body_too_large"),
    "commit": (
        "/v1/reservations/res_US100_0000000000001/commit",
        b'{"lines":[%s]}',
        b'{"line_id":"a","quantity":1}',
        "body_too_large",
    ),
}


@pytest.mark.parametrize("name", _FLOODS)
async def test_a_flood_of_values_is_refused_before_any_is_built(engine: GatewayEngine, name: str) -> None:
    """Eight megabytes of the smallest values that the schema knows."""
    path, frame, value, code = _FLOODS[name]
    body = frame % b",".join([value] * (8_000_000 // (len(value) + 1)))
    tracemalloc.start()
    try:
        started = time.monotonic()
        answer = await engine.client.post(
            path, content=body, headers=keyed("k-1", **{"content-type": "application/json"})
        )
        took_s = time.monotonic() - started
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.json()["code"] == code, answer.text
    assert took_s < ANSWER_S
    assert peak < 24 * 1024 * 1024, "the body itself, and not much more"


def rss_bytes() -> int:
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


async def raw(url: str, head: str, *parts: bytes, until_closed: bool = False) -> bytes:
    """Send bytes as they are; the answer's bytes (until the server closes, or for as long as it sends)."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    received = bytearray()

    async def read() -> None:
        while data := await reader.read(65_536):
            received.extend(data)

    reading = asyncio.create_task(read())
    try:
        writer.write(head.replace("\n", "\r\n").encode())
        for part in parts:
            writer.write(part)
            await writer.drain()
    except ConnectionError:
        pass  # the server has said all it wants to say
    if until_closed:
        await asyncio.wait_for(reading, 60.0)
    else:
        await eventually(lambda: b"\r\n\r\n" in received)
        reading.cancel()
    writer.close()
    return bytes(received)


async def test_a_huge_body_is_refused_without_reading_it(engine: GatewayEngine) -> None:
    head = f"""POST /v1/allocations HTTP/1.1
host: x
authorization: Bearer {engine.admin}
content-type: application/json
idempotency-key: k-1
"""
    block = b"x" * 65_536
    async with engine.served() as url:
        before = rss_bytes()
        started = time.monotonic()
        announced = head + f"content-length: {64 * 1024 * 1024}\n\n"
        assert (await raw(url, announced)).startswith(b"HTTP/1.1 413")
        assert time.monotonic() - started < ANSWER_S
        sized = await raw(url, announced, until_closed=True)
        assert sized.startswith(b"HTTP/1.1 413")
        assert b'"body_too_large"' in sized
        assert b"connection: close" in sized
        chunk = b"10000\r\n" + block + b"\r\n"
        chunked = await raw(url, head + "transfer-encoding: chunked\n\n", *[chunk] * 1_024, until_closed=True)
        assert chunked.startswith(b"HTTP/1.1 413"), chunked[:200]
        lying = await raw(url, head + "content-length: 99999999999999999999\n\n", until_closed=True)
        assert lying.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))
        assert rss_bytes() - before < 32 * 1024 * 1024


async def test_nobody_makes_us_read_a_large_body(engine: GatewayEngine) -> None:
    """401 comes before the body, and the connection is closed rather than drained."""
    head = "POST /v1/allocations HTTP/1.1\nhost: x\ncontent-type: application/json\ncontent-length: 67108864\n\n"
    async with engine.served() as url:
        answer = await raw(url, head, b"x" * 1_000, until_closed=True)
        assert answer.startswith(b"HTTP/1.1 401")


async def test_a_body_in_many_chunks_is_taken(engine: GatewayEngine) -> None:
    body = json.dumps(an_order_body()).encode()

    async def drip() -> AsyncIterator[bytes]:
        for n in range(0, len(body), 7):
            yield body[n : n + 7]

    async with engine.served() as url, httpx.AsyncClient(base_url=url) as client:
        answer = await client.post(
            "/v1/allocations",
            content=drip(),
            headers=keyed("k-1", authorization=f"Bearer {engine.admin}", **{"content-type": "application/json"}),
        )
        assert answer.status_code == 201, answer.text


async def test_a_body_that_never_comes_ends(tmp_path: Path) -> None:
    engine = await GatewayEngine(tmp_path, shards=1, request_timeout_ms=300).start()
    head = f"""POST /v1/allocations HTTP/1.1
host: x
authorization: Bearer {engine.admin}
content-type: application/json
content-length: 100
idempotency-key: k-1

"""
    try:
        async with engine.served() as url:
            answer = await raw(url, head, b"{", until_closed=True)
            assert answer.startswith(b"HTTP/1.1 400"), answer
            assert b"did not arrive in time" in answer
        assert engine.door.gateway.in_flight.now == 0
    finally:
        await engine.close()


async def test_a_client_that_goes_away_leaves_nothing_behind(engine: GatewayEngine) -> None:
    async with engine.served() as url:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST /v1/allocations HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {engine.admin}\r\ncontent-type: "
            "application/json\r\ncontent-length: 100\r\nidempotency-key: k-1\r\n\r\n{".encode()
        )
        await writer.drain()
        writer.close()
        await eventually(lambda: engine.door.gateway.in_flight.now == 0)


async def test_too_many_at_once_are_shed_with_retry_after(tmp_path: Path) -> None:
    engine = await GatewayEngine(tmp_path, shards=1, in_flight_max=1).start()
    try:
        engine.door.gateway.in_flight.now = 1
        answer = await engine.client.post("/v1/allocations", json=an_order_body(), headers=keyed("k-1"))
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        finishing = await engine.client.delete("/v1/reservations/res_US100_0000000000001")
        assert finishing.status_code == 404
        assert (await engine.client.get("/livez")).status_code == 200
    finally:
        engine.door.gateway.in_flight.now = 0
        await engine.close()


async def test_a_key_has_its_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = Buckets.take
    monkeypatch.setattr(
        Buckets, "take", lambda self, key_id, now_s: take(self, key_id, now_s=7.0)
    )  # all at one instant
    engine = await GatewayEngine(tmp_path, shards=1, rate_per_key_per_s=2).start()
    try:
        answers = [await engine.client.get("/v1/items") for _ in range(3)]
        assert [a.status_code for a in answers] == [200, 200, 429]
        assert answers[0].headers["ratelimit-policy"] == '"key";q=2;w=1'
        assert answers[0].headers["ratelimit"].startswith('"key";r=1')
        assert answers[2].json()["code"] == "rate_limited"
        assert int(answers[2].headers["retry-after"]) >= 1
    finally:
        await engine.close()


async def test_an_unreachable_shard_is_an_unknown_outcome(tmp_path: Path) -> None:
    engine = await GatewayEngine(tmp_path, shards=1, request_timeout_ms=300).start()
    try:
        del engine.directory.found[0]
        await engine.stock[0].stop()
        answer = await engine.client.post("/v1/allocations", json=an_order_body(), headers=keyed("k-1"))
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert "retry-after" in answer.headers
        ready = await engine.client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "not_ready")
        assert "shard 0" in ready.json()["reason"]
        assert 'quartermaster_shard_up{shard="0"} 0.0' in (await engine.client.get("/metrics")).text
    finally:
        engine.stock.clear()
        await engine.close()


async def test_a_frozen_shard_is_shown_with_why(engine: GatewayEngine) -> None:
    runner = engine.stock[0].runner
    assert runner is not None
    assert (await engine.client.get("/readyz")).json()["shards"][0]["why"] is None
    runner.freeze("the journal does not verify: entry 7 follows entry 5")
    engine.door.gateway.statuses = ShardStatuses(engine.cluster)  # no answer of a moment ago
    ready = await engine.client.get("/readyz")
    assert (ready.status_code, ready.json()["reason"]) == (503, "shard 0: frozen")
    shard = next(shard for shard in ready.json()["shards"] if shard["shard"] == "0")
    assert shard["state"] == "frozen"
    assert "entry 7 follows entry 5" in shard["why"]
    placed = await engine.client.post("/v1/allocations", json=an_order_body(), headers=keyed("k-1"))
    assert (placed.status_code, placed.json()["code"]) == (503, "frozen")
    assert int(placed.headers["retry-after"]) >= 1


async def test_stopping_is_unready_first(engine: GatewayEngine) -> None:
    engine.door.gateway.draining = True
    ready = await engine.client.get("/readyz")
    assert (ready.status_code, ready.json()["reason"]) == (503, "stopping")
    placed = await engine.client.post("/v1/allocations", json=an_order_body(), headers=keyed("k-1"))
    assert placed.status_code == 201


async def test_a_batch_answers_each_order_in_its_place(engine: GatewayEngine) -> None:
    orders: list[dict[str, Any]] = [an_order_body(f"A-{n}", idempotency_key=f"k-{n}") for n in range(250)]
    orders[3]["lines"][0]["quantity"] = 0
    orders[7]["lines"][0]["sku"] = "NO"
    orders[9]["idempotency_key"] = "x\n"
    del orders[11]["order_id"]
    answer = await engine.client.post("/v1/allocations/batch", json={"orders": orders})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert len(results) == 250
    assert results[3]["problem"]["errors"][0]["pointer"] == "/lines/0/quantity"
    assert results[7]["problem"]["code"] == "unknown_sku"
    assert results[9]["problem"]["errors"][0]["pointer"] == "/idempotency_key"
    assert results[11]["problem"]["errors"][0]["pointer"] == "/order_id"
    placed = [n for n, result in enumerate(results) if result["status"] == 201]
    assert placed == [0, 1, 2, 4, 5, 6, 8, 10, 12, 13]
    assert [results[n]["body"]["order_id"] for n in placed] == [f"A-{n}" for n in placed]
    assert results[200]["problem"]["code"] == "out_of_stock"
    again = await engine.client.post("/v1/allocations/batch", json={"orders": orders[:1]})
    assert again.json()["results"][0]["replayed"] is True
    reused = await engine.client.post(
        "/v1/allocations/batch", json={"orders": [an_order_body("A-other", idempotency_key="k-0")]}
    )
    [result] = reused.json()["results"]
    assert (result["status"], result["problem"]["code"]) == (422, "key_reused")
    assert result["problem"]["errors"][0]["pointer"] == "/idempotency_key"
    many = await engine.client.post("/v1/allocations/batch", json={"orders": orders * 5})
    assert (many.status_code, many.json()["errors"][0]["pointer"]) == (422, "/orders")


@pytest.mark.parametrize("packed", [False, True], ids=["json", "msgpack"])
@pytest.mark.parametrize("spoiled", [False, True], ids=["all good", "one bad"])
async def test_a_batch_has_so_many_lines_in_all(engine: GatewayEngine, packed: bool, spoiled: bool) -> None:
    before = await seq_of(engine)
    lines = [line(line_id=str(n)) for n in range(900)]
    orders = [an_order_body(f"A-{n}", idempotency_key=f"k-{n}", lines=lines) for n in range(24)]
    if spoiled:
        orders[0]["colour"] = "red"
    content = msgspec.msgpack.encode({"orders": orders}) if packed else json.dumps({"orders": orders}).encode()
    kind = "application/vnd.msgpack" if packed else "application/json"
    answer = await engine.client.post("/v1/allocations/batch", content=content, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["code"]) == (422, "too_many_lines"), answer.text[:500]
    assert answer.json()["errors"][0]["pointer"] == "/orders"
    assert await seq_of(engine) == before


async def test_five_hundred_race_for_one_unit(engine: GatewayEngine) -> None:
    await engine.stock_up("N-1", "SKU-1", 1)
    answers = await asyncio.gather(
        *[
            engine.client.post("/v1/allocations", json=an_order_body(f"A-{n}", sku="SKU-1"), headers=keyed(f"k-{n}"))
            for n in range(500)
        ]
    )
    assert sorted(a.status_code for a in answers) == [201] + [409] * 499
    loser = next(a for a in answers if a.status_code == 409).json()
    assert (loser["errors"][0]["requested"], loser["errors"][0]["available_to_promise"]) == (1, 0)


async def test_one_key_at_once_from_many_is_done_once(engine: GatewayEngine) -> None:
    answers = await asyncio.gather(
        *[engine.client.post("/v1/allocations", json=an_order_body(), headers=keyed("k-1")) for _ in range(50)]
    )
    assert {a.status_code for a in answers} == {201}
    assert len({a.json()["allocation_id"] for a in answers}) == 1
    assert sum("idempotent-replayed" not in a.headers for a in answers) == 1


async def test_pages_of_problems(engine: GatewayEngine) -> None:
    page = await engine.client_for("").get("/problems/out_of_stock")
    assert page.json()["status"] == 409
    assert (await engine.client.get("/problems/none")).status_code == 404
