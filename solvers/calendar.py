"""Ship days: from an instant to the local days on which a node can hand over, compiled to tables that roll with the clock.

A node ships on local day D an order that arrives before `order_by(D)`:
    without waves   cut-off of D - processing
    with waves      the latest wave on a day that has waves, so that wave + processing is not after the cut-off of D
Before means strictly before: at 15:00:00.000 a cut-off of 15:00 has passed. `ship_by` is the cut-off itself, the instant at
which the carrier collects. Local times that a clock change skips or repeats are read with the earlier offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from solvers.layout import DAY_MS, MIDNIGHTS, NO_DAY, OPTIONS, P_ORDER_BY

MINUTE_MS = 60_000
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_SEARCH_DAYS = 800


class CalendarSpec(NamedTuple):
    """When a node ships. Minutes of the local day; `holidays` as days since 1970; working day 0 = Monday."""

    time_zone: str = "UTC"
    working_days: tuple[int, ...] = (0, 1, 2, 3, 4)
    holidays: tuple[int, ...] = ()
    cut_off_minute: int = 15 * 60
    processing_minutes: int = 0
    waves: tuple[int, ...] = ()
    wave_days: tuple[int, ...] | None = None
    """Days of the week that have waves; None = the working days."""


class ShipOption(NamedTuple):
    ship_day: int
    ship_by_ms: int
    order_by_ms: int


def day_number(text: str) -> int:
    """Days since 1970 of "2026-12-24"."""
    return date.fromisoformat(text).toordinal() - _EPOCH_ORDINAL


def weekday(day: int) -> int:
    """0 = Monday."""
    return (day + 3) % 7


def minute_of(clock: str) -> int:
    """Minutes of "15:30"."""
    return int(clock[:2]) * 60 + int(clock[3:])


def instant_ms(zone: ZoneInfo, day: int, minute: int) -> int:
    """The UTC instant of a local time."""
    local = datetime.fromordinal(_EPOCH_ORDINAL + day) + timedelta(minutes=minute)
    offset = local.replace(tzinfo=zone).utcoffset() or timedelta()
    return (day * 1_440 + minute) * MINUTE_MS - (offset.days * 86_400 + offset.seconds) * 1_000


def local_day(zone: ZoneInfo, now_ms: int) -> int:
    """The local day of an instant, days since 1970."""
    now = datetime.fromtimestamp(now_ms // 1_000, zone)
    return now.toordinal() - _EPOCH_ORDINAL


def delivery_day(ship_day: int, transit: int, days: int) -> int:
    """The delivery day after `transit` delivery days (bits of `days`, bit 0 = Monday); 0 = the same day if it is one."""
    day = ship_day
    while transit > 0:
        day += 1
        transit -= days >> weekday(day) & 1
    while not days >> weekday(day) & 1:
        day += 1
    return day


def add_business_days(day: int, count: int) -> int:
    """The day `count` weekdays (Monday to Friday) after one; 0 on a weekend = the next weekday."""
    while count > 0:
        day += 1
        if weekday(day) < 5:
            count -= 1
    while weekday(day) >= 5:
        day += 1
    return day


class _Rolling:
    """The ship options of one spec, in order; one more at a time."""

    def __init__(self, spec: CalendarSpec) -> None:
        self.spec = spec
        self.zone = ZoneInfo(spec.time_zone)
        self._working = frozenset(spec.working_days)
        self._wave_days = frozenset(spec.working_days if spec.wave_days is None else spec.wave_days)
        self._holidays = frozenset(spec.holidays)
        self.next_day = 0
        self.options: list[ShipOption] = []

    def works(self, day: int) -> bool:
        return weekday(day) in self._working and day not in self._holidays

    def roll(self, now_ms: int) -> bool:
        """Drop what has passed, fill up again. True = something changed."""
        options = self.options
        if not self._working:
            return False
        passed = 0
        while passed < len(options) and options[passed].order_by_ms <= now_ms:
            passed += 1
        del options[:passed]
        if not options:  # all of them have passed: no day before today can be next
            self.next_day = max(self.next_day, local_day(self.zone, now_ms))
        before = len(options)
        for _ in range(_SEARCH_DAYS):
            if len(options) == OPTIONS:
                break
            if self.works(self.next_day):
                option = self._option(self.next_day)
                if option.order_by_ms > now_ms:
                    options.append(option)
            self.next_day += 1
        return bool(passed) or len(options) != before

    def restart(self, now_ms: int) -> None:
        self.options.clear()
        self.next_day = local_day(self.zone, now_ms)
        self.roll(now_ms)

    def _option(self, day: int) -> ShipOption:
        spec = self.spec
        ship_by = instant_ms(self.zone, day, spec.cut_off_minute)
        latest = ship_by - spec.processing_minutes * MINUTE_MS
        if not spec.waves:
            return ShipOption(day, ship_by, latest)
        for back in range(spec.processing_minutes // 1_440 + _SEARCH_DAYS):
            if weekday(day - back) not in self._wave_days or day - back in self._holidays:
                continue
            for wave in reversed(spec.waves):
                instant = instant_ms(self.zone, day - back, wave)
                if instant <= latest:
                    return ShipOption(day, ship_by, instant)
        return ShipOption(day, ship_by, 0)


class Calendars:
    """Tables for a set of specs. `refresh` before reading; it costs a comparison until a cut-off or a day passes.

    options   int64[specs, OPTIONS, 3]   ship day, ship by, order before; a spec without working days has NO_DAY rows
    midnight  int64[zones, MIDNIGHTS]    instant at which local day `base_day + n` ends
    today     int64[zones]               local day
    """

    def __init__(self, specs: Sequence[CalendarSpec]) -> None:
        self._rolling = [_Rolling(spec) for spec in specs]
        names: dict[str, int] = {}
        self.zone_of = [names.setdefault(spec.time_zone, len(names)) for spec in specs]
        """Row of `midnight` by spec."""
        self._zones = [ZoneInfo(name) for name in names]
        self.options = np.full((max(1, len(specs)), OPTIONS, 3), NO_DAY, np.int64)
        self.midnight = np.zeros((max(1, len(names)), MIDNIGHTS), np.int64)
        self.today = np.zeros(max(1, len(names)), np.int64)
        """Local day by zone at the instant of the tables."""
        self.base_day = -1
        self._from_ms = 0
        self._until_ms = -1
        """The tables are right for instants from `_from_ms` (included) to `_until_ms` (not included)."""

    def refresh(self, now_ms: int) -> bool:
        """Bring the tables to an instant (going back in time rebuilds them); False = they were right already."""
        if self._from_ms <= now_ms < self._until_ms:
            return False
        back = now_ms < self._from_ms or self._until_ms < 0
        for n, rolling in enumerate(self._rolling):
            if back:
                rolling.restart(now_ms)
            elif not rolling.roll(now_ms):
                continue
            row = self.options[n]
            row[:] = NO_DAY
            if rolling.options:
                row[: len(rolling.options)] = rolling.options
        base_day = now_ms // DAY_MS - 1
        if base_day != self.base_day:
            self.base_day = base_day
            for n, zone in enumerate(self._zones):
                self.midnight[n] = [instant_ms(zone, base_day + 1 + i, 0) for i in range(MIDNIGHTS)]
        first = self.midnight[:, :4] > now_ms
        self.today = base_day + first.argmax(axis=1)
        self._from_ms = now_ms
        ends = [(base_day + 2) * DAY_MS]
        ends += [int(self.midnight[n, day - base_day]) for n, day in enumerate(self.today.tolist())]
        ends += [int(self.options[n, 0, P_ORDER_BY]) for n, rolling in enumerate(self._rolling) if rolling.options]
        self._until_ms = min(ends)
        return True
