"""The audit over each kind of journal: from the first entry, from snapshots after a trim, and with a flipped bit."""

from __future__ import annotations

from engine.domain.commands import DumpPart
from engine.domain.replies import DumpReply
from engine.journal.port import Journal, Tail
from engine.verify.audit import Report, audit
from engine.verify.pages import Ask, Page
from tests.contract.journal_backends import Backend
from tests.sim.little_cluster import LittleCluster
from tests.unit.test_verify_books import Traffic


class Journaled:
    """One core's traffic, written to a journal of the backend."""

    def __init__(self, journal: Journal, tail: Tail) -> None:
        self.cluster = LittleCluster()
        self.traffic = Traffic(self.cluster, 21)
        self.journal = journal
        self.tail = tail
        self.written = 0

    async def run(self, steps: int) -> None:
        self.traffic.run(steps)
        for append in self.cluster.entries[0][self.written :]:
            time_ms = max(append.time_ms, self.tail.time_ms)
            appended = await self.journal.append(
                self.tail, time_ms=time_ms, payload=append.payload, decisions=append.decisions
            )
            self.tail = appended.tail
        self.written = len(self.cluster.entries[0])

    async def snapshot_everything(self) -> None:
        core = self.cluster.cores[0]
        state = core.state
        for part in ["misc", *(f"node:{node}" for node in state.nodes), *(f"slot:{slot}" for slot in state.slots)]:
            seq, data = core.pack_part(part)
            await self.journal.write_part(part, seq, data)

    def ask(self, _: int) -> Ask:
        async def ask(kind: str, cursor: str, limit: int) -> Page:
            reply = self.cluster.ask(0, DumpPart(kind, cursor, limit))
            assert isinstance(reply, DumpReply)
            return Page(reply.rows, reply.cursor, reply.seq)

        return ask

    async def audit(self) -> Report:
        return await audit([0], lambda _: self.journal, self.ask, self.cluster.cores[0].catalog)


async def _journaled(backend: Backend) -> Journaled:
    journal = backend.journal()
    acquired = await journal.acquire("nonce", [])
    assert acquired.tail.seq == 1
    return Journaled(journal, acquired.tail)


async def test_a_whole_journal_is_audited_from_its_first_entry(backend: Backend) -> None:
    it = await _journaled(backend)
    await it.run(80)
    report = await it.audit()
    assert (report.drift, report.shards[0].first_seq) == ([], 1)
    assert report.shards[0].entries == it.tail.seq


async def test_a_trimmed_journal_is_audited_from_its_snapshots(backend: Backend) -> None:
    it = await _journaled(backend)
    for _ in range(2):
        await it.run(40)
        await it.snapshot_everything()
    await it.run(40)
    removed = await it.journal.trim(up_to_seq=it.tail.seq)
    assert removed > 20
    report = await it.audit()
    assert report.drift == []
    assert report.shards[0].parts > 0
    assert report.shards[0].first_seq > removed
    assert report.shards[0].orders > 0


async def test_a_flipped_bit_is_reported_as_a_broken_chain(backend: Backend) -> None:
    it = await _journaled(backend)
    await it.run(20)
    await backend.flip_entry(12)
    report = await it.audit()
    assert [drift.kind for drift in report.drift] == ["chain"]
    assert "entry 12" in report.drift[0].live
