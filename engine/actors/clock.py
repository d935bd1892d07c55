"""The wall clock of a shard, guarded by its monotonic clock and by the clock of the journal's server.

Holds end by this clock, so it must not jump because somebody set the machine's. Rules:

W1  A step of the wall clock of at most STEP_MS is followed: that is how clocks are disciplined.
W2  A longer one is not, until the server's clock agrees with the new time; meanwhile time goes on at its old pace.
W3  Where the machine's clock and the server's differ at the start by more than SKEW_MAX_MS, the server's is taken: it is the one
    that all shards and every earlier owner of the journal share.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from engine.pace import REAL, Pace

STEP_MS = 2_000
AGREES_MS = 500
"""The server's time comes with the delay of a call."""
SKEW_ALARM_MS = 500
SKEW_MAX_MS = 5_000
log = structlog.get_logger(__name__)


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Clock:
    """`now_ms` is the time to decide by; `heard` tells it the server's time whenever that is known.

    The rules are about real time; `pace` turns that into the engine's.
    """

    def __init__(
        self,
        *,
        wall: Callable[[], int] = wall_ms,
        monotonic: Callable[[], int] = monotonic_ms,
        pace: Pace = REAL,
    ) -> None:
        self.pace = pace
        self._wall = wall
        self._monotonic = monotonic
        self._offset_ms = wall() - monotonic()
        self.stepped = False
        """The wall clock stands off and is not followed (W2)."""
        self.skew_ms = 0
        """The server's time less ours, when it was last heard."""
        self._alarmed = False

    def now_ms(self) -> int:
        """The engine's time."""
        return self.pace.engine_ms(self._real_ms())

    def seconds_until(self, at_ms: int) -> float:
        """Real seconds until an instant of the engine's."""
        return self.pace.real_s(at_ms - self.now_ms())

    def _real_ms(self) -> int:
        steady_ms = self._monotonic() + self._offset_ms
        wall = self._wall()
        step_ms = wall - steady_ms
        if -STEP_MS <= step_ms <= STEP_MS:
            self._offset_ms += step_ms
            self.stepped = False
            return wall
        if not self.stepped:
            self.stepped = True
            log.error("the clock of this machine was set: not followed yet", by_ms=step_ms)
        return steady_ms

    def start(self, server_ms: int) -> None:
        """W3, once the journal was acquired."""
        skew_ms = server_ms - self._real_ms()
        if abs(skew_ms) > SKEW_MAX_MS:
            log.error("the clock of this machine is off, using the journal server's", by_ms=-skew_ms)
            self._offset_ms += skew_ms
            self.stepped = abs(skew_ms) > STEP_MS
        self.heard(server_ms)

    def heard(self, server_ms: int) -> None:
        """The server's time, as it came with the answer of a call."""
        now_ms = self._real_ms()
        if self.stepped:
            wall = self._wall()
            if abs(server_ms - wall) <= AGREES_MS:
                log.warning("the journal server agrees with the new time: followed", by_ms=wall - now_ms)
                self._offset_ms += wall - now_ms
                self.stepped = False
                now_ms = wall
        self.skew_ms = server_ms - now_ms
        off = abs(self.skew_ms) > SKEW_ALARM_MS
        if off != self._alarmed:
            self._alarmed = off
            log.warning("clock skew to the journal server" if off else "clock skew is gone", by_ms=self.skew_ms)
