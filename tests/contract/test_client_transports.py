"""Every transport of the Python client passes the same tests against a real gateway: what it reports is what happened."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import quartermaster_client as qm
from loadtests.transports import PlainTransport
from quartermaster_client._async.over_httpx import AsyncOverHttpx
from tests.integration.cutting_proxy import CuttingProxy
from tests.integration.gateway_engine import GatewayEngine

Making: TypeAlias = Callable[[], qm.AsyncTransport]
TRANSPORTS: dict[str, Making] = {"httpx": AsyncOverHttpx, "plain": PlainTransport}
QUICK = qm.RetryPolicy(attempts=3, base_s=0.001, cap_s=0.002)
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[tuple[GatewayEngine, str]]:
    engine = await GatewayEngine(tmp_path, shards=1).start()
    await engine.stock_up("N-0", "SKU-0", 3_000)
    async with engine.served() as url:
        yield engine, url
    await engine.close()


@pytest.fixture(params=TRANSPORTS)
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[qm.AsyncTransport]:
    made = TRANSPORTS[request.param]()
    yield made
    await made.aclose()


def an_order(order_id: str, quantity: int = 1) -> qm.Order:
    return qm.Order(
        order_id=order_id,
        channel="web",
        ship_to=qm.ShipTo(country="US", postal_code="10001"),
        lines=[qm.OrderLine(line_id="1", sku="SKU-0", quantity=quantity)],
    )


@pytest.mark.parametrize("format", ["json", "msgpack"])
async def test_calls_of_every_method_are_answered(
    gateway: tuple[GatewayEngine, str], transport: qm.AsyncTransport, format: Any
) -> None:
    engine, url = gateway
    async with qm.AsyncClient(url + "/", engine.admin, format=format, transport=transport) as client:
        held = await client.reserve(an_order("A-1", 3), ttl_s=60)
        made = await client.commit(held.reservation_id)
        assert made.state == "allocated"
        again = await client.reserve(an_order("A-2"))
        assert (await client.release(again.reservation_id)).state == "released"
        assert (await client.put_item(qm.Item(sku="NEW/1 ?&%+#=", name="Pän"))).created
        assert (await client.get_item("NEW/1 ?&%+#=")).document.name == "Pän"
        found = await client.availability(["SKU-0", "NEW/1 ?&%+#="], channel="web", after=made.token)
        assert (found.units("SKU-0"), found.units("NEW/1 ?&%+#=")) == (2_997, 0)


async def test_a_refusal_is_an_answer_with_its_numbers(
    gateway: tuple[GatewayEngine, str], transport: qm.AsyncTransport
) -> None:
    engine, url = gateway
    attempts: list[qm.Attempt] = []
    async with qm.AsyncClient(url, engine.admin, observer=attempts.append, transport=transport) as client:
        with pytest.raises(qm.OutOfStock) as caught:
            await client.allocate(an_order("B-1", 3_001))
        assert caught.value.shortages == [qm.Shortage("/lines/0", "SKU-0", 3_001, 3_000, "1")]
        assert [(attempt.status, attempt.code) for attempt in attempts] == [(409, "out_of_stock")]
        with pytest.raises(qm.NotFound):
            await client.get_item("NO-SUCH")


async def test_many_calls_at_once_and_large_answers(
    gateway: tuple[GatewayEngine, str], transport: qm.AsyncTransport
) -> None:
    engine, url = gateway
    async with qm.AsyncClient(url, engine.admin, transport=transport) as client:
        results = await client.allocate_batch([an_order(f"C-{n}") for n in range(1_000)])
        assert all(result.ok for result in results)
        made = await asyncio.gather(*(client.allocate(an_order(f"D-{n}")) for n in range(200)))
        assert {one.order_id for one in made} == {f"D-{n}" for n in range(200)}
        read = await asyncio.gather(*(client.get_allocation(one.allocation_id) for one in made))
        assert [one.order_id for one in read] == [one.order_id for one in made]


async def test_no_connection_means_that_nothing_was_sent(transport: qm.AsyncTransport) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with qm.AsyncClient(url, "qm_key", retry=QUICK, transport=transport) as client:
            with pytest.raises(qm.Unreachable, match="after 3 attempts; nothing was sent"):
                await client.allocate(an_order("E-1"))


@pytest.mark.parametrize("let_through_bytes", [0, 5, 200])
async def test_an_answer_that_was_cut_is_asked_for_again_with_the_same_key(
    gateway: tuple[GatewayEngine, str], transport: qm.AsyncTransport, let_through_bytes: int
) -> None:
    engine, url = gateway
    attempts: list[qm.Attempt] = []
    async with (
        CuttingProxy(url) as proxy,
        qm.AsyncClient(proxy.url, engine.admin, observer=attempts.append, transport=transport) as client,
    ):
        proxy.cut_answers, proxy.let_through_bytes = 1, let_through_bytes
        made = await client.allocate(an_order("F-1", 2))
        assert [(attempt.status, attempt.code) for attempt in attempts] == [(None, "NotAnswered"), (201, "")]
        assert attempts[-1].replayed
        assert (await client.availability("SKU-0", after=made.token)).units("SKU-0") == 2_998


@asynccontextmanager
async def a_server(answer: bytes) -> AsyncIterator[str]:
    """Takes a request of each connection, sends `answer` and closes; with nothing to answer it waits for the other side to."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer:
            writer.write(answer)
        else:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.sleep(0.05)  # for its ends of connections to see that the others are closed


