"""Availability out of the gateway's own view: the owners' numbers, honest ages, tokens, restarts of a shard, two gateways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from engine.client.cluster import Cluster
from engine.client.stock_view import StockView
from engine.domain.config import Node
from gateway.__main__ import CONFIG_KINDS
from gateway.app import create_app
from tests.builders import a_network
from tests.conftest import eventually
from tests.contract.shard_host import HostedShard
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed

SKUS = ("SKU-0", "SKU-1", "SKU-2")
AGE_MAX_MS = 30_000


@pytest.fixture(params=[1, 2], ids=["1 shard", "2 shards"])
async def engine(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[GatewayEngine]:
    engine = await GatewayEngine(tmp_path, shards=request.param, availability_age_max_ms=AGE_MAX_MS).start()
    yield engine
    await engine.close()


async def read(client: httpx.AsyncClient, *, after: str | None = None, **query: Any) -> Any:
    headers = {"x-qm-after": after} if after else {}
    answer = await client.get("/v1/availability", params={"sku": list(SKUS), **query}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def followed(engine: GatewayEngine) -> StockView:
    """The gateway's view, once it is complete: the first read begins it."""
    view = engine.door.gateway.stock
    await read(engine.client)
    await eventually(lambda: bool(view.shards) and all(shard.columns is not None for shard in view.shards.values()))
    await read(engine.client)
    return view


def points(body: Any) -> list[tuple[int, int, int]]:
    return [(entry["shard"], entry["epoch"], entry["seq"]) for entry in body["as_of"]]


async def restart(engine: GatewayEngine, shard: int) -> None:
    old = engine.stock[shard]
    await old.stop()
    engine.stock[shard] = await HostedShard(shard, old.folder, engine.server, engine.directory).start()


async def test_the_view_shows_what_the_owners_show(engine: GatewayEngine) -> None:
    await engine.stock_up("N-0", "SKU-0", 9)
    view = await followed(engine)
    last = await engine.stock_up("N-1", "SKU-1", 4)
    held = await engine.client.post(
        "/v1/reservations", json=an_order_body("A-1", quantity=2, ttl_s=600), headers=keyed("k-1")
    )
    assert held.status_code == 201, held.text
    settings = [{"sku": "SKU-1", "safety_units": 1, "supply": "trusted", "trust_bp": 9_000}]
    put = await engine.client.put("/v1/inventory/positions", json={"node_id": "N-1", "positions": settings})
    assert put.status_code == 200, put.text
    now = datetime.now(UTC).isoformat()
    count = {"node_id": "N-2", "source": "wms", "as_of": now, "source_seq": 1, "scope": "delta"}
    counted = await engine.client.post(
        "/v1/inventory/counts", json={**count, "rows": [{"sku": "SKU-2", "quantity": 5}]}, headers=keyed("c-1")
    )
    assert counted.status_code == 200, counted.text
    after = f"{held.json()['token']};{last}"
    for query in ({}, {"node_id": "N-0"}, {"node_id": "N-1", "channel": "web"}, {"method": "pickup"}):
        strict = await read(engine.client, consistency="strict", **query)
        local = await read(engine.client, after=f"{strict['token']},{after}", **query)
        assert points(local) == points(strict)
        for position in [*local["data"], *strict["data"]]:
            position.pop("feed_age_s")
        assert local["data"] == strict["data"]
        assert local["totals"] == strict["totals"]
    assert [n for n, shard in view.shards.items() if shard.pictures != 1] == []


@pytest.mark.parametrize(("on_stale", "to_sell"), [("serve", 5), ("exclude", 0), ("extra_safety", 4)])
async def test_the_view_and_the_owners_say_the_same_of_old_counts(
    engine: GatewayEngine, on_stale: Any, to_sell: int
) -> None:
    """Also when the node was told to mind them after it was counted."""
    view = await followed(engine)
    count = {"source": "wms", "source_seq": 1, "scope": "delta", "rows": [{"sku": "SKU-2", "quantity": 5}]}
    for n, hours in enumerate((2, 0, 2)):
        body = {**count, "node_id": f"N-{n}", "as_of": (datetime.now(UTC) - timedelta(hours=hours)).isoformat()}
        counted = await engine.client.post("/v1/inventory/counts", json=body, headers=keyed(f"c-{n}"))
        assert counted.status_code == 200, counted.text
    for document in a_network(nodes=4, items=3, shards=len(engine.stock)):
        if isinstance(document, Node) and document.node_id != "N-2":
            await engine.put(msgspec.structs.replace(document, max_feed_age_s=3_600, on_stale=on_stale))
    cores: list[Any] = [shard.core for shard in engine.stock]
    await eventually(lambda: all(core.catalog.version == engine.cluster.catalog.version for core in cores))
    strict = await read(engine.client, consistency="strict")
    local = await read(engine.client, after=strict["token"])
    for position in [*local["data"], *strict["data"]]:
        position.pop("feed_age_s")
    assert local["data"] == strict["data"]
    assert [position["available_to_promise"] for position in local["data"]] == [to_sell, 5, 5]
    assert [n for n, shard in view.shards.items() if shard.pictures != 1] == []


