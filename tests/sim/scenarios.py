"""Scripted lives of a few orders, for crashes at every single step. Each returns the world at rest, with every promise checked."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from engine.domain.commands import (
    ActOnLeg,
    AdjustStock,
    CancelOrder,
    Command,
    CommitHold,
    EditOrder,
    GetOrder,
    ReleaseHold,
    StockMove,
)
from engine.domain.placement import shard_of_node
from engine.domain.replies import OrderView, Reply
from tests.builders import NOW_MS, a_destination
from tests.sim.checker import check_views, conserved
from tests.sim.clients import Clients, Op
from tests.sim.harness import Faults, World
from tests.sim.run_seed import ITEMS, a_small_network, postal_codes

_STEADY = Faults(delay_ms=2)
REST_MS = 60_000


class Script:
    """A world, its clients, and a stock that only the script changes."""

    def __init__(
        self,
        *,
        shards: int,
        crash_at: tuple[int, ...],
        snapshot_rate: float = 0.0,
        stock: int = 2,
        begin_ms: int = NOW_MS,
    ) -> None:
        self.world = World(
            1,
            shards=shards,
            documents=a_small_network(shards),
            faults=_STEADY,
            snapshot_rate=snapshot_rate,
            crash_at=crash_at,
            begin_ms=begin_ms,
        )
        self.clients = Clients(self.world, items=ITEMS, postal_codes=postal_codes(shards))
        self.placed: list[Op] = []
        """The attempt of each order that was taken."""
        self.received = 0
        for node in self.clients.nodes:
            moves = (StockMove("SKU-0", "received", stock),)
            self.clients.send(
                shard_of_node(self.world.placement, node), AdjustStock(node.node_id, moves, **self.clients.key())
            )
            self.received += stock
        while self.clients.open:
            self.world.run(10)
        self.world.run(30)  # the views

    def place(self, units: int, *, ttl_s: int = 0, **fields: object) -> OrderView:
        """Place until it is taken: after a crash, a view may be empty for a moment.

        A refusal is not stored, so it is the same command under the same key: a late copy of it may have been taken meanwhile.
        """
        clients = self.clients
        op = clients.place({"SKU-0": units}, postal_code=clients.postal_codes[0], ttl_s=ttl_s, **fields)
        for _ in range(20):
            self.wait(op)
            if isinstance(op.reply, OrderView):
                self.placed.append(op)
                return op.reply
            self.world.run(500)
            op = clients.send(op.shard, op.command)
        raise AssertionError(f"never placed: {op.reply}")

    def switch(self, node_id: str, state: str) -> None:
        """Change a node's state, again and again until all shards know it: a crash may lose the request."""
        world = self.world
        node = next(node for node in self.clients.nodes if node.node_id == node_id)
        for _ in range(50):
            world.put_document(msgspec.structs.replace(node, state=state))
            world.run(200)
            processes = [world.processes[shard] for shard in range(world.shards)]
            known = [process.catalog.nodes[process.catalog.node_of[node_id]] for process in processes if process.core]
            if len(known) == world.shards and all(document and document.state == state for document in known):
                return
        raise AssertionError(f"{node_id} was never switched {state}")

    def ask(self, command: Command) -> Reply:
        op = self.clients.send(0, command)
        self.wait(op)
        assert op.reply is not None
        return op.reply

    def wait(self, op: Op) -> None:
        while op.reply is None:
            self.world.run(10)
        self.world.run(20)  # drives and views

    def order(self, view: OrderView) -> OrderView:
        """An order as it is now."""
        reply = self.ask(GetOrder(view.slot, view.order_no))
        assert isinstance(reply, OrderView), reply
        return reply

    def rest(self, *, shipped: int = 0) -> World:
        self.world.calm_down(for_ms=REST_MS)
        self.clients.check_end()
        assert conserved(self.world.cores())[0] == self.received - shipped, "I2: units appeared or vanished"
        return self.world


def _move(s: Script, view: OrderView, leg_no: int, *actions: str) -> None:
    for action in actions:
        reply = s.ask(ActOnLeg(view.slot, view.order_no, leg_no, action, **s.clients.key()))
        assert isinstance(reply, OrderView), reply


