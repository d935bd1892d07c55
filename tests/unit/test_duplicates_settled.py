"""What the archiver does about orders of one id in several slots: the shards decide (D1), and what is unknown is tried again (D3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from engine.actors.duplicates import Duplicates
from engine.archive.reader import IndexReader, OrderEnd, Pair
from engine.client.cluster import Cluster
from engine.client.link import unavailable
from engine.domain.commands import ActOnLeg, CancelOrder, Command, GetOrder
from engine.domain.ids import slot_of
from engine.domain.replies import OrderView, Reply
from tests.builders import NOW_MS, a_destination, a_place, an_order
from tests.unit.test_domain_orders import a_shop, free

PLACES = ("10001", "90001", "60601")


class Shop:
    """One shard with one order id in three slots, as index and cluster to who asks; `lost` = what gets no answer."""

    def __init__(self, *, ttl_s: int = 0) -> None:
        self.shop = a_shop({"N-0": {"SKU-0": 9}})
        self.views: list[OrderView] = []
        for place in PLACES:
            self.shop.pass_time(5)
            order = an_order("SAME", ship_to=a_destination(postal_code=place))
            self.views.append(self.shop.ask(a_place(order, ttl_s=0 if self.views else ttl_s)))
        self.asked: list[Command] = []
        self.lost: Callable[[Command], bool] = lambda command: False

    def shard_of_slot(self, slot: str) -> int:
        assert slot in [slot_of("US", place) for place in PLACES]
        return 0

    async def ask_owner(self, owner: Callable[[], int], command: Command) -> Reply:
        assert owner() == 0
        self.asked.append(command)
        return unavailable() if self.lost(command) else cast(Reply, self.shop.ask(command))

    def open_duplicates(self, *, after_no: int, limit: int) -> tuple[list[Pair], int | None]:
        """An index that has heard of no end: one order at a time."""
        ends = [OrderEnd(view.order_no, view.slot, "allocated", 0) for view in self.views]
        for n, end in enumerate(ends[1:], 1):
            if end.order_no > after_no:
                return [Pair(end, older) for older in ends[:n]], end.order_no if n < len(ends) - 1 else None
        return [], None

    @property
    def states(self) -> list[str]:
        return [self.shop.ask(GetOrder(view.slot, view.order_no)).state for view in self.views]

    async def settle(self, *, now_ms: int = NOW_MS) -> bool:
        one = Duplicates(cast(IndexReader, self), cast(Cluster, self), now_ms=lambda: now_ms)
        return await one.settle()


async def test_all_but_the_oldest_are_cancelled_and_a_second_look_changes_nothing() -> None:
    shop = Shop()
    assert await shop.settle()
    assert (shop.states, free(shop.shop, "SKU-0", "N-0")) == (["allocated", "cancelled", "cancelled"], 8)
    assert await shop.settle(), "the index has not heard of it yet"
    assert shop.states == ["allocated", "cancelled", "cancelled"]


async def test_nothing_is_cancelled_for_an_order_that_has_ended_meanwhile() -> None:
    """D1: the oldest has ended, which the index does not know; then the second counts."""
    shop = Shop()
    first = shop.views[0]
    shop.shop.ask(CancelOrder(first.slot, first.order_no))
    assert await shop.settle()
    assert shop.states == ["cancelled", "allocated", "cancelled"]


async def test_a_hold_whose_time_is_over_counts_no_more() -> None:
    shop = Shop(ttl_s=60)
    assert await shop.settle(now_ms=NOW_MS + 3_600_000)
    assert shop.states == ["held", "allocated", "cancelled"]


@pytest.mark.parametrize("kind", [GetOrder, CancelOrder])
async def test_what_is_unknown_is_said_and_can_be_tried_again(kind: type) -> None:
    shop = Shop()
    second = shop.views[1].order_no
    shop.lost = lambda command: isinstance(command, kind) and (kind is GetOrder or command.order_no == second)  # type: ignore[union-attr]
    assert not await shop.settle()
    assert shop.states == (["allocated"] * 3 if kind is GetOrder else ["allocated", "allocated", "cancelled"])
    shop.lost = lambda command: False
    assert await shop.settle()
    assert shop.states == ["allocated", "cancelled", "cancelled"]


async def test_a_duplicate_that_was_released_to_a_node_is_left_and_not_tried_for_ever() -> None:
    shop = Shop()
    second = shop.views[1]
    shop.shop.ask(ActOnLeg(second.slot, second.order_no, second.legs[0].leg_no, "release"))
    assert await shop.settle()
    assert shop.states == ["allocated", "allocated", "cancelled"]
