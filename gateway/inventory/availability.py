"""GET /v1/availability: answered from this gateway's view of all stock, or by the owners where `consistency=strict` is asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from engine.domain.orders import Destination
from engine.domain.replies import Problem
from engine.protocol.tokens import parse_token
from gateway.call import Answer, Call
from gateway.countries import COUNTRIES
from gateway.errors import problem, refuse
from gateway.inventory.schemas import Availability, AvailabilityQuery, SkuTotal
from gateway.inventory.stock import Points, Stocks, Wanted, stock_now, stock_of
from gateway.orders.schemas import METHODS
from gateway.schemas import query_of


def availability(call: Call) -> Answer | Problem | Awaitable[Answer | Problem]:
    query = query_of(call, AvailabilityQuery)
    skus = tuple(query.sku)
    if len(skus) > 1 and len(set(skus)) != len(skus):
        return refuse("invalid_field", "/sku", "a SKU is named twice", parameter="sku")
    channel = channel_asked(call, query.channel)
    if isinstance(channel, Problem):
        return channel
    if query.node_id is not None and query.node_id not in call.gateway.cluster.catalog.node_of:
        return refuse("unknown_node", "/node_id", f"no node {query.node_id!r}", parameter="node_id")
    ship_to = _destination(query)
    if isinstance(ship_to, Problem):
        return ship_to
    token = call.after()
    after = parse_token(token) if token is not None else None
    wanted = Wanted(skus, query.node_id, channel, METHODS[query.method], ship_to)
    strict = query.consistency == "strict" or ship_to is not None
    stocks = stock_now(call.gateway, wanted, after) if not strict else None
    if stocks is not None:
        return shown(skus, stocks)
    return _waited(call, wanted, after, strict=strict)


def _destination(query: AvailabilityQuery) -> Destination | Problem | None:
    """Where the units are to be sent; None = anywhere."""
    if query.postal_code is None and query.lat is None and query.lon is None:
        if query.country is None:
            return None
        detail = "a country alone is no place: name a postal code, or lat and lon, with it"
        return refuse("invalid_field", "/postal_code", detail, parameter="postal_code")
    if query.method != "ship":
        detail = "only what is shipped goes to a destination; stores near a place: /v1/availability/stores"
        return refuse("invalid_field", "/method", detail, parameter="method")
    country = query.country or "US"
    if query.country is None and query.lat is not None:  # which carriers go there depends on it
        return refuse("invalid_field", "/country", "lat and lon need the country that they lie in", parameter="country")
    if country not in COUNTRIES:
        return refuse("invalid_field", "/country", f"{country} is not a country (ISO 3166-1)", parameter="country")
    return half_a_point(query.lat, query.lon) or Destination(
        country, query.postal_code or "", lat=query.lat, lon=query.lon
    )


def half_a_point(lat: float | None, lon: float | None) -> Problem | None:
    if (lat is None) == (lon is None):
        return None
    missing = "lon" if lon is None else "lat"
    return refuse("invalid_field", f"/{missing}", "lat and lon go together", parameter=missing)


def channel_asked(call: Call, channel: str | None) -> str | Problem | None:
    """The channel that a read is about: the one named, or the only one of the key; None = any."""
    principal = call.principal
    if channel is None and principal.channels is not None:
        if len(principal.channels) != 1:
            return problem("forbidden", "this key is for some channels only: name one of them in `channel`")
        [channel] = principal.channels
    if channel is not None:
        if not principal.may_channel(channel):
            return problem("forbidden", f"this key is not for channel {channel!r}")
        if channel not in call.gateway.cluster.catalog.channel_of:
            return refuse("unknown_channel", "/channel", f"no channel {channel!r}", parameter="channel")
    return channel


async def _waited(call: Call, wanted: Wanted, after: Points | None, *, strict: bool) -> Answer | Problem:
    stocks = await stock_of(call.gateway, wanted, after=after, strict=strict)
    return stocks if isinstance(stocks, Problem) else shown(wanted.skus, stocks)


def shown(skus: Sequence[str], stocks: Stocks) -> Answer:
    totals = dict.fromkeys(skus, 0)
    for position in stocks.positions:
        totals[position.sku] += position.available_to_promise
    sums = [SkuTotal(sku, units) for sku, units in totals.items()]
    return Answer(Availability(stocks.positions, sums, stocks.as_of, stocks.token))
