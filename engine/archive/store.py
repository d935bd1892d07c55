"""Where segments are kept: a folder, or any store that fsspec has a URL for (s3://bucket/folder, memory://...).

W1  A segment is created whole or not at all, and never replaced: its name is its first entry, and creating a name that is there
    fails. Two archivers (one of them a zombie) can therefore not fork a shard's chain.
W2  It counts once it was read back and verified; on a local disk it is fsynced before it gets its name.
W3  Where an archive ends is what its newest segment says. There is no other cursor to lose or to contradict it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from engine.archive.segment import (
    BLOCK_ROW_BYTES,
    HEAD_BYTES,
    NO_SEGMENT,
    Head,
    Record,
    Segment,
    block_of,
    decompress,
    read_head,
    read_table,
    records_of,
)
from engine.journal.port import Corrupt, Unavailable

SUFFIX = ".seg"
_DIGITS = 20


class Exists(Exception):
    """Somebody else has written the segment that begins there."""


class SegmentStore:
    """Segments of all shards under one URL. Calls block: use it from a thread. Raises Unavailable where the store cannot be reached."""

    def __init__(self, url: str) -> None:
        """Raises ValueError for a URL that no file system is known for, or whose package is not installed."""
        try:
            self._fs, root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            extra = "; it comes with quartermaster[s3]" if url.startswith(("s3:", "s3a:")) else ""
            raise ValueError(f"QM_ARCHIVE_URL: {error}{extra}") from error
        except ValueError as error:
            raise ValueError(f"QM_ARCHIVE_URL: {error}") from error
        self._root: str = root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)

    def _folder(self, shard: int) -> str:
        return f"{self._root}/s{shard}"

    def _path(self, shard: int, first_seq: int) -> str:
        return f"{self._folder(shard)}/{first_seq:0{_DIGITS}}{SUFFIX}"

    def first_seqs(self, shard: int) -> list[int]:
        """First entries of the segments of a shard, ascending."""
        stems = self._names(self._folder(shard))
        return sorted(
            int(stem[:_DIGITS])
            for stem in stems
            if len(stem) == _DIGITS + len(SUFFIX) and stem.endswith(SUFFIX) and stem[:_DIGITS].isdecimal()
        )

    def shards(self) -> list[int]:
        """Shards that have a folder here."""
        stems = self._names(self._root)
        return sorted(int(stem[1:]) for stem in stems if stem[:1] == "s" and stem[1:].isdecimal())

    def create(self, shard: int, first_seq: int, data: bytes) -> None:
        """W1, W2. Raises Exists, Unavailable, Corrupt (it does not read back as written)."""
        path = self._path(shard, first_seq)
        with _or_unavailable("written"):
            try:
                if self._local:
                    _create_durably(Path(path), data)
                else:
                    self._fs.makedirs(self._folder(shard), exist_ok=True)
                    self._fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                raise Exists(path) from None
            except OSError:
                # Of a name that is taken not every store says FileExistsError: s3fs says so of Amazon's answer only.
                if not self._is_there(path):
                    raise
                raise Exists(path) from None
        if self._read(path) != data:
            raise Corrupt(f"{path} does not read back as it was written")

    def load(self, shard: int, first_seq: int) -> Segment:
        """Raises Corrupt, Unavailable."""
        segment = Segment(self._read(self._path(shard, first_seq)))
        if (segment.head.shard, segment.head.first_seq) != (shard, first_seq):
            raise Corrupt(
                f"the segment named {first_seq} of shard {shard} holds {segment.head.first_seq} of {segment.head.shard}"
            )
        return segment

    def head(self, shard: int, first_seq: int) -> Head:
        """What a segment says of itself, without the rest of it."""
        return read_head(self._read(self._path(shard, first_seq), 0, HEAD_BYTES))

    def remove(self, shard: int, first_seq: int) -> None:
        """For retention: the oldest go first, so that the chain has no hole."""
        with _or_unavailable("written"):
            try:
                self._fs.rm_file(self._path(shard, first_seq))
            except FileNotFoundError:
                pass

    def set_aside(self, shard: int, first_seq: int, folder: str) -> None:
        """Move a segment to a folder below the archive, where nobody looks for it. The newest go first, so that the chain has no hole."""
        path, target = self._path(shard, first_seq), f"{self._root}/{folder}/s{shard}"
        with _or_unavailable("written"):
            self._fs.makedirs(target, exist_ok=True)
            self._fs.mv(path, f"{target}/{path.rpartition('/')[2]}")

    def records(self, shard: int, *, after_seq: int = 0) -> Iterator[Record]:
        """All entries after a sequence, the chain of segments verified. Raises Corrupt, Unavailable."""
        names = self.first_seqs(shard)
        prev_hash: bytes | None = None
        for n, first_seq in enumerate(names):
            if n + 1 < len(names) and names[n + 1] <= after_seq + 1:
                continue
            segment = self.load(shard, first_seq)
            if prev_hash is not None and segment.head.prev_hash != prev_hash:
                raise Corrupt(f"the segment {first_seq} of shard {shard} does not follow the one before it")
            if n == 0 and first_seq == 1 and segment.head.prev_hash != NO_SEGMENT:
                raise Corrupt(f"the first segment of shard {shard} follows another one")
            segment.check_entries()
            prev_hash = segment.hash
            yield from segment.records(after_seq=after_seq)

    def find(self, shard: int, seq: int) -> Record | None:
        """One entry, by reading its block only; None where the archive does not hold it. Raises Corrupt, Unavailable."""
        names = self.first_seqs(shard)
        candidates = [first_seq for first_seq in names if first_seq <= seq]
        if not candidates:
            return None
        path = self._path(shard, candidates[-1])
        head = read_head(self._read(path, 0, HEAD_BYTES))
        if seq > head.last_seq:
            return None
        table = self._read(path, HEAD_BYTES, HEAD_BYTES + head.blocks * BLOCK_ROW_BYTES)
        block = block_of(read_table(head, table), seq)
        if block is None:
            return None
        raw = decompress(self._read(path, block.offset, block.offset + block.size_bytes), block.raw_bytes)
        return next((record for record in records_of(raw) if record.seq == seq), None)

    def _read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        with _or_unavailable("read"):
            try:
                data: Any = self._fs.cat_file(path, start=start, end=end)
            except FileNotFoundError as error:
                raise Unavailable(f"{path} is not there any more") from error
        return bytes(data)

    def _names(self, folder: str) -> list[str]:
        """What is in a folder, without its path; nothing where there is no such folder."""
        with _or_unavailable("listed"):
            try:
                self._fs.invalidate_cache()
                names = self._fs.ls(folder, detail=False)
            except FileNotFoundError:
                return []
        return [str(name).rstrip("/").rpartition("/")[2] for name in names]

    def _is_there(self, path: str) -> bool:
        self._fs.invalidate_cache()
        return bool(self._fs.exists(path))


@contextmanager
def _or_unavailable(done: str) -> Iterator[None]:
    """Unavailable for whatever a store raises: its client may have a tree of errors of its own (botocore's are no OSErrors)."""
    try:
        yield
    except (Exists, Unavailable):
        raise
    except Exception as error:
        raise Unavailable(f"the archive cannot be {done}: {error}") from error


def _create_durably(path: Path, data: bytes) -> None:
    """A new file that is whole and on the disk before it has its name. Raises FileExistsError, OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        with open(draft, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # unlike a rename it never replaces
    finally:
        draft.unlink(missing_ok=True)
    for folder in (path.parent, path.parent.parent):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
