"""Orders over several shards, seen from each side: try, refusal, silence, drives, questions, tombstones, views."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from engine.domain.commands import (
    ActOnLeg,
    AdjustStock,
    CancelOrder,
    Command,
    CommitHold,
    DriveLeg,
    GetOrder,
    ReleaseHold,
    ResolveTxn,
    StockMove,
    TryLegs,
)
from engine.domain.config import NodeCapacity
from engine.domain.errors import InvariantBreach
from engine.domain.orders import LegState, OnShort
from engine.domain.replies import Done, OrderView, Problem, TryReply, TxnState, ViewUpdate
from engine.protocol.driver import DRIVE_AGAIN_MS
from engine.protocol.participant import ASK_AGAIN_MS, RESOLVE_AFTER_MS
from engine.protocol.two_phase import ROUNDS_MAX, TRY_TIMEOUT_MS, TXN_COUNTER_BITS
from tests.builders import a_destination, a_network, a_node, a_place, an_order
from tests.sim.lone_core import LoneCore
from tests.unit.test_domain_legs import position
from tests.unit.test_domain_orders import free, problem

OTHER = 1


def rows_of(*rows: tuple[int, ...]) -> bytes:
    return np.array(rows, "<i4").tobytes()


class Home(LoneCore):
    """Shard 0 with node N-0; N-1 belongs to shard 1, whose answers the test gives."""

    def __init__(self, *, own: int = 1, others: int = 5, **fields: Any) -> None:
        super().__init__(a_network(nodes=2, shards=2), **fields)
        if own:
            self.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", own),)))
        self.show(others)

    def show(self, units: int, *, seq: int = 1, full: bool = True) -> None:
        """The owner's push: N-1 has so many units of SKU-0."""
        update = ViewUpdate(OTHER, 1, seq, full, True, rows_of((0, 1, units, 0, 0)), b"")
        self.core.peer_replied(OTHER, self.core.views.corr, update, now_ms=self.now_ms)

    def place(self, units: int, **fields: Any) -> int:
        corr = self.send(a_place(an_order(lines={"SKU-0": units}), **fields))
        self.settle()
        return corr

    def peer(self, reply: Any) -> Any:
        """Answer the oldest command sent; returns that command."""
        send = self.sent.pop(0)
        self.core.peer_replied(send.shard, send.corr, reply, now_ms=self.now_ms)
        self.settle()
        return send.command

    def answer(self, corr: int) -> Any:
        (reply,) = self.replies[corr]
        return reply

    def acked(self) -> None:
        """Acknowledge every drive there is."""
        while self.sent:
            command = self.peer(Done(1))
            assert isinstance(command, DriveLeg), command


class Owner(LoneCore):
    """Shard 1 with node N-1 and five units of SKU-0; the test plays home."""

    def __init__(self, *, units: int = 5, capacity: NodeCapacity | None = None) -> None:
        network = a_network(
            nodes=[a_node("N-0", postal_code="01001"), a_node("N-1", postal_code="51001", capacity=capacity)], shards=2
        )
        super().__init__(network, shard=1)
        self.ask(AdjustStock("N-1", (StockMove("SKU-0", "received", units),)))

    def position(self) -> tuple[int, int, int]:
        return position(self, "SKU-0", "N-1")


def a_try(units: int = 3, *, txn: int = 1, order_no: int = 77, leg_no: int = 1, **fields: Any) -> TryLegs:
    capacity = fields.pop("capacity", 0)
    return TryLegs(0, txn, "US010", order_no, ((leg_no, 1, 9, capacity, ((0, units),)),), **fields)


def a_drive(to: int, units: int = 0, *, txn: int = 1, version: int = 1, order_no: int = 77, **fields: Any) -> DriveLeg:
    return DriveLeg(0, txn, "US010", order_no, 1, to, ((0, units),) if units else (), version, **fields)


# -- home: the first phase ----------------------------------------------------------------------------------------


