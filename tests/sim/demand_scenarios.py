"""Scripted lives of waiting orders and of short positions, for crashes at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.domain.commands import AdjustStock, GetOrder, ListDemand, StockMove
from engine.domain.orders import OnShort
from engine.domain.placement import shard_of_node, shard_of_slot
from engine.domain.replies import DemandList, OrderView
from tests.builders import a_line
from tests.sim.checker import conserved
from tests.sim.clients import Op
from tests.sim.harness import World
from tests.sim.scenarios import REST_MS, Script

PATIENCE_MS = 400_000
"""Long enough for what was forgotten with a process to be found again by the slow round."""


SKU = "SKU-1"
"""An item that the script itself stocks nowhere."""


class DemandScript(Script):
    def __init__(self, *, shards: int, crash_at: tuple[int, ...]) -> None:
        super().__init__(shards=shards, crash_at=crash_at)
        self.received = 0

    def rest(self, *, shipped: int = 0) -> World:
        self.world.calm_down(for_ms=REST_MS)
        self.clients.check_end()
        assert conserved(self.world.cores())[1] == self.received - shipped, "I2: units appeared or vanished"
        return self.world

    def receive(self, node: int, units: int, kind: str = "received") -> None:
        """Units come to a node, or leave it."""
        document = self.clients.nodes[node]
        moves = (StockMove(SKU, kind, units),)
        shard = shard_of_node(self.world.placement, document)
        self.wait(self.clients.send(shard, AdjustStock(document.node_id, moves, **self.clients.key())))
        self.received += units if kind == "received" else -units

    def wait(self, op: Op) -> Any:
        while op.reply is None:
            self.world.run(10)
        self.world.run(50)
        return op.reply

    def park(self, units: Any, *, home: int = 0, **fields: Any) -> OrderView:
        """Place an order that may wait: units of SKU, or lines."""
        fields.setdefault("on_short", OnShort.PARK)
        lines = {SKU: units} if isinstance(units, int) else units
        view = self.wait(self.clients.place(lines, postal_code=self.postal_code(home), **fields))
        assert isinstance(view, OrderView), view
        return view

    def postal_code(self, home: int) -> str:
        """Of a destination whose home is a shard."""
        world = self.world
        return next(
            code for code in self.clients.postal_codes if shard_of_slot(world.placement, "US" + code[:3]) == home
        )

    def node_of(self, shard: int) -> int:
        """A shard's first node."""
        nodes = enumerate(self.clients.nodes)
        return next(n for n, node in nodes if shard_of_node(self.world.placement, node) == shard)

    def snatch(self, home: int) -> bool:
        """Somebody who does not wait tries to get a unit; whether they do."""
        place = self.clients.place({SKU: 1}, postal_code=self.postal_code(home), on_short=OnShort.REFUSE)
        return isinstance(self.wait(place), OrderView)

    def see(self, view: OrderView) -> OrderView:
        home = shard_of_slot(self.world.placement, view.slot)
        now = self.wait(self.clients.send(home, GetOrder(view.slot, view.order_no)))
        assert isinstance(now, OrderView), now
        return now

    def until(self, holds: Callable[[], bool], what: str) -> None:
        until_ms = self.world.now_ms + PATIENCE_MS
        while not holds():
            assert self.world.now_ms < until_ms, f"W1: {what}"
            self.world.run(1_000)


def _units(view: OrderView) -> int:
    return sum(line.quantity for leg in view.legs if leg.state == "allocated" for line in leg.lines)


def waiting(crash_at: tuple[int, ...] = ()) -> World:
    """Two shards: two orders wait, the urgent one is served first, the other from both shards; a third is given up at its date."""
    s = DemandScript(shards=2, crash_at=crash_at)
    first = s.park(3)
    late = s.park(1, cancel_after_ms=s.world.now_ms + 2_000)
    urgent = s.park(1, priority=7)
    s.until(lambda: s.see(late).state == "cancelled", "a date has come and nothing was given up")
    s.receive(0, 1)
    s.until(lambda: s.see(urgent).state == "allocated", "who is urgent was not served first")
    assert _units(s.see(first)) == 0, "W2: the unit went to who came first, not to who is urgent"
    s.receive(2, 1)
    s.until(lambda: _units(s.see(first)) == 1, "units of another shard serve nobody")
    s.receive(1, 2)
    s.until(lambda: s.see(first).state == "allocated", "units came and nobody was served")
    listed = s.wait(s.clients.send(0, ListDemand()))
    assert isinstance(listed, DemandList) and not listed.rows
    return s.rest()


