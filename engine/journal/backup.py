"""The file format of `quartermaster export`: all journals at one moment, in a folder. docs/reference/file-formats.md describes it.

X1  The manifest names every file with its size and BLAKE2b-256, and carries a hash of itself.
X2  Entries, decision records and snapshots are the journal's own bytes, with the journal's own chain and hashes (J3, J6).
X3  All shards are shown at one moment: an order whose legs lie on several shards is in all of them, or in none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from struct import Struct
from typing import IO, Any, NamedTuple

import msgspec
import zstandard

from engine.journal.chain import Verifier, part_hash, unpack_entry
from engine.journal.port import SCHEMA_VERSION, Corrupt, JournalError, PartRef, Tail

FORMAT = 1
MANIFEST = "manifest.json"
LEVEL = 3
RECORD_BYTES_MAX = 1 << 30
_SEGMENT_NAME = re.compile(r"archive/s\d{1,3}/\d{1,20}\.seg")
_LENGTH = Struct(">I")
_ENTRY, _PART = "e", "p"


class BackupError(JournalError):
    """The folder is no export, or not a whole one. Says which file and what is wrong."""


class EntryRecord(NamedTuple):
    """An entry as the journal holds it (packed), and its decision records (packed, b"" = none)."""

    seq: int
    epoch: int
    entry: bytes
    decisions: bytes


class PartRecord(NamedTuple):
    """One snapshot of one part."""

    part: str
    seq: int
    schema: int
    hash: bytes
    data: bytes

    @property
    def ref(self) -> PartRef:
        return PartRef(self.part, self.seq, self.hash, len(self.data), self.schema)


class ShardFile(msgspec.Struct, kw_only=True, frozen=True):
    """A shard in the manifest. `epoch` = the newest one given out; the tail is what the last entry says."""

    shard: int
    file: str
    size_bytes: int
    blake2b: str
    epoch: int
    tail_epoch: int
    tail_seq: int
    tail_time_ms: int
    tail_hash: str
    first_seq: int
    entries: int
    parts: int

    @property
    def tail(self) -> Tail:
        return Tail(self.tail_epoch, self.tail_seq, bytes.fromhex(self.tail_hash), self.tail_time_ms)


class SegmentFile(msgspec.Struct, kw_only=True, frozen=True):
    """A segment of the archive, as it is (docs/reference/archive.md). `file` = archive/sSHARD/NAME.seg."""

    file: str
    size_bytes: int
    blake2b: str


class Manifest(msgspec.Struct, kw_only=True, frozen=True):
    format: int = FORMAT
    schema: int = SCHEMA_VERSION
    version: str = ""
    """Of the software that wrote it."""
    made_at: str = ""
    shards: list[ShardFile] = []
    segments: list[SegmentFile] = []
    """Of the archive, where it is a folder."""
    blake2b: str = ""
    """Over the manifest with this field empty."""


class ShardWriter:
    """Writes one shard's file; `finish` tells what the manifest says of it."""

    def __init__(self, folder: Path, shard: int) -> None:
        self._shard = shard
        self._path = folder / f"shard-{shard}.zst"
        self._digest = blake2b(digest_size=32)
        descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        self._file: IO[bytes] = os.fdopen(descriptor, "wb")
        self._zstd = zstandard.ZstdCompressor(level=LEVEL).compressobj()
        self.entries = 0
        self.parts = 0
        self.first_seq = 0

    def entry(self, record: EntryRecord) -> None:
        self.first_seq = self.first_seq or record.seq
        self.entries += 1
        self._put((_ENTRY, *record))

    def part(self, record: PartRecord) -> None:
        self.parts += 1
        self._put((_PART, *record))

    def _put(self, row: tuple[Any, ...]) -> None:
        packed = msgspec.msgpack.encode(row)
        self._write(self._zstd.compress(_LENGTH.pack(len(packed)) + packed))

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)

    def finish(self, *, epoch: int, tail: Tail) -> ShardFile:
        self._write(self._zstd.flush())
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.tell()
        self._file.close()
        return ShardFile(
            shard=self._shard,
            file=self._path.name,
            size_bytes=size,
            blake2b=self._digest.hexdigest(),
            epoch=epoch,
            tail_epoch=tail.epoch,
            tail_seq=tail.seq,
            tail_time_ms=tail.time_ms,
            tail_hash=tail.hash.hex(),
            first_seq=self.first_seq,
            entries=self.entries,
            parts=self.parts,
        )

    def abandon(self) -> None:
        """Close and remove what was written."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Last of all: a folder without it is no export."""
    signed = msgspec.structs.replace(manifest, blake2b=_manifest_hash(manifest))
    part = folder / f"{MANIFEST}.part"
    part.touch(mode=0o600)
    part.write_bytes(msgspec.json.format(msgspec.json.encode(signed)) + b"\n")
    part.rename(folder / MANIFEST)


