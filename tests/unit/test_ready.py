"""When goods can be collected: pickup days and hours, preparation, arrival at the store."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from engine.actors.planner_network import node_spec
from engine.domain.ready import begins_at, first_ready, ready_at, ready_on
from solvers.calendar import Calendars
from tests.builders import a_node


def ms(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1_000)


def shown(at_ms: int | None, zone: str = "UTC") -> str:
    assert at_ms is not None
    return datetime.fromtimestamp(at_ms / 1_000, ZoneInfo(zone)).strftime("%a %Y-%m-%d %H:%M")


@pytest.mark.parametrize(
    ("ordered", "ready"),
    [
        ("2026-11-25 10:00:00", "Wed 2026-11-25 12:00"),
        ("2026-11-25 10:00:00.001", "Wed 2026-11-25 12:01"),  # a full minute, never before it is ready
        ("2026-11-25 07:00:00", "Wed 2026-11-25 11:00"),  # work begins when the store opens
        ("2026-11-25 15:59:59", "Wed 2026-11-25 18:00"),
        ("2026-11-25 16:00:00", "Fri 2026-11-27 11:00"),  # at the minute it is too late, and tomorrow is a holiday
        ("2026-11-27 17:30:00", "Mon 2026-11-30 11:00"),  # after the weekend
    ],
)
def test_goods_are_ready_after_preparation_within_the_hours_of_a_pickup_day(ordered: str, ready: str) -> None:
    zone = "America/New_York"
    node = a_node("N", time_zone=zone, pickup_ready_minutes=120, holidays=["2026-11-26"])
    assert shown(ready_at(node, ms(ordered, zone)), zone) == ready


def test_pickup_days_are_not_working_days_and_long_preparation_counts_clock_time() -> None:
    node = a_node("N", pickup_ready_minutes=2_880, pickup_days=(5, 6), pickup_opens="10:00", pickup_closes="16:00")
    assert shown(ready_at(node, ms("2026-11-25 12:00"))) == "Sat 2026-11-28 10:00"
    assert shown(ready_at(node, ms("2026-11-26 12:30"))) == "Sat 2026-11-28 12:30"
    assert shown(ready_at(node, ms("2026-11-26 16:00"))) == "Sun 2026-11-29 10:00"  # it would be ready at closing time


def test_a_node_that_never_opens_is_never_ready() -> None:
    assert ready_at(a_node("N", working_days=()), ms("2026-11-25 12:00")) is None


def test_the_clock_change_is_read_with_the_earlier_offset() -> None:
    zone = "Europe/Berlin"
    node = a_node("N", time_zone=zone, pickup_days=(6,), pickup_opens="02:30", pickup_closes="05:00")
    assert datetime.fromtimestamp((ready_at(node, ms("2026-03-29 00:00", zone)) or 0) / 1_000, UTC) == datetime(
        2026, 3, 29, 2, 30, tzinfo=UTC
    )  # 02:30 does not exist that day: 01:30 UTC, and an hour to prepare


@pytest.mark.parametrize("seed", range(20))
def test_planners_and_ready_times_agree_on_the_pickup_day(seed: int) -> None:
    """The ship day that the solver's calendar gives a pickup leg is the day that `first_ready` finds, with waves and without."""
    rng = random.Random(seed)
    zone = rng.choice(["UTC", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])
    node = a_node(
        "N",
        offers=("pickup",),
        time_zone=zone,
        pickup_ready_minutes=rng.choice([0, 30, 120, 700, 3_000]),
        pickup_opens=rng.choice(["00:00", "09:00", "11:30"]),
        pickup_closes=rng.choice(["12:00", "18:00", "23:59"]),
        pickup_days=tuple(sorted(rng.sample(range(7), rng.randint(1, 7)))),
        holidays=["2026-11-26", "2026-12-25"],
        working_days=tuple(sorted(rng.sample(range(7), rng.randint(1, 7)))),
        waves=rng.choice([[], [], ["08:00"], ["10:00", "16:00"], ["22:30"]]),
    )
    spec = node_spec(node).pickup
    assert spec is not None
    calendars = Calendars([spec])
    for _ in range(50):
        now_ms = ms("2026-09-01") + rng.randrange(200 * 86_400_000)
        calendars.refresh(now_ms)
        day = int(calendars.options[0, 0, 0])
        ready_ms = ready_on(node, day, begins_at(node, now_ms))
        assert first_ready(node, now_ms, lambda day: True) == ready_ms
        local = datetime.fromtimestamp(ready_ms / 1_000, ZoneInfo(zone))
        assert local.date() == (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date()
        assert node.pickup_opens <= local.strftime("%H:%M") <= node.pickup_closes
