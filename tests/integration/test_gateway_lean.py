"""The lean way in over raw sockets: pipelining, back-pressure, limits, keep-alive, time-outs (N1 to N8 of gateway/lean.py)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.protocol import shard_core
from gateway.lean import BODY_MAX, LeanCycle
from gateway.limits import TURNED_AWAY_MAX
from tests.conftest import eventually
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[GatewayEngine]:
    engine = await GatewayEngine(tmp_path, request_timeout_ms=30_000).start()
    await engine.stock_up("N-0", "SKU-0", 10_000)
    yield engine
    await engine.close()


PATIENCE_S = 60.0


class Wire:
    """One connection, speaking bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body."""
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)).decode()
        status_line, *lines = head.strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(status_line.split(" ")[1]), headers, body

    async def closed(self) -> bool:
        return await asyncio.wait_for(self.reader.read(), PATIENCE_S) == b""


@asynccontextmanager
async def wire(url: str) -> AsyncIterator[Wire]:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


def request(
    engine: GatewayEngine,
    order_id: str,
    *,
    version: str = "1.1",
    pad: int = 0,
    method: str = "POST",
    path: str = "/v1/allocations",
    **headers: str,
) -> bytes:
    body = json.dumps(an_order_body(order_id)).encode() + b" " * pad
    if method != "POST":
        body = b""
    lines = {
        "host": "x",
        "authorization": f"Bearer {engine.admin}",
        "content-type": "application/json",
        "idempotency-key": f"k-{order_id}",
        "content-length": str(len(body)),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/{version}\r\n{head}\r\n".encode() + body


def protocols(engine: GatewayEngine) -> list[Any]:
    return list(engine.uvicorn.server_state.connections)


async def test_both_ways_in_give_the_same_answer(engine: GatewayEngine) -> None:
    async with engine.served() as url, wire(url) as lean:
        lean.writer.write(request(engine, "A-1", x_request_id="r-1"))
        status, headers, body = await lean.answer()
        [protocol] = protocols(engine)
        assert isinstance(protocol.cycle, LeanCycle), "this request was meant to go the lean way"
        lean.writer.write(request(engine, "A-1", x_request_id="r-1", pad=BODY_MAX))
        again = await lean.answer()
        assert not isinstance(protocol.cycle, LeanCycle), "this one is too large for it"
    assert status == 201
    assert again[0] == 201
    assert again[1].pop("idempotent-replayed") == "true"
    for name in ("date",):
        headers.pop(name), again[1].pop(name)
    assert again[1] == headers
    assert {**json.loads(again[2]), "token": ""} == {**json.loads(body), "token": ""}


async def test_pipelined_requests_are_answered_in_order(engine: GatewayEngine) -> None:
    """N2: lean and ordinary ones mixed, sent in one go."""
    async with engine.served() as url, wire(url) as one:
        kinds = []
        sent = b""
        for n in range(30):
            if n % 3 == 1:
                sent += request(engine, "x", method="GET", path="/version", x_request_id=f"r-{n}")
                kinds.append(200)
            else:
                sent += request(engine, f"A-{n}", x_request_id=f"r-{n}")
                kinds.append(201)
        one.writer.write(sent)
        for n, kind in enumerate(kinds):
            status, headers, _ = await one.answer()
            assert (status, headers["x-request-id"]) == (kind, f"r-{n}")
        one.writer.write(request(engine, "A-last"))
        assert (await one.answer())[0] == 201


async def test_a_client_that_does_not_read_is_not_served_on(engine: GatewayEngine) -> None:
    """Answers wait in bounded buffers: the gateway stops taking requests from who takes no answers."""
    count = 3_000
    async with engine.served() as url:
        host, port = url.removeprefix("http://").split(":")
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1_024)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        for n in range(count):
            writer.write(request(engine, "A-1", x_request_id=f"r-{n}"))
        await eventually(lambda: bool(protocols(engine)))
        [protocol] = protocols(engine)
        served = engine.door.gateway.metrics.requests

        async def stands_still() -> bool:
            before = sum(served.values())
            await asyncio.sleep(0.2)
            return sum(served.values()) == before > 0

        await eventually(stands_still)
        assert sum(served.values()) < count
        assert protocol.transport.get_write_buffer_size() < 512 * 1024
        assert len(protocol.pipeline) < 2_000
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        one = Wire(reader, writer)
        for n in range(count):
            status, headers, _ = await one.answer()
            assert (status, headers["x-request-id"]) == (201, f"r-{n}")
        writer.close()


async def test_bytes_that_come_one_by_one(engine: GatewayEngine) -> None:
    async with engine.served() as url, wire(url) as one:
        for byte in request(engine, "A-1"):
            one.writer.write(bytes((byte,)))
            await one.writer.drain()
        assert (await one.answer())[0] == 201


async def test_an_unfinished_request_ends(engine: GatewayEngine) -> None:
    """N3: in its headers, or in its body."""
    engine.door.gateway.settings.__dict__["request_timeout_ms"] = 300
    whole = request(engine, "A-1")
    async with engine.served() as url:
        for cut in (20, len(whole) - 3):
            async with wire(url) as one:
                one.writer.write(whole[:cut])
                status, headers, body = await one.answer()
                assert (status, headers["connection"]) == (400, "close")
                assert json.loads(body)["code"] == "malformed_body"
                assert await one.closed()


async def test_idle_connections_are_closed_and_busy_ones_are_not(engine: GatewayEngine) -> None:
    """N4."""
    async with engine.served(timeout_keep_alive=4) as url, wire(url) as one:
        for n in range(10):
            one.writer.write(request(engine, f"A-{n}"))
            assert (await one.answer())[0] == 201
            await asyncio.sleep(0.5)
        assert await one.closed()


async def test_close_is_honoured_and_http_1_0_is_served(engine: GatewayEngine) -> None:
    async with engine.served() as url:
        async with wire(url) as one:
            one.writer.write(request(engine, "A-1", connection="close"))
            status, headers, _ = await one.answer()
            assert (status, headers["connection"]) == (201, "close")
            assert await one.closed()
        async with wire(url) as one:
            one.writer.write(request(engine, "A-2", version="1.0"))
            assert (await one.answer())[0] == 201
            assert await one.closed()


async def test_expect_continue_and_chunks(engine: GatewayEngine) -> None:
    whole = request(engine, "A-1", expect="100-continue")
    head, _, body = whole.partition(b"\r\n\r\n")
    async with engine.served() as url, wire(url) as one:
        one.writer.write(head + b"\r\n\r\n")
        assert (await one.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        one.writer.write(body)
        assert (await one.answer())[0] == 201
        whole = request(engine, "A-2", transfer_encoding="chunked").replace(
            f"content-length: {len(body)}\r\n".encode(), b""
        )
        head, _, body = whole.partition(b"\r\n\r\n")
        one.writer.write(head + b"\r\n\r\n" + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
        assert (await one.answer())[0] == 201


async def test_an_unfinished_request_waits_for_the_answer_before_it(
    engine: GatewayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N3: the first answer on the wire is that of the request in progress."""
    engine.door.gateway.settings.__dict__["request_timeout_ms"] = 300
    monkeypatch.setattr(shard_core, "AFTER_WAIT_MS", 1_000)
    async with engine.served() as url, wire(url) as one:
        one.writer.write(request(engine, "A-1", x_qm_after="1:9999999999:1") + b"GET /livez HTTP/1.1\r\nhost")
        status, _, body = await one.answer()
        assert (status, json.loads(body)["code"]) == (503, "view_behind")
        status, _, body = await one.answer()
        assert (status, json.loads(body)["code"]) == (400, "malformed_body")
        assert await one.closed()


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00\x01\x00", b"POST /v1/allocations HTTP/x\r\n\r\n", b"G\x00T / HTTP/1.1\r\n\r\n"]
)
async def test_bytes_that_are_no_http(engine: GatewayEngine, garbage: bytes) -> None:
    async with engine.served() as url, wire(url) as one:
        one.writer.write(garbage)
        status, headers, body = await one.answer()
        assert (status, headers["content-type"]) == (400, "application/problem+json")
        assert json.loads(body)["code"] == "malformed_body"
        assert await one.closed()


