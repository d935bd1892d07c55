"""Examples of the OpenAPI document; tests check them against the schemas."""

from __future__ import annotations

from typing import Any

from gateway.legs import examples as legs
from gateway.orders.examples import ALLOCATION

_TAIL = ALLOCATION["allocation_id"].removeprefix("alc_")
_AS_OF: list[dict[str, Any]] = [
    {"shard": "0", "epoch": 3, "seq": 4712, "at": "2026-12-01T18:00:01.250Z", "complete": True}
]
_PAGE: dict[str, Any] = {"next_cursor": None, "has_more": False, "as_of": _AS_OF}
ALLOCATIONS: dict[str, Any] = {"data": [ALLOCATION], **_PAGE}
LEGS: dict[str, Any] = {"data": legs.LEG_PAGE["data"], **_PAGE}
DECISIONS: dict[str, Any] = {
    "data": [
        {
            "decision_id": f"dec_{_TAIL}_0",
            "allocation_id": ALLOCATION["allocation_id"],
            "order_id": ALLOCATION["order_id"],
            "channel": "web",
            "number": 0,
            "rung": "separable",
            "decided_at": "2026-12-01T18:00:01.250Z",
        }
    ],
    **_PAGE,
}
EXCEPTIONS: dict[str, Any] = {
    "data": [
        {
            "kind": "duplicate_order",
            "order_id": ALLOCATION["order_id"],
            "channel": "web",
            "is_open": False,
            "order": {
                "allocation_id": "alc_US900_0sd8q4kmg0g00",
                "reservation_id": None,
                "state": "cancelled",
                "opened_at": "2026-12-01T18:00:01.700Z",
                "ended_at": "2026-12-01T18:00:02.100Z",
            },
            "first": {
                "allocation_id": ALLOCATION["allocation_id"],
                "reservation_id": None,
                "state": "allocated",
                "opened_at": "2026-12-01T18:00:01.250Z",
                "ended_at": None,
            },
        }
    ],
    **_PAGE,
}
MOVEMENTS: dict[str, Any] = {
    "data": [
        {
            "at": "2026-12-01T18:00:01.250Z",
            "kind": "allocated",
            "on_hand": 0,
            "held": 0,
            "allocated": 2,
            "balance_on_hand": 47,
            "balance_held": 0,
            "balance_allocated": 2,
            "order_id": ALLOCATION["order_id"],
            "allocation_id": ALLOCATION["allocation_id"],
            "note": None,
            "entry": "0:4712",
        }
    ],
    **_PAGE,
}
REASONS: dict[str, Any] = {
    "data": [
        {
            "at": "2026-12-01T18:20:07.004Z",
            "kind": "leg_rejected",
            "leg_id": f"leg_{_TAIL}_1",
            "reason": "not found on shelf",
            "entry": "0:4731",
        }
    ],
    **_PAGE,
}
