"""Every route, every key: 401 without one, 403 without the scope, never a look inside before that."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.domain.api_keys import SCOPES
from gateway.app import HOT, all_routes
from gateway.call import ANY_KEY, PUBLIC, Route
from gateway.stream.routes import EVENT_STREAM
from gateway.stream.told import GROUPS
from tests.integration.gateway_engine import GatewayEngine, an_order_body

ROUTES = all_routes()
_SAMPLE = {
    "allocation_id": "alc_US100_0000000000001",
    "reservation_id": "res_US100_0000000000001",
    "leg_id": "leg_US100_0000000000001_1",
    "decision_id": "dec_US100_0000000000001_0",
}


def path_of(route: Route) -> str:
    path = route.path
    for name, value in _SAMPLE.items():
        path = path.replace(f"{{{name}}}", value)
    prefix, brace, rest = path.partition("{")
    return prefix + "X" + rest.partition("}")[2] if brace else path


@pytest.fixture(scope="module")
def routes() -> list[Route]:
    return ROUTES


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[GatewayEngine]:
    engine = await GatewayEngine(tmp_path, shards=1).start()
    yield engine
    await engine.close()


def test_every_route_declares_its_scope(routes: list[Route]) -> None:
    assert len(routes) > 40
    for route in routes:
        assert route.scope in (*SCOPES, ANY_KEY, PUBLIC), route.name
    assert {route.name for route in routes if route.scope == PUBLIC} == {
        "GET /livez",
        "GET /readyz",
        "GET /version",
        "GET /openapi.json",
        "GET /docs",
        "GET /problems/{code}",
    }
    assert {route.scope for route in routes} >= set(SCOPES), "a scope that opens nothing"


def test_the_fast_path_serves_declared_routes_only() -> None:
    declared = {(route.method, route.path) for route in ROUTES}
    assert declared >= HOT


async def test_everything_the_app_can_reach_is_declared(engine: GatewayEngine) -> None:
    """Walks the router as it is mounted: nothing was added beside the table."""
    from gateway.app import PathEndpoint

    mounted = set()
    for entry in engine.door.app.router.routes:  # type: ignore[attr-defined]
        assert isinstance(entry.endpoint, PathEndpoint), entry
        mounted |= {(method, route.path) for method, route in entry.endpoint.routes.items()}
    assert mounted == {(route.method, route.path) for route in ROUTES}
    for method, path in HOT:
        found = engine.door.find(method, path.replace("{reservation_id}", "res_x"))
        assert found is not None
        assert found[0].path == path


async def test_no_key_no_answer(engine: GatewayEngine) -> None:
    nobody = engine.client_for("")
    wrong = engine.client_for(engine.admin[:-1] + ("A" if engine.admin[-1] != "A" else "B"))
    expired = engine.client_for(await engine.token("*", expires_at_ms=time.time_ns() // 1_000_000 - 1))
    for route in ROUTES:
        for client in (nobody, wrong, expired):
            answer = await client.request(route.method, path_of(route))
            if route.scope == PUBLIC:
                assert answer.status_code != 401, route.name
            else:
                assert answer.status_code == 401, (route.name, answer.text)
                assert answer.json()["code"] == "unauthenticated"
                assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_each_scope_opens_its_routes_and_no_other(engine: GatewayEngine) -> None:
    for scope in SCOPES:
        client = engine.client_for(await engine.token(scope))
        for route in ROUTES:
            streams = route.answer_type == EVENT_STREAM  # its answer never ends, but has a head like any other
            answer = await client.request("HEAD" if streams else route.method, path_of(route))
            if streams:
                assert answer.status_code == (200 if scope in GROUPS.values() else 403), scope
            elif route.scope in (scope, PUBLIC, ANY_KEY):
                assert answer.status_code not in (401, 403), (scope, route.name, answer.text)
            else:
                assert answer.status_code == 403, (scope, route.name, answer.text)
                assert answer.json()["code"] == "forbidden"


async def test_a_revoked_key_is_out_at_once(engine: GatewayEngine) -> None:
    token = await engine.token("config:read")
    client = engine.client_for(token)
    assert (await client.get("/v1/items")).status_code == 200
    key_id = token.split("_")[1]
    document = engine.cluster.catalog.keys[key_id]
    import msgspec

    await engine.put(msgspec.structs.replace(document, revoked=True))
    assert (await client.get("/v1/items")).status_code == 401


async def test_keys_cannot_be_read_or_made_over_http(engine: GatewayEngine) -> None:
    for path in ("/v1/keys", "/v1/key", "/v1/keys/abcd", "/v1/placement"):
        for method in ("GET", "PUT", "POST"):
            assert (await engine.client.request(method, path)).status_code == 404


async def test_every_answer_carries_the_security_headers(engine: GatewayEngine) -> None:
    for answer in (
        await engine.client.get("/livez"),
        await engine.client.get("/v1/items"),
        await engine.client.get("/nowhere"),
        await engine.client.get("/v1/items/none"),
    ):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers


async def test_documentation_can_be_switched_off(tmp_path: Path, engine: GatewayEngine) -> None:
    from gateway.app import create_app

    assert (await engine.client.get("/openapi.json")).json()["openapi"] == "3.1.0"
    shown = await engine.client.get("/docs")
    assert shown.headers["content-type"].startswith("text/html")
    assert "script" not in shown.headers["content-security-policy"]
    engine.door = create_app(engine.cluster, engine.settings.model_copy(update={"docs_enabled": False}))
    off = engine.client_for(engine.admin)
    for path in ("/docs", "/openapi.json", "/redoc"):
        assert (await off.get(path)).status_code == 404


async def test_a_key_that_is_given_twice_is_no_key(engine: GatewayEngine) -> None:
    """A proxy in between may read the first where we would read the last."""
    good = engine.client.headers["authorization"]
    async with engine.client_for("") as client:
        for values in ((good, good), ("Bearer qm_aaaaaaaa_x", good), (good, "Bearer qm_aaaaaaaa_x")):
            answer = await client.get("/v1/nodes", headers=[("authorization", value) for value in values])
            assert answer.status_code == 401
        headers = [("authorization", good), ("idempotency-key", "k-1"), ("idempotency-key", "k-2")]
        twice = await client.post("/v1/allocations", json=an_order_body(), headers=headers)
    assert (twice.status_code, twice.json()["code"]) == (422, "invalid_field")
