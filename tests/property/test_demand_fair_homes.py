"""One queue for the orders of several homes: Hypothesis invents orders, receipts and snatchers at two shards; rank decides."""

from __future__ import annotations

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.domain import demand
from engine.domain.commands import AdjustStock, StockMove
from engine.domain.orders import OnShort
from engine.domain.replies import OrderView
from tests.builders import a_destination, a_line, a_place, an_order
from tests.sim.checker import check_guests
from tests.sim.little_cluster import LittleCluster

WAIT_MS = 20 * 60_000
"""Longer than the longest pause between two attempts."""
REST_MS = 200
"""Until every shard knows what waits at the other."""
HOMES = ("01001", "51001")

steps = st.lists(
    st.one_of(
        st.tuples(st.just("order"), st.integers(1, 4), st.sampled_from([0, 0, 1, 3]), st.integers(0, 1)),
        st.tuples(st.just("snatch"), st.integers(1, 2), st.just(0), st.integers(0, 1)),
        st.tuples(st.just("receive"), st.integers(1, 3), st.just(0), st.just(0)),
        st.tuples(st.just("wait"), st.integers(0, 3_000), st.just(0), st.just(0)),
    ),
    min_size=3,
    max_size=20,
)


class Shop:
    """One node, one item, two homes; every order leaves whole or not at all."""

    def __init__(self) -> None:
        self.cluster = LittleCluster(shards=2, nodes=1, items=1)
        self.count = 0
        for home, postal_code in enumerate(HOMES):
            assert self.cluster.cores[0].catalog.owner_of_slot("US" + postal_code[:3]) == home

    def pass_time(self, wait_ms: int) -> None:
        """Look when something is due, as the shells do."""
        cluster = self.cluster
        until_ms = cluster.now_ms + wait_ms
        cluster.settle()
        while cluster.now_ms < until_ms:
            due = [core.demand.wake_at_ms(cluster.now_ms) for core in cluster.cores]
            views = [core.views.wake_at_ms() for core in cluster.cores]
            times = [time for time in (*due, *views) if time is not None]
            cluster.now_ms = min(until_ms, max(cluster.now_ms + 20, min(times, default=until_ms)))
            cluster.settle()

    def order(self, home: int, units: int, priority: int, *, on_short: int = OnShort.PARK) -> bool:
        """Whether it was served at once."""
        self.count += 1
        order = an_order(
            f"A-{self.count}",
            [a_line("SKU-0", units, group="whole")],
            ship_to=a_destination(HOMES[home]),
            priority=priority,
            on_short=on_short,
        )
        reply = self.cluster.ask(home, a_place(order))
        self.pass_time(REST_MS)
        return isinstance(reply, OrderView) and reply.state == "allocated"

    def receive(self, units: int) -> None:
        self.cluster.ask(0, AdjustStock("N-0", (StockMove("SKU-0", "received", units),)))
        self.pass_time(WAIT_MS)

    def ranks(self) -> list[int]:
        """Ranks of all who wait, foremost first."""
        return [rank for rank, _ in sorted(place for core in self.cluster.cores for place in core.demand.order)]


@example([("order", 2, 0, 1), ("receive", 1, 0, 0), ("snatch", 1, 0, 0), ("order", 1, 0, 0), ("receive", 1, 0, 0)])
@example([("receive", 1, 0, 0), ("order", 2, 0, 1), ("order", 1, 0, 0)])
@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(steps)
def test_nobody_is_served_before_who_ranks_first_wherever_they_live(life: list[tuple[str, int, int, int]]) -> None:
    shop = Shop()
    for what, number, priority, home in life:
        before = shop.ranks()
        if what == "order" or what == "snatch":
            rank = demand.rank_of(shop.cluster.now_ms, priority, 0)
            served = shop.order(home, number, priority, on_short=OnShort.PARK if what == "order" else OnShort.REFUSE)
            assert not served or not before or rank < before[0], "a later order got what the foremost waits for"
        elif what == "receive":
            shop.receive(number)
        else:
            shop.pass_time(number)
        left = shop.ranks()
        gone = [rank for rank in before if rank not in left]
        assert gone == before[: len(gone)], f"served {gone} of {before}: not the foremost"
        check_guests(shop.cluster.cores)
    for _ in range(100):
        if not shop.ranks():
            break
        shop.receive(1)
        assert not shop.order(0, 1, 0, on_short=OnShort.REFUSE), "who comes later starves those who wait"
        assert not shop.order(1, 1, 0, on_short=OnShort.REFUSE), "who comes later elsewhere starves those who wait"
    assert not shop.ranks(), "somebody waits for ever"
    assert all(not core.state.kept for core in shop.cluster.cores)
