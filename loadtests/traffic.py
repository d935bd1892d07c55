"""A storefront's orders: how many lines, which SKUs, where to, when. And their JSON, cut so that only ids are left to fill in.

Lines an order, quantities and the skew of SKUs are stated in the spec; destinations follow the network's places. Everything
follows from the seed. A load driver must not spend its time on JSON: `Renderer.tail` gives an order's body without its id.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from loadtests.network import CHANNEL, Network, band_of

LINES_SHARE = (0.46, 0.24, 0.13, 0.07, 0.04, 0.03, 0.015, 0.01, 0.005)
"""Share of orders with 1, 2, 3... lines: a consumer shop; mean 2.3."""
QUANTITY_SHARE = (0.80, 0.13, 0.04, 0.02, 0.01)
"""Share of lines with 1, 2, 3... units; mean 1.3."""
ORDER_HEAD = b'{"order_id":"'


@dataclass(frozen=True)
class TrafficSpec:
    """One kind of traffic. `lines` fixes the number of lines of every order; None = the mix above."""

    seed: int = 1
    lines: int | None = None
    hot_skus: int | None = None
    """Draw only from this many most popular SKUs, all alike: everybody wants the same."""
    cross: float = 0.0
    """Share of orders with one line from another region (networks with `regions`)."""
    express: float = 0.15
    marketplace: float = 0.0
    single_unit: bool = False
    placed_at: str = "2026-11-24T12:00:00Z"


class Order(NamedTuple):
    """One order of the model: indexes into the network's places and items, and units."""

    place: int
    lines: list[tuple[int, int]]
    service: str = "standard"
    channel: str = CHANNEL
    customer: int = 0


