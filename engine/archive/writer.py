"""Packs one shard's entries into segments. Blocking: the file is written where it is called.

Kill it at any moment: what is not in a segment is still in the journal, because trim stays behind the archive, and where to go on is
what the newest segment says (W3). Entries are checked against the journal's chain before they are taken.
"""

from __future__ import annotations

from engine.archive.segment import NO_SEGMENT, Record, SegmentBuilder
from engine.archive.store import Exists, SegmentStore
from engine.journal.chain import Verifier
from engine.journal.port import Corrupt, Entry

SEGMENT_BYTES = 8 * 1024 * 1024


class ArchiveWriter:
    """One shard's end of the archive. `open` before anything else, and again after `seal` raised Exists."""

    def __init__(self, store: SegmentStore, shard: int) -> None:
        self._store = store
        self.shard = shard
        self.archived_seq = 0
        """Newest entry in a segment; 0 = there is none."""
        self.archived_epoch = 0
        self.taken_seq = 0
        """Newest entry taken: archived, or in the segment in the making."""
        self.segments = 0
        self.gaps = 0
        """Times that entries were missing in the journal between two segments, by this process."""
        self._last_hash: bytes | None = None
        """Hash of the newest entry taken; None = anything may come."""
        self._prev_segment = NO_SEGMENT
        self._verifier = Verifier(after_seq=0)
        self._builder = SegmentBuilder(shard, NO_SEGMENT)

    def open(self) -> None:
        """Stand where the newest segment ends. Raises Corrupt where it is damaged, Unavailable."""
        names = self._store.first_seqs(self.shard)
        self.segments = len(names)
        self.archived_seq, self._last_hash, self._prev_segment = 0, None, NO_SEGMENT
        if names:
            newest = self._store.load(self.shard, names[-1])
            newest.check_entries()
            self.archived_seq, self.archived_epoch = newest.head.last_seq, newest.head.last_epoch
            self._last_hash, self._prev_segment = newest.head.last_entry_hash, newest.hash
        self.taken_seq = self.archived_seq
        self._verifier = Verifier(after_seq=self.taken_seq)
        self._builder = SegmentBuilder(self.shard, self._prev_segment)

    def take(self, record: Record) -> Entry:
        """Take the next entry. Raises Corrupt where it does not follow the newest one taken."""
        entry = record.unpacked()
        if self._last_hash is not None and entry.prev_hash != self._last_hash:
            raise Corrupt(
                f"entry {entry.seq} of the journal does not follow entry {self.taken_seq} of the archive: "
                "they are not of one history"
            )
        self._verifier.check(entry)
        self._builder.add(record, entry)
        self.taken_seq, self._last_hash = entry.seq, entry.hash
        return entry

    def skip_to(self, seq: int) -> None:
        """The entries before `seq` are gone from the journal: seal what there is and go on from there, as a new run."""
        assert seq > self.taken_seq + 1
        self.seal()
        if self.archived_seq:
            self.gaps += 1
        self.taken_seq, self._last_hash = seq - 1, None
        self._verifier = Verifier(after_seq=seq - 1)

    @property
    def pending_bytes(self) -> int:
        """Compressed bytes of the segment in the making."""
        return self._builder.size_bytes

    @property
    def pending_entries(self) -> int:
        return len(self._builder)

    def seal(self) -> bool:
        """Write the segment in the making; False where it is empty. Raises Exists, Unavailable, Corrupt.

        After Exists another archiver has been at work: `open` again and read on from there. After Unavailable the segment may or
        may not be there: `open` tells.
        """
        builder = self._builder
        if not len(builder):
            return False
        data = builder.finish()
        first_seq = builder.first_seq
        self._builder = SegmentBuilder(self.shard, self._prev_segment)  # spent, whatever happens now
        self._store.create(self.shard, first_seq, data)
        self.archived_seq, self.archived_epoch = builder.last_seq, builder.last_epoch
        self._prev_segment = data[-len(NO_SEGMENT) :]
        self._builder = SegmentBuilder(self.shard, self._prev_segment)
        self.segments += 1
        return True

    def retire(self, *, before_ms: int) -> int:
        """Remove segments whose newest entry is older than an instant, oldest first, never the newest; returns how many."""
        removed = 0
        for first_seq in self._store.first_seqs(self.shard)[:-1]:
            if self._store.head(self.shard, first_seq).last_time_ms >= before_ms:
                break
            self._store.remove(self.shard, first_seq)
            removed += 1
        self.segments -= removed
        return removed


__all__ = ["SEGMENT_BYTES", "ArchiveWriter", "Exists"]
