"""All journals of a server out to a folder, and back into an empty server. The shards need not stop for the first.

T1  The moment of an export is one transaction of the server, which reads every shard's tail and snapshot references. Entries never change,
    so nearly all are copied before it, which may take long. After it come first the snapshots, because a busy part's are replaced within
    seconds, then the entries that are new. Where trimming was faster the export begins anew.
T2  A restore checks every byte before it writes the first, and writes each shard's tail last: a half-restored shard does not start.
T3  A restored shard's epoch is above every epoch given out before, so a copy of the old engine that still runs somewhere is fenced.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from engine.journal.backup import (
    EntryRecord,
    Manifest,
    PartRecord,
    SegmentFile,
    ShardFile,
    ShardWriter,
    check,
    check_hash,
    read_manifest,
    records,
    write_manifest,
)
from engine.journal.chain import Verifier, pack_refs, pack_tail, part_hash, unpack_entry, unpack_refs, unpack_tail
from engine.journal.connection import Connection, connect, parse_url
from engine.journal.keys import Keys
from engine.journal.port import Corrupt, JournalError, PartRef, Tail

TIMEOUT_S = 60.0
PAGE_ENTRIES = 256
CHUNK_BYTES = 1024 * 1024
ATTEMPTS = 5
ROUNDS_BEFORE = 3
"""Of copying entries before the moment. The first may take minutes, the last one copies what came in during the one before it."""
PARTS_AT_ONCE = 8
WRITE_AHEAD = 128

Segments = Callable[[dict[int, int]], list[SegmentFile]]
"""Copies the archive's segments up to a sequence of each shard."""
Progress = Callable[[str, int, int], None]
"""(what, done, total)"""


class NotEmpty(JournalError):
    """The server to restore to has journals already."""


class NothingThere(JournalError):
    """The server has no journals to export."""


class _Moment(NamedTuple):
    """One shard as the transaction saw it."""

    shard: int
    epoch: int
    tail: Tail
    refs: dict[str, list[PartRef]]


async def export_all(
    url: str, folder: Path, *, version: str, segments: Segments = lambda _: [], progress: Progress = lambda *_: None
) -> Manifest:
    """Write all journals of a server, and the archive behind them, into an empty folder. Raises JournalError and its kind.

    The archive is copied after the moment: what the journal had trimmed by then is in segments by then.
    """
    connection = await connect(parse_url(url), timeout_s=TIMEOUT_S, name="qm-export")
    try:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                made_at, files = await _write_shards(connection, folder, progress)
            except Corrupt:
                if attempt == ATTEMPTS:
                    raise
                continue  # T1: trimmed under our hands
            copied = segments({one.shard: one.tail_seq for one in files})
            manifest = Manifest(version=version, made_at=made_at, shards=files, segments=copied)
            write_manifest(folder, manifest)
            return read_manifest(folder)
        raise AssertionError("the loop above returns or raises")
    finally:
        connection.close()


async def _shards(connection: Connection) -> list[int]:
    """Numbers of the shards that the server has something of."""
    found: set[int] = set()
    cursor = b"0"
    while True:
        cursor, keys = await connection.call("SCAN", cursor, "MATCH", "qm:{s*}:*", "COUNT", 1_000)
        for key in keys:
            number = re.match(rb"qm:\{s(\d+)\}:", key)
            if number is not None:
                found.add(int(number[1]))
        if cursor == b"0":
            return sorted(found)


async def _moment(connection: Connection) -> list[_Moment]:
    """T1."""
    shards = await _shards(connection)
    if not shards:
        raise NothingThere("the server has no journals")
    calls = [connection.call("MULTI")]
    for shard in shards:
        keys = Keys(shard)
        calls += [
            connection.call("HMGET", keys.meta, "e", "t"),
            connection.call("HGETALL", keys.parts),
        ]
    *_, replies = await asyncio.gather(*calls, connection.call("EXEC"))
    moments = []
    for n, shard in enumerate(shards):
        (epoch, tail), flat = replies[2 * n : 2 * n + 2]
        if tail is None:
            continue  # taken over once, and nothing was ever written
        names = [name.decode() for name in flat[::2]]
        refs = {name: unpack_refs(name, packed) for name, packed in zip(names, flat[1::2], strict=True)}
        moments.append(_Moment(shard, int(epoch), unpack_tail(tail), refs))
    if not moments:
        raise NothingThere("the server has no journals")
    return moments


