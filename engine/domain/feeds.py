"""The feeds of a node: the newest number and instant of each source that counted there.

A feed is remembered for ever: an old number of it is refused whenever it comes. An upload that names no source is a feed of its own,
so that its commands, repeated, are refused as well; but only for as long as a count of its instant could still be taken.
"""

from __future__ import annotations

import re

from engine.domain.events import StockCounted
from engine.domain.movements import KEPT_MS

Feeds = dict[str, tuple[int, int]]
"""Newest (source_seq, as_of_ms) by source."""
LOOK_EVERY = 64
"""Feeds more or fewer; looking through them with every count would take longer than the count."""
_UPLOAD = re.compile(r"import-.*-[0-9a-f]{16}")


def upload_source(key_id: str, key_hash: int) -> str:
    """What the counts of an upload without a source are said to come from."""
    return f"import-{key_id}-{key_hash:016x}"


def note_count(feeds: Feeds, event: StockCounted, time_ms: int) -> None:
    """A source counted. Forgets uploads whose counts would be refused as too old, those before this count only: the newest stays."""
    if event.source not in feeds and len(feeds) % LOOK_EVERY == LOOK_EVERY - 1:
        before_ms = min(time_ms - KEPT_MS, event.as_of_ms)
        for source in [source for source, (_, ms) in feeds.items() if ms < before_ms and _UPLOAD.fullmatch(source)]:
            del feeds[source]
    newest_seq, newest_ms = feeds.get(event.source, (-1, 0))
    feeds[event.source] = (max(newest_seq, event.source_seq), max(newest_ms, event.as_of_ms))
