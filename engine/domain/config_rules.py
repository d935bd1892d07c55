"""What a configuration document must satisfy beyond its type: lengths that belong together, references, and what must not change.

Each rule takes the decoded document and yields faults as (JSON pointer into the document, sentence). Pure but for the time zone
database, which is read by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import date
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from engine.domain.config import Carrier, Channel, Document, Item, Node, Placement
from engine.domain.config_state import ConfigState
from engine.domain.placement import shard_of_node

Fault = tuple[str, str]
METHOD_TAGS = ("ship", "pickup", "ship_to_store")
_SLOT = re.compile(r"[A-Z]{2}[0-9A-Z]{0,3}")
_DEFAULT_PLACEMENT = Placement(shard_count=1)
_PATH = re.compile(r" - at `(?:key in )?\$?([^`]*)`$")
_FIELD = re.compile(r"(?:missing required|unknown) field `([^`]*)`")


def escape(name: str) -> str:
    """A name as a token of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def fault_of(error: msgspec.MsgspecError) -> Fault:
    """A decoder's complaint as a pointer into the document and a sentence."""
    text = str(error)
    found = _PATH.search(text)
    pointer = ""
    if found:
        text = text[: found.start()]
        for name, index in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", found.group(1)):
            pointer += "/" + (escape(name) if name else ("*" if index == "..." else index))
    field = _FIELD.search(text)
    if field:
        pointer += "/" + escape(field.group(1))
    return pointer, text[0].lower() + text[1:]


def faults(state: ConfigState, kind: str, document: Document, batch: dict[str, Document]) -> Iterator[Fault]:
    """Everything wrong with a document, given what is stored and what else the same command puts (by name)."""
    rule = _RULES.get(kind)
    if rule is not None:
        yield from rule(state, document, batch)


def _item(state: ConfigState, item: Item, batch: dict[str, Document]) -> Iterator[Fault]:
    if not item.components:
        return
    if state.used_in.get(item.sku, 0) or any(
        c.sku == item.sku for other in batch.values() if isinstance(other, Item) for c in other.components
    ):
        yield "/components", f"{item.sku} is itself a component: a kit holds no kits"
    seen: dict[str, None] = {}
    for n, component in enumerate(item.components):
        pointer = f"/components/{n}/sku"
        other = batch.get(component.sku)
        if component.sku in seen:
            yield pointer, f"{component.sku} is listed twice"
        elif other is None and component.sku not in state.kinds["item"].index_of:
            yield pointer, f"no item {component.sku!r}"
        elif (isinstance(other, Item) and other.components) or (other is None and component.sku in state.kits):
            yield pointer, f"{component.sku} is a kit: a kit holds no kits"
        seen[component.sku] = None


