"""Wiring: the embedded server, Ray, the supervisor and all it makes, as one thing that starts and stops in order."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import msgspec
import structlog
from pydantic import SecretStr

from engine.actors.journals import open_journal
from engine.bootstrap_logs import ActorLogs
from engine.bootstrap_ray import (
    StartError,
    check_machines,
    end_leftovers,
    forget_old_sessions,
    in_thread,
    kill_actors,
    logs_folder,
    set_ray_environment,
    start_ray,
    start_ray_patiently,
)
from engine.client.cluster import Cluster
from engine.client.neighbour import living_neighbour
from engine.domain.api_keys import KEY_ID_BYTES, PREFIX, SECRET_BYTES
from engine.domain.commands import GetConfig, PutConfig
from engine.domain.config import QUOTE_SECRET, ApiKey, Placement, Secret
from engine.domain.move_commands import AddShard
from engine.domain.placement import CONTROL_SHARD, serving_shards
from engine.domain.replies import ConfigReply, Done, Problem
from engine.journal.connection import parse_url
from engine.journal.discovery import Directory
from engine.journal.embedded import EmbeddedError, EmbeddedServer, hold_folder, runtime_dir
from engine.journal.port import JournalError
from engine.logs import set_up_logging
from engine.ports import reserve_port, url_of
from engine.settings import Settings

START_TIMEOUT_S = 600.0
"""For shards and gateways to serve. A start says again and again what it waits for; a busy machine is no reason to give it up."""
SERVER_CHECK_S = 0.5
SUPERVISOR_RETRY_S = 0.2
ADMITTED_CHECK_S = 0.02
ADMIN_KEY_FILE = "admin.key"
ADMIN_SCOPES = ["*"]
Say = Callable[[str], None]
log = structlog.get_logger(__name__)

__all__ = ["Stack", "StartError", "dump_settings", "running_stack", "set_ray_environment", "start_ray"]


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


def reserve_ports(settings: Settings, undo: AsyncExitStack) -> list[int]:
    """The gateways' ports, kept from others until `undo` ends, where `reserves_ports`. A port that is taken is an error; 0 asks for free ones."""
    ports = []
    with ExitStack() as looked_at:
        kept = undo if settings.reserves_ports else looked_at
        for n in range(settings.gateways):
            wanted = settings.port + n if settings.port else 0
            try:
                holder = kept.enter_context(reserve_port(settings.host, wanted))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise StartError(
                        f"port {wanted} on {settings.host} is taken; choose another with --port"
                    ) from error
                where = f"{settings.host}, port {wanted}" if wanted else settings.host
                raise StartError(f"cannot listen on {where}: {error.strerror}") from error
            ports.append(int(holder.getsockname()[1]))
    return ports


@asynccontextmanager
async def running_stack(settings: Settings, *, say: Say = lambda _: None) -> AsyncIterator[Stack]:
    """Start everything, yield it once it is ready, stop it in order. Raises StartError with a sentence that helps."""
    set_up_logging(settings)
    async with AsyncExitStack() as undo:
        try:
            folder = runtime_dir(settings.data_dir, settings.runtime_dir)
            server = await _start_server(settings, undo, say)
        except EmbeddedError as error:
            raise StartError(str(error)) from error
        ports = reserve_ports(settings, undo)
        redis_url = server.url if server is not None else _external_url(settings)
        absolute = settings.data_dir.resolve()  # archive and index are found from any working folder
        settings = settings.model_copy(
            update={"redis_url": SecretStr(redis_url), "runtime_dir": folder, "data_dir": absolute}
        )
        _check_archive(settings)
        await _check_journal(settings)
        if server is None and settings.ray_address is None:
            await _check_neighbour(settings, say)
        set_ray_environment(joins=settings.ray_address is not None)
        say("starting Ray")
        supervisor = await _start_supervisor(settings, folder, ports, undo, say)
        keeper = SupervisorKeeper(supervisor)
        undo.callback(keeper.stop)
        try:
            api_key = await _start_shards(settings, keeper, say)
            base_urls = [url_of(settings.host, port) for port in ports]
            await _wait_ready(base_urls, say)
            stack = Stack(settings, redis_url, base_urls, api_key, folder, supervisor, server)
            stack.pids = await supervisor.pids.remote()
        except _ray_error() as error:
            raise StartError(f"Ray: {str(error).splitlines()[0]}") from error
        yield stack


def _external_url(settings: Settings) -> str:
    assert settings.redis_url is not None
    url = settings.redis_url.get_secret_value()
    try:
        parse_url(url)
    except ValueError as error:
        raise StartError(f"QM_REDIS_URL: {error}") from error
    return url


async def _check_neighbour(settings: Settings, say: Say) -> None:
    """A server of your own may be in use by another engine: the newer of the two would end the other's shards, in turns."""
    assert settings.redis_url is not None
    directory = Directory(settings.redis_url.get_secret_value())
    token = settings.cluster_token.get_secret_value() if settings.cluster_token else ""
    say("looking for another engine on this server")
    try:
        where = await living_neighbour(directory.find, token=token)
    except JournalError as error:
        raise StartError(f"the journal's server: {error}") from error
    finally:
        await directory.close()
    if where is not None:
        raise StartError(
            f"another engine works on this server: its control shard answers at {where}. Stop it first, or give this one "
            "a server (or a database number) of its own"
        )


