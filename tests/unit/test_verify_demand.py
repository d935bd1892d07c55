"""The auditor's books agree with shards whose orders waited, were served, given up, moved up, and moved off short positions."""

from __future__ import annotations

import pytest

from engine.domain.commands import AdjustStock, CancelDemand, CountStock, PrioritiseDemand, StockMove
from engine.domain.events import Cause
from engine.domain.orders import OnShort
from engine.domain.replies import OrderView
from engine.verify.causes import _mentions, newest_causes
from tests.builders import a_destination, a_place, an_order
from tests.sim.little_cluster import LittleCluster
from tests.unit.test_verify_books import _fold, assert_agree

_WORDS = {Cause.REPLANNED: "planned again", Cause.RESOURCED: "re-sourced"}


def _receive(cluster: LittleCluster, node: int, units: int) -> None:
    shard = cluster.cores[0].catalog.owner[node]
    cluster.ask(shard, AdjustStock(f"N-{node}", (StockMove("SKU-0", "received", units),)))
    for _ in range(4):
        cluster.now_ms += 1_500
        cluster.settle()


def _park(cluster: LittleCluster, order_id: str, units: int, **fields: object) -> OrderView:
    order = an_order(
        order_id, {"SKU-0": units}, ship_to=a_destination("01001"), on_short=OnShort.PARK, paid=True, **fields
    )
    view = cluster.ask(0, a_place(order))
    assert isinstance(view, OrderView), view
    return view


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_a_life_of_waiting_orders_adds_up(shards: int) -> None:
    cluster = LittleCluster(shards=shards)
    first, second, third = (_park(cluster, name, 2) for name in ("A", "B", "C"))
    _park(cluster, "D", 1, cancel_after_ms=cluster.now_ms + 3_000)
    cluster.ask(0, PrioritiseDemand(third.slot, third.order_no, 0, 4))
    _receive(cluster, 3, 2)
    cluster.ask(0, CancelDemand(second.slot, second.order_no, 0))
    _receive(cluster, 0, 1)
    owner = cluster.cores[0].catalog.owner[3]
    cluster.ask(owner, CountStock("N-3", "wms", cluster.now_ms, 1, "delta", (("SKU-0", 1),)))
    _receive(cluster, 1, 1)
    counts = {name: sum(core.counts[name] for core in cluster.cores) for name in ("demand_expired", "legs_resourced")}
    assert counts == {"demand_expired": 1, "legs_resourced": 1}
    core = cluster.cores[0]
    assert [core.state.order(v.slot, v.order_no).state for v in (first, second, third)] == [1, 4, 1]  # type: ignore[union-attr]
    for shard in range(shards):
        assert_agree(cluster, shard, _fold(cluster, shard))


async def test_causes_are_named() -> None:
    cluster = LittleCluster()
    order = _park(cluster, "A", 2)
    cluster.ask(0, PrioritiseDemand(order.slot, order.order_no, 0, 4))
    cluster.ask(0, CancelDemand(order.slot, order.order_no, 0))

    async def entries():  # type: ignore[no-untyped-def]
        for entry in cluster.entries[0]:
            yield entry

    found = await newest_causes(entries(), {order.order_no})
    texts = [cause.text for cause in found[order.order_no]]
    assert [text.split(") ")[-1] for text in texts][:2] == ["demand cancelled", "prioritised"]


def test_every_cause_has_words() -> None:
    """The auditor keeps words of its own; a new cause must not be shown as a number."""
    for cause in Cause:
        event = [1, int(cause), "US100", 7, b"", []]
        assert _mentions(event)[0] == (7, f"order 7 (US100) {_WORDS.get(cause, cause.name.lower().replace('_', ' '))}")
