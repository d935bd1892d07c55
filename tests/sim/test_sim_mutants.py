"""Planted faults of the protocol that the simulator must find: if it cannot, it proves nothing about the real thing.

Each mutant weakens one rule. It counts as found when any promise breaks in one of a few seeds, or at one crash point of a scenario.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

import engine.domain.parts as parts
import engine.domain.state as state_module
import engine.domain.stock as stock_module
from engine.domain.events import Cause
from engine.domain.positions import Capacity
from engine.domain.replies import TxnState
from engine.protocol.claims import Claims
from engine.protocol.control_core import ControlCore
from engine.protocol.driver import Driver
from engine.protocol.effects import Answer
from engine.protocol.participant import Participant
from engine.protocol.shard_core import ShardCore
from engine.protocol.two_phase import TwoPhase
from tests.sim.run_seed import run_seed
from tests.sim.scenarios import SCENARIOS

Patch = Callable[[pytest.MonkeyPatch], None]


def ack_before_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ShardCore, "answer", lambda self, conn, corr, reply: self._ready.append(Answer(conn, corr, reply)))


def dedupe_not_in_snapshots(patch: pytest.MonkeyPatch) -> None:
    pack = parts.pack_part

    def forgetful(state: Any, part: str, index: Any) -> bytes:
        if not part.startswith("slot:"):
            return pack(state, part, index)
        slot = state.slots[part[5:]]
        return parts._encode(parts.SlotSnapshot(parts.SCHEMA, list(slot.orders.items()), []))

    patch.setattr("engine.protocol.shard_core.pack_part", forgetful)


def replay_ignores_snapshots(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(state_module, "_newer", lambda state, node, seq, replay: True)


def own_legs_not_rechecked(patch: pytest.MonkeyPatch) -> None:
    """Only the assertion in `apply` is left: the shard stops, which the simulator must see."""
    patch.setattr("engine.protocol.two_phase.fits", lambda state, plans: True)


def no_claims_for_transactions(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Claims, "_move", lambda self, prepared, plan, sign: None)
    patch.setattr("engine.protocol.two_phase.fits", lambda state, plans: True)


def late_drives_undo_newer_ones(patch: pytest.MonkeyPatch) -> None:
    drive = Participant.drive

    def any_version(self: Participant, conn: int, corr: int, command: Any, now_ms: int) -> None:
        found = self._core.state.foreign_leg(command.order_no, command.leg_no)
        if found is not None:
            found[1].version = -1
        drive(self, conn, corr, command, now_ms)

    patch.setattr(Participant, "drive", any_version)


def pending_is_called_aborted(patch: pytest.MonkeyPatch) -> None:
    resolve = TwoPhase.resolve

    def hasty(self: TwoPhase, conn: int, corr: int, command: Any) -> None:
        if command.txn in self._pending:
            self._core.answer(conn, corr, TxnState("aborted"))
        else:
            resolve(self, conn, corr, command)

    patch.setattr("engine.protocol.participant.RESOLVE_AFTER_MS", 5)
    patch.setattr(TwoPhase, "resolve", hasty)


def nobody_asks_about_silent_legs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Participant, "tick", lambda self, now_ms: None)
    patch.setattr(Participant, "wake_at_ms", lambda self: None)


def drives_before_durable(patch: pytest.MonkeyPatch) -> None:
    def hasty(self: Driver, now_ms: int) -> None:
        while self._new:
            _, key = self._new.popleft()
            if key in self._drives:
                self._drives[key].after_seq = 0
                self._send(key, now_ms)

    patch.setattr(Driver, "tick", hasty)


def drives_forgotten_by_recovery(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Driver, "recovered", lambda self, driving: None)


def claims_in_snapshots(patch: pytest.MonkeyPatch) -> None:
    def claim(self: Capacity, node: int, day: int, units: int) -> None:
        self.add(node, day, units)

    patch.setattr(Capacity, "claim", claim)


def no_check_of_stock_at_try(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Participant, "_lacks", lambda self, command, legs: ((), ()))


def orders_do_not_end_a_shortage(patch: pytest.MonkeyPatch) -> None:
    """What is short is noted by stock facts only, so that freed units leave a position on the list for ever."""
    note = stock_module.note_short

    def by_facts(state: Any, node: int, item: int, row: int) -> None:
        if sys._getframe(1).f_code.co_name != "apply_stock":
            note(state, node, item, row)

    patch.setattr(stock_module, "note_short", by_facts)


def expiry_is_not_journaled(patch: pytest.MonkeyPatch) -> None:
    put = ShardCore.put

    def quietly(self: ShardCore, batch: Any, event: Any) -> None:
        put(self, batch, event)
        if getattr(event, "cause", None) == Cause.EXPIRED:
            batch.events.pop()

    patch.setattr(ShardCore, "put", quietly)


def new_orders_planned_twice(patch: pytest.MonkeyPatch) -> None:
    """A repeat of an order under way does not wait for it."""
    patch.setattr("engine.protocol.flights.Flights.join", lambda self, conn, corr, slot, command: False)


def commits_without_an_answer(patch: pytest.MonkeyPatch) -> None:
    """A transaction commits although one of its shards did not answer."""
    conclude = TwoPhase._conclude

    def careless(self: TwoPhase, pending: Any, now_ms: int) -> None:
        for corr in pending.waiting.values():
            self._by_corr.pop(corr, None)
        pending.waiting.clear()
        pending.refused = False
        conclude(self, pending, now_ms)

    patch.setattr(TwoPhase, "_conclude", careless)


def holds_counted_twice_in_views(patch: pytest.MonkeyPatch) -> None:
    """What a TRY held is added to the view although the owner's push already told of it."""
    expect = TwoPhase._expect_views

    def always(self: TwoPhase, pending: Any, record: Any) -> None:
        pending.points = dict.fromkeys(pending.points, (1 << 40, 0))
        expect(self, pending, record)

    patch.setattr(TwoPhase, "_expect_views", always)


