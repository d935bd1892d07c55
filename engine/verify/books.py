"""A second, tiny model of one shard: the books that an auditor keeps while reading the journal.

It shares no code with the engine: entries are decoded to plain lists, and only the layouts of the journal are known here
(docs/reference/journal.md). What it does not do is add up what the engine says it did. Held and allocated come from the legs of
order records and from legs held for other shards; on hand comes from movements, counts and what legs shipped. The changes an
entry states are only compared with that.

B1  A unit is held or allocated because a leg says so, never because a counter says so.
B2  On hand moves by stock facts and shipments. A rejected leg may take units off the shelf in one of two stated ways.
B3  Parts loaded from snapshots are true after their own entry; what they contain is not applied again.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

_ORDER_PUT, _STOCK_MOVED, _STOCK_COUNTED, _POSITION_SET, _LEG_HELD, _LEG_DRIVEN, _RECOVERED = range(1, 8)
_LEG_REJECTED = 12
"""Cause of an order event whose leg the node would not ship."""
_HELD, _ALLOCATED, _PICKING, _SHIPPED, _DELIVERED, _CANCELLED, _REJECTED = 0, 1, 4, 5, 6, 7, 8
FAULTS_KEPT = 1_000

_decode = msgspec.msgpack.Decoder().decode
_encode = msgspec.msgpack.Encoder().encode


class Position(NamedTuple):
    on_hand: int
    held: int
    allocated: int
    safety: int


class Leg(NamedTuple):
    leg_no: int
    node: int
    local: bool
    state: int
    lines: list[list[int]]
    """(line index, units)"""
    effect: str
    txn: int


class Order(NamedTuple):
    """What the books keep of an order record."""

    slot: str
    order_no: int
    order_id: str
    state: int
    items: list[int]
    """Item by line."""
    legs: list[Leg]


class ForeignLeg(NamedTuple):
    """A leg at a node of this shard, of an order whose home is another one."""

    home: int
    txn: int
    slot: str
    state: int
    lines: dict[int, int]
    """Units by item that are still held or allocated."""
    shipped: dict[int, int]


class Fault(NamedTuple):
    """An entry that contradicts itself or the model: what it states, and what follows from its records."""

    seq: int
    what: str
    node: int
    item: int
    stated: tuple[int, ...]
    derived: tuple[int, ...]


class Touched(NamedTuple):
    """What one event changed: position keys, order numbers, and (node, order number, leg number) of foreign legs."""

    positions: set[int]
    orders: set[int]
    foreign: set[tuple[int, int, int]]


def position_key(item: int, node: int) -> int:
    """One integer for a position; numeric order = by item, then node."""
    return item << 32 | node


class Books:
    """Fold of one shard's journal. `seq` = the newest entry in it."""

    def __init__(self) -> None:
        self.seq = 0
        self.time_ms = 0
        self.entries = 0
        self.events = 0
        self.faults: list[Fault] = []
        self.fault_count = 0
        self.foreign: dict[tuple[int, int, int], ForeignLeg] = {}
        self._row: dict[int, int] = {}
        self._on_hand, self._held, self._allocated, self._safety = (array("i") for _ in range(4))
        self._orders: dict[int, bytes] = {}
        """Packed, because a Python object per order would be ten times as large."""
        self._node_seq: dict[int, int] = {}
        self._slot_seq: dict[str, int] = {}

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

    def order(self, order_no: int) -> Order | None:
        packed = self._orders.get(order_no)
        return None if packed is None else _unpack_order(order_no, packed)

    def orders(self) -> Iterator[Order]:
        return (_unpack_order(order_no, packed) for order_no, packed in self._orders.items())

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
        if kind == "slot":
            self._slot_seq[name] = seq
            _schema, orders, *_ = _decode(data)
            for order_no, record in orders:
                order = _reduce(name, order_no, record)
                self._orders[order_no] = _pack_order(order)
                for key, (_, held, allocated) in _effect(order).items():
                    self._add(key, 0, held, allocated)
        elif kind == "node":
            self._load_node(int(name), seq, data)

    def _load_node(self, node: int, seq: int, data: bytes) -> None:
        self._node_seq[node] = seq
        _schema, items, columns, *rest = _decode(data)
        on_hand, safety = _int32(columns["on_hand"]), _int32(columns["safety"])
        for n, item in enumerate(_int32(items)):
            row = self._ensure(position_key(item, node))
            self._on_hand[row] += on_hand[n]
            self._safety[row] = safety[n]
        for home, txn, slot, order_no, leg_no, state, _day, _capacity, lines, _held_at, *tail in rest[-1]:
            leg = ForeignLeg(home, txn, slot, state, _sum(lines), _sum(tail[1]) if len(tail) > 1 else {})
            self.foreign[(node, order_no, leg_no)] = leg
            self._book_foreign(node, leg, 1)

    # -- folding --------------------------------------------------------------------------------------------------

    def apply(self, seq: int, time_ms: int, payload: bytes) -> Iterator[Touched]:
        """Book one entry, event by event: between two events the books equal what a shard shows in the middle of a batch.

        Exhaust it: what is not drawn is not booked.
        """
        for event in _decode(payload):
            touched = Touched(set(), set(), set())
            handler = _HANDLERS.get(event[0])
            if handler is None:
                self._fault(seq, f"an event of unknown kind {event[0]}")
            else:
                handler(self, seq, event, touched)
            self.events += 1
            yield touched
        self.seq, self.time_ms = seq, time_ms
        self.entries += 1

    def _order_put(self, seq: int, event: list[Any], touched: Touched) -> None:
        cause, slot, order_no, record, stated = event[1:6]
        stated_by_key = _stated(stated)
        if seq <= self._slot_seq.get(slot, 0):
            # The record is from the snapshot, so what this entry shipped is not known any more: B2 rests on what it states.
            for key, (on_hand, _, _) in stated_by_key.items():
                self._add(key, on_hand if seq > self._node_seq.get(key & 0xFFFFFFFF, 0) else 0, 0, 0)
                touched.positions.add(key)
            return
        new = _reduce(slot, order_no, record)
        old = self.order(order_no)
        if old is not None and old.slot != slot:
            self._fault(seq, f"order {order_no} moved from slot {old.slot} to {slot}")
        change = _difference(_effect(old), _effect(new))
        self._orders[order_no] = _pack_order(new)
        touched.orders.add(order_no)
        emptied = self._rejected_units(old, new, change) if cause == _LEG_REJECTED and old is not None else ()
        for key, (on_hand, held, allocated) in change.items():
            if seq <= self._node_seq.get(key & 0xFFFFFFFF, 0):
                on_hand = 0
            self._add(key, on_hand, held, allocated)
        for key in emptied:
            row = self._ensure(key)
            excess = self._on_hand[row] - self._held[row] - self._allocated[row]
            if excess > 0 and seq > self._node_seq.get(key & 0xFFFFFFFF, 0):
                self._on_hand[row] -= excess
                on_hand, held, allocated = change.get(key, (0, 0, 0))
                change[key] = (on_hand - excess, held, allocated)
        touched.positions.update(change)
        for key in {**change, **stated_by_key}:
            derived, says = change.get(key, (0, 0, 0)), stated_by_key.get(key, (0, 0, 0))
            if derived != says and seq > self._node_seq.get(key & 0xFFFFFFFF, 0):
                self._fault(seq, f"order {order_no}", key, says, derived)

    def _rejected_units(self, old: Order, new: Order, change: dict[int, tuple[int, int, int]]) -> list[int]:
        """Book what a rejection writes off into `change`; returns the positions it declares empty."""
        emptied: list[int] = []
        before = {leg.leg_no: leg for leg in old.legs}
        for leg in new.legs:
            was = before.get(leg.leg_no)
            if was is None or not leg.local or leg.effect == "none":
                continue
            units = _sum(was.lines)
            for line, left in _sum(leg.lines).items():
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
        if seq > self._node_seq.get(node, 0):
            for item, _kind, change in moves:
                touched.positions.add(self._add(position_key(item, node), change, 0, 0))

    def _stock_counted(self, seq: int, event: list[Any], touched: Touched) -> None:
        node, rows = event[1], event[6]
        if seq > self._node_seq.get(node, 0):
            for item, change in rows:
                touched.positions.add(self._add(position_key(item, node), change, 0, 0))

    def _position_set(self, seq: int, event: list[Any], touched: Touched) -> None:
        node, rows = event[1], event[2]
        if seq > self._node_seq.get(node, 0):
            for item, safety, *_ in rows:
                key = position_key(item, node)
                self._safety[self._ensure(key)] = safety
                touched.positions.add(key)

    def _leg_held(self, seq: int, event: list[Any], touched: Touched) -> None:
        home, txn, slot, order_no, leg_no, node, _day, _capacity, lines = event[1:10]
        if seq <= self._node_seq.get(node, 0):
            return
        key = (node, order_no, leg_no)
        if key in self.foreign:
            self._fault(seq, f"leg {leg_no} of order {order_no} is held twice", position_key(0, node))
            self._book_foreign(node, self.foreign[key], -1)
        leg = self.foreign[key] = ForeignLeg(home, txn, slot, _HELD, _sum(lines), {})
        touched.positions.update(self._book_foreign(node, leg, 1))
        touched.foreign.add(key)

    def _leg_driven(self, seq: int, event: list[Any], touched: Touched) -> None:
        _slot, order_no, leg_no, node, to, lines, stated, _capacity, shipped = event[1:10]
        if seq <= self._node_seq.get(node, 0):
            return
        key = (node, order_no, leg_no)
        old = self.foreign.get(key)
        touched.foreign.add(key)
        if old is None:
            self._fault(seq, f"leg {leg_no} of order {order_no} is driven but was never held", position_key(0, node))
            return
        new = old._replace(state=to, lines=_sum(lines), shipped=_sum(shipped))
        change: dict[int, tuple[int, int, int]] = {}
        for item in {**old.lines, **new.lines, **new.shipped}:
            leaves = new.shipped.get(item, 0) - old.shipped.get(item, 0)
            was, stays = old.lines.get(item, 0), new.lines.get(item, 0)
            held = (stays if to == _HELD else 0) - (was if old.state == _HELD else 0)
            allocated = (0 if to == _HELD else stays) - (0 if old.state == _HELD else was)
            if leaves or held or allocated:
                change[position_key(item, node)] = (-leaves, held, allocated)
            if leaves < 0 or was - stays - leaves < 0:
                self._fault(
                    seq, f"leg {leg_no} of order {order_no} grew", position_key(item, node), (stays, leaves), (was,)
                )
        stated_by_key = _stated(stated)
        for pos, (on_hand, held, allocated) in {**dict.fromkeys(stated_by_key, (0, 0, 0)), **change}.items():
            says = stated_by_key.get(pos, (0, 0, 0))
            self._add(pos, on_hand, held, allocated)
            item = pos >> 32
            freed = old.lines.get(item, 0) - new.lines.get(item, 0) + on_hand
            extra = says[0] - on_hand
            row = self._row[pos]
            excess = max(0, self._on_hand[row] - self._held[row] - self._allocated[row])
            if extra and freed > 0 and to != _CANCELLED and -extra in (freed, excess):
                self._on_hand[row] += extra  # B2: written off, or the shelf is declared empty
                on_hand += extra
            if (on_hand, held, allocated) != says:
                self._fault(seq, f"leg {leg_no} of order {order_no}", pos, says, (on_hand, held, allocated))
            touched.positions.add(pos)
        if to in (_CANCELLED, _REJECTED):
            del self.foreign[key]
        else:
            self.foreign[key] = new

    def _recovered(self, seq: int, event: list[Any], touched: Touched) -> None:
        """Nothing about units."""

    # -- small change ---------------------------------------------------------------------------------------------

    def _ensure(self, key: int) -> int:
        row = self._row.get(key)
        if row is None:
            row = self._row[key] = len(self._on_hand)
            for column in (self._on_hand, self._held, self._allocated, self._safety):
                column.append(0)
        return row

    def _add(self, key: int, on_hand: int, held: int, allocated: int) -> int:
        row = self._ensure(key)
        self._on_hand[row] += on_hand
        self._held[row] += held
        self._allocated[row] += allocated
        return key

    def _book_foreign(self, node: int, leg: ForeignLeg, sign: int) -> list[int]:
        keys = []
        for item, units in leg.lines.items():
            key = position_key(item, node)
            keys.append(key)
            if leg.state == _HELD:
                self._add(key, 0, sign * units, 0)
            else:
                self._add(key, 0, 0, sign * units)
        return keys

    def _fault(
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
    _RECOVERED: Books._recovered,
}


