"""Ship days: cut-offs to the millisecond, working days, holidays, clock changes, processing, waves."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from solvers.calendar import (
    Calendars,
    CalendarSpec,
    add_business_days,
    day_number,
    delivery_day,
    local_day,
    minute_of,
    weekday,
)
from solvers.layout import MIDNIGHTS, NO_DAY, OPTIONS

NEW_YORK = "America/New_York"
WEEKDAYS = 0b0011111


def at(text: str, zone: str = NEW_YORK) -> int:
    """The instant (ms) of a local time."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1_000)


def first(spec: CalendarSpec, now_ms: int) -> tuple[str, str]:
    """(ship day, ship by in UTC) of the first option."""
    calendars = Calendars([spec])
    calendars.refresh(now_ms)
    day, ship_by, order_by = calendars.options[0, 0].tolist()
    assert order_by > now_ms
    when = datetime.fromtimestamp(ship_by / 1_000, UTC).strftime("%m-%d %H:%M")
    return datetime.fromtimestamp(day * 86_400, UTC).strftime("%a %m-%d"), when


@pytest.mark.parametrize(
    ("now", "shift_ms", "ship_day"),
    [
        ("2026-12-01 15:00", -1, "Tue 12-01"),  # the last millisecond before the cut-off
        ("2026-12-01 15:00", 0, "Wed 12-02"),  # at the cut-off it has passed
        ("2026-12-01 15:00", 1, "Wed 12-02"),
        ("2026-12-01 00:00", 0, "Tue 12-01"),
        ("2026-12-04 15:00", 0, "Mon 12-07"),  # Friday after the cut-off
        ("2026-12-05 09:00", 0, "Mon 12-07"),
        ("2026-12-24 15:00", 0, "Mon 12-28"),  # the 25th is a holiday, then a weekend
    ],
)
def test_the_cut_off_decides_to_the_millisecond(now: str, shift_ms: int, ship_day: str) -> None:
    spec = CalendarSpec(NEW_YORK, holidays=(day_number("2026-12-25"),))
    assert first(spec, at(now) + shift_ms)[0] == ship_day


def test_the_cut_off_follows_the_local_clock_over_a_change() -> None:
    spec = CalendarSpec(NEW_YORK, working_days=(0, 1, 2, 3, 4, 5, 6))
    assert first(spec, at("2026-03-07 12:00")) == ("Sat 03-07", "03-07 20:00")  # UTC-5
    assert first(spec, at("2026-03-08 12:00")) == ("Sun 03-08", "03-08 19:00")  # UTC-4 since 02:00
    assert first(spec, at("2026-10-31 12:00")) == ("Sat 10-31", "10-31 19:00")
    assert first(spec, at("2026-11-01 12:00")) == ("Sun 11-01", "11-01 20:00")


def test_a_local_time_that_a_change_skips_or_repeats_has_one_reading() -> None:
    """02:30 does not exist on 8 March 2026, 01:30 exists twice on 1 November: both are read with the earlier offset."""
    every_day = (0, 1, 2, 3, 4, 5, 6)
    skipped = CalendarSpec(NEW_YORK, working_days=every_day, cut_off_minute=minute_of("02:30"))
    assert first(skipped, at("2026-03-08 00:00")) == ("Sun 03-08", "03-08 07:30")
    repeated = CalendarSpec(NEW_YORK, working_days=every_day, cut_off_minute=minute_of("01:30"))
    assert first(repeated, at("2026-11-01 00:00")) == ("Sun 11-01", "11-01 05:30")


def test_a_day_of_23_hours_ends_where_the_next_one_begins() -> None:
    calendars = Calendars([CalendarSpec(NEW_YORK)])
    calendars.refresh(at("2026-03-08 12:00"))
    n = day_number("2026-03-08") - calendars.base_day
    assert calendars.midnight[0, n] - calendars.midnight[0, n - 1] == 23 * 3_600_000
    assert calendars.midnight[0, n] == at("2026-03-09 00:00")
    assert calendars.today.tolist() == [day_number("2026-03-08")]