async def _write_shards(connection: Connection, folder: Path, progress: Progress) -> tuple[str, list[ShardFile]]:
    """T1. Returns when the moment was. Raises Corrupt where something is damaged, or was trimmed or replaced meanwhile."""
    copies: dict[int, _ShardCopy] = {}

    def copy_of(moment: _Moment) -> _ShardCopy:
        if moment.shard not in copies:
            copies[moment.shard] = _ShardCopy(connection, folder, moment.shard, progress)
        return copies[moment.shard]

    try:
        for _ in range(ROUNDS_BEFORE):
            for moment in await _moment(connection):
                await copy_of(moment).entries(moment.tail)
        moments = await _moment(connection)
        made_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        for moment in moments:
            await copy_of(moment).snapshots(moment.refs)
        for moment in moments:
            await copy_of(moment).entries(moment.tail)
        return made_at, [copy_of(moment).finish(moment) for moment in moments]
    except BaseException:
        for copy in copies.values():
            copy.abandon()
        raise


class _ShardCopy:
    """One shard on its way into its file."""

    def __init__(self, connection: Connection, folder: Path, shard: int, progress: Progress) -> None:
        self._call = connection.call
        self._keys = Keys(shard)
        self._name = _name(shard)
        self._progress = progress
        self._writer = ShardWriter(folder, shard)
        self._verifier = Verifier(after_seq=0)
        self._seq = 0
        """Of the newest entry that was written; 0 = none was."""

    async def entries(self, tail: Tail) -> None:
        """Write those up to a tail that are not written yet, at first from the oldest that is there."""
        writer, keys = self._writer, self._keys
        while self._seq < tail.seq:
            page, decided = await asyncio.gather(
                self._call("XRANGE", keys.entries, self._seq + 1, tail.seq, "COUNT", PAGE_ENTRIES),
                self._call("XRANGE", keys.decisions, self._seq + 1, tail.seq, "COUNT", PAGE_ENTRIES),
            )
            decisions = {entry_id: fields[1] for entry_id, fields in decided}
            if not page:
                break
            for entry_id, fields in page:
                seq, epoch = (int(number) for number in entry_id.split(b"-"))
                if not self._seq:
                    self._verifier = Verifier(after_seq=seq - 1)
                self._verifier.check(unpack_entry(epoch, seq, fields[1]))
                writer.entry(EntryRecord(seq, epoch, fields[1], decisions.get(entry_id, b"")))
                self._seq = seq
            self._progress(self._name, self._seq - writer.first_seq + 1, tail.seq - writer.first_seq + 1)

    async def snapshots(self, refs: dict[str, list[PartRef]]) -> None:
        """Write all snapshots, those first that are replaced first."""
        newest_first = sorted(refs.items(), key=lambda part: (-part[1][0].seq, part[0]))
        for start in range(0, len(newest_first), PARTS_AT_ONCE):
            some = [held for _, held in newest_first[start : start + PARTS_AT_ONCE]]
            for found in await asyncio.gather(*map(self._part, some)):
                for record in found:
                    self._writer.part(record)

    async def _part(self, refs: list[PartRef]) -> list[PartRecord]:
        """The snapshots of a part, the older one first, so that a restore publishes them in order. That one may be gone already."""
        newest, *older = await asyncio.gather(*map(self._snapshot, refs))
        if newest is None:
            raise Corrupt(f"the snapshot of {refs[0].part} at {refs[0].seq} was replaced before it was read")
        return [record for record in (*reversed(older), newest) if record is not None]

    async def _snapshot(self, ref: PartRef) -> PartRecord | None:
        """None = newer ones have replaced it."""
        key = self._keys.snapshot(ref.part, ref.seq)
        chunks = [
            await self._call("GETRANGE", key, start, start + CHUNK_BYTES - 1)
            for start in range(0, ref.size_bytes, CHUNK_BYTES)
        ]
        data = b"".join(chunks)
        if part_hash(ref.part, ref.seq, ref.schema, data) == ref.hash:
            return PartRecord(ref.part, ref.seq, ref.schema, ref.hash, data)
        held = await self._call("HGET", self._keys.parts, ref.part)
        if held is not None and ref in unpack_refs(ref.part, held):
            raise Corrupt(f"the snapshot of {ref.part} at {ref.seq} is damaged")
        return None

    def finish(self, moment: _Moment) -> ShardFile:
        self._verifier.check_end(moment.tail)
        return self._writer.finish(epoch=moment.epoch, tail=moment.tail)

    def abandon(self) -> None:
        self._writer.abandon()


