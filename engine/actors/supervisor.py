"""Makes every other actor, once, and keeps one `run` call open to each: it ends when the process does, Ray starts the process
again, and the supervisor calls again. Placement and restart are Ray's; this only says what there is.

Which shards there are, the placement map says: the control shard's journal holds it, so that a supervisor that is killed between
two steps finds what is left to do. A shard that was added is made, and admitted once it serves; one that has ended is stopped.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import structlog

from engine.client.cluster import Cluster
from engine.domain.config import Placement
from engine.domain.move_commands import AdmitShard
from engine.domain.placement import CONTROL_SHARD, running_shards
from engine.domain.replies import ConfigReply
from engine.journal.discovery import Directory
from engine.logs import set_up_logging
from engine.settings import Settings

AGAIN_MIN_S = 0.05
AGAIN_MAX_S = 2.0
GATEWAY_STOP_S = 12.0
MAP_S = 0.1
"""How often it is looked whether the placement map has changed."""
ADMIT_TIMEOUT_S = 5.0
ADMIT_RETRY_S = 0.5
END_GRACE_S = 2.0
"""How long a shard that has ended still answers `moved`, for those that have not heard of it."""
MACHINES_S = 5.0
"""How often the machines of a cluster are looked at."""
SOLVER = "solver"
log = structlog.get_logger(__name__)


class Supervisor:
    """A plain class; Ray's part is in options.py."""

    def __init__(self, settings_json: str, runtime_dir: str, ports: list[int]) -> None:
        self._settings = Settings.model_validate_json(settings_json)
        self._settings_json = settings_json
        self._runtime_dir = runtime_dir
        self._ports = ports
        self._actors: dict[str, Any] = {}
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._following: asyncio.Task[None] | None = None
        self._following_map: asyncio.Task[None] | None = None
        self._joining: dict[int, asyncio.Task[None]] = {}
        self._ending: dict[int, asyncio.Task[None]] = {}
        self._started = False
        self._stopping = False

    async def ping(self) -> int:
        """Process id of the actor."""
        return os.getpid()

    async def serves(self, redis_url: str) -> bool:
        """Whether this engine keeps its journal on that server."""
        mine = self._settings.redis_url
        return mine is not None and mine.get_secret_value() == redis_url

    async def run(self, *, rest: bool = False) -> None:
        """Make the control shard, and stay. `rest` = and all others, as after `start_rest`: this process is a new one."""
        set_up_logging(self._settings)
        from engine.actors.options import shard_actor

        self._keep("control", shard_actor(CONTROL_SHARD), CONTROL_SHARD, self._settings_json, self._runtime_dir)
        if rest or self._started:
            await self.start_rest()
        await asyncio.Event().wait()

    async def start_rest(self) -> None:
        """Make stock shards, the solver and the gateways; returns at once, repeating it changes nothing."""
        from engine.actors.options import archiver_actor, gateway_actor, machine_here

        self._started = True
        if self._following_map is None:
            self._following_map = asyncio.get_running_loop().create_task(self._follow_map())
        if self._settings.solver_in_flight_max:
            self._keep_solvers(machine_here(), set())
            if self._settings.ray_address and self._following is None:
                self._following = asyncio.get_running_loop().create_task(self._follow_machines())
        if self._settings.archives:
            self._keep("archiver", archiver_actor(), self._settings_json)
        for port in self._ports:
            self._keep(f"gateway-{port}", gateway_actor(port), self._settings_json, port)

    # -- shards that come and go ------------------------------------------------------------------------------------

    async def _follow_map(self) -> None:
        settings = self._settings
        assert settings.redis_url is not None, "bootstrap sets the server's address"
        directory = Directory(settings.redis_url.get_secret_value())
        token = settings.cluster_token.get_secret_value() if settings.cluster_token else ""
        cluster = Cluster(directory.find, kinds=("placement",), token=token)
        await cluster.start()
        done: Placement | None = None
        while not self._stopping:
            is_known = await cluster.wait_configured(MAP_S)
            placement = cluster.catalog.placement
            if is_known and placement is not done:
                try:
                    self._follow(placement, cluster)
                    done = placement
                except Exception as error:
                    # Ray raises bare ones. Nothing but this loop brings shards and takes them away.
                    log.error("the placement map is not followed, trying again", error=repr(error))
            await asyncio.sleep(MAP_S)
        await cluster.close()
        await directory.close()

    def _follow(self, placement: Placement, cluster: Cluster) -> None:
        """Have what the map says; again at every change of it."""
        from engine.actors.options import shard_actor

        loop = asyncio.get_running_loop()
        for shard in running_shards(placement):
            self._keep(f"shard-{shard}", shard_actor(shard), shard, self._settings_json, self._runtime_dir)
            if shard in placement.joining and shard not in self._joining:
                log.info("adding a shard", shard=shard)
                self._joining[shard] = loop.create_task(self._admit(shard, cluster), name=f"admit-{shard}")
        for shard in placement.ended:
            if shard not in self._ending:
                self._ending[shard] = loop.create_task(self._end(shard), name=f"end-{shard}")

    async def _admit(self, shard: int, cluster: Cluster) -> None:
        """Once it serves, others ask it and parts can be moved to it."""
        await self._wait_serving(f"shard-{shard}")
        while not self._stopping:
            reply = await cluster.ask(CONTROL_SHARD, AdmitShard(shard), timeout_s=ADMIT_TIMEOUT_S)
            if isinstance(reply, ConfigReply):
                log.info("shard added", shard=shard)
                return
            await asyncio.sleep(ADMIT_RETRY_S)

    async def _end(self, shard: int) -> None:
        """Stop a shard for good. Its journal has everything; a supervisor before this one may have stopped it already."""
        import ray

        from engine.actors.options import NAMESPACE

        name = f"shard-{shard}"
        joining = self._joining.get(shard)
        if joining is not None:
            joining.cancel()
        if name in self._runs:
            await asyncio.sleep(END_GRACE_S)
            self._runs.pop(name).cancel()
        self._actors.pop(name, None)
        while not self._stopping:
            try:
                actor = await asyncio.to_thread(ray.get_actor, name, namespace=NAMESPACE)
            except ValueError:
                return  # there is none
            try:
                ray.kill(actor)
                log.info("shard ended", shard=shard)
                return
            except ray.exceptions.RayError as error:
                log.warning("a shard that has ended is not stopped yet", shard=shard, error=repr(error))
                await asyncio.sleep(AGAIN_MAX_S)

    # -- machines ---------------------------------------------------------------------------------------------------

    def _keep_solvers(self, here: str, others: set[str]) -> None:
        """One on each machine that may have shards, which reach it over a Unix socket; none where a machine is lost."""
        from engine.actors.options import solver_actor

        wanted = {SOLVER: here, **{f"{SOLVER}-{machine[:12]}": machine for machine in others - {here}}}
        for name, machine in wanted.items():
            self._keep(name, solver_actor(name, machine), self._settings_json, self._runtime_dir)
        for name in [name for name in self._runs if name.startswith(SOLVER) and name not in wanted]:
            self._runs.pop(name).cancel()
            self._actors.pop(name, None)

    async def _follow_machines(self) -> None:
        """Machines of a cluster come and go."""
        import ray

        from engine.actors.options import machine_here, shard_machines

        while not self._stopping:
            try:
                self._keep_solvers(machine_here(), await asyncio.to_thread(shard_machines))
            except ray.exceptions.RayError as error:
                log.warning("Ray does not say which machines there are", error=repr(error))
            await asyncio.sleep(MACHINES_S)

    async def wait_shards(self, shards: list[int]) -> None:
        """Returns once these stock shards serve, however often one had to be started for that."""
        for shard in shards:
            await self._wait_serving(f"shard-{shard}")

    async def _wait_serving(self, name: str) -> None:
        import ray

        while True:
            try:
                if name in self._actors:
                    await self._actors[name].wait_serving.remote()
                    return
            except ray.exceptions.RayError as error:
                log.debug("not serving yet", actor=name, error=repr(error))
            await asyncio.sleep(AGAIN_MIN_S)

    async def pids(self) -> dict[str, int]:
        """Process id by actor name; 0 where it does not answer."""
        out = {"supervisor": os.getpid()}
        for name, actor in list(self._actors.items()):
            try:
                out[name] = await asyncio.wait_for(actor.ping.remote(), 2.0)
            except Exception as error:
                # Ray raises several kinds while an actor restarts; all mean "no answer now", which is what 0 says.
                log.debug("no answer", actor=name, error=repr(error))
                out[name] = 0
        return out

    async def stop(self) -> None:
        """Stop the gateways in order (they drain); shards hold nothing that is not in the journal."""
        self._stopping = True
        await asyncio.gather(*(self._stop(name) for name in self._actors if name.startswith("gateway-")))
        if "archiver" in self._actors:
            await self._stop("archiver")

    async def _stop(self, name: str) -> None:
        try:
            await asyncio.wait_for(self._actors[name].stop.remote(), GATEWAY_STOP_S)
        except Exception as error:
            # What cannot be asked any more ends with its host.
            log.warning("not stopped in order", actor=name, error=repr(error))

    def _keep(self, name: str, options: Any, *arguments: Any) -> None:
        if name in self._runs:
            return
        self._runs[name] = asyncio.get_running_loop().create_task(self._keep_running(name, options, *arguments))

    async def _keep_running(self, name: str, options: Any, *arguments: Any) -> None:
        """One open `run` call after another."""
        import ray

        delay_s = AGAIN_MIN_S
        while not self._stopping:
            started = asyncio.get_running_loop().time()
            try:
                if name not in self._actors:
                    self._actors[name] = self._find_or_make(name, options, *arguments)
                await self._actors[name].run.remote()
            except ray.exceptions.ActorDiedError as error:
                log.error("actor is gone for good, making another", actor=name, error=str(error).splitlines()[0])
                self._actors.pop(name, None)
            except ray.exceptions.RayError as error:
                log.warning("actor ended, Ray restarts it", actor=name, error=str(error).splitlines()[0])
            except Exception as error:
                # Ray also raises bare ones (a name that is just being freed, say). This loop is all that keeps the actor up.
                log.error("actor cannot be kept, trying again", actor=name, error=repr(error))
                self._actors.pop(name, None)
            if asyncio.get_running_loop().time() - started > AGAIN_MAX_S:
                delay_s = AGAIN_MIN_S
            await asyncio.sleep(delay_s)
            delay_s = min(AGAIN_MAX_S, delay_s * 2)

    def _find_or_make(self, name: str, options: Any, *arguments: Any) -> Any:
        """After a restart of the supervisor its actors are still there under their names."""
        import ray

        from engine.actors.options import NAMESPACE

        actor_name = f"shard-{CONTROL_SHARD}" if name == "control" else name
        try:
            return ray.get_actor(actor_name, namespace=NAMESPACE)
        except ValueError:
            return options.remote(*arguments)
