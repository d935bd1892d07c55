"""What a journal entry tells the live stream. Pure: the same events, in the same order, whenever an entry is folded.

The place of an event within its entry is part of cursors that clients keep, so an entry never tells other events, or the same ones in
another order: new kinds of events go to the end of an entry's events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from engine.domain.catalog import Catalog
from engine.domain.events import (
    Cause,
    ConfigPut,
    Event,
    LegDriven,
    LegHeld,
    LegShifted,
    OrderPut,
    PositionSet,
    StockCounted,
    StockMoved,
)
from engine.domain.ids import OrderRef, public_id
from engine.domain.labels import LEG_LABELS, order_label
from engine.domain.orders import OrderState, decode_record
from engine.domain.placement import CONTROL_SHARD
from engine.journal.port import Corrupt, Entry
from engine.journal.upgrade import entry_payload
from gateway.times import iso

_EVENTS = msgspec.msgpack.Decoder(list[Event])
_CONFIG = msgspec.msgpack.Decoder(list[ConfigPut])
_SECRET_KINDS = ("key", "secret")
CHANGES_MAX = 500
"""Positions in one `stock.changed`; an entry that touches more of a node tells several."""
GROUPS = {"order": "allocate:read", "leg": "legs:read", "stock": "inventory:read", "config": "config:read"}
"""Kinds of events, and the scope that each needs."""
_LEG_CAUSES = {
    Cause.LEG_RELEASED: "leg.released",
    Cause.LEG_ACCEPTED: "leg.accepted",
    Cause.LEG_PICKED: "leg.picked",
    Cause.LEG_SHIPPED: "leg.shipped",
    Cause.LEG_DELIVERED: "leg.delivered",
    Cause.LEG_REJECTED: "leg.rejected",
    Cause.LEG_OVERDUE: "leg.overdue",
    Cause.NOT_ACCEPTED: "leg.not_accepted",
    Cause.DELIVERY_ASSUMED: "leg.delivery_assumed",
}
_TYPE_OF_CAUSE = {
    int(cause): _LEG_CAUSES.get(cause, "order." + cause.name.lower()) for cause in Cause if cause != Cause.REPEATED
}
"""Of every cause that changes something."""
TYPES = (*_TYPE_OF_CAUSE.values(), "stock.changed", "stock.settings_changed", "config.changed")
"""Every `event:` of the stream but `hello` and `gap`."""


class LegNow(msgspec.Struct, gc=False):
    leg_id: str
    node_id: str
    state: str


class OrderTold(msgspec.Struct, gc=False):
    """An order's record changed: `order.*` and `leg.*`."""

    type: str
    at: str | None
    token: str
    order_id: str
    reservation_id: str
    allocation_id: str | None
    channel: str
    state: str
    version: int
    legs: list[LegNow]
    units_waiting: int
    reason: str | None


class StockChange(msgspec.Struct, gc=False):
    """Changes of one position, to add up."""

    sku: str
    on_hand: int
    held: int
    allocated: int


class StockTold(msgspec.Struct, gc=False):
    """Units of one node moved."""

    type: str
    at: str | None
    token: str
    node_id: str
    changes: list[StockChange]


class SettingsTold(msgspec.Struct, gc=False):
    """Safety stock or supply mode of positions of a node were set."""

    type: str
    at: str | None
    token: str
    node_id: str
    skus: list[str]


class ConfigTold(msgspec.Struct, gc=False):
    """A document of the configuration changed; it is read at its own address."""

    type: str
    at: str | None
    token: str
    kind: str
    name: str
    version: int


class Told(NamedTuple):
    """One event, and what filters and limits of keys look at."""

    type: str
    group: str
    channel: str | None
    """None = of no channel in particular."""
    nodes: tuple[str, ...]
    data: bytes
    """JSON."""


def decode(shard: int, entry: Entry) -> list[Any]:
    """The entry's journal events. Raises Corrupt, Misconfigured."""
    try:
        payload = entry_payload(entry.schema, entry.payload)
        found: list[Any] = (_CONFIG if shard == CONTROL_SHARD else _EVENTS).decode(payload)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"entry {entry.seq} of shard {shard} cannot be read: {error}") from error
    return found