def test_nothing_is_journaled_at_home_before_all_shards_hold() -> None:
    home = Home(own=1)
    entries = len(home.entries)
    corr = home.place(3)
    (send,) = home.sent
    assert send.command.legs == ((2, 1, home.now_ms // 86_400_000, 0, ((0, 2),)),)
    assert (len(home.entries), corr in home.replies) == (entries, False)
    assert (free(home, "SKU-0", "N-0"), free(home, "SKU-0", "N-1")) == (0, 3), "T6: claimed meanwhile"
    home.peer(TryReply(True, token="1:1:5"))
    view = home.answer(corr)
    assert [leg.node_id for leg in view.legs] == ["N-0", "N-1"]
    assert view.token == f"0:1:{len(home.entries)};1:1:5"
    assert (position(home), free(home, "SKU-0", "N-1")) == ((1, 0, 1), 3)


def test_the_second_phase_begins_when_the_order_is_durable_and_goes_on_until_acknowledged() -> None:
    home = Home()
    home.place(3)
    send = home.sent.pop()
    home.core.peer_replied(OTHER, send.corr, TryReply(True, token="1:1:5"), now_ms=home.now_ms)
    home.poll(durable=False)
    assert not home.sent, "D1: a drive left before its entry was durable"
    home.core.appended(home.entries[-1].seq)
    home.settle()
    drive = home.sent.pop().command
    assert (drive.to, drive.lines, drive.version) == (LegState.ALLOCATED, ((0, 2),), 1)
    home.pass_time(DRIVE_AGAIN_MS)
    assert home.sent[0].command == drive
    home.acked()
    home.pass_time(10 * DRIVE_AGAIN_MS)
    assert not home.sent
    (order_no,) = home.state.slots["US100"].orders
    view = home.ask(GetOrder("US100", order_no))
    assert view.version == 1, "an acknowledgement is no change of the order"


def test_a_refusal_teaches_the_owner_s_numbers_and_the_order_is_planned_again() -> None:
    home = Home(own=1)
    corr = home.place(3)
    home.peer(TryReply(False, ((0, 1, 1),), (), "1:1:9"))
    assert problem(home.answer(corr))[0] == "out_of_stock"
    assert home.answer(corr).errors[0].facts["available_to_promise"] == 2
    assert position(home) == (1, 0, 0)
    assert not home.state.positions.claimed.any()


def test_numbers_older_than_the_view_teach_nothing() -> None:
    home = Home(own=1)
    corr = home.place(3)
    home.show(5, seq=20)
    home.peer(TryReply(False, ((0, 1, 0),), (), "1:1:9"))
    assert free(home, "SKU-0", "N-1") == 3, "tried again at once: the push is newer than the refusal"
    assert isinstance(home.peer(TryReply(True, token="1:1:21")), TryLegs)
    assert isinstance(home.answer(corr), OrderView)


def test_after_too_many_refusals_only_own_nodes_are_planned_with() -> None:
    home = Home(own=1)
    corr = home.send(a_place(an_order(lines={"SKU-0": 2}, on_short=OnShort.PARTIAL)))
    home.settle()
    for n in range(ROUNDS_MAX):
        home.peer(TryReply(False, ((0, 1, 5),), (), f"1:1:{n + 50}"))
    view = home.answer(corr)
    assert [(leg.node_id, leg.lines[0].quantity) for leg in view.legs] == [("N-0", 1)]
    retried = [send.command for send in home.sent]
    assert [(type(command), command.legs[0][4]) for command in retried] == [(TryLegs, ((0, 1),))], (
        "the owner said meanwhile that it has units: what waits, and only that, is planned again"
    )


def test_a_silent_shard_is_avoided_and_told_to_let_go() -> None:
    home = Home(own=3, others=5)
    corr = home.place(4)
    tried = home.sent.pop().command
    home.pass_time(TRY_TIMEOUT_MS)
    assert problem(home.answer(corr))[0] == "out_of_stock"
    (cancel,) = home.take_sent()
    assert (cancel.command.to, cancel.command.txn) == (LegState.CANCELLED, tried.txn)


def test_an_answer_that_says_nothing_counts_as_silence() -> None:
    home = Home(own=3, others=5)
    corr = home.place(4)
    home.peer(Problem("unavailable", "down"))
    assert isinstance(home.take_sent()[0].command, DriveLeg)
    assert problem(home.answer(corr))[0] == "out_of_stock"


def test_a_fact_that_takes_an_own_unit_meanwhile_undoes_the_transaction() -> None:
    home = Home(own=1)
    corr = home.place(3)
    home.ask(AdjustStock("N-0", (StockMove("SKU-0", "damaged", 1),)))
    home.peer(TryReply(True, token="1:1:5"))
    cancel, again = (send.command for send in home.sent)
    assert isinstance(cancel, DriveLeg) and cancel.to == LegState.CANCELLED
    assert isinstance(again, TryLegs) and again.legs[0][4] == ((0, 3),)
    assert again.txn > cancel.txn
    assert corr not in home.replies


def test_a_repeat_while_shards_are_asked_gets_the_same_answer() -> None:
    home = Home()
    one = home.place(3, key=5)
    two = home.place(3, key=5)
    assert len(home.sent) == 1
    home.peer(TryReply(True, token="1:1:5"))
    assert home.answer(one) == home.answer(two)


# -- home: changes of remote legs ---------------------------------------------------------------------------------


def a_remote_hold(home: Home, *, units: int = 3, ttl_s: int = 60) -> OrderView:
    corr = home.place(units, ttl_s=ttl_s)
    home.peer(TryReply(True, token="1:1:5"))
    assert not home.sent, "a held leg is not driven: it has no time limit of its own"
    view = home.answer(corr)
    assert isinstance(view, OrderView)
    return view


def test_a_commit_a_release_and_an_expiry_are_driven_with_the_whole_target() -> None:
    home = Home()
    view = a_remote_hold(home)
    home.ask(CommitHold(view.slot, view.order_no, (("1", 2),)))
    (send,) = home.sent
    assert (send.command.to, send.command.lines, send.command.version) == (LegState.ALLOCATED, ((0, 1),), 2)
    home.acked()
    home = Home()
    view = a_remote_hold(home)
    home.ask(ReleaseHold(view.slot, view.order_no))
    assert (home.sent[0].command.to, home.sent[0].command.lines) == (LegState.CANCELLED, ())
    home = Home()
    view = a_remote_hold(home, ttl_s=1)
    home.pass_time(1_000)
    assert home.sent[0].command.to == LegState.CANCELLED


def test_shipments_and_write_offs_are_driven_as_totals() -> None:
    home = Home(own=0, others=9)
    corr = home.place(6)
    home.peer(TryReply(True, token="1:1:5"))
    home.acked()
    view = home.answer(corr)
    act = {"slot": view.slot, "order_no": view.order_no, "leg_no": 1}
    home.ask(ActOnLeg(**act, action="release"))
    assert not home.sent, "the owner need not know that a leg was released"
    home.ask(ActOnLeg(**act, action="ship", lines=(("1", 2),)))
    home.ask(ActOnLeg(**act, action="ship", lines=(("1", 1),)))
    drive = home.take_sent()[-1].command
    assert (drive.to, drive.lines, drive.shipped) == (LegState.ALLOCATED, ((0, 3),), ((0, 3),))
    home.ask(ActOnLeg(**act, action="reject", lines=(("1", 1),), stock_effect="write_off"))
    home.ask(ActOnLeg(**act, action="reject", lines=(("1", 1),), stock_effect="zero_until_count"))
    drive = home.take_sent()[-1].command
    assert (drive.lines, drive.shipped, drive.written_off, drive.emptied) == (((0, 1),), ((0, 3),), ((0, 1),), (0,))
    home.ask(CancelOrder(view.slot, view.order_no))
    drive = home.take_sent()[-1].command
    assert (drive.to, drive.lines, drive.written_off) == (LegState.CANCELLED, (), ((0, 1),))


def test_an_acknowledgement_of_an_older_target_is_not_one_of_the_newer() -> None:
    home = Home()
    view = a_remote_hold(home)
    home.ask(CommitHold(view.slot, view.order_no))
    old = home.sent.pop()
    home.ask(CancelOrder(view.slot, view.order_no))
    new = home.sent.pop()
    home.core.peer_replied(OTHER, old.corr, Done(1), now_ms=home.now_ms)
    home.pass_time(DRIVE_AGAIN_MS)
    assert home.take_sent()[-1].command == new.command


def test_an_entry_is_settled_when_the_other_shard_has_acknowledged_all_that_it_needed() -> None:
    home = Home()
    assert home.core.driver.settled(home.state.seq) == (), "nothing was driven"
    view = a_remote_hold(home)
    home.ask(CommitHold(view.slot, view.order_no))
    committed = home.state.seq
    old = home.sent.pop()
    assert home.core.driver.settled(committed) == ((OTHER, committed - 1, 0, 0),)
    home.ask(CancelOrder(view.slot, view.order_no))
    cancelled = home.state.seq
    new = home.sent.pop()
    home.core.peer_replied(OTHER, old.corr, Done(1, "1:7:20"), now_ms=home.now_ms)
    assert home.core.driver.settled(cancelled) == ((OTHER, committed - 1, 0, 0),), (
        "the newer target stands for the older"
    )
    home.core.peer_replied(OTHER, new.corr, Done(1, "1:7:21"), now_ms=home.now_ms)
    assert home.core.driver.settled(cancelled) == ((OTHER, cancelled, 7, 21),)


def test_nothing_is_settled_after_a_restart_before_all_drives_are_acknowledged() -> None:
    home = Home()
    view = a_remote_hold(home)
    home.ask(CommitHold(view.slot, view.order_no))
    again = home.recovered_from({})
    (send,) = again.poll(now_ms=home.now_ms).sends
    assert again.driver.settled(again.state.seq) == ((OTHER, 0, 0, 0),)
    again.peer_replied(OTHER, send.corr, Done(1, "1:7:20"), now_ms=home.now_ms)
    assert again.driver.settled(again.state.seq) == ((OTHER, again.state.seq, 7, 20),)


def test_a_leg_that_the_other_shard_does_not_know_keeps_nobody_waiting() -> None:
    home = Home()
    view = a_remote_hold(home)
    home.ask(CommitHold(view.slot, view.order_no))
    send = home.sent.pop()
    home.core.peer_replied(OTHER, send.corr, Problem("not_found", ""), now_ms=home.now_ms)
    assert [row for row in home.core.driver.settled(home.state.seq) if row[1] < home.state.seq] == []
    home.pass_time(DRIVE_AGAIN_MS)
    assert home.take_sent()[-1].command == send.command, "it is driven again all the same"


def test_drives_that_were_not_acknowledged_go_on_after_a_restart() -> None:
    home = Home()
    view = a_remote_hold(home)
    home.ask(CommitHold(view.slot, view.order_no))
    drive = home.sent.pop().command
    again = home.recovered_from({})
    (send,) = again.poll(now_ms=home.now_ms).sends
    assert send.command == drive


def test_a_rejected_remote_leg_gets_a_new_one_and_a_stale_attempt_is_undone() -> None:
    home = Home(own=0, others=9)
    corr = home.place(2)
    home.peer(TryReply(True, token="1:1:5"))
    home.acked()
    view = home.answer(corr)
    home.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 1),)))
    after = home.ask(ActOnLeg(view.slot, view.order_no, 1, "reject"))
    assert [(leg.node_id, leg.state) for leg in after.legs] == [("N-1", "rejected"), ("N-0", "allocated")]
    assert (after.state, after.unfilled[0].quantity) == ("partially_allocated", 1)


