"""A planner small enough to trust: nearest-number node first, lines split freely. For tests of the core, not of the choice."""

from __future__ import annotations

from collections.abc import Sequence

from engine.domain.orders import Destination
from engine.domain.plan import Plan, PlannedLeg, PlanRequest
from engine.domain.state import ShardState


class GreedyPlanner:
    """Fills every line from the lowest node index that has units, whole lines first."""

    def __init__(self, state: ShardState) -> None:
        self._state = state

    def locates(self, ship_to: Destination) -> bool:
        return ship_to.country == "US"

    def plan(self, requests: Sequence[PlanRequest], *, now_ms: int) -> list[Plan]:
        taken: dict[tuple[int, int], int] = {}
        return [self._plan_one(request, taken, now_ms) for request in requests]

    def _plan_one(self, request: PlanRequest, taken: dict[tuple[int, int], int], now_ms: int) -> Plan:
        positions = self._state.positions
        legs: dict[int, list[tuple[int, int]]] = {}
        unfilled = []
        for i, line in enumerate(request.lines):
            left = line.quantity
            rows = sorted(positions.rows(line.item), key=lambda row: positions.v_node[row])
            for row in rows:
                node = positions.v_node[row]
                if left == 0 or node in request.excluded:
                    continue
                free = positions.free(row) - taken.get((line.item, node), 0)
                units = min(left, max(0, free))
                if units:
                    taken[(line.item, node)] = taken.get((line.item, node), 0) + units
                    legs.setdefault(node, []).append((i, units))
                    left -= units
            if left:
                unfilled.append((i, left, "out_of_stock"))
        planned = [PlannedLeg(node, lines, cash_minor=(100, 0, 0, 0)) for node, lines in sorted(legs.items())]
        return Plan(planned, unfilled, (100 * len(planned), 0, 0, 0), (now_ms, now_ms), record=b"why")
