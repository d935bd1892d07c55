"""An engine for gateway tests: real shards behind real sockets in this process, a real gateway over them.

The journal is in memory and the planner is the greedy one of the simulator; all between the client and the decision is real.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import sqlalchemy as sa
import uvicorn

from engine.archive.fold import Fold
from engine.archive.index import IndexWriter, migrate
from engine.archive.segment import Record
from engine.archive.store import SegmentStore
from engine.archive.writer import ArchiveWriter
from engine.client.cluster import Cluster
from engine.domain.api_keys import new_key
from engine.domain.commands import AdjustStock, PutConfig, StockMove
from engine.domain.config import KINDS, QUOTE_SECRET, ApiKey, Document, Secret
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import ConfigReply, StockReply
from engine.journal.chain import pack_decisions, pack_entry
from engine.journal.memory import MemoryServer
from engine.journal.port import Entry, Tail, Unavailable
from engine.settings import Settings
from gateway.__main__ import CONFIG_KINDS, GatewayServer, server_config
from gateway.app import create_app
from gateway.asgi import Door
from gateway.stream.live import Live
from tests.builders import a_network
from tests.conftest import eventually
from tests.contract.shard_host import Directory, HostedShard

_KIND_OF = {cls: kind for kind, cls in KINDS.items()}
_keys = itertools.count(1)


class MemoryFeed:
    """engine.archive.feed.JournalFeed over a journal in memory."""

    def __init__(self, server: MemoryServer, shard: int) -> None:
        self._server = server
        self._shard = shard

    def _reach(self) -> Any:
        if self._server.down:
            raise Unavailable("the memory server is down")
        return self._server.shard(self._shard)

    async def tail(self) -> Tail | None:
        return self._reach().tail  # type: ignore[no-any-return]

    async def entries(self, *, after_seq: int, limit: int, wait_ms: int = 0) -> list[Record]:
        deadline = asyncio.get_running_loop().time() + wait_ms / 1_000
        while True:
            kept = self._reach().entries
            seqs = [seq for seq in sorted(kept) if seq > after_seq][:limit]
            if seqs or asyncio.get_running_loop().time() >= deadline:
                return [self._record(kept[seq]) for seq in seqs]
            await asyncio.sleep(0.002)

    @staticmethod
    def _record(entry: Entry) -> Record:
        tail = Tail(entry.epoch, entry.seq, entry.hash, entry.time_ms)
        return Record(entry.seq, entry.epoch, pack_entry(entry.prev_hash, tail, entry.payload, entry.schema), b"")

    async def close(self) -> None:
        await asyncio.sleep(0)


class GatewayEngine:
    """`client` speaks ASGI to the gateway with the admin key; `token` makes more keys."""

    def __init__(self, folder: Path, *, shards: int = 2, **settings: Any) -> None:
        self.settings = Settings(**{"archive_url": "off", **settings})  # nobody here archives
        self.server = MemoryServer()
        self.directory = Directory()
        self.control = HostedShard(CONTROL_SHARD, folder, self.server, self.directory)
        self.stock = [HostedShard(n, folder, self.server, self.directory) for n in range(shards)]
        self.cluster = Cluster(
            self.directory.find, kinds=CONFIG_KINDS, timeout_s=self.settings.request_timeout_ms / 1_000
        )
        self.door: Door
        self.client: httpx.AsyncClient
        self.admin = ""
        self.uvicorn: GatewayServer

    def archive(self, store: SegmentStore, database: sa.Engine) -> None:
        """Archive and index all that is durable, as an archiver would that is called now and then."""
        migrate(database)
        index = IndexWriter(database)
        for shard in (CONTROL_SHARD, *range(len(self.stock))):
            held = self.server.shard(shard)
            writer = ArchiveWriter(store, shard)
            writer.open()
            fold = Fold(shard)
            for entry in list(held.entries.values()):
                if entry.seq <= writer.taken_seq:
                    continue
                tail = Tail(entry.epoch, entry.seq, entry.hash, entry.time_ms)
                decided = held.decisions.get((entry.epoch, entry.seq), ())
                packed = pack_decisions(decided) if decided else b""
                record = Record(entry.seq, entry.epoch, pack_entry(entry.prev_hash, tail, entry.payload), packed)
                fold.add(writer.take(record))
            if writer.seal():
                index.write(fold)

    async def start(self, documents: list[Document] | None = None, *, nodes: int = 4, items: int = 3) -> GatewayEngine:
        await self.control.start()
        await self.cluster.start()
        assert await self.cluster.wait_configured(60.0)
        if documents is None:
            documents = a_network(nodes=nodes, items=items, shards=len(self.stock))
        await self.put(Secret(secret_id=QUOTE_SECRET, value="5a" * 32), *documents)
        for shard in self.stock:
            await shard.start()
        self.admin = await self.token("*")
        self.door = create_app(self.cluster, self.settings)
        self.door.gateway.live = Live(
            self.cluster, lambda shard: MemoryFeed(self.server, shard), streams_max=self.settings.streams_max
        )
        self.client = self.client_for(self.admin)
        return self

    async def put(self, *documents: Document) -> None:
        for document in documents:
            command = PutConfig(_KIND_OF[type(document)], (msgspec.json.encode(document),))
            reply = await self.cluster.ask(CONTROL_SHARD, command, timeout_s=30.0)
            assert isinstance(reply, ConfigReply), reply
        await self.settled()

    async def settled(self) -> None:
        """Until the gateway's catalogue has what the control shard has."""
        reply = await self.cluster.ask(CONTROL_SHARD, _status(), timeout_s=30.0)
        wanted = reply.facts["config_version"]  # type: ignore[union-attr]
        await eventually(lambda: self.cluster.catalog.version >= wanted, every_s=0.002)

    async def token(self, *scopes: str, **fields: Any) -> str:
        """A new API key with these scopes."""
        token, document = new_key(f"test{next(_keys)}", list(scopes), **fields)
        await self.put(document)
        return token

    async def put_key(self, document: ApiKey) -> None:
        await self.put(document)

    def client_for(self, token: str, **options: Any) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        transport = httpx.ASGITransport(self.door, raise_app_exceptions=True)
        return httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers, **options)

    async def stock_up(self, node_id: str, sku: str, units: int) -> str:
        """Receive units; returns the commit token."""
        shard = self.cluster.shard_of_node(node_id)
        assert shard is not None
        reply = await self.cluster.ask(shard, AdjustStock(node_id, (StockMove(sku, "received", units),)))
        assert isinstance(reply, StockReply), reply
        return reply.token

    async def seen_by_all(self, *tokens: str) -> None:
        """Until the views of all shards contain these tokens, so that an order is decided on them whatever its home is."""
        cores: list[Any] = [shard.core for shard in self.stock]
        await eventually(lambda: all(core.views.contains(token) for core in cores for token in tokens), every_s=0.002)

    @asynccontextmanager
    async def served(self, **options: Any) -> AsyncIterator[str]:
        """A real HTTP server over the gateway on a loopback port; yields its base URL."""
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        config: uvicorn.Config = server_config(self.door, self.settings, port=0)
        for name, value in options.items():
            setattr(config, name, value)
        server = GatewayServer(config, self.door)
        server.capture_signals = _no_signals  # type: ignore[method-assign]
        self.uvicorn = server
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await eventually(lambda: server.started, every_s=0.005)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task
            listener.close()

    async def close(self) -> None:
        await self.client.aclose()
        await self.door.gateway.live.close()
        await self.door.gateway.stock.close()
        await self.cluster.close()
        for shard in [*self.stock, self.control]:
            await shard.stop()


def _status() -> Any:
    from engine.domain.commands import GetStatus

    return GetStatus()


def _no_signals() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def an_order_body(order_id: str = "A-1", *, sku: str = "SKU-0", quantity: int = 1, **fields: Any) -> dict[str, Any]:
    """The least order that allocates from N-0's region."""
    return {
        "order_id": order_id,
        "channel": "web",
        "ship_to": {"country": "US", "postal_code": "10001"},
        "lines": [{"line_id": "1", "sku": sku, "quantity": quantity}],
        **fields,
    }


def keyed(key: str, **headers: str) -> dict[str, str]:
    return {"idempotency-key": key, **headers}
