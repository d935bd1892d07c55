"""The second phase at home: bring legs at other shards to what the order's record says, until they acknowledge (T4).

D1  A drive leaves only after the entry that decided it is durable.
D2  A drive says the whole target with the version of the record, so that it may be repeated, lost, or overtaken by a newer one.
D3  Which legs are not acknowledged is in the record (`driving`): after a recovery they are driven again.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

from engine.domain.commands import DriveLeg, ResolveTxn
from engine.domain.decide_legs import drive_target
from engine.domain.events import DriveAcked
from engine.domain.orders import LegRecord, LegState, OrderRecord
from engine.domain.replies import Done, Reply
from engine.domain.state import leg_key

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

DRIVE_AGAIN_MS = 1_000


class _Drive:
    __slots__ = ("after_seq", "command", "node")

    def __init__(self, after_seq: int, node: int, command: DriveLeg) -> None:
        self.after_seq = after_seq
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

    @property
    def count(self) -> int:
        return len(self._drives)

    def drive(self, after_seq: int, slot: str, order_no: int, record: OrderRecord) -> None:
        """Drive every leg of an order that other shards have not acknowledged."""
        for leg in record.legs:
            if leg.driving:
                self._put(after_seq, slot, order_no, record, leg)

    def _put(self, after_seq: int, slot: str, order_no: int, record: OrderRecord, leg: LegRecord) -> None:
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
        self._drives[key] = _Drive(after_seq, leg.node, command)
        self._new.append((after_seq, key))

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

    def recovered(self, driving: list[tuple[str, int]]) -> None:
        """After replay: take up every drive that was not acknowledged (D3)."""
        core = self._core
        for slot, order_no in driving:
            record = core.state.order(slot, order_no)
            assert record is not None
            self.drive(core.durable_seq, slot, order_no, record)

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
        return self._again[0][0] if self._again else None

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
            return True
        del self._drives[key]
        record = core.state.order(command.slot, command.order_no)
        assert record is not None
        if any(leg.leg_no == command.leg_no and leg.driving for leg in record.legs):
            batch = core.batch(now_ms)
            core.put(batch, DriveAcked(command.slot, command.order_no, (command.leg_no,)))
            acked = core.state.order(command.slot, command.order_no)
            assert acked is not None
            core.closing.changed(command.slot, command.order_no, acked, batch.time_ms)  # this may have been its end
        return True
