"""Follows one shard's journal into the archive and the index. The loop is the caller's: `open`, then `round` again and again.

L1  Entries reach segments in order and once; the journal keeps what no segment holds, so a crash costs reading it again.
L2  The archive never waits for the index: while that cannot be written it falls behind, and catches up from segments and journal.
L3  The shard is told how far both are only after they are.
L4  The index is written in as few transactions as its lag allows: an order touches a dozen places of a tree that are far apart, and
    pages that many orders share are written once a transaction. 64 orders at a time cost three times the CPU of 10,000.
L5  While the machine is busy entries are left in the journal, for a bounded time (patience.py), unless the server's memory is tight.
L6  An order or a node that came from another shard is in the index only after all that the other one had of it (X4): the batch that
    opens it begins with that entry, and waits.
L7  The work is done in time that nobody else wants (idle_time.py), unless archive or index have fallen behind by more than that
    bounded time, or the server's memory is tight.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TypeVar

import structlog

from engine.archive.feed import JournalFeed
from engine.archive.fold import Fold, opens_parts
from engine.archive.idle_time import in_thread
from engine.archive.index import IndexWriter, OutOfStep, Progress, Waits
from engine.archive.patience import LATE, Patience
from engine.archive.segment import Record
from engine.archive.store import SegmentStore
from engine.archive.writer import SEGMENT_BYTES, ArchiveWriter
from engine.domain.placement import CONTROL_SHARD
from engine.journal.port import ArchiveCursor, Corrupt, Entry, Unavailable

BATCH_ENTRIES = 1_000
"""Entries of a batch when the index catches up."""
INDEX_RETRY_S = 2.0
WAIT_RETRY_S = 0.25
INDEX_PACE = 10.0
"""Times that a write of the index takes, until the next one (L4): it is busy for a tenth of the time at most."""
INDEX_EVERY_S = 1.5
"""Seconds between two writes at the most, however long they take."""
INDEX_BATCH_BYTES = 4 * 1024 * 1024
"""Entries of this size are written without further waiting: some 15,000 orders, whose rows are 100 MB in this process."""
MEMORY_TIGHT = 0.5
"""Share of the server's memory past which segments are sealed early, so that the journal can be trimmed."""
T = TypeVar("T")
log = structlog.get_logger(__name__)


