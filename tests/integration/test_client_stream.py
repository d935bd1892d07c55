"""The Python client's `stream` against a real gateway, over connections that are cut."""

from __future__ import annotations

import asyncio
import itertools
import queue
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import quartermaster_client as qm
from quartermaster_client.events import EventReader, StreamEvent
from quartermaster_client.transport import Incoming, Outgoing
from tests.conftest import eventually
from tests.integration.cutting_proxy import CuttingProxy
from tests.integration.gateway_engine import GatewayEngine

COUNT = 40


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[tuple[GatewayEngine, str]]:
    engine = await GatewayEngine(tmp_path, shards=2).start()
    async with engine.served() as url:
        yield engine, url
    await engine.close()


async def test_it_goes_on_where_it_broke(gateway: tuple[GatewayEngine, str]) -> None:
    engine, url = gateway
    begin = await engine.stock_up("N-0", "SKU-0", 1)

    seqs: list[int] = []

    async def book() -> None:
        for n in range(COUNT):
            await engine.stock_up("N-0", "SKU-0", 1)
            await eventually(lambda n=n: len(seqs) >= n - 2, every_s=0.002)  # so that there is always more to cut

    async with CuttingProxy(url) as proxy, qm.AsyncClient(proxy.url, engine.admin) as client:
        booking = asyncio.create_task(book())
        async with asyncio.timeout(120.0):
            async for event in client.stream("stock", after=begin):
                assert event.type == "stock.changed"
                seqs.append(int(event.data["token"].split(":")[2]))
                if len(seqs) in (5, 15, 25, 30):
                    proxy.cut_answers, proxy.let_through_bytes = 1, 7 * len(seqs)  # within an event, or between two
                if len(seqs) == COUNT:
                    break
        await booking
        assert proxy.cut >= 2
    first = int(begin.split(":")[2])
    assert seqs == list(range(first + 1, first + 1 + COUNT))


async def test_the_synchronous_one_does_the_same(gateway: tuple[GatewayEngine, str]) -> None:
    engine, url = gateway
    begin = await engine.stock_up("N-0", "SKU-0", 1)
    for _ in range(6):
        await engine.stock_up("N-0", "SKU-0", 2)

    def listen() -> list[StreamEvent]:
        with qm.Client(url, engine.admin) as client:
            heard = list(itertools.islice(client.stream(["stock", "config"], after=begin, node_id="N-0"), 4))
            return heard + list(itertools.islice(client.stream("stock", after=heard[-1].id), 2))

    heard = await asyncio.to_thread(listen)
    assert [event.data["changes"][0]["on_hand"] for event in heard] == [2] * 6
    assert len({event.id for event in heard}) == 6


async def test_closing_the_client_ends_a_stream_that_waits_in_another_thread(
    gateway: tuple[GatewayEngine, str],
) -> None:
    engine, url = gateway
    begin = await engine.stock_up("N-0", "SKU-0", 1)
    await engine.stock_up("N-0", "SKU-0", 2)
    client = qm.Client(url, engine.admin)
    heard: queue.SimpleQueue[StreamEvent] = queue.SimpleQueue()

    def listen() -> str:
        for event in client.stream("stock", after=begin):
            heard.put(event)
        return "ended"

    listening = asyncio.create_task(asyncio.to_thread(listen))
    first = await asyncio.to_thread(heard.get)
    assert first.data["changes"][0]["on_hand"] == 2
    client.close()
    assert await asyncio.wait_for(listening, 12.0) == "ended", "a heartbeat would have woken it after 15 s"
    assert list(client.stream("stock")) == [], "a closed client has no events"


