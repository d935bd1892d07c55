"""Units kept for demand (Q4): against whom, how many, where; written to `ShardState.kept`, from which `fenced` follows.

K1  Kept at a position = what orders collect there, and, while an item's waiting orders are being planned again, all that those
    want of it who had no turn yet; of all these only who ranks before whoever asks. At most what is free.
K2  Only this shard's own positions keep units, for orders of all homes (demand_guests.py): an owner decides about its own (V3).
K3  An order collects at one node what must leave whole, at one that could serve it if it had enough: the planner is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.domain.demand import RANK_LAST
from engine.domain.orders import LineRecord
from engine.domain.plan import PlanRequest
from engine.domain.stock import refence, trust_fence
from engine.protocol.placing import plan_alone
from engine.protocol.replan import prepare_waiting

if TYPE_CHECKING:
    from engine.protocol.demand_queue import DemandQueue, Entry, Place
    from engine.protocol.shard_core import ShardCore

WALK_MAX = 200
"""Orders whose wants are added up at most."""
PROBES_MAX = 4
"""Times that the planner is asked about a node, for one order."""
UNITS_MAX = 1_000_000_000
PUBLIC = (RANK_LAST, 0)


class Keeping:
    """What is kept, and for whom."""

    def __init__(self, core: ShardCore, queue: DemandQueue) -> None:
        self._core = core
        self._queue = queue
        self._open: dict[int, dict[int, None]] = {}
        """Nodes at which units of an item came back, by item, until its waiting orders had their turn."""
        self._collects: dict[int, dict[int, int]] = {}
        """Units that an order collects, by order number and position key (item << 32 | node)."""
        self._collectors: dict[int, dict[int, None]] = {}
        """Orders that collect at a position, by its key."""
        self._place: Place = PUBLIC
        """Whose turn it is within `lifted`."""
        self._keys: dict[int, dict[int, None]] = {}
        """Keys of `_collectors` by item."""

    def open(self, item: int, node: int) -> None:
        """Keep what came back for those who wait for it."""
        self._open.setdefault(item, {})[node] = None
        self._fit(item << 32 | node, PUBLIC)

    def close(self, item: int) -> None:
        """They had their turn."""
        for node in self._open.pop(item, ()):
            self._fit(item << 32 | node, PUBLIC)

    def items(self) -> list[int]:
        """Items of which units are kept somewhere."""
        return list({**dict.fromkeys(self._open), **dict.fromkeys(self._keys)})

    def keeps(self, item: int) -> bool:
        """Whether units of an item are kept somewhere."""
        return item in self._open or item in self._keys

    def has_free(self, item: int) -> bool:
        """Whether any unit of an item is free, kept ones included."""
        return self._core.state.free_total(item) > 0 or any(self.kept_now(key) for key in self._keys_of(item))

    def kept_now(self, key: int) -> int:
        """Units kept at a position as things stand."""
        state = self._core.state
        item, node = key >> 32, key & 0xFFFFFFFF
        row = state.positions.find(item, node)
        return state.positions.v_fenced[row] - trust_fence(state, node, item, row) if row >= 0 else 0

    def free_for(self, place: Place, items: Iterable[int]) -> tuple[tuple[int, int, int], ...]:
        """(item, node, units free) for who waits at a place, where that is more than everybody sees."""
        positions = self._core.state.positions
        keys = [key for item in items for key in self._keys_of(item)]

        def free(key: int) -> int:
            row = positions.find(key >> 32, key & 0xFFFFFFFF)
            return max(0, positions.free(row)) if row >= 0 else 0

        public = [free(key) for key in keys]
        with self.lifted(place, items):
            lifted = [free(key) for key in keys]
        return tuple(
            [
                (key >> 32, key & 0xFFFFFFFF, more)
                for key, less, more in zip(keys, public, lifted, strict=True)
                if more > less
            ]
        )

    def _keys_of(self, item: int) -> list[int]:
        opened = [item << 32 | node for node in self._open.get(item, ())]
        return list(dict.fromkeys([*opened, *self._keys.get(item, ())]))

    @contextmanager
    def lifted(self, place: Place, items: Iterable[int]) -> Iterator[None]:
        """Within it, only what is kept for those before a place is kept (nothing is decided about others in between).

        What other owners keep for the order that waits there is free, too (G3). One within another ends as the other is.
        """
        keys = [key for item in items for key in self._keys_of(item)]
        outer, self._place = self._place, place
        for key in keys:
            self._fit(key, place)
        added = self._add_offers(place[1])
        positions = self._core.state.positions
        try:
            yield
        finally:
            for item, node, units in added:
                positions.v_held[positions.find(item, node)] += units
            self._place = outer
            for key in keys:
                self._fit(key, outer)

    def _add_offers(self, order_no: int) -> list[tuple[int, int, int]]:
        """Show what others keep for an order in the view of their stock; returns (item, node, units) to be taken back."""
        core = self._core
        positions = core.state.positions
        added = []
        for key, free in self._queue.visits.kept(order_no).items():
            item, node = key >> 32, key & 0xFFFFFFFF
            if core.catalog.owns_node(node):
                continue
            row = positions.ensure(item, node)
            more = free - positions.v_claimed[row] - positions.free(row)
            if more > 0:
                positions.v_held[row] -= more
                added.append((item, node, more))
        return added

    def _fit(self, key: int, place: Place) -> None:
        """Keep what K1 says, at a node of ours (K2)."""
        state = self._core.state
        item, node = key >> 32, key & 0xFFFFFFFF
        row = state.positions.find(item, node)
        is_ours = self._core.catalog.owns_node(node)
        if row < 0 or not (is_ours or key in state.kept):
            return
        before = state.positions.v_fenced[row]
        wanted = self._wanted(item, node, place) if is_ours else 0
        if wanted:
            state.kept[key] = wanted
        else:
            state.kept.pop(key, None)
        refence(state, node, item, row)
        if state.positions.v_fenced[row] != before:
            self._core.views.show(key)
            self._core.stock_feed.show(key)

    def _wanted(self, item: int, node: int, place: Place) -> int:
        queue, key = self._queue, item << 32 | node
        turn = queue.turn_of(item)
        units = 0
        is_open = node in self._open.get(item, ())
        for order_no in self._collectors.get(key, ()):
            other = queue.place_of(order_no)
            if other < place and (other <= turn or not is_open):  # else all that it wants is counted below
                units += self._collects[order_no][key]
        if is_open:
            for looked, who in enumerate(queue.line(turn, item)):
                if who.place >= place:
                    break
                units += who.items[item]
                if looked >= WALK_MAX:  # so many want some: all of it is kept until fewer do
                    return UNITS_MAX
        return units

    # -- collecting -----------------------------------------------------------------------------------------------

    def forget(self, order_no: int) -> None:
        """An order collects no more."""
        self.collects(order_no, {})

    def collected(self, order_no: int) -> Iterable[tuple[int, int]]:
        """(position key, units) that an order collects."""
        return self._collects.get(order_no, {}).items()

    def collects(self, order_no: int, chosen: dict[int, int]) -> None:
        """An order collects units at these positions from now on, and nowhere else."""
        old = self._collects.get(order_no, {})
        if chosen == old:
            return
        if chosen:
            self._collects[order_no] = chosen
        else:
            del self._collects[order_no]
        for key in old:
            collectors = self._collectors[key]
            del collectors[order_no]
            if not collectors:
                del self._collectors[key]
                keys = self._keys[key >> 32]
                del keys[key]
                if not keys:
                    del self._keys[key >> 32]
        for key in chosen:
            self._collectors.setdefault(key, {})[order_no] = None
            self._keys.setdefault(key >> 32, {})[key] = None
        for key in {**old, **chosen}:
            self._fit(key, PUBLIC)
        if order_no in self._queue.entries:
            self._queue.visits.changed(order_no)

    def leave(self, node: int) -> None:
        """A node goes to another shard: nothing is kept there any more (K2)."""
        for item in [item for item, nodes in self._open.items() if node in nodes]:
            del self._open[item][node]
            self._fit(item << 32 | node, PUBLIC)
        state = self._core.state
        for key in [key for key in self._collectors if key & 0xFFFFFFFF == node and key in state.kept]:
            del state.kept[key]
            refence(state, node, key >> 32, state.positions.find(key >> 32, node))

    def came(self, node: int) -> None:
        """A node came to this shard: from now on units are kept there (K2)."""
        for key in [key for key in self._collectors if key & 0xFFFFFFFF == node]:
            self._fit(key, PUBLIC)

    def collect(self, entry: Entry, *, now_ms: int) -> None:
        """Choose anew where an order that still waits collects its units (K3)."""
        core = self._core
        record = core.state.order(entry.slot, entry.order_no)
        if record is None or not record.demand or entry.no_room:
            self.forget(entry.order_no)
            return
        with self.lifted(entry.place, entry.items):
            request = prepare_waiting(core, entry.slot, record).request
            chosen: dict[int, int] = {}
            probes = PROBES_MAX
            for lines in _groups(request.lines):
                probes -= self._choose(request, lines, chosen, probes, now_ms)
                if probes <= 0:
                    break
        self.collects(entry.order_no, chosen)

    def _choose(
        self, request: PlanRequest, lines: list[LineRecord], chosen: dict[int, int], probes: int, now_ms: int
    ) -> int:
        """Take the node that has most of what some lines want, and could serve them; returns how often the planner was asked."""
        core = self._core
        positions = core.state.positions
        wanted: dict[int, int] = {}
        for line in lines:
            wanted[line.item] = wanted.get(line.item, 0) + line.quantity
        has: dict[int, int] = {}
        for item, units in wanted.items():
            for row in positions.rows(item):
                node = positions.v_node[row]
                free = positions.free(row)
                if free > 0 and node not in request.excluded:
                    has[node] = has.get(node, 0) + min(free, units)
        nodes = sorted(has, key=lambda node: (-has[node], node))
        for asked, node in enumerate(nodes[:probes], 1):
            if self._could_serve(request, lines, node, now_ms):
                for item, units in wanted.items():
                    key = item << 32 | node
                    chosen[key] = chosen.get(key, 0) + units
                    positions.ensure(item, node)
                return asked
        return min(probes, len(nodes))

    def _could_serve(self, request: PlanRequest, lines: list[LineRecord], node: int, now_ms: int) -> bool:
        """Whether a node would ship what it has of some lines, were that all that is asked."""
        core = self._core
        positions = core.state.positions
        some = []
        for line in lines:
            row = positions.find(line.item, node)
            free = positions.free(row) if row >= 0 else 0
            if free > 0:
                some.append(replace(line, quantity=min(line.quantity, free), group=0, splittable=True))
        others = tuple([other for other in range(len(core.catalog.nodes)) if other != node])
        plan = plan_alone(core, replace(request, lines=some, excluded=others), now_ms=now_ms)
        return bool(plan.legs)


def _groups(lines: Iterable[LineRecord]) -> list[list[LineRecord]]:
    """What must leave whole: lines that leave together, and lines that may not be split. Other lines take units as they come."""
    alone: list[list[LineRecord]] = []
    together: dict[int, list[LineRecord]] = {}
    for line in lines:
        if line.group:
            together.setdefault(line.group, []).append(line)
        elif not line.splittable:
            alone.append([line])
    return [*together.values(), *alone]
