"""The journals as this gateway follows them for its streams: one reader a shard, what it read lately kept for all of them.

L1  Followed only while a stream is open, and LINGER_S longer.
L2  Every stream has its own place in every journal and takes from there at its own pace. What is kept here spares it the reading;
    a stream that is further back reads the journal itself. So nothing is queued for anybody, and nobody waits for a slow reader.
L3  Entries are kept without a hole. Where the journal has one (it was trimmed, or is another one by now), what was kept is dropped,
    and streams that are behind it are told of a gap.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import structlog

from engine.archive.segment import Record
from engine.domain.commands import FindItems
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import ItemsReply
from engine.journal.port import Entry, JournalError, Tail
from gateway.stream.cursor import ALL, Place
from gateway.stream.told import Told, decode, items_of, tell

if TYPE_CHECKING:
    from gateway.gateway import ClusterPort
    from gateway.stream.events import EventStream

PAGE_ENTRIES = 32
WAIT_MS = 1_000
"""How long one read waits at the end of a journal for the next entry."""
RETRY_S = 0.5
LINGER_S = 10.0
KEPT_EVENTS = 5_000
KEPT_BYTES = 4 * 1024 * 1024
"""By shard: events, and bytes of their data."""
CATCHING_UP_MAX = 4
"""Streams that read journals themselves at the same time."""
ITEMS_KEPT_MAX = 200_000
ITEMS_ASKED_MAX = 10_000
NAMES_RETRY_S = 0.2
log = structlog.get_logger(__name__)


class EntryFeed(Protocol):
    """What is needed of engine.archive.feed.JournalFeed."""

    async def tail(self) -> Tail | None: ...

    async def entries(self, *, after_seq: int, limit: int, wait_ms: int = 0) -> list[Record]: ...

    async def close(self) -> None: ...


class Folded(NamedTuple):
    """A journal entry as streams tell it."""

    seq: int
    epoch: int
    events: tuple[Told, ...]

    @property
    def bytes(self) -> int:
        return sum(len(event.data) for event in self.events)


class Missed(NamedTuple):
    """Entries that are not to be had any more. `reason` = trimmed | unknown: the journal never had the cursor's entry."""

    reason: str
    first_seq: int
    last_seq: int
    place: Place
    """Where it goes on."""


