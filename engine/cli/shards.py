"""`quartermaster shards`: what each shard owns, moves of parts between them, shards that come and go, all while orders flow."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from engine.cli.connect import Connected, connected, engine_settings, errors
from engine.cli.progress import Line
from engine.cli.shard_life import ASK_TIMEOUT_S, ShardsError, add_shards, end_shard, owned_by, placement_of, why_not
from engine.client.shard_plan import Owned, Part, PlannedMove, plan_drain, plan_rebalance
from engine.domain.config import Move, Placement
from engine.domain.decide_moves import SHARDS_MAX
from engine.domain.move_commands import BeginMove
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import ConfigReply, Problem
from engine.settings import Settings

ATTEMPTS = 5
"""A move that meets a crash or a slow transaction is given up, and stays where it was: it is begun again."""
MOVE_TIMEOUT_S = 20.0
LOOK_EVERY_S = 0.05
DRAIN_ROUNDS = 4
T = TypeVar("T")
_out = Console()

app = typer.Typer(
    name="shards",
    no_args_is_help=True,
    help=(
        "Show what each shard owns and move it to others, while orders flow.\n\n"
        "A part is a slot (slot:US100, destinations with their orders), a node (node:N-1, a place with its stock) or a band "
        "(band:0, a range of destinations that no order went to yet). Only the part that moves stands still, for well under a "
        "second; what is asked of it meanwhile waits. A move that cannot be finished is given up and the part stays.\n\n"
        "A shard is added with `add`, given work with `rebalance` or `move`, emptied with `drain` and ended with `end`."
    ),
)
DataDir = Annotated[Path | None, typer.Option(help="Data folder of the running engine.")]
RedisUrl = Annotated[str | None, typer.Option(help="Server of your own instead (else QM_REDIS_URL).")]


@app.command("list")
def list_shards(
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
    parts: Annotated[bool, typer.Option(help="Show every part, not only sums.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all parts as JSON.")] = False,
) -> None:
    """Show what each shard owns, and the move that is under way.

    Example: quartermaster shards list --parts
    """
    placement, owned = _run(_list(engine_settings(data_dir, redis_url)))
    if as_json:
        moving = msgspec.to_builtins(placement.moving) if placement.moving else None
        rows = [{"shard": shard, "parts": [part._asdict() for part in found]} for shard, found in owned.items()]
        typer.echo(
            msgspec.json.encode(
                {"moving": moving, "joining": placement.joining, "ended": placement.ended, "shards": rows}
            )
        )
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    if parts:
        for heading in ("shard", "part", "bytes", "orders or legs"):
            table.add_column(heading, justify="left" if heading == "part" else "right")
        for shard, found in owned.items():
            for part in found:
                table.add_row(str(shard), part.name, f"{part.size_bytes:,}", f"{part.load:,}")
    else:
        for heading in ("shard", "nodes", "slots", "bands", "orders", "legs", "bytes"):
            table.add_column(heading, justify="right")
        for shard, found in owned.items():
            table.add_row(*(f"{value:,}" for value in (shard, *_sums(found))))
    _out.print(table)
    for shard in placement.joining:
        _out.print(f"shard {shard} is being started", highlight=False)
    if placement.ended:
        _out.print(f"ended: {', '.join(str(shard) for shard in placement.ended)}", highlight=False)
    if placement.moving is not None:
        _out.print(_under_way(placement.moving), highlight=False)


@app.command()
def move(
    part: Annotated[str, typer.Argument(help="slot:US100, node:NODE_ID or band:0.")],
    to: Annotated[int, typer.Option(min=0, help="Shard that shall own it.")],
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
) -> None:
    """Move one part to another shard. Repeating it changes nothing.

    Exit code: 0 = it is there, 1 = it is not (the message says why; it is then where it was), 3 = no engine to ask.

    Example: quartermaster shards move node:N-1 --to 1
    """
    _run(_moves(engine_settings(data_dir, redis_url), lambda _: [PlannedMove(part, -1, to)], rounds=1))


@app.command()
def add(
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
    count: Annotated[int | None, typer.Option(min=1, max=SHARDS_MAX, help="How many more; 1 if not said.")] = None,
    total: Annotated[
        int | None,
        typer.Option(min=1, max=SHARDS_MAX, help="As many as there shall be instead: repeating it changes nothing."),
    ] = None,
) -> None:
    """Start more shards. They own nothing: give them work with `rebalance` or `move`.

    They are there after a restart of the engine, too, whatever `up --shards` says. Interrupted, see `list`: one that is being started
    is started to the end. One that no machine has room for waits; `end` takes it back.

    Exit code: 0 = all serve, 1 = one does not (the message says which), 3 = no engine to ask.

    Example: quartermaster shards add --count 1
    """
    if count is not None and total is not None:
        raise typer.BadParameter("say --count or --total, not both", param_hint="'--total'")
    _run(add_shards(engine_settings(data_dir, redis_url), count or 1, total))


@app.command()
def end(
    shard: Annotated[int, typer.Argument(min=0, help="Shard that owns nothing any more.")],
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
) -> None:
    """End a shard that was drained: its process stops, for good. Repeating it changes nothing.

    Its journal is archived to the end and kept: `verify` checks it, lists and histories show what it did. Its number is not used again.
    Refused while anything is left on it.

    Exit code: 0 = it has ended, 1 = it has not (the message says what is left on it), 3 = no engine to ask.

    Example: quartermaster shards end 1
    """
    _run(end_shard(engine_settings(data_dir, redis_url), shard))


@app.command()
def drain(
    shard: Annotated[int, typer.Argument(min=0, help="Shard to empty.")],
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
    dry_run: Annotated[bool, typer.Option(help="Only print what would move.")] = False,
) -> None:
    """Move everything that a shard owns to the others. It goes on running, with nothing to do: give it parts again, or `end` it.

    Interrupted, repeat it: it goes on with what is left.

    Example: quartermaster shards drain 1
    """

    def plan(owned: Owned) -> list[PlannedMove]:
        if shard not in owned:
            raise typer.BadParameter(f"shard {shard} does not serve; there are {_names(owned)}", param_hint="'SHARD'")
        if len(owned) < 2:
            raise typer.BadParameter("it is the only shard", param_hint="'SHARD'")
        return plan_drain(owned, shard)

    _run(_moves(engine_settings(data_dir, redis_url), plan, rounds=DRAIN_ROUNDS, dry_run=dry_run))


@app.command()
def rebalance(
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
    dry_run: Annotated[bool, typer.Option(help="Only print what would move.")] = False,
) -> None:
    """Even out orders and stock between the shards: a new shard gets its share, the fullest give.

    Example: quartermaster shards rebalance --dry-run
    """
    _run(_moves(engine_settings(data_dir, redis_url), plan_rebalance, rounds=1, dry_run=dry_run))


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Exits 1 with the reason where it failed."""
    try:
        return asyncio.run(work)
    except ShardsError as error:
        errors.print(f"[red]{error}[/]", soft_wrap=True, highlight=False)
        raise typer.Exit(1) from error


