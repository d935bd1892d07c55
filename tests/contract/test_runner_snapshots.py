"""Snapshots, their floor and the recovery from them, with the real runner; the journal is in memory and fails where told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.actors import snapshots
from engine.actors.runner import Runner
from engine.domain.commands import CancelOrder, GetAvailability, GetStatus
from engine.domain.replies import Done, OrderView, Problem, StockReply
from engine.journal.memory import MemoryJournal, MemoryServer
from engine.journal.port import ArchiveCursor, Behind, Full, PartRef, Unavailable
from engine.protocol.effects import Send
from tests.builders import a_place, an_order
from tests.conftest import eventually
from tests.contract.journal_backends import flipped
from tests.contract.scripted_core import GatedJournal, ScriptedCore, SilentPeer, a_runner
from tests.contract.shard_host import Engine

BY_HAND = 3_600.0
"""Snapshot interval of a test that runs the cycles itself."""


@pytest.fixture
async def engine(tmp_path: Path, left: list[str]) -> AsyncIterator[Engine]:
    engine = await Engine(tmp_path, 1, snapshot_interval_s=BY_HAND).start()
    yield engine
    await engine.close()
    assert left == []


def runner_of(engine: Engine, shard: int = 0) -> Runner:
    runner = engine.stock[shard].runner
    assert runner is not None
    return runner


async def place(engine: Engine, n: int, *, sku: str = "SKU-0") -> OrderView:
    reply = await engine.cluster.ask(0, a_place(an_order(f"A-{n}", {sku: 1}), key=1_000 + n))
    assert isinstance(reply, OrderView), reply
    return reply


async def allocated(engine: Engine) -> int:
    seen = await engine.cluster.ask(0, GetAvailability(("SKU-0",), node_id="N-0"))
    assert isinstance(seen, StockReply), seen
    return seen.positions[0].allocated


async def test_a_part_that_could_not_be_written_is_written_before_the_floor_moves_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed means clean; a write that fails must not leave a change that no snapshot and no replay contains."""
    await engine.stock_up("N-0", "SKU-0", 50)
    runner = runner_of(engine)
    for n in (100, 101):  # two snapshots of each part: nothing is due for another reason than its change
        await place(engine, n)
        await runner.snapshots.cycle()
    for n in range(5):
        await place(engine, n)

    async def fails(part: str, seq: int, data: bytes) -> PartRef:
        raise Unavailable("armed fault")

    with monkeypatch.context() as armed:
        armed.setattr(runner.journal, "write_part", fails)
        with pytest.raises(Unavailable):
            await runner.snapshots.cycle()
    await runner.snapshots.cycle()
    await engine.restart(0)
    assert await allocated(engine) == 7


