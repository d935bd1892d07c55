"""New legs in exchange for old ones, in one entry: what an edit, a better plan and a missed deadline have in common.

X1  The legs given up count as free for the new plan: at this shard's nodes while it is planned, at others in their answer to the
    TRY, which names the legs it replaces (participant.py, R6).
X2  New legs at other shards are held by a transaction first; the entry that ends the old legs begins the new ones. One at a time
    an order (T7).
X3  What was planned for is the record at one version: where it has changed meanwhile, what is held is let go and it is decided
    afresh. A leg that the plan leaves as it is keeps its number and its place on its node's list.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from engine.domain.decide_edit import give_up, keepable, refresh
from engine.domain.decide_legs import Change
from engine.domain.decide_orders import Prepared, fits, legs_of, stock_of
from engine.domain.orders import LegRecord, LegState, OrderRecord, OrderState, promise_of
from engine.domain.plan import Plan, PlanRequest
from engine.domain.state import LEG_NO_MAX, ShardState
from engine.protocol.placing import plan_alone

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore
    from engine.protocol.two_phase import Pending

_HELD, _ALLOCATED = int(LegState.HELD), int(LegState.ALLOCATED)
_ENDED = (int(LegState.CANCELLED), int(LegState.REJECTED))


class Exchange(ABC):
    """One attempt: the purpose of a transaction (two_phase.Purpose). Subclasses say what for, and what comes of it."""

    cause = 0
    """events.Cause"""
    reason = ""
    """Why the legs that are given up ended."""
    said = ""
    """Why, in the words of who asked for it."""
    ends_as = int(LegState.CANCELLED)
    adds = False
    """Whether the plan is about some units of the order only: what else was weighed for the others is added to it."""

    def __init__(self, slot: str, order_no: int, version: int, prepared: Prepared, gone: tuple[int, ...]) -> None:
        self._slot = slot
        self._order_no = order_no
        self.version = version
        """Version of the record that is planned for (X3)."""
        self.prepared = prepared
        self.gone = gone
        """Numbers of the legs given up."""
        self.rounds = 0
        self.whole: Plan = Plan([], [])
        """The plan with the legs that stay."""
        self._kept: dict[int, int] = {}
        """Place in the plan of legs that stay, by number."""

    # -- what subclasses say --------------------------------------------------------------------------------------

    holds = False
    """Whether the new legs are held, not allocated: then they count against the caps on holds."""

    def still_wanted(self, core: ShardCore, record: OrderRecord, *, now_ms: int) -> bool:
        """Whether a record of the right version can still be changed."""
        return record.state == OrderState.COMMITTED

    def taking_kept(self, core: ShardCore, record: OrderRecord, *, now_ms: int) -> AbstractContextManager[None]:
        """Within it, units kept for waiting orders that this one may take are free. None are, unless a subclass says so."""
        return nullcontext()

    def change(self, core: ShardCore, record: OrderRecord, plan: Plan, change: Change, *, time_ms: int) -> None:
        """Everything that changes beside the legs, before the old ones are given up. Nothing, unless a subclass says so."""
        return

    def key(self) -> tuple[int, int]:
        """(hash, fingerprint) of the idempotency key."""
        return 0, 0

    def done(self, core: ShardCore, record: OrderRecord, *, now_ms: int) -> None:
        """It is in the entry being built. Nothing more is to do, unless a subclass says so."""
        return

    @abstractmethod
    def overtaken(self, core: ShardCore, *, now_ms: int) -> None:
        """The order or the stock changed: nothing was done."""

    @abstractmethod
    def planned_again(self, core: ShardCore, plan: Plan, *, now_ms: int) -> None:
        """Another plan, made with the numbers that owners refused the last one with."""

    def over_cap(self, core: ShardCore, pending: Pending) -> bool:
        """Owners will not hold so much; True = it is answered."""
        return False

    # -- two_phase.Purpose ----------------------------------------------------------------------------------------

    @property
    def slot(self) -> str:
        return self._slot

    @property
    def order_no(self) -> int:
        return self._order_no

    def first_leg_no(self, core: ShardCore) -> int:
        record = core.state.order(self._slot, self._order_no)
        return max((leg.leg_no for leg in record.legs), default=0) + 1 if record is not None else 1

    def gives_up(self, core: ShardCore) -> tuple[int, ...]:
        record = core.state.order(self._slot, self._order_no)
        legs = record.legs if record is not None else []
        return tuple([leg.leg_no for leg in legs if not leg.local and leg.leg_no in self.gone])

    def committed(self, core: ShardCore, pending: Pending, *, now_ms: int) -> OrderRecord | None:
        return self.journal(core, pending.plan, first=pending.first_leg, txn=pending.txn, now_ms=now_ms)

    # -- the exchange ---------------------------------------------------------------------------------------------

    def use(self, core: ShardCore, record: OrderRecord, plan: Plan, *, now_ms: int) -> None:
        """Take a plan: at once where all its new legs are ours, else as a transaction."""
        plan = self.narrowed(record, plan)
        first = self.first_leg_no(core)
        if first + len(plan.legs) > LEG_NO_MAX:
            self.overtaken(core, now_ms=now_ms)
        elif any(core.catalog.owner[leg.node] != core.shard for leg in plan.legs):
            core.two_phase.attempt(self, plan, now_ms=now_ms)
        elif self.journal(core, plan, first=first, txn=0, now_ms=now_ms) is None:
            self.overtaken(core, now_ms=now_ms)

    def narrowed(self, record: OrderRecord, plan: Plan) -> Plan:
        """What of a plan is new: legs that it leaves as they are stay (X3), and are not given up."""
        self.whole = plan
        places = keepable(record, self.gone, self.prepared.planned, plan.legs)
        self._kept = {leg_no: n for n, leg_no in places.items()}
        if not places:
            return plan
        self.gone = tuple([leg_no for leg_no in self.gone if leg_no not in self._kept])
        new = [n for n in range(len(plan.legs)) if n not in places]
        return replace(plan, legs=[plan.legs[n] for n in new], rows=(), **_terms(plan, new))

    def journal(self, core: ShardCore, plan: Plan, *, first: int, txn: int, now_ms: int) -> OrderRecord | None:
        """Put the changed order; None where it, or the stock, is not what was planned for any more."""
        record = core.state.order(self._slot, self._order_no)
        if record is None or record.version != self.version or not self.still_wanted(core, record, now_ms=now_ms):
            return None
        with self.taking_kept(core, record, now_ms=now_ms):
            return self._put(core, record, plan, first=first, txn=txn, now_ms=now_ms)

    def _put(
        self, core: ShardCore, record: OrderRecord, plan: Plan, *, first: int, txn: int, now_ms: int
    ) -> OrderRecord | None:
        state = core.state
        gone = [leg for leg in record.legs if leg.leg_no in self.gone]
        with legs_free(state, record, gone):
            if not fits(state, [(self.prepared, plan.legs)]):
                return None
        batch = core.batch(now_ms)
        change = Change(self.cause, [], [], [])
        self.change(core, record, self.whole, change, time_ms=batch.time_ms)
        for leg in gone:
            give_up(record, leg, change, reason=self.reason, state=self.ends_as)
        for leg in record.legs:
            if leg.leg_no in self._kept:
                refresh(leg, self.whole, self._kept[leg.leg_no])
        held = record.state == OrderState.HELD
        planned = self.prepared.planned
        legs = legs_of(state, planned, plan, leg_state=_HELD if held else _ALLOCATED, first=first, txn=txn)
        for leg in legs:
            leg.driving = not leg.local and not held
        others = [leg for leg in record.legs if leg.state not in _ENDED and leg.leg_no not in self._kept]
        stock, capacity = stock_of(record, legs, held=held)
        record.legs += legs
        self.price(record, others)
        if self.whole.record:
            record.decided_at = [*record.decided_at, (core.epoch, batch.seq, len(batch.decisions), core.shard)]
            batch.decisions.append(self.whole.record)
            batch.size += len(self.whole.record)
        core.put_order(
            batch,
            change.cause,
            self._slot,
            self._order_no,
            record,
            [*change.stock, *stock],
            [*change.capacity, *capacity],
            *self.key(),
            self.said,
        )
        self.done(core, record, now_ms=now_ms)
        return record

    def price(self, record: OrderRecord, others: Sequence[LegRecord]) -> None:
        """Money and promise: of the new plan, and of the legs that it does not speak of (`others`)."""
        plan, cash = self.whole, sum(sum(leg.cash_minor) for leg in others)
        old, new = record.money_minor, plan.money_minor
        if plan.legs:
            more = old if self.adds else (0, 0, 0, 0)
            record.money_minor = (cash + new[0], more[1] + new[1], more[2] + new[2], more[3] + new[3])
            record.rung = plan.rung
        else:
            record.money_minor = (cash, old[1], old[2], old[3])
        promised = promise_of(record.legs)
        if not others and plan.legs and plan.promise_ms != promised:
            record.promise_ms = plan.promise_ms
        else:
            record.promise_ms = (0, 0)


def _terms(plan: Plan, places: list[int]) -> dict[str, Any]:
    terms = getattr(plan, "terms", ())
    return {"terms": tuple([terms[n] for n in places])} if terms else {}


@contextmanager
def legs_free(state: ShardState, record: OrderRecord, legs: Sequence[LegRecord]) -> Iterator[None]:
    """Within it, what some legs of an order hold counts as free, here and in the views (in memory; nothing is decided).

    But not what a node of this shard holds as for another home: its part gives that up in an entry of its own (moving_parts.py).
    """
    _move(state, record, legs, -1)
    try:
        yield
    finally:
        _move(state, record, legs, 1)


def _move(state: ShardState, record: OrderRecord, legs: Sequence[LegRecord], sign: int) -> None:
    positions = state.positions
    for leg in legs:
        if not leg.local and state.catalog.owns_node(leg.node):
            continue
        for i, units in leg.lines:
            row = positions.ensure(record.lines[i].item, leg.node)
            positions.v_held[row] += sign * units
        if leg.capacity_units:
            state.capacity.claim(leg.node, leg.ship_day, sign * leg.capacity_units)


def plan_with_own(
    core: ShardCore, record: OrderRecord, gone: Sequence[int], request: PlanRequest, *, now_ms: int
) -> Plan:
    """A plan of one order for which what some of its legs hold is free (X1), and what is kept for those who rank behind it."""
    legs = [leg for leg in record.legs if leg.leg_no in gone]
    with legs_free(core.state, record, legs):
        return plan_alone(core, request, now_ms=now_ms)
