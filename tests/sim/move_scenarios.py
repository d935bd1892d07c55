"""Scripted lives of orders whose slot or nodes move to another shard meanwhile, for crashes at every single step (moves.py, M1-M7)."""

from __future__ import annotations

from collections.abc import Callable

from engine.domain.commands import (
    ActOnLeg,
    CancelInbound,
    CancelOrder,
    Command,
    CommitHold,
    ListInbound,
    PlaceOrder,
    PutInbound,
    ReceiveInbound,
    SetPosition,
)
from engine.domain.config import Placement
from engine.domain.decide_moves import MoveCommand
from engine.domain.move_commands import AddShard, AdmitShard, BeginMove, EndShard
from engine.domain.orders import OnShort
from engine.domain.placement import CONTROL_SHARD, shard_of_band, shard_of_node, shard_of_slot
from engine.domain.replies import InboundReply, OrderView, Reply, StockReply
from tests.sim.harness import World
from tests.sim.run_seed import MIDNIGHT_MS
from tests.sim.scenarios import Script

MOVE_ATTEMPTS = 40


class MovingScript(Script):
    """A script that moves parts while it goes on."""

    def begin(self, part: str, target: int) -> None:
        self.clients.send(CONTROL_SHARD, BeginMove(part, target))

    def move(self, part: str, target: int) -> None:
        """Move a part, again and again until it is there: a move that a crash cuts short is given up, and stays where it was."""
        for _ in range(MOVE_ATTEMPTS):
            self.begin(part, target)
            for _ in range(30):
                self.world.run(50)
                placement = self.world.placement
                if placement.moving is None and self.owner(part) == target:
                    self.world.run(50)
                    return
        raise AssertionError(f"{part} never came to shard {target}: {self.world.placement}")

    def decide(self, command: MoveCommand, is_done: Callable[[Placement], bool]) -> None:
        """Have the control shard decide something, again and again until the map says so: a crash may lose the request."""
        for _ in range(MOVE_ATTEMPTS):
            self.clients.send(CONTROL_SHARD, command)
            for _ in range(30):
                self.world.run(50)
                if is_done(self.world.placement):
                    return
        raise AssertionError(f"never decided: {command}, {self.world.placement}")

    def until_started(self, shard: int) -> None:
        while self.world.processes[shard].core is None:
            self.world.run(10)

    def parts(self) -> list[str]:
        """All nodes, and the slots that have orders or keys."""
        slots = {slot: None for core in self.world.cores() for slot in core.state.slots}
        return [*(f"slot:{slot}" for slot in sorted(slots)), *(f"node:{node.node_id}" for node in self.clients.nodes)]

    def owner(self, part: str) -> int:
        kind, _, name = part.partition(":")
        placement = self.world.placement
        if kind == "slot":
            return shard_of_slot(placement, name)
        if kind == "band":
            return shard_of_band(placement, int(name))
        return shard_of_node(placement, next(node for node in self.clients.nodes if node.node_id == name))

    def act(self, view: OrderView, leg_no: int, *actions: str) -> OrderView:
        for action in actions:
            reply = self.ask(ActOnLeg(view.slot, view.order_no, leg_no, action, **self.clients.key()))
            assert isinstance(reply, OrderView), reply
            view = reply
        return view

    def repeat(self, view: OrderView) -> None:
        """The command that placed an order, again: the first answer, wherever its slot is by now (M4)."""
        placed = [op for op in self.placed if isinstance(op.command, PlaceOrder)]
        command = next(op.command for op in placed if op.reply is not None and op.reply.order_no == view.order_no)
        again = self.ask(command)
        assert isinstance(again, OrderView), again
        assert again.order_no == view.order_no and again.replayed, f"a repeat made {again}, first was {view}"


def node_moves(crash_at: tuple[int, ...] = ()) -> World:
    """A node with allocated, held and shipped legs goes to the other shard and comes back; its legs go on at either."""
    s = MovingScript(shards=2, crash_at=crash_at, stock=4)
    view = s.place(5)
    hold = s.place(5, ttl_s=600)
    legs = {leg.node_id: leg.leg_no for leg in view.legs}
    assert "N-0" in legs
    s.act(view, legs["N-0"], "release")
    s.begin("node:N-0", 1)
    s.world.run(3)
    s.place(1)
    s.move("node:N-0", 1)
    view = s.act(view, legs["N-0"], "pick", "ship")
    shipped = sum(line.quantity for leg in view.legs if leg.node_id == "N-0" for line in leg.lines)
    assert isinstance(s.ask(CommitHold(hold.slot, hold.order_no, **s.clients.key())), OrderView)
    assert isinstance(s.ask(CancelOrder(hold.slot, hold.order_no, **s.clients.key())), OrderView)
    s.move("node:N-0", 0)
    last = s.place(2)
    s.repeat(view)
    assert isinstance(s.ask(CancelOrder(last.slot, last.order_no, **s.clients.key())), OrderView)
    return s.rest(shipped=shipped)


