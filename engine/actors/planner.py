"""The production planner: from the shard's state and catalogue to the compiled kernel and back to plans.

Orders of a batch become a few flat arrays, the kernel plans them all in one call, and its rows become plans and packed decision
records. A plan is a function of (positions, capacity, feed ages, catalogue, request, now) and nothing else; feeds become too old
within a second of now.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from engine.actors.planner_contention import ENTRIES, Contention, whole_batch
from engine.actors.planner_explain import explain_node
from engine.actors.planner_input import Flat, Flattener
from engine.actors.planner_network import ItemFeed, NetworkView
from engine.actors.planner_output import Results, all_separable
from engine.domain.decisions import NodeVerdict
from engine.domain.orders import Destination, LineRecord, OrderRequest
from engine.domain.plan import Plan, PlanRequest
from engine.domain.state import ShardState
from engine.settings import Settings
from solvers import layout as at
from solvers.contention import Joint
from solvers.kernel import NO_ROOM, plan_batch
from solvers.places import exact_km
from solvers.warm import warm
from solvers.ways import enumerate_ways, own_optima


class SolverPlanner:
    """Implements engine.domain.plan.Planner. Make it once a shard; the first one of a process compiles or loads the kernel."""

    def __init__(self, state: ShardState, settings: Settings) -> None:
        self._state = state
        self._settings = settings
        self._items = ItemFeed()
        self._network_version = -1
        self._view = NetworkView(state.catalog)
        self._flattener = Flattener(self._view)
        self._contention = Contention(in_flight_max=settings.solver_in_flight_max)
        self._taken = np.zeros((1, at.RING), np.int32)
        self._prices = np.zeros(0, np.int32)
        self._outcome = at.make_outcome(parts=64, lines=512)
        self._scratch = at.make_scratch(nodes=1, lines=64, batch_lines=512)
        self._ways = at.make_ways(parts=1, takes=64)
        warm()

    # -- port -----------------------------------------------------------------------------------------------------

    @property
    def reach_km(self) -> int:
        """How far from a destination nodes are looked at; 0 = everywhere."""
        return self._settings.reach_km

    def locate(self, ship_to: Destination) -> tuple[float, float] | None:
        """(lat, lon) of a destination, by its own coordinates or its postal code; None = it cannot be placed on the map."""
        if self._network_version != self._state.catalog.network_version:
            self._refresh_network()
        return self._view.destinations.locate(ship_to.country, ship_to.postal_code, ship_to.lat, ship_to.lon)

    def plan(self, requests: Sequence[PlanRequest], *, now_ms: int) -> list[Plan]:
        """Plan a batch in order: each order sees the stock that its forerunners left."""
        if not requests:
            return []
        self._refresh(now_ms)
        flat = self._flattener.flatten(requests, now_ms)
        batch, collided = self._run(flat)
        results = Results(flat, self._outcome, state=self._state, now_ms=now_ms)
        if not collided:
            return all_separable(results)
        return self._contention.settle(results, _Single(self, batch))

    def component_problem(self, component: int) -> bytes:
        """The joint problem of a component, packed for the solver process. KeyError: it was concluded already."""
        return self._contention.get(component).packed()

    def improved(self, component: int, answer: bytes | None) -> list[Plan]:
        """Final plans of a component, in the order of its requests; None = no answer, the greedy plans. Forgets it.

        Raises msgspec.DecodeError: the answer is none; KeyError: there is no such component.
        """
        return self._contention.take(component).answered(answer)

    def whole_batch(self, requests: Sequence[PlanRequest], *, now_ms: int) -> Joint:
        """The joint problem of all movable requests with every way the kernel finds for them, on the state as it is."""
        self._refresh(now_ms)
        flat = self._flattener.flatten(requests, now_ms)
        batch, _ = self._run(flat)
        results = Results(flat, self._outcome, state=self._state, now_ms=now_ms)
        return whole_batch(results, _Single(self, batch))

    def explain_node(self, request: PlanRequest, node: int, *, now_ms: int) -> NodeVerdict:
        """Why an order would or would not go to a node, on the state as it is. Nothing changes."""
        self._refresh(now_ms)

        def alone(requests: Sequence[PlanRequest]) -> list[Plan]:
            results = Results(*self._planned(requests, now_ms), state=self._state, now_ms=now_ms)
            return all_separable(results)

        def distance(request: PlanRequest, node: int) -> int:
            ship_to = request.order.ship_to
            view = self._view
            channel = view.channels[request.channel]
            assert channel is not None, "the core looks the channel up"
            place = channel.centre if ship_to is None else _place_of(ship_to)
            point = view.destinations.locate(*place)
            lat, lon = float(view.sphere[0, node]), float(view.sphere[1, node])
            return exact_km(lat, lon, *point) if point is not None and lat == lat else -1

        known = node < len(self._view.stale)
        stale = known and self._view.stale[node] == at.STALE_EXCLUDED
        reach_km = self._settings.reach_km
        return explain_node(self._state, alone, distance, bool(stale), request, node, reach_km=reach_km)

    def _planned(self, requests: Sequence[PlanRequest], now_ms: int) -> tuple[Flat, at.Outcome]:
        flat = self._flattener.flatten(requests, now_ms)
        self._run(flat)
        return flat, self._outcome

    def prepare(self, *, now_ms: int) -> None:
        """Do now what the next order would otherwise wait for: the tables of a changed configuration, and a first way through the
        kernel with them. Nothing that is decided depends on it."""
        self._refresh(now_ms)
        catalog = self._state.catalog
        channel = next((n for n, document in enumerate(catalog.channels) if document is not None), -1)
        items = [n for n in range(min(3, self._state.positions.item_capacity, len(catalog.items))) if catalog.items[n]]
        if channel < 0 or not items:
            return
        order = OrderRequest("", "", "", None, ())
        lines = [LineRecord(str(item), item, 1) for item in items]
        self._planned([PlanRequest(order, lines[:1], channel), PlanRequest(order, lines, channel)], now_ms)

    # -- configuration --------------------------------------------------------------------------------------------

    def _refresh_network(self) -> None:
        catalog = self._state.catalog
        self._view = NetworkView(catalog)
        self._flattener = Flattener(self._view)
        self._items = ItemFeed()
        self._network_version = catalog.network_version
        nodes = max(1, self._view.compiled.node_count)
        if len(self._taken) < nodes:
            self._taken = np.zeros((nodes, at.RING), np.int32)

    def _refresh(self, now_ms: int) -> None:
        catalog = self._state.catalog
        if self._network_version != catalog.network_version:
            self._refresh_network()
        self._items.refresh(catalog, self._view.compiled)
        self._view.compiled.refresh(now_ms)
        self._view.refresh_stale(self._state, now_ms)

    # -- the kernel -----------------------------------------------------------------------------------------------

    def _run(self, flat: Flat) -> tuple[at.Batch, int]:
        """Plan the batch into `self._outcome`; (the batch as the kernel saw it, how many of its parts collided with others)."""
        parts = _table(flat.parts, at.ORDER_COLUMNS)
        lines = _table(flat.lines, at.LINE_COLUMNS)
        batch = at.Batch(
            parts,
            lines,
            np.array(flat.excluded, np.int32),
            self._view.destinations.points(),
            self._view.sphere,
            self._view.compiled.flags,
            self._items.table.rows,
        )
        self._make_room(batch, flat.longest)
        atlas, stock, load = self._world()
        settings = self._settings
        limits = settings.candidates, settings.reach_km
        while True:
            collided = plan_batch(atlas, stock, load, batch, self._scratch, self._outcome, *limits)
            if collided != NO_ROOM:
                return batch, collided
            self._outcome = at.make_outcome(
                parts=len(self._outcome.parts),
                lines=len(self._outcome.unfilled),
                leg_lines=2 * len(self._outcome.leg_lines),
                record_bytes=2 * len(self._outcome.record),
            )

    def own_optima(self, batch: at.Batch, parts: Sequence[int]) -> list[int]:
        """Best scores of some parts of a batch, each alone on the whole stock."""
        chosen = np.array(parts, np.int64)
        scores = np.zeros(len(chosen), np.int64)
        settings = self._settings
        own_optima(*self._world(), batch, self._scratch, chosen, scores, settings.candidates, settings.reach_km)
        found: list[int] = scores.tolist()
        return found

    def ways(self, batch: at.Batch, parts: Sequence[int], most: int) -> at.Ways:
        """Cheap ways of some parts of a batch, each on the whole stock; good until the next call."""
        chosen = np.array(parts, np.int64)
        settings = self._settings
        if len(self._ways.ways) < len(chosen) * at.WAYS_MAX:
            self._ways = at.make_ways(parts=len(chosen), takes=len(chosen) * at.WAYS_MAX * 8)
        limits = (settings.candidates, settings.reach_km, ENTRIES, most)
        while enumerate_ways(*self._world(), batch, self._scratch, chosen, self._ways, *limits) == NO_ROOM:
            self._ways = at.make_ways(parts=max(1, len(chosen)), takes=2 * len(self._ways.takes))
        return self._ways

    def _world(self) -> tuple[at.I64, at.Stock, at.Load]:
        """The arrays that the kernel reads as they are now."""
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
        return self._view.compiled.atlas, stock, at.Load(capacity.used, capacity.day, self._taken, self._view.stale)

    def _make_room(self, batch: at.Batch, longest: int) -> None:
        """Grow the scratch and the outcome to the batch and the network."""
        lines = len(batch.lines)
        scratch = self._scratch
        if len(scratch.table) < longest or len(scratch.taken) < 4 * lines or scratch.seen.shape[1] < len(self._taken):
            self._scratch = at.make_scratch(
                nodes=len(self._taken),
                lines=max(longest, len(scratch.table)),
                batch_lines=max(lines, len(scratch.taken) // 4),
            )
        outcome = self._outcome
        if len(outcome.parts) < len(batch.parts) or len(outcome.unfilled) < lines:
            self._outcome = at.make_outcome(
                parts=max(len(batch.parts), len(outcome.parts)),
                lines=max(lines, len(outcome.unfilled)),
                record_bytes=len(outcome.record),
            )


class _Single:
    """The kernel on single parts of one batch (planner_contention.Kernel)."""

    def __init__(self, planner: SolverPlanner, batch: at.Batch) -> None:
        self._planner = planner
        self._batch = batch

    def optima(self, parts: Sequence[int]) -> list[int]:
        return self._planner.own_optima(self._batch, parts)

    def ways(self, parts: Sequence[int], most: int) -> at.Ways:
        return self._planner.ways(self._batch, parts, most)


def _place_of(ship_to: Destination) -> tuple[str, str, float | None, float | None]:
    return ship_to.country, ship_to.postal_code, ship_to.lat, ship_to.lon


def _table(numbers: list[int], columns: int) -> at.I64:
    # Three times as fast as np.array or array.array. A bytearray, because the kernel was compiled for arrays to write to.
    packed = bytearray(8 * len(numbers))
    struct.pack_into(f"={len(numbers)}q", packed, 0, *numbers)
    return np.frombuffer(packed, np.int64).reshape(-1, columns)
