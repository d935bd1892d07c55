"""Orders that are at their end leave the shard's memory, once the index has them: journaled as `OrdersClosed`, a bounded number a batch.

C1  An order is closed no sooner than `close_after_ms` after it came to its end, and never before its last record is in the index.
C2  Only what can never change again: every leg shipped to the end, cancelled or rejected, nothing owed to another shard, nothing waiting.
C3  Its idempotency keys stay for their own time; what they made is then answered from the index.
C4  What this process journaled gets into the index: nothing is trimmed that is not archived. Of what was journaled before, or elsewhere,
    that is certain only while the index is whole. Else the record is journaled again, and the order leaves once the index has that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.domain.events import Cause, OrderPut, OrdersClosed
from engine.domain.orders import OrderRecord, OrderState, is_at_end
from engine.protocol.expiry import ExpiryQueue

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

CLOSED_PER_BATCH = 128


class Closing:
    """What is to leave, and when."""

    def __init__(self, core: ShardCore, close_after_ms: int) -> None:
        self._core = core
        self._after_ms = close_after_ms
        self._queue = ExpiryQueue()
        """Orders whose last record this process journaled (C4)."""
        self._older = ExpiryQueue()
        """All others."""
        self._indexed_seq = -1
        """-1 = no archive was ever heard of: nothing leaves."""
        self._indexed_ms = 0
        self._index_is_whole = False
        self._closed_at_seq = -1
        """Entry that took closed orders last: each takes a bounded number."""

    def changed(self, slot: str, order_no: int, record: OrderRecord, time_ms: int) -> None:
        """A record was put, at an entry's time."""
        if is_at_end(record):
            self._queue.push(time_ms + self._after_ms, slot, order_no)

    def ended(self, slot: str, order_no: int, time_ms: int) -> None:
        """An order is at its end, since an entry's time at the latest; its record was put some time before."""
        self._older.push(time_ms + self._after_ms, slot, order_no)

    def indexed(self, seq: int, time_ms: int, *, is_whole: bool) -> None:
        """The index holds what the archive has up to `seq`, the newest of it of `time_ms`; whole = that is all there ever was."""
        self._indexed_seq, self._indexed_ms, self._index_is_whole = seq, time_ms, is_whole

    def wake_at_ms(self, now_ms: int) -> int | None:
        """When the next order may be due. None also where the index must get further first: its news wake the shard."""
        if self._indexed_seq < 0 or not self._core.idle:
            return None
        times = (self._queue.next_ms(), self._older.next_ms())
        due_ms = min((time for time in times if time is not None), default=None)
        return max(due_ms, now_ms + 1) if due_ms is not None and due_ms <= self._limit_ms() else None

    def _limit_ms(self) -> int:
        """C1: due times up to here are of orders whose last record is in the index."""
        state = self._core.state
        if self._indexed_seq >= state.seq:
            return state.time_ms + self._after_ms
        return self._indexed_ms - 1 + self._after_ms

    def tick(self, now_ms: int) -> None:
        """Close what is due, into the entry being built or one of its own."""
        core = self._core
        if self._indexed_seq < 0 or core.building_seq == self._closed_at_seq:
            return
        if not (len(self._queue) or len(self._older)):
            return
        until_ms = min(core.time_ms(now_ms), self._limit_ms())
        self._close(self._due(self._queue, until_ms), now_ms)
        if self._index_is_whole:
            self._close(self._due(self._older, until_ms), now_ms)
        else:
            self._put_again(self._due(self._older, until_ms), now_ms)

    def _due(self, queue: ExpiryQueue, until_ms: int) -> Iterator[tuple[str, int]]:
        """Orders of a queue that are due and at their end, a bounded number."""
        core = self._core
        for _ in range(CLOSED_PER_BATCH):
            entry = queue.pop_due(until_ms)
            if entry is None:
                return
            _, slot, order_no = entry
            record = core.state.order(slot, order_no)
            if record is not None and is_at_end(record) and core.two_phase.pending_of(order_no) is None:
                yield slot, order_no

    def _close(self, due: Iterator[tuple[str, int]], now_ms: int) -> None:
        core = self._core
        by_slot: dict[str, list[int]] = {}
        for slot, order_no in due:
            numbers = by_slot.setdefault(slot, [])
            if order_no not in numbers:
                numbers.append(order_no)
        if not by_slot:
            return
        batch = core.batch(now_ms)
        self._closed_at_seq = batch.seq
        for slot, numbers in by_slot.items():
            for order_no in numbers:
                record = core.state.order(slot, order_no)
                if record is not None and record.state == OrderState.COMMITTED:
                    core.state.open_orders -= 1
                core.count("closed")
            core.put(batch, OrdersClosed(slot, tuple(numbers)))

    def _put_again(self, due: Iterator[tuple[str, int]], now_ms: int) -> None:
        """C4."""
        core = self._core
        for slot, order_no in due:
            batch = core.batch(now_ms)
            self._closed_at_seq = batch.seq
            core.put(batch, OrderPut(Cause.REPEATED, slot, order_no, core.state.slots[slot].orders[order_no]))
            self._queue.push(batch.time_ms + self._after_ms, slot, order_no)
            if not core.has_room():
                return
