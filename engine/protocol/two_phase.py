"""Orders whose legs lie on several shards: the home shard's first phase. (Second phase: driver.py; the other side: participant.py.)

The home shard's record is the only decision.

T1  TRY holds units at the nodes' shards, journaled there, without a time limit of their own.
T2  All hold -> the home shard journals the order: the only commit point. Then, and only then, it answers.
T3  Any refusal or silence -> nothing is journaled at home; what was held is cancelled, and the order is planned again with
    the fresh numbers, a bounded number of rounds, the last one with this shard's own nodes only. A shard that says a node has
    moved holds nothing: the map that says where to is awaited, as long as an answer would be.
T4  Every later change (commit, release, expiry, cancel, ship, reject) is journaled at home first, then driven to the legs'
    shards, idempotently, until they acknowledge.
T5  A shard that holds a leg it heard no more about asks home. Home answers `committed` (a leg of the record names the
    transaction) and drives it again, `pending` (it is in memory), else `aborted`. A transaction number is (epoch << 32 |
    counter) and never used twice, so one that neither stands in the record nor in the memory of its own epoch can never
    commit any more. A home that is asked about an epoch newer than its own is a fenced copy and says `pending`.
T6  Units of a transaction count as claimed at home until it is decided.
T7  An order has at most one transaction at a time: a participant takes a newer one of a leg for the end of the older.

Model: tests/sim/models/two_phase_model.py.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from engine.domain.commands import DriveLeg, ResolveTxn, TryLegs
from engine.domain.decide_orders import Prepared, fits
from engine.domain.orders import LegState, OrderRecord
from engine.domain.plan import Plan
from engine.domain.promising import extra_safety
from engine.domain.replies import Problem, Reply, TryReply, TxnState
from engine.protocol.exchange import Exchange
from engine.protocol.flights import Flight
from engine.protocol.placing import finish_place, moved, place, plan_alone, settle
from engine.protocol.tokens import parse_token

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

ROUNDS_MAX = 4
TRY_TIMEOUT_MS = 2_000
TXN_COUNTER_BITS = 32
"""A thousand transactions a second for seven weeks of one process. Epochs are seconds since 1970 at least, and a number goes over the
wire in 64 bits: there is no room for more."""


class Purpose(Protocol):
    """What a transaction is for: a new order, or new legs of an old one."""

    prepared: Prepared
    rounds: int

    @property
    def slot(self) -> str: ...

    @property
    def order_no(self) -> int: ...

    def first_leg_no(self, core: ShardCore) -> int: ...

    def gives_up(self, core: ShardCore) -> tuple[int, ...]:
        """Held legs at other shards that end in the step that journals the new ones: their units count as free (M1)."""

    def committed(self, core: ShardCore, pending: Pending, *, now_ms: int) -> OrderRecord | None:
        """All hold: journal it. None = it cannot be any more, cancel what is held."""

    def overtaken(self, core: ShardCore, *, now_ms: int) -> None:
        """What `committed` could not journal was cancelled: go on without it."""

    def planned_again(self, core: ShardCore, plan: Plan, *, now_ms: int) -> None:
        """A transaction was refused and its order was planned again."""


class Pending:
    """A transaction that waits for its shards."""

    __slots__ = (
        "asked",
        "deadline_ms",
        "first_leg",
        "moved",
        "over_cap",
        "owners",
        "plan",
        "points",
        "purpose",
        "refused",
        "silent",
        "txn",
        "waiting",
    )

    def __init__(self, txn: int, purpose: Purpose, plan: Plan, first_leg: int, deadline_ms: int) -> None:
        self.txn = txn
        self.purpose = purpose
        self.plan = plan
        self.first_leg = first_leg
        self.deadline_ms = deadline_ms
        self.owners: list[int] = []
        """Owner of each leg's node when it was asked."""
        self.waiting: dict[int, int] = {}
        """Correlation id by shard that has not answered."""
        self.asked: list[int] = []
        """Shards that may hold legs: those that refused are taken off."""
        self.moved: list[int] = []
        """Shards that say that a node is not theirs."""
        self.silent: list[int] = []
        """Shards that gave no answer, or none about stock."""
        self.refused = False
        self.over_cap: tuple[tuple[int, int, int, int], ...] = ()
        """Positions that their owners will not hold so much of."""
        self.points: dict[int, tuple[int, int]] = {}
        """(epoch, seq) of each shard's holds."""


