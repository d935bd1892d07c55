"""A gateway's view of stock against the shard that it follows: any order of pushes, pages, refusals, breaks and restarts ends in the truth.

The real owner (ShardCore with its StockFeed) and the real reader (ShardStock) are joined by a wire in memory that keeps order, as a
socket does, and that the test delivers from, breaks, and connects to a new copy of the shard.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.client import stock_view
from engine.client.link import ShardLink
from engine.client.stock_view import ShardStock
from engine.domain.commands import AdjustStock, Command, StockMove
from engine.domain.replies import Problem, Reply
from engine.protocol.stock_feed import HEARTBEAT_MS, PUSH_INTERVAL_MS
from tests.builders import a_network, a_place, an_order
from tests.sim.lone_core import LoneCore

ITEMS, NODES = 6, 3
Key = tuple[int, int]
Values = dict[Key, list[int]]


class Owner(LoneCore):
    """One shard. `history[seq]` = the positions as entry `seq` left them, by epoch."""

    def __init__(self) -> None:
        super().__init__(a_network(nodes=NODES, items=ITEMS))
        self.epoch = 1
        self.orders = 0

    def restart(self) -> None:
        """Another copy takes over what is in the journal."""
        self.core = self.recovered_from({})
        self.epoch += 1
        self.core.epoch = self.epoch
        self.settle()

    def truth(self) -> Values:
        positions = self.state.positions
        found: Values = {}
        for item in range(ITEMS):
            for row in positions.rows(item):
                free = positions.free(row)
                found[item, positions.v_node[row]] = [
                    positions.v_on_hand[row],
                    positions.v_held[row],
                    positions.v_allocated[row],
                    positions.v_safety[row],
                    free,
                ]
        return found


class Wire:
    """Stands for ShardLink: one connection at a time, in order both ways, delivered when the test says so."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.conn = 10
        self.connected = True
        self._make: Callable[[], Command]
        self._on_push: Callable[[Reply], None]
        self._corr = 1_000
        self.out: deque[tuple[int, Command]] = deque()
        self.back: deque[tuple[int, Reply]] = deque()
        self._told: dict[int, tuple[Command, Callable[[Reply], None]]] = {}

    def subscribe(self, corr: int, make: Callable[[], Command], on_reply: Callable[[Reply], None]) -> None:
        self._make, self._on_push = make, on_reply
        self.out.append((corr, make()))

    def tell(self, command: Command, on_reply: Callable[[Reply], None]) -> None:
        self._corr += 1
        self._told[self._corr] = (command, on_reply)
        if self.connected:
            self.out.append((self._corr, command))

    def submit(self, command: Command) -> Any:
        raise AssertionError("a future is seen too late")

    async def close(self) -> None:
        self.connected = False

    def ask(self) -> None:
        """The oldest command reaches the shard."""
        if self.out:
            corr, command = self.out.popleft()
            self.owner.core.receive(self.conn, corr, command, now_ms=self.owner.now_ms)

    def poll(self, *, durable: bool = True, refused: bool = False) -> None:
        """refused: the shard has not proved its epoch for too long, so what it would push it refuses instead."""
        core = self.owner.core
        effects = self.owner.poll(durable=durable)
        for answer in effects.answers:
            if answer.conn == self.conn:
                push = answer.corr == stock_view.STOCK_CORR
                self.back.append((answer.corr, Problem("unavailable", "") if refused and push else answer.reply))
        assert core is self.owner.core

    def answer(self) -> None:
        """The oldest reply or push reaches the reader."""
        if self.back:
            corr, reply = self.back.popleft()
            told = self._told.pop(corr, None)
            if told is not None:
                told[1](reply)
            elif corr == stock_view.STOCK_CORR:
                if type(reply) is Problem:
                    self.out.append((corr, self._make()))
                self._on_push(reply)

    def lose(self) -> None:
        """The connection breaks: what is under way is lost. Reads are sent again on the next one, after the subscription."""
        self.owner.core.disconnected(self.conn)
        self.conn += 1
        self.out.clear()
        self.back.clear()
        self.out.append((stock_view.STOCK_CORR, self._make()))
        self.out += [(corr, command) for corr, (command, _) in self._told.items()]


def shown(shard: ShardStock) -> Values:
    columns = shard.columns
    assert columns is not None
    found: Values = {}
    for item in range(ITEMS):
        for node, values in zip(*columns.of_item(item), strict=True):
            assert (item, node) not in found, "a position is there twice"
            found[item, node] = values[:5]
    return found


OPS = (
    "receive",
    "order",
    "ask",
    "poll",
    "poll_unacknowledged",
    "poll_refused",
    "answer",
    "wait",
    "probe",
    "lose",
    "restart",
)
WEIGHTS = (8, 6, 14, 14, 4, 2, 14, 8, 5, 1, 1)


