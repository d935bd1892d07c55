"""A restore where the archive lies behind a URL, on a real server: archive and index go on with the restored journal."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from engine.archive.feed import JournalFeed
from engine.archive.follower import ShardFollower, rebuild
from engine.archive.index import connect_index, contents, is_empty, sqlite_url
from engine.archive.store import SegmentStore
from engine.cli.transfer_archive import ArchiveRestore, archive_folder, copy_segments
from engine.journal.embedded import EmbeddedServer
from engine.journal.port import Corrupt
from engine.journal.redis_journal import RedisJournal
from engine.journal.transfer import NotEmpty, export_all, restore_all, verify_export
from engine.settings import Settings
from tests.contract.journal_backends import started
from tests.integration.test_archive_follow import Writer, dispose, drained, index_at

__all__ = ["dispose"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    made = started("valkey", tmp_path / "valkey")
    yield made
    made.stop(timeout_s=60)


@pytest.fixture
async def feed(server: EmbeddedServer) -> AsyncIterator[JournalFeed]:
    made = JournalFeed(server.url, 0)
    yield made
    await made.close()


@pytest.mark.parametrize("url", ["memory://restore-{name}", "file://{tmp}/archive"])
async def test_the_archive_goes_on_after_a_restore_of_an_older_export(
    server: EmbeddedServer, feed: JournalFeed, tmp_path: Path, url: str
) -> None:
    settings = Settings(
        data_dir=tmp_path,
        archive_url=url.format(tmp=tmp_path, name=tmp_path.name),
        index_url=SecretStr(sqlite_url(tmp_path / "own.db")),
    )
    assert settings.archive_url is not None
    store = SegmentStore(settings.archive_url)

    def follower() -> ShardFollower:
        index = index_at(tmp_path / "own.db")
        return ShardFollower(0, feed, store, index, asyncio.Lock(), seal_s=1_000.0, tell_every_s=0.0, index_every_s=0.0)

    journal = RedisJournal(server.url, 0)
    writer = Writer(journal, (await journal.acquire("nonce", [])).tail, 23)
    one = follower()
    await one.open()
    await writer.run(40)
    await drained(one)
    await one.seal()
    await journal.trim(up_to_seq=writer.tail.seq, archived_seq=one.writer.archived_seq)
    await writer.run(30)
    export = tmp_path / "export"
    export.mkdir()
    manifest = await export_all(
        server.url,
        export,
        version="1",
        segments=lambda up_to: copy_segments(archive_folder(settings), export, up_to),
    )
    exported_seq, written = writer.tail.seq, writer._written
    for _ in range(2):  # a segment that goes on beyond the export, and one after it
        await writer.run(30)
        await drained(one)
        await one.seal()
    before = {first_seq: store.load(0, first_seq).hash for first_seq in store.first_seqs(0)}
    assert len(before) == 3 and one.writer.archived_seq == one.indexed_seq > exported_seq

    with pytest.raises(NotEmpty, match="segments"):
        ArchiveRestore(export, manifest, settings, force=False)
    archive = ArchiveRestore(export, manifest, settings, force=True)
    await restore_all(server.url, export, force=True, archive=archive.run)
    assert store.first_seqs(0) == [1]
    assert is_empty(connect_index(sqlite_url(tmp_path / "own.db")))
    if url.startswith("memory"):
        aside = SegmentStore(archive.aside)
        assert {n: aside.load(0, n).hash for n in aside.first_seqs(0)} == {n: before[n] for n in list(before)[1:]}
    else:
        assert archive.aside == ""

    two = follower()
    await two.open()
    await drained(two)
    assert (two.indexed_seq, two.index_trouble) == (exported_seq, "")
    await journal.close()
    writer.journal = RedisJournal(server.url, 0)
    writer.tail, writer._written = (await writer.journal.acquire("again", [])).tail, written
    await writer.run(30)  # longer than what the archive had: another history from the export on
    assert writer.tail.seq > one.writer.archived_seq
    await drained(two)
    await two.seal()
    assert two.indexed_seq == two.writer.archived_seq == writer.tail.seq
    records = list(store.records(0))
    assert [record.seq for record in records] == list(range(1, writer.tail.seq + 1))
    rebuilt = index_at(tmp_path / "rebuilt.db")
    rebuild(rebuilt, store, 0)
    assert contents(rebuilt._engine) == contents(two._index._engine)
    await writer.journal.close()


async def test_an_export_does_not_mind_that_snapshots_are_replaced_while_it_reads_entries(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    async def publish(shard: int) -> None:
        journal = RedisJournal(server.url, shard)
        for n in range(3):
            acquired = await journal.acquire(str(n), [])
            await journal.write_part("node:1", acquired.tail.seq - 1, b"%d" % n)
        await journal.close()

    def replace(*_: object) -> None:  # in a loop of its own: the export waits
        thread = threading.Thread(target=lambda: asyncio.run(publish(1)))
        thread.start()
        thread.join()

    await publish(0)
    await publish(1)
    (tmp_path / "export").mkdir()
    await export_all(server.url, tmp_path / "export", version="1", progress=replace)
    manifest = verify_export(tmp_path / "export")
    assert [(one.shard, one.parts) for one in manifest.shards] == [(0, 2), (1, 2)]


async def test_nothing_is_touched_where_the_server_is_refused(server: EmbeddedServer, tmp_path: Path) -> None:
    journal = RedisJournal(server.url, 0)
    await journal.acquire("nonce", [])
    await journal.close()
    (tmp_path / "export").mkdir()
    await export_all(server.url, tmp_path / "export", version="1")
    called: list[bool] = []
    with pytest.raises(NotEmpty):
        await restore_all(server.url, tmp_path / "export", force=False, archive=lambda: called.append(True))
    assert called == []

    def fails() -> None:
        raise Corrupt("the archive does not read back")

    with pytest.raises(Corrupt):
        await restore_all(server.url, tmp_path / "export", force=True, archive=fails)
    feed = JournalFeed(server.url, 0)
    assert await feed.tail() is None, "no shard starts beside an archive that does not fit"
    await feed.close()
