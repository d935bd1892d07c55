"""What the fold reads of a record is what the record says."""

from __future__ import annotations

import msgspec
import pytest

from engine.archive.fold import Fold, FoldedLeg, FoldedLine, FoldedRecord, decode_folded
from engine.domain.commands import (
    ActOnLeg,
    AdjustStock,
    CancelDemand,
    CancelOrder,
    ClearHolds,
    Command,
    EditOrder,
    StockMove,
)
from engine.domain.events import Event, OrderPut
from engine.domain.labels import order_label
from engine.domain.orders import LegRecord, LineRecord, OnShort, OrderRecord, decode_record, has_ended
from engine.domain.replies import OrderView
from engine.journal.port import SCHEMA_VERSION, Entry
from engine.verify.causes import _mentions
from gateway.stream.told import decode, tell
from tests.archive_entries import chained
from tests.builders import a_network, a_place, an_order
from tests.sim.little_cluster import LittleCluster
from tests.sim.lone_core import LoneCore
from tests.unit.test_verify_books import Traffic

_events = msgspec.msgpack.Decoder(list[Event])


PASSED_OVER = {"ship_to", "money_minor", "promise_ms"}
"""Fields of records that the fold makes nothing of."""


def told(record: OrderRecord | FoldedRecord) -> dict[str, object]:
    """All that rows are made of."""
    whole = record.as_record() if isinstance(record, FoldedRecord) else record
    return {
        "order_id": record.order_id,
        "channel": record.channel,
        "customer_id": record.customer_id,
        "rung": record.rung,
        "decided_at": record.decided_at,
        "items": [line.item for line in record.lines],
        "legs": [(leg.leg_no, leg.node, leg.state) for leg in record.legs],
        "label": order_label(whole),
        "ended": has_ended(whole),
    }


@pytest.mark.parametrize("seed", [3, 17])
def test_a_folded_record_tells_what_the_whole_one_does(seed: int) -> None:
    cluster = LittleCluster(shards=2)
    Traffic(cluster, seed).run(250)
    labels = set()
    for append in (one for entries in cluster.entries for one in entries):
        for event in _events.decode(append.payload):
            if isinstance(event, OrderPut):
                record = decode_record(event.record)
                labels.add(order_label(record))
                assert told(decode_folded(event.record)) == told(record)
    assert len(labels) > 4, labels


@pytest.mark.parametrize(
    ("folded", "whole"), [(FoldedRecord, OrderRecord), (FoldedLine, LineRecord), (FoldedLeg, LegRecord)]
)
def test_what_is_folded_has_the_fields_of_the_whole_in_their_places(
    folded: type[msgspec.Struct], whole: type[msgspec.Struct]
) -> None:
    """With their defaults: a record's end is left away where it says nothing."""
    ours, theirs = msgspec.structs.fields(folded), msgspec.structs.fields(whole)
    assert [field.name for field in ours] == [field.name for field in theirs[: len(ours)]]
    for our, their in zip(ours, theirs, strict=False):
        assert our.required == their.required, our.name
        if our.name not in PASSED_OVER:
            assert (our.default, our.default_factory) == (their.default, their.default_factory), our.name


def folded(*payloads: bytes) -> Fold:
    fold = Fold(0)
    for record in chained(payloads):
        fold.add(record.unpacked())
    return fold


@pytest.mark.parametrize(
    ("reasons", "notes"),
    [
        (("wet box", ""), ["wet box", None]),
        (("", "shelf count", "wet box"), [None, "shelf count", "wet box"]),
        (("PO 4711", "PO 4711"), ["PO 4711", "PO 4711"]),
        (("", ""), [None, None]),
    ],
)
def test_each_movement_is_noted_with_its_own_reason(reasons: tuple[str, ...], notes: list[str | None]) -> None:
    shop = LoneCore(a_network(nodes=1, items=3))
    shop.ask(AdjustStock("N-0", tuple([StockMove(f"SKU-{n}", "received", 5, why) for n, why in enumerate(reasons)])))
    payload = shop.entries[-1].payload
    assert [row[-1] for row in folded(payload).changes().movements] == notes
    [event] = msgspec.msgpack.decode(payload)
    assert [text for _, text in _mentions(event)] == [f"received +5{f', {why}' if why else ''}" for why in reasons]


