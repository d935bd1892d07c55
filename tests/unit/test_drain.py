"""A node that is drained takes nothing new, finishes what it has, and says how much that still is; on one shard and over several."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from engine.client.node_work import summed
from engine.domain.commands import ActOnLeg, EditOrder, GetNodeWork
from engine.domain.replies import NodeWork, OrderView, Problem
from tests.builders import a_destination, a_line, a_place, an_order
from tests.sim.little_cluster import LittleCluster
from tests.unit.test_edits import a_cluster, check, live

NODE = "N-0"


def drain(cluster: LittleCluster, state: str = "drain") -> None:
    for core in cluster.cores:
        core.catalog.nodes = [
            replace(node, state=state) if node and node.node_id == NODE else node for node in core.catalog.nodes
        ]
        core.catalog.version += 1
    cluster.settle()


def work(cluster: LittleCluster) -> dict[str, Any]:
    replies = [cluster.ask(shard, GetNodeWork(NODE)) for shard in range(cluster.shards)]
    return summed(NODE, "drain", [reply for reply in replies if isinstance(reply, NodeWork)])


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_a_drained_node_finishes_what_it_has_and_counts_down(shards: int) -> None:
    cluster = a_cluster(shards, units=4)
    # the order's home is the last shard: the node's owner is another one, where there are several
    home = shards - 1
    code = f"{home * 1_000 // shards + 10:03d}01"
    order = an_order("A", {"SKU-0": 16}, ship_to=a_destination(code), max_legs=4)
    placed = cluster.ask(home, a_place(order))
    assert isinstance(placed, OrderView), placed
    assert live(placed)[NODE] == 4
    held = cluster.ask(home, a_place(an_order("H", {"SKU-1": 16}, ship_to=a_destination(code), max_legs=4), ttl_s=60))
    assert isinstance(held, OrderView), held
    drain(cluster)
    before = work(cluster)
    assert (before["units_allocated"], before["units_held"], before["legs"]) == (4, 4, {"allocated": 1})
    assert not before["finished"]

    new = cluster.ask(home, a_place(an_order("B", {"SKU-2": 13}, ship_to=a_destination(code), max_legs=4)))
    assert isinstance(new, Problem) and new.code == "out_of_stock", new
    more = cluster.ask(home, EditOrder(placed.slot, placed.order_no, added=(a_line("SKU-2", 13, line_id="9"),)))
    assert isinstance(more, Problem), more

    (leg,) = [leg for leg in placed.legs if leg.node_id == NODE]
    at = (placed.slot, placed.order_no, leg.leg_no)
    for action, state in (("release", "released"), ("accept", "accepted"), ("pick", "picking")):
        assert isinstance(cluster.ask(home, ActOnLeg(*at, action)), OrderView)
        assert work(cluster)["legs"] == {state: 1}
    assert isinstance(cluster.ask(home, ActOnLeg(*at, "ship")), OrderView)
    cluster.now_ms += 70_000  # the hold expires
    cluster.settle()
    cluster.now_ms += 100
    cluster.settle()
    after = work(cluster)
    assert (after["units_allocated"], after["units_held"], after["legs"]) == (0, 0, {"shipped": 1})
    assert after["finished"]
    check(cluster)
    drain(cluster, "on")
    cluster.now_ms += 100
    cluster.settle()
    assert isinstance(cluster.ask(home, a_place(replace(order, order_id="C", lines=(a_line("SKU-2", 16),)))), OrderView)


def test_shipped_legs_that_are_not_counted_hold_no_drain_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.protocol.node_work.LEGS_COUNTED_MAX", 2)
    cluster = a_cluster(2, units=4)

    def placed(n: int) -> tuple[str, int, int]:
        view = cluster.ask(0, a_place(an_order(f"A-{n}", {"SKU-0": 1}, ship_to=a_destination("01001"))))
        assert isinstance(view, OrderView) and live(view) == {NODE: 1}, view
        return view.slot, view.order_no, view.legs[0].leg_no

    def ship(at: tuple[str, int, int]) -> None:
        for action in ("release", "ship"):
            assert isinstance(cluster.ask(0, ActOnLeg(*at, action)), OrderView)

    for n in range(3):
        ship(placed(n))
    last = placed(3)
    before = work(cluster)
    assert (before["legs_to_ship"], before["legs_more"], before["finished"]) == (1, True, False)
    ship(last)
    after = work(cluster)
    assert (after["legs_to_ship"], after["legs_more"], after["finished"]) == (0, True, True)


def test_an_unknown_node_is_said_to_be_unknown() -> None:
    reply = a_cluster(1).ask(0, GetNodeWork("NOWHERE"))
    assert isinstance(reply, Problem) and reply.code == "not_found"
