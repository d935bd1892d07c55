"""A day of traffic in an hour, with a kill -9 of a random process each minute: `python -m loadtests.chaos_day`.

A real `quartermaster up` (2 shards, a gateway, a solver, the archiver, the embedded server) whose clock runs `hours / minutes` times as
fast, so that holds end, orders close, capacity days and the dedupe window pass as in a day. The storefront reserves, pays, allocates,
cancels, has legs released, accepted, rejected, picked, shipped and delivered, receives, sells in stores, counts, imports; every request keeps
its idempotency key until it is answered. Once, at half-time, every process is killed at once and the command is started again.

Then everything must come to rest, and: drift 0 (`quartermaster verify`), each acknowledged order there exactly once, nothing oversold
and every shelf as in the storefront's own books, every order gone from memory, memory flat over the second half, and an index rebuilt from
archive and journal equal to the live one, row for row. Exit code 0 only if all of it holds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from engine.pace import Pace
from loadtests.chaos_checks import (
    check_acknowledged,
    compare_books,
    compare_indexes,
    positions,
    rebuild_index,
    slope,
)
from loadtests.chaos_processes import kill_one, memory_by_role, roles
from loadtests.chaos_traffic import Shop
from loadtests.client import Client
from loadtests.figures import machine
from loadtests.loader import load_network
from loadtests.network import NetworkSpec, build_network
from loadtests.proc import alive
from loadtests.runs import quartermaster, verify
from loadtests.servers import Engine, stop_on_sigterm
from loadtests.svg_plot import Panel, chart

RESULTS = Path(__file__).parent / "results"
SHARDS = 2
SAMPLE_S = 10.0
LINE_S = 60.0
DEDUPE_MAX = 40_000
"""Keys a shard remembers. Two engine hours of them at the default rate, so that the window is full and moves from then on."""
SOLVER_DEADLINE_MS = 40
SETTLED_S = 30.0
"""How long after its start a process counts for the slope of its memory."""
WHOLE_S = 120.0
DRAIN_S = 420.0
REST_S = 600.0
MIB = 1024 * 1024
SLOPE_MAX = 0.05
"""Growth of memory an hour, over its mean, that still counts as flat."""
FLAT_MINUTES = 30.0
"""A run shorter than this says nothing about slopes: they are shown, not judged."""


class Day:
    """One run."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments = arguments
        self.folder = folder
        self.seconds = arguments.minutes * 60.0
        self.pace = Pace(max(1, round(arguments.hours * 60 / arguments.minutes)), time.time_ns() // 1_000_000)
        self.engine = Engine(
            "chaos",
            folder / "data",
            shards=SHARDS,
            env={
                "QM_CLOCK_SPEED": str(self.pace.speed),
                "QM_CLOCK_SINCE_MS": str(self.pace.since_ms),
                "QM_DEDUPE_MAX": str(DEDUPE_MAX),
                "QM_SOLVER_DEADLINE_MS": str(
                    SOLVER_DEADLINE_MS * self.pace.speed
                ),  # in the engine's time, like every instant
                "QM_ARCHIVE_SEAL_S": "30",
            },
        )
        self.rng = random.Random(arguments.seed)
        self.started = 0.0
        self.kills: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self._seen: dict[str, tuple[int, float]] = {}
        """Role -> (process id, when it was first seen)."""
        self.failures: list[str] = []

    def say(self, text: str) -> None:
        print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)

    def require(self, holds: bool, what: str) -> None:
        self.say(("holds: " if holds else "DOES NOT HOLD: ") + what)
        if not holds:
            self.failures.append(what)

    def now_s(self) -> float:
        return time.monotonic() - self.started

    # -- the day --------------------------------------------------------------------------------------------------

    async def run(self) -> dict[str, Any]:
        arguments, engine = self.arguments, self.engine
        network = build_network(
            NetworkSpec(
                seed=arguments.seed,
                warehouses=10,
                stores=50,
                skus=2_000,
                orders=round(arguments.rate * self.seconds),
                units_per_order=3.1,
                coverage=1.2,
                kit_share=0.01,
                warehouse_carry=0.7,
                store_carry=0.3,
            )
        )
        await asyncio.to_thread(engine.start)
        try:
            async with Client(engine.url, engine.key, connections=128, retries=0, timeout_s=20.0) as client:
                loader = Client(engine.url, engine.key)
                await load_network(loader, network)
                await loader.close()
                shop = Shop(network, client, self.pace, rate_per_s=arguments.rate, seed=arguments.seed)
                self.say(
                    f"{len(network.nodes)} nodes, {len(network.stock.node):,} positions; {arguments.rate:g} orders/s for "
                    f"{arguments.minutes:g} minutes, the clock {self.pace.speed} times as fast"
                )
                self.started = time.monotonic()
                playing = asyncio.create_task(shop.play())
                sampling = asyncio.create_task(self._sample_forever(shop))
                await self._kill_until_the_end(shop, client)
                shop.stop()
                await playing
                return await self._judge(shop, sampling)
        finally:
            await asyncio.to_thread(engine.stop)

    async def _kill_until_the_end(self, shop: Shop, client: Client) -> None:
        arguments = self.arguments
        due, halved = arguments.kill_every_s, False
        while due < self.seconds - 20:
            await asyncio.sleep(max(0.0, due - self.now_s()))
            if not halved and self.now_s() > self.seconds / 2:
                halved = True
                await self._kill_everything(client)
            else:
                await self._kill_someone()
            due += arguments.kill_every_s
        await asyncio.sleep(max(0.0, self.seconds - self.now_s()))

    async def _kill_someone(self) -> None:
        known = await self._roles()
        if known is None:
            self.failures.append(f"second {self.now_s():.0f}: the shards did not say who they are")
            return
        killed = await asyncio.to_thread(kill_one, known, self.rng, started=self.started)
        back_s = await self._whole_again(killed.role, killed.pid)
        self.kills.append({"at_s": round(killed.at_s, 1), "role": killed.role, "back_s": back_s})
        if back_s is None:
            self.failures.append(f"{killed.role} did not come back within {WHOLE_S:.0f} s")
        self.say(f"  kill -9 {killed.role} (pid {killed.pid}): whole again after {back_s} s")

    async def _kill_everything(self, client: Client) -> None:
        """As when the machine stops: every process, the server's too; then the same command on the same data."""
        at_s = self.now_s()
        await asyncio.to_thread(self.engine.kill_all)
        await asyncio.to_thread(self.engine.start)
        client.move_to(self.engine.url)
        back_s = round(self.now_s() - at_s, 1)
        self.kills.append({"at_s": round(at_s, 1), "role": "everything", "back_s": back_s})
        self.say(f"  kill -9 of every process, started again: ready after {back_s} s")

    async def _whole_again(self, role: str, pid: int) -> float | None:
        """Seconds until the role has a new process and the gateway is ready; None = never."""
        began = time.monotonic()
        while time.monotonic() - began < WHOLE_S:
            await asyncio.sleep(0.1)
            if not await self._ready():
                continue
            known = await self._roles()
            if known is not None and known.get(role, pid) != pid and alive(known[role]) and await self._ready():
                return round(time.monotonic() - began, 1)
        return None

    async def _ready(self) -> bool:
        async with httpx.AsyncClient(timeout=5.0) as client:
            try:
                return (await client.get(self.engine.url + "/readyz")).status_code == 200
            except httpx.HTTPError:
                return False

    async def _status(self) -> dict[str, Any] | None:
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

    async def _roles(self) -> dict[str, int] | None:
        for _ in range(20):
            status = await self._status()
            if status is not None and sum("pid" in facts for facts in status["shards"]) == SHARDS + 1:
                return roles(self.engine, status)
            await asyncio.sleep(0.5)
        return None

    # -- measuring ------------------------------------------------------------------------------------------------

    async def _sample_forever(self, shop: Shop) -> None:
        next_line = LINE_S
        while True:
            await asyncio.sleep(SAMPLE_S)
            await self._sample(shop)
            if self.now_s() >= next_line:
                next_line += LINE_S
                self._line(shop)

    async def _sample(self, shop: Shop) -> None:
        status = await self._status()
        if status is None:
            return
        shards = [facts for facts in status["shards"] if "problem" not in facts]
        known = roles(self.engine, status)
        now = self.now_s()
        for role, pid in known.items():
            if self._seen.get(role, (0, 0.0))[0] != pid:
                self._seen[role] = (pid, now)
        pss = await asyncio.to_thread(memory_by_role, self.engine, known)
        stock = [facts for facts in shards if facts["shard"] != 255]
        self.samples.append(
            {
                "at_s": round(now, 1),
                "pss": pss,
                "settled": [r for r in pss if r not in self._seen or now - self._seen[r][1] >= SETTLED_S],
                "redis": max((f.get("redis_used_bytes", 0) for f in shards), default=0),
                "complete": len(shards) == SHARDS + 1,
                "open_orders": sum(f["open_orders"] for f in stock),
                "orders": sum(f["orders"] for f in stock),
                "open_holds": sum(f["open_holds"] for f in stock),
                "dedupe": sum(f["dedupe_entries"] for f in stock),
                "archive_lag": max((f.get("archive_lag_entries", 0) for f in stock), default=0),
                "index_lag": max((f.get("index_lag_entries", 0) for f in stock), default=0),
                "acknowledged": shop.tally.acknowledged,
                "oversold": len(shop.ledger.oversold),
            }
        )

    def _line(self, shop: Shop) -> None:
        tally, last = shop.tally, self.samples[-1]
        pss = " ".join(f"{role} {size // MIB}" for role, size in sorted(last["pss"].items()))
        hours = self.now_s() * self.pace.speed / 3_600
        self.say(
            f"{hours:5.1f} h: {tally.drawn:,} orders, {tally.acknowledged:,} acknowledged, {sum(tally.refused.values()):,} refused, "
            f"{tally.ended:,} ended; unknown {tally.unknown:,}, resolved with the same key {tally.resolved:,}, later {tally.later:,}, "
            f"unexpected {sum(tally.unexpected.values())}; oversold {last['oversold']}; open {last['open_orders']:,} of "
            f"{last['orders']:,}, keys {last['dedupe']:,}; redis {last['redis'] / MIB:.0f} MiB, lag archive {last['archive_lag']:,} "
            f"index {last['index_lag']:,}; PSS MiB {pss}"
        )

    # -- judging --------------------------------------------------------------------------------------------------

    async def _judge(self, shop: Shop, sampling: asyncio.Task[None]) -> dict[str, Any]:
        engine, tally = self.engine, shop.tally
        ended_s = self.now_s()
        self.say("no more orders: everything comes to its end")
        self.require(await shop.drain(within_s=DRAIN_S), f"every order came to its end ({shop.in_flight} have not)")
        at_rest = await self._rest()
        sampling.cancel()
        self.require(at_rest, "all entries are archived and indexed, and every order has left memory")
        self.require(
            not tally.unexpected, f"no answer that nobody should see {dict(tally.unexpected)} {shop.http.examples}"
        )
        self.require(
            tally.unresolved == 0, f"every unknown outcome was resolved with the same key ({tally.unknown:,} of them)"
        )
        self.require(not shop.ledger.oversold, f"nothing oversold {dict(list(shop.ledger.oversold.items())[:3])}")
        books = compare_books(shop.ledger, await positions(engine))
        self.require(not books, f"every shelf is as in the storefront's books ({len(books)} are not) {books[:3]}")
        report = await asyncio.to_thread(verify, engine, [], folder=self.folder)
        self.require(report["drift_count"] == 0, f"drift {report['drift_count']}")
        index = f"sqlite:///{engine.data_dir.resolve() / 'index.db'}"
        lost, doubled = await asyncio.to_thread(check_acknowledged, index, shop.acknowledged)
        self.require(
            not lost and not doubled,
            f"{len(shop.acknowledged):,} acknowledged orders: {len(lost)} lost {lost[:3]}, {len(doubled)} twice {doubled[:3]}",
        )
        began = time.monotonic()
        target = self.folder / "rebuilt.db"
        archive = str(engine.data_dir.resolve() / "archive")
        sources = await rebuild_index(target, archive, engine.redis_url, range(SHARDS))
        rows, wrong = await asyncio.to_thread(compare_indexes, index, f"sqlite:///{target}")
        self.require(
            not wrong,
            f"the index rebuilt from archive and journal equals the live one: {sum(rows.values()):,} rows "
            f"({time.monotonic() - began:.0f} s); {len(wrong)} differ {wrong[:3]}",
        )
        slopes = self._slopes(ended_s)
        return {
            "commit": _commit(),
            "machine": machine(),
            "seed": self.arguments.seed,
            "minutes": self.arguments.minutes,
            "hours": self.arguments.hours,
            "speed": self.pace.speed,
            "rate_per_s": self.arguments.rate,
            "dedupe_max_per_shard": DEDUPE_MAX,
            "holds": not self.failures,
            "failures": self.failures,
            "traffic": {**asdict(tally), "refused": dict(tally.refused), "unexpected": dict(tally.unexpected)},
            "kills": self.kills,
            "verify": {name: report[name] for name in ("drift_count", "seconds")},
            "lost": len(lost),
            "doubled": len(doubled),
            "oversold": len(shop.ledger.oversold),
            "books_wrong": len(books),
            "rebuilt_rows": rows,
            "rebuilt_differences": len(wrong),
            "rebuilt_entries": {str(shard): {"archive": a, "journal": j} for shard, (a, j) in sources.items()},
            "slopes": slopes,
            "samples": self.samples,
        }

    async def _rest(self) -> bool:
        """Until the index has everything, nothing is open and nothing is written any more."""
        deadline = time.monotonic() + REST_S
        before: list[int] = []
        while time.monotonic() < deadline:
            status = await self._status()
            shards = [f for f in (status["shards"] if status else []) if "problem" not in f]
            stock = [f for f in shards if f["shard"] != 255]
            done = len(stock) == SHARDS and not sum(f["orders"] for f in stock)
            done = done and all(f.get("index_lag_entries") == 0 for f in shards)
            seqs = [f["seq"] for f in shards]
            if done and seqs == before:
                return True
            before = seqs
            await asyncio.sleep(3.0)
        return False

    def _slopes(self, ended_s: float) -> dict[str, dict[str, float]]:
        """Memory of each role, of all and of the server's data, over the second half of the traffic."""
        half = [s for s in self.samples if ended_s / 2 <= s["at_s"] <= ended_s and s["complete"]]
        series: dict[str, list[tuple[float, float]]] = {"all": [], "redis used_memory": []}
        for sample in half:
            series["redis used_memory"].append((sample["at_s"], sample["redis"]))
            if len(sample["settled"]) == len(sample["pss"]):
                series["all"].append((sample["at_s"], sum(sample["pss"].values())))
            for role in sample["settled"]:
                series.setdefault(role, []).append((sample["at_s"], sample["pss"].get(role, 0)))
        out = {}
        for name, points in series.items():
            line = slope(points)
            out[name] = {
                "mib_per_hour": round(line.per_hour / MIB, 2),
                "mean_mib": round(line.mean / MIB, 1),
                "share_per_hour": round(line.share_per_hour, 4),
                "points": len(points),
            }
        judged = self.arguments.minutes >= FLAT_MINUTES
        for name in ("all", "redis used_memory", *(f"shard-{n}" for n in range(SHARDS))):
            found = out.get(name, {})
            text = f"memory of {name}: {found.get('mib_per_hour')} MiB an hour on {found.get('mean_mib')} MiB"
            if judged:
                self.require(bool(found) and found["share_per_hour"] <= SLOPE_MAX, text)
            else:
                self.say(f"not judged in so short a run: {text}")
        return out


