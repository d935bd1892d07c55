"""Idempotency keys in flat arrays: 40 bytes an entry, where a dict of integers takes 130.

An open-addressing index over rows of 64-bit integers that lie one behind the other: an entry is one place in memory, not one in each
of several columns. Rows are in the order of their arrival, so forgetting the oldest is moving `start`; forgotten rows stay in the
index until it is next rebuilt and count as absent.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from struct import Struct

_SMALLEST = 32
_WIDTH = 4
"""Numbers of a row."""
_pack = Struct("=4Q").pack


def hash_of(text: str) -> int:
    """64 bits of a text, another number in every process: it is never stored, and nobody can prepare texts that collide."""
    return hash(text) & 0xFFFF_FFFF_FFFF_FFFF


class KeyTable:
    """Key hash, fingerprint, order number, journal time (ms), oldest first."""

    __slots__ = ("index", "mask", "numbers", "start")

    def __init__(self) -> None:
        self.numbers = array("Q")
        self.start = 0
        """Place of the oldest row that is not forgotten."""
        self.mask = _SMALLEST - 1
        """One less than the size of the index, a power of two, at most 2/3 full."""
        self.index = array("i", [-1]) * _SMALLEST
        """Places of rows in `numbers`, by the key's last bits."""

    def __len__(self) -> int:
        return (len(self.numbers) - self.start) // _WIDTH

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

    def get(self, key: int) -> tuple[int, int, int] | None:
        """(fingerprint, order number, journal time in ms) of a key."""
        place = self.find(key)
        if place < 0:
            return None
        _, fingerprint, order_no, time_ms = self.numbers[place : place + _WIDTH]
        return fingerprint, order_no, time_ms

    def put(self, key: int, fingerprint: int, order_no: int, time_ms: int) -> bool:
        """Remember a key; True where it was not there before."""
        numbers = self.numbers
        if len(numbers) * 3 >= self.mask * 2 * _WIDTH:
            self._rebuild()
            numbers = self.numbers
        index, mask = self.index, self.mask
        at = key & mask
        place = index[at]
        while place >= 0:
            if numbers[place] == key and place >= self.start:
                numbers[place : place + _WIDTH] = array("Q", (key, fingerprint, order_no, time_ms))
                return False
            at = (at + 1) & mask
            place = index[at]
        index[at] = len(numbers)
        numbers.frombytes(_pack(key, fingerprint, order_no, time_ms))
        return True

    def oldest_ms(self) -> int:
        """Journal time of the oldest key; the table is not empty."""
        return self.numbers[self.start + 3]

    def forget(self, before_ms: int, *, limit: int) -> int:
        """Forget at most `limit` of the oldest keys that are older than an instant; returns how many."""
        start, numbers = self.start, self.numbers
        if start == len(numbers) or numbers[start + 3] >= before_ms:
            return 0
        end = min(len(numbers), start + _WIDTH * limit)
        while start < end and numbers[start + 3] < before_ms:
            start += _WIDTH
        forgotten = (start - self.start) // _WIDTH
        self.start = start
        return forgotten

    def rows(self) -> Iterator[tuple[int, int, int, int]]:
        """(key, fingerprint, order number, journal time), oldest first."""
        numbers = iter(self.numbers[self.start :])
        return zip(numbers, numbers, numbers, numbers, strict=True)

    def _rebuild(self) -> None:
        """Drop forgotten rows and make room for as many again as there are."""
        self.numbers, self.start = self.numbers[self.start :], 0
        numbers = self.numbers
        size = _SMALLEST
        while size * _WIDTH < len(numbers) * 3:
            size *= 2
        self.mask = mask = size - 1
        self.index = index = array("i", [-1]) * size
        for place in range(0, len(numbers), _WIDTH):
            at = numbers[place] & mask
            while index[at] >= 0:
                at = (at + 1) & mask
            index[at] = place
