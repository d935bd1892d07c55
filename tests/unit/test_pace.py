"""A faster clock for long tests: what it speeds up, and what it leaves alone."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from engine.actors.clock import SKEW_ALARM_MS, Clock
from engine.pace import REAL, Pace
from engine.settings import Settings

SINCE_MS = 1_790_000_000_000


def test_the_engines_time_is_the_machines_unless_told_otherwise() -> None:
    assert Settings().pace == REAL
    assert REAL.engine_ms(SINCE_MS) == SINCE_MS
    assert REAL.real_s(1_500) == 1.5


def test_a_day_passes_in_an_hour_and_a_restarted_process_is_where_the_others_are() -> None:
    pace = Settings(clock_speed=24, clock_since_ms=SINCE_MS).pace
    assert pace.engine_ms(SINCE_MS) == SINCE_MS
    assert pace.engine_ms(SINCE_MS + 3_600_000) == SINCE_MS + 86_400_000
    assert pace.real_s(86_400_000) == 3_600.0
    assert Pace(24, SINCE_MS) == pace


def test_a_faster_clock_needs_its_beginning() -> None:
    with pytest.raises(ValidationError, match="QM_CLOCK_SINCE_MS"):
        Settings(clock_speed=24)


def test_timers_are_set_in_real_time_and_skew_is_measured_in_it() -> None:
    real_ms = SINCE_MS + 1_000
    clock = Clock(wall=lambda: real_ms, monotonic=lambda: real_ms - SINCE_MS, pace=Pace(24, SINCE_MS))
    assert clock.now_ms() == SINCE_MS + 24_000
    assert clock.seconds_until(SINCE_MS + 48_000) == 1.0
    clock.start(real_ms + SKEW_ALARM_MS // 2)
    assert clock.skew_ms == SKEW_ALARM_MS // 2
    real_ms += 100
    assert clock.now_ms() == SINCE_MS + 26_400
