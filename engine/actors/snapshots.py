"""Rolling snapshots of one core, recovery from them, and the trim bound.

A cycle writes every part that changed, and every part whose snapshot grew old, a few milliseconds of packing at a time.
When a cycle that began at entry F is done, the part `floor` says so: whatever was changed up to F is in some snapshot, so
recovery replays the entries after F only. Trim stays behind the floor and behind the older of the two snapshots kept of every
part, so that a damaged newest one costs time, not data.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from engine.journal.port import Acquired, Corrupt, Fenced, PartRef, Unavailable

if TYPE_CHECKING:
    from engine.actors.runner import Runner

FLOOR = "floor"
PACK_S = 0.002
PAUSE_S = 0.02
MEMORY_TIGHT = 0.5
"""Share of the server's memory past which the journal's past gives way to its present."""
ENTRIES_KEPT_TIGHT = 1_000
log = structlog.get_logger(__name__)


class Snapshotter:
    """Belongs to one runner."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.holds_batches = False
        """True while the runner must not start a new batch, so that the core comes to rest."""
        self._seqs: dict[str, list[int]] = {}
        """Entries that the snapshots kept of each part are true after, newest first, two at the most."""
        self._floor_seq = 0
        self._trimmed_seq = 0
        self._due: list[str] = []
        self._packed: list[tuple[str, int, bytes]] = []
        self._at_rest = asyncio.Event()
        self._written = 0
        self._written_bytes = 0

    def facts(self) -> dict[str, Any]:
        return {
            "snapshot_parts": len(self._seqs),
            "snapshots_written": self._written,
            "snapshot_bytes_written": self._written_bytes,
            "floor_seq": self._floor_seq,
            "trimmed_seq": self._trimmed_seq,
        }

    # -- recovery -------------------------------------------------------------------------------------------------

    async def load(self, acquired: Acquired) -> int:
        """Load parts and replay into the core; returns how many entries were replayed. Raises Corrupt."""
        runner = self._runner
        core, journal = runner.core, runner.journal
        parts = await journal.read_parts()
        after_seq = await self._load_floor(parts.pop(FLOOR, []))
        for part, refs in sorted(parts.items()):
            used = await self._load_newest(part, refs)
            if used is not refs[0]:
                after_seq = min(after_seq, used.seq)
            self._seqs[part] = [ref.seq for ref in refs][:2]
        self._trimmed_seq = acquired.first_seq - 1
        if after_seq < self._trimmed_seq:
            raise Corrupt(f"entries {after_seq + 1} to {self._trimmed_seq} are trimmed, the snapshots need them")
        replayed = 0
        async for entry in journal.read(after_seq=after_seq):
            core.replay(entry.seq, entry.time_ms, entry.payload)
            replayed += 1
            if replayed % 64 == 0:
                await asyncio.sleep(0)
        return replayed

    async def _load_floor(self, refs: list[PartRef]) -> int:
        for ref in refs:
            try:
                self._floor_seq = int(msgspec.msgpack.decode(await self._runner.journal.read_part(ref), type=int))
            except (Corrupt, msgspec.MsgspecError) as error:
                log.warning("snapshot damaged", part=FLOOR, seq=ref.seq, error=str(error))
                continue
            return self._floor_seq
        return 0

    async def _load_newest(self, part: str, refs: list[PartRef]) -> PartRef:
        """The newest snapshot that reads back whole."""
        runner = self._runner
        for ref in refs:
            try:
                runner.core.load_part(part, ref.seq, await runner.journal.read_part(ref))
            except (Corrupt, msgspec.MsgspecError) as error:
                log.warning("snapshot damaged", part=part, seq=ref.seq, error=str(error))
                continue
            return ref
        raise Corrupt(f"no snapshot of {part} verifies")

    # -- writing --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Cycle after cycle, for ever."""
        runner = self._runner
        while True:
            await asyncio.sleep(runner.settings.snapshot_interval_s)
            try:
                await self.cycle()
            except Unavailable as error:
                log.warning("snapshot postponed", shard=runner.server.shard, error=str(error))
            except Fenced:
                from engine.actors.runner import EXIT_FENCED, leave

                leave(EXIT_FENCED, "another copy owns this shard", shard=runner.server.shard)
            finally:
                self._release()

    async def cycle(self) -> None:
        runner = self._runner
        core = runner.core
        await self._come_to_rest()
        started_seq = core.state.seq
        kept = runner.settings.journal_retained_entries if runner.memory_share < MEMORY_TIGHT else ENTRIES_KEPT_TIGHT
        old_seq = started_seq - kept // 2
        due = dict.fromkeys(core.dirty_parts())
        due |= dict.fromkeys(
            part for part, seqs in self._seqs.items() if seqs[-1] < old_seq or (len(seqs) < 2 and seqs[0] < started_seq)
        )
        self._due = list(due)
        while self._due:
            self._pack_some()
            self._release()
            for part, seq, data in self._packed:
                ref = await runner.journal.write_part(part, seq, data)
                self._seqs[part] = [ref.seq, *self._seqs.get(part, [])][:2]
                self._written += 1
                self._written_bytes += len(data)
            self._packed.clear()
            if self._due:
                await asyncio.sleep(PAUSE_S)
                await self._come_to_rest()
        self._release()
        if started_seq > self._floor_seq:
            await runner.journal.write_part(FLOOR, started_seq, msgspec.msgpack.encode(started_seq))
            self._floor_seq = started_seq
        await self._trim()

    async def _trim(self) -> None:
        runner = self._runner
        oldest = min((seqs[-1] for seqs in self._seqs.values() if len(seqs) == 2), default=self._floor_seq)
        if any(len(seqs) < 2 for seqs in self._seqs.values()):
            return  # the second snapshot of a new part is due in the next cycle
        kept = runner.settings.journal_retained_entries
        if runner.memory_share >= MEMORY_TIGHT:
            kept = min(kept, ENTRIES_KEPT_TIGHT)
        bound = min(self._floor_seq, oldest, runner.core.state.seq - kept)
        if bound > self._trimmed_seq:
            await runner.journal.trim(up_to_seq=bound)
            self._trimmed_seq = bound

    async def _come_to_rest(self) -> None:
        """Wait until nothing is outstanding; the next batch waits for us."""
        self.holds_batches = True
        while not self._runner.core.idle:  # a peer's answer may begin an entry between the wake-up and our turn
            self._at_rest.clear()
            self._runner.drain()
            await self._at_rest.wait()

    def between_batches(self) -> None:
        """The runner has just had an append acknowledged."""
        if self.holds_batches:
            if self._runner.core.idle:
                self._at_rest.set()
            else:
                self._runner.drain()

    def _release(self) -> None:
        if self.holds_batches:
            self.holds_batches = False
            self._runner.wake()

    def _pack_some(self) -> None:
        """R5: as many parts as fit into the time, at least one. The core is at rest and nothing awaits in here."""
        core = self._runner.core
        until = time.perf_counter() + PACK_S
        while self._due:
            part = self._due.pop(0)
            seq, data = core.pack_part(part)
            self._packed.append((part, seq, data))
            if time.perf_counter() >= until:
                return
