"""Configuration documents: items, nodes, channels, carriers, keys, and the placement map.

They are journaled by the control shard and pushed, by version, to every shard and gateway. Each document gets a small
integer index at its first appearance that is never used again for another one; journals and columns store the index.
Field names carry units; money is integer minor units of the deployment's currency. Patterns end in `$(?!\\n)`: in Python `$`
alone also matches before a last newline.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

# `$` also matches before a last line feed; `(?!\n)` says that there is none, in Python as in JSON Schema.
Id = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[!-~][ -~]*$(?!\n)")]
Text = Annotated[str, Meta(max_length=200)]
Tag = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[a-z0-9_]+$(?!\n)")]
Country = Annotated[str, Meta(pattern=r"^[A-Z]{2}$(?!\n)")]
PostalCode = Annotated[str, Meta(min_length=1, max_length=12, pattern=r"^[0-9A-Za-z][0-9A-Za-z -]*$(?!\n)")]
Count = Annotated[int, Meta(ge=0, le=2_000_000_000)]
Positive = Annotated[int, Meta(ge=1, le=2_000_000_000)]
MoneyMinor = Annotated[int, Meta(ge=0, le=1_000_000_000_000)]
BasisPoints = Annotated[int, Meta(ge=0, le=100_000)]
Clock = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$(?!\n)")]
Day = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$(?!\n)")]


class Document(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all documents."""


class Component(Document, kw_only=True):
    sku: Id
    quantity: Positive


class Item(Document, kw_only=True):
    """Master data of a SKU. A missing weight takes the category default and is marked assumed in decisions."""

    sku: Id
    name: Text = ""
    category: Text = ""
    weight_g: Count | None = None
    length_mm: Count | None = None
    width_mm: Count | None = None
    height_mm: Count | None = None
    ship_alone: bool = False
    tags: Annotated[list[Tag], Meta(max_length=16)] = []
    components: Annotated[list[Component], Meta(max_length=50)] = []
    unit_value_minor: MoneyMinor = 0
    margin_bp: BasisPoints = 3_000
    tracked: bool = True


class NodeCapacity(Document, kw_only=True):
    """What a node can ship on a local day. Hard: the order takes the next ship day; soft: each unit over costs money."""

    unit: Literal["orders", "lines", "units"] = "orders"
    per_day: Count
    hard: bool = True
    over_price_minor: MoneyMinor = 0


class Node(Document, kw_only=True):
    """A place that can fulfil."""

    node_id: Id
    name: Text = ""
    kind: Literal["warehouse", "store", "3pl", "supplier"] = "warehouse"
    country: Country = "US"
    region: Text = ""
    postal_code: PostalCode
    lat: Annotated[float, Meta(ge=-90, le=90)]
    lon: Annotated[float, Meta(ge=-180, le=180)]
    time_zone: Annotated[str, Meta(max_length=64)] = "UTC"
    working_days: Annotated[tuple[Annotated[int, Meta(ge=0, le=6)], ...], Meta(max_length=7)] = (0, 1, 2, 3, 4)
    """0 = Monday."""
    holidays: Annotated[list[Day], Meta(max_length=400)] = []
    cut_off: Clock = "15:00"
    cut_off_by_service: dict[Id, Clock] = {}
    processing_minutes: Annotated[int, Meta(ge=0, le=100_000)] = 0
    waves: Annotated[list[Clock], Meta(max_length=48)] = []
    """Local times at which allocated legs are released, on working days; none = they are released by hand."""
    acceptance_deadline_s: Positive | None = None
    """Seconds from the release of a leg until it must be accepted: after that it goes to the next node. None = no deadline."""
    capacity: NodeCapacity | None = None
    handling_line_minor: MoneyMinor = 0
    handling_unit_minor: MoneyMinor = 0
    surcharge_minor: MoneyMinor = 0
    offers: Annotated[tuple[Tag, ...], Meta(max_length=32)] = ("ship",)
    """Methods it serves (ship, pickup, ship_to_store) and handling tags it can take (hazmat, oversize, cold...)."""
    channels: Annotated[list[Id], Meta(max_length=200)] | None = None
    """Channels it serves; None = all."""
    state: Literal["on", "drain", "off"] = "on"
    """drain: takes nothing new, finishes what it has. off: begins nothing either; its unreleased legs are served from elsewhere,
    and what finds no other node waits as demand."""
    max_feed_age_s: Count | None = None
    on_stale: Literal["serve", "extra_safety", "exclude"] = "serve"
    safety_by_method: dict[Tag, Count] = {}
    pickup_ready_minutes: Annotated[int, Meta(ge=0, le=100_000)] = 60
    """From the order (of a node with waves: from its next wave), or from the opening after it, until goods that lie at this node can be collected."""
    pickup_opens: Clock = "09:00"
    pickup_closes: Clock = "18:00"
    """Local hours in which goods are made ready and handed to customers."""
    pickup_days: Annotated[tuple[Annotated[int, Meta(ge=0, le=6)], ...], Meta(max_length=7)] | None = None
    """Days on which customers collect, 0 = Monday; None = the working days. Holidays are never among them."""


class Place(Document, kw_only=True):
    country: Country = "US"
    postal_code: PostalCode
    lat: Annotated[float, Meta(ge=-90, le=90)] | None = None
    lon: Annotated[float, Meta(ge=-180, le=180)] | None = None


