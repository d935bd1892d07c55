"""Random lives of clusters under faults, and scripted ones with a crash at every step. A failure names its one-line replay."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.sim.harness import CALM, World
from tests.sim.move_scenarios import MOVE_SCENARIOS
from tests.sim.run_seed import run_seed
from tests.sim.scenarios import SCENARIOS

SEEDS = 16
CHUNK = 4


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_random_seeds(first: int) -> None:
    for seed in range(first, first + CHUNK):
        try:
            world = run_seed(seed)
            assert any(journal.entries for journal in world.journals.values()), "nothing happened"
        except BaseException as error:
            raise AssertionError(f"replay: python -m tests.sim.run_seed {seed}") from error


def test_a_cluster_without_faults_does_all_kinds_of_work() -> None:
    """The seeds prove little if little happens in them."""
    counts: Counter[str] = Counter()
    for seed in (1, 6, 8, 16):
        world = run_seed(seed, faults=CALM, shards=2, commands=300)
        counts.update({"units received": world.transit.receipts, "days begun": world.transit.renewals})
        for core in world.cores():
            counts.update(core.counts)
    for what in (
        "placed",
        "committed",
        "expired",
        "cancelled",
        "ship",
        "reject",
        "replanned",
        "demand_turns_taken",
        "edited",
        "legs_not_accepted",
        "legs_released_by_wave",
        "transactions_committed",
        "units received",
        "days begun",
        "parts_opened",
        "parts_left",
    ):
        assert counts[what] > 0, f"no {what} in {dict(counts)}"


def test_the_same_seed_gives_the_same_journals() -> None:
    def journals(world: World) -> list[list[tuple[int, ...]]]:
        return [[(e.seq, e.epoch, e.time_ms, hash(e.payload)) for e in j.entries] for j in world.journals.values()]

    assert journals(run_seed(5)) == journals(run_seed(5))


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_crash_at_every_step(name: str) -> None:
    scenario = SCENARIOS[name]
    steps = scenario(()).steps
    assert steps > 1, "a scenario without steps has no crash points"
    for step in range(1, steps + 1):
        try:
            scenario((step,))
        except BaseException as error:
            raise AssertionError(f"replay: tests.sim.scenarios.SCENARIOS[{name!r}](({step},))") from error


def test_a_second_crash_soon_after_the_first() -> None:
    """While the shard recovers, or does again what was cut short."""
    scenario = SCENARIOS["single"]
    steps = scenario(()).steps
    assert steps > 1, "a scenario without steps has no crash points"
    for pair in [(i, j) for i in range(1, steps + 1) for j in range(i + 1, i + 5)]:
        try:
            scenario(pair)
        except BaseException as error:
            raise AssertionError(f"replay: tests.sim.scenarios.SCENARIOS['single']({pair})") from error


@pytest.mark.parametrize("name", MOVE_SCENARIOS)
def test_a_crash_at_every_step_of_a_move(name: str) -> None:
    """Of the source, the target and the control shard."""
    scenario = MOVE_SCENARIOS[name]
    steps = scenario(()).steps
    assert steps > 1, "a scenario without steps has no crash points"
    for step in range(1, steps + 1):
        try:
            scenario((step,))
        except BaseException as error:
            raise AssertionError(f"replay: tests.sim.move_scenarios.MOVE_SCENARIOS[{name!r}](({step},))") from error