def read_manifest(folder: Path) -> Manifest:
    """Raises BackupError: no manifest, a changed one, or of a newer format or schema."""
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise BackupError(f"{folder} has no {MANIFEST}: it is no export, or one that did not end") from error
    except (OSError, msgspec.MsgspecError) as error:
        raise BackupError(f"{path} cannot be read: {error}") from error
    if manifest.format > FORMAT or manifest.schema > SCHEMA_VERSION:
        raise BackupError(
            f"{path} is of format {manifest.format}, schema {manifest.schema}; this version reads {FORMAT}, {SCHEMA_VERSION}"
        )
    if _manifest_hash(manifest) != manifest.blake2b:
        raise BackupError(f"{path} was changed: it does not hash to what it says")
    if not manifest.shards or any(Path(one.file).name != one.file for one in manifest.shards):
        raise BackupError(f"{path} names no shards, or files outside its folder")
    if not all(_SEGMENT_NAME.fullmatch(one.file) for one in manifest.segments):
        raise BackupError(f"{path} names segments outside its folder")
    return manifest


def _manifest_hash(manifest: Manifest) -> str:
    bare = msgspec.structs.replace(manifest, blake2b="")
    return blake2b(msgspec.json.encode(bare), digest_size=32).hexdigest()


def records(folder: Path, shard: ShardFile) -> Iterator[EntryRecord | PartRecord]:
    """Everything of one shard, in the order in which it was written. Raises BackupError."""
    path = folder / shard.file
    try:
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            while head := _exactly(stream, _LENGTH.size, path):
                (size,) = _LENGTH.unpack(head)
                if size > RECORD_BYTES_MAX:
                    raise BackupError(f"{path} has a record of {size} bytes")
                kind, *row = msgspec.msgpack.decode(_exactly(stream, size, path))
                yield EntryRecord(*row) if kind == _ENTRY else PartRecord(*row)
    except (OSError, zstandard.ZstdError, msgspec.MsgspecError, TypeError, ValueError) as error:
        raise BackupError(f"{path} cannot be read: {error}") from error


def _exactly(stream: Any, size: int, path: Path) -> bytes:
    """`size` bytes, or none at all at the end."""
    chunks, left = [], size
    while left:
        chunk = stream.read(left)
        if not chunk:
            break
        chunks.append(chunk)
        left -= len(chunk)
    if left and left != size:
        raise BackupError(f"{path} is cut short")
    return b"".join(chunks)


def check(folder: Path, shard: ShardFile) -> Iterator[int]:
    """Verify a shard's file whole: its hash, the chain of its entries, its snapshots. Yields records checked so far.

    Raises BackupError, Corrupt, Misconfigured.
    """
    path = folder / shard.file
    check_hash(path, shard.blake2b)
    verifier = Verifier(after_seq=shard.first_seq - 1)
    entries = parts = 0
    for record in records(folder, shard):
        if isinstance(record, EntryRecord):
            verifier.check(unpack_entry(record.epoch, record.seq, record.entry))
            entries += 1
        else:
            if part_hash(record.part, record.seq, record.schema, record.data) != record.hash:
                raise Corrupt(f"the snapshot of {record.part} at {record.seq} in {path} is damaged")
            parts += 1
        if (entries + parts) % 256 == 0:
            yield entries + parts
    verifier.check_end(shard.tail)
    if (entries, parts) != (shard.entries, shard.parts):
        raise BackupError(f"{path} has {entries} entries and {parts} snapshots, the manifest says otherwise")
    yield entries + parts


def check_hash(path: Path, expected: str) -> None:
    """Raises BackupError where a file is not what the manifest says."""
    if file_hash(path) != expected:
        raise BackupError(f"{path} was changed: it does not hash to what the manifest says")


def file_hash(path: Path) -> str:
    """BLAKE2b-256 of a file, in hex. Raises BackupError where it cannot be read."""
    digest = blake2b(digest_size=32)
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise BackupError(f"{path} cannot be read: {error}") from error
    return digest.hexdigest()
