"""Edits of open orders: checked, planned again with their own units free, and exchanged in one entry, or refused with numbers.

D1  An edit is all or nothing: where a unit that was covered, or that it adds under `refuse`, would be without a leg, nothing is
    changed and the answer says what is there (decide_edit.py, E2).
D2  While another transaction of the order is under way the edit waits for its end; a repeat of the edit waits for the same answer.
D3  What would fall short is looked at again for up to PATIENCE_MS while units of the order are on their way at other shards, or what
    they answered is not in our views yet: right after an edit those show neither its old units as free nor its new ones as its own.
D4  The order stays at the slot that its id names, whatever its new address: home plans with its own nodes and its views, as it
    does for a hold that is committed elsewhere.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.domain import demand
from engine.domain.commands import EditOrder
from engine.domain.decide_edit import Edited, edit, pin_address, shorter_than
from engine.domain.decide_legs import Change
from engine.domain.decide_orders import Prepared, given_up_at_ms, not_on_the_map, refuse, shortage
from engine.domain.events import Cause
from engine.domain.ids import OrderRef, public_id
from engine.domain.orders import DemandRecord, LastEdit, LegRecord, LegState, OnShort, OrderRecord, OrderState
from engine.domain.plan import Plan
from engine.domain.problems import CODES
from engine.domain.replies import Problem, Reply
from engine.domain.views import order_view
from engine.protocol.exchange import Exchange, legs_free, plan_with_own
from engine.protocol.placing import answer_repeat, no_room_for_key
from engine.protocol.recommit import prepare_again
from engine.protocol.replan import legs_left
from engine.protocol.two_phase import ROUNDS_MAX, Pending

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

WAITING_MAX = 16
"""Edits that wait for the end of other transactions of one order."""
TRIES_MAX = 16
"""Times that an edit is decided afresh because the order changed under it."""
PATIENCE_MS = 1_000
LOOK_AGAIN_MS = 20
LATER_MAX = 1_000
"""Edits that are looked at again later; more are answered at once."""
Asker = tuple[int, int]
"""(conn, corr)"""


class Edit(Exchange):
    """One edit on its way."""

    cause = int(Cause.EDITED)
    reason = "edited"

    def __init__(
        self,
        askers: list[Asker],
        command: EditOrder,
        edited: Edited,
        record: OrderRecord,
        prepared: Prepared,
        tries: int,
    ) -> None:
        super().__init__(command.slot, command.order_no, record.version, prepared, edited.movable)
        self.askers = askers
        self.command = command
        self.said = command.reason
        self.edited = edited
        self.tries = tries
        self.holds = record.state == OrderState.HELD
        self.short: dict[int, tuple[int, str]] = {}
        """(units, reason) that stay without a leg, by line."""

    def key(self) -> tuple[int, int]:
        return self.command.key_hash, self.command.fingerprint

    def still_wanted(self, core: ShardCore, record: OrderRecord, *, now_ms: int) -> bool:
        if record.state == OrderState.HELD:
            return core.time_ms(now_ms) < core.state.effective_expiry_ms(self.order_no, record)
        return record.state == OrderState.COMMITTED

    def taking_kept(self, core: ShardCore, record: OrderRecord, *, now_ms: int) -> AbstractContextManager[None]:
        """Units that are kept for waiting orders are kept only from those who rank behind (demand_keeping.py)."""
        if not core.state.kept:
            return nullcontext()
        edited = self.edited
        items = dict.fromkeys(edited.lines[i].item for i, units in enumerate(edited.wanted) if units)
        entry = core.demand.entries.get(self.order_no)
        if entry is not None:
            place = entry.place
        else:
            value = sum(line.quantity * line.unit_price_minor for line in edited.lines)
            place = (demand.rank_of(core.time_ms(now_ms), record.priority, value), demand.RANK_LAST)
        return core.demand.keeping.lifted(place, items)

    def change(self, core: ShardCore, record: OrderRecord, plan: Plan, change: Change, *, time_ms: int) -> None:
        if core.hold_caps is not None and self.holds:
            core.hold_caps.ended(record)
        edited = self.edited
        pin_address(record, edited.ship_to)
        before = [line.quantity - line.cancelled for line in record.lines]
        record.lines = edited.lines
        record.ship_to = edited.ship_to
        record.quoted_by_ms = _quoted_by_ms(record, edited)
        record.service = edited.service
        record.config = core.catalog.version
        self._wait(core, record, before, time_ms)

    def _wait(self, core: ShardCore, record: OrderRecord, before: list[int], time_ms: int) -> None:
        """Demand afterwards: what waited and still does keeps its place in the queue."""
        left = {line: units for line, (units, _) in self.short.items()}
        gone: dict[int, int] = {}
        kept = []
        for waiting in record.demand:
            stays = min(waiting.quantity, left.get(waiting.line, 0))
            gone[waiting.line] = gone.get(waiting.line, 0) + waiting.quantity - stays
            left[waiting.line] = left.get(waiting.line, 0) - stays
            if stays:
                waiting.quantity, given = stays, waiting.quantity - stays
                kept.append(waiting)
            else:
                given = waiting.quantity
            line = record.lines[waiting.line]
            dropped = max(0, before[waiting.line] - (line.quantity - line.cancelled))
            if given > dropped:
                core.demand_log.served(self.slot, record, waiting, given - dropped, time_ms)
        parked = self.edited.on_short == OnShort.PARK
        cancel_at_ms = given_up_at_ms(core.catalog, record, since_ms=time_ms)
        for i, units in left.items():
            if units:
                new = DemandRecord(i, units, self.short[i][1], time_ms, parked, cancel_at_ms)
                kept.append(new)
                if record.state == OrderState.COMMITTED:
                    core.demand_log.begins(self.slot, record, new, time_ms)
        record.demand = kept

    def price(self, record: OrderRecord, others: Sequence[LegRecord]) -> None:
        before = record.money_minor[0]
        super().price(record, others)
        if record.promise[1] > record.quoted_by_ms:
            record.quoted_by_ms = 0
        record.last_edit = LastEdit(before, record.money_minor[0], tuple([leg.leg_no for leg in others]))

    def done(self, core: ShardCore, record: OrderRecord, *, now_ms: int) -> None:
        if core.hold_caps is not None and self.holds:
            core.hold_caps.opened(record)
        core.count("edited")
        _answer(core, self.askers, order_view(core.catalog, self.slot, self.order_no, record, token=core.token()))

    def overtaken(self, core: ShardCore, *, now_ms: int) -> None:
        if self.tries >= TRIES_MAX:
            _answer(core, self.askers, Problem("overloaded", CODES["overloaded"].title, (), retry_after_ms=1_000))
        else:
            core.edits.start(self.askers, self.command, now_ms=now_ms, tries=self.tries + 1)

    def planned_again(self, core: ShardCore, plan: Plan, *, now_ms: int) -> None:
        """Other shards refused: plan with their fresh numbers and around those that are silent, our own units free again."""
        record = core.state.order(self.slot, self.order_no)
        if record is None or record.version != self.version:
            self.overtaken(core, now_ms=now_ms)
            return
        excluded = self.prepared.request.excluded
        self.gone = self.edited.movable
        core.edits.decide(self, record, excluded, now_ms=now_ms, last=self.rounds > ROUNDS_MAX)

    def committed(self, core: ShardCore, pending: Pending, *, now_ms: int) -> OrderRecord | None:
        record = core.state.order(self.slot, self.order_no)
        if record is not None and core.edits.too_much(self, record, self.whole) is not None:
            return None  # other holds came first meanwhile
        return super().committed(core, pending, now_ms=now_ms)

    def over_cap(self, core: ShardCore, pending: Pending) -> bool:
        problem = (
            core.hold_caps.position_problem(self.prepared, pending.plan, pending.over_cap) if core.hold_caps else None
        )
        if problem is None:
            return False
        core.count("holds_capped")
        _answer(core, self.askers, _at(problem, self.edited))
        return True


class Edits:
    """Edits under way and waiting, by order."""

    def __init__(self, core: ShardCore) -> None:
        self._core = core
        self._waiting: dict[int, list[tuple[list[Asker], EditOrder]]] = {}
        self._later: list[tuple[int, int, int, int, EditOrder]] = []
        """(when to look again, conn, corr, until when at the latest, command), a heap (D3)."""
        self._until_ms = 0
        """Of the edit that is just looked at again."""

    def receive(self, conn: int, corr: int, command: EditOrder, now_ms: int) -> None:
        self.start([(conn, corr)], command, now_ms=now_ms)

    def due(self, now_ms: int) -> Iterator[tuple[int, int, EditOrder]]:
        """What is to be looked at again now: as if it had just come, since its slot may have moved."""
        later = self._later
        while later and later[0][0] <= now_ms:
            _, conn, corr, self._until_ms, command = heapq.heappop(later)
            yield conn, corr, command
        self._until_ms = 0

    def wake_at_ms(self) -> int | None:
        return self._later[0][0] if self._later else None

    def _look_again(self, found: Edit, record: OrderRecord, now_ms: int) -> bool:
        """D3; False = nothing is on its way, or it has been for long enough: the answer stands."""
        until_ms = self._until_ms or now_ms + PATIENCE_MS
        if now_ms >= until_ms or len(self._later) >= LATER_MAX or not _is_on_its_way(self._core, record):
            return False
        for conn, corr in found.askers:
            heapq.heappush(self._later, (now_ms + LOOK_AGAIN_MS, conn, corr, until_ms, found.command))
        return True

    def start(self, askers: list[Asker], command: EditOrder, *, now_ms: int, tries: int = 0) -> None:
        """Decide an edit, unless its key was used, or another transaction of the order is under way (D2)."""
        core = self._core
        state = core.state
        part = state.slots.get(command.slot)
        known = part.dedupe.get(command.key_hash) if part is not None and command.key_hash else None
        if known is not None:
            for conn, corr in askers:
                answer_repeat(core, conn, corr, command.slot, known[1], known[0] == command.fingerprint)
            return
        record = state.order(command.slot, command.order_no)
        if record is None:
            _answer(core, askers, refuse("not_found", "", "no such order"))
            return
        pending = core.two_phase.pending_of(command.order_no)
        if pending is not None:
            self._join_or_wait(askers, command, pending)
            return
        no_room = no_room_for_key(core, command.key_hash, now_ms)
        if no_room is not None:
            _answer(core, askers, no_room)
            return
        if record.state == OrderState.HELD and core.time_ms(now_ms) >= state.effective_expiry_ms(
            command.order_no, record
        ):
            _answer(core, askers, refuse("expired", "", "the hold has expired"))
            return
        if command.ship_to is not None and core.planner.locate(command.ship_to) is None:
            _answer(core, askers, not_on_the_map(command.ship_to.country, command.ship_to.postal_code))
            return
        ref = OrderRef(command.slot, command.order_no)
        edited = edit(record, command, core.catalog, name_of=lambda leg_no: public_id("leg", ref, leg_no))
        if isinstance(edited, Problem):
            _answer(core, askers, edited)
            return
        prepared = _prepare(core, command, record, edited, edited.wanted, record.rejected_nodes, whole=True)
        found = Edit(askers, command, edited, record, prepared, tries)
        self.decide(found, record, record.rejected_nodes, now_ms=now_ms)

    def _join_or_wait(self, askers: list[Asker], command: EditOrder, pending: Pending) -> None:
        purpose = pending.purpose
        if isinstance(purpose, Edit) and command.key_hash and purpose.command == command:
            purpose.askers += askers
            return
        waiting = self._waiting.setdefault(command.order_no, [])
        for others, same in waiting:
            if command.key_hash and same == command:
                others += askers
                return
        if len(waiting) >= WAITING_MAX:
            _answer(self._core, askers, Problem("overloaded", CODES["overloaded"].title, (), retry_after_ms=1_000))
            return
        waiting.append((askers, command))

    def resume(self, order_no: int, *, now_ms: int) -> None:
        """A transaction of an order has ended: the edit that has waited longest is next."""
        waiting = self._waiting.get(order_no)
        while waiting and self._core.two_phase.pending_of(order_no) is None:
            askers, command = waiting.pop(0)
            self.start(askers, command, now_ms=now_ms)
        if not waiting:
            self._waiting.pop(order_no, None)

    def decide(
        self, found: Edit, record: OrderRecord, excluded: tuple[int, ...], *, now_ms: int, last: bool = False
    ) -> None:
        """Plan an edit and take the plan, or refuse it. last = enough rounds: other shards never held what was planned."""
        core = self._core
        with found.taking_kept(core, record, now_ms=now_ms):
            plan = self._chosen(found, record, excluded, now_ms)
        if last or plan is None:
            if self._look_again(found, record, now_ms):
                return
            core.count("edits_refused")
            _answer(core, found.askers, self._shortage(found, record, now_ms))
            return
        problem = self.too_much(found, record, plan)
        if problem is not None:
            core.count("holds_capped")
            _answer(core, found.askers, problem)
            return
        found.use(core, record, plan, now_ms=now_ms)

    def _chosen(self, found: Edit, record: OrderRecord, excluded: tuple[int, ...], now_ms: int) -> Plan | None:
        """A plan of all of it; where that leaves too much without a leg, of what must have one alone. None = not even that (E2)."""
        core, edited = self._core, found.edited
        may_wait = any(edited.may_wait)
        found.prepared = _prepare(core, found.command, record, edited, edited.wanted, excluded, whole=not may_wait)
        found.whole = plan = self._plan(found, record, now_ms)
        found.short = _short(found.prepared, plan)
        if not shorter_than(edited, {i: units for i, (units, _) in found.short.items()}):
            return plan
        if not may_wait:
            return None
        everything = found.prepared
        must = [wanted - some for wanted, some in zip(edited.wanted, edited.may_wait, strict=True)]
        found.prepared = _prepare(core, found.command, record, edited, must, excluded, whole=True)
        plan = self._plan(found, record, now_ms)
        if plan.unfilled:
            found.prepared = everything
            return None
        found.short = {i: (units, "out_of_stock") for i, units in enumerate(edited.may_wait) if units}
        return plan

    def _plan(self, found: Edit, record: OrderRecord, now_ms: int) -> Plan:
        request = found.prepared.request
        if not request.lines:
            return Plan([], [])
        if request.max_legs <= 0:
            return Plan([], [(i, line.quantity, "max_legs") for i, line in enumerate(request.lines)])
        return plan_with_own(self._core, record, found.edited.movable, request, now_ms=now_ms)

    def _shortage(self, found: Edit, record: OrderRecord, now_ms: int) -> Problem:
        """The refusal, with the numbers as they are for this order: its own units free."""
        legs = [leg for leg in record.legs if leg.leg_no in found.edited.movable]
        with legs_free(self._core.state, record, legs):
            return _at(shortage(self._core.state, found.prepared, found.whole, now_ms=now_ms), found.edited)

    def too_much(self, found: Edit, record: OrderRecord, plan: Plan) -> Problem | None:
        """Why a hold would become larger than holds may be; None = it may, or it is none."""
        caps = self._core.hold_caps
        if caps is None or not found.holds:
            return None
        had = sum(units for leg in record.legs for _, units in leg.lines)
        more = sum(units for leg in plan.legs for _, units in leg.lines) - had
        own: dict[tuple[int, int], int] = {}
        for leg in record.legs:
            for i, units in leg.lines:
                at = (record.lines[i].item, leg.node)
                own[at] = own.get(at, 0) + units
        problem = caps.refusal_of_more(record, found.prepared, plan, more, own) if more > 0 else None
        return _at(problem, found.edited) if problem is not None else None


def _is_on_its_way(core: ShardCore, record: OrderRecord) -> bool:
    """Whether other shards have still to do something about the order's legs, or did what our views do not show yet."""
    owner, driver, views = core.catalog.owner, core.driver, core.views
    away = [leg for leg in record.legs if not leg.local]
    return any(leg.driving for leg in away) or any(
        views.point(shard) < driver.point(shard) for shard in dict.fromkeys(owner[leg.node] for leg in away)
    )