class Channel(Document, kw_only=True):
    """A way in: a storefront, a marketplace, a brand. `demand_centre` stands in for a missing destination."""

    channel_id: Id
    name: Text = ""
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)")] = "USD"
    demand_centre: Place
    promise_days: dict[Id, Annotated[int, Meta(ge=0, le=60)]] = {}
    """Business days promised by service level; a later delivery costs `late_day_minor` a day."""
    late_day_minor: MoneyMinor = 500
    transit_day_bp: BasisPoints = 45
    """Money a day in transit is worth, in basis points of the order's value (margin x 1.5 % a day by default)."""
    max_legs: Annotated[int, Meta(ge=1, le=16)] = 3
    on_short: Literal["refuse", "partial", "park"] = "refuse"
    auto_cancel_s: Count = 0
    """Units of unpaid orders that have waited so long for stock are cancelled; 0 = never. An order may name its own date."""


class RateCard(Document, kw_only=True):
    """Prices of one carrier service from a day on: `price_minor[zone][break]`, weight breaks are upper bounds."""

    effective_from: Day = "1970-01-01"
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)")] = "USD"
    break_g: Annotated[list[Positive], Meta(min_length=1, max_length=100)]
    price_minor: Annotated[list[Annotated[list[MoneyMinor], Meta(min_length=1, max_length=100)]], Meta(min_length=1)]
    minimum_minor: MoneyMinor = 0
    fuel_bp: BasisPoints = 0
    residential_minor: MoneyMinor = 0
    oversize_minor: MoneyMinor = 0
    peak_minor: MoneyMinor = 0


class CarrierService(Document, kw_only=True):
    """One product of a carrier. Zone = the first distance band that reaches; no band reaches = not served."""

    service_id: Id
    levels: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=8)] = ("standard",)
    """Service levels of orders that it may serve."""
    band_km: Annotated[list[Positive], Meta(min_length=1, max_length=32)]
    transit_days: Annotated[list[Annotated[int, Meta(ge=0, le=90)]], Meta(min_length=1, max_length=32)]
    """Working days by zone; same length as `band_km`."""
    delivery_days: Annotated[tuple[Annotated[int, Meta(ge=0, le=6)], ...], Meta(min_length=1, max_length=7)] = (
        0,
        1,
        2,
        3,
        4,
    )
    countries: Annotated[list[Country], Meta(max_length=250)] | None = None
    divisor_mm3_per_g: Annotated[int, Meta(ge=1)] = 5_000
    max_parcel_g: Positive = 30_000
    max_parcel_mm3: Annotated[int, Meta(ge=1)] = 150_000_000
    oversize_g: Positive | None = None
    tags: Annotated[list[Tag], Meta(max_length=32)] = []
    """Handling tags it carries; an item that needs another one cannot travel with it."""
    cards: Annotated[list[RateCard], Meta(min_length=1, max_length=50)]


class Carrier(Document, kw_only=True):
    carrier_id: Id
    name: Text = ""
    services: Annotated[list[CarrierService], Meta(min_length=1, max_length=50)]


class ApiKey(Document, kw_only=True):
    """A key by its hash; the secret is shown once, by the command that made it."""

    key_id: Annotated[str, Meta(pattern=r"^[0-9a-z]{4,32}$(?!\n)")]
    name: Text = ""
    secret_sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
    scopes: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=64)]
    channels: Annotated[list[Id], Meta(max_length=200)] | None = None
    expires_at_ms: int | None = None
    revoked: bool = False


class Move(Document, kw_only=True):
    """One part on its way between shards (engine.protocol.moves). The control shard alone begins, ends and gives it up."""

    move_id: Annotated[int, Meta(ge=1)]
    part: Annotated[str, Meta(max_length=80)]
    """slot:US100, node:N-1 or band:0."""
    source: Annotated[int, Meta(ge=0, le=249)]
    target: Annotated[int, Meta(ge=0, le=249)]


class Placement(Document, kw_only=True):
    """Owner shard of every node and slot. A slot not listed belongs to the band of its postal prefix (see placement.py).

    Changed by moves (decide_moves.py), never by an edit.
    """

    shard_count: Annotated[int, Meta(ge=1, le=250)]
    """Shards that were ever made; their numbers are not used again."""
    nodes: dict[Id, int] = {}
    slots: dict[str, int] = {}
    bands: Annotated[int, Meta(ge=0, le=250)] = 0
    """Ranges that unlisted slots fall into; 0 = as many as there are shards. Fixed by the first added shard."""
    band_owner: dict[str, int] = {}
    """Shard by number of a band that no longer belongs to the shard of its own number."""
    moving: Move | None = None
    joining: Annotated[list[int], Meta(max_length=250)] = []
    """Shards that are being started: nobody asks them yet."""
    ended: Annotated[list[int], Meta(max_length=250)] = []
    """Shards that gave everything away and ended; their journals are kept."""


class Secret(Document, kw_only=True):
    """Random bytes that processes of the deployment share and nobody else is shown: what quotes are sealed with."""

    secret_id: Id
    value: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


QUOTE_SECRET = "quotes"  # noqa: S105 (its name)
"""The secret that quotes are sealed with."""
KINDS: dict[str, type[Document]] = {
    "item": Item,
    "node": Node,
    "channel": Channel,
    "carrier": Carrier,
    "key": ApiKey,
    "placement": Placement,
    "secret": Secret,
}
KEY_FIELD = {
    "item": "sku",
    "node": "node_id",
    "channel": "channel_id",
    "carrier": "carrier_id",
    "key": "key_id",
    "placement": "",
    "secret": "secret_id",
}
"""The field that names a document; the placement map is a single one, named ''."""
