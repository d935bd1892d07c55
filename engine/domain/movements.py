"""Shelf movements of the last two days at one node, to net counts that were taken before them and arrive after them.

Bounded: past `KEPT_MAX` the oldest are forgotten, and counts taken before the newest forgotten one can no longer be netted.
"""

from __future__ import annotations

from array import array

import numpy as np

KEPT_MS = 48 * 3_600_000
KEPT_MAX = 65_536
_TRIM_EVERY = 1_024


class Movements:
    """(instant, item, change of on hand), in the order they were journaled: nearly, not strictly, by instant."""

    __slots__ = ("changes", "forgotten_ms", "items", "times_ms")

    def __init__(self) -> None:
        self.times_ms = array("q")
        self.items = array("i")
        self.changes = array("i")
        self.forgotten_ms = 0
        """Newest instant of which a movement was forgotten; 0 = none was."""

    def __len__(self) -> int:
        return len(self.times_ms)

    def add(self, time_ms: int, item: int, change: int, *, now_ms: int) -> None:
        """Remember a movement, true at `time_ms`, journaled at `now_ms`."""
        self.times_ms.append(time_ms)
        self.items.append(item)
        self.changes.append(change)
        if len(self.times_ms) % _TRIM_EVERY == 0:
            self._trim(now_ms)

    def _trim(self, now_ms: int) -> None:
        times = np.frombuffer(self.times_ms, np.int64)
        old = int(np.argmax(times >= now_ms - KEPT_MS)) if times[-1] >= now_ms - KEPT_MS else len(times)
        cut = max(old, len(times) - KEPT_MAX)
        if cut == 0:
            return
        self.forgotten_ms = max(self.forgotten_ms, int(times[:cut].max()))
        del times  # an exported buffer cannot be cut
        del self.times_ms[:cut], self.items[:cut], self.changes[:cut]

    def net_after(self, as_of_ms: int) -> dict[int, int]:
        """Net change of the shelf by item after an instant."""
        net: dict[int, int] = {}
        times = np.frombuffer(self.times_ms, np.int64)
        for row in np.flatnonzero(times > as_of_ms).tolist():
            item = self.items[row]
            net[item] = net.get(item, 0) + self.changes[row]
        return net

    def pack(self) -> tuple[int, bytes, bytes, bytes]:
        """(forgotten_ms, instants as int64, items as int32, changes as int32), little-endian."""
        return (
            self.forgotten_ms,
            np.frombuffer(self.times_ms, np.int64).astype("<i8").tobytes(),
            np.frombuffer(self.items, np.int32).astype("<i4").tobytes(),
            np.frombuffer(self.changes, np.int32).astype("<i4").tobytes(),
        )

    def load(self, packed: tuple[int, bytes, bytes, bytes]) -> None:
        """The inverse of `pack`."""
        self.forgotten_ms = packed[0]
        self.times_ms = array("q", np.frombuffer(packed[1], "<i8").tolist())
        self.items = array("i", np.frombuffer(packed[2], "<i4").tolist())
        self.changes = array("i", np.frombuffer(packed[3], "<i4").tolist())
