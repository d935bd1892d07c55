"""Stock in and shown; configuration documents; imports as jobs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from httpx import AsyncClient

from gateway.jobs import routes as jobs
from gateway.jobs.examples import CARRIER_FILES, CHANNEL_FILES
from gateway.jobs.store import JobStore
from tests.conftest import eventually
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[GatewayEngine]:
    engine = await GatewayEngine(tmp_path).start()
    yield engine
    await engine.close()


async def adjust(engine: GatewayEngine, key: str, **fields: Any) -> Any:
    return await engine.client.post("/v1/inventory/adjustments", json=fields, headers=keyed(key))


async def test_movements_one_by_one_and_together(engine: GatewayEngine) -> None:
    one = await adjust(engine, "a-1", node_id="N-0", sku="SKU-0", kind="received", quantity=10)
    assert one.status_code == 200, one.text
    assert one.json()["positions"][0]["on_hand"] == 10
    assert one.json()["token"]
    several = await adjust(
        engine,
        "a-2",
        node_id="N-0",
        moves=[
            {"sku": "SKU-0", "kind": "damaged", "quantity": 3},
            {"sku": "SKU-1", "kind": "adjusted", "quantity": 4, "reason": "found in aisle 3"},
        ],
    )
    assert [(p["sku"], p["on_hand"]) for p in several.json()["positions"]] == [("SKU-0", 7), ("SKU-1", 4)]
    again = await adjust(engine, "a-1", node_id="N-0", sku="SKU-0", kind="received", quantity=10)
    assert again.headers["idempotent-replayed"] == "true"
    seen = await engine.client.get("/v1/availability", params={"sku": ["SKU-0", "SKU-1"], "consistency": "strict"})
    assert seen.json()["totals"] == [
        {"sku": "SKU-0", "available_to_promise": 7},
        {"sku": "SKU-1", "available_to_promise": 4},
    ]


@pytest.mark.parametrize(
    ("fields", "code", "pointer"),
    [
        ({"sku": "NO", "kind": "received", "quantity": 1}, "unknown_sku", "/sku"),
        ({"sku": "SKU-0", "kind": "received", "quantity": -1}, "invalid_field", "/quantity"),
        ({"sku": "SKU-0", "kind": "stolen", "quantity": 1}, "invalid_field", "/kind"),
        ({"sku": "SKU-0", "kind": "received"}, "invalid_field", "/quantity"),
        ({"moves": []}, "invalid_field", "/moves"),
        ({"moves": [{"sku": "NO", "kind": "lost", "quantity": 1}]}, "unknown_sku", "/moves/0/sku"),
        ({"node_id": "NO", "sku": "SKU-0", "kind": "lost", "quantity": 1}, "unknown_node", "/node_id"),
    ],
)
async def test_bad_movements_point_at_the_field(
    engine: GatewayEngine, fields: dict[str, Any], code: str, pointer: str
) -> None:
    answer = await adjust(engine, "a-1", **{"node_id": "N-0", **fields})
    assert answer.status_code == 422, answer.text
    assert (answer.json()["code"], answer.json()["errors"][0]["pointer"]) == (code, pointer)


async def test_a_movement_that_expects_another_number_is_refused_with_the_number_that_is_there(
    engine: GatewayEngine,
) -> None:
    await engine.stock_up("N-0", "SKU-0", 10)
    one = {"node_id": "N-0", "sku": "SKU-0", "kind": "adjusted", "quantity": 2}
    assert (await adjust(engine, "a-1", **one, expected_on_hand=10)).status_code == 200
    refused = await adjust(engine, "a-2", **one, expected_on_hand=10)
    assert (refused.status_code, refused.json()["code"]) == (409, "stock_changed")
    [error] = refused.json()["errors"]
    assert (error["pointer"], error["on_hand"]) == ("/expected_on_hand", 12)
    again = await adjust(engine, "a-1", **one, expected_on_hand=10)
    assert again.headers["idempotent-replayed"] == "true"
    reused = await adjust(engine, "a-1", **one)
    assert reused.json()["code"] == "key_reused", "what it expects is part of what is asked"

    moves = [{"sku": sku, "kind": "adjusted", "quantity": 1, "expected_on_hand": 0} for sku in ("SKU-1", "SKU-0")]
    both = await adjust(engine, "a-3", node_id="N-0", moves=moves)
    assert [(e["pointer"], e["on_hand"]) for e in both.json()["errors"]] == [("/moves/1/expected_on_hand", 12)]
    left = await engine.client.get("/v1/availability?sku=SKU-1&consistency=strict")
    assert left.json()["totals"][0]["available_to_promise"] == 0, "nothing of a request is booked then"
    mixed = await adjust(engine, "a-4", node_id="N-0", moves=moves, expected_on_hand=1)
    assert mixed.json()["errors"][0]["pointer"] == "/moves"


async def test_counts_are_absolute_and_ordered(engine: GatewayEngine) -> None:
    def body(seq: int, units: int) -> dict[str, Any]:
        return {
            "node_id": "N-0",
            "source": "wms",
            "as_of": _now(),
            "source_seq": seq,
            "rows": [{"sku": "SKU-0", "quantity": units}],
        }

    first = await engine.client.post("/v1/inventory/counts", json=body(5, 12), headers=keyed("c-1"))
    assert first.status_code == 200, first.text
    assert first.json()["positions"][0]["on_hand"] == 12
    stale = await engine.client.post("/v1/inventory/counts", json=body(4, 9), headers=keyed("c-2"))
    assert (stale.status_code, stale.json()["code"]) == (409, "stale_count")


def _now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat()


async def test_safety_stock_is_not_promised(engine: GatewayEngine) -> None:
    await engine.stock_up("N-0", "SKU-0", 10)
    answer = await engine.client.put(
        "/v1/inventory/positions", json={"node_id": "N-0", "positions": [{"sku": "SKU-0", "safety_units": 4}]}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["positions"][0]["available_to_promise"] == 6
    bad = await engine.client.put("/v1/inventory/positions", json={"node_id": "N-0", "positions": [{"sku": "NO"}]})
    assert bad.json()["errors"][0]["pointer"] == "/positions/0/sku"


async def test_a_supplier_that_nobody_counts_promises_its_cap(engine: GatewayEngine) -> None:
    row = {"sku": "SKU-2", "supply": "uncounted", "daily_cap_units": 3}
    answer = await engine.client.put("/v1/inventory/positions", json={"node_id": "N-1", "positions": [row]})
    (position,) = answer.json()["positions"]
    assert (position["available_to_promise"], position["supply"]) == (3, "uncounted")
    taken = await engine.client.post(
        "/v1/allocations",
        json=an_order_body("A-1", sku="SKU-2", quantity=2),
        headers={**keyed("u-1"), "x-qm-after": answer.json()["token"]},
    )
    assert taken.status_code == 201, taken.text
    for consistency in ("local", "strict"):
        params = {"sku": "SKU-2", "consistency": consistency}
        seen = {"x-qm-after": taken.json()["token"]}
        shown = (await engine.client.get("/v1/availability", params=params, headers=seen)).json()
        assert shown["totals"] == [{"sku": "SKU-2", "available_to_promise": 1}]
        assert shown["data"][0]["supply"] == "uncounted"
    refused = await adjust(engine, "u-2", node_id="N-1", sku="SKU-2", kind="received", quantity=1)
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/sku")


async def test_availability_says_where_and_as_of_when(engine: GatewayEngine) -> None:
    await engine.stock_up("N-0", "SKU-0", 3)
    await engine.stock_up("N-1", "SKU-0", 4)
    seen = (await engine.client.get("/v1/availability", params={"sku": "SKU-0", "consistency": "strict"})).json()
    assert [(p["node_id"], p["available_to_promise"]) for p in seen["data"]] == [("N-0", 3), ("N-1", 4)]
    assert [a["shard"] for a in seen["as_of"]] == [0, 1]
    seen_at = {"x-qm-after": seen["token"]}
    one = (
        await engine.client.get("/v1/availability", params={"sku": "SKU-0", "node_id": "N-1"}, headers=seen_at)
    ).json()
    assert [(p["node_id"], p["available_to_promise"]) for p in one["data"]] == [("N-1", 4)]
    after = await engine.client.get("/v1/availability", params={"sku": "SKU-0"}, headers=seen_at)
    assert after.status_code == 200
    for query, code, pointer in (
        ({}, "invalid_field", "/sku"),
        ({"sku": "NO"}, "unknown_sku", "/sku/0"),
        ({"sku": "SKU-0", "node_id": "NO"}, "unknown_node", "/node_id"),
        ({"sku": "SKU-0", "channel": "NO"}, "unknown_channel", "/channel"),
        ({"sku": "SKU-0", "color": "red"}, "invalid_field", "/color"),
        ({"sku": [f"S-{n}" for n in range(101)]}, "invalid_field", "/sku"),
    ):
        bad = await engine.client.get("/v1/availability", params=query)
        assert bad.status_code == 422, bad.text
        assert (bad.json()["code"], bad.json()["errors"][0]["pointer"]) == (code, pointer)
    token = await engine.client.get("/v1/availability", params={"sku": "SKU-0"}, headers={"x-qm-after": "zero"})
    assert (token.status_code, token.json()["code"]) == (400, "invalid_token")
    behind = await engine.client.get(
        "/v1/availability", params={"sku": "SKU-0"}, headers={"x-qm-after": "0:9999999999:1"}
    )
    assert (behind.status_code, behind.json()["code"]) == (503, "view_behind")


async def test_documents_are_versioned(engine: GatewayEngine) -> None:
    path = "/v1/items/A%2FB%20c"
    item = {"sku": "A/B c", "weight_g": 100}
    made = await engine.client.put(path, json=item)
    assert made.status_code == 201, made.text
    assert made.headers["location"] == path
    repeated = await engine.client.put(path, json=item)
    assert (repeated.status_code, repeated.headers["etag"]) == (200, made.headers["etag"])
    blind = await engine.client.put(path, json={**item, "weight_g": 200})
    assert (blind.status_code, blind.json()["code"]) == (428, "precondition_required")
    changed = await engine.client.put(path, json={**item, "weight_g": 200}, headers={"if-match": made.headers["etag"]})
    assert changed.status_code == 200, changed.text
    stale = await engine.client.put(path, json={**item, "weight_g": 300}, headers={"if-match": made.headers["etag"]})
    assert (stale.status_code, stale.json()["code"]) == (412, "version_mismatch")
    only_new = await engine.client.put(path, json=item, headers={"if-none-match": "*"})
    assert only_new.status_code == 412
    whatever = await engine.client.put(path, json={**item, "weight_g": 400}, headers={"if-match": "*"})
    assert whatever.status_code == 200
    read = await engine.client.get(path)
    assert read.json() == {**item, "weight_g": 400}
    unchanged = await engine.client.get(path, headers={"if-none-match": read.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    packed = await engine.client.get(path, headers={"accept": "application/vnd.msgpack"})
    assert packed.headers["etag"] != read.headers["etag"]
    assert packed.headers["content-type"] == "application/vnd.msgpack"


async def test_a_document_must_name_itself_and_be_whole(engine: GatewayEngine) -> None:
    other = await engine.client.put("/v1/items/X", json={"sku": "Y"})
    assert other.json()["errors"][0]["pointer"] == "/sku"
    unknown = await engine.client.put("/v1/items/X", json={"sku": "X", "colour": "red"})
    assert unknown.json()["errors"][0] == {"pointer": "/colour", "detail": "there is no such field"}
    rule = await engine.client.put(
        "/v1/nodes/X", json={"node_id": "X", "postal_code": "10001", "lat": 1, "lon": 1, "time_zone": "Mars/Olympus"}
    )
    assert rule.json()["errors"] == [{"pointer": "/time_zone", "detail": "no time zone 'Mars/Olympus'"}]


async def test_an_item_may_be_called_import(engine: GatewayEngine) -> None:
    made = await engine.client.put("/v1/items/import", json={"sku": "import"})
    assert made.status_code == 201, made.text
    assert (await engine.client.get("/v1/items/import")).json() == {"sku": "import"}
    wrong = await engine.client.delete("/v1/items/import")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, POST, PUT")


async def test_lists_page_by_cursor(engine: GatewayEngine) -> None:
    seen: list[str] = []
    cursor = ""
    while True:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = (await engine.client.get("/v1/nodes", params=query)).json()
        seen += [node["node_id"] for node in page["data"]]
        if not page["has_more"]:
            break
        cursor = page["next_cursor"]
    assert seen == ["N-0", "N-1", "N-2", "N-3"]
    assert (await engine.client.get("/v1/nodes", params={"limit": 0})).status_code == 422
    assert (await engine.client.get("/v1/nodes", params={"cursor": "é"})).json()["code"] == "invalid_cursor"


async def finished(engine: GatewayEngine, answer: Any, client: AsyncClient | None = None) -> dict[str, Any]:
    """The job once it has ended; client: of the key that sent it, where that is not the admin's."""
    assert answer.status_code == 202, answer.text

    async def ended() -> dict[str, Any] | None:
        job = (await (client or engine.client).get(answer.headers["location"])).json()
        return job if job["state"] in ("done", "failed") else None

    return await eventually(ended)  # type: ignore[return-value]


