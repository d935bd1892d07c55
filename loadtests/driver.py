"""The load driver: one process, one epoll loop, keep-alive connections, requests built beforehand.

It must cost far less than what it measures, so it knows only as much HTTP as our servers speak: a status line, a
content-length, a body. Closed loop: every connection sends its next request when the answer is in. Open loop: requests start
at times drawn beforehand (Poisson), whether or not the server keeps up; latency counts from the INTENDED start, a request
that finds no free connection waits and is counted late, one that never starts is counted missed.

Run as `python -m loadtests.driver`: a `Run` as a JSON line on standard input, a `Result` as a line on standard output.
"""

from __future__ import annotations

import os
import select
import selectors
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from loadtests.histogram import Histogram
from loadtests.pools import ID_DIGITS, Requests, load_pool
from loadtests.traffic import arrival_times_s

LATE_NS = 1_000_000
DRAIN_S = 10.0
_RETRY_NS = 50_000_000
_clock = time.perf_counter_ns


class Run(msgspec.Struct, kw_only=True):
    """One measurement. `rate_per_s` = 0: closed loop; else open loop over at most `connections` in flight."""

    ports: list[int]
    pool: str
    id_prefix: str
    host: str = "127.0.0.1"
    first_id: int = 0
    connections: int = 64
    duration_s: float = 2.0
    warmup_s: float = 0.5
    """Load before the measured window, of the same kind."""
    requests_max: int = 0
    """Stop after this many requests; 0 = only time ends it."""
    rate_per_s: float = 0.0
    burst_factor: float = 1.0
    seed: int = 1
    record: str | None = None
    """File that gets the id of every acknowledged order, one a line."""
    side_pool: str | None = None
    """`keyed` requests sent beside the load, in turn: restocking."""
    side_units: int = 0
    """Units one side request brings in."""
    side_share: float = 0.0
    """Part of the ordered units that the side requests bring back."""
    units_per_request: float = 0.0


class Result(msgspec.Struct, kw_only=True):
    """What happened within the window: answers that came in it are its rate, requests that started in it its latencies.

    `orders_ok` counts orders (a batch has many); `by_code` everything that is not 2xx.
    """

    seconds: float
    requests: int
    orders_ok: int
    by_code: dict[str, int]
    latency: dict[str, Any]
    """From the intended start (open loop) or the start (closed loop); see Histogram.packed."""
    service: dict[str, Any]
    """From the actual start."""
    late: int = 0
    missed: int = 0
    unknown: int = 0
    """Requests whose connection broke before the answer: outcome unknown."""
    next_id: int = 0
    acknowledged: int = 0
    """Orders acknowledged in all, warm-up and drain included: what `record` lists."""
    side_ok: int = 0
    cpu_s: float = 0.0
    """CPU seconds of the driver in the window."""
    started_at_s: float = 0.0
    """Monotonic clock at the window's start, for who reads other processes' CPU."""


class _Conn:
    __slots__ = ("buffer", "first_id", "intended_ns", "port", "retry_ns", "side", "sock", "start_ns")

    def __init__(self, port: int, side: bool) -> None:
        self.port = port
        self.side = side
        self.sock: socket.socket | None = None
        self.buffer = b""
        self.intended_ns = 0
        self.start_ns = 0
        self.first_id = 0
        self.retry_ns = 0


