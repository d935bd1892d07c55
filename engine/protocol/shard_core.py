"""The deciding shard, sans I/O: commands in, one journal entry at a time out, answers held back until it is durable.

P1  At most one entry is outstanding. While it is, the next one is built on speculative state and its answers wait for it.
P2  An answer leaves only after the entry that its content rests on is durable: its own, or the newest one not yet durable.
P3  Commands that finish or free stock are decided before new work; expiries before both, a bounded number a batch.
P4  Entry time never goes back. Whether a hold lives is judged by entry time alone (S5).
P5  A command is decided by one step without interruption; what needs another shard becomes a transaction (two_phase.py), what
    needs the solver a claim (claims.py).

A batch: receive* -> poll (decide, apply, build) -> Append -> appended -> answers. The shell that runs this is
engine/actors/runner.py; the simulator runs the same object. One file, because it is one turn: what a turn hands on (views, two-phase,
moves, demand) has files of its own.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from engine.domain.boxes import part_key
from engine.domain.catalog import Catalog
from engine.domain.commands import FINISHING, READS, Command, PlaceOrder, PlaceQuoted, QuoteOrder, ShowDemand
from engine.domain.decide_legs import end_hold
from engine.domain.events import Cause, Event, OrderPut, Recovered
from engine.domain.ids import ORDER_COUNTER_MAX, make_order_no, order_no_time_ms
from engine.domain.orders import OrderRecord, OrderState, encode_record
from engine.domain.parts import RowIndex, load_part, pack_part
from engine.domain.plan import Planner
from engine.domain.problems import CODES
from engine.domain.replies import ConfigDoc, OrderView, Problem, Reply
from engine.domain.state import ShardState, apply, index_work, rebuild_indexes
from engine.domain.views import order_view
from engine.protocol.acceptance import Acceptance
from engine.protocol.arrivals import Arrivals
from engine.protocol.claims import Claims
from engine.protocol.closing import Closing
from engine.protocol.demand_log import DemandLog
from engine.protocol.demand_queue import DemandQueue
from engine.protocol.driver import Driver
from engine.protocol.edits import Edits
from engine.protocol.effects import Answer, Append, Effects, Fetch, Send
from engine.protocol.expiry import ExpiryQueue
from engine.protocol.flights import Flights
from engine.protocol.handlers import handle
from engine.protocol.hold_caps import HoldCaps, HoldLimits
from engine.protocol.moves import Moves
from engine.protocol.participant import Participant
from engine.protocol.placing import Asked, place_group
from engine.protocol.quoting import QUEUE_MAX as QUOTES_MAX
from engine.protocol.quoting import Quoting
from engine.protocol.reads import OrderNumbers
from engine.protocol.replan import Replans
from engine.protocol.resourcing import Resourcing
from engine.protocol.stock_feed import StockFeed
from engine.protocol.tokens import make_token
from engine.protocol.two_phase import TwoPhase
from engine.protocol.uncounted import Supply
from engine.protocol.view_feed import ViewFeed
from engine.protocol.waves import Waves

BATCH_ITEMS_MAX = 256
BATCH_BYTES_MAX = 256 * 1024
GROUP_LINES_MAX = 4_096
"""Lines of the orders that are planned together: a few hundred large orders would be more than an entry may hold."""
EXPIRIES_PER_BATCH = 64
QUEUE_MAX = 20_000
FINISHING_QUEUE_MAX = 50_000
GRACE_MS = 30_000
AFTER_WAIT_MS = 1_000
OUTSTANDING_WAKE_MS = 50
"""While an entry is outstanding nobody looks when something is due: its acknowledgement wakes the core, nearly always sooner, and what
makes an entry (demand, waves, moves, expiries) could not leave before."""
_ENDS_HOLD = (Cause.COMMITTED, Cause.RELEASED, Cause.EXPIRED)
_EVENTS = msgspec.msgpack.Decoder(list[Event])
_encode_events = msgspec.msgpack.Encoder().encode


def _part_name(key: int | str) -> str:
    """A snapshot part by its key in `ShardState.dirty`."""
    if isinstance(key, int):
        return f"node:{key}"
    return "misc" if not key else key if key.startswith("band:") else f"slot:{key}"


class Batch:
    """One entry in the making: events already applied, and the answers that wait for it."""

    __slots__ = ("answers", "decisions", "events", "seq", "size", "time_ms", "token")

    def __init__(self, seq: int, time_ms: int, token: str) -> None:
        self.seq = seq
        self.time_ms = time_ms
        self.token = token
        """Commit token of this entry alone."""
        self.events: list[Event] = []
        self.decisions: list[bytes] = []
        self.answers: list[Answer] = []
        self.size = 0


class ShardCore:
    """One shard. Feed it with `receive`, `peer_replied`, `solved`, `appended`; do what `poll` says.

    solver_in_flight_max: components at the solver at once; more keep their greedy plans. 0 = there is no solver.
    """

    def __init__(
        self,
        shard: int,
        catalog: Catalog,
        make_planner: Callable[[ShardState], Planner],
        *,
        dedupe_max: int = 5_000_000,
        solver_deadline_ms: int = 40,
        solver_in_flight_max: int = 0,
        hold_limits: HoldLimits = HoldLimits(),
        close_after_ms: int = 3_600_000,
        assume_delivered_after_ms: int = 30 * 86_400_000,
    ) -> None:
        self.shard = shard
        self.catalog = catalog
        self.state = ShardState(catalog, dedupe_max=dedupe_max)
        self.planner = make_planner(self.state)
        self.solver_deadline_ms = solver_deadline_ms
        self.solver_in_flight_max = solver_in_flight_max
        self.epoch = 0
        self.durable_seq = 0
        self.rows = RowIndex()
        self.flights = Flights()
        self.quoting = Quoting(self)
        self.hold_caps = HoldCaps(self, hold_limits) if hold_limits != HoldLimits() else None
        self.claims = Claims(self)
        self.two_phase = TwoPhase(self)
        self.driver = Driver(self)
        self.participant = Participant(self)
        self.replans = Replans(self)
        self.supply = Supply(self)
        self.edits = Edits(self)
        self.acceptance = Acceptance(self)
        self.arrivals = Arrivals(self, assume_delivered_after_ms)
        self.waves = Waves(self)
        self.views = ViewFeed(self)
        self.moves = Moves(self)
        self.stock_feed = StockFeed(self)
        self.demand = DemandQueue(self)
        self.demand_log = DemandLog(self)
        self.resourcing = Resourcing(self)
        self.closing = Closing(self, close_after_ms)
        self.shell_facts: dict[str, Any] = {}
        self.counts: defaultdict[str, int] = defaultdict(int)
        self._finishing: deque[tuple[int, int, Command]] = deque()
        self._new: deque[tuple[int, int, Command]] = deque()
        self._reads: deque[tuple[int, int, Command]] = deque()
        self._waiting: list[tuple[int, int, int, PlaceOrder | QuoteOrder]] = []
        """(deadline, conn, corr, command): orders whose token the views do not contain yet."""
        self._outstanding: Batch | None = None
        self._building: Batch | None = None
        self._ready: list[Answer] = []
        self._sends: list[Send] = []
        self._fetches: list[Fetch] = []
        self._expiries = ExpiryQueue()
        self._order_ms = 0
        self._order_counter = 0
        self._peer_corr = 0
        self.order_numbers = OrderNumbers()

    # -- recovery -------------------------------------------------------------------------------------------------

    def load_part(self, part: str, seq: int, data: bytes) -> None:
        load_part(self.state, part, seq, data)

    def replay(self, seq: int, time_ms: int, payload: bytes) -> None:
        """Apply one journal entry to the parts that do not contain it yet."""
        state = self.state
        for event in _EVENTS.decode(payload):
            apply(state, event, seq=seq, time_ms=time_ms, replay=True)
        state.seq = seq
        state.time_ms = max(state.time_ms, time_ms)

    def recovered(self, *, epoch: int, seq: int, time_ms: int, now_ms: int) -> None:
        """All entries are in: rebuild what is derived, and give open holds a grace period as the first new entry."""
        state = self.state
        self.epoch = epoch
        state.seq = max(state.seq, seq)
        state.time_ms = max(state.time_ms, time_ms)
        self.durable_seq = state.seq
        derived = rebuild_indexes(state)
        for expires_at_ms, slot, order_no in derived.holds:
            self._expiries.push(expires_at_ms, slot, order_no)
            if self.hold_caps is not None and (record := state.order(slot, order_no)) is not None:
                self.hold_caps.opened(record)
        newest = derived.newest_order_no.get(self.shard, 0)
        self._order_ms = max(state.time_ms, order_no_time_ms(newest))
        self._order_counter = ORDER_COUNTER_MAX  # this millisecond may be used up: begin with the next
        state.part_seq.clear()
        self.rows.rows(state, 0)  # sorted now, not in the first pause between two batches
        self.moves.recovered(now_ms)
        self.views.recovered()
        self.stock_feed.recovered()
        self.driver.recovered(derived.driving)
        self.participant.recovered(now_ms)
        self.demand.recovered(derived.waiting, now_ms)
        self.acceptance.recovered(derived.to_accept, now_ms)
        self.arrivals.recovered(derived.on_their_way)
        for slot, order_no in derived.ended:
            self.closing.ended(slot, order_no, state.time_ms)
        if state.open_holds:
            batch = self.batch(now_ms)
            self.put(batch, Recovered(batch.time_ms, batch.time_ms + GRACE_MS))

    # -- snapshots ------------------------------------------------------------------------------------------------

    def dirty_parts(self) -> list[str]:
        """Parts changed since they were last packed, longest waiting first. Ask only while nothing is outstanding."""
        return [_part_name(key) for key in self.state.dirty]

    def pack_part(self, part: str) -> tuple[int, bytes]:
        """(sequence the bytes are true after, bytes). The part counts as clean from now on."""
        assert self.idle, "parts are packed between batches"
        self.state.dirty.pop("" if part == "misc" else part_key(part), None)
        return self.state.seq, pack_part(self.state, part, self.rows)

    @property
    def building_seq(self) -> int:
        """Sequence of the entry being built; 0 = none is."""
        return self._building.seq if self._building is not None else 0

    @property
    def idle(self) -> bool:
        """Nothing outstanding or being built: state equals the durable journal."""
        return self._outstanding is None and self._building is None

    # -- what the shell tells us ----------------------------------------------------------------------------------

    def receive(self, conn: int, corr: int, command: Command, *, now_ms: int) -> None:
        """Queue a command. Each queue has its limit; finishing work has by far the widest."""
        if type(command) is PlaceOrder:
            queue, limit = self._new, QUEUE_MAX
        elif isinstance(command, FINISHING):
            queue, limit = self._finishing, FINISHING_QUEUE_MAX
        elif type(command) is QuoteOrder:
            queue, limit = self.quoting.waiting, QUOTES_MAX  # type: ignore[assignment]
        elif isinstance(command, READS):
            queue, limit = self._reads, QUEUE_MAX
        else:
            queue, limit = self._new, QUEUE_MAX
        if len(queue) < limit:
            queue.append((conn, corr, command))
        else:
            problem = Problem("overloaded", CODES["overloaded"].title, (), retry_after_ms=500)
            self._ready.append(Answer(conn, corr, problem))

    def peer_replied(self, shard: int, corr: int, reply: Reply, *, now_ms: int) -> None:
        """A peer's answer to a Send, or an update of its view. An answer that came before, or too late, says nothing."""
        if corr == self.views.corr:
            if type(reply) is Problem:
                self.views.refused(shard)
            else:
                self.views.update(reply, now_ms)
        elif (
            self.resourcing.replied(corr, reply)
            or self.moves.replied(corr, reply)
            or self.demand.guests.replied(shard, corr, reply, now_ms)
            or self.demand.visits.replied(shard, corr, reply)
        ):
            pass
        elif not self.two_phase.replied(shard, corr, reply) and not self.driver.replied(corr, reply, now_ms):
            self.participant.replied(corr, reply, now_ms)

    def configure(self, docs: Iterable[ConfigDoc], version: int) -> None:
        """Take a push of the configuration. It is not journaled here: every order names the version it was planned with."""
        self.catalog.apply(docs, version)
        self.moves.configured()

    def solved(self, component: int, answer: bytes | None, *, now_ms: int) -> None:
        """The solver's answer about a component, None at the deadline."""
        self.claims.solved(component, answer)

    def appended(self, seq: int) -> None:
        """The outstanding entry is durable: its answers may leave."""
        batch = self._outstanding
        assert batch is not None and batch.seq == seq, "an entry was acknowledged that is not outstanding"
        self._outstanding = None
        self.durable_seq = seq
        self._ready += batch.answers

    def disconnected(self, conn: int) -> None:
        """Answers to this connection will go nowhere; what was asked stays decided."""
        self.views.disconnected(conn)
        told = [entry for entry in self._finishing if entry[0] == conn and type(entry[2]) is ShowDemand]
        for entry in told:  # nothing would be forgotten of what is heard after the end
            self._finishing.remove(entry)
        self.demand.guests.disconnected(conn)
        self.stock_feed.disconnected(conn)

    def archived(self, indexed_seq: int, indexed_ms: int, *, index_is_whole: bool = False) -> None:
        """The index holds what the archive has up to `indexed_seq`, the newest of `indexed_ms`: ended orders up to there may leave.

        index_is_whole: it has all of that, of every shard from the first entry on.
        """
        self.closing.indexed(indexed_seq, indexed_ms, is_whole=index_is_whole)

    def note_shell(self, facts: dict[str, Any]) -> None:
        """Measurements of the shell (append latency, journal memory) for status and metrics."""
        self.shell_facts = facts

    # -- building -------------------------------------------------------------------------------------------------

    def time_ms(self, now_ms: int) -> int:
        """Entry time of what is decided now (P4)."""
        building = self._building
        return building.time_ms if building is not None else max(self.state.time_ms, now_ms)

    def batch(self, now_ms: int) -> Batch:
        """The entry being built; a new one takes the next sequence and a time that never goes back (P4)."""
        building = self._building
        if building is None:
            state = self.state
            state.seq += 1
            state.time_ms = max(state.time_ms, now_ms)
            building = self._building = Batch(state.seq, state.time_ms, self.token(state.seq))
        return building

    def put(self, batch: Batch, event: Event) -> None:
        """Apply an event and make it part of the entry."""
        apply(self.state, event, seq=batch.seq, time_ms=batch.time_ms)
        if self.demand.entries or self.demand.guests.by_order:
            self.demand.moved(event)
        if self.moves.watching:
            self.moves.note([event])
        batch.events.append(event)
        batch.size += 96 + (len(event.record) + len(event.reason) if type(event) is OrderPut else 0)

    def answer(self, conn: int, corr: int, reply: Reply) -> None:
        """Answer once everything that was decided so far is durable (P2)."""
        behind = self._building or self._outstanding
        (behind.answers if behind is not None else self._ready).append(Answer(conn, corr, reply))

    def answers_now(self, answers: list[Answer]) -> None:
        """Answers that promise nothing and wait for nothing: views."""
        self._ready += answers

    def send(self, shard: int, command: Command) -> int:
        """Send a command to another shard; returns the correlation id its reply will carry."""
        self._peer_corr += 1
        self._sends.append(Send(shard, self._peer_corr, command))
        return self._peer_corr

    def token(self, seq: int | None = None, others: dict[int, tuple[int, int]] | None = None) -> str:
        """Token of an entry of this shard (default: the newest), with points of other shards it rests on."""
        points = dict(others or {})
        points[self.shard] = (self.epoch, self.state.seq if seq is None else seq)
        return make_token(points)

    def view(self, slot: str, order_no: int, record: OrderRecord, *, replayed: bool = False) -> OrderView:
        """An order as it is now. A hold is shown with the end that counts: one that was open while the shard was away lives on a little."""
        if record.state == OrderState.HELD:
            record.expires_at_ms = self.state.effective_expiry_ms(order_no, record)
        return order_view(self.catalog, slot, order_no, record, token=self.token(), replayed=replayed)

    def next_order_no(self, time_ms: int) -> int:
        """A number that no order of this or any shard had before."""
        if time_ms > self._order_ms:
            self._order_ms, self._order_counter = time_ms, 0
        elif self._order_counter + 1 < ORDER_COUNTER_MAX:
            self._order_counter += 1
        else:
            self._order_ms, self._order_counter = self._order_ms + 1, 0
        return make_order_no(time_ms=self._order_ms, shard=self.shard, counter=self._order_counter)

    def order_nos(self, time_ms: int, count: int) -> Sequence[int]:
        """What so many calls of `next_order_no` would give."""
        first = self.next_order_no(time_ms)
        if self._order_counter + count <= ORDER_COUNTER_MAX:
            self._order_counter += count - 1
            return range(first, first + count)
        return [first, *(self.next_order_no(time_ms) for _ in range(count - 1))]

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def put_order(
        self,
        batch: Batch,
        cause: int,
        slot: str,
        order_no: int,
        record: OrderRecord,
        stock: list[int],
        capacity: list[int],
        key_hash: int = 0,
        fingerprint: int = 0,
        reason: str = "",
        leg_no: int = 0,
    ) -> None:
        """Journal a changed order: next version, work lists, and what its remote legs must be driven to."""
        if self.hold_caps is not None and cause in _ENDS_HOLD and (was := self.state.order(slot, order_no)) is not None:
            self.hold_caps.ended(was)
        record.version += 1
        event = OrderPut(
            cause,
            slot,
            order_no,
            encode_record(record),
            tuple(stock),
            tuple(capacity),
            key_hash,
            fingerprint,
            reason,
            leg_no,
        )
        self.put(batch, event)
        state = self.state
        if cause in _ENDS_HOLD:
            state.open_holds -= 1
            if cause == Cause.COMMITTED:
                state.open_orders += 1
        elif record.state == OrderState.CANCELLED:
            state.open_orders -= 1
        if record.state != OrderState.HELD:
            index_work(state, slot, order_no, record)
        if record.demand or order_no in self.demand.entries:
            self.demand.index(slot, order_no, record)
            if cause == Cause.COMMITTED:
                self.demand_log.waits(slot, record, batch.time_ms)
        self.driver.drive(batch.seq, slot, order_no, record)
        self.closing.changed(slot, order_no, record, batch.time_ms)

    def watch_expiry(self, expires_at_ms: int, slot: str, order_no: int) -> None:
        self._expiries.push(expires_at_ms, slot, order_no)

    # -- the loop -------------------------------------------------------------------------------------------------

    def poll(self, *, now_ms: int) -> Effects:
        """Decide what is queued, as far as one entry goes, and say what to do. Cheap when there is nothing to do."""
        if self.moves.active:
            self.moves.tick(now_ms)
        self.closing.tick(now_ms)
        self._expire(now_ms)
        self.supply.tick(now_ms)
        self.two_phase.tick(now_ms)
        self.claims.tick(now_ms)
        self.acceptance.tick(now_ms, self._room)
        self.arrivals.tick(now_ms, self._room)
        for asked_again in self.edits.due(now_ms):
            handle(self, *asked_again, now_ms=now_ms)
        self.waves.tick(now_ms, self._room)
        if self.demand.active:
            self.demand.tick(now_ms, self._room)
        if self.state.short_positions or self.resourcing.working:
            self.resourcing.tick(now_ms, self._room)
        if self._waiting:
            self._recheck_waiting(now_ms)
        finishing, new, reads = self._finishing, self._new, self._reads
        # First, because an edit may move only legs that are not driven any more.
        self.driver.journal_acked(now_ms, in_company=bool(finishing))
        while finishing and self._room():
            handle(self, *finishing.popleft(), now_ms=now_ms)
        group: list[Asked] = []
        quoted = False
        lines = 0
        room = self._room()
        while new and lines < GROUP_LINES_MAX and len(group) < room:
            asked = conn, corr, command = new.popleft()
            if type(command) is PlaceOrder:
                if command.after is None or self.contains(conn, corr, command, now_ms):
                    group.append(asked)  # type: ignore[arg-type]
                    lines += len(command.order.lines)
                continue
            if type(command) is PlaceQuoted:
                if command.after is None or self.contains(conn, corr, command, now_ms):
                    group.append(asked)  # type: ignore[arg-type]
                    lines += len(command.order.lines)
                    quoted = True
                continue
            if group:
                place_group(self, group, now_ms=now_ms, quoted=quoted)
                group, quoted = [], False
            handle(self, conn, corr, command, now_ms=now_ms)
            room = self._room()
        if group:
            place_group(self, group, now_ms=now_ms, quoted=quoted)
        while reads:
            handle(self, *reads.popleft(), now_ms=now_ms)
        if self.quoting.working:
            self.quoting.tick(now_ms)
        self.driver.tick(now_ms)
        self.participant.tick(now_ms)
        self.driver.journal_acked(now_ms, in_company=self._building is not None)

        append = None
        if self._outstanding is None and self._building is not None:
            batch = self._outstanding = self._building
            self._building = None
            append = Append(batch.seq, batch.time_ms, _encode_events(batch.events), batch.decisions)
            self.stock_feed.closed(batch.seq)
            self.views.closed(batch.seq)
        self.views.push(now_ms)
        self.stock_feed.push(now_ms)
        answers, self._ready = self._ready, []
        sends, self._sends = self._sends, []
        fetches, self._fetches = self._fetches, []
        return Effects(append, answers, sends, self._wake_at(now_ms), fetches, self.claims.take_solves())

    def fetch(self, conn: int, corr: int, at: tuple[int, int, int]) -> None:
        self._fetches.append(Fetch(conn, corr, *at))

    def requeue(self, conn: int, corr: int, command: Command) -> None:
        """Decide it again at the next poll, before what arrived later."""
        self._new.appendleft((conn, corr, command))

    def has_room(self) -> bool:
        """Whether the entry being built takes more."""
        return self._room() > 0

    def queue_lengths(self) -> dict[str, int]:
        return {
            "finishing": len(self._finishing),
            "new": len(self._new),
            "waiting_for_view": len(self._waiting),
            "quotes": len(self.quoting.waiting),
        }

    def _room(self) -> int:
        """Orders that the entry being built still takes."""
        building = self._building
        if building is None:
            return BATCH_ITEMS_MAX
        return 0 if building.size >= BATCH_BYTES_MAX * 3 // 4 else max(0, BATCH_ITEMS_MAX - len(building.events))

    def _wake_at(self, now_ms: int) -> int | None:
        if self.quoting.working:
            return now_ms
        if self._outstanding is not None:
            return now_ms + OUTSTANDING_WAKE_MS
        if self._finishing or self._new:
            return now_ms
        times = [
            self.two_phase.wake_at_ms(now_ms),
            self.claims.wake_at_ms(now_ms),
            self.driver.wake_at_ms(),
            self.participant.wake_at_ms(),
            self.closing.wake_at_ms(now_ms),
            self.views.wake_at_ms(),
            self.stock_feed.wake_at_ms(),
            self.demand.wake_at_ms(now_ms),
            self.resourcing.wake_at_ms(now_ms),
            self.moves.wake_at_ms(now_ms),
            self.acceptance.wake_at_ms(now_ms),
            self.arrivals.wake_at_ms(now_ms),
            self.edits.wake_at_ms(),
            self.waves.wake_at_ms(now_ms),
            self.supply.wake_at_ms(),
        ]
        due_ms = self._expiries.next_ms()
        if (
            due_ms is not None
        ):  # when it is due already, this entry is full or older than it: the next poll is soon enough
            times.append(max(due_ms, now_ms + 1))
        if self._waiting:
            times.append(min(entry[0] for entry in self._waiting))
        return min((time for time in times if time is not None), default=None)

    def _expire(self, now_ms: int) -> None:
        """End holds that are due by entry time, a bounded number a batch (P3, P4)."""
        state, time_ms = self.state, self.time_ms(now_ms)
        for _ in range(EXPIRIES_PER_BATCH):
            if not self._room():
                return
            entry = self._expiries.pop_due(time_ms)
            if entry is None:
                return
            _, slot, order_no = entry
            record = state.order(slot, order_no)
            if record is None or record.state != OrderState.HELD:
                continue
            expires_at_ms = state.effective_expiry_ms(order_no, record)
            if expires_at_ms > time_ms:
                self.watch_expiry(expires_at_ms, slot, order_no)
                continue
            change = end_hold(record, expired=True)
            assert not isinstance(change, Problem)
            batch = self.batch(now_ms)
            self.put_order(batch, change.cause, slot, order_no, record, change.stock, change.capacity)
            self.count("expired")

    def contains(self, conn: int, corr: int, command: PlaceOrder | QuoteOrder, now_ms: int) -> bool:
        """Whether the views contain the command's token; if not, it waits up to a second for them."""
        verdict = self.views.contains(command.after or "")
        if verdict is None:
            self.answer(conn, corr, Problem("invalid_token", CODES["invalid_token"].title))
            return False
        if not verdict and len(self._waiting) < QUEUE_MAX:
            self._waiting.append((now_ms + AFTER_WAIT_MS, conn, corr, command))
        elif not verdict:
            self.answer(conn, corr, Problem("overloaded", CODES["overloaded"].title, (), retry_after_ms=500))
        return verdict

    @property
    def waits_for_views(self) -> bool:
        """Whether an order waits until a view contains its token."""
        return bool(self._waiting)

    def waits_for_view(self, key_hash: int) -> bool:
        """Whether an order under this key waits until a view contains its token."""
        return any(getattr(command, "key_hash", 0) == key_hash for _, _, _, command in self._waiting)

    def _recheck_waiting(self, now_ms: int) -> None:
        waiting, self._waiting = self._waiting, []
        for deadline, conn, corr, command in waiting:
            if self.views.contains(command.after or ""):
                self._new.append((conn, corr, msgspec.structs.replace(command, after=None)))
            elif now_ms >= deadline:
                problem = Problem("view_behind", CODES["view_behind"].title, (), retry_after_ms=100)
                self.answer(conn, corr, problem)
            else:
                self._waiting.append((deadline, conn, corr, command))
