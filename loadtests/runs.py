"""What all parts of the benchmark share: scale, rounds, the driver, checks of every run, and what is noted beside the figures."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from rich.console import Console

from engine.journal.chain import unpack_tail
from engine.journal.keys import Keys
from loadtests.drive import DriverProcess
from loadtests.driver import Result, Run
from loadtests.figures import Figure
from loadtests.histogram import Histogram
from loadtests.servers import Engine, Server

ARCHIVED_TIMEOUT_S = 120.0


class BenchError(RuntimeError):
    """A run that must not count: wrong answers, a port that is another's, drift."""


@dataclass
class Bench:
    """One benchmark. `shrink` divides sizes (1 = full, 10 = QUICK)."""

    seed: int
    quick: bool
    folder: Path
    out: Console
    figures: dict[str, Figure] = field(default_factory=dict)
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    cpu_us: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Run -> process -> CPU microseconds per order, by round."""
    _driver: DriverProcess | None = None
    _runs: int = 0
    _engines: dict[int, Engine] = field(default_factory=dict)

    @property
    def shrink(self) -> int:
        return 10 if self.quick else 1

    @property
    def rounds(self) -> int:
        return 3 if self.quick else 5

    @property
    def seconds(self) -> float:
        """Measured seconds of one run."""
        return 2.0 if self.quick else 5.0

    @property
    def warmup_s(self) -> float:
        return 0.5 if self.quick else 1.0

    @property
    def driver(self) -> DriverProcess:
        if self._driver is None:
            self._driver = DriverProcess()
        return self._driver

    def engine(self, shards: int) -> Engine:
        """The engine with that many shards and one gateway; started at its first use, then shared by the parts."""
        found = self._engines.get(shards)
        if found is None:
            self.say(f"starting an engine with {shards} shard{'s' if shards > 1 else ''}")
            found = Engine(
                f"engine{shards}",
                self.folder / f"engine{shards}",
                shards=shards,
                # The embedded server fsyncs always; one of the runs turns that off on purpose, which shards refuse otherwise.
                env={"QM_DURABILITY": "unverified"},
            )
            try:
                found.start()
            except BaseException:
                found.stop()
                raise
            self._engines[shards] = found
        return found

    def acknowledged(self, engine: Engine) -> Path:
        """File of all orders that an engine acknowledged."""
        return self.folder / f"{engine.name}.ids"

    def finish_engines(self) -> None:
        """All parts have run on them: audit all at once, every order they acknowledged included, and stop them.

        Raises BenchError naming each engine with drift.
        """
        audits: list[tuple[str, subprocess.Popen[str]]] = []
        problems: list[str] = []
        try:
            for engine in self._engines.values():
                audits.append((engine.name, start_audit(engine, [self.acknowledged(engine)], folder=self.folder)))
            for name, audit in audits:
                try:
                    found = audited(name, audit).get("acknowledged", 0)
                    self.say(f"verify: drift 0 on {name}, {found:,} acknowledged orders present")
                except BenchError as error:
                    problems.append(str(error))
        finally:
            for _, audit in audits:
                audit.kill()  # only one that was not waited for still runs
            self.stop_engines()
        if problems:
            raise BenchError("; ".join(problems))

    def stop_engines(self) -> None:
        while self._engines:
            self._engines.popitem()[1].stop()

    def close(self) -> None:
        self.stop_engines()
        if self._driver is not None:
            self._driver.close()

    def say(self, text: str) -> None:
        self.out.print(f"[dim]{text}[/]", highlight=False)

    def note(self, key: str, **facts: Any) -> None:
        """Keep what stands behind a figure, and show it."""
        self.notes.setdefault(key, {}).update(facts)
        shown = ", ".join(f"{name} {_text(value)}" for name, value in facts.items())
        self.say(f"{key}: {shown}")

    def warm(self, server: Server, pool: Path, *, connections: int = 64) -> None:
        """Load that does not count: whatever is built at the first request is built after it."""
        self._runs += 1
        run = Run(
            ports=server.ports,
            pool=str(pool),
            id_prefix=f"warm-{self._runs}-",
            connections=connections,
            duration_s=1.0 if self.quick else 2.0,
            warmup_s=0.0,
        )
        self.driver.run(run)

    def drive(
        self,
        server: Server,
        pool: Path,
        *,
        label: str,
        connections: int = 64,
        allowed: Iterable[str] = (),
        record: Path | None = None,
        **more: Any,
    ) -> Result:
        """One run against one server, checked: its own port, no error but the allowed codes, nothing unknown or missed."""
        for engine in self._engines.values():
            wait_archived(engine)
        server.check()
        self._runs += 1
        run = Run(
            ports=server.ports,
            pool=str(pool),
            id_prefix=f"{label}-{self._runs}-",
            connections=connections,
            duration_s=more.pop("duration_s", self.seconds),
            warmup_s=self.warmup_s,
            seed=self.seed,
            record=str(record) if record else None,
            **more,
        )
        before = server.cpu()
        result = self.driver.run(run)
        after = server.cpu()
        server.check()
        wrong = {code: count for code, count in result.by_code.items() if code not in set(allowed)}
        if wrong or result.unknown or result.missed:
            raise BenchError(
                f"{label} on {server.name}: {wrong}, {result.unknown} unanswered, {result.missed} never sent; "
                f"{server.log_end()[-800:]}"
            )
        if not result.requests:
            raise BenchError(f"{label} on {server.name}: nothing was answered; {server.log_end()[-800:]}")
        answered = max(1, result.acknowledged + sum(result.by_code.values()))
        spent = self.cpu_us.setdefault(label, {})
        for role, seconds in after.items():
            spent.setdefault(role, []).append((seconds - before.get(role, 0.0)) / answered * 1e6)
        spent.setdefault("driver", []).append(result.cpu_s / answered * 1e6)
        return result


def wait_archived(engine: Engine) -> None:
    """Until the archiver has taken what the last run left: it lets orders go first, and must not take from the next run's time."""
    deadline = time.monotonic() + ARCHIVED_TIMEOUT_S
    with redis.Redis.from_url(engine.redis_url) as client:
        for shard in range(engine.shards):
            keys = Keys(shard)
            tail = client.hget(keys.meta, "t")
            while tail is not None and int(client.hget(keys.archive, "i") or 0) < unpack_tail(tail).seq:
                if time.monotonic() > deadline:
                    raise BenchError(f"{engine.name}: the index of shard {shard} does not get level")
                time.sleep(0.1)


