"""A second, tiny model of one shard: the books that an auditor keeps while reading the journal.

It shares no code with the engine: entries are decoded to plain lists, and only the layouts of the journal are known here
(docs/reference/journal.md). What it does not do is add up what the engine says it did. Held and allocated come from the legs of
order records and from legs held for other shards; on hand comes from movements, counts and what legs shipped. The changes an
entry states are only compared with that.

B1  A unit is held or allocated because a leg says so, never because a counter says so.
B2  On hand moves by stock facts and shipments. A rejected leg may take units off the shelf in one of two stated ways.
B3  Parts loaded from snapshots are true after their own entry; what they contain is not applied again.
B4  A day's capacity is taken by legs: local ones by their records, others as they are held and driven. What has left keeps what it
    used. A node remembers `DAYS_KEPT` days: a day is forgotten when one that many days later is used.
B5  What is on its way to a node is what was stated of it last, by inbound id. It is never on hand; nothing that was not expected ends.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from engine.verify import parts
from engine.verify.layouts import (
    ALLOCATED,
    HELD,
    Change,
    ForeignLeg,
    Order,
    capacity_of,
    decode,
    difference,
    effect_of,
    int32s,
    pack_order,
    position_key,
    reduce_record,
    stated_capacity,
    stated_changes,
    sum_pairs,
    unpack_order,
)

_ORDER_PUT, _STOCK_MOVED, _STOCK_COUNTED, _POSITION_SET, _LEG_HELD, _LEG_DRIVEN, _RECOVERED, _DRIVE_ACKED = range(1, 9)
_ORDERS_CLOSED, _LEG_SHIFTED, _WAVE_DONE, _INBOUND_SET = 9, 10, 33, 37
_LEGS_PARTED, _PART_BOXED, _PART_RECEIVED, _PART_OPENED, _PART_FORGOTTEN = range(50, 55)
_LEG_REJECTED = 12
"""Cause of an order event whose leg the node would not ship."""
FAULTS_KEPT = 1_000
DAYS_KEPT = 64


class Position(NamedTuple):
    on_hand: int
    held: int
    allocated: int
    safety: int


class Fault(NamedTuple):
    """An entry that contradicts itself or the model: what it states, and what follows from its records."""

    seq: int
    what: str
    node: int
    item: int
    stated: tuple[int, ...]
    derived: tuple[int, ...]


class Touched(NamedTuple):
    """What one event changed: position keys, order numbers, (node, order number, leg number) of foreign legs, days, what is expected."""

    positions: set[int]
    orders: set[int]
    foreign: set[tuple[int, int, int]]
    capacity: set[tuple[int, int]]
    """(node, local ship day)"""
    inbound: set[tuple[int, str]]
    """(node, inbound id)"""


class Books:
    """Fold of one shard's journal. `seq` = the newest entry in it."""

    def __init__(self, wanted: Collection[str] = ()) -> None:
        """wanted: order ids of which it is kept in `closed` that they have left."""
        self.seq = 0
        self.time_ms = 0
        self.entries = 0
        self.events = 0
        self.faults: list[Fault] = []
        self.fault_count = 0
        self.foreign: dict[tuple[int, int, int], ForeignLeg] = {}
        self.inbound: dict[tuple[int, str], tuple[int, int, int]] = {}
        """(item, units still expected, expected at in ms) by (node, inbound id)."""
        self._row: dict[int, int] = {}
        self._on_hand, self._held, self._allocated, self._safety = (array("i") for _ in range(4))
        self._orders: dict[int, bytes] = {}
        """Packed, because a Python object per order would be ten times as large."""
        self._capacity: dict[tuple[int, int], tuple[int, int]] = {}
        """(day, units given away) by (node, day modulo DAYS_KEPT)."""
        self.node_seq: dict[int, int] = {}
        self.slot_seq: dict[str, int] = {}
        """Entry of the snapshot that the books began with, by slot; by name for bands."""
        self.boxed: dict[str, parts.Boxed] = {}
        """Parts between two shards (parts.py)."""
        self._wanted = wanted
        self.closed: list[tuple[str, int]] = []
        """(order id, order number) of the wanted ones that were closed, after the snapshots that the books began with."""

    # -- reading --------------------------------------------------------------------------------------------------

    def position(self, key: int) -> Position:
        """A position by its key; zeros where the books have none."""
        row = self._row.get(key)
        if row is None:
            return Position(0, 0, 0, 0)
        return Position(self._on_hand[row], self._held[row], self._allocated[row], self._safety[row])

    def positions(self) -> Iterator[int]:
        """Keys of all positions, in no order."""
        return iter(self._row)

    @property
    def position_count(self) -> int:
        return len(self._row)

    def capacity(self, node: int, day: int) -> int:
        """Units of a day that a node has given away."""
        kept, units = self._capacity.get((node, day % DAYS_KEPT), (day, 0))
        return units if kept == day else 0

    def days(self) -> Iterator[tuple[int, int]]:
        """(node, day) of all days that something was given away of, in no order."""
        return ((node, day) for (node, _), (day, units) in self._capacity.items() if units)

    def order(self, order_no: int) -> Order | None:
        packed = self._orders.get(order_no)
        return None if packed is None else unpack_order(order_no, packed)

    def orders(self) -> Iterator[Order]:
        return (unpack_order(order_no, packed) for order_no, packed in self._orders.items())

    def order_numbers(self) -> Iterator[int]:
        return iter(self._orders)

    @property
    def order_count(self) -> int:
        return len(self._orders)

    # -- snapshots ------------------------------------------------------------------------------------------------

    def load_part(self, part: str, seq: int, data: bytes) -> None:
        """Start from a snapshot part ("node:12", "slot:US100", "misc") that is true after entry `seq`."""
        kind, _, name = part.partition(":")
        self.seq = max(self.seq, seq)
        if kind == "node":
            self.node_seq[int(name)] = seq
        else:
            self.slot_seq[name if kind == "slot" else part] = seq
        chunks = parts.boxed_in_snapshot(data)
        if chunks is not None:
            self.boxed[part] = chunks
        elif data == parts.GONE:
            return
        elif kind == "slot":
            self.load_slot(name, data)
        elif kind == "node":
            self.load_node(int(name), data)

    def load_slot(self, slot: str, data: bytes) -> list[int]:
        """Book a slot's orders; returns their numbers."""
        _schema, orders, *_ = decode(data)
        for order_no, record in orders:
            order = reduce_record(slot, order_no, record)
            self._orders[order_no] = pack_order(order)
            for key, (_, held, allocated) in effect_of(order).items():
                self.add(key, 0, held, allocated)
        return [order_no for order_no, _ in orders]

    def load_node(self, node: int, data: bytes) -> None:
        # keys, feeds, movements, settings, foreign legs, inbound records, and what later versions append
        _schema, items, columns, capacity, *rest = decode(data)
        for day, units in capacity:
            self._use(node, day, units)
        on_hand, safety = int32s(columns["on_hand"]), int32s(columns["safety"])
        for n, item in enumerate(int32s(items)):
            row = self._ensure(position_key(item, node))
            self._on_hand[row] += on_hand[n]
            self._safety[row] = safety[n]
        for home, txn, slot, order_no, leg_no, state, day, taken, lines, _held_at, *tail in rest[4]:
            _resolved, shipped, _version, written_off, emptied = tail[:5]
            leg = ForeignLeg(
                home, txn, slot, state, sum_pairs(lines), sum_pairs(shipped), sum_pairs(written_off), tuple(emptied)
            )._replace(day=day, capacity=taken)
            self.foreign[(node, order_no, leg_no)] = leg
            self.book_foreign(node, leg, 1)
        for inbound_id, item, units, expected_ms in rest[5] if len(rest) > 5 else ():  # older snapshots have none
            self.inbound[(node, inbound_id)] = (item, units, expected_ms)

    # -- folding --------------------------------------------------------------------------------------------------

    def apply(self, seq: int, time_ms: int, payload: bytes) -> Iterator[Touched]:
        """Book one entry, event by event: between two events the books equal what a shard shows in the middle of a batch.

        Exhaust it: what is not drawn is not booked.
        """
        for event in decode(payload):
            touched = Touched(set(), set(), set(), set(), set())
            handler = _HANDLERS.get(event[0])
            if handler is None:
                self.fault(seq, f"an event of unknown kind {event[0]}")
            else:
                handler(self, seq, event, touched)
            self.events += 1
            yield touched
        self.seq, self.time_ms = seq, time_ms
        self.entries += 1

    def _order_put(self, seq: int, event: list[Any], touched: Touched) -> None:
        cause, slot, order_no, record, stated, capacity = event[1:7]
        says = stated_capacity(capacity)
        if seq <= self.slot_seq.get(slot, 0):
            # The record is from the snapshot, so what this entry shipped is not known any more: B2 rests on what it states.
            for key, (on_hand, _, _) in stated_changes(stated).items():
                self.add(key, on_hand if self._is_newer(seq, key) else 0, 0, 0)
                touched.positions.add(key)
            self._use_days(seq, says, touched)
            return
        new = reduce_record(slot, order_no, record)
        old = self.order(order_no)
        if old is not None and old.slot != slot:
            self.fault(seq, f"order {order_no} moved from slot {old.slot} to {slot}")
        change = difference(effect_of(old), effect_of(new))
        before, after = capacity_of(old), capacity_of(new)
        follows = {day: after.get(day, 0) - before.get(day, 0) for day in {**before, **after}}
        self.compare_days(seq, f"order {order_no}", says, follows)
        self._use_days(seq, follows, touched)
        self._orders[order_no] = pack_order(new)
        touched.orders.add(order_no)
        emptied = self._rejected_units(old, new, change) if cause == _LEG_REJECTED and old is not None else []
        for key, (on_hand, held, allocated) in change.items():
            self.add(key, on_hand if self._is_newer(seq, key) else 0, held, allocated)
        self._declare_empty([key for key in emptied if self._is_newer(seq, key)], change)
        touched.positions.update(change)
        self.compare(seq, f"order {order_no}", stated_changes(stated), change)

    def _orders_closed(self, seq: int, event: list[Any], touched: Touched) -> None:
        slot, order_nos = event[1], event[2]
        if seq <= self.slot_seq.get(slot, 0):
            return
        for order_no in order_nos:
            order = self.order(order_no)
            touched.orders.add(order_no)
            if order is None:
                self.fault(seq, f"order {order_no} is closed and was not there")
                continue
            if any(held or allocated for _, held, allocated in effect_of(order).values()):
                self.fault(seq, f"order {order_no} is closed and still holds units")
            if order.order_id in self._wanted:
                self.closed.append((order.order_id, order_no))
            del self._orders[order_no]

    def _is_newer(self, seq: int, key: int) -> bool:
        """Whether an entry is not yet in the snapshot part of a position's node (B3)."""
        return seq > self.node_seq.get(key & 0xFFFFFFFF, 0)

    def _rejected_units(self, old: Order, new: Order, change: dict[int, tuple[int, int, int]]) -> list[int]:
        """Book what a rejection writes off into `change`; returns the positions it declares empty."""
        emptied: list[int] = []
        before = {leg.leg_no: leg for leg in old.legs}
        for leg in new.legs:
            was = before.get(leg.leg_no)
            if was is None or not leg.local or leg.effect == "none":
                continue
            units = sum_pairs(was.lines)
            for line, left in sum_pairs(leg.lines).items():
                units[line] -= left
            for line, freed in units.items():
                if freed <= 0:
                    continue
                key = position_key(new.items[line], leg.node)
                if leg.effect == "write_off":
                    on_hand, held, allocated = change.get(key, (0, 0, 0))
                    change[key] = (on_hand - freed, held, allocated)
                else:
                    emptied.append(key)
        return emptied

    def _stock_moved(self, seq: int, event: list[Any], touched: Touched) -> None:
        node, moves = event[1], event[2]
        if seq > self.node_seq.get(node, 0):
            for item, _kind, change in moves:
                touched.positions.add(self.add(position_key(item, node), change, 0, 0))

    def _stock_counted(self, seq: int, event: list[Any], touched: Touched) -> None:
        node, rows = event[1], event[6]
        if seq > self.node_seq.get(node, 0):
            for item, change in rows:
                touched.positions.add(self.add(position_key(item, node), change, 0, 0))

    def _position_set(self, seq: int, event: list[Any], touched: Touched) -> None:
        node, rows = event[1], event[2]
        if seq > self.node_seq.get(node, 0):
            for item, safety, *_ in rows:
                key = position_key(item, node)
                self._safety[self._ensure(key)] = safety
                touched.positions.add(key)

    def _inbound_set(self, seq: int, event: list[Any], touched: Touched) -> None:
        node, rows = event[1], event[2]
        if seq <= self.node_seq.get(node, 0):
            return
        for inbound_id, item, units, expected_ms in rows:
            key = (node, inbound_id)
            touched.inbound.add(key)
            old = self.inbound.get(key)
            if units < 0 or (old is None and not units) or (old is not None and old[0] != item):
                what = f"inbound {inbound_id}: units of an item that are expected, and were"
                self.fault(seq, what, position_key(item, node), (item, units), old[:2] if old else ())
            if units:
                self.inbound[key] = (item, units, expected_ms)
            else:
                self.inbound.pop(key, None)

    def _leg_held(self, seq: int, event: list[Any], touched: Touched) -> None:
        home, txn, slot, order_no, leg_no, node, day, capacity, lines = event[1:10]
        if seq <= self.node_seq.get(node, 0):
            return
        key = (node, order_no, leg_no)
        if key in self.foreign:
            self.fault(seq, f"leg {leg_no} of order {order_no} is held twice", position_key(0, node))
            self.book_foreign(node, self.foreign[key], -1)
        leg = self.foreign[key] = ForeignLeg(home, txn, slot, HELD, sum_pairs(lines), day=day, capacity=capacity)
        self._use_days(seq, {(node, day): capacity}, touched)
        touched.positions.update(self.book_foreign(node, leg, 1))
        touched.foreign.add(key)

    def _leg_driven(self, seq: int, event: list[Any], touched: Touched) -> None:
        _slot, order_no, leg_no, node, to, lines, stated, capacity, shipped, left, _version, off, emptied = event[1:14]
        if seq <= self.node_seq.get(node, 0):
            return
        key = (node, order_no, leg_no)
        old = self.foreign.get(key)
        touched.foreign.add(key)
        what = f"leg {leg_no} of order {order_no}"
        if old is None:
            self.fault(seq, f"{what} is driven but was never held", position_key(0, node))
            return
        new = old._replace(
            state=to,
            lines=sum_pairs(lines),
            shipped=sum_pairs(shipped),
            written_off=sum_pairs(off),
            emptied=tuple(emptied),
            capacity=left,
        )
        if left < 0 or left > old.capacity:
            self.fault(seq, f"{what}: capacity", position_key(0, node), (left,), (old.capacity,))
        given = {(node, old.day): left - old.capacity}
        self.compare_days(seq, what, stated_capacity(capacity), given)
        self._use_days(seq, given, touched)
        change: dict[int, Change] = {}
        for item in {**old.lines, **new.lines, **new.shipped, **new.written_off}:
            leaves = new.shipped.get(item, 0) - old.shipped.get(item, 0)
            lost = new.written_off.get(item, 0) - old.written_off.get(item, 0)
            was, stays = old.lines.get(item, 0), new.lines.get(item, 0)
            held = (stays if to == HELD else 0) - (was if old.state == HELD else 0)
            allocated = (0 if to == HELD else stays) - (0 if old.state == HELD else was)
            if leaves or lost or held or allocated:
                change[position_key(item, node)] = (-leaves - lost, held, allocated)
            if leaves < 0 or lost < 0 or was - stays - leaves - lost < 0:
                self.fault(seq, f"{what} grew", position_key(item, node), (stays, leaves, lost), (was,))
        for pos, numbers in change.items():
            self.add(pos, *numbers)
        self._declare_empty([position_key(item, node) for item in new.emptied if item not in old.emptied], change)
        self.compare(seq, what, stated_changes(stated), change)
        touched.positions.update(change)
        if new.lines:
            self.foreign[key] = new
        else:
            del self.foreign[key]

    def _leg_shifted(self, seq: int, event: list[Any], touched: Touched) -> None:
        """Units pass from one leg of an order to a held one at one node; what was allocated is held from then on."""
        order_no, node, from_leg, to_leg, lines, capacity = event[1:7]
        stated, _version = event[7:9] if len(event) > 7 else ([], 0)
        if seq <= self.node_seq.get(node, 0):
            return
        keys = (node, order_no, from_leg), (node, order_no, to_leg)
        old, new = self.foreign.get(keys[0]), self.foreign.get(keys[1])
        what = f"legs {from_leg} and {to_leg} of order {order_no}"
        touched.foreign.update(keys)
        if old is None or new is None or new.state != HELD or old.state not in (HELD, ALLOCATED):
            self.fault(seq, f"{what}: none is held that could take units", position_key(0, node))
            return
        left, more = dict(old.lines), dict(new.lines)
        for item, units in lines:
            left[item] = left.get(item, 0) - units
            more[item] = more.get(item, 0) + units
            if left[item] < 0 or units <= 0:
                self.fault(seq, f"{what}: more is given than there is", position_key(item, node), (units,))
        change: dict[int, Change] = {}
        if old.state != HELD:
            change = {position_key(item, node): (0, units, -units) for item, units in lines}
            for pos, numbers in change.items():
                self.add(pos, *numbers)
            touched.positions.update(change)
        self.compare(seq, what, stated_changes(stated), change)
        kept = {item: units for item, units in left.items() if units}
        self.foreign[keys[0]] = old._replace(lines=kept, capacity=old.capacity - capacity)
        self.foreign[keys[1]] = new._replace(lines=more, capacity=new.capacity + capacity)
        if capacity > old.capacity or (capacity and old.day != new.day):
            self.fault(seq, f"{what}: capacity", position_key(0, node), (capacity,), (old.capacity,))

    def _declare_empty(self, keys: list[int], change: dict[int, Change]) -> None:
        """What is on the shelf beyond what is promised comes off it, and into `change` (B2)."""
        for key in keys:
            row = self._ensure(key)
            excess = self._on_hand[row] - self._held[row] - self._allocated[row]
            if excess > 0:
                self._on_hand[row] -= excess
                on_hand, held, allocated = change.get(key, (0, 0, 0))
                change[key] = (on_hand - excess, held, allocated)

    def compare(self, seq: int, what: str, stated: dict[int, Change], derived: dict[int, Change]) -> None:
        """What an entry states against what follows from its records, at the nodes whose part it changes."""
        for key in {**derived, **stated}:
            follows, says = derived.get(key, (0, 0, 0)), stated.get(key, (0, 0, 0))
            if follows != says and self._is_newer(seq, key):
                self.fault(seq, what, key, says, follows)

    def compare_days(
        self, seq: int, what: str, stated: dict[tuple[int, int], int], derived: dict[tuple[int, int], int]
    ) -> None:
        for day in {**derived, **stated}:
            follows, says = derived.get(day, 0), stated.get(day, 0)
            if follows != says and seq > self.node_seq.get(day[0], 0):
                self.fault(seq, f"{what}: capacity of day {day[1]}", position_key(0, day[0]), (says,), (follows,))

    def _use_days(self, seq: int, change: dict[tuple[int, int], int], touched: Touched) -> None:
        """Book capacity, at nodes whose part the entry changes."""
        for (node, day), units in change.items():
            if units and seq > self.node_seq.get(node, 0):
                self._use(node, day, units)
                touched.capacity.add((node, day))

    def _use(self, node: int, day: int, units: int) -> None:
        key = (node, day % DAYS_KEPT)
        kept, used = self._capacity.get(key, (day, 0))
        if kept <= day:  # a day that was forgotten stays so
            self._capacity[key] = (day, (used if kept == day else 0) + units)

    def _no_units(self, seq: int, event: list[Any], touched: Touched) -> None:
        """A recovery, other shards' acknowledgement, a wave that is done: nothing about units."""

    # -- small change ---------------------------------------------------------------------------------------------

    def _ensure(self, key: int) -> int:
        row = self._row.get(key)
        if row is None:
            row = self._row[key] = len(self._on_hand)
            for column in (self._on_hand, self._held, self._allocated, self._safety):
                column.append(0)
        return row

    def add(self, key: int, on_hand: int, held: int, allocated: int, *, safety: int = 0) -> int:
        row = self._ensure(key)
        self._on_hand[row] += on_hand
        self._held[row] += held
        self._allocated[row] += allocated
        self._safety[row] += safety
        return key

    def book_foreign(self, node: int, leg: ForeignLeg, sign: int) -> list[int]:
        keys = []
        for item, units in leg.lines.items():
            key = position_key(item, node)
            keys.append(key)
            if leg.state == HELD:
                self.add(key, 0, sign * units, 0)
            else:
                self.add(key, 0, 0, sign * units)
        return keys

    # -- parts that come and go (parts.py) --------------------------------------------------------------------------

    def put_order(self, order_no: int, packed: bytes) -> None:
        self._orders[order_no] = packed

    def take_orders(self, slot: str, touched: set[int]) -> list[tuple[int, bytes]]:
        """A slot's orders, out of the books."""
        leaving = [number for number, packed in self._orders.items() if unpack_order(number, packed).slot == slot]
        touched.update(leaving)
        return [(number, self._orders.pop(number)) for number in leaving]

    def take_days(self, node: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """What a node has given away of its days, out of the books."""
        return [(key, self._capacity.pop(key)) for key in [key for key in self._capacity if key[0] == node]]

    def put_days(self, days: list[tuple[tuple[int, int], tuple[int, int]]]) -> None:
        self._capacity.update(days)

    def fault(
        self, seq: int, what: str, key: int = -1, stated: tuple[int, ...] = (), derived: tuple[int, ...] = ()
    ) -> None:
        self.fault_count += 1
        if len(self.faults) < FAULTS_KEPT:
            node, item = (key & 0xFFFFFFFF, key >> 32) if key >= 0 else (-1, -1)
            self.faults.append(Fault(seq, what, node, item, stated, derived))


_HANDLERS = {
    _ORDER_PUT: Books._order_put,
    _STOCK_MOVED: Books._stock_moved,
    _STOCK_COUNTED: Books._stock_counted,
    _POSITION_SET: Books._position_set,
    _LEG_HELD: Books._leg_held,
    _LEG_DRIVEN: Books._leg_driven,
    _RECOVERED: Books._no_units,
    _DRIVE_ACKED: Books._no_units,
    _ORDERS_CLOSED: Books._orders_closed,
    _LEG_SHIFTED: Books._leg_shifted,
    _WAVE_DONE: Books._no_units,
    _INBOUND_SET: Books._inbound_set,
    _LEGS_PARTED: parts.parted,
    _PART_BOXED: parts.boxed,
    _PART_RECEIVED: parts.received,
    _PART_OPENED: parts.opened,
    _PART_FORGOTTEN: parts.forgotten,
}
