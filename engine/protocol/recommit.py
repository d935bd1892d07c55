"""Committing a hold to another destination, or after it was to be shipped: planned again, old units exchanged for new in one entry.

M1  The hold's own units count as free for the new plan: at this shard's nodes while it is planned, at others in their answer to
    the TRY, which names the legs that it replaces (participant.py, R6).
M2  New remote legs are held by a transaction first; the entry that commits the order gives up all old legs and takes all new ones.
    One at a time (T7): a repeat waits for the same answer, another one is refused.
M3  Where the new plan falls short, or the hold changed meanwhile, the hold stays as it is and the caller is told.
M4  A hold whose ship date has passed keeps its nodes and gets new dates. It is never refused for them: where its nodes cannot serve
    it as it is planned now, it is committed as it was held.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.domain import decide_legs
from engine.domain.commands import CommitHold, Quoted
from engine.domain.decide_legs import Change
from engine.domain.decide_orders import (
    Prepared,
    fits,
    legs_of,
    line_to_plan,
    not_on_the_map,
    refuse,
    shortage,
    stock_of,
)
from engine.domain.events import Cause
from engine.domain.ids import order_no_time_ms
from engine.domain.orders import (
    Destination,
    LegState,
    LineRequest,
    OnShort,
    OrderRecord,
    OrderRequest,
    OrderState,
    promise_of,
)
from engine.domain.plan import Plan, PlanRequest
from engine.domain.replies import Problem, Reply
from engine.domain.state import ShardState
from engine.domain.views import order_view
from engine.protocol.changing import put_change
from engine.protocol.placing import answer_repeat, plan_alone
from engine.protocol.quoting import ready_later_ms, within
from engine.protocol.two_phase import ROUNDS_MAX, Pending

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

_HELD = (int(LegState.HELD),)


class Recommit:
    """One commit on its way: the purpose of a transaction for the new legs."""

    __slots__ = ("askers", "command", "keep", "prepared", "rounds", "version")

    def __init__(
        self, askers: list[tuple[int, int]], command: CommitHold, keep: list[int], prepared: Prepared, version: int
    ) -> None:
        self.askers = askers
        self.command = command
        self.keep = keep
        """Units by line that are committed. What of them waits is not planned here."""
        self.prepared = prepared
        self.version = version
        """Version of the hold that was planned for."""
        self.rounds = 0

    @property
    def slot(self) -> str:
        return self.command.slot

    @property
    def order_no(self) -> int:
        return self.command.order_no

    def first_leg_no(self, core: ShardCore) -> int:
        record = core.state.order(self.slot, self.order_no)
        return max((leg.leg_no for leg in record.legs), default=0) + 1 if record is not None else 1

    def gives_up(self, core: ShardCore) -> tuple[int, ...]:
        record = core.state.order(self.slot, self.order_no)
        legs = record.legs if record is not None else []
        return tuple([leg.leg_no for leg in legs if not leg.local and leg.state == LegState.HELD])

    def committed(self, core: ShardCore, pending: Pending, *, now_ms: int) -> OrderRecord | None:
        return _exchange(core, self, pending.plan, first=pending.first_leg, txn=pending.txn, now_ms=now_ms)

    def overtaken(self, core: ShardCore, *, now_ms: int) -> None:
        """The hold, or the stock, changed while the shards were asked: decide the command afresh."""
        start(core, self.askers, self.command, now_ms=now_ms)

    def planned_again(self, core: ShardCore, plan: Plan, *, now_ms: int) -> None:
        """`plan` was made as if the hold's own units were taken: plan again with them, around the nodes to avoid."""
        record = core.state.order(self.slot, self.order_no)
        if record is None or record.version != self.version:
            self.overtaken(core, now_ms=now_ms)
            return
        with own_units_free(core.state, record):
            plan = plan_alone(core, self.prepared.request, now_ms=now_ms)
        if self.rounds > ROUNDS_MAX:
            _falls_short(core, self, record, plan, now_ms=now_ms)
        else:
            _use(core, self, plan, now_ms=now_ms)


