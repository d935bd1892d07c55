"""The control shard, sans I/O: owner of the configuration. The same shape as ShardCore, so that one runner hosts both.

C1  Puts are decided only while no entry is outstanding: at most one set of changes is not yet durable.
C2  An answer leaves only after the entry that its content rests on is durable; a follower is shown durable versions only.
C3  A follower gets every change after its version, in version order, in pages; then each new one as it becomes durable. Of a
    document that changed several times it gets the newest durable one only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from engine.domain.commands import READS, Command, FollowConfig, GetConfig, GetStatus, ListConfig, PutConfig
from engine.domain.config import KINDS
from engine.domain.config_state import DEDUPE_WINDOW_MS, ConfigState, Stored
from engine.domain.decide_config import decide_put, decode_documents
from engine.domain.decide_moves import MoveCommand, decide_move
from engine.domain.decide_orders import refuse
from engine.domain.events import ConfigPut
from engine.domain.placement import CONTROL_SHARD
from engine.domain.problems import CODES
from engine.domain.replies import ConfigDoc, ConfigReply, Problem, Reply, StatusReply
from engine.protocol.effects import Answer, Append, Effects

BATCH_BYTES_MAX = 256 * 1024
QUEUE_MAX = 1_000
PAGE_DOCUMENTS = 1_000
PAGE_BYTES = 512 * 1024
LIST_MAX = 1_000
_EVENTS = msgspec.msgpack.Decoder(list[ConfigPut])
_encode_events = msgspec.msgpack.Encoder().encode


class _Follower:
    __slots__ = ("caught_up", "kinds", "version")

    def __init__(self, version: int, kinds: tuple[str, ...]) -> None:
        self.version = version
        self.kinds = kinds
        self.caught_up = False


class ControlCore:
    """The configuration's only writer. Feed it with `receive` and `appended`; do what `poll` says."""

    def __init__(self, shard: int = CONTROL_SHARD) -> None:
        self.shard = shard
        self.state = ConfigState()
        self.epoch = 0
        self.durable_seq = 0
        self.durable_version = 0
        self.shell_facts: dict[str, Any] = {}
        self.counts: dict[str, int] = {}
        self._puts: deque[tuple[int, int, PutConfig | MoveCommand]] = deque()
        self._reads: deque[tuple[int, int, Command]] = deque()
        self._followers: dict[tuple[int, int], _Follower] = {}
        self._outstanding: Append | None = None
        self._held: list[Answer] = []
        """Answers that wait for the outstanding entry."""
        self._ready: list[Answer] = []
        self._before: dict[tuple[str, int], Stored] = {}
        """Durable documents that the outstanding entry replaces."""

    # -- recovery and snapshots -----------------------------------------------------------------------------------

    def load_part(self, part: str, seq: int, data: bytes) -> None:
        self.state.load_part(part, seq, data)

    def replay(self, seq: int, time_ms: int, payload: bytes) -> None:
        """Apply one journal entry to the parts that do not contain it yet."""
        state = self.state
        for event in _EVENTS.decode(payload):
            state.apply(event, seq=seq, time_ms=time_ms, replay=True)
        state.seq = seq
        state.time_ms = max(state.time_ms, time_ms)

    def recovered(self, *, epoch: int, seq: int, time_ms: int, now_ms: int) -> None:
        """All parts and entries are in."""
        state = self.state
        self.epoch = epoch
        state.seq = max(state.seq, seq)
        state.time_ms = max(state.time_ms, time_ms)
        state.recovered()
        self.durable_seq = state.seq
        self.durable_version = state.version

    def dirty_parts(self) -> list[str]:
        return list(self.state.dirty)

    def pack_part(self, part: str) -> tuple[int, bytes]:
        """(sequence the bytes are true after, bytes). The part counts as clean from now on."""
        assert self.idle, "parts are packed between batches"
        self.state.dirty.pop(part, None)
        return self.state.seq, self.state.pack_part(part)

    @property
    def idle(self) -> bool:
        return self._outstanding is None

    # -- what the shell tells us ----------------------------------------------------------------------------------

    def receive(self, conn: int, corr: int, command: Command, *, now_ms: int) -> None:
        if isinstance(command, PutConfig | MoveCommand):
            if len(self._puts) >= QUEUE_MAX:
                problem = Problem("overloaded", CODES["overloaded"].title, (), retry_after_ms=500)
                self._ready.append(Answer(conn, corr, problem))
            else:
                self._puts.append((conn, corr, command))
        elif isinstance(command, FollowConfig):
            self._follow(conn, corr, command)
        elif isinstance(command, READS):
            self._reads.append((conn, corr, command))
        else:
            detail = f"{type(command).__name__} is not for the control shard"
            self._ready.append(Answer(conn, corr, refuse("not_found", "", detail)))

    def peer_replied(self, shard: int, corr: int, reply: Reply, *, now_ms: int) -> None:
        """The control shard asks no other shard anything."""

    def solved(self, component: int, answer: bytes | None, *, now_ms: int) -> None:
        """The control shard has nothing to solve."""

    def configure(self, docs: Iterable[ConfigDoc], version: int) -> None:
        """The control shard is where the configuration comes from."""

    def appended(self, seq: int) -> None:
        """The outstanding entry is durable: its answers may leave, followers may see its versions."""
        outstanding = self._outstanding
        assert outstanding is not None and outstanding.seq == seq, "an entry was acknowledged that is not outstanding"
        self._outstanding = None
        self.durable_seq = seq
        self.durable_version = self.state.version
        self._before.clear()
        self._ready += self._held
        self._held = []

    def disconnected(self, conn: int) -> None:
        for key in [key for key in self._followers if key[0] == conn]:
            del self._followers[key]

    def archived(self, indexed_seq: int, indexed_ms: int, *, index_is_whole: bool = False) -> None:
        """How far the index is. Nothing of the configuration waits for it."""

    def note_shell(self, facts: dict[str, Any]) -> None:
        self.shell_facts = facts

    # -- the loop -------------------------------------------------------------------------------------------------

    def poll(self, *, now_ms: int) -> Effects:
        """Decide what is queued, as far as one entry goes, and say what to do."""
        append = self._decide(now_ms) if self._outstanding is None and self._puts else None
        while self._reads:
            conn, corr, command = self._reads.popleft()
            self._answer(conn, corr, self._read(command))
        more = False
        for (conn, corr), follower in self._followers.items():
            if follower.version < self.durable_version or not follower.caught_up:
                page = self._page(follower)
                more = more or page.more
                self._ready.append(Answer(conn, corr, page))
        answers, self._ready = self._ready, []
        queued = self._outstanding is None and bool(self._puts)
        return Effects(append, answers, [], now_ms if more or queued else None)

    def _decide(self, now_ms: int) -> Append | None:
        state = self.state
        events: list[ConfigPut] = []
        size = 0
        seq, time_ms = state.seq + 1, max(state.time_ms, now_ms)
        while self._puts and size < BATCH_BYTES_MAX:
            conn, corr, command = self._puts.popleft()
            outcome = self._put(command)
            if isinstance(outcome, tuple):
                names, event = outcome
                for index, _, _, text in event.documents:
                    docs = state.kinds[event.kind].docs
                    old = docs[index] if index < len(docs) else None
                    if old is not None and old.version <= self.durable_version:
                        self._before[(event.kind, index)] = old
                    size += len(text) + 32
                state.apply(event, seq=seq, time_ms=time_ms)
                events.append(event)
                self.counts["documents_put"] = self.counts.get("documents_put", 0) + len(event.documents)
                self._held.append(Answer(conn, corr, self._documents_reply(event.kind, names)))
            elif events:
                self._held.append(Answer(conn, corr, outcome))
            else:
                self._ready.append(Answer(conn, corr, outcome))
        if not events:
            return None
        state.seq, state.time_ms = seq, time_ms
        self._outstanding = Append(seq, time_ms, _encode_events(events), [])
        return self._outstanding

    def _put(self, command: PutConfig | MoveCommand) -> tuple[list[str], ConfigPut] | Reply:
        """(names, event) of a put, or the answer where nothing is to be journaled: a repeat, a problem, no change."""
        if not isinstance(command, PutConfig):
            change = decide_move(self.state, command)
            if isinstance(change, ConfigPut):
                return [""], change
            return self._documents_reply("placement", [""]) if change is None else change
        documents = decode_documents(command)
        if isinstance(documents, Problem):
            return documents
        known = self.state.dedupe.get(command.key_hash) if command.key_hash else None
        if known is not None:
            if known[0] != command.fingerprint:
                return Problem("key_reused", CODES["key_reused"].title)
            self.counts["replayed"] = self.counts.get("replayed", 0) + 1
            return self._documents_reply(command.kind, list(documents))
        outcome = decide_put(self.state, command, documents)
        if isinstance(outcome, ConfigPut):
            return list(documents), outcome
        return self._documents_reply(command.kind, list(documents)) if outcome is None else outcome

    def _documents_reply(self, kind: str, names: list[str]) -> ConfigReply:
        part = self.state.kinds[kind]
        return ConfigReply(
            tuple([_document(kind, part.index_of[name], stored) for name in names if (stored := part.get(name))]),
            self.state.version,
        )

    # -- reads ----------------------------------------------------------------------------------------------------

    def _answer(self, conn: int, corr: int, reply: Reply) -> None:
        (self._ready if self._outstanding is None else self._held).append(Answer(conn, corr, reply))

    def _read(self, command: Command) -> Reply:
        if isinstance(command, GetConfig):
            if command.kind not in KINDS:
                return _unknown_kind()
            reply = self._documents_reply(command.kind, [command.name])
            return reply if reply.documents else refuse("not_found", "", f"no {command.kind} {command.name!r}")
        if isinstance(command, ListConfig):
            if command.kind not in KINDS:
                return _unknown_kind()
            limit = max(1, min(command.limit, LIST_MAX))
            names = self.state.kinds[command.kind].names_after(command.after, limit + 1)
            page = self._documents_reply(command.kind, names[:limit])
            if len(names) <= limit:
                return page
            return ConfigReply(page.documents, page.version, names[limit - 1], True)
        if isinstance(command, GetStatus):
            return self._status()
        return refuse("not_found", "", f"{type(command).__name__} is not for the control shard")

    def _status(self) -> StatusReply:
        state = self.state
        return StatusReply(
            {
                "shard": self.shard,
                "epoch": self.epoch,
                "seq": state.seq,
                "durable_seq": self.durable_seq,
                "config_version": state.version,
                "followers": len(self._followers),
                "dedupe_entries": len(state.dedupe),
                "dedupe_window_ms": DEDUPE_WINDOW_MS,
                "dirty_parts": len(state.dirty),
                "queue_new": len(self._puts),
                "time_ms": state.time_ms,
                **{f"documents_{name}": len(kind.docs) for name, kind in state.kinds.items()},
                **{f"count_{name}": value for name, value in sorted(self.counts.items())},
                **self.shell_facts,
            }
        )

    # -- followers ------------------------------------------------------------------------------------------------

    def _follow(self, conn: int, corr: int, command: FollowConfig) -> None:
        kinds = command.kinds if command.kinds is not None else tuple(KINDS)
        if any(kind not in KINDS for kind in kinds):
            self._ready.append(Answer(conn, corr, _unknown_kind()))
        elif command.after_version > self.durable_version:
            detail = f"version {command.after_version} is not of this configuration, which is at {self.durable_version}"
            self._ready.append(Answer(conn, corr, refuse("invalid_field", "/after_version", detail)))
        else:
            self._followers[(conn, corr)] = _Follower(command.after_version, kinds)

    def _page(self, follower: _Follower) -> ConfigReply:
        """The next durable changes of a follower, bounded by documents and bytes."""
        found: list[tuple[int, str, int]] = []
        for kind in follower.kinds:
            taken = 0
            for version, index in self.state.kinds[kind].changes_after(follower.version):
                if version > self.durable_version or taken > PAGE_DOCUMENTS:
                    break
                if self._durable(kind, index, version) is not None:
                    found.append((version, kind, index))
                    taken += 1
        found.sort()
        documents: list[ConfigDoc] = []
        size = 0
        for version, kind, index in found:
            if len(documents) >= PAGE_DOCUMENTS or size >= PAGE_BYTES:
                break
            stored = self._durable(kind, index, version)
            assert stored is not None
            documents.append(_document(kind, index, stored))
            size += len(stored.document)
        more = len(documents) < len(found)
        follower.version = documents[-1].version if more else self.durable_version
        follower.caught_up = not more
        return ConfigReply(tuple(documents), follower.version, "", more, (self.epoch, self.durable_seq))

    def _durable(self, kind: str, index: int, version: int) -> Stored | None:
        """The document as of a version, where that is its newest durable one."""
        stored = self._before.get((kind, index)) or self.state.kinds[kind].docs[index]
        return stored if stored is not None and stored.version == version else None


def _document(kind: str, index: int, stored: Stored) -> ConfigDoc:
    return ConfigDoc(kind, stored.name, index, stored.version, stored.document)


def _unknown_kind() -> Problem:
    return refuse("invalid_field", "/kind", f"one of {', '.join(KINDS)}")
