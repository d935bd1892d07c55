"""Takeovers, exhaustively, on the real functions: every order in which the calls of two copies can arrive, with one call of either
copy arriving a second time at any later moment (the network held it back, or the copy repeated it).

In each history: the chain verifies, what was acknowledged is in the log exactly once, and nothing of the older copy follows
the entry with which the newer one began.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import redis

from engine.journal.chain import EPOCH_BEGIN, Verifier, next_tail, pack_entry, pack_tail, unpack_entry, unpack_tail
from engine.journal.embedded import EmbeddedServer
from engine.journal.keys import Keys
from engine.journal.port import Tail
from tests.contract.journal_backends import started

OK, DUP, FENCED, CONFLICT = 1, 2, 3, 5
KEYS = Keys(0)
CALLS = 4
"""Of each copy: fence, begin, and two appends."""


class Copy:
    """One copy of a shard: what it asks next follows from what it was told."""

    def __init__(self, raw: Any, name: str) -> None:
        self.raw = raw
        self.name = name
        self.sent: list[tuple[Any, ...]] = []
        self.acknowledged: list[bytes] = []
        self.fenced = False
        self._epoch = 0
        self._tail: Tail | None = None

    def call(self) -> None:
        """Send the next call, unless this copy knows that it is over."""
        if self.fenced:
            return
        if self._tail is None:
            request: tuple[Any, ...] = ("qm1_acquire", 1, KEYS.meta, self.name, b"\x90")
            self.sent.append(request)
            _, _, self._epoch, packed = self.raw.fcall(*request)
            self._tail = unpack_tail(packed)
            return
        begun = self._tail.epoch == self._epoch
        payload = f"{self.name}{len(self.sent)}".encode() if begun else EPOCH_BEGIN
        after = self._tail
        tail = next_tail(after, epoch=self._epoch, time_ms=after.time_ms, payload=payload)
        request = (
            "qm1_append", 3, KEYS.meta, KEYS.entries, KEYS.decisions, self._epoch, pack_tail(after), pack_tail(tail),
            f"{tail.seq}-{tail.epoch}", pack_entry(after.hash, tail, payload), "0", b"",
        )  # fmt: skip
        self.sent.append(request)
        code, *_ = self.raw.fcall(*request)
        if code == FENCED:
            self.fenced = True
            return
        assert code in (OK, DUP), f"{self.name}: {code}"
        self._tail = tail
        self.acknowledged.append(payload)

    def repeat(self, number: int) -> None:
        """An earlier call arrives again; nobody listens to the answer."""
        if number < len(self.sent):
            self.raw.fcall(*self.sent[number])


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedServer]:
    made = started(request.param, tmp_path / "data")
    yield made
    made.stop(timeout_s=60)


def log_of(raw: Any) -> list[tuple[int, bytes]]:
    """(epoch, payload) of every entry, verified."""
    verifier, log = Verifier(after_seq=0), []
    for entry_id, fields in raw.xrange(KEYS.entries):
        seq, epoch = (int(number) for number in entry_id.split(b"-"))
        entry = unpack_entry(epoch, seq, fields[b"e"])
        verifier.check(entry)
        log.append((epoch, entry.payload))
    verifier.check_end(unpack_tail(raw.hget(KEYS.meta, "t")) if log else Tail(0, 0, bytes(16), 0))
    return log


def histories() -> Iterator[tuple[str, tuple[str, int, int] | None]]:
    """(order of calls, (copy, its call, arrives again before this step) or None)."""
    for places in combinations(range(2 * CALLS), CALLS):
        order = "".join("a" if step in places else "b" for step in range(2 * CALLS))
        yield order, None
        for copy in "ab":
            steps = [step for step, who in enumerate(order) if who == copy]
            for number, sent_at in enumerate(steps):
                for again_at in range(sent_at + 1, 2 * CALLS + 1):
                    yield order, (copy, number, again_at)


def run(raw: Any, order: str, late: tuple[str, int, int] | None) -> None:
    raw.delete(KEYS.meta, KEYS.entries, KEYS.decisions)
    copies = {"a": Copy(raw, "a"), "b": Copy(raw, "b")}
    for step in range(len(order) + 1):
        if late is not None and late[2] == step:
            copies[late[0]].repeat(late[1])
        if step < len(order):
            copies[order[step]].call()
    log = log_of(raw)
    payloads = [payload for _, payload in log if payload != EPOCH_BEGIN]
    for copy in copies.values():
        own = [payload for payload in copy.acknowledged if payload != EPOCH_BEGIN]
        assert [payload for payload in payloads if payload.startswith(copy.name.encode())] == own
    epochs = [epoch for epoch, _ in log]
    assert epochs == sorted(epochs), "an entry of the older copy follows the newer one"
    assert sum(copy.fenced for copy in copies.values()) <= 1 or late is not None


def test_no_order_of_arrival_lets_an_older_copy_write_after_a_newer_one_began(server: EmbeddedServer) -> None:
    raw: Any = redis.Redis.from_url(server.url)
    from engine.journal.redis_server import library_code

    raw.function_load(library_code())
    raw.config_set("appendfsync", "no")  # thousands of histories; the order of calls is what is tried here
    count = 0
    for order, late in histories():
        try:
            run(raw, order, late)
        except AssertionError as error:
            raise AssertionError(f"history {order}, late call {late}: {error}") from error
        count += 1
    raw.close()
    assert count == 2_590
