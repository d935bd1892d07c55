"""Quartermaster's own CSV files: items, nodes, stock and orders. `docs/how-to/import.md` lists their columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from engine.cli.formats.table import (
    BadRow,
    BadValue,
    Row,
    decimal,
    flag,
    integer,
    optional_integer,
    read_table,
    typed,
    words,
)
from engine.cli.formats.us_zip import find_zip
from engine.domain.config import Item, Node
from engine.domain.config_rules import fault_of

UNITS_MAX = 1_000_000_000
ITEM_COLUMNS = ("sku",)
NODE_COLUMNS = ("node_id", "postal_code")
STOCK_COLUMNS = ("node_id", "sku", "quantity")
ORDER_COLUMNS = ("order_id", "sku", "quantity")
_NODE_TEXTS = ("name", "kind", "country", "region", "time_zone", "cut_off", "state", "pickup_opens", "pickup_closes")
_NODE_NUMBERS = (
    *("processing_minutes", "handling_line_minor", "handling_unit_minor", "surcharge_minor", "pickup_ready_minutes"),
    "acceptance_deadline_s",
)
_NODE_LISTS = ("offers", "channels", "holidays", "waves")
_ORDER_FIELDS = ("channel", "service", "placed_at", "customer_id", "currency", "on_short")
_SHIP_TO_FIELDS = ("country", "postal_code", "region")


class DocumentRow(NamedTuple):
    """One configuration document, as the API takes it."""

    line: int
    name: str
    document: dict[str, Any]


class StockRow(NamedTuple):
    line: int
    node_id: str
    sku: str
    quantity: int
    safety: int | None
    as_of: datetime | None = None
    """When it was counted; None = the file does not say."""


class OrderRow(NamedTuple):
    """One order in the API's shape; `line` is where it begins."""

    line: int
    order_id: str
    body: dict[str, Any]


def read_items(path: Path) -> Iterator[DocumentRow | BadRow]:
    """Items. `components` is `SKU:units;SKU:units`, `tags` are separated by semicolons."""
    aliases = {"unit_value_minor": ("unit_value", "value_minor"), "weight_g": ("grams",)}
    return typed(read_table(path, required=ITEM_COLUMNS, aliases=aliases), _item)


def _item(line: int, row: Row) -> DocumentRow:
    document: dict[str, Any] = {"sku": row["sku"]}
    for name in ("name", "category"):
        if row.get(name):
            document[name] = row[name]
    for name in ("weight_g", "length_mm", "width_mm", "height_mm", "unit_value_minor", "margin_bp"):
        value = optional_integer(row, name)
        if value is not None:
            document[name] = value
    if row.get("ship_alone"):
        document["ship_alone"] = flag(row, "ship_alone", default=False)
    if row.get("tracked"):
        document["tracked"] = flag(row, "tracked", default=True)
    if row.get("tags"):
        document["tags"] = words(row, "tags")
    if row.get("components"):
        document["components"] = [_component(word) for word in words(row, "components")]
    return _checked(line, document, Item, "sku")


def _component(word: str) -> dict[str, Any]:
    sku, _, units = word.rpartition(":")
    if not sku or not units.isdigit():
        raise BadValue(f"component {word!r}, expected SKU:units")
    return {"sku": sku, "quantity": int(units)}


def read_nodes(path: Path) -> Iterator[DocumentRow | BadRow]:
    """Nodes. Coordinates and time zone of a US node may be left out: they follow from its ZIP code."""
    aliases = {"lat": ("latitude",), "lon": ("longitude", "long", "lng"), "postal_code": ("zip", "zipcode", "postcode")}
    return typed(read_table(path, required=NODE_COLUMNS, aliases=aliases), _node)


def _node(line: int, row: Row) -> DocumentRow:
    document: dict[str, Any] = {"node_id": row["node_id"], "postal_code": row["postal_code"]}
    for name in _NODE_TEXTS:
        if row.get(name):
            document[name] = row[name]
    for name in _NODE_NUMBERS:
        value = optional_integer(row, name)
        if value is not None:
            document[name] = value
    for name in _NODE_LISTS:
        if row.get(name):
            document[name] = words(row, name)
    for name in ("working_days", "pickup_days"):
        if row.get(name):
            document[name] = [integer({name: word}, name) for word in words(row, name)]
    if row.get("capacity_per_day"):
        document["capacity"] = {"per_day": integer(row, "capacity_per_day")}
    if row.get("lat") or row.get("lon"):
        document["lat"], document["lon"] = decimal(row, "lat"), decimal(row, "lon")
    if document.get("country", "US") == "US":
        _complete(document)
    if "lat" not in document:
        raise BadValue("lat and lon are missing, and the postal code does not tell them")
    return _checked(line, document, Node, "node_id")