class ShardFeed:
    """One journal, from its end at the start on."""

    def __init__(self, live: Live, shard: int, tail: Tail | None) -> None:
        self.shard = shard
        self.seq = tail.seq if tail is not None else 0
        self.epoch = tail.epoch if tail is not None else 0
        """Newest entry read."""
        self.at_end_s = time.monotonic()
        """When the end of the journal was last seen."""
        self.kept: dict[int, Folded] = {}
        self._events = self._bytes = 0
        self._live = live
        self._feed = live.open(shard)
        self._own = live.open(shard)
        """For streams that are behind: a read that waits would hold them up."""
        self._task = asyncio.get_running_loop().create_task(self._follow(), name=f"stream-{shard}")

    @property
    def place(self) -> Place:
        return Place(self.epoch, self.seq)

    async def _follow(self) -> None:
        doubt = False
        while True:
            try:
                if doubt:
                    await self._compare()
                    doubt = False
                records = await self._feed.entries(after_seq=self.seq, limit=PAGE_ENTRIES, wait_ms=WAIT_MS)
                if len(records) < PAGE_ENTRIES:
                    self.at_end_s = time.monotonic()
                for record in records:
                    self._keep(await self._live.fold(self.shard, record.unpacked()))
                    await asyncio.sleep(0)
                if records:
                    self._live.wake_streams()
            except JournalError as error:
                log.warning("a journal cannot be followed", shard=self.shard, error=str(error))
                doubt = True
                await asyncio.sleep(RETRY_S)

    async def _compare(self) -> None:
        """After a break: a server that knows less than we have read has another history (L3)."""
        tail = await self._feed.tail()
        if tail is None or tail.seq < self.seq:
            self._drop()
            self.seq, self.epoch = (tail.seq, tail.epoch) if tail is not None else (0, 0)
            self._live.wake_streams()

    def _drop(self) -> None:
        self.kept.clear()
        self._events = self._bytes = 0

    def _keep(self, folded: Folded) -> None:
        if folded.seq != self.seq + 1:
            self._drop()
        self.seq, self.epoch = folded.seq, folded.epoch
        self.kept[folded.seq] = folded
        self._events += len(folded.events)
        self._bytes += folded.bytes
        while len(self.kept) > 1 and (
            self._events > KEPT_EVENTS or self._bytes > KEPT_BYTES or len(self.kept) > KEPT_EVENTS
        ):
            oldest = self.kept.pop(next(iter(self.kept)))
            self._events -= len(oldest.events)
            self._bytes -= oldest.bytes

    async def after(self, place: Place) -> list[Folded] | Missed:
        """Entries after a place, the one it is in the middle of first; [] = there are none yet. Raises JournalError."""
        wanted = place.next_seq
        if place.seq > self.seq and await self._is_beyond(place):
            return Missed("unknown", self.seq + 1, place.seq, self.place)
        if wanted > self.seq:
            return []
        if wanted not in self.kept:
            return await self._read(place)
        found = [self.kept[seq] for seq in range(wanted, min(self.seq, wanted + PAGE_ENTRIES - 1) + 1)]
        if place.n != ALL and found[0].epoch != place.epoch:
            return Missed("unknown", wanted, self.seq, self.place)
        return found

    async def _is_beyond(self, place: Place) -> bool:
        """Whether the journal itself ends before a place that we have not come to yet: a client's token may be news to us."""
        tail = await self._own.tail()
        return tail is None or tail.seq < place.seq

    async def _read(self, place: Place) -> list[Folded] | Missed:
        wanted = place.next_seq
        async with self._live.catching_up:
            records = await self._own.entries(after_seq=wanted - 1, limit=PAGE_ENTRIES)
            if not records:
                return []
            first = records[0]
            if first.seq > wanted:
                return Missed("trimmed", wanted, first.seq - 1, Place(first.epoch, first.seq - 1))
            if place.n != ALL and first.epoch != place.epoch:
                return Missed("unknown", wanted, self.seq, self.place)
            found = []
            for record in records:
                if record.seq > self.seq:
                    break  # not before the follower has it, which wakes us: a place is never ahead of it by our doing
                found.append(await self._live.fold(self.shard, record.unpacked()))
                await asyncio.sleep(0)
            return found

    async def checked(self, place: Place) -> Place | Missed:
        """A client's place, if this journal has or had its entry: another history under the same numbers is not gone on with."""
        if place.seq > self.seq and await self._is_beyond(place):
            return Missed("unknown", self.seq + 1, place.seq, self.place)
        if place.seq:
            kept = self.kept.get(place.seq)
            if kept is not None:
                epoch: int | None = kept.epoch
            else:
                records = await self._own.entries(after_seq=place.seq - 1, limit=1)
                epoch = records[0].epoch if records and records[0].seq == place.seq else None
            if epoch is not None and epoch != place.epoch:
                return Missed("unknown", place.seq, self.seq, self.place)
        return place

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._feed.close()
        await self._own.close()


