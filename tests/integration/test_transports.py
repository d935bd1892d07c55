"""One suite, two ways in: the shard's socket and Ray calls of its actor. Real Ray, real server, one stock shard."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from engine.bootstrap import dump_settings, set_ray_environment, start_ray
from engine.client.cluster import Cluster
from engine.domain.commands import (
    AdjustStock,
    CancelOrder,
    Command,
    CommitHold,
    CountStock,
    DumpPart,
    ExtendHold,
    GetAvailability,
    GetOrder,
    GetStatus,
    PutConfig,
    ReleaseHold,
    StockMove,
)
from engine.domain.config import Document
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import ConfigReply, DumpReply, OrderView, Problem, Reply, StatusReply, StockReply
from engine.journal.discovery import Directory
from engine.journal.embedded import EmbeddedServer
from engine.settings import Settings
from tests.builders import KIND_OF, a_network, a_place, an_order

Ask = Callable[[int, Command], Awaitable[Reply]]
_keys = iter(range(1, 1_000_000))


@dataclass
class Engine:
    url: str
    actors: dict[int, Any]
    runs: list[Any]


pytestmark = pytest.mark.timeout(1_800)
"""The first test of a module waits for the engine to start."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A control shard and one stock shard as Ray actors, without supervisor or gateway."""
    data_dir = tmp_path_factory.mktemp("data")
    folder = Path(tempfile.mkdtemp(prefix="qm-t-"))
    server = EmbeddedServer()
    server.start(data_dir, runtime=folder)
    settings = Settings(data_dir=data_dir, runtime_dir=folder, redis_url=SecretStr(server.url), shards=1)
    set_ray_environment()
    import ray

    start_ray(settings, folder / "ray")
    from engine.actors.options import shard_actor

    try:
        actors = {n: shard_actor(n).remote(n, dump_settings(settings), str(folder)) for n in (CONTROL_SHARD, 0)}
        runs = [actor.run.remote() for actor in actors.values()]
        asyncio.run(_configure(server.url))
        ray.get(actors[0].wait_serving.remote(), timeout=400)
        yield Engine(server.url, actors, runs)
    finally:
        ray.shutdown()
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def _configure(url: str) -> None:
    directory = Directory(url)
    cluster = Cluster(directory.find)
    await cluster.start()
    assert await cluster.wait_configured(300.0)
    for document in a_network(nodes=2, items=3, shards=1):
        await _put(cluster, document)
    await cluster.close()
    await directory.close()


async def _put(cluster: Cluster, document: Document) -> None:
    command = PutConfig(KIND_OF[type(document)], (msgspec.json.encode(document),))
    reply = await cluster.ask(CONTROL_SHARD, command, timeout_s=60.0)
    assert isinstance(reply, ConfigReply), reply


@pytest.fixture(params=["socket", "ray"])
async def ask(request: pytest.FixtureRequest, engine: Engine) -> AsyncIterator[Ask]:
    """A function that asks a shard, one way or the other."""
    if request.param == "socket":
        directory = Directory(engine.url)
        cluster = Cluster(directory.find)
        await cluster.start()
        yield lambda shard, command: cluster.ask(shard, command, timeout_s=60.0)
        await cluster.close()
        await directory.close()
        return
    encode, decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(Reply).decode

    async def by_ray(shard: int, command: Command) -> Reply:
        return decode(await engine.actors[shard].call.remote(encode(command)))

    yield by_ray


def key() -> int:
    return next(_keys)


async def stock_up(ask: Ask, sku: str, units: int) -> StockReply:
    reply = await ask(0, AdjustStock("N-0", (StockMove(sku, "received", units),), key(), 1))
    assert isinstance(reply, StockReply), reply
    return reply


async def test_an_order_is_placed_once_however_often_it_is_sent(ask: Ask) -> None:
    before = (await stock_up(ask, "SKU-0", 5)).positions[0]
    number = key()
    first = await ask(0, a_place(an_order(f"A-{number}", {"SKU-0": 2}), key=number))
    again = await ask(0, a_place(an_order(f"A-{number}", {"SKU-0": 2}), key=number))
    assert isinstance(first, OrderView), first
    assert isinstance(again, OrderView), again
    assert (again.order_no, again.replayed) == (first.order_no, True)
    seen = await ask(0, GetAvailability(("SKU-0",), "N-0"))
    assert isinstance(seen, StockReply)
    assert seen.positions[0].available_to_promise == before.available_to_promise - 2


