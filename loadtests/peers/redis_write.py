"""Peer: one Lua write by redis-py, one after another: what a single durable step costs a client at the least."""

from __future__ import annotations

import time

import redis

from loadtests.histogram import Histogram
from loadtests.network import Network
from loadtests.peers.stock import IDEMPOTENCY_S, SCRIPT, position_key


class RedisWriter:
    """Reserves orders of three lines with the peers' script, synchronously."""

    def __init__(self, url: str, network: Network, prefix: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._script = self._client.register_script(SCRIPT)
        self._script.sha = self._client.script_load(SCRIPT)
        stock = network.stock
        self._positions = list(zip(stock.node[:3_000].tolist(), stock.item[:3_000].tolist(), strict=True))
        self._client.mset({position_key(node, item): 1_000_000_000 for node, item in self._positions})
        self._prefix = prefix
        self._next = 0

    def measure(self, duration_s: float) -> Histogram:
        """Latencies of as many writes as fit."""
        taken: list[int] = []
        stop = time.perf_counter() + duration_s
        positions, record = self._positions, b"x" * 200
        while time.perf_counter() < stop:
            n = self._next
            self._next += 1
            at = n * 3 % (len(positions) - 2)
            keys = [f"i:{self._prefix}{n}", f"r:{self._prefix}{n}"]
            keys += [position_key(node, item) for node, item in positions[at : at + 3]]
            started = time.perf_counter_ns()
            answer = self._client.evalsha(self._script.sha, len(keys), *keys, record, IDEMPOTENCY_S, 1, 1, 1)
            taken.append((time.perf_counter_ns() - started) // 1_000)
            assert isinstance(answer, list)
            if answer[0] != 1:
                raise RuntimeError(f"the stock of the Redis peer ran out: {answer}")
        histogram = Histogram()
        histogram.record(taken)
        return histogram

    def close(self) -> None:
        self._client.close()
