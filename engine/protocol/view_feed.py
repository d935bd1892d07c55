"""Views: what a shard sees of the others' stock and capacity, and what it shows them of its own.

V1  Owners push absolute values of touched positions with the entry they contain at least; a view applies by assignment, so a
    repeat or a skipped intermediate value does no harm. What the entry being built touched is pushed again with that entry.
V2  A new connection starts with a full picture. So does what follows a refusal, which may stand in the place of a push: until then
    the point of the view stays where it was.
V3  A view is never a promise: a plan that rests on it is checked again by the owner (TryLegs).
V4  Claims are not shown: they end within milliseconds, and their end touches nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.domain.boxes import rows_of
from engine.domain.commands import FollowView
from engine.domain.feed_age import counts_of
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import Reply, ViewUpdate
from engine.protocol.effects import Answer
from engine.protocol.tokens import parse_token

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

PUSH_INTERVAL_MS = 20
HEARTBEAT_MS = 1_000
ROWS_PER_UPDATE = 10_000
POSITION_FIELDS = 5
CAPACITY_FIELDS = 3
PLACES_MAX = 100_000


class ViewFeed:
    """Both sides of the views of one shard."""

    corr = 0
    """Correlation id of FollowView: the shell sends it to every peer on each new connection."""

    def __init__(self, core: ShardCore) -> None:
        self._core = core
        self._followers: dict[tuple[int, int], None] = {}
        self._due: dict[int, None] = {}
        """Positions (item << 32 | node) of closed entries that followers have not been told of."""
        self._due_capacity: dict[int, None] = {}
        self._due_counts: dict[int, None] = {}
        self._seq = 0
        """Newest closed entry: what the values shown contain at least."""
        self._pushed_seq = 0
        self._pushed_ms = 0
        self._heard_ms: dict[int, int] = {}
        self._refused: set[int] = set()
        """Owners whose newest word is a refusal (V2)."""
        self._slots: dict[str, bool] = {}
        self._places: dict[tuple[str, str], tuple[str, tuple[float, float] | None]] = {}
        self._slots_version = -1

    def owns_slot(self, slot: str) -> bool:
        """Whether this shard is the home of a slot, at the placement it knows."""
        self._forget_old_slots()
        owns = self._slots.get(slot)
        if owns is None:
            owns = self._slots[slot] = self._core.catalog.owns_slot(slot)
        return owns

    def own_places(self) -> dict[tuple[str, str], tuple[str, tuple[float, float] | None]]:
        """(slot of this shard, point) by (country, postal code), of destinations that were served before: filled by place_group."""
        self._forget_old_slots()
        return self._places

    def forget_slots(self) -> None:
        """What this shard owns has changed."""
        self._slots_version = -1

    def _forget_old_slots(self) -> None:
        catalog = self._core.catalog
        version = catalog.network_version
        if self._slots_version != version or len(self._slots) > PLACES_MAX or len(self._places) > PLACES_MAX:
            self._slots.clear()
            self._places.clear()
            self._slots_version = version

    # -- owner ----------------------------------------------------------------------------------------------------

    def recovered(self) -> None:
        state = self._core.state
        state.touched.clear()
        state.touched_capacity.clear()
        state.touched_counts.clear()
        self._seq = self._pushed_seq = state.seq

    def closed(self, seq: int) -> None:
        """An entry is complete: what it touched is due."""
        state = self._core.state
        self._seq = seq
        if self._followers:
            self._due.update(state.touched)
            self._due_capacity.update(state.touched_capacity)
            self._due_counts.update(state.touched_counts)
        state.touched.clear()
        state.touched_capacity.clear()
        state.touched_counts.clear()

    def show(self, key: int) -> None:
        """A position (item << 32 | node) looks different to others although no entry touched it."""
        if self._followers:
            self._due[key] = None

    def follow(self, conn: int, corr: int, command: FollowView) -> None:
        """Send the whole picture, then keep the follower up to date."""
        core = self._core
        positions, owner = core.state.positions, core.catalog.owner
        nodes = positions.node[: positions.size]
        own = [node for node, shard in enumerate(owner) if shard == core.shard]
        rows = np.flatnonzero(np.isin(nodes, own))
        items = positions.items()
        capacity = [(node, day, used) for node in own for day, used in core.state.capacity.rows(node)]
        chunks = [rows[i : i + ROWS_PER_UPDATE] for i in range(0, len(rows), ROWS_PER_UPDATE)] or [rows]
        for n, chunk in enumerate(chunks):
            last = n == len(chunks) - 1
            update = ViewUpdate(
                core.shard,
                core.epoch,
                self._seq,
                n == 0,
                last,
                self._pack(items[chunk], chunk),
                np.array(capacity if last else [], "<i4").tobytes(),
                counts_of(core.state, core.state.nodes) if n == 0 else (),  # before any stock is seen
            )
            core.answers_now([Answer(conn, corr, update)])  # at once: a later push must not overtake it
        self._followers[(conn, corr)] = None
        core.state.watched = True

    def _pack(self, items: np.ndarray, rows: np.ndarray) -> bytes:
        positions = self._core.state.positions
        taken = positions.held[rows] + positions.allocated[rows] + positions.fenced[rows]
        table = np.stack([items, positions.node[rows], positions.on_hand[rows], taken, positions.safety[rows]], axis=1)
        return table.astype("<i4").tobytes()

    def push(self, now_ms: int) -> None:
        """Tell followers what closed entries touched, at most every few milliseconds; nothing to tell is told, too."""
        if not self._followers:
            return
        interval_ms = HEARTBEAT_MS if self._seq == self._pushed_seq else PUSH_INTERVAL_MS
        if now_ms < self._pushed_ms + interval_ms:
            return
        core = self._core
        positions = core.state.positions
        keys = np.fromiter(self._due, np.int64, len(self._due))
        items = (keys >> 32).astype(np.int32)
        nodes = (keys & 0xFFFFFFFF).tolist()
        find = positions.find
        rows = np.array([find(item, node) for item, node in zip(items.tolist(), nodes, strict=True)], np.int64)
        capacity = [
            (node, day, used) for node in self._due_capacity for day, used in core.state.capacity.rows(node, zeros=True)
        ]
        counts = counts_of(core.state, self._due_counts)
        self._due.clear()
        self._due_capacity.clear()
        self._due_counts.clear()
        update = ViewUpdate(
            core.shard,
            core.epoch,
            self._seq,
            False,
            True,
            self._pack(items, rows),
            np.array(capacity, "<i4").tobytes(),
            counts,
        )
        core.answers_now([Answer(conn, corr, update) for conn, corr in self._followers])
        self._pushed_seq, self._pushed_ms = self._seq, now_ms

    def wake_at_ms(self) -> int | None:
        if not self._followers:
            return None
        return self._pushed_ms + (HEARTBEAT_MS if self._seq == self._pushed_seq else PUSH_INTERVAL_MS)

    def disconnected(self, conn: int) -> None:
        for key in [key for key in self._followers if key[0] == conn]:
            del self._followers[key]
        if not self._followers:
            self._core.state.watched = False
            self._due.clear()
            self._due_capacity.clear()
            self._due_counts.clear()

    def node_update(self, node: int) -> ViewUpdate:
        """All of one node of ours. It says nothing about others: `last` is not set, so that nobody takes its sequence for a point."""
        core = self._core
        rows = rows_of(core.state, node)
        capacity = [(node, day, used) for day, used in core.state.capacity.rows(node, zeros=True)]
        return ViewUpdate(
            core.shard,
            core.epoch,
            self._seq,
            False,
            False,
            self._pack(core.state.positions.items()[rows], rows),
            np.array(capacity, "<i4").tobytes(),
            counts_of(core.state, [node]),
        )

    # -- follower -------------------------------------------------------------------------------------------------

    def refused(self, shard: int) -> None:
        """An owner is recovering, or cut off."""
        self._refused.add(shard)

    def update(self, reply: Reply, now_ms: int) -> None:
        """Apply an owner's values by assignment. A full picture first forgets what was seen of that owner."""
        core = self._core
        if not isinstance(reply, ViewUpdate) or reply.shard == core.shard:
            return
        positions, capacity, owns_node = core.state.positions, core.state.capacity, core.catalog.owns_node
        if reply.full:
            self._refused.discard(reply.shard)
            core.state.view_points.pop(reply.shard, None)
            theirs = [node for node, owner in enumerate(core.catalog.owner) if owner == reply.shard]
            rows = np.flatnonzero(np.isin(positions.node[: positions.size], theirs))
            for column in (positions.on_hand, positions.held, positions.safety):
                column[rows] = 0
            for node in theirs:
                core.state.heard_counts.pop(node, None)
                for day, _ in capacity.rows(node):
                    capacity.put(node, day, 0)
        waited_for = core.demand.by_item
        table = np.frombuffer(reply.positions, "<i4").reshape(-1, POSITION_FIELDS)
        for item, node, on_hand, taken, safety in () if self._assigned(table) else table.tolist():
            if owns_node(node):
                continue  # ours by a newer map than the sender's
            row = positions.ensure(item, node)
            before = positions.free(row) if item in waited_for else 0
            positions.v_on_hand[row] = on_hand
            positions.v_held[row] = taken
            positions.v_safety[row] = safety
            if item in waited_for and positions.free(row) > before:
                core.demand.gained(item, node)
        for node, day, used in np.frombuffer(reply.capacity, "<i4").reshape(-1, CAPACITY_FIELDS).tolist():
            if not owns_node(node):
                capacity.put(node, day, used)
        if reply.full or reply.counts:
            core.state.heard_counts.update(reply.counts)
            core.state.counts_heard += 1
        if reply.last and reply.shard not in self._refused:
            core.state.view_points[reply.shard] = (reply.epoch, reply.seq)
            self._heard_ms[reply.shard] = now_ms
        if reply.full:  # a new connection
            core.demand.visits.connected(reply.shard)

    def _assigned(self, table: np.ndarray) -> bool:
        """Apply an update column by column. False = nothing was done: a row is new or ours, or somebody waits for stock."""
        core = self._core
        positions, owns_node = core.state.positions, core.catalog.owns_node
        keys = table[:, :2].T.tolist()
        if core.demand.by_item or any(map(owns_node, set(keys[1]))):
            return False
        rows = list(map(positions.find, *keys))
        if -1 in rows:
            return False
        for column, values in zip((positions.on_hand, positions.held, positions.safety), table.T[2:], strict=True):
            column[rows] = values
        return True

    def point(self, shard: int) -> tuple[int, int]:
        """(epoch, seq) that the view of a shard contains, or the catalogue of the control shard; (0, 0) = there is none."""
        if shard == CONTROL_SHARD:
            return self._core.catalog.point
        return self._core.state.view_points.get(shard, (0, 0))

    def contains(self, token: str) -> bool | None:
        """Whether everything a token names is in this shard's state and views; None = not a token."""
        points = parse_token(token)
        if points is None:
            return None
        core = self._core
        own = (core.epoch, core.state.seq)
        ended = core.catalog.placement.ended  # what those had is at others, whose views began after it came
        return all(
            shard in ended or (own if shard == core.shard else self.point(shard)) >= point
            for shard, point in points.items()
        )

    def lag_ms(self, now_ms: int) -> int:
        """Age of the oldest view, 0 where there are no others."""
        ended = self._core.catalog.placement.ended
        return max((now_ms - heard for shard, heard in self._heard_ms.items() if shard not in ended), default=0)