class Live:
    """All journals, and the streams that are open."""

    def __init__(self, cluster: ClusterPort, open_feed: Callable[[int], EntryFeed] | None, *, streams_max: int) -> None:
        self._cluster = cluster
        self._open_feed = open_feed
        self.streams_max = streams_max
        self.feeds: dict[int, ShardFeed] = {}
        self.streams: set[EventStream] = set()
        self.catching_up = asyncio.Semaphore(CATCHING_UP_MAX)
        self.stopping = False
        self.sent = 0
        self.gaps = 0
        self.closed_slow = 0
        self.refused = 0
        self._skus: dict[int, str] = {}
        self._beginning = asyncio.Lock()
        self._linger: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def can_follow(self) -> bool:
        """False where there is no journal server to read."""
        return self._open_feed is not None

    def open(self, shard: int) -> EntryFeed:
        assert self._open_feed is not None, "there is no journal to follow"
        return self._open_feed(shard)

    # -- streams --------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Follow every journal there is, LINGER_S long if no stream enters (L1). Raises JournalError where one cannot be read."""
        async with self._beginning:
            self._stay()
            try:
                for shard in self._journals():
                    if shard not in self.feeds:
                        self.feeds[shard] = ShardFeed(self, shard, await self._tail(shard))
            finally:
                self._leave_soon()

    async def _tail(self, shard: int) -> Tail | None:
        feed = self.open(shard)
        try:
            return await feed.tail()
        finally:
            await feed.close()

    def _journals(self) -> list[int]:
        """Those of shards that have ended, too: a client may come back with a cursor from before their end."""
        return [*self._cluster.shards, *self._cluster.catalog.placement.ended, CONTROL_SHARD]

    def missing_shards(self) -> bool:
        """Whether a shard was added since."""
        return len(self.feeds) < len(self._journals())

    def enter(self, stream: EventStream) -> None:
        self.streams.add(stream)
        self._stay()

    def leave(self, stream: EventStream) -> None:
        self.streams.discard(stream)
        self._leave_soon()

    def _stay(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    def _leave_soon(self) -> None:
        if not self.streams and self._linger is None:
            self._linger = asyncio.get_running_loop().call_later(LINGER_S, self._nobody)

    def _nobody(self) -> None:
        self._linger = None
        if not self.streams:
            feeds, self.feeds = self.feeds, {}
            for feed in feeds.values():
                task = asyncio.get_running_loop().create_task(feed.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    def wake_streams(self) -> None:
        for stream in self.streams:
            stream.wake()

    def stop(self) -> None:
        """End every stream: their clients go on elsewhere, from the last id they saw."""
        self.stopping = True
        self.wake_streams()

    async def close(self) -> None:
        self.stop()
        self._stay()
        feeds, self.feeds = self.feeds, {}
        await asyncio.gather(*(feed.close() for feed in feeds.values()), *self._closing)

    # -- folding --------------------------------------------------------------------------------------------------

    async def fold(self, shard: int, entry: Entry) -> Folded:
        """What an entry tells, under the names that things have."""
        events = decode(shard, entry)
        items = items_of(events)
        skus = {item: self._skus[item] for item in items if item in self._skus}
        missing = [item for item in items if item not in skus]
        if missing:
            skus |= await self._named(shard, missing)
        return Folded(entry.seq, entry.epoch, tell(shard, entry, events, self._cluster.catalog, skus.__getitem__))

    async def _named(self, shard: int, items: Sequence[int]) -> dict[int, str]:
        """Look up SKUs: first at the shard that wrote them, if it still serves, and again until somebody knows them. Items are
        never removed."""
        found: dict[int, str] = {}
        missing, attempt = list(items), 0
        while missing:
            asked = sorted(self._cluster.shards, key=lambda other: other != shard)
            part = tuple(missing[:ITEMS_ASKED_MAX])
            reply = await self._cluster.submit(asked[attempt % len(asked)], FindItems(indexes=part))
            if type(reply) is ItemsReply:
                found.update({item: sku for item, sku in zip(part, reply.skus, strict=True) if sku})
            missing = [item for item in missing if item not in found]
            attempt += 1
            if missing and (type(reply) is not ItemsReply or part[0] in missing):
                await asyncio.sleep(NAMES_RETRY_S)
        if len(self._skus) + len(found) > ITEMS_KEPT_MAX:
            self._skus.clear()
        self._skus.update(found)
        return found

    def lag_s(self) -> dict[int, float]:
        """Seconds since each journal's end was seen; up to WAIT_MS is nothing but waiting there."""
        now_s = time.monotonic()
        return {shard: max(0.0, now_s - feed.at_end_s - WAIT_MS / 1_000) for shard, feed in self.feeds.items()}
