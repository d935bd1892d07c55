"""Wiring: the embedded server, Ray, the supervisor and all it makes, as one thing that starts and stops in order."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import msgspec
import structlog
from pydantic import SecretStr

from engine.actors.journals import open_journal
from engine.actors.logs import set_up_logging
from engine.client.cluster import Cluster
from engine.domain.commands import GetConfig, PutConfig
from engine.domain.config import ApiKey, Placement
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import ConfigReply, Done, Problem
from engine.journal.discovery import Directory
from engine.journal.embedded import EmbeddedError, EmbeddedServer, runtime_dir
from engine.journal.port import JournalError
from engine.settings import Settings

START_TIMEOUT_S = 180.0
RAY_TRIES = 3
SERVER_CHECK_S = 0.5
ADMIN_KEY_FILE = "admin.key"
RAY_OBJECT_STORE_BYTES = 80 * 1024 * 1024
ADMIN_SCOPES = ["*"]
Say = Callable[[str], None]
log = structlog.get_logger(__name__)


class StartError(Exception):
    """What kept the engine from starting, in a sentence for the person who started it."""


@dataclass
class Stack:
    """A running engine."""

    settings: Settings
    redis_url: str
    base_urls: list[str]
    api_key: str
    runtime_dir: Path
    supervisor: Any
    server: EmbeddedServer | None
    pids: dict[str, int] = field(default_factory=dict)


async def find_free_ports(settings: Settings) -> list[int]:
    """The gateways' ports. A port that is taken is an error; 0 asks the system for free ones."""
    ports = []
    holders = []
    try:
        for n in range(settings.gateways):
            wanted = settings.port + n if settings.port else 0
            holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holders.append(holder)
            try:
                holder.bind((settings.host, wanted))
            except OSError as error:
                raise StartError(f"port {wanted} on {settings.host} is taken; choose another with --port") from error
            ports.append(int(holder.getsockname()[1]))
    finally:
        for holder in holders:
            holder.close()
    return ports


