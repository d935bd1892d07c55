"""A day of traffic in an hour, with a kill -9 of a random process each minute: `python -m loadtests.chaos_day`.

A real `quartermaster up` (2 shards, a gateway, a solver, the archiver, the embedded server) whose clock runs `hours / minutes` times as
fast, so that holds end, orders close, capacity days and the dedupe window pass as in a day. The storefront reserves, pays, allocates,
cancels, has legs released, accepted, rejected, picked, shipped and delivered, receives, sells in stores, counts, imports; every request keeps
its idempotency key until it is answered. Once, at half-time, every process is killed at once and the command is started again.

Then everything must come to rest, and: drift 0 (`quartermaster verify`), each acknowledged order there exactly once, nothing oversold
and every shelf as in the storefront's own books, every order gone from memory, the high water of memory no higher in the second half, and an index rebuilt from
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
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.pace import REAL, Pace
from loadtests.chaos_checks import check_acknowledged, compare_books, compare_indexes, positions, rebuild_index
from loadtests.chaos_processes import kill_one
from loadtests.chaos_traffic import Shop
from loadtests.chaos_watch import MIB, Level, Watch, plot
from loadtests.client import Client
from loadtests.figures import machine
from loadtests.loader import load_network
from loadtests.network import Network, NetworkSpec, build_network
from loadtests.runs import BenchError, verify
from loadtests.servers import Engine, stop_on_sigterm

RESULTS = Path(__file__).parent / "results"
SHARDS = 2
LINE_S = 60.0
DEDUPE_MAX = 40_000
"""Keys a shard remembers on a chaos day. Two engine hours of them at the default rate, so that the window is full and moves from then on."""
SOLVER_DEADLINE_MS = 40
WHOLE_S = 120.0
DRAIN_S = 420.0
REST_S = 600.0
FLAT_MINUTES = 30.0
"""A chaos day shorter than this says nothing about memory: it is shown, not judged."""


@dataclass(frozen=True)
class Plan:
    """What one run is to be. Times are the machine's unless they say otherwise."""

    name: str
    """Of its two files, `NAME.json` and `NAME.svg`."""
    title: str
    minutes: float
    hours: float
    """Of the engine's time, that pass meanwhile."""
    rate_per_s: float
    seed: int = 1
    kill_every_s: float = 0.0
    """0 = nobody is killed."""
    dedupe_max: int = 5_000_000
    journal_retained_entries: int = 20_000
    """By a shard, to look back; the soak keeps fewer, so that this window turns over too."""
    sample_s: float = 10.0
    flat: bool = True
    """Whether memory that grows fails the run."""
    growth_max: float = 0.10
    """Growth of the high water of memory, second half over first, that still counts as flat."""

    @property
    def seconds(self) -> float:
        return self.minutes * 60.0

    @property
    def speed(self) -> int:
        """How many times as fast the engine's clock runs."""
        return max(1, round(self.hours * 60 / self.minutes))


