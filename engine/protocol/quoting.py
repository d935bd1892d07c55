"""Quotes: delivery options of an order that hold nothing, and orders that keep what a quote promised.

Q1  A quote is a read. It is planned on the state as it stands, journals nothing, and is remembered by nobody: the gateway seals
    what it promised into the quote's id (docs/adr/0013), and an order placed with it brings that along.
Q2  An order with a quote is planned like any other first, so that with nothing changed it gets what was quoted. Only where that
    plan is later, or fills less, it is planned again with the promised date as a must.
Q3  It is placed with a plan that keeps the quote (there by the promised instant, no more units unfilled), or refused with both
    what was quoted and what is offered now; then nothing is held. An order that is already paid is never refused for its quote.
    The date stays with the order until an edit names another service or is planned later: its answer shows the new date.
Q4  A quote's age is judged where its order is decided, after repeats of the key were answered.
Q5  Quotes are planned after the orders of a turn, a bounded number of lines a turn, from a queue of their own that sheds what is
    too much. A large one goes on in the next turns; what it says of the state is of its first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from engine.domain.commands import PlaceOrder, PlaceQuoted, Quoted, QuoteOrder
from engine.domain.decide_orders import Prepared, build_record, is_refused, prepare, refuse, shortage, slot_for
from engine.domain.demand import by_line
from engine.domain.orders import Method, OrderRecord, Rung, collected_at
from engine.domain.plan import LegTerms, Plan, PlanRequest
from engine.domain.problems import CODES, instant
from engine.domain.replies import OptionView, Problem, ProblemItem, QuoteReply, Reply, UnfilledView
from engine.domain.views import RUNG_LABELS, leg_view
from engine.protocol.flights import Flight
from engine.protocol.placing import moved, plan_alone, settle
from engine.protocol.stores import stores_for

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

QUEUE_MAX = 2_000
LINES_PER_TURN = 256
"""Lines x options that are planned for quotes in one turn; one option of one quote always is."""
DAY_MS = 86_400_000
MUST_KEEP = "kept"
"""The quote id of a request whose promised date is a must: planners price a later day out of reach."""
LATE_TRIES_MAX = 4
"""Times that a plan is made again around nodes from which units would come late."""
_COLLECTED = (int(Method.PICKUP), int(Method.SHIP_TO_STORE))
_CARRIED = (int(Method.SHIP), int(Method.SHIP_TO_STORE))


class _Begun:
    """A quote on its way."""

    def __init__(self, core: ShardCore, place: PlaceOrder, prepared: Prepared, time_ms: int) -> None:
        self.place = place
        self.prepared = prepared
        self.time_ms = time_ms
        self.seq = core.state.seq
        self.config = core.catalog.version
        self.token = core.token()
        self.options: list[OptionView] = []
        self.refused: Plan | None = None
        """The plan of the first level that cannot be had."""


class Quoting:
    """Quotes of one shard, asked and taken up."""

    def __init__(self, core: ShardCore) -> None:
        self._core = core
        self.waiting: deque[tuple[int, int, QuoteOrder]] = deque()
        self._answering: Iterator[int] | None = None

    # -- asked ----------------------------------------------------------------------------------------------------

    @property
    def working(self) -> bool:
        """Whether there is something to plan right now."""
        return bool(self.waiting) or self._answering is not None

    def tick(self, now_ms: int) -> None:
        """Go on with the quote under way, then answer those that wait (Q5)."""
        core, left = self._core, LINES_PER_TURN
        while left > 0:
            if self._answering is None:
                if not self.waiting:
                    return
                conn, corr, command = self.waiting.popleft()
                if command.after is not None and not core.contains(conn, corr, command, now_ms):
                    continue
                self._answering = self._answer(conn, corr, command, now_ms)
            lines = next(self._answering, None)
            if lines is None:
                self._answering = None
            else:
                left -= lines

    def _answer(self, conn: int, corr: int, command: QuoteOrder, now_ms: int) -> Iterator[int]:
        """Plan the options of an order, each alone on the state as it is, and answer: lines looked at, level by level."""
        core = self._core
        place = PlaceOrder(command.order)
        slot = slot_for(core.state, place)
        if slot is not None and not core.views.owns_slot(slot):
            core.answer(conn, corr, moved(core, slot))
            return
        prepared = prepare(core.state, core.planner, place, slot)
        if isinstance(prepared, Problem):
            core.answer(conn, corr, prepared)
            yield len(command.order.lines)
            return
        levels, left_out = self._levels(prepared, command.levels_max)
        begun = _Begun(core, place, prepared, core.time_ms(now_ms))
        for level in levels:
            self._plan(begun, level, now_ms)
            yield len(command.order.lines)
        if command.pickups_max:
            for metres, node_id in stores_for(core, prepared, command.radius_km, command.pickups_max, now_ms):
                self._plan_pickup(begun, node_id, metres, now_ms)
                yield len(command.order.lines)
        core.answer(conn, corr, self._reply(begun, len(levels), left_out))

    def _plan(self, begun: _Begun, level: str, now_ms: int) -> None:
        """The option of a service level, or why there is none."""
        request = begun.prepared.request
        request = replace(request, order=replace(request.order, service=level))
        plan = plan_alone(self._core, request, now_ms=now_ms)
        if _offers(begun.place, begun.prepared, plan):
            begun.options.append(self._option(begun.place, begun.prepared, plan, level, begun.time_ms))
        else:
            begun.refused = begun.refused or plan

    def _plan_pickup(self, begun: _Begun, node_id: str, metres: int, now_ms: int) -> None:
        """The option of a store, if it is one: its day may be full, or lines that go elsewhere may leave too little."""
        core, order = self._core, collected_at(begun.place.order, node_id)
        place = PlaceOrder(order)
        prepared = prepare(core.state, core.planner, place, begun.prepared.slot, begun.prepared.request.point)
        if isinstance(prepared, Problem):  # the store closed since it was looked for
            return
        plan = plan_alone(core, prepared.request, now_ms=now_ms)
        if _offers(place, prepared, plan):
            option = self._option(place, prepared, plan, order.service, begun.time_ms)
            begun.options.append(replace(option, pickup_node_id=node_id, distance_m=metres))

    def _reply(self, begun: _Begun, levels: int, left_out: int) -> Reply:
        """The options; a problem where nothing can serve the order."""
        core = self._core
        core.demand_log.quoted(begun.prepared, begun.time_ms)
        if begun.refused is not None and not begun.options:
            core.count("quotes_refused")
            return shortage(core.state, begun.prepared, begun.refused, now_ms=begun.time_ms)
        core.count("quotes")
        return QuoteReply(
            tuple(begun.options),
            begun.prepared.slot,
            core.shard,
            core.epoch,
            begun.seq,
            begun.config,
            begun.time_ms,
            levels,
            left_out,
            begun.token,
        )

    def _levels(self, prepared: Prepared, limit: int) -> tuple[list[str], int]:
        """Service levels to plan, the order's own first, and how many are left out. What no carrier takes has its own only."""
        order = prepared.request.order
        if not any(line.method in _CARRIED for line in order.lines):
            return [order.service], 0
        others = sorted(self._core.catalog.levels_in.get(order.currency, frozenset()) - {order.service})
        levels = [order.service, *others]
        kept = levels[: max(1, limit)]
        return kept, len(levels) - len(kept)

    def _option(self, place: PlaceOrder, prepared: Prepared, plan: Plan, level: str, time_ms: int) -> OptionView:
        catalog = self._core.catalog
        record = build_record(self._core.state, place, prepared, plan, now_ms=time_ms)
        ship_by_ms, deliver_by_ms = record.promise
        return OptionView(
            level,
            tuple([leg_view(catalog, record, leg) for leg in record.legs]),
            tuple([UnfilledView(w.line_id, w.quantity, w.reason) for w in by_line(record)]) if record.demand else (),
            sum(units for _, units, _ in plan.unfilled),
            plan.money_minor,
            ship_by_ms,
            deliver_by_ms,
            RUNG_LABELS[Rung(plan.rung)],
        )

    # -- taken up -------------------------------------------------------------------------------------------------

    def admit(self, flights: list[Flight], now_ms: int) -> list[Flight]:
        """New orders that are to be decided, those with a quote marked for the long way; expired quotes are answered (Q4)."""
        core = self._core
        time_ms = core.time_ms(now_ms)
        rest = []
        for flight in flights:
            command = flight.command
            if type(command) is PlaceQuoted:
                quoted = command.quoted
                if time_ms > quoted.valid_until_ms and not command.order.paid:
                    core.count("quotes_expired")
                    detail = f"the quote was valid until {_iso(quoted.valid_until_ms)}"
                    facts = {"valid_until": _iso(quoted.valid_until_ms), "option_id": quoted.option}
                    settle(core, flight, refuse("quote_expired", "/quote_id", detail, **facts))
                    continue
                flight.prepared = replace(flight.prepared, plain=False)
            rest.append(flight)
        return rest

    def kept(self, flight: Flight, plan: Plan, *, now_ms: int) -> Plan | None:
        """The plan to place an order with, or None after refusing it (Q2, Q3)."""
        core, command = self._core, flight.command
        assert type(command) is PlaceQuoted
        quoted = self._due(command, now_ms)
        if _keeps(plan, quoted):
            core.count("quotes_kept")
            return plan
        found = within(core, flight.prepared.request, quoted, now_ms=now_ms)
        if found is not None:
            request, kept = found
            flight.prepared = replace(flight.prepared, request=request)
            core.count("quotes_kept")
            return kept
        core.count("quotes_changed")
        if command.order.paid:
            return plan
        if plan.unfilled:
            core.demand_log.refused(flight, plan, core.time_ms(now_ms))
        settle(core, flight, self.changed(quoted, flight.prepared, plan, now_ms=now_ms))
        return None

    def _due(self, command: PlaceQuoted, now_ms: int) -> Quoted:
        """What a quote promised, as of now: goods to collect are ready as long after the order as they were to be after the quote."""
        quoted = command.quoted
        later_ms = ready_later_ms(since_ms=quoted.made_at_ms, until_ms=self._core.time_ms(now_ms))
        lines = command.order.lines
        if not later_ms or not quoted.deliver_by_ms or not any(line.method in _COLLECTED for line in lines):
            return quoted
        ship_by_ms, deliver_by_ms = quoted.ship_by_ms + later_ms, quoted.deliver_by_ms + later_ms
        return replace(quoted, ship_by_ms=ship_by_ms, deliver_by_ms=deliver_by_ms)

    def changed(
        self, quoted: Quoted, prepared: Prepared, plan: Plan, *, now_ms: int, pointer: str = "/quote_id"
    ) -> Problem:
        """`quote_changed` with what was quoted and what is offered now; line by line where units are short."""
        offered = _terms(*plan.promise_ms, plan.money_minor[0], sum(units for _, units, _ in plan.unfilled))
        facts: dict[str, Any] = {
            "option_id": quoted.option,
            "quoted": _terms(quoted.ship_by_ms, quoted.deliver_by_ms, quoted.cost_minor, quoted.unfilled_units),
            "offered": offered if plan.legs else None,
        }
        if _fills_less(plan, quoted):
            detail = "fewer units can be served than were quoted"
            errors = shortage(self._core.state, prepared, plan, now_ms=now_ms).errors
        else:
            detail = (
                f"it would be there by {offered['deliver_by']}, later than the quoted {facts['quoted']['deliver_by']}"
            )
            errors = ()
        return Problem("quote_changed", CODES["quote_changed"].title, (ProblemItem(pointer, detail, facts), *errors))

    def bind(self, record: OrderRecord, command: PlaceQuoted, now_ms: int) -> None:
        """What a kept quote leaves on its order: the date that a commit elsewhere must keep, and that later plans aim at."""
        by_ms = self._due(command, now_ms).deliver_by_ms
        if by_ms and record.promise[1] <= by_ms:
            record.quoted_by_ms = by_ms


