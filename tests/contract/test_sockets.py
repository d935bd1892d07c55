"""Shards over their sockets: configuration, orders, reconnection, recovery. The journal is in memory, all else is real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import msgspec
import pytest

from engine.actors import server
from engine.client.cluster import Cluster
from engine.client.link import ShardLink
from engine.domain.commands import GetAvailability, GetOrder, GetStatus
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import Opened, OrderView, Problem, StatusReply, StockReply
from engine.domain.views import whole_view
from engine.journal.discovery import Found
from engine.journal.port import Acquired
from engine.protocol.wire import PROTOCOL_VERSION, FrameReader, Hello, decode_replies, frame
from tests.builders import a_place, an_order
from tests.conftest import eventually
from tests.contract.shard_host import Engine, HostedShard


@pytest.fixture(params=[1, 2, 4])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    engine = await Engine(tmp_path, request.param).start()
    yield engine
    await engine.close()


async def test_an_order_is_answered_once_it_is_durable(engine: Engine) -> None:
    await engine.stock_up("N-0", "SKU-0", 5)
    reply = await engine.cluster.ask(0, a_place(an_order(lines={"SKU-0": 2}), key=7))
    assert isinstance(reply, OrderView), reply
    assert reply.state == "allocated"
    seen = await engine.cluster.ask(0, GetAvailability(("SKU-0",)))
    assert isinstance(seen, StockReply)
    assert [(p.node_id, p.available_to_promise) for p in seen.positions] == [("N-0", 3)]
    assert engine.server.shard(0).tail.seq >= int(reply.token.split(":")[-1])


async def test_orders_over_shards_hold_all_or_nothing(engine: Engine) -> None:
    """N-1 belongs to the second shard where there is one: the order's two lines lie apart."""
    await engine.stock_up("N-0", "SKU-0", 1)
    stocked = await engine.stock_up("N-1", "SKU-1", 1)
    order = an_order(lines={"SKU-0": 1, "SKU-1": 1})
    reply = await engine.cluster.ask(0, a_place(order, key=9, after=stocked.token))
    assert isinstance(reply, OrderView), reply
    assert sorted(leg.node_id for leg in reply.legs) == ["N-0", "N-1"]
    again = await engine.cluster.ask(
        0, a_place(an_order("A-2", {"SKU-0": 0 + 1, "SKU-1": 1}), key=10, after=reply.token)
    )
    assert isinstance(again, Problem)
    assert again.code == "out_of_stock"


async def test_what_was_acknowledged_survives_the_shard(engine: Engine) -> None:
    await engine.stock_up("N-0", "SKU-0", 50)
    placed = [await engine.cluster.ask(0, a_place(an_order(f"A-{n}"), key=100 + n)) for n in range(20)]
    assert all(isinstance(p, OrderView) for p in placed)
    old = engine.stock[0]
    await old.stop()
    engine.stock[0] = await HostedShard(0, engine.folder, engine.server, engine.directory).start()
    for view in placed:
        found = await engine.cluster.ask(0, GetOrder(view.slot, view.order_no))
        assert isinstance(found, OrderView)
        assert found.order_id == view.order_id
    repeat = await engine.cluster.ask(0, a_place(an_order("A-3"), key=103))
    assert isinstance(repeat, OrderView)
    assert repeat.replayed
    assert repeat.order_no == placed[3].order_no


async def test_snapshots_and_tail_make_the_same_state(engine: Engine) -> None:
    await engine.stock_up("N-0", "SKU-0", 500)
    for n in range(60):
        assert isinstance(await engine.cluster.ask(0, a_place(an_order(f"A-{n}"), key=100 + n)), OrderView)

    async def written() -> bool:
        status = await engine.cluster.ask(0, GetStatus())
        return isinstance(status, StatusReply) and engine.stock[0].runner.snapshots.facts()["floor_seq"] > 30

    await eventually(written)
    await engine.stock[0].stop()
    engine.stock[0] = await HostedShard(0, engine.folder, engine.server, engine.directory).start()
    seen = await engine.cluster.ask(0, GetAvailability(("SKU-0",), node_id="N-0"))
    assert isinstance(seen, StockReply)
    assert (seen.positions[0].on_hand, seen.positions[0].allocated) == (500, 60)