async def test_items_are_imported_and_bad_rows_listed(engine: GatewayEngine) -> None:
    lines = [json.dumps({"sku": f"I-{n}", "weight_g": n}) for n in range(1_200)]
    lines[10] = '{"sku": "bad", "weight_g": -1}'
    lines[20] = "not json"
    lines[30] = json.dumps({"sku": "kit", "components": [{"sku": "nowhere", "quantity": 1}]})
    answer = await engine.client.post(
        "/v1/items/import", content="\n".join(lines), headers={"content-type": "application/x-ndjson"}
    )
    job = await finished(engine, answer)
    assert (job["state"], job["rows_total"], job["rows_done"], job["rows_failed"]) == ("done", 1_200, 1_200, 3)
    assert [(e["line"], e["pointer"]) for e in job["errors"]] == [
        (11, "/weight_g"),
        (21, ""),
        (31, "/components/0/sku"),
    ]
    assert (await engine.client.get("/v1/items/I-1199")).json()["weight_g"] == 1_199
    assert (await engine.client.get("/v1/items/bad")).status_code == 404


async def test_csv_of_nodes_and_stock(engine: GatewayEngine) -> None:
    nodes = (
        "node_id,postal_code,lat,lon,offers,capacity_per_day\nC-1,10005,40.7,-74.0,ship|pickup,100\nC-2,bad!,1,1,,\n"
    )
    job = await finished(
        engine,
        await engine.client.post(
            "/v1/nodes/import", content=nodes, headers={"content-type": "text/csv; charset=utf-8"}
        ),
    )
    assert (job["rows_done"], job["rows_failed"], job["errors"][0]["line"]) == (2, 1, 3)
    node = (await engine.client.get("/v1/nodes/C-1")).json()
    assert (node["offers"], node["capacity"]) == (["ship", "pickup"], {"per_day": 100})
    stock = "node_id,sku,quantity\nC-1,SKU-0,5\nC-1,NO,5\nN-1,SKU-1,6\nC-1,SKU-0,7\nNO,SKU-0,1\n"
    job = await finished(
        engine,
        await engine.client.post(
            "/v1/inventory/import", content=stock, headers=keyed("i-1", **{"content-type": "text/csv"})
        ),
    )
    assert [(e["line"], e["pointer"]) for e in job["errors"]] == [(3, "/sku"), (5, "/sku"), (6, "/node_id")]
    seen = (
        await engine.client.get("/v1/availability", params={"sku": ["SKU-0", "SKU-1"], "consistency": "strict"})
    ).json()
    assert [(p["node_id"], p["sku"], p["on_hand"]) for p in seen["data"]] == [("C-1", "SKU-0", 5), ("N-1", "SKU-1", 6)]


