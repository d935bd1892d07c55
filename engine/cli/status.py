"""`quartermaster status`: every shard at a glance."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from engine.cli.connect import Connected, connected, engine_settings
from engine.domain.commands import GetStatus
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import Problem, Reply, StatusReply
from engine.settings import Settings

ASK_TIMEOUT_S = 5.0
WIDTH_WITHOUT_TERMINAL = 140
_out = Console() if sys.stdout.isatty() else Console(width=WIDTH_WITHOUT_TERMINAL)


def status(
    data_dir: Annotated[Path | None, typer.Option(help="Data folder of the running engine.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Server of your own instead (else QM_REDIS_URL).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all facts as JSON.")] = False,
) -> None:
    """Show every shard: epoch, entries, open orders and holds, append latency, view lag, memory.

    `entries` is what is decided, `durable` what is on disk; they differ only while an append is under way. The epoch goes up
    each time a shard is started or taken over. `--json` prints every fact that a shard tells about itself.

    Exit code: 0 = every shard answers, 1 = some do not, 3 = no engine to ask.

    Example: quartermaster status --data-dir ./data
    """
    facts = asyncio.run(_status(engine_settings(data_dir, redis_url)))
    if as_json:
        typer.echo(msgspec.json.encode(facts))
    else:
        show(facts)
    raise typer.Exit(1 if any("problem" in shard for shard in facts["shards"]) else 0)


async def _status(settings: Settings) -> dict[str, Any]:
    async with connected(settings, kinds=("placement", "node")) as engine:
        return await collect(engine)


async def collect(engine: Connected) -> dict[str, Any]:
    """What every shard says of itself, the control shard last."""
    cluster = engine.cluster
    numbers = [*cluster.shards, CONTROL_SHARD]
    replies = await asyncio.gather(*(cluster.ask(n, GetStatus(), timeout_s=ASK_TIMEOUT_S) for n in numbers))
    return {
        "config_version": cluster.catalog.version,
        "nodes": len(cluster.catalog.node_of),
        "shards": [{"shard": n, **_facts(reply)} for n, reply in zip(numbers, replies, strict=True)],
    }


def _facts(reply: Reply) -> dict[str, Any]:
    if isinstance(reply, StatusReply):
        return reply.facts
    return {"problem": reply.detail if isinstance(reply, Problem) else repr(reply)}


_ROWS: tuple[tuple[str, str], ...] = (
    ("epoch", "epoch"),
    ("entries", "seq"),
    ("durable", "durable_seq"),
    ("config", "config_version"),
    ("positions", "positions"),
    ("orders", "open_orders"),
    ("holds", "open_holds"),
    ("short", "short_positions"),
    ("append p99", "append_p99_ms"),
    ("view lag", "view_lag_ms"),
    ("journal", "redis_used_bytes"),
)
"""Heading and fact of each row; a fact that a shard does not tell shows as a dash."""
SHARDS_ACROSS = 5
"""Fits 80 columns."""


def show(facts: dict[str, Any]) -> None:
    """The table for a person: a shard a column, as many side by side as a narrow terminal takes."""
    shards = facts["shards"]
    telling = [shard for shard in shards if "problem" not in shard]
    for start in range(0, len(telling), SHARDS_ACROSS):
        if start:
            _out.print()
        _show_some(telling[start : start + SHARDS_ACROSS])
    for shard in shards:
        if "problem" in shard:
            _out.print(f"[red]{_name(shard)}: {shard['problem']}[/]", soft_wrap=True, highlight=False)
    _out.print(f"configuration {facts['config_version']:,}, {facts['nodes']:,} nodes", highlight=False)


def _show_some(shards: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for shard in shards:
        table.add_column(_name(shard), justify="right", no_wrap=True)
    for heading, fact in _ROWS:
        table.add_row(heading, *(_cell(fact, shard.get(fact)) for shard in shards))
    _out.print(table)


def _name(shard: dict[str, Any]) -> str:
    return "control" if shard["shard"] == CONTROL_SHARD else f"shard {shard['shard']}"


def _cell(fact: str, value: Any) -> str:
    if value is None:
        return "-"
    if fact.endswith("_ms"):
        return f"{value:.1f} ms" if isinstance(value, float) else f"{value:,} ms"
    if fact.endswith("_bytes"):
        return f"{value / 1024**2:,.0f} MiB"
    if fact == "epoch":
        return str(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
