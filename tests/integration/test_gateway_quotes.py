"""Quotes through the whole gateway: options, ids that nobody can make or bend, orders that take one up."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.domain.config import QUOTE_SECRET, Secret
from tests.builders import a_network, a_node
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed


@pytest.fixture(params=[1, 2])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[GatewayEngine]:
    engine = await GatewayEngine(tmp_path, shards=request.param, quote_options_max=3).start()
    await engine.stock_up("N-0", "SKU-0", 10)
    yield engine
    await engine.close()


def a_basket(**fields: Any) -> dict[str, Any]:
    body = an_order_body(quantity=2)
    del body["order_id"]
    return {**body, **fields}


async def quoted(engine: GatewayEngine, **fields: Any) -> dict[str, Any]:
    answer = await engine.client.post("/v1/quotes", json=a_basket(**fields))
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_quote_needs_no_key_and_holds_nothing(engine: GatewayEngine) -> None:
    quote = await quoted(engine)
    assert quote["quote_id"].startswith("quo_US100_")
    (option,) = quote["options"]
    assert (option["option_id"], option["fills_all"]) == ("standard", True)
    assert option["cheapest"] and option["fastest"] and option["best"]
    assert option["legs"][0]["node_id"] == "N-0"
    assert option["score"] == sum(option[f"{part}_minor"] for part in ("cost", "service", "policy", "opportunity"))
    stock = await engine.client.get("/v1/availability?sku=SKU-0&consistency=strict")
    assert stock.json()["totals"][0]["available_to_promise"] == 10


@pytest.mark.parametrize("path", ["/v1/allocations", "/v1/reservations"])
async def test_an_order_takes_a_quote_up_in_either_format(engine: GatewayEngine, path: str) -> None:
    packed = {"content-type": "application/vnd.msgpack", "accept": "application/vnd.msgpack"}
    answer = await engine.client.post("/v1/quotes", content=msgspec.msgpack.encode(a_basket()), headers=packed)
    quote = msgspec.msgpack.decode(answer.content)
    body = {**an_order_body(quantity=2), "quote_id": quote["quote_id"]}
    first = await engine.client.post(path, content=msgspec.msgpack.encode(body), headers=keyed("k", **packed))
    assert first.status_code == 201, first.text
    again = await engine.client.post(path, json={**body, "quote_option": "standard"}, headers=keyed("k"))
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true"), again.text
    assert again.json()["order_id"] == "A-1"
    other = await engine.client.post(path, json=an_order_body(quantity=2), headers=keyed("k"))
    assert other.json()["code"] == "key_reused"


async def test_a_batch_takes_quotes_up_one_by_one(engine: GatewayEngine) -> None:
    quote_id = (await quoted(engine))["quote_id"]
    orders = [
        {**an_order_body(f"B-{n}", quantity=2), "quote_id": quote_id + "x" * (n == 1), "idempotency_key": f"b-{n}"}
        for n in range(3)
    ]
    answer = await engine.client.post("/v1/allocations/batch", json={"orders": orders})
    results = answer.json()["results"]
    assert [result["status"] for result in results] == [201, 422, 201]
    assert results[1]["problem"]["code"] == "invalid_quote"
    assert results[1]["problem"]["errors"][0]["pointer"].endswith("/quote_id")


async def test_units_that_went_meanwhile_are_a_change_and_nothing_is_held(engine: GatewayEngine) -> None:
    quote = await quoted(engine)
    taken = await engine.client.post("/v1/allocations", json=an_order_body("T", quantity=9), headers=keyed("t"))
    assert taken.status_code == 201
    body = {**an_order_body(quantity=2), "quote_id": quote["quote_id"]}
    answer = await engine.client.post("/v1/allocations", json=body, headers=keyed("k"))
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, "quote_changed")
    first, line = problem["errors"]
    assert (first["pointer"], first["quoted"]["unfilled_units"], first["offered"]["unfilled_units"]) == (
        "/quote_id",
        0,
        1,
    )
    assert (line["pointer"], line["requested"], line["available_to_promise"]) == ("/lines/0", 2, 1)
    stock = await engine.client.get("/v1/availability?sku=SKU-0&consistency=strict")
    assert stock.json()["totals"][0]["available_to_promise"] == 1


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"lines": [{"line_id": "1", "sku": "SKU-0", "quantity": 3}]}, "/lines"),
        ({"lines": [{"line_id": "1", "sku": "SKU-1", "quantity": 2}]}, "/lines"),
        ({"ship_to": {"country": "US", "postal_code": "10002"}}, "/ship_to"),
        ({"ship_to": {"country": "US", "postal_code": "10001", "residential": False}}, "/ship_to"),
        ({"currency": "EUR"}, "/channel"),
        ({"service": "drone"}, "/service"),
        ({"quote_option": "drone"}, "/quote_option"),
        ({"quote_option": "standard", "service": "express"}, "/service"),
    ],
)
async def test_another_order_than_was_quoted_is_refused_by_field(
    engine: GatewayEngine, change: dict[str, Any], pointer: str
) -> None:
    quote = await quoted(engine)
    body = {**an_order_body(quantity=2), "quote_id": quote["quote_id"], **change}
    answer = await engine.client.post("/v1/allocations", json=body, headers=keyed("k"))
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "quote_mismatch"), answer.text
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


async def test_what_a_promise_does_not_hang_on_may_differ(engine: GatewayEngine) -> None:
    quote = await quoted(engine)
    line = {"line_id": "other", "sku": "SKU-0", "quantity": 2, "unit_price_minor": 4_200}
    body = {**an_order_body(), "lines": [line], "customer_id": "C-7", "tags": ["vip"], "quote_id": quote["quote_id"]}
    answer = await engine.client.post("/v1/allocations", json=body, headers=keyed("k"))
    assert answer.status_code == 201, answer.text


async def test_an_id_that_was_made_up_or_bent_is_none_of_ours(engine: GatewayEngine) -> None:
    quote_id = (await quoted(engine))["quote_id"]
    _, slot, text = quote_id.split("_", 2)
    raw = bytearray(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    bent = []
    for at in range(0, len(raw), 7):
        changed = bytearray(raw)
        changed[at] ^= 1
        bent.append(f"quo_{slot}_{urlsafe_b64encode(changed).decode().rstrip('=')}")
    bent += [
        f"quo_US900_{text}",
        quote_id[:-2],
        "quo_US100_",
        "quo_",
        "x",
        text,
        f"quo_{slot}_ä",
        "quo_US100_" + "A" * 4_000,
    ]
    for n, wrong in enumerate(bent):
        body = {**an_order_body(quantity=2), "quote_id": wrong}
        answer = await engine.client.post("/v1/allocations", json=body, headers=keyed(f"k-{n}"))
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["errors"][0]["pointer"]) == (
            422,
            "invalid_quote",
            "/quote_id",
        ), wrong
    stock = await engine.client.get("/v1/availability?sku=SKU-0&consistency=strict")
    assert stock.json()["totals"][0]["available_to_promise"] == 10


async def test_another_deployment_does_not_take_ours(engine: GatewayEngine) -> None:
    quote_id = (await quoted(engine))["quote_id"]
    await engine.put(Secret(secret_id=QUOTE_SECRET, value="77" * 32))
    body = {**an_order_body(quantity=2), "quote_id": quote_id}
    answer = await engine.client.post("/v1/allocations", json=body, headers=keyed("k"))
    assert answer.json()["code"] == "invalid_quote"


async def test_validity_is_asked_for_and_cut(engine: GatewayEngine) -> None:
    for asked, wanted in ((60, 60), (None, 900), (10**6, 900)):
        quote = await quoted(engine, **({"ttl_s": asked} if asked else {}))
        made, until = quote["decision"]["quoted_at"], quote["valid_until"]
        assert _seconds(until) - _seconds(made) == wanted


def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


async def test_a_quote_names_the_field_that_is_wrong(engine: GatewayEngine) -> None:
    quote_id = (await quoted(engine))["quote_id"]
    for change, code, pointer in (
        ({"quote_id": quote_id}, "invalid_field", "/quote_id"),
        ({"ttl_s": 0}, "invalid_field", "/ttl_s"),
        ({"channel": "nope"}, "unknown_channel", "/channel"),
        ({"lines": []}, "invalid_field", "/lines"),
        ({"lines": [{"line_id": "1", "sku": "nope", "quantity": 1}]}, "unknown_sku", "/lines/0/sku"),
        ({"lines": [{"line_id": "1", "sku": "SKU-0", "quantity": 11}]}, "out_of_stock", "/lines/0"),
        ({"surprise": 1}, "invalid_field", "/surprise"),
    ):
        answer = await engine.client.post("/v1/quotes", json=a_basket(**change))
        problem = answer.json()
        assert (problem["code"], problem["errors"][0]["pointer"]) == (code, pointer), answer.text


async def test_scopes_channels_and_rates_hold_for_quotes_too(engine: GatewayEngine) -> None:
    for scope, status in (("allocate:read", 200), ("inventory:read", 403)):
        async with engine.client_for(await engine.token(scope)) as client:
            assert (await client.post("/v1/quotes", json=a_basket())).status_code == status
    async with engine.client_for(await engine.token("allocate:read", channels=["shop"])) as client:
        assert (await client.post("/v1/quotes", json=a_basket())).status_code == 403
    async with engine.client_for("") as client:
        assert (await client.post("/v1/quotes", json=a_basket())).status_code == 401


async def test_a_quote_sees_what_its_token_names(engine: GatewayEngine) -> None:
    for n in range(10):
        token = await engine.stock_up(f"N-{len(engine.stock) - 1}", "SKU-1", 1)
        lines = [{"line_id": "1", "sku": "SKU-1", "quantity": n + 1}]
        answer = await engine.client.post("/v1/quotes", json=a_basket(lines=lines), headers={"x-qm-after": token})
        assert answer.status_code == 200, answer.text
    wrong = await engine.client.post("/v1/quotes", json=a_basket(), headers={"x-qm-after": "tomorrow"})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid_token")


# -- stores -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[1, 2])
async def street(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[GatewayEngine]:
    """A warehouse N-0, and stores S-1 and S-2, 11 and 22 km from the customer; with two shards S-1 is not at the order's home."""
    engine = GatewayEngine(tmp_path, shards=request.param)
    nodes = [a_node("N-0")] + [
        a_node(
            f"S-{n}", postal_code=zip_code, lat=40.75 + n / 10, offers=("pickup",), pickup_days=(0, 1, 2, 3, 4, 5, 6)
        )
        for n, zip_code in ((1, "51001"), (2, "10001"))
    ]
    await engine.start(a_network(nodes=nodes, shards=request.param))
    await engine.seen_by_all(*[await engine.stock_up(node, "SKU-0", 3) for node in ("N-0", "S-1", "S-2")])
    yield engine
    await engine.close()