def test_processing_comes_before_the_cut_off() -> None:
    spec = CalendarSpec(NEW_YORK, processing_minutes=120)
    assert first(spec, at("2026-12-01 12:59"))[0] == "Tue 12-01"
    assert first(spec, at("2026-12-01 13:00"))[0] == "Wed 12-02"
    days = CalendarSpec(NEW_YORK, processing_minutes=2 * 1_440)
    assert first(days, at("2026-12-01 09:00"))[0] == "Thu 12-03"


def test_an_order_waits_for_the_next_wave_and_is_then_processed() -> None:
    spec = CalendarSpec(NEW_YORK, processing_minutes=60, waves=(minute_of("09:00"), minute_of("13:00")))
    assert first(spec, at("2026-12-01 08:00"))[0] == "Tue 12-01"
    assert first(spec, at("2026-12-01 12:59"))[0] == "Tue 12-01"
    assert first(spec, at("2026-12-01 13:00"))[0] == "Wed 12-02"  # the last wave that makes the cut-off has gone
    late = CalendarSpec(NEW_YORK, waves=(minute_of("16:00"),))
    assert first(late, at("2026-12-04 15:59"))[0] == "Mon 12-07"  # Friday's wave, Monday's carrier
    assert first(late, at("2026-12-04 16:00"))[0] == "Tue 12-08"


def test_tables_that_roll_equal_tables_that_were_built_anew() -> None:
    specs = [
        CalendarSpec(NEW_YORK),
        CalendarSpec("Europe/Berlin", (1, 3), (day_number("2026-12-24"),), 600, 45, (480, 720)),
        CalendarSpec("Asia/Kolkata", (0, 1, 2, 3, 4, 5, 6), (), 1_439),
    ]
    rolling = Calendars(specs)
    now = at("2026-10-30 09:00")
    for step in range(60):
        now += 7 * 3_600_000 + step * 977
        rolling.refresh(now)
        fresh = Calendars(specs)
        fresh.refresh(now)
        assert (rolling.options == fresh.options).all()
        assert (rolling.midnight == fresh.midnight).all()
        assert (rolling.today == fresh.today).all()
        assert not rolling.refresh(now)
    back = now - 20 * 86_400_000
    rolling.refresh(back)
    fresh = Calendars(specs)
    fresh.refresh(back)
    assert (rolling.options == fresh.options).all()
    rolling.refresh(back + 9_000 * 86_400_000)  # a quarter of a century without an order
    assert rolling.options[0, 0, 0] >= local_day(ZoneInfo(NEW_YORK), back + 9_000 * 86_400_000)


def test_a_node_that_never_works_has_no_ship_day() -> None:
    calendars = Calendars([CalendarSpec(NEW_YORK, working_days=())])
    calendars.refresh(at("2026-12-01 12:00"))
    assert (calendars.options[:, :, 0] == NO_DAY).all()
    assert calendars.options.shape == (1, OPTIONS, 3) and calendars.midnight.shape == (1, MIDNIGHTS)


@pytest.mark.parametrize(
    ("ship", "transit", "days", "door"),
    [
        ("2026-12-01", 2, WEEKDAYS, "2026-12-03"),
        ("2026-12-03", 2, WEEKDAYS, "2026-12-07"),  # over a weekend
        ("2026-12-04", 1, WEEKDAYS | 1 << 5, "2026-12-05"),  # a carrier that delivers on Saturdays
        ("2026-12-05", 0, WEEKDAYS, "2026-12-07"),  # the same day, but it is none of the carrier's
        ("2026-12-01", 0, WEEKDAYS, "2026-12-01"),
        ("2026-12-01", 10, WEEKDAYS, "2026-12-15"),
    ],
)
def test_transit_counts_the_days_of_the_carrier(ship: str, transit: int, days: int, door: str) -> None:
    assert delivery_day(day_number(ship), transit, days) == day_number(door)


def test_business_days_skip_weekends() -> None:
    assert add_business_days(day_number("2026-12-04"), 1) == day_number("2026-12-07")
    assert add_business_days(day_number("2026-12-05"), 0) == day_number("2026-12-07")
    assert add_business_days(day_number("2026-12-01"), 5) == day_number("2026-12-08")
    assert weekday(day_number("2026-12-07")) == 0
