"""Who owns what: the shard of a slot and of a node, by the placement map. Pure.

What the map lists has that owner. What it does not list falls into bands: destinations whose postal prefix is numeric are
cut into `shard_count` equal ranges, so that neighbours share a shard; any other prefix is spread by a hash. A node that is not
listed belongs to the owner of its own place: most orders are served inside their region.
"""

from __future__ import annotations

from hashlib import blake2b

from engine.domain.config import Node, Placement
from engine.domain.ids import slot_of

CONTROL_SHARD = 255
"""Number of the control shard, which owns the configuration and no stock."""


def shard_of_slot(placement: Placement, slot: str) -> int:
    """Owner of a slot ("US100")."""
    listed = placement.slots.get(slot)
    if listed is not None:
        return listed
    prefix = slot[2:]
    if prefix.isascii() and prefix.isdigit():
        return int(prefix.ljust(3, "0")) * placement.shard_count // 1_000
    digest = blake2b(slot.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % placement.shard_count


def shard_of_node(placement: Placement, node: Node) -> int:
    """Owner of a node."""
    listed = placement.nodes.get(node.node_id)
    return listed if listed is not None else shard_of_slot(placement, slot_of(node.country, node.postal_code))
