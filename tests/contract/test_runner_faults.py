"""What the runner promises when things break around it: R1 to R4 of engine/actors/runner.py, one by one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.actors import runner as runner_module
from engine.actors.clock import Clock
from engine.domain.commands import AdjustStock, GetAvailability, GetDecision, GetOrder, GetStatus, StockMove
from engine.domain.errors import InvariantBreach
from engine.domain.move_commands import AbandonMove, FinishMove
from engine.domain.replies import DecisionReply, Done, OrderView, Problem, StatusReply
from engine.journal.memory import MemoryJournal, MemoryServer
from engine.journal.port import Appended, Corrupt, Unavailable
from engine.protocol.effects import Send, Solve
from tests.builders import a_place, an_order
from tests.conftest import eventually
from tests.contract.scripted_core import GatedJournal, ScriptedCore, SilentPeer, a_runner
from tests.contract.shard_host import Engine

LEASE_S = 2.0
"""Long enough for a machine that is busy to renew it in time."""


@pytest.fixture
async def engine(tmp_path: Path, left: list[str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    monkeypatch.setattr(runner_module, "DURABILITY_CHECK_S", 0.1)
    engine = await Engine(tmp_path, 1, lease_s=LEASE_S).start()
    yield engine
    await engine.close()
    assert left == []


# -- R3: a copy that was cut off -----------------------------------------------------------------------------------


async def test_an_answer_that_comes_late_renews_the_lease_from_when_it_was_asked_for(left: list[str]) -> None:
    """A process is stopped with its append under way and goes on much later: another copy may own the shard by then."""

    class Slow(GatedJournal):
        async def check_epoch(self) -> bool:
            raise Unavailable("cut off")

    core, journal = ScriptedCore(), Slow()
    runner = await a_runner(core, journal=journal, lease_s=0.2)
    journal.gate.clear()
    asked = runner.ask(GetStatus())
    started = time.monotonic()
    await eventually(lambda: time.monotonic() > started + 0.3)
    journal.gate.set()
    reply = await asyncio.wait_for(asked, 60)
    assert isinstance(reply, Problem)
    assert reply.code == "unavailable"
    again = await asyncio.wait_for(runner.ask(GetStatus()), 60)
    assert isinstance(again, Problem)
    await runner.close()
    assert left == []


async def test_a_copy_that_was_replaced_while_it_recovered_never_serves(left: list[str]) -> None:
    server = MemoryServer()
    journal, other = MemoryJournal(server, 0), MemoryJournal(server, 0)
    read_parts = journal.read_parts

    async def slowly() -> object:
        await other.acquire("other", [])
        return await read_parts()

    journal.read_parts = slowly  # type: ignore[method-assign, assignment]
    with pytest.raises(Exception, match="another copy"):
        await a_runner(ScriptedCore(), journal=journal)
    assert left == ["another copy owns this shard"]


async def test_without_a_journal_who_asks_is_refused_at_once_not_at_his_deadline(engine: Engine) -> None:
    """Frames that wait for the journal must not keep the credits that later ones need to be refused."""
    await engine.stock_up("N-0", "SKU-0", 60)
    engine.server.down = True
    waiting = []
    for n in range(4):  # a frame each: two are taken, no credit is left
        waiting.append(engine.cluster.submit(0, a_place(an_order(f"A-{n}"), key=50 + n)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    runner = engine.stock[0].runner
    assert runner is not None
    await eventually(lambda: not runner._lease_valid())
    started = time.monotonic()
    for n in range(5):
        reply = await engine.cluster.ask(0, a_place(an_order(f"B-{n}"), key=70 + n))
        assert isinstance(reply, Problem)
        assert reply.code == "unavailable"
    assert time.monotonic() - started < 30
    engine.server.down = False
    for future in waiting:
        reply = await asyncio.wait_for(future, 60)
        assert isinstance(reply, OrderView | Problem)

    async def healed() -> bool:
        return isinstance(await engine.cluster.ask(0, a_place(an_order("A-0"), key=50)), OrderView)

    await eventually(healed)


async def test_a_journal_that_does_not_answer_the_lease_check_is_given_up_in_time(left: list[str]) -> None:
    class Hanging(MemoryJournal):
        hangs = False

        async def check_epoch(self) -> bool:
            if self.hangs:
                await asyncio.Event().wait()
            return await super().check_epoch()

    journal = Hanging(MemoryServer(), 0)
    runner = await a_runner(ScriptedCore(), journal=journal, lease_s=0.2)
    journal.hangs = True

    async def refused() -> bool:
        return isinstance(await runner.ask(GetStatus()), Problem)

    # Not by asking: an append would prove the epoch. Only when the lease is over is there something to see.
    await eventually(lambda: not runner._lease_valid())
    await eventually(refused)
    journal.hangs = False

    async def served() -> bool:
        return isinstance(await runner.ask(GetStatus()), Done)

    await eventually(served)
    await runner.close()
    assert left == []


# -- R4: nothing dies unseen -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [InvariantBreach("S1"), AssertionError("S3"), KeyError("a bug")])
async def test_whatever_the_core_raises_when_polled_ends_the_process(left: list[str], error: Exception) -> None:
    core = ScriptedCore()
    runner = await a_runner(core)

    def breaks() -> None:
        raise error

    core.on_poll = breaks
    runner.wake()
    await eventually(lambda: left)
    assert left == [repr(error)]
    core.on_poll = lambda: None
    await runner.close()


@pytest.mark.parametrize("where", ["receive", "peer_replied", "solved", "disconnected", "configure"])
async def test_whatever_the_core_raises_when_told_ends_the_process(
    left: list[str], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, peer = ScriptedCore(), SilentPeer(answers=True)
    runner = await a_runner(core, peer=peer)

    def breaks(*_: object, **__: object) -> None:
        raise AssertionError("an invariant")

    monkeypatch.setattr(core, where, breaks)
    if where == "peer_replied":
        core.sends.append(Send(0, 7, GetStatus()))
        runner.wake()
    elif where == "solved":
        core.solves.append(Solve(1, 0, b""))
        runner.wake()
    else:
        call = {
            "receive": lambda: runner.ask(GetStatus()),
            "disconnected": lambda: runner.on_left(1),
            "configure": lambda: runner.configure((), 1),
        }[where]
        with pytest.raises(Exception, match="an invariant"):
            call()
    await eventually(lambda: left)
    await runner.close()


async def test_a_task_that_fails_ends_the_process(left: list[str]) -> None:
    async def append(*_: object, **__: object) -> Appended:
        raise ValueError("an entry of 17 MiB")

    journal = MemoryJournal(MemoryServer(), 0)
    runner = await a_runner(ScriptedCore(), journal=journal)
    journal.append = append  # type: ignore[method-assign]
    asked = runner.ask(GetStatus())
    await eventually(lambda: left)
    assert left == ["append failed"]
    asked.cancel()
    await runner.close()


async def test_a_damaged_decision_record_is_said_and_harms_nobody(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.stock_up("N-0", "SKU-0", 60)
    placed = await engine.cluster.ask(0, a_place(an_order("A-1"), key=5))
    assert isinstance(placed, OrderView)

    async def damaged(self: MemoryJournal, epoch: int, seq: int, index: int) -> bytes | None:
        raise Corrupt("a decision value is cut short")

    question = GetDecision(placed.slot, placed.order_no, 0)
    with monkeypatch.context() as broken:
        broken.setattr(MemoryJournal, "read_decision", damaged)
        reply = await engine.cluster.ask(0, question)
        assert isinstance(reply, Problem)
        assert reply.code == "internal"
    assert isinstance(await engine.cluster.ask(0, question), DecisionReply)


# -- freezing --------------------------------------------------------------------------------------------------------


async def test_a_shard_that_freezes_says_so_to_those_who_wait(engine: Engine) -> None:
    """The journal forgets what it acknowledged: who waits is told at once, and so is everybody who asks later."""
    await engine.stock_up("N-0", "SKU-0", 50)
    engine.server.down = True
    waiting = [engine.cluster.submit(0, a_place(an_order(f"A-{n}"), key=50 + n)) for n in range(4)]
    await asyncio.sleep(0)
    engine.server.lose_tail(0, 1)
    engine.server.down = False
    started = time.monotonic()
    for future in waiting:
        reply = await asyncio.wait_for(future, 60)
        assert isinstance(reply, Problem)
        assert reply.code == "frozen", reply
        assert "lost" in reply.detail
    for _ in range(5):
        reply = await engine.cluster.ask(0, GetStatus())
        assert isinstance(reply, Problem)
        assert reply.code == "frozen"
    assert time.monotonic() - started < 30


async def test_calls_without_a_socket_are_told_of_the_freeze(left: list[str]) -> None:
    core, server = ScriptedCore(), MemoryServer()
    runner = await a_runner(core, journal=MemoryJournal(server, 0))
    assert isinstance(await runner.ask(GetStatus()), Done)
    server.down = True
    asked = runner.ask(GetStatus())
    server.lose_tail(0, 1)
    server.down = False
    reply = await asyncio.wait_for(asked, 60)
    assert isinstance(reply, Problem)
    assert reply.code == "frozen"
    await runner.close()
    assert left == []


# -- memory ----------------------------------------------------------------------------------------------------------


async def test_new_work_is_refused_when_the_journal_is_nearly_full_over_both_ways_in(engine: Engine) -> None:
    await engine.stock_up("N-0", "SKU-0", 60)
    runner = engine.stock[0].runner
    assert runner is not None
    engine.server.limit_bytes = int(engine.server.used_bytes() / 0.95)
    await eventually(lambda: runner.memory_share > 0.9)
    order = a_place(an_order("A-1"), key=5)
    for reply in (
        await engine.cluster.ask(0, order, timeout_s=60.0),
        await asyncio.wait_for(runner.ask(order), 60),
        await asyncio.wait_for(runner.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 1),))), 60),
    ):
        assert isinstance(reply, Problem)
        assert reply.code == "journal_full"
    assert not isinstance(await engine.cluster.ask(0, GetAvailability(("SKU-0",))), Problem)
    assert isinstance(await engine.cluster.ask(0, GetStatus()), StatusReply)


@pytest.mark.parametrize("command", [FinishMove(1), AbandonMove(1)])
async def test_a_move_that_began_ends_though_the_journal_is_nearly_full(
    command: FinishMove | AbandonMove, left: list[str]
) -> None:
    """Until it does its part is closed, to cancels too."""
    runner = await a_runner(ScriptedCore())
    runner.memory_share = 0.95
    assert isinstance(await asyncio.wait_for(runner.ask(command), 60), Done)
    await runner.close()
    assert left == []


async def test_nothing_is_acknowledged_while_the_server_is_not_durable(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody sets `appendfsync everysec`: refused with the reason, until it is set back."""
    problems: tuple[str, ...] = ()

    async def check(self: MemoryJournal) -> tuple[str, ...]:
        return problems

    monkeypatch.setattr(MemoryJournal, "check_durability", check)
    await engine.stock_up("N-0", "SKU-0", 60)
    problems = ("appendfsync is everysec, it must be always",)

    async def refused() -> bool:
        reply = await engine.cluster.ask(0, GetStatus())
        return isinstance(reply, Problem) and "everysec" in reply.detail

    await eventually(refused)
    problems = ()

    async def served() -> bool:
        return isinstance(await engine.cluster.ask(0, GetStatus()), StatusReply)

    await eventually(served)


