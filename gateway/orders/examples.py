"""Examples of the OpenAPI document; tests check them against the schemas."""

from __future__ import annotations

from typing import Any

ORDER: dict[str, Any] = {
    "order_id": "A-1001",
    "channel": "web",
    "service": "standard",
    "placed_at": "2026-12-01T18:00:00Z",
    "customer_id": "C-7",
    "ship_to": {"country": "US", "region": "NY", "postal_code": "10001", "residential": True},
    "lines": [
        {"line_id": "1", "sku": "SKU-1", "quantity": 2, "unit_price_minor": 2500, "method": "ship"},
        {"line_id": "2", "sku": "SKU-2", "quantity": 1, "unit_price_minor": 900},
    ],
    "currency": "USD",
    "on_short": "refuse",
}
SMALL: dict[str, Any] = {
    "order_id": "A-1002",
    "channel": "web",
    "ship_to": {"country": "US", "postal_code": "94107"},
    "lines": [{"line_id": "1", "sku": "SKU-1", "quantity": 1}],
}
COLLECTED: dict[str, Any] = {
    "order_id": "A-1003",
    "channel": "web",
    "ship_to": {"country": "US", "postal_code": "10001"},
    "lines": [
        {"line_id": "1", "sku": "SKU-1", "quantity": 1, "method": "pickup", "pickup_node_id": "ST-9"},
        {"line_id": "2", "sku": "SKU-2", "quantity": 1, "method": "ship_to_store", "pickup_node_id": "ST-9"},
        {"line_id": "3", "sku": "SKU-3", "quantity": 1},
    ],
}
ORDERS = {
    "order": {"summary": "Two lines, shipped", "value": ORDER},
    "smallest": {"summary": "The least", "value": SMALL},
    "collected": {"summary": "Collected at a store, sent to it, and shipped", "value": COLLECTED},
}
_TAIL = "US100_0061d3v80g5z0"
LEG: dict[str, Any] = {
    "leg_id": f"leg_{_TAIL}_1",
    "node_id": "NJ-1",
    "state": "allocated",
    "lines": [{"line_id": "1", "sku": "SKU-1", "quantity": 2}, {"line_id": "2", "sku": "SKU-2", "quantity": 1}],
    "carrier": "parcelco",
    "service": "ground",
    "parcels": 1,
    "ship_by": "2026-12-01T22:00:00Z",
    "deliver_by": "2026-12-04T04:59:59Z",
    "cost_minor": 1234,
    "cost_parts": {
        "parcels_minor": 934,
        "handling_lines_minor": 200,
        "handling_units_minor": 100,
        "node_surcharge_minor": 0,
    },
}
ALLOCATION: dict[str, Any] = {
    "allocation_id": f"alc_{_TAIL}",
    "order_id": "A-1001",
    "state": "allocated",
    "channel": "web",
    "customer_id": "C-7",
    "legs": [LEG],
    "unfilled": [],
    "cost_minor": 1234,
    "service_minor": 0,
    "policy_minor": 0,
    "opportunity_minor": 190,
    "score": 1424,
    "currency": "USD",
    "promise": {"ship_by": "2026-12-01T22:00:00Z", "deliver_by": "2026-12-04T04:59:59Z"},
    "decision_id": f"dec_{_TAIL}_0",
    "rung": "separable",
    "version": 2,
    "token": "0:1:4711",
    "opened_at": "2026-12-01T18:00:00.250Z",
    "ship_to": {
        "country": "US",
        "postal_code": "10001",
        "region": "NY",
        "residential": True,
        "lat": None,
        "lon": None,
    },
    "lines": [
        {"line_id": "1", "sku": "SKU-1", "quantity": 2, "cancelled": 0, "method": "ship", "pickup_node_id": None},
        {"line_id": "2", "sku": "SKU-2", "quantity": 1, "cancelled": 0, "method": "ship", "pickup_node_id": None},
    ],
}
BATCHES = {
    "two": {
        "summary": "Two orders",
        "value": {"orders": [{**ORDER, "idempotency_key": "k-1"}, {**SMALL, "idempotency_key": "k-2"}]},
    }
}
OUT_OF_STOCK: dict[str, Any] = {
    "type": "/problems/out_of_stock",
    "title": "Not enough units are available to promise",
    "status": 409,
    "detail": "Not enough units are available to promise",
    "code": "out_of_stock",
    "errors": [
        {
            "pointer": "/lines/0",
            "detail": "not enough units are available to promise",
            "line_id": "1",
            "sku": "SKU-1",
            "requested": 2,
            "available_to_promise": 0,
            "unfilled": 2,
            "reason": "out_of_stock",
        }
    ],
    "request_id": "5d41402abc4b-2a",
}
BATCH_ANSWER: dict[str, Any] = {
    "results": [
        {"status": 201, "body": ALLOCATION, "replayed": False},
        {"status": 409, "problem": OUT_OF_STOCK, "replayed": False},
    ]
}
REPLANNED: dict[str, Any] = {
    **ALLOCATION,
    "legs": [
        {**LEG, "state": "cancelled", "lines": [], "end_reason": "edited"},
        {**LEG, "leg_id": f"leg_{_TAIL}_2", "node_id": "IL-2", "cost_minor": 1150},
    ],
    "cost_minor": 1150,
    "score": 1340,
    "decision_id": f"dec_{_TAIL}_1",
    "version": 3,
    "edit": {"cost_before_minor": 1234, "cost_change_minor": -84, "fixed_legs": []},
}
CANCELS = {
    "all": {"summary": "Everything that has not left", "value": {"reason": "customer changed their mind"}},
    "units": {"summary": "One unit of a line", "value": {"lines": [{"line_id": "1", "quantity": 1}]}},
}
CLEARED_HOLDS = {
    "all": {"summary": "Every reason", "value": {}},
    "one": {"summary": "The fraud check came back clean", "value": {"reasons": ["fraud"], "reason": "checked"}},
}
REPLANS = {
    "address": {"summary": "Another address", "value": {"ship_to": {"country": "US", "postal_code": "60601"}}},
    "lines": {
        "summary": "More of one line, another one added, a third removed",
        "value": {
            "lines": [{"line_id": "1", "quantity": 3}],
            "add_lines": [{"line_id": "4", "sku": "SKU-4", "quantity": 1, "unit_price_minor": 1200}],
            "remove_lines": ["2"],
            "on_short": "refuse",
            "reason": "changed by phone",
        },
    },
    "service": {"summary": "A faster service", "value": {"service": "express"}},
}
RESERVATIONS = {"hold": {"summary": "Hold for 15 minutes", "value": {**ORDER, "ttl_s": 900}}}
RESERVATION: dict[str, Any] = {
    "reservation_id": f"res_{_TAIL}",
    "order_id": "A-1001",
    "state": "held",
    "expires_at": "2026-12-01T18:15:00Z",
    "allocation_id": None,
    **{k: v for k, v in ALLOCATION.items() if k not in ("allocation_id", "order_id", "state")},
}
COMMITS = {
    "all": {"summary": "Everything held", "value": {}},
    "part": {"summary": "One unit; the rest is released", "value": {"lines": [{"line_id": "1", "quantity": 1}]}},
    "elsewhere": {
        "summary": "The customer changed the address",
        "value": {"ship_to": {"country": "US", "region": "IL", "postal_code": "60601"}},
    },
}
EXTENDS = {"longer": {"summary": "Ten more minutes", "value": {"ttl_s": 600}}}
