"""Batches whose orders collide: who lost something by it, what goes to the joint solver, and what its answer means."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import NamedTuple, Protocol

import numpy as np
from msgspec.structs import replace

from engine.actors.planner_output import Results, planned_leg
from engine.domain.decisions import Verdict, decode
from engine.domain.orders import Rung
from engine.domain.plan import Plan
from solvers import layout as at
from solvers.contention import (
    COLUMNS_MAX,
    COMPONENT_MAX,
    Incumbent,
    Joint,
    joint_problem,
    part_takes,
    part_ways,
    split_components,
)
from solvers.joint_wire import EXACT, pack_arrays, unpack_answer

ENTRIES = 8
"""Nodes looked at a subset of groups when ways are enumerated."""
WAYS_LEAST = 8
"""Ways of each order, however many they are."""
LEVELS_MAX = 4
"""Rounds of finding who else is tied to a component."""
_MAJOR, _MINOR = version("ortools").split(".")[:2]
SOLVER_VERSION = int(_MAJOR) * 100 + int(_MINOR)
GAP_NOT_SOLVED = [0, 0]


class Kernel(Protocol):
    """What the kernel says of single parts of a batch, each on the whole stock."""

    def optima(self, parts: Sequence[int]) -> list[int]:
        """The best score of each."""

    def ways(self, parts: Sequence[int], most: int) -> at.Ways:
        """Up to `most` ways of each; good until the next call."""


class Known(NamedTuple):
    """Ways found so far, of all parts asked about, as own copies."""

    ways: at.I64
    legs: at.I64
    takes: at.I64

    @classmethod
    def none(cls) -> Known:
        return cls(*(np.zeros((0, n), np.int64) for n in (at.WAY_COLUMNS, at.LEG_COLUMNS, at.TAKE_COLUMNS)))

    def joined(self, more: at.Ways) -> Known:
        """With the ways of further parts."""
        used = more.used.tolist()
        ways = more.ways[: used[0]].copy()
        ways[:, at.J_LEG] += len(self.legs)
        ways[:, at.J_TAKE] += len(self.takes)
        return Known(
            np.concatenate((self.ways, ways)),
            np.concatenate((self.legs, more.legs[: used[1]])),
            np.concatenate((self.takes, more.takes[: used[2]])),
        )

    def least(self, part: int, otherwise: int) -> int:
        """Score of the cheapest way of a part."""
        own = part_ways(self.ways, part)
        return int(self.ways[own.start, at.J_SCORE]) if own.start < own.stop else otherwise


class Component:
    """A component while the solver has it."""

    def __init__(self, orders: list[int], results: Results, known: Known, joint: Joint, plans: list[Plan]) -> None:
        self.orders = orders
        self.results = results
        self.known = known
        self.joint = joint
        self.plans = plans

    def packed(self) -> bytes:
        """The joint problem for the solver process."""
        return pack_arrays(self.joint.arrays)

    def answered(self, packed: bytes | None) -> list[Plan]:
        """Final plans. Raises AssertionError where the answer costs more than the greedy plans (J1 of the solver)."""
        if packed is None:
            return [replace(plan, component=0) for plan in self.plans]
        answer = unpack_answer(packed)
        ptr, cost, way_of = self.joint.arrays.ptr.tolist(), self.joint.arrays.cost.tolist(), self.joint.way_of.tolist()
        columns = [ptr[n] + chosen for n, chosen in enumerate(answer.chosen)]
        total = sum(cost[column] for column in columns)
        greedy = sum(cost[start] for start in ptr[:-1])
        assert total == answer.cost and total <= greedy, "the joint plan is dearer than the greedy one"
        rung = Rung.EXACT if answer.status == EXACT else Rung.TIME_BOXED
        gap = [total, answer.bound, len(columns), answer.micros, SOLVER_VERSION]
        plans = []
        for order, column in zip(self.orders, columns, strict=True):
            if way_of[column] < 0:
                plans.append(self.results.plan(order, rung=rung, gap=gap, scope=at.SCOPE_COLUMNS))
            else:
                plans.append(self._way_plan(order, way_of[column], rung, gap))
        return plans

    def _way_plan(self, order: int, way: int, rung: int, gap: list[int]) -> Plan:
        part = self.results.flat.first_part[order]
        heads = self.results.heads
        legs = []
        numbers: list[int] = []
        for leg, taken in self._legs(way):
            legs.append(planned_leg(leg, taken))
            numbers += heads.leg_numbers(leg, [i for i, _ in taken])
        money = self._money(way)
        runner, verdicts = self._others(part, way, money)
        body = heads.body(
            at.SCOPE_COLUMNS, numbers, runner, verdicts, decode(self.plans[self.orders.index(order)].record).counts
        )
        record = heads.record(rung, body, gap)
        ship_by = max(leg.ship_by_ms for leg in legs)
        deliver_by = max(leg.deliver_by_ms for leg in legs)
        return Plan(legs, [], money, (ship_by, deliver_by), rung, record)

    def _leg_rows(self, way: int) -> list[list[int]]:
        start, count = self.known.ways[way, at.J_LEG], self.known.ways[way, at.J_LEG_COUNT]
        rows: list[list[int]] = self.known.legs[start : start + count].tolist()
        return rows

    def _legs(self, way: int) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Legs of a way with (line, units); the lines follow each other in the way's takes."""
        start = int(self.known.ways[way, at.J_TAKE])
        end = start + int(self.known.ways[way, at.J_TAKE_COUNT])
        takes = [take for take in self.known.takes[start:end].tolist() if take[at.X_TAKE_LINE] >= 0]
        out = []
        for leg in self._leg_rows(way):
            mine, takes = takes[: leg[at.G_LINE_COUNT]], takes[leg[at.G_LINE_COUNT] :]
            out.append((leg, [(take[at.X_TAKE_LINE], take[at.X_TAKE_UNITS]) for take in mine]))
        return out

    def _money(self, way: int) -> tuple[int, int, int, int]:
        cash = service = policy = opportunity = 0
        for leg in self._leg_rows(way):
            cash += leg[at.G_CASH] + leg[at.G_CASH_LINES] + leg[at.G_CASH_UNITS] + leg[at.G_CASH_SURCHARGE]
            service += leg[at.G_LATE] + leg[at.G_TRANSIT]
            policy += leg[at.G_POLICY]
            opportunity += leg[at.G_OPPORTUNITY]
        return cash, service, policy, opportunity

    def _others(self, part: int, way: int, money: tuple[int, int, int, int]) -> tuple[list[int], list[int]]:
        """(runner-up, verdicts) of an order that the solver moved: its other ways, cheapest first."""
        chosen_rows = self._leg_rows(way)
        chosen = {row[at.G_NODE] for row in chosen_rows}
        verdicts: list[int] = []
        for n, row in enumerate(chosen_rows):
            verdicts += (row[at.G_NODE], row[at.G_KM], Verdict.CHOSEN, n)
        runner: list[int] = []
        shown = len(chosen_rows)
        own = part_ways(self.known.ways, part)
        for other in range(own.start, own.stop):
            rows = self._leg_rows(other)
            nodes = [row[at.G_NODE] for row in rows]
            if set(nodes) == chosen:
                continue
            more = [a - b for a, b in zip(self._money(other), money, strict=True)]
            if not runner:
                runner = [*more, *nodes]
            if len(rows) == 1 and nodes[0] not in chosen and shown < at.RECORD_CANDIDATES:
                verdicts += (nodes[0], rows[0][at.G_KM], Verdict.DEARER_BY_PRICE, *more)
                shown += 1
        return runner, verdicts


