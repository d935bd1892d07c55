"""Claims: units fenced in memory for plans that are not decided yet. They count against ATP, are not journaled, and die with
the process.

L1  A claim is taken and given back whole, by the same legs.
L2  Orders that collide are planned greedily, their plans claimed, and the component is sent to the solver. On its answer, or at the
    deadline, the improved plans are placed if all of them fit (free units and the component's own claims), else the greedy
    plans, which the claims made sure of.
L3  An order that falls short while others claim units of its items waits for the end of such a claim, and is planned again;
    at most `WAIT_MS` in all, and at most `WAITERS_MAX` orders at once. Then it is decided as the state stands.
L4  Better plans of orders that have their units claim nothing (improving.py): what is not as it was is left alone on the answer. One
    component of them at a time: new orders need the solver more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from engine.domain.decide_orders import Prepared, fits
from engine.domain.plan import Plan
from engine.protocol.effects import Solve
from engine.protocol.flights import Flight
from engine.protocol.placing import place, plan_flights

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

WAIT_MS = 500
WAITERS_MAX = 2_000
REPLANNED_AT_ONCE = 256


Then = Callable[[bytes | None, int], None]
"""What to do with the solver's answer, None = there is none: (answer, now_ms)."""


class _Component(NamedTuple):
    members: list[tuple[Flight, Plan]]
    deadline_ms: int
    then: Then | None = None
    """Set where nothing is claimed (`ask`)."""