async def test_hello_is_a_place_in_all_shards_to_begin_from(gateway: tuple[GatewayEngine, str]) -> None:
    engine, url = gateway
    async with qm.AsyncClient(url, engine.admin) as client:
        hello = await anext(client.stream("stock", hello=True))
        await engine.stock_up("N-0", "SKU-0", 3)
        event = await anext(client.stream("stock", after=hello.id))
    assert hello.type == "hello"
    assert {place.split(":")[0] for place in hello.id.split(";")} == {"0", "1", "255"}
    assert event.data["changes"][0]["on_hand"] == 3


async def test_closing_the_client_ends_a_stream_of_another_task(gateway: tuple[GatewayEngine, str]) -> None:
    engine, url = gateway
    begin = await engine.stock_up("N-0", "SKU-0", 1)
    await engine.stock_up("N-0", "SKU-0", 2)
    client = qm.AsyncClient(url, engine.admin)
    heard: asyncio.Queue[StreamEvent] = asyncio.Queue()

    async def listen() -> str:
        async for event in client.stream("stock", after=begin):
            heard.put_nowait(event)
        return "ended"

    listening = asyncio.create_task(listen())
    await heard.get()
    await client.close()
    assert await asyncio.wait_for(listening, 12.0) == "ended"


async def test_closing_the_client_ends_the_wait_for_an_engine_that_is_away() -> None:
    attempts: queue.SimpleQueue[qm.Attempt] = queue.SimpleQueue()
    patient = qm.RetryPolicy(attempts=100, base_s=3_000.0, cap_s=3_000.0, deadline_s=1e9)
    client = qm.Client("http://127.0.0.1:1", "qm_x", retry=patient, observer=attempts.put)
    listening = asyncio.create_task(asyncio.to_thread(lambda: list(client.stream())))
    assert (await asyncio.to_thread(attempts.get)).status is None
    client.close()
    assert await asyncio.wait_for(listening, 12.0) == []


async def test_a_refusal_is_raised(gateway: tuple[GatewayEngine, str]) -> None:
    engine, url = gateway
    token = await engine.token("inventory:read")
    async with qm.AsyncClient(url, token) as client:
        with pytest.raises(qm.Forbidden):
            await anext(client.stream("order"))
        with pytest.raises(qm.InvalidRequest):
            await anext(client.stream("weather"))
        with pytest.raises(qm.ApiError):
            await anext(client.stream(after="nonsense"))


async def test_a_transport_that_cannot_stream_says_so() -> None:
    class Bare:
        async def send(self, outgoing: Outgoing) -> Incoming:
            raise AssertionError("nothing is sent")

        async def aclose(self) -> None:
            return

    with pytest.raises(TypeError, match="cannot stream"):
        await anext(qm.AsyncClient("http://127.0.0.1:1", "qm_x", transport=Bare()).stream())


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
def test_events_are_read_however_they_are_cut(size: int) -> None:
    text = (
        b'retry: 1000\nevent: hello\nid: 0:1:1\ndata: {"a":1}\n\n: heartbeat\nid: 0:1:2\n\n'
        b'event: x\r\nid: 0:1:3\r\ndata: {"b":\r\ndata: "\xc3\xa9"}\r\n\r\nid: 0:1:4\n\nevent: lost\ndata: {'
    )
    reader = EventReader("")
    events = [event for at in range(0, len(text), size) for event in reader.feed(text[at : at + size])]
    assert events == [StreamEvent("hello", "0:1:1", {"a": 1}), StreamEvent("x", "0:1:3", {"b": "é"})]
    assert reader.last_id == "0:1:4"


def test_an_event_that_is_cut_off_was_not_seen() -> None:
    reader = EventReader("0:1:1")
    assert reader.feed(b'event: x\nid: 0:1:2\ndata: {"a":1}\n') == []
    assert reader.last_id == "0:1:1"
    [event] = reader.feed(b"\n")
    assert (event.id, reader.last_id) == ("0:1:2", "0:1:2")


def test_what_is_no_event_is_refused() -> None:
    with pytest.raises(ValueError, match="not the data of an event"):
        EventReader("").feed(b"data: 1\n\n")
