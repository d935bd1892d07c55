"""The shard as an actor: a plain class with the life of one core in one process. Ray's part is in options.py.

The constructor is cheap. `run` recovers, serves and never returns: the supervisor keeps one call of it open, so that it learns
at once when the process died, and Ray starts it again.

Cores, runner and planner are imported by `run` alone: the supervisor, which makes this actor, needs none of them.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from engine.actors.journals import open_journal
from engine.actors.measures import Complaint
from engine.actors.server import ShardServer
from engine.actors.solver_client import SolverClient
from engine.client.cluster import Cluster
from engine.client.link import host_id
from engine.domain.catalog import Catalog
from engine.domain.commands import Command, GetStatus, PlaceOrder
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import ConfigDoc, Problem, Reply, StatusReply
from engine.journal.discovery import Directory
from engine.journal.port import Corrupt, Unavailable
from engine.journal.runtime import runtime_dir
from engine.large_pages import keep_making
from engine.logs import set_up_logging
from engine.protocol.effects import Core
from engine.settings import Settings

if TYPE_CHECKING:
    from engine.actors.planner import SolverPlanner
    from engine.actors.runner import Runner
    from engine.protocol.shard_core import ShardCore

CONFIG_WAIT_S = 30.0
ACQUIRE_RETRY_S = 0.2
PREPARE_AFTER_S = 0.1
"""After the last change of the configuration, the planner is made ready for it before an order has to wait for that."""
_decode_command = msgspec.msgpack.Decoder(Command)
_encode = msgspec.msgpack.Encoder().encode
log = structlog.get_logger(__name__)


class ShardActor:
    """One shard: number 255 is the control shard. `settings` as JSON, because Ray hands over bytes and text only."""

    def __init__(self, shard: int, settings_json: str, runtime_dir: str) -> None:
        self._shard = shard
        self._settings = Settings.model_validate_json(settings_json)
        self._runtime_dir = Path(runtime_dir)
        self._runner: Runner | None = None
        self._serving = asyncio.Event()
        self._started = False
        self._nonce = uuid.uuid4().hex

    async def ping(self) -> int:
        """Process id of the actor."""
        return os.getpid()

    async def call(self, packed: bytes) -> bytes:
        """One command as msgpack bytes; the same answer as over the socket. For tests and admin, not for traffic."""
        command = _decode_command.decode(packed)
        if self._runner is None:
            reply: Reply = Problem("unavailable", "the shard is recovering", (), retry_after_ms=500)
        else:
            reply = await self._runner.ask(command)
        return _encode(reply)

    async def wait_serving(self) -> None:
        """Returns once commands are answered."""
        await self._serving.wait()

    async def status(self) -> dict[str, Any]:
        """What `GetStatus` answers, and whether the shard is frozen."""
        if self._runner is None:
            return {"shard": self._shard, "state": "recovering"}
        reply = await self._runner.ask(GetStatus())
        facts = reply.facts if isinstance(reply, StatusReply) else {"problem": str(reply)}
        return {**facts, "state": "frozen" if self._runner.frozen else "serving", "why": self._runner.frozen}

    async def run(self) -> None:
        """Recover, serve, for as long as the process lives."""
        if not self._started:  # a restarted supervisor calls again
            self._started = True
            set_up_logging(self._settings)
            from engine.actors.runner import EXIT_BROKEN

            try:
                await self._start()
            except Exception:
                # Nothing half-started may live on: a fresh process tries again, the log says why this one could not.
                log.exception("cannot start", shard=self._shard)
                os._exit(EXIT_BROKEN)
            self._serving.set()
        await asyncio.Event().wait()

    async def _start(self) -> None:
        from engine.actors.runner import Runner
        from engine.protocol.control_core import ControlCore

        settings, shard = self._settings, self._shard
        token = settings.cluster_token.get_secret_value() if settings.cluster_token else ""
        assert settings.redis_url is not None
        directory = Directory(settings.redis_url.get_secret_value())
        cluster: Cluster | None = None
        core: Core
        if shard == CONTROL_SHARD:
            core = ControlCore()
        else:
            core, cluster = await self._configured_core(directory, token)
        runner_box: list[Runner] = []
        solver = None
        if cluster is not None:
            solver = SolverClient(self._runtime_dir / "solver.sock", rest_s=settings.solver_rest_s)

        def on_commands(conn: int, items: list[tuple[int, Command]]) -> None:
            if solver is not None and any(isinstance(command, PlaceOrder) for _, command in items):
                solver.orders_come()
            runner_box[0].on_commands(conn, items)

        server = ShardServer(
            shard,
            token=token,
            on_commands=on_commands,
            on_left=lambda conn: runner_box[0].on_left(conn),
        )
        journal = open_journal(settings, shard)
        runner = Runner(
            core,
            journal,
            server,
            settings,
            cluster=cluster,
            solve=solver.solve if solver is not None else None,
            archived=settings.archives,
        )
        runner_box.append(runner)
        runtime_dir(settings.data_dir, self._runtime_dir)  # on another machine of the cluster nobody has made it
        path = self._runtime_dir / f"s{shard}.sock"
        await server.listen_unix(path)
        addresses = [f"unix:{host_id()}:{path}"]
        if settings.tcp:
            listen_at, reach_at = self._tcp_hosts()
            port = settings.shard_port and settings.shard_port + (shard + 1) % (CONTROL_SHARD + 1)
            addresses.append(f"tcp:{reach_at}:{await server.listen_tcp(listen_at, port)}")
        complaint = Complaint()
        while True:
            try:
                acquired = await journal.acquire(self._nonce, addresses)
                break
            except Unavailable as error:
                if complaint.due():
                    log.warning("journal unreachable", shard=shard, error=str(error))
                await asyncio.sleep(ACQUIRE_RETRY_S)
            except Corrupt as error:
                runner.freeze(f"the journal does not verify: {error}")
                self._runner = runner
                return
        await runner.start(acquired)
        if cluster is not None:
            keep_making(wanted=settings.large_pages)
            runner.follow_peers()
        self._runner = runner

    def _tcp_hosts(self) -> tuple[str, str]:
        """(where to listen, what other machines call this one)."""
        host = self._settings.shard_host
        if host not in ("node", "0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            return host, host
        import ray

        node = str(ray.util.get_node_ip_address())
        return (node if host == "node" else host), node

    async def _configured_core(self, directory: Directory, token: str) -> tuple[ShardCore, Cluster]:
        """A stock core with the whole configuration, its kernel warm, and the links to its peers."""
        from engine.actors.planner import SolverPlanner
        from engine.protocol.hold_caps import HoldLimits
        from engine.protocol.shard_core import ShardCore

        settings = self._settings
        catalog = Catalog(self._shard)
        cluster = Cluster(directory.find, token=token, peer=self._shard, catalog=catalog, timeout_s=5.0)
        await cluster.start()
        while not await cluster.wait_configured(CONFIG_WAIT_S):
            log.warning("waiting for the control shard", shard=self._shard)
        core = ShardCore(
            self._shard,
            catalog,
            lambda state: SolverPlanner(state, settings),
            dedupe_max=settings.dedupe_max,
            solver_deadline_ms=settings.solver_deadline_ms,
            solver_in_flight_max=settings.solver_in_flight_max,
            close_after_ms=settings.close_after_s * 1_000,
            assume_delivered_after_ms=settings.assume_delivered_after_days * 86_400_000,
            hold_limits=HoldLimits(
                settings.hold_units_per_key, settings.hold_units_per_customer, settings.hold_position_share_bp
            ),
        )
        planner = core.planner
        assert isinstance(planner, SolverPlanner)
        planner.prepare(now_ms=settings.pace.now_ms())
        cluster.on_config = self._on_config(core, planner)
        return core, cluster

    def _on_config(self, core: ShardCore, planner: SolverPlanner) -> Callable[[Iterable[ConfigDoc], int], None]:
        loop, settings = asyncio.get_running_loop(), self._settings
        due: asyncio.TimerHandle | None = None

        def apply(docs: Iterable[ConfigDoc], version: int) -> None:
            nonlocal due
            if self._runner is not None:
                self._runner.configure(docs, version)
            else:
                core.configure(docs, version)
            # Not at every push: a network of thousands of nodes that comes one by one is compiled once.
            if due is not None:
                due.cancel()
            due = loop.call_later(PREPARE_AFTER_S, prepare)

        def prepare() -> None:
            planner.prepare(now_ms=settings.pace.now_ms())

        return apply
