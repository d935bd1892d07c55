"""The simulator's journal: the same promises as engine.journal.port, synchronous, with faults decided by its caller."""

from __future__ import annotations

from typing import NamedTuple

PARTS_KEPT = 2


class SimEntry(NamedTuple):
    seq: int
    epoch: int
    time_ms: int
    payload: bytes


class SimFenced(Exception):
    """Another copy owns the shard, or the tail is not the one named."""


class SimJournal:
    """One shard's log. `entries` keeps trimmed ones too, for the checker; recovery sees those from `first` on."""

    def __init__(self) -> None:
        self.epoch = 0
        self.entries: list[SimEntry] = []
        self.first = 1
        """Sequence of the oldest entry that is not trimmed."""
        self.parts: dict[str, list[tuple[int, bytes]]] = {}
        """Newest first."""

    @property
    def tail_seq(self) -> int:
        return len(self.entries)

    def acquire(self) -> int:
        self.epoch += 1
        return self.epoch

    def append(self, epoch: int, seq: int, time_ms: int, payload: bytes) -> None:
        """Compare-and-set on (epoch, tail); repeating the identical append succeeds again. Raises SimFenced."""
        if epoch != self.epoch:
            raise SimFenced(f"epoch {epoch} is not {self.epoch}")
        if seq == self.tail_seq and self.entries[-1] == SimEntry(seq, epoch, time_ms, payload):
            return
        if seq != self.tail_seq + 1:
            raise SimFenced(f"entry {seq} does not follow {self.tail_seq}")
        assert not self.entries or time_ms >= self.entries[-1].time_ms, "I8: entry time went back"
        self.entries.append(SimEntry(seq, epoch, time_ms, payload))

    def write_part(self, epoch: int, part: str, seq: int, data: bytes) -> None:
        if epoch != self.epoch:
            raise SimFenced(f"epoch {epoch} is not {self.epoch}")
        assert seq <= self.tail_seq, "a part is true after an entry that is not durable"
        kept = self.parts.setdefault(part, [])
        kept.insert(0, (seq, data))
        del kept[PARTS_KEPT:]

    def trim(self, all_parts: list[str]) -> None:
        """Remove what both kept snapshots of every part contain (never the last entry)."""
        if all(len(self.parts.get(part, [])) == PARTS_KEPT for part in all_parts):
            oldest = min((kept[-1][0] for kept in self.parts.values()), default=0)
            self.first = max(self.first, min(oldest, self.tail_seq - 1) + 1)
