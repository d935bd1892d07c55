"""The stock feed: what a shard shows gateways of its own positions, so that they can answer reads of it themselves.

F1  Values are absolute and applied by assignment. What the entry being built touched is shown again with that entry.
F2  A follower is told of touched positions from the moment it asked, and fetches the picture page by page afterwards, over the
    same connection: whatever it has of a position when the last page came is the newest that was sent.
F3  Nothing is kept or pushed while nobody follows. Values that are not durable yet may be shown: a read promises nothing.
F4  Claims are not shown: they end within milliseconds, and their end touches nothing.
F5  With each push goes what the other shards have settled of own orders (driver.py, D4): a commit token names the home of its
    order only, and units at other shards move after it.

The numbers are those of reads.stock_view; tests/property/test_stock_view.py follows it through breaks and restarts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.domain.catalog import Catalog
from engine.domain.commands import FindItems, FollowStock, GetStockPage
from engine.domain.decide_stock import SUPPLY_MODES
from engine.domain.feed_age import counts_of
from engine.domain.replies import ItemsReply, StockPage, StockUpdate
from engine.protocol.effects import Answer

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

PUSH_INTERVAL_MS = 20
HEARTBEAT_MS = 1_000
PAGE_ROWS_MAX = 20_000
ITEMS_MAX = 20_000
ROW_FIELDS = 9
NOWHERE = -1


class StockFeed:
    """The owner's side of the feed of one shard."""

    def __init__(self, core: ShardCore) -> None:
        self._core = core
        self._followers: dict[tuple[int, int], None] = {}
        self._due: dict[int, None] = {}
        """Positions (item << 32 | node) of closed entries that followers have not been told of."""
        self._due_counts: dict[int, None] = {}
        self._seq = 0
        """Newest closed entry: what the values shown contain at least."""
        self._pushed_seq = 0
        self._pushed_acknowledged = 0
        self._pushed_ms = 0

    @property
    def followers(self) -> int:
        return len(self._followers)

    def recovered(self) -> None:
        self._seq = self._pushed_seq = self._core.state.seq

    def closed(self, seq: int) -> None:
        """An entry is complete: what it touched is due. Called before the state forgets what was touched."""
        self._seq = seq
        if self._followers:
            self._due.update(self._core.state.touched)
            self._due_counts.update(self._core.state.touched_counts)

    def show(self, key: int) -> None:
        """A position (item << 32 | node) looks different although no entry touched it."""
        if self._followers:
            self._due[key] = None

    def begin_again(self) -> None:
        """Positions came that no entry touched (a node that was handed over): followers are to fetch the picture again."""
        self._due.clear()
        update = self._update(b"", begin=True)
        self._core.answers_now([Answer(conn, corr, update) for conn, corr in self._followers])

    def follow(self, conn: int, corr: int) -> None:
        self._followers[conn, corr] = None
        self._core.state.watched = True
        # At once, like everything here: an answer that waits for its entry could be overtaken by a push.
        self._core.answers_now([Answer(conn, corr, self._update(b"", begin=True))])

    def page(self, conn: int, corr: int, command: GetStockPage, now_ms: int) -> None:
        """F2: own positions in the order of (item, node). The sorted part only moves when it is merged, and what is new is due."""
        self._push_due(now_ms)
        core = self._core
        positions = core.state.positions
        limit = min(command.limit, PAGE_ROWS_MAX)
        if limit <= 0:
            core.answers_now([Answer(conn, corr, StockPage(core.epoch, self._seq, b"", command.after))])
            return
        if command.after < 0:
            positions.merge()
        start = 0
        if command.after >= 0:
            item, node = command.after >> 32, command.after & 0xFFFFFFFF
            if item >= positions.item_capacity:
                start = positions.base
            else:
                first, end = positions.v_offset[item], positions.v_offset[item + 1]
                start = first + int(np.searchsorted(positions.node[first:end], node, side="right"))
        end = min(start + limit, positions.base)
        rows = np.arange(start, end)
        after = NOWHERE
        if end < positions.base:
            after = positions.v_item[end - 1] << 32 | positions.v_node[end - 1]
        own = np.array([shard == core.shard for shard in core.catalog.owner] or [False])
        nodes = positions.node[rows]
        known = nodes < len(own)
        rows = rows[known][own[nodes[known]]]
        core.answers_now([Answer(conn, corr, StockPage(core.epoch, self._seq, self._pack(rows), after))])

    def push(self, now_ms: int) -> None:
        """Tell followers what closed entries touched, at most every few milliseconds; nothing to tell is told, too."""
        if self._followers and now_ms >= self._pushed_ms + self._interval_ms():
            self._push(now_ms)

    def _push_due(self, now_ms: int) -> None:
        if self._followers and self._news():
            self._push(now_ms)

    def _news(self) -> bool:
        acknowledged = self._core.driver.acknowledged
        return bool(self._due) or self._seq != self._pushed_seq or acknowledged != self._pushed_acknowledged

    def _interval_ms(self) -> int:
        return PUSH_INTERVAL_MS if self._news() else HEARTBEAT_MS

    def _push(self, now_ms: int) -> None:
        positions, owns_node = self._core.state.positions, self._core.catalog.owns_node
        found = [positions.find(key >> 32, key & 0xFFFFFFFF) for key in self._due if owns_node(key & 0xFFFFFFFF)]
        self._due.clear()
        update = self._update(self._pack(np.array([row for row in found if row >= 0], np.int64)), begin=False)
        self._due_counts.clear()
        self._core.answers_now([Answer(conn, corr, update) for conn, corr in self._followers])
        self._pushed_seq, self._pushed_ms = self._seq, now_ms
        self._pushed_acknowledged = self._core.driver.acknowledged

    def _update(self, rows: bytes, *, begin: bool) -> StockUpdate:
        core = self._core
        counts = counts_of(core.state, core.state.nodes if begin else self._due_counts)
        return StockUpdate(core.shard, core.epoch, self._seq, begin, rows, core.driver.settled(self._seq), counts)

    def _pack(self, rows: np.ndarray) -> bytes:
        state = self._core.state
        positions = state.positions
        table = np.empty((len(rows), ROW_FIELDS), "<i4")
        on_hand, held, allocated = positions.on_hand[rows], positions.held[rows], positions.allocated[rows]
        safety = positions.safety[rows]
        items, nodes = positions.items()[rows], positions.node[rows]
        columns = (items, nodes, on_hand, held, allocated, safety)
        for place, column in enumerate(columns):
            table[:, place] = column
        table[:, 6] = on_hand - held - allocated - safety - positions.fenced[rows]
        table[:, 7] = positions.counted_s[rows]
        table[:, 8] = 0
        with_settings = [node for node, part in state.nodes.items() if part.settings]
        if with_settings:
            for place in np.flatnonzero(np.isin(nodes, with_settings)).tolist():
                setting = state.nodes[int(nodes[place])].settings.get(int(items[place]))
                if setting is not None:
                    table[place, 8] = SUPPLY_MODES.index(setting[0])
        return table.tobytes()

    def wake_at_ms(self) -> int | None:
        return self._pushed_ms + self._interval_ms() if self._followers else None

    def disconnected(self, conn: int) -> None:
        """Called after the views of peers were told, which count their own followers only."""
        for key in [key for key in self._followers if key[0] == conn]:
            del self._followers[key]
        if self._followers:
            self._core.state.watched = True
        else:
            self._due.clear()
            self._due_counts.clear()


# -- commands -----------------------------------------------------------------------------------------------------


def follow_stock(core: ShardCore, conn: int, corr: int, command: FollowStock, now_ms: int) -> None:
    core.stock_feed.follow(conn, corr)


def get_stock_page(core: ShardCore, conn: int, corr: int, command: GetStockPage, now_ms: int) -> None:
    core.stock_feed.page(conn, corr, command, now_ms)


def _stocked(catalog: Catalog, sku: str) -> int:
    """Index of an item that has positions; -1 for a kit, whose numbers are its components': the owners add them up."""
    index = catalog.item_of.get(sku, -1)
    item = catalog.items[index] if index >= 0 else None
    return index if item is not None and not item.components else -1


def find_items(core: ShardCore, conn: int, corr: int, command: FindItems, now_ms: int) -> None:
    catalog = core.catalog
    indexes = tuple([_stocked(catalog, sku) for sku in command.skus[:ITEMS_MAX]])
    items = catalog.items
    found = [items[index] if 0 <= index < len(items) else None for index in command.indexes[:ITEMS_MAX]]
    core.answers_now([Answer(conn, corr, ItemsReply(indexes, tuple([item.sku if item else "" for item in found])))])