async def test_an_import_takes_the_rows_beside_those_of_kits(engine: GatewayEngine) -> None:
    kit = {"sku": "KIT", "components": [{"sku": "SKU-0", "quantity": 2}]}
    assert (await engine.client.put("/v1/items/KIT", json=kit)).status_code == 201
    job = await finished(
        engine,
        await engine.client.post(
            "/v1/inventory/import",
            content="node_id,sku,quantity\nN-0,KIT,5\nN-0,SKU-0,6\n",
            headers=keyed("i-1", **{"content-type": "text/csv"}),
        ),
    )
    assert [(e["line"], e["pointer"]) for e in job["errors"]] == [(2, "/sku")]
    assert "its components have the stock" in job["errors"][0]["detail"]
    seen = (
        await engine.client.get("/v1/availability", params={"sku": ["SKU-0", "KIT"], "consistency": "strict"})
    ).json()
    assert {p["sku"]: p["on_hand"] for p in seen["data"]} == {"SKU-0": 6, "KIT": 3}


async def test_a_full_count_is_one_command_a_node(engine: GatewayEngine) -> None:
    await engine.stock_up("N-0", "SKU-2", 9)
    rows = "node_id,sku,quantity\nN-0,SKU-0,5\nN-1,SKU-0,6\nN-0,SKU-1,1\n"
    job = await finished(
        engine,
        await engine.client.post(
            "/v1/inventory/import?scope=full&source=wms&source_seq=3",
            content=rows,
            headers=keyed("i-1", **{"content-type": "text/csv"}),
        ),
    )
    assert [(e["line"], e["pointer"]) for e in job["errors"]] == [(4, "/node_id")]
    seen = (
        await engine.client.get(
            "/v1/availability", params={"sku": ["SKU-0", "SKU-2"], "node_id": "N-0", "consistency": "strict"}
        )
    ).json()
    assert {p["sku"]: p["on_hand"] for p in seen["data"]} == {"SKU-0": 5, "SKU-2": 0}


