"""A process that others wait for with every order gets a core soon after it wakes, and gives it back soon.

The journal's server works 0.1 ms for an entry, sleeps while the disk does, and when it wakes gateway and shards have the cores: on two
cores it waited longer for one of them than for the disk. Linux 6.12 and newer let who asks for short turns go before who has long ones,
and nobody needs rights to ask for them; elsewhere nothing changes.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

TURN_NS = 100_000
"""The shortest that Linux takes."""
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
"""struct sched_attr: its size, policy, flags, nice, priority, runtime, deadline, period."""


def take_short_turns(pid: int) -> bool:
    """Ask for short turns for a process of ours, and for what it starts. False = this system does not know them, or refused."""
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return False
    try:
        if os.sched_getscheduler(pid) != os.SCHED_OTHER:
            return False  # somebody gave it another class
        nice = os.getpriority(os.PRIO_PROCESS, pid)
    except OSError:
        return False  # it has ended, or a sandbox does not tell
    packed = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, TURN_NS, 0, 0)
    return int(ctypes.CDLL(None).syscall(number, pid, packed, 0)) == 0
