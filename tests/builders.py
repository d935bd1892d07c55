"""One builder per concept. Every argument has a default that makes a valid thing; a test states only what it is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from engine.domain.catalog import Catalog
from engine.domain.commands import PlaceOrder
from engine.domain.config import (
    KEY_FIELD,
    Carrier,
    CarrierService,
    Channel,
    Component,
    Document,
    Item,
    Node,
    NodeCapacity,
    Place,
    Placement,
    RateCard,
)
from engine.domain.orders import Destination, LineRequest, OrderRequest
from engine.domain.replies import ConfigDoc

NOW_MS = 1_790_000_000_000
"""A fixed instant of the tests, September 2026."""
KIND_OF = {Item: "item", Node: "node", Channel: "channel", Carrier: "carrier", Placement: "placement"}


def an_item(sku: str = "SKU-1", *, components: dict[str, int] | None = None, **fields: Any) -> Item:
    parts = [Component(sku=name, quantity=units) for name, units in (components or {}).items()]
    return Item(sku=sku, components=parts, **fields)


def a_node(
    node_id: str = "N-1", *, postal_code: str = "10001", capacity: NodeCapacity | None = None, **fields: Any
) -> Node:
    fields.setdefault("lat", 40.75)
    fields.setdefault("lon", -73.99)
    return Node(node_id=node_id, postal_code=postal_code, capacity=capacity, **fields)


def a_channel(channel_id: str = "web", **fields: Any) -> Channel:
    fields.setdefault("demand_centre", Place(postal_code="10001"))
    return Channel(channel_id=channel_id, **fields)


def a_service(service_id: str = "ground", **fields: Any) -> CarrierService:
    fields.setdefault("band_km", [500, 8_000])
    fields.setdefault("transit_days", [1, 4])
    fields.setdefault("cards", [RateCard(break_g=[1_000, 30_000], price_minor=[[500, 900], [800, 1_500]])])
    return CarrierService(service_id=service_id, **fields)


def a_carrier(carrier_id: str = "acme", **fields: Any) -> Carrier:
    fields.setdefault("services", [a_service()])
    return Carrier(carrier_id=carrier_id, **fields)


def as_docs(documents: Iterable[Document], *, first_version: int = 1) -> list[ConfigDoc]:
    """Documents as the control shard would push them: indexes by kind in order, a version each."""
    docs: list[ConfigDoc] = []
    counts: dict[str, int] = {}
    for n, document in enumerate(documents):
        kind = KIND_OF[type(document)]
        index = counts.get(kind, 0)
        counts[kind] = index + 1
        name = str(getattr(document, KEY_FIELD[kind])) if KEY_FIELD[kind] else ""
        docs.append(ConfigDoc(kind, name, index, first_version + n, msgspec.json.encode(document)))
    return docs


def a_network(
    *, nodes: Sequence[Node] | int = 3, items: Sequence[Item] | int = 3, shards: int = 1, channel: Channel | None = None
) -> list[Document]:
    """A placement, a channel, a carrier, items and nodes; counts stand for that many plain ones.

    Plain nodes lie in turn in the regions of the shards, so that node n belongs to shard n % shards.
    """
    if isinstance(nodes, int):
        nodes = [
            a_node(f"N-{n}", postal_code=f"{(n % shards) * 1_000 // shards + 10:03d}01", lat=40.0 + n, lon=-74.0 - n)
            for n in range(nodes)
        ]
    if isinstance(items, int):
        items = [an_item(f"SKU-{n}", weight_g=500) for n in range(items)]
    return [Placement(shard_count=shards), channel or a_channel(), a_carrier(), *items, *nodes]


def a_catalog(shard: int = 0, documents: Sequence[Document] | None = None, **network: Any) -> Catalog:
    catalog = Catalog(shard)
    docs = as_docs(documents if documents is not None else a_network(**network))
    catalog.apply(docs, len(docs))
    return catalog


def a_line(sku: str = "SKU-0", quantity: int = 1, *, line_id: str = "1", **fields: Any) -> LineRequest:
    return LineRequest(line_id=line_id, sku=sku, quantity=quantity, **fields)


def a_destination(postal_code: str = "10001", **fields: Any) -> Destination:
    fields.setdefault("country", "US")
    return Destination(postal_code=postal_code, **fields)


def an_order(
    order_id: str = "A-1", lines: Sequence[LineRequest] | dict[str, int] | None = None, **fields: Any
) -> OrderRequest:
    """`lines` may be units by SKU: line ids are then 1, 2, 3..."""
    if lines is None:
        lines = [a_line()]
    elif isinstance(lines, dict):
        lines = [a_line(sku, units, line_id=str(n + 1)) for n, (sku, units) in enumerate(lines.items())]
    fields.setdefault("ship_to", a_destination())
    fields.setdefault("channel", "web")
    fields.setdefault("service", "standard")
    return OrderRequest(order_id=order_id, lines=tuple(lines), **fields)


def a_place(order: OrderRequest | None = None, *, ttl_s: int = 0, key: int = 0, **fields: Any) -> PlaceOrder:
    fields.setdefault("fingerprint", key * 7 + 1 if key else 0)
    return PlaceOrder(order or an_order(), ttl_s, key, **fields)
