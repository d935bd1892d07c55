"""Bad input: a typed problem that names the field, in under 50 ms, no memory growth, nothing half done."""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec

from loadtests.accepting import Acceptance, need
from loadtests.client import Client
from loadtests.network import NetworkSpec, build_network
from loadtests.proc import resident_bytes
from loadtests.runs import oversold, shard_facts, verify
from loadtests.servers import Engine

LIMIT_MS = 50.0
TRIES = 5
REPEATS = 30
LARGE_REPEATS = 5
LARGE_BYTES = 1024 * 1024
GROWTH_MAX_BYTES = 8 * 1024 * 1024
TIMEOUT_S = 30.0


@dataclass
class Case:
    """One bad request and what it must be answered."""

    name: str
    body: bytes
    status: int
    code: str
    pointer: str | None
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def _order(**changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "order_id": "bad-1",
        "channel": "web",
        "ship_to": {"country": "US", "postal_code": "10001"},
        "lines": [{"line_id": "1", "sku": "SKU-000001", "quantity": 1}],
    }
    return body | changes


def _line(**changes: Any) -> list[dict[str, Any]]:
    return [{"line_id": "1", "sku": "SKU-000001", "quantity": 1} | changes]


def _lines(count: int) -> bytes:
    lines = ",".join(f'{{"line_id":"{n}","sku":"SKU-000001","quantity":1}}' for n in range(count))
    return json.dumps(_order(lines=[])).replace('"lines": []', f'"lines":[{lines}]').encode()


def cases() -> list[Case]:
    """The matrix of the issue, and its neighbours."""
    encode = msgspec.json.encode
    packed = "application/vnd.msgpack"
    return [
        Case("1,001 lines", _lines(1_001), 422, "too_many_lines", "/lines"),
        Case("1,000,000 lines", _lines(1_000_000), 413, "body_too_large", None),
        Case("64 MB body", b" " * (64 * 1024 * 1024), 413, "body_too_large", None),
        Case("quantity 0", encode(_order(lines=_line(quantity=0))), 422, "invalid_field", "/lines/0/quantity"),
        Case("quantity -1", encode(_order(lines=_line(quantity=-1))), 422, "invalid_field", "/lines/0/quantity"),
        Case(
            "quantity 2^63",
            encode(_order()).replace(b'"quantity":1', b'"quantity":9223372036854775808'),
            422,
            "invalid_field",
            "/lines/0/quantity",
        ),
        Case("quantity 1.5", encode(_order(lines=_line(quantity=1.5))), 422, "invalid_field", "/lines/0/quantity"),
        Case("unknown SKU", encode(_order(lines=_line(sku="NOPE"))), 422, "unknown_sku", "/lines/0/sku"),
        Case("NUL in SKU", encode(_order(lines=_line(sku="A\0B"))), 422, "invalid_field", "/lines/0/sku"),
        Case(
            "unknown country",
            encode(_order(ship_to={"country": "ZZ", "postal_code": "1"})),
            422,
            "invalid_field",
            "/ship_to/country",
        ),
        Case("unknown channel", encode(_order(channel="nope")), 422, "unknown_channel", "/channel"),
        Case("unknown field", encode(_order(surprise=1)), 422, "invalid_field", "/surprise"),
        Case("no lines", encode(_order(lines=[])), 422, "invalid_field", "/lines"),
        Case("not JSON", b'{"order_id":', 400, "malformed_body", None),
        Case("deep nesting", b"[" * 100_000, 422, "invalid_field", ""),
        Case("malformed MessagePack", b"\xc1\xff\x00", 400, "malformed_body", None, packed),
        Case("MessagePack cut short", msgspec.msgpack.encode(_order())[:-5], 400, "malformed_body", None, packed),
    ]


async def bad_input(run: Acceptance) -> None:
    network = build_network(NetworkSpec(seed=run.seed, warehouses=2, stores=2, skus=20, flat_units=1_000))
    async with run.engine("input", network) as engine:
        slow = []
        matrix = cases()
        for case in matrix:
            taken = [await asyncio.to_thread(_ask, engine, case, f"{case.name}-{n}") for n in range(TRIES)]
            p50 = statistics.median(taken)
            run.say(
                f"{case.name}: {case.status} {case.code} {case.pointer or ''} in {p50:.1f} ms (worst {max(taken):.1f})"
            )
            if max(taken) > LIMIT_MS:
                slow.append(f"{case.name} {max(taken):.1f} ms")
        await _reused_key(run, engine)
        await _no_growth(run, engine, matrix)
        await asyncio.to_thread(_nothing_done, run, engine)
        need(await oversold(engine) == 0, "positions oversold")
        need(not slow, f"answers within {LIMIT_MS:.0f} ms; slower:", ", ".join(slow))


