"""Examples of the OpenAPI document; tests check them against the schemas."""

from __future__ import annotations

from typing import Any

from gateway.orders.examples import LEG, ORDER, SMALL

_LEG = {key: value for key, value in LEG.items() if key not in ("leg_id", "state", "cost_parts")}
_ASKED = {key: value for key, value in ORDER.items() if key not in ("order_id", "service", "placed_at", "customer_id")}
QUOTES = {
    "basket": {"summary": "A basket, before there is an order id", "value": _ASKED},
    "stores": {
        "summary": "With up to two stores where it could be collected",
        "value": {**_ASKED, "pickup": {"limit": 2, "radius_km": 25}},
    },
    "short": {"summary": "Valid for two minutes at most", "value": {**SMALL, "ttl_s": 120}},
}
_STANDARD: dict[str, Any] = {
    "option_id": "standard",
    "service": "standard",
    "cheapest": True,
    "fastest": False,
    "best": True,
    "ship_by": "2026-12-01T22:00:00Z",
    "deliver_by": "2026-12-04T04:59:59Z",
    "cost_minor": 1234,
    "cost_parts": LEG["cost_parts"],
    "service_minor": 0,
    "policy_minor": 0,
    "opportunity_minor": 190,
    "score": 1424,
    "fills_all": True,
    "unfilled": [],
    "legs": [_LEG],
    "rung": "separable",
}
_EXPRESS: dict[str, Any] = {
    **_STANDARD,
    "option_id": "express",
    "service": "express",
    "cheapest": False,
    "fastest": True,
    "best": False,
    "deliver_by": "2026-12-03T04:59:59Z",
    "cost_minor": 2310,
    "cost_parts": {**LEG["cost_parts"], "parcels_minor": 2010},
    "score": 2500,
    "legs": [{**_LEG, "service": "air", "deliver_by": "2026-12-03T04:59:59Z", "cost_minor": 2310}],
}
QUOTE: dict[str, Any] = {
    "quote_id": "quo_US100_mAHPAAABnLz7E4DPAAABnL0Iz4DECGT1Yw",
    "valid_until": "2026-12-01T18:15:00Z",
    "currency": "USD",
    "channel": "web",
    "options": [_STANDARD, _EXPRESS],
    "decision": {
        "shard": 0,
        "epoch": 1,
        "seq": 4711,
        "config_version": 96,
        "quoted_at": "2026-12-01T18:00:00Z",
        "services_planned": 2,
        "services_left_out": 0,
    },
    "token": "0:1:4711",
}
