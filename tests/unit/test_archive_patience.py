"""The archiver waits only while it is felt, while others keep the machine busy, and for a bounded time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from engine.archive.patience import CALM_BYTES_PER_S, LOOK_BACK_S, LOOK_EVERY_S, BusyCores, Patience

ENTRY_BYTES = 4_096
BUSY_PER_S = 10 * CALM_BYTES_PER_S // ENTRY_BYTES


def patience(lag_s: float = 30.0, busy_share: float = 1.0) -> Patience:
    """Entries are known, and nothing is left in the journal at second 100."""
    made = Patience(lag_s, lambda: busy_share)
    made.waits(100.0, tail_seq=1_000)
    made.took(100.0, entries=10, size_bytes=10 * ENTRY_BYTES, all_of_it=True)
    return made


def test_a_journal_that_grows_fast_on_a_busy_machine_waits_until_the_lag_and_no_longer() -> None:
    one = patience()
    waits = [one.waits(100.0 + n, tail_seq=1_000 + n * BUSY_PER_S) for n in range(1, 41)]
    assert waits == [n < 30 for n in range(1, 41)]
    one.took(141.0, entries=128, size_bytes=128 * ENTRY_BYTES, all_of_it=False)
    assert not one.waits(142.0, tail_seq=1_000 + 42 * BUSY_PER_S)  # something is left: it is as old as before
    one.took(142.5, entries=5, size_bytes=5 * ENTRY_BYTES, all_of_it=True)
    assert one.waits(143.0, tail_seq=1_000 + 43 * BUSY_PER_S)


@pytest.mark.parametrize(
    "one", [patience(busy_share=0.3), patience(lag_s=0.0), Patience(30.0, lambda: 1.0)], ids=["idle", "off", "new"]
)
def test_it_does_not_wait_where_a_core_is_free_or_no_lag_is_allowed_or_nothing_was_ever_taken(one: Patience) -> None:
    assert not any(one.waits(100.0 + n, tail_seq=1_000 + n * BUSY_PER_S) for n in range(1, 10))


def test_it_does_not_wait_for_a_slow_journal_nor_when_the_rush_is_over() -> None:
    one = patience()
    slow = CALM_BYTES_PER_S // ENTRY_BYTES - 1
    assert not any(one.waits(100.0 + n, tail_seq=1_000 + n * slow) for n in range(1, 10))
    assert one.waits(110.0, tail_seq=1_000 + 10 * BUSY_PER_S)
    assert not one.waits(110.25, tail_seq=1_000 + 10 * BUSY_PER_S)


def reader(*texts: str | OSError) -> Callable[[], str]:
    left = list(texts)

    def read() -> str:
        text = left.pop(0)
        if isinstance(text, OSError):
            raise text
        return text

    return read


def stat(user: int, idle: int, steal: int = 0) -> str:
    """Ticks since the machine started, the first two lines of /proc/stat; user time of guests is contained in user."""
    return f"cpu  {user} 20 30 {idle} 50 60 70 {steal} 900 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n"


def test_busy_is_the_share_of_all_cores_that_others_used_since_the_last_look() -> None:
    times = iter((10.0, 11.0, 11.0 + LOOK_EVERY_S / 2, 12.0, 13.0))
    own_ticks = iter((5, 5, 55, 105))
    one = BusyCores(
        reader(stat(1_000, 1_000), stat(1_150, 1_050), stat(1_300, 1_100), stat(1_350, 1_200, steal=50)),
        lambda: next(own_ticks) / os.sysconf("SC_CLK_TCK"),
        lambda: next(times),
    )
    # 150 of 200; not looked at; 150 of which 50 are its own; 100 of which 50 its own, stolen ones included
    assert [one.share() for _ in range(5)] == pytest.approx([0.0, 0.75, 0.75, 0.5, 0.25])


@pytest.mark.parametrize("there", [FileNotFoundError(), "", "cpu  1 2 3\n", "intr 7\n"])
def test_a_system_that_does_not_tell_what_its_cores_do_is_never_busy(there: str | OSError) -> None:
    assert BusyCores(reader(there)).share() == 0.0


def test_a_look_of_long_ago_and_a_clock_that_went_back_say_nothing_of_now() -> None:
    times = iter((10.0, 11.0, 11.0 + LOOK_BACK_S, 17.0, 18.0))
    one = BusyCores(
        reader(stat(0, 0), stat(90, 10), stat(900, 100), stat(800, 100), stat(850, 150)),
        lambda: 0.0,
        lambda: next(times),
    )
    assert [one.share() for _ in range(5)] == pytest.approx([0.0, 0.9, 0.0, 0.0, 0.5])


def test_the_system_at_hand_tells_what_its_cores_do_and_own_work_does_not_count() -> None:
    times = iter((1.0, 1.0, 2.0, 2.0))
    everybody, others = (
        BusyCores(own_s=own_s, clock=lambda: next(times)) for own_s in (lambda: 0.0, time.process_time)
    )
    assert everybody.share() == others.share() == 0.0
    until_s = time.process_time() + 0.2
    while time.process_time() < until_s:
        pass
    assert 1.0 >= everybody.share() > others.share() >= 0.0


def test_who_still_has_not_taken_all_long_after_the_lag_is_late() -> None:
    one = patience()
    assert [one.is_late(100.0 + after) for after in (0.0, 31.0, 44.0, 45.0)] == [False, False, False, True]
    one.took(150.0, entries=5, size_bytes=5 * ENTRY_BYTES, all_of_it=False)
    assert one.is_late(150.0)
    one.took(151.0, entries=5, size_bytes=5 * ENTRY_BYTES, all_of_it=True)
    assert not one.is_late(151.0)


def test_who_may_never_be_behind_is_late_at_once() -> None:
    one = patience(lag_s=0.0)
    assert one.is_late(100.0)
    assert Patience(30.0, lambda: 0.0).is_late(100.0)  # nothing was ever taken: there may be much