def single(crash_at: tuple[int, ...] = ()) -> World:
    """One shard: allocate, release, pick, ship, deliver; reserve and commit another; cancel it."""
    s = Script(shards=1, crash_at=crash_at, stock=4)
    first = s.place(3)
    _move(s, first, 1, "release", "pick", "ship", "deliver")
    second = s.place(2, ttl_s=60)
    assert isinstance(s.ask(CommitHold(second.slot, second.order_no, (("1", 1),), **s.clients.key())), OrderView)
    assert isinstance(s.ask(CancelOrder(second.slot, second.order_no, **s.clients.key())), OrderView)
    return s.rest(shipped=3)


def two_legs(crash_at: tuple[int, ...] = ()) -> World:
    """Two shards: an order over both is allocated, one leg ships, the other is cancelled."""
    s = Script(shards=2, crash_at=crash_at, stock=2)
    view = s.place(6)
    remote = [leg for leg in view.legs if leg.node_id in ("N-2", "N-3")]
    assert len(view.legs) == 3 and len(remote) == 1
    _move(s, view, remote[0].leg_no, "release", "ship")
    assert isinstance(s.ask(CancelOrder(view.slot, view.order_no, **s.clients.key())), OrderView)
    return s.rest(shipped=2)


def three_legs(crash_at: tuple[int, ...] = ()) -> World:
    """Three shards: reserve over all, commit in part, reject one leg with a write-off."""
    s = Script(shards=3, crash_at=crash_at, stock=1)
    view = s.place(6, ttl_s=600)
    assert len(view.legs) == 6
    committed = s.ask(CommitHold(view.slot, view.order_no, (("1", 5),), **s.clients.key()))
    assert isinstance(committed, OrderView), committed
    leg = next(leg for leg in committed.legs if leg.node_id == "N-4")
    rejected = s.ask(ActOnLeg(view.slot, view.order_no, leg.leg_no, "reject", None, "", "write_off", **s.clients.key()))
    assert isinstance(rejected, OrderView), rejected
    return s.rest(shipped=1)


def expiry(crash_at: tuple[int, ...] = ()) -> World:
    """Two shards: a hold over both expires by itself, another is released; then all units can be sold again."""
    s = Script(shards=2, crash_at=crash_at, stock=1)
    s.place(3, ttl_s=1)
    s.world.run(32_500 if crash_at else 1_500)  # a restart gives open holds a grace of 30 s
    view = s.place(2, ttl_s=600)
    assert isinstance(s.ask(ReleaseHold(view.slot, view.order_no, **s.clients.key())), OrderView)
    s.world.run(50)
    everything = s.place(4)
    assert sum(line.quantity for leg in everything.legs for line in leg.lines) == 4
    return s.rest()


def elsewhere(crash_at: tuple[int, ...] = ()) -> World:
    """Two shards: a hold over all units there are is committed to another destination, for which only they can be used."""
    s = Script(shards=2, crash_at=crash_at, stock=2)
    held = s.place(8, ttl_s=600)
    assert len(held.legs) == 4
    command = CommitHold(
        held.slot, held.order_no, None, **s.clients.key(), ship_to=a_destination(s.clients.postal_codes[1])
    )
    for _ in range(20):
        committed = s.ask(command)
        if isinstance(committed, OrderView):
            break
        s.world.run(500)  # a view may be empty for a moment after a crash; the hold stays
    assert isinstance(committed, OrderView), committed
    live = [leg for leg in committed.legs if leg.state == "allocated"]
    assert sum(line.quantity for leg in live for line in leg.lines) == 8
    assert isinstance(s.ask(CancelOrder(held.slot, held.order_no, **s.clients.key())), OrderView)
    return s.rest()


