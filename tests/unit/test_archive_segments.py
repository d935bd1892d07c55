"""Segments: what is packed comes back, what is damaged is seen, and the archive's end is what its newest segment says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.archive import segment as layout
from engine.archive.segment import HEAD_BYTES, Segment, SegmentBuilder, read_head
from engine.archive.store import Exists, SegmentStore
from engine.archive.writer import ArchiveWriter
from engine.journal.chain import pack_decisions
from engine.journal.port import Corrupt
from tests.archive_entries import START_MS, chained, chained_to


def packed(payloads: list[bytes], shard: int = 3) -> tuple[list[layout.Record], bytes]:
    records = chained(payloads, decisions=[[payload, b"why"] for payload in payloads])
    builder = SegmentBuilder(shard, layout.NO_SEGMENT)
    for record in records:
        builder.add(record, record.unpacked())
    return records, builder.finish()


@pytest.fixture
def store(tmp_path: Path) -> SegmentStore:
    return SegmentStore(str(tmp_path / "archive"))


@given(st.lists(st.binary(max_size=400), min_size=1, max_size=40), st.integers(200, 5_000), st.integers(0, 45))
@settings(max_examples=60, deadline=None)
def test_what_is_packed_comes_back(payloads: list[bytes], block_bytes: int, after: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "BLOCK_RAW_BYTES", block_bytes)
        records, data = packed(payloads)
    segment = Segment(data)
    segment.check_entries()
    assert list(segment.records()) == records
    assert list(segment.records(after_seq=after)) == records[after:]
    head = read_head(data[:HEAD_BYTES])
    assert (head.shard, head.first_seq, head.last_seq, head.entries) == (3, 1, len(records), len(records))
    assert head.first_time_ms == START_MS + 10
    assert head.last_entry_hash == records[-1].unpacked().hash


@given(st.integers(0, 10_000), st.integers(0, 7))
@settings(max_examples=80, deadline=None)
def test_any_changed_bit_is_seen(place: int, bit: int) -> None:
    _, data = packed([b"a" * 50, b"b" * 50, b"c"])
    damaged = bytearray(data)
    damaged[place % len(data)] ^= 1 << bit
    with pytest.raises(Corrupt):
        Segment(bytes(damaged)).check_entries()


@pytest.mark.parametrize("size", [0, 5, HEAD_BYTES, HEAD_BYTES + 20])
def test_a_file_cut_short_is_seen(size: int) -> None:
    _, data = packed([b"a" * 50, b"b" * 50])
    with pytest.raises(Corrupt):
        Segment(data[:size])


def test_a_segment_that_hashes_well_but_lacks_an_entry_is_seen() -> None:
    records = chained([b"a", b"b", b"c"])
    builder = SegmentBuilder(0, layout.NO_SEGMENT)
    for record in (records[0], records[2]):
        builder.add(record, record.unpacked())
    with pytest.raises(Corrupt, match="entry 2 is missing"):
        Segment(builder.finish()).check_entries()


def test_a_newer_format_is_refused_with_its_number() -> None:
    _, data = packed([b"a"])
    newer = data[:5] + bytes([layout.FORMAT + 1]) + data[6:-16]
    with pytest.raises(Corrupt, match="format 2"):
        Segment(newer + layout.segment_hash(newer))


@given(cuts=st.lists(st.integers(1, 60), max_size=8), kills=st.sets(st.integers(1, 60), max_size=5))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_archive_is_the_journal_whenever_it_is_cut_or_killed(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], kills: set[int]
) -> None:
    """Seal at `cuts`; after the entries in `kills` the process is gone, and another one goes on from what the segments say."""
    store = SegmentStore(str(tmp_path_factory.mktemp("archive")))
    records = chained([b"%d" % n for n in range(60)], decisions=[[b"d%d" % n] if n % 3 else [] for n in range(60)])
    writer = ArchiveWriter(store, 0)
    writer.open()
    kills = set(kills)
    while writer.taken_seq < 60:
        record = records[writer.taken_seq]
        writer.take(record)
        if record.seq in kills:
            kills.remove(record.seq)
            writer = ArchiveWriter(store, 0)
            writer.open()
        elif record.seq in cuts:
            writer.seal()
    writer.seal()
    assert list(store.records(0)) == records
    assert all(store.find(0, record.seq) == record for record in records)
    assert store.find(0, 61) is None and store.find(0, 0) is None


@pytest.mark.parametrize("url", ["{tmp}/archive", "memory://qm-{name}"])
def test_two_archivers_cannot_fork_a_chain(tmp_path: Path, url: str) -> None:
    """W1: the zombie's segment is refused, it reads on from the other's."""
    store = SegmentStore(url.format(tmp=tmp_path, name=tmp_path.name))
    records = chained([b"%d" % n for n in range(9)])
    zombie, owner = ArchiveWriter(store, 1), ArchiveWriter(store, 1)
    zombie.open()
    owner.open()
    for record in records[:6]:
        owner.take(record)
    owner.seal()
    for record in records[:4]:
        zombie.take(record)
    with pytest.raises(Exists):
        zombie.seal()
    zombie.open()
    assert zombie.taken_seq == 6
    for record in records[6:]:
        zombie.take(record)
    zombie.seal()
    assert list(store.records(1)) == records
    assert store.shards() == [1]


def test_a_segment_of_another_history_is_refused(store: SegmentStore) -> None:
    writer = ArchiveWriter(store, 0)
    writer.open()
    for record in chained([b"a", b"b"]):
        writer.take(record)
    writer.seal()
    other = chained([b"x", b"y", b"z"])
    writer = ArchiveWriter(store, 0)
    writer.open()
    with pytest.raises(Corrupt, match="not of one history"):
        writer.take(other[2])


def test_a_missing_segment_breaks_the_chain(store: SegmentStore) -> None:
    writer = ArchiveWriter(store, 0)
    writer.open()
    for record in chained([b"%d" % n for n in range(6)]):
        writer.take(record)
        if record.seq % 2 == 0:
            writer.seal()
    store.remove(0, 3)
    with pytest.raises(Corrupt, match="does not follow"):
        list(store.records(0))


def test_entries_that_are_gone_from_the_journal_begin_a_new_run(store: SegmentStore) -> None:
    records, tail = chained_to([b"a", b"b"])
    later = chained([b"%d" % n for n in range(8)], after=tail)
    writer = ArchiveWriter(store, 0)
    writer.open()
    for record in records:
        writer.take(record)
    writer.skip_to(later[5].seq)
    for record in later[5:]:
        writer.take(record)
    writer.seal()
    assert list(store.records(0)) == [*records, *later[5:]]
    assert writer.gaps == 1


def test_retention_removes_the_oldest_and_never_the_newest(store: SegmentStore) -> None:
    records = chained([b"%d" % n for n in range(5)], step_ms=1_000)
    writer = ArchiveWriter(store, 0)
    writer.open()
    for record in records:
        writer.take(record)
        writer.seal()
    assert writer.retire(before_ms=START_MS + 3_500) == 3
    assert store.first_seqs(0) == [4, 5]
    assert writer.retire(before_ms=START_MS + 1_000_000) == 1
    assert list(store.records(0)) == [records[4]]


def test_a_draft_left_by_a_killed_process_does_not_count(store: SegmentStore, tmp_path: Path) -> None:
    writer = ArchiveWriter(store, 0)
    writer.open()
    records = chained([b"a", b"b"])
    writer.take(records[0])
    writer.seal()
    (tmp_path / "archive" / "s0" / f".{2:020}.seg.abcd.tmp").write_bytes(b"half a segm")
    assert store.first_seqs(0) == [1]
    again = ArchiveWriter(store, 0)
    again.open()
    again.take(records[1])
    again.seal()
    assert list(store.records(0)) == records


def test_decisions_are_found_by_their_place(store: SegmentStore) -> None:
    records = chained([b"a", b"b"], decisions=[[b"x"], [b"y", b"z"]])
    writer = ArchiveWriter(store, 0)
    writer.open()
    for record in records:
        writer.take(record)
    writer.seal()
    found = store.find(0, 2)
    assert found is not None and found.decisions == pack_decisions([b"y", b"z"])


def test_an_unknown_kind_of_store_is_said_at_once() -> None:
    with pytest.raises(ValueError, match="QM_ARCHIVE_URL"):
        SegmentStore("nosuchstore://bucket/folder")


def test_a_store_whose_package_is_missing_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match=r"QM_ARCHIVE_URL: .*s3fs.*quartermaster\[s3\]"):
        SegmentStore("s3://bucket/folder")
