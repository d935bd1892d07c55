"""What all tests share: no swallowed services, no sleeps.

A service that is missing (a redis-server, Node) skips on a laptop and fails in CI, where everything must be there.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import hypothesis
import pytest

# The same examples everywhere, and no stopwatch: a run fails for what was changed, not for the machine or the dice.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("steady")

T = TypeVar("T")


def service_missing(what: str) -> None:
    """Say that a test cannot run because `what` is not on this machine: a skip here, a failure in CI."""
    outcome = pytest.fail if os.environ.get("CI") else pytest.skip
    outcome(f"{what} is not on this machine")


async def eventually(
    check: Callable[[], T | Awaitable[T]], *, within_s: float = 60.0, every_s: float = 0.01, what: str = ""
) -> T:
    """The first true answer of `check` (plain or async), asked again until then. AssertionError after `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        answer = check()
        value: T = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {within_s} s: {what or check}; last answer {value!r}")
        await asyncio.sleep(every_s)
