"""The other side of transactions: a shard that holds legs at its nodes for orders whose home is another shard.

R1  A TRY holds all of its legs here or none, in one entry, and is answered when that is durable.
R2  A newer transaction of a leg replaces an older one that never committed; an older one is refused.
R3  A drive is acknowledged when durable; a repeat or an older version changes nothing. A leg only ever shrinks.
R4  A leg that home has not spoken about is asked about until it has (T5); units stay held meanwhile: undersold, never oversold.
    Any other leg is asked about once an hour and after a recovery: home drives it again to where it is to be.
R5  A transaction that was cancelled or finished here leaves a tombstone in memory, so that a late TRY of it holds nothing.
    (Lost with the process: then R4 frees it.)
R6  A TRY may replace held or allocated legs of its order. What they have at the new legs' positions is not held a second time: it
    stays with the old leg and is noted in the new one. When home drives the new leg on, or ends the old one, it is shifted to
    the new one in the same entry, so that nobody else can get it in between. If the new leg is cancelled, the old one was never
    touched. An old leg has one taker; a newer transaction's TRY ends the taker before (T7). Once a drive of the new leg has
    shifted units away, older drives of the old leg, still on their way, say nothing any more.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

from engine.domain.commands import DriveLeg, ResolveTxn, TryLegs
from engine.domain.decide_legs import capacity_left
from engine.domain.decide_orders import refuse
from engine.domain.errors import InvariantBreach
from engine.domain.events import LegDriven, LegHeld, LegShifted
from engine.domain.orders import LegState
from engine.domain.replies import Done, Reply, TryReply, TxnState
from engine.domain.state import ForeignLeg, leg_key
from engine.protocol.hold_caps import over_share

if TYPE_CHECKING:
    from engine.protocol.shard_core import Batch, ShardCore

RESOLVE_AFTER_MS = 3_000
ASK_AGAIN_MS = 3_600_000
TOMBSTONE_MS = 60_000
TOMBSTONES_MAX = 10_000
_Pairs = tuple[tuple[int, int], ...]


class _NewLeg(NamedTuple):
    """A leg to hold, without what it takes over (R6)."""

    leg_no: int
    node: int
    day: int
    capacity_units: int
    lines: _Pairs
    takes: tuple[tuple[int, int, int], ...] = ()
    takes_capacity: _Pairs = ()


class Participant:
    """Legs held for other homes."""

    def __init__(self, core: ShardCore) -> None:
        self._core = core
        self._asks: list[tuple[int, int]] = []
        """(due_ms, leg key), a heap; entries that `_ask_at` does not confirm are out of date."""
        self._ask_at: dict[int, int] = {}
        """When to ask home about each leg held here."""
        self._by_corr: dict[int, tuple[int, int]] = {}
        """(leg key, transaction) by correlation id of a question."""
        self._takers: dict[int, int] = {}
        """Leg number of the new leg that takes over units of a held one, by the held one's key (R6). Derived."""
        self._tombs: dict[tuple[int, int], int] = {}
        """Until when a cancelled (home, txn) that was not held here is remembered, oldest first."""

    def recovered(self, now_ms: int) -> None:
        """Ask about every leg: what was driven while this shard was away, and what no longer should be here."""
        state = self._core.state
        for key, node in state.foreign_node.items():
            self._ask(key, now_ms)
            self._note_takes(state.nodes[node].foreign[key])

    def took_over(self, order_no: int, leg_no: int, now_ms: int) -> None:
        """A leg is held here from now on, by a move or because it was parted from its record."""
        key = leg_key(order_no, leg_no)
        leg = self._leg(key)
        assert leg is not None, "a leg that is taken over is here"
        self._note_takes(leg)
        self._ask(key, now_ms + (ASK_AGAIN_MS if leg.resolved else RESOLVE_AFTER_MS))

    def free_stale(self, order_no: int, leg_no: int, node: int, now_ms: int) -> None:
        """Free a leg of an earlier transaction at a node: a newer one, or the record, has a leg of that number elsewhere here (T7).

        Home gave it up when it began the newer one; the node came here before the shard it was at was told.
        """
        core = self._core
        leg = core.state.nodes[node].foreign[leg_key(order_no, leg_no)]
        command = _cancel(leg)
        self._drive(core.batch(now_ms), node, leg, command)
        self._bury(command.home, command.txn, now_ms)
        core.count("legs_freed")

    def _ask(self, key: int, at_ms: int) -> None:
        self._ask_at[key] = at_ms
        heapq.heappush(self._asks, (at_ms, key))

    # -- try ------------------------------------------------------------------------------------------------------

    def hold(self, conn: int, corr: int, command: TryLegs, now_ms: int) -> None:
        """R1, R2, R5, R6."""
        core = self._core
        state, catalog = core.state, core.catalog
        if (command.home, command.txn) in self._tombs:
            core.answer(conn, corr, TryReply(False))
            return
        fresh = []
        replaced: list[tuple[int, ForeignLeg]] = []
        for leg in command.legs:
            leg_no, node = leg[0], leg[1]
            if not catalog.owns_node(node):
                problem = refuse("moved", "", f"node {catalog.node_id(node)} belongs to another shard")
                core.moves.turn_away(conn, corr, command, problem, node=node)
                return
            found = state.foreign_leg(command.order_no, leg_no)
            if found is None:
                fresh.append(leg)
            elif found[1].txn < command.txn and not found[1].resolved:
                replaced.append(found)
                fresh.append(leg)
            elif found[1].txn != command.txn:
                core.answer(conn, corr, TryReply(False))
                return
        for leg_no in command.replaces if fresh else ():
            taker = self._takers.get(leg_key(command.order_no, leg_no))
            found = state.foreign_leg(command.order_no, taker) if taker is not None else None
            if found is None or found in replaced:
                continue
            if found[1].txn > command.txn:
                core.answer(conn, corr, TryReply(False))
                return
            if found[1].txn < command.txn:
                replaced.append(found)
        for node, old in replaced:
            self._drive(core.batch(now_ms), node, old, _cancel(old))
        legs = self._without_taken(command, fresh)
        with core.demand.kept_before(command.place, [item for leg in legs for item, _ in leg.lines]):
            self._hold_all(conn, corr, command, legs, now_ms)

    def _hold_all(self, conn: int, corr: int, command: TryLegs, legs: list[_NewLeg], now_ms: int) -> None:
        """R1: each leg, or none."""
        core = self._core
        short, full = self._lacks(command, legs)
        if short or full:
            # These numbers are of this moment, and for one order: home is told what everybody sees.
            for item, node, _ in short:
                core.views.show(item << 32 | node)
            core.answer(conn, corr, TryReply(False, short, full, core.token()))
            return
        if command.hold_share_bp and legs:
            need: dict[tuple[int, int], int] = {}
            for new in legs:
                for item, units in new.lines:
                    need[(item, new.node)] = need.get((item, new.node), 0) + units
            over = over_share(core, need, command.hold_share_bp)
            if over:
                core.answer(conn, corr, TryReply(False, (), (), core.token(), over))
                return
        batch = core.batch(now_ms)
        for held in legs:
            core.put(batch, LegHeld(command.home, command.txn, command.slot, command.order_no, *held))
            key = leg_key(command.order_no, held.leg_no)
            self._note_takes(core.state.nodes[held.node].foreign[key])
            self._ask(key, now_ms + RESOLVE_AFTER_MS)
        core.answer(conn, corr, TryReply(True, token=core.token()))

    def _without_taken(self, command: TryLegs, fresh: list[tuple[int, int, int, int, _Pairs]]) -> list[_NewLeg]:
        """The legs to hold, less what older legs of the order already hold at their positions (R6)."""
        state, nodes = self._core.state, self._core.catalog.nodes
        old_legs: dict[int, ForeignLeg] = {}
        for leg_no in command.replaces:
            found = state.foreign_leg(command.order_no, leg_no)
            if found is not None:
                document = nodes[found[0]]
                if document is not None and document.state == "on":
                    old_legs[leg_no] = found[1]
        legs = []
        for leg_no, node, day, capacity, lines in fresh:
            need, room = dict(lines), capacity
            takes: list[tuple[int, int, int]] = []
            takes_capacity: list[tuple[int, int]] = []
            for old_no, old in list(old_legs.items()):
                if state.foreign_node[leg_key(command.order_no, old_no)] != node:
                    continue
                del old_legs[old_no]
                for item, have in old.lines:
                    units = min(have, need.get(item, 0))
                    if units:
                        takes.append((old_no, item, units))
                        need[item] -= units
                spare = min(room, old.capacity_units) if old.ship_day == day else 0
                if spare:
                    takes_capacity.append((old_no, spare))
                    room -= spare
            rest = tuple([(item, units) for item, units in need.items() if units])
            legs.append(_NewLeg(leg_no, node, day, room, rest, tuple(takes), tuple(takes_capacity)))
        return legs

    def _note_takes(self, leg: ForeignLeg) -> None:
        for old_no, *_ in (*leg.takes, *leg.takes_capacity):
            self._takers[leg_key(leg.order_no, old_no)] = leg.leg_no

    def _forget_takes(self, leg: ForeignLeg) -> None:
        for old_no, *_ in (*leg.takes, *leg.takes_capacity):
            key = leg_key(leg.order_no, old_no)
            if self._takers.get(key) == leg.leg_no:
                del self._takers[key]

    def _shift(self, batch: Batch, node: int, old: ForeignLeg, new: ForeignLeg, version: int = 0) -> None:
        """Hand over what `new` takes of `old` (R6); version = of the home record that says so by a drive of `new`."""
        have = dict(old.lines)
        taken = [(item, min(units, have.get(item, 0))) for old_no, item, units in new.takes if old_no == old.leg_no]
        lines = tuple([(item, units) for item, units in taken if units])
        capacity = sum(units for old_no, units in new.takes_capacity if old_no == old.leg_no)
        stock: list[int] = []
        if old.state != LegState.HELD:
            for item, units in lines:
                stock += (node, item, 0, units, -units)
        self._core.put(
            batch,
            LegShifted(
                old.order_no,
                node,
                old.leg_no,
                new.leg_no,
                lines,
                min(capacity, old.capacity_units),
                tuple(stock),
                version,
            ),
        )
        self._takers.pop(leg_key(old.order_no, old.leg_no), None)

    def _lacks(
        self, command: TryLegs, legs: list[_NewLeg]
    ) -> tuple[tuple[tuple[int, int, int], ...], tuple[tuple[int, int, int], ...]]:
        """Positions that fall short, (item, node, units free), and days that are full, (node, day, used)."""
        core = self._core
        state, catalog = core.state, core.catalog
        spare = {(node, item): units for node, item, units in command.spare}
        need: dict[tuple[int, int], int] = {}
        room: dict[tuple[int, int], int] = {}
        for _, node, day, capacity, lines, *_ in legs:
            room[(node, day)] = room.get((node, day), 0) + capacity
            for item, units in lines:
                need[(item, node)] = need.get((item, node), 0) + units
        short = []
        for (item, node), units in need.items():
            document = catalog.nodes[node]
            row = state.positions.find(item, node)
            free = state.positions.free(row) if row >= 0 else 0
            if document is None or document.state != "on":
                free = 0
            if free - spare.get((node, item), 0) < units:
                short.append(
                    (item, node, free)
                )  # home keeps back what its method must leave, as it does of every number
        full = []
        for (node, day), units in room.items():
            document = catalog.nodes[node]
            limit = document.capacity if document else None
            used = state.capacity.get(node, day)
            if units and limit is not None and limit.hard and used + units > limit.per_day:
                full.append((node, day, used))
        return tuple(short), tuple(full)

    # -- drive ----------------------------------------------------------------------------------------------------

    def drive(self, conn: int, corr: int, command: DriveLeg, now_ms: int) -> None:
        """R3."""
        core = self._core
        if command.node >= 0 and not core.catalog.owns_node(command.node):
            core.answer(conn, corr, refuse("moved", "", "the leg's node belongs to another shard"))
            return
        found = core.state.foreign_leg(command.order_no, command.leg_no)
        if found is not None and found[1].txn == command.txn:
            node, leg = found
            if not leg.resolved or command.version > leg.version:
                batch = core.batch(now_ms)
                if command.lines:
                    for old_no in dict.fromkeys(old_no for old_no, *_ in (*leg.takes, *leg.takes_capacity)):
                        old = core.state.foreign_leg(leg.order_no, old_no)
                        if old is not None:
                            self._shift(batch, node, old[1], leg, command.version - 1)
                self._drive(batch, node, leg, command)
                self._driven(command, now_ms)
            core.answer(conn, corr, Done(1, core.token()))
        elif command.lines:
            core.count("drives_without_leg")
            core.answer(conn, corr, refuse("not_found", "", "no such leg is held here"))
        else:
            self._bury(command.home, command.txn, now_ms)
            core.answer(conn, corr, Done(0, core.token()))

    def _driven(self, command: DriveLeg, now_ms: int) -> None:
        key = leg_key(command.order_no, command.leg_no)
        if command.lines:
            self._ask(key, now_ms + ASK_AGAIN_MS)
        else:
            self._ask_at.pop(key, None)
            self._bury(command.home, command.txn, now_ms)

    def _bury(self, home: int, txn: int, now_ms: int) -> None:
        tombs = self._tombs
        tombs[(home, txn)] = now_ms + TOMBSTONE_MS
        while tombs:
            first = next(iter(tombs))
            if tombs[first] > now_ms and len(tombs) <= TOMBSTONES_MAX:
                break
            del tombs[first]

    def _drive(self, batch: Batch, node: int, leg: ForeignLeg, command: DriveLeg) -> None:
        """The event that moves a leg held here to a target, as explicit changes of stock and capacity."""
        core = self._core
        held, to = leg.state == LegState.HELD, command.to
        ends = not command.lines and (command.shipped, command.written_off, command.emptied) == (
            leg.shipped,
            leg.written_off,
            leg.emptied,
        )  # a leg that is rejected or has left gives nothing away
        taker = self._takers.get(leg_key(leg.order_no, leg.leg_no)) if ends else None
        found = core.state.foreign_leg(leg.order_no, taker) if taker is not None else None
        if found is not None:
            self._shift(batch, node, leg, found[1])
        self._forget_takes(leg)
        old, new = dict(leg.lines), dict(command.lines)
        old_shipped, shipped = dict(leg.shipped), dict(command.shipped)
        old_written, written = dict(leg.written_off), dict(command.written_off)
        stock: list[int] = []
        for item in sorted({**old, **new, **shipped, **written}):
            was, stays = old.get(item, 0), new.get(item, 0)
            leaves = shipped.get(item, 0) - old_shipped.get(item, 0)
            lost = written.get(item, 0) - old_written.get(item, 0)
            if leaves < 0 or lost < 0 or was - stays - leaves - lost < 0:
                raise InvariantBreach(f"R3: leg {leg.leg_no} of order {leg.order_no} grew: {leg} to {command}")
            if held:
                d_held, d_allocated = (stays if to == LegState.HELD else 0) - was, 0 if to == LegState.HELD else stays
            else:
                d_held, d_allocated = 0, stays - was
            d_on_hand = -leaves - lost
            if item in command.emptied and item not in leg.emptied:
                positions = core.state.positions
                row = positions.find(item, node)
                promised = positions.v_held[row] + d_held + positions.v_allocated[row] + d_allocated
                d_on_hand -= max(0, positions.v_on_hand[row] + d_on_hand - promised)
            if d_on_hand or d_held or d_allocated:
                stock += (node, item, d_on_hand, d_held, d_allocated)
        before = (sum(old.values()) + sum(old_shipped.values()), len({**old, **old_shipped}))
        after = (sum(new.values()) + sum(shipped.values()), len({**new, **shipped}))
        left = capacity_left(leg.capacity_units, before, after)
        capacity = (node, leg.ship_day, left - leg.capacity_units) if left != leg.capacity_units else ()
        core.put(
            batch,
            LegDriven(
                leg.slot,
                leg.order_no,
                leg.leg_no,
                node,
                to,
                command.lines,
                tuple(stock),
                capacity,
                command.shipped,
                left,
                command.version,
                command.written_off,
                command.emptied,
            ),
        )

    # -- asking home ----------------------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """R4."""
        core = self._core
        while self._asks and self._asks[0][0] <= now_ms:
            due_ms, key = heapq.heappop(self._asks)
            if self._ask_at.get(key) != due_ms:
                continue
            leg = self._leg(key)
            if leg is None:
                del self._ask_at[key]
                continue
            home = core.catalog.owner_of_slot(leg.slot)  # not `leg.home`: the slot may have moved since
            corr = core.send(home, ResolveTxn(leg.txn, leg.slot, leg.order_no, core.shard))
            self._by_corr[corr] = (key, leg.txn)
            self._ask(key, now_ms + RESOLVE_AFTER_MS)

    def _leg(self, key: int) -> ForeignLeg | None:
        state = self._core.state
        node = state.foreign_node.get(key)
        return state.nodes[node].foreign[key] if node is not None else None

    def wake_at_ms(self) -> int | None:
        asks = self._asks
        while asks and self._ask_at.get(asks[0][1]) != asks[0][0]:
            heapq.heappop(asks)
        return asks[0][0] if asks else None

    def replied(self, corr: int, reply: Reply, now_ms: int) -> bool:
        """Home's answer about a leg; False = the correlation id is none of ours."""
        asked = self._by_corr.pop(corr, None)
        if asked is None:
            return False
        key, txn = asked
        leg = self._leg(key)
        if leg is None or leg.txn != txn or not isinstance(reply, TxnState):
            return True  # a newer transaction holds it by now: the answer is not about that one
        core = self._core
        if reply.state == "committed":
            self._ask(key, now_ms + ASK_AGAIN_MS)
        elif reply.state == "aborted" and leg.resolved:
            core.count(
                "legs_disowned"
            )  # home decided about it once and knows nothing of it now: for a person to look at
            self._ask(key, now_ms + ASK_AGAIN_MS)
        elif reply.state == "aborted":
            node = core.state.foreign_node[key]
            command = _cancel(leg)
            self._drive(core.batch(now_ms), node, leg, command)
            self._driven(command, now_ms)
            core.count("legs_freed")
        return True


def _cancel(leg: ForeignLeg) -> DriveLeg:
    return DriveLeg(leg.home, leg.txn, leg.slot, leg.order_no, leg.leg_no, LegState.CANCELLED, ())
