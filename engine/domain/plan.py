"""What a planner hands to `decide`: the legs chosen for an order, with money and promise, and the packed why.

The planner is the only port of the domain: the solvers stand behind it in production, a tiny greedy one in the simulator.

Structs, not named tuples: there are several for every order, and making one takes a fifth of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from engine.domain.decisions import NodeVerdict
from engine.domain.orders import Destination, LineRecord, OrderRequest, Rung


class PlannedLeg(Struct, frozen=True, gc=False):
    """One node's part. `lines` = (index into the request's expanded lines, units)."""

    node: int
    lines: list[tuple[int, int]]
    service: int = -1
    parcels: int = 0
    ship_day: int = 0
    ship_by_ms: int = 0
    deliver_by_ms: int = 0
    cash_minor: tuple[int, ...] = (0, 0, 0, 0)
    """Parcels, handling by line, handling by unit, node surcharge."""
    capacity_units: int = 0


class LegTerms(Struct, frozen=True, gc=False):
    """What is particular about a leg: most have nothing of it."""

    ready_ms: int = 0
    """When the customer can collect it at the node of its lines; 0 = it goes to the door."""


class Plan(Struct, frozen=True, gc=False):
    """A way to serve an order as far as stock allows. Nothing is held by it: `decide` checks and holds."""

    legs: list[PlannedLeg]
    unfilled: list[tuple[int, int, str]]
    """(line index, units, reason): out_of_stock, no_node, max_legs, capacity."""
    money_minor: tuple[int, int, int, int] = (0, 0, 0, 0)
    promise_ms: tuple[int, int] = (0, 0)
    rung: int = Rung.SEPARABLE
    record: bytes = b""
    """Packed decision record (engine.domain.decisions)."""
    component: int = 0
    """Non-zero: the greedy plan of an order that collides with others of its batch. A solver may improve the component's
    plans together (`Planner.component_problem`); until it has answered, these units are only claimed."""
    rows: Sequence[int] = ()
    """Position row of each line of each leg, in order, where the planner knows them: a hint, checked before it is used."""
    terms: tuple[LegTerms, ...] = ()
    """By leg, or none where no leg has any. Planners leave it alone: it is added to what they say."""


class PlanRequest(Struct, frozen=True, gc=False):
    """One order to plan. `excluded` = node indexes never to use (rejecters); `free` = own units that count as free.

    `lines` are expanded (kits to components) and looked up; quantities are what is still to be placed.
    """

    order: OrderRequest
    lines: Sequence[LineRecord]
    channel: int
    excluded: tuple[int, ...] = ()
    max_legs: int = 3
    point: tuple[float, float] | None = None
    """Where `order.ship_to` is, by `Planner.locate`; None = the planner looks it up."""


class Planner(Protocol):
    """Plans a batch in order (highest priority first, then arrival): each sees the stock that its forerunners left."""

    @property
    def reach_km(self) -> int:
        """How far from a destination nodes are looked at; 0 = everywhere."""

    def locate(self, ship_to: Destination) -> tuple[float, float] | None:
        """(lat, lon) of a destination, by its own coordinates or its postal code; None = it cannot be placed on the map."""

    def plan(self, requests: Sequence[PlanRequest], *, now_ms: int) -> list[Plan]: ...

    def component_problem(self, component: int) -> bytes:
        """The joint problem of a component, packed for the solver process (opaque to the core)."""

    def improved(self, component: int, answer: bytes | None) -> list[Plan]:
        """Final plans of the component's requests, in the order `plan` gave them; the component is then forgotten.

        None = no answer by the deadline: the greedy plans, recorded as such. Never dearer in total than the greedy plans.
        """

    def explain_node(self, request: PlanRequest, node: int, *, now_ms: int) -> NodeVerdict:
        """Why an order would or would not go to a node, on the state as it is. Nothing changes."""
