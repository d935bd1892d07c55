"""What a sans-I/O core asks of its shell. A core never does anything itself: it returns these, and is told what came of them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from engine.domain.commands import Command
from engine.domain.replies import Reply


class Append(NamedTuple):
    """One journal entry to make durable. At most one is outstanding; its replies are held back until `appended`."""

    seq: int
    time_ms: int
    payload: bytes
    decisions: list[bytes]


class Answer(NamedTuple):
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
    index: int


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
    """The one shape of every core (shard and control): feed it, poll it, do what it says. No clock, no I/O, no await."""

    def receive(self, conn: int, corr: int, command: Command, *, now_ms: int) -> None: ...

    def peer_replied(self, shard: int, corr: int, reply: Reply, *, now_ms: int) -> None: ...

    def appended(self, seq: int) -> None: ...

    def solved(self, component: int, answer: bytes | None, *, now_ms: int) -> None: ...

    def disconnected(self, conn: int) -> None: ...

    def poll(self, *, now_ms: int) -> Effects: ...
