"""`restart_s`: kill -9 of a shard with much state until it serves again, nothing lost.

1,000,000 positions, 100,000 holds with their idempotency keys, 10,000 entries behind the snapshots. The first start loads and
snapshots; the second one snapshots no more, so that the entries after it are the tail that recovery must replay.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

from loadtests.client import Client, Unanswered
from loadtests.figures import over_rounds
from loadtests.loader import load_network
from loadtests.network import Network, NetworkSpec, build_network
from loadtests.pools import make_pool, save_pool
from loadtests.runs import Bench, BenchError, shard_facts, verify
from loadtests.servers import Engine
from loadtests.traffic import Renderer, Traffic, TrafficSpec

HOLD_TTL_S = 80_000
SERVING_TIMEOUT_S = 120.0
POLL_S = 0.02
SETTLE_TIMEOUT_S = 300.0
QUIET = {"QM_SNAPSHOT_INTERVAL_S": "100000"}


def measure(bench: Bench, wanted: set[str]) -> None:
    shrink = bench.shrink
    positions, holds, tail = 1_000_000 // shrink, 100_000 // shrink, 10_000 // shrink
    network = build_network(
        NetworkSpec(
            seed=bench.seed,
            warehouses=40 // min(shrink, 4),
            stores=2_000 // shrink - 40 // min(shrink, 4),
            skus=10_000,
            warehouse_carry=0.05,
            store_carry=0.05,
            handling_share=0.0,
            flat_units=1_000,
        )
    )
    ids = bench.folder / "restart.ids"
    data_dir = bench.folder / "restart"
    taken: list[float] = []
    with ExitStack() as stack:
        engine = Engine("restart", data_dir, shards=1, env={"QM_SNAPSHOT_INTERVAL_S": "1"})
        stack.callback(engine.stop)
        bench.say(f"loading {len(network.stock.node):,} positions and {holds:,} holds")
        engine.start()
        asyncio.run(_load(engine, network))
        _hold(bench, engine, network, holds, ids)
        _settle(engine)
        engine.stop()
        engine = Engine("restart", data_dir, shards=1, env=QUIET)
        stack.callback(engine.stop)
        engine.start()
        pool = make_pool(
            network,
            Traffic(network, TrafficSpec(seed=bench.seed + 1, lines=3)).draw(3_000),
            path="/v1/allocations",
            headers=engine.headers,
        )
        path = save_pool(pool, bench.folder / "tail.pool")
        entries = _entries(engine)
        bench.drive(
            engine,
            path,
            label="tail",
            connections=1,
            record=ids,
            requests_max=tail,
            duration_s=600.0,
        )
        bench.note("restart_s", positions=positions, holds=holds, tail_entries=_entries(engine) - entries)
        for n in range(2 if bench.quick else 3):
            taken.append(_kill_and_wait(engine, network, bench.seed + n))
            bench.say(f"serving again after {taken[-1]:.2f} s")
        verify(engine, [ids], folder=bench.folder)
        bench.say("verify: drift 0, every acknowledged hold and order present")
    bench.figures["restart_s"] = over_rounds(taken)


async def _load(engine: Engine, network: Network) -> None:
    async with Client(engine.url, engine.key) as client:
        await load_network(client, network)


def _hold(bench: Bench, engine: Engine, network: Network, holds: int, ids: Path) -> None:
    orders = Traffic(network, TrafficSpec(seed=bench.seed, lines=3)).draw(min(holds, 20_000))
    pool = make_pool(
        network, orders, path="/v1/reservations", headers=engine.headers, extra=b',"ttl_s":%d' % HOLD_TTL_S
    )
    path = save_pool(pool, bench.folder / "holds.pool")
    bench.drive(
        engine, path, label="holds", record=ids, requests_max=holds, duration_s=900.0, allowed=("out_of_stock",)
    )


def _entries(engine: Engine) -> int:
    """Sequence number of the newest entry of shard 0."""
    return int(shard_facts(engine, 0)["durable_seq"])


def _settle(engine: Engine) -> None:
    """Wait until snapshots cover every entry: what follows is the tail."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while True:
        facts = shard_facts(engine, 0)
        if facts["floor_seq"] >= facts["durable_seq"]:
            return
        if time.monotonic() > deadline:
            raise BenchError(f"snapshots cover {facts['floor_seq']} of {facts['durable_seq']} entries")
        time.sleep(0.5)


def _kill_and_wait(engine: Engine, network: Network, seed: int) -> float:
    """Seconds from SIGKILL of the shard to the first order that it takes."""
    pid = int(shard_facts(engine, 0)["pid"])
    return asyncio.run(_until_served(engine, network, seed, pid))


async def _until_served(engine: Engine, network: Network, seed: int, pid: int) -> float:
    renderer = Renderer(network)
    order = Traffic(network, TrafficSpec(seed=seed + 50, lines=1)).draw(1)[0]
    body = renderer.body(order, f"probe-{seed}-{time.time_ns()}")
    async with Client(engine.url, engine.key, retries=0, timeout_s=2.0) as client:
        key = client.new_key()
        os.kill(pid, signal.SIGKILL)
        started = time.monotonic()
        while True:
            try:
                response = await client.request("POST", "/v1/allocations", body, key=key)
                if response.status == 201:
                    return time.monotonic() - started
                if response.status not in (503, 429):
                    raise BenchError(f"the probe was answered {response.status}: {response.body[:300]!r}")
            except Unanswered:
                pass  # the same key is asked again
            if time.monotonic() - started > SERVING_TIMEOUT_S:
                raise BenchError(f"the shard does not serve {SERVING_TIMEOUT_S:.0f} s after it was killed")
            await asyncio.sleep(POLL_S)
