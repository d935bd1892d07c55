"""Figures over HTTP beside the peers: all servers up at once, rounds interleaved, every run checked.

The engine runs one shard and one gateway: the peers are one process each too. `appendfsync` is switched on the running server
between runs, so that the durable engine and the once-a-second one are the same processes.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import redis

from engine.journal.embedded import EmbeddedServer
from engine.journal.keys import Keys
from loadtests.client import Client
from loadtests.figures import Figure, over_rounds, ratios
from loadtests.filling import count_stock, fill_items
from loadtests.histogram import Histogram
from loadtests.loader import load_network
from loadtests.network import Network, NetworkSpec, build_network
from loadtests.peers.auth import KEY_ENV
from loadtests.peers.redis_write import RedisWriter
from loadtests.peers.stock import REDIS_ENV, SPEC_ENV
from loadtests.peers.stock import load_stock as load_peer_stock
from loadtests.pools import fixed_pool, make_pool, save_pool
from loadtests.runs import Bench, BenchError, p50_ms
from loadtests.servers import Engine, Server
from loadtests.traffic import Traffic, TrafficSpec

OPEN_LOOP = "open_loop"
OPEN_SHARE = 0.7
"""Part of the closed-loop capacity of single orders, measured just before."""
OPEN_CONNECTIONS = 512
CONNECTIONS = 64
BATCH = 100
BATCH_CONNECTIONS = 8
POOL_ORDERS = 8_000
HOT_SKUS = 20
REFUSED_SHARE = 0.30
RESTOCK_EACH = 10
LINES = 3

PEER_OF = {
    "single_vs_fastapi_echo": "fastapi_echo",
    "single_vs_fastapi_redis_lua": "fastapi_lua",
    "single_vs_batched_redis_lua": "batched_lua",
    "batch_vs_fastapi_echo": "fastapi_echo",
    "availability_vs_fastapi_echo": "fastapi_echo",
}
TOP_OF = {"batch_vs_fastapi_echo": "batch", "availability_vs_fastapi_echo": "reads"}
"""What of ours is divided by the peer's orders, where it is not single orders."""
NO_SINGLES = frozenset(("p50_vs_redis_write", *TOP_OF))
"""Keys that need no run of single orders."""


@dataclass
class Pools:
    single: Path
    batch: Path
    hot: Path
    restock: Path
    reads: Path


def measure(bench: Bench, wanted: set[str]) -> None:
    """Start what the wanted keys need, run the rounds, stop the peers. Adds figures to the bench."""
    spec = network_spec(bench)
    network = build_network(spec)
    hot = hot_network(network, bench.seed)
    with ExitStack() as stack:
        engine = bench.engine(1)
        bench.say(f"loading {len(network.stock.node):,} positions")
        asyncio.run(_load(engine, network, hot))
        peers = _start_peers(bench, stack, wanted, spec, network)
        pools = _make_pools(bench, engine, network, hot)
        peer_pools = {peer.name: _peer_pool(bench, peer, network) for peer in peers.values()}
        writer = RedisWriter(engine.redis_url, network, f"w{secrets.token_hex(3)}-")
        stack.callback(writer.close)
        rates = _rounds(bench, wanted, engine, peers, pools, peer_pools, writer)
        _figures(bench, wanted, rates)
        if "single" in rates.values:
            _open_loop(bench, engine, pools, over_rounds(rates["single"]).value)


def network_spec(bench: Bench) -> NetworkSpec:
    """100 nodes; ample stock ("normal"): a single node can nearly always serve an order."""
    return NetworkSpec(
        seed=bench.seed,
        warehouses=20,
        stores=80,
        skus=10_000 // bench.shrink,
        handling_share=0.0,
        flat_units=1_000_000,
    )


def hot_network(network: Network, seed: int) -> Network:
    """20 SKUs that everybody wants, at the same nodes, one unit each: what is sold must first be brought in."""
    spec = NetworkSpec(
        seed=seed,
        skus=HOT_SKUS,
        sku_prefix="HOT",
        warehouse_carry=1.0,
        store_carry=0.0,
        handling_share=0.0,
        flat_units=1,
    )
    return build_network(spec, nodes=network.nodes)


async def _load(engine: Engine, network: Network, hot: Network) -> None:
    async with Client(engine.url, engine.key) as client:
        await load_network(client, network)
        await fill_items(client.public(), hot)
        await count_stock(client.public(), hot, source="hot")


