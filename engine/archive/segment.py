"""The file format of the archive: a segment is a run of journal entries with their decision records, compressed. Pure.

G1  A segment says everything about itself: shard, first and last entry, count, the hash of the segment before it.
G2  `hash` = BLAKE2b-128 over all bytes before it, the previous segment's hash among them: a changed, swapped or missing segment
    breaks the chain. Inside, each entry still carries the journal's own chain (J3), so that both can be checked.
G3  Blocks are compressed one by one, so one entry is read without the rest.

All integers are big-endian (docs/reference/archive.md, docs/adr/0012):
    head     "QMSEG" format u8, shard u16, schema u16, first seq u64, last seq u64, first epoch u64, last epoch u64,
             first time_ms u64, last time_ms u64, hash of the segment before 16, hash of the last entry 16, entries u32, blocks u32
    table    a block each: first seq u64, offset u64 (from the start of the file), bytes u32, raw bytes u32
    blocks   zstd frames
    hash     16
A raw block is entries one after another: seq u64, epoch u64, entry bytes u32, decision bytes u32, entry, decisions, both exactly
as the journal holds them (engine/journal/chain.py).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from hashlib import blake2b
from struct import Struct
from typing import NamedTuple

import zstandard

from engine.journal.chain import HASH_BYTES, Verifier, unpack_entry
from engine.journal.port import Corrupt, Entry

FORMAT = 1
MAGIC = b"QMSEG"
NO_SEGMENT = bytes(HASH_BYTES)
"""What the first segment of a shard follows."""
BLOCK_RAW_BYTES = 256 * 1024
LEVEL = 1
"""Of zstd: 40 % less time than its usual 3, for files that are 8 % larger."""
RAW_BYTES_MAX = 64 * 1024 * 1024
"""More than a block can hold: the largest entry with its decisions is far smaller. Bounds what a damaged table makes us allocate."""
_HEAD = Struct(">5sBHHQQQQQQ16s16sII")
_BLOCK = Struct(">QQII")
_ITEM = Struct(">QQII")
HEAD_BYTES = _HEAD.size
BLOCK_ROW_BYTES = _BLOCK.size
_PERSON = b"segment"


class Record(NamedTuple):
    """An entry as the journal holds it, and its decision records ("" = none), packed."""

    seq: int
    epoch: int
    entry: bytes
    decisions: bytes

    def unpacked(self) -> Entry:
        """Raises Corrupt."""
        return unpack_entry(self.epoch, self.seq, self.entry)


class Block(NamedTuple):
    first_seq: int
    offset: int
    size_bytes: int
    raw_bytes: int


class Head(NamedTuple):
    """What a segment says about itself (G1)."""

    shard: int
    schema: int
    first_seq: int
    last_seq: int
    first_epoch: int
    last_epoch: int
    first_time_ms: int
    last_time_ms: int
    prev_hash: bytes
    last_entry_hash: bytes
    entries: int
    blocks: int


class SegmentBuilder:
    """A segment in the making. Full blocks are compressed at once, so it holds little more than the file will."""

    def __init__(self, shard: int, prev_hash: bytes) -> None:
        self.shard = shard
        self._prev_hash = prev_hash
        self._compress = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True).compress
        self._blocks: list[tuple[int, int, bytes]] = []
        """(first seq, raw bytes, compressed)"""
        self._raw: list[bytes] = []
        self._raw_bytes = 0
        self._raw_first_seq = 0
        self._first: Entry | None = None
        self._last: Entry | None = None
        self._count = 0
        self._schema = 0
        self.size_bytes = 0
        """Of the blocks that are compressed already."""

    def __len__(self) -> int:
        return self._count

    @property
    def last_seq(self) -> int:
        """0 = empty."""
        return self._last.seq if self._last is not None else 0

    @property
    def first_seq(self) -> int:
        """0 = empty."""
        return self._first.seq if self._first is not None else 0

    @property
    def last_epoch(self) -> int:
        return self._last.epoch if self._last is not None else 0

    def add(self, record: Record, entry: Entry) -> None:
        """Append the next entry; the caller has checked that it follows. `entry` = the record unpacked."""
        if self._first is None:
            self._first = entry
        self._last = entry
        self._count += 1
        self._schema = max(self._schema, entry.schema)
        if not self._raw:
            self._raw_first_seq = record.seq
        head = _ITEM.pack(record.seq, record.epoch, len(record.entry), len(record.decisions))
        self._raw += (head, record.entry, record.decisions)
        self._raw_bytes += len(head) + len(record.entry) + len(record.decisions)
        if self._raw_bytes >= BLOCK_RAW_BYTES:
            self._close_block()

    def _close_block(self) -> None:
        packed = self._compress(b"".join(self._raw))
        self._blocks.append((self._raw_first_seq, self._raw_bytes, packed))
        self.size_bytes += len(packed)
        self._raw, self._raw_bytes = [], 0

    def finish(self) -> bytes:
        """The file. The builder is spent."""
        if self._raw:
            self._close_block()
        first, last = self._first, self._last
        assert first is not None and last is not None, "an empty segment is not written"
        head = _HEAD.pack(
            MAGIC,
            FORMAT,
            self.shard,
            self._schema,
            first.seq,
            last.seq,
            first.epoch,
            last.epoch,
            first.time_ms,
            last.time_ms,
            self._prev_hash,
            last.hash,
            self._count,
            len(self._blocks),
        )
        table, offset = [], len(head) + len(self._blocks) * _BLOCK.size
        for first_seq, raw_bytes, packed in self._blocks:
            table.append(_BLOCK.pack(first_seq, offset, len(packed), raw_bytes))
            offset += len(packed)
        body = b"".join((head, *table, *(packed for _, _, packed in self._blocks)))
        return body + segment_hash(body)


def segment_hash(body: bytes) -> bytes:
    """G2: of everything before the hash."""
    return blake2b(body, digest_size=HASH_BYTES, person=_PERSON).digest()


def read_head(data: bytes) -> Head:
    """The head of a file from its first HEAD_BYTES. Raises Corrupt, also for a format this version does not read."""
    if len(data) < HEAD_BYTES or data[:5] != MAGIC:
        raise Corrupt("this is not an archive segment")
    _, form, *fields = _HEAD.unpack_from(data)
    if form != FORMAT:
        raise Corrupt(f"a segment of format {form}, this version reads {FORMAT}")
    return Head(*fields)


def read_table(head: Head, data: bytes) -> list[Block]:
    """Its blocks, from the head's end on. Raises Corrupt."""
    size = head.blocks * _BLOCK.size
    if len(data) < size:
        raise Corrupt("the table of a segment is cut short")
    return [Block(*row) for row in _BLOCK.iter_unpack(data[:size])]


