"""Shards that are added to a running engine, and ended: the control shard decides, the supervisor follows the placement map."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import typer
from rich.console import Console

from engine.archive.feed import JournalFeed
from engine.cli.connect import Connected, connected
from engine.cli.progress import Line
from engine.client.shard_plan import Part
from engine.domain.commands import Command, GetConfig, GetStatus
from engine.domain.config import Placement
from engine.domain.move_commands import AddShard, EndShard, ListParts
from engine.domain.placement import CONTROL_SHARD, running_shards, serving_shards
from engine.domain.replies import ConfigReply, PartsReply, Problem, Reply, StatusReply
from engine.journal.redis_journal import RedisJournal
from engine.settings import Settings

ASK_TIMEOUT_S = 10.0
RESTART_S = 60.0
START_TIMEOUT_S = 180.0
ARCHIVE_TIMEOUT_S = 120.0
LOOK_EVERY_S = 0.1
_FIELDS = {"/part": "PART", "/target": "--to", "/shard": "SHARD"}
"""Fields of the engine's commands as they are called here."""
_LEFT = {
    "orders": "orders",
    "boxed_parts": "parts on their way",
    "foreign_legs": "legs of other shards' orders",
    "orders_in_flight": "orders being decided",
    "transactions_pending": "open transactions",
    "legs_driving": "legs being told to others",
    "claims_in_flight": "claims",
}
"""What a shard that is to end must have none of, by fact of its status."""
_out = Console()


class ShardsError(Exception):
    """Something was not done, or a shard did not answer; the message says why."""


def why_not(reply: object) -> str:
    """A problem in words, with the field that it is about."""
    if not isinstance(reply, Problem):
        return repr(reply)
    faults = [f"{_FIELDS.get(one.pointer, one.pointer)}: {one.detail}" for one in reply.errors if one.pointer]
    return "; ".join(faults) or reply.detail or reply.code


async def placement_of(engine: Connected) -> Placement:
    """The map as the control shard has it now."""
    return _map(await _asked(engine, CONTROL_SHARD, GetConfig("placement", "")))


def _map(reply: Reply) -> Placement:
    if not isinstance(reply, ConfigReply):
        raise ShardsError(f"the control shard does not say who owns what: {why_not(reply)}")
    return msgspec.json.decode(reply.documents[0].document, type=Placement)


async def owned_by(engine: Connected, placement: Placement) -> dict[int, list[Part]]:
    """Parts of every shard that serves."""
    shards = serving_shards(placement)
    found = await asyncio.gather(*(_parts(engine, shard) for shard in shards))
    return dict(zip(shards, found, strict=True))


async def _parts(engine: Connected, shard: int) -> list[Part]:
    reply = await _asked(engine, shard, ListParts())
    if not isinstance(reply, PartsReply):
        raise ShardsError(f"shard {shard} does not say what it owns: {why_not(reply)}")
    return [Part(*row) for row in reply.parts]


async def _decided(engine: Connected, command: Command) -> Placement:
    """The map after a command that may be repeated: an answer that does not come is asked for again."""
    reply = await _asked(engine, CONTROL_SHARD, command)
    if not isinstance(reply, ConfigReply):
        raise ShardsError(why_not(reply))
    return _map(reply)


async def _asked(engine: Connected, shard: int, command: Command) -> Reply:
    """The answer to a command that may be repeated. A shard that is restarting is asked again for a minute."""
    until = asyncio.get_running_loop().time() + RESTART_S
    while True:
        reply = await engine.cluster.ask(shard, command, timeout_s=ASK_TIMEOUT_S)
        passing = isinstance(reply, Problem) and reply.code in ("unavailable", "overloaded")
        if not passing or asyncio.get_running_loop().time() >= until:
            return reply
        await asyncio.sleep(1.0)


# -- add ------------------------------------------------------------------------------------------------------------


async def add_shards(settings: Settings, count: int, total: int | None) -> None:
    """Have so many more, or so many in all, and wait until they serve."""
    async with connected(settings, kinds=("placement",)) as engine:
        before = await placement_of(engine)
        if total is not None:
            count = max(0, total - len(running_shards(before)))
        new = list(range(before.shard_count, before.shard_count + count))
        for number in new:
            await _decided(engine, AddShard(number))
        await _wait_serving(engine, [*before.joining, *new])
    for number in (*before.joining, *new):
        _out.print(f"shard {number} serves, and owns nothing yet", highlight=False)
    if not new:
        _out.print(f"there are {len(running_shards(before))} shards, none was added", highlight=False)


