"""When the archiver lets orders go first. Where it may wait, nothing is lost by it: what it has not taken is still in the journal.

It waits while three things hold: the journal grows fast enough for its work to be felt, others keep the cores busy, and what it has
not taken is younger than the lag that lists may have. Then it takes everything at once, which is also cheaper (L4).

Working in idle time (idle_time.py) is not the same: with two cores of which a quarter is free it still cost orders a tenth, because it
fills caches, and what wakes finds its core taken.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

CALM_BYTES_PER_S = 64 * 1024
"""A journal that grows slower than this (some 300 orders a second) costs a hundredth of a core to follow: it is followed at once."""
BUSY_SHARE = 0.65
"""Others use this part of all cores: the machine is busy. About 0.3 with 500 orders a second on two cores, 0.6 with 1,500, 0.75 to 0.9
with as many as it takes."""
LOOK_EVERY_S = 0.2
LOOK_BACK_S = 5.0
"""A look that is older says nothing of now: it is only asked for while a journal grows fast."""
LATE = 1.5
"""Times the lag that lists may have: so old is what is left in the journal of who is late."""
_STAT = Path("/proc/stat")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class BusyCores:
    """Share of all cores that other processes use; 0 where the system does not tell (Linux does)."""

    def __init__(
        self,
        read: Callable[[], str] = _STAT.read_text,
        own_s: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._own_s = own_s
        self._clock = clock
        self._share = 0.0
        self._looked_at = float("-inf")
        self._last = (0, 0.0)
        """Ticks of all cores since the machine started, and those that nobody or this process used."""

    def share(self) -> float:
        """Over the time since the last look, of which nothing is said where it is long ago."""
        now = self._clock()
        since_s = now - self._looked_at
        if since_s < LOOK_EVERY_S:
            return self._share
        try:
            line = self._read().partition("\n")[0]
        except OSError:
            return 0.0
        # cpu user nice system idle iowait irq softirq steal; what follows is contained in user and nice
        ticks = [int(word) for word in line.split()[1:9]]
        if len(ticks) < 5:
            return 0.0
        total, free = sum(ticks), ticks[3] + ticks[4] + self._own_s() * _TICKS_PER_S
        grown = total - self._last[0]
        used = 1 - (free - self._last[1]) / grown if grown > 0 and since_s < LOOK_BACK_S else 0.0
        self._share = min(1.0, max(0.0, used))  # the two clocks are not read in one moment
        self._looked_at, self._last = now, (total, free)
        return self._share


class Patience:
    """One shard. `lag_s` = how long entries may wait; 0 = never."""

    def __init__(self, lag_s: float, busy_share: Callable[[], float]) -> None:
        self.lag_s = lag_s
        self._busy_share = busy_share
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
        return self._busy_share() >= BUSY_SHARE

    def is_late(self, now: float) -> bool:
        """Whether more is left than waiting on purpose explains: its work did not get the time it needs."""
        return now - self._taken_at >= LATE * self.lag_s