def plot(result: dict[str, Any]) -> str:
    """The day as an SVG."""
    samples, speed = result["samples"], result["speed"]

    def series(value: Any) -> list[tuple[float, float]]:
        return [(s["at_s"] * speed / 3_600, value(s)) for s in samples if s["complete"]]

    names = sorted({role for s in samples for role in s["pss"]})
    panels = [
        Panel("Memory by process (PSS)", "MiB", {r: series(lambda s, r=r: s["pss"].get(r, 0) / MIB) for r in names}),
        Panel("Redis used_memory", "MiB", {"used": series(lambda s: s["redis"] / MIB)}),
        Panel(
            "Orders in shard memory",
            "orders",
            {"all": series(lambda s: s["orders"]), "open": series(lambda s: s["open_orders"])},
        ),
        Panel("Idempotency keys", "keys", {"remembered": series(lambda s: s["dedupe"])}),
        Panel(
            "Lag behind the journal",
            "entries",
            {"archive": series(lambda s: s["archive_lag"]), "index": series(lambda s: s["index_lag"])},
        ),
    ]
    title = f"{result['hours']:g} hours in {result['minutes']:g} minutes, a kill -9 each minute (vertical lines)"
    return chart(
        title, "hours of the engine's time", panels, marks=[k["at_s"] * speed / 3_600 for k in result["kills"]]
    )


def _commit() -> str:
    here = Path(__file__).parent
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=here)
    return done.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtests.chaos_day", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--minutes", type=float, default=60.0, help="real minutes of traffic")
    parser.add_argument("--hours", type=float, default=24.0, help="hours of the engine's time that pass meanwhile")
    parser.add_argument("--kill-every-s", type=float, default=60.0, help="real seconds between kills")
    parser.add_argument("--rate", type=float, default=30.0, help="orders a real second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of chaos_day.json and chaos_day.svg")
    parser.add_argument("--keep", action="store_true", help="keep the data folder")
    arguments = parser.parse_args()
    stop_on_sigterm()
    folder = Path(tempfile.mkdtemp(prefix="qm-chaos-"))
    day = Day(arguments, folder)
    try:
        result = asyncio.run(day.run())
    finally:
        if arguments.keep:
            print(f"kept {folder}", flush=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "chaos_day.json").write_text(json.dumps(result, indent=1) + "\n")
    (arguments.out / "chaos_day.svg").write_text(plot(result))
    day.say("everything holds" if result["holds"] else f"{len(day.failures)} things do not hold")
    sys.exit(0 if result["holds"] else 1)


if __name__ == "__main__":
    main()