def edited(crash_at: tuple[int, ...] = ()) -> World:
    """Two shards: an order with nearly all units there are gets another address and the rest of the units, in one step."""
    s = Script(shards=2, crash_at=crash_at, stock=2)
    view = s.place(6)
    command = EditOrder(
        view.slot,
        view.order_no,
        a_destination(s.clients.postal_codes[1]),
        lines=((view.legs[0].lines[0].line_id, 8),),
        **s.clients.key(),
    )
    for _ in range(20):
        changed = s.ask(command)
        if isinstance(changed, OrderView):
            break
        assert sum(_live(s.order(view)).values()) in (6, 8), (
            "all or nothing"
        )  # 8: a late copy of it was taken meanwhile
        s.world.run(500)  # a view may be empty for a moment after a crash
    assert isinstance(changed, OrderView), changed
    assert sum(_live(changed).values()) == 8
    assert isinstance(s.ask(CancelOrder(view.slot, view.order_no, **s.clients.key())), OrderView)
    return s.rest()


def not_accepted(crash_at: tuple[int, ...] = ()) -> World:
    """Two shards: a released leg that its node does not accept goes to other nodes, of both shards, never to the same one."""
    s = Script(shards=2, crash_at=crash_at, stock=2)
    view = s.place(2)
    (leg,) = view.legs
    assert leg.node_id == "N-0", "the node with the deadline"
    _move(s, view, 1, "release")
    taken = s.place(2)  # what N-1 has: only the other shard is left
    assert _live(taken) == {"N-1": 2}
    s.world.run(100_000 if crash_at else 35_000)  # every start of a shard gives nodes a grace of 30 s
    moved = s.order(view)
    assert moved.legs[0].end_reason == "not_accepted" and sum(_live(moved).values()) == 2, moved
    assert not {"N-0", "N-1"} & set(_live(moved)), moved
    return s.rest()


def _live(view: OrderView) -> dict[str, int]:
    """Units by node in legs that have not ended."""
    units: dict[str, int] = {}
    for leg in view.legs:
        if leg.state not in ("cancelled", "rejected"):
            units[leg.node_id] = units.get(leg.node_id, 0) + sum(line.quantity for line in leg.lines)
    return units


def configuration(crash_at: tuple[int, ...] = ()) -> World:
    """Two shards and the control shard: a node is switched off and on while orders come; no change is lost or half known."""
    s = Script(shards=2, crash_at=crash_at, stock=2)
    s.switch("N-0", "off")
    assert [leg.node_id for leg in s.place(2).legs] == ["N-1"]
    s.switch("N-1", "drain")
    s.switch("N-0", "on")
    s.world.run(500 if crash_at else 0)
    assert "N-0" in [leg.node_id for leg in s.place(1).legs]
    return s.rest()


def views_first(crash_at: tuple[int, ...] = ()) -> World:
    """Two shards: what a TRY holds is in the view before its answer is there. It is counted once, by both."""
    s = Script(shards=2, crash_at=crash_at, stock=3)
    s.world.slow_replies_ms = 40
    held = s.place(8, ttl_s=600)
    assert len(held.legs) >= 3
    s.world.run(5_000 if crash_at else 500)
    check_views(s.world.cores())
    assert isinstance(s.ask(ReleaseHold(held.slot, held.order_no, **s.clients.key())), OrderView)
    return s.rest()


def snapshot_and_trim(crash_at: tuple[int, ...] = ()) -> World:
    """Two shards that snapshot after every batch and trim: recovery rests on parts of different ages."""
    s = Script(shards=2, crash_at=crash_at, snapshot_rate=1.0, stock=3)
    shipped = 0
    for units in (1, 5):
        view = s.place(units)
        _move(s, view, 1, "release", "ship")
        shipped += sum(line.quantity for line in view.legs[0].lines)
    held = s.place(4, ttl_s=600)
    assert isinstance(s.ask(CommitHold(held.slot, held.order_no, **s.clients.key())), OrderView)
    assert s.world.journals[0].first > 1, "nothing was ever trimmed: the scenario proves nothing"
    return s.rest(shipped=shipped)


SCENARIOS: dict[str, Callable[[tuple[int, ...]], World]] = {
    "single": single,
    "two_legs": two_legs,
    "three_legs": three_legs,
    "expiry": expiry,
    "elsewhere": elsewhere,
    "edited": edited,
    "not_accepted": not_accepted,
    "configuration": configuration,
    "views_first": views_first,
    "snapshot_and_trim": snapshot_and_trim,
}
