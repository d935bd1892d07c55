"""Threads of the archiver: which time they take, and that a cancellation leaves nothing half-done."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.archive.idle_time import _take_idle_time, in_thread


def _policy() -> int:
    return os.sched_getscheduler(0) if sys.platform == "linux" else 0


async def test_work_takes_idle_time_or_its_own_as_asked_and_leaves_the_caller_alone() -> None:
    before = _policy()
    policies = [await in_thread(_policy, idle=idle) for idle in (True, False, True, False)]
    assert _policy() == before
    if sys.platform == "linux":
        assert policies == [os.SCHED_IDLE, before, os.SCHED_IDLE, before]


@pytest.mark.parametrize("idle", [True, False])
async def test_an_error_comes_back(idle: bool) -> None:
    def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await in_thread(work, idle=idle)


async def test_a_cancellation_waits_for_the_end_of_the_work() -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        assert go_on.wait(60)
        done.append(1)

    task = asyncio.create_task(in_thread(work, idle=True))
    assert await asyncio.to_thread(begun.wait, 60)
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [1]


async def test_where_the_class_is_refused_the_work_is_done_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*facts: object) -> None:
        raise PermissionError("not here")

    monkeypatch.setattr("engine.archive.idle_time.os.sched_setscheduler", refuse, raising=False)
    with ThreadPoolExecutor(1, initializer=_take_idle_time) as pool:
        assert await asyncio.get_running_loop().run_in_executor(pool, lambda: 7) == 7
