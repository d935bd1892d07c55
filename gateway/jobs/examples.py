"""Examples of the OpenAPI document; tests check them against the schemas."""

from __future__ import annotations

from typing import Any

JOB: dict[str, Any] = {
    "job_id": "job_9f2c51d08e7ab34c10de",
    "kind": "items",
    "state": "running",
    "rows_total": 10000,
    "rows_done": 4500,
    "rows_failed": 1,
    "bytes_total": 812345,
    "errors": [{"line": 17, "pointer": "/weight_g", "detail": "Expected `int` >= 0"}],
    "problem": None,
    "created_at": "2026-12-01T18:00:00.120Z",
    "finished_at": None,
    "would_change": None,
}
ITEM_FILES = {
    "application/x-ndjson": '{"sku": "SKU-1", "weight_g": 2300}\n{"sku": "SKU-2", "tags": ["cold"]}\n',
    "text/csv": "sku,name,weight_g,tags\nSKU-1,Cast-iron pan,2300,oversize\nSKU-2,Ice cream,500,cold\n",
}
NODE_FILES = {
    "application/x-ndjson": '{"node_id": "NJ-1", "postal_code": "07101", "lat": 40.7357, "lon": -74.1724}\n',
    "text/csv": "node_id,postal_code,lat,lon,capacity_per_day\nNJ-1,07101,40.7357,-74.1724,4000\n",
}
CHANNEL_FILES = {
    "application/x-ndjson": '{"channel_id": "web", "demand_centre": {"country": "US", "postal_code": "10001", '
    '"lat": 40.75, "lon": -73.99}}\n',
}
CARRIER_FILES = {
    "application/x-ndjson": '{"carrier_id": "acme", "services": [{"service_id": "ground", "band_km": [240, 5000], '
    '"transit_days": [1, 4], "cards": [{"break_g": [1000, 30000], "price_minor": [[599, 1299], [899, 2499]]}]}]}\n',
}
STOCK_FILES = {
    "application/x-ndjson": '{"node_id": "NJ-1", "sku": "SKU-1", "quantity": 120}\n',
    "text/csv": "node_id,sku,quantity\nNJ-1,SKU-1,120\nNJ-1,SKU-2,7\n",
}