async def test_a_read_after_a_token_contains_it(engine: GatewayEngine) -> None:
    await followed(engine)
    for n in range(1, 20):
        token = await engine.stock_up(f"N-{n % 4}", "SKU-0", 1)
        seen = await read(engine.client, after=token)
        assert seen["totals"][0] == {"sku": "SKU-0", "available_to_promise": n}
    tokens = [await engine.stock_up(f"N-{n}", "SKU-1", 1) for n in range(4)]
    seen = await read(engine.client, after=",".join(tokens))
    assert seen["totals"][1]["available_to_promise"] == 4


@pytest.mark.parametrize("token", ["0:1", "0:1:2:3", "x", "0:1:1;", "0:1:1,,0:1:2", "-1:0:0"])
async def test_what_is_no_token_is_a_typed_problem(engine: GatewayEngine, token: str) -> None:
    answer = await engine.client.get("/v1/availability", params={"sku": "SKU-0"}, headers={"x-qm-after": token})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_token")


async def test_a_token_that_does_not_come_is_view_behind_within_a_second(engine: GatewayEngine) -> None:
    await followed(engine)
    [(_, epoch, seq)] = [point for point in points(await read(engine.client)) if point[0] == 0]
    answer = await engine.client.get(
        "/v1/availability",
        params={"sku": "SKU-0"},
        headers=[("x-qm-after", f"0:{epoch}:{seq + 1}"), ("x-qm-after", f"0:{epoch}:1")],
    )
    assert (answer.status_code, answer.json()["code"]) == (503, "view_behind")
    assert answer.headers["retry-after"]


async def test_a_restarted_shard_is_followed_anew_from_a_fresh_picture(engine: GatewayEngine) -> None:
    await engine.stock_up("N-0", "SKU-0", 3)
    view = await followed(engine)
    [before] = [point for point in points(await read(engine.client)) if point[0] == 0]
    await restart(engine, 0)
    await eventually(lambda: view.shards[0].point[0] > before[1])
    assert view.shards[0].pictures == 2
    token = await engine.stock_up("N-0", "SKU-0", 2)
    seen = await read(engine.client, after=token)
    assert seen["totals"][0]["available_to_promise"] == 5
    # A token of the epoch before is contained in the newer one.
    assert (await read(engine.client, after=":".join(map(str, before))))["totals"][0]["available_to_promise"] == 5