def items_of(events: Iterable[Any]) -> set[int]:
    """Indexes of all items that the events name."""
    sums, settings = _stock(events)
    return {item for rows in sums.values() for item in rows} | {item for rows in settings.values() for item in rows}


def tell(
    shard: int, entry: Entry, events: Iterable[Any], catalog: Catalog, sku_of: Callable[[int], str]
) -> tuple[Told, ...]:
    """What an entry tells: its orders, then stock by node, then settings, then configuration."""
    events = list(events)
    token, at = f"{shard}:{entry.epoch}:{entry.seq}", iso(entry.time_ms)
    found = [
        _order(event, token, at, catalog)
        for event in events
        if type(event) is OrderPut and event.cause != Cause.REPEATED
    ]
    sums, settings = _stock(events)
    for node, rows in sums.items():
        node_id = catalog.node_id(node)
        changed = [StockChange(sku_of(item), *row) for item, row in rows.items() if any(row)]
        for start in range(0, len(changed), CHANGES_MAX):
            part = StockTold("stock.changed", at, token, node_id, changed[start : start + CHANGES_MAX])
            found.append(Told(part.type, "stock", None, (node_id,), msgspec.json.encode(part)))
    for node, items in settings.items():
        node_id, skus = catalog.node_id(node), [sku_of(item) for item in items]
        for start in range(0, len(skus), CHANGES_MAX):
            set_ = SettingsTold("stock.settings_changed", at, token, node_id, skus[start : start + CHANGES_MAX])
            found.append(Told(set_.type, "stock", None, (node_id,), msgspec.json.encode(set_)))
    for event in events:
        if type(event) is ConfigPut and event.kind not in _SECRET_KINDS:
            for _, name, version, _ in event.documents:
                told = ConfigTold("config.changed", at, token, event.kind, name, version)
                nodes = (name,) if event.kind == "node" else ()
                found.append(Told(told.type, "config", None, nodes, msgspec.json.encode(told)))
    return tuple(found)


def _order(event: OrderPut, token: str, at: str | None, catalog: Catalog) -> Told:
    record, ref = decode_record(event.record), OrderRef(event.slot, event.order_no)
    type_ = _TYPE_OF_CAUSE.get(event.cause, "order.changed")
    channel = catalog.channels[record.channel] if record.channel < len(catalog.channels) else None
    channel_id = channel.channel_id if channel is not None else ""
    legs = [
        LegNow(public_id("leg", ref, leg.leg_no), catalog.node_id(leg.node), LEG_LABELS[leg.state])
        for leg in record.legs
    ]
    told = OrderTold(
        type_,
        at,
        token,
        record.order_id,
        public_id("res", ref),
        public_id("alc", ref) if record.state == OrderState.COMMITTED else None,
        channel_id,
        order_label(record),
        record.version,
        legs,
        sum(demand.quantity for demand in record.demand),
        event.reason or None,
    )
    nodes = tuple({leg.node_id: None for leg in legs})
    return Told(type_, type_.partition(".")[0], channel_id, nodes, msgspec.json.encode(told))


def _stock(events: Iterable[Any]) -> tuple[dict[int, dict[int, list[int]]], dict[int, dict[int, None]]]:
    """(changes of on hand, held and allocated by node and item, items whose settings changed by node)"""
    sums: dict[int, dict[int, list[int]]] = {}
    settings: dict[int, dict[int, None]] = {}

    def add(node: int, item: int, on_hand: int, held: int, allocated: int) -> None:
        row = sums.setdefault(node, {}).setdefault(item, [0, 0, 0])
        row[0] += on_hand
        row[1] += held
        row[2] += allocated

    for event in events:
        kind = type(event)
        if kind is OrderPut or kind is LegDriven or kind is LegShifted:
            stock = event.stock
            for i in range(0, len(stock), 5):
                add(*stock[i : i + 5])
        elif kind is LegHeld:
            for item, units in event.lines:
                add(event.node, item, 0, units, 0)
        elif kind is StockMoved:
            for item, _, change in event.moves:
                add(event.node, item, change, 0, 0)
        elif kind is StockCounted:
            for item, change in event.rows:
                add(event.node, item, change, 0, 0)
        elif kind is PositionSet:
            settings.setdefault(event.node, {}).update(dict.fromkeys([row[0] for row in event.rows]))
    return sums, settings
