"""A shard's journal in Redis or Valkey. Layout and functions: functions.lua; what is promised: port.py.

Two connections, neither with retries: one carries appends and nothing else, one everything that may be slow. Both are opened when
first needed and again after a failure; the append connection proves the server's durability each time before it is used.
A journal is used by one task for appends, and by any number for the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Literal

import msgspec

from engine.journal import redis_server
from engine.journal.chain import (
    EPOCH_BEGIN,
    PART_SCHEMA,
    Verifier,
    next_tail,
    pack_decisions,
    pack_entry,
    pack_refs,
    pack_tail,
    part_digest,
    part_hash,
    trim_bound,
    unpack_decision,
    unpack_entry,
    unpack_refs,
    unpack_tail,
)
from engine.journal.connection import Address, Arg, Connection, LibraryMissing, connect, pack, parse_url
from engine.journal.keys import Keys
from engine.journal.port import (
    PAYLOAD_BYTES_MAX,
    Acquired,
    Appended,
    ArchiveCursor,
    Behind,
    Conflict,
    Corrupt,
    Entry,
    Fenced,
    Full,
    JournalError,
    PartRef,
    Tail,
    Unavailable,
)

CHUNK_BYTES = 1024 * 1024
STAGING_TTL_MS = 600_000
READ_ENTRIES = 64
TRIM_ENTRIES = 1_000
_OK, _DUP, _FENCED, _BEHIND, _CONFLICT, _FULL = range(1, 7)


class RedisJournal:
    """`Journal` of one shard. `durability="unverified"` also takes servers that cannot be proven to fsync before they answer."""

    def __init__(
        self,
        url: str,
        shard: int,
        *,
        durability: Literal["always", "unverified"] = "always",
        append_timeout_s: float = 5.0,
        read_timeout_s: float = 10.0,
    ) -> None:
        self._address: Address = parse_url(url)
        self._shard = shard
        self._keys = Keys(shard)
        self._must_be_durable = durability == "always"
        self._append_timeout_s = append_timeout_s
        self._read_timeout_s = read_timeout_s
        self._append_to: Connection | None = None
        self._read_from: Connection | None = None
        self._opening = asyncio.Lock()
        self._epoch = 0
        self._epoch_text = b"0"
        self._first_seq = 1
        self._closed = False
        self._append_head: tuple[Arg, ...] = (
            b"FCALL",
            b"qm1_append",
            b"3",
            self._keys.meta,
            self._keys.entries,
            self._keys.decisions,
        )

    # -- taking over ----------------------------------------------------------------------------------------------

    async def acquire(self, owner_nonce: str, addresses: Sequence[str]) -> Acquired:
        """Fence every older copy, then write the entry that begins the epoch. Safe to repeat with the same nonce.

        Raises Unavailable, Misconfigured, Fenced (a still newer copy came between).
        """
        connection = await self._appends()
        packed = msgspec.msgpack.encode(list(addresses))
        reply = await self._fcall(connection, "qm1_acquire", (self._keys.meta,), (owner_nonce, packed))
        server_time_ms, self._epoch = int(reply[1]), int(reply[2])
        self._epoch_text = b"%d" % self._epoch
        tail = unpack_tail(reply[3])
        if tail.epoch > self._epoch:
            raise Corrupt(f"the journal is in epoch {tail.epoch}, newer than the one just given out, {self._epoch}")
        if tail.epoch < self._epoch:
            time_ms = max(tail.time_ms, server_time_ms)
            tail = (await self._append(tail, time_ms, EPOCH_BEGIN, (), finishing=True)).tail
        reads = await self._reads()
        first = await reads.call("XRANGE", self._keys.entries, "-", "+", "COUNT", 1)
        self._first_seq = _id(first[0][0])[0] if first else tail.seq + 1
        return Acquired(self._epoch, tail, self._first_seq, server_time_ms)

    async def check_epoch(self) -> bool:
        reads = await self._reads()
        reply = await self._fcall(reads, "qm1_check_epoch", (self._keys.meta,), (self._epoch_text,), read_only=True)
        if reply[0] == _BEHIND:
            raise Behind(f"shard {self._shard}: the server is in epoch {reply[2]}, older than {self._epoch}")
        return bool(reply[0] == _OK)

    # -- appending ------------------------------------------------------------------------------------------------

    async def append(
        self, after: Tail, *, time_ms: int, payload: bytes, decisions: Sequence[bytes], finishing: bool = False
    ) -> Appended:
        return await self._append(after, time_ms, payload, decisions, finishing)

    async def _append(
        self, after: Tail, time_ms: int, payload: bytes, decisions: Sequence[bytes], finishing: bool
    ) -> Appended:
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise ValueError(f"an entry of {len(payload)} bytes; the limit is {PAYLOAD_BYTES_MAX}")
        tail = next_tail(after, epoch=self._epoch, time_ms=time_ms, payload=payload)
        packed = pack(
            (
                *self._append_head,
                self._epoch_text,
                pack_tail(after),
                pack_tail(tail),
                b"%d-%d" % (tail.seq, tail.epoch),
                pack_entry(after.hash, tail, payload),
                b"1" if finishing else b"0",
                pack_decisions(decisions) if decisions else b"",
            )
        )
        connection = self._append_to
        if connection is None or connection.closed:
            connection = await self._appends()
        try:
            reply = await connection.send(packed)
        except LibraryMissing:
            await redis_server.load_library(connection)
            reply = await connection.send(packed)
        code = reply[0]
        if code in (_OK, _DUP):
            return Appended(tail, reply[1])
        raise self._refused(code, tail, reply)

    def _refused(self, code: int, wanted: Tail, reply: list[Any]) -> JournalError:
        """The error of an append that was not taken."""
        where = f"shard {self._shard}, entry {wanted.seq}, epoch {wanted.epoch}"
        if code == _FULL:
            return Full(f"{where}: the server's memory is full")
        if code == _FENCED:
            return Fenced(f"{where}: epoch {reply[2]} has been given out")
        there = unpack_tail(reply[3])
        if code == _BEHIND:
            return Behind(
                f"{where}: the server is at entry {there.seq} of epoch {reply[2]}, older than what it acknowledged"
            )
        return Conflict(f"{where}: the server is at entry {there.seq} of epoch {there.epoch} ({there.hash.hex()})")

    # -- reading --------------------------------------------------------------------------------------------------

    async def read(self, *, after_seq: int) -> AsyncIterator[Entry]:
        """Entries after a sequence up to the tail as it is now, in pages. Raises Corrupt, Misconfigured, Unavailable."""
        reads = await self._reads()
        packed = await reads.call("HGET", self._keys.meta, "t")
        verifier = Verifier(after_seq=after_seq)
        if packed is None:
            if after_seq or await reads.call("EXISTS", self._keys.entries):
                raise Corrupt("the journal has no tail")
            return
        tail = unpack_tail(packed)
        seq = after_seq
        while seq < tail.seq:
            page = await reads.call("XRANGE", self._keys.entries, seq + 1, tail.seq, "COUNT", READ_ENTRIES)
            if not page:
                break
            for entry_id, fields in page:
                seq, epoch = _id(entry_id)
                entry = unpack_entry(epoch, seq, fields[1])
                verifier.check(entry)
                yield entry
        verifier.check_end(tail)

    async def read_decision(self, epoch: int, seq: int, index: int) -> bytes | None:
        reads = await self._reads()
        entry_id = f"{seq}-{epoch}"
        found = await reads.call("XRANGE", self._keys.decisions, entry_id, entry_id)
        return unpack_decision(found[0][1][1], index) if found else None

    # -- snapshots ------------------------------------------------------------------------------------------------

    async def write_part(self, part: str, seq: int, data: bytes) -> PartRef:
        reads = await self._reads()
        staging = self._keys.staging(self._epoch, part, seq)
        first = reads.call("SET", staging, data[:CHUNK_BYTES], "PX", STAGING_TTL_MS)
        if len(data) <= CHUNK_BYTES:  # nearly all of them: two round trips, which parts written at a time share
            ref = PartRef(part, seq, part_hash(part, seq, PART_SCHEMA, data), len(data), PART_SCHEMA)
            read = reads.call("GETRANGE", staging, 0, CHUNK_BYTES - 1)
            _, back, held = await asyncio.gather(first, read, self._held(reads, part))
            same = back == data
        else:
            await first
            ref, same = await self._stage_rest(reads, staging, part, seq, data)
            held = await self._held(reads, part)
        if not same:
            raise Unavailable(f"snapshot of {part} at {seq} did not read back as written")
        await self._publish(reads, ref, staging, held or b"")
        return ref

    async def _stage_rest(
        self, reads: Connection, staging: bytes, part: str, seq: int, data: bytes
    ) -> tuple[PartRef, bool]:
        """The chunks after the first, all read back; hashed a chunk at a time, the loop serves orders meanwhile."""
        written, back = part_digest(part, seq, PART_SCHEMA), part_digest(part, seq, PART_SCHEMA)
        for start in range(0, len(data), CHUNK_BYTES):
            chunk = data[start : start + CHUNK_BYTES]
            written.update(chunk)
            if start:
                await reads.call("SETRANGE", staging, start, chunk)
        for start in range(0, len(data), CHUNK_BYTES):
            back.update(await reads.call("GETRANGE", staging, start, start + CHUNK_BYTES - 1))
        ref = PartRef(part, seq, written.digest(), len(data), PART_SCHEMA)
        return ref, back.digest() == ref.hash

    def _held(self, reads: Connection, part: str) -> asyncio.Future[bytes | None]:
        """The references of a part, packed."""
        return reads.call("HGET", self._keys.parts, part)

    async def _publish(self, reads: Connection, ref: PartRef, staging: bytes, held: bytes) -> None:
        """J6: the verified bytes count from now on, if the references are still `held`; the third snapshot goes."""
        refs = unpack_refs(ref.part, held) if held else []
        if refs and refs[0].seq > ref.seq:
            raise Conflict(f"snapshot of {ref.part} at {ref.seq}, but there is one at {refs[0].seq}")
        kept = [ref, *(older for older in refs if older.seq != ref.seq)]
        keys = [self._keys.meta, self._keys.parts, staging, self._keys.snapshot(ref.part, ref.seq)]
        keys += [self._keys.snapshot(ref.part, gone.seq) for gone in kept[2:3]]
        argv = (self._epoch_text, ref.part, held, pack_refs(kept[:2]), ref.size_bytes)
        code, *_ = await self._fcall(reads, "qm1_publish_part", keys, argv)
        self._refuse_epoch(code)
        if code == _CONFLICT:
            raise Unavailable(f"snapshot of {ref.part} at {ref.seq} changed while it was written")

    def _refuse_epoch(self, code: int) -> None:
        if code == _FENCED:
            raise Fenced(f"shard {self._shard}: epoch {self._epoch} is over")
        if code == _BEHIND:
            raise Behind(f"shard {self._shard}: the server has lost epoch {self._epoch}")

    async def read_parts(self) -> dict[str, list[PartRef]]:
        reads = await self._reads()
        flat = await reads.call("HGETALL", self._keys.parts)
        names = [name.decode() for name in flat[::2]]
        return {name: unpack_refs(name, packed) for name, packed in zip(names, flat[1::2], strict=True)}

    async def read_part(self, ref: PartRef) -> bytes:
        reads = await self._reads()
        key = self._keys.snapshot(ref.part, ref.seq)
        digest, chunks = part_digest(ref.part, ref.seq, ref.schema), []
        for start in range(0, ref.size_bytes, CHUNK_BYTES):
            chunk = await reads.call("GETRANGE", key, start, start + CHUNK_BYTES - 1)
            digest.update(chunk)
            chunks.append(chunk)
        if digest.digest() != ref.hash or await reads.call("STRLEN", key) != ref.size_bytes:
            raise Corrupt(f"the snapshot of {ref.part} at {ref.seq} is damaged")
        return b"".join(chunks)

    async def trim(self, *, up_to_seq: int, archived_seq: int | None = None) -> int:
        parts = await self.read_parts()
        bound = trim_bound(parts.values(), up_to_seq=up_to_seq, archived_seq=archived_seq)
        reads = await self._reads()
        keys = (self._keys.meta, self._keys.entries, self._keys.decisions)
        removed = 0
        while self._first_seq <= bound:
            slice_end = min(bound, self._first_seq + TRIM_ENTRIES - 1)
            code, _, *count = await self._fcall(reads, "qm1_trim", keys, (self._epoch_text, slice_end))
            self._refuse_epoch(code)
            removed += count[0]
            self._first_seq = slice_end + 1
        return removed

    async def archive_cursor(self) -> ArchiveCursor | None:
        reads = await self._reads()
        *numbers, whole = await reads.call("HMGET", self._keys.archive, "a", "i", "m", "t", "w")
        if any(number is None for number in numbers):
            return None
        archived_seq, indexed_seq, indexed_ms, heard_ms = map(int, numbers)
        return ArchiveCursor(archived_seq, indexed_seq, indexed_ms, heard_ms, whole == b"1")

    # -- the server -----------------------------------------------------------------------------------------------

    async def memory(self) -> tuple[int, int]:
        return await redis_server.memory(await self._reads())

    async def check_fit(self) -> None:
        """Raises Misconfigured, naming everything that keeps the server from holding a journal; Unavailable."""
        await self._appends()

    async def check_durability(self) -> tuple[str, ...]:
        return await redis_server.durability_problems(await self._reads())

    async def close(self) -> None:
        self._closed = True
        for connection in (self._append_to, self._read_from):
            if connection is not None:
                connection.close()

    async def _appends(self) -> Connection:
        """The append connection, to a server that is fit (checked anew after each break: it may be another one now)."""

        async def prepare(connection: Connection) -> None:
            await redis_server.check_fit(connection, must_be_durable=self._must_be_durable)
            await redis_server.load_library(connection)

        async with self._opening:
            if self._append_to is None or self._append_to.closed:
                self._append_to = await self._open(self._append_timeout_s, "append", prepare)
            return self._append_to

    async def _reads(self) -> Connection:
        connection = self._read_from
        if connection is not None and not connection.closed:
            return connection
        async with self._opening:
            if self._read_from is None or self._read_from.closed:
                self._read_from = await self._open(self._read_timeout_s, "read", redis_server.load_library)
            return self._read_from

    async def _open(self, timeout_s: float, what: str, prepare: Callable[[Connection], Awaitable[None]]) -> Connection:
        if self._closed:
            raise Unavailable("this journal is closed")
        connection = await connect(self._address, timeout_s=timeout_s, name=f"qm-s{self._shard}-{what}")
        try:
            await prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _fcall(
        self, connection: Connection, name: str, keys: Sequence[bytes], argv: Sequence[Arg], *, read_only: bool = False
    ) -> list[Any]:
        """Call one of our functions; where the server lost them, load them first."""
        command = ("FCALL_RO" if read_only else "FCALL", name, len(keys), *keys, *argv)
        try:
            reply = await connection.call(*command)
        except LibraryMissing:
            await redis_server.load_library(connection)
            reply = await connection.call(*command)
        assert isinstance(reply, list)
        return reply


def _id(entry_id: bytes) -> tuple[int, int]:
    """(seq, epoch) of a stream id."""
    seq, _, epoch = entry_id.partition(b"-")
    return int(seq), int(epoch)
