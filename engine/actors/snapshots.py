"""Rolling snapshots of one core, recovery from them, and the trim bound.

A cycle writes every part that changed, and every part whose snapshot grew old, a few milliseconds of packing at a time.

F1  The part `floor` says F: whatever was changed up to entry F is in some snapshot, so recovery replays the entries after F only.
    It is written at the end of a cycle that began at F, once every part packed until then has been written.
F2  Packing marks a part as clean; from then on its bytes are owed to the journal, over a failed cycle too.
F3  Trim stays behind the floor and behind the older of the two snapshots kept of every part, so that a damaged newest one costs
    time, not data. While a damaged one is among the two, nothing is trimmed.
    Nor does it pass the archive, where there is one: what it has not kept stays.
F4  Nothing is packed while an entry is outstanding or being built: what would put one meanwhile waits (`holds_batches`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from engine.domain.parts import UnknownSchema
from engine.journal.port import Acquired, Behind, Corrupt, Fenced, Full, Misconfigured, PartRef, Unavailable
from engine.journal.upgrade import entry_payload, part_data

if TYPE_CHECKING:
    from engine.actors.runner import Runner

FLOOR = "floor"
PACK_S = 0.002
PAUSE_S = 0.02
READ_AHEAD = 8
"""Parts that the server reads while one is loaded."""
PARTS_AT_A_TIME = 64
BYTES_AT_A_TIME = 1024 * 1024
"""Parts that are written together share their round trips and the server's fsyncs; together no more than one call may be."""
MEMORY_TIGHT = 0.5
"""Share of the server's memory past which the journal's past gives way to its present."""
TRIM_EVERY_S = 1.0
"""While an append is waited for."""
ENTRIES_KEPT_TIGHT = 1_000
SHARE_KEPT_TIGHT = 0.02
"""Of the server's memory, that the entries kept then may take: batches make large ones."""
log = structlog.get_logger(__name__)


