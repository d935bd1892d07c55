"""A busy shard lets what peers say wait, and tells its core of it before what made it come in."""

from __future__ import annotations

import pytest

from engine.actors import company
from engine.domain.commands import Command, DriveLeg, GetStatus, TryLegs
from engine.domain.replies import Done
from engine.protocol.effects import Send
from tests.conftest import eventually
from tests.contract.scripted_core import ScriptedCore, SilentPeer, a_runner

PEER = 7
"""A connection's number."""
MANY = [(n, GetStatus()) for n in range(1_000)]
"""Commands in one frame: company is to be expected for some time."""
A_TRY = TryLegs(0, 1, "EU", 1, ())
A_DRIVE = DriveLeg(0, 1, "EU", 1, 1, 2, ())


class NotingCore(ScriptedCore):
    """What it was told after the many, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def receive(self, conn: int, corr: int, command: Command, *, now_ms: int) -> None:
        super().receive(conn, corr, command, now_ms=now_ms)
        self.told.append(type(command).__name__)

    def peer_replied(self, *arguments: object, **more: object) -> None:
        self.told.append("reply")


async def test_what_peers_say_comes_in_before_the_next_client(left: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (TryLegs, DriveLeg):
        monkeypatch.setitem(company._WAITS_S, kind, 3_600.0)
    monkeypatch.setattr(company, "HALF_LIFE_S", 3_600.0)
    core, peer = NotingCore(), SilentPeer()
    runner = await a_runner(core, peer=peer)
    core.sends.append(Send(0, 9, A_TRY))
    runner.wake()
    await eventually(lambda: peer.asked)
    runner.on_commands(1, MANY)
    core.told.clear()
    runner.on_commands(PEER, [(1, A_TRY)])
    peer.asked[0].set_result(Done(1))
    runner.on_commands(PEER, [(2, A_DRIVE)])
    assert core.told == []
    runner.on_commands(1, [(1, GetStatus())])
    assert core.told == ["TryLegs", "reply", "DriveLeg", "GetStatus"]
    await runner.close()
    assert left == []


async def test_on_a_shard_with_little_to_do_they_come_in_at_once(left: list[str]) -> None:
    core = NotingCore()
    runner = await a_runner(core, peer=SilentPeer())
    runner.on_commands(1, MANY[: company.BUSY_COMMANDS - 1])
    core.told.clear()
    runner.on_commands(PEER, [(1, A_DRIVE)])
    runner.on_commands(PEER, [(2, A_TRY)])
    assert core.told == ["DriveLeg", "TryLegs"]
    await eventually(lambda: core.durable_seq == core.state.seq)
    await runner.close()
    assert left == []


async def test_what_waits_comes_in_without_a_client_too(left: list[str]) -> None:
    core = NotingCore()
    runner = await a_runner(core, peer=SilentPeer())
    runner.on_commands(1, MANY)
    core.told.clear()
    runner.on_commands(PEER, [(1, A_DRIVE)])
    await eventually(lambda: core.told == ["DriveLeg"])
    await eventually(lambda: core.durable_seq == core.state.seq)
    await runner.close()
    assert left == []