def answers_before_versions_are_durable(patch: pytest.MonkeyPatch) -> None:
    """Followers are shown a configuration that its shard may lose."""
    poll = ControlCore.poll

    def hasty(self: ControlCore, *, now_ms: int) -> Any:
        effects = poll(self, now_ms=now_ms)
        if self.durable_version == self.state.version:
            return effects
        self.durable_version = self.state.version
        self._before.clear()
        more = poll(self, now_ms=now_ms)
        return effects._replace(answers=[*effects.answers, *more.answers])

    patch.setattr(ControlCore, "poll", hasty)


def quotes_kept_by_whatever_plan(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("engine.protocol.quoting._keeps", lambda plan, quoted: True)


MUTANTS: list[Patch] = [
    ack_before_durable,
    dedupe_not_in_snapshots,
    replay_ignores_snapshots,
    own_legs_not_rechecked,
    no_claims_for_transactions,
    late_drives_undo_newer_ones,
    pending_is_called_aborted,
    nobody_asks_about_silent_legs,
    drives_before_durable,
    drives_forgotten_by_recovery,
    claims_in_snapshots,
    no_check_of_stock_at_try,
    orders_do_not_end_a_shortage,
    expiry_is_not_journaled,
    new_orders_planned_twice,
    commits_without_an_answer,
    quotes_kept_by_whatever_plan,
]


def find(seeds: range) -> str | None:
    """The first seed that a promise breaks in, and how."""
    for seed in seeds:
        try:
            run_seed(seed)
        except Exception as error:
            return f"seed {seed}: {type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_simulator_finds(mutant: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    assert find(range(200)) is not None


def test_a_directed_life_finds_holds_counted_twice_in_views(monkeypatch: pytest.MonkeyPatch) -> None:
    holds_counted_twice_in_views(monkeypatch)
    with pytest.raises(AssertionError, match="view of shard"):
        SCENARIOS["views_first"](())


def _breaks(scenario: Callable[[tuple[int, ...]], Any], step: int) -> bool:
    try:
        scenario((step,))
    except AssertionError:
        return True
    return False


def test_a_crash_of_the_control_shard_finds_versions_shown_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = SCENARIOS["configuration"]
    steps = scenario(()).steps
    answers_before_versions_are_durable(monkeypatch)
    assert any(_breaks(scenario, step) for step in range(1, steps + 1))


def test_a_crash_scenario_finds_a_lost_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> None:
    ack_before_durable(monkeypatch)
    with pytest.raises(AssertionError, match="not durable"):
        SCENARIOS["single"](())