class Claims:
    """Claims of solver components and of transactions, and the orders that wait for their end."""

    def __init__(self, core: ShardCore) -> None:
        self._core = core
        self._components: dict[int, _Component] = {}
        self._solves: list[Solve] = []
        self._answers: list[tuple[int, bytes | None]] = []
        self._waiters: list[Flight] = []
        self._taken = 0
        """Plans whose units are claimed now."""
        self._ended: dict[int, None] = {}
        """Items of claims that ended since the waiters were last looked at."""

    @property
    def in_flight(self) -> int:
        return len(self._components)

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    # -- units ----------------------------------------------------------------------------------------------------

    def take(self, prepared: Prepared, plan: Plan) -> None:
        """Fence what a plan needs, at this shard's nodes and in its views of others."""
        self._taken += 1
        self._move(prepared, plan, 1)

    def give_back(self, prepared: Prepared, plan: Plan) -> None:
        self._taken -= 1
        demand = self._core.demand
        self._move(prepared, plan, -1)
        for leg in plan.legs:
            for i, _ in leg.lines:
                self._ended[prepared.request.lines[i].item] = None
                if demand.anyone:
                    demand.stirred(prepared.request.lines[i].item)

    def _move(self, prepared: Prepared, plan: Plan, sign: int) -> None:
        state = self._core.state
        positions, lines = state.positions, prepared.request.lines
        for leg in plan.legs:
            for i, units in leg.lines:
                row = positions.ensure(lines[i].item, leg.node)
                positions.v_claimed[row] += sign * units
                assert positions.v_claimed[row] >= 0, "S3: claimed is negative"
            if leg.capacity_units:
                state.capacity.claim(leg.node, leg.ship_day, sign * leg.capacity_units)

    # -- components -----------------------------------------------------------------------------------------------

    def begin(self, component: int, members: list[tuple[Flight, Plan]], *, now_ms: int) -> None:
        """Colliding orders with their greedy plans: to the solver, or placed at once where it has no room."""
        core = self._core
        if len(self._components) >= core.solver_in_flight_max:
            core.count("components_greedy")
            for (flight, _), plan in zip(members, core.planner.improved(component, None), strict=True):
                place(core, flight, plan, now_ms=now_ms)
            return
        for flight, plan in members:
            core.flights.register(flight)
            self.take(flight.prepared, plan)
        self._send(component, members, None, now_ms)

    def ask(self, component: int, then: Then, *, now_ms: int) -> None:
        """Send a component to the solver for plans that claim nothing (L4); answered at once where it has one, or no room."""
        core = self._core
        is_asked = any(component.then is not None for component in self._components.values())
        if is_asked or len(self._components) >= core.solver_in_flight_max:
            core.count("components_greedy")
            then(None, now_ms)
        else:
            self._send(component, [], then, now_ms)

    def _send(self, component: int, members: list[tuple[Flight, Plan]], then: Then | None, now_ms: int) -> None:
        core = self._core
        core.count("components_solved")
        deadline_ms = now_ms + core.solver_deadline_ms
        self._components[component] = _Component(members, deadline_ms, then)
        self._solves.append(Solve(component, deadline_ms, core.planner.component_problem(component)))

    def solved(self, component: int, answer: bytes | None) -> None:
        """The solver's answer; None = none by the deadline. It is acted on at the next poll."""
        if component in self._components:
            self._answers.append((component, answer))

    def _conclude(self, component: int, answer: bytes | None, now_ms: int) -> None:
        core = self._core
        members, _, then = self._components.pop(component)
        if answer is None:
            core.count("components_unanswered")
        if then is not None:
            then(answer, now_ms)
            return
        improved = core.planner.improved(component, answer)
        for flight, greedy in members:
            self.give_back(flight.prepared, greedy)
        chosen = [(flight.prepared, plan.legs) for (flight, _), plan in zip(members, improved, strict=True)]
        if not fits(core.state, chosen):
            core.count("components_overtaken")
            improved = [greedy for _, greedy in members]
        for (flight, _), plan in zip(members, improved, strict=True):
            place(core, flight, plan, now_ms=now_ms)

    # -- waiters --------------------------------------------------------------------------------------------------

    def waits(self, flight: Flight, plan: Plan, *, now_ms: int) -> bool:
        """Whether an order that falls short waits for the end of a claim. It then is in the list of waiters."""
        items = self._claimed_items(flight, plan) if self._taken else ()
        if not items or len(self._waiters) >= WAITERS_MAX or (flight.wait_until_ms and now_ms >= flight.wait_until_ms):
            return False
        core = self._core
        if not flight.wait_until_ms:
            flight.wait_until_ms = now_ms + WAIT_MS
            core.count("waited_for_claim")
        flight.waits_for = items
        core.flights.register(flight)
        self._waiters.append(flight)
        return True

    def _claimed_items(self, flight: Flight, plan: Plan) -> tuple[int, ...]:
        positions = self._core.state.positions
        lines = flight.prepared.request.lines
        items = {lines[i].item: None for i, _, _ in plan.unfilled}
        claimed = positions.v_claimed
        return tuple([item for item in items if any(claimed[row] for row in positions.rows(item))])

    # -- the loop -------------------------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Act on answers and deadlines, then plan the orders again whose claim ended or whose patience did."""
        if self._components:
            answers, self._answers = self._answers, []
            for component, answer in answers:
                if component in self._components:
                    self._conclude(component, answer, now_ms)
            for component in [c for c, entry in self._components.items() if now_ms >= entry.deadline_ms]:
                self._conclude(component, None, now_ms)
        if not self._waiters:
            self._ended.clear()
            return
        again: list[Flight] = []
        stay: list[Flight] = []
        for flight in self._waiters:
            due = now_ms >= flight.wait_until_ms or any(item in self._ended for item in flight.waits_for)
            (again if due and len(again) < REPLANNED_AT_ONCE else stay).append(flight)
        self._waiters = stay
        if len(again) < REPLANNED_AT_ONCE:
            self._ended.clear()
        if again:
            plan_flights(self._core, again, now_ms=now_ms)

    def take_solves(self) -> list[Solve]:
        solves, self._solves = self._solves, []
        return solves

    def wake_at_ms(self, now_ms: int) -> int | None:
        if self._answers or (self._ended and self._waiters):
            return now_ms
        times = [entry.deadline_ms for entry in self._components.values()]
        times += [flight.wait_until_ms for flight in self._waiters]
        return min(times) if times else None
