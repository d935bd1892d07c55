"""The small exhaustive models hold, and each weakened rule is found to break something."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sim.models import move_model, snapshot_model, two_phase_model


def test_two_phase_holds_in_every_interleaving() -> None:
    result = two_phase_model.check(two_phase_model.Rules())
    assert not result.violation, (result.violation, result.trace)
    assert result.states > 1_000


@pytest.mark.parametrize(
    ("weakened", "says"),
    [
        ({"versions": False}, "home believes"),
        ({"resolve_drives_again": False}, "never at rest"),
        ({"asks_about_all": False}, "never at rest"),
        ({"leg_ttl": True}, "not held"),
        ({"pending_means_aborted": True}, "not held"),
        ({"drive_before_durable": True}, "never committed"),
        ({"driving_survives_crash": False}, "home believes"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_two_phase_needs_each_rule(weakened: dict[str, Any], says: str) -> None:
    result = two_phase_model.check(two_phase_model.Rules(**weakened))
    assert says in result.violation, result


def test_snapshots_and_trims_lose_nothing() -> None:
    result = snapshot_model.check(snapshot_model.Rules())
    assert not result.violation, (result.violation, result.trace)
    assert result.states > 1_000


@pytest.mark.parametrize(
    "weakened",
    [
        {"replay_by_part": False},
        {"trim_to_older": False},
        {"trim_one_too_far": True},
        {"between_batches_only": False},
        {"kept_max": 1, "counts_unread": True},
    ],
    ids=lambda value: next(iter(value)),
)
def test_snapshots_and_trims_need_each_rule(weakened: dict[str, Any]) -> None:
    assert snapshot_model.check(snapshot_model.Rules(**weakened)).violation


def test_a_part_that_moves_is_at_one_shard_with_all_it_had() -> None:
    result = move_model.check(move_model.Rules())
    assert not result.violation, (result.violation, result.trace)
    assert result.states > 10_000


@pytest.mark.parametrize(
    ("weakened", "says"),
    [
        ({"boxed_before_offered": False}, "live at both"),
        ({"finished_after_acknowledged": False}, "has nothing"),
        ({"target_waits_for_map": False}, "live at both"),
        ({"source_waits_for_map": False}, "live at both"),
        ({"map_checks_move": False}, "has nothing"),
        ({"target_checks_move": False}, "has nothing"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_move_needs_each_rule(weakened: dict[str, Any], says: str) -> None:
    result = move_model.check(move_model.Rules(**weakened))
    assert says in result.violation, result
