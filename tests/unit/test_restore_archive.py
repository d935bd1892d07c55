"""Which segments of an archive behind a URL stay when an export is restored: those of its own history, up to its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.archive.segment import Record
from engine.archive.store import SegmentStore
from engine.archive.writer import ArchiveWriter
from engine.cli.transfer_archive import ArchiveRestore, Misfit, misfits
from engine.journal.backup import BackupError, EntryRecord, Manifest, SegmentFile, ShardWriter, file_hash
from engine.journal.port import Misconfigured, Tail
from engine.settings import Settings
from tests.archive_entries import chained, chained_to


@pytest.fixture
def store(tmp_path: Path) -> SegmentStore:
    return SegmentStore(f"memory://misfits-{tmp_path.name}")


def archived(store: SegmentStore, records: Sequence[Record], *, ends: Sequence[int], shard: int = 0) -> None:
    """Segments that end with these entries."""
    writer = ArchiveWriter(store, shard)
    writer.open()
    for record in records[writer.archived_seq :]:
        writer.take(record)
        if record.seq in ends:
            writer.seal()


def exported(folder: Path, records: Sequence[Record], *, shard: int = 0) -> Manifest:
    writer = ShardWriter(folder, shard)
    for record in records:
        writer.entry(EntryRecord(*record))
    last = records[-1].unpacked()
    return Manifest(shards=[writer.finish(epoch=1, tail=Tail(last.epoch, last.seq, last.hash, last.time_ms))])


def of_one_history(count: int, *, fork_after: int = 0) -> list[Record]:
    """The same entries up to a fork, others afterwards."""
    records, tail = chained_to([b"%d" % n for n in range(fork_after or count)])
    return records + chained([b"other %d" % n for n in range(fork_after, count)] if fork_after else [], after=tail)


A = of_one_history(100)
B = of_one_history(100, fork_after=50)


@pytest.mark.parametrize(
    ("ends", "first", "last", "goes"),
    [
        ((20, 40, 60), 41, 80, []),  # the archive is behind the export: all of it stays
        ((20, 40, 60), 61, 61, []),  # the journal begins right after it
        ((20, 40, 60), 41, 60, []),  # both end together
        ((20, 40, 60), 21, 50, [41]),  # one ends beyond the export
        ((20, 40, 60, 80), 21, 50, [61, 41]),  # and one lies beyond it: the newest goes first
        ((20, 40), 1, 5, [21, 1]),
        ((20,), 41, 60, []),  # a hole that was there before
        ((), 41, 60, []),
    ],
)
def test_segments_stay_up_to_the_end_of_the_export(
    store: SegmentStore, tmp_path: Path, ends: tuple[int, ...], first: int, last: int, goes: list[int]
) -> None:
    archived(store, A, ends=ends)
    manifest = exported(tmp_path, A[first - 1 : last])
    assert misfits(store, tmp_path, manifest) == [Misfit(0, first_seq) for first_seq in goes]


def test_segments_of_another_history_go_though_the_export_is_longer(store: SegmentStore, tmp_path: Path) -> None:
    """After a restore of an older export, whose engine went on from entry 50."""
    archived(store, B, ends=(20, 40, 60, 70))
    assert misfits(store, tmp_path, exported(tmp_path, A[40:90])) == [Misfit(0, 61), Misfit(0, 41)]


def test_what_only_another_history_has_is_not_taken_away(store: SegmentStore, tmp_path: Path) -> None:
    archived(store, B, ends=(20, 40, 60, 70))
    with pytest.raises(BackupError, match=r"begins with entry 41 is of another history.* begins with entry 46"):
        misfits(store, tmp_path, exported(tmp_path, A[45:90]))


def test_all_segments_of_a_shard_that_the_export_has_not_go(store: SegmentStore, tmp_path: Path) -> None:
    archived(store, A, ends=(20,))
    archived(store, A, ends=(10, 20), shard=7)
    assert misfits(store, tmp_path, exported(tmp_path, A[20:30])) == [Misfit(7, 11), Misfit(7, 1)]


def test_an_export_that_has_its_archive_brings_it_to_a_url(store: SegmentStore, tmp_path: Path) -> None:
    archived(store, B, ends=(60,))
    archived(SegmentStore(str(tmp_path / "archive")), A, ends=(20, 40))
    files = sorted((tmp_path / "archive" / "s0").glob("*.seg"))
    segments = [
        SegmentFile(file=str(path.relative_to(tmp_path)), size_bytes=path.stat().st_size, blake2b=file_hash(path))
        for path in files
    ]
    manifest = Manifest(shards=exported(tmp_path, A[30:50]).shards, segments=segments)
    settings = Settings(data_dir=tmp_path / "data", archive_url=f"memory://misfits-{tmp_path.name}")
    restore = ArchiveRestore(tmp_path, manifest, settings, force=True)
    assert store.first_seqs(0) == [1], "nothing is changed yet"
    restore.run()
    assert list(store.records(0)) == A[:40]
    assert list(SegmentStore(restore.aside).records(0)) == B[:60]
    assert store.shards() == [0], "what is set aside is no part of the archive"


def test_an_archive_that_cannot_be_used_is_said_before_anything_is_changed(tmp_path: Path) -> None:
    manifest = exported(tmp_path, A)
    with pytest.raises(Misconfigured, match="QM_ARCHIVE_URL"):
        ArchiveRestore(tmp_path, manifest, Settings(data_dir=tmp_path, archive_url="nowhere://x"), force=True)
    with_segments = Manifest(
        shards=manifest.shards, segments=[SegmentFile(file="archive/s0/1.seg", size_bytes=1, blake2b="")]
    )
    with pytest.raises(BackupError, match="keeps none"):
        ArchiveRestore(tmp_path, with_segments, Settings(data_dir=tmp_path, archive_url="off"), force=True)
