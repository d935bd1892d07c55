"""Events: what a journal entry holds. Each says all that applying it needs, so that a stock part (one node) and an order part
(one slot) can be rebuilt apart from each other.

Stock changes are explicit, flat tuples of integers, so that any reader can add them up without knowing why they happened:
    stock     (node, item, on_hand, held, allocated) repeated: changes of this shard's own positions
    capacity  (node, local ship day, units) repeated: changes of what the node has given away that day
An order event carries the whole new record of the order: the newest one wins. Adding a field = appending one with a default.
"""

from __future__ import annotations

from enum import IntEnum

from msgspec import Struct

from engine.domain.move_events import LegsParted, PartBoxed, PartForgotten, PartOpened, PartReceived


class Cause(IntEnum):
    """Why an order's record changed."""

    RESERVED = 0
    ALLOCATED = 1
    COMMITTED = 2
    RELEASED = 3
    EXPIRED = 4
    EXTENDED = 5
    CANCELLED = 6
    LEG_RELEASED = 7
    LEG_ACCEPTED = 8
    LEG_PICKED = 9
    LEG_SHIPPED = 10
    LEG_DELIVERED = 11
    LEG_REJECTED = 12
    REPLANNED = 13
    DEMAND_CANCELLED = 14
    DEMAND_EXPIRED = 15
    PRIORITISED = 16
    RESOURCED = 17
    """Units of a leg that its node does not have: planned again elsewhere."""
    HOLDS_CLEARED = 18
    """Reasons for which the order was on hold were taken off it."""
    EDITED = 33
    """Address, service or lines changed, and planned again."""
    NOT_ACCEPTED = 34
    """A leg that its node did not accept in time was taken from it, and is served from elsewhere."""
    LEG_OVERDUE = 36
    """Nobody else can serve a leg that its node did not accept in time: it stays there, for a person to look at."""
    DUPLICATE_ORDER = 37
    """Cancelled, as far as it was not released to a node, because an order of the same id was opened earlier in another slot and is still open."""
    DELIVERY_ASSUMED = 38
    """Nobody reported what became of shipped legs for a long time: they are taken to have arrived."""
    REPEATED = 39
    """The record as it was, journaled once more: an index that does not know all of the past may lack it."""


class OrderPut(Struct, array_like=True, tag=1, frozen=True, gc=False):
    """An order's record, new or changed (order part), and what that does to this shard's own stock (stock parts).

    record: msgpack of an OrderRecord. key_hash 0 = no idempotency key to remember. reason: why, in the words of who asked for it, of
    a leg where there is a number; the record does not keep it.
    """

    cause: int
    slot: str
    order_no: int
    record: bytes
    stock: tuple[int, ...] = ()
    capacity: tuple[int, ...] = ()
    key_hash: int = 0
    fingerprint: int = 0
    reason: str = ""
    leg_no: int = 0


class StockMoved(Struct, array_like=True, tag=2, frozen=True, gc=False):
    """Typed movements at one node: (item, kind, change of on hand) each."""

    node: int
    moves: tuple[tuple[int, str, int], ...]
    reason: str = ""
    """Of all of them."""
    key_hash: int = 0
    fingerprint: int = 0
    order_ref: str = ""
    """The leg that caused it, where one did."""
    reasons: tuple[str, ...] = ()
    """Of each, where they are not the same of all; `reason` is then empty."""


class StockCounted(Struct, array_like=True, tag=3, frozen=True, gc=False):
    """An absolute count, already netted against later movements: (item, change of on hand) for every SKU it speaks of."""

    node: int
    source: str
    source_seq: int
    as_of_ms: int
    scope: str
    rows: tuple[tuple[int, int], ...]
    key_hash: int = 0
    fingerprint: int = 0


class PositionSet(Struct, array_like=True, tag=4, frozen=True, gc=False):
    """Settings of positions: (item, safety units, supply mode, trust in basis points, daily cap)."""

    node: int
    rows: tuple[tuple[int, int, str, int, int], ...]
    key_hash: int = 0
    fingerprint: int = 0


