"""`cpu_by_shards`: CPU an order costs with four shards over what it costs with one; 0, 10 and 40 % of orders across shards (QUICK: 10 %).

Both engines are up at once and get the same orders. The catalogue is cut into four regions, stocked where the shard of that
region is, so that exactly the stated share of orders needs a leg elsewhere. c=64 for each shard.
"""

from __future__ import annotations

import asyncio

from loadtests.bench_http import network_spec
from loadtests.client import Client
from loadtests.figures import over_rounds, ratios
from loadtests.loader import load_network
from loadtests.network import Network, NetworkSpec, build_network
from loadtests.pools import make_pool, save_pool
from loadtests.runs import Bench
from loadtests.servers import Engine
from loadtests.traffic import Traffic, TrafficSpec

SHARDS = 4
CROSSING = (0.0, 0.1, 0.4)
FIGURE = 0.1
CONNECTIONS_PER_SHARD = 64
POOL_ORDERS = 6_000
DATA_PATH = ("gateway", "control", "shard-", "solver", "redis", "supervisor")
"""Roles whose CPU is an order's. Ray's own processes idle beside them; the bench prints them apart."""


def measure(bench: Bench, wanted: set[str]) -> None:
    """Both engines from the bench (the first may have served other parts before), loaded with regional SKUs of their own."""
    network = build_network(
        NetworkSpec(
            seed=bench.seed,
            skus=4_000 // bench.shrink,
            sku_prefix="REG",
            handling_share=0.0,
            flat_units=1_000_000,
            regions=SHARDS,
        ),
        nodes=build_network(network_spec(bench)).nodes,
    )
    engines = {shards: bench.engine(shards) for shards in (1, SHARDS)}
    for engine in engines.values():
        asyncio.run(_load(engine, network))
    _measure(bench, engines, network)


async def _load(engine: Engine, network: Network) -> None:
    async with Client(engine.url, engine.key) as client:
        await load_network(client, network, source="regions")


def _measure(bench: Bench, engines: dict[int, Engine], network: Network) -> None:
    spent: dict[tuple[int, float], list[float]] = {}
    crossing = (FIGURE,) if bench.quick else CROSSING  # the two beside the figure take as long as it does
    orders = Traffic(network, TrafficSpec(seed=bench.seed, lines=3, cross=FIGURE)).draw(POOL_ORDERS)
    for engine in engines.values():
        pool = make_pool(network, orders, path="/v1/allocations", headers=engine.headers)
        bench.warm(engine, save_pool(pool, bench.folder / f"{engine.name}.pool"))
    for n in range(bench.rounds):
        bench.say(f"round {n + 1} of {bench.rounds}")
        for cross in crossing:
            traffic = Traffic(network, TrafficSpec(seed=bench.seed + n, lines=3, cross=cross))
            orders = traffic.draw(POOL_ORDERS)
            for shards, engine in engines.items():
                pool = make_pool(network, orders, path="/v1/allocations", headers=engine.headers)
                label = f"{shards}sh{cross:.0%}"
                bench.drive(
                    engine,
                    save_pool(pool, bench.folder / f"{engine.name}.pool"),
                    label=label,
                    connections=CONNECTIONS_PER_SHARD * shards,
                    record=bench.acknowledged(engine),
                )
                total = sum(us[-1] for role, us in bench.cpu_us[label].items() if role.startswith(DATA_PATH))
                spent.setdefault((shards, cross), []).append(total)
    for cross in crossing:
        one, four = spent[1, cross], spent[SHARDS, cross]
        bench.note(
            "cpu_by_shards",
            **{
                f"us_1_shard_{cross:.0%}": over_rounds(one),
                f"us_{SHARDS}_shards_{cross:.0%}": over_rounds(four),
                f"ratio_{cross:.0%}": ratios(four, one),
            },
        )
    bench.figures["cpu_by_shards"] = ratios(spent[SHARDS, FIGURE], spent[1, FIGURE])