async def test_another_body_under_the_same_key_is_refused(ask: Ask) -> None:
    await stock_up(ask, "SKU-0", 5)
    number = key()
    await ask(0, a_place(an_order(f"A-{number}"), key=number, fingerprint=1))
    other = await ask(0, a_place(an_order(f"B-{number}"), key=number, fingerprint=2))
    assert isinstance(other, Problem)
    assert other.code == "key_reused"


async def test_a_hold_is_extended_committed_in_part_and_cancelled(ask: Ask) -> None:
    before = (await stock_up(ask, "SKU-1", 10)).positions[0]
    number = key()
    held = await ask(0, a_place(an_order(f"A-{number}", {"SKU-1": 6}), ttl_s=60, key=number))
    assert isinstance(held, OrderView), held
    assert held.state == "held"
    longer = await ask(0, ExtendHold(held.slot, held.order_no, 600, key(), 1))
    assert isinstance(longer, OrderView), longer
    assert longer.expires_at_ms > held.expires_at_ms
    kept = await ask(0, CommitHold(held.slot, held.order_no, (("1", 4),), key(), 1))
    assert isinstance(kept, OrderView), kept
    assert kept.legs[0].lines[0].quantity == 4
    gone = await ask(0, CancelOrder(held.slot, held.order_no, None, "", key(), 1))
    assert isinstance(gone, OrderView), gone
    assert gone.state == "cancelled"
    seen = await ask(0, GetAvailability(("SKU-1",), "N-0"))
    assert isinstance(seen, StockReply)
    assert seen.positions[0].available_to_promise == before.available_to_promise


async def test_a_released_hold_gives_its_units_back(ask: Ask) -> None:
    before = (await stock_up(ask, "SKU-1", 3)).positions[0]
    number = key()
    held = await ask(0, a_place(an_order(f"A-{number}", {"SKU-1": 3}), ttl_s=60, key=number))
    assert isinstance(held, OrderView), held
    released = await ask(0, ReleaseHold(held.slot, held.order_no, key(), 1))
    assert isinstance(released, OrderView), released
    assert released.state == "released"
    found = await ask(0, GetOrder(held.slot, held.order_no))
    assert isinstance(found, OrderView)
    assert found.state == "released"
    seen = await ask(0, GetAvailability(("SKU-1",), "N-0"))
    assert isinstance(seen, StockReply)
    assert seen.positions[0].available_to_promise == before.available_to_promise


async def test_more_than_there_is_is_refused_with_numbers(ask: Ask) -> None:
    await stock_up(ask, "SKU-2", 1)
    number = key()
    refused = await ask(0, a_place(an_order(f"A-{number}", {"SKU-2": 10_000}), key=number))
    assert isinstance(refused, Problem)
    assert refused.code == "out_of_stock"
    assert refused.errors[0].facts["requested"] == 10_000


async def test_an_older_count_of_a_source_is_refused(ask: Ask) -> None:
    status = await ask(0, GetStatus())
    assert isinstance(status, StatusReply)
    as_of = int(status.facts["time_ms"])
    source = f"feed-{key()}"
    fresh = await ask(0, CountStock("N-1", source, as_of, 2, "delta", (("SKU-2", 7),), key(), 1))
    assert isinstance(fresh, StockReply), fresh
    stale = await ask(0, CountStock("N-1", source, as_of, 1, "delta", (("SKU-2", 9),), key(), 1))
    assert isinstance(stale, Problem)
    assert stale.code == "stale_count"


async def test_the_auditor_reads_all_positions(ask: Ask) -> None:
    await stock_up(ask, "SKU-0", 1)
    page = await ask(0, DumpPart("node"))
    assert isinstance(page, DumpReply), page
    assert any(row[1] == 0 and row[2] > 0 for row in page.rows)


async def test_what_belongs_to_the_control_shard_is_refused_by_a_stock_shard(ask: Ask) -> None:
    reply = await ask(0, PutConfig("item", ()))
    assert isinstance(reply, Problem)