def _ask(engine: Engine, case: Case, key: str) -> float:
    """Milliseconds from the first byte sent to the whole answer; the body is sent for as long as it is taken."""
    head = (
        f"POST /v1/allocations HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {engine.key}\r\n"
        f"content-type: {case.content_type}\r\ncontent-length: {len(case.body)}\r\nidempotency-key: {key}\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in case.headers.items())
        + "\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", engine.ports[0]), timeout=TIMEOUT_S) as sock:
        started = time.perf_counter()
        answer = b""
        try:
            sock.sendall(head + case.body[: 256 * 1024])
            sent = 256 * 1024
            sock.setblocking(False)
            while sent < len(case.body) and b"\r\n\r\n" not in answer:
                try:
                    sent += sock.send(case.body[sent : sent + 256 * 1024])
                except BlockingIOError:
                    time.sleep(0.0005)
                try:
                    answer += sock.recv(65_536)
                except BlockingIOError:
                    continue
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was refused before it was whole: the answer is there to be read
        sock.settimeout(TIMEOUT_S)
        while not _whole(answer):
            data = sock.recv(65_536)
            need(bool(data), f"{case.name}: an answer, got", answer[:200])
            answer += data
        taken_ms = (time.perf_counter() - started) * 1_000
    head_bytes, _, body = answer.partition(b"\r\n\r\n")
    status = int(head_bytes.split(b" ", 2)[1])
    problem = json.loads(body)
    pointers = [error["pointer"] for error in problem.get("errors", ())]
    need(status == case.status and problem["code"] == case.code, f"{case.name}:", status, problem)
    need(case.pointer is None or case.pointer in pointers, f"{case.name}: the field is named:", problem)
    need(b"application/problem+json" in head_bytes.lower(), f"{case.name}: problem+json", head_bytes)
    return taken_ms


def _whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return False


async def _reused_key(run: Acceptance, engine: Engine) -> None:
    """A repeat gets the first answer, another body under the same key is refused."""
    async with Client(engine.url, engine.key) as client:
        first = await client.request("POST", "/v1/allocations", _order(order_id="key-1"), key="one-key")
        again = await client.request("POST", "/v1/allocations", _order(order_id="key-1"), key="one-key")
        need(first.status == again.status == 201, "the first and its repeat", first.status, again.status)
        need(first.json()["allocation_id"] == again.json()["allocation_id"], "the repeat got another allocation")
        started = time.perf_counter()
        other = await client.request("POST", "/v1/allocations", _order(order_id="key-2"), key="one-key")
        taken_ms = (time.perf_counter() - started) * 1_000
        need(other.status == 422 and other.code == "key_reused", "another body under the key", other.status, other.body)
    run.say(f"repeated key with another body: 422 key_reused in {taken_ms:.1f} ms")


async def _no_growth(run: Acceptance, engine: Engine, matrix: list[Case]) -> None:
    """The same refusals again and again cost no memory."""
    gateways = [pid for role, pid in engine.processes.items() if role.startswith("gateway")]
    shards = [pid for role, pid in engine.processes.items() if role.startswith("shard-")]

    def again(times: int) -> int:
        asked = 0
        for n in range(times):
            for case in matrix:
                if n < LARGE_REPEATS or len(case.body) < LARGE_BYTES:
                    _ask(engine, case, f"again-{time.monotonic_ns()}-{n}")
                    asked += 1
        return asked

    await asyncio.to_thread(again, LARGE_REPEATS)
    before = sum(resident_bytes(pid) for pid in gateways + shards)
    asked = await asyncio.to_thread(again, REPEATS)
    grown = sum(resident_bytes(pid) for pid in gateways + shards) - before
    run.say(f"{asked:,} more refusals: memory of gateway and shard grew by {grown / 1024:,.0f} KiB")
    need(grown <= GROWTH_MAX_BYTES, "memory growth in bytes", grown)


def _nothing_done(run: Acceptance, engine: Engine) -> None:
    """One order was placed (the one with the repeated key), with its one unit; nothing else moved."""
    facts = shard_facts(engine, 0)
    need(facts["open_orders"] == 1 and facts["open_holds"] == 0, "open orders and holds", facts)
    verify(engine, [], folder=run.folder)
    run.say("one order in the engine, the good one; drift 0")
