"""`quartermaster demo --story`: the whole point in about three minutes, scene by scene, each one live and checked."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from engine.bootstrap import Stack
    from engine.settings import Settings
    from loadtests.story import Audited, Scene, Setting, Stage

WIDTH_MAX = 100
STORY_S = 180.0
PAUSE_MAX_S = 22.0
ORDERS_PER_RATE = 10
"""Orders of the first scene, for each order a second of the load under kill -9."""
LOAD_MAX_PER_S = 60.0
LOG_LINES_SHOWN = 20
CONNECTIONS = 256
"""Of the storefront to the gateway; shoppers beyond that wait for one."""


@dataclass(frozen=True)
class Telling:
    """How the story is told."""

    seed: int
    node_count: int
    rate_per_s: float
    duration_s: float
    pause: bool
    shoppers: int = 500


class Screen:
    """Shows the story (loadtests.story.Teller): wrapped text, plain tables, a mark for every fact, with or without colours."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self.scenes: list[tuple[str, list[tuple[bool, str]]]] = []
        """(title, facts) of every scene so far."""

    def scene(self, title: str) -> None:
        self.scenes.append((title, []))
        self._out.print()
        self._out.print(Text(f"{len(self.scenes)}. {title}", style="bold cyan"))

    def say(self, text: str) -> None:
        self._out.print(Padding(Text(text), (0, 0, 0, 3), expand=False))

    def dim(self, text: str) -> None:
        """A step of the start or the end."""
        self._out.print(Text(text, style="dim"))

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]], *, strong: int = -1) -> None:
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for n, head in enumerate(heads):
            figures = n > 0 and all(row[n][:1] in "$-0123456789" for row in rows)
            table.add_column(head, justify="right" if figures else "left", overflow="fold")
        for n, row in enumerate(rows):
            table.add_row(*map(Text, row), style="bold green" if n == strong else "")
        self._out.print(Padding(table, (0, 0, 0, 3), expand=False))

    def check(self, held: bool, text: str) -> None:
        self.scenes[-1][1].append((held, text))
        mark, style = ("ok   ", "green") if held else ("FAILED ", "bold red")
        self._out.print(Padding(Text.assemble((mark, style), text), (0, 0, 0, 3), expand=False))

    def summary(self, facts: Sequence[tuple[bool, str]], seconds: float) -> bool:
        """The last page; whether everything held."""
        self._out.print()
        self._out.print(Text(f"What was shown, in {seconds:.0f} s", style="bold cyan"))
        for n, (title, found) in enumerate(self.scenes, 1):
            held = bool(found) and all(one for one, _ in found)
            mark, style = ("ok   ", "green") if held else ("FAILED ", "bold red")
            self._out.print(Padding(Text.assemble((mark, style), f"{n}. {title}"), (0, 0, 0, 3), expand=False))
        for held, text in facts:
            self._out.print(Padding(Text(text, style="green" if held else "bold red"), (0, 0, 0, 3), expand=False))
        scenes = all(found and all(one for one, _ in found) for _, found in self.scenes)
        return scenes and all(held for held, _ in facts)


async def tell_story(telling: Telling, settings: Settings) -> int:
    """Start an engine on an empty folder and tell the story on it. Exit code: 0 = every fact of every scene held."""
    from loadtests.story import prepare

    console = Console(file=sys.stdout)
    screen = Screen(Console(file=sys.stdout, width=min(console.width, WIDTH_MAX)))
    stop = asyncio.Event()
    _take_signals(stop)
    # Some seconds of work, while the engine starts.
    preparing = asyncio.create_task(
        asyncio.to_thread(
            prepare,
            seed=telling.seed,
            node_count=telling.node_count,
            orders=round(telling.rate_per_s * ORDERS_PER_RATE),
        )
    )
    log = settings.data_dir.parent / "story.log"
    with log.open("w", encoding="utf-8") as aside, redirect_stdout(aside), redirect_stderr(aside):
        # Ray repeats on the terminal what its processes say, a killed one above all: that is for the log here.
        held = await _started(telling, settings, screen, preparing, stop)
    if not held:
        screen.dim("what the processes said last:")
        for line in log.read_text("utf-8", errors="replace").splitlines()[-LOG_LINES_SHOWN:]:
            screen.dim(line[:400])
    return 0 if held else 1


