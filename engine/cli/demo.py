"""`quartermaster demo`: the whole engine, a generated network, storefront traffic, live in the terminal."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console

from engine.cli.demo_story import STORY_S, Telling, tell_story
from engine.cli.demo_view import View
from engine.journal.runtime import remove_runtime_dir

if TYPE_CHECKING:
    from engine.bootstrap import Stack
    from engine.settings import Settings
    from engine.verify.audit import Report
    from loadtests.storefront import Job, Stats

PORT_DEFAULT = 8080
RATE_DEFAULT = 100.0
STOP_TIMEOUT_S = 40.0
_out = Console()


def demo(
    duration: Annotated[float | None, typer.Option(min=1, help="Seconds of traffic; without it, until Ctrl-C.")] = None,
    orders: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Play the invoices of this file instead, in order.")
    ] = None,
    nodes: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Ship from the store locations of this file.")
    ] = None,
    node_count: Annotated[int, typer.Option(min=2, max=5_000, help="Nodes of the network.")] = 60,
    rate: Annotated[float, typer.Option(min=0.1, max=20_000, help="Orders a second, on average.")] = RATE_DEFAULT,
    coverage: Annotated[float, typer.Option(min=0.01, max=100, help="Stock over expected demand.")] = 1.5,
    shards: Annotated[int, typer.Option(min=1, max=64, help="Stock shards.")] = 2,
    seed: Annotated[int, typer.Option(help="Network and traffic follow from it.")] = 1,
    port: Annotated[int | None, typer.Option(help="Port of the gateway; 8080 if it is free.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Keep the data here; else it is temporary.")] = None,
    story: Annotated[
        bool, typer.Option("--story", help="Tell what it is for in seven scenes instead, about three minutes.")
    ] = False,
    pause: Annotated[bool, typer.Option(help="Leave time to read between the scenes of the story.")] = True,
) -> None:
    """Start everything and play storefront traffic in real time.

    A generated network (warehouses and stores in real US places, a skewed catalogue, two carriers) gets orders that are
    allocated, reserved, paid, cancelled, expired, picked and shipped, while stores recount their shelves. The URL and an API
    key are shown: ask it yourself meanwhile. Afterwards everything is checked: exit code 0 only if nothing was oversold, no
    number drifted from the journal, and every acknowledged order is there.

    `--story` tells an ops director the point instead, in seven scenes on the running engine: four ways to route the same orders, a
    split order and why, a store that goes dark, a phantom unit, the last unit, kill -9, a paid order without stock. Each scene is
    checked; exit code 0 only if all of them hold. `--duration` (180) is how long it takes with its pauses.

    Example: quartermaster demo --duration 20
    Example: quartermaster demo --story
    Example: quartermaster demo --orders invoices.csv --nodes stores.csv --node-count 100
    """
    if find_spec("quartermaster_client") is None:
        _out.print(
            "[red]the demo's storefront speaks through the Python client, which is not installed:[/] run "
            f"`{sys.executable} -m pip install ./clients/python` in Quartermaster's repository (`make setup` installs both)",
            soft_wrap=True,
            highlight=False,
        )
        raise typer.Exit(2)
    from loadtests.storefront import Job

    if story and (orders or nodes or data_dir):
        _out.print(
            "[red]the story has a network and a folder of its own: leave out --orders, --nodes and --data-dir[/]"
        )
        raise typer.Exit(2)
    folder = Path(tempfile.mkdtemp(prefix="qm-demo-"))
    job = Job(
        seed=seed,
        rate_per_s=rate,
        duration_s=duration,
        orders=str(orders) if orders else None,
        nodes=str(nodes) if nodes else None,
        node_count=node_count,
        coverage=coverage,
        acknowledged=str(folder / "acknowledged.txt"),
    )
    settings = _settings(data_dir or folder / "data", shards, port)
    try:
        if story:
            telling = Telling(seed, node_count, rate, duration or STORY_S, pause)
            quiet = settings.model_copy(update={"log_level": "error"})  # a killed shard is part of the story
            code = asyncio.run(tell_story(telling, quiet))
        else:
            code = asyncio.run(_demo(job, settings))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if data_dir is None and settings.runtime_dir is None:
            remove_runtime_dir(settings.data_dir)
    raise typer.Exit(code)


def _settings(data_dir: Path, shards: int, port: int | None) -> Settings:
    """Quiet logs, and a free port where the usual one is taken and none was asked for."""
    from engine.cli.up import settings_from

    chosen = port if port is not None else PORT_DEFAULT if _is_free(PORT_DEFAULT) else 0
    settings = settings_from(data_dir=data_dir, shards=shards, port=chosen)
    return settings.model_copy(update={"log_level": "warning"}) if settings.log_level == "info" else settings


def _is_free(port: int) -> bool:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class StorefrontError(Exception):
    """The storefront process said what went wrong, or ended."""


class StorefrontProcess:
    """The traffic, in a process of its own: its messages in, `go` and `stop` out."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._process: asyncio.subprocess.Process | None = None
        self.stats: Stats | None = None
        self.finished = asyncio.Event()
        self.error = ""
        self._reader: asyncio.Task[None] | None = None

    async def start(self, job: Job) -> None:
        """It prepares its network while the engine starts."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "loadtests.storefront",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is ours: it is asked to stop, and finishes what it began
            limit=1 << 22,
        )
        self._write(msgspec.json.encode(job))
        self._reader = asyncio.create_task(self._read())

    def go(self, url: str, key: str) -> None:
        self._write(msgspec.json.encode({"url": url, "key": key}))

    def stop(self) -> None:
        self._write(b'{"stop":true}')

    def _write(self, line: bytes) -> None:
        process = self._process
        if process is not None and process.stdin is not None and process.returncode is None:
            process.stdin.write(line + b"\n")

    async def _read(self) -> None:
        from loadtests.storefront import Stats

        assert self._process is not None and self._process.stdout is not None
        while line := await self._process.stdout.readline():
            message: dict[str, Any] = msgspec.json.decode(line)
            event = message["event"]
            if event in ("stats", "done"):
                self.stats = msgspec.convert(message, Stats)
                if event == "stats":
                    self._view.show(self.stats)
            elif event == "progress":
                self._view.progress(message["what"], message["done"], message["total"])
            elif event == "note":
                self._view.note(message["text"])
            elif event == "prepared":
                self._view.note(
                    f"network: {message['nodes']:,} nodes, {message['items']:,} items, {message['positions']:,} positions"
                )
            elif event == "error":
                self.error = message["text"]
        await self._process.wait()
        self.finished.set()

    async def ended(self, timeout_s: float) -> Stats:
        """Its last figures. Raises StorefrontError where it failed or does not end."""
        try:
            await asyncio.wait_for(self.finished.wait(), timeout_s)
        except TimeoutError as error:
            raise StorefrontError("the storefront does not finish") from error
        assert self._process is not None
        if self._process.returncode or self.stats is None:
            raise StorefrontError(self.error or f"the storefront ended with {self._process.returncode}")
        return self.stats

    async def kill(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)


async def _demo(job: Job, settings: Settings) -> int:
    from engine.bootstrap import StartError, running_stack

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with View(_out) as view:
        storefront = StorefrontProcess(view)
        try:
            await storefront.start(job)
            async with running_stack(settings, say=view.say) as stack:
                _take_signals(loop, stop)
                return await _play(stack, storefront, view, job, stop)
        except (StartError, StorefrontError) as error:
            view.stop_live()
            _out.print(f"[red]the demo cannot go on:[/] {error}", soft_wrap=True, highlight=False)
            return 1
        finally:
            await storefront.kill()


def _take_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Ray sets handlers of its own while it starts; the demo's have the last word."""
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)
        loop.add_signal_handler(number, stop.set)


