"""Idempotency keys and order ids in flat arrays: 40 and 25 bytes an entry, where dicts of integers take 130 and 100.

An open-addressing index over rows of 64-bit integers that lie one behind the other: an entry is one place in memory, not one in each
of several columns. Rows are in the order of their arrival, so forgetting the oldest is moving `start`; forgotten rows stay in the
index until it is next rebuilt and count as absent.
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
    """Places of rows by 64-bit key, their first number. `mask + 1` = size, a power of two, at most 2/3 full."""

    __slots__ = ("index", "mask", "numbers", "start")
    WIDTH: int
    """Numbers of a row."""

    def __init__(self) -> None:
        self.numbers = array("Q")
        self.start = 0
        """Place of the oldest row that is not forgotten."""
        self.mask = _SMALLEST - 1
        self.index = array("i", [-1]) * _SMALLEST

    def __len__(self) -> int:
        return (len(self.numbers) - self.start) // self.WIDTH

    def find(self, key: int) -> int:
        """Place of a key's row in `numbers`, -1 where it is absent or forgotten."""
        index, numbers, mask = self.index, self.numbers, self.mask
        at = key & mask
        place = index[at]
        while place >= 0:
            if numbers[place] == key and place >= self.start:
                return place
            at = (at + 1) & mask
            place = index[at]
        return -1

    def put(self, *row: int) -> bool:
        """Remember a row, its key first; True where the key was not there before."""
        numbers = self.numbers
        if len(numbers) * 3 >= self.mask * 2 * self.WIDTH:
            self._rebuild()
            numbers = self.numbers
        index, mask, key = self.index, self.mask, row[0]
        at = key & mask
        place = index[at]
        while place >= 0:
            if numbers[place] == key and place >= self.start:
                numbers[place : place + self.WIDTH] = array("Q", row)
                return False
            at = (at + 1) & mask
            place = index[at]
        index[at] = len(numbers)
        numbers.extend(row)
        return True

    def _rebuild(self) -> None:
        """Drop forgotten rows and make room for as many again as there are."""
        self.numbers, self.start = self._kept(), 0
        numbers, width = self.numbers, self.WIDTH
        size = _SMALLEST
        while size * width < len(numbers) * 3:
            size *= 2
        self.mask = mask = size - 1
        self.index = index = array("i", [-1]) * size
        for place in range(0, len(numbers), width):
            at = numbers[place] & mask
            while index[at] >= 0:
                at = (at + 1) & mask
            index[at] = place

    def _kept(self) -> array[int]:
        """The rows that are not forgotten."""
        return self.numbers[self.start :]


class KeyTable(_Index):
    """Idempotency keys: key hash, fingerprint, order number, journal time (ms), oldest first."""

    __slots__ = ()
    WIDTH = 4

    def get(self, key: int) -> tuple[int, int, int] | None:
        """(fingerprint, order number, journal time in ms) of a key."""
        place = self.find(key)
        if place < 0:
            return None
        _, fingerprint, order_no, time_ms = self.numbers[place : place + 4]
        return fingerprint, order_no, time_ms

    def oldest_ms(self) -> int:
        """Journal time of the oldest key; the table is not empty."""
        return self.numbers[self.start + 3]

    def forget(self, before_ms: int, *, limit: int) -> int:
        """Forget at most `limit` of the oldest keys that are older than an instant; returns how many."""
        start, numbers = self.start, self.numbers
        if start == len(numbers) or numbers[start + 3] >= before_ms:
            return 0
        end = min(len(numbers), start + 4 * limit)
        while start < end and numbers[start + 3] < before_ms:
            start += 4
        forgotten = (start - self.start) // 4
        self.start = start
        return forgotten

    def rows(self) -> Iterator[tuple[int, int, int, int]]:
        """(key, fingerprint, order number, journal time), oldest first."""
        numbers = iter(self.numbers[self.start :])
        return zip(numbers, numbers, numbers, numbers, strict=True)


class IdTable(_Index):
    """Newest order number by the hash of the caller's order id; the record says whether it is really that id."""

    __slots__ = ()
    WIDTH = 2

    @classmethod
    def of(cls, order_nos: dict[int, int]) -> IdTable:
        """A table of many at once: order number by hash."""
        table = cls()
        numbers = array("Q", bytes(16 * len(order_nos)))
        numbers[::2], numbers[1::2] = array("Q", order_nos), array("Q", order_nos.values())
        table.numbers = numbers
        table._rebuild()
        return table

    def get(self, key: int) -> int | None:
        place = self.find(key)
        found = self.numbers[place + 1] if place >= 0 else _GONE
        return found if found != _GONE else None

    def discard(self, key: int, order_no: int) -> None:
        """Forget an order number, unless a newer one has taken its key. Its room is taken again when the table next grows."""
        place = self.find(key)
        if place >= 0 and self.numbers[place + 1] == order_no:
            self.numbers[place + 1] = _GONE

    def _kept(self) -> array[int]:
        numbers = self.numbers
        if _GONE not in numbers[1::2]:
            return numbers
        kept = array("Q")
        for place in range(0, len(numbers), 2):
            if numbers[place + 1] != _GONE:
                kept.extend(numbers[place : place + 2])
        return kept