class Contention:
    """Components that wait for an answer, by number."""

    def __init__(self, *, in_flight_max: int) -> None:
        self._in_flight_max = in_flight_max
        self._open: dict[int, Component] = {}
        self._last = 0

    def take(self, component: int) -> Component:
        """A component, forgotten from now on. KeyError: there is none of this number."""
        return self._open.pop(component)

    def get(self, component: int) -> Component:
        """KeyError: there is none of this number."""
        return self._open[component]

    def settle(self, results: Results, kernel: Kernel) -> list[Plan]:
        """Plans of a batch in which somebody's choice was changed by another's."""
        parts, firsts, ends = results.parts, results.flat.first_part, results.ends
        orders = range(len(ends))
        collided = [n for n in orders if any(row[at.R_COLLIDED] for row in parts[firsts[n] : ends[n]])]
        movable = {n: None for n in orders if _movable(results, n)}
        rungs = [Rung.SEPARABLE] * len(ends)
        gaps: dict[int, list[int]] = {}
        numbers: dict[int, int] = {}
        made: dict[int, tuple[list[int], Known, Joint]] = {}
        asked = [n for n in collided if n in movable]
        optima = dict(zip(asked, kernel.optima([firsts[n] for n in asked]), strict=True)) if asked else {}
        losers = []
        for n in collided:
            score = parts[firsts[n]][at.R_SCORE]
            if n not in optima:
                rungs[n] = Rung.GREEDY
            elif score > optima[n]:
                losers.append(n)
                rungs[n] = Rung.GREEDY
                gaps[n] = [score, optima[n], 1, *GAP_NOT_SOLVED]
        if losers and len(self._open) < self._in_flight_max:
            for group, known, joint in _components(results, losers, list(movable), kernel):
                if len(self._open) + len(made) >= self._in_flight_max:
                    break
                self._last += 1
                made[self._last] = (group, known, joint)
                scores = [parts[firsts[n]][at.R_SCORE] for n in group]
                bound = sum(min(s, known.least(firsts[n], s)) for n, s in zip(group, scores, strict=True))
                for n in group:
                    rungs[n] = Rung.GREEDY
                    numbers[n] = self._last
                    gaps[n] = [sum(scores), bound, len(group), *GAP_NOT_SOLVED]
        plans = [results.plan(n, rung=rungs[n], gap=gaps.get(n), component=numbers.get(n, 0)) for n in orders]
        for number, (group, known, joint) in made.items():
            self._open[number] = Component(group, results, known, joint, [plans[n] for n in group])
        return plans


