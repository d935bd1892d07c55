"""Compiling configuration into the kernel's tables: nodes, channels, carrier services, items.

Inputs are the plain tuples below, by index; `None` marks an index without a document. Handling tags become bits. A tag that
no node offers and no service carries gets the last bit, which nobody has: such goods can go nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from solvers.calendar import Calendars, CalendarSpec, delivery_day
from solvers.layout import (
    ATLAS_HEADER,
    C_FLOORS,
    CAP_LINES,
    CAP_NONE,
    CAP_ORDERS,
    CAP_UNITS,
    F_CHANNEL,
    F_ON,
    F_PICKUP,
    F_SHIP,
    F_STORE,
    I64,
    ITEM_ALONE,
    ITEM_ASSUMED,
    ITEM_COLUMNS,
    KEEPS_STALE,
    LIMIT,
    M_BASE_DAY,
    M_CALENDAR_OF,
    M_KEEPS_BACK,
    M_LEVELS,
    M_MIDNIGHT,
    M_NODE_COUNT,
    M_NODES,
    M_NOW,
    M_OPTIONS,
    M_POLICY,
    M_POLICY_NODE,
    M_SERVES,
    M_SERVICE_COUNT,
    M_SERVICES,
    M_TODAY,
    NODE_COLUMNS,
    SERVICES_MAX,
    U8,
)
from solvers.tariff import CardSpec, pack_cards

METHOD_TAGS = ("ship", "pickup", "ship_to_store")
TAG_BITS = 61
"""Handling tags that nodes and services may offer; further ones (by node, then service) are as if nobody offered them."""
NOBODY = 1 << 62
"""Need of a tag that is offered nowhere."""
DEFAULT_WEIGHT_G = 500
"""Weight of an item that has none, in a category that has none: marked as assumed."""
VOLUME_MAX_MM3 = 1_000_000_000_000
_CAP_KIND = {"orders": CAP_ORDERS, "lines": CAP_LINES, "units": CAP_UNITS}


class CapacitySpec(NamedTuple):
    unit: str
    per_day: int
    hard: bool
    over_price_minor: int


class NodeSpec(NamedTuple):
    """A node. `calendars`: by service id, with "" for all others; `pickup`: days on which goods can be collected there."""

    lat: float
    lon: float
    on: bool
    offers: tuple[str, ...]
    channels: tuple[str, ...] | None
    calendars: dict[str, CalendarSpec]
    handling_line_minor: int = 0
    handling_unit_minor: int = 0
    surcharge_minor: int = 0
    capacity: CapacitySpec | None = None
    safety_by_method: dict[str, int] = {}
    pickup: CalendarSpec | None = None


class ServiceSpec(NamedTuple):
    """A carrier service. `code` is what plans name it by; `days` = delivery days, bit 0 = Monday."""

    code: int
    service_id: str
    levels: tuple[str, ...]
    band_km: tuple[int, ...]
    transit_days: tuple[int, ...]
    days: int
    countries: tuple[str, ...] | None
    divisor_mm3_per_g: int
    max_parcel_g: int
    max_parcel_mm3: int
    oversize_g: int
    tags: tuple[str, ...]
    cards: tuple[CardSpec, ...]


class ItemSpec(NamedTuple):
    weight_g: int | None
    volume_mm3: int
    ship_alone: bool
    tags: tuple[str, ...]
    unit_value_minor: int
    category: str = ""


class PolicySpec(NamedTuple):
    """What rules fill: money or a ban by node, weights by cost part (10,000 = neutral), caps. The default changes nothing."""

    node_minor: dict[int, int] = {}
    banned: frozenset[int] = frozenset()
    max_legs: int = 16
    leg_value_minor: int = 0
    weight_bp: tuple[int, int, int, int, int, int, int] = (10_000,) * 7
    """Parcels, lines, units, surcharge, late, transit, opportunity."""


class Compiled:
    """The compiled network with the names that outsiders look things up by."""

    def __init__(
        self,
        nodes: Sequence[NodeSpec | None],
        channels: Sequence[str | None],
        services: Sequence[ServiceSpec],
        policies: Sequence[PolicySpec] = (PolicySpec(),),
    ) -> None:
        self.node_count = len(nodes)
        self.lat = np.array([n.lat if n else np.nan for n in nodes], np.float64)
        self.lon = np.array([n.lon if n else np.nan for n in nodes], np.float64)
        self.tag_bit = _tag_bits(nodes, services)
        self.calendars, calendar_of = _calendars(nodes, services)
        self.country_of: dict[str, int] = {}
        """Index of a destination country; 0 = one that no service names."""
        for service in services:
            for country in service.countries or ():
                self.country_of.setdefault(country, len(self.country_of) + 1)
        self.level_of: dict[str, tuple[int, int]] = {}
        """(first, count) in `level_services` by service level."""
        atlas: list[int] = [0] * ATLAS_HEADER
        service_rows = [self._service(atlas, service) for service in services]
        self.flags = _flags(nodes, channels)
        tables = {
            M_NODES: self._nodes(nodes, calendar_of),
            M_CALENDAR_OF: calendar_of,
            M_SERVICES: np.array(service_rows, np.int64),
            M_LEVELS: self._levels(services),
            M_SERVES: self._serves(services),
            M_POLICY: np.array([_policy_row(policy) for policy in policies], np.int64),
            M_POLICY_NODE: _policy_nodes(policies, len(nodes)),
            M_OPTIONS: self.calendars.options,
            M_MIDNIGHT: self.calendars.midnight,
            M_TODAY: self.calendars.today,
        }
        for slot, table in tables.items():
            atlas[slot] = len(atlas)
            atlas += table.ravel().tolist()
        atlas[M_NODE_COUNT] = max(1, len(nodes))
        atlas[M_SERVICE_COUNT] = len(services)
        for bit, method in enumerate(METHOD_TAGS):
            if any(node and node.safety_by_method.get(method) for node in nodes):
                atlas[M_KEEPS_BACK] |= 1 << bit
        self.atlas: I64 = np.array(atlas, np.int64)

    def refresh(self, now_ms: int) -> None:
        """Bring the calendars to an instant; it costs a comparison until a cut-off or a day passes."""
        calendars = self.calendars
        if calendars.refresh(now_ms):
            tables = (
                (M_OPTIONS, calendars.options),
                (M_MIDNIGHT, calendars.midnight),
                (M_TODAY, calendars.today),
            )
            for slot, table in tables:
                start = self.atlas[slot]
                self.atlas[start : start + table.size] = table.ravel()
            self.atlas[M_BASE_DAY] = calendars.base_day
        self.atlas[M_NOW] = now_ms

    def keep_back(self, some: bool) -> None:
        """Say whether any node keeps units back because its feed is old."""
        self.atlas[M_KEEPS_BACK] = self.atlas[M_KEEPS_BACK] & ~KEEPS_STALE | (KEEPS_STALE if some else 0)

    def need(self, tags: Sequence[str]) -> int:
        """Bits of handling tags."""
        mask = 0
        for tag in tags:
            mask |= self.tag_bit.get(tag, NOBODY)
        return mask

    def _nodes(self, nodes: Sequence[NodeSpec | None], calendar_of: I64) -> I64:
        table = np.zeros((max(1, len(nodes)), NODE_COLUMNS), np.int64)
        for n, node in enumerate(nodes):
            if node is None:
                continue
            capacity = node.capacity
            kind = _CAP_KIND[capacity.unit] if capacity else CAP_NONE
            table[n] = (
                self.calendars.zone_of[int(calendar_of[n, -1])],
                self.need([tag for tag in node.offers if tag in self.tag_bit]),
                node.handling_line_minor,
                node.handling_unit_minor,
                node.surcharge_minor,
                kind,
                capacity.per_day if capacity else 0,
                int(capacity.hard) if capacity else 0,
                capacity.over_price_minor if capacity else 0,
                *(node.safety_by_method.get(method, 0) for method in METHOD_TAGS),
            )
        return table

    def _service(self, pool: list[int], service: ServiceSpec) -> tuple[int, ...]:
        zones = len(service.band_km)
        transit = list(service.transit_days[:zones])
        transit += [transit[-1]] * (zones - len(transit))
        bands_at = len(pool)
        pool += service.band_km
        arrival_at = len(pool)
        for day in range(7):  # day 4 of 1970 was a Monday
            pool += [delivery_day(4 + day, days, service.days) - 4 - day for days in transit]
        cards_at, count = pack_cards(pool, service.cards, zones=zones)
        floors_at = len(pool)
        floors = [pool[pool[card + C_FLOORS] : pool[card + C_FLOORS] + zones] for card in pool[cards_at:]]
        pool += [min(prices) for prices in zip(*floors, strict=True)]
        return (
            service.code,
            bands_at,
            zones,
            arrival_at,
            floors_at,
            service.divisor_mm3_per_g,
            service.max_parcel_g,
            service.max_parcel_mm3,
            service.oversize_g,
            self.need([tag for tag in service.tags if tag in self.tag_bit]),
            cards_at,
            count,
            int(count == 1 and _rises(service.cards[0])),
        )

    def _levels(self, services: Sequence[ServiceSpec]) -> I64:
        rows: list[int] = []
        for level in sorted({level for service in services for level in service.levels}):
            serving = [s for s, service in enumerate(services) if level in service.levels][:SERVICES_MAX]
            self.level_of[level] = (len(rows), len(serving))
            rows += serving
        return np.array(rows, np.int64)

    def _serves(self, services: Sequence[ServiceSpec]) -> I64:
        table = np.zeros((len(self.country_of) + 1, len(services)), np.int64)
        for s, service in enumerate(services):
            if service.countries is None:
                table[:, s] = 1
            for country in service.countries or ():
                table[self.country_of[country], s] = 1
        return table


def _tag_bits(nodes: Sequence[NodeSpec | None], services: Sequence[ServiceSpec]) -> dict[str, int]:
    bits: dict[str, int] = {}
    offered = [tag for node in nodes if node for tag in node.offers if tag not in METHOD_TAGS]
    for tag in [*offered, *(tag for service in services for tag in service.tags)]:
        if tag not in bits and len(bits) < TAG_BITS:
            bits[tag] = 1 << len(bits)
    return bits


def _calendars(nodes: Sequence[NodeSpec | None], services: Sequence[ServiceSpec]) -> tuple[Calendars, I64]:
    """Each different calendar once; `calendar_of[node, service]`, the last column = without a service."""
    index: dict[CalendarSpec, int] = {}
    table = np.zeros((max(1, len(nodes)), len(services) + 1), np.int64)
    names = [*(service.service_id for service in services), ""]
    for n, node in enumerate(nodes):
        if node is None:
            continue
        default = index.setdefault(node.calendars[""], len(index))
        table[n] = default
        if len(node.calendars) > 1:
            for s, name in enumerate(names):
                spec = node.calendars.get(name)
                if spec is not None:
                    table[n, s] = index.setdefault(spec, len(index))
        if node.pickup is not None:
            table[n, -1] = index.setdefault(node.pickup, len(index))
    return Calendars(list(index) or [CalendarSpec()]), table


def _flags(nodes: Sequence[NodeSpec | None], channels: Sequence[str | None]) -> U8:
    table = np.zeros((max(1, len(channels)), max(1, len(nodes))), np.uint8)
    bits = dict(zip(METHOD_TAGS, (F_SHIP, F_PICKUP, F_STORE), strict=True))
    for n, node in enumerate(nodes):
        if node is None:
            continue
        own = F_ON if node.on else 0
        for method, bit in bits.items():
            if method in node.offers:
                own |= bit
        table[:, n] = own
        if node.channels is None:
            table[:, n] |= F_CHANNEL
        else:
            for c, channel in enumerate(channels):
                if channel is not None and channel in node.channels:
                    table[c, n] |= F_CHANNEL
    return table


def _rises(card: CardSpec) -> bool:
    """Whether no price of a card falls from one zone to the next."""
    width = len(card.breaks_g)
    rows = [[*row, *[row[-1]] * width][:width] for row in card.prices_minor]
    return all(a <= b for near, far in pairwise(rows) for a, b in zip(near, far, strict=True))


def _policy_row(policy: PolicySpec) -> tuple[int, ...]:
    neutral = policy._replace(node_minor={}, banned=frozenset()) == PolicySpec()
    bans = bool(policy.banned) or any(minor >= LIMIT for minor in policy.node_minor.values())
    return (int(neutral), policy.max_legs, policy.leg_value_minor, *policy.weight_bp, int(bans))


def _policy_nodes(policies: Sequence[PolicySpec], node_count: int) -> I64:
    table = np.zeros((len(policies), max(1, node_count)), np.int64)
    for p, policy in enumerate(policies):
        for node, minor in policy.node_minor.items():
            table[p, node] = minor
        for node in policy.banned:
            table[p, node] = LIMIT
    return table


class ItemTable:
    """Items in a growing table. `put` the changed ones, then `settle`: missing weights follow their category's mean."""

    def __init__(self) -> None:
        self.rows = np.zeros((256, ITEM_COLUMNS), np.int64)
        self._specs: dict[int, ItemSpec] = {}
        self._assumed: dict[int, str] = {}
        self._sums: dict[str, tuple[int, int]] = {}

    def put(self, item: int, spec: ItemSpec, need: int) -> None:
        """Take one item's master data (an index from the catalogue, handling bits from `Compiled.need`)."""
        if item >= len(self.rows):
            grown = np.zeros((max(item + 1, len(self.rows) * 2), ITEM_COLUMNS), np.int64)
            grown[: len(self.rows)] = self.rows
            self.rows = grown
        old = self._specs.get(item)
        if old is not None and old.weight_g is not None:
            self._add(old.category, -old.weight_g, -1)
        self._specs[item] = spec
        if spec.weight_g is not None:
            self._add(spec.category, spec.weight_g, 1)
            self._assumed.pop(item, None)
        else:
            self._assumed[item] = spec.category
        flags = (ITEM_ALONE if spec.ship_alone else 0) | (ITEM_ASSUMED if spec.weight_g is None else 0)
        self.rows[item] = (
            spec.weight_g or 0,
            min(spec.volume_mm3, VOLUME_MAX_MM3),
            flags,
            need,
            spec.unit_value_minor,
        )

    def settle(self) -> None:
        """Give items without a weight the mean of their category (a function of the whole catalogue, not of its history)."""
        for item, category in self._assumed.items():
            total, count = self._sums.get(category, (0, 0))
            self.rows[item, 0] = total // count if count else DEFAULT_WEIGHT_G

    def _add(self, category: str, weight_g: int, count: int) -> None:
        total, known = self._sums.get(category, (0, 0))
        self._sums[category] = (total + weight_g, known + count)
