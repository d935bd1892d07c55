"""The archive's part of an export and of a restore.

An archive in a folder travels: its segments are files of their own, copied as they are. One behind a URL stays where it is: it is
safe there, and may be larger than any disk here.

R1  A restored journal meets an archive that it can go on from: segments of its own history, none of which ends beyond it. The index is
    made anew from the two.
R2  Behind a URL no segment is ever removed: those that the export does not lead up to are set aside, below the archive.
R3  What cannot be so is said before anything is changed.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from engine.archive.index import connect_index, drop_tables, is_empty
from engine.archive.places import archive_url, index_url
from engine.archive.segment import HEAD_BYTES, Head, read_head
from engine.archive.store import SUFFIX, Exists, SegmentStore
from engine.journal.backup import BackupError, EntryRecord, Manifest, SegmentFile, ShardFile, file_hash, records
from engine.journal.chain import unpack_entry
from engine.journal.port import Misconfigured
from engine.journal.transfer import NotEmpty
from engine.settings import Settings

FOLDER = "archive"


def archive_folder(settings: Settings) -> Path | None:
    """Where the segments are; None where nothing is archived, or not into a folder."""
    if not settings.archives:
        return None
    url = archive_url(settings)
    return Path(url.removeprefix("file://")) if "://" not in url.removeprefix("file://") else None


def copy_segments(source: Path | None, target: Path, up_to_seqs: dict[int, int]) -> list[SegmentFile]:
    """Segments that end at the moment of the export or before. One that goes on beyond it is left out: the journal has its entries."""
    copied: list[SegmentFile] = []
    if source is None:
        return copied
    for shard, up_to_seq in sorted(up_to_seqs.items()):
        for path in sorted((source / f"s{shard}").glob(f"*{SUFFIX}")):
            with path.open("rb") as file:
                head = read_head(file.read(HEAD_BYTES))
            if head.last_seq > up_to_seq:
                continue
            name = f"{FOLDER}/s{shard}/{path.name}"
            (target / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
            copied.append(
                SegmentFile(file=name, size_bytes=(target / name).stat().st_size, blake2b=file_hash(target / name))
            )
    return copied


def _is_no_file(index: sa.Engine) -> bool:
    """Whether it would be one of SQLite that is not there: asking would make it (R3)."""
    return index.dialect.name == "sqlite" and not Path(str(index.url.database)).exists()


class Misfit(NamedTuple):
    """A segment that cannot stay (R1)."""

    shard: int
    first_seq: int


class ArchiveRestore:
    """Brings this engine's archive and index to where an export's journals are. Making one changes nothing (R3); `run` does.

    Raises NotEmpty (without `force`), BackupError, Misconfigured, Unavailable, Corrupt.
    """

    def __init__(self, source: Path, manifest: Manifest, settings: Settings, *, force: bool) -> None:
        self._source = source
        self._manifest = manifest
        self._settings = settings
        self._folder = archive_folder(settings)
        self._misfits: list[Misfit] = []
        self._index: sa.Engine | None = None
        """A database of the operator's own."""
        self.aside = ""
        """Where segments were set aside; "" = there were none."""
        if not settings.archives:
            if manifest.segments:
                raise BackupError("the export has an archive, and this engine keeps none: unset QM_ARCHIVE_URL")
            return
        try:
            self._store = SegmentStore(archive_url(settings))
            if settings.index_url is not None:
                self._index = connect_index(index_url(settings), readers=1)
        except ValueError as error:
            raise Misconfigured(str(error)) from error
        if not force:
            self._refuse_others()
        if self._folder is None:
            self._misfits = misfits(self._store, source, manifest)

    def _refuse_others(self) -> None:
        """Raises NotEmpty: another engine may be writing what is there."""
        if any(self._store.first_seqs(shard) for shard in self._store.shards()):
            raise NotEmpty(
                "the archive has segments" if self._folder else f"{archive_url(self._settings)} has segments"
            )
        if self._index is not None and not _is_no_file(self._index) and not is_empty(self._index):
            raise NotEmpty("the database of QM_INDEX_URL has an index")

    def run(self) -> None:
        """Raises Unavailable, Corrupt."""
        if not self._settings.archives:
            return
        for path in self._settings.data_dir.glob("index.db*"):
            path.unlink()
        if self._index is not None:
            drop_tables(self._index)
            self._index.dispose()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._misfits:
            name = time.strftime("aside-%Y%m%dT%H%M%SZ", time.gmtime())
            self.aside = f"{archive_url(self._settings)}/{name}"
            for misfit in self._misfits:
                self._store.set_aside(misfit.shard, misfit.first_seq, name)
        for segment in self._manifest.segments:
            path = Path(segment.file)
            try:
                self._store.create(int(path.parent.name[1:]), int(path.stem), (self._source / path).read_bytes())
            except Exists as error:
                raise BackupError(f"another engine still archives to {archive_url(self._settings)}: {error}") from error


def misfits(store: SegmentStore, source: Path, manifest: Manifest) -> list[Misfit]:
    """Segments that must go before the export's journals and segments come, those of a shard newest first.

    Raises BackupError where one that must go is the only one to have entries before the export's journal.
    """
    exported = {} if manifest.segments else {one.shard: one for one in manifest.shards}
    found = []
    for shard in store.shards():
        first_seqs = store.first_seqs(shard)
        stay = _staying(store, source, exported[shard], first_seqs) if shard in exported else 0
        found += [Misfit(shard, first_seq) for first_seq in reversed(first_seqs[stay:])]
    return found


def _staying(store: SegmentStore, source: Path, one: ShardFile, first_seqs: list[int]) -> int:
    """How many of a shard's segments the exported journal goes on from: up to one that ends with an entry that this journal follows.

    Where all end before its first entry nothing can be compared: the archive has that hole already.
    """
    begins = one.first_seq or one.tail_seq + 1
    heads: list[Head] = []  # of those whose end the journal knows, newest first
    for first_seq in reversed([first_seq for first_seq in first_seqs if first_seq <= one.tail_seq]):
        head = store.head(one.shard, first_seq)
        if head.last_seq < begins - 1:
            break
        heads.append(head)
    hashes = _hashes(source, one, {head.last_seq for head in heads})
    for head in heads:
        if hashes.get(head.last_seq) == head.last_entry_hash:
            return first_seqs.index(head.first_seq) + 1
    if heads and heads[-1].first_seq < begins:
        raise BackupError(
            f"shard {one.shard}: the segment that begins with entry {heads[-1].first_seq} is of another history than the export, "
            f"whose journal begins with entry {begins}: choose a QM_ARCHIVE_URL that has the segments before it, or is empty"
        )
    return len([first_seq for first_seq in first_seqs if first_seq <= one.tail_seq]) - len(heads)


def _hashes(source: Path, one: ShardFile, wanted: set[int]) -> dict[int, bytes]:
    """Of entries of the export and of the one before them."""
    found = {one.tail_seq: one.tail.hash}
    for record in records(source, one) if wanted - found.keys() else ():
        if isinstance(record, EntryRecord) and record.seq - 1 in wanted:
            found[record.seq - 1] = unpack_entry(record.epoch, record.seq, record.entry).prev_hash
    return found
