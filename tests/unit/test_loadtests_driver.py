"""The load driver against a small server that does what a test wants: what it counts is what happened."""

from __future__ import annotations

import json
import os
import re
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from loadtests.driver import Driver, Result, Run
from loadtests.histogram import Histogram
from loadtests.pools import Pool, Requests, save_pool

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable
Answer = tuple[int, bytes]


class FakeServer:
    """Keep-alive HTTP; `answer(number of the request, body)` says what comes back, None closes the connection instead."""

    def __init__(self, answer: Callable[[int, bytes], Answer | None]) -> None:
        self.bodies: list[bytes] = []
        self._answer = answer
        self._lock = threading.Lock()
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            disable_nagle_algorithm = True

            def handle(self) -> None:
                while self.rfile.readline():
                    size = 0
                    while (line := self.rfile.readline().strip()) != b"":
                        name, _, value = line.partition(b":")
                        if name.lower() == b"content-length":
                            size = int(value)
                    found = outer.take(self.rfile.read(size))
                    if found is None:
                        return
                    status, body = found
                    head = b"HTTP/1.1 %d X\r\nx-a: b\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
                    half = len(body) // 2
                    self.wfile.write(head + body[:half])
                    self.wfile.flush()
                    self.wfile.write(body[half:])

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 64

            def handle_error(self, request: object, client_address: object) -> None:
                return  # the driver hangs up when its run is over

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def take(self, body: bytes) -> Answer | None:
        with self._lock:
            self.bodies.append(body)
            number = len(self.bodies)
        return self._answer(number, body)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