async def test_an_import_is_repeated_by_its_key(engine: GatewayEngine) -> None:
    headers = keyed("i-1", **{"content-type": "application/x-ndjson"})
    row = '{"node_id": "N-0", "sku": "SKU-0", "quantity": 5}'
    first = await engine.client.post("/v1/inventory/import", content=row, headers=headers)
    again = await engine.client.post("/v1/inventory/import", content=row, headers=headers)
    assert again.json()["job_id"] == first.json()["job_id"]
    assert again.headers["idempotent-replayed"] == "true"
    other = await engine.client.post("/v1/inventory/import", content=row.replace("5", "6"), headers=headers)
    assert other.json()["code"] == "key_reused"
    stranger = engine.client_for(await engine.token("inventory:write"))
    assert (await stranger.get(first.headers["location"])).status_code == 404


async def test_a_file_sent_again_after_a_restart_is_not_counted_again(engine: GatewayEngine) -> None:
    """The gateway that took it has forgotten the job; stock that moved since must not come back."""
    headers = keyed("i-1", **{"content-type": "application/x-ndjson"})
    row = '{"node_id": "N-0", "sku": "SKU-0", "quantity": 5}'
    first = await finished(engine, await engine.client.post("/v1/inventory/import", content=row, headers=headers))
    order = await engine.client.post("/v1/allocations", json=an_order_body(quantity=2), headers=keyed("a-1"))
    assert order.status_code == 201, order.text
    engine.door.gateway.jobs = JobStore()
    again = await finished(engine, await engine.client.post("/v1/inventory/import", content=row, headers=headers))
    assert again["job_id"] != first["job_id"]
    assert (again["state"], again["rows_done"], again["rows_failed"]) == ("done", 1, 0)
    seen = (
        await engine.client.get("/v1/availability", params={"sku": "SKU-0", "node_id": "N-0", "consistency": "strict"})
    ).json()["data"][0]
    assert (seen["on_hand"], seen["available_to_promise"]) == (5, 3)


