"""Orders at their end leave the shard's memory: not too soon, not before the index has them, and their keys still answer."""

from __future__ import annotations

import msgspec
import pytest

from engine.domain.commands import ActOnLeg, AdjustStock, CancelOrder, GetOrder, StockMove
from engine.domain.events import Cause, Event, OrderPut, OrdersClosed
from engine.domain.replies import OrderView, Problem
from engine.protocol.driver import ACK_WAIT_MS
from engine.verify.books import Books
from tests.builders import a_network, a_place, an_order
from tests.sim.little_cluster import LittleCluster
from tests.sim.lone_core import LoneCore

HOUR_MS = 3_600_000
_events = msgspec.msgpack.Decoder(list[Event])


@pytest.fixture
def lone() -> LoneCore:
    return LoneCore(a_network(nodes=2, items=2))


def stocked(lone: LoneCore) -> LoneCore:
    lone.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 50),)))
    return lone


def placed(lone: LoneCore, order_id: str = "A-1", key: int = 7) -> OrderView:
    view = lone.ask(a_place(an_order(order_id), key=key))
    assert isinstance(view, OrderView), view
    return view


def cancelled(lone: LoneCore, order_id: str = "A-1", key: int = 7) -> OrderView:
    view = placed(lone, order_id, key)
    assert not isinstance(lone.ask(CancelOrder(view.slot, view.order_no)), Problem)
    return view


def indexed(lone: LoneCore, *, is_whole: bool = True) -> None:
    lone.core.archived(lone.state.seq, lone.state.time_ms, index_is_whole=is_whole)


def is_there(lone: LoneCore, view: OrderView) -> bool:
    return lone.state.order(view.slot, view.order_no) is not None


def test_an_ended_order_leaves_after_its_time(lone: LoneCore) -> None:
    view = cancelled(stocked(lone))
    indexed(lone)
    lone.pass_time(HOUR_MS - 1)
    assert is_there(lone, view)
    lone.pass_time(1)
    assert not is_there(lone, view)
    closed = [event for event in _events.decode(lone.entries[-1].payload) if isinstance(event, OrdersClosed)]
    assert closed == [OrdersClosed(view.slot, (view.order_no,))]
    assert lone.core.counts["closed"] == 1


def test_it_stays_until_the_index_has_it(lone: LoneCore) -> None:
    """C1: an index that is a day behind, or was never heard of, keeps every order in memory."""
    indexed(stocked(lone))
    view = cancelled(lone)
    lone.pass_time(24 * HOUR_MS)
    assert is_there(lone, view)
    indexed(lone)
    lone.pass_time(1)
    assert not is_there(lone, view)
    never = LoneCore(a_network(nodes=2, items=2))
    view = cancelled(stocked(never))
    never.pass_time(24 * HOUR_MS)
    assert is_there(never, view)


def test_an_open_order_stays(lone: LoneCore) -> None:
    view = placed(stocked(lone))
    indexed(lone)
    lone.pass_time(48 * HOUR_MS)
    assert is_there(lone, view)


def test_a_delivered_order_leaves_and_a_shipped_one_stays(lone: LoneCore) -> None:
    view = placed(stocked(lone))
    for action in ("release", "accept", "pick", "ship"):
        reply = lone.ask(ActOnLeg(view.slot, view.order_no, view.legs[0].leg_no, action))
        assert not isinstance(reply, Problem), reply
    indexed(lone)
    lone.pass_time(2 * HOUR_MS)
    assert is_there(lone, view)
    lone.ask(ActOnLeg(view.slot, view.order_no, view.legs[0].leg_no, "deliver"))
    indexed(lone)
    lone.pass_time(HOUR_MS)
    assert not is_there(lone, view)
    assert lone.state.open_orders == 0


def test_a_repeat_of_its_key_names_the_order_instead_of_making_another(lone: LoneCore) -> None:
    """C3: which the gateway then reads from the index."""
    view = cancelled(stocked(lone))
    indexed(lone)
    lone.pass_time(HOUR_MS)
    again = lone.ask(a_place(an_order("A-1"), key=7))
    assert isinstance(again, Problem) and again.code == "not_found"
    assert again.errors[0].facts == {"slot": view.slot, "order_no": view.order_no}
    asked = lone.ask(GetOrder(view.slot, view.order_no))
    assert isinstance(asked, Problem) and asked.code == "not_found"


