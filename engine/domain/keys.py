"""Idempotency keys and order ids in flat arrays: 40 and 25 bytes an entry, where dicts of integers take 130 and 100.

An open-addressing index of row numbers over columns of 64-bit integers. Rows are in the order of their arrival, so forgetting the
oldest is moving `start`; forgotten rows stay in the index until it is next rebuilt and count as absent.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

_SMALLEST = 32
_GONE = (1 << 64) - 1
"""In place of an order number: forgotten."""


def hash_of(text: str) -> int:
    """64 bits of a text, another number in every process: it is never stored, and nobody can prepare texts that collide."""
    return hash(text) & 0xFFFF_FFFF_FFFF_FFFF


class _Index:
    """Row numbers by 64-bit key. `mask + 1` = size, a power of two, at most 2/3 full."""

    __slots__ = ("index", "keys", "mask", "start")

    def __init__(self) -> None:
        self.keys = array("Q")
        self.start = 0
        self.mask = _SMALLEST - 1
        self.index = array("i", [-1]) * _SMALLEST

    def __len__(self) -> int:
        return len(self.keys) - self.start

    def row(self, key: int) -> int:
        """Row of a key, -1 where it is absent or forgotten."""
        index, keys, mask = self.index, self.keys, self.mask
        at = key & mask
        row = index[at]
        while row >= 0:
            if keys[row] == key and row >= self.start:
                return row
            at = (at + 1) & mask
            row = index[at]
        return -1

    def _claim(self, key: int) -> int:
        """Row of a key, or -1 after making it the newest row; the caller then appends to its own columns."""
        keys = self.keys
        if len(keys) * 3 >= self.mask * 2:
            self._rebuild()
        index, mask = self.index, self.mask
        at = key & mask
        row = index[at]
        while row >= 0:
            if keys[row] == key and row >= self.start:
                return row
            at = (at + 1) & mask
            row = index[at]
        index[at] = len(keys)
        keys.append(key)
        return -1

    def _rebuild(self) -> None:
        """Drop forgotten rows and make room for as many again as there are."""
        self._cut(self.start)
        self.start = 0
        size = _SMALLEST
        while size < len(self.keys) * 3:
            size *= 2
        self.mask = mask = size - 1
        self.index = index = array("i", [-1]) * size
        for row, key in enumerate(self.keys):
            at = key & mask
            while index[at] >= 0:
                at = (at + 1) & mask
            index[at] = row

    def _cut(self, rows: int) -> None:
        del self.keys[:rows]


class KeyTable(_Index):
    """Idempotency keys: key hash -> fingerprint, order number, journal time (ms), oldest first."""

    __slots__ = ("fingerprints", "order_nos", "times_ms")

    def __init__(self) -> None:
        super().__init__()
        self.fingerprints = array("Q")
        self.order_nos = array("Q")
        self.times_ms = array("Q")

    def get(self, key: int) -> tuple[int, int, int] | None:
        """(fingerprint, order number, journal time in ms) of a key."""
        row = self.row(key)
        return (self.fingerprints[row], self.order_nos[row], self.times_ms[row]) if row >= 0 else None

    def put(self, key: int, fingerprint: int, order_no: int, time_ms: int) -> bool:
        """Remember a key; True where it was not there before."""
        row = self._claim(key)
        if row >= 0:
            self.fingerprints[row], self.order_nos[row], self.times_ms[row] = fingerprint, order_no, time_ms
            return False
        self.fingerprints.append(fingerprint)
        self.order_nos.append(order_no)
        self.times_ms.append(time_ms)
        return True

    def forget(self, before_ms: int, *, limit: int) -> int:
        """Forget at most `limit` of the oldest keys that are older than an instant; returns how many."""
        start, times_ms = self.start, self.times_ms
        if start == len(times_ms) or times_ms[start] >= before_ms:
            return 0
        end = min(len(times_ms), start + limit)
        while start < end and times_ms[start] < before_ms:
            start += 1
        forgotten = start - self.start
        self.start = start
        return forgotten

    def rows(self) -> Iterator[tuple[int, int, int, int]]:
        """(key, fingerprint, order number, journal time), oldest first."""
        start = self.start
        return zip(
            self.keys[start:], self.fingerprints[start:], self.order_nos[start:], self.times_ms[start:], strict=True
        )

    def _cut(self, rows: int) -> None:
        super()._cut(rows)
        del self.fingerprints[:rows], self.order_nos[:rows], self.times_ms[:rows]


class IdTable(_Index):
    """Newest order number by the hash of the caller's order id; the record says whether it is really that id."""

    __slots__ = ("order_nos",)

    def __init__(self) -> None:
        super().__init__()
        self.order_nos = array("Q")

    @classmethod
    def of(cls, order_nos: dict[int, int]) -> IdTable:
        """A table of many at once: order number by hash."""
        table = cls()
        table.keys, table.order_nos = array("Q", order_nos), array("Q", order_nos.values())
        _Index._rebuild(table)
        return table

    def get(self, key: int) -> int | None:
        row = self.row(key)
        found = self.order_nos[row] if row >= 0 else _GONE
        return found if found != _GONE else None

    def put(self, key: int, order_no: int) -> None:
        row = self._claim(key)
        if row >= 0:
            self.order_nos[row] = order_no
            return
        self.order_nos.append(order_no)

    def discard(self, key: int, order_no: int) -> None:
        """Forget an order number, unless a newer one has taken its key. Its room is taken again when the table next grows."""
        row = self.row(key)
        if row >= 0 and self.order_nos[row] == order_no:
            self.order_nos[row] = _GONE

    def _rebuild(self) -> None:
        kept = [row for row in range(self.start, len(self.keys)) if self.order_nos[row] != _GONE]
        self.keys[:] = array("Q", [self.keys[row] for row in kept])  # in place: a caller has them at hand
        self.order_nos[:] = array("Q", [self.order_nos[row] for row in kept])
        self.start = 0
        super()._rebuild()

    def _cut(self, rows: int) -> None:
        super()._cut(rows)
        del self.order_nos[:rows]
