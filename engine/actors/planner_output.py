"""The kernel's rows as plans and packed decision records."""

from __future__ import annotations

from operator import add

from engine.actors.planner_input import Flat
from engine.actors.planner_record import Heads
from engine.domain.orders import Rung
from engine.domain.plan import Plan, PlannedLeg
from engine.domain.state import ShardState
from solvers import layout as at

REASONS = ("out_of_stock", "no_node", "max_legs", "capacity")
_LEGS, _LEG_LINES, _UNFILLED, _CANDIDATES, _RECORD = range(5)
_CASH = (at.G_CASH, at.G_CASH_LINES, at.G_CASH_UNITS, at.G_CASH_SURCHARGE)
_LEG_COLUMNS = (
    at.G_NODE,
    at.G_SERVICE,
    at.G_PARCELS,
    at.G_SHIP_DAY,
    at.G_SHIP_BY,
    at.G_DELIVER_BY,
    at.G_CAP_UNITS,
)
_NOTHING = (0, 0, 0, 0)


class Results:
    """What the kernel said about a batch, as plain values (fast to read one by one), independent of its arrays."""

    def __init__(self, flat: Flat, outcome: at.Outcome, *, state: ShardState, now_ms: int) -> None:
        used = outcome.used.tolist()
        self.flat = flat
        self.heads = Heads(config=state.catalog.version, now_ms=now_ms, views=state.view_points)
        self.parts: list[list[int]] = outcome.parts[: len(flat.parts) // at.ORDER_COLUMNS, : at.PLAN_COLUMNS].tolist()
        self.unfilled: list[list[int]] = outcome.unfilled[: used[_UNFILLED]].tolist() if used[_UNFILLED] else []
        self._records = outcome.record[: used[_RECORD]].tobytes()
        self.ends = [*flat.first_part[1:], len(self.parts)]
        """One past the last part of each order."""
        lines, units, rows = outcome.leg_lines[: used[_LEG_LINES]].T.tolist()
        self.rows: list[int] = rows
        """Position row of each line of each leg, in the order of the legs."""
        self.row_starts: list[int] = [0]
        """Place in `rows` of the first of each leg, and of the end."""
        taken = list(zip(lines, units, strict=True))
        legs = outcome.legs[: used[_LEGS]].T.tolist()
        takes, end = [], 0
        for count in legs[at.G_LINE_COUNT]:
            takes.append(taken[end : end + count])
            end += count
            self.row_starts.append(end)
        node, service, parcels, ship_day, ship_by, deliver_by, cap_units = [legs[n] for n in _LEG_COLUMNS]
        cash = list(zip(*[legs[n] for n in _CASH], strict=True))
        columns = (node, takes, service, parcels, ship_day, ship_by, deliver_by, cash, cap_units)
        self.legs = list(map(PlannedLeg, *columns))
        service_minor = map(add, legs[at.G_LATE], legs[at.G_TRANSIT])
        self._money = list(zip(map(sum, cash), service_minor, legs[at.G_POLICY], legs[at.G_OPPORTUNITY], strict=True))

    def legs_of(self, order: int) -> slice:
        """Places of an order's legs in `legs`."""
        first, end = self.flat.first_part[order], self.ends[order]
        row = self.parts[first]
        start, count = row[at.R_LEG], row[at.R_LEG_COUNT]
        if end - first > 1:
            count += sum([row[at.R_LEG_COUNT] for row in self.parts[first + 1 : end]])
        return slice(start, start + count)

    def rows_of(self, legs: slice) -> list[int]:
        """Position rows of the lines of legs that follow each other."""
        return self.rows[self.row_starts[legs.start] : self.row_starts[legs.stop]]

    def plan(
        self, order: int, *, rung: int, gap: list[int] | None = None, component: int = 0, scope: int | None = None
    ) -> Plan:
        """The plan of an order with its record. scope: what the rung is claimed within, where not what the kernel says."""
        first, end = self.flat.first_part[order], self.ends[order]
        last = self.parts[first]
        start = last[at.R_LEG]
        stop = start + last[at.R_LEG_COUNT]
        if end - first > 1:
            stop = self.legs_of(order).stop
            last = self.parts[end - 1]
        legs = self.legs[start:stop]
        if len(legs) == 1:
            (leg,) = legs
            money = self._money[start]
            promise_ms = leg.ship_by_ms, leg.deliver_by_ms
        else:
            cash, service, policy, opportunity = map(sum, zip(_NOTHING, *self._money[start:stop], strict=True))
            money = cash, service, policy, opportunity
            promise_ms = (
                max([leg.ship_by_ms for leg in legs], default=0),
                max([leg.deliver_by_ms for leg in legs], default=0),
            )
        left: list[tuple[int, int, str]] = []
        if self.unfilled:
            for row in self.parts[first:end]:
                at_first = row[at.R_UNFILLED]
                for i, units, reason in self.unfilled[at_first : at_first + row[at.R_UNFILLED_COUNT]]:
                    left.append((i, units, REASONS[reason]))
        record = b""
        body = self._records[last[at.R_RECORD] : last[at.R_RECORD_END]]
        if body:  # a refused order has none
            if scope is not None:
                body = bytes([scope]) + body[1:]
            record = self.heads.record(rung, body, gap)
        rows = self.rows[self.row_starts[start] : self.row_starts[stop]]
        return Plan(legs, left, money, promise_ms, rung, record, component, rows)


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
