"""Watching an engine in a long run: who is who, what each process and the journal's server hold, and whether that grows."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np

from loadtests.chaos_processes import memory_by_role, roles
from loadtests.chaos_traffic import Shop
from loadtests.proc import alive
from loadtests.runs import quartermaster
from loadtests.servers import Engine
from loadtests.svg_plot import Panel, chart

CONTROL = 255
SETTLED_S = 30.0
"""How long after its start a process counts for the level of its memory."""
READY_TIMEOUT_S = 5.0
ROLES_TRIES = 20
MIB = 1024 * 1024


class Level(NamedTuple):
    """High water of the two halves of a series (95th percentile, bytes), and how many points the smaller half has."""

    first: float
    second: float
    points: int

    @property
    def growth(self) -> float:
        """Of the second half over the first, as a share."""
        return self.second / self.first - 1 if self.first else 0.0


def level(points: Sequence[tuple[float, float]], middle_s: float) -> Level:
    """Of (seconds, bytes). A high water, not a slope: a killed process begins small, and a line through that says nothing."""
    halves = [y for x, y in points if x <= middle_s], [y for x, y in points if x > middle_s]
    first, second = (float(np.percentile(half, 95)) if half else 0.0 for half in halves)
    return Level(first, second, min(map(len, halves)))


class Watch:
    """Samples of one engine since `start`."""

    def __init__(self, engine: Engine, shards: int) -> None:
        self.engine = engine
        self.shards = shards
        self.samples: list[dict[str, Any]] = []
        self.started = 0.0
        self._seen: dict[str, tuple[int, float]] = {}
        """Role -> (process id, when it was first seen)."""

    def start(self) -> None:
        self.started = time.monotonic()

    def now_s(self) -> float:
        return time.monotonic() - self.started

    async def status(self) -> dict[str, Any] | None:
        """What the shards say, from a process of its own: it may wait for dead ones, and must not hold the traffic up."""
        command = [*quartermaster(), "status", "--data-dir", str(self.engine.data_dir), "--json"]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        out, _ = await process.communicate()
        try:
            found: dict[str, Any] = json.loads(out)
        except json.JSONDecodeError:
            return None
        return found

    async def roles(self) -> dict[str, int] | None:
        """Process id by role, once every shard has said its own; None = not in time."""
        for _ in range(ROLES_TRIES):
            status = await self.status()
            if status is not None and sum("pid" in facts for facts in status["shards"]) == self.shards + 1:
                return roles(self.engine, status)
            await asyncio.sleep(0.5)
        return None

    async def ready(self) -> bool:
        async with httpx.AsyncClient(timeout=READY_TIMEOUT_S) as client:
            try:
                return (await client.get(self.engine.url + "/readyz")).status_code == 200
            except httpx.HTTPError:
                return False

    async def whole_again(self, role: str, pid: int, *, within_s: float) -> float | None:
        """Seconds until the role has a new process and the gateway is ready; None = not in time."""
        began = time.monotonic()
        while time.monotonic() - began < within_s:
            await asyncio.sleep(0.1)
            if not await self.ready():
                continue
            known = await self.roles()
            if known is not None and known.get(role, pid) != pid and alive(known[role]) and await self.ready():
                return round(time.monotonic() - began, 1)
        return None

    async def sample_forever(self, shop: Shop, *, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            await self.sample(shop)

    async def sample(self, shop: Shop) -> None:
        """One more sample; none where the shards cannot be asked."""
        status = await self.status()
        if status is None:
            return
        shards = [facts for facts in status["shards"] if "problem" not in facts]
        stock = [facts for facts in shards if facts["shard"] != CONTROL]
        known = roles(self.engine, status)
        now = self.now_s()
        for role, pid in known.items():
            if self._seen.get(role, (0, 0.0))[0] != pid:
                self._seen[role] = (pid, now)
        pss = await asyncio.to_thread(memory_by_role, self.engine, known)
        self.samples.append(
            {
                "at_s": round(now, 1),
                "pss": pss,
                "settled": [r for r in pss if r not in self._seen or now - self._seen[r][1] >= SETTLED_S],
                "redis": max((f.get("redis_used_bytes", 0) for f in shards), default=0),
                "complete": len(shards) == self.shards + 1,
                "open_orders": sum(f["open_orders"] for f in stock),
                "orders": sum(f["orders"] for f in stock),
                "open_holds": sum(f["open_holds"] for f in stock),
                "dedupe": sum(f["dedupe_entries"] for f in stock),
                "dedupe_window_h": round(min((f["dedupe_window_ms"] for f in stock), default=0) / 3_600_000, 2),
                "journal": sum(max(0, f["durable_seq"] - f.get("trimmed_seq", 0)) for f in stock),
                "archive_lag": max((f.get("archive_lag_entries", 0) for f in stock), default=0),
                "index_lag": max((f.get("index_lag_entries", 0) for f in stock), default=0),
                "archive_bytes": _bytes_of(self.engine.data_dir / "archive"),
                "index_bytes": _bytes_of(self.engine.data_dir / "index.db"),
                "acknowledged": shop.tally.acknowledged,
                "oversold": len(shop.ledger.oversold),
            }
        )

    def levels(self, to_s: float) -> dict[str, Level]:
        """Memory of each role, of all together, and of the server's data, up to an instant."""
        series: dict[str, list[tuple[float, float]]] = {"all": [], "redis used_memory": []}
        for sample in self.samples:
            if sample["at_s"] > to_s or not sample["complete"]:
                continue
            series["redis used_memory"].append((sample["at_s"], sample["redis"]))
            if len(sample["settled"]) == len(sample["pss"]):
                series["all"].append((sample["at_s"], sum(sample["pss"].values())))
            for role in sample["settled"]:
                series.setdefault(role, []).append((sample["at_s"], sample["pss"].get(role, 0)))
        return {name: level(points, to_s / 2) for name, points in series.items()}


