"""The production planner: from the shard's state and catalogue to the compiled kernel and back to plans.

Orders of a batch become a few flat arrays, the kernel plans them all in one call, and its rows become plans and packed decision
records. A plan is a function of (positions, capacity, feed ages, catalogue, request, now) and nothing else.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

from engine.actors.planner_network import ItemFeed, NetworkView
from engine.actors.planner_record import part_record, record_of
from engine.domain.orders import Destination, Method, OnShort, OrderRequest, Rung
from engine.domain.plan import Plan, PlannedLeg, PlanRequest
from engine.domain.state import ShardState
from engine.settings import Settings
from solvers import layout as at
from solvers.calendar import DAY_MS, add_business_days
from solvers.kernel import NO_ROOM, plan_batch

LATE_MINOR_MAX = 1_000_000_000
VALUE_MAX = 1_000_000_000_000
REASONS = ("out_of_stock", "no_node", "max_legs", "capacity")
_LEG_COUNT, _LINE_COUNT, _UNFILLED_COUNT, _CANDIDATE_COUNT = range(4)


class Part:
    """Some lines of a request: one method and, where it has one, one store."""

    __slots__ = ("lines", "method", "store")

    def __init__(self, method: int, store: int) -> None:
        self.method = method
        self.store = store
        self.lines: list[int] = []


class Flat:
    """A batch as the kernel reads it. `lines_of` maps part -> its lines' places in the request, where they are not all in order."""

    __slots__ = ("excluded", "first_part", "lines", "lines_of", "parts")

    def __init__(self) -> None:
        self.parts: list[int] = []
        self.lines: list[int] = []
        self.excluded: list[int] = []
        self.first_part: list[int] = []
        self.lines_of: dict[int, list[int]] = {}