def is_to_be_planned(core: ShardCore, command: CommitHold, record: OrderRecord, *, now_ms: int) -> bool:
    """Whether a commit names another destination than the one that the hold was planned for, or comes after its ship date."""
    return _differs(command, record) or (
        core.two_phase.pending_of(command.order_no) is None and _is_late(record, core.time_ms(now_ms))
    )


def _differs(command: CommitHold, record: OrderRecord) -> bool:
    return command.ship_to is not None and command.ship_to != record.ship_to


def _is_late(record: OrderRecord, time_ms: int) -> bool:
    if record.state != OrderState.HELD or not any(
        leg.state == LegState.HELD and 0 < leg.ship_by_s * 1_000 <= time_ms for leg in record.legs
    ):
        return False
    return record.ship_to is not None or not any(decide_legs.is_sent(line) for line in record.lines)


def commit_as_held(
    core: ShardCore, askers: list[tuple[int, int]], command: CommitHold, record: OrderRecord, *, now_ms: int
) -> None:
    """Commit the legs that a hold has."""
    expires_at_ms = core.state.effective_expiry_ms(command.order_no, record)
    time_ms = core.time_ms(now_ms)
    change = decide_legs.commit(record, command, core.catalog, now_ms=time_ms, expires_at_ms=expires_at_ms)
    if isinstance(change, Problem):
        _answer(core, askers, change)
        return
    put_change(core, command, record, change, now_ms)
    core.count("committed")
    _answer(core, askers, core.view(command.slot, command.order_no, record))


def start(core: ShardCore, askers: list[tuple[int, int]], command: CommitHold, *, now_ms: int) -> None:
    """Plan a hold again for where it is to go and commit it there. `askers` = (conn, corr) of all that wait for it."""
    state = core.state
    part = state.slots.get(command.slot)
    known = part.dedupe.get(command.key_hash) if part is not None and command.key_hash else None
    if known is not None:
        for conn, corr in askers:
            answer_repeat(core, conn, corr, command.slot, known[1], known[0] == command.fingerprint)
        return
    pending = core.two_phase.pending_of(command.order_no)
    if pending is not None:
        purpose = pending.purpose
        if isinstance(purpose, Recommit) and command.key_hash and purpose.command == command:
            purpose.askers += askers
        else:
            _answer(core, askers, refuse("wrong_state", "", "the hold is being committed", state="held"))
        return
    record = state.order(command.slot, command.order_no)
    assert record is not None
    ship_to = command.ship_to if command.ship_to is not None else record.ship_to
    if ship_to is not None and core.planner.locate(ship_to) is None:
        if _differs(command, record):
            _answer(core, askers, not_on_the_map(ship_to.country, ship_to.postal_code))
        else:
            commit_as_held(core, askers, command, record, now_ms=now_ms)
        return
    expires_at_ms = state.effective_expiry_ms(command.order_no, record)
    keep = decide_legs.kept_by(record, command, now_ms=core.time_ms(now_ms), expires_at_ms=expires_at_ms)
    if isinstance(keep, Problem):
        _answer(core, askers, keep)
        return
    held = decide_legs.units_in_legs(record, _HELD)
    prepared = prepare_again(core, command.slot, record, ship_to, [*map(min, keep, held)])
    if not _differs(command, record):  # M4
        own = {leg.node for leg in record.legs if leg.state == LegState.HELD}
        others = tuple([node for node in range(len(core.catalog.nodes)) if node not in own])
        prepared = replace(prepared, request=replace(prepared.request, excluded=others))
    recommit = Recommit(askers, command, keep, prepared, record.version)
    with own_units_free(state, record):
        plan = plan_alone(core, recommit.prepared.request, now_ms=now_ms)
    _use(core, recommit, plan, now_ms=now_ms)