def _names(owned: Owned) -> str:
    return ", ".join(str(shard) for shard in owned)


def _sums(parts: Any) -> tuple[int, ...]:
    def of(kind: str) -> list[Part]:
        return [part for part in parts if part.kind == kind]

    orders, legs = sum(part.load for part in of("slot")), sum(part.load for part in of("node"))
    return len(of("node")), len(of("slot")), len(of("band")), orders, legs, sum(part.size_bytes for part in parts)


def _under_way(moving: Move) -> str:
    return f"{moving.part} is on its way from shard {moving.source} to shard {moving.target}"


async def _list(settings: Settings) -> tuple[Placement, dict[int, list[Part]]]:
    async with connected(settings, kinds=("placement",)) as engine:
        placement = await placement_of(engine)
        return placement, await owned_by(engine, placement)


async def _moves(settings: Settings, plan: Any, *, rounds: int, dry_run: bool = False) -> None:
    """Carry out a plan, and what is left of it after a round. Exits 1 where something did not move."""
    async with connected(settings, kinds=("placement",)) as engine:
        done = 0
        for _ in range(rounds):
            planned: list[PlannedMove] = plan(await owned_by(engine, await placement_of(engine)))
            if dry_run:
                for one in planned:
                    _out.print(f"{one.part}: shard {one.source} to shard {one.target}", highlight=False)
                _out.print(f"{len(planned)} moves, none made", highlight=False)
                return
            if not planned:
                break
            with Line() as line:
                for n, one in enumerate(planned):
                    line.update(f"moving {one.part}", n, len(planned))
                    done += await _move(engine, one)
        else:
            left = plan(await owned_by(engine, await placement_of(engine))) if rounds > 1 else []
            if left:  # orders to new destinations came all the while
                raise ShardsError(f"{done} moved, {len(left)} came meanwhile, {left[0].part} first: run it again")
    _out.print(f"{done} moved" if done != 1 else "1 moved", highlight=False)


async def _move(engine: Connected, wanted: PlannedMove) -> bool:
    """Bring a part to a shard; False = it was there. Raises ShardsError."""
    loop = asyncio.get_running_loop()
    why = "it was given up each time; see the log of the shards"
    for _ in range(ATTEMPTS):
        before = await placement_of(engine)
        reply = await engine.cluster.ask(CONTROL_SHARD, BeginMove(wanted.part, wanted.target), timeout_s=ASK_TIMEOUT_S)
        if isinstance(reply, Problem) and reply.code in ("wrong_state", "unavailable"):
            why = why_not(reply)
            await asyncio.sleep(1.0)
            continue
        if not isinstance(reply, ConfigReply):
            raise ShardsError(f"{wanted.part} to shard {wanted.target}: {why_not(reply)}")
        now = msgspec.json.decode(reply.documents[0].document, type=Placement)
        if now == before and now.moving is None:
            return False
        move_id = now.moving.move_id if now.moving is not None else 0
        until = loop.time() + MOVE_TIMEOUT_S
        while loop.time() < until:
            now = await placement_of(engine)
            if now.moving is None or now.moving.move_id != move_id:
                break
            await asyncio.sleep(LOOK_EVERY_S)
        if _is_at(now, wanted):
            return True
    raise ShardsError(f"{wanted.part} did not move to shard {wanted.target}: {why}")


def _is_at(placement: Placement, wanted: PlannedMove) -> bool:
    """Whether the map lists the part at its target: what was moved is listed."""
    kind, _, name = wanted.part.partition(":")
    listed = {"node": placement.nodes, "slot": placement.slots, "band": placement.band_owner}[kind]
    return listed.get(name) == wanted.target
