"""Random lives of waiting orders at three shards whose connections break: nothing is kept for ever, and everybody knows who waits."""

from __future__ import annotations

import random

import pytest

from engine.domain.commands import AdjustStock, CancelOrder, FollowView, StockMove
from engine.domain.orders import OnShort
from engine.domain.replies import OrderView
from engine.protocol.replan import legs_left
from tests.builders import a_destination, a_line, a_place, an_order
from tests.sim.checker import check_core, check_guests
from tests.sim.little_cluster import LittleCluster

SHARDS, NODES, ITEMS = 3, 6, 3
STEPS = 60
PEER = 1_000_000
"""How LittleCluster numbers the connections of shards."""


class Life:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.cluster = LittleCluster(shards=SHARDS, nodes=NODES, items=ITEMS, per_day=self.random.choice([0, 0, 4]))
        codes = [f"{zone:02d}001" for zone in range(100)]
        owner_of = self.cluster.cores[0].catalog.owner_of_slot
        self.codes = {owner_of("US" + code[:3]): code for code in codes}
        self.placed: list[tuple[int, OrderView]] = []

    def pass_time(self, ms: int, step_ms: int = 20) -> None:
        for _ in range(0, ms, step_ms):
            self.cluster.now_ms += step_ms
            self.cluster.settle()

    def place(self, number: int) -> None:
        rng = self.random
        home = rng.randrange(SHARDS)
        line = a_line(
            f"SKU-{rng.randrange(ITEMS)}", rng.randint(1, 4), **({"group": "g"} if rng.random() < 0.5 else {})
        )
        order = an_order(
            f"A-{number}",
            [line],
            ship_to=a_destination(self.codes[home]),
            priority=rng.choice([0, 0, 2]),
            on_short=rng.choice([OnShort.PARK, OnShort.PARK, OnShort.REFUSE]),
        )
        view = self.cluster.ask(home, a_place(order))
        if isinstance(view, OrderView):
            self.placed.append((home, view))

    def receive(self, node: int, item: int, units: int) -> None:
        owner = self.cluster.cores[0].catalog.owner[node]
        self.cluster.send(owner, AdjustStock(f"N-{node}", (StockMove(f"SKU-{item}", "received", units),)))

    def break_connection(self) -> None:
        follower, owner = self.random.sample(range(SHARDS), 2)
        core = self.cluster.cores[owner]
        core.disconnected(PEER + follower)
        core.receive(PEER + follower, 0, FollowView(follower), now_ms=self.cluster.now_ms)

    def step(self, number: int) -> None:
        rng, roll = self.random, self.random.random()
        if roll < 0.4:
            self.place(number)
        elif roll < 0.75:
            self.receive(rng.randrange(NODES), rng.randrange(ITEMS), rng.randint(1, 3))
        elif roll < 0.8 and self.placed:
            home, view = rng.choice(self.placed)
            self.cluster.send(home, CancelOrder(view.slot, view.order_no))
        elif roll < 0.9:
            self.break_connection()
        if rng.random() < 0.7:
            self.pass_time(rng.choice([20, 100, 1_000, 4_000]))
        for core in self.cluster.cores:
            check_core(core)


@pytest.mark.parametrize("seed", range(16))
def test_nothing_is_kept_for_nobody(seed: int) -> None:
    life = Life(seed)
    for number in range(STEPS):
        life.step(number)
    for _ in range(6):
        for node in range(NODES):
            for item in range(ITEMS):
                life.receive(node, item, 8)
        life.pass_time(4_000)
    life.pass_time(400_000, 500)
    cores = life.cluster.cores
    check_guests(cores)
    waiting = [core.state.order(entry.slot, entry.order_no) for core in cores for entry in core.demand.entries.values()]
    if life.cluster.per_day == 0:
        could = [
            record
            for record in waiting
            if record is not None and any(legs_left(record, record.lines[demand.line]) > 0 for demand in record.demand)
        ]
        assert not could, "there is plenty, and somebody waits who may have one more leg"
    if not waiting:
        for core in cores:
            queue = core.demand
            assert not (core.state.kept or queue.guests.by_order or queue.guests.turns or queue.visits.working)
            assert not any(core.demand.keeping.items() for core in cores)
