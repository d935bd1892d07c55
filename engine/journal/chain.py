"""The hash chain of a journal, and how an entry, a tail and a snapshot reference are laid out in bytes. Pure.

All integers are big-endian. Layouts (docs/reference/journal.md):
    entry      schema u16, time_ms u64, prev hash 16, hash 16, then the payload
    tail       epoch u64, seq u64, time_ms u64, hash 16          compared as a whole by the server: it is the CAS token
    part ref   seq u64, size u64, schema u16, hash 16            newest first, at most two in one value
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from struct import Struct

from engine.journal.port import SCHEMA_VERSION, Corrupt, Entry, Misconfigured, PartRef, Tail

HASH_BYTES = 16
GENESIS = Tail(epoch=0, seq=0, hash=bytes(HASH_BYTES), time_ms=0)
"""What the first entry of a journal comes after."""
EPOCH_BEGIN = b"\x90"
"""Payload of the entry that a takeover writes: msgpack of no events."""
PART_SCHEMA = 1

_HASHED = Struct(">16sQQQH")
_ENTRY = Struct(">HQ16s16s")
_TAIL = Struct(">QQQ16s")
_PART = Struct(">QQH16s")
_COUNT = Struct(">I")


def entry_hash(prev_hash: bytes, *, epoch: int, seq: int, time_ms: int, schema: int, payload: bytes) -> bytes:
    """J3: BLAKE2b-128 over everything an entry says and the hash of the entry before it."""
    digest = blake2b(_HASHED.pack(prev_hash, epoch, seq, time_ms, schema), digest_size=HASH_BYTES)
    digest.update(payload)
    return digest.digest()


def next_tail(after: Tail, *, epoch: int, time_ms: int, payload: bytes, schema: int = SCHEMA_VERSION) -> Tail:
    """The tail once an entry was appended after `after`. AssertionError where time or epoch would go back (J2)."""
    assert time_ms >= after.time_ms and epoch >= after.epoch, "entry times and epochs never go back"
    seq = after.seq + 1
    digest = entry_hash(after.hash, epoch=epoch, seq=seq, time_ms=time_ms, schema=schema, payload=payload)
    return Tail(epoch, seq, digest, time_ms)


def pack_entry(prev_hash: bytes, tail: Tail, payload: bytes, schema: int = SCHEMA_VERSION) -> bytes:
    return _ENTRY.pack(schema, tail.time_ms, prev_hash, tail.hash) + payload


def unpack_entry(epoch: int, seq: int, data: bytes) -> Entry:
    """Raises Corrupt where the bytes are too short to be an entry."""
    if len(data) < _ENTRY.size:
        raise Corrupt(f"entry {seq} has {len(data)} bytes")
    schema, time_ms, prev_hash, digest = _ENTRY.unpack_from(data)
    return Entry(seq, epoch, time_ms, schema, prev_hash, data[_ENTRY.size :], digest)


def pack_tail(tail: Tail) -> bytes:
    return _TAIL.pack(tail.epoch, tail.seq, tail.time_ms, tail.hash)


def unpack_tail(data: bytes) -> Tail:
    """Raises Corrupt."""
    if len(data) != _TAIL.size:
        raise Corrupt(f"the stored tail has {len(data)} bytes")
    epoch, seq, time_ms, digest = _TAIL.unpack(data)
    return Tail(epoch, seq, digest, time_ms)


class Verifier:
    """Checks entries one after another, from the first that is asked for up to a known tail."""

    def __init__(self, *, after_seq: int) -> None:
        self._seq = after_seq
        self._prev: Entry | None = None

    def check(self, entry: Entry) -> None:
        """Raises Corrupt at the first entry that is missing, changed or out of order; Misconfigured for a newer schema."""
        prev = self._prev
        if entry.seq != self._seq + 1:
            raise Corrupt(f"entry {self._seq + 1} is missing: the next one there is {entry.seq}")
        expected = prev.hash if prev is not None else (GENESIS.hash if entry.seq == 1 else entry.prev_hash)
        if entry.prev_hash != expected:
            raise Corrupt(f"entry {entry.seq} does not follow the entry before it")
        if prev is not None and (entry.epoch < prev.epoch or entry.time_ms < prev.time_ms):
            raise Corrupt(f"entry {entry.seq} goes back in epoch or time")
        actual = entry_hash(
            entry.prev_hash,
            epoch=entry.epoch,
            seq=entry.seq,
            time_ms=entry.time_ms,
            schema=entry.schema,
            payload=entry.payload,
        )
        if actual != entry.hash:
            raise Corrupt(f"entry {entry.seq} does not hash to what it says")
        if entry.schema > SCHEMA_VERSION:
            raise Misconfigured(
                f"entry {entry.seq} has schema {entry.schema}, this version reads up to {SCHEMA_VERSION}"
            )
        self._seq, self._prev = entry.seq, entry

    def check_end(self, tail: Tail) -> None:
        """All entries up to the tail were there. Raises Corrupt."""
        prev = self._prev
        if self._seq < tail.seq:
            raise Corrupt(f"entries {self._seq + 1} to {tail.seq} are missing at the end")
        if prev is not None and prev.seq == tail.seq and Tail(prev.epoch, prev.seq, prev.hash, prev.time_ms) != tail:
            raise Corrupt(f"entry {prev.seq} is not the one the tail names")
        if self._seq > tail.seq:
            raise Corrupt(f"the journal ends at {tail.seq}, before {self._seq}")


def part_digest(part: str, seq: int, schema: int) -> blake2b:
    """BLAKE2b-128 of a snapshot part, to be fed with its bytes. Covers its name, sequence and schema, so that no part passes
    for another."""
    return blake2b(f"{part}\0{seq}\0{schema}\0".encode(), digest_size=HASH_BYTES, person=b"part")


def part_hash(part: str, seq: int, schema: int, data: bytes) -> bytes:
    digest = part_digest(part, seq, schema)
    digest.update(data)
    return digest.digest()


def pack_refs(refs: Sequence[PartRef]) -> bytes:
    return b"".join(_PART.pack(ref.seq, ref.size_bytes, ref.schema, ref.hash) for ref in refs)


def unpack_refs(part: str, data: bytes) -> list[PartRef]:
    """Raises Corrupt."""
    if not data or len(data) % _PART.size:
        raise Corrupt(f"the references of part {part} have {len(data)} bytes")
    return [PartRef(part, seq, digest, size, schema) for seq, size, schema, digest in _PART.iter_unpack(data)]


def trim_bound(parts: Iterable[Sequence[PartRef]], *, up_to_seq: int, archived_seq: int | None) -> int:
    """J7: how far entries may go. A part with a single snapshot allows none: were it damaged, nothing could replace it."""
    bounds = [up_to_seq, *(refs[-1].seq if len(refs) >= 2 else 0 for refs in parts)]
    if archived_seq is not None:
        bounds.append(archived_seq)
    return min(bounds)


def pack_decisions(records: Sequence[bytes]) -> bytes:
    """All decision records of one entry in one value: count, lengths, bytes."""
    lengths = b"".join(_COUNT.pack(len(record)) for record in records)
    return b"".join((_COUNT.pack(len(records)), lengths, *records))


def unpack_decision(data: bytes, index: int) -> bytes | None:
    """Record `index` of a value made by pack_decisions, or None. Raises Corrupt."""
    try:
        (count,) = _COUNT.unpack_from(data)
        if not 0 <= index < count:
            return None
        lengths = [_COUNT.unpack_from(data, 4 * (i + 1))[0] for i in range(count)]
    except Exception as error:
        raise Corrupt("a decision value is cut short") from error
    start = 4 * (count + 1) + sum(lengths[:index])
    if 4 * (count + 1) + sum(lengths) != len(data):
        raise Corrupt("a decision value has the wrong size")
    return data[start : start + lengths[index]]
