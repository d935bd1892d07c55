"""What is asked of a part while it is on its way: it is refused to nobody, counted once, and comes whole."""

from __future__ import annotations

import numpy as np
import pytest

from engine.domain import boxes
from engine.domain.commands import AdjustStock, GetAvailability, GetOrder, StockMove, TryLegs
from engine.domain.config import Placement
from engine.domain.decide_orders import refuse
from engine.domain.move_commands import AbandonMove, FinishMove, OfferPart
from engine.domain.replies import Done, OrderView, Problem, StockReply, TryReply, ViewUpdate
from engine.protocol import moves
from engine.protocol.moves import FINISH_MS
from engine.protocol.shard_core import GRACE_MS, ShardCore
from tests.builders import a_destination, a_network, a_place, an_order
from tests.sim.checker import JournalFold, Transit
from tests.sim.lone_core import LoneCore
from tests.unit.test_moves_late_answers import FIRST, a_source, moving, offered, sent

NODE_ITEM_UNIT = ((1, 0, 20_700, 0, ((0, 1),)),)
"""One leg of a TRY: a unit of SKU-0 at N-0."""


def boxed_node() -> LoneCore:
    """A source whose node N-0 is boxed for shard 1."""
    source = a_source()
    moving(source, "node:N-0", 1)
    ready = sent(source, OfferPart, after_ms=150)
    source.core.peer_replied(1, ready.corr, Done(0), now_ms=source.now_ms)
    sent(source, OfferPart, after_ms=50)
    assert "node:0" in source.state.boxes
    return source


def test_an_order_asks_the_next_owner_of_a_node_on_its_way() -> None:
    source = boxed_node()
    corr = source.send(a_place(an_order("B", lines={"SKU-0": 8}, ship_to=a_destination("01001"))))
    source.settle()
    assert corr not in source.replies, "the units are neither here nor there, but there they are"
    [asked] = [send for send in source.take_sent() if type(send.command) is TryLegs]
    assert (asked.shard, asked.command.legs[0][1]) == (1, 0)


def test_the_next_owner_of_a_node_keeps_who_asks_too_early() -> None:
    target = LoneCore(a_network(nodes=3, shards=3), shard=1)
    moving(target, "node:N-0", 1)
    corr = target.send(TryLegs(0, 1, "US010", 1, NODE_ITEM_UNIT))
    target.pass_time(100)
    assert corr not in target.replies
    target.put(Placement(shard_count=3))
    target.pass_time(100)
    (reply,) = target.replies[corr]
    assert isinstance(reply, Problem) and reply.code == "moved"


def test_a_read_of_a_node_on_its_way_is_not_answered_without_it() -> None:
    source = boxed_node()
    summed = source.ask(GetAvailability(("SKU-0",)))
    assert isinstance(summed, Problem) and summed.code == "moved"
    assert isinstance(source.ask(GetAvailability(("SKU-1",))), StockReply), "nothing of it is on its way"
    corr = source.send(GetAvailability(("SKU-0",), "N-0"))
    source.settle()
    assert corr not in source.replies, "it waits"
    source.put(Placement(shard_count=3, nodes={"N-0": 1}))
    source.settle()
    (named,) = source.replies[corr]
    assert isinstance(named, Problem) and named.code == "moved"


def test_a_node_that_has_moved_keeps_no_order_from_the_others_of_its_shard() -> None:
    """N-1 and N-4 are at shard 1, and the order needs both. N-1 goes to shard 2, and the home hears of that last."""
    home = LoneCore(a_network(nodes=5, shards=3))
    shelves = np.array([(0, 1, 5, 0, 0), (1, 4, 5, 0, 0)], "<i4").tobytes()
    home.core.peer_replied(1, 0, ViewUpdate(1, 1, 1, True, True, shelves, b""), now_ms=home.now_ms)
    corr = home.send(a_place(an_order(lines={"SKU-0": 1, "SKU-1": 1})))
    home.settle()
    [asked] = home.take_sent()
    home.core.peer_replied(1, asked.corr, refuse("moved", "", "N-1"), now_ms=home.now_ms)
    home.settle()
    assert not home.take_sent() and corr not in home.replies, "the map that says where N-1 is comes soon"
    home.put(Placement(shard_count=3, nodes={"N-1": 2}))
    home.settle()
    tried = [send for send in home.take_sent() if type(send.command) is TryLegs]
    assert sorted((send.shard, [leg[1] for leg in send.command.legs]) for send in tried) == [(1, [4]), (2, [1])]
    for send in tried:
        home.core.peer_replied(send.shard, send.corr, TryReply(True, token=""), now_ms=home.now_ms)
    home.settle()
    (placed,) = home.replies[corr]
    assert isinstance(placed, OrderView), placed


def test_a_hold_keeps_its_grace_at_its_next_home() -> None:
    """Its shard was away when it was to end."""
    source, target = (LoneCore(a_network(nodes=2, shards=2), shard=shard) for shard in (0, 1))
    transit = Transit()
    source.fold, target.fold = JournalFold({0}, transit), JournalFold({1}, transit)
    source.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 1),)))
    held = source.ask(a_place(an_order(ship_to=a_destination("01001")), ttl_s=3))
    target.now_ms = source.now_ms = source.now_ms + 10_000
    source.core = source.recovered_from({})
    said = source.ask(GetOrder(held.slot, held.order_no))
    assert (said.state, said.expires_at_ms) == ("held", source.now_ms + GRACE_MS)
    moving(target, FIRST, 1)
    target.ask(offered(source, FIRST, 1).command)
    target.put(Placement(shard_count=2, slots={held.slot: 1}))
    target.settle()
    there = target.ask(GetOrder(held.slot, held.order_no))
    assert (there.state, there.expires_at_ms) == ("held", said.expires_at_ms)


def test_a_large_part_has_the_time_that_its_chunks_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is acknowledged in time, all of them together are not."""
    monkeypatch.setattr(boxes, "CHUNK_BYTES", 64)
    source = a_source()
    moving(source, FIRST, 1)
    ready = sent(source, OfferPart, after_ms=150)
    source.core.peer_replied(1, ready.corr, Done(0), now_ms=source.now_ms)
    of = sent(source, OfferPart, after_ms=50).command.of
    assert of > 2
    for n in range(of):
        chunk = sent(source, OfferPart, after_ms=FINISH_MS // 2)
        assert chunk.command.n == n
        source.core.peer_replied(1, chunk.corr, Done(n + 1), now_ms=source.now_ms)
    sent(source, FinishMove, after_ms=50)
    sent(source, AbandonMove, after_ms=FINISH_MS + 100)


def test_an_order_is_made_ready_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes it ready is no change of it: else all of a large slot's orders would be looked at again behind the closed door."""
    looks: list[int] = []
    real = moves.part_legs

    def counted(core: ShardCore, slot: str, order_no: int, node: int, *, now_ms: int) -> bool:
        looks.append(order_no)
        return real(core, slot, order_no, node, now_ms=now_ms)

    monkeypatch.setattr(moves, "part_legs", counted)
    offered(a_source(), FIRST, 1)
    assert len(looks) == 1
