"""A shard as its actor hosts it, in this process: real runner, real sockets, a journal in memory or on a server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from pathlib import Path

import msgspec
from pydantic import SecretStr

from engine.actors.runner import Runner
from engine.actors.server import ShardServer
from engine.client.cluster import Cluster
from engine.client.link import host_id
from engine.domain.catalog import Catalog
from engine.domain.commands import AdjustStock, PutConfig, StockMove
from engine.domain.config import Document
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import ConfigReply, StockReply
from engine.journal.discovery import Found
from engine.journal.memory import MemoryJournal, MemoryServer
from engine.journal.port import Journal
from engine.protocol.control_core import ControlCore
from engine.protocol.effects import Core
from engine.protocol.shard_core import ShardCore
from engine.settings import Settings
from tests.builders import KIND_OF, a_network
from tests.sim.greedy_planner import GreedyPlanner


class Directory:
    """Who serves what, as the journal's server would say."""

    def __init__(self) -> None:
        self.found: dict[int, Found] = {}

    async def find(self, shard: int) -> Found | None:
        return self.found.get(shard)


class HostedShard:
    """One running shard; `stop` drops it without a farewell, as a crash would."""

    def __init__(
        self, shard: int, folder: Path, server: MemoryServer, directory: Directory, **settings: object
    ) -> None:
        self.shard = shard
        self.settings = Settings(**{"snapshot_interval_s": 0.05, **settings})
        self.token = self.settings.cluster_token.get_secret_value() if self.settings.cluster_token else ""
        self.directory = directory
        self.folder = folder
        self.journal: Journal = MemoryJournal(server, shard)
        self.core: Core | None = None
        self.cluster: Cluster | None = None
        self.runner: Runner | None = None
        self._sockets: ShardServer | None = None

    async def start(self, core: Core | None = None) -> HostedShard:
        if core is None and self.shard == 255:
            core = ControlCore()
        elif core is None:
            catalog = Catalog(self.shard)
            self.cluster = Cluster(self.directory.find, token=self.token, peer=self.shard, catalog=catalog)
            await self.cluster.start()
            assert await self.cluster.wait_configured(60.0)
            core = ShardCore(self.shard, catalog, GreedyPlanner)
            self.cluster.on_config = core.configure
        self.core = core
        box: list[Runner] = []
        self._sockets = ShardServer(
            self.shard,
            token=self.token,
            on_commands=lambda conn, items: box[0].on_commands(conn, items),
            on_left=lambda conn: box[0].on_left(conn),
        )
        self.runner = Runner(core, self.journal, self._sockets, self.settings, cluster=self.cluster)
        box.append(self.runner)
        path = self.folder / f"{self.shard}-{uuid.uuid4().hex[:8]}.sock"
        await self._sockets.listen_unix(path)
        address = f"unix:{host_id()}:{path}"
        if self.settings.tcp:
            address = f"tcp:127.0.0.1:{await self._sockets.listen_tcp('127.0.0.1')}"
        acquired = await self.journal.acquire(uuid.uuid4().hex, [address])
        await self.runner.start(acquired)
        if self.cluster is not None:
            self.runner.follow_peers()
        self.directory.found[self.shard] = Found(self.shard, acquired.epoch, (address,))
        return self

    async def stop(self) -> None:
        assert self.runner is not None
        await self.runner.close()
        if self.cluster is not None:
            await self.cluster.close()
        await asyncio.sleep(0)


class Engine:
    """A control shard, stock shards and an asker, all in this process. What must not be answered is asked with a deadline of its own."""

    def __init__(self, folder: Path, shards: int, *, token: str = "", **settings: object) -> None:
        if token:
            settings["cluster_token"] = SecretStr(token)
        self.folder = folder
        self.settings = settings
        self.server = MemoryServer()
        self.directory = Directory()
        self.control = HostedShard(CONTROL_SHARD, folder, self.server, self.directory, **settings)
        self.stock = [HostedShard(n, folder, self.server, self.directory, **settings) for n in range(shards)]
        self.cluster = Cluster(self.directory.find, token=token, timeout_s=60.0)

    async def start(self, documents: Sequence[Document] = ()) -> Engine:
        await self.control.start()
        await self.cluster.start()
        assert await self.cluster.wait_configured(60.0)
        for document in documents or a_network(nodes=4, items=3, shards=len(self.stock)):
            await self.put(document)
        for shard in self.stock:
            await shard.start()
        return self

    async def put(self, document: Document) -> None:
        kind = KIND_OF[type(document)]
        reply = await self.cluster.ask(CONTROL_SHARD, PutConfig(kind, (msgspec.json.encode(document),)), timeout_s=30.0)
        assert isinstance(reply, ConfigReply), reply

    async def stock_up(self, node_id: str, sku: str, units: int) -> StockReply:
        shard = self.cluster.shard_of_node(node_id)
        assert shard is not None
        reply = await self.cluster.ask(shard, AdjustStock(node_id, (StockMove(sku, "received", units),)))
        assert isinstance(reply, StockReply), reply
        return reply

    async def restart(self, shard: int) -> HostedShard:
        """Drop a stock shard as a crash would, and start it anew on what the journal has."""
        old = self.stock[shard]
        await old.stop()
        fresh = HostedShard(shard, self.folder, self.server, self.directory, **self.settings)
        self.stock[shard] = fresh
        return await fresh.start()

    async def close(self) -> None:
        await self.cluster.close()
        for shard in [*self.stock, self.control]:
            await shard.stop()
