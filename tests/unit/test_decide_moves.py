"""What the control shard makes of the placement map: one move at a time, its commit point, shards that come."""

from __future__ import annotations

import msgspec
import pytest

from engine.domain.config import Placement
from engine.domain.config_state import ConfigState
from engine.domain.decide_moves import SHARDS_EVER, SHARDS_MAX, MoveCommand, decide_move, placement_of
from engine.domain.events import ConfigPut
from engine.domain.move_commands import AbandonMove, AddShard, AdmitShard, BeginMove, EndShard, FinishMove
from engine.domain.placement import running_shards, serving_shards, shard_of_node, shard_of_slot
from engine.domain.replies import Problem
from tests.builders import a_node


class Control:
    def __init__(self) -> None:
        self.state = ConfigState()
        self.put("placement", "", Placement(shard_count=2))
        self.node = a_node("N-1", postal_code="10001")
        self.put("node", "N-1", self.node)

    def put(self, kind: str, name: str, document: object) -> None:
        index = len(self.state.kinds[kind].docs)
        self.apply(ConfigPut(kind, ((index, name, self.state.version + 1, msgspec.json.encode(document)),)))

    def apply(self, event: ConfigPut) -> None:
        self.state.seq += 1
        self.state.apply(event, seq=self.state.seq, time_ms=0)

    def do(self, command: MoveCommand) -> Problem | None:
        """The problem; None where it was done, or nothing was to be done."""
        outcome = decide_move(self.state, command)
        if isinstance(outcome, ConfigPut):
            self.apply(outcome)
        return outcome if isinstance(outcome, Problem) else None

    @property
    def map(self) -> Placement:
        placement = placement_of(self.state)
        assert placement is not None
        return placement


def test_a_move_changes_owners_only_when_it_is_finished() -> None:
    control = Control()
    assert control.do(BeginMove("node:N-1", 1)) is None
    moving = control.map.moving
    assert moving is not None and (moving.source, moving.target) == (0, 1)
    assert shard_of_node(control.map, control.node) == 0
    other = control.do(BeginMove("slot:US100", 1))
    assert other is not None and other.code == "wrong_state", "one at a time"
    assert control.do(FinishMove(moving.move_id + 1)) is not None, "another move's end is not this one's"
    assert control.do(FinishMove(moving.move_id)) is None
    assert control.map.moving is None and shard_of_node(control.map, control.node) == 1
    assert shard_of_slot(control.map, "US100") == 0, "the slot of its place stays"
    assert control.do(BeginMove("node:N-1", 1)) is None and control.map.moving is None, "it is there"


def test_what_is_given_up_cannot_be_finished() -> None:
    control = Control()
    control.do(BeginMove("slot:US100", 1))
    moving = control.map.moving
    assert moving is not None
    assert control.do(AbandonMove(moving.move_id)) is None
    finished = control.do(FinishMove(moving.move_id))
    assert finished is not None and finished.code == "not_found"
    assert shard_of_slot(control.map, "US100") == 0


def test_a_slot_goes_without_the_nodes_of_its_place() -> None:
    control = Control()
    control.do(BeginMove("slot:US100", 1))
    assert control.map.moving is not None
    control.do(FinishMove(control.map.moving.move_id))
    assert shard_of_slot(control.map, "US100") == 1
    assert shard_of_node(control.map, control.node) == 0, "stock stays where it is"


def test_a_shard_that_is_added_owns_nothing_and_is_asked_when_it_serves() -> None:
    control = Control()
    before = [shard_of_slot(control.map, f"US{n:03d}") for n in range(1_000)]
    assert control.do(AddShard()) is None
    assert serving_shards(control.map) == [0, 1]
    assert [shard_of_slot(control.map, f"US{n:03d}") for n in range(1_000)] == before
    early = control.do(BeginMove("node:N-1", 2))
    assert early is not None and early.errors[0].pointer == "/target"
    assert control.do(AdmitShard(2)) is None
    assert serving_shards(control.map) == [0, 1, 2]
    assert control.do(BeginMove("node:N-1", 2)) is None


def test_adding_a_shard_is_repeated_without_adding_another() -> None:
    control = Control()
    assert control.do(AddShard(2)) is None
    assert control.do(AddShard(2)) is None
    assert (control.map.shard_count, control.map.joining) == (3, [2])
    gap = control.do(AddShard(4))
    assert gap is not None and gap.errors[0].pointer == "/number", "numbers have no gaps"
    assert control.do(AdmitShard(2)) is None
    assert control.do(AddShard(2)) is None
    assert (control.map.shard_count, control.map.joining) == (3, []), "one that serves is not started again"


def test_a_shard_ends_when_it_owns_nothing_and_its_number_is_not_used_again() -> None:
    control = Control()
    control.do(AddShard(2))
    control.do(AdmitShard(2))
    owns = control.do(EndShard(1))
    assert owns is not None and (owns.code, owns.errors[0].pointer) == ("wrong_state", "/shard")
    assert "band:1" in owns.errors[0].detail, "what is left is named"
    control.do(BeginMove("node:N-1", 2))
    on_its_way = control.do(EndShard(2))
    assert on_its_way is not None and "node:N-1 is on its way" in on_its_way.errors[0].detail
    assert control.map.moving is not None
    control.do(AbandonMove(control.map.moving.move_id))
    assert control.do(EndShard(2)) is None
    assert control.do(EndShard(2)) is None, "a repeat"
    assert control.do(AdmitShard(2)) is None and running_shards(control.map) == serving_shards(control.map) == [0, 1]
    to_ended = control.do(BeginMove("node:N-1", 2))
    assert to_ended is not None and to_ended.errors[0].pointer == "/target"
    assert control.do(AddShard(2)) is None and running_shards(control.map) == [0, 1], "it does not come back"
    assert control.do(AddShard(3)) is None and running_shards(control.map) == [0, 1, 3]
    nobody = control.do(EndShard(4))
    assert nobody is not None and nobody.code == "invalid_field"


def test_one_that_is_being_started_can_be_taken_back() -> None:
    control = Control()
    control.do(AddShard(2))
    assert control.do(EndShard(2)) is None
    assert (control.map.joining, control.map.ended) == ([], [2])


def test_there_are_so_many_shards_at_once_and_so_many_ever() -> None:
    control = Control()
    for number in range(2, SHARDS_EVER):
        if len(running_shards(control.map)) == SHARDS_MAX:
            full = control.do(AddShard(number))
            assert full is not None and full.code == "invalid_field"
            assert control.do(EndShard(number - 1)) is None
        assert control.do(AddShard(number)) is None
    assert control.do(EndShard(SHARDS_EVER - 1)) is None
    assert control.do(AddShard(SHARDS_EVER)) is not None


@pytest.mark.parametrize(
    ("part", "code"), [("node:N-9", "unknown_node"), ("band:2", "invalid_field"), ("slot:us1", "invalid_field")]
)
def test_a_part_that_is_none_is_named(part: str, code: str) -> None:
    problem = Control().do(BeginMove(part, 1))
    assert problem is not None and problem.code == code
    assert problem.errors[0].pointer == "/part"
