"""What the archiver does: follows all journals into segments and the index.

It holds nothing that is not written elsewhere: killed at any moment it goes on from what the segments and the index say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from engine.actors.collector import ARCHIVER_GC_THRESHOLD, quiet_collector
from engine.actors.duplicates import Duplicates
from engine.actors.measures import Complaint
from engine.archive.feed import JournalFeed
from engine.archive.follower import ShardFollower
from engine.archive.index import IndexWriter, connect_index, migrate
from engine.archive.patience import BusyCores, Patience
from engine.archive.places import archive_url, index_url
from engine.archive.reader import IndexReader
from engine.archive.store import SegmentStore
from engine.archive.writer import Exists
from engine.client.cluster import Cluster
from engine.domain.placement import CONTROL_SHARD
from engine.journal.discovery import Directory
from engine.journal.port import JournalError, Unavailable
from engine.settings import Settings

IDLE_S = 0.25
"""How often a journal without news is looked at: what the index lags behind at the most when nothing is wrong."""
RETRY_S = 0.5
STOPPED_RETRY_S = 10.0
ENDED_QUIET_S = 15.0
"""A shard that has ended is followed no more when its journal was at its end for so long: by then its process is gone."""
ASK_TIMEOUT_S = 2.0
RETENTION_EVERY_S = 3_600.0
RETENTION_PAUSE_S = 0.05
DAY_MS = 86_400_000
log = structlog.get_logger(__name__)


class Archiving:
    """Follows the control shard and every stock shard of the placement map, those that ended to the end of their journals."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = asyncio.Event()
        self._followers: dict[int, ShardFollower] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._following: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Follow, for as long as the process lives."""
        await self._start()
        await self.wait()

    async def wait(self) -> None:
        await asyncio.gather(*self._tasks)

    async def stop(self) -> None:
        """Seal what was taken, so that the next start has less to read again."""
        self._stopping.set()
        await asyncio.gather(*self._tasks, *self._following.values(), return_exceptions=True)

    def facts(self) -> dict[str, Any]:
        """By shard: entries archived, indexed, segments, gaps, why the index is behind."""
        return {
            str(one.shard): {
                "archived_seq": one.writer.archived_seq,
                "indexed_seq": one.indexed_seq,
                "segments": one.writer.segments,
                "gaps": one.writer.gaps,
                "index_trouble": one.index_trouble,
            }
            for one in self._followers.values()
        }

    async def _start(self) -> None:
        settings = self._settings
        assert settings.redis_url is not None, "bootstrap sets the server's address"
        store = SegmentStore(archive_url(settings))
        engine = connect_index(index_url(settings))
        complaint = Complaint()
        while True:
            try:
                await asyncio.to_thread(migrate, engine)
                break
            except Unavailable as error:
                if complaint.due():
                    log.warning("index unreachable", error=str(error))
                await asyncio.sleep(RETRY_S)
        index, lock = IndexWriter(engine), asyncio.Lock()
        url, cores = settings.redis_url.get_secret_value(), BusyCores()

        def follower_of(shard: int) -> ShardFollower:
            return ShardFollower(
                shard,
                JournalFeed(url, shard),
                store,
                index,
                lock,
                seal_s=settings.archive_seal_s,
                patience=Patience(settings.archive_lag_s, cores.share),
                now_ms=settings.pace.now_ms,
            )

        log.info("archiving", index=engine.dialect.name)
        quiet_collector(ARCHIVER_GC_THRESHOLD)
        self._tasks.append(asyncio.create_task(self._work(index, lock, follower_of), name="map"))
        self._tasks.append(asyncio.create_task(self._retire_forever(index, lock), name="retention"))

    async def _work(self, index: IndexWriter, lock: asyncio.Lock, follower_of: Callable[[int], ShardFollower]) -> None:
        """What needs the shards' addresses and the placement map."""
        settings = self._settings
        assert settings.redis_url is not None
        directory = Directory(settings.redis_url.get_secret_value())
        cluster = Cluster(
            directory.find,
            kinds=("placement",),
            token=settings.cluster_token.get_secret_value() if settings.cluster_token else "",
            timeout_s=ASK_TIMEOUT_S,
        )
        try:
            await cluster.start()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._follow_map(cluster, follower_of))
                both.create_task(self._settle_duplicates(index, cluster))
        finally:
            await cluster.close()
            await directory.close()

    async def _follow_map(self, cluster: Cluster, follower_of: Callable[[int], ShardFollower]) -> None:
        """Follow the journal of every shard that the placement map has or had, that of a new one as soon as it is there."""
        while not self._stopping.is_set():
            is_known = await cluster.wait_configured(RETRY_S)
            placement = cluster.catalog.placement
            for shard in (CONTROL_SHARD, *(range(placement.shard_count) if is_known else ())):
                if shard not in self._followers:
                    follower = self._followers[shard] = follower_of(shard)
                    work = self._follow(follower, lambda shard=shard: shard in cluster.catalog.placement.ended)  # type: ignore[misc]
                    self._following[shard] = asyncio.create_task(work, name=f"archive-{shard}")
            for task in self._following.values():
                if task.done():
                    task.result()  # none fails; if one does, all of this does
            await self._pause(IDLE_S)

    async def _follow(self, follower: ShardFollower, has_ended: Callable[[], bool]) -> None:
        """Until told to stop, or until all is taken of a shard that has ended.

        What cannot be archived is said, again and again, and tried again: trim waits for it meanwhile.
        """
        complaint = Complaint()
        opened, quiet_since_s = False, time.monotonic()
        while not self._stopping.is_set():
            try:
                if not opened:
                    await follower.open()
                    opened = True
                if not await follower.round():
                    if not has_ended() or not await follower.at_end():
                        quiet_since_s = time.monotonic()
                    elif time.monotonic() - quiet_since_s > ENDED_QUIET_S:
                        log.info("archived to its end", shard=follower.shard, seq=follower.writer.archived_seq)
                        break
                    await self._pause(IDLE_S)
            except Exists as error:
                log.warning("another archiver is at work", shard=follower.shard, segment=str(error))
                opened = False
                await self._pause(RETRY_S)
            except Unavailable as error:
                opened = False
                if complaint.due():
                    log.warning("archiving waits", shard=follower.shard, error=str(error))
                await self._pause(RETRY_S)
            except JournalError as error:
                opened = False
                log.error("archiving stopped", shard=follower.shard, error=str(error))
                await self._pause(STOPPED_RETRY_S)
        if opened:
            try:
                await follower.seal()
            except (Exists, JournalError) as error:
                log.warning("last segment not written", shard=follower.shard, error=str(error))
        await follower.close()

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            pass

    async def _settle_duplicates(self, index: IndexWriter, cluster: Cluster) -> None:
        """Whenever a batch brought orders that may be duplicates, once at the start, and until all outcomes are known."""
        settings = self._settings
        reader = IndexReader(index_url(settings), readers=1)
        duplicates = Duplicates(reader, cluster, now_ms=settings.pace.now_ms)
        complaint = Complaint()
        settled = -1
        try:
            while not self._stopping.is_set():
                judged = index.judged
                if judged == settled or not await cluster.wait_configured(RETRY_S):
                    await self._pause(IDLE_S)
                    continue
                try:
                    if await duplicates.settle():
                        settled = judged
                        continue
                except Unavailable as error:
                    if complaint.due():
                        log.warning("duplicates wait", error=str(error))
                await self._pause(RETRY_S)
        finally:
            reader.close()

    async def _retire_forever(self, index: IndexWriter, lock: asyncio.Lock) -> None:
        while not self._stopping.is_set():
            try:
                await self._retire(index, lock)
            except JournalError as error:
                log.warning("retention waits", error=str(error))
            await self._pause(RETENTION_EVERY_S / self._settings.clock_speed)

    async def _retire(self, index: IndexWriter, lock: asyncio.Lock) -> None:
        settings, now_ms = self._settings, self._settings.pace.now_ms()
        if settings.archive_retention_days:
            before_ms = now_ms - settings.archive_retention_days * DAY_MS
            for follower in list(self._followers.values()):
                removed = await asyncio.to_thread(partial(follower.writer.retire, before_ms=before_ms))
                if removed:
                    log.info("segments removed", shard=follower.shard, segments=removed)
        if settings.index_movements_days:
            before_ms = now_ms - settings.index_movements_days * DAY_MS
            after: tuple[int, int] | None = (-1, -1)
            while after is not None and not self._stopping.is_set():
                async with lock:
                    done = await asyncio.to_thread(partial(index.forget, before_ms=before_ms, after=after))
                after = done.next_after
                await self._pause(RETENTION_PAUSE_S)
