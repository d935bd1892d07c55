"""Examples of the OpenAPI document; tests check them against the schemas."""

from __future__ import annotations

from typing import Any

from gateway.orders.examples import ALLOCATION, LEG

ORDER_LEG: dict[str, Any] = {
    "leg_id": LEG["leg_id"],
    "order_id": ALLOCATION["order_id"],
    "allocation_id": ALLOCATION["allocation_id"],
    **{name: value for name, value in LEG.items() if name != "leg_id"},
    "tracking": [],
    "actual_cost_minor": None,
    "ready_at": None,
    "channel": ALLOCATION["channel"],
    "method": "ship",
    "pickup_node_id": None,
    "ship_to": ALLOCATION["ship_to"],
}
LEG_PAGE: dict[str, Any] = {"data": [ORDER_LEG], "next_cursor": "MTIzNDU2Nzg5LTE", "has_more": True}
LEG_ANSWER: dict[str, Any] = {"leg": ORDER_LEG, "allocation": ALLOCATION}
STEPS: dict[str, Any] = {"plain": {"summary": "Nothing to add", "value": {}}}
REJECTS: dict[str, Any] = {
    "empty_shelf": {
        "summary": "The shelf is empty",
        "value": {
            "reason": "not found on shelf",
            "lines": [{"line_id": "1", "quantity": 1}],
            "stock_effect": "zero_until_count",
        },
    }
}
SHIPMENTS: dict[str, Any] = {
    "parcel": {
        "summary": "One parcel",
        "value": {"parcels": 1, "tracking": ["1Z999AA10123456784"], "actual_cost_minor": 911},
    }
}
