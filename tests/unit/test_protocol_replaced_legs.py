"""R6: a TRY whose legs replace held legs of the same order: units are held once, and pass over with nobody in between."""

from __future__ import annotations

import pytest

from engine.domain.commands import AdjustStock, CommitHold, DriveLeg, StockMove
from engine.domain.config import NodeCapacity
from engine.domain.orders import LegState
from engine.domain.replies import OrderView, Problem, TryReply
from engine.protocol.view_feed import PUSH_INTERVAL_MS
from engine.verify.books import Books
from tests.builders import a_destination, a_place, an_order
from tests.sim.little_cluster import LittleCluster
from tests.unit.test_protocol_two_phase import Owner, a_try


def a_hold_and_a_try_that_replaces_it(
    *, units: int = 5, held: int = 4, wanted: int = 5, capacity: NodeCapacity | None = None
) -> tuple[Owner, TryReply]:
    owner = Owner(units=units, capacity=capacity)
    assert owner.ask(a_try(held, capacity=held if capacity else 0)).ok
    again = a_try(wanted, txn=2, leg_no=2, replaces=(1,), capacity=wanted if capacity else 0)
    return owner, owner.ask(again)


def a_drive_of(leg_no: int, to: int, units: int = 0, *, txn: int, version: int = 2) -> DriveLeg:
    return DriveLeg(0, txn, "US010", 77, leg_no, to, ((0, units),) if units else (), version)


@pytest.mark.parametrize("old_first", [True, False])
@pytest.mark.parametrize("wanted", [5, 4, 3])
def test_units_of_a_replaced_leg_are_held_once_and_pass_to_the_new_one(old_first: bool, wanted: int) -> None:
    limit = NodeCapacity(unit="units", per_day=5)
    owner, reply = a_hold_and_a_try_that_replaces_it(wanted=wanted, capacity=limit)
    assert reply.ok
    assert owner.position() == (5, max(4, wanted), 0), "no more than either of them needs"
    assert owner.state.capacity.rows(1) == [(9, max(4, wanted))]
    drives = [a_drive_of(1, LegState.CANCELLED, txn=1), a_drive_of(2, LegState.ALLOCATED, wanted, txn=2)]
    for drive in drives if old_first else reversed(drives):
        owner.ask(drive)
        assert owner.position()[1] + owner.position()[2] >= wanted, "nobody else can get them in between"
        owner.ask(drive)
    assert owner.position() == (5, 0, wanted)
    assert owner.state.capacity.rows(1) == [(9, wanted)]
    owner.check_recovery({})


def test_a_cancelled_replacement_leaves_the_old_leg_as_it_was() -> None:
    owner, _ = a_hold_and_a_try_that_replaces_it()
    owner.ask(a_drive_of(2, LegState.CANCELLED, txn=2, version=0))
    assert owner.position() == (5, 4, 0)
    owner.ask(a_drive_of(1, LegState.ALLOCATED, 4, txn=1))
    assert owner.position() == (5, 0, 4)


def test_a_replaced_leg_that_was_released_meanwhile_frees_all_once_both_have_ended() -> None:
    for first, second in ((1, 2), (2, 1)):
        owner, _ = a_hold_and_a_try_that_replaces_it()
        owner.ask(a_drive_of(first, LegState.CANCELLED, txn=first))
        owner.ask(a_drive_of(second, LegState.CANCELLED, txn=second))
        assert owner.position() == (5, 0, 0)


def test_a_replaced_leg_that_was_committed_meanwhile_keeps_its_units() -> None:
    owner, _ = a_hold_and_a_try_that_replaces_it()
    owner.ask(a_drive_of(1, LegState.ALLOCATED, 3, txn=1))
    assert owner.position() == (5, 1, 3)
    owner.ask(a_drive_of(2, LegState.CANCELLED, txn=2, version=0))
    assert owner.position() == (5, 0, 3)


def test_more_than_the_old_leg_and_the_free_units_is_refused_with_what_is_free() -> None:
    owner, reply = a_hold_and_a_try_that_replaces_it(units=5, held=4, wanted=6)
    assert (reply.ok, reply.short) == (False, ((0, 1, 1),))
    assert owner.position() == (5, 4, 0)


def test_a_newer_transaction_ends_the_taker_before_and_an_older_one_is_refused() -> None:
    owner, _ = a_hold_and_a_try_that_replaces_it(wanted=4)
    assert owner.ask(a_try(5, txn=3, leg_no=3, replaces=(1,))).ok
    assert owner.position() == (5, 5, 0)
    assert not owner.ask(a_try(4, txn=2, leg_no=2, replaces=(1,))).ok
    owner.ask(a_drive_of(3, LegState.ALLOCATED, 5, txn=3))
    owner.ask(a_drive_of(1, LegState.CANCELLED, txn=1))
    assert owner.position() == (5, 0, 5)


def test_what_is_taken_over_survives_a_restart() -> None:
    for with_snapshots in (True, False):
        owner, _ = a_hold_and_a_try_that_replaces_it()
        parts = {part: owner.core.pack_part(part) for part in owner.core.dirty_parts()}
        owner.core = owner.recovered_from(parts if with_snapshots else {})
        owner.settle()
        owner.take_sent()
        owner.ask(a_drive_of(1, LegState.CANCELLED, txn=1))
        assert owner.position() == (5, 5, 0)
        owner.ask(a_drive_of(2, LegState.ALLOCATED, 5, txn=2))
        assert owner.position() == (5, 0, 5)


def test_a_whole_cluster_commits_elsewhere_what_only_the_hold_itself_has() -> None:
    """All units of both shards are in the hold; the books agree with every entry."""
    cluster = LittleCluster(shards=2, nodes=4, per_day=2)
    for node in range(4):
        cluster.ask(node % 2, AdjustStock(f"N-{node}", (StockMove("SKU-0", "received", 2),)))
    cluster.now_ms += PUSH_INTERVAL_MS
    cluster.settle()
    held = cluster.ask(0, a_place(an_order(lines={"SKU-0": 8}), ttl_s=60))
    assert isinstance(held, OrderView), held
    refused = cluster.ask(0, a_place(an_order("B", {"SKU-0": 1})))
    assert isinstance(refused, Problem)
    committed = cluster.ask(0, CommitHold(held.slot, held.order_no, None, 5, 1, a_destination("10099")))
    assert isinstance(committed, OrderView), committed
    assert sum(line.quantity for leg in committed.legs if leg.state == "allocated" for line in leg.lines) == 8
    for shard, entries in enumerate(cluster.entries):
        books = Books()
        for entry in entries:
            for _ in books.apply(entry.seq, entry.time_ms, entry.payload):
                pass
        assert not books.faults, books.faults
        positions = cluster.cores[shard].state.positions
        for node in range(shard, 4, 2):
            row = positions.find(0, node)
            assert (positions.v_held[row], positions.v_allocated[row]) == (0, 2)
            assert books.position(node)[1:3] == (0, 2)