def slot_moves(crash_at: tuple[int, ...] = ()) -> World:
    """A slot with an open hold, a committed order over both shards, and one that waits for stock goes, with its keys."""
    s = MovingScript(shards=2, crash_at=crash_at, stock=2)
    slot = "US" + s.clients.postal_codes[0][:3]
    view = s.place(3)
    hold = s.place(4, ttl_s=600)
    waiting = s.place(2, on_short=OnShort.PARK)
    assert waiting.unfilled, waiting
    s.begin(f"slot:{slot}", 1)
    s.world.run(3)
    s.repeat(view)
    s.move(f"slot:{slot}", 1)
    s.repeat(hold)
    committed = s.ask(CommitHold(hold.slot, hold.order_no, (("1", 1),), **s.clients.key()))
    assert isinstance(committed, OrderView), committed
    s.world.run(5_000)
    order = s.order(waiting)
    assert not order.unfilled, f"freed units did not reach the order that waits at its new home: {order}"
    view = s.act(view, 1, "release", "ship")
    shipped = sum(line.quantity for line in view.legs[0].lines)
    s.move(f"slot:{slot}", 0)
    assert isinstance(s.ask(CancelOrder(view.slot, view.order_no, **s.clients.key())), OrderView)
    s.repeat(waiting)
    return s.rest(shipped=shipped)


def holds_expire_at_the_new_home(crash_at: tuple[int, ...] = ()) -> World:
    """A hold that is due after its slot has moved ends there, once."""
    s = MovingScript(shards=2, crash_at=crash_at, stock=1)
    slot = "US" + s.clients.postal_codes[0][:3]
    hold = s.place(4, ttl_s=3)
    s.move(f"slot:{slot}", 1)
    s.world.run(65_000 if crash_at else 4_000)  # a restart gives open holds a grace of 30 s, one at either home
    assert s.order(hold).state == "expired"
    again = s.place(4)
    assert sum(line.quantity for leg in again.legs for line in leg.lines) == 4
    return s.rest()


def band_moves(crash_at: tuple[int, ...] = ()) -> World:
    """A band goes: new destinations are served by its next owner, slots with orders and the nodes stay."""
    s = MovingScript(shards=2, crash_at=crash_at, stock=3)
    view = s.place(2)
    s.move("band:0", 1)
    assert s.owner(f"slot:{view.slot}") == 0 and s.owner("node:N-0") == 0, "what has orders or stock stays"
    assert s.owner("slot:US001") == 1
    s.repeat(view)
    op = s.clients.place({"SKU-0": 1}, postal_code="00101")
    s.wait(op)
    assert isinstance(op.reply, OrderView), op.reply
    s.move("slot:" + view.slot, 1)
    assert isinstance(s.ask(CancelOrder(view.slot, view.order_no, **s.clients.key())), OrderView)
    s.move("band:0", 0)
    assert s.owner("slot:" + op.reply.slot) == 1
    return s.rest()


def band_moves_under_an_order(crash_at: tuple[int, ...] = ()) -> World:
    """While a band goes, the first order of one of its slots waits for the other shard: that slot stays, and has its order."""
    s = MovingScript(shards=2, crash_at=crash_at, stock=2)
    s.world.slow_replies_ms = 200
    s.begin("band:0", 1)
    s.world.run(150)
    op = s.clients.place({"SKU-0": 8}, postal_code="00101")
    s.wait(op)
    for _ in range(20):
        if isinstance(op.reply, OrderView):
            break
        s.world.run(500)  # a view may be empty for a moment after a crash
        op = s.clients.send(op.shard, op.command)
        s.wait(op)
    assert isinstance(op.reply, OrderView), op.reply
    s.world.slow_replies_ms = 0
    s.move("band:0", 1)
    assert isinstance(s.ask(CancelOrder(op.reply.slot, op.reply.order_no, **s.clients.key())), OrderView)
    return s.rest()


