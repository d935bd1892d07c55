"""Orders whose legs lie on several shards. The home shard's record is the only decision.

T1  TRY holds units at the nodes' shards, journaled there, without a time limit of their own.
T2  All hold -> the home shard journals the order: the only commit point. Then, and only then, it answers.
T3  Any refusal or silence -> nothing is journaled at home; what was held is cancelled, and the order is planned again with
    the fresh numbers, a bounded number of rounds.
T4  Every later change (commit, release, expiry, cancel, ship, reject) is journaled at home first, then driven to the legs'
    shards, idempotently, until they acknowledge.
T5  A shard that holds a leg it heard no more about asks home. Home answers `committed` (a leg of the record names the
    transaction), `pending` (it is in memory), else `aborted`. A transaction number is (epoch << 24 | counter) and never used
    twice, so one that neither stands in the record nor in the memory of its own epoch can never commit any more. A home
    that is asked about an epoch newer than its own is a fenced copy and says `pending`.
T6  Units of a transaction count as `claimed` at home until it is decided.

Model: tests/sim/models/two_phase_model.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine.domain.commands import DriveLeg, PlaceOrder, ResolveTxn, TryLegs
from engine.domain.decide_legs import capacity_left, drive_target
from engine.domain.decide_orders import Prepared, legs_of, refuse, shortage, stock_of
from engine.domain.events import Cause, LegDriven, LegHeld
from engine.domain.orders import LegState, LineRecord, LineRequest, OnShort, OrderRecord, OrderRequest, OrderState
from engine.domain.plan import Plan, PlanRequest
from engine.domain.problems import CODES
from engine.domain.replies import Done, Problem, Reply, TryReply, TxnState
from engine.protocol.tokens import parse_token

if TYPE_CHECKING:
    from engine.protocol.shard_core import Batch, ShardCore

ROUNDS_MAX = 4
TRY_TIMEOUT_MS = 2_000
DRIVE_AGAIN_MS = 1_000
RESOLVE_AFTER_MS = 3_000
TXN_COUNTER_BITS = 24


class Pending:
    """A transaction that waits for its shards. `command` None = new legs for an order that lost some."""

    def __init__(self, txn: int, order_no: int, prepared: Prepared, plan: Plan, command: PlaceOrder | None) -> None:
        self.txn = txn
        self.order_no = order_no
        self.prepared = prepared
        self.plan = plan
        self.command = command
        self.askers: list[tuple[int, int]] = []
        self.waiting: dict[int, int] = {}
        """Correlation id by shard that has not answered."""
        self.held: list[int] = []
        self.refused = False
        self.silent: list[int] = []
        self.round = 1
        self.deadline_ms = 0
        self.points: dict[int, tuple[int, int]] = {}


class _Drive(NamedTuple):
    after_seq: int
    shard: int
    command: DriveLeg
    due_ms: int


class TwoPhase:
    """Both sides: home of its own orders' transactions, participant for others'."""

    def __init__(self, core: ShardCore) -> None:
        self._core = core
        self._counter = 0
        self._pending: dict[int, Pending] = {}
        self._by_corr: dict[int, int] = {}
        self._by_key: dict[tuple[str, int], int] = {}
        self._by_order_id: dict[tuple[str, str], int] = {}
        self._drives: dict[tuple[str, int, int], _Drive] = {}
        self._drive_corr: dict[int, tuple[tuple[str, int, int], DriveLeg]] = {}
        self._ask_at: dict[tuple[int, int, int], int] = {}
        """When to ask home about (node, order number, leg number)."""
        self._ask_corr: dict[int, tuple[int, int, int]] = {}
        self.wake_at_ms: int | None = None

    @property
    def pending_count(self) -> int:
        return len(self._pending)

    def order_no(self, txn: int) -> int:
        return self._pending[txn].order_no

    # -- home: try ------------------------------------------------------------------------------------------------

    def begin(self, conn: int, corr: int, command: PlaceOrder, prepared: Prepared, plan: Plan, *, now_ms: int) -> None:
        """Start the transaction of a new order."""
        core = self._core
        order_no = core.next_order_no(max(core.state.time_ms, now_ms))
        pending = Pending(0, order_no, prepared, plan, command)
        pending.askers.append((conn, corr))
        if command.key_hash:
            self._by_key[(prepared.slot, command.key_hash)] = order_no
        self._by_order_id[(prepared.slot, command.order.order_id)] = order_no
        self._send_try(pending, now_ms)

    def joins(self, conn: int, corr: int, slot: str, command: PlaceOrder) -> bool:
        """A repeat of a transaction under way waits for the same answer; another one under its order id is refused."""
        order_no = self._by_key.get((slot, command.key_hash)) if command.key_hash else None
        if order_no is not None:
            pending = next(p for p in self._pending.values() if p.order_no == order_no)
            assert pending.command is not None
            if pending.command.fingerprint != command.fingerprint:
                self._core.answer(conn, corr, Problem("key_reused", CODES["key_reused"].title))
            else:
                pending.askers.append((conn, corr))
            return True
        if (slot, command.order.order_id) in self._by_order_id:
            self._core.answer(
                conn, corr, refuse("duplicate_order", "/order_id", f"{command.order.order_id} is being placed")
            )
            return True
        return False

    def _send_try(self, pending: Pending, now_ms: int) -> None:
        core = self._core
        self._counter += 1
        pending.txn = (core.epoch << TXN_COUNTER_BITS) | self._counter
        pending.deadline_ms = now_ms + TRY_TIMEOUT_MS
        pending.waiting.clear()
        pending.held.clear()
        pending.silent.clear()
        pending.refused = False
        pending.points.clear()
        self._pending[pending.txn] = pending
        first = self._first_leg_no(pending)
        by_shard: dict[int, list[tuple[int, int, int, int, tuple[tuple[int, int], ...]]]] = {}
        lines = pending.prepared.request.lines
        for n, leg in enumerate(pending.plan.legs):
            self._claim(leg.node, leg.ship_day, leg.capacity_units, [(lines[i].item, u) for i, u in leg.lines], 1)
            shard = core.catalog.owner[leg.node]
            if shard == core.shard:
                continue
            units: dict[int, int] = {}
            for i, u in leg.lines:
                units[lines[i].item] = units.get(lines[i].item, 0) + u
            by_shard.setdefault(shard, []).append(
                (first + n, leg.node, leg.ship_day, leg.capacity_units, tuple(sorted(units.items())))
            )
        for shard, legs in sorted(by_shard.items()):
            command = TryLegs(core.shard, pending.txn, pending.prepared.slot, pending.order_no, tuple(legs))
            corr = core.send(shard, command)
            pending.waiting[shard] = corr
            self._by_corr[corr] = pending.txn
        self.wake_at_ms = min(self.wake_at_ms or pending.deadline_ms, pending.deadline_ms)

    def _first_leg_no(self, pending: Pending) -> int:
        if pending.command is not None:
            return 1
        record = self._core.state.order(pending.prepared.slot, pending.order_no)
        return max((leg.leg_no for leg in record.legs), default=0) + 1 if record else 1

    def _claim(self, node: int, day: int, capacity: int, lines: list[tuple[int, int]], sign: int) -> None:
        core = self._core
        positions = core.state.positions
        for item, units in lines:
            row = positions.find(item, node)
            if row >= 0:
                positions.v_claimed[row] += sign * units
        if capacity:
            core.state.capacity.add(node, day, sign * capacity)

    def _unclaim(self, pending: Pending) -> None:
        lines = pending.prepared.request.lines
        for leg in pending.plan.legs:
            self._claim(leg.node, leg.ship_day, leg.capacity_units, [(lines[i].item, u) for i, u in leg.lines], -1)

    def replied(self, shard: int, corr: int, reply: Reply) -> None:
        """An answer to a TRY, a drive or a question."""
        txn = self._by_corr.pop(corr, None)
        if txn is not None:
            self._try_replied(shard, corr, txn, reply)
            return
        driven = self._drive_corr.pop(corr, None)
        if driven is not None:
            self._drive_replied(*driven, reply)
            return
        asked = self._ask_corr.pop(corr, None)
        if asked is not None and isinstance(reply, TxnState):
            self._told(asked, reply.state)

    def _try_replied(self, shard: int, corr: int, txn: int, reply: Reply) -> None:
        pending = self._pending.get(txn)
        if pending is None or pending.waiting.get(shard) != corr:
            return
        del pending.waiting[shard]
        if isinstance(reply, TryReply):
            points = parse_token(reply.token) if reply.token else None
            pending.points.update(points or {})
            if reply.ok:
                pending.held.append(shard)
            else:
                pending.refused = True
                self._learn(reply)
        else:
            pending.refused = True
            pending.silent.append(shard)

    def _learn(self, reply: TryReply) -> None:
        """Put the owner's fresh numbers into the view, so that the next plan does not ask for the same again."""
        core = self._core
        positions = core.state.positions
        for item, node, atp in reply.short:
            row = positions.ensure(item, node)
            positions.v_on_hand[row] = max(0, atp) + positions.v_safety[row]
            positions.v_held[row] = 0
        for node, day, used in reply.full:
            core.state.capacity.put(node, day, used)

    def tick(self, now_ms: int) -> None:
        """Decide transactions whose answers are in or overdue; drive again; ask about silent ones."""
        for pending in [p for p in self._pending.values() if not p.waiting or now_ms >= p.deadline_ms]:
            self._conclude(pending, now_ms)
        self._send_drives(now_ms)
        self._ask_homes(now_ms)
        times = [p.deadline_ms if p.waiting else now_ms for p in self._pending.values()]
        times += [drive.due_ms for drive in self._drives.values() if drive.after_seq <= self._core.durable_seq]
        times += list(self._ask_at.values())
        self.wake_at_ms = min(times) if times else None

    def _conclude(self, pending: Pending, now_ms: int) -> None:
        core = self._core
        for shard, corr in pending.waiting.items():
            self._by_corr.pop(corr, None)
            pending.silent.append(shard)
            pending.refused = True
        self._unclaim(pending)
        del self._pending[pending.txn]
        if not pending.refused:
            self._pending[pending.txn] = pending
            self._commit(pending, now_ms)
            self._forget(pending)
            return
        self._abort(pending)
        request = pending.prepared.request
        if pending.silent:
            owner = core.catalog.owner
            unreachable = tuple(n for n, shard in enumerate(owner) if shard in pending.silent)
            request = request._replace(excluded=(*request.excluded, *unreachable))
            pending.prepared = pending.prepared._replace(request=request)
        plan = core.planner.plan([request], now_ms=now_ms)[0]
        local = all(core.catalog.owner[leg.node] == core.shard for leg in plan.legs)
        if pending.round >= ROUNDS_MAX and not local:
            plan = core.planner.plan([self._local_only(request)], now_ms=now_ms)[0]
            local = True
        pending.round += 1
        pending.plan = plan
        if pending.command is not None and plan.unfilled:
            on_short = pending.prepared.on_short
            if on_short == OnShort.REFUSE or (on_short == OnShort.PARTIAL and not plan.legs):
                core.count("refused")
                for conn, corr in pending.askers:
                    core.answer(conn, corr, shortage(core.state, pending.prepared, plan))
                self._forget(pending)
                return
        if pending.command is None and not plan.legs:
            self._forget(pending)
            return
        if local:
            self._counter += 1
            pending.txn = (core.epoch << TXN_COUNTER_BITS) | self._counter
            self._pending[pending.txn] = pending
            self._commit(pending, now_ms)
            self._forget(pending)
            return
        self._send_try(pending, now_ms)

    def _local_only(self, request: PlanRequest) -> PlanRequest:
        core = self._core
        others = tuple(n for n, shard in enumerate(core.catalog.owner) if shard != core.shard)
        return request._replace(excluded=(*request.excluded, *others))

    def _forget(self, pending: Pending) -> None:
        self._pending.pop(pending.txn, None)
        if pending.command is not None:
            self._by_key.pop((pending.prepared.slot, pending.command.key_hash), None)
            self._by_order_id.pop((pending.prepared.slot, pending.command.order.order_id), None)

    def _abort(self, pending: Pending) -> None:
        """Cancel what was held. Lost on the way, the shard that holds it asks and is told (T5)."""
        core = self._core
        first = self._first_leg_no(pending)
        for n, leg in enumerate(pending.plan.legs):
            shard = core.catalog.owner[leg.node]
            if shard in pending.held:
                core.send(
                    shard,
                    DriveLeg(
                        core.shard,
                        pending.txn,
                        pending.prepared.slot,
                        pending.order_no,
                        first + n,
                        LegState.CANCELLED,
                        (),
                    ),
                )
        core.count("transactions_aborted")

    def _commit(self, pending: Pending, now_ms: int) -> None:
        """All hold: journal the order (T2)."""
        from engine.protocol.handlers import finish_place

        core = self._core
        if pending.command is None:
            self._commit_replan(pending, now_ms)
            return
        (conn, corr), *more = pending.askers
        record = finish_place(
            core,
            conn,
            corr,
            pending.command,
            pending.prepared,
            pending.plan,
            now_ms=now_ms,
            txn=pending.txn,
            points=pending.points,
        )
        core.count("transactions_committed")
        self._expect_views(record)
        from engine.domain.views import order_view

        for conn, corr in more:
            view = order_view(
                core.catalog, pending.prepared.slot, pending.order_no, record, token=core.token(), replayed=True
            )
            core.answer(conn, corr, view)

    def _expect_views(self, record: OrderRecord) -> None:
        """Count remote legs in the view at once: the owner's push will say the same."""
        positions = self._core.state.positions
        for leg in record.legs:
            if not leg.local:
                for i, units in leg.lines:
                    row = positions.find(record.lines[i].item, leg.node)
                    if row >= 0:
                        positions.v_held[row] += units

    # -- home: new legs for old orders ----------------------------------------------------------------------------

    def replan(self, slot: str, order_no: int, *, now_ms: int) -> None:
        """Find nodes for the parked units of an order, never one that rejected it."""
        core = self._core
        record = core.state.order(slot, order_no)
        if record is None or record.state != OrderState.COMMITTED or not record.demand:
            return
        prepared = self._prepare_replan(slot, record)
        plan = core.planner.plan([prepared.request], now_ms=now_ms)[0]
        if not plan.legs:
            return
        pending = Pending(0, order_no, prepared, plan, None)
        if all(core.catalog.owner[leg.node] == core.shard for leg in plan.legs):
            self._commit_replan(pending, now_ms)
        else:
            self._send_try(pending, now_ms)

    def _prepare_replan(self, slot: str, record: OrderRecord) -> Prepared:
        catalog = self._core.catalog
        channel = catalog.channels[record.channel]
        lines: list[LineRecord] = []
        planned: list[int] = []
        for demand in record.demand:
            line = record.lines[demand.line]
            lines.append(
                LineRecord(
                    line.line_id,
                    line.item,
                    demand.quantity,
                    line.unit_price_minor,
                    line.method,
                    line.group,
                    line.pickup_node,
                    0,
                    line.splittable,
                )
            )
            planned.append(demand.line)
        request = OrderRequest(
            record.order_id,
            channel.channel_id if channel else "",
            record.service,
            record.ship_to,
            tuple(
                LineRequest(line.line_id, catalog.sku(line.item), line.quantity, line.unit_price_minor)
                for line in lines
            ),
            record.currency,
            record.placed_at_ms,
            record.customer_id,
            OnShort.PARK,
            record.priority,
            record.tags,
            record.promised_by_ms,
            record.ship_after_ms,
        )
        plan_request = PlanRequest(request, lines, record.channel, record.rejected_nodes, record.max_legs)
        return Prepared(slot, plan_request, lines, planned, OnShort.PARK)

    def _commit_replan(self, pending: Pending, now_ms: int) -> None:
        core = self._core
        prepared, plan = pending.prepared, pending.plan
        record = core.state.order(prepared.slot, pending.order_no)
        still = {d.line: d.quantity for d in record.demand} if record else {}
        wanted: dict[int, int] = {}
        for leg in plan.legs:
            for i, units in leg.lines:
                line = prepared.planned[i]
                wanted[line] = wanted.get(line, 0) + units
        if (
            record is None
            or record.state != OrderState.COMMITTED
            or any(still.get(i, 0) < u for i, u in wanted.items())
        ):
            self._abort(pending)  # it was cancelled meanwhile
            return
        batch = core.batch(now_ms)
        first = max((leg.leg_no for leg in record.legs), default=0) + 1
        legs = legs_of(core.state, prepared.planned, plan, leg_state=LegState.ALLOCATED, first=first, txn=pending.txn)
        for new in legs:
            new.driving = not new.local
        record.legs += legs
        for demand in record.demand:
            demand.quantity -= wanted.get(demand.line, 0)
        record.demand = [d for d in record.demand if d.quantity]
        cash, service, policy, opportunity = plan.money_minor
        old = record.money_minor
        record.money_minor = (old[0] + cash, old[1] + service, old[2] + policy, old[3] + opportunity)
        record.promise_ms = (
            max(record.promise_ms[0], plan.promise_ms[0]),
            max(record.promise_ms[1], plan.promise_ms[1]),
        )
        if plan.record:
            record.decided_at.append((core.epoch, batch.seq, len(batch.decisions)))
            record.decision = len(record.decided_at) - 1
            batch.decisions.append(plan.record)
        stock, capacity = stock_of(record, legs, held=False)
        core.put_order(batch, Cause.REPLANNED, prepared.slot, pending.order_no, record, list(stock), list(capacity))
        core.count("replanned")

    # -- home: drive ----------------------------------------------------------------------------------------------

    def drive(self, batch: Batch, slot: str, order_no: int, record: OrderRecord) -> None:
        """Once the entry is durable, bring the legs' shards to what the record says (T4)."""
        core = self._core
        for leg in record.legs:
            if not leg.driving:
                continue
            to, lines, shipped = drive_target(record, leg)
            command = DriveLeg(
                core.shard,
                leg.txn,
                slot,
                order_no,
                leg.leg_no,
                to,
                tuple(lines),
                leg.stock_effect,
                tuple(shipped),
            )
            self._drives[(slot, order_no, leg.leg_no)] = _Drive(batch.seq, core.catalog.owner[leg.node], command, 0)
        self.wake_at_ms = 0

    def recovered(self) -> None:
        """After replay: take up every drive that was not acknowledged, and ask about every leg held for others."""
        core = self._core
        for slot, order_no in core.state.driving:
            record = core.state.order(slot, order_no)
            if record is not None:
                self._redrive(slot, order_no, record)
        core.state.driving.clear()
        for node, part in core.state.nodes.items():
            for leg in part.foreign.values():
                if not leg.resolved:
                    self._ask_at[(node, leg.order_no, leg.leg_no)] = 0

    def _redrive(self, slot: str, order_no: int, record: OrderRecord) -> None:
        from engine.protocol.shard_core import Batch

        self.drive(Batch(0, 0), slot, order_no, record)

    def _send_drives(self, now_ms: int) -> None:
        core = self._core
        for key, drive in list(self._drives.items()):
            if drive.after_seq <= core.durable_seq and drive.due_ms <= now_ms:
                corr = core.send(drive.shard, drive.command)
                self._drive_corr[corr] = (key, drive.command)
                self._drives[key] = drive._replace(due_ms=now_ms + DRIVE_AGAIN_MS)

    def _drive_replied(self, key: tuple[str, int, int], command: DriveLeg, reply: Reply) -> None:
        drive = self._drives.get(key)
        if drive is None or drive.command != command:
            return  # a newer target replaced it
        core = self._core
        if not isinstance(reply, Done):
            core.count("drives_refused")
            return
        del self._drives[key]
        slot, order_no, leg_no = key
        record = core.state.order(slot, order_no)
        if record is None:
            return
        for leg in record.legs:
            if leg.leg_no == leg_no:
                leg.driving = False
        batch = core.batch(core.state.time_ms)
        core.put_order(batch, Cause.DRIVEN, slot, order_no, record, [], [])

    # -- home: answer questions -----------------------------------------------------------------------------------

    def resolve(self, conn: int, corr: int, command: ResolveTxn) -> None:
        """What became of a transaction (T5)."""
        core = self._core
        record = core.state.order(command.slot, command.order_no)
        if record is not None and any(leg.txn == command.txn for leg in record.legs):
            state = "committed"
        elif command.txn in self._pending or command.txn >> TXN_COUNTER_BITS > core.epoch:
            state = "pending"
        else:
            state = "aborted"
        core.answer(conn, corr, TxnState(state))

    # -- participant ----------------------------------------------------------------------------------------------

    def participate_try(self, conn: int, corr: int, command: TryLegs, now_ms: int) -> None:
        """Hold all legs or none (T1). A newer transaction of the same leg replaces an older one that never committed."""
        core = self._core
        state, catalog = core.state, core.catalog
        fresh = []
        for leg in command.legs:
            leg_no, node = leg[0], leg[1]
            if not catalog.owns_node(node):
                core.answer(conn, corr, refuse("moved", "", f"node {catalog.node_id(node)} belongs to another shard"))
                return
            known = state.node(node).foreign.get((command.order_no, leg_no))
            if known is None:
                fresh.append(leg)
            elif known.txn < command.txn and known.state == LegState.HELD and not known.resolved:
                self._put_drive(core.batch(now_ms), node, command.order_no, leg_no, LegState.CANCELLED, (), (), "none")
                fresh.append(leg)
            elif known.txn != command.txn:
                core.answer(conn, corr, TryReply(False))
                return
        positions = state.positions
        need: dict[tuple[int, int], int] = {}
        room: dict[tuple[int, int], int] = {}
        for _, node, day, capacity, lines in fresh:
            room[(node, day)] = room.get((node, day), 0) + capacity
            for item, units in lines:
                need[(item, node)] = need.get((item, node), 0) + units
        short = []
        for (item, node), units in need.items():
            row = positions.find(item, node)
            free = positions.free(row) if row >= 0 else 0
            if free < units:
                short.append((item, node, free))
        full = []
        for (node, day), units in room.items():
            document = catalog.nodes[node]
            used = state.capacity.get(node, day)
            limit = document.capacity if document else None
            if units and limit is not None and limit.hard and used + units > limit.per_day:
                full.append((node, day, used))
        if short or full:
            core.answer(conn, corr, TryReply(False, tuple(short), tuple(full)))
            return
        batch = core.batch(now_ms)
        for leg_no, node, day, capacity, lines in fresh:
            core.put(
                batch,
                LegHeld(command.home, command.txn, command.slot, command.order_no, leg_no, node, day, capacity, lines),
            )
            self._ask_at[(node, command.order_no, leg_no)] = now_ms + RESOLVE_AFTER_MS
        core.answer(conn, corr, TryReply(True, token=core.token(batch.seq)), batch)

    def participate_drive(self, conn: int, corr: int, command: DriveLeg, now_ms: int) -> None:
        """Bring a leg to what home decided. A repeat changes nothing and is acknowledged again."""
        core = self._core
        node = core.state.foreign_node.get((command.order_no, command.leg_no))
        leg = core.state.node(node).foreign[(command.order_no, command.leg_no)] if node is not None else None
        if leg is not None and node is not None and leg.txn == command.txn:
            self._ask_at.pop((node, command.order_no, command.leg_no), None)
            if (leg.state, leg.lines, leg.shipped) != (command.to, command.lines, command.shipped) or not leg.resolved:
                self._put_drive(
                    core.batch(now_ms),
                    node,
                    command.order_no,
                    command.leg_no,
                    command.to,
                    command.lines,
                    command.shipped,
                    command.stock_effect,
                )
            core.answer(conn, corr, Done(1, core.token()))
            return
        if command.to in (LegState.CANCELLED, LegState.REJECTED):
            core.answer(conn, corr, Done(0, core.token()))
        else:
            core.count("drives_without_leg")
            core.answer(conn, corr, refuse("not_found", "", "no such leg is held here"))

    def _put_drive(
        self,
        batch: Batch,
        node: int,
        order_no: int,
        leg_no: int,
        to: int,
        lines: tuple[tuple[int, int], ...],
        shipped: tuple[tuple[int, int], ...],
        effect: str,
    ) -> None:
        """The event that moves a leg held here to a target, as explicit changes of stock and capacity."""
        core = self._core
        leg = core.state.node(node).foreign[(order_no, leg_no)]
        held = leg.state == LegState.HELD
        old, old_shipped = dict(leg.lines), dict(leg.shipped)
        new, new_shipped = dict(lines), dict(shipped)
        stock: list[int] = []
        for item in sorted(old):
            leaves = new_shipped.get(item, 0) - old_shipped.get(item, 0)
            freed = old[item] - new.get(item, 0) - leaves
            d_held = d_allocated = 0
            if not held:
                d_allocated = new.get(item, 0) - old[item]
            elif to == LegState.HELD:
                d_held = new.get(item, 0) - old[item]
            else:
                d_held, d_allocated = -old[item], new.get(item, 0)
            d_on_hand = -leaves
            if freed > 0 and effect == "write_off":
                d_on_hand -= freed
            elif freed > 0 and effect == "zero_until_count":
                positions = core.state.positions
                row = positions.find(item, node)
                promised = positions.v_held[row] + d_held + positions.v_allocated[row] + d_allocated
                d_on_hand -= max(0, positions.v_on_hand[row] - leaves - promised)
            if d_on_hand or d_held or d_allocated:
                stock += (node, item, d_on_hand, d_held, d_allocated)
        before = (sum(old.values()), len(old))
        after = (sum(new.values()) + sum(new_shipped.values()), len(set(new) | set(new_shipped)))
        left = capacity_left(leg.capacity_units, before, after) if not old_shipped else leg.capacity_units
        capacity = (node, leg.ship_day, left - leg.capacity_units) if left != leg.capacity_units else ()
        core.put(
            batch,
            LegDriven(leg.slot, order_no, leg_no, node, to, lines, tuple(stock), capacity, shipped, left),
        )

    def _ask_homes(self, now_ms: int) -> None:
        core = self._core
        for key, due_ms in list(self._ask_at.items()):
            if due_ms > now_ms:
                continue
            node, order_no, leg_no = key
            leg = core.state.node(node).foreign.get((order_no, leg_no))
            if leg is None or leg.resolved:
                del self._ask_at[key]
                continue
            corr = core.send(leg.home, ResolveTxn(leg.txn, leg.slot, order_no))
            self._ask_corr[corr] = key
            self._ask_at[key] = now_ms + RESOLVE_AFTER_MS

    def _told(self, key: tuple[int, int, int], verdict: str) -> None:
        """Home's answer about a leg: committed = keep it until driven, aborted = free it."""
        core = self._core
        node, order_no, leg_no = key
        leg = core.state.node(node).foreign.get((order_no, leg_no))
        if leg is None or leg.resolved or verdict == "pending":
            return
        self._ask_at.pop(key, None)
        if verdict == "aborted":
            self._put_drive(core.batch(core.state.time_ms), node, order_no, leg_no, LegState.CANCELLED, (), (), "none")
            core.count("legs_freed")
