"""The live stream over real HTTP: what it tells, resuming, gaps, limits of keys, slow readers, the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.stream import events as stream_events
from gateway.stream import live as stream_live
from tests.conftest import eventually
from tests.contract.shard_host import HostedShard
from tests.integration.event_stream import Heard, listening
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed

MILES_APART = ("10001", "94103")


@pytest.fixture(params=[1, 2], ids=["1 shard", "2 shards"])
async def engine(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[GatewayEngine]:
    engine = await GatewayEngine(tmp_path, shards=request.param).start()
    yield engine
    await engine.close()


async def order(engine: GatewayEngine, n: int, **fields: Any) -> Any:
    body = an_order_body(f"A-{n}", **fields)
    body["ship_to"]["postal_code"] = MILES_APART[n % 2]
    answer = await engine.client.post("/v1/allocations", json=body, headers=keyed(f"k-{n}"))
    assert answer.status_code == 201, answer.text
    return answer.json()


def of(heard: list[Heard], prefix: str) -> list[Heard]:
    return [event for event in heard if event.type.startswith(prefix)]


async def test_it_tells_what_happens(engine: GatewayEngine) -> None:
    async with engine.served() as url, listening(url, engine.admin) as client:
        assert client.response.headers["content-type"] == "text/event-stream"
        assert client.response.headers["cache-control"] == "no-store"
        hello = await client.next()
        assert hello.type == "hello"
        assert {"order.allocated", "leg.shipped", "stock.changed", "config.changed"} <= set(hello.data["types"])
        token = await engine.stock_up("N-0", "SKU-0", 5)
        stock = await client.next()
        assert (stock.type, stock.data["node_id"], stock.data["token"]) == ("stock.changed", "N-0", token)
        assert stock.data["changes"] == [{"sku": "SKU-0", "on_hand": 5, "held": 0, "allocated": 0}]
        placed = await order(engine, 0, quantity=2)
        told = await client.until("order.allocated")
        assert told.data["allocation_id"] == placed["allocation_id"]
        assert (told.data["order_id"], told.data["channel"], told.data["state"]) == ("A-0", "web", "allocated")
        assert [leg["leg_id"] for leg in told.data["legs"]] == [leg["leg_id"] for leg in placed["legs"]]
        leg_id = placed["legs"][0]["leg_id"]
        for verb, body in (("release", None), ("ship", {})):
            answer = await engine.client.post(f"/v1/legs/{leg_id}/{verb}", json=body, headers=keyed(f"{verb}-1"))
            assert answer.status_code == 200, answer.text
        assert (await client.until("leg.released")).data["legs"][0]["state"] == "released"
        assert (await client.until("leg.shipped")).data["legs"][0] == {
            "leg_id": leg_id,
            "node_id": placed["legs"][0]["node_id"],
            "state": "shipped",
        }
        put = await engine.client.put("/v1/items/NEW", json={"sku": "NEW", "weight_g": 5})
        assert put.status_code in (200, 201), put.text
        config = await client.until("config.changed")
        assert (config.data["kind"], config.data["name"]) == ("item", "NEW")
        settings = await engine.client.put(
            "/v1/inventory/positions", json={"node_id": "N-0", "positions": [{"sku": "SKU-0", "safety_units": 1}]}
        )
        assert settings.status_code == 200, settings.text
        assert (await client.until("stock.settings_changed")).data["skus"] == ["SKU-0"]


async def test_an_order_can_go_by_the_token_of_a_configuration_event(engine: GatewayEngine) -> None:
    await engine.seen_by_all(await engine.stock_up("N-0", "SKU-0", 5))
    async with engine.served() as url, listening(url, engine.admin, kind=["config"]) as client:
        await client.next()
        await engine.client.put("/v1/items/NEW", json={"sku": "NEW", "weight_g": 5})
        token = (await client.until("config.changed")).data["token"]
    await engine.seen_by_all(token)
    after = {"x-qm-after": token}
    placed = await engine.client.post("/v1/allocations", json=an_order_body(), headers=keyed("k-1", **after))
    assert placed.status_code == 201, placed.text
    quoted = await engine.client.post("/v1/quotes", json=an_order_body("Q-1"), headers=after)
    assert quoted.status_code == 200, quoted.text
    ahead = "255:{}:{}".format(*[int(part) + 1 for part in token.split(":")[1:]])
    early = await engine.client.post("/v1/quotes", json=an_order_body("Q-2"), headers={"x-qm-after": ahead})
    assert (early.status_code, early.json()["code"]) == (503, "view_behind")


async def test_whoever_comes_back_misses_nothing_and_hears_nothing_twice(engine: GatewayEngine) -> None:
    for n in range(4):
        await engine.stock_up(f"N-{n}", "SKU-0", 500)
    orders = 60
    heard: list[Heard] = []
    last_id = ""

    def allocated() -> int:
        return sum(change["allocated"] for event in of(heard, "stock.") for change in event.data["changes"])

    def complete() -> bool:
        return len(of(heard, "order.")) >= orders and allocated() >= orders

    async def place() -> None:
        for start in range(0, orders, 10):
            await asyncio.gather(*(order(engine, n) for n in range(start, start + 10)))

    async with engine.served() as url:
        async with listening(url, engine.admin) as client:
            last_id = (await client.next()).id
        placing = asyncio.create_task(place())
        while not complete():
            # A connection of every length: most are cut in the middle of an entry, which holds several orders.
            async with listening(url, engine.admin, last_id=last_id, kind=["order", "stock"]) as client:
                assert (await client.next()).type == "hello"
                for _ in range(1 + len(heard) % 5):
                    if complete():
                        break
                    heard.append(await client.next())
                    last_id = heard[-1].id
        await placing
    ids = [event.data["order_id"] for event in of(heard, "order.allocated")]
    assert sorted(ids) == sorted(f"A-{n}" for n in range(orders))
    assert allocated() == orders
    assert any(event.id.count(":") > 2 * len(event.id.split(";")) for event in heard), "some were cut within an entry"


async def test_a_commit_token_is_a_place_to_begin(engine: GatewayEngine) -> None:
    await engine.stock_up("N-0", "SKU-0", 1)
    token = await engine.stock_up("N-0", "SKU-0", 2)
    await engine.stock_up("N-0", "SKU-0", 4)
    async with engine.served() as url, listening(url, engine.admin, after=token) as client:
        await client.next()
        assert (await client.next()).data["changes"][0]["on_hand"] == 4


async def test_a_token_that_the_gateway_has_not_read_yet_is_no_gap(
    engine: GatewayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine.served() as url, listening(url, engine.admin, kind="stock") as client:
        await client.next()
        feed = engine.door.gateway.live.feeds[0]
        read, go_on = feed._feed.entries, asyncio.Event()

        async def late(**asked: Any) -> Any:
            await go_on.wait()
            return await read(**asked)

        monkeypatch.setattr(feed._feed, "entries", late)
        for units in (1, 2, 3):
            token = await engine.stock_up("N-0", "SKU-0", units)
        async with listening(url, engine.admin, kind="stock", after=token) as other:
            await other.next()
            await engine.stock_up("N-0", "SKU-0", 4)
            go_on.set()
            assert (await other.next()).data["changes"][0]["on_hand"] == 4
        assert [heard.data["changes"][0]["on_hand"] for heard in await client.take(4)] == [1, 2, 3, 4]


async def test_what_was_trimmed_is_a_gap(engine: GatewayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_live, "LINGER_S", 0.0)
    async with engine.served() as url:
        async with listening(url, engine.admin) as client:
            last_id = (await client.next()).id
        await eventually(lambda: not engine.door.gateway.live.feeds)
        for units in (1, 2, 3, 4):
            await engine.stock_up("N-0", "SKU-0", units)
        entries = engine.server.shard(0).entries
        gone = sorted(entries)[:-2]
        for seq in gone:
            del entries[seq]
        async with listening(url, engine.admin, last_id=last_id, kind="stock") as client:
            assert (await client.next()).type == "hello"
            gap = await client.next()
            assert (gap.type, gap.data["shard"], gap.data["reason"]) == ("gap", 0, "trimmed")
            assert gap.data["last_seq"] == gone[-1]
            assert [event.data["changes"][0]["on_hand"] for event in await client.take(2)] == [3, 4]
            after = client.last_id
        async with listening(url, engine.admin, last_id=after, kind="stock") as client:
            await client.next()
            await engine.stock_up("N-0", "SKU-0", 5)
            assert (await client.next()).data["changes"][0]["on_hand"] == 5, "no gap is told twice"


@pytest.mark.parametrize("other", ["0:1:1", "0:{epoch}:999999"])
async def test_a_place_in_another_history_is_a_gap(engine: GatewayEngine, other: str) -> None:
    token = await engine.stock_up("N-0", "SKU-0", 1)
    last_id = other.format(epoch=token.split(":")[1])
    async with engine.served() as url, listening(url, engine.admin, last_id=last_id, kind="stock") as client:
        await client.next()
        gap = await client.next()
        assert (gap.type, gap.data["reason"]) == ("gap", "unknown")
        await engine.stock_up("N-0", "SKU-0", 7)
        assert (await client.next()).data["changes"][0]["on_hand"] == 7


async def test_a_restarted_shard_goes_on_in_the_same_stream(engine: GatewayEngine) -> None:
    async with engine.served() as url, listening(url, engine.admin, kind="stock") as client:
        await client.next()
        await engine.stock_up("N-0", "SKU-0", 1)
        first = await client.next()
        old = engine.stock[0]
        await old.stop()
        engine.stock[0] = await HostedShard(0, old.folder, engine.server, engine.directory).start()
        await engine.stock_up("N-0", "SKU-0", 2)
        second = await client.next()
        assert second.data["changes"][0]["on_hand"] == 2
        assert int(second.data["token"].split(":")[1]) > int(first.data["token"].split(":")[1])


async def test_filters_and_the_limits_of_a_key(engine: GatewayEngine) -> None:
    await engine.put(*_channels(engine))
    stock_only = await engine.token("inventory:read")
    shop = await engine.token("allocate:read", "inventory:read", channels=["shop"])
    nothing = await engine.token("metrics:read")
    async with engine.served() as url:
        for token, query, code in (
            (stock_only, {"kind": "order"}, "forbidden"),
            (stock_only, {"kind": "leg.shipped"}, "forbidden"),
            (nothing, {}, "forbidden"),
            (shop, {"channel": "web"}, "forbidden"),
            (engine.admin, {"kind": "weather"}, "invalid_field"),
            (engine.admin, {"channel": "NO"}, "unknown_channel"),
            (engine.admin, {"node_id": "NO"}, "unknown_node"),
            (engine.admin, {"after": "x"}, "invalid_cursor"),
            (engine.admin, {"after": "0:1:1;0:1:2"}, "invalid_cursor"),
            ("", {}, "unauthenticated"),
        ):
            async with listening(url, token, **query) as client:
                assert client.response.json()["code"] == code, (query, client.response.text)
        async with (
            listening(url, stock_only) as stock,
            listening(url, shop) as shop_all,
            listening(url, engine.admin, channel="shop", kind="order") as admin_shop,
            listening(url, engine.admin, node_id="N-1", kind="stock") as node,
        ):
            for client in (stock, shop_all, admin_shop, node):
                await client.next()
            await engine.stock_up("N-0", "SKU-0", 5)
            await engine.stock_up("N-1", "SKU-0", 6)
            assert (await node.next()).data["changes"][0]["on_hand"] == 6
            await order(engine, 0)
            await order(engine, 2, channel="shop")
            assert (await admin_shop.next()).data["order_id"] == "A-2"
            assert (await shop_all.until("order.allocated")).data["order_id"] == "A-2"
            assert [event.type for event in await stock.take(4)] == ["stock.changed"] * 4


def _channels(engine: GatewayEngine) -> list[Any]:
    from tests.builders import a_channel

    return [a_channel("shop")]


async def test_a_revoked_key_ends_its_stream(engine: GatewayEngine) -> None:
    token = await engine.token("inventory:read")
    async with engine.served() as url, listening(url, token) as client:
        await client.next()
        document = next(key for key in engine.cluster.catalog.keys.values() if token.startswith(f"qm_{key.key_id}_"))
        from msgspec.structs import replace

        await engine.put(replace(document, revoked=True))
        await engine.stock_up("N-0", "SKU-0", 5)
        with pytest.raises(EOFError):
            await client.take(2)


async def test_heartbeats_move_the_cursor_of_who_is_told_nothing(
    engine: GatewayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_events, "HEARTBEAT_S", 0.05)
    async with engine.served() as url, listening(url, engine.admin, kind="config") as client:
        first = (await client.next()).id
        token = await engine.stock_up("N-0", "SKU-0", 5)

        async def listen() -> None:
            await client.next(timeout_s=30.0)

        listening_on = asyncio.create_task(listen())
        await eventually(lambda: client.last_id.split(";")[0] == token)
        assert client.heartbeats >= 1
        assert client.last_id != first
        listening_on.cancel()
        await asyncio.gather(listening_on, return_exceptions=True)


async def test_streams_are_limited_and_given_back(engine: GatewayEngine) -> None:
    live = engine.door.gateway.live
    live.streams_max = 2
    async with engine.served() as url:
        async with listening(url, engine.admin) as one, listening(url, engine.admin) as two:
            await one.next()
            await two.next()
            async with listening(url, engine.admin) as three:
                assert (three.response.status_code, three.response.json()["code"]) == (503, "overloaded")
                assert three.response.headers["retry-after"]
        await eventually(lambda: not live.streams)
        async with listening(url, engine.admin) as again:
            await again.next()
    assert live.refused == 1


async def test_journals_are_not_followed_for_a_stream_that_was_refused(
    engine: GatewayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L1"""
    monkeypatch.setattr(stream_live, "LINGER_S", 0.05)
    live = engine.door.gateway.live
    live.streams_max = 0
    async with engine.served() as url, listening(url, engine.admin) as refused:
        assert refused.response.status_code == 503
        await eventually(lambda: live.refused and not live.feeds)


