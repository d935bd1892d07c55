"""What peers say may wait for company: never past its time, never out of its order, and not at all on a shard at rest."""

from __future__ import annotations

from engine.actors.company import DRIVE_WAIT_S, TRY_WAIT_S, Company, patience_s, reply_patience_s
from engine.domain.commands import Command, DriveLeg, GetStatus, TryLegs
from engine.pace import REAL, Pace
from tests.conftest import eventually

A_TRY = TryLegs(0, 1, "EU", 1, ())
A_DRIVE = DriveLeg(0, 1, "EU", 1, 1, 2, ())
LONG_S = 3_600.0


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


async def test_the_first_message_after_a_rest_comes_in_at_once() -> None:
    heard = Heard()
    heard.put("try", TRY_WAIT_S)
    assert heard.said == ["try", "turn"]


async def test_what_waits_comes_in_before_the_company_it_waited_for() -> None:
    heard = Heard()
    heard.company.come_in()
    heard.put("drive", LONG_S)
    heard.put("try", LONG_S)
    assert heard.said == []
    heard.company.come_in()
    assert heard.said == ["drive", "try"]
    heard.company.come_in()
    assert heard.said == ["drive", "try"]


async def test_without_company_all_come_in_when_the_least_patient_has_waited() -> None:
    heard = Heard()
    heard.company.come_in()
    heard.put("drive", LONG_S)
    heard.put("try", 0.2)
    assert heard.said == []
    await eventually(lambda: heard.said)
    assert heard.said == ["drive", "try", "turn"]


async def test_what_the_core_knows_already_gets_its_turn_alone() -> None:
    heard = Heard()
    heard.company.come_in()
    heard.put("drive", LONG_S)
    heard.company.look_in(0.01)
    await eventually(lambda: heard.said)
    assert heard.said == ["drive", "turn"], "a turn is company"


async def test_waits_are_of_the_engines_time() -> None:
    heard = Heard(Pace(speed=1_000_000))
    heard.company.come_in()
    heard.put("drive", LONG_S)
    await eventually(lambda: heard.said)
    assert heard.said == ["drive", "turn"]


async def test_what_waits_when_the_shard_closes_was_lost_on_its_way() -> None:
    heard = Heard()
    heard.company.come_in()
    heard.put("drive", LONG_S)
    heard.company.close()
    heard.company.come_in()
    assert heard.said == []
