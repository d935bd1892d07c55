"""Where each kind of configuration document lives, and a document with its version."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from quartermaster_client.models_config import Carrier, Channel, Item, Node

Document: TypeAlias = Item | Node | Channel | Carrier
T = TypeVar("T")


class Place(NamedTuple):
    path: str
    key: str


DOCUMENTS: dict[Any, Place] = {
    Item: Place("items", "sku"),
    Node: Place("nodes", "node_id"),
    Channel: Place("channels", "channel_id"),
    Carrier: Place("carriers", "carrier_id"),
}


class Stored(NamedTuple, Generic[T]):
    """A document as the engine has it; `version` goes into `if_version` of the put that replaces it."""

    document: T
    version: int
    created: bool
