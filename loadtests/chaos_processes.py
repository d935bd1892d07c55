"""The processes of an engine under chaos: who is who, what they use, and killing one of them. Only processes below its command.

Roles: shard-N, control, solver, archiver, supervisor, gateway-N (the serving process), gateway-host-N (the actor around it), redis, ray
(the rest of Ray: its own daemons, which are measured and left alone), up (the command).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from typing import Any, NamedTuple

from loadtests.proc import alive, command_line, descendants, proportional_bytes
from loadtests.servers import Engine

GONE_S = 20.0


class Killed(NamedTuple):
    """One kill: when (real seconds since the start), whom, and how long until the engine was whole again."""

    at_s: float
    role: str
    pid: int


def roles(engine: Engine, status: dict[str, Any]) -> dict[str, int]:
    """Process id by role. `status`: what the shards say of themselves, their process ids among it."""
    out = {"up": engine.pid}
    shards = {int(facts["pid"]): facts["shard"] for facts in status["shards"] if "pid" in facts}
    gateways = hosts = 0
    for pid in descendants(engine.pid):
        command = command_line(pid)
        if pid in shards:
            out["control" if shards[pid] == 255 else f"shard-{shards[pid]}"] = pid
        elif "-m gateway" in command:
            out[f"gateway-{gateways}"] = pid
            gateways += 1
        elif command.startswith("ray::GatewayHost"):
            out[f"gateway-host-{hosts}"] = pid
            hosts += 1
        elif "redis-server" in command or "valkey-server" in command:
            out["redis"] = pid
        else:
            for mark, role in (("SolverActor", "solver"), ("Archiver", "archiver"), ("Supervisor", "supervisor")):
                if command.startswith(f"ray::{mark}"):
                    out[role] = pid
    return out


def memory_by_role(engine: Engine, known: dict[str, int]) -> dict[str, int]:
    """Proportional bytes by role; everything that has no role of its own is Ray's."""
    out: dict[str, int] = {}
    named = {pid: role for role, pid in known.items()}
    for pid in [engine.pid, *descendants(engine.pid)]:
        role = named.get(pid, "ray")
        out[role] = out.get(role, 0) + proportional_bytes(pid)
    return out


def kill_one(known: dict[str, int], rng: random.Random, *, started: float) -> Killed:
    """kill -9 of a process drawn from all that may be killed; returns when it is gone."""
    role = rng.choice(sorted(role for role in known if role != "up"))
    pid = known[role]
    killed = Killed(time.monotonic() - started, role, pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + GONE_S
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return killed
