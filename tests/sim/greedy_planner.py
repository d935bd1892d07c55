"""A planner small enough to trust: lowest node first, groups whole, lines split freely. For tests of the core, not of the choice."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from engine.domain.decisions import NodeVerdict
from engine.domain.orders import Destination, LineRecord, Rung
from engine.domain.plan import Plan, PlannedLeg, PlanRequest
from engine.domain.promising import extra_safety
from engine.domain.state import ShardState

DAY_MS = 86_400_000
DAYS_AHEAD = 3


class GreedyPlanner:
    """Fills every line from the lowest node index that has units; a group from the lowest node that has all of it."""

    reach_km = 0

    def __init__(self, state: ShardState, *, highest_first: bool = False) -> None:
        self._state = state
        self._sign = -1 if highest_first else 1

    def locate(self, ship_to: Destination) -> tuple[float, float] | None:
        if ship_to.lat is not None and ship_to.lon is not None:
            return ship_to.lat, ship_to.lon
        return (40.75, -73.99) if ship_to.country == "US" else None

    def plan(self, requests: Sequence[PlanRequest], *, now_ms: int) -> list[Plan]:
        taken: dict[tuple[int, int], int] = {}
        days: dict[tuple[int, int], int] = {}
        return [self._plan_one(request, taken, days, now_ms) for request in requests]

    def component_problem(self, component: int) -> bytes:
        raise KeyError(component)  # this planner makes no components

    def improved(self, component: int, answer: bytes | None) -> list[Plan]:
        raise KeyError(component)

    def explain_node(self, request: PlanRequest, node: int, *, now_ms: int) -> NodeVerdict:
        (plan,) = self.plan([request], now_ms=now_ms)
        for n, leg in enumerate(plan.legs):
            if leg.node == node:
                return NodeVerdict(node, -1, "chosen", (n,), f"chosen: ships leg {n + 1}")
        return NodeVerdict(node, -1, "excluded", (), "is not the lowest node that has units")

    def _free(self, line: LineRecord, node: int, taken: dict[tuple[int, int], int]) -> int:
        state = self._state
        row = state.positions.find(line.item, node)
        extra = extra_safety(state, node, line.method)
        return state.positions.free(row) - taken.get((line.item, node), 0) - extra if row >= 0 else 0

    def _nodes(self, request: PlanRequest, line: LineRecord) -> list[int]:
        """Nodes that have a position of the item, may be used, and have a day left, in their order."""
        state = self._state
        nodes = []
        for row in state.positions.rows(line.item):
            node = state.positions.v_node[row]
            document = state.catalog.nodes[node]
            if document is None or document.state != "on" or node in request.excluded:
                continue
            if any(tag not in document.offers for tag in line.tags):
                continue
            if line.pickup_node < 0 or line.pickup_node == node:
                nodes.append(node)
        return sorted(nodes, key=lambda node: self._sign * node)

    def _plan_one(
        self,
        request: PlanRequest,
        taken: dict[tuple[int, int], int],
        days: dict[tuple[int, int], int],
        now_ms: int,
    ) -> Plan:
        legs: dict[int, list[tuple[int, int]]] = {}
        unfilled: list[tuple[int, int, str]] = []
        groups: dict[int, list[int]] = {}
        for i, line in enumerate(request.lines):
            if line.group:
                groups.setdefault(line.group, []).append(i)
                continue
            left = line.quantity
            for node in self._nodes(request, line):
                units = min(left, max(0, self._free(line, node, taken)))
                if units:
                    self._take(legs, taken, i, line, node, units)
                    left -= units
                if not left:
                    break
            if left:
                unfilled.append((i, left, "out_of_stock"))
        for members in groups.values():
            self._place_group(request, members, legs, taken, unfilled)
        today = now_ms // DAY_MS
        planned = []
        for node, lines in sorted(legs.items()):
            found = self._day(node, today, lines, days)
            if found is None:
                unfilled += [(i, units, "capacity") for i, units in lines]
                for i, units in lines:
                    taken[(request.lines[i].item, node)] -= units
                continue
            day, capacity = found
            days[(node, day)] = days.get((node, day), 0) + capacity
            planned.append(PlannedLeg(node, lines, ship_day=day, cash_minor=(100, 0, 0, 0), capacity_units=capacity))
        by_ms = (max((leg.ship_day for leg in planned), default=today) + 1) * DAY_MS - 1_000
        return Plan(planned, unfilled, (100 * len(planned), 0, 0, 0), (by_ms, by_ms), record=b"why")

    def _place_group(
        self,
        request: PlanRequest,
        members: list[int],
        legs: dict[int, list[tuple[int, int]]],
        taken: dict[tuple[int, int], int],
        unfilled: list[tuple[int, int, str]],
    ) -> None:
        lines = [request.lines[i] for i in members]
        need: dict[int, int] = {}
        for line in lines:
            need[line.item] = need.get(line.item, 0) + line.quantity
        for node in self._nodes(request, lines[0]):
            if all(self._free(line, node, taken) >= need[line.item] for line in lines):
                for i, line in zip(members, lines, strict=True):
                    self._take(legs, taken, i, line, node, line.quantity)
                return
        unfilled += [(i, line.quantity, "out_of_stock") for i, line in zip(members, lines, strict=True)]

    @staticmethod
    def _take(
        legs: dict[int, list[tuple[int, int]]],
        taken: dict[tuple[int, int], int],
        i: int,
        line: LineRecord,
        node: int,
        units: int,
    ) -> None:
        taken[(line.item, node)] = taken.get((line.item, node), 0) + units
        legs.setdefault(node, []).append((i, units))

    def _day(
        self, node: int, today: int, lines: list[tuple[int, int]], days: dict[tuple[int, int], int]
    ) -> tuple[int, int] | None:
        """(ship day, units of capacity): the first day with room; None where no day looked at has any."""
        document = self._state.catalog.nodes[node]
        limit = document.capacity if document else None
        if limit is None:
            return today, 0
        units = {"orders": 1, "lines": len(lines), "units": sum(u for _, u in lines)}[limit.unit]
        for day in range(today, today + DAYS_AHEAD):
            if self._state.capacity.get(node, day) + days.get((node, day), 0) + units <= limit.per_day:
                return day, units
        return None


class CollidingPlanner(GreedyPlanner):
    """Plans of one batch that share an item are a component; its "solver" plans them from the highest node down."""

    def __init__(self, state: ShardState) -> None:
        super().__init__(state)
        self._other = GreedyPlanner(state, highest_first=True)
        self._components: dict[int, tuple[list[PlanRequest], list[Plan], list[Plan]]] = {}
        self._count = 0

    def plan(self, requests: Sequence[PlanRequest], *, now_ms: int) -> list[Plan]:
        plans = super().plan(requests, now_ms=now_ms)
        by_item: dict[int, int] = {}
        for request in requests:
            for item in {line.item for line in request.lines}:
                by_item[item] = by_item.get(item, 0) + 1
        collide = [
            n
            for n, request in enumerate(requests)
            if plans[n].legs and not plans[n].unfilled and any(by_item[line.item] > 1 for line in request.lines)
        ]
        if len(collide) < 2:
            return plans
        self._count += 1
        chosen = [requests[n] for n in collide]
        better = [replace(plan, rung=Rung.EXACT) for plan in self._other.plan(chosen, now_ms=now_ms)]
        greedy = [plans[n] for n in collide]
        self._components[self._count] = (chosen, greedy, better)
        for n in collide:
            plans[n] = replace(plans[n], component=self._count)
        return plans

    def component_problem(self, component: int) -> bytes:
        return b"problem %d" % component

    def improved(self, component: int, answer: bytes | None) -> list[Plan]:
        _, greedy, better = self._components.pop(component)
        return better if answer is not None else greedy
