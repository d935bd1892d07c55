"""From the catalogue to the solvers' tables: documents to plain specs, recompiled when they change."""

from __future__ import annotations

import numpy as np

from engine.domain.catalog import SERVICES_PER_CARRIER, Catalog
from engine.domain.config import Carrier, CarrierService, Channel, Item, Node
from engine.domain.feed_age import Lateness, is_watched, lateness, newest_count_ms
from engine.domain.orders import OnShort
from engine.domain.state import ShardState
from solvers.calendar import CalendarSpec, day_number, minute_of
from solvers.layout import FRESH, STALE_EXCLUDED, STALE_SAFETY, U8
from solvers.network import CapacitySpec, Compiled, ItemSpec, ItemTable, NodeSpec, ServiceSpec
from solvers.places import Destinations, sphere
from solvers.tariff import CardSpec, card_errors
from solvers.zips import Point

_STALE_OF = {Lateness.FRESH: FRESH, Lateness.EXCLUDED: STALE_EXCLUDED, Lateness.KEEPS_MORE: STALE_SAFETY}
STALE_AGAIN_MS = 1_000
"""Ages are given in seconds, and with thousands of nodes to look at this takes a millisecond."""
ON_SHORT = {"refuse": OnShort.REFUSE, "partial": OnShort.PARTIAL, "park": OnShort.PARK}


def node_spec(node: Node) -> NodeSpec:
    """A node's document as the solvers see it."""
    holidays = tuple(sorted(day_number(day) for day in node.holidays))
    waves = tuple(sorted(minute_of(wave) for wave in node.waves))
    working = tuple(sorted(set(node.working_days)))

    def calendar(cut_off: str) -> CalendarSpec:
        return CalendarSpec(node.time_zone, working, holidays, minute_of(cut_off), node.processing_minutes, waves)

    calendars = {name: calendar(clock) for name, clock in node.cut_off_by_service.items()}
    calendars[""] = calendar(node.cut_off)
    pickup = None
    if "pickup" in node.offers or "ship_to_store" in node.offers:
        days = tuple(sorted(set(node.pickup_days))) if node.pickup_days is not None else working
        closes, minutes = minute_of(node.pickup_closes), node.pickup_ready_minutes
        pickup = CalendarSpec(node.time_zone, days, holidays, closes, minutes, waves if working else (), working)
    capacity = node.capacity
    return NodeSpec(
        node.lat,
        node.lon,
        node.state == "on",
        node.offers,
        tuple(node.channels) if node.channels is not None else None,
        calendars,
        node.handling_line_minor,
        node.handling_unit_minor,
        node.surcharge_minor,
        CapacitySpec(capacity.unit, capacity.per_day, capacity.hard, capacity.over_price_minor) if capacity else None,
        dict(node.safety_by_method),
        pickup,
    )


def priced_in(level: str, currency: str) -> str:
    """Name of a service level among the solvers, who know no currencies: one level for each that cards are in."""
    return f"{level}\0{currency}"


def service_specs(code: int, service: CarrierService) -> list[ServiceSpec]:
    """A carrier service, once for each currency of its rate cards: amounts of two currencies are never compared."""
    currencies = dict.fromkeys(card.currency for card in service.cards)
    specs = [_service_spec(code, service, currency) for currency in currencies]
    return [spec for spec in specs if spec is not None]


def _service_spec(code: int, service: CarrierService, currency: str) -> ServiceSpec | None:
    """With its cards in one currency; None where none of them can be read (it then serves nobody)."""
    cards = [
        CardSpec(
            day_number(card.effective_from),
            tuple(card.break_g),
            tuple(tuple(row) for row in card.price_minor),
            card.minimum_minor,
            card.fuel_bp,
            card.residential_minor,
            card.oversize_minor,
            card.peak_minor,
        )
        for card in service.cards
        if card.currency == currency
    ]
    cards = [card for card in cards if not card_errors(card)]
    if not cards:
        return None
    return ServiceSpec(
        code,
        service.service_id,
        tuple([priced_in(level, currency) for level in service.levels]),
        tuple(service.band_km),
        tuple(service.transit_days),
        sum(1 << day for day in set(service.delivery_days)),
        tuple(service.countries) if service.countries is not None else None,
        service.divisor_mm3_per_g,
        service.max_parcel_g,
        service.max_parcel_mm3,
        service.oversize_g or 0,
        tuple(service.tags),
        tuple(cards),
    )


def _services(carriers: list[Carrier | None]) -> list[ServiceSpec]:
    found = []
    for index, carrier in enumerate(carriers):
        for place, service in enumerate(carrier.services if carrier else ()):
            found += service_specs(index * SERVICES_PER_CARRIER + place, service)
    return found


