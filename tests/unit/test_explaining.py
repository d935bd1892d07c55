"""Why not that node: from the record of orders that nobody could ship too, and planned again where the record is silent."""

from __future__ import annotations

from collections.abc import Sequence

from engine.actors.planner import SolverPlanner
from engine.domain import explanation
from engine.domain.commands import ExplainNode
from engine.domain.config import Carrier, RateCard
from engine.domain.decisions import candidates_of, decode
from engine.domain.orders import Destination, LineRecord, OnShort
from engine.domain.plan import PlanRequest
from engine.domain.replies import NodeReply, Opened
from engine.domain.state import ShardState
from engine.settings import Settings
from loadtests.in_process import LocalShard, commands_of
from loadtests.network import NetworkSpec, build_network
from loadtests.traffic import Order
from tests.builders import NOW_MS, a_catalog, a_channel, a_line, a_node, a_service, an_item, an_order
from tests.unit.test_domain_orders import problem


def a_planner(stock: Sequence[int]) -> SolverPlanner:
    """One item; `stock` = units at each node, on a line to the west of New York."""
    card = RateCard(break_g=[30_000], price_minor=[[500], [700], [900]])
    catalog = a_catalog(
        documents=[
            a_channel(),
            Carrier(
                carrier_id="acme", services=[a_service(band_km=[200, 500, 9_000], transit_days=[1, 2, 3], cards=[card])]
            ),
            an_item("SKU-0"),
            *[a_node(f"N-{n}", lat=40.75, lon=-74.0 - n) for n in range(len(stock))],
        ]
    )
    state = ShardState(catalog)
    for node, units in enumerate(stock):
        if units:
            state.positions.v_on_hand[state.positions.ensure(0, node)] = units
    return SolverPlanner(state, Settings())


def ask_for(units: int, on_short: int, *, splittable: bool = True) -> PlanRequest:
    order = an_order(
        "A-1",
        [a_line("SKU-0", units)],
        ship_to=Destination("US", "10001", lat=40.75, lon=-74.0),
        on_short=on_short,
    )
    return PlanRequest(order, [LineRecord("1", 0, units, splittable=splittable)], 0)


def test_an_order_that_nobody_can_ship_has_a_record_that_says_why() -> None:
    planner = a_planner([2, 0, 1])
    (parked,) = planner.plan([ask_for(5, OnShort.PARK, splittable=False)], now_ms=NOW_MS)
    assert not parked.legs and parked.unfilled
    record = decode(parked.record)
    assert {(one.node, *one.numbers) for one in candidates_of(record)} == {(0, 0, 2), (2, 0, 1)}
    catalog = planner._state.catalog
    said = explanation.explain(record, catalog, lines=1, unfilled=1, currency="USD")
    assert said.sentence.startswith("No node could ship any of it")
    assert not said.legs and said.runner_up is None and len(said.candidates) == 2
    (refused,) = planner.plan([ask_for(5, OnShort.REFUSE, splittable=False)], now_ms=NOW_MS)
    assert not refused.record, "nobody keeps the record of a refusal"


def test_a_record_without_candidates_is_not_that_of_the_order_before() -> None:
    """The kernel's work arrays are used again: nothing of a covered order may be left in the next one's record."""
    planner = a_planner([2, 2, 1])
    covered, nothing = planner.plan([ask_for(4, OnShort.PARTIAL), ask_for(50, OnShort.PARK)], now_ms=NOW_MS)
    assert covered.legs
    alone = a_planner([0, 0, 1])
    assert sum(units for leg in nothing.legs for _, units in leg.lines) <= 1
    (again,) = alone.plan([ask_for(50, OnShort.PARK)], now_ms=NOW_MS)
    assert decode(nothing.record).runner_up == decode(again.record).runner_up


def test_a_node_that_the_record_is_silent_about_is_asked_again() -> None:
    network = build_network(NetworkSpec(seed=3, warehouses=4, stores=16, skus=50, orders=500, handling_share=0.0))
    shard = LocalShard(network)
    (command,) = commands_of(network, [Order(0, [(0, 2), (1, 1)])], prefix="e")
    (placed,) = shard.run([command])
    assert isinstance(placed, Opened)
    state = shard.core.state
    before = [column.tobytes() for column in (state.positions.held, state.positions.allocated)]
    chosen = {leg.node_id for leg in placed.legs}
    replies = shard.run([ExplainNode(placed.slot, placed.order_no, node.node_id) for node in network.nodes])
    verdicts = {}
    for node, reply in zip(network.nodes, replies, strict=True):
        assert isinstance(reply, NodeReply)
        verdicts[node.node_id] = reply.verdict
        assert explanation.verdict_now(reply, shard.core.catalog, "USD").startswith(node.name or node.node_id)
    assert {node_id for node_id, verdict in verdicts.items() if verdict == "chosen"} == chosen, "its own units are free"
    assert set(verdicts.values()) > {"chosen"}
    assert before == [column.tobytes() for column in (state.positions.held, state.positions.allocated)]
    (nobody,) = shard.run([ExplainNode(placed.slot, placed.order_no, "NOWHERE")])
    assert problem(nobody)[0] == "unknown_node"
    (gone,) = shard.run([ExplainNode(placed.slot, placed.order_no + 1_000, network.nodes[0].node_id)])
    assert problem(gone)[0] == "not_found"