async def test_channels_and_carriers_are_imported(engine: GatewayEngine) -> None:
    for kind, files, name in (("channels", CHANNEL_FILES, "web"), ("carriers", CARRIER_FILES, "acme")):
        ((media, content),) = files.items()
        headers = {"content-type": media}
        bad = content + '{"name": "nameless"}\n'
        job = await finished(engine, await engine.client.post(f"/v1/{kind}/import", content=bad, headers=headers))
        assert (job["state"], job["rows_done"], job["rows_failed"], job["errors"][0]["line"]) == ("done", 2, 1, 2)
        assert (await engine.client.get(f"/v1/{kind}/{name}")).status_code == 200
        table = await engine.client.post(f"/v1/{kind}/import", content="a\n1\n", headers={"content-type": "text/csv"})
        assert table.status_code == 415


async def test_a_key_of_one_channel_imports_no_other(engine: GatewayEngine) -> None:
    before = (await engine.client.get("/v1/channels/web")).json()
    key = await engine.token("config:write", channels=["shop"])
    centre = {"country": "US", "postal_code": "10001"}
    rows = [{"channel_id": name, "name": "mine", "demand_centre": centre} for name in ("web", "shop")]
    async with engine.client_for(key) as client:
        answer = await client.post(
            "/v1/channels/import",
            content="\n".join(json.dumps(row) for row in rows),
            headers={"content-type": "application/x-ndjson"},
        )
        job = await finished(engine, answer, client)
    assert (job["state"], job["rows_done"], job["rows_failed"]) == ("done", 2, 1)
    assert job["errors"] == [{"line": 1, "pointer": "/channel_id", "detail": "this key is not for channel 'web'"}]
    assert (await engine.client.get("/v1/channels/web")).json() == before
    assert (await engine.client.get("/v1/channels/shop")).json()["name"] == "mine"