def _start_peers(
    bench: Bench, stack: ExitStack, wanted: set[str], spec: NetworkSpec, network: Network
) -> dict[str, Server]:
    names = sorted({PEER_OF[key] for key in wanted if key in PEER_OF})
    key = f"qm_peer0001_{secrets.token_hex(16)}"
    env = {KEY_ENV: key, SPEC_ENV: msgspec.json.encode(spec).decode()}
    server: EmbeddedServer | None = None
    if any(name.endswith("lua") for name in names):
        server = EmbeddedServer()
        server.start(bench.folder / "peer-redis")
        stack.callback(server.stop)
        load_peer_stock(server.url, network)
        env[REDIS_ENV] = server.url
        with redis.Redis.from_url(server.url) as client:
            if client.config_get("appendfsync")["appendfsync"] != "always":
                raise BenchError("the peers' Redis does not run appendfsync always")
    peers: dict[str, Server] = {}
    for name in names:
        bench.say(f"starting {name}")
        command = [sys.executable, "-m", f"loadtests.peers.{name}", "{port}"]
        peer = Server(name, command, log=bench.folder / f"{name}.log", env=env)
        stack.callback(peer.stop)
        peer.start()
        peer.headers = {"authorization": f"Bearer {key}"}
        if name.endswith("lua") and server is not None:
            peer.processes["redis"] = server.pid
        peers[name] = peer
    return peers


def _make_pools(bench: Bench, engine: Engine, network: Network, hot: Network) -> Pools:
    orders = Traffic(network, TrafficSpec(seed=bench.seed, lines=LINES)).draw(POOL_ORDERS)
    wanted_by_all = Traffic(hot, TrafficSpec(seed=bench.seed, lines=LINES, hot_skus=HOT_SKUS, single_unit=True))
    folder, headers = bench.folder, engine.headers
    restock = [
        (
            "/v1/inventory/adjustments",
            msgspec.json.encode(
                {
                    "node_id": node.node_id,
                    "moves": [{"sku": i.sku, "kind": "received", "quantity": RESTOCK_EACH} for i in hot.items],
                }
            ),
        )
        for node in hot.nodes
        if node.kind == "warehouse"
    ]
    reads = [(f"/v1/availability?sku={network.items[item].sku}", b"") for order in orders for item, _ in order.lines]
    path = "/v1/allocations"
    return Pools(
        save_pool(make_pool(network, orders, path=path, headers=headers), folder / "single.pool"),
        save_pool(
            make_pool(network, orders, path=f"{path}/batch", headers=headers, batch=BATCH), folder / "batch.pool"
        ),
        save_pool(make_pool(hot, wanted_by_all.draw(POOL_ORDERS), path=path, headers=headers), folder / "hot.pool"),
        save_pool(fixed_pool(restock, method="POST", headers=headers, keyed=True), folder / "restock.pool"),
        save_pool(fixed_pool(reads, method="GET", headers=headers, keyed=False), folder / "reads.pool"),
    )


def _peer_pool(bench: Bench, peer: Server, network: Network) -> Path:
    orders = Traffic(network, TrafficSpec(seed=bench.seed, lines=LINES)).draw(POOL_ORDERS)
    pool = make_pool(network, orders, path="/v1/allocations", headers=peer.headers)
    return save_pool(pool, bench.folder / f"{peer.name}.pool")


