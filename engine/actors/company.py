"""What other shards say about orders across shards waits a little for company: alone it would cost an entry, or a turn, of its own.

An entry costs a shard as much as several orders do, and each message about an order across shards would make one. So a message
comes to the core with the next client's, which makes an entry anyway, or with others like it; at the latest when nothing was
admitted for as long as its kind may wait. On a shard with little to do nothing waits: no company would come, and time is not short.

To the core this is a message that was longer on its way: it may come late, or never. The order of arrival stays as it was.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from engine.domain.commands import Command, DriveLeg, TryLegs
from engine.pace import Pace

TRY_WAIT_S = 0.025
"""A client waits for these: a hold asked for, and what came of one."""
DRIVE_WAIT_S = 0.060
"""Nobody waits for these, but reads that ask for what an order did at other shards."""
VIEW_WAIT_S = 0.040
HALF_LIFE_S = 0.050
BUSY_COMMANDS = 25
"""Of others, the older ones counted less: from about 350 a second on the next are near, one by one or a frame of many together."""
_WAITS_S: dict[type[Command], float] = {TryLegs: TRY_WAIT_S, DriveLeg: DRIVE_WAIT_S}


def patience_s(items: list[tuple[int, Command]]) -> float:
    """How long a frame may wait: as long as its least patient command, 0 where one may not."""
    wait_s = DRIVE_WAIT_S
    for _, command in items:
        wait_s = min(wait_s, _WAITS_S.get(type(command), 0.0))
        if not wait_s:
            break
    return wait_s


def reply_patience_s(command: Command) -> float:
    """How long the reply to a command that was sent to another shard may wait."""
    return _WAITS_S.get(type(command), 0.0)


class Company:
    """Messages that wait, in the order in which they came. Seconds of the engine's time, which may be faster than the clock's."""

    def __init__(self, wake: Callable[[], None], pace: Pace) -> None:
        self._wake = wake
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Callable[[], None]] = []
        self._admitted_s = time.monotonic()
        """When something was last admitted."""
        self._recent = 0.0
        """Commands that came without waiting, by their age then: one counts half after HALF_LIFE_S."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0

    def put(self, admit: Callable[[], None], wait_s: float) -> None:
        """Admit a message later, at the latest `wait_s` after the admission before; at once where no company is to be expected."""
        self._waiting.append(admit)
        self._within(self._admitted_s, wait_s)

    def look_in(self, wait_s: float) -> None:
        """Something that was told to the core already wants a turn within this time."""
        self._within(time.monotonic(), wait_s)

    def _within(self, since_s: float, wait_s: float) -> None:
        now_s = time.monotonic()
        at_s = since_s + self._pace.real_s(round(wait_s * 1_000))
        if at_s <= now_s or self._recent_at(now_s) < BUSY_COMMANDS:
            self._due()
            return
        if self._timer is not None:
            if self._timer_s <= at_s:
                return
            self._timer.cancel()
        self._timer_s = at_s
        self._timer = self._loop.call_later(at_s - now_s, self._due)

    def _recent_at(self, now_s: float) -> float:
        return self._recent * math.pow(0.5, (now_s - self._admitted_s) / HALF_LIFE_S)

    def _due(self) -> None:
        self.come_in()
        self._wake()

    def come_in(self, commands: int = 0) -> None:
        """Admit all that waits, before what comes now: so many commands that wait for nobody."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now_s = time.monotonic()
        self._recent = self._recent_at(now_s) + commands
        self._admitted_s = now_s
        waiting, self._waiting = self._waiting, []
        for admit in waiting:
            admit()

    def close(self) -> None:
        """What waits was lost on its way."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