def test_its_order_id_is_free_again(lone: LoneCore) -> None:
    first = cancelled(stocked(lone))
    indexed(lone)
    lone.pass_time(HOUR_MS)
    second = placed(lone, "A-1", key=8)
    assert second.order_no != first.order_no
    assert lone.state.order_of_id(first.slot, "A-1") is not None


def test_many_leave_a_bounded_number_a_batch(lone: LoneCore) -> None:
    stocked(lone)
    views = [cancelled(lone, f"A-{n}", key=n + 1) for n in range(300)]
    lone.pass_time(HOUR_MS)
    for _ in range(3):
        indexed(lone)
        lone.settle()
    assert not any(is_there(lone, view) for view in views)
    sizes = [
        sum(len(event.order_nos) for event in _events.decode(entry.payload) if isinstance(event, OrdersClosed))
        for entry in lone.entries
    ]
    assert max(sizes) == 128 and sum(sizes) == 300


def test_recovery_knows_what_left_and_what_is_to_leave(lone: LoneCore) -> None:
    stocked(lone)
    gone = cancelled(lone, "A-1", key=1)
    indexed(lone)
    lone.pass_time(HOUR_MS)
    due = cancelled(lone, "A-2", key=2)
    core = lone.core
    names = ["misc", *(f"node:{node}" for node in lone.state.nodes), *(f"slot:{slot}" for slot in lone.state.slots)]
    parts = {name: core.pack_part(name) for name in names}
    lone.check_recovery(parts)
    again = lone.recovered_from({})
    assert again.state.order(gone.slot, gone.order_no) is None
    again.archived(again.state.seq, again.state.time_ms, index_is_whole=True)
    later_ms = lone.now_ms + HOUR_MS
    effects = again.poll(now_ms=later_ms)
    assert effects.append is not None
    assert again.state.order(due.slot, due.order_no) is None


def test_an_order_of_before_leaves_an_index_with_a_gap_its_record_first(lone: LoneCore) -> None:
    """C4: without an archive for a while, the entry that had the record was trimmed; no index will ever read it."""
    view = cancelled(stocked(lone))
    record = lone.state.slots[view.slot].orders[view.order_no]
    lone.core = lone.recovered_from({})
    indexed(lone, is_whole=False)
    lone.pass_time(2 * HOUR_MS)
    assert is_there(lone, view)
    assert _events.decode(lone.entries[-1].payload) == [OrderPut(Cause.REPEATED, view.slot, view.order_no, record)]
    lone.pass_time(2 * HOUR_MS)
    assert is_there(lone, view)
    indexed(lone, is_whole=False)
    lone.pass_time(1)
    assert not is_there(lone, view)


def test_the_auditor_follows_and_sees_an_order_closed_too_soon(lone: LoneCore) -> None:
    cancelled(stocked(lone))
    open_view = placed(lone, "A-2", key=9)
    indexed(lone)
    lone.pass_time(HOUR_MS)
    books = Books()
    for entry in lone.entries:
        list(books.apply(entry.seq, entry.time_ms, entry.payload))
    assert books.faults == []
    assert list(books.order_numbers()) == [open_view.order_no]
    wrong = msgspec.msgpack.encode([OrdersClosed(open_view.slot, (open_view.order_no,))])
    list(books.apply(books.seq + 1, books.time_ms, wrong))
    assert "still holds units" in books.faults[0].what


@pytest.mark.parametrize("ttl_s", [0, 60], ids=["cancelled", "expired"])
def test_an_order_that_waited_for_another_shard_to_free_its_leg_leaves_too(ttl_s: int) -> None:
    """C2: its end is the other shard's acknowledgement, not the record that decided it."""
    cluster = LittleCluster(shards=2, nodes=4, items=2)
    home = cluster.cores[0]
    away = cluster.stock_at(1)
    view = cluster.ask(0, a_place(an_order(), key=7, ttl_s=ttl_s))
    assert isinstance(view, OrderView), view
    assert [leg.node_id for leg in view.legs] == [away]
    if ttl_s:
        cluster.now_ms += ttl_s * 1_000
        cluster.settle()
    else:
        assert not isinstance(cluster.ask(0, CancelOrder(view.slot, view.order_no)), Problem)
    cluster.now_ms += ACK_WAIT_MS
    cluster.settle()
    cluster.now_ms += HOUR_MS
    home.archived(home.state.seq, home.state.time_ms, index_is_whole=True)
    cluster.settle()
    assert home.counts["closed"] == 1
    assert home.state.order(view.slot, view.order_no) is None
