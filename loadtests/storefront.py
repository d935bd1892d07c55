"""The storefront of the demo, a process of its own: fills a running engine with a network and plays traffic against it.

`python -m loadtests.storefront`: a `Job` as the first JSON line on standard input, then `{"url":...,"key":...}` once the engine is
up, then `{"stop":true}` (or end of input) to finish. JSON lines on standard output: progress, stats, done, error.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from engine.cli.formats.table import FormatError
from loadtests.baskets import basket_bodies, basket_network, find_population, read_file, read_store_network, stocked
from loadtests.client import Client, ClientError, Response, Unanswered
from loadtests.histogram import Histogram
from loadtests.ledger import Ledger, Position, Recent, lines_of
from loadtests.loader import load_network
from loadtests.network import Network, NetworkSpec, build_network
from loadtests.storefront_mix import (
    HOLD_TTL_S,
    LEG_STEPS,
    READ_SHARE,
    RECOUNT_EVERY_S,
    RECOUNT_SKUS,
    draw_path,
)
from loadtests.traffic import Renderer, Traffic, TrafficSpec, arrival_times_s

STATS_EVERY_S = 0.5
CHUNK_S = 10.0
IN_FLIGHT_MAX = 512
DRAIN_S = 20.0
RESTOCK_UNITS = 200
PLANNED_S = 1_800
"""Without a duration, stock is sized for this long; what runs out after it is restocked."""


class Job(msgspec.Struct, kw_only=True):
    """What to play."""

    seed: int = 1
    rate_per_s: float = 100.0
    burst_factor: float = 3.0
    duration_s: float | None = None
    orders: str | None = None
    nodes: str | None = None
    node_count: int = 60
    coverage: float = 1.5
    skus: int = 2_000
    acknowledged: str = ""
    """File that gets the ids of all acknowledged orders."""
    name: str = "demo"


class Stats(msgspec.Struct, kw_only=True):
    """Totals since the start, and what the last seconds were like."""

    event: str = "stats"
    seconds: float = 0.0
    orders: int = 0
    """Allocated or reserved."""
    orders_per_s: float = 0.0
    lines: int = 0
    refused: dict[str, int] = {}
    failed: dict[str, int] = {}
    """Answers that nobody should see, by status or code; broken connections as `unanswered`."""
    legs: int = 0
    split: int = 0
    """Orders with more than one leg."""
    unfilled_lines: int = 0
    cost_minor: int = 0
    rungs: dict[str, int] = {}
    holds_open: int = 0
    committed: int = 0
    released: int = 0
    expired: int = 0
    cancelled: int = 0
    shipped: int = 0
    recounts: int = 0
    restocked: int = 0
    reads: int = 0
    oversold_positions: int = 0
    acknowledged: int = 0
    late: int = 0
    """Orders that began later than they should have, because too many were in flight."""
    in_flight: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    """Of the last seconds, from the intended start."""
    total_p50_ms: float = 0.0
    total_p99_ms: float = 0.0
    finished: bool = False
    """All orders of a file were played."""


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class Storefront:
    """Plays orders against one engine and keeps its own books."""

    def __init__(self, job: Job, network: Network, bodies: Iterator[dict[str, Any]] | None, client: Client) -> None:
        self.job = job
        self.network = network
        self.client = client
        self.ledger = Ledger()
        self.stats = Stats()
        self._bodies = bodies
        self._rng = random.Random(job.seed)
        self._ids = itertools.count(1)
        self._run = f"{job.name}-{time.time_ns() // 1_000_000:x}"
        self._tasks: set[asyncio.Task[None]] = set()
        self._later: list[tuple[float, int, Any]] = []
        self._later_no = itertools.count()
        self._started = time.monotonic()
        self._window = Histogram()
        self._total = Histogram()
        self._samples: list[int] = []
        self._rate = Recent()
        self._acknowledged: list[str] = []
        self._restocking: set[str] = set()
        self._counts = itertools.count(time.time_ns() // 1_000_000)
        self._weight = {item.sku: item for item in network.items}
        stock = network.stock
        self.ledger.stock(
            ((network.nodes[node].node_id, network.items[item].sku), units)
            for node, item, units in zip(stock.node.tolist(), stock.item.tolist(), stock.units.tolist(), strict=True)
        )
        self._stocked_nodes: dict[str, list[str]] = {}
        for node_id, sku in self.ledger.shelf:
            self._stocked_nodes.setdefault(node_id, []).append(sku)
        self._nodes_of: dict[str, list[str]] = {}
        for node_id, sku in self.ledger.shelf:
            self._nodes_of.setdefault(sku, []).append(node_id)

    # -- the clock ------------------------------------------------------------------------------------------------

    async def play(self, stop: asyncio.Event) -> None:
        """Orders at their times until told to stop, the duration is over, or the file is; then what was begun is finished."""
        self._started = time.monotonic()
        source = self._orders()
        reporter = asyncio.create_task(self._report())
        counter = asyncio.create_task(self._recount())
        arrivals = self._arrivals()
        due_s, order = next(arrivals), next(source, None)
        try:
            while not stop.is_set() and order is not None and due_s is not None:
                now = time.monotonic() - self._started
                while self._later and self._later[0][0] <= now:
                    self._spawn(heapq.heappop(self._later)[2])
                if now >= due_s:
                    if len(self._tasks) < IN_FLIGHT_MAX:
                        self.stats.late += now - due_s > 0.05
                        self._spawn(self._order(order, self._started + due_s))
                        order, due_s = next(source, None), next(arrivals)
                        continue
                    wait_s = 0.005
                else:
                    wait_s = min(0.1, due_s - now)
                if self._later:
                    wait_s = min(wait_s, max(0.0, self._later[0][0] - now))
                await asyncio.sleep(wait_s)
            self.stats.finished = order is None
        finally:
            counter.cancel()
            await self._drain()
            reporter.cancel()
            self._refresh()
            self._write_acknowledged()

    def _arrivals(self) -> Iterator[float | None]:
        """Seconds from the start of every order; None = the duration is over."""
        job = self.job
        for n in itertools.count():
            begin = n * CHUNK_S
            for at in arrival_times_s(job.rate_per_s, CHUNK_S, [job.seed, n], burst_factor=job.burst_factor).tolist():
                if job.duration_s is not None and begin + at >= job.duration_s:
                    yield None
                    return
                yield begin + at

    def _orders(self) -> Iterator[dict[str, Any]]:
        if self._bodies is not None:
            yield from self._bodies
            return
        traffic = Traffic(self.network, TrafficSpec(seed=self.job.seed, marketplace=0.15))
        renderer = Renderer(self.network)
        while True:
            placed_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            for order in traffic.draw(200):
                body = msgspec.json.decode(renderer.body(order, ""))
                body["placed_at"] = placed_at
                yield body

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            name = "unanswered" if isinstance(error, Unanswered) else type(error).__name__
            self._fail(name)
            if not isinstance(error, Unanswered):
                say(event="error", text=f"the storefront itself failed: {error!r}")

    def _after(self, delay_s: float, coroutine: Any) -> None:
        heapq.heappush(self._later, (time.monotonic() - self._started + delay_s, next(self._later_no), coroutine))

    async def _drain(self) -> None:
        """Finish what is in flight; what was planned for later (by that, too) is dropped."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=DRAIN_S)
        for _, _, coroutine in self._later:
            coroutine.close()
        self._later.clear()

    # -- one order ------------------------------------------------------------------------------------------------

    async def _order(self, body: dict[str, Any], intended: float) -> None:
        path = draw_path(self._rng)
        order_id = f"{self._run}-{next(self._ids)}" if self._bodies is None else f"{self._run}-{body['order_id']}"
        body = {**body, "order_id": order_id}
        route = "/v1/allocations"
        if path.reserve:
            route, body["ttl_s"] = "/v1/reservations", HOLD_TTL_S
        response = await self._send("POST", route, body)
        self._samples.append(int((time.monotonic() - intended) * 1e6))
        if self._rng.random() < READ_SHARE:
            self._spawn(self._read(body["lines"][0]["sku"]))
        if response.status != 201:
            self._refused(response, body)
            return
        made = response.json()
        self._acknowledge(order_id)
        self._take(made)
        if path.reserve:
            self.stats.holds_open += 1
            if path.outcome == "expire":
                self._after(HOLD_TTL_S - 0.2, self._expire(made))
            else:
                self._after(min(path.think_s, HOLD_TTL_S - 2.0), self._finish_hold(made, path.outcome, path.ship))
        elif path.cancel:
            self._after(path.think_s, self._cancel(made))
        elif path.ship:
            self._after(path.warehouse_s, self._ship(made))

    def _take(self, made: dict[str, Any]) -> None:
        stats, legs = self.stats, made["legs"]
        self.ledger.promise(legs)
        stats.orders += 1
        stats.lines += len({line["line_id"] for leg in legs for line in leg["lines"]})
        stats.legs += len(legs)
        stats.split += len(legs) > 1
        stats.unfilled_lines += len(made.get("unfilled", ()))
        stats.cost_minor += made["cost_minor"]
        stats.rungs[made["rung"]] = stats.rungs.get(made["rung"], 0) + 1

    async def _finish_hold(self, held: dict[str, Any], outcome: str, ship: bool) -> None:
        reservation = held["reservation_id"]
        self.ledger.free(held["legs"])
        if outcome == "release":
            response = await self._send("DELETE", f"/v1/reservations/{reservation}")
            done = response.status in (200, 204)
        else:
            response = await self._send("POST", f"/v1/reservations/{reservation}/commit", {})
            done = response.status in (200, 201)
        self.stats.holds_open -= 1
        if not done:
            # Late payments are refused, and then the units are free; anything else is not expected here.
            if response.code != "expired":
                self._fail(response.code or str(response.status))
            else:
                self.stats.expired += 1
            return
        if outcome == "release":
            self.stats.released += 1
            return
        self.stats.committed += 1
        made = response.json()
        self.ledger.promise(made["legs"])
        if ship:
            self._after(1.0, self._ship(made))

    async def _expire(self, held: dict[str, Any]) -> None:
        """The customer never comes back; from its expiry on the engine may sell the units again."""
        self.ledger.free(held["legs"])
        await asyncio.sleep(1.2)
        response = await self._send("GET", f"/v1/reservations/{held['reservation_id']}")
        self.stats.holds_open -= 1
        if response.status == 200 and response.json()["state"] == "expired":
            self.stats.expired += 1
        else:
            self._fail(f"not expired: {response.code or response.json().get('state')}")

    async def _cancel(self, made: dict[str, Any]) -> None:
        self.ledger.free(made["legs"])
        response = await self._send("POST", f"/v1/allocations/{made['allocation_id']}/cancel", {"reason": "customer"})
        if response.status == 200:
            self.stats.cancelled += 1
            self.ledger.promise(response.json()["legs"])
        else:
            self.ledger.promise(made["legs"])
            self._fail(response.code or str(response.status))

    async def _ship(self, made: dict[str, Any]) -> None:
        """The way of every leg through its node."""
        for leg in made["legs"]:
            positions = [position for position, _ in lines_of([leg])]
            for step in LEG_STEPS:
                if step == "ship":
                    self.ledger.moving(positions)
                response = await self._send("POST", f"/v1/legs/{leg['leg_id']}/{step}", self._step_body(step, leg))
                if step == "ship":
                    self.ledger.moved(positions)
                if response.status != 200:
                    self._fail(response.code or str(response.status))
                    break
                if step == "ship":
                    self.ledger.shipped(leg)
                    self.stats.shipped += 1

    def _step_body(self, step: str, leg: dict[str, Any]) -> dict[str, Any]:
        if step != "ship":
            return {}
        return {"parcels": max(1, leg["parcels"]), "tracking": [f"T{self._rng.randrange(10**9):09d}"]}

    async def _read(self, sku: str) -> None:
        response = await self._send("GET", f"/v1/availability?sku={sku}")
        if response.status == 200:
            self.stats.reads += 1
        else:
            self._fail(response.code or str(response.status))

    # -- stock ----------------------------------------------------------------------------------------------------

    async def _recount(self) -> None:
        """A store counts some of its shelves, once a second: absolute, a little late, as real feeds are."""
        nodes = sorted(self._stocked_nodes)
        while True:
            await asyncio.sleep(RECOUNT_EVERY_S)
            node_id = self._rng.choice(nodes)
            skus = self._stocked_nodes[node_id]
            some = self._rng.sample(skus, min(RECOUNT_SKUS, len(skus)))
            still: list[Position] = [(node_id, sku) for sku in some if self.ledger.still((node_id, sku))]
            if not still:
                continue
            body = {
                "node_id": node_id,
                "source": f"shelf-{self._run}",
                "source_seq": next(self._counts),
                "as_of": (datetime.now(UTC) - timedelta(milliseconds=100)).isoformat(),
                "scope": "delta",
                "rows": [{"sku": sku, "quantity": self.ledger.shelf[node_id, sku]} for _, sku in still],
            }
            response = await self._send("POST", "/v1/inventory/counts", body)
            if response.status == 200:
                self.stats.recounts += 1
            else:
                self._fail(response.code or str(response.status))

    async def _restock(self, sku: str) -> None:
        """A truck with what ran out."""
        node_id = self._rng.choice(self._nodes_of[sku])
        position = (node_id, sku)
        self.ledger.moving([position])
        self.ledger.stock([(position, RESTOCK_UNITS)])
        move = {"node_id": node_id, "sku": sku, "kind": "received", "quantity": RESTOCK_UNITS, "reason": "restock"}
        response = await self._send("POST", "/v1/inventory/adjustments", move)
        if response.status == 200:
            self.stats.restocked += 1
        else:
            self._fail(response.code or str(response.status))
        self.ledger.moved([position])
        self._restocking.discard(sku)

    # -- answers --------------------------------------------------------------------------------------------------

    async def _send(self, method: str, path: str, body: Any = None) -> Response:
        """One request; "later" is taken at its word, with the same key."""
        key = self.client.new_key()
        for attempt in range(6):
            response = await self.client.request(method, path, body, key=key)
            if response.status not in (429, 503) or attempt == 5:
                return response
            await asyncio.sleep(0.1 * 2**attempt)
        raise AssertionError("the loop above returns")

    def _refused(self, response: Response, body: dict[str, Any]) -> None:
        code = response.code
        if code not in ("out_of_stock", "no_capable_node"):
            self._fail(code)
            return
        self.stats.refused[code] = self.stats.refused.get(code, 0) + 1
        if code == "out_of_stock" and self._bodies is None:
            for error in response.json().get("errors", ()):
                sku = error.get("sku")
                if sku in self._nodes_of and sku not in self._restocking:
                    self._restocking.add(sku)
                    self._after(2.0, self._restock(sku))

    def _fail(self, code: str) -> None:
        self.stats.failed[code] = self.stats.failed.get(code, 0) + 1

    def _acknowledge(self, order_id: str) -> None:
        self.stats.acknowledged += 1
        self._acknowledged.append(order_id)

    def _write_acknowledged(self) -> None:
        ids, self._acknowledged = self._acknowledged, []
        if self.job.acknowledged and ids:
            with Path(self.job.acknowledged).open("a", encoding="ascii") as file:
                file.writelines(f"{order_id}\n" for order_id in ids)

    # -- reports --------------------------------------------------------------------------------------------------

    async def _report(self) -> None:
        recent: list[Histogram] = []
        while True:
            await asyncio.sleep(STATS_EVERY_S)
            self._write_acknowledged()
            samples, self._samples = self._samples, []
            part = Histogram()
            part.record(samples)
            self._total.record(samples)
            recent = [*recent[-9:], part]
            self._window = Histogram()
            for histogram in recent:
                self._window.merge(histogram)
            self._refresh()
            sys.stdout.buffer.write(msgspec.json.encode(self.stats) + b"\n")
            sys.stdout.buffer.flush()

    def _refresh(self) -> None:
        stats, now = self.stats, time.monotonic() - self._started
        self._total.record(self._samples)
        self._samples = []
        self._rate.add(now, stats.orders)
        stats.seconds = now
        stats.orders_per_s = self._rate.per_s()
        stats.oversold_positions = len(self.ledger.oversold)
        stats.in_flight = len(self._tasks)
        stats.p50_ms = self._window.percentile_us(50) / 1_000
        stats.p99_ms = self._window.percentile_us(99) / 1_000
        stats.total_p50_ms = self._total.percentile_us(50) / 1_000
        stats.total_p99_ms = self._total.percentile_us(99) / 1_000


