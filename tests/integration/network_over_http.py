"""A small network put in over HTTP: four nodes in four regions, so that one to four shards share them, and three items."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import httpx

NODES = {
    "NYC": ("10001", 40.75, -73.99, "America/New_York"),
    "ATL": ("30303", 33.75, -84.39, "America/New_York"),
    "CHI": ("60606", 41.88, -87.63, "America/Chicago"),
    "LAX": ("90001", 33.97, -118.25, "America/Los_Angeles"),
}
ZIPS = {"NYC": "10002", "ATL": "30305", "CHI": "60607", "LAX": "90002"}
SKUS = ("SKU-1", "SKU-2", "SKU-3")
_numbers = itertools.count(1)


def fresh(prefix: str = "A") -> str:
    """An id that no other test uses."""
    return f"{prefix}-{next(_numbers)}"


def set_up_network(client: httpx.Client, *, units: int = 100, capacity: dict[str, Any] | None = None) -> None:
    """Channel, carrier, items, nodes and `units` of every item everywhere."""
    put(
        client,
        "/v1/channels/web",
        {"channel_id": "web", "name": "Web", "demand_centre": {"country": "US", "postal_code": "60606"}},
    )
    put(
        client,
        "/v1/carriers/acme",
        {
            "carrier_id": "acme",
            "services": [
                {
                    "service_id": "ground",
                    "levels": ["standard"],
                    "band_km": [300, 1_000, 2_500, 6_000],
                    "transit_days": [1, 2, 4, 5],
                    "cards": [
                        {
                            "break_g": [1_000, 5_000, 30_000],
                            "price_minor": [
                                [600, 800, 1_500],
                                [700, 1_000, 2_000],
                                [900, 1_400, 2_900],
                                [1_100, 1_900, 3_900],
                            ],
                        }
                    ],
                }
            ],
        },
    )
    for sku in SKUS:
        put(client, f"/v1/items/{sku}", {"sku": sku, "weight_g": 500, "unit_value_minor": 2_500})
    for node_id, (postal_code, lat, lon, zone) in NODES.items():
        document: dict[str, Any] = {
            "node_id": node_id,
            "postal_code": postal_code,
            "lat": lat,
            "lon": lon,
            "time_zone": zone,
            "offers": ["ship", "pickup"],
            "working_days": [0, 1, 2, 3, 4, 5, 6],
        }
        if capacity is not None:
            document["capacity"] = capacity
        put(client, f"/v1/nodes/{node_id}", document)
    tokens = [receive(client, node_id, sku, units)["token"] for node_id in NODES for sku in SKUS]
    for near in NODES:  # until the shard of every region has seen all of it: orders are decided on what is there
        body = order({SKUS[0]: 1}, near=near)
        del body["order_id"]
        patiently(lambda body=body: client.post("/v1/quotes", json=body, headers={"X-QM-After": ",".join(tokens)}))  # type: ignore[misc]


def put(client: httpx.Client, path: str, document: dict[str, Any]) -> None:
    response = client.put(path, json=document)
    assert response.status_code in (200, 201), (path, response.status_code, response.text)


def receive(client: httpx.Client, node_id: str, sku: str, units: int) -> dict[str, Any]:
    response = client.post(
        "/v1/inventory/adjustments",
        json={"node_id": node_id, "sku": sku, "kind": "received", "quantity": units, "reason": "test"},
        headers={"Idempotency-Key": fresh("adj")},
    )
    assert response.status_code in (200, 201), response.text
    answer: dict[str, Any] = response.json()
    return answer


def patiently(ask: Callable[[], httpx.Response], *, within_s: float = 60.0) -> httpx.Response:
    """The answer to a question that names a token: asked again while a view is behind it, as on a busy machine."""
    deadline = time.monotonic() + within_s
    while True:
        answer = ask()
        if answer.status_code != 503 or answer.json()["code"] != "view_behind" or time.monotonic() > deadline:
            return answer


def order(lines: dict[str, int], *, near: str = "NYC", **fields: Any) -> dict[str, Any]:
    """An order body; `near` names the node beside the destination."""
    return {
        "order_id": fresh("A"),
        "channel": "web",
        "service": "standard",
        "ship_to": {"country": "US", "postal_code": ZIPS[near]},
        "lines": [
            {"line_id": str(n + 1), "sku": sku, "quantity": units, "unit_price_minor": 2_500}
            for n, (sku, units) in enumerate(lines.items())
        ],
        "currency": "USD",
        **fields,
    }


def post(
    client: httpx.Client, path: str, body: dict[str, Any] | None = None, *, key: str | None = None
) -> httpx.Response:
    return client.post(path, json=body or {}, headers={"Idempotency-Key": key or fresh("key")})