def collected(node_id: str, *, quantity: int = 2, **fields: Any) -> dict[str, Any]:
    line = {"line_id": "1", "sku": "SKU-0", "quantity": quantity, "method": "pickup", "pickup_node_id": node_id}
    return {**an_order_body(), "lines": [line], **fields}


async def test_stores_are_options_beside_the_service_levels(street: GatewayEngine) -> None:
    shown = (await quoted(street, pickup={}))["options"]
    by_id = {option["option_id"]: option for option in shown}
    assert sorted(by_id) == ["S-1", "S-2", "standard"]
    near = by_id["S-1"]
    assert (near["pickup_node_id"], near["distance_km"], near["service"]) == ("S-1", 11.1, "standard")
    assert near["fills_all"] and near["ship_by"] == near["deliver_by"] == near["legs"][0]["deliver_by"]
    assert [leg["node_id"] for leg in near["legs"]] == ["S-1"]
    assert {"pickup_node_id", "distance_km"}.isdisjoint(by_id["standard"])
    for mark in ("cheapest", "fastest", "best"):
        assert [option[mark] for option in shown].count(True) == 1
    (one,) = [x for x in (await quoted(street, pickup={"limit": 1}))["options"] if x["option_id"] != "standard"]
    assert one["option_id"] == "S-1"
    near_by = (await quoted(street, pickup={"radius_km": 15}))["options"]
    assert sorted(option["option_id"] for option in near_by) == ["S-1", "standard"]
    assert [option["option_id"] for option in (await quoted(street))["options"]] == ["standard"]


