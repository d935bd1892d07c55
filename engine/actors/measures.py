"""What a runner counts and times, for `status` and `/metrics`."""

from __future__ import annotations

import os
import time
from typing import Any

from engine.protocol.effects import Append

LATENCIES_KEPT = 2_000


class Measures:
    """Appends of one runner: how many, how large, how long the newest took."""

    def __init__(self) -> None:
        self._latencies_ms: list[float] = []
        self._count = 0
        self._bytes = 0
        self._decision_bytes = 0
        self._decisions = 0

    def appended(self, append: Append, seconds: float) -> None:
        self._count += 1
        self._bytes += len(append.payload)
        self._decision_bytes += sum(map(len, append.decisions))
        self._decisions += len(append.decisions)
        self._latencies_ms.append(seconds * 1_000)
        if len(self._latencies_ms) > LATENCIES_KEPT:
            del self._latencies_ms[: LATENCIES_KEPT // 2]

    def entry_bytes(self) -> int:
        """Of an entry with its decisions, on average; 0 = none was appended yet."""
        return (self._bytes + self._decision_bytes) // self._count if self._count else 0

    def facts(self) -> dict[str, Any]:
        latencies = sorted(self._latencies_ms)
        last = len(latencies) - 1
        return {
            "appends": self._count,
            "append_bytes": self._bytes,
            "decision_bytes": self._decision_bytes,
            "batch_size_mean": round(self._decisions / self._count, 2) if self._count else 0,
            "append_p50_ms": round(latencies[last // 2], 3) if latencies else 0,
            "append_p99_ms": round(latencies[last * 99 // 100], 3) if latencies else 0,
            "pid": os.getpid(),
            "cpu_s": round(time.process_time(), 3),
        }


class Complaint:
    """Logs a trouble that lasts once every few seconds instead of at each try."""

    def __init__(self, every_s: float = 5.0) -> None:
        self._every_s = every_s
        self._next_s = 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now < self._next_s:
            return False
        self._next_s = now + self._every_s
        return True