def whole_batch(results: Results, kernel: Kernel) -> Joint:
    """The joint problem of all orders of a batch, nothing narrowed: what narrowing is measured against.

    Orders that cannot move (`_movable`) keep their greedy plans. Nobody waits for this in production.
    """
    movable = [n for n in range(len(results.ends)) if _movable(results, n)]
    inside = set(movable)
    firsts = [results.flat.first_part[n] for n in movable]
    known = Known.none().joined(kernel.ways(firsts, at.WAYS_MAX))
    held: dict[int, int] = {}
    for n in range(len(results.ends)):
        if n not in inside:
            for row, units in _incumbent(results, n).takes:
                held[row] = held.get(row, 0) + units
    return joint_problem(firsts, [_incumbent(results, n) for n in movable], known.ways, known.takes, held)


def _components(
    results: Results, losers: list[int], movable: list[int], kernel: Kernel
) -> list[tuple[list[int], Known, Joint]]:
    """Components of two orders or more that hold somebody who lost."""
    firsts = results.flat.first_part
    items = {n: _items(results, n) for n in movable}
    demand: dict[int, int] = {}
    users: dict[int, list[int]] = {}
    for n in movable:
        for item, units in items[n].items():
            demand[item] = demand.get(item, 0) + units
            users.setdefault(item, []).append(n)
    known = Known.none()
    critical: dict[int, list[int]] = {}
    level = losers[:COMPONENT_MAX]
    for _ in range(LEVELS_MAX):
        most = max(WAYS_LEAST, min(at.WAYS_MAX, COLUMNS_MAX // (len(critical) + len(level))))
        known = known.joined(kernel.ways([firsts[n] for n in level], most))
        for n in level:
            critical[n] = _critical(results, n, known, demand)
        found = {o: None for n in level for item in critical[n] for o in users[item] if o not in critical}
        level = sorted(found)[: COMPONENT_MAX - len(critical)]
        if not level:
            break
    out = []
    for group in split_components(sorted(critical), critical):
        if len(group) < 2 or not any(n in losers for n in group):
            continue
        inside = set(group)
        held: dict[int, int] = {}
        for n in range(len(results.ends)):
            if n not in inside:
                for row, units in _incumbent(results, n).takes:
                    held[row] = held.get(row, 0) + units
        incumbents = [_incumbent(results, n) for n in group]
        joint = joint_problem([firsts[n] for n in group], incumbents, known.ways, known.takes, held)
        out.append((group, known, joint))
    return out


def _movable(results: Results, order: int) -> bool:
    """Whether all ways to serve an order can be enumerated: one part, served whole by the exact search."""
    first = results.flat.first_part[order]
    row = results.parts[first]
    whole = row[at.R_LEG_COUNT] > 0 and row[at.R_UNFILLED_COUNT] == 0
    return results.ends[order] == first + 1 and whole and row[at.R_SCOPE] == at.SCOPE_SPLITS


def _items(results: Results, order: int) -> dict[int, int]:
    """Units by item that an order asks."""
    first = results.flat.first_part[order]
    start = results.flat.parts[first * at.ORDER_COLUMNS + at.O_LINE]
    count = results.flat.parts[first * at.ORDER_COLUMNS + at.O_LINE_COUNT]
    units: dict[int, int] = {}
    for line in range(start, start + count):
        item, many = results.flat.lines[line * at.LINE_COLUMNS : line * at.LINE_COLUMNS + 2]
        units[item] = units.get(item, 0) + many
    return units


def _critical(results: Results, order: int, known: Known, demand: dict[int, int]) -> list[int]:
    """Items of an order of which some position in its reach has less than all movable orders ask."""
    first = results.flat.first_part[order]
    start = results.flat.parts[first * at.ORDER_COLUMNS + at.O_LINE]
    count = results.flat.parts[first * at.ORDER_COLUMNS + at.O_LINE_COUNT]
    items = results.flat.lines[start * at.LINE_COLUMNS : (start + count) * at.LINE_COLUMNS : at.LINE_COLUMNS]
    takes = known.takes[part_takes(known.ways, part_ways(known.ways, first))]
    takes = takes[takes[:, at.X_TAKE_LINE] >= 0]
    asked = np.array([demand[item] for item in items], np.int64)
    short = takes[takes[:, at.X_TAKE_FREE] < asked[takes[:, at.X_TAKE_LINE]], at.X_TAKE_LINE]
    return sorted({items[line] for line in np.unique(short).tolist()})


def _incumbent(results: Results, order: int) -> Incumbent:
    """What the greedy plan of an order costs and takes."""
    score = 0
    takes: dict[int, int] = {}
    for part in range(results.flat.first_part[order], results.ends[order]):
        score += results.parts[part][at.R_SCORE]
    where = results.legs_of(order)
    rows = iter(results.rows_of(where))
    for leg in results.legs[where]:
        if leg.capacity_units:
            key = -1 - (leg.node * at.RING + leg.ship_day % at.RING)
            takes[key] = takes.get(key, 0) + leg.capacity_units
        for (_, units), position in zip(leg.lines, rows, strict=False):
            takes[position] = takes.get(position, 0) + units
    return Incumbent(score, tuple(takes.items()))
