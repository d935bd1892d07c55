"""Examples of the OpenAPI document; tests check them against the schemas."""

from __future__ import annotations

from typing import Any

from gateway.orders.examples import ALLOCATION

DECISION: dict[str, Any] = {
    "decision_id": ALLOCATION["decision_id"],
    "order_id": "A-1001",
    "allocation_id": ALLOCATION["allocation_id"],
    "channel": "web",
    "sentence": "Newark ships both lines for $12.34: $1.10 cheaper than the next best, Dallas.",
    "decided_at": "2026-12-01T18:00:00.120Z",
    "rung": "separable",
    "scope": "all ways to give groups to at most three candidates",
    "currency": "USD",
    "money": {
        "cash_minor": 1234,
        "service_minor": 0,
        "policy_minor": 0,
        "opportunity_minor": 190,
        "score_minor": 1424,
    },
    "legs": [
        {
            "node_id": "NJ-1",
            "carrier": "parcelco",
            "service": "ground",
            "ships_on": "2026-12-01",
            "days_to_door": 2,
            "parcels": 1,
            "cost_parts": {
                "parcels_minor": 934,
                "handling_lines_minor": 200,
                "handling_units_minor": 100,
                "node_surcharge_minor": 0,
            },
            "service_minor": 0,
            "policy_minor": 0,
            "opportunity_minor": 190,
        }
    ],
    "runner_up": {
        "nodes": "Dallas",
        "difference": {
            "cash_minor": 110,
            "service_minor": 0,
            "policy_minor": 0,
            "opportunity_minor": 0,
            "score_minor": 110,
        },
    },
    "candidates": [
        {"node_id": "NJ-1", "distance_km": 14, "verdict": "chosen", "reason": "chosen: leg 1 of the plan"},
        {
            "node_id": "TX-1",
            "distance_km": 2200,
            "verdict": "dearer",
            "reason": "alone it would cost $1.10 more in cash",
        },
    ],
    "looked_at": [{"what": "nodes that hold units and may serve", "count": 2}],
    "solver": [],
    "versions": [
        {"name": "configuration", "value": "17"},
        {"name": "journaled with", "value": "shard 0, epoch 3, entry 8,121"},
    ],
    "why": None,
}
