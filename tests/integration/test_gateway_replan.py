"""Edits over HTTP: what they answer, what they refuse, and that a refusal changes nothing; on one shard and over several."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from quartermaster_client import AsyncClient, LineQuantity, Order, OrderLine, OutOfStock, ShipTo, VersionMismatch
from tests.conftest import eventually
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed


@pytest.fixture(params=[1, 2, 4])
async def engine(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[GatewayEngine]:
    engine = await GatewayEngine(tmp_path, shards=request.param).start()
    stocked = [await engine.stock_up(f"N-{node}", sku, 3) for node in range(4) for sku in ("SKU-0", "SKU-1")]
    await engine.seen_by_all(*stocked)
    yield engine
    await engine.close()


async def allocated(engine: GatewayEngine, **fields: Any) -> dict[str, Any]:
    answer = await engine.client.post("/v1/allocations", json=an_order_body(**fields), headers=keyed("k-1"))
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def replan(engine: GatewayEngine, order: dict[str, Any], key: str, body: Any, **headers: str) -> httpx.Response:
    path = f"/v1/allocations/{order['allocation_id']}/replan"
    return await engine.client.post(path, json=body, headers=keyed(key, **headers))


async def moved(engine: GatewayEngine, token: str) -> None:
    """Until all shards have seen where the units of an answer are, those at other shards than its own too."""

    async def shown() -> str:
        params = {"sku": ["SKU-0", "SKU-1"], "consistency": "strict"}
        answer = await engine.client.get("/v1/availability", params=params, headers={"x-qm-after": token})
        return str(answer.json()["token"]) if answer.status_code == 200 else ""

    await engine.seen_by_all(await eventually(shown))


def units(body: dict[str, Any]) -> dict[str, int]:
    """Units by line in legs that have not ended."""
    found: dict[str, int] = {}
    for leg in body["legs"]:
        if leg["state"] not in ("cancelled", "rejected"):
            for line in leg["lines"]:
                found[line["line_id"]] = found.get(line["line_id"], 0) + line["quantity"]
    return found


async def test_everything_changes_in_one_step_and_says_what_it_costs(engine: GatewayEngine) -> None:
    order = await allocated(engine, quantity=10, max_legs=4)
    body = {
        "ship_to": {"country": "US", "postal_code": "99501"},
        "lines": [{"line_id": "1", "quantity": 12}],
        "add_lines": [{"line_id": "2", "sku": "SKU-1", "quantity": 1}],
        "reason": "by phone",
    }
    answer = await replan(engine, order, "k-2", body, **{"if-match": f'"{order["version"]}"'})
    assert answer.status_code == 200, answer.text
    edited = answer.json()
    assert units(edited) == {"1": 12, "2": 1}
    assert edited["version"] == order["version"] + 1
    assert answer.headers["etag"] == f'"{edited["version"]}"'
    assert edited["edit"] == {
        "cost_before_minor": order["cost_minor"],
        "cost_change_minor": edited["cost_minor"] - order["cost_minor"],
        "fixed_legs": [],
    }
    assert edited["decision_id"] != order["decision_id"]
    again = await replan(engine, order, "k-2", body)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["edit"] == edited["edit"]
    other = await replan(engine, order, "k-2", {"service": "standard"})
    assert (other.status_code, other.json()["code"]) == (422, "key_reused")
    await moved(engine, edited["token"])
    removed = await replan(engine, order, "k-3", {"remove_lines": ["2"]})
    assert removed.status_code == 200, removed.text
    assert units(removed.json()) == {"1": 12}


async def test_what_does_not_fit_leaves_the_order_as_it_was(engine: GatewayEngine) -> None:
    order = await allocated(engine, quantity=10, max_legs=4)
    refused = await replan(engine, order, "k-2", {"lines": [{"line_id": "1", "quantity": 13}]})
    assert (refused.status_code, refused.json()["code"]) == (409, "out_of_stock"), refused.text
    [error] = refused.json()["errors"]
    assert (error["pointer"], error["requested"]) == ("/lines/0/quantity", 13)
    read = (await engine.client.get(f"/v1/allocations/{order['allocation_id']}")).json()
    assert {**read, "token": ""} == {**order, "token": ""}
    more = await replan(engine, order, "k-3", {"lines": [{"line_id": "1", "quantity": 13}], "on_short": "park"})
    assert [u["quantity"] for u in more.json()["unfilled"]] == [1]


async def test_released_legs_stay_and_are_named(engine: GatewayEngine) -> None:
    order = await allocated(engine, quantity=4, max_legs=4)
    leg = order["legs"][0]
    await engine.client.post(f"/v1/legs/{leg['leg_id']}/release", headers=keyed("k-2"))
    body = {"ship_to": {"country": "US", "postal_code": "99501"}, "lines": [{"line_id": "1", "quantity": 6}]}
    moved = (await replan(engine, order, "k-3", body)).json()
    assert moved["edit"]["fixed_legs"] == [leg["leg_id"]]
    [stayed] = [one for one in moved["legs"] if one["leg_id"] == leg["leg_id"]]
    assert (stayed["state"], stayed["lines"], stayed["ship_to"]["postal_code"]) == ("released", leg["lines"], "10001")
    least = leg["lines"][0]["quantity"]
    refused = await replan(engine, order, "k-4", {"lines": [{"line_id": "1", "quantity": least - 1}]})
    assert (refused.status_code, refused.json()["code"]) == (409, "wrong_state")
    assert refused.json()["errors"][0]["at_least"] == least


async def test_a_reservation_is_edited_and_an_id_of_the_other_kind_is_not_found(engine: GatewayEngine) -> None:
    answer = await engine.client.post(
        "/v1/reservations", json={**an_order_body(quantity=2), "ttl_s": 60}, headers=keyed("k-1")
    )
    held = answer.json()
    path = answer.headers["location"]
    edited = await engine.client.post(
        f"{path}/replan", json={"lines": [{"line_id": "1", "quantity": 3}]}, headers=keyed("k-2")
    )
    assert edited.status_code == 200, edited.text
    assert (edited.json()["state"], units(edited.json())) == ("held", {"1": 3})
    assert edited.json()["expires_at"] == held["expires_at"]
    wrong = {"allocation_id": held["reservation_id"].replace("res_", "alc_")}
    assert (await replan(engine, wrong, "k-3", {"service": "standard"})).status_code == 404
    await engine.client.post(f"{path}/commit", headers=keyed("k-4"))
    late = await engine.client.post(f"{path}/replan", json={"service": "standard"}, headers=keyed("k-5"))
    assert (late.status_code, late.json()["code"]) == (409, "wrong_state")


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({}, 422, ""),
        ({"colour": "red"}, 422, "/colour"),
        ({"lines": [{"line_id": "1", "quantity": 0}]}, 422, "/lines/0/quantity"),
        ({"lines": [{"line_id": "9", "quantity": 1}]}, 422, "/lines/0/line_id"),
        ({"remove_lines": ["1"]}, 422, "/remove_lines/0"),
        ({"add_lines": [{"line_id": "2", "sku": "NONE", "quantity": 1}]}, 422, "/add_lines/0/sku"),
        ({"add_lines": [{"line_id": "2", "sku": "SKU\u00e9", "quantity": 1}]}, 422, "/add_lines/0/sku"),
        ({"ship_to": {"country": "XX", "postal_code": "1"}}, 422, "/ship_to/country"),
        ({"service": "by-pigeon"}, 422, "/service"),
    ],
)
async def test_bad_edits_name_their_field(tmp_path: Path, body: Any, status: int, pointer: str) -> None:
    engine = await GatewayEngine(tmp_path, shards=1).start()
    try:
        await engine.stock_up("N-0", "SKU-0", 3)
        order = await allocated(engine)
        answer = await replan(engine, order, "k-2", body)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (status, pointer), answer.text
        if pointer == "/lines/0/quantity":
            assert "goes into remove_lines" in answer.json()["errors"][0]["detail"]
        path = f"/v1/allocations/{order['allocation_id']}/replan"
        assert (await engine.client.post(path, json={"service": "standard"})).status_code == 400
        seen = await replan(engine, order, "k-3", {"service": "standard"}, **{"if-match": '"99"'})
        assert (seen.status_code, seen.json()["code"]) == (412, "version_mismatch")
        unknown = {"allocation_id": "alc_US100_1"}
        assert (await replan(engine, unknown, "k-4", {"service": "standard"})).status_code == 404
        web = engine.client_for(await engine.token("allocate:write", channels=["app"]))
        hidden = await web.post(path, json={"service": "standard"}, headers=keyed("k-5"))
        assert hidden.status_code == 404
        await web.aclose()
    finally:
        await engine.close()


async def test_a_line_that_is_added_twice_is_named_at_both_places(tmp_path: Path) -> None:
    engine = await GatewayEngine(tmp_path, shards=1).start()
    try:
        await engine.stock_up("N-0", "SKU-0", 3)
        order = await allocated(engine)
        twice = await replan(engine, order, "k-2", {"add_lines": [{"line_id": "2", "sku": "SKU-1", "quantity": 1}] * 2})
        fault = twice.json()["errors"][0]
        assert (fault["pointer"], fault["first"]) == ("/add_lines/1/line_id", "/add_lines/0")
    finally:
        await engine.close()


async def test_the_python_client_edits(engine: GatewayEngine) -> None:
    async with engine.served() as url, AsyncClient(url, engine.admin) as client:
        home = ShipTo(country="US", postal_code="10001")
        line = OrderLine(line_id="1", sku="SKU-0", quantity=2)
        order = await client.allocate(Order(order_id="A-1", channel="web", ship_to=home, lines=[line]))
        edited = await client.replan(
            order.allocation_id,
            ship_to=ShipTo(country="US", postal_code="99501"),
            lines=[LineQuantity(line_id="1", quantity=3)],
            if_version=order.version,
        )
        assert edited.edit is not None
        assert edited.edit.cost_change_minor == edited.cost_minor - order.cost_minor
        with pytest.raises(VersionMismatch):
            await client.replan(order.allocation_id, service="standard", if_version=order.version)
        with pytest.raises(OutOfStock):
            await client.replan(order.allocation_id, lines=[LineQuantity(line_id="1", quantity=100)])
        held = await client.reserve(Order(order_id="A-2", channel="web", ship_to=home, lines=[line]))
        more = await client.replan_reservation(
            held.reservation_id, add_lines=[OrderLine(line_id="2", sku="SKU-1", quantity=1)]
        )
        assert (more.state, more.expires_at) == ("held", held.expires_at)