async def _start_server(settings: Settings, undo: AsyncExitStack, say: Say) -> EmbeddedServer | None:
    """The embedded server, or None where the settings name another. The data folder is ours alone in both cases."""
    if settings.redis_url is not None:
        undo.callback(os.close, hold_folder(settings.data_dir))
        return None
    server = EmbeddedServer()

    async def stop() -> None:
        if server.started:
            await in_thread(server.stop)

    undo.push_async_callback(stop)
    await in_thread(partial(server.start, settings.data_dir, runtime=settings.runtime_dir))
    say(f"journal server {'adopted' if server.adopted else 'started'} (pid {server.pid})")
    reviver = asyncio.create_task(_keep_server(server))

    async def stop_reviving() -> None:
        reviver.cancel()
        await asyncio.gather(reviver, return_exceptions=True)

    undo.push_async_callback(stop_reviving)
    return server


async def _start_supervisor(settings: Settings, folder: Path, ports: list[int], undo: AsyncExitStack, say: Say) -> Any:
    """Start or join Ray and make the supervisor; both are stopped by `undo`."""
    import ray

    logs = ActorLogs()
    undo.push_async_callback(in_thread, logs.stop)
    undo.push_async_callback(in_thread, ray.shutdown)
    forget_old_sessions(folder / "ray")
    await in_thread(partial(start_ray_patiently, settings, folder / "ray"))
    from engine.actors.options import supervisor_actor

    if settings.ray_address is None:
        logs.start(logs_folder())
    else:
        await in_thread(partial(check_machines, settings))
        await end_leftovers(settings)
    supervisor = supervisor_actor().remote(dump_settings(settings), str(folder), ports)

    async def stop() -> None:
        say("stopping")
        await _stop_actors(supervisor)
        if settings.ray_address:  # a cluster of our own goes down with all of them; this one stays
            await in_thread(kill_actors)

    undo.push_async_callback(stop)
    return supervisor


def _ray_error() -> type[Exception]:
    """Ray is imported late: its base exception."""
    import ray

    return ray.exceptions.RayError  # type: ignore[no-any-return]


async def _start_shards(settings: Settings, keeper: SupervisorKeeper, say: Say) -> str:
    """Control shard, placement, key, stock shards, gateways; returns the admin key."""
    assert settings.redis_url is not None
    directory = Directory(settings.redis_url.get_secret_value())
    token = settings.cluster_token.get_secret_value() if settings.cluster_token else ""
    cluster = Cluster(directory.find, kinds=("placement", "key"), token=token)
    try:
        await cluster.start()
        say("recovering the control shard")
        await _wait_configured(cluster)
        shards = await _settle_placement(cluster, settings)
        await _settle_quote_secret(cluster)
        api_key = await _settle_admin_key(cluster, settings)
        say(f"recovering {len(shards)} shard{'s' if len(shards) > 1 else ''}")
        await keeper.start_rest()
        try:
            await asyncio.wait_for(keeper.supervisor.wait_shards.remote(shards), START_TIMEOUT_S)
            await asyncio.wait_for(_wait_admitted(cluster, shards), START_TIMEOUT_S)
        except TimeoutError:
            raise StartError("not every shard came up; see the log above") from None
    finally:
        await cluster.close()
        await directory.close()
    return api_key


async def _wait_configured(cluster: Cluster) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not await cluster.wait_configured(1.0):
        if cluster.refusal is not None and cluster.refusal.code == "frozen":
            raise StartError(f"the control shard: {cluster.refusal.detail}")
        if time.monotonic() > deadline:
            raise StartError("the control shard did not come up; see the log above")


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
        await journal.check_fit()
    except JournalError as error:
        raise StartError(str(error)) from error
    finally:
        await journal.close()


def _check_archive(settings: Settings) -> None:
    """Say at once what the archiver and the gateways could only say to the log. In the data folder nothing can be wrong."""
    if not settings.archives or (settings.archive_url is None and settings.index_url is None):
        return
    # Not above: this process lives as long as the engine, and SQLAlchemy and fsspec take 29 MB of it.
    from engine.archive.index import connect_index
    from engine.archive.places import archive_url, index_url
    from engine.archive.store import SegmentStore

    try:
        SegmentStore(archive_url(settings))
        connect_index(index_url(settings)).dispose()
    except ValueError as error:
        raise StartError(str(error)) from error


def dump_settings(settings: Settings) -> str:
    """Settings as JSON with their secrets: handed to our own actors only, never logged."""
    values = settings.model_dump(mode="json")
    for name in ("redis_url", "cluster_token", "index_url"):
        secret: SecretStr | None = getattr(settings, name)
        values[name] = secret.get_secret_value() if secret is not None else None
    return msgspec.json.encode(values).decode()


