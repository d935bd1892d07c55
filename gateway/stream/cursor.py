"""Cursors of the live stream: how far a client is in each shard's journal, as text. What goes into the id of an event.

`shard:epoch:seq` = everything up to that entry was told, so a commit token is a cursor too; `shard:epoch:seq:n` = of that entry the
first n events only. Shards are joined by `;`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

PARTS_MAX = 256
ALL = -1


class Place(NamedTuple):
    epoch: int
    seq: int
    n: int = ALL
    """How many of the entry's events were told; ALL = every one."""

    @property
    def next_seq(self) -> int:
        """The entry that the next event may be in."""
        return self.seq + 1 if self.n == ALL else self.seq

    def text(self, shard: int) -> str:
        whole = f"{shard}:{self.epoch}:{self.seq}"
        return whole if self.n == ALL else f"{whole}:{self.n}"


BEGINNING = Place(0, 0)


def cursor_text(places: Mapping[int, Place]) -> str:
    return ";".join([places[shard].text(shard) for shard in sorted(places)])


def parse_cursor(text: str) -> dict[int, Place] | None:
    """None = it is no cursor."""
    parts = text.split(";")
    if len(parts) > PARTS_MAX:
        return None
    places: dict[int, Place] = {}
    for part in parts:
        numbers = part.split(":")
        if len(numbers) not in (3, 4) or not all(n.isascii() and n.isdigit() and len(n) < 19 for n in numbers):
            return None
        shard, *place = map(int, numbers)
        if shard in places or shard >= PARTS_MAX:
            return None
        places[shard] = Place(*place)
    return places