def _prepare(
    core: ShardCore,
    command: EditOrder,
    record: OrderRecord,
    edited: Edited,
    units: list[int],
    excluded: tuple[int, ...],
    *,
    whole: bool,
) -> Prepared:
    """Some units of the edited order as a request, around some nodes; whole = all of them or nothing."""
    wanted = replace(
        record,
        lines=edited.lines,
        ship_to=edited.ship_to,
        service=edited.service,
        quoted_by_ms=_quoted_by_ms(record, edited),
    )
    prepared = prepare_again(core, command.slot, wanted, edited.ship_to, units)
    request = prepared.request
    on_short = OnShort.REFUSE if whole else OnShort.PARTIAL
    left = [legs_left(record, line, since=LegState.RELEASED) for line in request.lines]
    max_legs = max(0, min(left, default=0))
    order = replace(request.order, on_short=on_short, max_legs=max(1, max_legs))
    request = replace(request, order=order, excluded=excluded, max_legs=max_legs)
    return replace(prepared, request=request, on_short=on_short)


def _quoted_by_ms(record: OrderRecord, edited: Edited) -> int:
    """The date of a quote is that of its option: an edit that names another service gives it up."""
    return record.quoted_by_ms if edited.service == record.service else 0


def _short(prepared: Prepared, plan: Plan) -> dict[int, tuple[int, str]]:
    """(units, reason) that a plan leaves without a leg, by line of the record."""
    short: dict[int, tuple[int, str]] = {}
    for i, units, reason in plan.unfilled:
        line = prepared.planned[i]
        short[line] = (short.get(line, (0, ""))[0] + units, reason)
    return short


def _at(problem: Problem, edited: Edited) -> Problem:
    """A problem that points at what the edit says of a line, or at the edit as a whole."""
    items = []
    for item in problem.errors:
        line_id = item.facts.get("line_id")
        pointer = edited.pointers.get(line_id, "") if isinstance(line_id, str) else item.pointer
        items.append(replace(item, pointer=pointer))
    return replace(problem, errors=tuple(items))


def _answer(core: ShardCore, askers: list[Asker], reply: Reply) -> None:
    for conn, corr in askers:
        core.answer(conn, corr, reply)