async def test_a_lost_answer_is_told_to_the_same_key(engine: Engine) -> None:
    await engine.stock_up("N-0", "SKU-0", 5)
    engine.server.fail_next = "after"
    first = await engine.cluster.ask(0, a_place(an_order("A-1"), key=5, brief=True))
    again = await engine.cluster.ask(0, a_place(an_order("A-1"), key=5, brief=True))
    assert isinstance(again, OrderView)
    assert again.replayed
    assert isinstance(first, Opened)
    assert msgspec.structs.replace(whole_view(an_order("A-1"), first), replayed=True, token=again.token) == again
    seen = await engine.cluster.ask(0, GetAvailability(("SKU-0",)))
    assert isinstance(seen, StockReply)
    assert seen.positions[0].allocated == 1


async def test_without_a_journal_nothing_is_acknowledged(engine: Engine) -> None:
    """The server goes away: writes end as unavailable, and the shard heals by itself."""
    await engine.stock_up("N-0", "SKU-0", 5)
    engine.server.down = True
    reply = await engine.cluster.ask(0, a_place(an_order("A-1"), key=5), timeout_s=1.0)
    assert isinstance(reply, Problem)
    assert reply.code == "unavailable"
    engine.server.down = False

    async def healed() -> bool:
        reply = await engine.cluster.ask(0, a_place(an_order("A-1"), key=5))
        return isinstance(reply, OrderView)

    await eventually(healed)
    seen = await engine.cluster.ask(0, GetAvailability(("SKU-0",)))
    assert isinstance(seen, StockReply)
    assert seen.positions[0].allocated == 1


async def test_many_askers_race_for_one_unit(engine: Engine) -> None:
    await engine.stock_up("N-0", "SKU-0", 1)
    replies = await asyncio.gather(
        *(engine.cluster.ask(0, a_place(an_order(f"A-{n}"), key=1_000 + n)) for n in range(500))
    )
    winners = [r for r in replies if isinstance(r, OrderView)]
    losers = [r for r in replies if isinstance(r, Problem)]
    assert len(winners) == 1
    assert {r.code for r in losers} == {"out_of_stock"}
    assert losers[0].errors[0].facts["available_to_promise"] == 0


async def test_shards_speak_tcp_between_machines(tmp_path: Path) -> None:
    """The same, over TCP with a shared token: an order whose legs lie on two shards."""
    engine = await Engine(tmp_path, 2, token="open sesame", tcp=True).start()
    try:
        await engine.stock_up("N-0", "SKU-0", 1)
        stocked = await engine.stock_up("N-1", "SKU-1", 1)
        order = an_order(lines={"SKU-0": 1, "SKU-1": 1})
        reply = await engine.cluster.ask(0, a_place(order, key=9, after=stocked.token))
        assert isinstance(reply, OrderView), reply
        assert len(reply.legs) == 2
    finally:
        await engine.close()


async def test_a_wrong_token_gets_no_answer(tmp_path: Path) -> None:
    engine = await Engine(tmp_path, 1, token="open sesame", tcp=True).start()
    stranger = Cluster(engine.directory.find, token="guess", timeout_s=0.5)
    try:
        reply = await stranger.ask(0, GetStatus())
        assert isinstance(reply, Problem)
        assert reply.code == "unavailable"
    finally:
        await stranger.close()
        await engine.close()


async def test_bytes_that_are_no_frame_close_the_connection_and_harm_nobody(engine: Engine) -> None:
    address = engine.directory.found[0].addresses[0].split(":", 2)[2]
    for junk in (b"\xff" * 4, b"\x04\x00\x00\x00abcd", b"GET / HTTP/1.1\r\n\r\n"):
        reader, writer = await asyncio.open_unix_connection(address)
        writer.write(junk)
        assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()
    assert isinstance(await engine.cluster.ask(0, GetStatus()), StatusReply)


async def test_a_subscription_survives_a_shard_that_is_still_recovering(tmp_path: Path) -> None:
    """The sockets listen before the journal is read: who asks to follow meanwhile is refused, and asks again."""
    engine = Engine(tmp_path, 1)
    control = engine.control
    listening, recovered = asyncio.Event(), asyncio.Event()
    acquire = control.journal.acquire

    async def slow_acquire(nonce: str, addresses: list[str]) -> Acquired:
        engine.directory.found[CONTROL_SHARD] = Found(CONTROL_SHARD, 0, tuple(addresses))
        listening.set()
        await recovered.wait()
        return await acquire(nonce, addresses)

    control.journal.acquire = slow_acquire  # type: ignore[method-assign]
    starting = asyncio.create_task(control.start())
    await listening.wait()
    await engine.cluster.start()
    assert not await engine.cluster.wait_configured(0.5)
    recovered.set()
    await starting
    assert await engine.cluster.wait_configured(60.0)
    await engine.cluster.close()
    await control.stop()