class NewOrder:
    """The purpose of a flight."""

    def __init__(self, flight: Flight) -> None:
        self.flight = flight

    @property
    def slot(self) -> str:
        return self.flight.prepared.slot

    @property
    def order_no(self) -> int:
        return self.flight.order_no

    @property
    def prepared(self) -> Prepared:
        return self.flight.prepared

    @prepared.setter
    def prepared(self, prepared: Prepared) -> None:
        self.flight.prepared = prepared

    @property
    def rounds(self) -> int:
        return self.flight.rounds

    @rounds.setter
    def rounds(self, rounds: int) -> None:
        self.flight.rounds = rounds

    def first_leg_no(self, core: ShardCore) -> int:
        return 1

    def gives_up(self, core: ShardCore) -> tuple[int, ...]:
        return ()

    def committed(self, core: ShardCore, pending: Pending, *, now_ms: int) -> OrderRecord | None:
        """None where a stock fact took the units of a leg of our own while the others were asked."""
        if not fits(core.state, [(self.prepared, pending.plan.legs)]):
            return None
        command, caps = self.flight.command, core.hold_caps
        if command.ttl_s and caps is not None and caps.refusal(command, self.prepared, pending.plan) is not None:
            return None  # other holds came first meanwhile
        return finish_place(core, self.flight, pending.plan, now_ms=now_ms, txn=pending.txn, points=pending.points)

    def overtaken(self, core: ShardCore, *, now_ms: int) -> None:
        self.flight.rounds += 1
        self.planned_again(core, plan_alone(core, self.prepared.request, now_ms=now_ms), now_ms=now_ms)

    def planned_again(self, core: ShardCore, plan: Plan, *, now_ms: int) -> None:
        place(core, self.flight, plan, now_ms=now_ms)