def _use(core: ShardCore, recommit: Recommit, plan: Plan, *, now_ms: int) -> None:
    held = core.state.order(recommit.slot, recommit.order_no)
    due_ms = _due_ms(held, recommit.order_no, core.time_ms(now_ms)) if held is not None else 0
    if held is not None and due_ms and not plan.unfilled and plan.promise_ms[1] > due_ms:
        # A quote's date goes with its hold, wherever it is sent (quoting.py, Q3).
        ship_by_ms, _ = held.promise
        quoted = Quoted(ship_by_ms=ship_by_ms, deliver_by_ms=due_ms, cost_minor=held.money_minor[0])
        with own_units_free(core.state, held):
            found = within(core, recommit.prepared.request, quoted, now_ms=now_ms)
        if found is None and _differs(recommit.command, held):
            core.count("quotes_changed")
            _answer(
                core,
                recommit.askers,
                core.quoting.changed(quoted, recommit.prepared, plan, now_ms=now_ms, pointer="/ship_to"),
            )
            return
        if found is not None:
            request, plan = found
            recommit.prepared = replace(recommit.prepared, request=request)
    if plan.unfilled:
        _falls_short(core, recommit, held, plan, now_ms=now_ms)
    elif any(core.catalog.owner[leg.node] != core.shard for leg in plan.legs):
        core.two_phase.attempt(recommit, plan, now_ms=now_ms)
    else:
        first = recommit.first_leg_no(core)
        if _exchange(core, recommit, plan, first=first, txn=0, now_ms=now_ms) is None:
            record = core.state.order(recommit.slot, recommit.order_no)
            expired = record is not None and core.time_ms(now_ms) >= core.state.effective_expiry_ms(
                recommit.order_no, record
            )
            if record is None or record.version != recommit.version or expired:
                recommit.overtaken(core, now_ms=now_ms)  # it is answered by what the hold has become
            elif not _differs(recommit.command, record):
                commit_as_held(core, recommit.askers, recommit.command, record, now_ms=now_ms)
            else:
                _answer(core, recommit.askers, Problem("internal", "the planner's plan does not fit the stock"))


def _falls_short(core: ShardCore, recommit: Recommit, held: OrderRecord | None, plan: Plan, *, now_ms: int) -> None:
    """M3, M4."""
    if held is not None and not _differs(recommit.command, held):
        commit_as_held(core, recommit.askers, recommit.command, held, now_ms=now_ms)
    else:
        _answer(core, recommit.askers, shortage(core.state, recommit.prepared, plan, now_ms=now_ms))


def _due_ms(held: OrderRecord, order_no: int, time_ms: int) -> int:
    """The date of a hold's quote as of now; 0 = none.

    Where the last of the hold is made ready at its own node, it is ready as long after the commit as it was to be after the hold.
    """
    legs = [leg for leg in held.legs if leg.state == LegState.HELD]
    if not held.quoted_by_ms or not legs:
        return held.quoted_by_ms
    last = max(legs, key=lambda leg: max(leg.deliver_by_s, leg.ready_s))
    if held.lines[last.lines[0][0]].pickup_node != last.node:
        return held.quoted_by_ms
    return held.quoted_by_ms + ready_later_ms(since_ms=order_no_time_ms(order_no), until_ms=time_ms)


def _answer(core: ShardCore, askers: list[tuple[int, int]], reply: Reply) -> None:
    for conn, corr in askers:
        core.answer(conn, corr, reply)


@contextmanager
def own_units_free(state: ShardState, record: OrderRecord, *, states: tuple[int, ...] = _HELD) -> Iterator[None]:
    """Within it, what an order holds counts as free, here and in the views (in memory; nothing is decided in between)."""
    _move_own(state, record, states, -1)
    try:
        yield
    finally:
        _move_own(state, record, states, 1)


