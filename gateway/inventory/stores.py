"""GET /v1/availability/stores: where a customer can collect, nearest first, what is there and when it would be ready."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from msgspec import Meta

from engine.domain.commands import FindStores
from engine.domain.config import Node
from engine.domain.replies import Problem, StoresReply, StoreView
from engine.protocol.tokens import make_token
from gateway.call import Answer, Call, Route
from gateway.cursors import decode_cursor, encode_cursor, is_number
from gateway.errors import problem, refuse
from gateway.inventory.availability import channel_asked, half_a_point
from gateway.inventory.schemas import AsOf, SkuTotal
from gateway.orders.routes import unexpected
from gateway.orders.schemas import METHODS
from gateway.schemas import Body, Country, Id, Latitude, Longitude, PostalCode, Quantity, Shown, query_of
from gateway.times import iso

SKUS_MAX = 100
STORES_MAX = 100
UNITS_SHOWN_MAX = 999
"""More than that is shown as that many: nobody collects more, and a shelf is nobody's business."""


class StoresQuery(Body, kw_only=True):
    """`quantity`: units of each `sku`, in the same order; without any, 1 of each."""

    sku: Annotated[list[Id], Meta(min_length=1, max_length=SKUS_MAX)]
    quantity: Annotated[list[Quantity], Meta(max_length=SKUS_MAX)] = []
    country: Country = "US"
    postal_code: PostalCode | None = None
    lat: Latitude | None = None
    lon: Longitude | None = None
    radius_km: Annotated[int, Meta(ge=1, le=20_040)] = 50
    method: Literal["pickup", "ship_to_store"] = "pickup"
    channel: Id | None = None
    in_stock: bool = False
    limit: Annotated[int, Meta(ge=1, le=STORES_MAX)] = 20
    cursor: Annotated[str, Meta(max_length=200)] | None = None


class Store(Shown):
    """A node that hands goods to customers. Hours are local, `days` 0 = Monday; holidays are counted in `ready_at`.

    `units`: what it could hand out of each SKU now, shown up to 999. `has_all`: it has every unit that was asked for; then
    `ready_at` is when an order that is placed now could be collected, null where it has no room within two years.
    """

    node_id: str
    name: str
    distance_km: float
    country: str
    region: str
    postal_code: str
    lat: float
    lon: float
    time_zone: str
    opens: str
    closes: str
    days: tuple[int, ...]
    units: list[SkuTotal]
    has_all: bool
    ready_at: str | None


class StoresPage(Shown):
    """Stores by distance, and which state of which shard they show."""

    data: list[Store]
    next_cursor: str | None
    has_more: bool
    as_of: list[AsOf]
    token: str


async def stores(call: Call) -> Answer | Problem:
    """Every shard answers for its own nodes; all sort by (metres, node id), so one cursor fits all."""
    query = query_of(call, StoresQuery)
    channel = channel_asked(call, query.channel)
    if isinstance(channel, Problem):
        return channel
    fault = _fault(query)
    if fault is not None:
        return fault
    after = _decode(query.cursor)
    if after is None:
        return problem("invalid_cursor")
    command = FindStores(
        tuple(zip(query.sku, query.quantity or [1] * len(query.sku), strict=True)),
        query.country,
        query.postal_code or "",
        query.lat,
        query.lon,
        query.radius_km,
        METHODS[query.method],
        channel,
        query.in_stock,
        after,
        query.limit,
    )
    asked_s = time.monotonic()
    found: list[StoreView] = []
    points: dict[int, tuple[int, int]] = {}
    more = False
    for reply in (await call.gateway.cluster.ask_all(command)).values():
        if type(reply) is not StoresReply:
            return unexpected(reply)
        found += reply.stores
        more = more or reply.more
        points[reply.shard] = (reply.epoch, reply.seq)
    age_ms = int((time.monotonic() - asked_s) * 1_000)
    found.sort(key=lambda store: (store.distance_m, store.node_id))
    more = more or len(found) > query.limit
    page = found[: query.limit]
    catalog = call.gateway.cluster.catalog
    wanted = command.wanted
    data = [
        _shown(view, node, wanted)
        for view in page
        if (index := catalog.node_of.get(view.node_id)) is not None  # news to this gateway: the next look has it
        and (node := catalog.nodes[index]) is not None
    ]
    cursor = _encode(page[-1]) if more and page else None
    as_of = [AsOf(shard, *points[shard], age_ms) for shard in sorted(points)]
    return Answer(StoresPage(data, cursor, cursor is not None, as_of, make_token(points)))


