"""Journals for the archive's tests: records as the server holds them, made without one."""

from __future__ import annotations

from collections.abc import Sequence

from engine.archive.segment import Record
from engine.journal.chain import GENESIS, next_tail, pack_decisions, pack_entry
from engine.journal.port import Tail

START_MS = 1_800_000_000_000


def chained(
    payloads: Sequence[bytes],
    *,
    after: Tail = GENESIS,
    epoch: int = 1,
    decisions: Sequence[Sequence[bytes]] = (),
    step_ms: int = 10,
) -> list[Record]:
    """One record for each payload, chained from `after` on, `step_ms` apart."""
    records, _ = chained_to(payloads, after=after, epoch=epoch, decisions=decisions, step_ms=step_ms)
    return records


def chained_to(
    payloads: Sequence[bytes],
    *,
    after: Tail = GENESIS,
    epoch: int = 1,
    decisions: Sequence[Sequence[bytes]] = (),
    step_ms: int = 10,
) -> tuple[list[Record], Tail]:
    """As `chained`, with the tail after them."""
    records = []
    for n, payload in enumerate(payloads):
        time_ms = max(after.time_ms, START_MS) + step_ms
        tail = next_tail(after, epoch=max(epoch, after.epoch), time_ms=time_ms, payload=payload)
        packed = pack_decisions(decisions[n]) if n < len(decisions) and decisions[n] else b""
        records.append(Record(tail.seq, tail.epoch, pack_entry(after.hash, tail, payload), packed))
        after = tail
    return records, after