async def test_a_full_journal_is_trimmed_while_an_entry_waits_for_room(
    left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive was away until finishing work had filled the memory: that it goes on is all that it takes."""
    monkeypatch.setattr(snapshots, "TRIM_EVERY_S", 0.01)
    server = MemoryServer()
    runner = await a_runner(ScriptedCore(), journal=MemoryJournal(server, 0))
    runner.archive = ArchiveCursor(0, 0, 0, 0)
    for _ in range(3):
        await runner.ask(GetStatus())
        await runner.snapshots.cycle()
    server.limit_bytes = server.used_bytes()
    await eventually(lambda: runner.memory_share >= 1)
    asked = runner.ask(CancelOrder("US100", 1))
    cycle = asyncio.create_task(runner.snapshots.cycle())
    await eventually(lambda: runner.snapshots.holds_batches)
    assert not asked.done()
    server.shard(0).archive = ArchiveCursor(4, 4, 1, 1)
    assert isinstance(await asyncio.wait_for(asked, 60), Done)
    await asyncio.wait_for(cycle, 60)
    await runner.close()
    assert left == []


async def test_a_part_without_room_does_not_keep_the_others_from_being_written(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The floor waits for it, and only the newest of what it was packed as is owed."""
    await engine.stock_up("N-0", "SKU-0", 50)
    await place(engine, 1)
    runner = runner_of(engine)
    snapshots, journal = runner.snapshots, runner.journal
    write = journal.write_part
    asked: list[str] = []
    written: list[str] = []

    async def cramped(part: str, seq: int, data: bytes) -> PartRef:
        asked.append(part)
        if part == "node:0" and asked.count(part) <= 2:
            raise Full("OOM command not allowed")
        written.append(part)
        return await write(part, seq, data)

    monkeypatch.setattr(journal, "write_part", cramped)
    for n in (2, 3):
        with pytest.raises(Full):
            await snapshots.cycle()
        assert "slot:US100" in written
        assert not {"floor", "node:0"} & set(written)
        await place(engine, n)
    await snapshots.cycle()
    assert (asked.count("node:0"), asked[-1]) == (3, "floor"), (
        "of three versions that were packed only the newest is written"
    )
    assert "node:0" in snapshots._seqs


async def test_an_answer_of_a_peer_waits_while_parts_are_packed(left: list[str]) -> None:
    """It may put an event of its own: arriving between the rest of the core and the packing, it must find the door closed."""
    core, peer, journal = ScriptedCore(), SilentPeer(), GatedJournal()
    runner = await a_runner(core, journal=journal, peer=peer)
    journal.gate.clear()
    core.sends.append(Send(0, 7, GetStatus()))
    asked = runner.ask(GetStatus())
    await eventually(lambda: peer.asked)
    cycle = asyncio.create_task(runner.snapshots.cycle())
    await eventually(lambda: runner.snapshots.holds_batches)
    core.on_appended = lambda: None if peer.asked[0].done() else peer.asked[0].set_result(Done(1))
    journal.gate.set()
    await asyncio.wait_for(cycle, 60)
    assert core.packed == [2]
    await asyncio.wait_for(asked, 60)
    await eventually(lambda: core.durable_seq == 3)  # the peer's answer came after the pack, and was not lost
    assert core.peer_replies == [Done(1)]
    await runner.close()
    assert left == []


async def test_an_answer_after_the_pause_does_not_overtake_those_that_waited_in_it(left: list[str]) -> None:
    core, peer = ScriptedCore(), SilentPeer()
    runner = await a_runner(core, peer=peer)
    core.sends += [Send(0, 7, GetStatus()), Send(0, 8, GetStatus())]
    runner.wake()
    await eventually(lambda: len(peer.asked) == 2)
    runner.snapshots.holds_batches = True
    peer.asked[0].set_result(Done(1))
    runner.snapshots._release()
    peer.asked[1].set_result(Done(2))
    await eventually(lambda: len(core.peer_replies) == 2)
    assert core.peer_replies == [Done(1), Done(2)]
    await runner.close()
    assert left == []


async def test_answers_of_peers_never_keep_a_shard_from_its_snapshots(left: list[str]) -> None:
    """Were each of them let in, there would be something to append after every append."""
    core, peer = ScriptedCore(), SilentPeer(answers=True)
    runner = await a_runner(core, journal=GatedJournal(), peer=peer)
    core.on_poll = lambda: core.sends.append(Send(0, 7, GetStatus()))
    runner.wake()
    await eventually(lambda: len(core.peer_replies) > 20)
    await asyncio.wait_for(runner.snapshots.cycle(), 60)
    assert core.packed
    replies = len(core.peer_replies)
    await eventually(lambda: len(core.peer_replies) > replies)
    await runner.close()
    assert left == []


async def test_a_shard_that_lost_its_journal_writes_no_snapshots_and_stays_to_say_so(
    engine: Engine, left: list[str]
) -> None:
    """An emptied server must meet a frozen shard, not one that leaves and starts afresh on nothing."""
    await engine.stock_up("N-0", "SKU-0", 50)
    await place(engine, 1)
    runner = runner_of(engine)
    del engine.server.shards[0]
    with pytest.raises(Behind):
        await runner.snapshots.cycle()

    async def frozen() -> bool:
        reply = await engine.cluster.ask(0, GetStatus(), timeout_s=60.0)
        return isinstance(reply, Problem) and reply.code == "frozen"

    await eventually(frozen)
    assert engine.server.shard(0).parts == {}


async def test_snapshots_of_entries_that_the_journal_lost_freeze_the_shard(engine: Engine) -> None:
    """Parts that are ahead of the journal's end: what they rest on is gone, and new entries would be skipped on them."""
    await engine.stock_up("N-0", "SKU-0", 50)
    await place(engine, 1)
    await runner_of(engine).snapshots.cycle()
    await place(engine, 2)
    await place(engine, 3)
    part = engine.server.shard(0).parts["node:0"][0]
    journal = runner_of(engine).journal
    assert isinstance(journal, MemoryJournal)
    await runner_of(engine).snapshots.cycle()
    engine.server.shard(0).parts["floor"] = engine.server.shard(0).parts["floor"][1:]  # the newest floor is gone, too
    assert engine.server.shard(0).parts["node:0"][0].seq > part.seq
    engine.server.lose_tail(0, 2)
    await engine.restart(0)
    reply = await engine.cluster.ask(0, GetStatus(), timeout_s=60.0)
    assert isinstance(reply, Problem)
    assert reply.code == "frozen"
    assert "lost" in reply.detail


def damage(engine: Engine, part: str, place: int = 0) -> None:
    shard = engine.server.shard(0)
    key = (part, shard.parts[part][place].seq)
    shard.snapshots[key] = flipped(shard.snapshots[key], -1)


async def trimmed(engine: Engine, *, orders: int = 12) -> None:
    """Orders with a snapshot cycle after each, trimmed as far as it goes."""
    await engine.stock_up("N-0", "SKU-0", 50)
    runner = runner_of(engine)
    runner.memory_share = 0.6
    for n in range(orders):
        await place(engine, n)
        await runner.snapshots.cycle()
    assert engine.server.shard(0).entries
    assert min(engine.server.shard(0).entries) > 1, "nothing was trimmed"


@pytest.fixture
def little_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.actors import snapshots

    async def memory(self: MemoryJournal) -> tuple[int, int]:
        return 60, 100

    monkeypatch.setattr(snapshots, "ENTRIES_KEPT_TIGHT", 2)
    monkeypatch.setattr(MemoryJournal, "memory", memory)


async def test_large_entries_are_not_kept_to_look_back_where_memory_is_small(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries of batches are up to 256 KiB: a number of them alone is no bound."""

    async def memory(self: MemoryJournal) -> tuple[int, int]:
        return 60, 100

    monkeypatch.setattr(MemoryJournal, "memory", memory)
    await trimmed(engine)
    assert runner_of(engine).snapshots.facts()["trimmed_seq"] > 0


@pytest.mark.usefixtures("little_kept")
async def test_any_one_damaged_snapshot_costs_time_not_data(engine: Engine) -> None:
    await trimmed(engine)
    parts = sorted(engine.server.shard(0).parts)
    assert "floor" in parts
    for n, part in enumerate(parts):
        damage(engine, part)
        runner = (await engine.restart(0)).runner
        assert runner is not None
        assert runner.frozen == "", part
        assert await allocated(engine) == 12 + n
        await place(engine, 100 + n)
        await runner.snapshots.cycle()
        await runner.snapshots.cycle()


@pytest.mark.usefixtures("little_kept")
async def test_a_floor_that_cannot_be_read_means_replaying_all_there_is(engine: Engine) -> None:
    await trimmed(engine)
    damage(engine, "floor", 0)
    damage(engine, "floor", 1)
    await engine.restart(0)
    assert await allocated(engine) == 12


@pytest.mark.usefixtures("little_kept")
async def test_nothing_is_trimmed_until_a_damaged_snapshot_is_replaced_twice(engine: Engine) -> None:
    """A damaged newest snapshot must not become the older one that the trim relies on."""
    await trimmed(engine)
    damage(engine, "node:0")
    runner = (await engine.restart(0)).runner
    assert runner is not None
    first = min(engine.server.shard(0).entries)
    for n in range(4):
        await place(engine, 100 + n)
    await runner.snapshots.cycle()
    assert min(engine.server.shard(0).entries) == first
    await place(engine, 200)
    await runner.snapshots.cycle()
    await runner.snapshots.cycle()
    assert min(engine.server.shard(0).entries) > first
    damage(engine, "node:0")
    await engine.restart(0)
    assert await allocated(engine) == 17


async def test_an_entry_that_cannot_be_applied_freezes_the_shard_instead_of_starting_it_over_and_over(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.stock_up("N-0", "SKU-0", 50)
    from engine.protocol.shard_core import ShardCore

    def unknown(self: ShardCore, seq: int, time_ms: int, payload: bytes) -> None:
        raise KeyError("an event of a later version")

    monkeypatch.setattr(ShardCore, "replay", unknown)
    await engine.restart(0)
    reply = await engine.cluster.ask(0, GetStatus(), timeout_s=60.0)
    assert isinstance(reply, Problem)
    assert reply.code == "frozen"
    assert "cannot be applied" in reply.detail


async def test_a_snapshot_of_a_later_version_freezes_the_shard(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.domain import parts

    await engine.stock_up("N-0", "SKU-0", 50)
    with monkeypatch.context() as later:
        later.setattr(parts, "NODE_SCHEMA", parts.NODE_SCHEMA + 1)
        await runner_of(engine).snapshots.cycle()
    await engine.restart(0)
    reply = await engine.cluster.ask(0, GetStatus(), timeout_s=60.0)
    assert isinstance(reply, Problem)
    assert reply.code == "frozen"
    assert f"schema {parts.NODE_SCHEMA + 1}" in reply.detail