def _node(state: ConfigState, node: Node, batch: dict[str, Document]) -> Iterator[Fault]:
    try:
        ZoneInfo(node.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: the name of a folder of the database
        yield "/time_zone", f"no time zone {node.time_zone!r}"
    for n, day in enumerate(node.holidays):
        if not _is_day(day):
            yield f"/holidays/{n}", f"{day} is not a day"
    if len(set(node.working_days)) != len(node.working_days):
        yield "/working_days", "a day is listed twice"
    if len(set(node.pickup_days or ())) != len(node.pickup_days or ()):
        yield "/pickup_days", "a day is listed twice"
    if node.pickup_opens >= node.pickup_closes:
        yield "/pickup_closes", f"closes at {node.pickup_closes}, which is not after {node.pickup_opens}"
    for n, channel in enumerate(node.channels or ()):
        if channel not in state.kinds["channel"].index_of:
            yield f"/channels/{n}", f"no channel {channel!r}"
    for method in node.safety_by_method:
        if method not in METHOD_TAGS:
            yield f"/safety_by_method/{escape(method)}", f"one of {', '.join(METHOD_TAGS)}"
    stored = state.kinds["node"].get(node.node_id)
    if stored is not None:
        old = msgspec.json.decode(stored.document, type=Node)
        placement = _placement_of(state)
        if shard_of_node(placement, old) != shard_of_node(placement, node):
            yield "/postal_code", "this place belongs to another shard, and a node with stock is not moved by an edit"


def _channel(state: ConfigState, channel: Channel, batch: dict[str, Document]) -> Iterator[Fault]:
    if (channel.demand_centre.lat is None) != (channel.demand_centre.lon is None):
        yield "/demand_centre", "lat and lon go together"


def _carrier(state: ConfigState, carrier: Carrier, batch: dict[str, Document]) -> Iterator[Fault]:
    ids = [service.service_id for service in carrier.services]
    for n, service in enumerate(carrier.services):
        at = f"/services/{n}"
        zones = len(service.band_km)
        if ids.index(service.service_id) != n:
            yield f"{at}/service_id", f"{service.service_id} is listed twice"
        if not _ascends(service.band_km):
            yield f"{at}/band_km", "bands ascend"
        if len(service.transit_days) != zones:
            yield f"{at}/transit_days", f"{len(service.transit_days)} values for {zones} bands"
        days: dict[str, None] = {}
        for c, card in enumerate(service.cards):
            on = f"{at}/cards/{c}"
            if not _is_day(card.effective_from):
                yield f"{on}/effective_from", f"{card.effective_from} is not a day"
            if card.effective_from in days:
                yield f"{on}/effective_from", f"another card is effective from {card.effective_from}"
            days[card.effective_from] = None
            if not _ascends(card.break_g):
                yield f"{on}/break_g", "weight breaks ascend"
            if len(card.price_minor) != zones:
                yield f"{on}/price_minor", f"{len(card.price_minor)} rows for {zones} bands"
            for z, row in enumerate(card.price_minor):
                if len(row) != len(card.break_g):
                    yield f"{on}/price_minor/{z}", f"{len(row)} prices for {len(card.break_g)} weight breaks"
    stored = state.kinds["carrier"].get(carrier.carrier_id)
    if stored is not None:
        old = [service.service_id for service in msgspec.json.decode(stored.document, type=Carrier).services]
        if ids[: len(old)] != old:
            yield "/services", f"services keep their places, new ones come last: {', '.join(old)}"


def _placement(state: ConfigState, placement: Placement, batch: dict[str, Document]) -> Iterator[Fault]:
    nodes = state.kinds["node"]
    for name, shard in placement.nodes.items():
        if name not in nodes.index_of:
            yield f"/nodes/{escape(name)}", f"no node {name!r}"
        if not 0 <= shard < placement.shard_count:
            yield f"/nodes/{escape(name)}", f"there is no shard {shard}"
    for slot, shard in placement.slots.items():
        if not _SLOT.fullmatch(slot):
            yield f"/slots/{escape(slot)}", "a slot is a country and up to three characters"
        if not 0 <= shard < placement.shard_count:
            yield f"/slots/{escape(slot)}", f"there is no shard {shard}"
    stored = state.kinds["placement"].get("")
    if stored is None:
        return
    old = msgspec.json.decode(stored.document, type=Placement)
    for name in ("bands", "band_owner", "moving", "joining", "ended"):
        if getattr(old, name) != getattr(placement, name):
            yield f"/{name}", "changed by `quartermaster shards`, not by an edit"
    if old.shard_count != placement.shard_count:
        yield "/shard_count", f"{old.shard_count} shards hold stock and orders; changing their number needs moves"
        return
    for slot in {**old.slots, **placement.slots}:
        if old.slots.get(slot) != placement.slots.get(slot):
            yield f"/slots/{escape(slot)}", "a slot with orders is not moved by an edit"
    for doc in nodes.docs:
        if doc is None:
            continue
        node = msgspec.json.decode(doc.document, type=Node)
        if shard_of_node(old, node) != shard_of_node(placement, node):
            yield f"/nodes/{escape(doc.name)}", "a node with stock is not moved by an edit"


_RULES: dict[str, Callable[[ConfigState, Any, dict[str, Document]], Iterator[Fault]]] = {
    "item": _item,
    "node": _node,
    "channel": _channel,
    "carrier": _carrier,
    "placement": _placement,
}


def _placement_of(state: ConfigState) -> Placement:
    stored = state.kinds["placement"].get("")
    return msgspec.json.decode(stored.document, type=Placement) if stored is not None else _DEFAULT_PLACEMENT


def _ascends(values: list[int]) -> bool:
    return all(a < b for a, b in pairwise(values))


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