class Meeting:
    """One run. `values` remembers every value that a position had, so that what is shown can be dated."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.owner = Owner()
        self.wire = Wire(self.owner)
        self.had: dict[Key, list[tuple[int, int, list[int]]]] = {}
        """Values by position: (epoch, newest entry that is built, values), oldest first."""
        self.acknowledged: list[tuple[int, Key]] = []
        """(time, (epoch, entry)) of every acknowledgement."""
        self.shard = ShardStock(0, cast(ShardLink, self.wire), lambda shard: None)

    def note(self) -> None:
        seq = self.owner.entries[-1].seq if self.owner.entries else 0
        for key, values in self.owner.truth().items():
            had = self.had.setdefault(key, [])
            if not had or had[-1] != (self.owner.epoch, seq, values):
                had.append((self.owner.epoch, seq, values))

    def step(self, op: str) -> None:
        owner, wire, draw = self.owner, self.wire, self.draw
        if op == "receive":
            move = StockMove(f"SKU-{draw.randrange(ITEMS)}", "received", draw.randint(1, 9))
            owner.send(AdjustStock(f"N-{draw.randrange(NODES)}", (move,)))
        elif op == "order":
            owner.orders += 1
            lines = {f"SKU-{draw.randrange(ITEMS)}": draw.randint(1, 3)}
            owner.send(a_place(an_order(f"A-{owner.orders}", lines=lines), ttl_s=60))
        elif op == "ask":
            wire.ask()
        elif op == "poll":
            self.acknowledge()
            wire.poll()
        elif op == "poll_unacknowledged":
            self.acknowledge()
            wire.poll(durable=False)
        elif op == "poll_refused":
            wire.poll(durable=False, refused=True)
        elif op == "answer":
            wire.answer()
        elif op == "wait":
            owner.now_ms += draw.choice((1, PUSH_INTERVAL_MS, HEARTBEAT_MS))
        elif op == "probe":
            self.shard.probe()
        elif op == "lose":
            wire.lose()
        else:
            self.acknowledge()
            wire.lose()
            owner.restart()
            wire.lose()
        self.note()
        self.check()

    def acknowledge(self) -> None:
        core = self.owner.core
        if self.owner.entries and core.durable_seq < self.owner.entries[-1].seq:
            core.appended(self.owner.entries[-1].seq)
            self.acknowledged.append((self.owner.now_ms, (self.owner.epoch, core.durable_seq)))

    def check(self) -> None:
        """W2: what is shown is what the position had at its point, or at some later moment. W3: its age is no lie."""
        if self.shard.columns is None:
            return
        for at_ms, point in self.acknowledged:
            assert at_ms >= self.shard.heard_s * 1_000 or point <= self.shard.point, (at_ms, point, self.shard.heard_s)
        seen = shown(self.shard)
        for key, had in self.had.items():
            at = [n for n, (epoch, seq, _) in enumerate(had) if (epoch, seq) <= self.shard.point]
            possible = [values for _, _, values in had[at[-1] if at else 0 :]]
            assert (not at and key not in seen) or seen.get(key) in possible, (
                key,
                seen.get(key),
                self.shard.point,
                had,
            )

    def settle(self) -> None:
        """Everything arrives: the view is the truth."""
        owner, wire = self.owner, self.wire
        for _ in range(500):
            self.acknowledge()
            while wire.out:
                wire.ask()
            wire.poll()
            while wire.back:
                wire.answer()
            owner.now_ms += PUSH_INTERVAL_MS
            if self.shard.point == (owner.epoch, owner.state.seq) and not wire.out and owner.core.idle:
                break
        assert self.shard.point == (owner.epoch, owner.state.seq)
        assert shown(self.shard) == owner.truth()


@pytest.mark.parametrize("page_rows", [1, 3, 20_000])
@given(seed=st.integers(0, 2**32), steps=st.integers(5, 200))
@settings(max_examples=40, deadline=None)
def test_a_view_ends_as_its_owner_and_never_shows_what_is_older_than_its_point(
    page_rows: int, seed: int, steps: int
) -> None:
    async def run(patch: pytest.MonkeyPatch) -> None:
        draw = random.Random(seed)
        meeting = Meeting(draw)
        patch.setattr(stock_view, "time", SimpleNamespace(monotonic=lambda: meeting.owner.now_ms / 1_000))
        for op in draw.choices(OPS, WEIGHTS, k=steps):
            meeting.step(op)
        meeting.settle()
        assert shown(meeting.shard) == meeting.owner.truth()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stock_view, "PAGE_ROWS", page_rows)
        asyncio.run(run(patch))
