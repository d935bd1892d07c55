"""Configuration documents, as typed structs. Fields at their default are left out, in both directions."""

from __future__ import annotations

from typing import Literal

from quartermaster_client.base import OnShort, Request


class Component(Request, kw_only=True):
    sku: str
    quantity: int


class Item(Request, kw_only=True):
    """Master data of a SKU. A missing weight takes the default of its category."""

    sku: str
    name: str = ""
    category: str = ""
    weight_g: int | None = None
    length_mm: int | None = None
    width_mm: int | None = None
    height_mm: int | None = None
    ship_alone: bool = False
    tags: list[str] = []
    components: list[Component] = []
    unit_value_minor: int = 0
    margin_bp: int = 3_000
    tracked: bool = True


class NodeCapacity(Request, kw_only=True):
    """What a node can ship on a local day. Hard: the next ship day; soft: each unit over costs `over_price_minor`."""

    unit: Literal["orders", "lines", "units"] = "orders"
    per_day: int
    hard: bool = True
    over_price_minor: int = 0


class Node(Request, kw_only=True):
    """A place that can fulfil. `working_days`: 0 = Monday. `offers`: methods it serves and handling tags it can take."""

    node_id: str
    name: str = ""
    kind: Literal["warehouse", "store", "3pl", "supplier"] = "warehouse"
    country: str = "US"
    region: str = ""
    postal_code: str
    lat: float
    lon: float
    time_zone: str = "UTC"
    working_days: tuple[int, ...] = (0, 1, 2, 3, 4)
    holidays: list[str] = []
    cut_off: str = "15:00"
    cut_off_by_service: dict[str, str] = {}
    processing_minutes: int = 0
    waves: list[str] = []
    acceptance_deadline_s: int | None = None
    capacity: NodeCapacity | None = None
    handling_line_minor: int = 0
    handling_unit_minor: int = 0
    surcharge_minor: int = 0
    offers: tuple[str, ...] = ("ship",)
    channels: list[str] | None = None
    state: Literal["on", "drain", "off"] = "on"
    max_feed_age_s: int | None = None
    on_stale: Literal["serve", "extra_safety", "exclude"] = "serve"
    safety_by_method: dict[str, int] = {}
    pickup_ready_minutes: int = 60
    pickup_opens: str = "09:00"
    pickup_closes: str = "18:00"
    pickup_days: tuple[int, ...] | None = None


class Place(Request, kw_only=True):
    country: str = "US"
    postal_code: str
    lat: float | None = None
    lon: float | None = None


class Channel(Request, kw_only=True):
    """A way in: a storefront, a marketplace, a brand. `demand_centre` stands in for a missing destination."""

    channel_id: str
    name: str = ""
    currency: str = "USD"
    demand_centre: Place
    promise_days: dict[str, int] = {}
    late_day_minor: int = 500
    transit_day_bp: int = 45
    max_legs: int = 3
    on_short: OnShort = "refuse"
    auto_cancel_s: int = 0
    """Waiting demand is cancelled after this long; 0 = never."""


class RateCard(Request, kw_only=True):
    """Prices of one carrier service from a day on: `price_minor[zone][break]`; weight breaks are upper bounds."""

    effective_from: str = "1970-01-01"
    currency: str = "USD"
    break_g: list[int]
    price_minor: list[list[int]]
    minimum_minor: int = 0
    fuel_bp: int = 0
    residential_minor: int = 0
    oversize_minor: int = 0
    peak_minor: int = 0


class CarrierService(Request, kw_only=True):
    """One product of a carrier. Zone = the first distance band that reaches."""

    service_id: str
    levels: tuple[str, ...] = ("standard",)
    band_km: list[int]
    transit_days: list[int]
    delivery_days: tuple[int, ...] = (0, 1, 2, 3, 4)
    countries: list[str] | None = None
    divisor_mm3_per_g: int = 5_000
    max_parcel_g: int = 30_000
    max_parcel_mm3: int = 150_000_000
    oversize_g: int | None = None
    tags: list[str] = []
    cards: list[RateCard]


class Carrier(Request, kw_only=True):
    carrier_id: str
    name: str = ""
    services: list[CarrierService]