def block_of(blocks: list[Block], seq: int) -> Block | None:
    """The block that would hold an entry."""
    at = bisect_right(blocks, seq, key=lambda block: block.first_seq) - 1
    return blocks[at] if at >= 0 else None


def records_of(raw: bytes) -> Iterator[Record]:
    """Entries of a raw block. Raises Corrupt."""
    at, end = 0, len(raw)
    while at < end:
        if at + _ITEM.size > end:
            raise Corrupt("a block of a segment is cut short")
        seq, epoch, entry_bytes, decision_bytes = _ITEM.unpack_from(raw, at)
        at += _ITEM.size
        middle = at + entry_bytes
        last = middle + decision_bytes
        if last > end:
            raise Corrupt(f"entry {seq} of a segment is cut short")
        yield Record(seq, epoch, raw[at:middle], raw[middle:last])
        at = last


def decompress(packed: bytes, raw_bytes: int) -> bytes:
    """Raises Corrupt."""
    if raw_bytes > RAW_BYTES_MAX:
        raise Corrupt(f"a block of {raw_bytes} bytes")
    try:
        raw = zstandard.ZstdDecompressor().decompress(packed, max_output_size=raw_bytes)
    except zstandard.ZstdError as error:
        raise Corrupt(f"a block of a segment cannot be decompressed: {error}") from error
    if len(raw) != raw_bytes:
        raise Corrupt("a block of a segment has another size than its table says")
    return raw


class Segment:
    """A whole file, verified against its own hash."""

    def __init__(self, data: bytes) -> None:
        """Raises Corrupt."""
        self.head = read_head(data)
        body, self.hash = data[:-HASH_BYTES], data[-HASH_BYTES:]
        if segment_hash(body) != self.hash:
            raise Corrupt(
                f"the segment of shard {self.head.shard} from entry {self.head.first_seq} does not hash to what it says"
            )
        self._blocks = read_table(self.head, data[HEAD_BYTES:])
        self._data = data

    def records(self, *, after_seq: int = 0) -> Iterator[Record]:
        """Entries after a sequence. Raises Corrupt."""
        for n, block in enumerate(self._blocks):
            if n + 1 < len(self._blocks) and self._blocks[n + 1].first_seq <= after_seq + 1:
                continue
            packed = self._data[block.offset : block.offset + block.size_bytes]
            for record in records_of(decompress(packed, block.raw_bytes)):
                if record.seq > after_seq:
                    yield record

    def check_entries(self) -> None:
        """Every entry is there, follows the one before it and hashes to what it says. Raises Corrupt, Misconfigured."""
        head = self.head
        verifier = Verifier(after_seq=head.first_seq - 1)
        count, entry = 0, None
        for record in self.records():
            entry = record.unpacked()
            verifier.check(entry)
            count += 1
        if entry is None or (count, entry.seq, entry.hash) != (head.entries, head.last_seq, head.last_entry_hash):
            raise Corrupt(
                f"the segment of shard {head.shard} from entry {head.first_seq} does not hold what its head says"
            )
