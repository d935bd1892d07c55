"""Every interleaving of appends, part snapshots, damage, trims and crashes of one shard with two parts.

Durable: the log, the snapshots kept of each part, the first entry that is not trimmed. Memory: each part's value and the entry
being appended. A part's value is the tuple of the entries that touched it: anything skipped or applied twice shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.sim.models.explore import Result, explore

PARTS = ("a", "b")
TOUCHES = ("a", "b", "ab")
ENTRIES_MAX = 3
SNAPSHOTS_MAX = 4
DAMAGE_MAX = 1
CRASHES_MAX = 1

Value = tuple[int, ...]
Snapshot = tuple[int, Value, bool]
"""(true after entry, value, readable)"""


class State(NamedTuple):
    log: tuple[str, ...] = ()
    """Parts that each durable entry touches; entry n is log[n - 1]."""
    first: int = 1
    kept: tuple[tuple[Snapshot, ...], tuple[Snapshot, ...]] = ((), ())
    """Newest first, by part."""
    memory: tuple[Value, Value] = ((), ())
    outstanding: str = ""
    snapshots: int = 0
    damaged: int = 0
    crashes: int = 0
    lost: bool = False
    """Recovery was not possible."""


class Rules(NamedTuple):
    """What the mutants switch off or on."""

    replay_by_part: bool = True
    kept_max: int = 2
    trim_to_older: bool = True
    trim_one_too_far: bool = False
    between_batches_only: bool = True
    counts_unread: bool = False
    """A snapshot counts although it was not read back (so it may be damaged from the start)."""


def steps(s: State, rules: Rules) -> Iterator[tuple[str, State]]:
    if not s.outstanding and len(s.log) < ENTRIES_MAX:
        for touched in TOUCHES:
            seq = len(s.log) + 1
            memory = tuple(
                (*value, seq) if part in touched else value for part, value in zip(PARTS, s.memory, strict=True)
            )
            yield f"decide {touched}", s._replace(outstanding=touched, memory=memory)  # type: ignore[arg-type]
    if s.outstanding:
        yield "append lands", s._replace(log=(*s.log, s.outstanding), outstanding="")
    if s.snapshots < SNAPSHOTS_MAX and (not s.outstanding or not rules.between_batches_only):
        for n, part in enumerate(PARTS):
            new: Snapshot = (len(s.log), s.memory[n], True)
            yield (
                f"snapshot {part}",
                _keep(s, n, (new, *s.kept[n])[: rules.kept_max])._replace(snapshots=s.snapshots + 1),
            )
    if s.damaged < DAMAGE_MAX:
        for n, part in enumerate(PARTS):
            if s.kept[n] and s.kept[n][0][2] and (len(s.kept[n]) > 1 or rules.counts_unread):
                newest = (*s.kept[n][0][:2], False)
                yield f"damage {part}", _keep(s, n, (newest, *s.kept[n][1:]))._replace(damaged=s.damaged + 1)
    bound = _trim_bound(s, rules)
    if bound > s.first:
        yield f"trim to {bound}", s._replace(first=bound)
    if s.crashes < CRASHES_MAX:
        yield "crash", _recover(s, rules)
        if s.outstanding:
            landed = s._replace(log=(*s.log, s.outstanding))
            yield "crash after the append landed", _recover(landed, rules)


def _keep(s: State, n: int, kept: tuple[Snapshot, ...]) -> State:
    return s._replace(kept=(kept, s.kept[1]) if n == 0 else (s.kept[0], kept))


def _trim_bound(s: State, rules: Rules) -> int:
    """First entry to keep: after what the older snapshot of every part contains; never past the last entry."""
    if any(len(kept) < rules.kept_max for kept in s.kept):
        return 0
    oldest = min(kept[-1 if rules.trim_to_older else 0][0] for kept in s.kept)
    return min(oldest + 1 + rules.trim_one_too_far, max(1, len(s.log)))


def _recover(s: State, rules: Rules) -> State:
    """Newest readable snapshot of each part, then the entries after it."""
    memory = []
    loaded = []
    for kept in s.kept:
        seq, value, _ = next((snapshot for snapshot in kept if snapshot[2]), (0, (), True))
        if seq + 1 < s.first:
            return s._replace(lost=True)
        loaded.append(seq)
        memory.append(value)
    start = s.first if not rules.replay_by_part else min(loaded) + 1
    for seq in range(start, len(s.log) + 1):
        for n, part in enumerate(PARTS):
            if part in s.log[seq - 1] and (not rules.replay_by_part or seq > loaded[n]):
                memory[n] = (*memory[n], seq)
    return s._replace(memory=(memory[0], memory[1]), outstanding="", crashes=s.crashes + 1)


def broken(s: State) -> str:
    if s.lost:
        return "a part cannot be recovered: its entries are trimmed"
    durable = (*s.log, s.outstanding) if s.outstanding else s.log
    for n, part in enumerate(PARTS):
        right = tuple(seq for seq, touched in enumerate(durable, 1) if part in touched)
        if s.memory[n] != right:
            return f"part {part} is {s.memory[n]}, the log says {right}"
    return ""


def check(rules: Rules) -> Result:
    return explore(State(), lambda state: steps(state, rules), broken)
