"""The decision written a second time, slow and plain: documents in, the least score out. It shares no code with solvers/."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from typing import NamedTuple
from zoneinfo import ZoneInfo

from engine.domain.catalog import SERVICES_PER_CARRIER, Catalog
from engine.domain.config import CarrierService, Channel, Item, Node, RateCard
from engine.domain.orders import LineRecord, OrderRequest

EPOCH = date(1970, 1, 1)


class PricedLeg(NamedTuple):
    score: int
    service: int
    ship_day: int
    parcels_minor: int
    cash_minor: int
    service_minor: int
    policy_minor: int
    opportunity_minor: int


class Rules(NamedTuple):
    """What a rule set says of an order."""

    banned: frozenset[int] = frozenset()
    node_minor: dict[int, int] = {}
    max_legs: int = 16
    leg_value_minor: int = 0
    """Least value of each leg, where there are several."""
    weight_bp: tuple[int, ...] = (10_000,) * 7
    """Parcels, lines, units, surcharge, late, transit, opportunity: what a part counts for, 10,000 = as it is."""


def ceil_div(a: int, b: int) -> int:
    return math.ceil(Fraction(a, b))


def kilometres(a: tuple[float, float], b: tuple[float, float]) -> int:
    lat_a, lon_a, lat_b, lon_b = (math.radians(x) for x in (*a, *b))
    h = math.sin((lat_b - lat_a) / 2) ** 2 + math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_b - lon_a) / 2) ** 2
    return math.floor(2 * 6_371 * math.asin(min(1.0, math.sqrt(h))) + 0.5)


def ship_days(node: Node, service_id: str | None, ready_ms: int) -> Iterator[date]:
    """Local days on which an order that is ready at an instant can ship, first the earliest."""
    zone = ZoneInfo(node.time_zone)
    clock = node.cut_off_by_service.get(service_id or "", node.cut_off)
    ready = datetime.fromtimestamp(ready_ms / 1_000, UTC)
    day = ready.astimezone(zone).date()

    def works(d: date) -> bool:
        return d.weekday() in node.working_days and d.isoformat() not in node.holidays

    def instant(d: date, hhmm: str) -> datetime:
        local = datetime.combine(d, time(int(hhmm[:2]), int(hhmm[3:])), zone)
        return local.astimezone(UTC)

    for offset in range(58):
        d = day + timedelta(days=offset)
        if not works(d):
            continue
        latest = instant(d, clock) - timedelta(minutes=node.processing_minutes)
        if node.waves:
            waves = [
                instant(d - timedelta(days=back), wave)
                for back in range(120)
                for wave in node.waves
                if works(d - timedelta(days=back))
            ]
            fitting = [wave for wave in waves if wave <= latest]
            if not fitting or ready >= max(fitting):
                continue
        elif ready >= latest:
            continue
        yield d


def door_day(ship: date, transit: int, days: Sequence[int]) -> date:
    d = ship
    for _ in range(transit):
        d += timedelta(days=1)
        while d.weekday() not in days:
            d += timedelta(days=1)
    while d.weekday() not in days:
        d += timedelta(days=1)
    return d


def card_on(service: CarrierService, day: date) -> RateCard:
    cards = sorted(service.cards, key=lambda card: card.effective_from)
    in_force = [card for card in cards if card.effective_from <= day.isoformat()]
    return in_force[-1] if in_force else cards[0]


def tariff(
    service: CarrierService, card: RateCard, zone: int, weight: int, volume: int, residential: bool
) -> tuple[int, int]:
    grams = max(weight, ceil_div(volume, service.divisor_mm3_per_g))
    parcels = max(
        1,
        ceil_div(weight, service.max_parcel_g),
        ceil_div(volume, service.max_parcel_mm3),
        ceil_div(grams, card.break_g[-1]),
    )
    each = ceil_div(grams, parcels)
    row = card.price_minor[min(zone, len(card.price_minor) - 1)]
    place = next(i for i, upper in enumerate(card.break_g) if each <= upper)
    base = max(row[min(place, len(row) - 1)], card.minimum_minor)
    price = base + math.floor(Fraction(base * card.fuel_bp, 10_000) + Fraction(1, 2)) + card.peak_minor
    if residential:
        price += card.residential_minor
    if service.oversize_g and each >= service.oversize_g:
        price += card.oversize_minor
    return price * parcels, parcels


class Reference:
    """Prices and enumerates against a catalogue and a stock table {(item, node): free units}.

    `prices`: of a unit by (item, node). `rules`: of the order at hand; whoever asks puts them there.
    """

    def __init__(
        self,
        catalog: Catalog,
        stock: dict[tuple[int, int], int],
        now_ms: int,
        prices: dict[tuple[int, int], int] | None = None,
    ) -> None:
        self.catalog = catalog
        self.stock = dict(stock)
        self.prices = prices or {}
        self.rules = Rules()
        self.capacity: dict[tuple[int, int], int] = {}
        self.now_ms = now_ms

    def node(self, n: int) -> Node:
        node = self.catalog.nodes[n]
        assert node is not None
        return node

    def item(self, i: int) -> Item:
        item = self.catalog.items[i]
        assert item is not None
        return item

    def tags(self, line: LineRecord) -> set[str]:
        return {*self.item(line.item).tags, *line.tags}

    def may_serve(self, n: int, channel: Channel, line: LineRecord) -> bool:
        node = self.node(n)
        if node.state != "on" or "ship" not in node.offers or n in self.rules.banned:
            return False
        if node.channels is not None and channel.channel_id not in node.channels:
            return False
        return self.tags(line) <= set(node.offers)

    def leg(
        self, order: OrderRequest, channel: Channel, n: int, lines: Sequence[tuple[LineRecord, int]], total_value: int
    ) -> PricedLeg | None:
        """The best way for a node to ship units of lines."""
        node = self.node(n)
        assert order.ship_to is not None and order.ship_to.lat is not None and order.ship_to.lon is not None
        km = kilometres((node.lat, node.lon), (order.ship_to.lat, order.ship_to.lon))
        units = sum(u for _, u in lines)
        value = sum(self.value(line, u) for line, u in lines)
        tags = {tag for line, _ in lines for tag in self.tags(line)}
        ready = max(self.now_ms, order.ship_after_ms or 0)
        today = datetime.fromtimestamp(ready / 1_000, ZoneInfo(node.time_zone)).date()
        best: tuple[int, date, int, PricedLeg] | None = None
        place = 0
        for index, carrier in enumerate(self.catalog.carriers):
            for position, service in enumerate(carrier.services if carrier else ()):
                place += 1
                if order.service not in service.levels or not tags <= set(service.tags):
                    continue
                if service.countries is not None and order.ship_to.country not in service.countries:
                    continue
                zones = [z for z, band in enumerate(service.band_km) if km <= band]
                if not zones:
                    continue
                need = {"orders": 1, "lines": len(lines), "units": units}
                capacity = node.capacity
                ship = None
                for day in ship_days(node, service.service_id, ready):
                    used = self.capacity.get((n, (day - EPOCH).days), 0)
                    if capacity and capacity.hard and used + need[capacity.unit] > capacity.per_day:
                        continue
                    ship = day
                    break
                if ship is None:
                    continue
                card = card_on(service, ship)
                packed = [(line, u) for line, u in lines if not self.item(line.item).ship_alone]
                parcels_minor = 0
                if packed:
                    weight = sum((self.item(line.item).weight_g or 0) * u for line, u in packed)
                    volume = sum(self.volume(line.item) * u for line, u in packed)
                    parcels_minor, _ = tariff(service, card, zones[0], weight, volume, order.ship_to.residential)
                for line, u in lines:
                    item = self.item(line.item)
                    if item.ship_alone:
                        one, _ = tariff(
                            service,
                            card,
                            zones[0],
                            item.weight_g or 0,
                            self.volume(line.item),
                            order.ship_to.residential,
                        )
                        parcels_minor += one * u
                door = door_day(ship, service.transit_days[zones[0]], service.delivery_days)
                promise = self.promise(order, channel, ready)
                late = 0
                if promise is not None and door > promise:
                    share = value * 10_000 // total_value if total_value else 10_000
                    late = (door - promise).days * channel.late_day_minor * share // 10_000
                transit = (door - today).days * (value * channel.transit_day_bp // 10_000)
                by_line, by_unit = node.handling_line_minor * len(lines), node.handling_unit_minor * units
                opportunity = sum(self.prices.get((line.item, n), 0) * u for line, u in lines)
                if capacity and not capacity.hard:
                    used = self.capacity.get((n, (ship - EPOCH).days), 0) - capacity.per_day
                    over = max(0, used + need[capacity.unit]) - max(0, used)
                    opportunity += over * capacity.over_price_minor
                parts = (parcels_minor, by_line, by_unit, node.surcharge_minor, late, transit, opportunity)
                policy = self.rules.node_minor.get(n, 0)
                for money, weight in zip(parts, self.rules.weight_bp, strict=True):
                    policy += math.floor(Fraction(money * (weight - 10_000), 10_000))
                score = sum(parts) + policy
                code = index * SERVICES_PER_CARRIER + position
                leg = PricedLeg(
                    score,
                    code,
                    (ship - EPOCH).days,
                    parcels_minor,
                    sum(parts[:4]),
                    late + transit,
                    policy,
                    opportunity,
                )
                if best is None or (score, door, place) < best[:3]:
                    best = (score, door, place, leg)
        return best[3] if best else None

    def worth(self, lines: Sequence[LineRecord]) -> int:
        """Value of all units of lines."""
        return sum(self.value(line, line.quantity) for line in lines)

    def value(self, line: LineRecord, units: int) -> int:
        return (line.unit_price_minor or self.item(line.item).unit_value_minor) * units

    def volume(self, item: int) -> int:
        doc = self.item(item)
        return (doc.length_mm or 0) * (doc.width_mm or 0) * (doc.height_mm or 0)

    def promise(self, order: OrderRequest, channel: Channel, ready_ms: int) -> date | None:
        if order.promised_by_ms is not None:
            return datetime.fromtimestamp((order.promised_by_ms - 1) / 1_000, UTC).date()
        days = channel.promise_days.get(order.service)
        if days is None:
            return None
        d = datetime.fromtimestamp(ready_ms / 1_000, UTC).date()
        for _ in range(days):
            d += timedelta(days=1)
            while d.weekday() >= 5:
                d += timedelta(days=1)
        while d.weekday() >= 5:
            d += timedelta(days=1)
        return d

    def groups(self, lines: Sequence[LineRecord]) -> list[list[int]]:
        out: dict[int, list[int]] = {}
        for i, line in enumerate(lines):
            out.setdefault(line.group or -1 - i, []).append(i)
        return list(out.values())

    def holds(self, n: int, channel: Channel, lines: Sequence[LineRecord]) -> bool:
        """Whether a node has all units of all these lines."""
        need: dict[int, int] = {}
        for line in lines:
            need[line.item] = need.get(line.item, 0) + line.quantity
            if not self.may_serve(n, channel, line):
                return False
        return all(self.stock.get((item, n), 0) >= units for item, units in need.items())

    def best(
        self, order: OrderRequest, channel: Channel, lines: Sequence[LineRecord], excluded: Sequence[int], max_legs: int
    ) -> int | None:
        """Least score of all ways to give whole groups to at most `max_legs` nodes; None = there is none.

        Where there are several legs, none is worth less than the rules allow.
        """
        max_legs = min(max_legs, self.rules.max_legs)
        groups = self.groups(lines)
        nodes = [n for n in range(len(self.catalog.nodes)) if n not in excluded]
        total = self.worth(lines)
        prices: dict[tuple[int, tuple[int, ...]], int | None] = {}
        least = None
        for assignment in itertools.product(nodes, repeat=len(groups)):
            used = sorted(set(assignment))
            if len(used) > max_legs:
                continue
            score = 0
            for n in used:
                own = tuple(g for g, node in enumerate(assignment) if node == n)
                key = (n, own)
                if key not in prices:
                    goods = [lines[i] for g in own for i in groups[g]]
                    leg = None
                    worth = len(own) == len(groups) or self.worth(goods) >= self.rules.leg_value_minor
                    if worth and self.holds(n, channel, goods):
                        leg = self.leg(order, channel, n, [(line, line.quantity) for line in goods], total)
                    prices[key] = leg.score if leg else None
                price = prices[key]
                if price is None:
                    break
                score += price
            else:
                if least is None or score < least:
                    least = score
        return least

    def can_split(
        self, order: OrderRequest, channel: Channel, lines: Sequence[LineRecord], excluded: Sequence[int], max_legs: int
    ) -> bool:
        """Whether some set of nodes covers the lines (capacity aside), dividing those that may be divided.

        Lines that no service takes together are not looked at: then the answer is no.
        """
        max_legs = min(max_legs, self.rules.max_legs)
        everything = [(line, 1) for line in lines]
        groups = self.groups(lines)
        nodes = [
            n
            for n in range(len(self.catalog.nodes))
            if n not in excluded and self.leg(order, channel, n, everything, 1) is not None
        ]
        for size in range(1, max_legs + 1):
            for chosen in itertools.combinations(nodes, size):
                if all(self._covers(channel, lines, group, chosen, nodes) for group in groups):
                    return True
        return False

    def _covers(
        self,
        channel: Channel,
        lines: Sequence[LineRecord],
        group: Sequence[int],
        chosen: Sequence[int],
        nodes: Sequence[int],
    ) -> bool:
        goods = [lines[i] for i in group]
        if any(self.holds(n, channel, goods) for n in chosen):
            return True
        line = goods[0]
        if len(goods) > 1 or not line.splittable or any(self.holds(n, channel, goods) for n in nodes):
            return False
        units = sum(self.stock.get((line.item, n), 0) for n in chosen if self.may_serve(n, channel, line))
        return units >= line.quantity
