"""Run one seed of the simulator: `python -m tests.sim.run_seed SEED [SHARDS]`. Prints what happened; fails where a promise broke."""

from __future__ import annotations

import sys
from collections import Counter

from engine.domain.config import NodeCapacity
from engine.domain.move_commands import BeginMove
from engine.domain.placement import CONTROL_SHARD
from tests.builders import NOW_MS, a_channel, a_network, a_node
from tests.sim.clients import Clients
from tests.sim.harness import ROUGH, Faults, World

ITEMS = 3


def postal_codes(shards: int) -> list[str]:
    """Two slots of every shard."""
    return [f"{shard * 1_000 // shards + offset:03d}01" for shard in range(shards) for offset in (10, 20)]


MIDNIGHT_MS = (NOW_MS // 86_400_000 + 1) * 86_400_000
"""Of the nodes, too: all are in UTC."""
WAVES = {1: [f"14:{minute}" for minute in range(14, 60)], 2: [f"14:{minute}" for minute in range(15, 60, 2)]}
"""A world begins at 14:13:20, or a second before midnight. Some nodes release each minute, some are a minute before a wave when it is 14:14."""


def a_small_network(shards: int) -> list[object]:
    """Two nodes a shard: some with few units of capacity a day, some impatient for acceptance, some with waves."""
    codes = postal_codes(shards)
    nodes = [
        a_node(
            f"N-{n}",
            postal_code=code,
            capacity=NodeCapacity(unit="units", per_day=30) if n % 3 == 2 else None,
            acceptance_deadline_s=2 if n % 2 == 0 else None,
            waves=WAVES.get(n % 4, []),
        )
        for n, code in enumerate(codes)
    ]
    return [*a_network(nodes=nodes, items=ITEMS, shards=shards, channel=a_channel())]


def run_seed(
    seed: int, *, shards: int = 0, faults: Faults = ROUGH, commands: int = 160, moves_every: int = 12
) -> World:
    """One whole life of a cluster: start, traffic under faults, calm, check. Parts move meanwhile; moves_every = 0: none does."""
    shards = shards or (1, 2, 2, 3)[seed % 4]
    world = World(
        seed,
        shards=shards,
        documents=a_small_network(shards),  # type: ignore[arg-type]
        faults=faults,
        solver_in_flight_max=seed % 3,
        snapshot_rate=(0.02, 0.2)[seed % 2],
        begin_ms=(NOW_MS, MIDNIGHT_MS - 1_500)[seed % 2],
    )
    clients = Clients(world, items=ITEMS, postal_codes=postal_codes(shards))
    clients.stock_up(quantity_max=9)
    for n in range(commands):
        for _ in range(clients.random.choice([1, 1, 2, 6])):
            clients.work()
        if n % 40 == 20:
            node = clients.random.choice(clients.nodes)
            state = clients.random.choice(["on", "on", "off", "drain"])
            world.put_document(_with_state(node, state))
        if moves_every and shards > 1 and n % moves_every == moves_every - 1:
            begin_some_move(clients)
        world.run(clients.random.choice([0, 1, 5, 20, 60]))
    world.calm_down(for_ms=60_000)
    clients.check_end()
    world.clients = clients  # type: ignore[attr-defined]
    return world


def begin_some_move(clients: Clients) -> None:
    """Somebody wants some part elsewhere. Refused where another is on its way."""
    rng = clients.random
    kind = rng.choice(["node", "node", "slot", "slot", "band"])
    if kind == "node":
        part = f"node:{rng.choice(clients.nodes).node_id}"
    elif kind == "slot":
        part = f"slot:US{rng.choice(clients.postal_codes)[:3]}"
    else:
        part = f"band:{rng.randrange(clients.world.shards)}"
    clients.send(CONTROL_SHARD, BeginMove(part, rng.randrange(clients.world.shards)))


def _with_state(node: object, state: str) -> object:
    import msgspec

    return msgspec.structs.replace(node, state=state)


def main() -> None:
    seed, shards = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    world = run_seed(seed, shards=shards)
    counts: Counter[str] = Counter()
    for core in world.cores():
        counts.update(core.counts)
    print(f"seed {seed}: {world.shards} shards, {world.steps} steps, {world.incarnations} incarnations")
    print(dict(sorted(counts.items())))


if __name__ == "__main__":
    main()