class SolverPlanner:
    """Implements engine.domain.plan.Planner. Make it once a shard; the first one of a process compiles or loads the kernel."""

    def __init__(self, state: ShardState, settings: Settings) -> None:
        self._state = state
        self._settings = settings
        self._items = ItemFeed()
        self._network_version = -1
        self._view = NetworkView(state.catalog)
        self._taken = np.zeros((1, state.capacity.DAYS), np.int32)
        self._prices = np.zeros(0, np.int32)
        self._outcome = at.make_outcome(parts=64, lines=512)
        self._scratch = at.make_scratch(nodes=1, lines=64, batch_lines=512)
        self._promise: dict[tuple[int, int], int] = {}
        self.warm()

    # -- port -----------------------------------------------------------------------------------------------------

    def locates(self, ship_to: Destination) -> bool:
        """Whether a destination can be placed on the map (by its own coordinates or its postal code)."""
        if self._network_version != self._state.catalog.network_version:
            self._refresh_network()
        return self._view.destinations.knows(ship_to.country, ship_to.postal_code, ship_to.lat, ship_to.lon)

    def plan(self, requests: Sequence[PlanRequest], *, now_ms: int) -> list[Plan]:
        """Plan a batch in order: each order sees the stock that its forerunners left."""
        if not requests:
            return []
        self._refresh(now_ms)
        flat = self._flatten(requests, now_ms)
        self._run(flat)
        return self._plans(requests, flat, now_ms)

    def component_problem(self, component: int) -> bytes:
        """The joint problem of a component, packed for the solver process."""
        raise KeyError(component)

    def improved(self, component: int, answer: bytes | None) -> list[Plan]:
        """Final plans of a component."""
        raise KeyError(component)

    def warm(self) -> None:
        """Compile the kernel, or load it, by planning nothing."""
        self._refresh(self._state.time_ms)
        self._run(Flat())

    # -- in -------------------------------------------------------------------------------------------------------

    def _refresh_network(self) -> None:
        catalog = self._state.catalog
        self._view = NetworkView(catalog)
        self._items = ItemFeed()
        self._network_version = catalog.network_version
        nodes = max(1, self._view.compiled.node_count)
        if len(self._taken) < nodes:
            self._taken = np.zeros((nodes, self._state.capacity.DAYS), np.int32)

    def _refresh(self, now_ms: int) -> None:
        catalog = self._state.catalog
        if self._network_version != catalog.network_version:
            self._refresh_network()
        self._items.refresh(catalog, self._view.compiled)
        self._view.compiled.refresh(now_ms)
        self._view.refresh_stale(self._state, now_ms)

    def _flatten(self, requests: Sequence[PlanRequest], now_ms: int) -> Flat:
        flat = Flat()
        view = self._view
        compiled = view.compiled
        destinations = view.destinations
        destinations.start(2 * len(requests) + 64)
        number = destinations.number
        country_of, level_of = compiled.country_of, compiled.level_of
        parts, lines, excluded = flat.parts, flat.lines, flat.excluded
        part_count = 0
        line_count = 0
        for request in requests:
            order = request.order
            flat.first_part.append(part_count)
            channel = view.channels[request.channel]
            assert channel is not None, "the core looks the channel up"
            ship_to = order.ship_to
            if ship_to is not None:
                country = ship_to.country
                dest = number(country, ship_to.postal_code, ship_to.lat, ship_to.lon)
                residential = ship_to.residential
            else:
                country = channel.centre[0]
                dest = number(*channel.centre)
                residential = True
            level, level_count = level_of.get(order.service, (0, 0))
            ready_ms = max(now_ms, order.ship_after_ms or 0)
            promise_day = self._promise_day(order, channel.promise_days, ready_ms)
            atomic = channel.atomic if order.on_short is None else order.on_short == OnShort.REFUSE
            if order.paid:
                atomic = False
            tags = self._line_tags(order)
            plain = True
            first_line = line_count
            for line in request.lines:
                if line.method:
                    plain = False
                lines += (
                    line.item,
                    line.quantity,
                    min(line.unit_price_minor, VALUE_MAX),
                    line.group,
                    line.splittable,
                    tags.get(line.line_id, 0) if tags else 0,
                )
                line_count += 1
            head = (
                dest,
                country_of.get(country, 0),
                request.channel,
                level,
                level_count,
                residential,
                ready_ms,
                promise_day,
                min(channel.late_minor, LATE_MINOR_MAX),
                channel.transit_bp,
                request.max_legs,
                atomic,
            )
            tail = (len(excluded), len(request.excluded), 0)
            excluded += request.excluded
            if plain:
                parts += (1, *head, Method.SHIP, -1, 0, first_line, line_count - first_line, *tail)
                part_count += 1
            else:
                part_count += self._flatten_mixed(flat, request, head, tail, first_line, part_count)
        return flat

    def _flatten_mixed(
        self,
        flat: Flat,
        request: PlanRequest,
        head: tuple[int, ...],
        tail: tuple[int, ...],
        first_line: int,
        part_count: int,
    ) -> int:
        """Parts of a request whose lines differ in method or store; how many. Its lines are put into the parts' order."""
        found: dict[tuple[int, int], Part] = {}
        for i, line in enumerate(request.lines):
            store = line.pickup_node if line.method in (Method.PICKUP, Method.SHIP_TO_STORE) else -1
            key = (line.method, store)
            if key not in found:
                found[key] = Part(*key)
            found[key].lines.append(i)
        width = at.LINE_COLUMNS
        start = first_line * width
        own = flat.lines[start:]
        del flat.lines[start:]
        for n, part in enumerate(found.values()):
            for i in part.lines:
                flat.lines += own[i * width : (i + 1) * width]
            place, country, *rest = head
            if part.store >= 0:
                place = self._view.destinations.number(*self._view.node_places[part.store])
                country = self._view.compiled.country_of.get(self._view.node_places[part.store][0], 0)
            flat.parts += (
                n == len(found) - 1,
                place,
                country,
                *rest,
                part.method,
                part.store,
                part.method == Method.PICKUP,
                first_line,
                len(part.lines),
                *tail,
            )
            flat.lines_of[part_count + n] = part.lines
            first_line += len(part.lines)
        return len(found)

    def _line_tags(self, order: OrderRequest) -> dict[str, int] | None:
        """Handling bits of lines that name tags of their own; None = no line does."""
        tags = None
        for line in order.lines:
            if line.tags:
                tags = tags or {}
                tags[line.line_id] = self._view.compiled.need(line.tags)
        return tags

    def _promise_day(self, order: OrderRequest, promise_days: dict[str, int], ready_ms: int) -> int:
        """The day by which the order is promised: its own date, else the channel's business days for the service."""
        if order.promised_by_ms is not None:
            return (order.promised_by_ms - 1) // DAY_MS
        days = promise_days.get(order.service)
        if days is None:
            return at.NO_PROMISE
        key = (ready_ms // DAY_MS, days)
        found = self._promise.get(key)
        if found is None:
            if len(self._promise) > 1_024:
                self._promise.clear()
            found = self._promise[key] = add_business_days(*key)
        return found

    # -- the kernel -----------------------------------------------------------------------------------------------

    def _run(self, flat: Flat) -> None:
        """Plan the batch into `self._outcome`."""
        view = self._view
        positions = self._state.positions
        capacity = self._state.capacity
        stock = at.Stock(
            positions.offset,
            positions.head,
            positions.node,
            positions.next,
            positions.on_hand,
            positions.held,
            positions.allocated,
            positions.safety,
            positions.claimed,
            positions.fenced,
            self._prices,
        )
        load = at.Load(capacity.used, capacity.day, self._taken, view.stale)
        parts = _table(flat.parts, at.ORDER_COLUMNS)
        lines = _table(flat.lines, at.LINE_COLUMNS)
        batch = at.Batch(
            parts,
            lines,
            np.array(flat.excluded, np.int32),
            view.destinations.km,
            view.compiled.flags,
            self._items.table.rows,
        )
        longest = int(parts[:, at.O_LINE_COUNT].max()) if len(parts) else 1
        scratch = self._scratch
        if (
            len(scratch.table) < longest
            or len(scratch.taken) < 4 * len(lines)
            or scratch.seen.shape[1] < len(self._taken)
        ):
            self._scratch = scratch = at.make_scratch(
                nodes=len(self._taken),
                lines=max(longest, len(scratch.table)),
                batch_lines=max(len(lines), len(scratch.taken) // 4),
            )
        if len(self._outcome.parts) < len(parts) or len(self._outcome.unfilled) < len(lines):
            self._outcome = at.make_outcome(
                parts=max(len(parts), len(self._outcome.parts)), lines=max(len(lines), len(self._outcome.unfilled))
            )
        settings = self._settings
        atlas = view.compiled.atlas
        while (
            plan_batch(atlas, stock, load, batch, scratch, self._outcome, settings.candidates, settings.reach_km)
            == NO_ROOM
        ):
            self._outcome = at.make_outcome(
                parts=len(self._outcome.parts),
                lines=len(self._outcome.unfilled),
                leg_lines=2 * len(self._outcome.leg_lines),
            )

    # -- out ------------------------------------------------------------------------------------------------------

    def _plans(self, requests: Sequence[PlanRequest], flat: Flat, now_ms: int) -> list[Plan]:
        outcome = self._outcome
        count = outcome.used.tolist()
        parts = outcome.parts[: len(flat.parts) // at.ORDER_COLUMNS].tolist()
        legs = outcome.legs[: count[_LEG_COUNT]].tolist()
        leg_lines = outcome.leg_lines[: count[_LINE_COUNT], :2].tolist()
        unfilled = outcome.unfilled[: count[_UNFILLED_COUNT]].tolist()
        candidates = outcome.candidates[: count[_CANDIDATE_COUNT]].tolist()
        config = self._state.catalog.version
        plans = []
        ends = [*flat.first_part[1:], len(parts)]
        for first, end in zip(flat.first_part, ends, strict=True):
            planned: list[PlannedLeg] = []
            left: list[tuple[int, int, str]] = []
            pieces = []
            rung = Rung.SEPARABLE
            cash = service = policy = opportunity = 0
            ship_by = deliver_by = 0
            for part in range(first, end):
                row = parts[part]
                own = flat.lines_of.get(part)
                for leg in legs[row[at.R_LEG] : row[at.R_LEG] + row[at.R_LEG_COUNT]]:
                    start = leg[at.G_LINE]
                    lines = leg_lines[start : start + leg[at.G_LINE_COUNT]]
                    taken = [(own[i], units) for i, units in lines] if own else [(i, units) for i, units in lines]
                    four = (leg[at.G_CASH], leg[at.G_CASH_LINES], leg[at.G_CASH_UNITS], leg[at.G_CASH_SURCHARGE])
                    planned.append(
                        PlannedLeg(
                            leg[at.G_NODE],
                            taken,
                            leg[at.G_SERVICE],
                            leg[at.G_PARCELS],
                            leg[at.G_SHIP_DAY],
                            leg[at.G_SHIP_BY],
                            leg[at.G_DELIVER_BY],
                            four,
                            leg[at.G_CAP_UNITS],
                        )
                    )
                    cash += sum(four)
                    service += leg[at.G_LATE] + leg[at.G_TRANSIT]
                    policy += leg[at.G_POLICY]
                    opportunity += leg[at.G_OPPORTUNITY]
                    ship_by = max(ship_by, leg[at.G_SHIP_BY])
                    deliver_by = max(deliver_by, leg[at.G_DELIVER_BY])
                if row[at.R_UNFILLED_COUNT]:
                    start = row[at.R_UNFILLED]
                    for i, units, reason in unfilled[start : start + row[at.R_UNFILLED_COUNT]]:
                        left.append((own[i] if own else i, units, REASONS[reason]))
                if row[at.R_COLLIDED]:
                    rung = Rung.GREEDY
            record = b""
            if planned:
                for part in range(first, end):
                    pieces.append(
                        part_record(parts[part], legs, leg_lines, candidates, flat.lines_of.get(part), now_ms)
                    )
                record = record_of(pieces, config=config, now_ms=now_ms, rung=rung)
            plans.append(
                Plan(
                    planned,
                    left,
                    (cash, service, policy, opportunity),
                    (ship_by, deliver_by),
                    rung,
                    record,
                )
            )
        return plans


def _table(numbers: list[int], columns: int) -> at.I64:
    return np.frombuffer(array("q", numbers), np.int64).reshape(-1, columns)
