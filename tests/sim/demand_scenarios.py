"""Scripted lives of waiting orders and of short positions, for crashes at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.domain.commands import AdjustStock, GetOrder, ListDemand, StockMove
from engine.domain.orders import OnShort
from engine.domain.placement import shard_of_node
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

    def park(self, units: Any, **fields: Any) -> OrderView:
        """Place an order that may wait: units of SKU, or lines."""
        fields.setdefault("on_short", OnShort.PARK)
        lines = {SKU: units} if isinstance(units, int) else units
        view = self.wait(self.clients.place(lines, postal_code=self.clients.postal_codes[0], **fields))
        assert isinstance(view, OrderView), view
        return view

    def see(self, view: OrderView) -> OrderView:
        now = self.wait(self.clients.send(0, GetOrder(view.slot, view.order_no)))
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
    "short": short,
}
