"""Threads for work that takes only time which nobody else wants.

Being nice is not enough: a core that runs a niced thread still counts as busy where Linux looks for a core for a process that wakes, so
gateway and shard met on one core while the archiver had the other. A core with nothing but SCHED_IDLE threads counts as free.

Who is in that class may not leave it without rights, so there are threads of both kinds, and work is given to one or the other. What
has been begun in idle time is finished at that pace.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from engine.to_the_end import to_the_end

THREADS = 4
T = TypeVar("T")


def _take_idle_time() -> None:
    if hasattr(os, "SCHED_IDLE"):  # Linux
        with contextlib.suppress(OSError):  # a sandbox may refuse it; the work must be done all the same
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # of this thread alone


_IDLE = ThreadPoolExecutor(THREADS, "idle-time", initializer=_take_idle_time)
_OWN = ThreadPoolExecutor(THREADS, "own-time")


async def in_thread(work: Callable[[], T], *, idle: bool) -> T:
    """Blocking work in a thread; idle = only in time that nobody else wants. A cancellation waits for its end: nothing may go on
    half-known."""
    return await to_the_end(asyncio.get_running_loop().run_in_executor(_IDLE if idle else _OWN, work))