def supply_moves(crash_at: tuple[int, ...] = ()) -> World:
    """A node goes with what is on its way to it and with a position that nobody counts. Midnight comes at its next owner, once."""
    s = MovingScript(shards=2, crash_at=crash_at, stock=2, begin_ms=MIDNIGHT_MS - 12_000)
    clients, world = s.clients, s.world
    stated = (InboundReply, StockReply)  # the latter: a repeat of what a crash left unanswered

    def ask(command: Command) -> Reply:
        op = clients.send(s.owner("node:N-0"), command)
        s.wait(op)
        assert op.reply is not None
        return op.reply

    def sold(units: int) -> bool:
        """Whether an order of what N-0 alone has was taken, within a while: a view may be empty for a moment after a crash."""
        op = clients.place({"SKU-2": units}, postal_code=clients.postal_codes[0])
        s.wait(op)
        for _ in range(12 if crash_at else 2):
            if isinstance(op.reply, OrderView):
                return True
            world.run(500)
            op = clients.send(op.shard, op.command)
            s.wait(op)
        return False

    rows = (("PO-1", "SKU-1", 5, world.now_ms + 9), ("PO-2", "SKU-0", 7, world.now_ms + 9))
    assert isinstance(ask(PutInbound("N-0", rows, **clients.key())), stated)
    assert isinstance(ask(SetPosition("N-0", (("SKU-2", 0, "uncounted", 10_000, 3),), **clients.key())), StockReply)
    assert sold(2), "two of the first day's three"
    s.move("node:N-0", 1)
    receipt = ReceiveInbound("N-0", "PO-1", 2, **clients.key())
    assert isinstance(ask(receipt), StockReply)
    assert world.now_ms < MIDNIGHT_MS - 2_000, "the node was to be there before its day begins"
    world.run(MIDNIGHT_MS + 2_000 - world.now_ms)
    assert sold(3) and not sold(1), "the second day's three, whatever is open of the first"
    s.move("node:N-0", 0)
    world.run(2_000)
    assert not sold(1), "the day had begun already"
    again = ask(receipt)
    assert isinstance(again, StockReply) and again.replayed, again
    listed = ask(ListInbound())
    assert isinstance(listed, InboundReply)
    assert sorted((row.inbound_id, row.quantity) for row in listed.rows) == [("PO-1", 3), ("PO-2", 7)], listed
    assert isinstance(ask(CancelInbound("N-0", "PO-2", **clients.key())), stated)
    assert (world.transit.receipts, world.transit.renewals) == (1, 1)
    return s.rest()


def shard_comes_and_another_ends(crash_at: tuple[int, ...] = ()) -> World:
    """A third shard is added and gets a node and a slot; the second gives it the rest, and ends. Orders go on, keys too."""
    s = MovingScript(shards=2, crash_at=crash_at, stock=3)
    world = s.world
    slot = "US" + s.clients.postal_codes[0][:3]
    view = s.place(7)
    assert {"N-0", "N-2"} <= {leg.node_id for leg in view.legs}, "an order over both shards"
    s.decide(AddShard(2), lambda placement: placement.shard_count == 3)
    assert (world.placement.joining, s.owner("node:N-2")) == ([2], 1), "it owns nothing, and nobody asks it"
    world.add_shard()
    s.until_started(2)
    s.decide(AdmitShard(2), lambda placement: not placement.joining)
    s.move("node:N-0", 2)
    s.move(f"slot:{slot}", 2)
    s.repeat(view)
    s.place(1)
    assert world.placement.ended == []
    s.clients.send(CONTROL_SHARD, EndShard(1))
    world.run(50)
    assert world.placement.ended == [], "it owns parts"
    for part in ("band:1", *(part for part in s.parts() if s.owner(part) == 1)):
        s.move(part, 2)
    s.decide(EndShard(1), lambda placement: placement.ended == [1])
    s.until_started(1)  # it may have just crashed
    left = world.core(1).state
    assert not any(part.orders for part in left.slots.values()) and not any(p.foreign for p in left.nodes.values())
    world.end_shard(1)
    s.repeat(view)
    last = s.place(2)
    assert isinstance(s.ask(CancelOrder(view.slot, view.order_no, **s.clients.key())), OrderView)
    assert isinstance(s.ask(CancelOrder(last.slot, last.order_no, **s.clients.key())), OrderView)
    return s.rest()


MOVE_SCENARIOS: dict[str, Callable[[tuple[int, ...]], World]] = {
    "node_moves": node_moves,
    "slot_moves": slot_moves,
    "holds_expire_at_the_new_home": holds_expire_at_the_new_home,
    "band_moves": band_moves,
    "band_moves_under_an_order": band_moves_under_an_order,
    "supply_moves": supply_moves,
    "shard_comes_and_another_ends": shard_comes_and_another_ends,
}
