"""Examples of the OpenAPI document; tests check them against the schemas."""

from __future__ import annotations

from typing import Any

from gateway.orders.examples import ALLOCATION

_TAIL = ALLOCATION["allocation_id"].removeprefix("alc_")
DEMAND_LINE: dict[str, Any] = {
    "demand_id": f"dem_{_TAIL}_0",
    "allocation_id": ALLOCATION["allocation_id"],
    "order_id": ALLOCATION["order_id"],
    "line_id": "1",
    "sku": "SKU-1",
    "quantity": 1,
    "state": "parked",
    "reason": "out_of_stock",
    "priority": 0,
    "ahead": 3,
    "channel": "web",
    "customer_id": "C-7",
    "since": "2026-12-01T18:00:01.250Z",
    "cancel_at": "2026-12-08T18:00:01.250Z",
    "next_try_at": None,
}
DEMAND_PAGE: dict[str, Any] = {"data": [DEMAND_LINE], "next_cursor": "MTc5NjE2LTEyMy0w", "has_more": True}
PRIORITISE: dict[str, Any] = {"urgent": {"summary": "Five levels up", "value": {"priority": 5}}}
CANCELS: dict[str, Any] = {"plain": {"summary": "The customer waits no longer", "value": {"reason": "customer"}}}
LOG_PAGE: dict[str, Any] = {
    "data": [
        {
            "at": "2026-12-01T18:00:01.250Z",
            "outcome": "refused",
            "sku": "SKU-1",
            "channel": "web",
            "region": "US100",
            "quantity": 2,
            "waited_s": 0,
        }
    ],
    "next_cursor": "MC4zLjE3",
    "has_more": False,
    "lost": False,
}
