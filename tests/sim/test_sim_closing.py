"""Random lives in which orders leave the shards' memory: recovery, transactions across shards and drives never miss one."""

from __future__ import annotations

import msgspec
import pytest

from engine.domain.events import Event, OrdersClosed
from engine.domain.placement import CONTROL_SHARD
from engine.protocol.control_core import ControlCore
from engine.protocol.shard_core import ShardCore
from tests.sim.clients import Clients
from tests.sim.harness import Process, World
from tests.sim.run_seed import run_seed

_events = msgspec.msgpack.Decoder(list[Event])


def closed_in(world: World) -> set[int]:
    """Orders that some journal says are closed."""
    out: set[int] = set()
    for shard, journal in world.journals.items():
        if shard != CONTROL_SHARD:
            for entry in journal.entries:
                for event in _events.decode(entry.payload):
                    if isinstance(event, OrdersClosed):
                        out.update(event.order_nos)
    return out


@pytest.fixture(params=[0, 200], ids=["at once", "after 200 ms, of an index with a gap"])
def closing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Orders leave so long after their end, the index being up to date; returns how many left, by world. What was acknowledged must
    be in the state or closed in the journal."""
    new_core, poll = Process.new_core, Process.poll
    recovered, check_end = Clients._recovered, Clients.check_end
    left: list[int] = []

    def quick_core(self: Process) -> ShardCore | ControlCore:
        core = new_core(self)
        if isinstance(core, ShardCore):
            core.closing._after_ms = request.param
        return core

    def indexed_poll(self: Process) -> None:
        core, entries = self.core, self.journal.entries
        if isinstance(core, ShardCore) and 0 < core.durable_seq <= len(entries):
            core.archived(core.durable_seq, entries[core.durable_seq - 1].time_ms, index_is_whole=not request.param)
        poll(self)

    def open_recovered(self: Clients, shard: int, core: ShardCore | ControlCore) -> None:
        gone, views = closed_in(self.world), self.views
        self.views = {order_no: view for order_no, view in views.items() if order_no not in gone}
        recovered(self, shard, core)
        self.views = views

    def check_open(self: Clients) -> None:
        gone = closed_in(self.world)
        left.append(len(gone))
        self.views = {order_no: view for order_no, view in self.views.items() if order_no not in gone}
        for numbers in self.placed.values():
            for order_no in gone & numbers.keys():
                del numbers[order_no]
        check_end(self)

    monkeypatch.setattr(Process, "new_core", quick_core)
    monkeypatch.setattr(Process, "poll", indexed_poll)
    monkeypatch.setattr(Clients, "_recovered", open_recovered)
    monkeypatch.setattr(Clients, "check_end", check_open)
    return left


def test_random_lives_with_orders_that_leave(closing: list[int]) -> None:
    for seed in range(6):
        try:
            run_seed(seed)
        except BaseException as error:
            raise AssertionError(f"seed {seed}") from error
    assert min(closing) > 0 and sum(closing) > 60