async def _wait_serving(engine: Connected, shards: list[int]) -> None:
    def starting() -> list[int]:
        return [shard for shard in shards if shard not in engine.cluster.shards]

    with Line() as line:
        if not await _until(
            lambda: not starting(),
            lambda: line.update("starting shards", len(shards) - len(starting()), len(shards)),
            within_s=START_TIMEOUT_S,
        ):
            raise ShardsError(
                f"not started yet: shard {_names(starting())}. It starts as soon as a machine has room for it (a free shard_slot, see the "
                "log of the engine); `quartermaster shards end` takes it back"
            )


async def _until(check: Callable[[], bool], say: Callable[[], None], *, within_s: float) -> bool:
    loop = asyncio.get_running_loop()
    until_s = loop.time() + within_s
    while not check():
        if loop.time() > until_s:
            return False
        say()
        await asyncio.sleep(LOOK_EVERY_S)
    return True


def _names(shards: Iterable[int]) -> str:
    return ", ".join(str(shard) for shard in shards)


# -- end ------------------------------------------------------------------------------------------------------------


async def end_shard(settings: Settings, shard: int) -> None:
    """Have a shard ended, and its journal archived to the end."""
    async with connected(settings, kinds=("placement",)) as engine:
        placement = await placement_of(engine)
        if not 0 <= shard < placement.shard_count:
            known = _names(running_shards(placement))
            raise typer.BadParameter(f"there is no shard {shard}; there are {known}", param_hint="'SHARD'")
        if shard in serving_shards(placement):
            await _check_empty(engine, shard)
        await _decided(engine, EndShard(shard))
        entries = await _wait_archived(engine, shard)
    _out.print(f"shard {shard} has ended; its journal of {entries:,} entries is kept", highlight=False)


async def _check_empty(engine: Connected, shard: int) -> None:
    """Nothing of it may be left, and what it did must be in the index: others' entries wait for its own there."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + ARCHIVE_TIMEOUT_S
    with Line() as line:
        while True:
            parts = [part.name for part in await _parts(engine, shard)]
            reply = await _asked(engine, shard, GetStatus())
            if not isinstance(reply, StatusReply):
                raise ShardsError(f"shard {shard} does not say what is left on it: {why_not(reply)}")
            left = _left(parts, reply.facts)
            if left:
                raise ShardsError(f"shard {shard} still has {', '.join(left)}: drain it first")
            behind = reply.facts.get("index_lag_entries", 0)
            if not behind:
                return
            if loop.time() > until_s:
                raise ShardsError(
                    f"shard {shard} has {behind:,} entries that are not archived yet: is the archiver well?"
                )
            line.update("waiting for the archive", 0, behind)
            await asyncio.sleep(LOOK_EVERY_S)


def _left(parts: list[str], facts: dict[str, Any]) -> list[str]:
    left = [f"{len(parts):,} parts ({', '.join(parts[:5])})"] if parts else []
    return left + [f"{facts[fact]:,} {what}" for fact, what in _LEFT.items() if facts.get(fact)]


async def _wait_archived(engine: Connected, shard: int) -> int:
    """Entries of its journal, once the archive has all of them; the archiver sees to that whether or not anybody waits."""
    journal, feed = RedisJournal(engine.redis_url, shard, durability="unverified"), JournalFeed(engine.redis_url, shard)
    loop = asyncio.get_running_loop()
    until_s = loop.time() + ARCHIVE_TIMEOUT_S
    try:
        with Line() as line:
            while True:
                tail, cursor = await feed.tail(), await journal.archive_cursor()
                entries = tail.seq if tail is not None else 0
                if cursor is None or cursor.archived_seq >= entries:  # None: it has no archive
                    return entries
                if loop.time() > until_s:
                    left = entries - cursor.archived_seq
                    _out.print(f"{left:,} entries are still to be archived: is the archiver well?", highlight=False)
                    return entries
                line.update("archiving the end", cursor.archived_seq, entries)
                await asyncio.sleep(LOOK_EVERY_S)
    finally:
        await journal.close()
        await feed.close()
