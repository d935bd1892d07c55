"""Which of this shard's nodes could send to a place at all: those that a plan of an order to there looks at, and how far they are.

By distance, and what carriers serve. What the goods need, and whether a day has room, is looked at when an order is planned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.domain.catalog import Catalog
from engine.domain.decide_orders import not_on_the_map
from engine.domain.orders import Destination
from engine.domain.replies import Problem
from engine.protocol.stores import distances_m

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore


def nodes_in_reach(core: ShardCore, ship_to: Destination, channel_id: str | None) -> dict[str, int] | Problem:
    """Metres to a destination by node id; of a channel, carriers count that are priced in its currency."""
    catalog = core.catalog
    point = core.planner.locate(ship_to)
    if point is None:
        return not_on_the_map(ship_to.country, ship_to.postal_code, "/postal_code", parameter="postal_code")
    reach_km = _carried_km(catalog, ship_to.country, channel_id)
    if core.planner.reach_km:
        reach_km = min(reach_km, core.planner.reach_km)
    own = [node for index, node in enumerate(catalog.nodes) if node is not None and catalog.owns_node(index)]
    far_m = distances_m(own, *point).tolist()
    return {
        node.node_id: metres
        for node, metres in zip(own, far_m, strict=True)
        if (metres + 500) // 1_000 <= reach_km  # bands are of whole kilometres
    }


def _carried_km(catalog: Catalog, country: str, channel_id: str | None) -> int:
    """How far the carrier that goes farthest goes to a country; -1 = none goes there."""
    index = catalog.channel_of.get(channel_id) if channel_id is not None else None
    channel = catalog.channels[index] if index is not None else None
    return max(
        (
            max(service.band_km)
            for carrier in catalog.carriers
            if carrier is not None
            for service in carrier.services
            if service.countries is None or country in service.countries
            if channel is None or any(card.currency == channel.currency for card in service.cards)
        ),
        default=-1,
    )
