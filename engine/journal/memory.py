"""The journal contract in memory, for tests, the simulator and `--ephemeral` runs. Loses everything with the process.

A `MemoryServer` plays the server: several `MemoryJournal`s may use it, so a takeover or a restart can be shown. Nothing here waits,
so a coroutine of this module ends at its first step: the simulator drives it without an event loop. Faults are armed on the server:

    server.fail_next = "before"       the next append raises Unavailable and leaves nothing behind
    server.fail_next = "after"        the next append is written and raises Unavailable: the answer was lost
    server.down = True                every call raises Unavailable
    server.lose_tail(shard, 2)        the newest two entries are gone, as after a crash of a server that does not fsync
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from engine.journal.chain import (
    EPOCH_BEGIN,
    GENESIS,
    PART_SCHEMA,
    Verifier,
    next_tail,
    part_hash,
    trim_bound,
)
from engine.journal.port import (
    PAYLOAD_BYTES_MAX,
    SCHEMA_VERSION,
    Acquired,
    Appended,
    ArchiveCursor,
    Behind,
    Conflict,
    Corrupt,
    Entry,
    Fenced,
    Full,
    PartRef,
    Tail,
    Unavailable,
)

NEW_WORK_SHARE = 0.90


@dataclass
class _Shard:
    epoch: int = 0
    owner: str = ""
    addresses: tuple[str, ...] = ()
    tail: Tail = GENESIS
    entries: dict[int, Entry] = field(default_factory=dict)
    """By sequence, oldest first."""
    decisions: dict[tuple[int, int], tuple[bytes, ...]] = field(default_factory=dict)
    """By (epoch, sequence)."""
    parts: dict[str, list[PartRef]] = field(default_factory=dict)
    snapshots: dict[tuple[str, int], bytes] = field(default_factory=dict)
    archive: ArchiveCursor | None = None


class MemoryServer:
    """What survives a restart of the shards. `now_ms` is the server's clock; the simulator gives its own."""

    def __init__(
        self, *, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000, limit_bytes: int = 0
    ) -> None:
        self.now_ms = now_ms
        self.limit_bytes = limit_bytes
        self.shards: dict[int, _Shard] = {}
        self.fail_next: Literal["before", "after"] | None = None
        self.down = False

    def shard(self, number: int) -> _Shard:
        return self.shards.setdefault(number, _Shard())

    def used_bytes(self) -> int:
        """Bytes of payloads, decisions and snapshots; a lower bound of what they take."""
        return sum(
            sum(len(entry.payload) for entry in shard.entries.values())
            + sum(len(record) for records in shard.decisions.values() for record in records)
            + sum(len(data) for data in shard.snapshots.values())
            for shard in self.shards.values()
        )

    def lose_tail(self, number: int, entries: int) -> None:
        """Forget the newest entries, as a server does that answered before its disk had them."""
        shard = self.shard(number)
        for seq in sorted(shard.entries)[-entries:]:
            gone = shard.entries.pop(seq)
            shard.decisions.pop((gone.epoch, seq), None)
        if shard.entries:
            last = shard.entries[max(shard.entries)]
            shard.tail = Tail(last.epoch, last.seq, last.hash, last.time_ms)
        else:
            shard.tail = GENESIS


