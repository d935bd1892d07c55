"""`quartermaster up`: the whole engine in one process tree."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from engine.settings import Settings

if TYPE_CHECKING:
    from engine.bootstrap import Stack

_console = Console(stderr=True)
STILL_EVERY_S = 15.0
"""Between two signs of life of a start that takes long."""


def settings_from(**options: Any) -> Settings:
    """Settings from the environment (QM_*), overridden by what the command line says. Exits 2 with the field's name."""
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        for fault in error.errors():
            field = ".".join(str(part) for part in fault["loc"])
            _console.print(f"[red]{field}[/]: {fault['msg']}")
        raise typer.Exit(2) from error


def up(
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the journal and keys. Created if missing.")] = None,
    shards: Annotated[
        int | None, typer.Option(help="Stock shards of a new data folder; a larger number than it ever had adds some.")
    ] = None,
    gateways: Annotated[int | None, typer.Option(help="HTTP gateways, one port each.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the first gateway; 0 = any free one.")] = None,
    host: Annotated[str | None, typer.Option(help="Address that gateways listen on.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Written once all is ready: JSON with urls, key, redis_url and process ids.")
    ] = None,
) -> None:
    """Start the engine: embedded server, Ray, shards and gateways, in one process tree.

    State lives in the data folder and survives a restart, a kill included. Set QM_REDIS_URL to use a Redis or Valkey server of
    your own. Stop with Ctrl-C or SIGTERM: gateways finish what they have begun. What its processes log comes as JSON lines on
    standard error; "process" names who wrote a line.

    Example: quartermaster up --data-dir ./data --shards 2 --port 8080
    """
    settings = settings_from(
        data_dir=data_dir, shards=shards, gateways=gateways, port=port, host=host, log_level=log_level
    )
    raise typer.Exit(asyncio.run(_up(settings, ready_file)))


async def _up(settings: Settings, ready_file: Path | None) -> int:
    from engine.bootstrap import StartError
    from engine.journal.runtime import EmbeddedError

    stop = asyncio.Event()
    stop_on_signals(stop)
    serving = asyncio.create_task(_serve(settings, ready_file, stop))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    serving.cancel()  # also while it is still starting
    try:
        await serving
    except asyncio.CancelledError:
        return 0
    except StartError as error:
        _console.print(f"[red]cannot start:[/] {error}", soft_wrap=True)
        return 1
    except EmbeddedError as error:
        _console.print(f"[red]not stopped in order:[/] {error}", soft_wrap=True)
        return 1
    return 0


def stop_on_signals(stop: asyncio.Event) -> None:
    """SIGINT and SIGTERM set the event. Called again after Ray has started, which puts a handler of its own in place."""
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _serve(settings: Settings, ready_file: Path | None, stop: asyncio.Event) -> None:
    """Until it is cancelled."""
    from engine.bootstrap import ADMIN_KEY_FILE, running_stack

    said = "starting"

    def say(text: str) -> None:
        nonlocal said
        said = text
        stop_on_signals(stop)
        _console.print(f"[dim]{text}[/]")
        moving.update(task, description=text)

    async def still_there() -> None:
        began_s = time.monotonic()
        while True:
            await asyncio.sleep(STILL_EVERY_S)
            _console.print(f"[dim]still {said}: {time.monotonic() - began_s:.0f} s since the start[/]")

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    moving = Progress(*columns, console=_console, transient=True, disable=not _console.is_terminal)
    task = moving.add_task(said)
    waiting = asyncio.create_task(still_there()) if moving.disable else None
    async with AsyncExitStack() as opened:
        try:
            with moving:
                stack = await opened.enter_async_context(running_stack(settings, say=say))
        finally:
            if waiting is not None:
                waiting.cancel()
        for url in stack.base_urls:
            _console.print(f"[bold green]ready[/] {url}")
        # An output that goes into a file or to a collector of logs is no place for a key that may do everything.
        key = stack.api_key if _console.is_terminal else f"in {(settings.data_dir / ADMIN_KEY_FILE).resolve()}"
        _console.print(f"key   {key}", soft_wrap=True)
        _console.print(f"data  {settings.data_dir.resolve()}")
        if ready_file is not None:
            _write_ready(ready_file, stack)
        await asyncio.Event().wait()


def _write_ready(path: Path, stack: Stack) -> None:
    """For programs that start the engine: whole or not there, and readable by this user alone (it holds a key)."""
    facts = {
        "urls": stack.base_urls,
        "key": stack.api_key,
        "redis_url": stack.redis_url,
        "runtime_dir": str(stack.runtime_dir),
        "pids": {**stack.pids, **({"server": stack.server.pid} if stack.server is not None else {})},
    }
    part = path.with_suffix(path.suffix + ".part")
    part.touch(mode=0o600)
    part.write_text(json.dumps(facts))
    part.rename(path)