async def test_files_that_are_no_files(engine: GatewayEngine) -> None:
    for content, detail in (
        (b"", "no header"),
        (b"a,a\n1,2\n", "twice"),
        (b"sku\n\xff\xfe\n", "UTF-8"),
        (b'sku\n"x\n', "CSV"),
    ):
        answer = await engine.client.post("/v1/items/import", content=content, headers={"content-type": "text/csv"})
        job = await finished(engine, answer)
        assert job["state"] == "failed", (content, job)
        assert detail in job["problem"]["detail"]
    wrong = await engine.client.post("/v1/items/import", json={})
    assert (wrong.status_code, wrong.json()["code"]) == (415, "unsupported_media_type")


async def test_orders_see_what_was_imported(engine: GatewayEngine) -> None:
    await engine.stock_up("N-0", "SKU-0", 5)
    answer = await engine.client.post("/v1/allocations", json=an_order_body(quantity=5), headers=keyed("k-1"))
    assert answer.status_code == 201


async def test_an_upload_that_only_trickles_is_given_up(engine: GatewayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would keep one of the few places for uploads for ever."""
    monkeypatch.setattr(jobs, "STALL_S", 0.2)
    head = (
        f"POST /v1/items/import HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {engine.admin}\r\n"
        "content-type: text/csv\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    async with engine.served() as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode())
        answer = asyncio.create_task(reader.readuntil(b"}"))

        def given_up() -> bool:
            if not answer.done():
                writer.write(b"1\r\nx\r\n")
            return answer.done()

        await eventually(given_up, every_s=0.02, what="the upload that trickles is given up")
        assert b"HTTP/1.1 400" in await answer
        assert b"malformed_body" in await answer
        writer.close()
    assert engine.door.gateway.jobs.refusal() is None
