"""Handling tags of a line: every later plan of its order keeps to them, however much cheaper a node is that cannot handle it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from engine.actors.planner import SolverPlanner
from engine.domain.commands import (
    ActOnLeg,
    AdjustStock,
    CommitHold,
    EditOrder,
    ExplainNode,
    GetOrder,
    StockMove,
)
from engine.domain.config import Carrier, Document
from engine.domain.orders import (
    Destination,
    LineRecord,
    LineRequest,
    OnShort,
    OrderRecord,
    decode_record,
    encode_record,
)
from engine.domain.parts import RowIndex, pack_part
from engine.domain.replies import OrderView, Problem
from engine.domain.state import ShardState
from engine.domain.waves import next_wave
from engine.protocol.improving import LEAD_MS
from engine.protocol.resourcing import LOOK_MS
from engine.settings import Settings
from engine.verify.layouts import reduce_record
from tests.builders import NOW_MS, a_destination, a_line, a_network, a_node, a_place, a_service, an_item, an_order
from tests.sim.little_cluster import LittleCluster
from tests.sim.lone_core import LoneCore
from tests.unit.test_edits import live
from tests.unit.test_resourcing import place, receive, switch

PLAIN, COLD, COLDER = "N-0", "N-1", "N-2"
DEADLINE_S = 600
ALWAYS = (0, 1, 2, 3, 4, 5, 6)
MUCH = {f"SKU-{n}": 90 for n in range(3)}
BOX = (a_line("SKU-0", 2, tags=("cold",)),)


def a_planner(state: ShardState) -> SolverPlanner:
    return SolverPlanner(state, Settings())


def a_shop(stock: dict[str, dict[str, int]], **fields: Any) -> LoneCore:
    """A plain node at the customer's door that has plenty of all; two that can handle cold goods, far away."""
    fields = {"working_days": ALWAYS, "postal_code": "01001", **fields}
    nodes = [a_node(PLAIN, **fields)]
    nodes += [a_node(f"N-{n}", lon=-73.99 - 10 * n, offers=("ship", "cold"), **fields) for n in (1, 2)]
    items = [an_item(f"SKU-{n}", weight_g=400) for n in range(3)]
    items.append(an_item("KIT", components={"SKU-0": 1, "SKU-1": 1}))
    documents: list[Document] = [*a_network(nodes=nodes, items=items)]
    documents[2] = Carrier(carrier_id="acme", services=[a_service(tags=["cold"])])
    shop = LoneCore(documents, make_planner=a_planner)
    for node, units in {PLAIN: MUCH, **stock}.items():
        receive(shop, node, units)
    return shop


def now(shop: LoneCore, view: OrderView) -> OrderView:
    found = shop.ask(GetOrder(view.slot, view.order_no))
    assert isinstance(found, OrderView)
    return found


def act(shop: LoneCore, view: OrderView, action: str, **fields: Any) -> None:
    assert not isinstance(shop.ask(ActOnLeg(view.slot, view.order_no, 1, action, **fields)), Problem)
    shop.pass_time(1)


def placed_cold(shop: LoneCore, lines: tuple[LineRequest, ...] = BOX, **fields: Any) -> OrderView:
    order = place(shop, "A", lines, **fields)
    assert live(order) == {COLD: sum(line.quantity for line in lines)}
    return order


@pytest.mark.parametrize("lines", [BOX, (a_line("KIT", 1, tags=("cold",)),)], ids=["line", "kit"])
def test_parked_units_wait_for_a_node_that_can_handle_them(lines: tuple[LineRequest, ...]) -> None:
    shop = a_shop({})
    order = place(shop, "A", lines, on_short=OnShort.PARK)
    assert (order.state, live(order)) == ("parked", {})
    receive(shop, PLAIN, MUCH)
    shop.pass_time(60_000)
    assert now(shop, order).state == "parked"
    receive(shop, COLD, {"SKU-0": 2, "SKU-1": 1})
    shop.pass_time(60_000)
    assert live(now(shop, order)) == {COLD: 2}
    shop.check_recovery({})


def test_a_restart_and_a_snapshot_forget_no_tag() -> None:
    shop = a_shop({})
    order = place(shop, "A", BOX, on_short=OnShort.PARK)
    part = f"slot:{order.slot}"
    saved = {part: (shop.state.seq, pack_part(shop.state, part, RowIndex()))}
    for parts in (saved, {}):
        record = shop.recovered_from(parts).state.order(order.slot, order.order_no)
        assert record is not None and record.lines[0].tags == ("cold",)


def test_a_rejected_leg_goes_to_a_node_that_can_handle_it() -> None:
    shop = a_shop({COLD: MUCH, COLDER: MUCH})
    order = placed_cold(shop)
    act(shop, order, "release")
    act(shop, order, "reject", reason="broken")
    assert live(now(shop, order)) == {COLDER: 2}


@pytest.mark.parametrize("what", ["short", "off"])
def test_units_that_are_short_and_nodes_that_are_off_are_replaced_by_nodes_that_can_handle_it(what: str) -> None:
    shop = a_shop({COLD: {"SKU-0": 2}})
    order = placed_cold(shop)
    if what == "short":
        shop.ask(AdjustStock(COLD, (StockMove("SKU-0", "damaged", 2),)))
    else:
        document = shop.catalog.nodes[1]
        assert document is not None
        switch(shop.core, 1, replace(document, state="off"))
    shop.pass_time(LOOK_MS + 1)
    assert live(now(shop, order)) == {}
    receive(shop, COLDER, {"SKU-0": 2})
    shop.pass_time(60_000)
    assert live(now(shop, order)) == {COLDER: 2}


