"""An archiver beside a living journal on a real server: nothing lost, nothing twice, killed at any moment or not."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from engine.archive.feed import JournalFeed
from engine.archive.follower import ShardFollower, rebuild
from engine.archive.idle_time import in_thread
from engine.archive.index import IndexWriter, connect_index, contents, migrate, sqlite_url
from engine.archive.patience import Patience
from engine.archive.store import SegmentStore
from engine.journal.embedded import EmbeddedServer
from engine.journal.port import ArchiveCursor, Corrupt, Tail, Unavailable
from engine.journal.redis_journal import RedisJournal
from tests.conftest import eventually
from tests.contract.journal_backends import started
from tests.s3_server import S3Server
from tests.sim.little_cluster import LittleCluster
from tests.unit.test_verify_books import Traffic


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    made = started("valkey", tmp_path_factory.mktemp("valkey"))
    yield made
    made.stop(timeout_s=60)


class Writer:
    """The shard: traffic of a real core, appended to its journal."""

    def __init__(self, journal: RedisJournal, tail: Tail, seed: int) -> None:
        self.journal, self.tail = journal, tail
        self.cluster = LittleCluster()
        self.traffic = Traffic(self.cluster, seed)
        self._written = 0

    async def run(self, steps: int) -> None:
        self.traffic.run(steps)
        for append in self.cluster.entries[0][self._written :]:
            time_ms = max(append.time_ms, self.tail.time_ms)
            done = await self.journal.append(
                self.tail, time_ms=time_ms, payload=append.payload, decisions=append.decisions
            )
            self.tail = done.tail
        self._written = len(self.cluster.entries[0])


@pytest.fixture
async def feed(server: EmbeddedServer) -> AsyncIterator[JournalFeed]:
    made = JournalFeed(server.url, 0)
    yield made
    await made.close()


@pytest.fixture
async def writer(server: EmbeddedServer, feed: JournalFeed) -> AsyncIterator[Writer]:
    journal = RedisJournal(server.url, 0)
    await (await feed._connected()).call("FLUSHALL")
    acquired = await journal.acquire("nonce", [])
    yield Writer(journal, acquired.tail, 23)
    await journal.close()


def follower(
    feed: JournalFeed, folder: Path, index: IndexWriter, *, archive: str = "", **options: object
) -> ShardFollower:
    store = SegmentStore(archive or str(folder / "archive"))
    made: dict[str, object] = {"seal_s": 1_000.0, "tell_every_s": 0.0, "index_every_s": 0.0, **options}
    return ShardFollower(0, feed, store, index, asyncio.Lock(), **made)  # type: ignore[arg-type]


def index_at(path: Path) -> IndexWriter:
    engine = connect_index(sqlite_url(path))
    _engines.append(engine)
    migrate(engine)
    return IndexWriter(engine)


_engines: list[sa.Engine] = []


@pytest.fixture(autouse=True)
def dispose() -> Iterator[None]:
    yield
    for engine in _engines:
        engine.dispose()
    _engines.clear()


async def drained(one: ShardFollower) -> None:
    while await one.round():
        pass
    await one.round()


async def assert_complete(writer: Writer, folder: Path, *, archive: str = "") -> None:
    """The archive is the journal, and an index rebuilt from it equals the live one."""
    store = SegmentStore(archive or str(folder / "archive"))
    archived = [record.unpacked() for record in store.records(0)]
    assert archived == [entry async for entry in writer.journal.read(after_seq=0)]
    for record in store.records(0):
        first = await writer.journal.read_decision(record.epoch, record.seq, 0)
        assert (record.decisions != b"") == (first is not None)
    live, again = index_at(folder / "index.db"), index_at(folder / "rebuilt.db")
    rebuild(again, store, 0)
    assert contents(live._engine) == contents(again._engine)


async def test_tasks_that_share_a_feed_share_its_connection_which_ends_with_it(
    server: EmbeddedServer, feed: JournalFeed
) -> None:
    shared = JournalFeed(server.url, 0, name="shared")

    async def connections() -> int:
        found: bytes = await (await feed._connected()).call("CLIENT", "LIST")
        return found.count(b"name=qm-s0-shared")

    await asyncio.gather(*(shared.tail() for _ in range(8)))
    assert await connections() == 1
    (await shared._connected()).close()  # a break: all of them come back at once
    await asyncio.gather(*(shared.tail() for _ in range(8)))
    late = JournalFeed(server.url, 0, name="shared")
    opening = asyncio.create_task(late.tail())
    await asyncio.sleep(0)
    await shared.close()
    await late.close()  # while it connects
    with pytest.raises(Unavailable):
        await opening

    async def none_left() -> bool:
        return await connections() == 0

    await eventually(none_left)


async def test_what_is_appended_is_archived_and_indexed(feed: JournalFeed, writer: Writer, tmp_path: Path) -> None:
    one = follower(feed, tmp_path, index_at(tmp_path / "index.db"))
    await one.open()
    await writer.run(60)
    await drained(one)
    assert (one.indexed_seq, one.writer.archived_seq) == (writer.tail.seq, 0)  # the index does not wait for a segment
    await one.seal()
    await writer.run(60)
    await drained(one)
    await one.seal()
    cursor = await writer.journal.archive_cursor()
    assert cursor is not None and cursor[:2] == (writer.tail.seq, writer.tail.seq)
    assert cursor.index_is_whole
    assert one.writer.segments == 2
    await assert_complete(writer, tmp_path)


async def test_a_write_of_the_index_is_told_at_once_and_nothing_else_before_its_time(
    feed: JournalFeed, writer: Writer, tmp_path: Path
) -> None:
    one = follower(feed, tmp_path, index_at(tmp_path / "index.db"), tell_every_s=1_000.0)
    await one.open()
    await one.round()
    first = await writer.journal.archive_cursor()
    await writer.run(20)
    await drained(one)
    told = await writer.journal.archive_cursor()
    assert told is not None and told.indexed_seq == writer.tail.seq
    await one.round()
    assert await writer.journal.archive_cursor() == told != first


async def test_on_a_busy_machine_entries_wait_in_the_journal_until_the_rush_is_over_or_memory_is_tight(
    feed: JournalFeed, writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L5: the shard hears of the archiver meanwhile, and loses nothing."""
    patience = Patience(1_000.0, lambda: 1.0)
    one = follower(feed, tmp_path, index_at(tmp_path / "index.db"), patience=patience)
    await one.open()
    await writer.run(20)
    await drained(one)
    before = one.indexed_seq
    assert before > 0
    monkeypatch.setattr(patience, "_entry_bytes", 1e9)  # a rush, whatever the clock says
    await writer.run(20)
    assert not await one.round()
    assert (one.writer.taken_seq, one.indexed_seq) == (before, before)
    await drained(one)  # nothing came since: the rush is over
    assert one.indexed_seq == writer.tail.seq
    monkeypatch.setattr(patience, "_entry_bytes", 1e9)
    await writer.run(20)
    with monkeypatch.context() as patch:

        async def tight() -> float:
            return 0.6

        patch.setattr(feed, "memory_share", tight)
        assert not await one.round()
    assert one.writer.archived_seq == writer.tail.seq
    await assert_complete(writer, tmp_path)


