"""Why a number differs: the newest entries that touched it, read from the journal a second time."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec

from engine.verify.layouts import position_key
from engine.verify.pages import JournalEntry, Key

CAUSES_KEPT = 5
_INBOUND_SET = 37
_CAUSES = (
    "reserved", "allocated", "committed", "released", "expired", "extended", "cancelled", "leg released", "leg accepted",
    "leg picked", "leg shipped", "leg delivered", "leg rejected", "planned again", "demand cancelled", "demand expired",
    "prioritised", "re-sourced", "holds cleared",
)  # fmt: skip
_LATER_CAUSES = {
    33: "edited",
    34: "not accepted",
    36: "leg overdue",
    37: "duplicate order",
    38: "delivery assumed",
    39: "repeated",
}
_decode = msgspec.msgpack.Decoder().decode


class Cause(NamedTuple):
    """One event of one entry, in words."""

    seq: int
    time_ms: int
    text: str


async def newest_causes(entries: AsyncIterator[JournalEntry], wanted: set[Key]) -> dict[Key, list[Cause]]:
    """The newest events that touched each wanted position key, order number, foreign leg or inbound record; newest first."""
    found: dict[Key, deque[Cause]] = {key: deque(maxlen=CAUSES_KEPT) for key in wanted}
    async for entry in entries:
        for event in _decode(entry.payload):
            for key, text in _mentions(event):
                if key in found:
                    found[key].append(Cause(entry.seq, entry.time_ms, text))
    return {key: list(reversed(causes)) for key, causes in found.items()}


def _mentions(event: list[Any]) -> list[tuple[Key, str]]:
    """(key, what the event did to it) of everything an event names."""
    kind = event[0]
    if kind == 1:
        cause, slot, order_no, _record, stock = event[1:6]
        label = _CAUSES[cause] if cause < len(_CAUSES) else _LATER_CAUSES.get(cause, f"cause {cause}")
        why = event[9] if len(event) > 9 else ""
        order = f"order {order_no} ({slot}) {label}{f', {why}' if why else ''}"
        return [(order_no, order), *_stock(stock, order)]
    if kind == 2:
        node, moves, reason = event[1:4]
        reasons = (event[7] if len(event) > 7 else ()) or [reason] * len(moves)
        return [
            (position_key(item, node), f"{movement} {change:+d}{f', {why}' if why else ''}")
            for (item, movement, change), why in zip(moves, reasons, strict=True)
        ]
    if kind == 3:
        node, source, source_seq, _as_of, scope, rows = event[1:7]
        text = f"count {source} {source_seq} ({scope})"
        return [(position_key(item, node), f"{text}: on hand {change:+d}") for item, change in rows]
    if kind == 4:
        node, rows = event[1:3]
        return [(position_key(item, node), f"safety set to {safety}") for item, safety, *_ in rows]
    if kind == _INBOUND_SET:
        node, rows = event[1:3]
        return [((node, inbound_id), f"{units} expected at {at_ms} ms") for inbound_id, _item, units, at_ms in rows]
    if kind == 5:
        home, _txn, _slot, order_no, leg_no, node, _day, _capacity, lines = event[1:10]
        text = f"leg {leg_no} of order {order_no} held for shard {home}"
        keys = [(position_key(item, node), f"{text}: held {units:+d}") for item, units in lines]
        return [((node, order_no, leg_no), text), *keys]
    if kind == 6:
        _slot, order_no, leg_no, node, to, _lines, stock = event[1:8]
        text = f"leg {leg_no} of order {order_no} brought to state {to}"
        return [((node, order_no, leg_no), text), *_stock(stock, text)]
    return []


def _stock(stock: list[int], text: str) -> list[tuple[Key, str]]:
    found: list[tuple[Key, str]] = []
    for i in range(0, len(stock), 5):
        node, item, *changes = stock[i : i + 5]
        numbers = ", ".join(
            f"{name} {change:+d}"
            for name, change in zip(("on hand", "held", "allocated"), changes, strict=True)
            if change
        )
        found.append((position_key(item, node), f"{text}: {numbers}"))
    return found