def ready_later_ms(*, since_ms: int, until_ms: int) -> int:
    """How much later goods are ready at their node that are ordered later: such instants are full minutes."""
    return max(0, -((since_ms - until_ms) // 60_000) * 60_000)


def within(core: ShardCore, request: PlanRequest, quoted: Quoted, *, now_ms: int) -> tuple[PlanRequest, Plan] | None:
    """The request and a plan of it that keep a quote, with its date as a must; None = there is none.

    Planners know the door by local days: the day that the instant lies in, by UTC, or the one before. They serve all they can:
    units that the quote left out and that came since are left out again where they would be late.
    """
    if not quoted.deliver_by_ms or request.order.quote_id == MUST_KEEP:
        return None
    for by_ms in (quoted.deliver_by_ms + 1, quoted.deliver_by_ms + 1 - DAY_MS):
        strict = replace(request, order=replace(request.order, promised_by_ms=by_ms, quote_id=MUST_KEEP))
        for _ in range(1 + LATE_TRIES_MAX if quoted.unfilled_units else 1):
            plan = plan_alone(core, strict, now_ms=now_ms)
            if _keeps(plan, quoted):
                return strict, plan
            if _fills_less(plan, quoted):
                break
            strict = replace(strict, excluded=(*strict.excluded, *_late_nodes(plan, quoted.deliver_by_ms)))
    return None


def _late_nodes(plan: Plan, by_ms: int) -> list[int]:
    terms = plan.terms or (LegTerms(),) * len(plan.legs)
    legs = zip(plan.legs, terms, strict=True)
    return list(dict.fromkeys(leg.node for leg, term in legs if max(leg.deliver_by_ms, term.ready_ms) > by_ms))


def _offers(place: PlaceOrder, prepared: Prepared, plan: Plan) -> bool:
    """Whether a plan is an option: it serves something, and all where the order says so."""
    return not is_refused(place, prepared, plan) and bool(plan.legs or not plan.unfilled)


def _keeps(plan: Plan, quoted: Quoted) -> bool:
    if _fills_less(plan, quoted):
        return False
    return not quoted.deliver_by_ms or plan.promise_ms[1] <= quoted.deliver_by_ms


def _fills_less(plan: Plan, quoted: Quoted) -> bool:
    return bool(plan.unfilled) and sum(units for _, units, _ in plan.unfilled) > quoted.unfilled_units


def _terms(ship_by_ms: int, deliver_by_ms: int, cost_minor: int, unfilled_units: int) -> dict[str, Any]:
    return {
        "ship_by": _iso(ship_by_ms),
        "deliver_by": _iso(deliver_by_ms),
        "cost_minor": cost_minor,
        "unfilled_units": unfilled_units,
    }


def _iso(ms: int) -> str | None:
    return instant(ms) if ms else None
