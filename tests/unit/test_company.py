"""What peers say may wait for company: never past its time, never out of its order, and not at all where none is to be expected."""

from __future__ import annotations

import pytest

from engine.actors import company as module
from engine.actors.company import (
    BUSY_COMMANDS,
    DRIVE_WAIT_S,
    HALF_LIFE_S,
    TRY_WAIT_S,
    VIEW_WAIT_S,
    Company,
    patience_s,
    reply_patience_s,
)
from engine.domain.commands import Command, DriveLeg, GetStatus, TryLegs
from engine.pace import REAL, Pace
from tests.conftest import eventually

A_TRY = TryLegs(0, 1, "EU", 1, ())
A_DRIVE = DriveLeg(0, 1, "EU", 1, 1, 2, ())
LONG_S = 3_600.0
MANY = 1_000_000
"""Commands of others: company is to be expected for a second."""


class Heard:
    """A company whose admissions and turns are noted in their order."""

    def __init__(self, pace: Pace = REAL) -> None:
        self.said: list[str] = []
        self.company = Company(lambda: self.said.append("turn"), pace)

    def put(self, what: str, wait_s: float) -> None:
        self.company.put(lambda: self.said.append(what), wait_s)


def a_frame(*commands: Command) -> list[tuple[int, Command]]:
    return list(enumerate(commands))


def test_a_frame_is_as_patient_as_its_least_patient_command() -> None:
    assert patience_s(a_frame(A_DRIVE, A_DRIVE)) == DRIVE_WAIT_S
    assert patience_s(a_frame(A_DRIVE, A_TRY)) == TRY_WAIT_S
    assert patience_s(a_frame(A_DRIVE, A_TRY, GetStatus())) == 0
    assert reply_patience_s(A_TRY) == TRY_WAIT_S
    assert reply_patience_s(GetStatus()) == 0


async def test_on_a_shard_with_little_to_do_nothing_waits() -> None:
    heard = Heard()
    heard.company.come_in(BUSY_COMMANDS - 1)
    heard.put("try", TRY_WAIT_S)
    heard.put("drive", DRIVE_WAIT_S)
    heard.company.look_in(VIEW_WAIT_S)
    assert heard.said == ["try", "turn", "drive", "turn", "turn"]


async def test_company_is_expected_for_as_long_as_commands_keep_coming(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        now_s = 1_000.0

        def monotonic(self) -> float:
            return self.now_s

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    heard = Heard()
    for _ in range(100):  # one every millisecond makes 72 at the end
        clock.now_s += 0.001
        heard.company.come_in(1)
    heard.put("first", LONG_S)
    clock.now_s += HALF_LIFE_S
    heard.put("second", LONG_S)
    assert heard.said == []
    clock.now_s += HALF_LIFE_S
    heard.put("third", LONG_S)
    assert heard.said == ["first", "second", "third", "turn"], "nobody came"
    heard.company.come_in(MANY)
    clock.now_s += TRY_WAIT_S
    heard.put("try", TRY_WAIT_S)
    assert heard.said[4:] == ["try", "turn"], "it may wait so long after what came before, which is past"


async def test_what_waits_comes_in_before_the_company_it_waited_for() -> None:
    heard = Heard()
    heard.company.come_in(MANY)
    heard.put("drive", LONG_S)
    heard.put("try", LONG_S)
    assert heard.said == []
    heard.company.come_in()
    assert heard.said == ["drive", "try"]
    heard.company.come_in()
    assert heard.said == ["drive", "try"]


async def test_without_company_all_come_in_when_the_least_patient_has_waited() -> None:
    heard = Heard()
    heard.company.come_in(MANY)
    heard.put("drive", LONG_S)
    heard.put("try", 0.2)
    assert heard.said == []
    await eventually(lambda: heard.said)
    assert heard.said == ["drive", "try", "turn"]


async def test_what_the_core_knows_already_gets_its_turn_alone() -> None:
    heard = Heard()
    heard.company.come_in(MANY)
    heard.put("drive", LONG_S)
    heard.company.look_in(0.01)
    await eventually(lambda: heard.said)
    assert heard.said == ["drive", "turn"], "a turn is company"


async def test_waits_are_of_the_engines_time() -> None:
    heard = Heard(Pace(speed=1_000_000))
    heard.company.come_in(MANY)
    heard.put("drive", LONG_S)
    await eventually(lambda: heard.said)
    assert heard.said == ["drive", "turn"]


async def test_what_waits_when_the_shard_closes_was_lost_on_its_way() -> None:
    heard = Heard()
    heard.company.come_in(MANY)
    heard.put("drive", LONG_S)
    heard.company.close()
    heard.company.come_in()
    assert heard.said == []
