"""What the entries of one shard change in the index. Pure: entries in, rows out, the same rows however they are cut into batches."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import msgspec
from msgspec import Struct

from engine.domain.config import KEY_FIELD
from engine.domain.events import (
    Cause,
    ConfigPut,
    Event,
    LegDriven,
    LegHeld,
    LegShifted,
    OrderPut,
    OrdersClosed,
    StockCounted,
    StockMoved,
)
from engine.domain.ids import shard_of_order_no
from engine.domain.labels import LEG_LABELS, order_label
from engine.domain.move_events import PartOpened
from engine.domain.orders import LegState, OrderRecord, OrderState, has_ended
from engine.domain.placement import CONTROL_SHARD
from engine.domain.views import RUNG_LABELS
from engine.journal.port import Corrupt, Entry
from engine.journal.upgrade import entry_payload

_EVENTS = msgspec.msgpack.Decoder(list[Event])
_CONFIG = msgspec.msgpack.Decoder(list[ConfigPut])
_NAMED_KINDS = frozenset(kind for kind, field in KEY_FIELD.items() if field and kind not in ("key", "secret"))
CAUSE_LABELS = {int(cause): cause.name.lower() for cause in Cause}
_OPENING = frozenset((int(Cause.RESERVED), int(Cause.ALLOCATED)))
_STEPS = frozenset(
    int(cause)
    for cause in (
        Cause.RELEASED,
        Cause.EXPIRED,
        Cause.EXTENDED,
        Cause.LEG_RELEASED,
        Cause.LEG_ACCEPTED,
        Cause.LEG_PICKED,
        Cause.LEG_SHIPPED,
        Cause.LEG_DELIVERED,
        Cause.HOLDS_CLEARED,
        Cause.LEG_OVERDUE,
    )
)
"""Causes that change states of legs and may add one. All others may bring a decision, other lines, or fewer legs."""
_ENDING = frozenset((int(Cause.RELEASED), int(Cause.EXPIRED), int(Cause.LEG_DELIVERED)))
"""Steps after which an order may have ended."""
_OPENED_MARK = b"\x96\x35"
"""How an event of a part that is opened begins: an array of six, the first of which is its tag."""
_COMMITTED, _DELIVERED = int(OrderState.COMMITTED), int(LegState.DELIVERED)
NOTE_MAX = 256
_ON_HAND = 7
"""Column of a movement's row; the changes of held and allocated units are beside it."""
Row = tuple[Any, ...]


class _Skipped(Struct, array_like=True, gc=False):
    """An array that nobody looks at: passed over without making anything of it."""


class FoldedLine(Struct, array_like=True, gc=False):
    line_id: str
    item: int
    quantity: int
    unit_price_minor: int = 0
    method: int = 0
    group: int = 0
    pickup_node: int = -1
    cancelled: int = 0


class FoldedLeg(Struct, array_like=True, gc=False):
    leg_no: int
    node: int
    local: bool
    state: int


class FoldedRecord(Struct, array_like=True, gc=False):
    """Of an OrderRecord what rows are made of: a third of the time that all of it takes. The same fields in the same places."""

    order_id: str
    channel: int
    service: str
    state: int
    placed_at_ms: int
    version: int
    ship_to: _Skipped | None
    lines: list[FoldedLine]
    legs: list[FoldedLeg]
    config: int = 0
    decided_at: list[tuple[int, ...]] = []
    money_minor: _Skipped | None = None
    customer_id: str | None = None
    expires_at_ms: int = 0
    rung: int = 0
    promise_ms: _Skipped | None = None
    demand: list[_Skipped] = []

    def as_record(self) -> OrderRecord:
        """For the functions that tell an order's label and end: they look at no other fields (a test holds them to that)."""
        return cast("OrderRecord", self)


decode_folded = msgspec.msgpack.Decoder(FoldedRecord).decode


class Changes(NamedTuple):
    """Rows of a batch, in the column order of their tables; items, movements and positions in the order of their keys."""

    names: list[Row]
    orders: list[Row]
    replanned: list[Row]
    """(order number,) of orders that were there before: their legs are replaced."""
    items: list[Row]
    """Every item that an order ever had a line of."""
    legs: list[Row]
    decisions: list[Row]
    movements: list[Row]
    reasons: list[Row]
    positions: list[Row]
    """Changes to add up, not values."""
    closed: list[Row]
    """(order number,)"""
    same_id: list[Row]
    """(order number, order id) of orders that were opened or ended: who else has the id may have become a duplicate, or none."""