class Day:
    """One run."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.pace = REAL
        self.engine = Engine(plan.name, folder / "data", shards=SHARDS)
        self.watch = Watch(self.engine, SHARDS)
        self.rng = random.Random(plan.seed)
        self.kills: list[dict[str, Any]] = []
        self.failures: list[str] = []

    def say(self, text: str) -> None:
        print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)

    def require(self, holds: bool, what: str) -> None:
        self.say(("holds: " if holds else "DOES NOT HOLD: ") + what)
        if not holds:
            self.failures.append(what)

    # -- the day --------------------------------------------------------------------------------------------------

    async def run(self) -> dict[str, Any]:
        plan = self.plan
        network = build_network(
            NetworkSpec(
                seed=plan.seed,
                warehouses=10,
                stores=50,
                skus=2_000,
                orders=round(plan.rate_per_s * plan.seconds),
                units_per_order=3.1,
                coverage=1.2,
                kit_share=0.01,
                warehouse_carry=0.7,
                store_carry=0.3,
            )
        )
        try:
            await self._set_up(network)
            engine = self.engine
            await asyncio.to_thread(engine.start)
            async with Client(engine.url, engine.key, connections=128, retries=0, timeout_s=20.0) as client:
                shop = Shop(network, client, self.pace, rate_per_s=plan.rate_per_s, seed=plan.seed)
                self.say(
                    f"{len(network.nodes)} nodes, {len(network.stock.node):,} positions; {plan.rate_per_s:g} orders/s for "
                    f"{plan.minutes:g} minutes, the clock {self.pace.speed} times as fast"
                )
                self.watch.start()
                playing = asyncio.create_task(shop.play())
                beside = [
                    asyncio.create_task(self.watch.sample_forever(shop, every_s=plan.sample_s)),
                    asyncio.create_task(self._report_forever(shop)),
                ]
                await self._kill_until_the_end(shop, client)
                shop.stop()
                await playing
                return await self._judge(shop, beside)
        finally:
            await asyncio.to_thread(self.engine.stop)

    async def _set_up(self, network: Network) -> None:
        """Fill the engine in real time, stop it, and let its clock run from now on: keys that carry their time are not old at once."""
        await asyncio.to_thread(self.engine.start)
        async with Client(self.engine.url, self.engine.key) as loader:
            await load_network(loader, network)
        await asyncio.to_thread(self.engine.stop)
        plan = self.plan
        self.pace = pace = Pace(plan.speed, time.time_ns() // 1_000_000)
        settings = {
            "QM_CLOCK_SPEED": pace.speed,
            "QM_CLOCK_SINCE_MS": pace.since_ms,
            "QM_DEDUPE_MAX": plan.dedupe_max,
            "QM_JOURNAL_RETAINED_ENTRIES": plan.journal_retained_entries,
            "QM_SOLVER_DEADLINE_MS": SOLVER_DEADLINE_MS * pace.speed,  # in the engine's time, like every instant
            "QM_ARCHIVE_SEAL_S": 30,
        }
        env = {name: str(value) for name, value in settings.items()}
        self.engine = Engine(plan.name, self.folder / "data", shards=SHARDS, env=env)
        self.watch = Watch(self.engine, SHARDS)

    async def _kill_until_the_end(self, shop: Shop, client: Client) -> None:
        plan, watch = self.plan, self.watch
        due, halved = plan.kill_every_s, False
        while plan.kill_every_s and due < plan.seconds - 20:
            await asyncio.sleep(max(0.0, due - watch.now_s()))
            if not halved and watch.now_s() > plan.seconds / 2:
                halved = True
                await self._kill_everything(client)
            else:
                await self._kill_someone()
            due += plan.kill_every_s
        await asyncio.sleep(max(0.0, plan.seconds - watch.now_s()))

    async def _kill_someone(self) -> None:
        known = await self.watch.roles()
        if known is None:
            self.failures.append(f"second {self.watch.now_s():.0f}: the shards did not say who they are")
            return
        killed = await asyncio.to_thread(kill_one, known, self.rng, started=self.watch.started)
        back_s = await self.watch.whole_again(killed.role, killed.pid, within_s=WHOLE_S)
        self.kills.append({"at_s": round(killed.at_s, 1), "role": killed.role, "back_s": back_s})
        if back_s is None:
            self.failures.append(f"{killed.role} did not come back within {WHOLE_S:.0f} s")
        self.say(f"  kill -9 {killed.role} (pid {killed.pid}): whole again after {back_s} s")

    async def _kill_everything(self, client: Client) -> None:
        """As when the machine stops: every process, the server's too; then the same command on the same data."""
        at_s = self.watch.now_s()
        await asyncio.to_thread(self.engine.kill_all)
        await asyncio.to_thread(self.engine.start)
        client.move_to(self.engine.url)
        back_s = round(self.watch.now_s() - at_s, 1)
        self.kills.append({"at_s": round(at_s, 1), "role": "everything", "back_s": back_s})
        self.say(f"  kill -9 of every process, started again: ready after {back_s} s")

    async def _report_forever(self, shop: Shop) -> None:
        while True:
            await asyncio.sleep(LINE_S)
            if self.watch.samples:
                self._line(shop)

    def _line(self, shop: Shop) -> None:
        tally, last = shop.tally, self.watch.samples[-1]
        pss = " ".join(f"{role} {size // MIB}" for role, size in sorted(last["pss"].items()))
        hours = self.watch.now_s() * self.pace.speed / 3_600
        self.say(
            f"{hours:5.1f} h: {tally.drawn:,} orders, {tally.acknowledged:,} acknowledged, {sum(tally.refused.values()):,} refused, "
            f"{tally.ended:,} ended; unknown {tally.unknown:,}, resolved with the same key {tally.resolved:,}, later {tally.later:,}, "
            f"unexpected {sum(tally.unexpected.values())}; oversold {last['oversold']}; open {last['open_orders']:,} of "
            f"{last['orders']:,}, keys {last['dedupe']:,}; redis {last['redis'] / MIB:.0f} MiB, lag archive {last['archive_lag']:,} "
            f"index {last['index_lag']:,}; PSS MiB {pss}"
        )

    # -- judging --------------------------------------------------------------------------------------------------

    async def _judge(self, shop: Shop, beside: list[asyncio.Task[None]]) -> dict[str, Any]:
        engine, tally = self.engine, shop.tally
        ended_s = self.watch.now_s()
        self.say("no more orders: everything comes to its end")
        self.require(await shop.drain(within_s=DRAIN_S), f"every order came to its end ({shop.in_flight} have not)")
        at_rest = await self._rest()
        for task in beside:
            task.cancel()
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
        try:
            report = await asyncio.to_thread(verify, engine, [], folder=self.folder)
            self.require(True, f"drift {report['drift_count']}")
        except BenchError as error:
            report = {"drift_count": None, "seconds": None}
            self.require(False, str(error))
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
        memory = self._judge_memory(ended_s)
        return {
            "commit": _commit(),
            "machine": machine(),
            "seed": self.plan.seed,
            "minutes": self.plan.minutes,
            "hours": self.plan.hours,
            "speed": self.pace.speed,
            "rate_per_s": self.plan.rate_per_s,
            "dedupe_max_per_shard": self.plan.dedupe_max,
            "journal_retained_entries": self.plan.journal_retained_entries,
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
            "memory": memory,
            "samples": [{k: v for k, v in sample.items() if k != "settled"} for sample in self.watch.samples],
        }

    async def _rest(self) -> bool:
        """Until the index has everything, nothing is open and nothing is written any more."""
        deadline = time.monotonic() + REST_S
        before: list[int] = []
        while time.monotonic() < deadline:
            status = await self.watch.status()
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

    def _judge_memory(self, ended_s: float) -> dict[str, dict[str, float]]:
        """Memory during the traffic: the shards', all together, and the server's must be flat."""
        plan = self.plan
        found = self.watch.levels(ended_s)
        for name in ("all", "redis used_memory", *(f"shard-{n}" for n in range(SHARDS))):
            seen = found.get(name, Level(0.0, 0.0, 0))
            text = f"memory of {name}: high water {seen.first / MIB:.0f} MiB in the first half, {seen.second / MIB:.0f} in the second"
            if plan.flat:
                self.require(seen.points >= 3 and seen.growth <= plan.growth_max, f"{text} ({seen.growth:+.1%})")
            else:
                self.say(f"not judged in so short a run: {text}")
        return {
            name: {
                "first_mib": round(seen.first / MIB, 1),
                "second_mib": round(seen.second / MIB, 1),
                "growth_share": round(seen.growth, 4),
                "points": seen.points,
            }
            for name, seen in found.items()
        }


