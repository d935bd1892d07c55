"""Peer: the expert's Redis. Our own gateway, whole (its HTTP path, key check, decoding, encoding), over Redis instead of shards.

Behind the gateway's cluster port stand the same scoring and the same script as in `fastapi_lua`, but the scripts of all orders
that are waiting go to Redis in one pipeline, at most two of them in flight, over a bare connection with hiredis.
`python -m loadtests.peers.batched_lua PORT`
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from hashlib import sha256
from typing import Any, cast

import hiredis
import msgspec
import redis
import uvloop

from engine.client.link import Told
from engine.domain.catalog import Catalog
from engine.domain.commands import Command, PlaceOrder
from engine.domain.config import ApiKey, Placement
from engine.domain.ids import make_order_no, slot_of
from engine.domain.replies import ConfigDoc, Opened, OpenedLeg, OrderView, Problem, Reply
from engine.domain.views import whole_view
from engine.settings import Settings
from gateway.__main__ import GC_THRESHOLD, GatewayServer, server_config
from gateway.app import create_app
from loadtests.peers.auth import KEY_ENV
from loadtests.peers.scoring import ChosenLeg, Scorer
from loadtests.peers.stock import IDEMPOTENCY_S, REDIS_ENV, RETRIES, SCRIPT, peer_network, position_key

PIPELINES_IN_FLIGHT = 2
BATCH_MAX = 256
_pack = msgspec.msgpack.Encoder().encode


class Waiting:
    """An order between the gateway and Redis."""

    __slots__ = ("attempt", "chosen", "command", "future", "items", "order_no", "units")

    def __init__(self, command: PlaceOrder, future: asyncio.Future[Reply] | Told, order_no: int) -> None:
        self.command = command
        self.future = future
        self.order_no = order_no
        self.attempt = 0
        self.items: list[int] = []
        self.units: list[int] = []
        self.chosen: list[ChosenLeg] = []


class RedisPipe(asyncio.Protocol):
    """One connection: whole pipelines out, that many answers in."""

    def __init__(self, answered: Callable[[list[Any]], None]) -> None:
        self._reader = hiredis.Reader()
        self._answered = answered
        self._expected: deque[int] = deque()
        self._got: list[Any] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, commands: list[bytes]) -> None:
        assert self._transport is not None
        self._expected.append(len(commands))
        self._transport.write(b"".join(commands))

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while True:
            answer = self._reader.gets()
            if answer is False:
                return
            self._got.append(answer)
            if len(self._got) == self._expected[0]:
                self._expected.popleft()
                got, self._got = self._got, []
                self._answered(got)

    def connection_lost(self, error: Exception | None) -> None:
        sys.exit(f"the connection to Redis broke: {error}")


class LuaCluster:
    """The gateway's cluster port over Redis: PlaceOrder only."""

    def __init__(self, catalog: Catalog, scorer: Scorer, node_ids: list[str], sha: bytes) -> None:
        self.catalog = catalog
        self._scorer = scorer
        self._node_ids = node_ids
        self._sha = sha
        self._queue: deque[Waiting] = deque()
        self._flights: deque[list[Waiting]] = deque()
        self._scheduled = False
        self._counter = 0
        self.pipe: RedisPipe | None = None
        self.shards = range(1)

    def shard_of_slot(self, slot: str) -> int:
        return 0

    def shard_of_node(self, node_id: str) -> int | None:
        return 0

    def submit(self, shard: int, command: Command) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._put(command, future)
        return future

    def tell(self, shard: int, command: Command, on_reply: Callable[[Reply], None]) -> None:
        self._put(command, Told(on_reply))

    def _put(self, command: Command, future: asyncio.Future[Reply] | Told) -> None:
        assert isinstance(command, PlaceOrder)
        self._counter += 1
        order_no = make_order_no(time_ms=time.time_ns() // 1_000_000, shard=0, counter=self._counter & 0x3FFF)
        waiting = Waiting(command, future, order_no)
        order = command.order
        try:
            waiting.items = [self._scorer.item_of[line.sku] for line in order.lines]
        except KeyError:
            future.set_result(Problem("unknown_sku", "no such item"))
            return
        if order.ship_to is None or order.ship_to.postal_code not in self._scorer.place_of:
            future.set_result(Problem("unknown_destination", "not located"))
            return
        waiting.units = [line.quantity for line in order.lines]
        self._queue.append(waiting)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    async def ask(self, shard: int, command: Command, *, timeout_s: float | None = None) -> Reply:
        return Problem("unavailable", "only orders are placed here")

    async def ask_owner(self, owner: Callable[[], int], command: Command, *, timeout_s: float | None = None) -> Reply:
        return await self.ask(0, command)

    async def ask_all(self, command: Command, *, timeout_s: float | None = None) -> dict[int, Reply]:
        return {}

    def links(self) -> dict[int, Any]:
        return {}

    # -- the batcher ----------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Natural batching: whatever waits goes out as soon as fewer than two pipelines are in flight."""
        self._scheduled = False
        assert self.pipe is not None
        while self._queue and len(self._flights) < PIPELINES_IN_FLIGHT:
            batch = []
            commands = []
            while self._queue and len(batch) < BATCH_MAX:
                waiting = self._queue.popleft()
                command = self._script_call(waiting)
                if command is None:
                    waiting.future.set_result(Problem("out_of_stock", "not enough units"))
                    continue
                batch.append(waiting)
                commands.append(command)
            if batch:
                self._flights.append(batch)
                self.pipe.send(commands)

    def _script_call(self, waiting: Waiting) -> bytes | None:
        order = waiting.command.order
        assert order.ship_to is not None
        items, units = waiting.items, waiting.units
        chosen = self._scorer.choose(order.ship_to.postal_code, order.service, items, units, waiting.attempt)
        if not chosen:
            return None
        waiting.chosen = chosen
        pairs = [(leg.node, i) for leg in chosen for i in leg.lines]
        keys = [position_key(node, items[i]) for node, i in pairs]
        record = _pack((order, chosen, waiting.command.fingerprint))
        arguments = (
            b"EVALSHA",
            self._sha,
            len(keys) + 2,
            b"i:%d" % waiting.command.key_hash,
            b"r:%d" % waiting.order_no,
            *keys,
            record,
            IDEMPOTENCY_S,
            *(units[i] for _, i in pairs),
        )
        packed: bytes = hiredis.pack_command(arguments)
        return packed

    def answered(self, answers: list[Any]) -> None:
        for waiting, answer in zip(self._flights.popleft(), answers, strict=True):
            if isinstance(answer, Exception):
                waiting.future.set_result(Problem("unavailable", str(answer)))
            elif answer[0] in (1, 2):
                waiting.future.set_result(self._view(waiting, replayed=answer[0] == 2))
            elif waiting.attempt + 1 < RETRIES:
                waiting.attempt += 1
                self._queue.append(waiting)
            else:
                waiting.future.set_result(Problem("out_of_stock", "not enough units"))
        self._flush()

    def _view(self, waiting: Waiting, *, replayed: bool) -> Opened | OrderView:
        """Brief the first time, as a shard answers."""
        order, units = waiting.command.order, waiting.units
        assert order.ship_to is not None
        legs = [
            OpenedLeg(
                self._node_ids[leg.node],
                [(i, units[i]) for i in leg.lines],
                "coastline",
                "ground",
                1,
                0,
                0,
                (leg.cost_minor, 0, 0, 0),
            )
            for leg in waiting.chosen
        ]
        cash_minor = sum(leg.cost_minor for leg in waiting.chosen)
        slot = slot_of(order.ship_to.country, order.ship_to.postal_code)
        opened = Opened(slot, waiting.order_no, "", 0, (cash_minor, 0, 0, 0), (0, 0), 0, legs)
        return msgspec.structs.replace(whole_view(order, opened), replayed=True) if replayed else opened


async def serve(port: int) -> None:
    network = peer_network()
    url = os.environ[REDIS_ENV]
    with redis.Redis.from_url(url) as client:
        sha = str(client.script_load(SCRIPT)).encode()
    _, key_id, secret = os.environ[KEY_ENV].split("_", 2)
    key = ApiKey(key_id=key_id, secret_sha256=sha256(secret.encode()).hexdigest(), scopes=["*"])
    catalog = Catalog()
    documents = [("channel", c.channel_id, c) for c in network.channels]
    documents += [("node", n.node_id, n) for n in network.nodes]
    documents += [("key", key_id, key), ("placement", "", Placement(shard_count=1))]
    catalog.apply(
        [
            ConfigDoc(kind, name, n, n + 1, msgspec.Raw(msgspec.json.encode(document)))
            for n, (kind, name, document) in enumerate(documents)
        ],
        len(documents),
    )
    cluster = LuaCluster(catalog, Scorer(network), [node.node_id for node in network.nodes], sha)
    loop = asyncio.get_running_loop()
    _, cluster.pipe = await loop.create_unix_connection(
        lambda: RedisPipe(cluster.answered), url.removeprefix("unix://")
    )
    settings = Settings()
    door = create_app(cluster, settings)
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)  # as our gateway does
    await GatewayServer(server_config(door, settings, port=port), door).serve()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
