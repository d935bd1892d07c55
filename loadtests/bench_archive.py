"""archive_vs_decide: CPU of archiving and indexing an order, beside CPU of deciding it.

The orders are decided as for `decide_vs_decode`; their entries are put into a real server, and a follower takes them from there into
segments and a SQLite index, everything counted that its process spends, threads included. Python's collector is set for both as it is in
the processes of shard and archiver.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence

from engine.actors.collector import ARCHIVER_GC_THRESHOLD, GC_THRESHOLD, quiet_collector
from engine.archive.feed import JournalFeed
from engine.archive.follower import ShardFollower
from engine.archive.index import IndexWriter, connect_index, migrate, sqlite_url
from engine.archive.store import SegmentStore
from engine.journal.embedded import EmbeddedServer
from engine.journal.port import Tail
from engine.journal.redis_journal import RedisJournal
from engine.protocol.effects import Append
from loadtests.bench_core import BATCH, BATCHES, decide_us, small_network
from loadtests.figures import Figure, over_rounds, ratios
from loadtests.in_process import LocalShard
from loadtests.runs import Bench
from loadtests.traffic import Traffic, TrafficSpec


def measure(bench: Bench, wanted: set[str]) -> None:
    """Add the wanted figures to the bench."""
    if "archive_vs_decide" in wanted:
        bench.figures["archive_vs_decide"] = archive_vs_decide(bench)


def archive_vs_decide(bench: Bench) -> Figure:
    """Round by round: batches of 64 decided, then archived and indexed."""
    folder = bench.folder / "archive-bench"
    server = EmbeddedServer()
    server.start(folder / "server")
    threshold = gc.get_threshold()
    try:
        shard = LocalShard(small_network(bench.seed, 10_000 // bench.shrink))
        traffic = Traffic(shard.network, TrafficSpec(seed=bench.seed, lines=3))
        decide_us(shard, traffic, "warm")
        engine = connect_index(sqlite_url(folder / "index.db"))
        migrate(engine)
        decided, archived, sizes = [], [], []
        with asyncio.Runner() as runner:
            past = runner.run(_Past.open(server.url, SegmentStore(str(folder / "archive")), IndexWriter(engine)))
            quiet_collector()
            for n in range(-1, bench.rounds):
                shard.entries = []
                gc.set_threshold(GC_THRESHOLD)
                spent = decide_us(shard, traffic, f"a{n}-")
                gc.set_threshold(ARCHIVER_GC_THRESHOLD)
                kept = runner.run(past.archive(shard.entries))
                if n >= 0:
                    decided.append(spent)
                    archived.append(kept[0] / (BATCH * BATCHES) * 1e6)
                    sizes.append(kept[1] / (BATCH * BATCHES))
            runner.run(past.close())
        engine.dispose()
    finally:
        server.stop()
        gc.set_threshold(*threshold)
        gc.unfreeze()
    note = {"decide_us": over_rounds(decided), "archive_us": over_rounds(archived)}
    bench.note("archive_vs_decide", **note, archived_bytes_per_order=over_rounds(sizes))
    return ratios(archived, decided)


class _Past:
    """A journal with a follower behind it."""

    def __init__(self, journal: RedisJournal, tail: Tail, feed: JournalFeed, follower: ShardFollower) -> None:
        self._journal, self._tail, self._feed, self._follower = journal, tail, feed, follower

    @classmethod
    async def open(cls, url: str, store: SegmentStore, index: IndexWriter) -> _Past:
        journal = RedisJournal(url, 0)
        acquired = await journal.acquire("bench", [])
        feed = JournalFeed(url, 0)
        follower = ShardFollower(0, feed, store, index, asyncio.Lock(), seal_s=1e9)
        await follower.open()
        return cls(journal, acquired.tail, feed, follower)

    async def archive(self, entries: Sequence[Append]) -> tuple[float, int]:
        """(CPU seconds of archiving the entries, bytes of their segment)."""
        for entry in entries:
            time_ms = max(self._tail.time_ms, entry.time_ms)
            done = await self._journal.append(
                self._tail, time_ms=time_ms, payload=entry.payload, decisions=entry.decisions
            )
            self._tail = done.tail
        started = time.process_time()
        while await self._follower.round():
            pass
        size = self._follower.writer.pending_bytes
        await self._follower.seal()
        return time.process_time() - started, size

    async def close(self) -> None:
        await self._feed.close()
        await self._journal.close()