def test_transaction_numbers_last_for_the_life_of_a_process() -> None:
    """A thousand a second, for a month: none comes twice, none is of an epoch that is not there yet, and all fit the wire, where
    epochs are seconds."""
    home = Home()
    home.core.epoch = 2**31 - 1
    two_phase = home.core.two_phase
    first = two_phase.next_txn()
    two_phase._counter = 1_000 * 86_400 * 31
    later = two_phase.next_txn()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(later)) == later < 2**63
    assert later > first and later >> TXN_COUNTER_BITS == first >> TXN_COUNTER_BITS == home.core.epoch
    two_phase._counter = 1 << 24
    assert two_phase.next_txn() not in (first, later)


def test_resolve_tells_committed_pending_and_aborted_and_drives_again() -> None:
    home = Home()
    view = a_remote_hold(home)
    record = home.state.order(view.slot, view.order_no)
    assert record is not None
    txn = record.legs[1].txn
    assert home.ask(ResolveTxn(txn, view.slot, view.order_no, OTHER)) == TxnState("committed")
    assert not home.sent, "a hold is where it is to be"
    home.ask(CommitHold(view.slot, view.order_no))
    home.acked()
    assert home.ask(ResolveTxn(txn, view.slot, view.order_no, OTHER)) == TxnState("committed")
    assert home.sent.pop().command.to == LegState.ALLOCATED
    assert home.ask(ResolveTxn(txn - 1, view.slot, view.order_no, OTHER)) == TxnState("aborted")
    assert home.ask(ResolveTxn(2 << TXN_COUNTER_BITS | 1, view.slot, view.order_no, OTHER)) == TxnState("pending"), (
        "a newer epoch's"
    )
    home.send(a_place(an_order("B", {"SKU-0": 1})))
    home.settle()
    pending = home.sent.pop().command
    assert home.ask(ResolveTxn(pending.txn, pending.slot, pending.order_no, OTHER)) == TxnState("pending")


