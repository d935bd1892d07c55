"""A core that does what a test says, so that the runner's own promises can be shown one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from engine.actors.runner import Runner
from engine.actors.server import ShardServer
from engine.client.link import Told
from engine.domain.commands import Command
from engine.domain.replies import ConfigDoc, Done, Reply
from engine.journal.memory import MemoryJournal, MemoryServer
from engine.journal.port import Appended, Journal, Tail
from engine.protocol.effects import Answer, Append, Effects, Send, Solve
from engine.settings import Settings


class _State:
    seq = 0
    time_ms = 0


class ScriptedCore:
    """Every command becomes an event of the entry being built and is answered `Done(seq)`. `puts` counts them by hand."""

    def __init__(self) -> None:
        self.shard = 0
        self.epoch = 0
        self.state = _State()
        self.durable_seq = 0
        self.views = type("Views", (), {"corr": 0})
        self.sends: list[Send] = []
        self.solves: list[Solve] = []
        self.on_appended: Callable[[], None] = lambda: None
        self.on_poll: Callable[[], None] = lambda: None
        self.peer_replies: list[Reply] = []
        self.solved_with: list[bytes | None] = []
        self.packed: list[int] = []
        self.shell: dict[str, Any] = {}
        self.dirty = True
        self._building: list[tuple[int, int]] | None = None
        self._outstanding: list[tuple[int, int]] | None = None
        self._ready: list[Answer] = []

    def put(self) -> None:
        """An event without a command, as the answer of a peer makes one."""
        if self._building is None:
            self._building = []
            self.state.seq += 1
        self.dirty = True

    # -- Core -----------------------------------------------------------------------------------------------------

    def load_part(self, part: str, seq: int, data: bytes) -> None:
        pass

    def replay(self, seq: int, time_ms: int, payload: bytes) -> None:
        pass

    def recovered(self, *, epoch: int, seq: int, time_ms: int, now_ms: int) -> None:
        self.epoch, self.state.seq, self.durable_seq, self.state.time_ms = epoch, seq, seq, time_ms

    @property
    def idle(self) -> bool:
        return self._outstanding is None and self._building is None

    def dirty_parts(self) -> list[str]:
        return ["misc"] if self.dirty else []

    def pack_part(self, part: str) -> tuple[int, bytes]:
        assert self.idle, "parts are packed between batches"
        self.dirty = False
        self.packed.append(self.state.seq)
        return self.state.seq, b"state"

    def receive(self, conn: int, corr: int, command: Command, *, now_ms: int) -> None:
        self.put()
        assert self._building is not None
        self._building.append((conn, corr))

    def peer_replied(self, shard: int, corr: int, reply: Reply, *, now_ms: int) -> None:
        self.peer_replies.append(reply)
        self.put()

    def appended(self, seq: int) -> None:
        assert self._outstanding is not None
        self._ready += [Answer(conn, corr, Done(seq)) for conn, corr in self._outstanding]
        self._outstanding = None
        self.durable_seq = seq
        self.on_appended()

    def solved(self, component: int, answer: bytes | None, *, now_ms: int) -> None:
        self.solved_with.append(answer)

    def archived(self, indexed_seq: int, indexed_ms: int, *, index_is_whole: bool = False) -> None:
        pass

    def configure(self, docs: Iterable[ConfigDoc], version: int) -> None:
        pass

    def disconnected(self, conn: int) -> None:
        pass

    def note_shell(self, facts: dict[str, Any]) -> None:
        self.shell = facts

    def poll(self, *, now_ms: int) -> Effects:
        self.on_poll()
        append = None
        if self._outstanding is None and self._building is not None:
            self._outstanding, self._building = self._building, None
            self.state.time_ms = max(self.state.time_ms, now_ms)
            append = Append(self.state.seq, self.state.time_ms, b"entry", [])
        answers, self._ready = self._ready, []
        sends, self.sends = self.sends, []
        solves, self.solves = self.solves, []
        return Effects(append, answers, sends, None, [], solves)


class SilentPeer:
    """A cluster of one peer that answers when the test says so, or always at once. What was asked is in `asked`."""

    shards = range(1)

    def __init__(self, *, answers: bool = False) -> None:
        self.asked: list[Told] = []
        self._answers = answers

    def link(self, shard: int) -> SilentPeer:
        return self

    def tell(self, command: Command, on_reply: Callable[[Reply], None], *, retry: bool | None = None) -> None:
        asked = Told(on_reply)
        self.asked.append(asked)
        if self._answers:
            asked.set_result(Done(1))

    def subscribe(self, corr: int, make: Callable[[], Command], on_reply: Callable[[Reply], None]) -> None:
        pass


class GatedJournal(MemoryJournal):
    """Appends wait until `gate` is set."""

    def __init__(self, server: MemoryServer | None = None) -> None:
        super().__init__(server or MemoryServer(), 0)
        self.gate = asyncio.Event()
        self.gate.set()

    async def append(
        self, after: Tail, *, time_ms: int, payload: bytes, decisions: Sequence[bytes], finishing: bool = False
    ) -> Appended:
        await self.gate.wait()
        await asyncio.sleep(0)
        return await super().append(after, time_ms=time_ms, payload=payload, decisions=decisions, finishing=finishing)


async def a_runner(
    core: ScriptedCore, *, journal: Journal | None = None, peer: SilentPeer | None = None, **settings: Any
) -> Runner:
    """A started runner without sockets; ask it with `runner.ask`."""
    settings = {"snapshot_interval_s": 3_600.0, **settings}
    journal = journal or MemoryJournal(MemoryServer(), 0)
    server = ShardServer(0, token="", on_commands=lambda conn, items: None, on_left=lambda conn: None)
    runner = Runner(core, journal, server, Settings(**settings), cluster=peer)  # type: ignore[arg-type]
    await runner.start(await journal.acquire("test", []))
    return runner