# -- the socket's own limits -----------------------------------------------------------------------------------------


def path_of(engine: Engine, shard: int = 0) -> str:
    return engine.directory.found[shard].addresses[0].split(":", 2)[2]


async def test_a_stranger_may_not_make_a_shard_keep_much_before_he_says_who_he_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HELLO_TIMEOUT_S", 0.2)
    engine = await Engine(tmp_path, 1).start()
    try:
        reader, writer = await asyncio.open_unix_connection(path_of(engine))
        writer.write((32 * 1024 * 1024).to_bytes(4, "little"))  # a frame that is allowed later
        assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()
        reader, writer = await asyncio.open_unix_connection(path_of(engine))
        assert await asyncio.wait_for(reader.read(), 60) == b""  # says nothing at all
        writer.close()
    finally:
        await engine.close()


async def test_a_token_may_have_any_letters(tmp_path: Path) -> None:
    engine = await Engine(tmp_path, 1, token="Öffne dich, Sesam", tcp=True).start()
    stranger = Cluster(engine.directory.find, token="Öffne dich, Mohn", timeout_s=0.5)
    try:
        assert isinstance(await engine.cluster.ask(0, GetStatus()), StatusReply)
        reply = await stranger.ask(0, GetStatus())
        assert isinstance(reply, Problem)
        assert reply.code == "unavailable"
    finally:
        await stranger.close()
        await engine.close()


async def test_answers_that_are_too_many_for_a_frame_leave_in_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame larger than its asker takes would break the connection, and again after each repeat."""
    monkeypatch.setattr(server, "FRAME_BYTES_WANTED", 5_000)
    engine = await Engine(tmp_path, 1).start()
    frames: list[int] = []
    received = ShardLink.frame_received

    def watched(self: ShardLink, body: bytes) -> None:
        frames.append(len(body))
        received(self, body)

    monkeypatch.setattr(ShardLink, "frame_received", watched)
    try:
        await engine.stock_up("N-0", "SKU-0", 500)
        placed = await engine.cluster.ask(0, a_place(an_order("A-1"), key=5))
        assert isinstance(placed, OrderView)
        question = GetOrder(placed.slot, placed.order_no)
        replies = await asyncio.gather(*(engine.cluster.ask(0, question) for _ in range(400)))
        assert all(isinstance(reply, OrderView) for reply in replies)
        assert max(frames) <= 5_000
        again = await asyncio.gather(*(engine.cluster.ask(0, question) for _ in range(400)))
        assert all(isinstance(reply, OrderView) for reply in again)
    finally:
        await engine.close()


async def test_an_asker_that_reads_nothing_is_cut_off_and_one_large_answer_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "WRITE_BUFFER_MAX", 100_000)
    engine = await Engine(tmp_path, 1).start()
    try:
        await engine.stock_up("N-0", "SKU-0", 500)
        placed = await engine.cluster.ask(0, a_place(an_order("A-1"), key=5))
        assert isinstance(placed, OrderView)
        items = [(n, GetOrder(placed.slot, placed.order_no)) for n in range(2_000)]
        reader, writer = await asyncio.open_unix_connection(path_of(engine))
        writer.write(frame(Hello(PROTOCOL_VERSION, 0, "")))
        writer.write(frame(items))
        cut, answers = FrameReader(), 0
        while answers < len(items):
            for body in cut.feed(await asyncio.wait_for(reader.read(1 << 20), 60)):
                if answers or body[0] != 0x94:  # not the welcome
                    answers += len(decode_replies(body).items)
        runner = engine.stock[0].runner
        assert runner is not None
        connections = len(runner.server.connections)
        cast(asyncio.Transport, writer.transport).pause_reading()
        for _ in range(50):
            writer.write(frame(items))
        await eventually(lambda: len(runner.server.connections) < connections)
        writer.close()
        assert isinstance(await engine.cluster.ask(0, GetStatus()), StatusReply)
    finally:
        await engine.close()
