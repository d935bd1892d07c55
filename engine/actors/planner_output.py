"""The kernel's rows as plans and packed decision records."""

from __future__ import annotations

from engine.actors.planner_input import Flat
from engine.actors.planner_record import Heads
from engine.domain.orders import Rung
from engine.domain.plan import Plan, PlannedLeg
from solvers import layout as at

REASONS = ("out_of_stock", "no_node", "max_legs", "capacity")
_LEGS, _LEG_LINES, _UNFILLED, _CANDIDATES, _RECORD = range(5)


class Results:
    """What the kernel said about a batch, as lists (fast to read one by one), independent of its arrays."""

    def __init__(self, flat: Flat, outcome: at.Outcome, *, config: int, now_ms: int) -> None:
        used = outcome.used.tolist()
        self.flat = flat
        self.heads = Heads(config=config, now_ms=now_ms)
        self.parts: list[list[int]] = outcome.parts[: len(flat.parts) // at.ORDER_COLUMNS, : at.PLAN_COLUMNS].tolist()
        self.legs: list[list[int]] = outcome.legs[: used[_LEGS]].tolist()
        self.leg_lines: list[list[int]] = outcome.leg_lines[: used[_LEG_LINES]].tolist()
        self.unfilled: list[list[int]] = outcome.unfilled[: used[_UNFILLED]].tolist()
        self._records = outcome.record[: used[_RECORD]].tobytes()
        self.ends = [*flat.first_part[1:], len(self.parts)]
        """One past the last part of each order."""

    def plan(
        self, order: int, *, rung: int, gap: list[int] | None = None, component: int = 0, scope: int | None = None
    ) -> Plan:
        """The plan of an order with its record. scope: what the rung is claimed within, where not what the kernel says."""
        planned: list[PlannedLeg] = []
        left: list[tuple[int, int, str]] = []
        cash = service = policy = opportunity = 0
        ship_by = deliver_by = 0
        parts, legs, leg_lines = self.parts, self.legs, self.leg_lines
        end = self.ends[order]
        for part in range(self.flat.first_part[order], end):
            row = parts[part]
            first = row[at.R_LEG]
            for leg in legs[first : first + row[at.R_LEG_COUNT]]:
                start = leg[at.G_LINE]
                lines = leg_lines[start : start + leg[at.G_LINE_COUNT]]
                planned.append(planned_leg(leg, [(i, units) for i, units, _ in lines]))
                cash += leg[at.G_CASH] + leg[at.G_CASH_LINES] + leg[at.G_CASH_UNITS] + leg[at.G_CASH_SURCHARGE]
                service += leg[at.G_LATE] + leg[at.G_TRANSIT]
                policy += leg[at.G_POLICY]
                opportunity += leg[at.G_OPPORTUNITY]
                if leg[at.G_SHIP_BY] > ship_by:
                    ship_by = leg[at.G_SHIP_BY]
                if leg[at.G_DELIVER_BY] > deliver_by:
                    deliver_by = leg[at.G_DELIVER_BY]
            if row[at.R_UNFILLED_COUNT]:
                start = row[at.R_UNFILLED]
                for i, units, reason in self.unfilled[start : start + row[at.R_UNFILLED_COUNT]]:
                    left.append((i, units, REASONS[reason]))
        record = b""
        if planned:
            last = parts[end - 1]
            body = self._records[last[at.R_RECORD] : last[at.R_RECORD_END]]
            if scope is not None:
                body = bytes([scope]) + body[1:]
            record = self.heads.record(rung, body, gap)
        money = (cash, service, policy, opportunity)
        return Plan(planned, left, money, (ship_by, deliver_by), rung, record, component)


def planned_leg(leg: list[int], taken: list[tuple[int, int]]) -> PlannedLeg:
    """A kernel's leg with the lines it takes."""
    return PlannedLeg(
        leg[at.G_NODE],
        taken,
        leg[at.G_SERVICE],
        leg[at.G_PARCELS],
        leg[at.G_SHIP_DAY],
        leg[at.G_SHIP_BY],
        leg[at.G_DELIVER_BY],
        (leg[at.G_CASH], leg[at.G_CASH_LINES], leg[at.G_CASH_UNITS], leg[at.G_CASH_SURCHARGE]),
        leg[at.G_CAP_UNITS],
    )


def all_separable(results: Results) -> list[Plan]:
    """Plans of a batch in which nobody's choice was changed by another's."""
    return [results.plan(order, rung=Rung.SEPARABLE) for order in range(len(results.ends))]
