"""Resident memory of one shard's state, measured in a process of its own: `python -m loadtests.core_memory positions 1000000 1`.

Prints one JSON line. The network and everything else that is not the shard's state is there before the first reading.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from collections.abc import Callable

from loadtests.in_process import LocalShard, commands_of
from loadtests.network import NetworkSpec, build_network
from loadtests.proc import resident_bytes
from loadtests.traffic import Traffic, TrafficSpec

BATCH = 64
CHUNK = 64 * 256


def settled_bytes() -> int:
    """Resident bytes once garbage and free heap pages are given back."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        pass  # not glibc: what is free stays counted
    return resident_bytes(os.getpid())


def positions(count: int, seed: int) -> float:
    """Bytes per stocked position at 5 % density; the index and what planning needs of them included."""
    skus = 10_000 if count >= 500_000 else 2_000
    nodes = round(count / (skus * 0.05))
    spec = NetworkSpec(
        seed=seed,
        warehouses=max(1, nodes // 50),
        stores=nodes - max(1, nodes // 50),
        skus=skus,
        warehouse_carry=0.05,
        store_carry=0.05,
        handling_share=0.0,
        flat_units=100,
    )
    network = build_network(spec)
    shard = LocalShard(network, stocked=False)
    some = commands_of(network, Traffic(network, TrafficSpec(seed=seed, lines=3)).draw(2 * BATCH), prefix="warm")
    shard.run(some[:BATCH])
    before = settled_bytes()
    shard.load_stock()
    shard.run(some[BATCH:])
    return (settled_bytes() - before) / len(network.stock.node)


def holds(count: int, seed: int) -> float:
    """Bytes per open hold of three lines, its idempotency key included: from a quarter of them to all.

    What the first holds need anyhow (tables of customers, of places, of capacity) would count ten times as much a hold at a tenth
    of the scale.
    """
    spec = NetworkSpec(seed=seed, warehouses=20, stores=80, skus=1_000, handling_share=0.0, flat_units=10_000_000)
    network = build_network(spec)
    shard = LocalShard(network)
    traffic = Traffic(network, TrafficSpec(seed=seed, lines=3))
    warm = commands_of(network, traffic.draw(BATCH), prefix="warm", ttl_s=86_000)
    shard.place(warm)
    before = placed_before = placed = 0
    base = max(CHUNK, count // 4 // CHUNK * CHUNK)
    for first in range(0, count, CHUNK):
        if first == base:
            before, placed_before = settled_bytes(), placed
        commands = commands_of(network, traffic.draw(min(CHUNK, count - first)), prefix="h", first=first, ttl_s=86_000)
        for at in range(0, len(commands), BATCH):
            placed += shard.place(commands[at : at + BATCH])
    if placed < count * 0.999:
        raise RuntimeError(f"only {placed} of {count} holds were placed")
    if not before:
        raise ValueError(f"at least {2 * CHUNK} holds are needed for a difference")
    return (settled_bytes() - before) / (placed - placed_before)


MEASURES: dict[str, Callable[[int, int], float]] = {"positions": positions, "holds": holds}


def main() -> None:
    what, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    print(json.dumps({"bytes": MEASURES[what](count, seed)}))


if __name__ == "__main__":
    main()