def _complete(document: dict[str, Any]) -> None:
    """What the ZIP code says and the row does not."""
    place = find_zip(document["postal_code"])
    if place is None:
        return
    document.setdefault("region", place.region)
    document.setdefault("time_zone", place.time_zone)
    if "lat" not in document:
        document["lat"], document["lon"] = place.lat, place.lon


_WORDS = {"`int`": "a whole number", "`float`": "a number", "`str`": "text", "`bool`": "true or false"}
_REGEX = re.compile(r" matching regex .*", re.S)


def _plain(error: msgspec.ValidationError) -> str:
    """The field and its rule: "weight_g: expected a whole number >= 0"."""
    pointer, rule = fault_of(error)
    for word, plain in _WORDS.items():
        rule = rule.replace(word, plain)
    return f"{pointer.strip('/').replace('/', '.')}: {_REGEX.sub(' of the form that the API reference gives', rule)}"


def _checked(line: int, document: dict[str, Any], kind: type[Item] | type[Node], name: str) -> DocumentRow:
    """The document once it converts to its type; otherwise the field that does not."""
    try:
        msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise BadValue(_plain(error)) from error
    return DocumentRow(line, document[name], document)


def read_stock(path: Path) -> Iterator[StockRow | BadRow]:
    """Counts: units on the shelf by node and SKU; `safety` and `as_of` are optional."""
    aliases = {"quantity": ("units", "qty", "on_hand")}
    return typed(read_table(path, required=STOCK_COLUMNS, aliases=aliases), _stock)


def _stock(line: int, row: Row) -> StockRow:
    quantity = integer(row, "quantity")
    safety = optional_integer(row, "safety")
    for name, value in (("quantity", quantity), ("safety", safety or 0)):
        if not 0 <= value <= UNITS_MAX:
            raise BadValue(f"{name} is {value}, expected 0 to {UNITS_MAX}")
    for name in ("node_id", "sku"):
        if not row[name]:
            raise BadValue(f"{name} is empty")
    return StockRow(
        line, row["node_id"], row["sku"], quantity, safety, instant(row["as_of"]) if row.get("as_of") else None
    )


def instant(text: str) -> datetime:
    """An instant with its offset from UTC, as ISO 8601 has it. Raises BadValue."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadValue(f"as_of is {text!r}, expected an instant like 2026-12-01T18:00:00Z") from error
    if found.tzinfo is None:
        raise BadValue(f"as_of is {text!r}: say the offset from UTC, Z for none")
    return found


def read_orders(path: Path) -> Iterator[OrderRow | BadRow]:
    """Orders, one row a line; rows of an order follow each other. Its own fields are taken from its first row.

    A bad row takes its whole order out: half an order is not what was asked for.
    """
    body: dict[str, Any] = {}
    first, broken = 0, False
    for row in read_table(path, required=ORDER_COLUMNS):
        if isinstance(row, BadRow):
            yield row
            broken = True
            continue
        line, values = row
        if not body or values["order_id"] != body["order_id"]:
            if body and not broken:
                yield OrderRow(first, body["order_id"], body)
            elif body:
                yield BadRow(first, f"order {body['order_id']} left out: a line of it cannot be read")
            body, first, broken = _order_head(values), line, False
        try:
            body["lines"].append(_order_line(values, len(body["lines"]) + 1))
            if not values["order_id"]:
                raise BadValue("order_id is empty")
        except BadValue as error:
            yield BadRow(line, str(error))
            broken = True
    if body and not broken:
        yield OrderRow(first, body["order_id"], body)
    elif body:
        yield BadRow(first, f"order {body['order_id']} left out: a line of it cannot be read")


def _order_head(row: Row) -> dict[str, Any]:
    body: dict[str, Any] = {"order_id": row["order_id"], "channel": row.get("channel") or "web"}
    body |= {name: row[name] for name in _ORDER_FIELDS if row.get(name)}
    if row.get("priority", "").isdigit():
        body["priority"] = int(row["priority"])
    ship_to = {name: row[name] for name in _SHIP_TO_FIELDS if row.get(name)}
    if ship_to.get("postal_code"):
        body["ship_to"] = {"country": "US", **ship_to}
    body["lines"] = []
    return body


def _order_line(row: Row, number: int) -> dict[str, Any]:
    quantity = integer(row, "quantity")
    if not 1 <= quantity <= UNITS_MAX:
        raise BadValue(f"quantity is {quantity}, expected 1 to {UNITS_MAX}")
    if not row["sku"]:
        raise BadValue("sku is empty")
    line: dict[str, Any] = {"line_id": row.get("line_id") or str(number), "sku": row["sku"], "quantity": quantity}
    price = optional_integer(row, "unit_price_minor")
    if price is not None:
        line["unit_price_minor"] = price
    for name in ("method", "pickup_node_id", "group"):
        if row.get(name):
            line[name] = row[name]
    return line
