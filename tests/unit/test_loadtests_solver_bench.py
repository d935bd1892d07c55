"""The benchmark of the planner against CP-SAT: its conditions on cost, and what a part that does not count makes of a run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from loadtests import bench, solver_bench
from loadtests.keys import SOLVER_KEYS
from loadtests.runs import BenchError
from loadtests.solver_peers import PeerUnfinished


class Priced:
    """A batch whose plans cost so much."""

    def __init__(self, cost: int) -> None:
        self.cost = cost


def measured(monkeypatch: pytest.MonkeyPatch, name: str, *costs: int) -> solver_bench.Figure:
    """The ratio of batches with such costs, against a peer that pays 1,000 for each."""
    monkeypatch.setattr(solver_bench, "ours", lambda batch: solver_bench.Outcome(batch.cost, 0))
    batches = [Priced(cost) for cost in costs]
    return solver_bench.ratio(name, batches, lambda n: (1.0, 1_000), rounds=1)  # type: ignore[arg-type]


def test_half_a_per_cent_on_average_counts_and_more_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(monkeypatch, "solver_vs_cpsat", 1_000, 1_009)["value"] > 0
    with pytest.raises(BenchError, match=r"solver_vs_cpsat: mean gap .* 0\.550 %, at most 0\.5 %"):
        measured(monkeypatch, "solver_vs_cpsat", 1_000, 1_011)


def test_on_tight_stock_no_batch_may_be_dearer_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(monkeypatch, "solver_vs_cpsat_tight", 1_000, 990)["value"] > 0
    with pytest.raises(BenchError, match=r"solver_vs_cpsat_tight: largest gap .* 0\.100 %, at most 0 %"):
        measured(monkeypatch, "solver_vs_cpsat_tight", 1_001, 900)


@pytest.mark.parametrize("error", [BenchError("dearer"), PeerUnfinished("no proof")])
def test_such_a_run_does_not_count(
    error: BenchError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def run(quick: bool, seed: int) -> dict[str, solver_bench.Figure]:
        raise error

    out = tmp_path / "latest.json"
    monkeypatch.setattr(solver_bench, "run", run)
    only = [word for key in SOLVER_KEYS for word in ("--only", key)]
    monkeypatch.setattr(sys, "argv", ["bench", "--quick", *only, "--out", str(out)])
    with pytest.raises(SystemExit) as left:
        bench.main()
    assert left.value.code == 2
    assert f"solver does not count: {error}" in capsys.readouterr().out
    assert not out.exists(), "no figures are written of a run that does not count"
