"""The joint solver: the orders of a batch that collide over stock, each with its ways to be served, at the least total cost.

    problem -> flat arrays -> reduce -> components -> cuts, prices -> fewer columns -> reduce again ... -> exact search -> CP-SAT
               (joint_flat)               (joint_cuts, joint_prices)                   (joint_search) (joint_cpsat)

Most components are two to four orders and end in the first search. CP-SAT sees only what that leaves unproven.

J1  The answer never costs more than columns 0, the greedy incumbent (asserted).
J2  `status` 0 is claimed only when no choice among the given columns is cheaper; then `bound` == `cost`.
J3  `bound` <= the cost of every choice among the given columns.
J4  The same problem and limits give the same answer, unless `deadline_ms` cut it short (status 1).
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import numpy as np

from solvers.joint_cpsat import solve_columns
from solvers.joint_cuts import strengthen
from solvers.joint_flat import Flags, Flat, extract, flatten, reduce
from solvers.joint_prices import cheapest, drop_dear, improve, price_rows, scale_for
from solvers.joint_search import search
from solvers.joint_wire import (
    EXACT,
    TIME_BOXED,
    Ints,
    JointAnswer,
    JointArrays,
    JointColumn,
    JointProblem,
    check,
    pack_answer,
    pack_arrays,
    pack_problem,
    to_arrays,
    unpack_answer,
    unpack_arrays,
    unpack_problem,
)

__all__ = [
    "EXACT",
    "TIME_BOXED",
    "JointAnswer",
    "JointArrays",
    "JointColumn",
    "JointProblem",
    "pack_answer",
    "pack_arrays",
    "pack_problem",
    "solve",
    "solve_arrays",
    "unpack_answer",
    "unpack_arrays",
    "unpack_problem",
]

_TINY_PRODUCT = 64
"""Choices of a component up to which pricing costs more than looking at all of them."""
_PRICE_ROUNDS = 300
_PRICE_TURNS = 3
_NODES_MAX = 20_000
_PRICE_WORK = 10_000_000
"""Takes that one turn of pricing may look at (about 10 ms): fewer rounds where there are very many."""
_EXCHANGE_WORK = 30_000_000
"""Columns x takes up to which pairs of orders are exchanged."""
_SEARCH_WORK = 8_000_000
"""Nodes x columns of one search (about 10 ms): where thousands of columns are left it would not end anyway."""
_DEPTH_MAX = 4


class _Clock(NamedTuple):
    ends_s: float
    deterministic_limit: float

    def left_s(self) -> float:
        return self.ends_s - time.perf_counter()


class _Part(NamedTuple):
    """Answer of a part: flat column per order, bound, whether it is proven."""

    chosen: Ints
    bound: int
    exact: bool


def solve(problem: JointProblem, *, deterministic_limit: float, deadline_ms: int) -> JointAnswer:
    """`solve_arrays` for a problem of objects."""
    return solve_arrays(to_arrays(problem), deterministic_limit=deterministic_limit, deadline_ms=deadline_ms)


def solve_arrays(problem: JointArrays, *, deterministic_limit: float, deadline_ms: int) -> JointAnswer:
    """Choose one column per order at the least total cost within the stock.

    problem: O orders; rows are counted in units. An empty problem has an empty answer.
    deterministic_limit: CP-SAT's work per component that the compiled search leaves open (its own "seconds").
    deadline_ms: wall time from now; what is not proven by then keeps its best known columns (status 1).
    Raises ValueError: arrays that do not fit together, numbers outside their limits, incumbents that overdraw the stock.
    """
    started_s = time.perf_counter()
    if len(problem.ptr) == 1:
        return JointAnswer([], 0, 0, EXACT, 0)
    flat = flatten(*check(problem))
    greedy_cost = flat.cost_of(flat.incumbent)
    alive = np.ones(len(flat.cost), dtype=np.bool_)
    part = _solve(flat, alive, _Clock(started_s + deadline_ms / 1000, deterministic_limit), depth=0)
    cost = flat.cost_of(part.chosen)
    assert cost <= greedy_cost, f"joint answer {cost} is dearer than its incumbent {greedy_cost}"  # J1
    assert part.bound <= cost and (not part.exact or part.bound == cost), f"bound {part.bound}, cost {cost}"  # J2, J3
    micros = int((time.perf_counter() - started_s) * 1e6)
    chosen = (part.chosen - flat.ptr[:-1]).tolist()
    return JointAnswer(chosen, cost, part.bound, EXACT if part.exact else TIME_BOXED, micros)


def _solve(flat: Flat, alive: Flags, clock: _Clock, *, depth: int) -> _Part:
    """Reduce, split into components, solve each. `alive` is edited."""
    stock, chosen = flat.stock.copy(), flat.incumbent.copy()
    critical, part_of = reduce(flat.ptr, flat.cost, flat.take_ptr, flat.row, flat.units, stock, chosen, alive)
    bound = int(flat.cost[chosen[part_of < 0]].sum())
    exact = True
    for wanted in range(int(part_of.max()) + 1):
        sub = _extract(flat._replace(stock=stock, incumbent=chosen), alive, critical, part_of, wanted)
        answer = _component(sub, clock, depth=depth)
        chosen[part_of == wanted] = sub.source[answer.chosen]
        bound += answer.bound
        exact = exact and answer.exact
    return _Part(chosen, bound, exact)


def _component(flat: Flat, clock: _Clock, *, depth: int) -> _Part:
    """One connected component: exact search at once if tiny, else prices first, and CP-SAT for what stays open."""
    tiny = math.prod(np.diff(flat.ptr).tolist()) <= _TINY_PRODUCT
    if not tiny:
        flat = strengthen(flat)
    base = int(cheapest(flat.ptr, flat.cost).sum())
    incumbent = flat.incumbent.copy()
    scale = scale_for(flat)
    if scale == 0 or clock.left_s() <= 0:
        return _last_resort(flat, np.ones(len(flat.cost), dtype=np.bool_), base, clock)
    body = flat[:6]
    price = flat.price.copy()
    lagrangian = 0
    alive = np.ones(len(flat.cost), dtype=np.bool_)
    if not tiny:
        for _ in range(_PRICE_TURNS):  # a better incumbent makes better steps, and the other way round
            rounds = min(_PRICE_ROUNDS, 1 + _PRICE_WORK // len(flat.row))
            lagrangian = price_rows(*body, incumbent, price, scale, rounds)
            bound = base - (-lagrangian // scale)
            if bound >= flat.cost_of(incumbent) or len(flat.cost) * len(flat.row) > _EXCHANGE_WORK:
                break
            if improve(*body, incumbent) == 0:
                break
        if bound >= int(flat.cost[incumbent].sum()):
            return _Part(incumbent, flat.cost_of(incumbent), True)
        alive = drop_dear(*body[:5], incumbent, price, scale, lagrangian)
        flat = flat._replace(incumbent=incumbent, price=price)
        if depth < _DEPTH_MAX and 5 * int(alive.sum()) < 4 * len(alive):
            deeper = _solve(flat, alive, clock, depth=depth + 1)
            return _Part(deeper.chosen, max(bound, deeper.bound), deeper.exact)
    else:
        price[:] = 0
    nodes_max = min(_NODES_MAX, 1 + _SEARCH_WORK // len(flat.cost))
    if search(*body, incumbent, price, scale, lagrangian, nodes_max) < nodes_max:
        return _Part(incumbent, flat.cost_of(incumbent), True)
    bound = min(base - (-lagrangian // scale), flat.cost_of(incumbent))
    return _last_resort(flat._replace(incumbent=incumbent), alive, bound, clock)


def _last_resort(flat: Flat, alive: Flags, bound: int, clock: _Clock) -> _Part:
    """CP-SAT over the columns that can still matter, while there is time; otherwise the incumbent as it is."""
    if clock.left_s() <= 0:
        return _Part(flat.incumbent, bound, False)
    everything = np.ones(len(flat.stock), dtype=np.bool_)
    sub = _extract(flat, alive, everything, np.zeros(flat.orders, dtype=np.int64), 0)
    answer = solve_columns(sub, deterministic_limit=clock.deterministic_limit, wall_limit_s=clock.left_s())
    cost = flat.cost_of(sub.source[answer.chosen])
    return _Part(sub.source[answer.chosen], min(max(bound, answer.bound), cost), answer.exact)


def _extract(flat: Flat, alive: Flags, critical: Flags, part_of: Ints, wanted: int) -> Flat:
    return Flat(*extract(*flat[:8], alive, critical, part_of, wanted))