class SupervisorKeeper:
    """Keeps one `run` call of the supervisor open: when its process ends, Ray starts it again, and it is told again what to keep."""

    def __init__(self, supervisor: Any) -> None:
        self.supervisor = supervisor
        self._rest = False
        self._task = asyncio.create_task(self._keep())

    async def start_rest(self) -> None:
        """Have all but the control shard made, and made again by every later supervisor process."""
        self._rest = True
        await self.supervisor.start_rest.remote()

    def stop(self) -> None:
        self._task.cancel()

    async def _keep(self) -> None:
        import ray

        while True:
            try:
                await self.supervisor.run.remote(rest=self._rest)
            except ray.exceptions.RayError as error:
                log.warning("the supervisor ended, Ray restarts it", error=str(error).splitlines()[0])
            await asyncio.sleep(SUPERVISOR_RETRY_S)


async def _stop_actors(supervisor: Any) -> None:
    import ray

    try:
        await asyncio.wait_for(supervisor.stop.remote(), 15.0)
    except (TimeoutError, ray.exceptions.RayError):
        return  # the cluster goes down next; nothing that was acknowledged is lost by that


async def _settle_placement(cluster: Cluster, settings: Settings) -> list[int]:
    """The first start lays out the map; a later one can add shards to it. Returns the shards that shall serve.

    Numbers that were ever given count: a start like the one before does not bring back a shard that has ended since.
    """
    reply = await cluster.ask(CONTROL_SHARD, GetConfig("placement", ""), timeout_s=30.0)
    if isinstance(reply, Problem) and reply.code == "not_found":
        document = msgspec.json.encode(Placement(shard_count=settings.shards))
        await _put(cluster, PutConfig("placement", (document,), if_version=0))
        return list(range(settings.shards))
    if not isinstance(reply, ConfigReply):
        raise StartError(f"the control shard does not say how many shards there are: {reply}")
    placement = msgspec.json.decode(reply.documents[0].document, type=Placement)
    new = range(placement.shard_count, settings.shards)
    for number in new:
        added = await cluster.ask(CONTROL_SHARD, AddShard(number), timeout_s=30.0)
        if not isinstance(added, ConfigReply):
            raise StartError(f"the control shard adds no shard: {added}")
    return [*serving_shards(placement), *new]


async def _wait_admitted(cluster: Cluster, shards: list[int]) -> None:
    """Until others ask the shards that were added: the supervisor sees to that."""
    while True:
        if set(shards) <= set(cluster.shards):
            return
        await asyncio.sleep(ADMITTED_CHECK_S)


async def _settle_admin_key(cluster: Cluster, settings: Settings) -> str:
    """The key of the first start, kept in the data folder with mode 0600. One that the journal does not know is put there again."""
    path = settings.data_dir / ADMIN_KEY_FILE
    text = path.read_text().strip() if path.exists() else ""
    mark, _, rest = text.partition("_")
    key_id, _, secret = rest.partition("_")
    if mark != "qm" or not key_id or not secret:
        key_id, secret = secrets.token_hex(KEY_ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
        text = f"{PREFIX}{key_id}_{secret}"
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text + "\n")
        draft.replace(path)
    known = cluster.catalog.keys.get(key_id)
    if known is None:
        digest = sha256(secret.encode()).hexdigest()
        key = ApiKey(key_id=key_id, name="admin", secret_sha256=digest, scopes=list(ADMIN_SCOPES))
        await _put(cluster, PutConfig("key", (msgspec.json.encode(key),)))
    return text


async def _settle_quote_secret(cluster: Cluster) -> None:
    """What quotes are sealed with: made at the first start that knows of it, and journaled like all configuration."""
    reply = await cluster.ask(CONTROL_SHARD, GetConfig("secret", QUOTE_SECRET), timeout_s=30.0)
    if isinstance(reply, Problem) and reply.code == "not_found":
        document = msgspec.json.encode(Secret(secret_id=QUOTE_SECRET, value=secrets.token_hex(32)))
        await _put(cluster, PutConfig("secret", (document,), if_version=0))


async def _put(cluster: Cluster, command: PutConfig) -> None:
    reply = await cluster.ask(CONTROL_SHARD, command, timeout_s=30.0)
    if isinstance(reply, Problem) or not isinstance(reply, Done | ConfigReply):
        raise StartError(f"the control shard refused the {command.kind}: {reply}")


async def _wait_ready(base_urls: list[str], say: Say) -> None:
    """Until every gateway answers /readyz with 200, or says that a shard refuses writes: the others serve, people must look."""
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
                    if ": frozen" in last:
                        say(f"NOT ALL IS WELL: a shard refuses writes, see `quartermaster status`: {last}")
                        break
                except httpx.HTTPError as error:
                    last = repr(error)
                if asyncio.get_running_loop().time() > deadline:
                    raise StartError(f"the gateway at {url} did not become ready: {last}")
                await asyncio.sleep(0.1)