def opens_parts(entry: Entry) -> list[tuple[int, int]]:
    """(shard, entry) that must be in the index before this entry: a part that came is opened, and goes on where it left."""
    if _OPENED_MARK not in entry.payload:
        return []
    events = _EVENTS.decode(entry_payload(entry.schema, entry.payload))
    return [(event.source, event.seq) for event in events if isinstance(event, PartOpened) and event.seq]


class Fold:
    """Entries of one shard, collected into one batch."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.first_seq = 0
        self.after: list[tuple[int, int]] = []
        """(shard, entry) that must be in the index before this batch: see `opens_parts`."""
        self.last: Entry | None = None
        self.gaps = 0
        """Times that entries are missing between two of this batch."""
        self.entries = 0
        self._orders: dict[int, tuple[OrderPut, int, int, bool, bool]] = {}
        """Newest record by order number: event, seq, time, whether it was opened in this batch, and planned."""
        self._decisions: dict[tuple[int, int], Row] = {}
        self._items: dict[int, dict[int, None]] = {}
        """Order numbers by item."""
        self._names: dict[tuple[str, int], str] = {}
        self._movements: dict[int, list[Row]] = {}
        """By position (node << 32 | item), oldest first: to be sorted by integers, a third of them as many."""
        self._reasons: list[Row] = []
        self._closed: dict[int, None] = {}
        self._ended: dict[int, int] = {}
        """When an order had ended, by order number: the first time in this batch."""
        self._n = 0
        self._said = 0

    def add(self, entry: Entry) -> None:
        """Fold one more entry, the next there is after the last. Raises Corrupt where its payload cannot be read, Misconfigured where its
        schema is unknown."""
        try:
            payload = entry_payload(entry.schema, entry.payload)
            events: list[Any] = (_CONFIG if self.shard == CONTROL_SHARD else _EVENTS).decode(payload)
        except msgspec.MsgspecError as error:
            raise Corrupt(f"entry {entry.seq} of shard {self.shard} cannot be read: {error}") from error
        if not self.first_seq:
            self.first_seq = entry.seq
            self.after = opens_parts(entry) if self.shard != CONTROL_SHARD else []
        if self.last is not None and entry.seq != self.last.seq + 1:
            self.gaps += 1
        self.last = entry
        self.entries += 1
        self._n = self._said = 0
        for event in events:
            if type(event) is OrderPut:
                self._order(event, entry)
            else:
                handler = _HANDLERS.get(type(event))
                if handler is not None:
                    handler(self, event, entry)

    def _order(self, event: OrderPut, entry: Entry) -> None:
        order_no = event.order_no
        before = self._orders.get(order_no)
        planned = event.cause not in _STEPS
        if before is None:
            opened = event.cause in _OPENING
        else:
            opened = before[3]
            planned = planned or before[4]
            cause = before[0].cause
            if cause not in _STEPS or cause in _ENDING:
                record = decode_folded(before[0].record)
                if cause not in _STEPS:  # every version tells its own decision, however entries are cut
                    self._planned(order_no, record, before[2])
                self._note_end(order_no, record, before[2])
        self._orders[order_no] = (event, entry.seq, entry.time_ms, opened, planned)
        kind, note = CAUSE_LABELS[event.cause], event.reason[:NOTE_MAX] or None
        if note is not None:
            place = (order_no, entry.time_ms, self.shard, entry.seq, self._said)
            self._reasons.append((*place, kind, event.leg_no, note))
            self._said += 1
        if event.stock:
            stock = event.stock
            for i in range(0, len(stock), 5):
                self._move(entry, stock[i : i + 5], kind, event.slot, order_no, note)

    def _move(
        self, entry: Entry, change: tuple[int, ...], kind: str, slot: str | None, order_no: int | None, note: str | None
    ) -> None:
        node, item, on_hand, held, allocated = change
        n, time_ms = self._n, entry.time_ms
        row = (node, item, time_ms, self.shard, entry.seq, n, kind, on_hand, held, allocated, slot, order_no, note)
        self._n = n + 1
        rows = self._movements.get(node << 32 | item)
        if rows is None:
            self._movements[node << 32 | item] = [row]
        else:
            rows.append(row)

    def _moved(self, event: StockMoved, entry: Entry) -> None:
        reasons = event.reasons or [event.reason or event.order_ref] * len(event.moves)
        for (item, kind, change), reason in zip(event.moves, reasons, strict=True):
            note = reason[:NOTE_MAX] or None
            self._move(entry, (event.node, item, change, 0, 0), kind[:24], None, None, note)

    def _counted(self, event: StockCounted, entry: Entry) -> None:
        note = f"{event.source} {event.source_seq}"[:NOTE_MAX]
        for item, change in event.rows:
            self._move(entry, (event.node, item, change, 0, 0), "counted", None, None, note)

    def _held(self, event: LegHeld, entry: Entry) -> None:
        for item, units in event.lines:
            self._move(entry, (event.node, item, 0, units, 0), "leg_held", event.slot, event.order_no, None)

    def _driven(self, event: LegDriven, entry: Entry) -> None:
        kind = "leg_" + LegState(event.to).name.lower()
        stock = event.stock
        for i in range(0, len(stock), 5):
            self._move(entry, stock[i : i + 5], kind, event.slot, event.order_no, None)

    def _shifted(self, event: LegShifted, entry: Entry) -> None:
        stock = event.stock
        for i in range(0, len(stock), 5):
            self._move(entry, stock[i : i + 5], "leg_shifted", None, event.order_no, None)

    def _close(self, event: OrdersClosed, entry: Entry) -> None:
        self._closed.update(dict.fromkeys(event.order_nos))

    def _config(self, event: ConfigPut, entry: Entry) -> None:
        if event.kind in _NAMED_KINDS:
            for index, name, _, _ in event.documents:
                self._names[event.kind, index] = name

    def _note_end(self, order_no: int, record: FoldedRecord, time_ms: int) -> None:
        if record.state == _COMMITTED and record.legs and record.legs[0].state < _DELIVERED:
            return  # most orders, most of the time
        if order_no not in self._ended and has_ended(record.as_record()):
            self._ended[order_no] = time_ms

    def _planned(self, order_no: int, record: FoldedRecord, time_ms: int) -> None:
        for line in record.lines:
            having = self._items.get(line.item)
            if having is None:
                self._items[line.item] = {order_no: None}
            else:
                having[order_no] = None
        rung = RUNG_LABELS[record.rung]
        for number, at in enumerate(record.decided_at):
            if (order_no, number) not in self._decisions:
                epoch, seq, place, *said = at
                shard = said[0] if said else self.shard if number else shard_of_order_no(order_no)
                self._decisions[order_no, number] = (order_no, number, shard, epoch, seq, place, time_ms, rung)

    def changes(self) -> Changes:
        """The rows of the batch."""
        orders, replanned, legs, same_id = [], [], [], []
        shard = self.shard
        for order_no, (event, seq, time_ms, opened, planned) in self._orders.items():
            record = decode_folded(event.record)
            label, customer_id = order_label(record.as_record()), record.customer_id
            self._note_end(order_no, record, time_ms)
            ended_ms = self._ended.get(order_no, 0)
            if opened or ended_ms:
                same_id.append((order_no, record.order_id))
            orders.append(
                (
                    order_no,
                    event.slot,
                    record.order_id,
                    label,
                    record.channel,
                    customer_id,
                    0,
                    shard,
                    seq,
                    time_ms,
                    event.record,
                    ended_ms,
                )
            )
            legs += [(order_no, leg.leg_no, leg.node, LEG_LABELS[leg.state]) for leg in record.legs]
            if planned:
                if not opened:
                    replanned.append((order_no,))
                if event.cause not in _STEPS:
                    self._planned(order_no, record, time_ms)
        movements, positions = self._moves()
        return Changes(
            [(kind, index, name) for (kind, index), name in self._names.items()],
            orders,
            replanned,
            [(item, order_no) for item in sorted(self._items) for order_no in sorted(self._items[item])],
            legs,
            list(self._decisions.values()),
            movements,
            self._reasons,
            positions,
            [(order_no,) for order_no in self._closed],
            same_id,
        )

    def _moves(self) -> tuple[list[Row], list[Row]]:
        """Movements, and what they add up to at each position."""
        movements: list[Row] = []
        positions: list[Row] = []
        for position in sorted(self._movements):
            rows = self._movements[position]
            node, item, _, _, _, _, _, on_hand, held, allocated, _, _, _ = rows[0]
            if len(rows) > 1:
                for row in rows[1:]:
                    on_hand += row[_ON_HAND]
                    held += row[_ON_HAND + 1]
                    allocated += row[_ON_HAND + 2]
            movements += rows
            positions.append((node, item, on_hand, held, allocated))
        return movements, positions


_HANDLERS: dict[type, Any] = {
    StockMoved: Fold._moved,
    StockCounted: Fold._counted,
    LegHeld: Fold._held,
    LegDriven: Fold._driven,
    LegShifted: Fold._shifted,
    OrdersClosed: Fold._close,
    ConfigPut: Fold._config,
}
"""The other events move no units and change no order."""