class MemoryJournal:
    """`Journal` of one shard on a MemoryServer."""

    def __init__(self, server: MemoryServer, shard: int) -> None:
        self._server = server
        self._shard = shard
        self._epoch = 0
        self._closed = False

    def _reach(self) -> _Shard:
        if self._closed or self._server.down:
            raise Unavailable("the memory journal is closed" if self._closed else "the memory server is down")
        return self._server.shard(self._shard)

    async def acquire(self, owner_nonce: str, addresses: Sequence[str]) -> Acquired:
        shard, now_ms = self._reach(), self._server.now_ms()
        if shard.owner != owner_nonce:
            shard.epoch, shard.owner = max(shard.epoch + 1, now_ms // 1_000), owner_nonce
        shard.addresses = tuple(addresses)
        self._epoch = shard.epoch
        if shard.tail.epoch < shard.epoch:
            await self.append(
                shard.tail, time_ms=max(shard.tail.time_ms, now_ms), payload=EPOCH_BEGIN, decisions=(), finishing=True
            )
        return Acquired(shard.epoch, shard.tail, min(shard.entries), now_ms)

    async def append(
        self, after: Tail, *, time_ms: int, payload: bytes, decisions: Sequence[bytes], finishing: bool = False
    ) -> Appended:
        shard, server = self._reach(), self._server
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise ValueError(f"an entry of {len(payload)} bytes; the limit is {PAYLOAD_BYTES_MAX}")
        tail = next_tail(after, epoch=self._epoch, time_ms=time_ms, payload=payload)
        fail, server.fail_next = server.fail_next, None
        if fail == "before":
            raise Unavailable("armed fault: nothing was written")
        if shard.epoch != self._epoch:
            where = f"shard {self._shard}, entry {tail.seq}, epoch {self._epoch}: the server is in epoch {shard.epoch}"
            raise Fenced(where) if shard.epoch > self._epoch else Behind(where)
        if shard.tail != after:
            if shard.tail != tail:
                where = f"shard {self._shard}, entry {tail.seq}: the server is at entry {shard.tail.seq}"
                raise Behind(where) if shard.tail.seq < after.seq else Conflict(where)
        else:
            taken_bytes = server.limit_bytes * (1 if finishing else NEW_WORK_SHARE)
            if server.limit_bytes and server.used_bytes() >= taken_bytes and after.epoch == self._epoch:
                raise Full(f"shard {self._shard}: the server's memory is full")
            shard.entries[tail.seq] = Entry(
                tail.seq, tail.epoch, time_ms, SCHEMA_VERSION, after.hash, bytes(payload), tail.hash
            )
            if decisions:
                shard.decisions[tail.epoch, tail.seq] = tuple(bytes(record) for record in decisions)
            shard.tail = tail
        if fail == "after":
            raise Unavailable("armed fault: written, but the answer was lost")
        return Appended(tail, server.now_ms())

    async def read(self, *, after_seq: int) -> AsyncIterator[Entry]:
        shard = self._reach()
        tail, verifier = shard.tail, Verifier(after_seq=after_seq)
        for entry in [entry for seq, entry in shard.entries.items() if after_seq < seq <= tail.seq]:
            verifier.check(entry)
            yield entry
        verifier.check_end(tail)

    async def check_epoch(self) -> bool:
        epoch = self._reach().epoch
        if epoch < self._epoch:
            raise Behind(f"shard {self._shard}: the server is in epoch {epoch}, older than {self._epoch}")
        return epoch == self._epoch

    async def write_part(self, part: str, seq: int, data: bytes) -> PartRef:
        shard = self._reach()
        self._refuse_epoch(shard)
        refs = shard.parts.get(part, [])
        if refs and refs[0].seq > seq:
            raise Conflict(f"snapshot of {part} at {seq}, but there is one at {refs[0].seq}")
        ref = PartRef(part, seq, part_hash(part, seq, PART_SCHEMA, data), len(data), PART_SCHEMA)
        kept = [ref, *(older for older in refs if older.seq != seq)]
        shard.snapshots[part, seq] = bytes(data)
        for gone in kept[2:]:
            del shard.snapshots[part, gone.seq]
        shard.parts[part] = kept[:2]
        return ref

    def _refuse_epoch(self, shard: _Shard) -> None:
        if shard.epoch > self._epoch:
            raise Fenced(f"shard {self._shard}: epoch {self._epoch} is over")
        if shard.epoch < self._epoch:
            raise Behind(f"shard {self._shard}: the server has lost epoch {self._epoch}")

    async def read_parts(self) -> dict[str, list[PartRef]]:
        return {part: list(refs) for part, refs in self._reach().parts.items()}

    async def read_part(self, ref: PartRef) -> bytes:
        data = self._reach().snapshots.get((ref.part, ref.seq))
        if data is None or part_hash(ref.part, ref.seq, ref.schema, data) != ref.hash:
            raise Corrupt(f"the snapshot of {ref.part} at {ref.seq} is damaged")
        return data

    async def trim(self, *, up_to_seq: int, archived_seq: int | None = None) -> int:
        shard = self._reach()
        self._refuse_epoch(shard)
        bound = trim_bound(shard.parts.values(), up_to_seq=up_to_seq, archived_seq=archived_seq)
        gone = [seq for seq in shard.entries if seq <= min(bound, shard.tail.seq - 1)]
        for seq in gone:
            shard.decisions.pop((shard.entries.pop(seq).epoch, seq), None)
        return len(gone)

    async def archive_cursor(self) -> ArchiveCursor | None:
        return self._reach().archive

    async def read_decision(self, epoch: int, seq: int, index: int) -> bytes | None:
        records = self._reach().decisions.get((epoch, seq), ())
        return records[index] if 0 <= index < len(records) else None

    async def memory(self) -> tuple[int, int]:
        self._reach()
        return self._server.used_bytes(), self._server.limit_bytes

    async def check_durability(self) -> tuple[str, ...]:
        """In memory nothing is on disk; tests and the simulator know that, so it is not called a problem."""
        self._reach()
        return ()

    async def close(self) -> None:
        self._closed = True
