"""Shelf movements of the last two days at one node, to net counts that were taken before them and arrive after them.

A busy node has tens of thousands of them and is written with every snapshot, so all but the newest are kept sealed: in chunks that
never change, a column in as few bytes as its widest value takes: 5 to 7 bytes a movement, of 16.

Bounded: past `KEPT_MAX` the oldest chunks are forgotten, and counts taken before the newest forgotten movement can no longer be netted.
"""

from __future__ import annotations

from array import array

import msgspec
import numpy as np

KEPT_MS = 48 * 3_600_000
KEPT_MAX = 65_536
CHUNK = 256
_SIGNED = ("<i1", "<i2", "<i4", "<i8")

Packed = tuple[int, bytes, bytes, bytes]


class Sealed(msgspec.Struct, frozen=True, array_like=True):
    """`CHUNK` movements as they were journaled. Columns: little-endian signed integers, as wide as their bytes / `CHUNK`."""

    newest_ms: int
    first_ms: int
    steps_ms: bytes
    """From one instant to the next; the first is 0."""
    items: bytes
    changes: bytes

    def times_ms(self) -> np.ndarray:
        return self.first_ms + np.cumsum(_wide(self.steps_ms))


class Movements:
    """(instant, item, change of on hand), in the order they were journaled: nearly, not strictly, by instant."""

    __slots__ = ("changes", "forgotten_ms", "items", "sealed", "times_ms")

    def __init__(self) -> None:
        self.sealed: list[Sealed] = []
        self.times_ms = array("q")
        """This and the next two: what is not sealed yet, fewer than `CHUNK`."""
        self.items = array("i")
        self.changes = array("i")
        self.forgotten_ms = 0
        """Newest instant of which a movement was forgotten; 0 = none was."""

    def __len__(self) -> int:
        return len(self.sealed) * CHUNK + len(self.times_ms)

    def add(self, time_ms: int, item: int, change: int, *, now_ms: int) -> None:
        """Remember a movement, true at `time_ms`, journaled at `now_ms`."""
        self.times_ms.append(time_ms)
        self.items.append(item)
        self.changes.append(change)
        if len(self.times_ms) == CHUNK:
            self._seal()
            self._trim(now_ms)

    def _seal(self) -> None:
        """Make a chunk of the oldest `CHUNK` that are not in one."""
        times = np.array(self.times_ms[:CHUNK], np.int64)
        self.sealed.append(
            Sealed(
                int(times.max()),
                int(times[0]),
                _narrow(np.diff(times, prepend=times[0])),
                _narrow(np.array(self.items[:CHUNK])),
                _narrow(np.array(self.changes[:CHUNK])),
            )
        )
        del self.times_ms[:CHUNK], self.items[:CHUNK], self.changes[:CHUNK]

    def _trim(self, now_ms: int) -> None:
        while self.sealed and (self.sealed[0].newest_ms < now_ms - KEPT_MS or len(self) > KEPT_MAX):
            self.forgotten_ms = max(self.forgotten_ms, self.sealed.pop(0).newest_ms)

    def net_after(self, as_of_ms: int) -> dict[int, int]:
        """Net change of the shelf by item after an instant."""
        net: dict[int, int] = {}
        for chunk in self.sealed:
            if chunk.newest_ms > as_of_ms:
                _net(net, chunk.times_ms() > as_of_ms, _wide(chunk.items), _wide(chunk.changes))
        _net(net, np.array(self.times_ms) > as_of_ms, np.array(self.items), np.array(self.changes))
        return net

    def pack(self) -> tuple[Packed, list[Sealed]]:
        """((forgotten_ms, instants as int64, items as int32, changes as int32) not sealed, little-endian; the chunks)."""
        unsealed = (
            self.forgotten_ms,
            np.array(self.times_ms, "<i8").tobytes(),
            np.array(self.items, "<i4").tobytes(),
            np.array(self.changes, "<i4").tobytes(),
        )
        return unsealed, list(self.sealed)

    def load(self, unsealed: Packed, sealed: list[Sealed]) -> None:
        """The inverse of `pack`; seals what versions wrote that sealed nothing."""
        self.forgotten_ms = unsealed[0]
        self.sealed = list(sealed)
        self.times_ms = array("q", np.frombuffer(unsealed[1], "<i8").tolist())
        self.items = array("i", np.frombuffer(unsealed[2], "<i4").tolist())
        self.changes = array("i", np.frombuffer(unsealed[3], "<i4").tolist())
        while len(self.times_ms) >= CHUNK:
            self._seal()


def _narrow(values: np.ndarray) -> bytes:
    """A column in the narrowest signed integers that hold it."""
    low, high = int(values.min()), int(values.max())
    kind = next(kind for kind in _SIGNED if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return values.astype(kind).tobytes()


def _wide(column: bytes) -> np.ndarray:
    return np.frombuffer(column, f"<i{len(column) // CHUNK}").astype(np.int64)


def _net(net: dict[int, int], after: np.ndarray, items: np.ndarray, changes: np.ndarray) -> None:
    for item, change in zip(items[after].tolist(), changes[after].tolist(), strict=True):
        net[item] = net.get(item, 0) + change
