"""Examples of the OpenAPI document; tests check them against the schemas."""

from __future__ import annotations

from typing import Any

ITEM: dict[str, Any] = {
    "sku": "SKU-1",
    "name": "Cast-iron pan",
    "category": "kitchen",
    "weight_g": 2300,
    "length_mm": 420,
    "width_mm": 260,
    "height_mm": 60,
    "tags": ["oversize"],
    "unit_value_minor": 2500,
}
NODE: dict[str, Any] = {
    "node_id": "NJ-1",
    "name": "Newark",
    "kind": "warehouse",
    "region": "NJ",
    "postal_code": "07101",
    "lat": 40.7357,
    "lon": -74.1724,
    "time_zone": "America/New_York",
    "cut_off": "16:00",
    "capacity": {"unit": "orders", "per_day": 4000},
    "handling_line_minor": 35,
}
CHANNEL: dict[str, Any] = {
    "channel_id": "web",
    "name": "Web shop",
    "demand_centre": {"postal_code": "66044"},
    "promise_days": {"standard": 4},
}
CARRIER: dict[str, Any] = {
    "carrier_id": "parcelco",
    "name": "ParcelCo",
    "services": [
        {
            "service_id": "ground",
            "band_km": [250, 1000, 5000],
            "transit_days": [1, 2, 4],
            "cards": [
                {
                    "effective_from": "2026-01-01",
                    "break_g": [500, 2000, 30000],
                    "price_minor": [[450, 620, 1400], [520, 780, 1900], [640, 990, 2600]],
                    "fuel_bp": 850,
                }
            ],
        }
    ],
}
