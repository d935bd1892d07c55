"""`quartermaster verify`: the books against the live shards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from engine.cli.connect import Connected, connected, engine_settings, give_up
from engine.client.cluster import Cluster
from engine.domain.commands import DumpPart
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import DumpReply, Problem
from engine.journal.port import Unavailable
from engine.journal.redis_journal import RedisJournal
from engine.settings import Settings
from engine.verify.acknowledged import Indexed
from engine.verify.audit import Drift, Report, audit
from engine.verify.pages import Ask, Page

if TYPE_CHECKING:
    from engine.archive.reader import IndexReader

SHOW_PROGRESS_AFTER_S = 2.0
ASK_TIMEOUT_S = 30.0
ASK_RETRIES_S = 60.0
ACKNOWLEDGED_MAX = 20_000_000
DRIFT_SHOWN = 50
_out = Console()


def verify(
    data_dir: Annotated[Path | None, typer.Option(help="Data folder of the running engine.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Server of your own instead (else QM_REDIS_URL).")] = None,
    acknowledged: Annotated[
        Path | None, typer.Option(help="File of order ids, one a line: each must be there exactly once.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check that every position, order and hold is what the journal says.

    Reads the journals of all shards, checks their hash chains, adds everything up in a second, independent model, and compares
    each number with the live shards while they go on working. Prints `drift 0`, or each number that differs with both values
    and the newest entries behind it. Changes nothing.

    An acknowledged order that came to its end has left its shard: where the journal no longer says so, the archive's index is asked
    (QM_INDEX_URL, else index.db in the data folder). Where that cannot be read, such orders are not checked, and not lost.

    Exit code: 0 = no drift, 1 = drift, 3 = no engine to ask, or no drift but something could not be checked.

    Example: quartermaster verify --data-dir ./data --acknowledged acknowledged.txt
    """
    ids = None if acknowledged is None else _read_ids(acknowledged)
    report = asyncio.run(_verify(engine_settings(data_dir, redis_url), ids, quiet=as_json))
    if as_json:
        typer.echo(msgspec.json.encode(report))
    else:
        show(report)
    raise typer.Exit(1 if report.drift_count else 3 if report.not_checked else 0)


def _read_ids(path: Path) -> set[str]:
    """Order ids of a file; empty lines do not count."""
    try:
        with path.open(encoding="utf-8") as file:
            ids = {line.strip() for line in file}
    except (OSError, UnicodeDecodeError) as error:
        give_up(f"{path} cannot be read: {error}", "--acknowledged takes a text file with one order id a line")
    ids.discard("")
    if len(ids) > ACKNOWLEDGED_MAX:
        give_up(f"{path} has {len(ids):,} ids", f"at most {ACKNOWLEDGED_MAX:,} fit one run: split the file")
    return ids


async def _verify(settings: Settings, acknowledged: set[str] | None, *, quiet: bool) -> Report:
    async with connected(settings) as engine:
        return await verify_cluster(engine, settings, acknowledged=acknowledged, quiet=quiet)


async def verify_cluster(
    engine: Connected, settings: Settings, *, acknowledged: set[str] | None = None, quiet: bool = False
) -> Report:
    """Audit a running engine; a progress line appears where it takes longer than two seconds, unless `quiet`."""
    journals: dict[int, RedisJournal] = {}
    index = Index(settings)

    def open_journal(shard: int) -> RedisJournal:
        journals[shard] = RedisJournal(engine.redis_url, shard, durability="unverified")
        return journals[shard]

    try:
        with _Line(quiet=quiet) as line:
            return await audit(
                list(engine.cluster.shards),
                open_journal,
                lambda shard: ask_shard(engine.cluster, shard),
                engine.cluster.catalog,
                acknowledged=acknowledged,
                closed_orders=index,
                chain_only=(CONTROL_SHARD,),
                ended=tuple(engine.cluster.catalog.placement.ended),
                progress=line.update,
            )
    finally:
        for journal in journals.values():
            await journal.close()
        index.close()


