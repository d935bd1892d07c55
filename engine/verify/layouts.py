"""Layouts of the journal as the auditor knows them: order records, foreign legs, flat stock changes. Plain lists in, values out.

Written a second time on purpose: nothing here is shared with engine.domain (see docs/adr/0004).
"""

from __future__ import annotations

import sys
from array import array
from typing import Any, NamedTuple

import msgspec

HELD, ALLOCATED, PICKING, SHIPPED, DELIVERED = 0, 1, 4, 5, 6
"""States of a leg, as far as they matter for units."""
Change = tuple[int, int, int]
"""Change of (on hand, held, allocated) of a position."""

decode = msgspec.msgpack.Decoder().decode
_encode = msgspec.msgpack.Encoder().encode


class Leg(NamedTuple):
    leg_no: int
    node: int
    local: bool
    state: int
    lines: list[list[int]]
    """(line index, units)"""
    effect: str
    txn: int
    day: int = 0
    capacity: int = 0
    """What it takes of its node's capacity on its local ship day."""


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
    shipped: dict[int, int] = {}
    """Units by item, in all so far; `written_off` likewise."""
    written_off: dict[int, int] = {}
    emptied: tuple[int, ...] = ()
    """Items whose shelf home was told is empty."""
    day: int = 0
    capacity: int = 0


def position_key(item: int, node: int) -> int:
    """One integer for a position; numeric order = by item, then node."""
    return item << 32 | node


def reduce_record(slot: str, order_no: int, record: bytes) -> Order:
    """The part of a packed order record that the books need."""
    fields = decode(record)
    legs = [
        Leg(
            leg[0],
            leg[1],
            leg[2],
            leg[3],
            leg[4],
            leg[16] if len(leg) > 16 else "none",
            leg[18] if len(leg) > 18 else 0,
            leg[7] if len(leg) > 7 else 0,
            leg[11] if len(leg) > 11 else 0,
        )
        for leg in fields[8]
    ]
    return Order(slot, order_no, fields[0], fields[3], [line[1] for line in fields[7]], legs)


def pack_order(order: Order) -> bytes:
    return _encode((order.slot, order.order_id, order.state, order.items, order.legs))


def unpack_order(order_no: int, packed: bytes) -> Order:
    slot, order_id, state, items, legs = decode(packed)
    return Order(slot, order_no, order_id, state, items, [Leg(*leg) for leg in legs])


def effect_of(order: Order | None) -> dict[int, Change]:
    """(shipped as a negative change of on hand, held, allocated) by position, from the local legs of an order (B1)."""
    effect: dict[int, Change] = {}
    for leg in order.legs if order else ():
        if not leg.local:
            continue
        for line, units in leg.lines:
            key = position_key(order.items[line], leg.node) if order else 0
            on_hand, held, allocated = effect.get(key, (0, 0, 0))
            if leg.state == HELD:
                held += units
            elif ALLOCATED <= leg.state <= PICKING:
                allocated += units
            elif leg.state in (SHIPPED, DELIVERED):
                on_hand -= units
            effect[key] = (on_hand, held, allocated)
    return effect


def capacity_of(order: Order | None) -> dict[tuple[int, int], int]:
    """Capacity that the local legs of an order take, by (node, day): what has shipped keeps what it used."""
    taken: dict[tuple[int, int], int] = {}
    for leg in order.legs if order else ():
        if leg.local and leg.capacity:
            taken[(leg.node, leg.day)] = taken.get((leg.node, leg.day), 0) + leg.capacity
    return taken


def stated_capacity(flat: list[int]) -> dict[tuple[int, int], int]:
    """Flat (node, day, units) changes by (node, day), those that cancel out left away."""
    change: dict[tuple[int, int], int] = {}
    for i in range(0, len(flat), 3):
        node, day, units = flat[i : i + 3]
        change[(node, day)] = change.get((node, day), 0) + units
    return {key: units for key, units in change.items() if units}


def difference(old: dict[int, Change], new: dict[int, Change]) -> dict[int, Change]:
    change = {}
    for key in {**old, **new}:
        a, b = old.get(key, (0, 0, 0)), new.get(key, (0, 0, 0))
        if a != b:
            change[key] = (b[0] - a[0], b[1] - a[1], b[2] - a[2])
    return change


def stated_changes(stock: list[int]) -> dict[int, Change]:
    """Flat (node, item, on hand, held, allocated) changes by position, those that cancel out left away."""
    change: dict[int, Change] = {}
    for i in range(0, len(stock), 5):
        node, item, on_hand, held, allocated = stock[i : i + 5]
        key = position_key(item, node)
        a = change.get(key, (0, 0, 0))
        change[key] = (a[0] + on_hand, a[1] + held, a[2] + allocated)
    return {key: value for key, value in change.items() if any(value)}


def sum_pairs(pairs: Any) -> dict[int, int]:
    """Units by the first number of each pair."""
    out: dict[int, int] = {}
    for key, units in pairs:
        out[key] = out.get(key, 0) + units
    return out


def int32s(data: bytes) -> array[int]:
    """Little-endian 32-bit integers, whatever this machine's own order is."""
    values = array("i", data)
    if sys.byteorder != "little":
        values.byteswap()
    return values