async def _play(stack: Stack, storefront: StorefrontProcess, view: View, job: Job, stop: asyncio.Event) -> int:
    """Traffic until its end or a signal; then the audit and the summary."""
    view.ready((("url", stack.base_urls[0]), ("key", stack.api_key)))
    storefront.go(stack.base_urls[0], stack.api_key)
    waits = [asyncio.create_task(stop.wait()), asyncio.create_task(storefront.finished.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for task in waits:
        task.cancel()
    storefront.stop()
    stats = await storefront.ended(STOP_TIMEOUT_S)
    view.stop_live()
    if stop.is_set() and not stats.orders:
        view.say("stopped before the first order")
        return 1
    view.say("checking every position, order and hold against the journal")
    report = await _audit(stack, await asyncio.to_thread(_read_ids, Path(job.acknowledged)))
    lost = sum(1 for drift in report.drift if drift.kind == "acknowledged")
    for drift in report.drift[:5]:
        view.say(f"{drift.kind} {drift.name}: the journal says {drift.booked}, found {drift.live}")
    for sentence in report.not_checked:
        view.say(f"not checked: {sentence}")
    held = view.summary(stats, drift=report.drift_count - lost, lost=lost, looked_for=report.acknowledged or 0)
    if not stats.orders:
        _out.print("[red]not one order was taken[/]")
    return 0 if held and stats.orders and not report.not_checked else 1


def _read_ids(path: Path) -> set[str]:
    return set(path.read_text().split()) if path.exists() else set()


async def _audit(stack: Stack, acknowledged: set[str]) -> Report:
    """`quartermaster verify` on the running engine."""
    from engine.cli.connect import connected
    from engine.cli.verify import verify_cluster

    async with connected(stack.settings) as engine:
        return await verify_cluster(engine, stack.settings, acknowledged=acknowledged)
