"""Who owns what: the shard of a slot and of a node, by the placement map. Pure.

What the map lists has that owner. What it does not list falls into bands: destinations whose postal prefix is numeric are
cut into equal ranges, so that neighbours share a band; any other prefix is spread by a hash. Band n belongs to shard n unless the
map says otherwise. There are as many bands as there were shards in the beginning: a shard that is added takes none until some
are moved to it. A node that is not listed belongs to the owner of its own place: most orders are served inside their region.
"""

from __future__ import annotations

from hashlib import blake2b

from engine.domain.config import Node, Placement
from engine.domain.ids import slot_of

CONTROL_SHARD = 255
"""Number of the control shard, which owns the configuration and no stock."""


def band_count(placement: Placement) -> int:
    return placement.bands or placement.shard_count


def band_of_slot(placement: Placement, slot: str) -> int:
    """The band that a slot falls into, whoever owns it."""
    bands = placement.bands or placement.shard_count
    prefix = slot[2:]
    if prefix.isascii() and prefix.isdigit():
        return int(prefix.ljust(3, "0")) * bands // 1_000
    digest = blake2b(slot.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % bands


def shard_of_band(placement: Placement, band: int) -> int:
    return placement.band_owner.get(str(band), band) if placement.band_owner else band


def shard_of_slot(placement: Placement, slot: str) -> int:
    """Owner of a slot ("US100")."""
    listed = placement.slots.get(slot)
    if listed is not None:
        return listed
    return shard_of_band(placement, band_of_slot(placement, slot))


def shard_of_node(placement: Placement, node: Node) -> int:
    """Owner of a node."""
    listed = placement.nodes.get(node.node_id)
    return listed if listed is not None else shard_of_slot(placement, slot_of(node.country, node.postal_code))


def serving_shards(placement: Placement) -> list[int]:
    """Stock shards that others may ask: all but those that are being started and those that have ended."""
    if not placement.joining and not placement.ended:
        return list(range(placement.shard_count))
    absent = {*placement.joining, *placement.ended}
    return [shard for shard in range(placement.shard_count) if shard not in absent]


def running_shards(placement: Placement) -> list[int]:
    """Stock shards that have a process: all that have not ended."""
    return [shard for shard in range(placement.shard_count) if shard not in placement.ended]