def test_a_verdict_waits_until_it_is_durable() -> None:
    home = Home()
    home.place(3)
    send = home.sent.pop()
    home.core.peer_replied(OTHER, send.corr, TryReply(True, token="1:1:5"), now_ms=home.now_ms)
    home.poll(durable=False)
    corr = home.send(ResolveTxn(send.command.txn, send.command.slot, send.command.order_no, OTHER))
    home.poll(durable=False)
    assert corr not in home.replies
    home.core.appended(home.entries[-1].seq)
    home.settle()
    assert home.answer(corr) == TxnState("committed")


def test_a_hold_is_committed_elsewhere_by_one_transaction_at_a_time() -> None:
    home = Home(own=0, others=9)
    view = a_remote_hold(home, units=2)
    command = CommitHold(view.slot, view.order_no, None, 5, 1, a_destination("10099"))
    one = home.send(command)
    home.settle()
    (tried,) = home.sent
    two, other = home.send(command), home.send(CommitHold(view.slot, view.order_no, None, 6, 1, a_destination("10098")))
    home.settle()
    assert problem(home.answer(other))[0] == "wrong_state"
    assert home.sent == [tried], "T7: a participant would take a second TRY of the leg for the end of the first"
    home.peer(TryReply(True, token="1:1:6"))
    assert home.answer(one) == home.answer(two)
    assert [leg.state for leg in home.answer(one).legs] == ["cancelled", "allocated"]
    assert {send.command.to for send in home.sent} == {LegState.CANCELLED, LegState.ALLOCATED}


