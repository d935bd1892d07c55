"""Waiting demand in the simulator: a crash at every step of scripted lives, and faults planted in the queue that they must find."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest

from engine.domain import demand
from engine.protocol.demand_guests import Guest, Guests, Visits
from engine.protocol.demand_keeping import Keeping
from engine.protocol.demand_queue import DemandQueue
from engine.protocol.resourcing import Resourcing
from tests.sim.demand_scenarios import SCENARIOS


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_crash_at_every_step(name: str) -> None:
    scenario = SCENARIOS[name]
    steps = scenario(()).steps
    assert steps > 1, "a scenario without steps has no crash points"
    for step in range(1, steps + 1):
        try:
            scenario((step,))
        except BaseException as error:
            raise AssertionError(f"replay: tests.sim.demand_scenarios.SCENARIOS[{name!r}](({step},))") from error


def nothing_waits_after_a_recovery(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DemandQueue, "recovered", lambda self, waiting, now_ms: None)


def units_of_other_shards_wake_nobody(patch: pytest.MonkeyPatch) -> None:
    gained = DemandQueue.gained

    def own_only(self: DemandQueue, item: int, node: int) -> None:
        if self._core.catalog.owns_node(node):
            gained(self, item, node)

    patch.setattr(DemandQueue, "gained", own_only)
    patch.setattr(Guests, "give_turn", lambda self, guest, item, now_ms: False)
    patch.setattr("engine.protocol.demand_queue.SWEEP_MS", 1 << 40)


def nothing_is_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Keeping, "_wanted", lambda self, item, node, place: 0)


def guests_do_not_stand_in_line(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Guests, "shown", lambda self, conn, command, now_ms: None)


def guests_get_no_turn(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Guests, "give_turn", lambda self, guest, item, now_ms: False)


def what_is_kept_is_kept_from_whom_it_is_kept_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DemandQueue, "kept_before", lambda self, place, items: nullcontext())


def offers_are_not_seen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Visits, "kept", lambda self, order_no: {})


def nobody_collects_elsewhere(patch: pytest.MonkeyPatch) -> None:
    row = Visits.row
    patch.setattr(Visits, "row", lambda self, order_no: (*row(self, order_no)[:3], ()))


def turns_are_not_given_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Visits, "over", lambda self, order_no: None)
    patch.setattr(Guests, "tick", lambda self, now_ms: None)


def a_turn_is_over_at_once(patch: pytest.MonkeyPatch) -> None:
    give_turn = Guests.give_turn

    def and_on(self: Guests, guest: Guest, item: int, now_ms: int) -> bool:
        give_turn(self, guest, item, now_ms)
        self.turns.pop(item, None)
        return False

    patch.setattr(Guests, "give_turn", and_on)


def rank_by_arrival_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(demand, "rank_of", lambda since_ms, priority, value_minor: since_ms)


def dates_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(demand, "next_cancel_ms", lambda record: 0)


def other_homes_are_not_asked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Resourcing, "replied", lambda self, corr, reply: self._by_corr.pop(corr, None) is not None)


MUTANTS: list[tuple[Callable[[pytest.MonkeyPatch], None], str]] = [
    (nothing_waits_after_a_recovery, "waiting"),
    (units_of_other_shards_wake_nobody, "waiting"),
    (nothing_is_kept, "collecting"),
    (guests_do_not_stand_in_line, "abroad"),
    (guests_do_not_stand_in_line, "ranked"),
    (guests_get_no_turn, "abroad"),
    (what_is_kept_is_kept_from_whom_it_is_kept_for, "abroad"),
    (offers_are_not_seen, "abroad"),
    (nobody_collects_elsewhere, "abroad"),
    (turns_are_not_given_back, "ranked"),
    (a_turn_is_over_at_once, "ranked"),
    (rank_by_arrival_alone, "waiting"),
    (dates_are_forgotten, "waiting"),
    (other_homes_are_not_asked, "short"),
]


@pytest.mark.parametrize(("mutant", "name"), MUTANTS, ids=[f"{mutant.__name__}-{name}" for mutant, name in MUTANTS])
def test_the_scenarios_find(
    mutant: Callable[[pytest.MonkeyPatch], None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    scenario = SCENARIOS[name]
    found = None
    for crash_at in [(), *[(step,) for step in range(1, 40)]]:
        try:
            scenario(crash_at)
        except AssertionError as error:
            found = error
            break
    assert found is not None