def item_spec(item: Item) -> ItemSpec:
    """An item's master data; a missing dimension means that only weight counts."""
    volume = (item.length_mm or 0) * (item.width_mm or 0) * (item.height_mm or 0)
    return ItemSpec(item.weight_g, volume, item.ship_alone, tuple(item.tags), item.unit_value_minor, item.category)


class ItemFeed:
    """Keeps the item table in step with the catalogue: only documents that were replaced are compiled again."""

    def __init__(self) -> None:
        self.table = ItemTable()
        self._version = -1
        self._known: list[Item | None] = []

    def refresh(self, catalog: Catalog, compiled: Compiled) -> None:
        """Take what changed; a comparison where nothing did."""
        if self._version == catalog.items_version:
            return
        known = self._known
        known += [None] * (len(catalog.items) - len(known))
        for index, item in enumerate(catalog.items):
            if item is not known[index] and item is not None:
                known[index] = item
                self.table.put(index, item_spec(item), compiled.need(item.tags))
        self.table.settle()
        self._version = catalog.items_version


class ChannelRow:
    """What planning needs of a channel."""

    __slots__ = ("atomic", "centre", "late_minor", "levels", "promise_days", "transit_bp")

    def __init__(self, channel: Channel, compiled: Compiled) -> None:
        centre = channel.demand_centre
        self.centre = (centre.country, centre.postal_code, centre.lat, centre.lon)
        self.promise_days = dict(channel.promise_days)
        self.late_minor = channel.late_day_minor
        self.transit_bp = channel.transit_day_bp
        self.atomic = ON_SHORT[channel.on_short] == OnShort.REFUSE
        ending = priced_in("", channel.currency)
        self.levels = {
            level.removesuffix(ending): rows for level, rows in compiled.level_of.items() if level.endswith(ending)
        }
        """(first, count) of the services of each level that are priced in the channel's currency, see Compiled.level_of."""


class NetworkView:
    """The compiled network of one configuration, with destinations and channels."""

    def __init__(self, catalog: Catalog) -> None:
        nodes = [node_spec(node) if node else None for node in catalog.nodes]
        channels = [channel.channel_id if channel else None for channel in catalog.channels]
        self.compiled = Compiled(nodes, channels, _services(catalog.carriers))
        self.channels = [ChannelRow(channel, self.compiled) if channel else None for channel in catalog.channels]
        self.destinations = Destinations(_areas(catalog))
        self.sphere = sphere(self.compiled.lat, self.compiled.lon)
        self.node_places = [
            (node.country, node.postal_code, node.lat, node.lon) if node else ("", "", None, None)
            for node in catalog.nodes
        ]
        self.stale: U8 = np.zeros(max(1, len(nodes)), np.uint8)
        self._watched = [(n, node) for n, node in enumerate(catalog.nodes) if node and is_watched(node)]
        self._stale_at = (-1, 0)
        """(counts heard of, instant) that `stale` was made with."""

    def refresh_stale(self, state: ShardState, now_ms: int) -> None:
        """Mark nodes whose newest count is older than they allow: anew when there was a count, else once a second."""
        counts, then_ms = self._stale_at
        if self._watched and (counts != state.counts_heard or not 0 <= now_ms - then_ms < STALE_AGAIN_MS):
            self._stale_at = (state.counts_heard, now_ms)
            for n, node in self._watched:
                self.stale[n] = _STALE_OF[lateness(node, newest_count_ms(state, n), now_ms)]
            self.compiled.keep_back(bool((self.stale == STALE_SAFETY).any()))


def _areas(catalog: Catalog) -> dict[str, Point]:
    """Points of postal areas that nodes and channel centres lie in: the mean of those in one area."""
    sums: dict[str, tuple[float, float, int]] = {}
    places = [(n.country, n.postal_code, n.lat, n.lon) for n in catalog.nodes if n]
    for channel in catalog.channels:
        if channel and channel.demand_centre.lat is not None and channel.demand_centre.lon is not None:
            centre = channel.demand_centre
            places.append((centre.country, centre.postal_code, channel.demand_centre.lat, channel.demand_centre.lon))
    for country, postal_code, lat, lon in places:
        code = "".join(c for c in postal_code.upper() if c.isalnum())
        for key in {f"{country} {code}", f"{country} {code[:3]}"}:
            total_lat, total_lon, count = sums.get(key, (0.0, 0.0, 0))
            sums[key] = (total_lat + lat, total_lon + lon, count + 1)
    return {key: Point(lat / count, lon / count) for key, (lat, lon, count) in sums.items()}
