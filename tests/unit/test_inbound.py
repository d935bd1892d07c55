"""Dated inbound supply: stated, moved, late, received, cancelled; never on hand before it has come."""

from __future__ import annotations

import random
from typing import Any

import pytest

from engine.domain.commands import (
    ActOnLeg,
    AdjustStock,
    CancelInbound,
    Command,
    GetAvailability,
    GetOrder,
    ListInbound,
    PutInbound,
    ReceiveInbound,
    SetPosition,
    StockMove,
)
from engine.domain.orders import OnShort
from engine.domain.parts import RowIndex, pack_part
from engine.domain.replies import InboundReply, OrderView, Problem, StockReply
from tests.builders import a_network, a_node, a_place, an_item, an_order
from tests.sim.lone_core import LoneCore

DAY_MS = 86_400_000


def a_shop(**options: Any) -> LoneCore:
    items = [an_item("SKU-0"), an_item("SKU-1"), an_item("CODE", tracked=False)]
    items.append(an_item("KIT", components={"SKU-0": 1}))
    nodes = [a_node("N-0"), a_node("N-1"), a_node("N-2", state="off")]
    return LoneCore(a_network(nodes=nodes, items=items), **options)


def put(shop: LoneCore, *rows: tuple[str, str, int, int], node: str = "N-0", key: int = 0) -> Any:
    """(inbound id, SKU, units, days from now)"""
    stated = tuple([(i, sku, units, shop.now_ms + days * DAY_MS) for i, sku, units, days in rows])
    return shop.ask(PutInbound(node, stated, key, key))


