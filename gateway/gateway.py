"""What every request of this process shares: the cluster, settings, keys, limits, measurements."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable
from typing import Protocol

from engine.archive.feed import JournalFeed
from engine.client.link import ShardLink
from engine.client.stock_view import StockView
from engine.domain.catalog import Catalog
from engine.domain.commands import Command
from engine.domain.replies import Problem, Reply
from engine.settings import Settings
from gateway.auth import Keys
from gateway.health.status import ShardStatuses
from gateway.history.index import History
from gateway.history.past import from_past
from gateway.inventory.stock import Tables
from gateway.jobs.store import JobStore
from gateway.key_slots import KeySlots
from gateway.limits import Buckets, Connections, InFlight
from gateway.metrics import Metrics
from gateway.stream.live import EntryFeed, Live


class ClusterPort(Protocol):
    """What the gateway needs of engine.client.cluster.Cluster."""

    catalog: Catalog

    @property
    def shards(self) -> range: ...

    def shard_of_slot(self, slot: str) -> int: ...

    def shard_of_node(self, node_id: str) -> int | None: ...

    def submit(self, shard: int, command: Command) -> asyncio.Future[Reply]: ...

    def tell(self, shard: int, command: Command, on_reply: Callable[[Reply], None]) -> None: ...

    async def ask(self, shard: int, command: Command, *, timeout_s: float | None = None) -> Reply: ...

    async def ask_owner(
        self, owner: Callable[[], int], command: Command, *, timeout_s: float | None = None
    ) -> Reply: ...

    def links(self) -> dict[int, ShardLink]: ...

    def new_link(self, shard: int) -> ShardLink: ...

    async def ask_all(self, command: Command, *, timeout_s: float | None = None) -> dict[int, Reply]: ...


def _journals(settings: Settings) -> Callable[[int], EntryFeed] | None:
    """How the journals are read; None = there is no server to read them from."""
    if settings.redis_url is None:
        return None
    url = settings.redis_url.get_secret_value()
    return lambda shard: JournalFeed(url, shard, name="stream")


class Gateway:
    """One gateway process."""

    def __init__(self, cluster: ClusterPort, settings: Settings) -> None:
        self.cluster = cluster
        self.settings = settings
        self.keys = Keys(lambda: cluster.catalog.keys)
        self.connections = Connections(settings.connections_max)
        self.in_flight = InFlight(settings.in_flight_max)
        self.buckets = Buckets(settings.rate_per_key_per_s) if settings.rate_per_key_per_s else None
        self.metrics = Metrics()
        self.jobs = JobStore()
        self.key_slots = KeySlots()
        self.statuses = ShardStatuses(cluster)
        self.history = History(settings, lambda: cluster.catalog)
        self.stock = StockView(lambda: cluster.catalog, lambda shard: cluster.new_link(shard))
        self.tables = Tables(self)
        self.live = Live(cluster, _journals(settings), streams_max=settings.streams_max)
        self.draining = False
        """Being stopped: unready, finishing what is in flight."""
        self._id_prefix = secrets.token_hex(6)
        self._ids = itertools.count(1)
        self._pace = settings.pace

    def new_request_id(self) -> str:
        return f"{self._id_prefix}-{next(self._ids):x}"

    def now_ms(self) -> int:
        """The engine's time."""
        return self._pace.now_ms()

    async def ask_node(self, node_id: str, command: Command) -> Reply | None:
        """Ask the owner of a node, following it when it moves; None = no such node."""
        if self.cluster.shard_of_node(node_id) is None:
            return None
        return await self.cluster.ask_owner(lambda: self.cluster.shard_of_node(node_id) or 0, command)

    async def ask_slot(self, slot: str, command: Command) -> Reply:
        """Ask the home of a slot, following it when it moves, and the index where the order has left it."""
        reply = await self.cluster.ask_owner(lambda: self.cluster.shard_of_slot(slot), command)
        if type(reply) is Problem and reply.code == "not_found":
            return await from_past(self.history, slot, command, reply)
        return reply
