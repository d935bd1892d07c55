"""Figures of the core alone, in process: CPU of a decision and bytes of state (decide_vs_decode, cpu_by_catalogue, bytes_per_*)."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import msgspec

from engine.domain.commands import PlaceOrder
from loadtests.figures import Figure, over_rounds, ratios
from loadtests.in_process import LocalShard, PlainOrder, commands_of, placed_of
from loadtests.network import Network, NetworkSpec, build_network
from loadtests.runs import Bench
from loadtests.traffic import Renderer, Traffic, TrafficSpec

BATCH = 64
BATCHES = 24
DECODE_REPEATS = 5
ALL_PAGES = 1_000_000
_COMMANDS = msgspec.msgpack.Decoder(list[PlaceOrder])


def measure(bench: Bench, wanted: set[str]) -> None:
    """Add the wanted figures to the bench."""
    if "decide_vs_decode" in wanted:
        bench.figures["decide_vs_decode"] = decide_vs_decode(bench)
    if "cpu_by_catalogue" in wanted:
        bench.figures["cpu_by_catalogue"] = cpu_by_catalogue(bench)
    for key, what, count in (
        ("bytes_per_position", "positions", 1_000_000),
        ("bytes_per_open_hold", "holds", 1_000_000),
    ):
        if key in wanted:
            bench.figures[key] = _in_child(bench, what, count // bench.shrink)


def small_network(seed: int, skus: int) -> Network:
    """100 nodes; stock that does not run out; nothing that only some nodes may take."""
    return build_network(
        NetworkSpec(seed=seed, warehouses=20, stores=80, skus=skus, handling_share=0.0, flat_units=1_000_000)
    )


def decide_us(shard: LocalShard, traffic: Traffic, prefix: str) -> float:
    """CPU microseconds per 3-line order over BATCHES batches of 64: look-up, dedupe, plan, hold, apply, record, encode.

    Each batch is decoded from its frame just before it is decided, as in a shard; the decoding is not counted. The memory lies in
    large pages, as a shard's does.
    """
    shard.pages.make(ALL_PAGES)
    commands = commands_of(shard.network, traffic.draw(BATCH * BATCHES), prefix=prefix)
    count = len(commands)
    frames = [msgspec.msgpack.encode(commands[first : first + BATCH]) for first in range(0, count, BATCH)]
    del commands
    spent = 0.0
    placed = 0
    for frame in frames:
        batch = _COMMANDS.decode(frame)
        started = time.thread_time()
        replies = shard.run(batch)
        spent += time.thread_time() - started
        placed += placed_of(replies)
    if placed < count * 0.99:
        raise RuntimeError(f"only {placed} of {count} orders were placed: this is not normal stock")
    return spent / count * 1e6


def decide_vs_decode(bench: Bench) -> Figure:
    """Round by round in one process: batches of 64 decided, the same kind of orders decoded."""
    network = small_network(bench.seed, 10_000 // bench.shrink)
    shard = LocalShard(network)
    traffic = Traffic(network, TrafficSpec(seed=bench.seed, lines=3))
    renderer = Renderer(network)
    decoder = msgspec.json.Decoder(PlainOrder)
    decide_us(shard, traffic, "warm")
    decided, decoded = [], []
    for n in range(bench.rounds):
        decided.append(decide_us(shard, traffic, f"r{n}-"))
        bodies = [renderer.body(order, f"r{n}-{i:09d}") for i, order in enumerate(traffic.draw(BATCH * BATCHES))]
        started = time.thread_time()
        for _ in range(DECODE_REPEATS):
            for body in bodies:
                decoder.decode(body)
        decoded.append((time.thread_time() - started) / (DECODE_REPEATS * len(bodies)) * 1e6)
    bench.note("decide_vs_decode", decide_us=over_rounds(decided), decode_us=over_rounds(decoded))
    return ratios(decided, decoded)


def cpu_by_catalogue(bench: Bench) -> Figure:
    """CPU of deciding on 1,000,000 positions and 2,000 nodes over 10,000 and 100, both at 5 % density."""
    shrink = bench.shrink
    large = NetworkSpec(
        seed=bench.seed,
        warehouses=40 // (4 if shrink > 1 else 1),
        stores=2_000 // shrink - 40 // (4 if shrink > 1 else 1),
        skus=10_000,
        warehouse_carry=0.05,
        store_carry=0.05,
        handling_share=0.0,
        flat_units=100_000,
    )
    small = NetworkSpec(
        seed=bench.seed,
        warehouses=10,
        stores=90,
        skus=2_000,
        warehouse_carry=0.05,
        store_carry=0.05,
        handling_share=0.0,
        flat_units=100_000,
    )
    shards = [LocalShard(build_network(spec)) for spec in (large, small)]
    traffics = [Traffic(shard.network, TrafficSpec(seed=bench.seed, lines=3)) for shard in shards]
    spent: list[list[float]] = [[], []]
    for n in range(-1, bench.rounds):
        for which, (shard, traffic) in enumerate(zip(shards, traffics, strict=True)):
            taken = decide_us(shard, traffic, f"c{n}-")
            if n >= 0:
                spent[which].append(taken)
    sizes = [len(shard.network.stock.node) for shard in shards]
    bench.note("cpu_by_catalogue", positions=sizes, large_us=over_rounds(spent[0]), small_us=over_rounds(spent[1]))
    return ratios(*spent)


def _in_child(bench: Bench, what: str, count: int) -> Figure:
    """Memory is read in a fresh process; twice where time allows, for the range."""
    values = []
    for n in range(1 if bench.shrink > 1 else 2):
        command = [sys.executable, "-m", "loadtests.core_memory", what, str(count), str(bench.seed + n)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"measuring {what} failed: {done.stderr[-2_000:]}")
        values.append(float(json.loads(done.stdout.splitlines()[-1])["bytes"]))
    return over_rounds(values)
