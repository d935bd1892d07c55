"""Idempotency keys: rows in a flat array, found by a dict of their places.

Rows of 64-bit integers lie one behind the other, in the order of their arrival, so forgetting the oldest is moving `start`; what was
forgotten is dropped once it is half. An entry takes about 160 bytes, four fifths of them for the dict: an index in an array took a
tenth of that, and a tenth of the time of a decision.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from struct import Struct

_WIDTH = 4
"""Numbers of a row."""
_DROPPED_MIN = 64 * _WIDTH
_pack = Struct("=4Q").pack


def hash_of(text: str) -> int:
    """60 bits of a text, another number in every process: it is never stored, and nobody can prepare texts that collide.

    An integer of more bits takes 16 bytes more. (Idempotency keys have 64: they are stored, and compared with older ones.)
    """
    return hash(text) & 0x0FFF_FFFF_FFFF_FFFF


class KeyTable:
    """Key hash, fingerprint, order number, journal time (ms), oldest first."""

    __slots__ = ("base", "cutoff_ms", "numbers", "places", "start")

    def __init__(self) -> None:
        self.numbers = array("Q")
        self.start = 0
        """Where in `numbers` the oldest row begins that is not forgotten."""
        self.base = 0
        """How many numbers were dropped from the front of `numbers`."""
        self.places: dict[int, int] = {}
        """Where the row of a key begins, dropped numbers counted. `key in table.places` = it is remembered."""
        self.cutoff_ms = 0
        """Keys older than this were forgotten early, for want of room; 0 = none was."""

    def __len__(self) -> int:
        return len(self.places)

    def get(self, key: int) -> tuple[int, int, int] | None:
        """(fingerprint, order number, journal time in ms) of a key."""
        place = self.places.get(key)
        if place is None:
            return None
        place -= self.base
        _, fingerprint, order_no, time_ms = self.numbers[place : place + _WIDTH]
        return fingerprint, order_no, time_ms

    def put(self, key: int, fingerprint: int, order_no: int, time_ms: int) -> bool:
        """Remember a key; True where it was not there before."""
        row = _pack(
            key, fingerprint, order_no, time_ms
        )  # first: it may refuse a number, and then nothing is remembered
        places, numbers = self.places, self.numbers
        count = len(places)
        place = places.setdefault(key, self.base + len(numbers))
        if len(places) > count:
            numbers.frombytes(row)
            return True
        place -= self.base
        numbers[place : place + _WIDTH] = array("Q", row)
        return False

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
            del self.places[numbers[start]]
            start += _WIDTH
        forgotten = (start - self.start) // _WIDTH
        if start >= _DROPPED_MIN and start * 2 >= len(numbers):
            self.numbers = numbers[start:]
            self.base += start
            start = 0
        self.start = start
        return forgotten

    def rows(self) -> Iterator[tuple[int, int, int, int]]:
        """(key, fingerprint, order number, journal time), oldest first."""
        numbers = iter(self.numbers[self.start :])
        return zip(numbers, numbers, numbers, numbers, strict=True)