def test_a_reason_that_was_journaled_for_all_movements_is_noted_on_all() -> None:
    """As they were before each had its own."""
    event = [2, 0, [[0, "damaged", -1], [1, "adjusted", -3]], "wet box", 0, 0, ""]
    rows = folded(msgspec.msgpack.encode([event])).changes().movements
    assert [row[-1] for row in rows] == ["wet box", "wet box"]
    assert [text for _, text in _mentions(event)] == ["damaged -1, wet box", "adjusted -3, wet box"]


def _order_of(shop: LoneCore, **fields: object) -> OrderView:
    view = shop.ask(a_place(an_order(**fields)))  # type: ignore[arg-type]
    assert isinstance(view, OrderView), view
    return view


def test_why_an_order_changed_is_in_the_journal_and_told() -> None:
    """Not in its record, which is memory: in the event, in the auditor's words, in the stream, with the units that moved."""
    shop = LoneCore(a_network(nodes=2, items=1))
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 9),)))
    held = _order_of(shop, order_id="A", lines={"SKU-0": 2}, hold_reasons=("fraud",))
    legs = _order_of(shop, order_id="B", lines={"SKU-0": 2})
    edited = _order_of(shop, order_id="C", lines={"SKU-0": 2})
    waits = _order_of(shop, order_id="D", lines={"SKU-0": 9}, on_short=OnShort.PARK)
    steps: dict[Command, tuple[str, int]] = {
        ClearHolds(held.slot, held.order_no, reason="checked"): ("holds_cleared", 0),
        CancelOrder(held.slot, held.order_no, reason="changed their mind"): ("cancelled", 0),
        ActOnLeg(legs.slot, legs.order_no, 1, "release", reason="by hand"): ("leg_released", 1),
        ActOnLeg(legs.slot, legs.order_no, 1, "reject", reason="not on shelf"): ("leg_rejected", 1),
        CancelDemand(waits.slot, waits.order_no, 0, "waited too long"): ("demand_cancelled", 0),
        EditOrder(edited.slot, edited.order_no, lines=(("1", 1),), reason="by phone"): ("edited", 0),
    }
    for step, (kind, leg_no) in steps.items():
        began = len(shop.entries)
        assert isinstance(shop.ask(step), OrderView)
        append, why = shop.entries[began], step.reason  # type: ignore[union-attr]
        fold = folded(append.payload).changes()
        assert [row[5:] for row in fold.reasons] == [(kind, leg_no, why)]
        assert {row[-1] for row in fold.movements if row[6] == kind} <= {why}
        assert any(why in text for event in msgspec.msgpack.decode(append.payload) for _, text in _mentions(event))
        entry = Entry(append.seq, 1, append.time_ms, SCHEMA_VERSION, b"", append.payload, b"")
        told_first = msgspec.json.decode(tell(0, entry, decode(0, entry), shop.catalog, str)[0].data)
        assert (told_first["type"].partition(".")[2] in kind, told_first["reason"]) == (True, why)
        order = next(event for event in _events.decode(append.payload) if isinstance(event, OrderPut))
        assert why.encode() not in order.record, "a record is memory, for as long as the order is open"


def test_units_that_moved_are_noted_with_why_and_without_a_reason_there_is_none() -> None:
    shop = LoneCore(a_network(nodes=1, items=1))
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 9),)))
    for order_id, reason in (("A", "changed their mind"), ("B", "")):
        view = _order_of(shop, order_id=order_id, lines={"SKU-0": 2})
        shop.ask(CancelOrder(view.slot, view.order_no, reason=reason))
        changes = folded(shop.entries[-1].payload).changes()
        assert [row[6:] for row in changes.movements] == [
            ("cancelled", 0, 0, -2, view.slot, view.order_no, reason or None)
        ]
        assert len(changes.reasons) == bool(reason)