async def _started(
    telling: Telling, settings: Settings, screen: Screen, preparing: asyncio.Task[Setting], stop: asyncio.Event
) -> bool:
    """An engine for the story; whether everything held."""
    from engine.bootstrap import StartError, running_stack

    try:
        async with running_stack(settings, say=screen.dim) as stack:
            _take_signals(stop)
            story = asyncio.create_task(_play(telling, stack, await preparing, screen))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait((story, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if story.done():
                return story.result()
            story.cancel()
            await asyncio.gather(story, return_exceptions=True)
            screen.dim("stopped before the end")
    except StartError as error:
        screen.dim(f"the story cannot begin: {error}")
    finally:
        preparing.cancel()
        await asyncio.gather(preparing, return_exceptions=True)
    return False


def _take_signals(stop: asyncio.Event) -> None:
    """Ray sets handlers of its own while it starts; ours have the last word."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)
        loop.add_signal_handler(number, stop.set)


async def _play(telling: Telling, stack: Stack, setting: Setting, screen: Screen) -> bool:
    """Fill the engine, then scene after scene; whether everything held."""
    import quartermaster_client as qm
    from loadtests.filling import fill
    from loadtests.story import Stage
    from loadtests.story_promises import kill_a_shard, last_unit, paid_without_stock
    from loadtests.story_routing import four_rules, one_split, phantom_unit, store_goes_dark
    from loadtests.transports import PlainTransport

    network = setting.network

    async def audit(acknowledged: set[str]) -> Audited:
        return await _audit(stack, acknowledged)

    async def shard_pids() -> dict[str, int]:
        pids = await stack.supervisor.pids.remote()
        return {name: pid for name, pid in pids.items() if name.startswith("shard-")}

    async with (
        aclosing(PlainTransport(connections=CONNECTIONS)) as transport,
        qm.AsyncClient(stack.base_urls[0], stack.api_key, transport=transport) as client,
    ):
        screen.dim(f"url {stack.base_urls[0]}")
        screen.dim(f"key {stack.api_key}")
        screen.dim(
            f"filling it: {len(network.nodes)} warehouses and stores in real US places, {len(network.items):,} items, "
            f"{len(network.stock.node):,} positions"
        )
        await fill(client, network)
        stage = Stage(
            client,
            stack.base_urls[0],
            stack.api_key,
            transport,
            setting,
            screen,
            run=f"S{time.time_ns() // 1_000_000_000 % 100_000:05d}",
            shoppers=telling.shoppers,
            load_per_s=min(telling.rate_per_s, LOAD_MAX_PER_S),
            shard_pids=shard_pids,
            audit=audit,
        )
        scenes = (four_rules, one_split, store_goes_dark, phantom_unit, last_unit, kill_a_shard, paid_without_stock)
        began_s = time.monotonic()
        await _scenes(telling, stage, scenes, screen, began_s)
        found = await audit(stage.acknowledged)
        facts = (
            (found.drift == 0, f"drift {found.drift}: every position, order and hold is what the journal says"),
            (found.lost == 0, f"lost acknowledgements {found.lost} (of {found.looked_for:,} looked for)"),
            *((False, f"not checked: {sentence}") for sentence in found.not_checked),
        )
        return screen.summary(facts, time.monotonic() - began_s)


async def _scenes(telling: Telling, stage: Stage, scenes: Sequence[Scene], screen: Screen, began_s: float) -> None:
    """One after the other, with time to read between them. What a scene cannot do is a fact that failed, not the end."""
    import quartermaster_client as qm

    for n, scene in enumerate(scenes, 1):
        try:
            await scene(stage)
        except (qm.QuartermasterError, LookupError, ValueError) as error:
            screen.check(False, f"the scene broke off: {type(error).__name__}: {error}")
        if telling.pause and n < len(scenes):
            left_s = began_s + telling.duration_s * n / len(scenes) - time.monotonic()
            await _read_on(min(PAUSE_MAX_S, max(0.0, left_s)))


async def _read_on(seconds: float) -> None:
    """Time to read; Enter goes on at once."""
    loop, pressed = asyncio.get_running_loop(), asyncio.Event()

    def read() -> None:
        sys.stdin.readline()
        pressed.set()

    watch = sys.stdin is not None and sys.stdin.isatty()
    if watch:
        loop.add_reader(sys.stdin, read)
    try:
        await asyncio.wait_for(pressed.wait(), seconds)
    except TimeoutError:
        return
    finally:
        if watch:
            loop.remove_reader(sys.stdin)


async def _audit(stack: Stack, acknowledged: set[str]) -> Audited:
    """`quartermaster verify` on the running engine."""
    from engine.cli.connect import connected
    from engine.cli.verify import verify_cluster
    from loadtests.story import Audited

    async with connected(stack.settings) as engine:
        report = await verify_cluster(engine, stack.settings, acknowledged=acknowledged)
    lost = sum(1 for drift in report.drift if drift.kind == "acknowledged")
    return Audited(report.drift_count - lost, lost, report.acknowledged or 0, tuple(report.not_checked))
