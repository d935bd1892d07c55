"""A shard's journal and decision streams as the archive reads them: from a sequence on, over a connection of its own.

It reads only, apart from one key that says how far the archive is, which the shard's trim stays behind.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from engine.archive.segment import Record
from engine.journal import redis_server
from engine.journal.chain import unpack_tail
from engine.journal.connection import Connection, connect, parse_url
from engine.journal.keys import Keys
from engine.journal.port import ArchiveCursor, Corrupt, Full, Tail, Unavailable

PAGE_ENTRIES = 128
_PART_MAX = (1 << 64) - 1
"""Largest second part of an entry's id: after it comes the next sequence."""
_HSET_WHEN_FULL = "#!lua flags=allow-oom\nreturn redis.call('HSET', KEYS[1], unpack(ARGV))"


class Page(NamedTuple):
    """Entries one after another; `more` = there were more when it was read."""

    records: list[Record]
    more: bool


class JournalFeed:
    """One shard's streams, over one connection: opened when first needed and again after a break. Tasks may share it."""

    def __init__(self, url: str, shard: int, *, timeout_s: float = 10.0, name: str = "archive") -> None:
        self._address = parse_url(url)
        self._shard = shard
        self._keys = Keys(shard)
        self._timeout_s = timeout_s
        self._name = f"qm-s{shard}-{name}"
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        """Tasks that find no connection open one, not one each."""
        self._closed = False

    async def tail(self) -> Tail | None:
        """The newest entry, None where the shard has none yet. Raises Unavailable, Corrupt."""
        packed = await (await self._connected()).call("HGET", self._keys.meta, "t")
        return unpack_tail(packed) if packed is not None else None

    async def first_seq(self) -> int | None:
        """The oldest entry that is still in the journal."""
        first = await (await self._connected()).call("XRANGE", self._keys.entries, "-", "+", "COUNT", 1)
        return _id(first[0][0])[0] if first else None

    async def page(self, *, after_seq: int) -> Page:
        """At most PAGE_ENTRIES after a sequence, with their decisions. Raises Unavailable, Corrupt (an entry without a place)."""
        connection = await self._connected()
        found = await connection.call("XRANGE", self._keys.entries, after_seq + 1, "+", "COUNT", PAGE_ENTRIES)
        if not found:
            return Page([], False)
        first, last = found[0][0], found[-1][0]
        # Written by the same call as the entries and trimmed with them: what is there for these entries is all there is.
        decided = await connection.call("XRANGE", self._keys.decisions, first, last)
        decisions: dict[bytes, bytes] = {entry_id: fields[1] for entry_id, fields in decided}
        records = []
        for entry_id, fields in found:
            seq, epoch = _id(entry_id)
            records.append(Record(seq, epoch, fields[1], decisions.get(entry_id, b"")))
        return Page(records, len(found) == PAGE_ENTRIES)

    async def entries(self, *, after_seq: int, limit: int, wait_ms: int = 0) -> list[Record]:
        """At most `limit` entries after a sequence, without their decisions; waits so long for the first one where there is none.
        Raises Unavailable, Corrupt."""
        connection = await self._connected()
        if wait_ms:
            after = f"{after_seq}-{_PART_MAX}"
            streams = await connection.call(
                "XREAD", "COUNT", limit, "BLOCK", wait_ms, "STREAMS", self._keys.entries, after
            )
            found = streams[0][1] if streams else ()
        else:
            found = await connection.call("XRANGE", self._keys.entries, after_seq + 1, "+", "COUNT", limit)
        return [Record(*_id(entry_id), fields[1], b"") for entry_id, fields in found]

    async def publish(self, cursor: ArchiveCursor) -> None:
        """Tell the shard how far the archive is, where memory is full too: the shard trims by it. Raises Unavailable."""
        call = (await self._connected()).call
        archived_seq, indexed_seq, indexed_ms, heard_ms, is_whole = cursor
        at = ("a", archived_seq, "i", indexed_seq, "m", indexed_ms, "t", heard_ms, "w", int(is_whole))
        try:
            await call("HSET", self._keys.archive, *at)
        except Full:
            await call("EVAL", _HSET_WHEN_FULL, 1, self._keys.archive, *at)

    async def memory_share(self) -> float:
        """Share of the server's memory in use; 0 where it has no limit."""
        used, limit = await redis_server.memory(await self._connected())
        return used / limit if limit else 0.0

    async def close(self) -> None:
        self._closed = True
        if self._connection is not None:
            self._connection.close()

    async def _connected(self) -> Connection:
        self._still_open()
        if self._connection is None or self._connection.closed:
            async with self._connecting:
                if self._connection is None or self._connection.closed:
                    self._connection = await connect(self._address, timeout_s=self._timeout_s, name=self._name)
            if self._closed:  # while it was made
                self._connection.close()
        self._still_open()
        return self._connection

    def _still_open(self) -> None:
        if self._closed:
            raise Unavailable("this feed is closed")


def _id(entry_id: Any) -> tuple[int, int]:
    seq, _, epoch = bytes(entry_id).partition(b"-")
    if not epoch:
        raise Corrupt(f"an entry is called {entry_id!r}")
    return int(seq), int(epoch)
