"""Short turns: asked for, and nothing else of the process is changed."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from engine.journal.short_turns import TURN_NS, take_short_turns

SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
ATTRIBUTES = struct.Struct("=IIQiIQQQ")


@pytest.fixture
def sleeper() -> Iterator[int]:
    def set_up() -> None:
        os.nice(3)
        if sys.platform == "linux":
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # whatever the tests run in

    process = subprocess.Popen(["sleep", "60"], preexec_fn=set_up)
    yield process.pid
    process.kill()
    process.wait()


def _attributes(pid: int) -> tuple[int, int, int]:
    """(policy, nice, turn in ns) as Linux has them."""
    buffer = ctypes.create_string_buffer(ATTRIBUTES.size)
    assert ctypes.CDLL(None).syscall(SCHED_GETATTR[platform.machine()], pid, buffer, ATTRIBUTES.size, 0) == 0
    _, policy, _, nice, _, turn_ns, _, _ = ATTRIBUTES.unpack(buffer.raw)
    return policy, nice, turn_ns


def _release() -> tuple[int, ...]:
    return tuple(int(part) for part in platform.release().split(".")[:2])


KNOWN_HERE = sys.platform == "linux" and platform.machine() in SCHED_GETATTR


def test_a_process_takes_short_turns_and_stays_as_nice_as_it_was(sleeper: int) -> None:
    if not KNOWN_HERE:
        assert not take_short_turns(sleeper), "nothing is asked for here"
        return
    policy, nice, before_ns = _attributes(sleeper)
    assert take_short_turns(sleeper)
    assert _attributes(sleeper)[:2] == (policy, nice)
    assert (policy, nice) == (os.SCHED_OTHER, min(19, os.getpriority(os.PRIO_PROCESS, 0) + 3))
    if _release() >= (6, 12):
        assert _attributes(sleeper)[2] == TURN_NS != before_ns


def test_another_class_stays(sleeper: int) -> None:
    if sys.platform == "linux":
        os.sched_setscheduler(sleeper, os.SCHED_BATCH, os.sched_param(0))
    assert take_short_turns(sleeper) is False
    if sys.platform == "linux":
        assert os.sched_getscheduler(sleeper) == os.SCHED_BATCH


def test_who_is_gone_gets_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert not take_short_turns(process.pid)
