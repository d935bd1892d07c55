"""Local days and times of nodes. Those that a clock change skips or repeats are read with the earlier offset. Pure."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

MINUTE_MS = 60_000
EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


@lru_cache(maxsize=1_024)
def zone_of(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def minute_of(clock: str) -> int:
    return int(clock[:2]) * 60 + int(clock[3:])


def instant_ms(zone: ZoneInfo, day: int, minute: int) -> int:
    local = datetime.fromordinal(EPOCH_ORDINAL + day) + timedelta(minutes=minute)
    offset = local.replace(tzinfo=zone).utcoffset() or timedelta()
    return (day * 1_440 + minute) * MINUTE_MS - (offset.days * 86_400 + offset.seconds) * 1_000