# -- the process --------------------------------------------------------------------------------------------------


def prepare(job: Job) -> tuple[Network, Iterator[dict[str, Any]] | None]:
    """The network of a job, and its orders where they come from a file. Raises FormatError, ValueError."""
    nodes = None
    if job.nodes is not None:
        nodes, bad = read_store_network(Path(job.nodes), job.node_count)
        say(event="note", text=f"{len(nodes):,} of the stores in {Path(job.nodes).name}; {len(bad)} rows left out")
    if job.orders is not None:
        path = Path(job.orders)
        file = read_file(path)
        population = find_population(path)
        say(event="note", text=f"{path.name}: {file.report.sentence()}")
        say(
            event="note",
            text=f"{len(file.skus):,} products, {file.demand_units.sum():,.0f} units over {file.span_days} days; destinations by "
            + (f"the population in {population.name}" if population else "the density of ZIP codes"),
        )
        network = basket_network(file, nodes, node_count=job.node_count, coverage=job.coverage, seed=job.seed)
        depth = "stock = that demand x {:g}, and what lets a warehouse serve a basket of rare products: x {:.2f} in all"
        say(event="note", text=depth.format(job.coverage, stocked(file, network)))
        return network, basket_bodies(file, population)
    warehouses = max(1, job.node_count // 6)
    spec = NetworkSpec(
        seed=job.seed,
        warehouses=warehouses,
        stores=job.node_count - warehouses,
        skus=job.skus,
        orders=round(max(40_000.0, job.rate_per_s * (job.duration_s or PLANNED_S))),
        units_per_order=3.1,
        coverage=job.coverage,
        # Stores of a file take no hazmat, and carry too little each for kits to be whole in one.
        kit_share=0.01 if nodes is None else 0.0,
        handling_share=0.02 if nodes is None else 0.0,
        warehouse_carry=0.7,
        store_carry=min(0.3, max(0.05, 18 / job.node_count)),
    )
    return build_network(spec, nodes=nodes), None


async def _loaded(client: Client, network: Network, job: Job, stop: asyncio.Event) -> bool:
    """Fill the engine; False = told to stop meanwhile."""
    loading = asyncio.create_task(
        load_network(
            client,
            network,
            source=f"{job.name}-{time.time_ns()}",
            say=lambda what, done, total: say(event="progress", what=what, done=done, total=total),
        )
    )
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not loading.done():
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        return False
    loading.result()
    return not stop.is_set()


async def main() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    job = msgspec.json.decode(await reader.readline(), type=Job)
    try:
        network, bodies = await asyncio.to_thread(prepare, job)
    except (FormatError, ValueError) as error:
        say(event="error", text=str(error))
        raise SystemExit(2) from error
    say(event="prepared", nodes=len(network.nodes), items=len(network.items), positions=len(network.stock.node))
    line = await reader.readline()
    if not line:
        return
    engine = json.loads(line)
    stop = asyncio.Event()

    async def listen() -> None:
        while line := await reader.readline():
            if json.loads(line).get("stop"):
                break
        stop.set()

    listener = asyncio.create_task(listen())
    async with Client(engine["url"], engine["key"], connections=64) as client:
        try:
            storefront = Storefront(job, network, bodies, client)
            if await _loaded(client, network, job, stop):
                say(event="playing")
                await storefront.play(stop)
        except (ClientError, Unanswered) as error:
            say(event="error", text=str(error))
            raise SystemExit(3) from error
        finally:
            listener.cancel()
    storefront.stats.event = "done"
    sys.stdout.buffer.write(msgspec.json.encode(storefront.stats) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(main())
