"""Files of invoices as items and as orders of the API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from engine.cli.formats.online_retail import COLUMNS, REQUIRED, Basket, Report, read_baskets
from engine.cli.formats.own import DocumentRow, OrderRow
from engine.cli.formats.table import BadRow, FormatError, header_of, plain_name

Draw = Callable[[float], dict[str, Any]]
"""Destination (the API's `ship_to`) at a quantile in [0, 1)."""


def is_invoices(path: Path) -> bool:
    """Whether the header is one of invoices."""
    there = {plain_name(name) for name in header_of(path)}
    return all(there & {plain_name(name), *(plain_name(other) for other in COLUMNS[name])} for name in REQUIRED)


def read_products(path: Path) -> Iterator[DocumentRow | BadRow]:
    """Every product that was sold, once, with the price of its first sale as its value. Weights are not in such files."""
    seen: set[str] = set()
    for basket in read_baskets(path, Report()):
        if isinstance(basket, BadRow):
            yield basket
            continue
        for line in basket.lines:
            if line.sku not in seen:
                seen.add(line.sku)
                document = {"sku": line.sku, "unit_value_minor": line.price_minor}
                yield DocumentRow(basket.line, line.sku, document)


def read_invoice_orders(
    path: Path, report: Report, *, population: Path | None = None, on_short: str = "refuse", channel: str = "web"
) -> Iterator[OrderRow | BadRow]:
    """Baskets as orders; destinations by population. Raises FormatError where the population cannot be used."""
    draw = destinations(population)
    for basket in read_baskets(path, report):
        yield basket if isinstance(basket, BadRow) else basket_order(basket, draw, on_short=on_short, channel=channel)


def basket_order(basket: Basket, draw: Draw, *, on_short: str, channel: str = "web", order_id: str = "") -> OrderRow:
    """One basket in the API's shape. Prices are read as minor units of the channel's currency."""
    body: dict[str, Any] = {
        "order_id": order_id or basket.order_id,
        "channel": channel,
        "service": "standard",
        "placed_at": basket.placed_at.isoformat().replace("+00:00", "Z"),
        "ship_to": draw(quantile(basket)),
        "on_short": on_short,
        "lines": [
            {"line_id": str(n), "sku": line.sku, "quantity": line.quantity, "unit_price_minor": line.price_minor}
            for n, line in enumerate(basket.lines, 1)
        ],
    }
    if basket.customer:
        body["customer_id"] = basket.customer
    return OrderRow(basket.line, body["order_id"], body)


def quantile(basket: Basket) -> float:
    """A number in [0, 1) that is the same for a customer each time; a guest's is that of the invoice."""
    who = f"customer {basket.customer}" if basket.customer else f"invoice {basket.order_id}"
    return int.from_bytes(blake2b(who.encode(), digest_size=6).digest(), "big") / (1 << 48)


def destinations(population: Path | None) -> Draw:
    """Draws by real population where a file is given, else by the density of ZIP codes."""
    import numpy as np

    from engine.cli.formats.us_network import PopulationRow, read_population
    from loadtests.places import us_places

    places = us_places()
    if population is not None:
        people = {row.postal_code: row.people for row in read_population(population) if isinstance(row, PopulationRow)}
        try:
            places = places.reweighted(people)
        except ValueError as error:
            raise FormatError(f"{population}: {error}") from error

    def draw(at: float) -> dict[str, Any]:
        place = places.rows[int(places.pick(np.array([at]))[0])]
        return {"country": "US", "postal_code": place.postal_code, "region": place.region}

    return draw