class _Rounds:
    """Orders a second (or milliseconds) by what was run, one value a round."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, what: str, value: float) -> None:
        self.values.setdefault(what, []).append(value)

    def __getitem__(self, what: str) -> list[float]:
        return self.values[what]


def _rounds(
    bench: Bench,
    wanted: set[str],
    engine: Engine,
    peers: dict[str, Server],
    pools: Pools,
    peer_pools: dict[str, Path],
    writer: RedisWriter,
) -> _Rounds:
    rates = _Rounds()
    acknowledged = bench.acknowledged(engine)
    bench.warm(engine, pools.single)
    for name, peer in peers.items():
        bench.warm(peer, peer_pools[name])

    def single() -> None:
        written = JournalBytes(engine.redis_url)
        result = bench.drive(engine, pools.single, label="single", connections=CONNECTIONS, record=acknowledged)
        rates.add("single", result.orders_ok / result.seconds)
        rates.add("wal", written.since() / result.acknowledged)

    def everysec() -> None:
        _set_fsync(engine, "everysec")
        try:
            result = bench.drive(engine, pools.single, label="everysec", connections=CONNECTIONS, record=acknowledged)
        finally:
            _set_fsync(engine, "always")
        rates.add("everysec", result.orders_ok / result.seconds)

    def batch() -> None:
        result = bench.drive(engine, pools.batch, label="batch", connections=BATCH_CONNECTIONS, record=acknowledged)
        rates.add("batch", result.orders_ok / result.seconds)

    def reads() -> None:
        result = bench.drive(engine, pools.reads, label="reads", connections=CONNECTIONS)
        rates.add("reads", result.requests / result.seconds)

    def lone() -> None:
        result = bench.drive(engine, pools.single, label="lone", connections=1, record=acknowledged)
        rates.add("lone", p50_ms(result))
        rates.add("redis_write", writer.measure(min(2.0, bench.seconds)).percentile_us(50) / 1_000)

    def contended() -> None:
        result = bench.drive(
            engine,
            pools.hot,
            label="contended",
            connections=CONNECTIONS,
            allowed=("out_of_stock",),
            record=acknowledged,
            side_pool=str(pools.restock),
            side_units=RESTOCK_EACH * HOT_SKUS,
            side_share=1 - REFUSED_SHARE,
            units_per_request=float(LINES),
        )
        rates.add("contended", result.requests / result.seconds)
        rates.add("refused", 1 - result.orders_ok / result.requests)

    def peer_run(name: str) -> None:
        result = bench.drive(peers[name], peer_pools[name], label=name, connections=CONNECTIONS)
        rates.add(name, result.orders_ok / result.seconds)

    runs = []
    if wanted - NO_SINGLES:
        runs.append(single)
    if "fsync_vs_everysec" in wanted:
        runs.append(everysec)
    if "batch_vs_fastapi_echo" in wanted:
        runs.append(batch)
    if "availability_vs_fastapi_echo" in wanted:
        bench.warm(engine, pools.reads)
        runs.append(reads)
    if "p50_vs_redis_write" in wanted:
        runs.append(lone)
    if "single_contended" in wanted:
        runs.append(contended)
    for n in range(bench.rounds):
        bench.say(f"round {n + 1} of {bench.rounds}")
        names = sorted(peers)
        for name in names[n % max(1, len(names)) :] + names[: n % max(1, len(names))]:
            peer_run(name)
        for run in runs[n % len(runs) :] + runs[: n % len(runs)]:
            run()
    return rates


def _open_loop(bench: Bench, engine: Engine, pools: Pools, capacity_per_s: float) -> None:
    """Orders that arrive whether or not the engine keeps up (Poisson), at a part of what it can take: latency from the intended start."""
    result = bench.drive(
        engine,
        pools.single,
        label=OPEN_LOOP,
        connections=OPEN_CONNECTIONS,
        rate_per_s=OPEN_SHARE * capacity_per_s,
        record=bench.acknowledged(engine),
    )
    latency = Histogram.unpacked(result.latency).summary_ms()
    bench.note(
        OPEN_LOOP,
        offered_per_s=round(OPEN_SHARE * capacity_per_s, 1),
        served_per_s=round(result.orders_ok / result.seconds, 1),
        share_of_closed_loop=OPEN_SHARE,
        late=result.late,
        **{f"{name}_ms": value for name, value in latency.items()},
    )


def _figures(bench: Bench, wanted: set[str], rates: _Rounds) -> None:
    figures = bench.figures
    for key in wanted & PEER_OF.keys():
        figures[key] = ratios(rates[TOP_OF.get(key, "single")], rates[PEER_OF[key]])
    if "fsync_vs_everysec" in wanted:
        figures["fsync_vs_everysec"] = ratios(rates["single"], rates["everysec"])
    if "p50_vs_redis_write" in wanted:
        figures["p50_vs_redis_write"] = ratios(rates["lone"], rates["redis_write"])
    if "single_contended" in wanted:
        figures["single_contended"] = ratios(rates["contended"], rates["single"])
    if "wal_bytes_per_order" in wanted:
        figures["wal_bytes_per_order"] = over_rounds(rates["wal"])
    shown: dict[str, Figure] = {name: over_rounds(values) for name, values in rates.values.items()}
    bench.note("http", **shown)


def _set_fsync(engine: Engine, mode: str) -> None:
    with redis.Redis.from_url(engine.redis_url) as client:
        client.config_set("appendfsync", mode)
        if client.config_get("appendfsync")["appendfsync"] != mode:
            raise BenchError(f"appendfsync {mode} was not taken")


class JournalBytes:
    """Bytes that shard 0 appends from now on: entries with their headers, and decision records."""

    def __init__(self, url: str) -> None:
        self._url = url
        with redis.Redis.from_url(url) as client:
            self._after = {key: self._newest(client, key) for key in (Keys(0).entries, Keys(0).decisions)}

    @staticmethod
    def _newest(client: redis.Redis, key: bytes) -> bytes:
        newest = client.xrevrange(key, count=1)
        return newest[0][0] if newest else b"0-0"

    def since(self) -> int:
        total = 0
        with redis.Redis.from_url(self._url) as client:
            for key, after in self._after.items():
                while page := client.xrange(key, min=b"(" + after, count=2_000):
                    total += sum(len(value) for _, fields in page for value in fields.values())
                    after = page[-1][0]
        return total
