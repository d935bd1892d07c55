"""Nothing waits for ever while later ones are served: Hypothesis invents orders, receipts and snatchers; rank decides."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.domain import demand
from engine.domain.commands import AdjustStock, StockMove
from engine.domain.orders import OnShort
from engine.domain.replies import OrderView
from tests.builders import a_line, a_network, a_place, an_order
from tests.sim.lone_core import LoneCore

WAIT_MS = 20 * 60_000
"""Longer than the longest pause between two attempts."""

steps = st.lists(
    st.one_of(
        st.tuples(st.just("order"), st.integers(1, 5), st.sampled_from([0, 0, 1, 3])),
        st.tuples(st.just("snatch"), st.integers(1, 2), st.just(0)),
        st.tuples(st.just("receive"), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("wait"), st.integers(0, 3_000), st.just(0)),
    ),
    min_size=3,
    max_size=25,
)


class Shop:
    """One node, one item; every order leaves whole or not at all."""

    def __init__(self) -> None:
        self.shop = LoneCore(a_network(nodes=1, items=1))
        self.count = 0

    def order(self, units: int, priority: int, *, on_short: int = OnShort.PARK) -> Any:
        self.count += 1
        line = a_line("SKU-0", units, group="whole")
        return self.shop.ask(a_place(an_order(f"A-{self.count}", [line], priority=priority, on_short=on_short)))

    def receive(self, units: int) -> None:
        self.shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", units),)))

    def foremost(self) -> tuple[int, int] | None:
        """(rank, units) of the first of those who wait."""
        queue = self.shop.core.demand
        if not queue.order:
            return None
        return queue.order[0][0], sum(queue.entries[queue.order[0][1]].items.values())


@example([("receive", 1, 0), ("order", 2, 0), ("snatch", 1, 0)])
@example([("receive", 1, 0), ("order", 2, 1), ("order", 1, 1)])
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(steps)
def test_nobody_is_served_before_who_ranks_first_and_all_are_served_in_the_end(
    life: list[tuple[str, int, int]],
) -> None:
    world = Shop()
    for what, number, priority in life:
        before = world.foremost()
        if what == "order" or what == "snatch":
            on_short = OnShort.PARK if what == "order" else OnShort.REFUSE
            rank = demand.rank_of(world.shop.now_ms, priority, 0)
            reply = world.order(number, priority, on_short=on_short)
            if isinstance(reply, OrderView) and reply.state == "allocated" and before is not None:
                assert rank < before[0], "a later order got what the foremost waits for"
        elif what == "receive":
            world.receive(number)
            world.shop.pass_time(WAIT_MS)
            if before is not None and world.foremost() not in (None, before):
                rank, _ = world.foremost() or (0, 0)
                assert rank >= before[0], "the foremost fell behind"
        else:
            world.shop.pass_time(number)
    for _ in range(200):
        if world.foremost() is None:
            break
        world.receive(1)
        reply = world.order(1, 0, on_short=OnShort.REFUSE)
        assert not isinstance(reply, OrderView), "who comes later starves those who wait"
        world.shop.pass_time(WAIT_MS)
    assert world.foremost() is None, "somebody waits for ever"
    assert not world.shop.state.kept


@given(
    since=st.integers(0, 1 << 40),
    priority=st.integers(0, demand.PRIORITY_MAX),
    value=st.integers(0, 1 << 50),
    later_priority=st.integers(0, demand.PRIORITY_MAX),
    later_value=st.integers(0, 1 << 50),
)
def test_a_bounded_time_brings_everybody_to_the_front(
    since: int, priority: int, value: int, later_priority: int, later_value: int
) -> None:
    """W2: whoever comes so much later stays behind, whatever their priority and value."""
    guard_ms = (demand.PRIORITY_MAX - priority) * demand.PRIORITY_STEP_MS + demand.VALUE_MS_MAX
    later = demand.rank_of(since + guard_ms + 1, later_priority, later_value)
    assert demand.rank_of(since, priority, value) < later
