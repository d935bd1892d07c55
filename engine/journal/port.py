"""The journal port: one append-only, hash-chained log a shard, with snapshots by part. Two back ends: Redis and memory.

J1  An append is a compare-and-set on (epoch, tail): it lands after exactly the entry it names, or not at all.
J2  Sequence numbers are contiguous across epochs; entry times never go back.
J3  `hash` = BLAKE2b-128(prev hash, epoch, seq, time, schema, payload): a changed, lost or reordered entry breaks the chain.
J4  Repeating the identical append is answered as the first time (the reply was lost, not the write).
J5  An entry and its decision records are written by the same call, or neither is.
J6  A snapshot part counts only after it was read back and verified; the two newest of each part are kept.
J7  Trim never passes the older verified snapshot of any part.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol

SCHEMA_VERSION = 1
PAYLOAD_BYTES_MAX = 16 * 1024 * 1024
"""A batch aims at 256 KiB; one command may exceed that, no entry may exceed this (ValueError)."""


class Entry(NamedTuple):
    seq: int
    epoch: int
    time_ms: int
    schema: int
    prev_hash: bytes
    payload: bytes
    hash: bytes


class Tail(NamedTuple):
    """The newest entry: what the next append must name."""

    epoch: int
    seq: int
    hash: bytes
    time_ms: int


class PartRef(NamedTuple):
    """A verified snapshot of one part ("node:12", "slot:US100", "misc"), true after entry `seq`."""

    part: str
    seq: int
    hash: bytes
    size_bytes: int
    schema: int


class Acquired(NamedTuple):
    epoch: int
    tail: Tail
    first_seq: int
    """Sequence of the oldest entry still in the log."""
    server_time_ms: int


class Appended(NamedTuple):
    tail: Tail
    server_time_ms: int


class ArchiveCursor(NamedTuple):
    """How far the archive of a shard is: entries up to `archived_seq` are in segments, up to `indexed_seq` in the index."""

    archived_seq: int
    indexed_seq: int
    indexed_ms: int
    """Entry time of `indexed_seq`."""
    heard_ms: int
    """When the archiver last said so, by its own clock."""
    index_is_whole: bool = False
    """Whether the index has, of every shard, all from its first entry on."""


class JournalError(Exception):
    """Base. `retryable` says whether the same call may succeed later."""

    retryable = False


class Unavailable(JournalError):
    """Unknown outcome: no answer, or the server cannot take writes now. Repeat the identical call."""

    retryable = True


class Misconfigured(JournalError):
    """The server is not fit to hold a journal: durability unproven, an old version, permissions missing. Names what."""


class Fenced(JournalError):
    """Another copy acquired a newer epoch. This process must exit without answering anything."""


class Conflict(JournalError):
    """The tail is neither the named one nor this entry: two writers, or lost entries. The process must exit."""


class Behind(JournalError):
    """The server lost acknowledged entries: it is older than the named tail. The shard freezes and says so."""


class Corrupt(JournalError):
    """The chain, a hash or a sequence does not verify. The shard refuses writes; nothing is skipped."""


class Full(Unavailable):
    """The server has no memory left for this; nothing of it was written. The identical call may succeed later."""


class Journal(Protocol):
    """One shard's journal. Not safe for concurrent appends: exactly one is outstanding."""

    async def acquire(self, owner_nonce: str, addresses: Sequence[str]) -> Acquired:
        """Take the shard over: a new epoch (the same one for the same nonce), stored with the addresses atomically.

        The entry that begins it is written where memory is full too: who trims has to start first.
        """

    async def append(
        self, after: Tail, *, time_ms: int, payload: bytes, decisions: Sequence[bytes], finishing: bool = False
    ) -> Appended:
        """Write one entry after `after` with its decision records; it is durable when this returns. Safe to repeat.

        finishing: the entry ends or frees something, so it is taken until memory is really full, not only up to 90 %.
        Raises Unavailable (Full among it), Fenced, Conflict, Behind.
        """

    def read(self, *, after_seq: int) -> AsyncIterator[Entry]:
        """Entries after a sequence, verified against the chain. Raises Corrupt."""

    async def check_epoch(self) -> bool:
        """True while this copy still owns the newest epoch (renews the self-lease); False once it is fenced.

        Raises Unavailable, and Behind where the server knows only older epochs: it lost the takeover and what came after.
        """

    async def write_part(self, part: str, seq: int, data: bytes) -> PartRef:
        """Write in calls of at most 1 MiB, read back, verify, publish; the oldest of three is removed. Raises Fenced, Behind."""

    async def read_parts(self) -> dict[str, list[PartRef]]:
        """Published snapshots of every part, newest first."""

    async def read_part(self, ref: PartRef) -> bytes:
        """Raises Corrupt where the bytes do not hash to the reference."""

    async def trim(self, *, up_to_seq: int, archived_seq: int | None = None) -> int:
        """Remove entries and their decisions up to a sequence; returns how many entries. Raises Fenced, Behind.

        Never goes past the older of the two snapshots of any part (a part with one snapshot allows none), the archive's
        cursor where one is given, or the entry before the newest.
        """

    async def archive_cursor(self) -> ArchiveCursor | None:
        """How far the archiver says it is; None = it has never said anything."""

    async def read_decision(self, epoch: int, seq: int, index: int) -> bytes | None:
        """The decision record `index` of entry (epoch, seq); None where it was trimmed or never was."""

    async def memory(self) -> tuple[int, int]:
        """(used bytes, limit bytes or 0) of the server."""

    async def check_durability(self) -> tuple[str, ...]:
        """What keeps the server from being proven durable, in words; empty = proven. Raises Unavailable."""

    async def close(self) -> None: ...