def _reduce(slot: str, order_no: int, record: bytes) -> Order:
    """The part of a packed order record that the books need."""
    fields = _decode(record)
    legs = [
        Leg(
            leg[0],
            leg[1],
            leg[2],
            leg[3],
            leg[4],
            leg[16] if len(leg) > 16 else "none",
            leg[18] if len(leg) > 18 else 0,
        )
        for leg in fields[8]
    ]
    return Order(slot, order_no, fields[0], fields[3], [line[1] for line in fields[7]], legs)


def _pack_order(order: Order) -> bytes:
    return _encode((order.slot, order.order_id, order.state, order.items, order.legs))


def _unpack_order(order_no: int, packed: bytes) -> Order:
    slot, order_id, state, items, legs = _decode(packed)
    return Order(slot, order_no, order_id, state, items, [Leg(*leg) for leg in legs])


def _effect(order: Order | None) -> dict[int, tuple[int, int, int]]:
    """(shipped as a negative change of on hand, held, allocated) by position, from the local legs of an order (B1)."""
    effect: dict[int, tuple[int, int, int]] = {}
    for leg in order.legs if order else ():
        if not leg.local:
            continue
        for line, units in leg.lines:
            key = position_key(order.items[line], leg.node) if order else 0
            on_hand, held, allocated = effect.get(key, (0, 0, 0))
            if leg.state == _HELD:
                held += units
            elif _ALLOCATED <= leg.state <= _PICKING:
                allocated += units
            elif leg.state in (_SHIPPED, _DELIVERED):
                on_hand -= units
            effect[key] = (on_hand, held, allocated)
    return effect