@pytest.mark.parametrize(
    "lines",
    [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: -1\r\n",
        "content-length: 1e3\r\n",
        "transfer-encoding: identity, chunked\r\ntransfer-encoding: identity\r\n",
    ],
)
async def test_ambiguous_lengths_are_refused(engine: GatewayEngine, lines: str) -> None:
    """No request can hide in another's body."""
    head = f"POST /v1/allocations HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {engine.admin}\r\n{lines}\r\n"
    hidden = request(engine, "A-hidden")
    async with engine.served() as url, wire(url) as one:
        one.writer.write(head.encode() + b"0\r\n\r\n" + hidden)
        data = await asyncio.wait_for(one.reader.read(), PATIENCE_S)
    assert b"HTTP/1.1 201" not in data
    assert data.startswith(b"HTTP/1.1 4")


async def test_a_client_that_leaves_is_counted_out(engine: GatewayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """N5: the order goes on, the count comes back."""
    monkeypatch.setattr(shard_core, "AFTER_WAIT_MS", 3_000)
    async with engine.served() as url:
        async with wire(url) as one:
            one.writer.write(request(engine, "A-1", x_qm_after="1:9999999999:1"))
            await eventually(lambda: engine.door.gateway.in_flight.now == 1)
        await eventually(lambda: engine.door.gateway.in_flight.now == 0)
        await eventually(lambda: not protocols(engine))


async def test_stopping_finishes_what_is_in_flight(engine: GatewayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_core, "AFTER_WAIT_MS", 3_000)
    async with engine.served() as url, wire(url) as one, wire(url) as idle:
        one.writer.write(request(engine, "A-1", x_qm_after="1:9999999999:1"))
        await eventually(lambda: engine.door.gateway.in_flight.now == 1)
        engine.uvicorn.should_exit = True
        assert await idle.closed()
        status, headers, body = await one.answer()
        assert (status, json.loads(body)["code"], headers["connection"]) == (503, "view_behind", "close")
        assert await one.closed()


async def test_a_slot_that_moved_is_followed(engine: GatewayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    right = engine.cluster.shard_of_slot
    asked: list[str] = []

    def stale_once(slot: str) -> int:
        asked.append(slot)
        return right(slot) if len(asked) > 1 else 1 - right(slot)

    monkeypatch.setattr(engine.cluster, "shard_of_slot", stale_once)
    async with engine.served() as url, wire(url) as one:
        one.writer.write(request(engine, "A-1"))
        assert (await one.answer())[0] == 201
    assert len(asked) > 1


async def test_the_other_hot_routes_are_lean_too(engine: GatewayEngine) -> None:
    headers = {"authorization": f"Bearer {engine.admin}"}
    async with engine.served() as url, httpx.AsyncClient(base_url=url, headers=headers) as client:
        held = await client.post("/v1/reservations", json=an_order_body("A-1"), headers=keyed("r-1"))
        path = held.headers["location"]
        assert isinstance(protocols(engine)[0].cycle, LeanCycle)
        committed = await client.post(f"{path}/commit", json={}, headers=keyed("c-1"))
        assert (committed.status_code, committed.json()["state"]) == (200, "allocated")
        released = await client.delete(path)
        assert (released.status_code, released.json()["code"]) == (409, "wrong_state")
        assert isinstance(protocols(engine)[0].cycle, LeanCycle)
        batch = await client.post(
            "/v1/allocations/batch", json={"orders": [an_order_body("A-2", idempotency_key="b-1")]}
        )
        assert batch.json()["results"][0]["status"] == 201
        assert isinstance(protocols(engine)[0].cycle, LeanCycle)
        seen = await client.get("/v1/availability", params={"sku": "SKU-0", "consistency": "strict"})
        assert seen.json()["totals"][0]["available_to_promise"] == 9_998
        odd = await client.delete("/v1/reservations/res%5FUS100")
        assert odd.status_code == 404


async def test_silent_connections_are_closed(engine: GatewayEngine) -> None:
    """N4: a connection that never sends a byte does not keep its place."""
    async with engine.served(timeout_keep_alive=1) as url, wire(url) as one:
        assert await one.closed()


@pytest.mark.parametrize("requests", [60, 1], ids=["held up in an answer", "closing"])
async def test_a_client_that_does_not_read_loses_its_place(
    engine: GatewayEngine, monkeypatch: pytest.MonkeyPatch, requests: int
) -> None:
    """N8: whether its answers are more than is written ahead, or only what an orderly close would wait for."""
    monkeypatch.setattr("gateway.lean.UNTAKEN_S", 0.1)
    async with engine.served(timeout_keep_alive=1) as url, wire(url) as one:
        connections = engine.door.gateway.connections
        await eventually(lambda: connections.now == 1)
        [protocol] = protocols(engine)
        for transport, buffer in ((one.writer.transport, socket.SO_RCVBUF), (protocol.transport, socket.SO_SNDBUF)):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, buffer, 4096)
        one.writer.transport.pause_reading()  # type: ignore[attr-defined]
        one.writer.write(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * requests)
        await eventually(lambda: protocol.transport.get_write_buffer_size() > 0)
        await eventually(lambda: connections.now == 0)


async def test_connections_beyond_the_limit_are_turned_away(tmp_path: Path) -> None:
    """N6."""
    engine = await GatewayEngine(tmp_path, shards=1, connections_max=2).start()
    await engine.stock_up("N-0", "SKU-0", 10)
    try:
        async with engine.served() as url:
            connections = engine.door.gateway.connections
            async with wire(url) as first, wire(url) as second:
                for n, one in enumerate((first, second)):
                    one.writer.write(request(engine, f"A-{n}"))
                    assert (await one.answer())[0] == 201
                async with wire(url) as third, wire(url) as fourth:
                    third.writer.write(request(engine, "A-3"))
                    status, headers, body = await third.answer()
                    assert (status, headers["connection"]) == (503, "close")
                    assert json.loads(body)["code"] == "overloaded"
                    assert int(headers["retry-after"]) >= 1
                    assert await third.closed()
                    assert await fourth.closed()  # it said nothing
                async with wire(url) as big:
                    big.writer.write(b"POST /v1/items/import HTTP/1.1\r\nhost: x\r\ncontent-length: 8000000\r\n\r\n")
                    big.writer.write(b"x" * 8_000_000)
                    assert (await big.answer())[0] == 503
                first.writer.write(request(engine, "A-4"))
                assert (await first.answer())[0] == 201
                assert (connections.now, connections.refused) == (2, 3)
                metrics = (await engine.client.get("/metrics")).text
                assert "quartermaster_gateway_open_connections 2.0" in metrics
                assert "quartermaster_gateway_refused_connections_total 3.0" in metrics
            await eventually(lambda: connections.now == 0)
            async with wire(url) as again:
                again.writer.write(request(engine, "A-5"))
                assert (await again.answer())[0] == 201
    finally:
        await engine.close()


async def test_a_flood_of_connections_is_dropped(tmp_path: Path) -> None:
    """N6: those turned away are few enough to be told so, the others just end."""
    engine = await GatewayEngine(tmp_path, shards=1, connections_max=1).start()
    try:
        async with engine.served() as url:
            host, port = url.removeprefix("http://").split(":")
            opened = [await asyncio.open_connection(host, int(port)) for _ in range(TURNED_AWAY_MAX + 20)]
            connections = engine.door.gateway.connections
            await eventually(lambda: connections.refused == len(opened) - 1)
            assert connections.leaving <= TURNED_AWAY_MAX
            await eventually(lambda: connections.leaving == 0)
            for _, writer in opened:
                writer.close()
    finally:
        await engine.close()


ENDLESS = {
    "a header": (b"GET /livez HTTP/1.1\r\nhost: x\r\nx-a: ", b"a" * 65_536, 400),
    "headers": (b"GET /livez HTTP/1.1\r\nhost: x\r\n", b"x-a: b\r\n" * 8_192, 400),
    "a path": (b"GET /", b"a" * 65_536, 400),
    "a hot path": (b"POST /v1/allocations?", b"a" * 65_536, 400),
    "a method": (b"", b"A" * 65_536, 400),
    "trailers": (
        b"POST /v1/allocations/x/cancel HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n%s\r\n1\r\n{\r\n0\r\n",
        b"x-a: b\r\n" * 8_192,
        0,
    ),
    "a chunk extension": (
        b"POST /v1/allocations/x/cancel HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n%s\r\n1;a=",
        b"a" * 65_536,
        0,
    ),
}


@pytest.mark.parametrize("name", ENDLESS)
async def test_what_never_ends_is_cut_off(engine: GatewayEngine, name: str) -> None:
    """N7: nobody fills the memory with what is not even a body."""
    start, block, status = ENDLESS[name]
    if b"%s" in start:
        start %= b"authorization: Bearer %s\r\ncontent-type: application/json\r\nidempotency-key: k\r\n" % (
            engine.admin.encode()
        )
    async with engine.served() as url, wire(url) as one:
        one.writer.write(start)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 64 * 1024 * 1024:
                one.writer.write(block)
                await asyncio.wait_for(one.writer.drain(), PATIENCE_S)
                sent += len(block)
        assert sent < 16 * 1024 * 1024, "sockets and their buffers hold a few megabytes"
        if status:
            received = b""
            with contextlib.suppress(ConnectionError):
                while data := await asyncio.wait_for(one.reader.read(65_536), PATIENCE_S):
                    received += data
            assert received == b"" or received.startswith(b"HTTP/1.1 %d" % status)
    await eventually(lambda: engine.door.gateway.in_flight.now == 0)
