"""The configuration as a shard sees it: documents by index, names to indexes, owners of nodes and slots.

Indexes come from the control shard and never change. A carrier service is known by `carrier index * 64 + its place in the
carrier's document`, so that an old leg still names its service after other carriers came or went.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from engine.domain.config import KINDS, ApiKey, Carrier, Channel, Item, Node, Placement, Secret
from engine.domain.placement import band_of_slot, shard_of_node, shard_of_slot
from engine.domain.replies import ConfigDoc

SERVICES_PER_CARRIER = 64
SLOTS_REMEMBERED = 65_536
_DECODERS = {kind: msgspec.json.Decoder(cls) for kind, cls in KINDS.items()}


class Catalog:
    """Documents by index; `None` marks an index that this shard has not heard of. `version` = newest change applied."""

    def __init__(self, shard: int = 0) -> None:
        self.shard = shard
        self.version = 0
        self.point = (0, 0)
        """(epoch, seq) of the control shard that this contains at least."""
        self.items: list[Item | None] = []
        self.nodes: list[Node | None] = []
        self.channels: list[Channel | None] = []
        self.carriers: list[Carrier | None] = []
        self.item_of: dict[str, int] = {}
        self.node_of: dict[str, int] = {}
        self.channel_of: dict[str, int] = {}
        self.carrier_of: dict[str, int] = {}
        self.keys: dict[str, ApiKey] = {}
        self.secrets: dict[str, bytes] = {}
        """What this deployment's processes share, by name."""
        self.placement = Placement(shard_count=1)
        self.owner: list[int] = []
        """Owner shard by node index."""
        self._slot_owner: dict[str, int] = {}
        """The map's answers for slots that were asked for."""
        self.away: dict[str, tuple[int, tuple[str, ...]]] = {}
        """Parts that are not this shard's at the moment, whatever the map says: (the other shard, of a band the slots that stay)."""
        self.levels: frozenset[str] = frozenset()
        """Service levels that some carrier serves."""
        self.levels_in: dict[str, frozenset[str]] = {}
        """Of them, those that have a rate card in a currency."""
        self.network_version = 0
        """Version of the newest change that planning depends on (nodes, channels, carriers, placement)."""
        self.items_version = 0
        self.plain_of: dict[str, int] = {}
        """Index by SKU of items that are tracked and no kits: what most lines name."""
        self._service_names: dict[int, tuple[str, str]] = {}

    def apply(self, docs: Iterable[ConfigDoc], version: int) -> None:
        """Take changed documents (in version order) and the version they bring this catalogue to."""
        owners_changed = False
        for doc in docs:
            decoded = _DECODERS[doc.kind].decode(doc.document)
            if isinstance(decoded, Item):
                _put(self.items, doc.index, decoded)
                self.item_of[decoded.sku] = doc.index
                if decoded.tracked and not decoded.components:
                    self.plain_of[decoded.sku] = doc.index
                else:
                    self.plain_of.pop(decoded.sku, None)
                self.items_version = doc.version
            elif isinstance(decoded, Node):
                _put(self.nodes, doc.index, decoded)
                self.node_of[decoded.node_id] = doc.index
                self.network_version = doc.version
                owners_changed = True
            elif isinstance(decoded, Channel):
                _put(self.channels, doc.index, decoded)
                self.channel_of[decoded.channel_id] = doc.index
                self.network_version = doc.version
            elif isinstance(decoded, Carrier):
                _put(self.carriers, doc.index, decoded)
                self._service_names.clear()
                self.carrier_of[decoded.carrier_id] = doc.index
                self.network_version = doc.version
                services = [service for carrier in self.carriers if carrier for service in carrier.services]
                self.levels = frozenset(level for service in services for level in service.levels)
                self.levels_in = {
                    currency: frozenset(
                        level
                        for service in services
                        if any(card.currency == currency for card in service.cards)
                        for level in service.levels
                    )
                    for currency in sorted({card.currency for service in services for card in service.cards})
                }
            elif isinstance(decoded, ApiKey):
                self.keys[decoded.key_id] = decoded
            elif isinstance(decoded, Secret):
                self.secrets[decoded.secret_id] = bytes.fromhex(decoded.value)
            elif isinstance(decoded, Placement):
                self.placement = decoded
                self.network_version = doc.version
                owners_changed = True
        self.version = max(self.version, version)
        if owners_changed:
            self._set_owners()

    def _set_owners(self) -> None:
        self._slot_owner = {}
        self.owner = [shard_of_node(self.placement, node) if node else 0 for node in self.nodes]
        for part, (other, _) in self.away.items():
            kind, _, name = part.partition(":")
            if kind == "node" and int(name) < len(self.owner) and self.owner[int(name)] == self.shard:
                self.owner[int(name)] = other

    def set_away(self, away: dict[str, tuple[int, tuple[str, ...]]]) -> None:
        """Parts that are on their way (see protocol/moves.py)."""
        self.away = away
        self._set_owners()

    def owns_slot(self, slot: str) -> bool:
        return self.owner_of_slot(slot) == self.shard and not (self.away and self.is_away(slot))

    def is_away(self, slot: str) -> bool:
        """Whether a slot is closed or boxed here, or not opened yet."""
        if "slot:" + slot in self.away:
            return True
        band = self.away.get(f"band:{band_of_slot(self.placement, slot)}")
        return band is not None and slot not in self.placement.slots and slot not in band[1]

    def owner_of_slot(self, slot: str) -> int:
        """Destinations repeat: what the map says of a slot is remembered until the map changes."""
        owner = self._slot_owner.get(slot)
        if owner is None:
            if len(self._slot_owner) >= SLOTS_REMEMBERED:
                self._slot_owner = {}
            owner = self._slot_owner[slot] = shard_of_slot(self.placement, slot)
        return owner

    def owns_node(self, node: int) -> bool:
        return node < len(self.owner) and self.owner[node] == self.shard

    def service_name(self, code: int) -> tuple[str, str]:
        """(carrier id, service id) of a service code; empty where there is none (pickup, digital)."""
        found = self._service_names.get(code)
        if found is None:
            found = self._service_names[code] = self._find_service(code)
        return found

    def _find_service(self, code: int) -> tuple[str, str]:
        if code < 0:
            return "", ""
        index, place = divmod(code, SERVICES_PER_CARRIER)
        carrier = self.carriers[index] if index < len(self.carriers) else None
        if carrier is None or place >= len(carrier.services):
            return "", ""
        return carrier.carrier_id, carrier.services[place].service_id

    def sku(self, item: int) -> str:
        found = self.items[item] if item < len(self.items) else None
        return found.sku if found else f"#{item}"

    def node_id(self, node: int) -> str:
        found = self.nodes[node] if node < len(self.nodes) else None
        return found.node_id if found else f"#{node}"


def _put(into: list[Any], index: int, value: object) -> None:
    while len(into) <= index:
        into.append(None)
    into[index] = value
