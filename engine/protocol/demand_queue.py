"""The queue of demand: orders with units that no leg covers, planned again when something comes back that may serve them.

Q1  What waits is a function of the records of this home's orders; the queue itself is memory, rebuilt after a recovery.
Q2  Units that come back wake the orders that wait for their item, and nobody else: foremost first (domain/demand.py, W2), each
    once, until nothing of the item is free. The configuration, and time, wake all, slowly.
Q3  A batch plans at most ATTEMPTS_PER_POLL waiting orders and looks at LOOKS_PER_POLL: live traffic goes on in between.
Q4  Until those who wait have had their turn, units that came back are kept for them: in `ShardState.kept`, counted as fenced.
    An order that lacks some units at a node that could serve it keeps collecting there, in its turn: smaller orders that come
    later do not starve it. Only who ranks before them may take kept units, and nothing is kept that is not free.
Q5  An order that units did not help waits longer and longer before it is planned again for them, at most RETRY_MAX_MS. One that
    other shards refuse waits REFUSED_RETRY_MS. After PATIENT_MISSES in a row of either nothing that comes back wakes it earlier: the
    end of an attempt's own claims would, for ever.
Q6  Demand whose date has come is given up by an event, judged by entry time (P4), but not while a plan may still cover it.
Q7  Orders of other homes stand in the same line for what this shard's nodes have (demand_guests.py).
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from engine.domain import demand
from engine.domain.demand import RANK_LAST
from engine.domain.events import Event, LegDriven, OrderPut, PositionSet, StockCounted, StockMoved
from engine.domain.orders import OrderRecord
from engine.protocol.demand_guests import TURNS_MAX, Guest, Guests, Visits
from engine.protocol.demand_keeping import Keeping
from engine.protocol.flights import Flight
from engine.protocol.placing import plan_flights

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

ATTEMPTS_PER_POLL = 8
LOOKS_PER_POLL = 64
PATIENT_MISSES = 2
RETRY_MS = 1_000
RETRY_MAX_MS = 15 * 60_000
REFUSED_RETRY_MS = 5_000
NO_ROOM_RETRY_MS = 60_000
"""Orders that wait for capacity: a new ship day begins without a word."""
FULL_LOOK_MS = 20
"""While no turn is left to give, who does not need one is looked for this often."""
SWEEP_MS = 5 * 60_000
SWEEP_GAP_MS = 1_000
Place = tuple[int, int]
"""(rank, order number): a place in the queue."""
FIRST: Place = (-RANK_LAST, -1)
LAST: Place = (RANK_LAST, 0)


class Entry:
    """One order that waits."""

    __slots__ = ("cancel_at_ms", "due_ms", "items", "misses", "no_room", "order_no", "place", "refusals", "slot")

    def __init__(self, slot: str, order_no: int) -> None:
        self.slot = slot
        self.order_no = order_no
        self.place: Place = (RANK_LAST, order_no)
        self.items: dict[int, int] = {}
        """Units it waits for."""
        self.cancel_at_ms = 0
        self.no_room = False
        """It lacks capacity rather than units."""
        self.misses = 0
        """Times in a row that free units did not help it."""
        self.refusals = 0
        """Times in a row that other shards did not hold what was planned for it."""
        self.due_ms = 0
        """When it is tried whatever comes back; 0 = it is not set."""


class DemandQueue:
    """Waiting orders of this home. `entries` is empty where nobody waits: then everybody else pays one look at it."""

    def __init__(self, core: ShardCore) -> None:
        self._core = core
        self.entries: dict[int, Entry] = {}
        self.by_item: dict[int, list[Place]] = {}
        """Places of the orders that wait for an item, foremost first."""
        self.order: list[Place] = []
        """All places, foremost first."""
        self.keeping = Keeping(core, self)
        self.guests = Guests(core, self)
        self.visits = Visits(core, self)
        self._passes: dict[int, Place] = {}
        """Items of which units came back, and the place that was last looked at."""
        self._due: list[tuple[int, int]] = []
        """(due_ms, order number), a heap; entries that do not confirm it are out of date."""
        self._cancels: list[tuple[int, int]] = []
        """(when to look whether it is given up, order number), a heap, likewise."""
        self._sweep: Place | None = None
        """Where the walk over all that wait is."""
        self._sweep_at_ms = 0
        self._network = (-1, -1)
        self._no_room: dict[int, None] = {}
        self._room_back = False
        self._room_at_ms = 0

    def __len__(self) -> int:
        return len(self.entries)

    def units_waiting(self) -> int:
        """Units that wait, of all items."""
        return sum(sum(entry.items.values()) for entry in self.entries.values())

    def waiting_for(self, item: int) -> int:
        """Units of an item that wait."""
        entries = self.entries
        return sum(entries[order_no].items.get(item, 0) for _, order_no in self.by_item.get(item, ()))

    def ahead_of(self, entry: Entry, item: int) -> int:
        """How many orders, of all homes, wait for an item before one that does."""
        guests = self.guests.by_item.get(item, ())
        return bisect_left(self.by_item[item], entry.place) + bisect_left(guests, entry.place)

    @property
    def anyone(self) -> bool:
        """Whether anybody waits, here or as a guest."""
        return bool(self.entries or self.guests.by_order)

    def is_waited_for(self, item: int) -> bool:
        """Whether anybody waits for an item."""
        return item in self.by_item or item in self.guests.by_item

    @property
    def working(self) -> bool:
        """Whether there is something to look at right now."""
        return self._sweep is not None or self.visits.working or len(self._passes) > len(self.guests.turns)

    @property
    def active(self) -> bool:
        """Whether there may be something to do now or later."""
        return bool(self.entries or self.guests.by_order or self._passes or self.visits.due or self._sweep is not None)

    # -- what waits -----------------------------------------------------------------------------------------------

    def recovered(self, waiting: list[tuple[str, int]], now_ms: int) -> None:
        """Q1: take up what waits; much may have come back meanwhile."""
        for slot, order_no in waiting:
            record = self._core.state.order(slot, order_no)
            assert record is not None
            self.index(slot, order_no, record, many=True)
        self.order.sort()
        for places in self.by_item.values():
            places.sort()
        if self.entries:
            self._sweep_at_ms = now_ms + SWEEP_GAP_MS  # by then the views are there

    def placed(self, slot: str, order_no: int, record: OrderRecord, *, now_ms: int) -> None:
        """A new order waits. What is free and not enough for it, it collects from now on (Q4)."""
        self.index(slot, order_no, record)
        entry = self.entries.get(order_no)
        if entry is None:
            return
        entry.due_ms = 0  # it was just planned: what comes back wakes it, not the clock
        if any(self._core.state.free_total(item) for item in entry.items):
            self.keeping.collect(entry, now_ms=now_ms)

    def index(self, slot: str, order_no: int, record: OrderRecord, *, many: bool = False) -> None:
        """An order's record changed: take it in, where it stands now, or out. many = of new ones, to be sorted by the caller."""
        entry = self.entries.get(order_no)
        if entry is not None:
            self._take_out(entry)
        if not demand.waits(record):
            if entry is not None:
                del self.entries[order_no]
                self._gone(order_no)
            return
        self.visits.changed(order_no)
        if entry is None:
            self.guests.forget(order_no)
            entry = self.entries[order_no] = Entry(slot, order_no)
            self._wait_until(
                entry, self._core.state.time_ms + RETRY_MS
            )  # a hold that was just committed was not tried yet
        before = entry.items
        entry.items = demand.units_by_item(record)
        if before and entry.items != before:
            entry.misses = entry.refusals = 0
            self.keeping.forget(order_no)
            self.visits.kept(order_no).clear()
        entry.place = (demand.order_rank(record), order_no)
        entry.no_room = any(d.reason == "capacity" for d in record.demand)
        entry.cancel_at_ms = demand.next_cancel_ms(record)
        put = list.append if many else insort
        put(self.order, entry.place)
        for item in entry.items:
            put(self.by_item.setdefault(item, []), entry.place)
        if entry.no_room:
            self._no_room[order_no] = None
        if entry.cancel_at_ms:
            heapq.heappush(self._cancels, (entry.cancel_at_ms, order_no))

    def left(self, order_no: int) -> None:
        """An order goes to another home."""
        entry = self.entries.pop(order_no, None)
        if entry is not None:
            self._take_out(entry)
            self._gone(order_no)

    def _gone(self, order_no: int) -> None:
        self.keeping.forget(order_no)
        self.visits.changed(order_no)
        self.visits.over(order_no)

    def _take_out(self, entry: Entry) -> None:
        self._no_room.pop(entry.order_no, None)
        _remove(self.order, entry.place)
        for item in entry.items:
            places = self.by_item[item]
            _remove(places, entry.place)
            if not places:
                del self.by_item[item]

    def turn_of(self, item: int) -> Place:
        """How far an item's waiting orders have had their turn: all of them, where nothing came back."""
        return self._passes.get(item, LAST)

    def walk(self, after: Place, item: int | None = None) -> Iterator[Entry]:
        """Entries behind a place, foremost first; of those that wait for an item, where one is given."""
        places = self.order if item is None else self.by_item.get(item, [])
        for n in range(bisect_right(places, after), len(places)):
            yield self.entries[places[n][1]]

    def line(self, after: Place, item: int) -> Iterator[Entry | Guest]:
        """All who wait for an item behind a place, guests among them, foremost first."""
        if item not in self.guests.by_item:
            return self.walk(after, item)
        return heapq.merge(self.walk(after, item), self.guests.walk(after, item), key=lambda who: who.place)

    def place_of(self, order_no: int) -> Place:
        """Where an order that waits stands, of this home or another."""
        who = self.entries.get(order_no) or self.guests.by_order[order_no]
        return who.place

    def trying(self, order_no: int) -> AbstractContextManager[None]:
        """Within it, what is kept for an order that waits, here and elsewhere, is free, and what is kept for those behind it."""
        entry = self.entries.get(order_no)
        return self.keeping.lifted(entry.place, entry.items) if entry is not None else nullcontext()

    def kept_before(self, place: tuple[int, ...], items: Iterable[int]) -> AbstractContextManager[None]:
        """Within it, only what is kept for those before a place is kept. No place = for everybody who waits, as ever."""
        if not place or not self._core.state.kept:
            return nullcontext()
        rank, order_no = place
        return self.keeping.lifted((rank, order_no), items)

    # -- what comes back ------------------------------------------------------------------------------------------

    def moved(self, event: Event) -> None:
        """An event was applied: do units, or capacity, come back that somebody waits for?"""
        kind = type(event)
        is_waited_for = self.is_waited_for
        if kind is OrderPut or kind is LegDriven:
            stock = event.stock  # type: ignore[union-attr]
            for at in range(0, len(stock), 5):
                if is_waited_for(stock[at + 1]) and stock[at + 2] - stock[at + 3] - stock[at + 4] > 0:
                    self.gained(stock[at + 1], stock[at])
            capacity = event.capacity  # type: ignore[union-attr]
            if any(units < 0 for units in capacity[2::3]):
                self._room_back = True
        elif kind is StockMoved:
            for item, _, change in event.moves:  # type: ignore[union-attr]
                if change > 0 and is_waited_for(item):
                    self.gained(item, event.node)  # type: ignore[union-attr]
        elif kind is StockCounted or kind is PositionSet:
            for row in event.rows:  # type: ignore[union-attr]
                if is_waited_for(row[0]):  # type: ignore[arg-type]
                    self.gained(row[0], event.node)  # type: ignore[union-attr, arg-type]

    def gained(self, item: int, node: int) -> None:
        """Units of an item that somebody waits for may be free at a node: begin with the foremost, keep them meanwhile."""
        positions = self._core.state.positions
        row = positions.find(item, node)
        if row < 0 or (positions.free(row) <= 0 and (item << 32 | node) not in self._core.state.kept):
            return
        self._passes[item] = FIRST
        turn = self.guests.turns.get(item)
        if turn is not None:
            turn.again = True
        if self._core.catalog.owns_node(node):
            self.keeping.open(item, node)

    def stirred(self, item: int) -> None:
        """A claim ended: its units may be free now."""
        if self.is_waited_for(item):
            self._passes.setdefault(item, FIRST)

    def stir_kept(self) -> None:
        """A home that was silent speaks: whatever is kept may be for its orders."""
        for item in self.keeping.items():
            self.stirred(item)

    def _wake_no_room(self, now_ms: int) -> None:
        """Capacity came back: all who lack it are due, at most once a second."""
        self._room_back, self._room_at_ms = False, now_ms + RETRY_MS
        for order_no in self._no_room:
            self._wait_until(self.entries[order_no], now_ms)

    def place_before(self, flights: list[Flight], *, now_ms: int) -> list[Flight]:
        """Place new orders that rank before some who wait: what is kept for those is not kept against them. Returns the others."""
        core = self._core
        rest = []
        for flight in flights:
            order = flight.command.order
            items = dict.fromkeys(line.item for line in flight.prepared.request.lines)
            if not order.priority or not any(self.keeping.keeps(item) for item in items):
                rest.append(flight)
                continue
            value = sum(line.quantity * line.unit_price_minor for line in order.lines)
            rank = demand.rank_of(core.time_ms(now_ms), order.priority, value)
            with self.keeping.lifted((rank, RANK_LAST), items):  # of equals, who waits already comes first
                plan_flights(core, [flight], now_ms=now_ms)
        return rest

    # -- the loop -------------------------------------------------------------------------------------------------

    def tick(self, now_ms: int, room: Callable[[], int]) -> None:
        """Give up what is due, then plan a few again (Q3). `room` = what the entry being built still takes."""
        self._give_up_due(now_ms, room)
        self.guests.tick(now_ms)
        self.visits.tell(now_ms)
        if not self.anyone:
            for item in self._passes:
                self.keeping.close(item)
            self._passes.clear()
            self.guests.no_turns()
            self._sweep = None
            return
        if self._room_back and now_ms >= self._room_at_ms:
            self._wake_no_room(now_ms)
        looks = LOOKS_PER_POLL
        while self._due and self._due[0][0] <= now_ms and looks > 0:
            looks -= 1
            due_ms, order_no = heapq.heappop(self._due)
            due = self.entries.get(order_no) or self.guests.by_order.get(order_no)
            if due is not None and due.due_ms == due_ms:
                self._call(due, now_ms)
        attempts, looks = ATTEMPTS_PER_POLL, LOOKS_PER_POLL
        if self.visits.working:
            attempts -= self.visits.try_some(attempts, now_ms)
        turns = self.guests.turns
        blocked: dict[int, None] = {}
        while attempts > 0 and looks > 0 and room():
            item = next((item for item in self._passes if item not in turns and item not in blocked), -1)
            if item < 0:
                break
            looks -= 1
            first = next(self.line(self._passes[item], item), None)
            if first is None or not self.keeping.has_free(item):
                del self._passes[item]
                self.keeping.close(item)
                continue
            in_vain = first.misses if isinstance(first, Guest) else max(first.misses, first.refusals)
            its_turn = in_vain <= PATIENT_MISSES or first.due_ms == 0 or first.due_ms <= now_ms
            if type(first) is Guest:
                its_turn = its_turn and first.shard not in self.guests.silent
                if its_turn and len(turns) >= TURNS_MAX:
                    blocked[item] = None
                elif its_turn and self.guests.give_turn(first, item, now_ms):
                    attempts -= 1
                else:
                    self._passes[item] = first.place
                continue
            self._passes[item] = first.place
            if its_turn:
                attempts -= self._try(first, now_ms)  # type: ignore[arg-type]
        self._sweep_on(now_ms, attempts, looks, room)

    def _sweep_on(self, now_ms: int, attempts: int, looks: int, room: Callable[[], int]) -> None:
        """Go on with the walk over all that wait; begin one where the configuration, or enough time, says so."""
        catalog = self._core.catalog
        network = (catalog.network_version, catalog.items_version)
        if network != self._network:
            if self._network != (-1, -1):
                self._sweep_at_ms = min(self._sweep_at_ms or now_ms + SWEEP_GAP_MS, now_ms + SWEEP_GAP_MS)
            self._network = network
        if not self._sweep_at_ms:
            self._sweep_at_ms = now_ms + SWEEP_MS
        if self._sweep is None and now_ms >= self._sweep_at_ms:
            self._sweep = FIRST
            self._sweep_at_ms = now_ms + SWEEP_MS
            self.visits.tell_all_again()
        while self._sweep is not None and attempts > 0 and looks > 0 and room():
            looks -= 1
            entry = next(self.walk(self._sweep), None)
            if entry is None:
                self._sweep = None
                break
            self._sweep = entry.place
            attempts -= self._try(entry, now_ms)

    def turn_ended(self, item: int, place: Place) -> None:
        """A guest has had its turn: go on with those behind it."""
        if item in self._passes:
            self._passes[item] = place

    def wait_longer(self, who: Entry | Guest, now_ms: int) -> None:
        """It was not helped: it waits longer each time (Q5)."""
        longest_ms = NO_ROOM_RETRY_MS if type(who) is Entry and who.no_room else RETRY_MAX_MS
        self._wait_until(who, now_ms + min(longest_ms, RETRY_MS << min(20, who.misses)))

    def _call(self, who: Entry | Guest, now_ms: int) -> None:
        """Its time has come: those before it who wait for the same item are asked first, as ever (Q2)."""
        who.due_ms = 0
        item = next((item for item in who.items if self.keeping.has_free(item)), None)
        if item is not None and item in self.guests.turns:
            self._wait_until(who, now_ms + RETRY_MS)
        elif item is not None:
            before = (who.place[0], who.place[1] - 1)
            self._passes[item] = min(self._passes.get(item, FIRST), before)

    def _try(self, entry: Entry, now_ms: int) -> int:
        """Plan one order again; 0 = there was nothing to try."""
        core = self._core
        if core.replans.is_busy(entry.order_no):
            return 0
        with self.keeping.lifted(entry.place, entry.items):
            if not entry.no_room and not any(core.state.free_total(item) for item in entry.items):
                return 0
        core.count("demand_tried")
        core.replans.start(entry.slot, entry.order_no, now_ms=now_ms)
        return 1

    def ended(self, order_no: int, now_ms: int, *, refused: bool = False) -> None:
        """An attempt is over. What still waits did not get enough; refused = because other shards did not hold it."""
        entry = self.entries.get(order_no)
        if entry is None:
            return
        if refused:  # a view was old, or a shard is away: that says nothing about the order
            entry.refusals += 1
            self._wait_until(entry, now_ms + REFUSED_RETRY_MS)
            self.visits.attempt_ended(order_no)
            return
        entry.refusals = 0
        if not self.visits.is_out(order_no):  # else the owner that let it try counts how often that did not help
            entry.misses += 1
            self.wait_longer(entry, now_ms)
        self.keeping.collect(entry, now_ms=now_ms)
        self.visits.attempt_ended(order_no)

    def _wait_until(self, who: Entry | Guest, due_ms: int) -> None:
        who.due_ms = due_ms
        heapq.heappush(self._due, (due_ms, who.order_no))

    def _give_up_due(self, now_ms: int, room: Callable[[], int]) -> None:
        """Q6."""
        core = self._core
        time_ms = core.time_ms(now_ms)
        while self._cancels and self._cancels[0][0] <= time_ms and room():
            _, order_no = heapq.heappop(self._cancels)
            entry = self.entries.get(order_no)
            if entry is None or not 0 < entry.cancel_at_ms <= time_ms:
                continue
            if core.replans.is_busy(order_no):  # units that lost their node after the date are on their way to another
                heapq.heappush(self._cancels, (time_ms + RETRY_MS, order_no))
                continue
            record = core.state.order(entry.slot, order_no)
            change = demand.expire(record, now_ms=time_ms) if record is not None else None
            if record is not None and change is not None:
                core.put_order(core.batch(now_ms), change.cause, entry.slot, order_no, record, [], [])
                core.count("demand_expired")

    def wake_at_ms(self, now_ms: int) -> int | None:
        """When to poll again for the queue's sake."""
        if self.working:  # where all turns are given, whoever is before the rest may be a guest
            return now_ms + (1 if len(self.guests.turns) < TURNS_MAX else FULL_LOOK_MS)
        times = [time for time in (self.guests.wake_at_ms(), self.visits.wake_at_ms()) if time is not None]
        if self.anyone:
            times += [heap[0][0] for heap in (self._due, self._cancels) if heap]
        if not self.entries:
            return max(now_ms + 1, min(times)) if times else None
        if self._room_back:
            times.append(self._room_at_ms)
        if self._sweep_at_ms:
            times.append(self._sweep_at_ms)
        return max(now_ms + 1, min(times)) if times else None


def _remove(places: list[Place], place: Place) -> None:
    at = bisect_left(places, place)
    assert places[at] == place, "a place in the queue is lost"
    del places[at]