class Index:
    """The archive's index, connected to once it is asked."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reader: IndexReader | None = None

    def _open(self) -> IndexReader:
        if self._reader is None:
            from engine.archive.places import index_url  # not above: other commands need nothing of SQLAlchemy
            from engine.archive.reader import IndexReader

            try:
                self._reader = IndexReader(index_url(self._settings), readers=1)
            except ValueError as error:
                raise Unavailable(str(error)) from error
        return self._reader

    def indexed(self) -> dict[int, Indexed]:
        return {one.shard: Indexed(one.seq, one.is_whole) for one in self._open().as_of()}

    def closed(self, order_ids: Sequence[str]) -> list[tuple[str, int]]:
        return self._open().closed(order_ids)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


def ask_shard(cluster: Cluster, shard: int) -> Ask:
    """Pages of one shard's dump. A shard that is restarting is asked again for a minute."""

    async def ask(kind: str, cursor: str, limit: int) -> Page:
        deadline = time.monotonic() + ASK_RETRIES_S
        while True:
            reply = await cluster.ask(shard, DumpPart(kind, cursor, limit), timeout_s=ASK_TIMEOUT_S)
            if isinstance(reply, DumpReply):
                return Page(reply.rows, reply.cursor, reply.seq)
            if not isinstance(reply, Problem) or time.monotonic() >= deadline:
                give_up(f"shard {shard} does not show its {kind} rows: {reply}", "see its log, or try again")
            await asyncio.sleep(0.2)

    return ask


class _Line:
    """What is being done, shown once it has taken two seconds."""

    def __init__(self, *, quiet: bool) -> None:
        self._started = time.monotonic()
        self._quiet = quiet
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, what: str, done: int, total: int | None) -> None:
        if self._progress is None:
            if self._quiet or time.monotonic() - self._started < SHOW_PROGRESS_AFTER_S:
                return
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task("")
            self._progress.start()
        of = f" of {total:,}" if total is not None else ""
        self._progress.update(self._task, description=f"{what}: {done:,}{of}", completed=done, total=total)


def show(report: Report) -> None:
    """The report for a person."""
    for drift in report.drift[:DRIFT_SHOWN]:
        _show_drift(drift)
    hidden = report.drift_count - min(len(report.drift), DRIFT_SHOWN)
    if hidden > 0:
        _out.print(f"[dim]and {hidden:,} more; --json lists the first {len(report.drift):,}[/]")
    for one in report.shards:
        base = (
            "from the first entry" if one.first_seq == 1 else f"from {one.parts} snapshots and entry {one.first_seq} on"
        )
        if one.shard == CONTROL_SHARD:
            _out.print(
                f"control: {one.entries:,} entries, chain unbroken" if not one.drift_count else "control: see above"
            )
            continue
        _out.print(
            f"shard {one.shard}: {one.entries:,} entries {base}; {one.positions:,} positions, {one.orders:,} orders, "
            f"{one.holds:,} open holds, {one.foreign_legs:,} legs held for other shards, {one.days:,} days of capacity, "
            f"{one.inbound:,} inbound records compared",
            highlight=False,
            soft_wrap=True,
        )
    if report.acknowledged is not None:
        live, closed, doubt = report.acknowledged_live, report.acknowledged_closed, report.acknowledged_in_doubt
        wrong = report.acknowledged - live - closed - doubt
        _out.print(
            f"acknowledged orders: {report.acknowledged:,} looked for, {live:,} live, {closed:,} closed, "
            f"{wrong:,} not there exactly once",
            highlight=False,
            soft_wrap=True,
        )
    for sentence in report.not_checked:
        _out.print(f"[yellow]not checked:[/] {escape(sentence)}", highlight=False, soft_wrap=True)
    style = "bold green" if report.drift_count == 0 else "bold red"
    _out.print(f"[{style}]drift {report.drift_count:,}[/] ({report.seconds} s)", highlight=False)


def _show_drift(drift: Drift) -> None:
    where = f"shard {drift.shard}" if drift.shard >= 0 else "all shards"
    _out.print(f"[red]{drift.kind}[/] {drift.name} ({where}, entry {drift.seq})", highlight=False)
    expected, found = ("its records say", "it states") if drift.kind == "entry" else ("the journal says", "found")
    _out.print(f"  {expected + ':':18}{drift.booked}", highlight=False)
    _out.print(f"  {found + ':':18}{drift.live}", highlight=False)
    for cause in drift.causes:
        _out.print(f"  [dim]entry {cause.seq}: {cause.text}[/]", highlight=False)