async def test_silence_is_an_unknown_outcome(transport: qm.AsyncTransport) -> None:
    async with (
        a_server(b"") as url,
        qm.AsyncClient(url, "qm_key", retry=qm.NO_RETRIES, timeout_s=1.0, transport=transport) as client,
    ):
        with pytest.raises(qm.UnknownOutcome) as caught:
            await client.allocate(an_order("G-1"))
        assert caught.value.idempotency_key


async def test_what_is_not_http_is_an_unknown_outcome(transport: qm.AsyncTransport) -> None:
    async with (
        a_server(b"SSH-2.0-OpenSSH_9.2\r\n\r\n") as url,
        qm.AsyncClient(url, "qm_key", retry=qm.NO_RETRIES, transport=transport) as client,
    ):
        with pytest.raises(qm.UnknownOutcome):
            await client.allocate(an_order("H-1"))


async def test_connections_that_the_server_closed_meanwhile_are_not_used(transport: qm.AsyncTransport) -> None:
    """Each connection is good for one answer here, though nothing in the answer says so."""
    body = b'{"version":"0.1.0","api":"v1","python":"3.11.2"}'
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    async with (
        a_server(answer) as url,
        qm.AsyncClient(url, "qm_key", retry=qm.NO_RETRIES, transport=transport) as client,
    ):
        for _ in range(5):
            assert (await client.version()).api == "v1"
            await asyncio.sleep(0.05)  # for the end of the connection to arrive


async def test_a_client_takes_one_way_to_send(transport: qm.AsyncTransport) -> None:
    import httpx

    async with httpx.AsyncClient() as http:
        with pytest.raises(ValueError, match="http or transport"):
            qm.AsyncClient("http://gateway", "qm_key", http=http, transport=transport)


async def test_an_address_without_http_is_refused_where_it_is_given() -> None:
    for url in ("127.0.0.1:8080", "", "ftp://gateway"):
        for kind in (qm.Client, qm.AsyncClient):
            with pytest.raises(ValueError, match=r"expected http://\.\.\. or https://\.\.\."):
                kind(url, "qm_key")


async def test_an_address_that_is_not_plain_http_is_refused_at_once() -> None:
    async with qm.AsyncClient("https://gateway", "qm_key", transport=PlainTransport()) as client:
        with pytest.raises(ValueError, match="https://gateway"):
            await client.version()


async def test_a_call_that_never_got_a_connection_was_not_sent() -> None:
    """One connection, and somebody else waits on it for an answer that does not come."""
    transport = PlainTransport(connections=1)
    async with a_server(b"") as url:
        slow = qm.AsyncClient(url, "qm_key", retry=qm.NO_RETRIES, timeout_s=30, transport=transport)
        waits = asyncio.create_task(slow.version())
        await asyncio.sleep(0.2)
        quick = qm.AsyncClient(url, "qm_key", retry=qm.NO_RETRIES, timeout_s=0.5, transport=transport)
        with pytest.raises(qm.Unreachable, match="no connection was free"):
            await quick.allocate(an_order("I-1"))
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        with pytest.raises(qm.UnknownOutcome):  # the connection is free again, and this call is sent
            await quick.allocate(an_order("I-2"))
    await transport.aclose()


LOCUST = """
import sys, types
from locust.contrib.fasthttp import FastHttpSession
import quartermaster_client as qm
from loadtests.locust_transport import LocustTransport

def an_order(order_id, quantity=1):
    lines = [qm.OrderLine(line_id="1", sku="SKU-0", quantity=quantity)]
    return qm.Order(order_id=order_id, channel="web", ship_to=qm.ShipTo(country="US", postal_code="10001"), lines=lines)

url, cut_url, closed_url, key = sys.argv[1:]
fired = []
events = types.SimpleNamespace(fire=lambda **facts: fired.append((facts["name"], facts["exception"] is None)))
session = FastHttpSession(url, events, None)
attempts = []
retry = qm.RetryPolicy(attempts=2, base_s=0.001)

def client(at):
    return qm.Client(at, key, retry=retry, observer=attempts.append, transport=LocustTransport(session))

shop = client(url)
held = shop.reserve(an_order("L-1", 3))
made = shop.commit(held.reservation_id)
assert shop.availability("SKU-0", channel="web", after=made.token).units("SKU-0") == 2_997
try:
    shop.allocate(an_order("L-2", 3_001))
except qm.OutOfStock as error:
    assert error.shortages[0].available_to_promise == 2_997
else:
    raise AssertionError("more was sold than there is")
try:
    shop.get_allocation("alc_US100_nosuch")
except qm.ApiError as error:
    assert error.status in (400, 404, 422), error
assert fired == [
    ("/v1/reservations", True),
    ("/v1/reservations/{reservation_id}/commit", True),
    ("/v1/availability", True),
    ("/v1/allocations", True),
    ("/v1/allocations/{allocation_id}", False),
], fired
attempts.clear()
made = client(cut_url).allocate(an_order("L-3", 2))
assert [(one.status, one.code, one.replayed) for one in attempts] == [(None, "NotAnswered", False), (201, "", True)], attempts
assert fired[-2:] == [("/v1/allocations", False), ("/v1/allocations", True)], fired
try:
    client(closed_url).allocate(an_order("L-4"))
except qm.Unreachable:
    print("all of it")
"""


async def test_the_transport_of_locust_does_the_same(gateway: tuple[GatewayEngine, str]) -> None:
    """In a process of its own: importing locust patches the standard library."""
    engine, url = gateway
    async with CuttingProxy(url) as proxy:
        proxy.cut_answers, proxy.let_through_bytes = 1, 200
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            closed = f"http://127.0.0.1:{taken.getsockname()[1]}"
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", LOCUST, url, proxy.url, closed, engine.admin],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all of it\n"
