"""Views: what a shard sees of the others' stock and capacity, and what it shows them of its own.

Owners push absolute values of touched positions with the sequence they are true at; a view applies by assignment, so a
repeat or a skipped intermediate value does no harm. A new connection starts with a full picture. A view is never a promise:
a plan that rests on it is checked again by the owner (TryLegs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.domain.commands import FollowView
from engine.domain.replies import Reply, ViewUpdate
from engine.protocol.effects import Answer
from engine.protocol.tokens import parse_token

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

PUSH_INTERVAL_MS = 5
ROWS_PER_UPDATE = 50_000
POSITION_FIELDS = 5
CAPACITY_FIELDS = 3


class ViewFeed:
    """Both sides of the views of one shard."""

    corr = 0
    """Correlation id of FollowView: the shell sends it to every peer on each new connection."""

    def __init__(self, core: ShardCore) -> None:
        self._core = core
        self._followers: dict[tuple[int, int], None] = {}
        self._pushed_seq = 0
        self._pushed_ms = 0
        self._points: dict[int, tuple[int, int]] = {}
        self._heard_ms: dict[int, int] = {}
        self._slots: dict[str, bool] = {}
        self._slots_version = -1
        self.wake_at_ms: int | None = None

    def owns_slot(self, slot: str) -> bool:
        """Whether this shard is the home of a slot, at the placement it knows."""
        catalog = self._core.catalog
        if self._slots_version != catalog.network_version:
            self._slots.clear()
            self._slots_version = catalog.network_version
        owns = self._slots.get(slot)
        if owns is None:
            owns = self._slots[slot] = catalog.owns_slot(slot)
        return owns

    # -- owner ----------------------------------------------------------------------------------------------------

    def follow(self, conn: int, corr: int, command: FollowView) -> None:
        """Send the whole picture, then keep the follower up to date."""
        core = self._core
        positions = core.state.positions
        nodes = positions.node[: positions.size]
        owned = np.isin(nodes, [n for n, owner in enumerate(core.catalog.owner) if owner == core.shard])
        rows = np.flatnonzero(owned)
        items = positions.items()
        capacity = [
            (node, day, used)
            for node in range(len(core.catalog.owner))
            if core.catalog.owns_node(node)
            for day, used in core.state.capacity.rows(node)
        ]
        chunks = [rows[i : i + ROWS_PER_UPDATE] for i in range(0, len(rows), ROWS_PER_UPDATE)] or [rows]
        for n, chunk in enumerate(chunks):
            last = n == len(chunks) - 1
            update = ViewUpdate(
                core.shard,
                core.epoch,
                core.durable_seq,
                n == 0,
                last,
                self._pack(items[chunk], chunk),
                np.array(capacity if last else [], "<i4").tobytes(),
            )
            core.answer(conn, corr, update)
        self._followers[(conn, corr)] = None

    def _pack(self, items: np.ndarray, rows: np.ndarray) -> bytes:
        positions = self._core.state.positions
        taken = positions.held[rows] + positions.allocated[rows] + positions.claimed[rows] + positions.fenced[rows]
        table = np.stack([items, positions.node[rows], positions.on_hand[rows], taken, positions.safety[rows]], axis=1)
        return table.astype("<i4").tobytes()

    def durable(self) -> None:
        """The durable sequence moved: followers are due an update."""
        if self._followers:
            self.wake_at_ms = self._pushed_ms + PUSH_INTERVAL_MS

    def push(self, now_ms: int) -> None:
        """Tell followers what was touched since the last push, at most every few milliseconds."""
        core = self._core
        touched = core.state.touched
        if not self._followers:
            if touched:
                touched.clear()
            return
        if core.durable_seq == self._pushed_seq and not touched:
            self.wake_at_ms = None
            return
        if now_ms < self._pushed_ms + PUSH_INTERVAL_MS:
            self.wake_at_ms = self._pushed_ms + PUSH_INTERVAL_MS
            return
        positions = core.state.positions
        pairs = [(item, positions.find(item, node)) for node, item in touched if item >= 0]
        items = np.array([item for item, _ in pairs], np.int32)
        rows = np.array([row for _, row in pairs], np.int64)
        capacity = [(n, day, used) for n, item in touched if item < 0 for day, used in core.state.capacity.rows(n)]
        touched.clear()
        update = ViewUpdate(
            core.shard,
            core.epoch,
            core.durable_seq,
            False,
            True,
            self._pack(items, rows),
            np.array(capacity, "<i4").tobytes(),
        )
        core._ready += [Answer(conn, corr, update) for conn, corr in self._followers]
        self._pushed_seq, self._pushed_ms = core.durable_seq, now_ms
        self.wake_at_ms = None

    def disconnected(self, conn: int) -> None:
        for key in [key for key in self._followers if key[0] == conn]:
            del self._followers[key]

    # -- follower -------------------------------------------------------------------------------------------------

    def update(self, reply: Reply, now_ms: int = 0) -> None:
        """Apply an owner's values by assignment. A full picture first forgets what was seen of that owner."""
        if not isinstance(reply, ViewUpdate):
            return
        core = self._core
        positions = core.state.positions
        if reply.full:
            self._points.pop(reply.shard, None)
            theirs = [n for n, owner in enumerate(core.catalog.owner) if owner == reply.shard]
            rows = np.flatnonzero(np.isin(positions.node[: positions.size], theirs))
            for column in (positions.on_hand, positions.held, positions.safety):
                column[rows] = 0
        table = np.frombuffer(reply.positions, "<i4").reshape(-1, POSITION_FIELDS)
        for item, node, on_hand, taken, safety in table.tolist():
            if core.catalog.owns_node(node):
                continue  # ours by a newer map than the sender's
            row = positions.ensure(item, node)
            positions.v_on_hand[row] = on_hand
            positions.v_held[row] = taken
            positions.v_safety[row] = safety
        for node, day, used in np.frombuffer(reply.capacity, "<i4").reshape(-1, CAPACITY_FIELDS).tolist():
            if not core.catalog.owns_node(node):
                core.state.capacity.put(node, day, used)
        if reply.last:
            self._points[reply.shard] = (reply.epoch, reply.seq)
            self._heard_ms[reply.shard] = now_ms

    def contains(self, token: str) -> bool | None:
        """Whether everything a token names is in this shard's state and views; None = not a token."""
        points = parse_token(token)
        if points is None:
            return None
        core = self._core
        for shard, (epoch, seq) in points.items():
            if shard == core.shard:
                if core.state.seq < seq:
                    return False
            elif self._points.get(shard, (0, 0)) < (epoch, seq):
                return False
        return True

    def lag_ms(self, now_ms: int) -> int:
        """Age of the oldest view, 0 where there are no others."""
        return max((now_ms - heard for heard in self._heard_ms.values()), default=0)
