"""The second phase at home: bring legs at other shards to what the order's record says, until they acknowledge (T4).

D1  A drive leaves only after the entry that decided it is durable.
D2  A drive says the whole target with the version of the record, so that it may be repeated, lost, or overtaken by a newer one.
D3  Which legs are not acknowledged is in the record (`driving`): after a recovery they are driven again. That one was
    acknowledged is journaled with the next entry, at the latest ACK_WAIT_MS later: alone it would cost as much as an order.
D4  `settled` says, by shard, up to which own entry everything that other shards were to do is done, and by which entry of theirs.
    A newer target that replaces one counts from the older's entry. What was taken up after a recovery counts from the beginning, so
    that nothing is settled before it. Not known of an order whose home was another shard then.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

from engine.domain.commands import DriveLeg, ResolveTxn
from engine.domain.decide_legs import drive_target
from engine.domain.events import DriveAcked
from engine.domain.orders import LegRecord, LegState, OrderRecord, is_at_end
from engine.domain.replies import Done, Problem, Reply
from engine.domain.state import leg_key
from engine.protocol.tokens import parse_token

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

DRIVE_AGAIN_MS = 1_000
ACK_WAIT_MS = 50
UNSETTLED_SPARE = 1_000


class _Drive:
    __slots__ = ("after_seq", "command", "node", "since_seq")

    def __init__(self, after_seq: int, since_seq: int, node: int, command: DriveLeg) -> None:
        self.after_seq = after_seq
        self.since_seq = since_seq
        """Oldest entry whose change of the leg is not acknowledged; 0 = the other shard knows no such leg: nothing to wait for."""
        self.node = node
        self.command = command


class Driver:
    """Drives that are not acknowledged, by leg; the newest target of a leg replaces the one before."""

    def __init__(self, core: ShardCore) -> None:
        self._core = core
        self._drives: dict[int, _Drive] = {}
        self._new: deque[tuple[int, int]] = deque()
        """(entry that must be durable first, leg key), entries ascending."""
        self._again: list[tuple[int, int]] = []
        """(due_ms, leg key), a heap."""
        self._by_corr: dict[int, DriveLeg] = {}
        self._acked: list[DriveLeg] = []
        """Acknowledged, which the journal does not say yet."""
        self._acked_due_ms = 0
        self._unsettled: dict[int, deque[tuple[int, int]]] = {}
        """By shard: (since_seq, leg key) ascending; entries that `_drives` does not confirm are out of date."""
        self._owner: list[int] = core.catalog.owner
        """Owners of nodes that `_unsettled` is by."""
        self._points: dict[int, tuple[int, int]] = {}
        """By shard: newest (epoch, entry) that an acknowledgement named."""
        self.acknowledged = 0
        """Goes up with everything that changes what `settled` says apart from new entries."""

    @property
    def count(self) -> int:
        return len(self._drives)

    def drive(self, after_seq: int, slot: str, order_no: int, record: OrderRecord, *, since_seq: int = 0) -> None:
        """Drive every leg of an order that other shards have not acknowledged, since an older entry where one is given."""
        for leg in record.legs:
            if leg.driving:
                self._put(after_seq, slot, order_no, record, leg, since_seq)

    def _put(
        self, after_seq: int, slot: str, order_no: int, record: OrderRecord, leg: LegRecord, since_seq: int = 0
    ) -> None:
        target = drive_target(record, leg)
        command = DriveLeg(
            self._core.shard,
            leg.txn,
            slot,
            order_no,
            leg.leg_no,
            target.to,
            target.lines,
            record.version,
            target.shipped,
            target.written_off,
            target.emptied,
            leg.node,
        )
        key = leg_key(order_no, leg.leg_no)
        old = self._drives.get(key)
        since = old.since_seq if old is not None and old.since_seq else since_seq or after_seq
        self._drives[key] = _Drive(after_seq, since, leg.node, command)
        self._new.append((after_seq, key))
        if old is None or old.since_seq != since:
            queue = self._unsettled.setdefault(self._core.catalog.owner[leg.node], deque())
            queue.append((since, key))
            if len(queue) > UNSETTLED_SPARE + 2 * len(
                self._drives
            ):  # one leg is stuck, and others came and went behind it
                self._sort_unsettled()

    def _sort_unsettled(self) -> None:
        """By owner as it is, without what is out of date."""
        owner = self._owner = self._core.catalog.owner
        self._unsettled.clear()
        for since, key in sorted((drive.since_seq, key) for key, drive in self._drives.items() if drive.since_seq):
            self._unsettled.setdefault(owner[self._drives[key].node], deque()).append((since, key))

    def _oldest(self, shard: int) -> int:
        """Oldest own entry that a shard has not settled; 0 = none."""
        waiting = self._unsettled.get(shard)
        while waiting:
            since, key = waiting[0]
            drive = self._drives.get(key)
            if drive is not None and drive.since_seq == since:
                return since
            waiting.popleft()
        return 0

    def settled(self, seq: int) -> tuple[tuple[int, int, int, int], ...]:
        """D4: (shard, newest own entry up to `seq` that it has settled, epoch and entry of its own by which it had); 0 = none.
        Shards that were never driven are left out: there is nothing to wait for."""
        if self._core.catalog.owner is not self._owner:
            self._sort_unsettled()
        found = []
        for shard in sorted(self._points.keys() | self._unsettled.keys()):
            oldest = self._oldest(shard)
            found.append((shard, min(seq, oldest - 1) if oldest else seq, *self._points.get(shard, (0, 0))))
        return tuple(found)

    def point(self, shard: int) -> tuple[int, int]:
        """(epoch, entry) of another shard by which it had done everything that it acknowledged; (0, 0) = nothing yet."""
        return self._points.get(shard, (0, 0))

    def drive_again(self, question: ResolveTxn, record: OrderRecord) -> None:
        """A shard asks about a transaction that was committed: tell it again where its legs are to be."""
        core = self._core
        for leg in record.legs:
            if (
                leg.txn == question.txn
                and leg.state != LegState.HELD
                and core.catalog.owner[leg.node] == question.shard
            ):
                self._put(core.state.seq, question.slot, question.order_no, record, leg)

    def forget(self, order_no: int, leg_no: int) -> None:
        """The order's home is about to be another shard, which drives it on."""
        self._drives.pop(leg_key(order_no, leg_no), None)
        self.acknowledged += 1

    def recovered(self, driving: list[tuple[str, int]]) -> None:
        """After replay: take up every drive that was not acknowledged (D3)."""
        core = self._core
        for slot, order_no in driving:
            record = core.state.order(slot, order_no)
            assert record is not None
            self.drive(core.durable_seq, slot, order_no, record, since_seq=1)

    def tick(self, now_ms: int) -> None:
        """Send what has become durable, and again what was not acknowledged in time."""
        durable = self._core.durable_seq
        new, again = self._new, self._again
        while new and new[0][0] <= durable:
            self._send(new.popleft()[1], now_ms)
        while again and again[0][0] <= now_ms:
            self._send(heapq.heappop(again)[1], now_ms)

    def _send(self, key: int, now_ms: int) -> None:
        core = self._core
        drive = self._drives.get(key)
        if drive is None or drive.after_seq > core.durable_seq:
            return  # acknowledged, or a newer one waits for its own entry
        corr = core.send(core.catalog.owner[drive.node], drive.command)
        self._by_corr[corr] = drive.command
        heapq.heappush(self._again, (now_ms + DRIVE_AGAIN_MS, key))

    def wake_at_ms(self) -> int | None:
        while self._again and self._again[0][1] not in self._drives:
            heapq.heappop(self._again)
        times = [self._again[0][0]] if self._again else []
        if self._acked:
            times.append(self._acked_due_ms)
        return min(times, default=None)

    def replied(self, corr: int, reply: Reply, now_ms: int) -> bool:
        """An answer to a drive; False = the correlation id is none of ours."""
        command = self._by_corr.pop(corr, None)
        if command is None:
            return False
        key = leg_key(command.order_no, command.leg_no)
        drive = self._drives.get(key)
        if drive is None or drive.command is not command:
            return True  # a newer target replaced it
        core = self._core
        if not isinstance(reply, Done):
            core.count("drives_refused")
            if isinstance(reply, Problem) and reply.code == "not_found":
                drive.since_seq = 0
                self.acknowledged += 1
            return True
        del self._drives[key]
        self.acknowledged += 1
        for shard, point in (parse_token(reply.token) or {}).items():
            self._points[shard] = max(point, self._points.get(shard, point))
            self._oldest(shard)  # forgets what is out of date
        if not self._acked:
            self._acked_due_ms = now_ms + ACK_WAIT_MS
        self._acked.append(command)
        return True

    def journal_acked(self, now_ms: int, *, in_company: bool) -> None:
        """D3: put what was acknowledged into an entry that is made anyway (`in_company`), or because it has waited."""
        if not self._acked or not (in_company or now_ms >= self._acked_due_ms):
            return
        core = self._core
        acked, self._acked = self._acked, []
        for command in acked:
            slot, order_no, leg_no = command.slot, command.order_no, command.leg_no
            record = core.state.order(slot, order_no)
            if record is None or leg_key(order_no, leg_no) in self._drives:
                continue  # its home is another shard now, which drives it again; or it has a newer target
            if any(leg.leg_no == leg_no and leg.driving for leg in record.legs):
                batch = core.batch(now_ms)
                core.put(batch, DriveAcked(slot, order_no, (leg_no,)))
                after = core.state.order(slot, order_no)
                assert after is not None
                if is_at_end(after):
                    core.closing.ended(slot, order_no, batch.time_ms)
