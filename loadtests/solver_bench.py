"""The joint path against CP-SAT: `python -m loadtests.solver_bench [--quick] [--json FILE] [--seed N]`.

Keys (DESIGN section 10), every figure from interleaved rounds over the same instances in one process:

    solver_vs_cpsat        full CP-SAT, building counted / ours: 64 orders, 100 nodes, normal stock; mean gap printed
    solver_vs_cpsat_tight  CP-SAT on the same components, building counted / ours: 64 orders, 20 nodes, tight stock; of the
                           line-node model and the column model whichever is faster for the batch
    gap_tight_pct          our cost over the proven optimum of our candidate sets, 20 nodes, tight, 20 seeds: mean and maximum

Ours is everything from priced candidates to the chosen plans: own optima, over-asked rows, incumbent, components, columns, the
packed message to the solver process and back (its code, called here; the socket is not counted).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from loadtests.solver_additive import in_turn, leg_scores, node_sets, own_optima
from loadtests.solver_instances import CANDIDATES, LEGS_MAX, LINES_MAX, Batch, make_batch
from loadtests.solver_peers import column_model, full_model, line_node_model
from solvers import worker
from solvers.joint import pack_arrays, unpack_answer
from solvers.joint_columns import joint_columns, narrow
from solvers.joint_flat import Flags
from solvers.joint_wire import Ints

ORDERS = 64
COLUMNS_MAX = 400
DEADLINE_MS = 60_000
"""Out of reach: what is measured and compared is bounded by deterministic work."""

Figure = dict[str, float]
T = TypeVar("T")


class Outcome(NamedTuple):
    """Ours for one batch: money, rung as DESIGN names it, orders and columns that went to the joint solver."""

    cost: int
    rung: str
    orders: int
    columns: int


class Narrowed(NamedTuple):
    """Where ours and the decomposed peer part: the incumbent, and which orders still have something to win together."""

    legs: tuple[Ints, ...]
    own: Ints
    cost: Ints
    pick: Ints
    useful: Flags
    critical: Flags
    budget: Ints
    part: Ints


def decompose(batch: Batch) -> Narrowed | int:
    """Own optima; their sum if nobody over-asks a row, else incumbent and components."""
    sets = node_sets(CANDIDATES, LEGS_MAX)
    pick = np.zeros((len(batch.lines), LINES_MAX), np.int64)
    own, over = own_optima(sets, *batch.body, pick)
    if not over:
        return int(own.sum())
    cost = in_turn(sets, *batch.body, pick)
    score = leg_scores(batch.lines, batch.fixed, batch.money)
    group = np.broadcast_to(np.arange(LINES_MAX), batch.units.shape).copy()
    legs = (score, batch.lines, batch.lines, group, batch.row, batch.units, batch.stock)
    return Narrowed(legs, own, cost, pick, *narrow(*legs, own, cost, pick, LEGS_MAX))


def ours(batch: Batch) -> Outcome:
    """The production path for one batch."""
    found = decompose(batch)
    if isinstance(found, int):
        return Outcome(found, "separable", 0, 0)
    settled = int(found.cost[found.budget == 0].sum())
    if not found.budget.any():
        return Outcome(settled, "exact", 0, 0)
    joint = joint_columns(*found.legs, *found[1:7], legs=LEGS_MAX, columns_max=COLUMNS_MAX)
    answer = unpack_answer(worker.answer(pack_arrays(joint.problem), deadline_ms=DEADLINE_MS))
    rung = "time_boxed" if answer.status else "exact"
    return Outcome(settled + answer.cost, rung, len(joint.orders), len(joint.problem.cost))


def decomposed_line_node(batch: Batch) -> int:
    """A peer for tight stock: the same incumbent and components, then CP-SAT on the line-node model of each."""
    found = decompose(batch)
    if isinstance(found, int):
        return found
    total = int(found.cost[found.budget == 0].sum())
    for first in sorted(set(found.part[found.budget > 0].tolist())):
        total += line_node_model(batch, np.flatnonzero(found.part == first), found.useful)
    return total


def decomposed_columns(batch: Batch) -> int:
    """Another: the same columns too, then CP-SAT on the column model (exactly one per order, hinted with the incumbent)."""
    found = decompose(batch)
    if isinstance(found, int):
        return found
    settled = int(found.cost[found.budget == 0].sum())
    joint = joint_columns(*found.legs, *found[1:7], legs=LEGS_MAX, columns_max=COLUMNS_MAX)
    return settled + column_model(joint.problem)


def timed(call: Callable[[Batch], T], batch: Batch) -> tuple[float, T]:
    """(milliseconds, what it returned)."""
    started = time.perf_counter()
    value = call(batch)
    return (time.perf_counter() - started) * 1e3, value


def ratio(name: str, peers: list[Callable[[Batch], int]], batches: list[Batch], rounds: int) -> Figure:
    """Median and range over rounds of (sum of the times of each batch's faster peer / sum of ours); gaps are printed."""
    ratios, ours_ms, peer_ms, gaps, contended = [], [], [], [], 0
    for _ in range(rounds):
        mine, theirs = [], []
        for batch in batches:
            ms, outcome = timed(ours, batch)
            others = [timed(peer, batch) for peer in peers]
            mine.append(ms)
            contended += outcome.rung != "separable"
            theirs.append(min(other_ms for other_ms, _ in others))
            gaps += [100 * (outcome.cost / optimum - 1) for _, optimum in others]
        ratios.append(sum(theirs) / sum(mine))
        ours_ms += mine
        peer_ms += theirs
    print(
        f"{name}: {statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f}); "
        f"ours {statistics.median(ours_ms):.2f} ms (max {max(ours_ms):.2f}), "
        f"peer {statistics.median(peer_ms):.1f} ms (max {max(peer_ms):.1f}); "
        f"gap mean {statistics.mean(gaps):.3f} %, max {max(gaps):.3f} %; {contended}/{len(ours_ms)} contended"
    )
    return {"value": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def gap_tight(seeds: range) -> Figure:
    """Mean gap in per cent over the proven optimum; low and high are the extremes over the seeds."""
    gaps, greedy_gaps, rungs = [], [], []
    for seed in seeds:
        batch = make_batch(seed, orders=ORDERS, nodes=20, stock_factor=1)
        outcome, optimum = ours(batch), full_model(batch)
        pick = np.zeros((ORDERS, LINES_MAX), np.int64)
        greedy = int(in_turn(node_sets(CANDIDATES, LEGS_MAX), *batch.body, pick).sum())
        gaps.append(100 * (outcome.cost / optimum - 1))
        greedy_gaps.append(100 * (greedy / optimum - 1))
        rungs.append(f"{outcome.rung}:{outcome.orders}/{outcome.columns}")
    print(
        f"gap_tight_pct: mean {statistics.mean(gaps):.3f} %, max {max(gaps):.3f} % over {len(gaps)} seeds "
        f"(in turn: mean {statistics.mean(greedy_gaps):.2f} %, max {max(greedy_gaps):.2f} %)\n  rung:orders/columns {' '.join(rungs)}"
    )
    return {"value": statistics.mean(gaps), "low": min(gaps), "high": max(gaps)}


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Measure every key: {key: {"value", "low", "high"}}."""
    worker.warm()
    instances, rounds = (4, 3) if quick else (8, 5)
    normal = [make_batch(seed + i, orders=ORDERS, nodes=100, stock_factor=4) for i in range(instances)]
    tight = [make_batch(seed + i, orders=ORDERS, nodes=20, stock_factor=1) for i in range(instances)]
    for call in (ours, full_model, decomposed_line_node, decomposed_columns):
        call(tight[0])  # compiled code and OR-Tools are loaded before the clock starts
    return {
        "solver_vs_cpsat": ratio("solver_vs_cpsat", [full_model], normal, rounds),
        "solver_vs_cpsat_tight": ratio(
            "solver_vs_cpsat_tight", [decomposed_line_node, decomposed_columns], tight, rounds
        ),
        "gap_tight_pct": gap_tight(range(seed, seed + 20)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer instances and rounds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    figures = run(arguments.quick, arguments.seed)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