class Traffic:
    """An endless stream of orders, the same for a seed."""

    def __init__(self, network: Network, spec: TrafficSpec) -> None:
        self.network = network
        self.spec = spec
        self._rng = np.random.default_rng([network.spec.seed, spec.seed])
        self._pools = self._item_pools()
        if spec.lines is not None and spec.lines > min(len(items) for items, _ in self._pools):
            raise ValueError(f"orders of {spec.lines} lines need as many SKUs to choose from")

    def _item_pools(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(items, cumulative popularity) to draw from, one pool for each region (one in all where there are none)."""
        regions = max(1, self.network.spec.regions)
        popularity = self.network.popularity
        pools = []
        for region in range(regions):
            items = np.arange(region, len(popularity), regions)
            weight = popularity[items]
            if self.spec.hot_skus is not None:
                items = items[np.argsort(-weight, kind="stable")[: max(1, self.spec.hot_skus // regions)]]
                weight = np.ones(len(items))
            pools.append((items, np.cumsum(weight / weight.sum())))
        return pools

    def draw(self, count: int) -> list[Order]:
        """The next `count` orders."""
        rng, spec, places = self._rng, self.spec, self.network.places
        where = places.draw(rng, count)
        sizes = (
            np.full(count, spec.lines)
            if spec.lines is not None
            else rng.choice(np.arange(1, len(LINES_SHARE) + 1), size=count, p=LINES_SHARE)
        )
        express = rng.random(count) < spec.express
        marketplace = rng.random(count) < spec.marketplace
        crosses = rng.random(count) < spec.cross
        customers = rng.integers(1, 2_000_000, size=count)
        regions = len(self._pools)
        orders = []
        for i in range(count):
            place = int(where[i])
            home = band_of(places.rows[place].postal_code, regions) if regions > 1 else 0
            chosen: dict[int, None] = {}
            if crosses[i] and regions > 1:
                self._choose(chosen, (home + int(rng.integers(1, regions))) % regions, 1)
            self._choose(chosen, home, min(int(sizes[i]), len(self._pools[home][0])))
            units = [1] * len(chosen) if spec.single_unit else self._units(len(chosen))
            by_air = express[i] and not any("hazmat" in self.network.items[item].tags for item in chosen)
            orders.append(
                Order(
                    place,
                    list(zip(chosen, units, strict=True)),
                    "express" if by_air else "standard",
                    "marketplace" if marketplace[i] else CHANNEL,
                    int(customers[i]),
                )
            )
        return orders

    def _choose(self, chosen: dict[int, None], region: int, until: int) -> None:
        """Add different items of a region until the order has `until` lines."""
        items, cumulative = self._pools[region]
        while len(chosen) < until:
            for at in np.searchsorted(cumulative, self._rng.random(until)).tolist():
                chosen[int(items[min(at, len(items) - 1)])] = None
                if len(chosen) == until:
                    return

    def _units(self, count: int) -> list[int]:
        drawn = self._rng.choice(np.arange(1, len(QUANTITY_SHARE) + 1), size=count, p=QUANTITY_SHARE)
        return [int(q) for q in drawn]


class Renderer:
    """Orders as JSON bytes; the fragments of places and lines are made once."""

    def __init__(self, network: Network, *, placed_at: str = "2026-11-24T12:00:00Z", on_short: str = "refuse") -> None:
        self._network = network
        self._places: dict[int, bytes] = {}
        self._lines: dict[tuple[int, int], bytes] = {}
        self._end = f'],"currency":"USD","on_short":"{on_short}"'.encode()
        self._placed_at = placed_at

    def tail(self, order: Order, extra: bytes = b"") -> bytes:
        """The body after the order id: `ORDER_HEAD + id + tail` is the whole. `extra` = more fields (`,"ttl_s":600`)."""
        place = self._places.get(order.place)
        if place is None:
            place = self._places[order.place] = self._place(order.place)
        lines = []
        for n, (item, units) in enumerate(order.lines, 1):
            line = self._lines.get((item, units))
            if line is None:
                line = self._lines[item, units] = self._line(item, units)
            lines.append(b'{"line_id":"%d",' % n + line)
        head = (
            f'","channel":"{order.channel}","service":"{order.service}","placed_at":"{self._placed_at}",'
            f'"customer_id":"C-{order.customer:07d}",'
        )
        return b"".join((head.encode(), place, b'"lines":[', b",".join(lines), self._end, extra, b"}"))

    def body(self, order: Order, order_id: str, extra: bytes = b"") -> bytes:
        return b"".join((ORDER_HEAD, order_id.encode(), self.tail(order, extra)))

    def _place(self, index: int) -> bytes:
        row = self._network.places.rows[index]
        ship_to = {"country": "US", "region": row.region, "postal_code": row.postal_code, "residential": True}
        return b'"ship_to":' + json.dumps(ship_to, separators=(",", ":")).encode() + b","

    def _line(self, item: int, units: int) -> bytes:
        found = self._network.items[item]
        return (
            f'"sku":{json.dumps(found.sku)},"quantity":{units},"unit_price_minor":{found.unit_value_minor},"method":"ship"}}'
        ).encode()


def arrival_times_s(
    rate_per_s: float, duration_s: float, seed: Sequence[int], *, burst_factor: float = 1.0, burst_share: float = 0.1
) -> np.ndarray:
    """Poisson arrivals in seconds from 0, sorted. A part `burst_share` of every ten seconds runs `burst_factor` times as hot.

    The mean rate stays `rate_per_s`.
    """
    rng = np.random.default_rng(list(seed))
    quiet = rate_per_s / (1 - burst_share + burst_share * burst_factor)
    peak = quiet * max(1.0, burst_factor)
    count = int(peak * duration_s + 10 * (peak * duration_s) ** 0.5 + 10)
    times = np.cumsum(rng.exponential(1 / peak, count))
    times = times[times < duration_s]
    if burst_factor <= 1.0:
        return times
    in_burst = (times % 10.0) >= 10.0 * (1 - burst_share)
    kept: np.ndarray = times[in_burst | (rng.random(len(times)) < quiet / peak)]
    return kept
