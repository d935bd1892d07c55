"""Ray options of every actor, and the one place where `ray.remote` is applied."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from engine.actors.archiver import Archiver
from engine.actors.gateway_host import GatewayHost
from engine.actors.shard import ShardActor
from engine.actors.solver import SolverActor
from engine.actors.supervisor import Supervisor

NAMESPACE = "quartermaster"
SHARD_SLOT = "shard_slot"
SHARD_SLOTS_PER_MACHINE = 1_000
SHARD_MEMORY_BYTES = 512 * 1024 * 1024
_COMMON: dict[str, Any] = {
    "namespace": NAMESPACE,
    "lifetime": "detached",
    "num_cpus": 0,
    "max_restarts": -1,
    "max_task_retries": 0,
    "max_concurrency": 1_000,
}


def machine_here() -> str:
    """Ray's id of the machine of this process."""
    return str(ray.get_runtime_context().get_node_id())


def shard_machines() -> set[str]:
    """Ray's ids of the living machines that may have shards."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"] and SHARD_SLOT in node["Resources"]}


def _on(machine: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(machine, soft=False)


def _here() -> NodeAffinitySchedulingStrategy:
    """Stay on the machine of the process that asks: of `up` for the supervisor, and so for what the supervisor makes with it.

    Gateways listen at addresses of that machine, and an archive in the data folder is a folder of that machine.
    """
    return _on(machine_here())


def supervisor_actor() -> Any:
    return ray.remote(Supervisor).options(name="supervisor", scheduling_strategy=_here(), **_COMMON)


def shard_actor(shard: int) -> Any:
    """One slot each, in turns over the machines that have slots; memory is asked for so that none gets more than it can hold."""
    return ray.remote(ShardActor).options(
        name=f"shard-{shard}",
        resources={SHARD_SLOT: 1},
        memory=SHARD_MEMORY_BYTES,
        scheduling_strategy="SPREAD",
        **_COMMON,
    )


def solver_actor(name: str, machine: str) -> Any:
    return ray.remote(SolverActor).options(name=name, scheduling_strategy=_on(machine), **_COMMON)


def archiver_actor() -> Any:
    return ray.remote(Archiver).options(name="archiver", scheduling_strategy=_here(), **_COMMON)


def gateway_actor(port: int) -> Any:
    return ray.remote(GatewayHost).options(name=f"gateway-{port}", scheduling_strategy=_here(), **_COMMON)