Serve = Callable[[Callable[[int, bytes], Answer | None]], FakeServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[FakeServer] = []

    def start(answer: Callable[[int, bytes], Answer | None]) -> FakeServer:
        servers.append(FakeServer(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


TAIL = b'","x":1}'
SINGLE = Pool("single", "/v1/allocations", [[TAIL]])
BATCH = Pool("batch", "/v1/allocations/batch", [[TAIL, TAIL, TAIL]])


def _run(server: FakeServer, pool: Pool = SINGLE, side: Pool | None = None, **options: object) -> Result:
    values = {"connections": 4, "duration_s": 0.3, "warmup_s": 0.0, **options}
    run = Run(ports=[server.port], pool="", id_prefix="t-", **values)  # type: ignore[arg-type]
    requests = Requests(pool, host="x", id_prefix="t-")
    return Driver(run, requests, Requests(side, host="x", id_prefix="s-") if side else None).go()


def test_every_answer_is_counted_and_every_id_is_new(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda n, body: (201, b'{"allocation_id":"a"}'))
    record = tmp_path / "ids"
    result = _run(server, record=str(record), requests_max=200, duration_s=20.0)
    sent = [json.loads(body)["order_id"] for body in server.bodies]
    assert len(sent) == len(set(sent)) == 200
    assert result.acknowledged == result.orders_ok == result.requests == 200
    assert sorted(record.read_text().split()) == sorted(sent)
    assert result.by_code == {}
    assert Histogram.unpacked(result.latency).total == 200


def test_a_run_is_a_line_in_and_a_line_out_as_its_page_says(serve: Serve, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "load-test.md").read_text("utf-8")
    [line] = re.findall(r"^echo .* \| \.venv/bin/python -m loadtests\.driver$", page, re.M)
    save_pool(SINGLE, tmp_path / "orders.pool")
    server = serve(lambda n, body: (201, b"{}"))
    for told, here in (
        ("8080", str(server.port)),
        ('"duration_s":10', '"duration_s":0.5'),
        (".venv/bin/python", PYTHON),
    ):
        assert told in line
        line = line.replace(told, here)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=True
    )
    result = msgspec.json.decode(done.stdout, type=Result)
    assert 50 < result.acknowledged <= len(server.bodies)
    assert all(json.loads(body)["order_id"].startswith("a-") for body in server.bodies)


def test_refusals_are_counted_by_code_and_acknowledge_nothing(serve: Serve, tmp_path: Path) -> None:
    def answer(n: int, body: bytes) -> Answer:
        return (
            (409, b'{"status":409,"code":"out_of_stock"}')
            if n % 4 == 0
            else (503, b"busy")
            if n % 4 == 1
            else (201, b"{}")
        )

    record = tmp_path / "ids"
    result = _run(serve(answer), record=str(record), requests_max=100, duration_s=20.0)
    assert result.by_code == {"503": 25, "out_of_stock": 25}
    assert result.acknowledged == 50 == len(record.read_text().split())


def test_batches_acknowledge_the_orders_that_were_taken(serve: Serve, tmp_path: Path) -> None:
    def answer(n: int, body: bytes) -> Answer:
        results = [{"status": 201, "body": {}} for _ in json.loads(body)["orders"]]
        if n == 2:
            results[1] = {"status": 409, "problem": {"code": "out_of_stock"}}
        return 200, json.dumps({"results": results}, separators=(",", ":")).encode()

    record = tmp_path / "ids"
    server = serve(answer)
    result = _run(server, BATCH, record=str(record), requests_max=4, connections=1, duration_s=20.0)
    assert result.acknowledged == 11
    assert result.by_code == {"out_of_stock": 1}
    refused = json.loads(server.bodies[1])["orders"][1]["order_id"]
    assert refused not in record.read_text().split()


def test_a_broken_connection_leaves_an_unknown_outcome_and_is_made_again(serve: Serve) -> None:
    server = serve(lambda n, body: None if n == 3 else (201, b"{}"))
    result = _run(server, requests_max=20, connections=1, duration_s=20.0)
    assert result.unknown == 1
    assert result.acknowledged == 19


def test_open_loop_latency_counts_from_the_intended_start(serve: Serve) -> None:
    """One stall of 300 ms: requests that were due meanwhile waited, although each answer itself was quick."""

    def answer(n: int, body: bytes) -> Answer:
        if n == 20:
            time.sleep(0.3)
        return 201, b"{}"

    result = _run(serve(answer), connections=1, rate_per_s=200.0, duration_s=1.0, seed=3)
    latency, service = Histogram.unpacked(result.latency), Histogram.unpacked(result.service)
    assert result.missed == 0
    assert latency.total == service.total == result.acknowledged
    assert result.late > 20
    assert latency.percentile_us(90) > 100_000 > service.percentile_us(90)


def test_requests_that_never_start_are_reported(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtests.driver.DRAIN_S", 0.1)
    stalled = threading.Event()

    def answer(n: int, body: bytes) -> Answer:
        stalled.wait(5)
        return 201, b"{}"

    result = _run(serve(answer), connections=2, rate_per_s=100.0, duration_s=0.2)
    stalled.set()
    assert result.acknowledged == 0
    assert result.missed > 0


def test_restocking_follows_what_was_ordered(serve: Serve) -> None:
    def answer(n: int, body: bytes) -> Answer:
        time.sleep(0.002 if b"order_id" in body else 0)  # slow enough that the one side connection keeps up
        return 201, b"{}"

    server = serve(answer)
    side = Pool("keyed", "", [[b"/v1/inventory/adjustments", b'{"restock":1}']])
    result = _run(
        server, side=side, requests_max=400, duration_s=20.0, side_units=10, side_share=0.5, units_per_request=2.0
    )
    restocked = sum(b"restock" in body for body in server.bodies)
    assert restocked == pytest.approx(40, abs=4)
    assert result.side_ok <= restocked
    assert result.requests == 400


def test_nothing_listening_is_an_error_at_once() -> None:
    run = Run(ports=[9], pool="", id_prefix="t-")
    with pytest.raises(SystemExit, match="nothing listens"):
        Driver(run, Requests(SINGLE, host="x", id_prefix="t-")).go()
