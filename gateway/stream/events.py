"""One client's stream: what it may and wants to see, where it is in every journal, and the bytes it is sent (Server-Sent Events).

An id is the client's place in all journals after its event, so whoever comes back with it is told what follows, each event once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from engine.domain.catalog import Catalog
from engine.journal.port import JournalError
from gateway.stream.cursor import ALL, BEGINNING, Place, cursor_text
from gateway.stream.live import Folded, Live, Missed
from gateway.stream.told import Told

HEARTBEAT_S = 15.0
RETRY_MS = 1_000
"""What clients are told to wait before they come back."""
CHUNK_BYTES = 64 * 1024


class Wants(NamedTuple):
    """What a client is shown."""

    types: frozenset[str]
    channels: frozenset[str] | None
    """None = of all; else orders of these, and stock of nodes that serve one of them."""
    node_id: str | None

    def takes(self, told: Told, catalog: Catalog) -> bool:
        if told.type not in self.types or (self.node_id is not None and self.node_id not in told.nodes):
            return False
        if self.channels is None:
            return True
        if told.channel is not None:
            return told.channel in self.channels
        return told.group != "stock" or any(self._serves(node_id, catalog) for node_id in told.nodes)

    def _serves(self, node_id: str, catalog: Catalog) -> bool:
        assert self.channels is not None
        index = catalog.node_of.get(node_id)
        node = catalog.nodes[index] if index is not None else None
        return node is not None and (node.channels is None or not self.channels.isdisjoint(node.channels))


class Hello(msgspec.Struct, gc=False):
    """First event of every stream: from here on nothing is missed."""

    cursor: str
    types: list[str]


class Gap(msgspec.Struct, gc=False):
    """Entries of a shard's journal that cannot be told any more: what was read before may be old, and is to be read again."""

    shard: int
    reason: str
    first_seq: int
    last_seq: int


class EventStream:
    """`next` gives what is to be sent, as it comes; None = the stream ends."""

    def __init__(
        self,
        live: Live,
        catalog: Callable[[], Catalog],
        wants: Wants,
        places: dict[int, Place],
        missed: list[tuple[int, Missed]],
        may: Callable[[], bool],
    ) -> None:
        self._live = live
        self._catalog = catalog
        self._wants = wants
        self._places = places
        self._missed = missed
        """Gaps that were found when the stream was opened; its places are still before them."""
        self._may = may
        """Whether the key is still good."""
        self._woken = asyncio.Event()
        self._closed = False
        self._greeted = False
        self._sent_s = 0.0
        live.enter(self)

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._live.leave(self)
            self.wake()

    async def next(self) -> bytes | None:
        loop = asyncio.get_running_loop()
        while not self._closed and not self._live.stopping and self._may():
            self._woken.clear()
            chunk = self._hello() if not self._greeted else await self._collect()
            if not chunk:
                left_s = self._sent_s + HEARTBEAT_S - loop.time()
                if left_s > 0:
                    await self._wait(left_s)
                    continue
                chunk = f": heartbeat\nid: {cursor_text(self._places)}\n\n".encode()
            self._sent_s = loop.time()
            return chunk
        return None

    async def _wait(self, seconds: float) -> None:
        """Until there may be more, at most so long. (`wait_for` would make a task for every stream and entry.)"""
        if self._woken.is_set():
            await asyncio.sleep(0)  # everybody else's turn
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    def _hello(self) -> bytes:
        self._greeted = True
        cursor = cursor_text(self._places)
        hello = msgspec.json.encode(Hello(cursor, sorted(self._wants.types)))
        parts = [b"retry: %d\n" % RETRY_MS, _frame("hello", cursor, hello)]
        for shard, missed in self._missed:
            parts.append(self._gap(shard, missed))
        return b"".join(parts)

    def _gap(self, shard: int, missed: Missed) -> bytes:
        self._places[shard] = missed.place
        self._live.gaps += 1
        gap = Gap(shard, missed.reason, missed.first_seq, missed.last_seq)
        return _frame("gap", cursor_text(self._places), msgspec.json.encode(gap))

    async def _collect(self) -> bytes:
        """What there is now, about CHUNK_BYTES of it at most; shards take turns."""
        parts: list[bytes] = []
        size = 0
        try:
            if self._live.missing_shards():
                await self._live.begin()
            for shard, feed in list(self._live.feeds.items()):
                found = await feed.after(self._places.get(shard, BEGINNING))
                if isinstance(found, Missed):
                    parts.append(self._gap(shard, found))
                    self.wake()
                    continue
                for folded in found:
                    size += self._take(shard, folded, parts)
                    if size > CHUNK_BYTES:
                        break
                if found and self._places[shard].next_seq <= feed.seq:
                    self.wake()  # there is more
        except JournalError:
            # The followers say so in the log, and wake us when they read on; until then there is nothing to tell.
            await asyncio.sleep(1.0)
        return b"".join(parts)

    def _take(self, shard: int, folded: Folded, parts: list[bytes]) -> int:
        """Put an entry's events into a chunk and move the place behind it; returns their bytes."""
        before, size = self._places.get(shard, BEGINNING), 0
        start = before.n if before.seq == folded.seq and before.n != ALL else 0
        catalog, last = self._catalog(), len(folded.events) - 1
        for n in range(start, last + 1):
            told = folded.events[n]
            if not self._wants.takes(told, catalog):
                continue
            self._places[shard] = Place(folded.epoch, folded.seq, ALL if n == last else n + 1)
            parts.append(_frame(told.type, cursor_text(self._places), told.data))
            size += len(parts[-1])
            self._live.sent += 1
        self._places[shard] = Place(folded.epoch, folded.seq)
        return size


def _frame(event: str, cursor: str, data: bytes) -> bytes:
    return b"event: %s\nid: %s\ndata: %s\n\n" % (event.encode(), cursor.encode(), data)
