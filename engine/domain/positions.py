"""Stock positions in columns, sorted by item, with a small overflow for positions that appeared since the last merge.

A position is (item, node). Row p of every column belongs to it. Rows of an item are `offset[i] .. offset[i + 1]`, ordered by
node, followed by the chain that starts at `head[i]` and goes on through `next` (-1 ends it). Readers that cannot follow
chains call `merge` first. Row numbers change with a merge, so nothing keeps one across a batch; (item, node) never changes.

`free` is derived, never stored: on_hand - safety - held - allocated - claimed - fenced.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

import numpy as np

COLUMNS = ("on_hand", "held", "allocated", "safety", "claimed", "fenced", "counted_s", "counted_ms")
_MERGE_MIN = 4_096


def _view(array: np.ndarray) -> memoryview:
    return memoryview(array)  # type: ignore[arg-type]  # NumPy's stubs declare no buffer before Python 3.12


class Positions:
    """The columns. Arrays are int32 (units; seconds since 2020 for `counted_s`), `offset` int64.

    node, item  indexes of the position
    on_hand     units on the shelf; counts and damage may bring it below what is promised (then `short_by` > 0)
    held        units of open holds                    allocated  units committed to orders, not yet shipped
    safety      units never promised                   claimed    units fenced in memory while a solver or peer works
    fenced      units kept from general sale: distrust of the count, and what is kept for waiting demand while it has its turn
    counted_s   instant of the last absolute count, 0 = never
    counted_ms  its milliseconds within that second: counts of one second are told apart, as movements are
    """

    def __init__(self, *, item_capacity: int = 256, position_capacity: int = 1_024) -> None:
        self.item_capacity = item_capacity
        self.size = 0
        self.base = 0
        """Rows below `base` are sorted; those from `base` to `size` are the overflow."""
        self.offset = np.zeros(item_capacity + 1, np.int64)
        self.head = np.full(item_capacity, -1, np.int32)
        self.node = np.zeros(position_capacity, np.int32)
        self.item = np.zeros(position_capacity, np.int32)
        self.next = np.full(position_capacity, -1, np.int32)
        self._allocate_columns(position_capacity)
        self._bind()

    def _allocate_columns(self, capacity: int) -> None:
        self.on_hand = np.zeros(capacity, np.int32)
        self.held = np.zeros(capacity, np.int32)
        self.allocated = np.zeros(capacity, np.int32)
        self.safety = np.zeros(capacity, np.int32)
        self.claimed = np.zeros(capacity, np.int32)
        self.fenced = np.zeros(capacity, np.int32)
        self.counted_s = np.zeros(capacity, np.int32)
        self.counted_ms = np.zeros(capacity, np.int32)

    def _bind(self) -> None:
        """Views for scalar access: several times faster than indexing the arrays one element at a time."""
        self.v_offset = _view(self.offset)
        self.v_head = _view(self.head)
        self.v_node = _view(self.node)
        self.v_item = _view(self.item)
        self.v_next = _view(self.next)
        self.v_on_hand = _view(self.on_hand)
        self.v_held = _view(self.held)
        self.v_allocated = _view(self.allocated)
        self.v_safety = _view(self.safety)
        self.v_claimed = _view(self.claimed)
        self.v_fenced = _view(self.fenced)
        self.v_counted_s = _view(self.counted_s)
        self.v_counted_ms = _view(self.counted_ms)

    def find(self, item: int, node: int) -> int:
        """Row of a position, -1 where there is none."""
        if item >= self.item_capacity:
            return -1
        offset, nodes = self.v_offset, self.v_node
        end = offset[item + 1]
        row: int = bisect_left(nodes, node, offset[item], end)
        if row < end and nodes[row] == node:
            return row
        row = self.v_head[item]
        while row >= 0 and nodes[row] != node:
            row = self.v_next[row]
        return row

    def ensure(self, item: int, node: int) -> int:
        """Row of a position, made with all columns 0 where there was none."""
        row = self.find(item, node)
        if row >= 0:
            return row
        if self.size - self.base >= max(_MERGE_MIN, self.base >> 3):
            self.merge()
        if item >= self.item_capacity:
            self._grow_items(item + 1)
        if self.size == len(self.node):
            self._grow_positions()
        row = self.size
        self.size += 1
        self.v_node[row] = node
        self.v_item[row] = item
        self.v_next[row] = self.v_head[item]
        self.v_head[item] = row
        return row

    def add_many(self, items: np.ndarray, node: int) -> np.ndarray:
        """Rows of new positions of one node, all columns 0. None of them may exist yet (loading a snapshot part)."""
        count = len(items)
        if count == 0:
            return np.empty(0, np.int64)
        top = int(items.max())
        if top >= self.item_capacity:
            self._grow_items(top + 1)
        while self.size + count > len(self.node):
            self._grow_positions(self.size + count)
        rows = np.arange(self.size, self.size + count)
        self.node[rows] = node
        self.item[rows] = items
        self.next[rows] = self.head[items]
        self.head[items] = rows
        self.size += count
        return rows

    def rows(self, item: int) -> Iterator[int]:
        """Rows of an item, by node within the sorted part, then the overflow."""
        if item >= self.item_capacity:
            return
        yield from range(self.v_offset[item], self.v_offset[item + 1])
        row = self.v_head[item]
        while row >= 0:
            yield row
            row = self.v_next[row]

    def free(self, row: int) -> int:
        """Units available to promise at a row; negative = short."""
        return (
            self.v_on_hand[row]
            - self.v_safety[row]
            - self.v_held[row]
            - self.v_allocated[row]
            - self.v_claimed[row]
            - self.v_fenced[row]
        )

    def free_total(self, item: int) -> int:
        """Units available to promise of an item over all its nodes."""
        if item >= self.item_capacity:
            return 0
        start, end = self.v_offset[item], self.v_offset[item + 1]
        if end - start < 24:  # below it, NumPy's start-up costs more than the loop
            return sum([max(0, self.free(row)) for row in self.rows(item)])
        free = self.on_hand[start:end] - self.safety[start:end] - self.held[start:end] - self.allocated[start:end]
        free -= self.claimed[start:end] + self.fenced[start:end]
        total = int(np.maximum(free, 0).sum(dtype=np.int64))
        row = self.v_head[item]
        while row >= 0:
            total += max(0, self.free(row))
            row = self.v_next[row]
        return total

    def items(self) -> np.ndarray:
        """Item index of every row, int32[size]; a view, good until positions move."""
        return self.item[: self.size]

    def merge(self) -> None:
        """Sort the overflow into the rest: one copy of every column, 20-30 ms at a million positions."""
        if self.size == self.base:
            return
        key = (self.items().astype(np.int64) << 32) | self.node[: self.size]
        order = np.argsort(key, kind="stable")
        for name in ("node", "item", *COLUMNS):
            column = getattr(self, name)
            column[: self.size] = column[: self.size][order]
        counts = np.bincount(self.items(), minlength=self.item_capacity)
        np.cumsum(counts, out=self.offset[1:])
        self.head.fill(-1)
        self.next[: self.size] = -1
        self.base = self.size

    def _grow_items(self, needed: int) -> None:
        capacity = max(needed, self.item_capacity * 2)
        offset = np.full(capacity + 1, self.offset[-1], np.int64)
        offset[: len(self.offset)] = self.offset
        head = np.full(capacity, -1, np.int32)
        head[: len(self.head)] = self.head
        self.offset, self.head, self.item_capacity = offset, head, capacity
        self._bind()

    def _grow_positions(self, needed: int = 0) -> None:
        capacity = max(needed, len(self.node) + max(1_024, len(self.node) // 4))
        for name in ("node", "item", "next", *COLUMNS):
            old = getattr(self, name)
            new = np.full(capacity, -1 if name == "next" else 0, np.int32)
            new[: len(old)] = old
            setattr(self, name, new)
        self._bind()


class Capacity:
    """Units a node has given away per local ship day, in a ring of `DAYS` days: `used[node, day % DAYS]` of `day[...]`.

    `used` includes claims: units of plans that are not decided yet, which live in memory only.
    """

    DAYS = 64

    def __init__(self, node_capacity: int = 64) -> None:
        self.used = np.zeros((node_capacity, self.DAYS), np.int32)
        self.day = np.full((node_capacity, self.DAYS), -1, np.int32)
        self._claimed: dict[tuple[int, int], int] = {}
        self._bind()

    def _bind(self) -> None:
        self._v_used = _view(self.used.reshape(-1))
        self._v_day = _view(self.day.reshape(-1))

    def get(self, node: int, day: int) -> int:
        """Units given away or claimed."""
        at = node * self.DAYS + day % self.DAYS
        if at >= len(self._v_day) or self._v_day[at] != day:
            return 0
        return int(self._v_used[at])

    def add(self, node: int, day: int, units: int) -> int:
        """Give away (or take back) units of a day; returns what is given away now.

        A day that the ring has moved past is forgotten: it can no longer be planned, and 0 is returned.
        """
        if node >= len(self.used):
            self._grow(node + 1)
        at = node * self.DAYS + day % self.DAYS
        held_day = self._v_day[at]
        if held_day > day:
            return 0
        if held_day < day:
            self._v_day[at] = day
            self._v_used[at] = 0
            if self._claimed:
                self._claimed.pop((node, held_day), None)
        self._v_used[at] = units = self._v_used[at] + units
        return int(units)

    def claim(self, node: int, day: int, units: int) -> None:
        """Count units of an undecided plan, or (negative) no longer: in memory only."""
        self.add(node, day, units)
        key = (node, day)
        left = self._claimed.get(key, 0) + units
        if left:
            self._claimed[key] = left
        else:
            self._claimed.pop(key, None)

    def put(self, node: int, day: int, units: int) -> None:
        """Set an absolute value (a view of another shard's node); what is claimed here stays claimed."""
        self.add(node, day, units + self._claimed.get((node, day), 0) - self.get(node, day))

    def rows(self, node: int, *, zeros: bool = False) -> list[tuple[int, int]]:
        """(day, given away, without claims) of a node, by day. `zeros` = days that were given back whole, too."""
        if node >= len(self.used):
            return []
        days = self.day[node].tolist()
        used = self.used[node].tolist()
        given = [(d, u - self._claimed.get((node, d), 0)) for d, u in zip(days, used, strict=True) if d >= 0]
        return sorted(row for row in given if zeros or row[1])

    def _grow(self, needed: int) -> None:
        capacity = max(needed, len(self.used) * 2)
        used = np.zeros((capacity, self.DAYS), np.int32)
        day = np.full((capacity, self.DAYS), -1, np.int32)
        used[: len(self.used)] = self.used
        day[: len(self.day)] = self.day
        self.used, self.day = used, day
        self._bind()