async def test_who_is_behind_reads_the_journal_itself(engine: GatewayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_live, "KEPT_EVENTS", 3)
    monkeypatch.setattr(stream_live, "PAGE_ENTRIES", 4)
    async with engine.served() as url, listening(url, engine.admin, kind="stock") as client:
        begin = (await client.next()).id
        for _ in range(40):
            await engine.stock_up("N-0", "SKU-0", 1)
        assert [heard.type for heard in await client.take(40)] == ["stock.changed"] * 40
        assert len(engine.door.gateway.live.feeds[0].kept) <= 3
        async with listening(url, engine.admin, kind="stock", last_id=begin) as late:
            await late.next()
            seqs = [int(heard.data["token"].split(":")[2]) for heard in await late.take(40)]
            assert seqs == list(range(seqs[0], seqs[0] + 40))


class StuckTransport:
    """A client that takes nothing: `send` of its cycle waits for ever."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True


class StuckCycle:
    def __init__(self) -> None:
        self.transport = StuckTransport()
        self.sent: list[Any] = []

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def receive(self) -> Any:
        await asyncio.Event().wait()


async def test_a_client_that_does_not_read_is_cut_off(engine: GatewayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.asgi.SLOW_READER_S", 0.05)
    cycle = StuckCycle()
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/stream",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {engine.admin}".encode())],
    }
    await engine.door(scope, cycle.receive, cycle.send)
    live = engine.door.gateway.live
    assert cycle.transport.aborted
    assert (live.closed_slow, len(live.streams), len(cycle.sent)) == (1, 0, 2)


async def test_a_stream_ends_when_the_gateway_stops(engine: GatewayEngine) -> None:
    async with engine.served() as url, listening(url, engine.admin) as client:
        await client.next()
        engine.uvicorn.handle_exit(15, None)
        with pytest.raises(EOFError):
            await client.next(timeout_s=60.0)


async def test_without_a_journal_server_there_is_no_stream(engine: GatewayEngine) -> None:
    live = engine.door.gateway.live
    engine.server.down = True
    answer = await engine.client.get("/v1/stream")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    engine.server.down = False
    assert not live.streams
    headers = {"accept": "application/json"}
    wrong = await engine.client.get("/v1/stream", headers=headers)
    assert (wrong.status_code, wrong.json()["code"]) == (406, "not_acceptable")


async def test_head_tells_the_headers_only(engine: GatewayEngine) -> None:
    async with engine.served() as url, httpx.AsyncClient(base_url=url) as client:
        answer = await client.head("/v1/stream", headers={"authorization": f"Bearer {engine.admin}"})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
    assert not engine.door.gateway.live.streams


async def test_what_streams_do_is_measured(engine: GatewayEngine) -> None:
    async with engine.served() as url, listening(url, engine.admin, kind="stock") as client:
        await client.next()
        await engine.stock_up("N-0", "SKU-0", 1)
        await client.next()
        name = "quartermaster_gateway_"
        wanted = {
            f"{name}open_streams 1.0",
            f"{name}stream_events_total 1.0",
            f'{name}stream_lag_seconds{{shard="0"}} 0.0',
            f'{name}stream_lag_seconds{{shard="control"}} 0.0',
        }

        async def measured() -> bool:
            text = (await engine.client.get("/metrics", headers={"accept": "text/plain"})).text
            return wanted <= set(text.splitlines())

        await eventually(measured)