def set_ray_environment() -> None:
    """Ray reads these while it is being imported, so this comes first. A token of our own keeps its files out of HOME."""
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_enable_open_telemetry", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def start_ray(settings: Settings, temp_dir: Path) -> None:
    """Join the cluster that the settings name, or start a local one for this process tree alone."""
    import ray

    from engine.actors.options import NAMESPACE, SHARD_SLOT, SHARD_SLOTS_PER_MACHINE

    if settings.ray_address:
        ray.init(address=settings.ray_address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
        return
    ray.init(
        address="local",
        namespace=NAMESPACE,
        num_cpus=os.cpu_count(),
        resources={SHARD_SLOT: SHARD_SLOTS_PER_MACHINE},
        object_store_memory=RAY_OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=True,
        configure_logging=False,
        _temp_dir=str(temp_dir),
        _node_ip_address="127.0.0.2",  # 127.0.0.1 is rewritten to an outside address of the machine
    )


def _start_ray_patiently(settings: Settings, temp_dir: Path) -> None:
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


@asynccontextmanager
async def running_stack(settings: Settings, *, say: Say = lambda _: None) -> AsyncIterator[Stack]:
    """Start everything, yield it once it is ready, stop it in order. Raises StartError with a sentence that helps."""
    set_up_logging(settings)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    ports = await find_free_ports(settings)
    server: EmbeddedServer | None = None
    folder = runtime_dir(settings.data_dir, settings.runtime_dir)
    if settings.redis_url is None:
        server = EmbeddedServer()
        try:
            await asyncio.to_thread(server.start, settings.data_dir)
        except EmbeddedError as error:
            raise StartError(str(error)) from error
        say(f"journal server {'adopted' if server.adopted else 'started'} (pid {server.pid})")
        redis_url = server.url
    else:
        redis_url = settings.redis_url.get_secret_value()
    settings = settings.model_copy(update={"redis_url": SecretStr(redis_url), "runtime_dir": folder})
    settings_json = dump_settings(settings)
    reviver = asyncio.create_task(_keep_server(server)) if server is not None else None
    await _check_journal(settings)
    set_ray_environment()
    import ray

    try:
        say("starting Ray")
        await asyncio.to_thread(_start_ray_patiently, settings, folder / "ray")
        from engine.actors.options import supervisor_actor

        supervisor = supervisor_actor().remote(settings_json, str(folder), ports)
        keeper = asyncio.create_task(_keep_supervisor(supervisor))
        try:
            directory = Directory(redis_url)
            token = settings.cluster_token.get_secret_value() if settings.cluster_token else ""
            cluster = Cluster(directory.find, kinds=("placement", "key"), token=token)
            await cluster.start()
            say("recovering the control shard")
            if not await cluster.wait_configured(START_TIMEOUT_S):
                raise StartError("the control shard did not come up; see the log above")
            await _settle_placement(cluster, settings)
            api_key = await _settle_admin_key(cluster, settings)
            say(f"recovering {settings.shards} shard{'s' if settings.shards > 1 else ''}")
            await supervisor.start_rest.remote()
            try:
                await asyncio.wait_for(supervisor.wait_shards.remote(), START_TIMEOUT_S)
            except TimeoutError:
                raise StartError("not every shard came up; see the log above") from None
            base_urls = [f"http://{settings.host}:{port}" for port in ports]
            await _wait_ready(base_urls)
            await cluster.close()
            await directory.close()
            stack = Stack(settings, redis_url, base_urls, api_key, folder, supervisor, server)
            stack.pids = await supervisor.pids.remote()
            yield stack
        finally:
            say("stopping")
            await _stop_actors(supervisor)
            keeper.cancel()
    finally:
        await asyncio.to_thread(ray.shutdown)
        if server is not None and reviver is not None:
            reviver.cancel()
            await asyncio.gather(reviver, return_exceptions=True)
            await asyncio.to_thread(server.stop)


async def _keep_server(server: EmbeddedServer) -> None:
    """The embedded server is ours alone: if it dies it is started again on the same files. Shards wait for it meanwhile."""
    while True:
        await asyncio.sleep(SERVER_CHECK_S)
        try:
            if await asyncio.to_thread(server.revive):
                log.warning("journal server had died, started again", pid=server.pid)
        except EmbeddedError as error:
            log.error("journal server cannot be started again", error=str(error))


async def _check_journal(settings: Settings) -> None:
    """Say at once what keeps the server from holding a journal, rather than have every shard say it."""
    journal = open_journal(settings, CONTROL_SHARD)
    try:
        problems = await journal.check_durability()
    except JournalError as error:
        raise StartError(str(error)) from error
    finally:
        await journal.close()
    if problems and settings.durability == "always":
        raise StartError("; ".join(problems) + " (QM_DURABILITY=unverified starts all the same)")


def dump_settings(settings: Settings) -> str:
    """Settings as JSON with their secrets: handed to our own actors only, never logged."""
    values = settings.model_dump(mode="json")
    for name in ("redis_url", "cluster_token"):
        secret: SecretStr | None = getattr(settings, name)
        values[name] = secret.get_secret_value() if secret is not None else None
    return msgspec.json.encode(values).decode()


async def _keep_supervisor(supervisor: Any) -> None:
    """One open `run` call; after a restart of the supervisor it is told again what to keep."""
    import ray

    while True:
        try:
            await supervisor.run.remote()
        except ray.exceptions.RayError:
            await asyncio.sleep(0.2)
            try:
                await supervisor.start_rest.remote()
            except ray.exceptions.RayError:
                continue


async def _stop_actors(supervisor: Any) -> None:
    import ray

    try:
        await asyncio.wait_for(supervisor.stop.remote(), 15.0)
    except (TimeoutError, ray.exceptions.RayError):
        return  # the cluster goes down next; nothing that was acknowledged is lost by that


async def _settle_placement(cluster: Cluster, settings: Settings) -> None:
    """The first start lays out the map; a later one must ask for as many shards as there are."""
    if cluster.catalog.version and await _has_placement(cluster):
        have = cluster.catalog.placement.shard_count
        if have != settings.shards:
            raise StartError(
                f"this data folder is laid out for {have} shard{'s' if have > 1 else ''}, {settings.shards} were asked "
                f"for; start with --shards {have} (moving shards is not offered yet)"
            )
        return
    document = msgspec.json.encode(Placement(shard_count=settings.shards))
    await _put(cluster, PutConfig("placement", (document,)))


async def _has_placement(cluster: Cluster) -> bool:
    return isinstance(await cluster.ask(CONTROL_SHARD, GetConfig("placement", "")), ConfigReply)


async def _settle_admin_key(cluster: Cluster, settings: Settings) -> str:
    """The key of the first start, kept in the data folder with mode 0600."""
    path = settings.data_dir / ADMIN_KEY_FILE
    if path.exists():
        return path.read_text().strip()
    key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    key = ApiKey(
        key_id=key_id, name="admin", secret_sha256=sha256(secret.encode()).hexdigest(), scopes=list(ADMIN_SCOPES)
    )
    await _put(cluster, PutConfig("key", (msgspec.json.encode(key),)))
    text = f"qm_{key_id}_{secret}"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text + "\n")
    return text


async def _put(cluster: Cluster, command: PutConfig) -> None:
    reply = await cluster.ask(CONTROL_SHARD, command, timeout_s=30.0)
    if isinstance(reply, Problem) or not isinstance(reply, Done | ConfigReply):
        raise StartError(f"the control shard refused the {command.kind}: {reply}")


async def _wait_ready(base_urls: list[str]) -> None:
    """Until every gateway answers /readyz with 200."""
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
    async with httpx.AsyncClient(timeout=2.0) as client:
        for url in base_urls:
            last = "no answer"
            while True:
                try:
                    response = await client.get(url + "/readyz")
                    if response.status_code == 200:
                        break
                    last = response.text[:300]
                except httpx.HTTPError as error:
                    last = repr(error)
                if asyncio.get_running_loop().time() > deadline:
                    raise StartError(f"the gateway at {url} did not become ready: {last}")
                await asyncio.sleep(0.1)