async def test_memory_is_looked_at_however_often_the_index_is_written(
    feed: JournalFeed, writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = follower(feed, tmp_path, index_at(tmp_path / "index.db"), tell_every_s=0.2)
    await one.open()
    await writer.run(5)
    await drained(one)
    assert one.writer.segments == 0

    async def tight() -> float:
        return 0.6

    monkeypatch.setattr(feed, "memory_share", tight)

    async def sealed() -> bool:
        await writer.run(1)
        await one.round()
        assert one.indexed_seq == writer.tail.seq
        return one.writer.segments > 0

    await eventually(sealed)


async def test_its_work_takes_idle_time_until_archive_or_index_are_late_or_memory_is_tight(
    feed: JournalFeed, writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L7."""
    taken: list[bool] = []

    async def recorded(work: Callable[[], object], *, idle: bool) -> object:
        taken.append(idle)
        return await in_thread(work, idle=idle)

    monkeypatch.setattr("engine.archive.follower.in_thread", recorded)
    patience = Patience(1_000.0, lambda: 0.0)
    now_ms = [0]
    one = follower(feed, tmp_path, index_at(tmp_path / "index.db"), patience=patience, now_ms=lambda: now_ms[0])

    async def idle_shares() -> set[bool]:
        taken.clear()
        await writer.run(20)
        await drained(one)
        return set(taken)

    await one.open()
    await drained(one)
    assert not taken[0]  # how much there is, nobody knows
    assert await idle_shares() == {True}
    now_ms[0] = writer.tail.time_ms + 10_000_000  # what is taken now, is taken long after its time
    assert await idle_shares() == {False, True}  # the archive in idle time, the index not
    now_ms[0] = 0
    assert await idle_shares() == {True}
    with monkeypatch.context() as patch:

        async def tight() -> float:
            return 0.6

        patch.setattr(feed, "memory_share", tight)
        assert await idle_shares() == {False}
    monkeypatch.setattr(patience, "is_late", lambda now: True)
    assert await idle_shares() == {False}


async def test_killed_again_and_again_it_loses_and_doubles_nothing(
    server: EmbeddedServer, writer: Writer, tmp_path: Path
) -> None:
    draw = random.Random(4)

    async def start() -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.integration.archive_process",
            server.url,
            str(tmp_path),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"open\n"
        return process

    async def archived() -> int:
        cursor = await writer.journal.archive_cursor()
        return cursor.archived_seq if cursor is not None else 0

    for _ in range(8):
        process = await start()
        before = await archived()
        working = asyncio.create_task(writer.run(30))
        ahead = draw.randint(1, 20)
        await eventually(partial(_at_least, archived, before + ahead, working))
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await working
    process = await start()

    async def done() -> bool:
        return await archived() == writer.tail.seq

    await eventually(done, what="archived to the end")
    process.kill()
    await process.wait()
    await assert_complete(writer, tmp_path)


async def _at_least(archived: object, seq: int, working: asyncio.Task[None]) -> bool:
    return working.done() or await archived() >= seq  # type: ignore[operator]


async def test_trim_stays_behind_the_archive(feed: JournalFeed, writer: Writer, tmp_path: Path) -> None:
    one = follower(feed, tmp_path, index_at(tmp_path / "index.db"))
    await one.open()
    await writer.run(40)
    await drained(one)
    await one.seal()
    archived_seq = one.writer.archived_seq
    await writer.run(40)
    await writer.journal.trim(up_to_seq=writer.tail.seq, archived_seq=archived_seq)
    assert await feed.first_seq() == archived_seq + 1
    await drained(one)
    await one.seal()
    assert [record.seq for record in SegmentStore(str(tmp_path / "archive")).records(0)] == list(
        range(1, writer.tail.seq + 1)
    )


async def test_a_full_server_is_told_how_far_the_archive_is(feed: JournalFeed, writer: Writer) -> None:
    """Without it nothing is trimmed, and it stays full."""
    call = (await feed._connected()).call
    _, limit_bytes = await writer.journal.memory()
    await call("CONFIG", "SET", "maxmemory", 1)
    try:
        await feed.publish(ArchiveCursor(1, 1, 2, 3))
    finally:
        await call("CONFIG", "SET", "maxmemory", limit_bytes)
    assert await writer.journal.archive_cursor() == ArchiveCursor(1, 1, 2, 3)


async def test_the_archive_goes_on_while_the_index_cannot_be_written(
    feed: JournalFeed, writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L2: and the index catches up from the segments and the journal."""
    index = index_at(tmp_path / "index.db")
    one = follower(feed, tmp_path, index)
    await one.open()
    await writer.run(20)
    await drained(one)
    with monkeypatch.context() as patch:

        def fails(fold: object) -> None:
            raise Unavailable("the database is away")

        patch.setattr(index, "write", fails)
        await writer.run(20)
        await drained(one)
        await one.seal()
        await writer.run(20)
        await drained(one)
    assert "away" in one.index_trouble
    assert one.writer.taken_seq == writer.tail.seq > one.writer.archived_seq > one.indexed_seq
    monkeypatch.setattr(one, "_index_due", 0.0)
    await drained(one)
    assert (one.index_trouble, one.indexed_seq) == ("", writer.tail.seq)
    await one.seal()
    await assert_complete(writer, tmp_path)


async def test_an_archive_in_s3_waits_for_its_server_and_the_journal_keeps_what_it_lacks(
    feed: JournalFeed, writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = S3Server(tmp_path)
    try:
        store.environment(monkeypatch)
        url = store.new_url()
        one = follower(feed, tmp_path, index_at(tmp_path / "index.db"), archive=url)
        await one.open()
        await writer.run(20)
        await drained(one)
        await one.seal()
        sealed_seq = one.writer.archived_seq
        store.end()
        await writer.run(20)
        await drained(one)
        with pytest.raises(Unavailable):
            await one.seal()
        with pytest.raises(Unavailable):
            await one.open()
        cursor = await writer.journal.archive_cursor()
        assert cursor is not None and cursor.archived_seq == sealed_seq  # trim goes by this
        store.start()
        await one.open()
        await drained(one)
        await one.seal()
        assert one.writer.archived_seq == writer.tail.seq > sealed_seq
        await assert_complete(writer, tmp_path, archive=url)
    finally:
        store.end()


async def test_an_index_that_was_lost_is_folded_again(feed: JournalFeed, writer: Writer, tmp_path: Path) -> None:
    one = follower(feed, tmp_path, index_at(tmp_path / "lost.db"))
    await one.open()
    await writer.run(50)
    await drained(one)
    await one.seal()
    await writer.journal.trim(up_to_seq=one.writer.archived_seq)
    await writer.run(10)
    two = follower(feed, tmp_path, index_at(tmp_path / "index.db"))
    await two.open()
    await drained(two)
    assert two.indexed_seq == writer.tail.seq


async def test_another_journal_is_not_archived_into_this_archive(
    feed: JournalFeed, writer: Writer, tmp_path: Path
) -> None:
    one = follower(feed, tmp_path, index_at(tmp_path / "index.db"))
    await one.open()
    await writer.run(30)
    await drained(one)
    await one.seal()
    await (await feed._connected()).call("FLUSHALL")
    await writer.journal.acquire("other", [])
    with pytest.raises(Corrupt, match="another journal"):
        await one.open()


async def test_a_journal_that_was_trimmed_before_begins_where_it_begins(
    feed: JournalFeed, writer: Writer, tmp_path: Path
) -> None:
    await writer.run(30)
    await writer.journal.trim(up_to_seq=10)
    one = follower(feed, tmp_path, index := index_at(tmp_path / "index.db"))
    await one.open()
    await drained(one)
    await one.seal()
    progress = index.progress(0)
    assert progress is not None and (progress.first_seq, progress.gaps, one.writer.gaps) == (11, 0, 0)
    cursor = await writer.journal.archive_cursor()
    assert cursor is not None and not cursor.index_is_whole
