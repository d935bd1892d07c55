"""Examples of the OpenAPI document; tests check them against the schemas."""

from __future__ import annotations

from typing import Any

ADJUSTMENTS: dict[str, Any] = {
    "one": {
        "summary": "Ten units came in",
        "value": {"node_id": "NJ-1", "sku": "SKU-1", "kind": "received", "quantity": 10, "reason": "PO 4711"},
    },
    "several": {
        "summary": "Two movements, all or none",
        "value": {
            "node_id": "NJ-1",
            "moves": [
                {"sku": "SKU-1", "kind": "damaged", "quantity": 1, "reason": "wet box"},
                {"sku": "SKU-2", "kind": "adjusted", "quantity": -3},
            ],
        },
    },
    "compared": {
        "summary": "12 instead of 10, if there are 10",
        "value": {"node_id": "NJ-1", "sku": "SKU-1", "kind": "adjusted", "quantity": 2, "expected_on_hand": 10},
    },
}
COUNTS: dict[str, Any] = {
    "count": {
        "summary": "The warehouse system's nightly count",
        "value": {
            "node_id": "NJ-1",
            "source": "wms",
            "as_of": "2026-12-01T04:00:00Z",
            "source_seq": 335,
            "scope": "nonzero",
            "rows": [{"sku": "SKU-1", "quantity": 120}, {"sku": "SKU-2", "quantity": 7}],
        },
    }
}
POSITIONS: dict[str, Any] = {
    "safety": {
        "summary": "Keep two units back",
        "value": {"node_id": "NJ-1", "positions": [{"sku": "SKU-1", "safety_units": 2}]},
    }
}
POSITION: dict[str, Any] = {
    "node_id": "NJ-1",
    "sku": "SKU-1",
    "on_hand": 120,
    "held": 3,
    "allocated": 10,
    "safety": 2,
    "available_to_promise": 105,
    "short_by": 0,
    "supply": "counted",
    "feed_age_s": 61,
    "node_state": "on",
}
STOCK: dict[str, Any] = {
    "node_id": "NJ-1",
    "positions": [POSITION],
    "legs_short": [],
    "as_of": {"shard": 0, "epoch": 3, "seq": 4712, "age_ms": 0},
    "token": "0:3:4712",
}
AVAILABILITY: dict[str, Any] = {
    "data": [POSITION],
    "totals": [{"sku": "SKU-1", "available_to_promise": 105}],
    "as_of": [{"shard": 0, "epoch": 3, "seq": 4712, "age_ms": 1}],
    "token": "0:3:4712",
}
