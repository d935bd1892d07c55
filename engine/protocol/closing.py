"""Orders that are at their end leave the shard's memory, once the index has them: journaled as `OrdersClosed`, a bounded number a batch.

C1  An order is closed no sooner than `close_after_ms` after it came to its end, and never before its last record is in the index.
C2  Only what can never change again: every leg shipped to the end, cancelled or rejected, nothing owed to another shard, nothing waiting.
C3  Its idempotency keys stay for their own time; what they made is then answered from the index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.domain.events import OrdersClosed
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
        self._indexed_seq = -1
        """-1 = no archive was ever heard of: nothing leaves."""
        self._indexed_ms = 0
        self._closed_at_seq = -1
        """Entry that took closed orders last: each takes a bounded number."""

    def changed(self, slot: str, order_no: int, record: OrderRecord, time_ms: int) -> None:
        """A record was put, at an entry's time."""
        if is_at_end(record):
            self.ended(slot, order_no, time_ms)

    def ended(self, slot: str, order_no: int, time_ms: int) -> None:
        """An order is at its end, since an entry's time at the latest."""
        self._queue.push(time_ms + self._after_ms, slot, order_no)

    def indexed(self, seq: int, time_ms: int) -> None:
        """The index holds every entry up to `seq`, the newest of them of `time_ms`."""
        self._indexed_seq, self._indexed_ms = seq, time_ms

    def wake_at_ms(self, now_ms: int) -> int | None:
        """When the next order may be due. None also where the index must get further first: its news wake the shard."""
        due_ms = self._queue.next_ms() if self._indexed_seq >= 0 and self._core.idle else None
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
        if self._indexed_seq < 0 or not len(self._queue) or core.building_seq == self._closed_at_seq:
            return
        until_ms = min(core.time_ms(now_ms), self._limit_ms())
        by_slot: dict[str, list[int]] = {}
        for _ in range(CLOSED_PER_BATCH):
            entry = self._queue.pop_due(until_ms)
            if entry is None:
                break
            _, slot, order_no = entry
            record = core.state.order(slot, order_no)
            if record is not None and is_at_end(record) and core.two_phase.pending_of(order_no) is None:
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
