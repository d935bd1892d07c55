"""Release waves: at its times a node's allocated legs are released, by the homes of their orders.

W1  A home releases its own orders' legs, at whichever shard the node is. A wave is done when everything that it was to release has
    been; that is journaled (`WaveDone`), so that a restart runs a wave that was missed and never repeats one.
W2  A wave takes the legs that were there when it began, in the order in which the orders came, a bounded number a batch.
W3  What cannot be released (an order on hold, a node that is off) waits for the next wave.
W4  A slot that is moving is left alone: its next home releases its legs with the wave after.
W5  A node's first wave is the next one after its schedule was first seen, or changed: times of a new schedule were not missed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.domain import decide_legs
from engine.domain.commands import ActOnLeg
from engine.domain.config import Node
from engine.domain.events import WaveDone
from engine.domain.orders import LegState, OrderState
from engine.domain.replies import Problem
from engine.domain.state import LEG_NO_MAX
from engine.domain.waves import Wave, has_same_waves, last_wave, next_wave
from engine.protocol.improving import LEAD_MS, improve

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

LEGS_PER_POLL = 64
SCHEDULES_PER_POLL = 64


class _Running:
    """A wave on its way."""

    def __init__(self, node: int, wave: Wave, keys: list[int]) -> None:
        self.node = node
        self.wave = wave
        self.keys = keys
        """Legs (order number << 12 | leg number) to look at, newest first."""


class Waves:
    """This home's part of all nodes' waves."""

    def __init__(self, core: ShardCore) -> None:
        self._core = core
        self._version = -1
        self._documents: dict[int, Node] = {}
        """Nodes with waves, as their schedule was read last."""
        self._changed: set[int] = set()
        """Nodes that got another schedule while this home was there to follow the old one (W5)."""
        self._todo: list[int] = []
        """Nodes whose next wave is to be worked out."""
        self._at_ms: dict[int, int] = {}
        """Next wave by node."""
        self._next: list[tuple[int, int]] = []
        """(instant, node), a heap; entries that `_at_ms` does not know are void."""
        self._leads: list[tuple[int, int]] = []
        """(when split orders are planned again before a wave, node), a heap; void like the others."""
        self._running: _Running | None = None

    def tick(self, now_ms: int, room: Callable[[], int]) -> None:
        core = self._core
        if core.catalog.version != self._version:
            self._read()
        for _ in range(min(len(self._todo), SCHEDULES_PER_POLL, room())):
            self._schedule(self._todo.pop(), now_ms)
        while self._leads and self._leads[0][0] <= core.time_ms(now_ms) and room():
            due_ms, node = heapq.heappop(self._leads)
            if self._at_ms.get(node) == due_ms + LEAD_MS:
                improve(core, node, now_ms=now_ms)
                break  # the next node at the next poll
        left = LEGS_PER_POLL
        while left > 0 and room():
            if self._running is None and not self._begin(now_ms):
                return
            left -= self._release(now_ms, min(left, room()))

    def wake_at_ms(self, now_ms: int) -> int | None:
        if self._running is not None or self._todo or self._core.catalog.version != self._version:
            return now_ms + 1
        times = [heap[0][0] for heap in (self._next, self._leads) if heap]
        return max(min(times), now_ms + 1) if times else None

    def _read(self) -> None:
        """Find the nodes whose document a new version of the configuration changed."""
        core = self._core
        is_first, self._version = self._version < 0, core.catalog.version
        known = self._documents
        for node, document in enumerate(core.catalog.nodes):
            if known.get(node) is document or document is None:
                continue
            if document.waves:
                before = known.get(node)
                if not is_first and (before is None or not has_same_waves(before, document)):
                    self._changed.add(node)
                known[node] = document
                self._todo.append(node)
            else:
                known.pop(node, None)
                self._at_ms.pop(node, None)

    def _schedule(self, node: int, now_ms: int) -> None:
        """The newest wave that was missed, else the next one."""
        core = self._core
        document = self._documents.get(node)
        if document is None:
            return
        time_ms = core.time_ms(now_ms)
        if self._at_ms.get(node, time_ms + 1) <= time_ms or (self._running is not None and self._running.node == node):
            return  # what is due comes first: its end leads here again
        done_ms = core.state.waves_ms.get(node)
        if done_ms is None or node in self._changed:  # W5
            self._changed.discard(node)
            core.put(core.batch(now_ms), WaveDone(node, time_ms))
            done_ms = time_ms
        missed_ms = last_wave(document, time_ms)
        at_ms = missed_ms if missed_ms > done_ms else next_wave(document, time_ms)
        if at_ms is None:
            self._at_ms.pop(node, None)
        elif self._at_ms.get(node) != at_ms:
            self._at_ms[node] = at_ms
            heapq.heappush(self._next, (at_ms, node))
            if at_ms > time_ms + LEAD_MS:
                heapq.heappush(self._leads, (at_ms - LEAD_MS, node))

    def _begin(self, now_ms: int) -> bool:
        """Start the wave that is due; False = none is."""
        core = self._core
        while self._next and self._next[0][0] <= core.time_ms(now_ms):
            at_ms, node = heapq.heappop(self._next)
            if self._at_ms.get(node) != at_ms:
                continue
            del self._at_ms[node]
            keys = sorted(core.state.work.get(node, ()), reverse=True)
            self._running = _Running(node, Wave(self._documents[node], at_ms), keys)
            return True
        return False

    def _release(self, now_ms: int, limit: int) -> int:
        """Release some legs of the wave on its way; returns how many were looked at, at least 1."""
        core, running = self._core, self._running
        assert running is not None
        looked = 0
        while running.keys and looked < limit:
            looked += 1
            self._one(running, running.keys.pop(), now_ms)
        if not running.keys:
            self._running = None
            core.put(core.batch(now_ms), WaveDone(running.node, running.wave.at_ms))
            core.count("waves")
            self._schedule(running.node, now_ms)
        return max(1, looked)

    def _one(self, running: _Running, key: int, now_ms: int) -> None:
        core = self._core
        slot = core.state.work.get(running.node, {}).get(key)
        order_no, leg_no = key >> 12, key & LEG_NO_MAX
        if slot is None or (core.moves.watching and core.moves.is_closing(slot)):
            return
        record = core.state.order(slot, order_no)
        leg = decide_legs.find_leg(record, leg_no) if record is not None else None
        if record is None or leg is None or leg.state != LegState.ALLOCATED or record.state != OrderState.COMMITTED:
            return
        document = core.catalog.nodes[leg.node]
        if not running.wave.takes(leg) or document is None or document.state == "off":
            return
        batch = core.batch(now_ms)
        change = decide_legs.act(record, ActOnLeg(slot, order_no, leg_no, "release"), now_ms=batch.time_ms)
        if change is None or isinstance(change, Problem):
            return  # W3
        core.acceptance.begin(record, leg_no, batch.time_ms)
        core.put_order(batch, change.cause, slot, order_no, record, change.stock, change.capacity)
        core.acceptance.watch(slot, order_no, record)
        core.count("legs_released_by_wave")
