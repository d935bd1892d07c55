"""Orders through the batch API, kill -9 of all processes, restart on the same data: each acknowledged one exactly once.

The kill comes while batches are still being sent, so that some are answered, some not: what was acknowledged must be there, what
was not may or may not be, and is asked for again with the same keys. Then the rest is sent, all is killed once more, and
everything is checked again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from loadtests.accepting import Acceptance, need
from loadtests.baskets import basket_bodies, basket_network, find_population, read_file
from loadtests.client import Client, Unanswered
from loadtests.loader import load_network
from loadtests.network import Network, NetworkSpec, build_network
from loadtests.runs import oversold, verify
from loadtests.servers import Engine
from loadtests.traffic import Renderer, Traffic, TrafficSpec

BATCH_ORDERS = 100
BATCH_LINES_MAX = 5_000
SENDERS = 4
SHARDS = 2
LATER_S = 0.5
KILL_AT = 0.6
"""Part of the orders after which everything is killed."""

Batch = list[tuple[str, bytes]]
"""(order id, order of the API as JSON)."""


async def crash(run: Acceptance) -> None:
    network, orders = _orders(run)
    engine = Engine("crash", run.folder / "crash", shards=SHARDS)
    play = _Crash(run, engine, _batches(orders))
    try:
        await asyncio.to_thread(engine.start)
        async with Client(engine.url, engine.key) as client:
            await load_network(client, network)
        started = time.monotonic()
        await play.send(kill_at=round(run.count * KILL_AT))
        await play.restart_and_check()
        await play.send(kill_at=None)
        seconds = time.monotonic() - started
        run.say(
            f"{len(play.acknowledged):,} acknowledged in all, {play.refused:,} refused, {play.later:,} told to come again, "
            f"in {seconds:.0f} s with a restart in it"
        )
        need(
            len(play.acknowledged) + play.refused >= run.count, "orders answered", len(play.acknowledged) + play.refused
        )
        await asyncio.to_thread(engine.kill_all)
        await play.restart_and_check()
    finally:
        await asyncio.to_thread(engine.stop)


def _orders(run: Acceptance) -> tuple[Network, Iterator[tuple[str, bytes, int]]]:
    """The baskets of a file repeated under new ids, or generated orders: (id, JSON, lines)."""
    if run.orders is None:
        network = build_network(
            NetworkSpec(seed=run.seed, warehouses=12, stores=48, skus=4_000, orders=run.count, coverage=1.3)
        )
        return network, _generated(run, network)
    file = read_file(run.orders)
    repeats = run.count / len(file.baskets)
    network = basket_network(file, None, node_count=60, coverage=1.2 * max(1.0, repeats), seed=run.seed)
    run.say(f"{file.report.sentence()}; played {repeats:.1f} times under new ids")
    bodies = list(basket_bodies(file, find_population(run.orders)))
    return network, _repeated(bodies, run.count)


def _generated(run: Acceptance, network: Network) -> Iterator[tuple[str, bytes, int]]:
    renderer = Renderer(network, on_short="partial")
    for n, order in enumerate(Traffic(network, TrafficSpec(seed=run.seed)).draw(run.count)):
        order_id = f"c{n:07d}"
        extra = f',"idempotency_key":"{order_id}"'.encode()
        yield order_id, renderer.body(order, order_id, extra), len(order.lines)


def _repeated(bodies: list[dict[str, Any]], count: int) -> Iterator[tuple[str, bytes, int]]:
    for n in range(count):
        round_no, at = divmod(n, len(bodies))
        order_id = f"{bodies[at]['order_id']}-{round_no}"
        body = {**bodies[at], "order_id": order_id, "idempotency_key": order_id}
        yield order_id, msgspec.json.encode(body), len(body["lines"])


def _batches(orders: Iterator[tuple[str, bytes, int]]) -> Iterator[Batch]:
    """Batches that are neither too many orders nor too many lines."""
    batch: Batch = []
    lines = 0
    for order_id, body, size in orders:
        batch.append((order_id, body))
        lines += size
        if len(batch) == BATCH_ORDERS or lines >= BATCH_LINES_MAX:
            yield batch
            batch, lines = [], 0
    if batch:
        yield batch


class _Crash:
    """The storefront's side: what it was told, and what it has to ask again."""

    def __init__(self, run: Acceptance, engine: Engine, batches: Iterator[Batch]) -> None:
        self.run = run
        self.engine = engine
        self.acknowledged: set[str] = set()
        self.refused = 0
        self.later = 0
        """Orders that were told to come again."""
        self._batches = batches
        self._unanswered: list[Batch] = []
        self._killed = False

    async def send(self, *, kill_at: int | None) -> None:
        """Send what is left from several senders; at `kill_at` acknowledged orders everything is killed."""
        self._killed = False
        before = len(self.acknowledged)
        started = time.monotonic()
        async with Client(self.engine.url, self.engine.key, connections=SENDERS, retries=0) as client:
            await asyncio.gather(*(self._sender(client, kill_at) for _ in range(SENDERS)))
        seconds = time.monotonic() - started
        count = len(self.acknowledged) - before
        end = "; kill -9 of all processes meanwhile" if self._killed else ""
        self.run.say(f"{count:,} orders acknowledged in {seconds:.1f} s ({count / seconds:,.0f}/s){end}")
        if self._killed:
            self.run.say(f"{len(self._unanswered)} batches got no answer: their outcome is unknown")

    async def _sender(self, client: Client, kill_at: int | None) -> None:
        for batch in self._batches:
            if not await self._post(client, batch):
                self._unanswered.append(batch)
                need(self._killed, "a batch got no answer although nothing was killed")
                return
            if kill_at is not None and len(self.acknowledged) >= kill_at and not self._killed:
                self._killed = True
                await asyncio.to_thread(self.engine.kill_all)
            if self._killed:
                return

    async def _post(self, client: Client, batch: Batch) -> bool:
        """Whether it was answered as a whole."""
        data = b'{"orders":[' + b",".join(body for _, body in batch) + b"]}"
        try:
            response = await client.request("POST", "/v1/allocations/batch", data)
        except Unanswered:
            return False
        if response.status != 200:
            need(self._killed, "a batch was refused", response.status, response.body[:300])
            return False
        later: Batch = []
        for order, result in zip(batch, response.json()["results"], strict=True):
            if result["status"] == 201:
                self.acknowledged.add(order[0])
            elif result["status"] == 409:
                self.refused += 1
            else:
                need(result["status"] in (429, 503), "an order of a batch was refused", result)
                later.append(order)
        if not later:
            return True
        # "Later, with the same key": taken at its word.
        self.later += len(later)
        if self._killed:
            self._unanswered.append(later)
            return True
        await asyncio.sleep(LATER_S)
        return await self._post(client, later)

    async def restart_and_check(self) -> None:
        """Everything is dead: start on the same data, compare, then ask again for what got no answer."""
        run, engine = self.run, self.engine
        started = time.monotonic()
        await asyncio.to_thread(engine.start)
        seconds = time.monotonic() - started
        ids = run.folder / "acknowledged"
        await asyncio.to_thread(ids.write_text, "".join(f"{order_id}\n" for order_id in sorted(self.acknowledged)))
        report = await asyncio.to_thread(verify, engine, [ids], folder=run.folder)
        excess = await oversold(engine)
        orders = sum(shard["orders"] for shard in report["shards"])
        run.say(
            f"restarted in {seconds:.1f} s: {report['acknowledged']:,} acknowledged orders looked for, each there exactly once; "
            f"{orders:,} orders in all, drift 0, oversells {excess}"
        )
        need(excess == 0, "positions oversold", excess)
        unanswered, self._unanswered = self._unanswered, []
        async with Client(engine.url, engine.key) as client:
            for batch in unanswered:
                need(await self._post(client, batch), "a batch that was asked again was answered")
