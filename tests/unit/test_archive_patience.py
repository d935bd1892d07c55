"""The archiver waits only while it is felt, while somebody else wants the machine, and for a bounded time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.archive.patience import CALM_BYTES_PER_S, LOOK_EVERY_S, CpuPressure, Patience

ENTRY_BYTES = 4_096
BUSY_PER_S = 10 * CALM_BYTES_PER_S // ENTRY_BYTES


def patience(lag_s: float = 30.0, pressure: float = 1.0) -> Patience:
    """Entries are known, and nothing is left in the journal at second 100."""
    made = Patience(lag_s, lambda: pressure)
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
    "one", [patience(pressure=0.3), patience(lag_s=0.0), Patience(30.0, lambda: 1.0)], ids=["idle", "off", "new"]
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


def pressure(total_us: int) -> str:
    return (
        f"some avg10=80.93 avg60=77.14 avg300=44.48 total={total_us}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"
    )


def test_pressure_is_the_share_of_time_since_the_last_look_in_which_somebody_waited() -> None:
    times = iter((10.0, 12.0, 12.0 + LOOK_EVERY_S / 2, 13.0))
    one = CpuPressure(reader(pressure(5_000_000), pressure(6_500_000), pressure(6_600_000)), lambda: next(times))
    assert [one.share() for _ in range(4)] == pytest.approx([0.0, 0.75, 0.75, 0.1])


def test_a_system_that_does_not_tell_its_pressure_is_never_busy() -> None:
    assert CpuPressure(reader(FileNotFoundError()), lambda: 1.0).share() == 0.0


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
