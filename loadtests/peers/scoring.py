"""How the Redis peers choose a node: what a good service would do with NumPy and a cached picture of availability.

Cost of a parcel from every node by zone and weight, cheapest node that has all lines; else line by line. The picture is taken
at the start and not kept up (a peer that follows every change would cost more); Redis has the last word about stock.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.domain.config import CarrierService
from loadtests.network import Network
from loadtests.places import EARTH_KM


class ChosenLeg(NamedTuple):
    """Indexes into the network's nodes and into the order's lines; cost of the parcel and handling in minor units."""

    node: int
    lines: list[int]
    cost_minor: int


class Scorer:
    """Scores orders of one network."""

    def __init__(self, network: Network) -> None:
        nodes, items = network.nodes, network.items
        self._lat = np.radians([node.lat for node in nodes])
        self._lon = np.radians([node.lon for node in nodes])
        self._cos_lat = np.cos(self._lat)
        self._sin_lat = np.sin(self._lat)
        self.available = np.zeros((len(items), len(nodes)), bool)
        self.available[network.stock.item, network.stock.node] = network.stock.units > 0
        self._weight_g = [item.weight_g or 500 for item in items]
        self._handling = np.array([node.handling_line_minor + node.surcharge_minor for node in nodes])
        self._services: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
        for carrier in network.carriers:
            for service in carrier.services:
                for level in service.levels:
                    self._services.setdefault(level, []).append(_table(service))
        self.item_of = {item.sku: i for i, item in enumerate(items)}
        self.place_of = {place.postal_code: (place.lat, place.lon) for place in network.places.rows}

    def choose(
        self, postal_code: str, level: str, items: list[int], units: list[int], skip: int = 0
    ) -> list[ChosenLeg]:
        """The cheapest way; `skip` leaves out that many of the cheapest nodes (a retry after a refusal)."""
        lat, lon = self.place_of[postal_code]
        phi, theta = np.radians(lat), np.radians(lon)
        cosine = self._sin_lat * np.sin(phi) + self._cos_lat * np.cos(phi) * np.cos(self._lon - theta)
        km = EARTH_KM * np.arccos(np.minimum(1.0, cosine))
        weight = sum(self._weight_g[item] * n for item, n in zip(items, units, strict=True))
        cost = self._parcel_minor(km, level, weight) + self._handling
        wanted = self.available[items]
        both = wanted.all(axis=0)
        nodes = np.flatnonzero(both)
        if len(nodes) > skip:
            node = int(nodes[np.argpartition(cost[nodes], skip)[skip]])
            return [ChosenLeg(node, list(range(len(items))), int(cost[node]))]
        legs: dict[int, list[int]] = {}
        for n, row in enumerate(wanted):
            carried = np.flatnonzero(row)
            if not len(carried):
                return []
            pick = min(skip, len(carried) - 1)
            legs.setdefault(int(carried[np.argpartition(cost[carried], pick)[pick]]), []).append(n)
        return [ChosenLeg(node, lines, int(cost[node])) for node, lines in legs.items()]

    def _parcel_minor(self, km: np.ndarray, level: str, weight_g: int) -> np.ndarray:
        best: np.ndarray | None = None
        for bands, breaks, prices in self._services[level]:
            column = min(int(np.searchsorted(breaks, weight_g)), len(breaks) - 1)
            price = prices[np.minimum(np.searchsorted(bands, km), len(bands) - 1), column]
            best = price if best is None else np.minimum(best, price)
        assert best is not None
        return best


def _table(service: CarrierService) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    card = service.cards[-1]
    return np.array(service.band_km), np.array(card.break_g), np.array(card.price_minor)