def p50_ms(result: Result) -> float:
    return Histogram.unpacked(result.latency).percentile_us(50) / 1_000


def verify(engine: Engine, acknowledged: Sequence[Path], *, folder: Path) -> dict[str, Any]:
    """`quartermaster verify` as a command of its own; raises BenchError on drift or a lost acknowledgement."""
    return audited(engine.name, start_audit(engine, acknowledged, folder=folder))


def start_audit(engine: Engine, acknowledged: Sequence[Path], *, folder: Path) -> subprocess.Popen[str]:
    ids = folder / f"{engine.name}.looked-for"
    with ids.open("wb") as out:
        for path in acknowledged:
            if path.exists():
                out.write(path.read_bytes())
    command = [*quartermaster(), "verify", "--data-dir", str(engine.data_dir), "--acknowledged", str(ids), "--json"]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def audited(name: str, audit: subprocess.Popen[str]) -> dict[str, Any]:
    """The report of an audit that was started, once it has ended."""
    said, problems = audit.communicate()
    if audit.returncode not in (0, 1):
        raise BenchError(f"verify of {name} could not be done: {(problems or said)[-2_000:]}")
    report: dict[str, Any] = json.loads(said)
    if report["drift_count"]:
        raise BenchError(f"verify of {name}: drift {report['drift_count']}: {json.dumps(report['drift'][:5])}")
    return report


async def oversold(engine: Engine) -> int:
    """Positions with more promised than lies on the shelf, asked of the live shards."""
    from engine.cli.connect import connected, engine_settings
    from engine.cli.verify import ask_shard

    count = 0
    async with connected(engine_settings(engine.data_dir, None)) as live:
        for shard in live.cluster.shards:
            ask, cursor = ask_shard(live.cluster, shard), ""
            while True:
                page = await ask("node", cursor, 5_000)
                count += sum(1 for row in page.rows if row[2] < row[3] + row[4])
                cursor = page.cursor
                if not cursor:
                    break
    return count


def shard_facts(engine: Engine, shard: int) -> dict[str, Any]:
    """What a shard says of itself (`quartermaster status`)."""
    command = [*quartermaster(), "status", "--data-dir", str(engine.data_dir), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise BenchError(f"status of {engine.name} could not be asked: {done.stderr[-1_000:]}")
    for facts in json.loads(done.stdout)["shards"]:
        if facts["shard"] == shard:
            if "problem" in facts:
                raise BenchError(f"shard {shard} of {engine.name}: {facts['problem']}")
            return dict(facts)
    raise BenchError(f"{engine.name} has no shard {shard}")


def quartermaster() -> list[str]:
    """The command, run by this interpreter."""
    return [sys.executable, "-c", "from engine.cli.main import main; main()"]


def _text(value: Any) -> str:
    if isinstance(value, Figure):
        return f"{value.value:.4g} [{value.low:.4g}-{value.high:.4g}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