def test_the_hold_s_units_at_other_shards_count_as_free_for_its_commit_elsewhere() -> None:
    home = Home(own=0, others=2)
    view = a_remote_hold(home, units=2)
    corr = home.send(CommitHold(view.slot, view.order_no, None, 5, 1, a_destination("10099")))
    home.settle()
    (tried,) = home.sent
    assert (tried.command.legs[0][4], tried.command.replaces) == (((0, 2),), (1,))
    home.peer(TryReply(True, token="1:1:6"))
    assert [leg.state for leg in home.answer(corr).legs] == ["cancelled", "allocated"]


# -- the participant ----------------------------------------------------------------------------------------------


def test_a_try_holds_all_or_says_what_is_there() -> None:
    owner = Owner()
    reply = owner.ask(TryLegs(0, 1, "US010", 77, ((1, 1, 9, 0, ((0, 3),)), (2, 1, 9, 0, ((0, 3),)))))
    assert (reply.ok, reply.short) == (False, ((0, 1, 5),)), "two legs at one position are added up"
    assert owner.position() == (5, 0, 0)
    assert owner.ask(a_try(5)).ok
    assert owner.position() == (5, 5, 0)


def test_a_try_respects_capacity_node_state_and_safety_by_method() -> None:
    owner = Owner(capacity=NodeCapacity(unit="units", per_day=4))
    assert owner.ask(a_try(3, capacity=5)).full == ((1, 9, 0),)
    assert owner.ask(a_try(3, capacity=3)).ok
    assert owner.ask(a_try(1, order_no=78, capacity=2)).full == ((1, 9, 3),)
    assert owner.ask(a_try(2, order_no=79, spare=((1, 0, 1),))).short == ((0, 1, 2),), "home keeps the one back itself"
    off = Owner()
    from engine.domain.replies import ConfigDoc
    from tests.builders import as_docs

    (doc,) = as_docs([a_node("N-1", postal_code="51001", state="off")])
    off.core.configure([ConfigDoc("node", "N-1", 1, 99, doc.document)], 99)
    assert off.ask(a_try(1)).short == ((0, 1, 0),)
    assert problem(off.ask(TryLegs(0, 1, "US010", 1, ((1, 0, 9, 0, ((0, 1),)),))))[0] == "moved"


