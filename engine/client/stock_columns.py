"""Positions of one shard as a reader keeps them: sorted keys and one row of numbers each, 36 bytes a position.

`keys[:base]` are sorted; what came since follows unsorted, found through `_tail`, until the next merge.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

ROW_FIELDS = 9
"""item, node, then the VALUES."""
VALUES = ("on_hand", "held", "allocated", "safety", "free", "counted_s", "supply")
_MERGE_MIN = 1_024


class StockColumns:
    """keys: int64[n], item << 32 | node. values: int32[n, 7] in the order of VALUES."""

    def __init__(self, capacity: int = 1_024) -> None:
        self._keys = np.zeros(capacity, np.int64)
        self._values = np.zeros((capacity, len(VALUES)), np.int32)
        self._sorted = memoryview(self._keys)  # type: ignore[arg-type]  # NumPy's stubs declare no buffer before Python 3.12
        self._base = 0
        self._size = 0
        self._tail: dict[int, list[int]] = {}
        """Rows beyond the sorted part, by item."""

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes of the columns, spare room included."""
        return self._keys.nbytes + self._values.nbytes

    def put(self, rows: bytes) -> np.ndarray:
        """Assign packed rows (int32 little-endian: item, node, values); returns the items, with repeats."""
        table = np.frombuffer(rows, "<i4").reshape(-1, ROW_FIELDS)
        items = table[:, 0]
        if not len(table):
            return items
        keys = items.astype(np.int64) << 32 | table[:, 1]
        values = table[:, 2:]
        base = self._base
        at = np.searchsorted(self._keys[:base], keys)
        known = at < base
        known[known] = self._keys[at[known]] == keys[known]
        self._values[at[known]] = values[known]
        if not known.all():
            self._put_new(keys[~known], values[~known])
        return items

    def _put_new(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Rows that the sorted part does not have: pages of a picture simply go on where it ends."""
        newest = self._keys[self._base - 1] if self._base else -1
        if self._base == self._size and keys[0] > newest and (len(keys) == 1 or bool((np.diff(keys) > 0).all())):
            self._reserve(self._size + len(keys))
            end = self._size + len(keys)
            self._keys[self._size : end] = keys
            self._values[self._size : end] = values
            self._base = self._size = end
            return
        for key, row in zip(keys.tolist(), values, strict=True):
            self._put_tail(key, row)
        if self._size - self._base >= max(_MERGE_MIN, self._base >> 4):
            self._merge()

    def _put_tail(self, key: int, values: np.ndarray) -> None:
        rows = self._tail.setdefault(key >> 32, [])
        for row in rows:
            if self._keys[row] == key:
                self._values[row] = values
                return
        self._reserve(self._size + 1)
        self._keys[self._size] = key
        self._values[self._size] = values
        rows.append(self._size)
        self._size += 1

    def _merge(self) -> None:
        size = self._size
        order = np.argsort(self._keys[:size], kind="stable")
        self._keys[:size] = self._keys[:size][order]
        self._values[:size] = self._values[:size][order]
        self._base = size
        self._tail.clear()

    def _reserve(self, needed: int) -> None:
        if needed <= len(self._keys):
            return
        capacity = max(needed, len(self._keys) + max(1_024, len(self._keys) >> 3))
        keys = np.zeros(capacity, np.int64)
        values = np.zeros((capacity, len(VALUES)), np.int32)
        keys[: self._size] = self._keys[: self._size]
        values[: self._size] = self._values[: self._size]
        self._keys, self._values = keys, values
        self._sorted = memoryview(keys)  # type: ignore[arg-type]  # as above

    def of_item(self, item: int) -> tuple[list[int], list[list[int]]]:
        """(node indexes, rows of VALUES) of an item's positions."""
        keys, first = self._sorted, item << 32
        start = bisect_left(keys, first, 0, self._base)
        end = bisect_left(keys, first + (1 << 32), start, self._base)
        nodes = [key & 0xFFFFFFFF for key in self._keys[start:end].tolist()]
        values: list[list[int]] = self._values[start:end].tolist()
        if self._tail:
            for row in self._tail.get(item, ()):
                nodes.append(int(self._keys[row]) & 0xFFFFFFFF)
                values.append(self._values[row].tolist())
        return nodes, values