@pytest.mark.parametrize("path", ["/v1/allocations", "/v1/reservations"])
@pytest.mark.parametrize("named", [False, True])
async def test_lines_that_are_collected_there_take_a_store_up(street: GatewayEngine, path: str, named: bool) -> None:
    quote = await quoted(street, pickup={})
    body = collected("S-1", quote_id=quote["quote_id"], **({"quote_option": "S-1"} if named else {}))
    answer = await street.client.post(path, json=body, headers=keyed("k"))
    assert answer.status_code == 201, answer.text
    (leg,) = answer.json()["legs"]
    assert (leg["node_id"], leg["method"], leg["pickup_node_id"]) == ("S-1", "pickup", "S-1")
    assert _counted(street, "quotes_kept") == 1


def _counted(engine: GatewayEngine, name: str) -> int:
    cores: list[Any] = [shard.core for shard in engine.stock]
    return sum(core.counts[name] for core in cores)


async def test_lines_that_are_shipped_take_no_store_up(street: GatewayEngine) -> None:
    quote = await quoted(street, pickup={})
    body = {**an_order_body(quantity=2), "quote_id": quote["quote_id"]}
    answer = await street.client.post("/v1/allocations", json=body, headers=keyed("k"))
    assert answer.status_code == 201, answer.text
    assert [leg["node_id"] for leg in answer.json()["legs"]] == ["N-0"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({**an_order_body(quantity=2), "quote_option": "S-1"}, "/lines"),
        (collected("S-1", quote_option="standard"), "/lines"),
        (collected("S-1", quote_option="S-2"), "/lines"),
        (collected("S-1", quote_option="S-3"), "/quote_option"),
        (collected("S-1", quantity=3), "/lines"),
        (collected("S-2"), "/lines"),
        (collected("N-0"), "/lines"),
        (collected("S-1", ship_to={"country": "US", "postal_code": "10002"}), "/ship_to"),
    ],
)
async def test_a_store_is_taken_up_as_it_was_quoted_or_refused_by_field(
    street: GatewayEngine, body: dict[str, Any], pointer: str
) -> None:
    quote = await quoted(street, pickup={"limit": 1 if body.get("quote_option") != "S-2" else 2})
    answer = await street.client.post(
        "/v1/allocations", json={**body, "quote_id": quote["quote_id"]}, headers=keyed("k")
    )
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "quote_mismatch"), answer.text
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    named = body.get("quote_option", "")
    assert problem["errors"][0].get("pickup_node_id") == (named if named in ("S-1", "S-2") else None)


