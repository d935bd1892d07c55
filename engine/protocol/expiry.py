"""When holds end: near ones in a heap, far ones in arrays by second, 20 bytes a hold instead of 150."""

from __future__ import annotations

import heapq
from array import array

_WIDTH_MS = 1_024


class _Bucket:
    __slots__ = ("order_nos", "slots", "times_ms")

    def __init__(self) -> None:
        self.times_ms = array("q")
        self.order_nos = array("Q")
        self.slots = array("I")


class ExpiryQueue:
    """(expires_at_ms, slot, order number), earliest first. An entry whose hold has ended or moved is dropped by its reader."""

    def __init__(self) -> None:
        self._near: list[tuple[int, int, int]] = []
        """(expires_at_ms, order number, slot number), a heap of everything before `_near_until_ms`."""
        self._near_until_ms = 0
        self._far: dict[int, _Bucket] = {}
        self._far_starts: list[int] = []
        self._slot_no: dict[str, int] = {}
        self._slots: list[str] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, expires_at_ms: int, slot: str, order_no: int) -> None:
        slot_no = self._slot_no.get(slot)
        if slot_no is None:
            slot_no = self._slot_no[slot] = len(self._slots)
            self._slots.append(slot)
        self._count += 1
        if expires_at_ms < self._near_until_ms:
            heapq.heappush(self._near, (expires_at_ms, order_no, slot_no))
            return
        number = expires_at_ms // _WIDTH_MS
        bucket = self._far.get(number)
        if bucket is None:
            bucket = self._far[number] = _Bucket()
            heapq.heappush(self._far_starts, number)
        bucket.times_ms.append(expires_at_ms)
        bucket.order_nos.append(order_no)
        bucket.slots.append(slot_no)

    def next_ms(self) -> int | None:
        """When the earliest hold ends, or a little earlier; None = there is none."""
        if self._near:
            return self._near[0][0]
        return self._far_starts[0] * _WIDTH_MS if self._far_starts else None

    def pop_due(self, now_ms: int) -> tuple[int, str, int] | None:
        """The earliest entry if it is due."""
        while self._far_starts and self._far_starts[0] * _WIDTH_MS <= now_ms:
            number = heapq.heappop(self._far_starts)
            bucket = self._far.pop(number)
            self._near += zip(bucket.times_ms, bucket.order_nos, bucket.slots, strict=True)
            heapq.heapify(self._near)
            self._near_until_ms = max(self._near_until_ms, (number + 1) * _WIDTH_MS)
        if not self._near or self._near[0][0] > now_ms:
            return None
        self._count -= 1
        expires_at_ms, order_no, slot_no = heapq.heappop(self._near)
        return expires_at_ms, self._slots[slot_no], order_no
