"""Release waves: the local times at which a node begins the work of its day. Pure.

A wave on local day D releases every leg that ships on D or before, and every one that would be late if it waited for the next wave.
Times are read on the node's working days; local times that a clock change skips or repeats with the earlier offset, as everywhere.
"""

from __future__ import annotations

from datetime import date, datetime

from engine.domain.config import Node
from engine.domain.local_time import EPOCH_ORDINAL, MINUTE_MS, instant_ms, minute_of, zone_of
from engine.domain.orders import LegRecord

_SEARCH_DAYS = 400


def last_wave(node: Node, now_ms: int) -> int:
    """Instant of the newest wave that has come; 0 = none within a year."""
    today = _day_of(node, now_ms)
    for day in range(today, today - _SEARCH_DAYS, -1):
        for wave_ms in reversed(_waves_on(node, day)):
            if wave_ms <= now_ms:
                return wave_ms
    return 0


def next_wave(node: Node, now_ms: int) -> int | None:
    """Instant of the first wave after another instant; None = none within a year."""
    today = _day_of(node, now_ms)
    for day in range(today, today + _SEARCH_DAYS):
        for wave_ms in _waves_on(node, day):
            if wave_ms > now_ms:
                return wave_ms
    return None


def has_same_waves(node: Node, other: Node) -> bool:
    """Whether the waves of two documents come at the same instants."""
    return (node.waves, node.working_days, node.holidays, node.time_zone) == (
        other.waves,
        other.working_days,
        other.holidays,
        other.time_zone,
    )


class Wave:
    """One wave of a node."""

    def __init__(self, node: Node, at_ms: int) -> None:
        self.at_ms = at_ms
        self._day = _day_of(node, at_ms)
        self._node = node
        self._following_ms = next_wave(node, at_ms)

    def takes(self, leg: LegRecord) -> bool:
        """Whether it is this wave that releases an allocated leg."""
        if leg.ship_day <= self._day or self._following_ms is None:
            return True
        is_made_ready_here = leg.ready_s > 0 and leg.ready_s == leg.ship_by_s
        minutes = self._node.pickup_ready_minutes if is_made_ready_here else self._node.processing_minutes
        return leg.ship_by_s * 1_000 < self._following_ms + minutes * MINUTE_MS


def _day_of(node: Node, at_ms: int) -> int:
    return datetime.fromtimestamp(at_ms / 1_000, zone_of(node.time_zone)).toordinal() - EPOCH_ORDINAL


def _waves_on(node: Node, day: int) -> list[int]:
    """Instants of a local day's waves, ascending."""
    works = (day + 3) % 7 in node.working_days
    if not works or (node.holidays and date.fromordinal(EPOCH_ORDINAL + day).isoformat() in node.holidays):
        return []
    zone = zone_of(node.time_zone)
    return sorted([instant_ms(zone, day, minute_of(wave)) for wave in node.waves])