def _fault(query: StoresQuery) -> Problem | None:
    """What no type can say about a query."""
    if len(set(query.sku)) != len(query.sku):
        return refuse("invalid_field", "/sku", "a SKU is named twice", parameter="sku")
    if query.quantity and len(query.quantity) != len(query.sku):
        detail = f"{len(query.quantity)} quantities for {len(query.sku)} SKUs: name one for each, or none"
        return refuse("invalid_field", "/quantity", detail, parameter="quantity")
    fault = half_a_point(query.lat, query.lon)
    if fault is not None:
        return fault
    if query.lat is None and query.postal_code is None:
        return refuse(
            "invalid_field", "/postal_code", "near what: a postal_code, or lat and lon", parameter="postal_code"
        )
    return None


def _shown(view: StoreView, node: Node, wanted: tuple[tuple[str, int], ...]) -> Store:
    units = [SkuTotal(sku, min(have, UNITS_SHOWN_MAX)) for have, (sku, _) in zip(view.units, wanted, strict=True)]
    return Store(
        node.node_id,
        node.name,
        round(view.distance_m / 1_000, 1),
        node.country,
        node.region,
        node.postal_code,
        node.lat,
        node.lon,
        node.time_zone,
        node.pickup_opens,
        node.pickup_closes,
        node.working_days if node.pickup_days is None else node.pickup_days,
        units,
        all(have >= need for have, (_, need) in zip(view.units, wanted, strict=True)),
        iso(view.ready_at_ms),
    )


def _encode(last: StoreView) -> str:
    return encode_cursor(f"{last.distance_m}:{last.node_id}")


def _decode(cursor: str | None) -> tuple[int, str] | None:
    """(metres, node id) of the last store shown, (-1, "") for the beginning; None = it is no cursor of ours."""
    if not cursor:
        return (-1, "")
    text = decode_cursor(cursor)
    if text is None:
        return None
    metres, _, node_id = text.partition(":")
    if not (is_number(metres, 9) and node_id):
        return None
    return (int(metres), node_id)


STORES_PAGE: dict[str, Any] = {
    "data": [
        {
            "node_id": "STORE-12",
            "name": "Union Square",
            "distance_km": 1.8,
            "country": "US",
            "region": "NY",
            "postal_code": "10003",
            "lat": 40.7359,
            "lon": -73.9911,
            "time_zone": "America/New_York",
            "opens": "09:00",
            "closes": "18:00",
            "days": [0, 1, 2, 3, 4, 5],
            "units": [{"sku": "SKU-1", "available_to_promise": 4}],
            "has_all": True,
            "ready_at": "2026-12-01T19:30:00Z",
        }
    ],
    "next_cursor": "MTgwMDpTVE9SRS0xMg",
    "has_more": True,
    "as_of": [{"shard": 0, "epoch": 3, "seq": 4712, "age_ms": 1}],
    "token": "0:3:4712",
}
ROUTE = Route(
    "GET",
    "/v1/availability/stores",
    "inventory:read",
    stores,
    "Stores near a place, by distance",
    "inventory",
    "Nodes that offer the method, are on and serve the channel, nearest first, each with its units and the time at which an order "
    "placed now could be collected: opening hours, days, holidays, preparation and the capacity of the day are counted in. "
    "A kit counts whole kits. Shards answer for their own nodes; nothing is held, so an order may still be refused. `in_stock=true` "
    "leaves out stores that lack something; with `method=ship_to_store` those are the ones that goods would be sent to first.",
    query=StoresQuery,
    answer=StoresPage,
    problems=("unknown_sku", "unknown_channel", "unknown_destination", "invalid_cursor"),
    answer_example=STORES_PAGE,
)