def collecting(crash_at: tuple[int, ...] = ()) -> World:
    """One shard: an order that must leave whole collects its units one by one; a later small one gets what is left."""
    s = DemandScript(shards=1, crash_at=crash_at)
    whole = s.park([a_line(SKU, 3, group="g")])
    small = s.park(1)
    for _ in range(3):
        s.receive(0, 1)
        s.world.run(3_000)
    s.until(lambda: s.see(whole).state == "allocated", "an order that must leave whole is starved by a small one")
    assert s.see(small).state == "parked"
    s.receive(1, 1)
    s.until(lambda: s.see(small).state == "allocated", "what is left over serves nobody")
    return s.rest()


def abroad(crash_at: tuple[int, ...] = ()) -> World:
    """Two shards: whose home is elsewhere is served in its turn, and collects there; who comes later, there or here, is not served first.

    After a crash what was kept may go to somebody else: then more comes, and nobody waits for ever.
    """
    s = DemandScript(shards=2, crash_at=crash_at)
    there = s.node_of(1)
    whole = s.park([a_line(SKU, 3, group="g")])
    small = s.park(1, home=1)
    lost = 0
    for _ in range(3):
        s.receive(there, 1)
        s.world.run(500)
        lost += s.snatch(1) + s.snatch(0)
        s.world.run(2_500)
    if not crash_at:
        assert not lost, "W2: a unit went to who does not wait"
        s.until(lambda: s.see(whole).state == "allocated", "who waits at another home is starved by a small order")
        assert s.see(small).state == "parked", "W2: the unit went to who came later, because it lives there"
    s.receive(there, lost + 1)
    s.until(lambda: s.see(whole).state == s.see(small).state == "allocated", "what comes back serves nobody")
    return s.rest()


def ranked(crash_at: tuple[int, ...] = ()) -> World:
    """Two shards: orders of both wait for one node; it serves them as they rank, whoever is at home there."""
    s = DemandScript(shards=2, crash_at=crash_at)
    here = s.node_of(0)
    line = [s.park(1, home=1), s.park(1), s.park(1, home=1), s.park(1, home=1, priority=7)]
    order = [line[3], *line[:3]]
    for n, foremost in enumerate(order):
        s.receive(here, 1)
        if not crash_at:
            s.until(lambda foremost=foremost: s.see(foremost).state == "allocated", f"number {n} is not served")
            waiting = [s.see(view).state for view in order[n + 1 :]]
            assert waiting == ["parked"] * (3 - n), f"W2: {waiting} behind number {n}"
    s.until(lambda: all(s.see(view).state == "allocated" for view in line), "units are there, and somebody waits")
    return s.rest()


def short(crash_at: tuple[int, ...] = ()) -> World:
    """Two shards: units at another shard's node get lost; the leg there moves to a node that has some."""
    s = DemandScript(shards=2, crash_at=crash_at)
    s.receive(2, 2)
    view = s.park(2)
    s.until(lambda: _units(s.see(view)) == 2, "units of another shard serve nobody")
    s.receive(1, 1)
    s.receive(2, 1, "damaged")
    s.until(lambda: not s.world.core(1).state.short_positions, "nobody takes units out of a leg that lacks them")

    def where() -> dict[str, int]:
        legs = [leg for leg in s.see(view).legs if leg.state == "allocated"]
        return {leg.node_id: sum(line.quantity for line in leg.lines) for leg in legs}

    s.until(
        lambda: where() == {"N-1": 1, "N-2": 1}, f"units that lack at a node are not served from elsewhere: {where()}"
    )
    return s.rest()


SCENARIOS: dict[str, Callable[[tuple[int, ...]], World]] = {
    "waiting": waiting,
    "collecting": collecting,
    "abroad": abroad,
    "ranked": ranked,
    "short": short,
}
