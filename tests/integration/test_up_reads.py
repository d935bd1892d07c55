"""Reads on a real engine with two gateways: availability and the live stream while shards are killed with -9."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import eventually
from tests.integration.engine_process import Engine, command
from tests.integration.event_stream import Heard, listening
from tests.integration.network_over_http import fresh, order, set_up_network

pytestmark = pytest.mark.timeout(1_800)
AGE_MAX_MS = 1_500


@pytest.fixture(scope="module", params=[1, 2], ids=["1 shard", "2 shards"])
def engine(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = Engine(
        tmp_path_factory.mktemp("reads"),
        shards=request.param,
        gateways=2,
        environment={"QM_AVAILABILITY_AGE_MAX_MS": str(AGE_MAX_MS)},
    ).start()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def units(engine: Engine) -> int:
    """Units of every item at every node, once the network is there."""
    with engine.client() as client:
        set_up_network(client, units=1_000)
    return 1_000


def shard_pid(engine: Engine, shard: int) -> int:
    """Process id of a shard as it runs now."""
    shards = json.loads(command(engine, "status", "--json")[1])["shards"]
    return next(int(facts["pid"]) for facts in shards if facts["shard"] == shard)


class Books:
    """What was acknowledged: (instant, units received in all) for one position."""

    def __init__(self) -> None:
        self.total = 0
        self.acknowledged: list[tuple[float, int]] = [(time.monotonic(), 0)]

    def at(self, instant: float) -> int:
        """Units acknowledged by an instant."""
        return max(total for when, total in self.acknowledged if when <= instant or total == 0)


async def receive(client: httpx.AsyncClient, books: Books, node_id: str, stop: asyncio.Event) -> None:
    """One unit after another, each acknowledged before the next; a lost answer is asked for again with its key."""
    while not stop.is_set():
        key = fresh("adj")
        body = {"node_id": node_id, "sku": "SKU-1", "kind": "received", "quantity": 1, "reason": "test"}
        while True:
            try:
                answer = await client.post("/v1/inventory/adjustments", json=body, headers={"idempotency-key": key})
            except httpx.HTTPError:
                continue
            if answer.status_code == 200:
                break
            assert answer.status_code in (429, 503), answer.text
            await asyncio.sleep(0.05)
        books.total += 1
        books.acknowledged.append((time.monotonic(), books.total))


async def read(
    client: httpx.AsyncClient, books: Books, node_id: str, first: int, seen: list[int], stop: asyncio.Event
) -> None:
    """Reads as fast as they come; each is held to the age that it states."""
    while not stop.is_set():
        asked = time.monotonic()
        answer = await client.get("/v1/availability", params={"sku": "SKU-1", "node_id": node_id})
        if answer.status_code == 503:  # too old here, and the owner is away
            await asyncio.sleep(0.02)
            continue
        assert answer.status_code == 200, answer.text
        [as_of] = answer.json()["as_of"]
        # An owner that was asked, and was away, answers late: as old as the question.
        assert as_of["age_ms"] <= max(AGE_MAX_MS, (time.monotonic() - asked) * 1_000) + 1
        known = books.at(asked - (as_of["age_ms"] + 1) / 1_000)
        assert answer.json()["data"][0]["on_hand"] - first >= known, (answer.json(), known)
        seen.append(as_of["epoch"])
        await asyncio.sleep(0.002)


def test_availability_is_never_older_than_it_says_through_kills(engine: Engine, units: int) -> None:
    async def run() -> None:
        books, stop = Books(), asyncio.Event()
        seen: list[list[int]] = [[], []]
        headers = {"authorization": f"Bearer {engine.facts['key']}"}
        async with (
            httpx.AsyncClient(base_url=engine.facts["urls"][0], headers=headers, timeout=60.0) as one,
            httpx.AsyncClient(base_url=engine.facts["urls"][1], headers=headers, timeout=60.0) as two,
        ):
            tasks = [
                asyncio.create_task(receive(one, books, "NYC", stop)),
                *(
                    asyncio.create_task(read(client, books, "NYC", units, seen[n], stop))
                    for n, client in enumerate((one, two))
                ),
            ]
            shard = (await one.get("/v1/availability", params={"sku": "SKU-1", "node_id": "NYC"})).json()["as_of"][0][
                "shard"
            ]

            async def read_in_its_life(life: int) -> None:
                """Until units came in this life of the shard, and each gateway has answered from it."""
                before = books.total
                await eventually(lambda: books.total > before + 20, within_s=300.0)
                await eventually(lambda: all(len(set(epochs)) == life for epochs in seen), within_s=300.0)

            for life in (1, 2):
                await read_in_its_life(life)
                os.kill(await asyncio.to_thread(shard_pid, engine, shard), signal.SIGKILL)
            await read_in_its_life(3)
            stop.set()
            await asyncio.gather(*tasks)
        for epochs in seen:
            assert len(set(epochs)) == 3, "each gateway has answered from every life of the shard"

    asyncio.run(run())


def test_a_stream_through_a_kill_misses_nothing_and_tells_nothing_twice(engine: Engine, units: int) -> None:
    async def run() -> None:
        url, key = engine.facts["urls"][0], engine.facts["key"]
        other = engine.facts["urls"][1]
        headers = {"authorization": f"Bearer {key}"}
        placed: list[str] = []
        heard: list[Heard] = []
        async with listening(url, key) as client:
            last_id = (await client.next()).id
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60.0) as http:

            async def place(count: int) -> None:
                for _ in range(count):
                    body = order({"SKU-2": 1}, near=("NYC", "LAX")[len(placed) % 2])
                    key = fresh("key")
                    while True:
                        answer = await http.post("/v1/allocations", json=body, headers={"idempotency-key": key})
                        if answer.status_code in (200, 201):
                            break
                        assert answer.status_code in (429, 503), answer.text
                        await asyncio.sleep(0.05)
                    placed.append(body["order_id"])

            async def listen() -> None:
                nonlocal last_id
                for n in itertools.count():
                    # From one gateway to the other: an id is good at each.
                    async with listening((url, other)[n % 2], key, last_id=last_id, kind="order") as client:
                        for _ in range(17):
                            event = await client.next(timeout_s=300.0)
                            last_id = event.id
                            if event.type == "order.allocated":
                                heard.append(event)
                            if len(heard) >= 60:
                                return

            listening_on = asyncio.create_task(listen())
            await place(30)
            os.kill(await asyncio.to_thread(shard_pid, engine, 0), signal.SIGKILL)
            await place(30)
            await asyncio.wait_for(listening_on, 300.0)
        assert sorted(event.data["order_id"] for event in heard) == sorted(placed)

    asyncio.run(run())