def _difference(
    old: dict[int, tuple[int, int, int]], new: dict[int, tuple[int, int, int]]
) -> dict[int, tuple[int, int, int]]:
    change = {}
    for key in {**old, **new}:
        a, b = old.get(key, (0, 0, 0)), new.get(key, (0, 0, 0))
        if a != b:
            change[key] = (b[0] - a[0], b[1] - a[1], b[2] - a[2])
    return change


def _stated(stock: list[int]) -> dict[int, tuple[int, int, int]]:
    """Flat (node, item, on hand, held, allocated) changes by position, those that cancel out left away."""
    change: dict[int, tuple[int, int, int]] = {}
    for i in range(0, len(stock), 5):
        node, item, on_hand, held, allocated = stock[i : i + 5]
        key = position_key(item, node)
        a = change.get(key, (0, 0, 0))
        change[key] = (a[0] + on_hand, a[1] + held, a[2] + allocated)
    return {key: value for key, value in change.items() if any(value)}


def _sum(pairs: Any) -> dict[int, int]:
    """Units by the first number of each pair."""
    out: dict[int, int] = {}
    for key, units in pairs:
        out[key] = out.get(key, 0) + units
    return out


def _int32(data: bytes) -> array[int]:
    """Little-endian 32-bit integers, whatever this machine's own order is."""
    values = array("i", data)
    if sys.byteorder != "little":
        values.byteswap()
    return values