class LegHeld(Struct, array_like=True, tag=5, frozen=True, gc=False):
    """First phase at a node's shard: units held for a leg of an order whose home is another shard."""

    home: int
    txn: int
    slot: str
    order_no: int
    leg_no: int
    node: int
    ship_day: int
    capacity_units: int
    lines: tuple[tuple[int, int], ...]
    """(item, units), without those that it takes over."""
    takes: tuple[tuple[int, int, int], ...] = ()
    """(leg number, item, units) that older legs of the order hold here, and that become this leg's when home has decided."""
    takes_capacity: tuple[tuple[int, int], ...] = ()
    """(leg number, units) of their capacity, likewise."""


class LegDriven(Struct, array_like=True, tag=6, frozen=True, gc=False):
    """Second phase at a node's shard: the leg's new state and lines (none = it is forgotten), as explicit changes.

    shipped, written_off: (item, units) in all so far; emptied: items whose shelf is said to be empty.
    """

    slot: str
    order_no: int
    leg_no: int
    node: int
    to: int
    lines: tuple[tuple[int, int], ...]
    stock: tuple[int, ...] = ()
    capacity: tuple[int, ...] = ()
    shipped: tuple[tuple[int, int], ...] = ()
    capacity_left: int = 0
    version: int = 0
    """Version of the home record that decided it."""
    written_off: tuple[tuple[int, int], ...] = ()
    emptied: tuple[int, ...] = ()


class Recovered(Struct, array_like=True, tag=7, frozen=True, gc=False):
    """The shard was away: holds opened before `at_ms` do not expire before `grace_until_ms`."""

    at_ms: int
    grace_until_ms: int


class DriveAcked(Struct, array_like=True, tag=8, frozen=True, gc=False):
    """Other shards acknowledged what the order's record says about these legs."""

    slot: str
    order_no: int
    leg_nos: tuple[int, ...]


class LegShifted(Struct, array_like=True, tag=10, frozen=True, gc=False):
    """Units, and capacity, that one leg of an order had at a node are now held by another leg of it: nobody else could get them."""

    order_no: int
    node: int
    from_leg: int
    to_leg: int
    lines: tuple[tuple[int, int], ...]
    capacity_units: int = 0
    stock: tuple[int, ...] = ()
    """Where the one was allocated and the other is held: the same units, counted as held from now on."""
    version: int = 0
    """Version of the home record that decided it; older drives of the leg that gave say nothing any more. 0 = not said."""


class WaveDone(Struct, array_like=True, tag=33, frozen=True, gc=False):
    """Everything that a node's release waves up to an instant were to release of this home's orders has been released."""

    node: int
    at_ms: int


class InboundSet(Struct, array_like=True, tag=37, frozen=True, gc=False):
    """What is on its way to a node: (inbound id, item, units still expected, expected at in ms); 0 units = nothing any more."""

    node: int
    rows: tuple[tuple[str, int, int, int], ...]
    key_hash: int = 0
    fingerprint: int = 0


class OrdersClosed(Struct, array_like=True, tag=9, frozen=True, gc=False):
    """Orders of a slot that have long been at their end leave the shard's state; the archive and its index keep them."""

    slot: str
    order_nos: tuple[int, ...]


class ConfigPut(Struct, array_like=True, tag=20, frozen=True, gc=False):
    """Changed documents of one kind (control shard): (index, name, version, JSON text), versions ascending by one."""

    kind: str
    documents: tuple[tuple[int, str, int, bytes], ...]
    key_hash: int = 0
    fingerprint: int = 0


Event = (
    OrderPut
    | StockMoved
    | StockCounted
    | PositionSet
    | LegHeld
    | LegDriven
    | Recovered
    | DriveAcked
    | LegShifted
    | OrdersClosed
    | LegsParted
    | PartBoxed
    | PartReceived
    | PartOpened
    | PartForgotten
    | WaveDone
    | InboundSet
)
