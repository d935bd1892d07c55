"""When the archiver lets orders go first. Where it may wait, nothing is lost by it: what it has not taken is still in the journal.

It waits while three things hold: the journal grows fast enough for its work to be felt, somebody waits for a core, and what it
has not taken is younger than the lag that lists may have. Then it takes everything at once, which is also cheaper (L4).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

CALM_BYTES_PER_S = 64 * 1024
"""A journal that grows slower than this (some 300 orders a second) costs a hundredth of a core to follow: it is followed at once."""
BUSY_SHARE = 0.5
"""Somebody waits for a core for this part of the time: the machine is busy. About 0.1 at half load, 0.8 and more at full load."""
LOOK_EVERY_S = 0.2
LATE = 1.5
"""Times the lag that lists may have: so old is what is left in the journal of who is late."""
_PRESSURE = Path("/proc/pressure/cpu")


class CpuPressure:
    """Share of the time in which some process of the machine waited for a core; 0 where the system does not tell (Linux 4.20 does)."""

    def __init__(
        self, read: Callable[[], str] = _PRESSURE.read_text, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._clock = clock
        self._share = 0.0
        self._last: tuple[float, float] | None = None
        """When it was read, and the seconds of waiting since the machine started."""

    def share(self) -> float:
        """Over the time since the last look, which is some tenths of a second."""
        now = self._clock()
        if self._last is not None and now - self._last[0] < LOOK_EVERY_S:
            return self._share
        try:
            some = self._read().partition("\n")[0]
        except OSError:
            return 0.0
        waited_s = int(some.rpartition("total=")[2]) / 1e6
        if self._last is not None:
            self._share = (waited_s - self._last[1]) / (now - self._last[0])
        self._last = (now, waited_s)
        return self._share


class Patience:
    """One shard. `lag_s` = how long entries may wait; 0 = never."""

    def __init__(self, lag_s: float, pressure: Callable[[], float]) -> None:
        self.lag_s = lag_s
        self._pressure = pressure
        self._taken_at = float("-inf")
        """When nothing was left in the journal."""
        self._entry_bytes = 0.0
        """Mean of the entries taken last."""
        self._seen_seq = 0
        self._seen_at = 0.0

    def took(self, now: float, *, entries: int, size_bytes: int, all_of_it: bool) -> None:
        """A page was taken; `all_of_it` = nothing was left after it."""
        if entries:
            self._entry_bytes = size_bytes / entries
        if all_of_it:
            self._taken_at = now

    def waits(self, now: float, *, tail_seq: int) -> bool:
        """Whether what is in the journal up to `tail_seq` is left there for now."""
        elapsed = now - self._seen_at
        grown = (tail_seq - self._seen_seq) * self._entry_bytes
        self._seen_seq, self._seen_at = tail_seq, now
        if now - self._taken_at >= self.lag_s or grown < CALM_BYTES_PER_S * elapsed:
            return False
        return self._pressure() >= BUSY_SHARE

    def is_late(self, now: float) -> bool:
        """Whether more is left than waiting on purpose explains: its work did not get the time it needs."""
        return now - self._taken_at >= LATE * self.lag_s
