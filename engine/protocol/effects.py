"""What a sans-I/O core asks of its shell. A core never does anything itself: it returns these, and is told what came of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

from engine.domain.commands import Command
from engine.domain.replies import ConfigDoc, Reply


class Append(NamedTuple):
    """One journal entry to make durable. At most one is outstanding; its replies are held back until `appended`."""

    seq: int
    time_ms: int
    payload: bytes
    decisions: list[bytes]


class Answer(Struct, frozen=True, gc=False):
    conn: int
    corr: int
    reply: Reply


class Send(NamedTuple):
    """A command to another shard. Its reply comes back by `peer_replied(shard, corr, reply)`, maybe never, maybe twice."""

    shard: int
    corr: int
    command: Command


class Fetch(NamedTuple):
    """Read a decision record from the journal and answer with it (DecisionReply), or with `not_found`."""

    conn: int
    corr: int
    epoch: int
    seq: int
    place: int
    """Place of the record among those of its entry."""


class Solve(NamedTuple):
    """Send a contended component to the solver process; tell the core by `solved(component, answer)`, None at the deadline."""

    component: int
    deadline_ms: int
    problem: bytes


class Effects(NamedTuple):
    append: Append | None
    answers: list[Answer]
    sends: list[Send]
    wake_at_ms: int | None
    """Call `poll` again at this time even if nothing arrives; None = only when something arrives."""
    fetches: list[Fetch] = []
    solves: list[Solve] = []


class Core(Protocol):
    """The one shape of every core (shard and control): feed it, poll it, do what it says. No clock, no I/O, no await.

    Life: load_part* replay* recovered, then any order of receive, peer_replied, solved, configure, disconnected, poll;
    `appended` once for each Append. Parts are packed only while `idle`.
    """

    shard: int
    epoch: int

    # recovery
    def load_part(self, part: str, seq: int, data: bytes) -> None:
        """Newest good snapshot of a part, true after `seq`. Raises UnknownSchema, msgspec.MsgspecError."""

    def replay(self, seq: int, time_ms: int, payload: bytes) -> None:
        """The next journal entry, from the oldest loaded part on."""

    def recovered(self, *, epoch: int, seq: int, time_ms: int, now_ms: int) -> None: ...

    # snapshots
    @property
    def idle(self) -> bool:
        """Nothing outstanding or being built: state equals the durable journal."""

    def dirty_parts(self) -> list[str]:
        """Parts changed since they were last packed, longest waiting first."""

    def pack_part(self, part: str) -> tuple[int, bytes]:
        """(sequence the bytes are true after, bytes). The part counts as clean from now on."""

    # work
    def receive(self, conn: int, corr: int, command: Command, *, now_ms: int) -> None: ...

    def peer_replied(self, shard: int, corr: int, reply: Reply, *, now_ms: int) -> None: ...

    def appended(self, seq: int) -> None: ...

    def solved(self, component: int, answer: bytes | None, *, now_ms: int) -> None: ...

    def configure(self, docs: Iterable[ConfigDoc], version: int) -> None:
        """Take a push of the configuration; between polls, never while one runs."""

    def disconnected(self, conn: int) -> None: ...

    def note_shell(self, facts: dict[str, Any]) -> None:
        """Measurements of the shell for status and metrics."""

    def poll(self, *, now_ms: int) -> Effects: ...
