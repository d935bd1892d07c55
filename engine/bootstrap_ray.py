"""Starting Ray for this process tree, or joining a cluster that others run."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog

from engine.settings import Settings
from engine.to_the_end import to_the_end

RAY_TRIES = 3
RAY_OBJECT_STORE_BYTES = 80 * 1024 * 1024
RAY_SESSIONS_KEPT = 4
LEFTOVER_TIMEOUT_S = 15.0
T = TypeVar("T")
log = structlog.get_logger(__name__)


class StartError(Exception):
    """What kept the engine from starting, in a sentence for the person who started it."""


async def in_thread(work: Callable[[], T]) -> T:
    """Do blocking work in a thread. A cancellation waits for its end, so that what it started can be stopped again."""
    return await to_the_end(asyncio.ensure_future(asyncio.to_thread(work)))


def set_ray_environment(*, joins: bool = False) -> None:
    """Ray reads these while it is being imported, so this comes first. A token of our own keeps its files out of HOME.

    joins: a running cluster is joined, whose way of authentication is not ours to choose.
    """
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_enable_open_telemetry", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's processes have dozens of threads that allocate little: a heap for each of them is memory for nothing.
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    if not joins:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def start_ray(settings: Settings, temp_dir: Path) -> None:
    """Join the cluster that the settings name, or start a local one for this process tree alone."""
    import ray

    from engine.actors.options import NAMESPACE, SHARD_MEMORY_BYTES, SHARD_SLOT, SHARD_SLOTS_PER_MACHINE
    from engine.domain.decide_moves import SHARDS_MAX

    logging.getLogger("ray._private.worker").addFilter(_tells_people_something)
    if settings.ray_address:
        ray.init(address=settings.ray_address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
        return
    ray.init(
        address="local",
        namespace=NAMESPACE,
        num_cpus=os.cpu_count(),
        resources={SHARD_SLOT: SHARD_SLOTS_PER_MACHINE},
        object_store_memory=RAY_OBJECT_STORE_BYTES,
        # What shards ask for is for placing them among machines. There is one here: it must never make them wait for ever.
        _memory=SHARD_MEMORY_BYTES * (SHARDS_MAX + 1),
        include_dashboard=False,
        log_to_driver=False,  # bootstrap_logs passes on what actors write
        configure_logging=False,
        _temp_dir=str(temp_dir),
        _node_ip_address="127.0.0.2",  # 127.0.0.1 is rewritten to an outside address of the machine
    )
    _end_what_nobody_uses()


def _tells_people_something(record: logging.LogRecord) -> bool:
    """Ray starts in a thread, so that Ctrl-C is heard meanwhile, and says that it has then set no handler of SIGTERM: ours stands."""
    return not record.getMessage().startswith("SIGTERM handler is not set")


def _end_what_nobody_uses() -> None:
    """Ray starts an autoscaler, the server of its dashboard (without the dashboard) and a log monitor although nothing here asks them:
    50 MB each. Its two agents have to stay, the raylet ends with them."""
    import ray

    node = ray._private.worker._global_node
    assert node is not None, "Ray was started by this process"
    node.kill_log_monitor(check_alive=False)
    node.kill_monitor(check_alive=False)
    node.kill_dashboard(check_alive=False)


def logs_folder() -> Path:
    """Where the processes of the local cluster write to."""
    import ray

    node = ray._private.worker._global_node
    assert node is not None, "Ray was started by this process"
    return Path(node.get_logs_dir_path())


def start_ray_patiently(settings: Settings, temp_dir: Path) -> None:
    """Ray gives its own processes 30 s and no more; a machine that is busy may need a second try."""
    import ray

    for attempt in range(RAY_TRIES):
        try:
            start_ray(settings, temp_dir)
            return
        except Exception as error:
            # Ray raises bare exceptions here; the last one is told to the person who started the engine.
            ray.shutdown()
            if attempt == RAY_TRIES - 1:
                raise StartError(f"Ray did not start: {error}") from error


def check_machines(settings: Settings) -> None:
    """On a cluster that others run: say at once what would keep shards from starting, or from being found. Raises StartError."""
    from engine.actors.options import shard_machines

    if fault := fault_of_machines(settings, len(shard_machines())):
        raise StartError(fault)


def fault_of_machines(settings: Settings, machines: int) -> str | None:
    """What is wrong with so many machines that may have shards, and what helps."""
    if not machines:
        return (
            "no machine of this Ray cluster may have shards: start its nodes with --resources='{\"shard_slot\": 64}', "
            "see docs/how-to/run-on-a-cluster.md"
        )
    if machines > 1 and not settings.serves_other_machines:
        return (
            f"{machines} machines of this Ray cluster may have shards, which would not find each other: set QM_TCP=true, "
            "QM_SHARD_HOST=node and QM_CLUSTER_TOKEN, see docs/how-to/run-on-a-cluster.md"
        )
    return None


async def end_leftovers(settings: Settings) -> None:
    """On a cluster that others run: end the actors of an earlier command of this engine, which was killed.

    Raises StartError where they are another engine's: one cluster hosts one.
    """
    import ray

    from engine.actors.options import NAMESPACE

    try:
        old = ray.get_actor("supervisor", namespace=NAMESPACE)
    except ValueError:
        return
    assert settings.redis_url is not None
    try:
        ours = await asyncio.wait_for(old.serves.remote(settings.redis_url.get_secret_value()), LEFTOVER_TIMEOUT_S)
    except (TimeoutError, ray.exceptions.RayError) as error:
        raise StartError("a supervisor is on this Ray cluster that does not answer; restart the cluster") from error
    if not ours:
        raise StartError("another engine, with another journal, runs on this Ray cluster; one cluster hosts one engine")
    log.warning("ending the actors that an earlier command left on this cluster")
    await in_thread(kill_actors)


def kill_actors() -> None:
    """End every actor of ours on a cluster, and wait until their names are free."""
    import ray

    deadline = time.monotonic() + LEFTOVER_TIMEOUT_S
    while (names := ray.util.list_named_actors()) and time.monotonic() < deadline:
        # The supervisor first: it would make the others again.
        for name in sorted(names, key=lambda name: name != "supervisor"):
            try:
                ray.kill(ray.get_actor(name))
            except (ValueError, ray.exceptions.RayError) as error:
                log.debug("ended already", actor=name, error=repr(error))
        time.sleep(0.2)


def forget_old_sessions(folder: Path) -> None:
    """Ray keeps the logs of every session for ever; the newest few are enough."""
    sessions = sorted(path for path in folder.glob("session_2*") if not path.is_symlink())
    for path in sessions[:-RAY_SESSIONS_KEPT]:
        shutil.rmtree(path, ignore_errors=True)
