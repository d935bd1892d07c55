"""Collecting over HTTP: stores near a place, orders for pickup and to a store, kits; on one and on two shards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.domain.config import Document
from tests.builders import a_network, a_node, an_item
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed

PATH = "/v1/availability/stores"


def a_city() -> list[Document]:
    nodes = [
        a_node(
            f"S-{n}",
            name=f"Store {n}",
            kind="store",
            postal_code=f"{n % 2 * 500 + 100:03d}01",
            lat=40.75 + n / 10,
            offers=("ship", "pickup", "ship_to_store") if n else ("ship", "pickup"),
            pickup_days=tuple(range(7)),
            pickup_opens="00:00",
            pickup_closes="23:59",
        )
        for n in range(4)
    ]
    items = [an_item(f"SKU-{n}", weight_g=500) for n in range(2)]
    return a_network(nodes=nodes, items=[*items, an_item("KIT", components={"SKU-0": 2, "SKU-1": 1})])


@pytest.fixture(params=[1, 2])
async def city(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[GatewayEngine]:
    documents = a_city()
    documents[0] = type(documents[0])(shard_count=request.param)
    engine = await GatewayEngine(tmp_path, shards=request.param).start(documents)
    yield engine
    await engine.close()


async def got(engine: GatewayEngine, **params: Any) -> dict[str, Any]:
    params = {"sku": "SKU-0", "postal_code": "10001", "radius_km": 100, **params}
    answer = await engine.client.get(PATH, params=params)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_a_store_that_the_gateway_has_not_heard_of_yet_is_left_out(
    city: GatewayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new node reaches shards and gateways one after the other."""
    monkeypatch.delitem(city.cluster.catalog.node_of, "S-1")
    assert [store["node_id"] for store in (await got(city))["data"]] == ["S-0", "S-2", "S-3"]


async def test_stores_of_all_shards_come_by_distance_in_pages(city: GatewayEngine) -> None:
    for n in (1, 2, 3):
        await city.stock_up(f"S-{n}", "SKU-0", 1_000 * n)
    page = await got(city)
    assert [(store["node_id"], store["distance_km"]) for store in page["data"]] == [
        ("S-0", 0.0),
        ("S-1", 11.1),
        ("S-2", 22.2),
        ("S-3", 33.4),
    ]
    first, second = page["data"][:2]
    assert (first["has_all"], first["ready_at"], first["units"]) == (
        False,
        None,
        [{"sku": "SKU-0", "available_to_promise": 0}],
    )
    assert second["has_all"] and second["ready_at"] and second["units"][0]["available_to_promise"] == 999
    assert (second["opens"], second["closes"], second["days"], second["name"]) == (
        "00:00",
        "23:59",
        [0, 1, 2, 3, 4, 5, 6],
        "Store 1",
    )
    assert [state["shard"] for state in page["as_of"]] == list(range(len(city.stock)))
    assert not page["has_more"] and page["next_cursor"] is None

    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await got(city, limit=1, in_stock="true", **({"cursor": cursor} if cursor else {}))
        seen += [store["node_id"] for store in page["data"]]
        cursor = page["next_cursor"]
        if not page["has_more"]:
            break
    assert seen == ["S-1", "S-2", "S-3"]
    assert (await got(city, radius_km=1, in_stock="true"))["data"] == []


async def test_a_chosen_store_gets_the_order_and_a_kit_is_collected_whole(city: GatewayEngine) -> None:
    await city.stock_up("S-1", "SKU-0", 5)
    stocked = await city.stock_up("S-1", "SKU-1", 1)
    await city.stock_up("S-2", "SKU-0", 9)
    page = await got(city, sku=["KIT", "SKU-0"], quantity=[1, 2], in_stock="true")
    (store,) = page["data"]
    assert [entry["available_to_promise"] for entry in store["units"]] == [1, 5]
    line = {"line_id": "1", "sku": "KIT", "quantity": 1, "method": "pickup", "pickup_node_id": store["node_id"]}
    body = {**an_order_body("A-1"), "lines": [line]}
    headers = {**keyed("k-1"), "x-qm-after": stocked}
    placed = await city.client.post("/v1/allocations", json=body, headers=headers)
    assert placed.status_code == 201, placed.text
    (leg,) = placed.json()["legs"]
    assert leg["node_id"] == "S-1" and leg["ready_at"] and leg["carrier"] is None
    for consistency in ("local", "strict"):
        params = {"sku": "KIT", "consistency": consistency}
        after = {"x-qm-after": placed.json()["token"]}
        shown = (await city.client.get("/v1/availability", params=params, headers=after)).json()
        assert shown["totals"] == [{"sku": "KIT", "available_to_promise": 0}]
        assert [(row["node_id"], row["on_hand"], row["supply"]) for row in shown["data"]] == [("S-1", 1, "kit")]


async def test_a_store_that_does_not_take_parcels_is_refused_with_what_it_offers(city: GatewayEngine) -> None:
    await city.stock_up("S-1", "SKU-0", 5)
    line = {"line_id": "1", "sku": "SKU-0", "quantity": 1, "method": "ship_to_store", "pickup_node_id": "S-0"}
    body = {**an_order_body("A-1"), "lines": [line]}
    refused = await city.client.post("/v1/allocations", json=body, headers=keyed("k-1"))
    (error,) = refused.json()["errors"]
    assert (refused.status_code, refused.json()["code"], error["pointer"]) == (
        409,
        "no_capable_node",
        "/lines/0/pickup_node_id",
    )
    assert error["offers"] == ["ship", "pickup"]


@pytest.mark.parametrize(
    ("params", "code", "field"),
    [
        ({}, "invalid_field", "sku"),
        ({"sku": "SKU-0"}, "invalid_field", "postal_code"),
        ({"sku": "SKU-0", "lat": 40}, "invalid_field", "lon"),
        ({"sku": ["SKU-0", "SKU-0"], "postal_code": "10001"}, "invalid_field", "sku"),
        ({"sku": "SKU-0", "postal_code": "10001", "quantity": [1, 2]}, "invalid_field", "quantity"),
        ({"sku": "SKU-0", "postal_code": "10001", "radius_km": 0}, "invalid_field", "radius_km"),
        ({"sku": "SKU-0", "postal_code": "10001", "channel": "nope"}, "unknown_channel", "channel"),
        ({"sku": "nope", "postal_code": "10001"}, "unknown_sku", "sku"),
        ({"sku": "SKU-0", "postal_code": "75001", "country": "FR"}, "unknown_destination", "postal_code"),
        ({"sku": "SKU-0", "postal_code": "10001", "cursor": "bm8"}, "invalid_cursor", None),
    ],
)
async def test_faults_name_their_parameter(tmp_path: Path, params: Any, code: str, field: str | None) -> None:
    engine = await GatewayEngine(tmp_path, shards=1).start(a_city())
    try:
        answer = await engine.client.get(PATH, params=params)
        assert (answer.status_code // 100, answer.json()["code"]) == (4, code), answer.text
        if field is not None:
            assert answer.json()["errors"][0]["parameter"] == field
    finally:
        await engine.close()