def test_a_hold_that_is_committed_to_another_address_stays_with_nodes_that_can_handle_it() -> None:
    shop = a_shop({COLD: MUCH, COLDER: MUCH})
    held = shop.ask(a_place(an_order("A", BOX), ttl_s=600))
    assert live(held) == {COLD: 2}
    committed = shop.ask(CommitHold(held.slot, held.order_no, ship_to=a_destination("10002")))
    assert (committed.state, live(committed)) == ("allocated", {COLD: 2})


def test_edits_keep_the_tags_of_all_lines_and_those_that_they_add() -> None:
    shop = a_shop({COLD: MUCH})
    order = placed_cold(shop)
    more = shop.ask(EditOrder(order.slot, order.order_no, lines=(("1", 3),), added=(a_line("SKU-1", 1, line_id="2"),)))
    assert live(more) == {COLD: 4}, "one parcel is cheaper than two"
    added = (a_line("SKU-2", 1, line_id="3", tags=("cold",)),)
    again = shop.ask(EditOrder(order.slot, order.order_no, removed=("2",), added=added))
    assert live(again) == {COLD: 4}
    moved = shop.ask(EditOrder(order.slot, order.order_no, ship_to=a_destination("10002")))
    assert live(moved) == {COLD: 4}
    shop.check_recovery({})


def test_a_leg_that_nobody_accepts_goes_to_a_node_that_can_handle_it() -> None:
    shop = a_shop({COLD: MUCH, COLDER: MUCH}, acceptance_deadline_s=DEADLINE_S)
    order = placed_cold(shop)
    act(shop, order, "release")
    shop.pass_time(DEADLINE_S * 1_000 + 1_000)
    assert live(now(shop, order)) == {COLDER: 2}


def test_a_wave_joins_a_split_order_only_where_it_can_be_handled() -> None:
    """The plain node alone could take all of it, for less; then one of the others can."""
    shop = a_shop({COLD: {"SKU-0": 1}, COLDER: {"SKU-0": 1}}, waves=["09:00", "13:00"])
    order = place(shop, "A", BOX, ship_after_ms=shop.now_ms + 3 * 86_400_000)  # no wave of today is its own
    assert live(order) == {COLD: 1, COLDER: 1}
    for expected in ({COLD: 1, COLDER: 1}, {COLD: 2}):
        document = shop.catalog.nodes[1]
        assert document is not None
        wave_ms = next_wave(document, shop.now_ms)
        assert wave_ms is not None
        shop.pass_time(wave_ms - LEAD_MS - shop.now_ms)
        for _ in range(3):  # one node a turn
            shop.pass_time(1)
        assert live(now(shop, order)) == expected
        receive(shop, COLD, {"SKU-0": 9})
        shop.pass_time(LEAD_MS)


@pytest.mark.parametrize("shards", [1, 2])
def test_what_a_node_of_another_shard_rejects_goes_where_it_can_be_handled(shards: int) -> None:
    cluster = LittleCluster(shards=shards, nodes=4)
    for core in (
        cluster.cores
    ):  # node 0 is home's and the first to be asked; 1 and 3 belong to the other shard, if there is one
        core.catalog.nodes = [
            replace(node, offers=("ship", "cold")) if n in (1, 3) and node else node
            for n, node in enumerate(core.catalog.nodes)
        ]
    for node in (0, 1, 3):
        cluster.ask(node % shards, AdjustStock(f"N-{node}", (StockMove("SKU-0", "received", 9),)))
    cluster.now_ms += 100
    cluster.settle()
    order = cluster.ask(0, a_place(an_order("A", BOX, ship_to=a_destination("01001"))))
    assert isinstance(order, OrderView) and live(order) == {"N-1": 2}
    cluster.ask(0, ActOnLeg(order.slot, order.order_no, 1, "release"))
    cluster.ask(0, ActOnLeg(order.slot, order.order_no, 1, "reject", reason="broken"))
    cluster.now_ms += 100
    cluster.settle()
    seen = cluster.ask(0, GetOrder(order.slot, order.order_no))
    assert isinstance(seen, OrderView) and live(seen) == {"N-3": 2}


def test_why_not_that_node_names_the_tag_of_a_line() -> None:
    shop = a_shop({COLD: MUCH})
    order = placed_cold(shop)
    reply = shop.ask(ExplainNode(order.slot, order.order_no, PLAIN))
    assert (reply.verdict, reply.text) == ("excluded", "cannot handle the goods: cold")


# -- the record -----------------------------------------------------------------------------------------------------


def a_record(*lines: LineRecord) -> OrderRecord:
    return OrderRecord("A-1", 0, "standard", 1, NOW_MS, 1, Destination("US", "10001", "NY"), list(lines), [])


def test_only_lines_with_tags_take_room_for_them() -> None:
    plain, grouped = LineRecord("1", 7, 2, 999), LineRecord("2", 8, 1, 5, group=1, splittable=False)
    cold = LineRecord("3", 9, 1, tags=("cold",))
    packed = encode_record(a_record(plain, grouped, cold))
    assert [len(line) for line in msgspec.msgpack.decode(packed)[7]] == [4, 11, 12]
    assert decode_record(packed).lines == [plain, grouped, cold]
    assert reduce_record("US100", 1, packed).items == [7, 8, 9]


def test_a_record_of_before_tags_were_kept_has_none() -> None:
    fields = msgspec.msgpack.decode(encode_record(a_record(LineRecord("1", 7, 2))))
    fields[7] = [["1", 7, 2, 999, 0, 1, -1, 0, False, 4, 3]]
    (line,) = decode_record(msgspec.msgpack.encode(fields)).lines
    assert line == LineRecord("1", 7, 2, 999, 0, 1, -1, 0, False, 4, 3, ())