def listed(shop: LoneCore, **fields: Any) -> list[tuple[str, str, str, int, int]]:
    reply = shop.ask(ListInbound(**fields))
    assert isinstance(reply, InboundReply), reply
    return [
        (row.node_id, row.inbound_id, row.sku, row.quantity, (row.expected_at_ms - shop.now_ms) // DAY_MS)
        for row in reply.rows
    ]


def in_pages(shop: LoneCore, **fields: Any) -> list[tuple[str, str, str, int, int]]:
    """The same, two at a time."""
    rows: list[tuple[str, str, str, int, int]] = []
    after = (-1, "", "")
    while True:
        reply = shop.ask(ListInbound(after=after, limit=2, **fields))
        assert isinstance(reply, InboundReply), reply
        rows += [
            (row.node_id, row.inbound_id, row.sku, row.quantity, (row.expected_at_ms - shop.now_ms) // DAY_MS)
            for row in reply.rows
        ]
        if not reply.more:
            return rows
        after = (reply.rows[-1].expected_at_ms, reply.rows[-1].node_id, reply.rows[-1].inbound_id)


def free(shop: LoneCore) -> int:
    return sum(p.available_to_promise for p in shop.ask(GetAvailability(("SKU-0",))).positions)


def test_what_is_expected_is_listed_next_first_and_is_for_nobody_yet() -> None:
    shop = a_shop()
    put(shop, ("PO-1", "SKU-0", 5, 9), ("PO-2", "SKU-1", 7, 2))
    put(shop, ("PO-1", "SKU-0", 4, 3), node="N-1")
    put(shop, ("PO-9", "SKU-0", 8, 1), node="N-2")
    assert listed(shop) == [
        ("N-2", "PO-9", "SKU-0", 8, 1),
        ("N-0", "PO-2", "SKU-1", 7, 2),
        ("N-1", "PO-1", "SKU-0", 4, 3),
        ("N-0", "PO-1", "SKU-0", 5, 9),
    ]
    assert listed(shop, selling=True, skus=("SKU-0",)) == [
        ("N-1", "PO-1", "SKU-0", 4, 3),
        ("N-0", "PO-1", "SKU-0", 5, 9),
    ]
    assert [row[1] for row in listed(shop, node_id="N-0")] == ["PO-2", "PO-1"]
    assert listed(shop, after=(shop.now_ms + 3 * DAY_MS, "N-1", "PO-1"), limit=1) == [("N-0", "PO-1", "SKU-0", 5, 9)]
    assert free(shop) == 0
    assert isinstance(shop.ask(a_place(an_order("A-1", {"SKU-0": 1}))), Problem)


def test_a_record_is_replaced_by_what_is_said_next_and_is_late_once_its_instant_has_passed() -> None:
    shop = a_shop()
    put(shop, ("PO-1", "SKU-0", 5, 2), ("PO-2", "SKU-0", 5, 9))
    put(shop, ("PO-1", "SKU-0", 6, 4))
    assert [row[3:] for row in listed(shop)] == [(6, 4), (5, 9)]
    shop.pass_time(5 * DAY_MS)
    assert [row[1] for row in listed(shop, before_ms=shop.now_ms)] == ["PO-1"]
    put(shop, ("PO-1", "SKU-0", 6, 1))
    assert listed(shop, before_ms=shop.now_ms) == []


def test_receipts_move_units_on_hand_and_who_waits_is_served() -> None:
    shop = a_shop()
    put(shop, ("PO-1", "SKU-0", 5, 2))
    view = shop.ask(a_place(an_order("A-1", {"SKU-0": 4}, on_short=OnShort.PARK)))
    assert view.state == "parked"
    reply = shop.ask(ListInbound(("SKU-0",)))
    assert (reply.free, reply.waiting) == ((0,), (4,))
    some = shop.ask(ReceiveInbound("N-0", "PO-1", 3))
    assert isinstance(some, StockReply)
    assert (some.positions[0].on_hand, listed(shop)[0][3]) == (3, 2)
    shop.ask(ReceiveInbound("N-0", "PO-1"))
    shop.pass_time(60_000)
    assert listed(shop) == []
    legs = shop.ask(GetOrder(view.slot, view.order_no)).legs
    assert sum(line.quantity for leg in legs for line in leg.lines) == 4
    assert free(shop) == 1


def test_more_or_less_than_expected_may_come() -> None:
    shop = a_shop()
    put(shop, ("PO-1", "SKU-0", 5, 2), ("PO-2", "SKU-0", 5, 2), ("PO-3", "SKU-0", 5, 2))
    shop.ask(ReceiveInbound("N-0", "PO-1", 9))
    shop.ask(ReceiveInbound("N-0", "PO-2", 1, is_last=True))
    shop.ask(CancelInbound("N-0", "PO-3"))
    assert (listed(shop), free(shop)) == ([], 10)
    for command in (ReceiveInbound("N-0", "PO-2"), CancelInbound("N-0", "PO-3"), CancelInbound("N-1", "PO-1")):
        assert shop.ask(command).code == "not_found"


def test_a_repeat_of_a_key_changes_nothing() -> None:
    shop = a_shop()
    put(shop, ("PO-1", "SKU-0", 5, 2), key=7)
    again = put(shop, ("PO-1", "SKU-0", 5, 2), key=7)
    assert again.replayed
    for _ in range(2):
        shop.ask(ReceiveInbound("N-0", "PO-1", 2, False, 8, 8))
    assert (free(shop), listed(shop)[0][3]) == (2, 3)
    assert shop.ask(ReceiveInbound("N-0", "PO-1", 3, False, 8, 9)).code == "key_reused"


@pytest.mark.parametrize(
    ("rows", "pointer"),
    [
        ((), "/inbound"),
        ((("P", "nope", 1, 1),), "/inbound/0/sku"),
        ((("P", "KIT", 1, 1),), "/inbound/0/sku"),
        ((("P", "CODE", 1, 1),), "/inbound/0/sku"),
        ((("P", "SKU-0", 0, 1),), "/inbound/0/quantity"),
        ((("P", "SKU-0", 1, 40_000),), "/inbound/0/expected_at"),
        ((("P", "SKU-0", 1, 1), ("P", "SKU-0", 1, 2)), "/inbound/1/inbound_id"),
        ((("OLD", "SKU-1", 1, 1),), "/inbound/0/sku"),
    ],
)
def test_what_cannot_be_expected_is_named(rows: Any, pointer: str) -> None:
    shop = a_shop()
    put(shop, ("OLD", "SKU-0", 1, 1))
    refused = put(shop, *rows)
    assert isinstance(refused, Problem)
    assert refused.errors[0].pointer == pointer


def test_nobody_expects_units_where_nobody_counts() -> None:
    shop = a_shop()
    put(shop, ("PO-1", "SKU-0", 5, 2))
    shop.ask(SetPosition("N-0", (("SKU-0", 0, "uncounted", 10_000, 3),)))
    assert put(shop, ("PO-2", "SKU-0", 5, 2)).errors[0].pointer == "/inbound/0/sku"
    assert shop.ask(ReceiveInbound("N-0", "PO-1")).errors[0].pointer == "/inbound_id"
    assert not isinstance(shop.ask(CancelInbound("N-0", "PO-1")), Problem)


@pytest.mark.parametrize("seed", range(10))
def test_units_are_expected_or_on_hand_and_never_sold_before_they_came(seed: int) -> None:
    """B2, B3 over random histories, snapshots and recoveries: `LoneCore` checks S1 and the books after every step; here the sums."""
    rng = random.Random(seed)
    shop = a_shop()
    came = expected = sold = 0
    records: dict[tuple[str, str], int] = {}
    for n in range(50):
        node, inbound_id = rng.choice(["N-0", "N-1"]), f"PO-{rng.randint(0, 4)}"
        key = (node, inbound_id)
        command: Command
        step = rng.random()
        if step < 0.3:
            units = rng.randint(1, 6)
            put(shop, (inbound_id, "SKU-0", units, rng.randint(-1, 5)), node=node)
            records[key] = units
        elif step < 0.55:
            quantity = rng.choice([None, 1, 2, 9])
            last = rng.random() < 0.2
            command = ReceiveInbound(node, inbound_id, quantity, last)
            reply = shop.ask(command)
            assert isinstance(reply, Problem) == (key not in records)
            if key in records:
                units = records[key] if quantity is None else quantity
                came += units
                records[key] -= units
                if last or records[key] <= 0:
                    del records[key]
        elif step < 0.65:
            shop.ask(CancelInbound(node, inbound_id))
            records.pop(key, None)
        elif step < 0.75:
            shop.ask(AdjustStock(node, (StockMove("SKU-0", "found", 1),)))
            came += 1
        else:
            reply = shop.ask(a_place(an_order(f"A-{n}", {"SKU-0": rng.randint(1, 5)})))
            if isinstance(reply, OrderView):
                sold += sum(line.quantity for leg in reply.legs for line in leg.lines)
        expected = sum(records.values())
        assert sold <= came
        assert free(shop) == came - sold
        rows = listed(shop)
        assert sum(row[3] for row in rows) == expected
        assert {(row[0], row[1]) for row in rows} == set(records)
        assert rows == sorted(rows, key=lambda row: (row[4], row[0], row[1]))
        assert rows == listed(shop, skus=("SKU-0",)) == in_pages(shop) == in_pages(shop, skus=("SKU-0",))
        assert [row for row in rows if row[0] == "N-1"] == in_pages(shop, node_id="N-1")
        shop.now_ms += rng.choice([0, DAY_MS])  # dates are days from now
    parts = [f"node:{node}" for node in shop.state.nodes]
    packed = {part: (shop.state.seq, pack_part(shop.state, part, RowIndex())) for part in parts}
    shop.check_recovery(packed)


@pytest.mark.parametrize(
    ("setting", "short", "promised"),
    [
        (("SKU-0", 4, "counted", 0, 0), 0, [2, 4]),
        (("SKU-0", 0, "trusted", 5_000, 0), 0, [3, 2]),
        (("SKU-0", 0, "counted", 0, 0), 7, [0, 3]),
    ],
)
def test_what_a_receipt_adds_is_what_its_node_could_promise_of_it(
    setting: tuple[str, int, str, int, int], short: int, promised: list[int]
) -> None:
    shop = a_shop()
    if short:
        shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", short),)))
        order = shop.ask(a_place(an_order("A-1", {"SKU-0": short})))
        shop.ask(ActOnLeg(order.slot, order.order_no, 1, "release"))
        shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "damaged", short),)))
    shop.ask(SetPosition("N-0", (setting,)))
    put(shop, ("PO-1", "SKU-0", 6, 2), ("PO-2", "SKU-0", 4, 3), ("LATE", "SKU-0", 9, -1))
    reply = shop.ask(ListInbound(("SKU-0",), selling=True))
    assert {row.inbound_id: row.promised for row in reply.rows} == {"LATE": 0, "PO-1": promised[0], "PO-2": promised[1]}
    came = []
    for inbound_id in ("PO-1", "PO-2"):
        shop.ask(ReceiveInbound("N-0", inbound_id))
        came.append(free(shop))
    assert came == [promised[0], sum(promised)]
