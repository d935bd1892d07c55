"""The source of a move: late answers and old maps lose no part, and a band takes no order with it."""

from __future__ import annotations

import msgspec

from engine.domain.commands import AdjustStock, StockMove
from engine.domain.config import Move, Placement
from engine.domain.events import Event
from engine.domain.move_commands import AbandonMove, FinishMove, OfferPart
from engine.domain.move_events import PartBoxed
from engine.domain.replies import Done, OrderView
from engine.protocol.effects import Send
from engine.protocol.moves import FINISH_MS
from tests.builders import a_destination, a_network, a_place, an_order, as_docs
from tests.sim.lone_core import LoneCore

_events = msgspec.msgpack.Decoder(list[Event])
FIRST, SECOND = "slot:US010", "slot:US020"


def a_source() -> LoneCore:
    """Shard 0 of three, with an order in each of two slots."""
    source = LoneCore(a_network(nodes=3, shards=3))
    source.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 10),)))
    for n, postal_code in enumerate(("01001", "02001")):
        placed = source.ask(a_place(an_order(f"A-{n}", ship_to=a_destination(postal_code))))
        assert isinstance(placed, OrderView), placed
    source.take_sent()
    return source


def moving(source: LoneCore, part: str, target: int) -> int:
    """The map says that a part is on its way."""
    move_id = len(source.documents) + 1
    source.put(Placement(shard_count=3, moving=Move(move_id=move_id, part=part, source=0, target=target)))
    return move_id


def sent(source: LoneCore, kind: type, *, after_ms: int = 1) -> Send:
    """What the source sends next of a kind."""
    for _ in range(after_ms):
        source.pass_time(1)
        found = [send for send in source.sent if type(send.command) is kind]
        source.sent.clear()
        if found:
            return found[-1]
    raise AssertionError(f"no {kind.__name__}")


def offered(source: LoneCore, part: str, target: int) -> Send:
    """Begin a move up to its first chunk, which the target does not answer."""
    moving(source, part, target)
    ready = sent(source, OfferPart, after_ms=150)
    assert not ready.command.of
    source.core.peer_replied(target, ready.corr, Done(0), now_ms=source.now_ms)
    chunk = sent(source, OfferPart, after_ms=50)
    assert (chunk.shard, chunk.command.part, chunk.command.of) == (target, part, 1)
    return chunk


def test_an_answer_about_an_earlier_move_says_nothing_about_this_one() -> None:
    source = a_source()
    late = offered(source, FIRST, 1)
    sent(source, AbandonMove, after_ms=FINISH_MS + 200)
    source.put(Placement(shard_count=3))
    source.settle()
    assert not source.state.boxes and "US010" in source.state.slots, "given up: it is open again"
    offered(source, SECOND, 2)
    source.core.peer_replied(late.shard, late.corr, Done(1), now_ms=source.now_ms)
    for _ in range(300):
        source.pass_time(1)
        assert not any(type(send.command) is FinishMove for send in source.sent), "the target has nothing of it"


def test_a_map_from_before_a_move_says_nothing_about_its_box() -> None:
    source = a_source()
    before = source.documents
    offered(source, FIRST, 1)
    now = source.documents
    source.documents = before
    again = source.recovered_from({})
    again.poll(now_ms=source.now_ms)
    assert FIRST in again.state.boxes and not again.catalog.owns_slot("US010"), "it may be the target's by now"
    again.configure(as_docs([*now, Placement(shard_count=3, slots={"US010": 1})]), len(now) + 1)
    again.poll(now_ms=source.now_ms)
    assert FIRST not in again.state.boxes and "US010" not in again.state.slots


def test_a_band_parts_no_order_from_its_legs() -> None:
    """Orders that change while a band is made ready stay, and so do their legs: nothing of them goes anywhere."""
    source = a_source()
    moving(source, "band:0", 1)
    ready = sent(source, OfferPart, after_ms=150)
    placed = source.ask(a_place(an_order("B", ship_to=a_destination("01001"))))
    assert isinstance(placed, OrderView)
    entries = len(source.entries)
    source.core.peer_replied(1, ready.corr, Done(0), now_ms=source.now_ms)
    source.pass_time(5)
    assert "band:0" in source.state.boxes
    events = [event for entry in source.entries[entries:] for event in _events.decode(entry.payload)]
    assert [type(event) for event in events] == [PartBoxed]