class Snapshotter:
    """Belongs to one runner."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.holds_batches = False
        """True while the runner must not start a new batch, so that the core comes to rest."""
        self._seqs: dict[str, list[int]] = {}
        """Entries that the snapshots kept of each part are true after, newest first, two at the most."""
        self._damaged: dict[str, int] = {}
        """Entry of the kept snapshot of a part that cannot be read."""
        self._floor_seq = 0
        self._trimmed_seq = 0
        self._due: deque[str] = deque()
        self._packed: deque[tuple[str, int, bytes]] = deque()
        """Packed and not yet written (F2), oldest first."""
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
        """Load parts and replay into the core; returns how many entries were replayed. Raises Corrupt, Unavailable.

        Corrupt is everything that makes this journal unfit to go on from: damage, a gap, lost entries, an unknown version.
        """
        runner = self._runner
        core, journal = runner.core, runner.journal
        parts = await journal.read_parts()
        newest = max((ref.seq for refs in parts.values() for ref in refs), default=0)
        if newest >= acquired.tail.seq:  # the tail is the entry that began this epoch
            raise Corrupt(
                f"there is a snapshot of entry {newest}, the journal ends at {acquired.tail.seq - 1}: it lost its end"
            )
        self._trimmed_seq = acquired.first_seq - 1
        after_seq = await self._load_floor(parts.pop(FLOOR, []))
        after_seq = await self._load_parts(sorted(parts.items()), after_seq)
        if after_seq < self._trimmed_seq:
            raise Corrupt(f"entries {after_seq + 1} to {self._trimmed_seq} are trimmed, the snapshots need them")
        replayed = 0
        async for entry in journal.read(after_seq=after_seq):
            try:
                core.replay(entry.seq, entry.time_ms, entry_payload(entry.schema, entry.payload))
            except Exception as error:
                # Whatever it is, the next start would meet it again: stay and say so.
                raise Corrupt(f"entry {entry.seq} cannot be applied: {error!r}") from error
            replayed += 1
            if replayed % 64 == 0:
                await asyncio.sleep(0)
        tail = acquired.tail
        try:
            core.recovered(epoch=acquired.epoch, seq=tail.seq, time_ms=tail.time_ms, now_ms=runner.clock.now_ms())
        except Exception as error:
            raise Corrupt(f"the state after entry {tail.seq} contradicts itself: {error!r}") from error
        return replayed

    async def _load_floor(self, refs: list[PartRef]) -> int:
        for ref in refs:
            try:
                self._floor_seq = int(msgspec.msgpack.decode(await self._runner.journal.read_part(ref), type=int))
            except (Corrupt, msgspec.MsgspecError) as error:
                log.warning("snapshot damaged", part=FLOOR, seq=ref.seq, error=str(error))
                continue
            return self._floor_seq
        return self._trimmed_seq if refs else 0  # F3: trim never passed a floor

    async def _load_parts(self, parts: list[tuple[str, list[PartRef]]], after_seq: int) -> int:
        """Load every part; returns the entry after which the tail must be replayed: earlier where a damaged snapshot was left."""
        read_part = self._runner.journal.read_part
        ahead: deque[asyncio.Task[bytes]] = deque()
        asked = iter(parts)
        try:
            for part, refs in parts:
                for _, wanted in islice(asked, READ_AHEAD - len(ahead)):
                    ahead.append(asyncio.ensure_future(read_part(wanted[0])))
                used = await self._load_newest(part, refs, ahead.popleft())
                if used is not refs[0]:
                    self._damaged[part] = refs[0].seq
                    after_seq = min(after_seq, used.seq)
                self._seqs[part] = [ref.seq for ref in refs][:2]
        finally:
            for task in ahead:
                task.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)
        return after_seq

    async def _load_newest(self, part: str, refs: list[PartRef], newest: Awaitable[bytes]) -> PartRef:
        """The newest snapshot that reads back whole; the first one is being read already."""
        runner = self._runner
        for ref in refs:
            try:
                packed = await (newest if ref is refs[0] else runner.journal.read_part(ref))
                data = part_data(part, ref.schema, packed)
                runner.core.load_part(part, ref.seq, data)
            except (UnknownSchema, Misconfigured) as error:
                raise Corrupt(f"the snapshot of {part} cannot be used: {error}") from error
            except (Corrupt, msgspec.MsgspecError) as error:
                log.warning("snapshot damaged", part=part, seq=ref.seq, error=str(error))
                continue
            return ref
        raise Corrupt(f"no snapshot of {part} verifies")

    # -- writing --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Cycle after cycle, until the shard freezes."""
        runner = self._runner
        while True:
            await asyncio.sleep(runner.settings.snapshot_interval_s)
            if runner.frozen:
                return
            try:
                await self.cycle()
            except Unavailable as error:
                log.warning("snapshot postponed", shard=runner.server.shard, error=str(error))
            except Behind as error:
                runner.freeze(f"the journal lost what it acknowledged: {error}")
            except Fenced:
                from engine.actors.runner import EXIT_FENCED, leave

                leave(EXIT_FENCED, "another copy owns this shard", shard=runner.server.shard)
            finally:
                self._release()

    async def cycle(self) -> None:
        """Write what is due, the floor, and trim. What fails is taken up by the next cycle. Raises Unavailable, Fenced, Behind."""
        runner = self._runner
        core = runner.core
        if runner.memory_share >= MEMORY_TIGHT:
            await self._trim()  # what may go already makes room for what is written now
        try:
            await self._come_to_rest()
            started_seq = core.state.seq
            self._due = deque(self._parts_due(started_seq))
            while self._due or self._packed:
                self._pack_some()
                self._release()
                await self._write_packed()
                if self._due:
                    await asyncio.sleep(PAUSE_S)
                    await self._come_to_rest()
        finally:
            self._release()
        if runner.frozen:
            return
        if started_seq > self._floor_seq:
            await runner.journal.write_part(FLOOR, started_seq, msgspec.msgpack.encode(started_seq))
            self._floor_seq = started_seq
        await self._trim()

    def _parts_due(self, started_seq: int) -> dict[str, None]:
        """Changed parts, then those whose snapshots are too old, too few or damaged."""
        old_seq = started_seq - self._entries_kept() // 2
        due = dict.fromkeys(self._runner.core.dirty_parts())
        due |= dict.fromkeys(
            part
            for part, seqs in self._seqs.items()
            if seqs[-1] < old_seq or (seqs[0] < started_seq and (len(seqs) < 2 or part in self._damaged))
        )
        return due

    def _entries_kept(self) -> int:
        runner = self._runner
        kept = runner.settings.journal_retained_entries
        if runner.memory_share < MEMORY_TIGHT:
            return kept
        fitting = int(runner.memory_limit_bytes * SHARE_KEPT_TIGHT) // max(1, runner.measures.entry_bytes())
        return min(kept, ENTRIES_KEPT_TIGHT, fitting)

    async def _write_packed(self) -> None:
        """Write what is packed. A part that finds no room waits behind the others: once they are written, trimming may make some."""
        refused: Full | None = None
        left = len(self._packed)
        while left and not self._runner.frozen:
            group = self._next_group(left)
            left -= len(group)
            write = self._runner.journal.write_part
            outcomes = await asyncio.gather(*[write(*owed) for owed in group], return_exceptions=True)
            failed: BaseException | None = None
            for owed, outcome in zip(group, outcomes, strict=True):
                self._packed.popleft()
                if isinstance(outcome, BaseException):
                    self._packed.append(owed)  # F2
                    if isinstance(outcome, Full):
                        refused = outcome
                    else:
                        failed = failed or outcome
                else:
                    self._count(outcome)
            if failed is not None:
                raise failed
        if refused is not None and not self._due:
            raise refused

    def _next_group(self, most: int) -> list[tuple[str, int, bytes]]:
        """The first packed parts, as many as are written at a time."""
        group: list[tuple[str, int, bytes]] = []
        size = 0
        for owed in islice(self._packed, min(most, PARTS_AT_A_TIME)):
            size += len(owed[2])
            if group and size > BYTES_AT_A_TIME:
                break
            group.append(owed)
        return group

    def _count(self, ref: PartRef) -> None:
        """A snapshot was published."""
        part = ref.part
        self._seqs[part] = seqs = [ref.seq, *self._seqs.get(part, [])][:2]
        if self._damaged.get(part, seqs[0]) not in seqs:
            del self._damaged[part]
        self._written += 1
        self._written_bytes += ref.size_bytes

    async def _trim(self) -> None:
        runner = self._runner
        if self._damaged or any(len(seqs) < 2 for seqs in self._seqs.values()):
            return  # the second good snapshot of such a part is due in the next cycle
        oldest = min((seqs[-1] for seqs in self._seqs.values()), default=self._floor_seq)
        bound = min(self._floor_seq, oldest, runner.core.state.seq - self._entries_kept())
        archived_seq = runner.archive.archived_seq if runner.archive is not None else None
        if archived_seq is not None:
            bound = min(bound, archived_seq)
        if bound > self._trimmed_seq:
            await runner.journal.trim(up_to_seq=bound, archived_seq=archived_seq)
            self._trimmed_seq = bound

    async def _come_to_rest(self) -> None:
        """F4: wait until nothing is outstanding; the next batch waits for us.

        The entry that is outstanding may itself wait for memory, so trimming goes on meanwhile, as the archive does.
        """
        core = self._runner.core
        self.holds_batches = True
        while not core.idle:
            self._at_rest.clear()
            self._runner.drain()
            while not await self._rests_within(TRIM_EVERY_S):
                if self._runner.memory_share >= MEMORY_TIGHT and not self._runner.frozen:
                    await self._trim()

    async def _rests_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._at_rest.wait()
        except TimeoutError:
            return False

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
        """R5, F4: as many parts as fit into the time, at least one. The core is at rest and nothing awaits in here."""
        core = self._runner.core
        until = time.perf_counter() + PACK_S
        while self._due:
            part = self._due.popleft()
            seq, data = core.pack_part(part)
            older = next((n for n, (owed, _, _) in enumerate(self._packed) if owed == part), None)
            if older is not None:  # it found no room in an earlier cycle: the newer one takes its place
                del self._packed[older]
            self._packed.append((part, seq, data))
            if time.perf_counter() >= until:
                return
