"""Drawn orders as the public client sends them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import quartermaster_client as qm
from loadtests.network import Network
from loadtests.traffic import Order


def order_of(network: Network, drawn: Order, order_id: str, **fields: Any) -> qm.Order:
    """`fields`: more of qm.Order."""
    place = network.places.rows[drawn.place]
    return qm.Order(
        order_id=order_id,
        channel=drawn.channel,
        service=drawn.service,
        placed_at=datetime.now(UTC),
        customer_id=f"C-{drawn.customer:07d}",
        ship_to=qm.ShipTo(country="US", region=place.region, postal_code=place.postal_code, residential=True),
        lines=[
            qm.OrderLine(
                line_id=str(n),
                sku=network.items[item].sku,
                quantity=units,
                unit_price_minor=network.items[item].unit_value_minor,
            )
            for n, (item, units) in enumerate(drawn.lines, 1)
        ],
        **fields,
    )
