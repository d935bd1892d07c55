"""Shards of pure cores, wired to each other in memory and journaling into lists: for tests of what reads journals.

No faults and no reordering (the simulator has those): every message arrives, every append is durable at the next step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec.structs import replace

from engine.domain.commands import AdjustStock, Command, StockMove
from engine.domain.config import NodeCapacity
from engine.domain.replies import Reply
from engine.protocol.effects import Append
from engine.protocol.shard_core import ShardCore
from tests.builders import NOW_MS, a_catalog
from tests.sim.greedy_planner import GreedyPlanner

_PEER = 1_000_000
"""Connections from here on are peers: _PEER + shard."""


@dataclass
class LittleCluster:
    """`entries[shard]` = its journal, (sequence, time, payload) each."""

    shards: int = 1
    nodes: int = 4
    items: int = 6
    now_ms: int = NOW_MS
    per_day: int = 0
    """Units that every node can ship a day; 0 = any number."""
    cores: list[ShardCore] = field(default_factory=list)
    entries: list[list[Append]] = field(default_factory=list)
    replies: dict[int, Reply] = field(default_factory=dict)
    _corr: int = 0
    _due: list[tuple[int, Append]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for shard in range(self.shards):
            catalog = a_catalog(shard, nodes=self.nodes, items=self.items, shards=self.shards)
            if self.per_day:
                limit = NodeCapacity(unit="units", per_day=self.per_day)
                catalog.nodes = [replace(node, capacity=limit) if node else None for node in catalog.nodes]
            core = ShardCore(shard, catalog, GreedyPlanner)
            core.recovered(epoch=1, seq=1, time_ms=self.now_ms, now_ms=self.now_ms)  # entry 1 = the takeover
            self.cores.append(core)
            self.entries.append([])
        for shard in range(self.shards):
            for other in range(self.shards):
                if other != shard:
                    self._follow(shard, other)
        self.settle()

    def _follow(self, shard: int, other: int) -> None:
        from engine.domain.commands import FollowView

        self.cores[other].receive(_PEER + shard, 0, FollowView(shard), now_ms=self.now_ms)

    def send(self, shard: int, command: Command) -> int:
        """Put a command into a shard's queue; its reply will be in `replies` under the returned number."""
        self._corr += 1
        self.cores[shard].receive(1, self._corr, command, now_ms=self.now_ms)
        return self._corr

    def step(self) -> bool:
        """Poll every shard once; appends become durable before its next poll. False = nothing happened."""
        busy = False
        for shard, append in self._due:
            self.cores[shard].appended(append.seq)
            busy = True
        self._due.clear()
        for shard, core in enumerate(self.cores):
            effects = core.poll(now_ms=self.now_ms)
            if effects.append is not None:
                self.entries[shard].append(effects.append)
                self._due.append((shard, effects.append))
                busy = True
            for answer in effects.answers:
                busy = True
                if answer.conn >= _PEER:
                    self.cores[answer.conn - _PEER].peer_replied(shard, answer.corr, answer.reply, now_ms=self.now_ms)
                else:
                    self.replies[answer.corr] = answer.reply
            for sent in effects.sends:
                busy = True
                self.cores[sent.shard].receive(_PEER + shard, sent.corr, sent.command, now_ms=self.now_ms)
        return busy

    def stock_at(self, shard: int, units: int = 5) -> str:
        """Receive SKU-0 at the first node of a shard, and let the others see it; returns the node's id."""
        node = next(n for n, owner in enumerate(self.cores[shard].catalog.owner) if owner == shard)
        self.ask(shard, AdjustStock(f"N-{node}", (StockMove("SKU-0", "received", units),)))
        self.now_ms += 100  # views are pushed every few milliseconds
        self.settle()
        return f"N-{node}"

    def settle(self, *, steps_max: int = 10_000) -> None:
        """Run until nothing moves at this instant."""
        for _ in range(steps_max):
            self.now_ms += 1
            if not self.step() and not self.step():
                return
        raise AssertionError("the cluster does not come to rest")

    def ask(self, shard: int, command: Command) -> Reply:
        corr = self.send(shard, command)
        self.settle()
        return self.replies.pop(corr)

    def ask_each(self, shard: int, commands: Iterable[Command]) -> list[Reply]:
        """Put all in the queue at once, so that they share entries."""
        corrs = [self.send(shard, command) for command in commands]
        self.settle()
        return [self.replies.pop(corr) for corr in corrs]