# -- time ------------------------------------------------------------------------------------------------------------


async def test_the_clock_of_the_machine_may_be_set_without_ending_holds(engine: Engine) -> None:
    """An hour forward: holds live on, until the journal's server says that it really is an hour later."""
    runner = engine.stock[0].runner
    assert runner is not None
    jump_ms = 0
    runner.clock._wall = lambda: time.time_ns() // 1_000_000 + jump_ms
    await engine.stock_up("N-0", "SKU-0", 60)
    held = await engine.cluster.ask(0, a_place(an_order("A-1"), key=5, ttl_s=600))
    assert isinstance(held, OrderView)
    jump_ms = 3_600_000
    for n in range(5):
        assert isinstance(await engine.cluster.ask(0, a_place(an_order(f"B-{n}"), key=50 + n)), OrderView | Problem)
    seen = await engine.cluster.ask(0, GetOrder(held.slot, held.order_no))
    assert isinstance(seen, OrderView)
    assert seen.state == "held"
    engine.server.now_ms = lambda: time.time_ns() // 1_000_000 + jump_ms

    async def expired() -> bool:
        await engine.cluster.ask(0, AdjustStock("N-0", (StockMove("SKU-0", "received", 1),)))
        seen = await engine.cluster.ask(0, GetOrder(held.slot, held.order_no))
        return isinstance(seen, OrderView) and seen.state == "expired"

    await eventually(expired)


def test_the_clock_follows_small_steps_and_confirmed_ones_only() -> None:
    wall, mono = 1_000_000, 500
    clock = Clock(wall=lambda: wall, monotonic=lambda: mono)
    assert clock.now_ms() == 1_000_000
    wall, mono = 1_001_900, 600  # disciplined by 1.8 s
    assert clock.now_ms() == 1_001_900
    wall, mono = 4_601_900, 700  # set an hour forward
    assert clock.now_ms() == 1_002_000
    assert clock.stepped
    clock.heard(1_002_010)
    assert clock.now_ms() == 1_002_000
    wall, mono = 4_602_000, 800
    clock.heard(4_602_005)
    assert clock.now_ms() == 4_602_000
    assert not clock.stepped
    wall, mono = 2_000, 900  # and back to 1970
    assert clock.now_ms() == 4_602_100


def test_a_machine_whose_clock_is_off_uses_the_journal_servers() -> None:
    wall, mono = 1_000_000, 500
    clock = Clock(wall=lambda: wall, monotonic=lambda: mono)
    clock.start(9_000_000)
    assert clock.now_ms() == 9_000_000
    wall, mono = 1_000_100, 600
    assert clock.now_ms() == 9_000_100
    assert clock.skew_ms == 0