def _move_own(state: ShardState, record: OrderRecord, states: tuple[int, ...], sign: int) -> None:
    positions = state.positions
    for leg in record.legs:
        if leg.state in states and (leg.local or not state.catalog.owns_node(leg.node)):  # see exchange.legs_free
            for i, units in leg.lines:
                row = positions.ensure(record.lines[i].item, leg.node)
                positions.v_held[row] += sign * units  # of a view that is older than the hold, the owner will say so
            if leg.capacity_units:
                state.capacity.claim(leg.node, leg.ship_day, sign * leg.capacity_units)


def prepare_again(
    core: ShardCore, slot: str, record: OrderRecord, ship_to: Destination | None, keep: list[int]
) -> Prepared:
    """Units of an order, by line, as a request to plan for a destination."""
    catalog = core.catalog
    channel = catalog.channels[record.channel]
    planned = [i for i, units in enumerate(keep) if units]
    lines = [line_to_plan(record.lines[i], keep[i]) for i in planned]
    order = OrderRequest(
        record.order_id,
        channel.channel_id if channel else "",
        record.service,
        ship_to,
        tuple([LineRequest(x.line_id, catalog.sku(x.item), x.quantity, x.unit_price_minor, x.method) for x in lines]),
        record.currency,
        record.placed_at_ms,
        record.customer_id,
        OnShort.REFUSE,
        record.priority,
        record.tags,
        record.due_by_ms,
        record.ship_after_ms,
        record.max_legs,
    )
    request = PlanRequest(order, lines, record.channel, record.rejected_nodes, record.max_legs)
    return Prepared(slot, request, lines, planned, OnShort.REFUSE)


def _exchange(
    core: ShardCore, recommit: Recommit, plan: Plan, *, first: int, txn: int, now_ms: int
) -> OrderRecord | None:
    """Journal the commit with the new legs; None where the hold or the stock is not what was planned for any more."""
    state, command, prepared = core.state, recommit.command, recommit.prepared
    record = state.order(command.slot, command.order_no)
    if record is None or record.state != OrderState.HELD or record.version != recommit.version:
        return None
    if core.time_ms(now_ms) >= state.effective_expiry_ms(command.order_no, record):
        return None
    with own_units_free(state, record):
        if not fits(state, [(prepared, plan.legs)]):
            return None
    batch = core.batch(now_ms)
    change = Change(Cause.COMMITTED, [], [], [])
    decide_legs.leave_out(record, recommit.keep, change)
    decide_legs.begin_waiting(record, core.catalog, now_ms=batch.time_ms)
    decide_legs.give_up_held(record, change)
    legs = legs_of(state, prepared.planned, plan, leg_state=LegState.ALLOCATED, first=first, txn=txn)
    for leg in legs:
        leg.driving = not leg.local
    stock, capacity = stock_of(record, legs, held=False)
    record.legs += legs
    record.state = OrderState.COMMITTED
    record.expires_at_ms = 0
    goes_elsewhere = _differs(command, record)
    if goes_elsewhere:
        record.ship_to = command.ship_to
    record.money_minor = plan.money_minor
    record.rung = plan.rung
    record.config = core.catalog.version
    record.promise_ms = (0, 0) if plan.promise_ms == promise_of(record.legs) else plan.promise_ms
    if record.quoted_by_ms:
        record.quoted_by_ms = max(record.quoted_by_ms, record.promise[1])
    if plan.record:
        record.decided_at = [*record.decided_at, (core.epoch, batch.seq, len(batch.decisions), core.shard)]
        batch.decisions.append(plan.record)
        batch.size += len(plan.record)
    core.put_order(
        batch,
        change.cause,
        command.slot,
        command.order_no,
        record,
        [*change.stock, *stock],
        [*change.capacity, *capacity],
        command.key_hash,
        command.fingerprint,
    )
    core.count("committed")
    if goes_elsewhere:
        core.count("committed_elsewhere")
    _answer(core, recommit.askers, order_view(core.catalog, command.slot, command.order_no, record, token=core.token()))
    return record
