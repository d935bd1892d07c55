"""What a journal entry tells the live stream, and cursors as text."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from engine.domain.events import (
    Cause,
    ConfigPut,
    DriveAcked,
    LegHeld,
    OrderPut,
    OrdersClosed,
    PositionSet,
    StockCounted,
    StockMoved,
)
from engine.domain.placement import CONTROL_SHARD
from engine.journal.port import SCHEMA_VERSION, Corrupt, Entry
from gateway.stream import told
from gateway.stream.cursor import ALL, Place, cursor_text, parse_cursor
from gateway.stream.told import Told, decode, items_of, tell
from tests.builders import NOW_MS, a_catalog, a_network, a_place, an_order
from tests.sim.lone_core import LoneCore


def an_entry(*events: Any, seq: int = 7, payload: bytes | None = None) -> Entry:
    data = msgspec.msgpack.encode(list(events)) if payload is None else payload
    return Entry(seq, 3, NOW_MS, SCHEMA_VERSION, b"", data, b"")


def told_by(entry: Entry, *, shard: int = 0) -> tuple[Told, ...]:
    return tell(shard, entry, decode(shard, entry), a_catalog(nodes=3, items=3), lambda item: f"SKU-{item}")


def test_changes_of_a_position_are_added_up_and_nothing_is_not_told() -> None:
    found = told_by(
        an_entry(
            StockMoved(0, ((1, "received", 5), (2, "received", 3))),
            StockCounted(0, "wms", 1, NOW_MS, "delta", ((2, -3), (1, 2))),
            LegHeld(1, 1, "US100", 1, 1, 1, 0, 0, ((0, 4),)),
            OrdersClosed("US100", (1,)),
            OrderPut(Cause.REPEATED, "US100", 1, b""),
            DriveAcked("US100", 1, (1,)),
        )
    )
    assert [(event.type, event.nodes) for event in found] == [("stock.changed", ("N-0",)), ("stock.changed", ("N-1",))]
    first, second = (json.loads(event.data) for event in found)
    assert first["token"] == "0:3:7"
    assert first["changes"] == [{"sku": "SKU-1", "on_hand": 7, "held": 0, "allocated": 0}]
    assert second["changes"] == [{"sku": "SKU-0", "on_hand": 0, "held": 4, "allocated": 0}]


def test_what_touches_many_positions_is_told_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "CHANGES_MAX", 2)
    entry = an_entry(
        StockMoved(0, tuple((item, "received", 1) for item in range(5))),
        PositionSet(1, tuple((item, 1, "counted", 10_000, 0) for item in range(3))),
    )
    found = told_by(entry)
    assert [event.type for event in found] == ["stock.changed"] * 3 + ["stock.settings_changed"] * 2
    assert items_of(decode(0, entry)) == {0, 1, 2, 3, 4}


def test_an_order_is_told_as_it_is_now() -> None:
    core = LoneCore(a_network(nodes=2, items=2))
    from engine.domain.commands import AdjustStock, StockMove

    core.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 5),)))
    core.ask(a_place(an_order("A-1", lines={"SKU-0": 2}), ttl_s=60))
    last = core.entries[-1]
    entry = Entry(last.seq, 1, last.time_ms, SCHEMA_VERSION, b"", last.payload, b"")
    order, stock = tell(0, entry, decode(0, entry), core.catalog, lambda item: f"SKU-{item}")
    shown = json.loads(order.data)
    assert (order.type, order.group, order.channel, order.nodes) == ("order.reserved", "order", "web", ("N-0",))
    assert (shown["order_id"], shown["state"], shown["allocation_id"]) == ("A-1", "held", None)
    assert [leg["state"] for leg in shown["legs"]] == ["held"]
    assert json.loads(stock.data)["changes"] == [{"sku": "SKU-0", "on_hand": 0, "held": 2, "allocated": 0}]


def test_keys_and_secrets_are_not_told_of() -> None:
    events = [ConfigPut(kind, ((1, "x", 4, b"{}"),)) for kind in ("node", "key", "secret", "item")]
    found = told_by(an_entry(*events), shard=CONTROL_SHARD)
    assert [(json.loads(event.data)["kind"], event.nodes) for event in found] == [("node", ("x",)), ("item", ())]


def test_an_entry_that_cannot_be_read_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        told_by(an_entry(payload=b"\xc1"))


def test_every_type_has_a_group_and_every_group_types() -> None:
    assert {type_.partition(".")[0] for type_ in told.TYPES} == set(told.GROUPS)
    assert len(set(told.TYPES)) == len(told.TYPES)


def test_a_cursor_is_a_commit_token_and_more() -> None:
    places = {255: Place(9, 4), 0: Place(3, 7, 2), 1: Place(1, 0)}
    text = cursor_text(places)
    assert text == "0:3:7:2;1:1:0;255:9:4"
    assert parse_cursor(text) == places
    assert (Place(3, 7, 2).next_seq, Place(3, 7).next_seq, Place(3, 7).n) == (7, 8, ALL)


@pytest.mark.parametrize(
    "text", ["", "x", "0:1", "0:1:2:3:4", "0:1:-2", "0:1:2;", "0:1:2;0:1:3", "256:1:1", "0:1:" + "9" * 20, "0:١:1"]
)
def test_what_is_no_cursor(text: str) -> None:
    assert parse_cursor(text) is None
