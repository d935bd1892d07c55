"""Views between shards: a picture, then what entries touched; a hold counts once."""

from __future__ import annotations

from engine.domain.commands import (
    FollowView,
    TryLegs,
)
from engine.domain.replies import OrderView, Problem, Reply, TryReply, ViewUpdate
from engine.protocol.view_feed import HEARTBEAT_MS, PUSH_INTERVAL_MS
from tests.builders import a_place, an_order
from tests.unit.test_domain_legs import position
from tests.unit.test_domain_orders import free
from tests.unit.test_protocol_two_phase import OTHER, Home, Owner, a_try, rows_of


def followed(owner: Owner) -> list[ViewUpdate]:
    return [reply for replies in owner.replies.values() for reply in replies if isinstance(reply, ViewUpdate)]


def test_a_follower_gets_a_picture_and_then_what_entries_touched() -> None:
    owner = Owner()
    corr = owner.send(FollowView(0))
    owner.settle()
    picture = owner.replies[corr][0]
    assert isinstance(picture, ViewUpdate)
    assert (picture.full, picture.last, picture.positions) == (True, True, rows_of((0, 1, 5, 0, 0)))
    owner.pass_time(PUSH_INTERVAL_MS)
    owner.ask(a_try(2))
    owner.pass_time(PUSH_INTERVAL_MS)
    update = owner.replies[corr][-1]
    assert isinstance(update, ViewUpdate)
    assert (update.full, update.seq, update.positions) == (False, len(owner.entries), rows_of((0, 1, 5, 2, 0)))
    pushes = len(owner.replies[corr])
    owner.pass_time(HEARTBEAT_MS)
    assert len(owner.replies[corr]) == pushes + 1, "silence is told from a dead owner"
    owner.core.disconnected(1)
    owner.pass_time(HEARTBEAT_MS)
    assert len(owner.replies[corr]) == pushes + 1


def test_what_the_next_entry_touches_is_pushed_again_with_that_entry() -> None:
    # V1: a push may show more than the entry it names, never less, and never for the last time.
    owner = Owner()
    corr = owner.send(FollowView(0))
    owner.settle()
    owner.pass_time(HEARTBEAT_MS)
    owner.send(a_try(1))
    owner.poll(durable=False)
    owner.send(a_try(2, order_no=78))
    owner.now_ms += PUSH_INTERVAL_MS
    owner.poll(durable=False)
    ahead = owner.replies[corr][-1]
    assert isinstance(ahead, ViewUpdate)
    assert (ahead.seq, ahead.positions) == (len(owner.entries), rows_of((0, 1, 5, 3, 0)))
    owner.core.appended(owner.entries[-1].seq)
    owner.settle()
    owner.pass_time(PUSH_INTERVAL_MS)
    update = owner.replies[corr][-1]
    assert isinstance(update, ViewUpdate)
    assert (update.seq, update.positions) == (len(owner.entries), rows_of((0, 1, 5, 3, 0)))


def test_a_view_does_not_move_on_from_a_refusal_until_the_owner_begins_again() -> None:
    # V2: a push may have been lost in its place.
    home = Home(own=1, others=5)

    def hears(reply: Reply) -> tuple[int, int]:
        home.core.peer_replied(OTHER, home.core.views.corr, reply, now_ms=home.now_ms)
        return home.core.views.point(OTHER)

    def update(seq: int, *, full: bool = False, last: bool = True) -> ViewUpdate:
        return ViewUpdate(OTHER, 1, seq, full, last, rows_of((0, 1, 5, seq, 0)), b"")

    assert hears(update(2)) == (1, 2)
    assert hears(Problem("unavailable", "")) == (1, 2)
    assert hears(update(4)) == (1, 2)
    hears(update(4, full=True, last=False))
    assert hears(update(4)) == (1, 4)


def test_a_hold_is_counted_once_whether_the_push_comes_first_or_not() -> None:
    for push_first in (True, False):
        home = Home(own=1, others=5)
        home.place(3)
        if push_first:
            home.core.peer_replied(
                OTHER,
                home.core.views.corr,
                ViewUpdate(OTHER, 1, 5, False, True, rows_of((0, 1, 5, 2, 0)), b""),
                now_ms=home.now_ms,
            )
        home.peer(TryReply(True, token="1:1:5"))
        assert free(home, "SKU-0", "N-1") == 3


def test_a_hold_that_is_in_the_view_before_its_answer_came_refuses_nobody() -> None:
    """Until the answer comes its units count twice, as held there and as claimed here: who falls short of them waits for it."""
    home = Home(own=0, others=5)
    first = home.place(3)
    told_of_hold = ViewUpdate(OTHER, 1, 5, False, True, rows_of((0, 1, 5, 3, 0)), b"")
    home.core.peer_replied(OTHER, home.core.views.corr, told_of_hold, now_ms=home.now_ms)
    assert free(home, "SKU-0", "N-1") == -1
    second = home.send(a_place(an_order("A-2", {"SKU-0": 2})))
    home.settle()
    assert second not in home.replies, "two are there"
    home.peer(TryReply(True, token="1:1:5"))
    assert isinstance(home.answer(first), OrderView)
    attempt = next(send for send in home.sent if isinstance(send.command, TryLegs))
    home.core.peer_replied(OTHER, attempt.corr, TryReply(True, token="1:1:6"), now_ms=home.now_ms)
    home.settle()
    assert isinstance(home.answer(second), OrderView)


def test_a_full_picture_forgets_what_was_seen_before_and_a_view_of_ourselves_is_nonsense() -> None:
    home = Home(own=1, others=5)
    home.core.state.capacity.put(1, 9, 4)
    update = ViewUpdate(OTHER, 2, 1, True, True, rows_of((1, 1, 7, 0, 0)), rows_of((1, 10, 2)))
    home.core.peer_replied(OTHER, home.core.views.corr, update, now_ms=home.now_ms)
    assert (free(home, "SKU-0", "N-1"), free(home, "SKU-1", "N-1")) == (0, 7)
    assert home.state.capacity.rows(1) == [(10, 2)]
    own = ViewUpdate(0, 9, 9, True, True, rows_of((0, 0, 99, 0, 0)), b"")
    home.core.peer_replied(0, home.core.views.corr, own, now_ms=home.now_ms)
    assert position(home) == (1, 0, 0)