def _commit() -> str:
    here = Path(__file__).parent
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=here)
    return done.stdout.strip() or "unknown"


def as_text(result: dict[str, Any]) -> str:
    """JSON with a line for each sample and each kill: hundreds of them are kept with the sources."""
    lists = {name: result[name] for name in ("kills", "samples")}
    head = json.dumps({name: value for name, value in result.items() if name not in lists}, indent=1)
    tails = [f' "{name}": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n ]" for name, rows in lists.items()]
    return ",\n".join([head[: head.rindex("\n")], *tails]) + "\n}\n"


def run(plan: Plan, *, out: Path, keep: bool) -> None:
    """Play a plan in a temporary folder, write its two files, and exit 0 only if all holds."""
    stop_on_sigterm()
    out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"qm-{plan.name.replace('_', '-')}-"))
    day = Day(plan, folder)
    try:
        result = asyncio.run(day.run())
    finally:
        if keep:
            print(f"kept {folder}", flush=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    (out / f"{plan.name}.json").write_text(as_text(result))
    (out / f"{plan.name}.svg").write_text(plot(result, plan.title))
    day.say("everything holds" if result["holds"] else f"{len(day.failures)} things do not hold")
    sys.exit(0 if result["holds"] else 1)


def arguments_of(prog: str, about: str | None, *, minutes: float, hours: float, rate: float) -> argparse.ArgumentParser:
    """The options that every such run has."""
    parser = argparse.ArgumentParser(
        prog=f"python -m loadtests.{prog}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=minutes, help=f"real minutes of traffic (default {minutes:g})")
    parser.add_argument(
        "--hours", type=float, default=hours, help=f"hours of the engine's time that pass meanwhile (default {hours:g})"
    )
    parser.add_argument("--rate", type=float, default=rate, help=f"orders a real second (default {rate:g})")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"folder of {prog}.json and {prog}.svg")
    parser.add_argument("--keep", action="store_true", help="keep the data folder, and say where it is")
    return parser


def main() -> None:
    parser = arguments_of("chaos_day", __doc__, minutes=60.0, hours=24.0, rate=30.0)
    parser.add_argument("--kill-every-s", type=float, default=60.0, help="real seconds between kills (default 60)")
    arguments = parser.parse_args()
    if arguments.minutes <= 0 or arguments.rate <= 0 or arguments.kill_every_s <= 0:
        parser.error("--minutes, --rate and --kill-every-s must be above 0")
    plan = Plan(
        name="chaos_day",
        title=f"{arguments.hours:g} hours in {arguments.minutes:g} minutes, a kill -9 every {arguments.kill_every_s:g} s (vertical lines)",
        minutes=arguments.minutes,
        hours=arguments.hours,
        rate_per_s=arguments.rate,
        seed=arguments.seed,
        kill_every_s=arguments.kill_every_s,
        dedupe_max=DEDUPE_MAX,
        flat=arguments.minutes >= FLAT_MINUTES,
    )
    run(plan, out=arguments.out, keep=arguments.keep)


if __name__ == "__main__":
    main()