class TwoPhase:
    """Home of its own orders' transactions."""

    def __init__(self, core: ShardCore) -> None:
        self._core = core
        self._counter = 0
        self._pending: dict[int, Pending] = {}
        self._by_order: dict[int, int] = {}
        """Transaction by order number (T7)."""
        self._by_corr: dict[int, int] = {}
        self._decided: list[int] = []
        """Transactions whose answers are all in."""
        self._behind: list[int] = []
        """Of them, those that wait for a newer map (T3)."""
        self._deadlines: list[tuple[int, int]] = []
        """(deadline, txn), a heap; those decided before stay until they come up."""

    @property
    def pending_count(self) -> int:
        return len(self._pending)

    def pending_of(self, order_no: int) -> Pending | None:
        """The transaction of an order that is under way."""
        txn = self._by_order.get(order_no)
        return self._pending[txn] if txn is not None else None

    def begin(self, flight: Flight, plan: Plan, *, now_ms: int) -> None:
        """Start a transaction of a new order."""
        core = self._core
        if not flight.order_no:
            flight.order_no = core.next_order_no(core.time_ms(now_ms))
        core.flights.register(flight)
        self.attempt(NewOrder(flight), plan, now_ms=now_ms)

    def any_in(self, slot: str) -> bool:
        """Whether a transaction of a slot's order is under way."""
        return any(pending.purpose.slot == slot for pending in self._pending.values())

    @property
    def txn_epoch(self) -> int:
        """Epoch in this shard's transaction numbers: greater than that of every home that its moved slots were at before."""
        return self._core.epoch + self._core.state.txn_offset

    def next_txn(self) -> int:
        """A transaction number that was never used."""
        self._counter += 1
        return (self.txn_epoch << TXN_COUNTER_BITS) | self._counter

    def overtake(self, order_no: int) -> None:
        """What an order's transaction was planned with has changed: it will be refused."""
        pending = self.pending_of(order_no)
        if pending is not None:
            pending.refused = True

    def attempt(self, purpose: Purpose, plan: Plan, *, now_ms: int) -> None:
        """Ask the shards of a plan's legs to hold them; claim the rest meanwhile (T1, T6)."""
        core = self._core
        txn = self.next_txn()
        assert purpose.order_no not in self._by_order, f"T7: order {purpose.order_no} has a transaction under way"
        self._by_order[purpose.order_no] = txn
        first = purpose.first_leg_no(core)
        pending = self._pending[txn] = Pending(txn, purpose, plan, first, now_ms + TRY_TIMEOUT_MS)
        prepared = purpose.prepared
        core.claims.take(prepared, plan)
        lines = prepared.request.lines
        by_shard: dict[int, list[tuple[int, int, int, int, tuple[tuple[int, int], ...]]]] = {}
        spare: dict[int, dict[tuple[int, int], int]] = {}
        for n, leg in enumerate(plan.legs):
            shard = core.catalog.owner[leg.node]
            pending.owners.append(shard)
            if shard == core.shard:
                continue
            units: dict[int, int] = {}
            for i, u in leg.lines:
                item = lines[i].item
                units[item] = units.get(item, 0) + u
                extra = extra_safety(core.state, leg.node, lines[i].method)
                if extra:
                    kept = spare.setdefault(shard, {})
                    kept[(leg.node, item)] = max(extra, kept.get((leg.node, item), 0))
            by_shard.setdefault(shard, []).append(
                (first + n, leg.node, leg.ship_day, leg.capacity_units, tuple(sorted(units.items())))
            )
        replaces = purpose.gives_up(core)
        waiting = core.demand.entries.get(purpose.order_no)
        is_hold = (
            purpose.flight.command.ttl_s > 0
            if isinstance(purpose, NewOrder)
            else isinstance(purpose, Exchange) and purpose.holds
        )
        share_bp = core.hold_caps.try_share_bp if is_hold and core.hold_caps is not None else 0
        for shard, legs in sorted(by_shard.items()):
            kept = spare.get(shard, {})
            command = TryLegs(
                core.shard,
                txn,
                purpose.slot,
                purpose.order_no,
                tuple(legs),
                tuple([(node, item, extra) for (node, item), extra in sorted(kept.items())]),
                replaces,
                share_bp,
                waiting.place if waiting is not None else (),
            )
            corr = core.send(shard, command)
            pending.waiting[shard] = corr
            pending.asked.append(shard)
            self._by_corr[corr] = txn
        heapq.heappush(self._deadlines, (pending.deadline_ms, txn))

    def replied(self, shard: int, corr: int, reply: Reply) -> bool:
        """An answer to a TRY; False = the correlation id is none of ours."""
        txn = self._by_corr.pop(corr, None)
        if txn is None:
            return False
        core = self._core
        pending = self._pending.get(txn)
        if pending is None or pending.waiting.get(shard) != corr:
            return True
        del pending.waiting[shard]
        if isinstance(reply, TryReply):
            points = parse_token(reply.token) or {}
            if reply.ok:
                pending.points.update(points)
            else:
                pending.refused = True
                pending.asked.remove(shard)
                pending.over_cap += reply.over_cap
                if core.views.point(shard) < points.get(shard, (0, 0)):  # else the view knows better
                    self._learn(reply, pending.purpose.order_no)
        elif isinstance(reply, Problem) and reply.code == "moved":
            pending.refused = True
            pending.asked.remove(shard)
            pending.moved.append(shard)
        else:  # it did not say whether it holds them: unknown
            pending.refused = True
            pending.silent.append(shard)
        if not pending.waiting:
            self._decided.append(txn)
        return True

    def _learn(self, reply: TryReply, order_no: int) -> None:
        """Put the owner's fresh numbers into the view, so that the next plan does not ask for the same again."""
        core = self._core
        positions, owns = core.state.positions, core.catalog.owns_node
        for item, node, free in reply.short:
            core.demand.visits.learnt(order_no, item, node, free)
            if not owns(node):
                row = positions.ensure(item, node)
                positions.v_on_hand[row] = max(0, free) + positions.v_safety[row]
                positions.v_held[row] = 0
        for node, day, used in reply.full:
            if not owns(node):
                core.state.capacity.put(node, day, used)

    def tick(self, now_ms: int) -> None:
        """Decide transactions whose answers are in or overdue."""
        decided, self._decided, self._behind = [*self._behind, *self._decided], [], []
        while self._deadlines and self._deadlines[0][0] <= now_ms:
            decided.append(heapq.heappop(self._deadlines)[1])
        for txn in decided:
            pending = self._pending.get(txn)
            if pending is None:
                continue
            behind = self._not_by_map(pending)
            if behind and now_ms < pending.deadline_ms:
                self._behind.append(txn)
                continue
            pending.silent += behind
            self._conclude(pending, now_ms)

    def _not_by_map(self, pending: Pending) -> list[int]:
        """Shards that say a node has moved, though by the map that is known here all are theirs still."""
        if not pending.moved:
            return []
        owner = self._core.catalog.owner
        legs = list(zip(pending.plan.legs, pending.owners, strict=True))
        left = {was for leg, was in legs if owner[leg.node] != was}
        return [shard for shard in pending.moved if shard not in left]

    def wake_at_ms(self, now_ms: int) -> int | None:
        if self._decided:
            return now_ms
        while self._deadlines and self._deadlines[0][1] not in self._pending:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def _conclude(self, pending: Pending, now_ms: int) -> None:
        core, purpose = self._core, pending.purpose
        for shard, corr in pending.waiting.items():  # overdue: unknown
            del self._by_corr[corr]
            pending.silent.append(shard)
            pending.refused = True
        core.claims.give_back(purpose.prepared, pending.plan)
        del self._pending[pending.txn], self._by_order[purpose.order_no]
        self._decide(pending, now_ms)
        if purpose.order_no not in self._by_order:
            core.edits.resume(purpose.order_no, now_ms=now_ms)
            core.replans.resume(purpose.order_no, now_ms=now_ms)

    def _decide(self, pending: Pending, now_ms: int) -> None:
        """All hold: it is journaled. Else what is held is let go, and it is planned again."""
        core, purpose = self._core, pending.purpose
        owner = core.catalog.owner
        if any(
            (owner[leg.node] == core.shard) != (was == core.shard)
            for leg, was in zip(pending.plan.legs, pending.owners, strict=True)
        ):
            pending.refused = (
                True  # a node came or went meanwhile: what is held of it is held as a leg elsewhere, or not at all
            )
        if not pending.refused:
            record = purpose.committed(core, pending, now_ms=now_ms)
            if record is None:
                self._abort(pending)
                purpose.overtaken(core, now_ms=now_ms)
            else:
                core.count("transactions_committed")
                self._expect_views(pending, record)
            return
        self._abort(pending)
        if pending.over_cap and isinstance(purpose, NewOrder) and core.hold_caps is not None:
            problem = core.hold_caps.position_problem(purpose.prepared, pending.plan, pending.over_cap)
            if problem is not None:
                core.count("holds_capped")
                settle(core, purpose.flight, problem)
                return
        if pending.over_cap and isinstance(purpose, Exchange) and purpose.over_cap(core, pending):
            return
        purpose.rounds += 1
        request = purpose.prepared.request
        without = self._to_avoid(pending)
        if without:
            request = replace(request, excluded=(*request.excluded, *without))
            purpose.prepared = replace(purpose.prepared, request=request)
        with core.demand.trying(purpose.order_no):
            purpose.planned_again(core, plan_alone(core, request, now_ms=now_ms), now_ms=now_ms)

    def _to_avoid(self, pending: Pending) -> list[int]:
        """Nodes not to plan with any more: of silent shards; after too many rounds, of every other shard."""
        owner, shard = self._core.catalog.owner, self._core.shard
        if pending.purpose.rounds >= ROUNDS_MAX:
            return [node for node, other in enumerate(owner) if other != shard]
        return [node for node, other in enumerate(owner) if other in pending.silent]

    def _abort(self, pending: Pending) -> None:
        """Cancel what is or may be held. Lost on the way, the shard that holds it asks and is told (T5)."""
        core, purpose = self._core, pending.purpose
        for n, leg in enumerate(pending.plan.legs):
            if pending.owners[n] in pending.asked:
                leg_no = pending.first_leg + n
                core.send(
                    core.catalog.owner[leg.node],
                    DriveLeg(
                        core.shard,
                        pending.txn,
                        purpose.slot,
                        purpose.order_no,
                        leg_no,
                        LegState.CANCELLED,
                        (),
                        node=leg.node,
                    ),
                )
        core.count("transactions_aborted")

    def _expect_views(self, pending: Pending, record: OrderRecord) -> None:
        """Count remote legs in the view at once, unless the owner's push already told of them."""
        core = self._core
        positions, owner = core.state.positions, core.catalog.owner
        for leg in record.legs:
            if leg.txn != pending.txn:
                continue
            shard = owner[leg.node]
            if core.views.point(shard) < pending.points.get(shard, (0, 0)):
                for i, units in leg.lines:
                    row = positions.ensure(record.lines[i].item, leg.node)
                    positions.v_held[row] += units

    # -- questions of participants --------------------------------------------------------------------------------

    def resolve(self, conn: int, corr: int, command: ResolveTxn) -> None:
        """What became of a transaction (T5). Whoever is not the home says nothing about it."""
        core = self._core
        if not core.views.owns_slot(command.slot):
            core.answer(conn, corr, moved(core, command.slot))
            return
        record = core.state.order(command.slot, command.order_no)
        if record is not None and any(leg.txn == command.txn for leg in record.legs):
            state = "committed"
            if command.shard >= 0:
                core.driver.drive_again(command, record)
        elif command.txn in self._pending or command.txn >> TXN_COUNTER_BITS > self.txn_epoch:
            state = "pending"
        else:
            state = "aborted"
        core.answer(conn, corr, TxnState(state))