def _bytes_of(path: Path) -> int:
    """Bytes of a file with what lies beside it (SQLite's log), or of everything in a folder."""
    files = path.rglob("*") if path.is_dir() else path.parent.glob(path.name + "*")
    total = 0
    for file in files:
        try:
            total += file.stat().st_size
        except FileNotFoundError:  # sealed or checkpointed away meanwhile
            continue
    return total


def plot(result: dict[str, Any], title: str) -> str:
    """A run's samples as an SVG over the engine's hours; kills are thin vertical lines."""
    speed = result["speed"]
    samples = [s for s in result["samples"] if s["complete"]]

    def series(value: Callable[[dict[str, Any]], float]) -> list[tuple[float, float]]:
        return [(s["at_s"] * speed / 3_600, value(s)) for s in samples]

    def key(name: str, unit: float = 1.0) -> list[tuple[float, float]]:
        return series(lambda s: s[name] / unit)

    names = sorted({role for s in samples for role in s["pss"]})
    panels = [
        Panel("Memory by process (PSS)", "MiB", {r: series(lambda s, r=r: s["pss"].get(r, 0) / MIB) for r in names}),  # type: ignore[misc]
        Panel("Redis used_memory", "MiB", {"used": key("redis", MIB)}),
        Panel("Journal kept in Redis", "entries", {"both shards": key("journal")}),
        Panel("Orders in shard memory", "orders", {"all": key("orders"), "open": key("open_orders")}),
        Panel("Idempotency keys", "keys", {"remembered": key("dedupe")}),
        Panel("Dedupe window", "h", {"reaches back": key("dedupe_window_h")}),
        Panel("Kept for good", "MiB", {"archive": key("archive_bytes", MIB), "index": key("index_bytes", MIB)}),
        Panel("Lag behind the journal", "entries", {"archive": key("archive_lag"), "index": key("index_lag")}),
    ]
    marks = [kill["at_s"] * speed / 3_600 for kill in result["kills"]]
    return chart(title, "hours of the engine's time", panels, marks=marks)
