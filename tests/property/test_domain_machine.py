"""Hypothesis invents the life of one shard: orders, kits, capacity, counts, shortages, legs of foreign orders, snapshots.

After every step (in LoneCore): the sums over records equal the counters, nothing was promised beyond what there is, no shortage
stops the shard. At the end: snapshots and tail, and all entries from zero, give the same state.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from engine.domain.commands import (
    ActOnLeg,
    AdjustStock,
    CancelOrder,
    CommitHold,
    CountStock,
    DriveLeg,
    ExtendHold,
    ReleaseHold,
    SetPosition,
    StockMove,
    TryLegs,
)
from engine.domain.config import NodeCapacity
from engine.domain.decide_stock import MOVEMENT_SIGN
from engine.domain.orders import LegState, OnShort
from engine.domain.replies import Done, OrderView, Problem, StockReply, TryReply
from tests.builders import a_destination, a_line, a_network, a_node, a_place, an_item, an_order
from tests.sim.lone_core import LoneCore

SKUS = ["SKU-0", "SKU-1", "SKU-2"]
ORDERABLE = [*SKUS, "KIT-A", "KIT-B", "GIFT"]
NODES = ["N-0", "N-1", "N-2"]
ACTIONS = ["release", "accept", "pick", "ship", "deliver", "reject"]
units = st.integers(1, 4)
nodes = st.sampled_from(NODES)


def a_shop() -> LoneCore:
    items = [
        *[an_item(sku) for sku in SKUS],
        an_item("KIT-A", components={"SKU-0": 1, "SKU-1": 2}),
        an_item("KIT-B", components={"SKU-1": 1, "SKU-2": 1}),
        an_item("GIFT", tracked=False),
    ]
    places = [
        a_node("N-0"),
        a_node("N-1", capacity=NodeCapacity(unit="units", per_day=8)),
        a_node("N-2", capacity=NodeCapacity(unit="orders", per_day=2), safety_by_method={"ship": 1}),
    ]
    return LoneCore(a_network(nodes=places, items=items))


class ShardMachine(RuleBasedStateMachine):
    orders = Bundle("orders")
    foreign = Bundle("foreign")

    def __init__(self) -> None:
        super().__init__()
        self.shop = a_shop()
        self.parts: dict[str, tuple[int, bytes]] = {}
        self.count = 0
        self.feed_seq = 0

    def key(self) -> dict[str, int]:
        self.count += 1
        return {"key_hash": self.count, "fingerprint": self.count}

    def view(self, order: tuple[str, int]) -> OrderView:
        from engine.domain.commands import GetOrder

        reply = self.shop.ask(GetOrder(*order))
        assert isinstance(reply, OrderView)
        return reply

    def change(self, command: Any) -> Any:
        """A command and its repeat: the second answer is the first one, and changes nothing."""
        before = len(self.shop.entries)
        reply = self.shop.ask(command)
        assert isinstance(reply, OrderView | StockReply | Problem), reply
        entries = len(self.shop.entries)
        if (
            not isinstance(reply, Problem) and entries > before
        ):  # else there was nothing to do, and nothing is remembered
            again = self.shop.ask(command)
            assert isinstance(again, type(reply)) and again.replayed
            assert len(self.shop.entries) == entries, "a repeat was journaled"
        elif isinstance(reply, Problem):
            assert reply.code != "internal", reply
        return reply

    # -- orders ---------------------------------------------------------------------------------------------------

    @rule(
        target=orders,
        lines=st.dictionaries(st.sampled_from(ORDERABLE), units, min_size=1, max_size=3),
        ttl_s=st.sampled_from([0, 0, 1, 60]),
        on_short=st.sampled_from(OnShort),
        priority=st.integers(0, 1),
        paid=st.booleans(),
    )
    def place(self, lines: dict[str, int], ttl_s: int, on_short: int, priority: int, paid: bool) -> Any:
        order = an_order(f"A-{self.count}", lines, on_short=on_short, priority=priority, paid=paid)
        reply = self.change(a_place(order, ttl_s=ttl_s, key=self.key()["key_hash"]))
        if isinstance(reply, Problem):
            assert reply.code in ("out_of_stock", "no_capable_node"), reply
            assert not paid and on_short != OnShort.PARK
            return multiple()
        return (reply.slot, reply.order_no)

    @rule(order=orders, part=st.booleans(), take=units, postal_code=st.none() | st.sampled_from(["10001", "90001"]))
    def commit(self, order: tuple[str, int], part: bool, take: int, postal_code: str | None) -> None:
        some = [line.line_id for leg in self.view(order).legs for line in leg.lines]
        lines = ((some[0], take),) if part and some else None
        ship_to = a_destination(postal_code) if postal_code else None
        self.change(CommitHold(*order, lines, **self.key(), ship_to=ship_to))

    @rule(order=orders)
    def release(self, order: tuple[str, int]) -> None:
        self.change(ReleaseHold(*order, **self.key()))

    @rule(order=orders, ttl_s=st.sampled_from([1, 100, 100_000]))
    def extend(self, order: tuple[str, int], ttl_s: int) -> None:
        self.change(ExtendHold(*order, ttl_s, **self.key()))

    @rule(order=orders, line=st.sampled_from(["1", "2", "3", None]), take=units)
    def cancel(self, order: tuple[str, int], line: str | None, take: int) -> None:
        self.change(CancelOrder(*order, ((line, take),) if line else None, **self.key()))

    @rule(
        order=orders,
        leg=st.integers(0, 3),
        action=st.sampled_from(ACTIONS),
        take=st.none() | units,
        effect=st.sampled_from(["none", "zero_until_count", "write_off"]),
    )
    def act(self, order: tuple[str, int], leg: int, action: str, take: int | None, effect: str) -> None:
        view = self.view(order)
        if not view.legs:
            return
        chosen = view.legs[leg % len(view.legs)]
        lines = ((chosen.lines[0].line_id, take),) if take and chosen.lines else None
        self.change(ActOnLeg(*order, chosen.leg_no, action, lines, "", effect, **self.key()))

    @rule(order=orders)
    def fulfil_next_step(self, order: tuple[str, int]) -> None:
        """Most of a leg's life is only reached on purpose."""
        following = {"allocated": "release", "released": "pick", "picking": "ship", "shipped": "deliver"}
        for leg in self.view(order).legs:
            if leg.state in following:
                self.change(ActOnLeg(*order, leg.leg_no, following[leg.state], **self.key()))

    @rule(ms=st.sampled_from([0, 1, 999, 1_000, 60_000, 90_000_000]))
    def pass_time(self, ms: int) -> None:
        self.shop.pass_time(ms)

    # -- stock ----------------------------------------------------------------------------------------------------

    @rule(node=nodes, sku=st.sampled_from(SKUS), quantity=st.integers(1, 12))
    def receive(self, node: str, sku: str, quantity: int) -> None:
        self.change(AdjustStock(node, (StockMove(sku, "received", quantity),), **self.key()))

    @rule(
        node=nodes, sku=st.sampled_from(SKUS), kind=st.sampled_from(sorted(MOVEMENT_SIGN)), quantity=st.integers(-5, 5)
    )
    def adjust(self, node: str, sku: str, kind: str, quantity: int) -> None:
        self.change(AdjustStock(node, (StockMove(sku, kind, quantity),), **self.key()))

    @rule(
        node=nodes,
        rows=st.dictionaries(st.sampled_from(SKUS), st.integers(0, 6)),
        scope=st.sampled_from(["full", "nonzero", "delta"]),
        ago_ms=st.sampled_from([0, 1, 5_000, 100_000_000]),
        step=st.integers(-1, 2),
        source=st.sampled_from(["wms", "pos"]),
    )
    def count_shelf(self, node: str, rows: dict[str, int], scope: str, ago_ms: int, step: int, source: str) -> None:
        self.feed_seq = max(0, self.feed_seq + step)
        as_of_ms = self.shop.now_ms - ago_ms
        self.change(CountStock(node, source, as_of_ms, self.feed_seq, scope, tuple(rows.items()), **self.key()))

    @rule(
        node=nodes,
        sku=st.sampled_from(SKUS),
        safety=st.integers(0, 5),
        mode=st.sampled_from(["counted", "trusted"]),
        trust_bp=st.sampled_from([0, 3_333, 10_000]),
    )
    def set_position(self, node: str, sku: str, safety: int, mode: str, trust_bp: int) -> None:
        self.change(SetPosition(node, ((sku, safety, mode, trust_bp, 0),), **self.key()))

    # -- legs of orders of other homes ----------------------------------------------------------------------------

    @rule(target=foreign, node=st.integers(0, 2), lines=st.dictionaries(st.integers(0, 2), units, min_size=1))
    def hold_foreign(self, node: int, lines: dict[int, int]) -> Any:
        self.count += 1
        held = tuple(sorted(lines.items()))
        day = self.shop.now_ms // 86_400_000
        command = TryLegs(7, self.count, "US900", self.count, ((1, node, day, sum(lines.values()), held),))
        reply = self.shop.ask(command)
        assert isinstance(reply, TryReply)
        assert reply.ok or reply.short or reply.full
        return (self.count, held, 0) if reply.ok else multiple()

    @rule(target=foreign, leg=consumes(foreign), keep=st.integers(0, 3), ship=st.integers(0, 2), lose=st.booleans())
    def drive_foreign(self, leg: tuple[int, Any, int], keep: int, ship: int, lose: bool) -> Any:
        txn, held, version = leg
        if not held:
            return multiple()
        lines = tuple((item, min(keep, have)) for item, have in held if min(keep, have))
        shipped = tuple((item, gone) for item, have in held if (gone := min(ship, have - min(keep, have))))
        lost = tuple((item, have - min(keep, have) - dict(shipped).get(item, 0)) for item, have in held)
        written = tuple((item, some) for item, some in lost if some) if lose else ()
        to = LegState.ALLOCATED if lines else LegState.SHIPPED if shipped else LegState.CANCELLED
        command = DriveLeg(7, txn, "US900", txn, 1, to, lines, version + 1, shipped, written)
        assert isinstance(self.shop.ask(command), Done)
        assert isinstance(self.shop.ask(command), Done)
        if version or not lines or shipped or written:  # one cumulative step is enough here; two_phase tests do more
            return multiple()
        return (txn, lines, version + 1)

    # -- snapshots ------------------------------------------------------------------------------------------------

    @rule(some=st.integers(1, 5))
    def snapshot(self, some: int) -> None:
        for part in self.shop.core.dirty_parts()[:some]:
            self.parts[part] = self.shop.core.pack_part(part)

    @invariant()
    def short_positions_sell_nothing(self) -> None:
        state = self.shop.state
        for node, item in state.short_positions:
            assert state.positions.free(state.positions.find(item, node)) < 0

    def teardown(self) -> None:
        self.shop.settle()
        self.shop.check_recovery(self.parts)


ShardMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestShardMachine = ShardMachine.TestCase


def test_the_builder_s_shop_serves_a_line() -> None:
    shop = a_shop()
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 1),)))
    assert isinstance(shop.ask(a_place(an_order(lines=[a_line("SKU-0")]))), OrderView)
