"""The archive on a folder, in memory and on a server that speaks S3 over HTTP: one promise, whatever it is kept in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from engine.archive.store import Exists, SegmentStore
from engine.archive.writer import ArchiveWriter
from engine.journal.port import Corrupt, Unavailable
from tests.archive_entries import START_MS, chained
from tests.s3_server import S3Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    made = S3Server(tmp_path_factory.mktemp("s3"))
    yield made
    made.end()


@pytest.fixture
def s3_url(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    server.environment(monkeypatch)
    return server.new_url()


@pytest.fixture(params=["folder", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        made: str = request.getfixturevalue("s3_url")
        return made
    return str(tmp_path / "archive") if request.param == "folder" else f"memory://{tmp_path.name}"


def opened(store: SegmentStore, shard: int = 0) -> ArchiveWriter:
    writer = ArchiveWriter(store, shard)
    writer.open()
    return writer


def test_an_empty_archive_is_no_failure(url: str) -> None:
    store = SegmentStore(url)
    assert (store.shards(), store.first_seqs(0), list(store.records(0)), store.find(0, 1)) == ([], [], [], None)
    store.remove(0, 1)


def test_what_is_sealed_is_listed_and_read_back_by_whoever_opens_the_archive(url: str) -> None:
    records = chained([b"%d" % n * 50 for n in range(9)], decisions=[[b"why %d" % n] for n in range(9)])
    for first, last in ((0, 4), (4, 9)):  # another process each time
        writer = opened(SegmentStore(url), 7)
        assert writer.taken_seq == first
        for record in records[first:last]:
            writer.take(record)
        assert writer.seal()
    store = SegmentStore(url)
    assert (store.shards(), store.first_seqs(7), store.head(7, 5).last_seq) == ([7], [1, 5], 9)
    assert list(store.records(7)) == records
    assert list(store.records(7, after_seq=6)) == records[6:]
    assert [store.find(7, record.seq) for record in records] == records
    assert store.load(7, 5).head.prev_hash == store.load(7, 1).hash


def test_a_name_that_is_there_is_never_written_again(url: str) -> None:
    """W1."""
    store = SegmentStore(url)
    store.create(0, 1, b"first")
    with pytest.raises(Exists):
        store.create(0, 1, b"second")
    assert store._read(store._path(0, 1)) == b"first"


def test_of_archivers_that_seal_at_once_one_has_its_way(url: str) -> None:
    """W1: whoever is refused reads on from the other's segment."""
    records = chained([b"%d" % n for n in range(8)])
    writers = [opened(SegmentStore(url)) for _ in range(4)]
    for n, writer in enumerate(writers):
        for record in records[: n + 2]:
            writer.take(record)

    def sealed(writer: ArchiveWriter) -> bool:
        try:
            return writer.seal()
        except Exists:
            return False

    with ThreadPoolExecutor(len(writers)) as pool:
        assert sorted(pool.map(sealed, writers)) == [False, False, False, True]
    store = SegmentStore(url)
    for writer in writers:
        writer.open()
        assert writer.taken_seq == store.head(0, 1).last_seq
    for record in records[writers[0].taken_seq :]:
        writers[0].take(record)
    writers[0].seal()
    assert list(store.records(0)) == records


def test_a_chain_with_a_hole_is_seen(url: str) -> None:
    store = SegmentStore(url)
    writer = opened(store)
    for record in chained([b"%d" % n for n in range(6)]):
        writer.take(record)
        if record.seq % 2 == 0:
            writer.seal()
    store.remove(0, 3)
    with pytest.raises(Corrupt, match="does not follow"):
        list(store.records(0))


def test_retention_removes_the_oldest(url: str) -> None:
    store = SegmentStore(url)
    records = chained([b"%d" % n for n in range(4)], step_ms=1_000)
    writer = opened(store)
    for record in records:
        writer.take(record)
        writer.seal()
    assert writer.retire(before_ms=START_MS + 2_500) == 2
    assert list(store.records(0)) == records[2:]


def test_what_is_set_aside_is_kept_and_no_part_of_the_archive(url: str) -> None:
    store = SegmentStore(url)
    records = chained([b"%d" % n for n in range(4)])
    writer = opened(store)
    for record in records:
        writer.take(record)
        if record.seq % 2 == 0:
            writer.seal()
    data = store._read(store._path(0, 3))
    store.set_aside(0, 3, "aside-1")
    assert (store.shards(), store.first_seqs(0), list(store.records(0))) == ([0], [1], records[:2])
    (name,) = store._names(f"{store._root}/aside-1/s0")
    assert store._read(f"{store._root}/aside-1/s0/{name}") == data


def test_a_segment_of_full_size_comes_back(url: str) -> None:
    """9 MB: more than a segment is sealed at, so nothing about its size is left to a real load."""
    store, data = SegmentStore(url), bytes(range(256)) * 36_000
    store.create(0, 1, data)
    assert store._read(store._path(0, 1)) == data
    assert store._read(store._path(0, 1), 5_000_000, 5_000_300) == data[5_000_000:5_000_300]


def test_while_the_server_is_away_everything_is_unavailable_and_nothing_is_lost(server: S3Server, s3_url: str) -> None:
    store = SegmentStore(s3_url)
    records = chained([b"%d" % n for n in range(9)])
    writer = opened(store)
    for record in records[:3]:
        writer.take(record)
    writer.seal()
    for record in records[3:6]:
        writer.take(record)
    calls: list[Callable[[], object]] = [
        writer.seal,
        lambda: opened(store),
        lambda: list(store.records(0)),
        lambda: store.find(0, 2),
        lambda: store.load(0, 1),
        lambda: store.head(0, 1),
        lambda: store.remove(0, 1),
        lambda: store.set_aside(0, 1, "aside-1"),
        store.shards,
    ]
    server.end()
    try:
        with ThreadPoolExecutor(len(calls)) as pool:  # each tries for some seconds
            raised = [future.exception() for future in [pool.submit(call) for call in calls]]
    finally:
        server.start()
    assert [type(error) for error in raised] == [Unavailable] * len(calls), raised
    writer.open()  # as the archiver does after Unavailable: what is not in a segment is read from the journal again
    assert writer.taken_seq == 3
    for record in records[3:]:
        writer.take(record)
    writer.seal()
    assert list(store.records(0)) == records


def test_wrong_credentials_are_unavailable(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for names in ({"AWS_SECRET_ACCESS_KEY": "wrong"}, {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}):
        for name, value in names.items():
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        store = SegmentStore(s3_url)
        with pytest.raises(Unavailable):
            store.create(0, 1, b"a segment")
        with pytest.raises(Unavailable):
            store.first_seqs(0)


def test_a_bucket_that_is_not_there_holds_nothing(s3_url: str) -> None:
    assert SegmentStore("s3://no-such-bucket/archive").first_seqs(0) == []