class Driver:
    """One run. `go()` loads, measures, drains and returns the result."""

    def __init__(self, run: Run, requests: Requests, side: Requests | None = None) -> None:
        self.run = run
        self.requests = requests
        self.side = side
        self._poll = _poller()
        self._by_fd: dict[int, _Conn] = {}
        self._broken: list[_Conn] = []
        self._next = 0
        self._next_id = run.first_id
        self._acked: list[int] = []
        self._codes: dict[str, int] = {}
        self._unknown = 0
        self._side_debt = 0.0
        self._side_next = 0
        self._side_ok = 0

    # -- connections ----------------------------------------------------------------------------------------------

    def _connect(self, conn: _Conn) -> bool:
        """(Re)connect; False = refused now, tried again later."""
        try:
            sock = socket.create_connection((self.run.host, conn.port), timeout=5)
        except OSError:
            conn.retry_ns = _clock() + _RETRY_NS
            return False
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conn.sock, conn.buffer = sock, b""
        self._by_fd[sock.fileno()] = conn
        self._poll.register(sock.fileno())
        return True

    def _drop(self, conn: _Conn) -> None:
        assert conn.sock is not None
        fd = conn.sock.fileno()
        self._poll.unregister(fd)
        del self._by_fd[fd]
        conn.sock.close()
        conn.sock = None
        self._unknown += conn.start_ns > 0 and not conn.side
        conn.start_ns = 0
        self._broken.append(conn)

    def _send(self, conn: _Conn, intended_ns: int) -> None:
        first_id = self._next_id
        data = self.requests.build(self._next, first_id)
        self._next += 1
        self._next_id = first_id + self.requests.orders_each
        conn.first_id = first_id
        conn.intended_ns = intended_ns
        self._write(conn, data)

    def _write(self, conn: _Conn, data: bytes) -> None:
        sock = conn.sock
        assert sock is not None
        conn.start_ns = _clock()
        try:
            sent = sock.send(data)
            if sent < len(data):  # a batch larger than the socket's buffer
                sock.setblocking(True)
                sock.sendall(data[sent:])
                sock.setblocking(False)
        except OSError:
            self._drop(conn)

    # -- answers --------------------------------------------------------------------------------------------------

    def _answered(self, conn: _Conn, body: bytes, status: bytes) -> int:
        """Take one answer; returns how many orders it acknowledges."""
        if conn.side:
            if status[:1] == b"2":
                self._side_ok += 1
            else:
                self._count("side_" + _code(status, body))
            return 0
        if status[:1] != b"2":
            self._count(_code(status, body))
            return 0
        if self.requests.kind == "batch":
            return self._batch_answered(conn.first_id, body)
        self._acked.append(conn.first_id)
        return 1

    def _batch_answered(self, first_id: int, body: bytes) -> int:
        """Per-item statuses; the quick way when every item was taken."""
        each = self.requests.orders_each
        if body.count(b'"status":201') == each:
            self._acked.extend(range(first_id, first_id + each))
            return each
        taken = 0
        for n, item in enumerate(msgspec.json.decode(body)["results"]):
            if 200 <= item["status"] < 300:
                self._acked.append(first_id + n)
                taken += 1
            else:
                self._count(item.get("problem", item).get("code") or str(item["status"]))
        return taken

    def _count(self, code: str) -> None:
        self._codes[code] = self._codes.get(code, 0) + 1

    # -- the loops ------------------------------------------------------------------------------------------------

    def go(self) -> Result:
        run = self.run
        conns = [_Conn(run.ports[i % len(run.ports)], False) for i in range(run.connections)]
        for conn in conns:
            if not self._connect(conn):
                raise SystemExit(f"nothing listens on {run.host}:{conn.port}")
        side = [_Conn(run.ports[0], True)] if self.side else []
        for conn in side:
            self._connect(conn)
        self._idle_side = deque(side)
        try:
            return self._measure(conns)
        finally:
            for conn in list(self._by_fd.values()):
                assert conn.sock is not None
                conn.sock.close()
            self._poll.close()

    def _measure(self, conns: list[_Conn]) -> Result:
        run = self.run
        open_loop = run.rate_per_s > 0
        start = _clock()
        begin = start + int(run.warmup_s * 1e9)
        stop = begin + int(run.duration_s * 1e9)
        due: list[int] = []
        if open_loop:
            times = arrival_times_s(
                run.rate_per_s, run.warmup_s + run.duration_s, [run.seed, 77], burst_factor=run.burst_factor
            )
            due = (start + (times * 1e9).astype(np.int64)).tolist()
        limit = run.requests_max or (1 << 62)
        free: list[_Conn] = list(conns) if open_loop else []
        latency: list[int] = []
        service: list[int] = []
        orders_ok = late = in_window = arrived = 0
        cpu_begin, window_cpu, measuring, ended_at = 0.0, -1.0, False, stop
        if not open_loop:
            for conn in conns[: min(len(conns), limit)]:
                self._send(conn, _clock())
        by_fd = self._by_fd
        deadline = stop + int(DRAIN_S * 1e9)
        while True:
            now = _clock()
            if not measuring and now >= begin:
                measuring, cpu_begin = True, time.process_time()
                self._codes.clear()
            if window_cpu < 0 and now >= stop:
                window_cpu = time.process_time() - cpu_begin
            if self._broken:
                self._reconnect(now, stop, free if open_loop else None)
            wait_s = 0.1
            if open_loop:
                while arrived < len(due) and due[arrived] <= now and free:
                    late += now - due[arrived] > LATE_NS and due[arrived] >= begin
                    self._send(free.pop(), due[arrived])
                    arrived += 1
                if arrived < len(due) and free:
                    wait_s = max(0.0, (due[arrived] - _clock()) / 1e9)
                if now >= stop and len(free) + len(self._broken) == len(conns):
                    break
            elif (now >= stop or self._next >= limit) and not any(c.start_ns for c in conns):
                ended_at = min(stop, now)
                break
            if now >= deadline:
                break
            if self._idle_side and self._side_debt >= run.side_units > 0:
                self._send_side()
            for fd in self._poll.wait(min(wait_s, 0.1)):
                conn = by_fd.get(fd)
                if conn is None or conn.sock is None:
                    continue
                try:
                    data = conn.sock.recv(262_144)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                now = _clock()
                if not data:
                    self._drop(conn)
                    continue
                if conn.buffer:
                    data = conn.buffer + data
                head_end = data.find(b"\r\n\r\n")
                if head_end < 0:
                    conn.buffer = data
                    continue
                at = data.find(b"ontent-length: ", 0, head_end)
                if at < 0:
                    at = data.find(b"ontent-Length: ", 0, head_end)
                size = int(data[at + 15 : data.find(b"\r", at)]) if at >= 0 else 0
                if len(data) < head_end + 4 + size:
                    conn.buffer = data
                    continue
                conn.buffer = b""
                taken = self._answered(conn, data[head_end + 4 :], data[9:12])
                if conn.side:
                    conn.start_ns = 0
                    self._idle_side.append(conn)
                    continue
                if conn.intended_ns >= begin:
                    latency.append(now - conn.intended_ns)
                    service.append(now - conn.start_ns)
                if begin <= now <= stop:
                    orders_ok += taken
                    in_window += 1
                conn.start_ns = 0
                self._side_debt += run.units_per_request * run.side_share
                if open_loop:
                    free.append(conn)
                elif now < stop and self._next < limit:
                    self._send(conn, now)
        if window_cpu < 0:
            window_cpu = time.process_time() - cpu_begin if measuring else 0.0
        return self._result(
            seconds=max(1e-9, (ended_at - begin) / 1e9),
            requests=in_window,
            orders_ok=orders_ok,
            latency=latency,
            service=service,
            late=late,
            missed=len(due) - arrived,
            cpu_s=window_cpu,
            begin=begin,
        )

    def _reconnect(self, now: int, stop: int, free: list[_Conn] | None) -> None:
        """Try broken connections again; in a closed loop they send at once."""
        waiting, self._broken = self._broken, []
        for conn in waiting:
            if now >= stop or conn.retry_ns > now or not self._connect(conn):
                self._broken.append(conn)
            elif conn.side:
                self._idle_side.append(conn)
            elif free is not None:
                free.append(conn)
            else:
                self._send(conn, _clock())

    def _send_side(self) -> None:
        assert self.side is not None
        self._side_debt -= self.run.side_units
        conn = self._idle_side.popleft()
        data = self.side.build(self._side_next, self.run.first_id + self._side_next)
        self._side_next += 1
        self._write(conn, data)

    def _result(
        self,
        *,
        seconds: float,
        requests: int,
        orders_ok: int,
        latency: list[int],
        service: list[int],
        late: int,
        missed: int,
        cpu_s: float,
        begin: int,
    ) -> Result:
        histograms = []
        for values in (latency, service):
            histogram = Histogram()
            histogram.record(np.array(values, np.int64) // 1_000)
            histograms.append(histogram.packed())
        if self.run.record:
            prefix = self.run.id_prefix
            with Path(self.run.record).open("a", encoding="ascii") as file:
                file.writelines(f"{prefix}{number:0{ID_DIGITS}d}\n" for number in self._acked)
        return Result(
            seconds=seconds,
            requests=requests,
            orders_ok=orders_ok,
            by_code=dict(sorted(self._codes.items())),
            latency=histograms[0],
            service=histograms[1],
            late=late,
            missed=missed,
            unknown=self._unknown,
            next_id=self._next_id,
            acknowledged=len(self._acked),
            side_ok=self._side_ok,
            cpu_s=cpu_s,
            started_at_s=begin / 1e9,
        )


def _code(status: bytes, body: bytes) -> str:
    """The problem code of an answer, else its status."""
    at = body.find(b'"code":"')
    return body[at + 8 : body.find(b'"', at + 8)].decode() if at >= 0 else status.decode()


class _Epoll:
    """epoll; waits of less than a millisecond, which it cannot do itself, are done by a select on its own descriptor."""

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def register(self, fd: int) -> None:
        self._epoll.register(fd, select.EPOLLIN)

    def unregister(self, fd: int) -> None:
        self._epoll.unregister(fd)

    def wait(self, timeout_s: float) -> list[int]:
        if timeout_s < 0.1 and not select.select([self._epoll], [], [], timeout_s)[0]:
            return []
        return [fd for fd, _ in self._epoll.poll(timeout_s)]

    def close(self) -> None:
        self._epoll.close()


class _Selector:
    """Where there is no epoll (macOS)."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def register(self, fd: int) -> None:
        self._selector.register(fd, selectors.EVENT_READ)

    def unregister(self, fd: int) -> None:
        self._selector.unregister(fd)

    def wait(self, timeout_s: float) -> list[int]:
        return [key.fd for key, _ in self._selector.select(timeout_s)]

    def close(self) -> None:
        self._selector.close()


def _poller() -> _Epoll | _Selector:
    return _Epoll() if hasattr(select, "epoll") else _Selector()


def main() -> None:
    """Serve runs until standard input ends."""
    pools: dict[tuple[str, float, str], Requests] = {}

    def prepared(path: str, prefix: str, host: str) -> Requests:
        key = (path, os.stat(path).st_mtime, prefix)
        if key not in pools:
            pools.clear()
            pools[key] = Requests(load_pool(Path(path)), host=host, id_prefix=prefix)
        return pools[key]

    for line in sys.stdin.buffer:
        run = msgspec.json.decode(line, type=Run)
        side = (
            Requests(load_pool(Path(run.side_pool)), host=run.host, id_prefix=f"{run.id_prefix}s")
            if run.side_pool
            else None
        )
        result = Driver(run, prepared(run.pool, run.id_prefix, run.host), side).go()
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
