"""The engine's time against the machine's: the same, unless a long test makes days pass in an hour.

Only the time that the engine decides and records by runs faster (holds, closing, capacity days, dedupe window, retention). Time
that measures the machine itself stays real: leases, timeouts of connections, retries of a server, how often snapshots are written.
"""

from __future__ import annotations

import time
from typing import NamedTuple


class Pace(NamedTuple):
    """`speed` times as fast since the real instant `since_ms`. That is absolute, so restarted processes agree with the others."""

    speed: int = 1
    since_ms: int = 0

    def engine_ms(self, real_ms: int) -> int:
        """The engine's instant at a real one."""
        return real_ms if self.speed == 1 else self.since_ms + (real_ms - self.since_ms) * self.speed

    def real_s(self, engine_ms: int) -> float:
        """Real seconds that so much of the engine's time takes."""
        return engine_ms / (1_000 * self.speed)

    def now_ms(self) -> int:
        """The engine's time now."""
        return self.engine_ms(time.time_ns() // 1_000_000)


REAL = Pace()
