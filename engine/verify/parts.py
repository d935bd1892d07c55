"""Parts that go from shard to shard, in the books: what leaves is taken out, what comes is put in from the bytes that came.

A part that is boxed is in no books. Opened again where it was (a move that was given up), it is as it was; opened at another shard,
it is what that shard's journal received, read as a snapshot is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from engine.verify.layouts import (
    HELD,
    ForeignLeg,
    capacity_of,
    decode,
    difference,
    effect_of,
    pack_order,
    position_key,
    reduce_record,
    sum_pairs,
    unpack_order,
)

if TYPE_CHECKING:
    from engine.verify.books import Books, Touched

BOX_MARK, GONE = b"\xc1box1", b"\xc1gone"


class Kept(NamedTuple):
    """What the books had of a part when it was boxed here."""

    positions: list[tuple[int, tuple[int, int, int, int]]]
    foreign: list[tuple[tuple[int, int, int], ForeignLeg]]
    capacity: list[tuple[tuple[int, int], tuple[int, int]]]
    orders: list[tuple[int, bytes]]
    inbound: list[tuple[tuple[int, str], tuple[int, int, int]]]


Boxed = Kept | list[bytes]
"""The latter: chunks, as they came from another shard or from a snapshot."""


def boxed_in_snapshot(data: bytes) -> list[bytes] | None:
    """Chunks of a snapshot part that is a box; None where it is none."""
    if not data.startswith(BOX_MARK):
        return None
    chunks: list[bytes] = decode(data[len(BOX_MARK) :])[3]
    return chunks


def is_newer(books: Books, part: str, seq: int) -> bool:
    """Whether an entry is not yet in the snapshot that the books began with (B3)."""
    kind, _, name = part.partition(":")
    if kind == "node":
        return seq > books.node_seq.get(int(name), 0)
    return seq > books.slot_seq.get(name if kind == "slot" else part, 0)


def parted(books: Books, seq: int, event: list[Any], touched: Touched) -> None:
    """Legs of this shard's own orders are held by its nodes' parts from now on: no number changes."""
    slot, order_no, record, _version, legs = event[1:6]
    what = f"order {order_no}"
    change: dict[int, tuple[int, int, int]] = {}
    days: dict[tuple[int, int], int] = {}
    touched.orders.add(order_no)
    if is_newer(books, "slot:" + slot, seq):
        old, new = books.order(order_no), reduce_record(slot, order_no, record)
        change = difference(effect_of(old), effect_of(new))
        before, after = capacity_of(old), capacity_of(new)
        days = {day: after.get(day, 0) - before.get(day, 0) for day in {**before, **after}}
        books.put_order(order_no, pack_order(new))
        for key, (_, held, allocated) in change.items():
            books.add(key, 0, held, allocated)
        touched.positions.update(change)
    for leg_no, node, txn, state, day, capacity, lines, shipped, written_off, emptied in legs:
        if not is_newer(books, f"node:{node}", seq):
            continue
        leg_key = (node, order_no, leg_no)
        if leg_key in books.foreign:
            books.fault(seq, f"leg {leg_no} of {what} is held twice", position_key(0, node))
        leg = books.foreign[leg_key] = ForeignLeg(
            -1,
            txn,
            slot,
            state,
            sum_pairs(lines),
            sum_pairs(shipped),
            sum_pairs(written_off),
            tuple(emptied),
            day,
            capacity,
        )
        touched.foreign.add(leg_key)
        touched.positions.update(books.book_foreign(node, leg, 1))
        for item, units in leg.lines.items():
            on_hand, held, allocated = change.get(position_key(item, node), (0, 0, 0))
            more = (units, 0) if state == HELD else (0, units)
            change[position_key(item, node)] = (on_hand, held + more[0], allocated + more[1])
        days[(node, day)] = days.get((node, day), 0) + capacity
    if is_newer(books, "slot:" + slot, seq):
        books.compare(
            seq, f"{what}: its legs change hands", {}, {key: value for key, value in change.items() if any(value)}
        )
        books.compare_days(
            seq, f"{what}: its legs change hands", {}, {day: units for day, units in days.items() if units}
        )


def boxed(books: Books, seq: int, event: list[Any], touched: Touched) -> None:
    part = event[2]
    if is_newer(books, part, seq):
        kept = books.boxed[part] = _take_out(books, part, touched)
        for order_no, packed in kept.orders:
            order = unpack_order(order_no, packed)
            if any(held or allocated for _, held, allocated in effect_of(order).values()):
                books.fault(seq, f"order {order.order_id} leaves and its own record still holds units here")


def received(books: Books, seq: int, event: list[Any], touched: Touched) -> None:
    part, n, data = event[2], event[4], event[6]
    if not is_newer(books, part, seq):
        return
    chunks = books.boxed.get(part)
    if n == 0:
        books.boxed[part] = [data]
    elif isinstance(chunks, list) and len(chunks) == n:
        chunks.append(data)
    else:
        books.fault(seq, f"chunk {n} of {part} does not follow")


def opened(books: Books, seq: int, event: list[Any], touched: Touched) -> None:
    part = event[2]
    if not is_newer(books, part, seq):
        return
    box = books.boxed.pop(part, None)
    if box is None:
        books.fault(seq, f"{part} is opened and was not here")
        return
    if isinstance(box, Kept):
        _put_back(books, box, touched)
        return
    _take_out(books, part, touched)  # what was seen of it here is of no account
    kind, _, name = part.partition(":")
    if kind == "node":
        books.load_node(int(name), b"".join(box))
        _touch_node(books, int(name), touched)
    elif kind == "slot":
        touched.orders.update(books.load_slot(name, b"".join(box)))


def forgotten(books: Books, seq: int, event: list[Any], touched: Touched) -> None:
    part = event[2]
    if is_newer(books, part, seq):
        books.boxed.pop(part, None)


def _touch_node(books: Books, node: int, touched: Touched) -> None:
    touched.positions.update(key for key in books.positions() if key & 0xFFFFFFFF == node)
    touched.foreign.update(key for key in books.foreign if key[0] == node)
    touched.capacity.update(day for day in books.days() if day[0] == node)
    touched.inbound.update(key for key in books.inbound if key[0] == node)


def _take_out(books: Books, part: str, touched: Touched) -> Kept:
    """All of a part, out of the books."""
    kind, _, name = part.partition(":")
    if kind == "slot":
        return Kept([], [], [], books.take_orders(name, touched.orders), [])
    if kind != "node":
        return Kept([], [], [], [], [])
    node = int(name)
    _touch_node(books, node, touched)
    rows = [(key, tuple(books.position(key))) for key in list(books.positions()) if key & 0xFFFFFFFF == node]
    for key, (on_hand, held, allocated, safety) in rows:
        books.add(key, -on_hand, -held, -allocated, safety=-safety)
    foreign = [(key, books.foreign.pop(key)) for key in list(books.foreign) if key[0] == node]
    inbound = [(key, books.inbound.pop(key)) for key in list(books.inbound) if key[0] == node]
    return Kept(rows, foreign, books.take_days(node), [], inbound)  # type: ignore[arg-type]


def _put_back(books: Books, kept: Kept, touched: Touched) -> None:
    for key, (on_hand, held, allocated, safety) in kept.positions:
        books.add(key, on_hand, held, allocated, safety=safety)
        touched.positions.add(key)
    for leg_key, leg in kept.foreign:
        books.foreign[leg_key] = leg
        touched.foreign.add(leg_key)
    books.put_days(kept.capacity)
    touched.capacity.update((node, day) for (node, _), (day, _) in kept.capacity)
    books.inbound.update(kept.inbound)
    touched.inbound.update(key for key, _ in kept.inbound)
    for order_no, packed in kept.orders:
        books.put_order(order_no, packed)
        touched.orders.add(order_no)