class ShardFollower:
    """One shard. `index_lock` is shared by all: the index has one writer."""

    def __init__(
        self,
        shard: int,
        feed: JournalFeed,
        store: SegmentStore,
        index: IndexWriter,
        index_lock: asyncio.Lock,
        *,
        seal_s: float,
        segment_bytes: int = SEGMENT_BYTES,
        tell_every_s: float = 1.0,
        index_every_s: float = INDEX_EVERY_S,
        patience: Patience | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.shard = shard
        self.indexed_seq = 0
        self.indexed_ms = 0
        self._index_is_whole = False
        """As of `indexed_seq`, or later."""
        self.index_trouble = ""
        """Why the index is behind; empty = it is not."""
        self._feed = feed
        self._store = store
        self._index = index
        self._lock = index_lock
        self.writer = ArchiveWriter(store, shard)
        self._seal_s = seal_s
        self._segment_bytes = segment_bytes
        self._tell_every_s = tell_every_s
        self._index_every_s = index_every_s
        self._patience = patience
        self._now_ms = now_ms
        self._more = False
        self._tight = False
        self._opened_at = 0.0
        """When the oldest entry of the segment in the making was taken."""
        self._memory_seen_at = float("-inf")
        """When the server was asked for its memory."""
        self._told: ArchiveCursor | None = None
        self._told_at = float("-inf")
        self._index_due = 0.0
        self._fold: Fold | None = None
        """Entries taken that the index waits for (L4)."""
        self._fold_bytes = 0
        self._fold_since_ms: int | None = None
        """Time of the oldest entry of the fold."""
        self._writing_since_ms: int | None = None
        """The same of the fold that is being written."""
        self._write_due = 0.0

    async def open(self) -> None:
        """Stand where the segments end. Raises Unavailable, Corrupt (also where journal and archive are not of one history)."""
        self._fold, self._more = None, False
        await self._in_thread(self.writer.open)
        tail = await self._feed.tail()
        have = self.writer.archived_seq
        if have and (tail is None or tail.seq < have):
            there = tail.seq if tail is not None else 0
            raise Corrupt(
                f"shard {self.shard}: the archive ends at entry {have}, the journal at {there}: it is another journal, or has lost its end"
            )
        await self._catch_up()

    async def round(self) -> bool:
        """Take one page; True where there is more at once. After any exception: `open` again. Raises Unavailable, Exists, Corrupt."""
        if self.index_trouble:
            await self._write_index()  # what was taken before
            if time.monotonic() >= self._index_due:
                await self._catch_up()
        tight = await self._is_tight()
        if self._more or not await self._waits():
            await self._take_page()
        if self._fold is not None and (self._fold_bytes >= INDEX_BATCH_BYTES or time.monotonic() >= self._write_due):
            await self._write_index()
        await self._seal_when_due(tight=tight)
        await self._tell()
        return self._more

    async def _waits(self) -> bool:
        """L5."""
        patience = self._patience
        if patience is None or self._tight:
            return False
        tail = await self._feed.tail()
        return patience.waits(time.monotonic(), tail_seq=tail.seq if tail is not None else 0)

    async def _take_page(self) -> None:
        writer = self.writer
        page = await self._feed.page(after_seq=writer.taken_seq)
        if page.records:
            if not writer.pending_entries:
                self._opened_at = time.monotonic()
            first_seq = page.records[0].seq
            if first_seq > writer.taken_seq + 1:
                if writer.taken_seq:
                    log.error(
                        "entries are missing in the journal", shard=self.shard, after=writer.taken_seq, next=first_seq
                    )
                await self._in_thread(lambda: writer.skip_to(first_seq))
            await self._in_thread(lambda: self._take(page.records))
        self._more = page.more
        if self._patience is not None:
            size_bytes = sum(len(record.entry) for record in page.records)
            self._patience.took(
                time.monotonic(), entries=len(page.records), size_bytes=size_bytes, all_of_it=not page.more
            )

    async def seal(self) -> None:
        """Write what was taken, for an orderly end. Raises Unavailable, Exists, Corrupt."""
        await self._write_index()
        await in_thread(self.writer.seal, idle=False)  # somebody waits for it
        await self._tell()

    async def at_end(self) -> bool:
        """Of a journal that gets no more entries: seal at once, and say whether all of it is archived and indexed, and told (L3)."""
        await self.seal()
        tail = await self._feed.tail()
        told = self._told
        if self.index_trouble or told is None:
            return False
        return min(told.archived_seq, told.indexed_seq) >= (tail.seq if tail is not None else 0)

    async def close(self) -> None:
        """Follow no more."""
        await self._feed.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """L7."""
        return await in_thread(work, idle=not self._is_late())

    def _is_late(self) -> bool:
        patience = self._patience
        if patience is None or self._tight or patience.is_late(time.monotonic()):
            return True
        oldest_ms = self._fold_since_ms if self._fold is not None else self._writing_since_ms
        return oldest_ms is not None and self._now_ms() - oldest_ms >= 1_000 * LATE * patience.lag_s

    async def _is_tight(self) -> bool:
        """Looked at every `tell_every_s`; False in between."""
        now = time.monotonic()
        if now - self._memory_seen_at < self._tell_every_s:
            return False
        self._memory_seen_at = now
        self._tight = await self._feed.memory_share() >= MEMORY_TIGHT
        return self._tight

    async def _seal_when_due(self, *, tight: bool) -> None:
        writer = self.writer
        if not writer.pending_entries:
            return
        old = time.monotonic() - self._opened_at >= self._seal_s
        if old or tight or writer.pending_bytes >= self._segment_bytes:
            await self._in_thread(writer.seal)

    async def _tell(self) -> None:
        """After each write of the index, and at least every `tell_every_s`."""
        now, told = time.monotonic(), self._told
        reached = self.indexed_seq, self.indexed_ms
        cursor = ArchiveCursor(self.writer.archived_seq, *reached, self._now_ms(), self._index_is_whole)
        if told is None or told.indexed_seq < self.indexed_seq or now - self._told_at >= self._tell_every_s:
            await self._feed.publish(cursor)
            self._told, self._told_at = cursor, now

    # -- the index ------------------------------------------------------------------------------------------------

    def _take(self, records: Sequence[Record]) -> None:
        """Into the segment in the making, and into the batch that the index waits for."""
        for record in records:
            entry = self.writer.take(record)
            if self.index_trouble or entry.seq <= self.indexed_seq:
                continue
            if self.shard != CONTROL_SHARD and opens_parts(entry):
                self.index_trouble = "a part came from another shard"  # L6: it goes on as a batch of its own
                self._index_due = 0.0
                continue
            if self._fold is None:
                self._fold, self._fold_bytes, self._fold_since_ms = Fold(self.shard), 0, entry.time_ms
            self._fold.add(entry)
            self._fold_bytes += len(entry.payload)

    async def _write_index(self) -> None:
        fold, self._fold = self._fold, None
        if fold is None:
            return
        self._writing_since_ms = self._fold_since_ms
        try:
            async with self._lock:
                started = time.monotonic()
                self._index_reached(*await self._in_thread(lambda: (self._index.write(fold), self._index.is_whole())))
        except (Unavailable, OutOfStep, Waits) as error:
            self._index_behind(error)
            return
        finally:
            self._writing_since_ms = None
        now = time.monotonic()
        self._write_due = now + min(self._index_every_s, (now - started) * INDEX_PACE)

    def _index_reached(self, progress: Progress | None, is_whole: bool) -> None:
        self.indexed_seq, self.indexed_ms = (progress.seq, progress.time_ms) if progress is not None else (0, 0)
        self._index_is_whole = is_whole

    def _index_behind(self, error: Exception) -> None:
        if isinstance(error, Waits):
            log.info("the index waits", shard=self.shard, reason=str(error))
        elif not self.index_trouble:
            log.warning("the index is behind", shard=self.shard, error=str(error))
        self.index_trouble = str(error)
        self._index_due = time.monotonic() + (WAIT_RETRY_S if isinstance(error, Waits) else INDEX_RETRY_S)

    async def _catch_up(self) -> None:
        """L2: fold what was taken and is not in the index, from the segments and then from the journal."""
        try:
            async with self._lock:
                index = self._index
                self._index_reached(*await self._in_thread(lambda: (index.progress(self.shard), index.is_whole())))
            if self.indexed_seq < self.writer.archived_seq:
                await self._fold_segments()
            while self.indexed_seq < self.writer.taken_seq:
                page = await self._feed.page(after_seq=self.indexed_seq)
                wanted = [record.unpacked() for record in page.records if record.seq <= self.writer.taken_seq]
                if not wanted:
                    break
                await self._fold_batch(wanted)
        except (Unavailable, OutOfStep, Waits) as error:
            self._index_behind(error)
        else:
            self.index_trouble = ""

    async def _fold_segments(self) -> None:
        records = self._store.records(self.shard, after_seq=self.indexed_seq)

        def next_batch() -> list[Entry]:
            batch: list[Entry] = []
            for record in records:
                batch.append(record.unpacked())
                if len(batch) == BATCH_ENTRIES:
                    break
            return batch

        while batch := await self._in_thread(next_batch):
            await self._fold_batch(batch)

    async def _fold_batch(self, entries: Sequence[Entry]) -> None:
        for batch in batches_of(self.shard, entries):
            async with self._lock:
                progress = await self._in_thread(lambda batch=batch: write_batch(self._index, self.shard, batch))  # type: ignore[misc]
                self._index_reached(progress, await self._in_thread(self._index.is_whole))


def batches_of(shard: int, entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries as batches that begin with those that must wait for another shard's (L6)."""
    batches: list[list[Entry]] = []
    for entry in entries:
        if not batches or (shard != CONTROL_SHARD and opens_parts(entry)):
            batches.append([])
        batches[-1].append(entry)
    return batches


def write_batch(index: IndexWriter, shard: int, entries: Sequence[Entry]) -> Progress:
    """Fold entries into the index as one batch; returns where it is then. Raises Unavailable, OutOfStep, Waits, Corrupt."""
    fold = Fold(shard)
    for entry in entries:
        fold.add(entry)
    return index.write(fold)


def rebuild(index: IndexWriter, store: SegmentStore, shard: int) -> int:
    """Fold a shard's segments into an index, from where it ends; returns the newest entry. Blocking.

    Where parts moved between shards, it stops at what must wait for another shard's: call it for all shards until none gets further.
    """
    progress = index.progress(shard)
    seq = progress.seq if progress is not None else 0
    records = store.records(shard, after_seq=seq)
    while batch := [record.unpacked() for record in islice(records, BATCH_ENTRIES)]:
        for part in batches_of(shard, batch):
            try:
                seq = write_batch(index, shard, part).seq
            except Waits:
                return seq
    return seq