def verify_export(folder: Path, *, progress: Progress = lambda *_: None) -> Manifest:
    """T2: every hash of every file. Raises BackupError, Corrupt, Misconfigured."""
    manifest = read_manifest(folder)
    for shard in manifest.shards:
        for done in check(folder, shard):
            progress(f"checking {_name(shard.shard)}", done, shard.entries + shard.parts)
    for n, segment in enumerate(manifest.segments, 1):
        check_hash(folder / segment.file, segment.blake2b)
        progress("checking the archive", n, len(manifest.segments))
    return manifest


async def restore_all(
    url: str,
    folder: Path,
    *,
    force: bool,
    archive: Callable[[], object] = lambda: None,
    progress: Progress = lambda *_: None,
) -> Manifest:
    """Put an export into a server. Raises NotEmpty (without `force`), BackupError, Corrupt, JournalError.

    `archive` brings the archive to where the export is. It is called while the server has no journal: no shard ever starts that
    the archive does not fit.
    """
    manifest = verify_export(folder, progress=progress)
    connection = await connect(parse_url(url), timeout_s=TIMEOUT_S, name="qm-restore")
    try:
        there = await _shards(connection)
        if there and not force:
            raise NotEmpty(f"the server has journals of shards {', '.join(map(str, there))}")
        epochs = await _given_out(connection, there)
        for shard in there:
            await _remove(connection, shard)
        archive()
        for one in manifest.shards:
            await _put_shard(connection, folder, one, max(epochs.get(one.shard, 0), one.epoch), progress)
        return manifest
    finally:
        connection.close()


async def _given_out(connection: Connection, shards: list[int]) -> dict[int, int]:
    found = {shard: await connection.call("HGET", Keys(shard).meta, "e") for shard in shards}
    return {shard: int(epoch) for shard, epoch in found.items() if epoch is not None}


async def _remove(connection: Connection, shard: int) -> None:
    """Every key of a shard, its tail first: a restore that breaks off here leaves nothing that would start."""
    await connection.call("DEL", Keys(shard).meta)
    cursor = b"0"
    while True:
        cursor, keys = await connection.call("SCAN", cursor, "MATCH", f"qm:{{s{shard}}}:*", "COUNT", 1_000)
        if keys:
            await connection.call("UNLINK", *keys)
        if cursor == b"0":
            return


async def _put_shard(connection: Connection, folder: Path, one: ShardFile, epoch: int, progress: Progress) -> None:
    keys = Keys(one.shard)
    refs: dict[str, list[PartRef]] = {}
    waiting: list[Any] = []
    done = 0
    for record in records(folder, one):
        if isinstance(record, EntryRecord):
            entry_id = f"{record.seq}-{record.epoch}"
            waiting.append(connection.call("XADD", keys.entries, entry_id, "e", record.entry))
            if record.decisions:
                waiting.append(connection.call("XADD", keys.decisions, entry_id, "d", record.decisions))
        else:
            key = keys.snapshot(record.part, record.seq)
            for start in range(0, len(record.data), CHUNK_BYTES):
                await connection.call("SETRANGE", key, start, record.data[start : start + CHUNK_BYTES])
            refs[record.part] = [record.ref, *refs.get(record.part, [])][:2]
        done += 1
        if len(waiting) >= WRITE_AHEAD:
            await asyncio.gather(*waiting)
            waiting.clear()
            progress(f"writing {_name(one.shard)}", done, one.entries + one.parts)
    await asyncio.gather(*waiting)
    for part, kept in refs.items():
        await connection.call("HSET", keys.parts, part, pack_refs(kept))
    epoch = max(epoch + 1, int(time.time()))  # T3
    await connection.call("HSET", keys.meta, "e", str(epoch), "o", "restored", "t", pack_tail(one.tail))
    progress(f"writing {_name(one.shard)}", done, done)


def _name(shard: int) -> str:
    return "the control shard" if shard == 255 else f"shard {shard}"
