"""One core whose appends are durable at once: the shortest way from a command to its answer, for unit and property tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from engine.domain.catalog import Catalog
from engine.domain.commands import Command, ShowDemand
from engine.domain.config import Document
from engine.domain.events import Event
from engine.domain.replies import Reply
from engine.domain.state import ShardState
from engine.protocol.effects import Append, Effects, Send
from engine.protocol.shard_core import ShardCore
from tests.builders import NOW_MS, as_docs
from tests.sim.checker import JournalFold, check_core, digest
from tests.sim.greedy_planner import GreedyPlanner

_events = msgspec.msgpack.Decoder(list[Event])


class LoneCore:
    """`ask` sends one command and returns its answer; `entries` is the journal; every step is checked."""

    def __init__(
        self,
        documents: Sequence[Document],
        *,
        shard: int = 0,
        make_planner: Callable[[ShardState], Any] = GreedyPlanner,
        **options: Any,
    ) -> None:
        self.documents = documents
        self.shard = shard
        self.make_planner = make_planner
        self.options = options
        self.now_ms = NOW_MS
        self.entries: list[Append] = []
        self.sent: list[Send] = []
        """Commands to other shards, without ShowDemand: those are in `told`."""
        self.told: list[Send] = []
        self.solves: list[Any] = []
        self.replies: dict[int, list[Reply]] = {}
        self._corr = 0
        self.core = self.new_core()
        self.core.recovered(epoch=1, seq=0, time_ms=0, now_ms=self.now_ms)
        owned = {n for n in range(len(self.catalog.nodes)) if self.catalog.owns_node(n)}
        self.fold = JournalFold(owned)

    @property
    def catalog(self) -> Catalog:
        return self.core.catalog

    @property
    def state(self) -> ShardState:
        return self.core.state

    def new_core(self) -> ShardCore:
        catalog = Catalog(self.shard)
        docs = as_docs(self.documents)
        catalog.apply(docs, len(docs))
        return ShardCore(self.shard, catalog, self.make_planner, **self.options)

    def put(self, document: Document) -> None:
        """Change or add a document while the core runs."""
        self.documents = [*self.documents, document]
        docs = as_docs(self.documents)
        self.core.configure(docs, len(docs))

    def send(self, command: Command, *, conn: int = 1) -> int:
        self._corr += 1
        self.core.receive(conn, self._corr, command, now_ms=self.now_ms)
        return self._corr

    def poll(self, *, durable: bool = True) -> Effects:
        """One poll; what it appends is durable at once, unless told otherwise."""
        effects = self.core.poll(now_ms=self.now_ms)
        check_core(self.core)
        for answer in effects.answers:
            self.replies.setdefault(answer.corr, []).append(answer.reply)
        for send in effects.sends:
            (self.told if isinstance(send.command, ShowDemand) else self.sent).append(send)
        self.solves += effects.solves
        if effects.append is not None:
            self.entries.append(effects.append)
            self.fold.add(effects.append.seq, _events.decode(effects.append.payload))
            if durable:
                self.core.appended(effects.append.seq)
        return effects

    def settle(self) -> None:
        """Poll until nothing is left to do at this instant."""
        for _ in range(50):
            effects = self.poll()
            if effects.append is None and not effects.answers:
                return
        raise AssertionError("the core does not come to rest")

    def ask(self, command: Command) -> Any:
        corr = self.send(command)
        self.settle()
        (reply,) = self.replies.pop(corr)
        return reply

    def pass_time(self, ms: int) -> None:
        self.now_ms += ms
        self.settle()

    def take_sent(self) -> list[Any]:
        """Commands to other shards since the last time."""
        sent, self.sent = self.sent, []
        return sent

    def recovered_from(self, parts: dict[str, tuple[int, bytes]]) -> ShardCore:
        """Another core from snapshot parts and the entries since."""
        core = self.new_core()
        for part, (seq, data) in parts.items():
            core.load_part(part, seq, data)
        for entry in self.entries:
            core.replay(entry.seq, entry.time_ms, entry.payload)
        tail = self.entries[-1] if self.entries else None
        core.recovered(epoch=2, seq=len(self.entries), time_ms=tail.time_ms if tail else 0, now_ms=self.now_ms)
        return core

    def check_recovery(self, parts: dict[str, tuple[int, bytes]]) -> None:
        """I7: snapshots and tail, and all entries from zero, give the state there is."""
        assert self.core.idle
        live = digest(self.state)
        for chosen in (parts, {}):
            other = self.recovered_from(chosen).state
            if other.open_holds:  # the recovery itself is the first entry it builds: not in the journal yet
                other.seq, other.time_ms = self.state.seq, self.state.time_ms
                other.recovered_at_ms, other.grace_until_ms = self.state.recovered_at_ms, self.state.grace_until_ms
            again = digest(other)
            for name, value in live.items():
                assert again[name] == value, f"I7: {name}: live {value}, recovered {again[name]}"