def test_a_repeated_try_holds_once_and_a_newer_one_replaces_it() -> None:
    owner = Owner()
    assert owner.ask(a_try(3)).ok and owner.ask(a_try(3)).ok
    assert owner.position() == (5, 3, 0)
    assert owner.ask(a_try(4, txn=2)).ok
    assert owner.position() == (5, 4, 0)
    assert not owner.ask(a_try(1, txn=1)).ok, "an older one is refused"
    owner.ask(a_drive(LegState.ALLOCATED, 4, txn=2))
    assert not owner.ask(a_try(1, txn=3)).ok, "what home decided is not replaced"


def test_a_drive_is_idempotent_and_never_goes_back() -> None:
    owner = Owner()
    owner.ask(a_try(4))
    for _ in range(2):
        assert owner.ask(a_drive(LegState.ALLOCATED, 3, version=2)) == Done(1, owner.core.token())
        assert owner.position() == (5, 0, 3)
    assert owner.ask(a_drive(LegState.ALLOCATED, 4, version=1)) == Done(1, owner.core.token())
    assert owner.position() == (5, 0, 3), "an older version changes nothing"
    shipped = a_drive(LegState.ALLOCATED, 1, version=3, shipped=((0, 2),))
    owner.ask(shipped)
    owner.ask(shipped)
    assert owner.position() == (3, 0, 1)
    last = a_drive(LegState.SHIPPED, version=4, shipped=((0, 3),))
    assert [owner.ask(last).detail, owner.ask(last).detail] == [1, 0]
    assert owner.position() == (2, 0, 0)
    assert not owner.state.foreign_node


def test_a_leg_that_would_grow_stops_the_shard() -> None:
    owner = Owner()
    owner.ask(a_try(2))
    owner.ask(a_drive(LegState.ALLOCATED, 1, version=1))
    with pytest.raises(InvariantBreach, match="R3"):
        owner.ask(a_drive(LegState.ALLOCATED, 2, version=2))


def test_what_a_rejection_says_about_the_shelf_is_booked_once() -> None:
    owner = Owner(units=9)
    owner.ask(a_try(4))
    owner.ask(a_drive(LegState.ALLOCATED, 4, version=1))
    owner.ask(a_drive(LegState.ALLOCATED, 3, version=2, written_off=((0, 1),)))
    assert owner.position() == (8, 0, 3)
    owner.ask(a_drive(LegState.ALLOCATED, 2, version=3, written_off=((0, 1),), emptied=(0,)))
    assert owner.position() == (2, 0, 2), "all that is not promised is taken off until the next count"
    owner.ask(AdjustStock("N-1", (StockMove("SKU-0", "received", 5),)))
    owner.ask(a_drive(LegState.ALLOCATED, 1, version=4, written_off=((0, 1),), emptied=(0,)))
    assert owner.position() == (7, 0, 1)


def test_capacity_is_given_back_for_what_did_not_ship() -> None:
    owner = Owner(units=9, capacity=NodeCapacity(unit="units", per_day=9))
    owner.ask(a_try(6, capacity=6))
    owner.ask(a_drive(LegState.ALLOCATED, 5, version=1))
    assert owner.state.capacity.rows(1) == [(9, 5)]
    owner.ask(a_drive(LegState.ALLOCATED, 3, version=2, shipped=((0, 2),)))
    assert owner.state.capacity.rows(1) == [(9, 5)]
    owner.ask(a_drive(LegState.CANCELLED, version=3, shipped=((0, 2),)))
    assert owner.state.capacity.rows(1) == [(9, 2)]