async def test_a_store_that_sold_out_meanwhile_is_a_change_with_both(street: GatewayEngine) -> None:
    quote = await quoted(street, pickup={})
    taken = await street.client.post("/v1/allocations", json=collected("S-1", order_id="T"), headers=keyed("t"))
    assert taken.status_code == 201, taken.text
    body = collected("S-1", quote_id=quote["quote_id"])
    answer = await street.client.post("/v1/allocations", json=body, headers=keyed("k"))
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, "quote_changed"), answer.text
    first, line = problem["errors"]
    assert (first["option_id"], first["quoted"]["unfilled_units"], first["offered"]["unfilled_units"]) == ("S-1", 0, 1)
    assert (line["pointer"], line["available_to_promise"]) == ("/lines/0", 1)


async def test_a_quote_of_stores_names_the_field_that_is_wrong(street: GatewayEngine) -> None:
    for change, pointer in (
        ({"pickup": {"limit": 0}}, "/pickup/limit"),
        ({"pickup": {"limit": 11}}, "/pickup/limit"),
        ({"pickup": {"radius_km": 0}}, "/pickup/radius_km"),
        ({"pickup": {"max": 1}}, "/pickup/max"),
        ({"pickup": {}, "ship_to": None}, "/ship_to"),
    ):
        answer = await street.client.post("/v1/quotes", json=a_basket(**change))
        problem = answer.json()
        assert (problem["code"], problem["errors"][0]["pointer"]) == ("invalid_field", pointer), answer.text
