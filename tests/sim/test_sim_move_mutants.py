"""Planted faults of moves that the simulator must find: in a scripted life, at one of its crash points, or in a random one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import engine.domain.boxes as boxes
import engine.domain.parts as parts
import engine.domain.state as state_module
import engine.protocol.moves as moves_module
from engine.domain.boxes import Box
from engine.domain.move_commands import FinishMove
from engine.domain.placement import CONTROL_SHARD
from engine.domain.state import ShardState
from engine.protocol.moves import Moves
from tests.sim.move_scenarios import MOVE_SCENARIOS
from tests.sim.run_seed import run_seed

Patch = Callable[[pytest.MonkeyPatch], None]
CRASHES = range(1, 200, 3)
SEEDS = [seed for seed in range(1, 24) if seed % 4]


def keys_stay_behind(patch: pytest.MonkeyPatch) -> None:
    """A slot goes without its idempotency keys: a repeat makes a second order."""
    pack = parts.pack_live

    def forgetful(state: ShardState, part: str) -> bytes:
        if part.startswith("slot:"):
            slot = state.slots.get(part[5:])
            return parts._encode(parts.SlotSnapshot(parts.SCHEMA, list(slot.orders.items()) if slot else [], []))
        return pack(state, part)

    patch.setattr(parts, "pack_live", forgetful)


def legs_are_not_parted(patch: pytest.MonkeyPatch) -> None:
    """A node goes while records of its old shard still speak of its units as their own."""
    patch.setattr(moves_module, "part_legs", lambda *args, **fields: False)


def finished_before_it_is_there(patch: pytest.MonkeyPatch) -> None:
    """The source asks for the commit point when it has sent the box, not when the target has it durably."""

    def hasty(self: Moves, part: str, box: Box, now_ms: int) -> None:
        self._acked = box.of
        self._core.send(CONTROL_SHARD, FinishMove(box.move_id, box.kept_slots))

    patch.setattr(Moves, "_hand_over", hasty)


def opened_when_it_is_whole(patch: pytest.MonkeyPatch) -> None:
    """The target does not wait for the map: both may have the part."""
    follow = Moves._follow_map

    def eager(self: Moves, part: str, box: Box, moving: Any, now_ms: int) -> None:
        if box.target < 0 and box.is_whole and moving is not None and moving.move_id == box.move_id:
            self._open(part, box, now_ms)
        else:
            follow(self, part, box, moving, now_ms)

    patch.setattr(Moves, "_follow_map", eager)


def the_door_stays_open(patch: pytest.MonkeyPatch) -> None:
    """Transactions of a slot go on while it is boxed."""
    patch.setattr(Moves, "_is_quiet", lambda self, slot: True)


def views_are_packed_as_stock(patch: pytest.MonkeyPatch) -> None:
    """A snapshot of a node that left holds what was seen of it since."""

    def unmarked(state: ShardState, event: Any, seq: int, time_ms: int, replay: bool) -> None:
        forget(state, event, seq, time_ms, replay)
        state.gone.pop(event.part, None)

    forget = boxes._apply_forgotten
    patch.setitem(state_module._APPLY, boxes.PartForgotten, unmarked)


def a_band_takes_orders_under_way(patch: pytest.MonkeyPatch) -> None:
    """A slot whose first order is being placed goes with its band."""
    patch.setattr("engine.protocol.flights.Flights.slots", lambda self: [])


def the_source_opens_again_by_itself(patch: pytest.MonkeyPatch) -> None:
    """The source takes too long for a no: it does not ask the control shard whether the move was finished."""
    give_up = Moves._give_up

    def alone(self: Moves, move: Any) -> None:
        give_up(self, move)
        for part, box in list(self._core.state.boxes.items()):
            if box.move_id == move.move_id and box.target >= 0:
                self._open(part, box, self._core.state.time_ms)

    patch.setattr(moves_module, "FINISH_MS", 20)
    patch.setattr(Moves, "_give_up", alone)


def _nodes_go_without(patch: pytest.MonkeyPatch, what: str) -> None:
    pack = parts.pack_live

    def forgetful(state: ShardState, part: str) -> bytes:
        held = state.nodes.get(int(part[5:])) if part.startswith("node:") else None
        if held is None:
            return pack(state, part)
        kept = getattr(held, what)
        setattr(held, what, {})
        data = pack(state, part)
        setattr(held, what, kept)
        return data

    patch.setattr(parts, "pack_live", forgetful)


def what_is_expected_stays_behind(patch: pytest.MonkeyPatch) -> None:
    """A node goes without its inbound records."""
    _nodes_go_without(patch, "inbound")


def the_day_begins_again(patch: pytest.MonkeyPatch) -> None:
    """A node goes without the day that it began: its next owner begins it once more, with the whole cap."""
    _nodes_go_without(patch, "feeds")


def nobody_knows_that_nobody_counts(patch: pytest.MonkeyPatch) -> None:
    """A node goes without how its positions are supplied: its supplier's day never begins again."""
    _nodes_go_without(patch, "settings")


MUTANTS: list[Patch] = [
    keys_stay_behind,
    legs_are_not_parted,
    finished_before_it_is_there,
    opened_when_it_is_whole,
    the_door_stays_open,
    views_are_packed_as_stock,
    a_band_takes_orders_under_way,
    the_source_opens_again_by_itself,
    what_is_expected_stays_behind,
    the_day_begins_again,
    nobody_knows_that_nobody_counts,
]


def find() -> str | None:
    """The first life that a promise breaks in, and how."""
    lives: list[tuple[str, Callable[[], Any]]] = [
        (name, lambda scenario=scenario: scenario(())) for name, scenario in MOVE_SCENARIOS.items()
    ]
    lives += [(f"seed {seed}", lambda seed=seed: run_seed(seed)) for seed in SEEDS]
    lives += [
        (f"{name} at {step}", lambda scenario=scenario, step=step: scenario((step,)))
        for step in CRASHES
        for name, scenario in MOVE_SCENARIOS.items()
    ]
    for name, life in lives:
        try:
            life()
        except Exception as error:
            return f"{name}: {type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_simulator_finds(mutant: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    assert find() is not None
