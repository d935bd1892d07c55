"""What is on its way, by item and by instant, so that a read of a page or of one SKU looks at nothing else.

Derived from the parts of nodes: made when it is first asked for, kept up by `changed`, forgotten when a part comes or goes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.domain.state import ShardState

Record = tuple[int, int, int]
"""(item, units still expected, expected at in ms), as a node's part has it by inbound id."""
Place = tuple[int, str, str]
"""(expected at in ms, node id, inbound id): the order of lists."""


class Expected:
    """Records of all nodes of one state."""

    def __init__(self, state: ShardState) -> None:
        self._state = state
        self._by_item: dict[int, dict[tuple[int, str], None]] | None = None
        self._in_order: list[tuple[int, str, str, int]] = []
        """A place, and the node's index."""

    def forget(self) -> None:
        self._by_item = None
        self._in_order = []

    def changed(self, node: int, inbound_id: str, old: Record | None, new: Record | None) -> None:
        by_item = self._by_item
        if by_item is None or old == new:
            return
        node_id = self._state.catalog.node_id(node)
        if old is not None:
            self._in_order.pop(bisect_left(self._in_order, (old[2], node_id, inbound_id, node)))
            records = by_item[old[0]]
            del records[(node, inbound_id)]
            if not records:
                del by_item[old[0]]
        if new is not None:
            insort(self._in_order, (new[2], node_id, inbound_id, node))
            by_item.setdefault(new[0], {})[(node, inbound_id)] = None

    def of(self, items: Iterable[int]) -> Iterator[tuple[int, str]]:
        """(node, inbound id) of the records of some items, in no order that means anything."""
        by_item = self._made()
        for item in items:
            yield from by_item.get(item, ())

    def after(self, place: Place) -> Iterator[tuple[int, str]]:
        """(node, inbound id) of all records behind a place, in the order of lists."""
        self._made()
        start = bisect_right(self._in_order, place, key=lambda entry: entry[:3])
        for n in range(start, len(self._in_order)):
            _, _, inbound_id, node = self._in_order[n]
            yield node, inbound_id

    def _made(self) -> dict[int, dict[tuple[int, str], None]]:
        if self._by_item is None:
            self._by_item = {}
            node_id = self._state.catalog.node_id
            for node, part in self._state.nodes.items():
                for inbound_id, (item, _, expected_ms) in part.inbound.items():
                    self._by_item.setdefault(item, {})[(node, inbound_id)] = None
                    self._in_order.append((expected_ms, node_id(node), inbound_id, node))
            self._in_order.sort()
        return self._by_item