async def test_a_view_too_old_is_no_answer(engine: GatewayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    await engine.stock_up("N-0", "SKU-0", 3)
    view = await followed(engine)
    await engine.stock[0].stop()
    seen = await read(engine.client)
    assert seen["totals"][0]["available_to_promise"] == 3, "not older than it may be: answered without the shard"
    shard = view.shards[0]
    monkeypatch.setattr(shard, "heard_s", shard.heard_s - AGE_MAX_MS / 1_000 - 0.1)
    asked = asyncio.create_task(engine.client.get("/v1/availability", params={"sku": "SKU-0"}))
    await asyncio.sleep(0.05)
    assert not asked.done(), "it asks the owner, who is away"
    engine.stock[0] = await HostedShard(0, engine.stock[0].folder, engine.server, engine.directory).start()
    assert (await asked).json()["totals"][0]["available_to_promise"] == 3


async def test_two_gateways_tell_the_same(engine: GatewayEngine) -> None:
    second = Cluster(engine.directory.find, kinds=CONFIG_KINDS, timeout_s=30.0)
    await second.start()
    assert await second.wait_configured(60.0)
    door = create_app(second, engine.settings)
    transport = httpx.ASGITransport(door, raise_app_exceptions=True)
    headers = {"authorization": f"Bearer {engine.admin}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as client:
        await eventually(lambda: second.catalog.version >= engine.cluster.catalog.version)
        await followed(engine)
        await read(client)
        await eventually(lambda: all(shard.columns is not None for shard in door.gateway.stock.shards.values()))
        order = await engine.client.post("/v1/allocations", json=an_order_body("A-0"), headers=keyed("k-0"))
        assert order.status_code == 409, order.text
        tokens = [await engine.stock_up(f"N-{n}", sku, n + 1) for n in range(4) for sku in SKUS]
        order = await client.post("/v1/allocations", json=an_order_body("A-1", quantity=2), headers=keyed("k-1"))
        assert order.status_code == 201, order.text
        after = f"{order.json()['token']},{','.join(tokens)}"
        one, other = await read(engine.client, after=after), await read(client, after=after)
        assert one["data"] == other["data"]
        assert one["totals"][0]["available_to_promise"] == 10 - 2
    await door.gateway.stock.close()
    await second.close()


async def test_a_feed_that_nobody_reads_is_given_up_and_begun_again(
    engine: GatewayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.client.stock_view.IDLE_CHECK_S", 0.05)
    view = await followed(engine)
    monkeypatch.setattr("engine.client.stock_view.IDLE_S", 0.2)
    monkeypatch.setattr(view, "_used_s", view._used_s - 1.0)
    view._look_idle()
    assert view.shards == {}
    assert view.size() == (0, 0)
    cores: Any = [shard.core for shard in engine.stock]
    await eventually(lambda: all(core.stock_feed.followers == 0 for core in cores))
    monkeypatch.undo()
    token = await engine.stock_up("N-0", "SKU-0", 3)
    assert (await read(engine.client, after=token))["totals"][0]["available_to_promise"] == 3
    await followed(engine)


async def test_a_sku_of_a_new_item_is_found(engine: GatewayEngine) -> None:
    await followed(engine)
    unknown = await engine.client.get("/v1/availability", params={"sku": "NEW"})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_sku")
    put = await engine.client.put("/v1/items/NEW", json={"sku": "NEW", "weight_g": 100})
    assert put.status_code in (200, 201), put.text
    booked = await engine.client.post(
        "/v1/inventory/adjustments",
        json={"node_id": "N-0", "sku": "NEW", "kind": "received", "quantity": 7},
        headers=keyed("a-1"),
    )
    assert booked.status_code == 200, booked.text
    seen = await read(engine.client, sku="NEW", after=booked.json()["token"])
    assert seen["totals"] == [{"sku": "NEW", "available_to_promise": 7}]


@pytest.mark.parametrize(
    "query", [{}, {"consistency": "strict"}, {"node_id": True}], ids=["view", "strict", "one node"]
)
async def test_a_token_covers_the_units_that_its_order_has_at_other_shards(
    engine: GatewayEngine, query: dict[str, Any]
) -> None:
    """Units at another shard move when the order's home has driven them there: after its own entry, which the token names."""
    client = engine.client
    await engine.seen_by_all(*[await engine.stock_up(f"N-{n}", f"SKU-{n}", 9) for n in range(3)])
    await followed(engine)
    elsewhere = wrong = 0
    for n in range(20):
        node, sku = f"N-{n % 3}", f"SKU-{n % 3}"
        asked = {**query, "node_id": node} if "node_id" in query else query
        shown_at: list[str] = []

        async def left(
            token: str, sku: str = sku, asked: dict[str, Any] = asked, shown_at: list[str] = shown_at
        ) -> int:
            params, headers = {"sku": sku, **asked}, {"x-qm-after": token}
            answer = await client.get("/v1/availability", params=params, headers=headers)
            while answer.status_code == 503 and answer.json()["code"] == "view_behind":  # a busy machine: ask again
                answer = await client.get("/v1/availability", params=params, headers=headers)
            assert answer.status_code == 200, answer.text
            shown_at.append(answer.json()["token"])
            return answer.json()["totals"][0]["available_to_promise"]

        body = an_order_body(f"A-{n}", sku=sku, quantity=4)
        placed = await client.post("/v1/allocations", json=body, headers=keyed(f"k-{n}"))
        assert placed.status_code == 201, placed.text
        wrong += await left(placed.json()["token"]) != 5
        allocation = placed.json()["allocation_id"]
        cancelled = await client.post(f"/v1/allocations/{allocation}/cancel", json={}, headers=keyed(f"c-{n}"))
        assert cancelled.status_code == 200, cancelled.text
        token = cancelled.json()["token"]
        elsewhere += int(token.split(":")[0]) != engine.cluster.shard_of_node(node)
        wrong += await left(token) != 9
        await engine.seen_by_all(shown_at[-1])  # the next order on these units is decided on all of them
    assert wrong == 0
    assert (elsewhere > 0) == (len(engine.stock) > 1), "some orders have their units at another shard"


async def test_a_token_whose_units_cannot_move_yet_is_view_behind_until_they_have(tmp_path: Path) -> None:
    """The shard that owns them is away: nobody is shown units that the order still has there, and nobody waits for ever."""
    engine = await GatewayEngine(tmp_path, shards=2, availability_age_max_ms=AGE_MAX_MS).start()
    client = engine.client
    for n in range(4):
        await engine.stock_up(f"N-{n}", "SKU-0", 9)
    await followed(engine)
    placed = await client.post("/v1/allocations", json=an_order_body(), headers=keyed("k-1"))
    home = int(placed.json()["token"].split(":")[0])
    far = next(node for node in ("N-0", "N-1", "N-2", "N-3") if engine.cluster.shard_of_node(node) != home)
    await client.post(f"/v1/allocations/{placed.json()['allocation_id']}/cancel", json={}, headers=keyed("c-1"))
    sku = "SKU-1"
    stocked = {"x-qm-after": await engine.stock_up(far, sku, 9)}
    placed = await client.post("/v1/allocations", json=an_order_body("A-2", sku=sku), headers=keyed("k-2", **stocked))
    assert placed.status_code == 201, placed.text
    away = engine.cluster.shard_of_node(far)
    assert away is not None and away != home
    await read(client, after=placed.json()["token"])
    await engine.stock[away].stop()
    cancelled = await client.post(
        f"/v1/allocations/{placed.json()['allocation_id']}/cancel", json={}, headers=keyed("c-2")
    )
    assert cancelled.status_code == 200, cancelled.text
    token = cancelled.json()["token"]
    answer = await client.get("/v1/availability", params={"sku": sku}, headers={"x-qm-after": token})
    assert (answer.status_code, answer.json()["code"]) == (503, "view_behind")
    near = next(node for node in ("N-0", "N-1", "N-2", "N-3") if engine.cluster.shard_of_node(node) == home)
    await read(client, after=token, node_id=near)
    engine.stock[away] = await HostedShard(away, engine.stock[away].folder, engine.server, engine.directory).start()

    async def seen() -> int:
        answer = await client.get("/v1/availability", params={"sku": sku}, headers={"x-qm-after": token})
        return answer.json()["totals"][0]["available_to_promise"] if answer.status_code == 200 else -1

    found: list[int] = []

    async def back() -> bool:
        found.append(await seen())
        return found[-1] == 9

    await eventually(back)
    assert set(found) <= {-1, 9}, "never the units before"
    await engine.close()


async def test_a_destination_shows_who_could_send_there_nearest_first(engine: GatewayEngine) -> None:
    for n in range(4):
        await engine.stock_up(f"N-{n}", "SKU-0", n + 1)
    await followed(engine)
    body = await read(engine.client, sku="SKU-0", country="US", lat=43.0, lon=-77.0)
    shown = [(row["node_id"], row["distance_km"]) for row in body["data"]]
    assert [node for node, _ in shown] == ["N-3", "N-2", "N-1", "N-0"]
    assert shown[0][1] == 0.0 and sorted(far for _, far in shown) == [far for _, far in shown]
    assert body["totals"] == [{"sku": "SKU-0", "available_to_promise": 10}]
    assert len(body["as_of"]) == len(engine.stock)
    by_code = await read(engine.client, sku="SKU-0", postal_code="10001", node_id="N-2")
    assert [row["node_id"] for row in by_code["data"]] == ["N-2"]
    assert all("distance_km" not in row for row in (await read(engine.client, sku="SKU-0"))["data"])


async def test_a_destination_names_the_field_that_is_wrong(engine: GatewayEngine) -> None:
    for query, code, pointer in (
        ({"lat": 43.0, "country": "US"}, "invalid_field", "/lon"),
        ({"lon": -77.0, "country": "US"}, "invalid_field", "/lat"),
        ({"lat": 43.0, "lon": -77.0}, "invalid_field", "/country"),
        ({"lat": 43.0, "lon": -77.0, "country": "ZZ"}, "invalid_field", "/country"),
        ({"country": "DE"}, "invalid_field", "/postal_code"),
        ({"postal_code": "10001", "method": "pickup"}, "invalid_field", "/method"),
        ({"postal_code": "75001", "country": "FR"}, "unknown_destination", "/postal_code"),
    ):
        answer = await engine.client.get("/v1/availability", params={"sku": "SKU-0", **query})
        problem = answer.json()
        assert (problem["code"], problem["errors"][0]["pointer"]) == (code, pointer), answer.text