def test_a_cancel_that_overtakes_its_try_leaves_a_tombstone() -> None:
    owner = Owner()
    assert owner.ask(a_drive(LegState.CANCELLED, version=0)) == Done(0, owner.core.token())
    assert not owner.ask(a_try(3)).ok
    assert owner.position() == (5, 0, 0)
    assert owner.ask(a_try(3, txn=2)).ok


def test_a_leg_that_ended_is_not_held_again_by_a_late_try() -> None:
    owner = Owner()
    owner.ask(a_try(3))
    owner.ask(a_drive(LegState.CANCELLED, version=3))
    assert not owner.ask(a_try(3)).ok


def test_a_drive_for_a_leg_nobody_holds_is_refused() -> None:
    assert problem(Owner().ask(a_drive(LegState.ALLOCATED, 3)))[0] == "not_found"


def test_home_is_asked_about_a_leg_it_never_spoke_of() -> None:
    owner = Owner()
    owner.ask(a_try(3))
    owner.pass_time(RESOLVE_AFTER_MS)
    send = owner.sent.pop()
    assert (send.shard, send.command) == (0, ResolveTxn(1, "US010", 77, 1))
    owner.core.peer_replied(0, send.corr, TxnState("pending"), now_ms=owner.now_ms)
    owner.pass_time(RESOLVE_AFTER_MS)
    send = owner.sent.pop()
    owner.core.peer_replied(0, send.corr, TxnState("aborted"), now_ms=owner.now_ms)
    owner.settle()
    assert owner.position() == (5, 0, 0)
    assert not owner.ask(a_try(3)).ok


def test_an_answer_about_an_older_transaction_frees_nothing() -> None:
    owner = Owner()
    owner.ask(a_try(3))
    owner.pass_time(RESOLVE_AFTER_MS)
    send = owner.sent.pop()
    assert owner.ask(a_try(2, txn=2)).ok
    owner.core.peer_replied(0, send.corr, TxnState("aborted"), now_ms=owner.now_ms)
    owner.settle()
    assert owner.position() == (5, 2, 0)


def test_a_committed_leg_is_kept_and_asked_about_now_and_then() -> None:
    owner = Owner()
    owner.ask(a_try(3))
    owner.pass_time(RESOLVE_AFTER_MS)
    owner.core.peer_replied(0, owner.sent.pop().corr, TxnState("committed"), now_ms=owner.now_ms)
    owner.pass_time(RESOLVE_AFTER_MS * 5)
    assert not owner.sent
    owner.ask(a_drive(LegState.ALLOCATED, 3))
    owner.pass_time(ASK_AGAIN_MS)
    send = owner.sent.pop()
    owner.core.peer_replied(0, send.corr, TxnState("aborted"), now_ms=owner.now_ms)
    owner.settle()
    assert owner.position() == (5, 0, 3), "what home once decided is not freed on a word"
    assert owner.core.counts["legs_disowned"] == 1


def test_after_a_restart_home_is_asked_about_every_leg() -> None:
    owner = Owner()
    owner.ask(a_try(1))
    owner.ask(a_drive(LegState.ALLOCATED, 1))
    owner.ask(a_try(1, order_no=78))
    again = owner.recovered_from({part: owner.core.pack_part(part) for part in owner.core.dirty_parts()})
    sends = again.poll(now_ms=owner.now_ms).sends
    assert [send.command.order_no for send in sends] == [77, 78]


# -- the wire -----------------------------------------------------------------------------------------------------


def test_commands_between_shards_survive_the_wire() -> None:
    from engine.protocol.wire import decode_commands, frame

    commands: list[tuple[int, Command]] = [
        (1, a_try(spare=((1, 2, 3),))),
        (2, a_drive(LegState.ALLOCATED, 3, shipped=((0, 1),), written_off=((0, 2),), emptied=(0,))),
        (3, ResolveTxn(1, "US100", 2, 3)),
    ]
    assert decode_commands(frame(commands)[4:]) == commands
