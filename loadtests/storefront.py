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
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

import quartermaster_client as qm
from engine.cli.formats.table import FormatError
from loadtests.baskets import basket_bodies, basket_network, find_population, read_file, read_store_network, stocked
from loadtests.client_orders import order_of
from loadtests.filling import FillError, fill
from loadtests.histogram import Histogram
from loadtests.ledger import Ledger, Position, Recent, lines_of
from loadtests.network import Network, NetworkSpec, build_network
from loadtests.storefront_mix import (
    HOLD_TTL_S,
    READ_SHARE,
    RECOUNT_EVERY_S,
    RECOUNT_SKUS,
    draw_path,
)
from loadtests.traffic import Traffic, TrafficSpec, arrival_times_s
from loadtests.transports import PlainTransport

STATS_EVERY_S = 0.5
CHUNK_S = 10.0
CONNECTIONS = 64
IN_FLIGHT_MAX = 512
PATIENT = qm.RetryPolicy(attempts=6, base_s=0.2, cap_s=3.2, deadline_s=60.0)
"""A customer who waits. The budget lets all that is in flight wait through an outage."""
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

    def __init__(self, job: Job, network: Network, orders: Iterator[qm.Order] | None, client: qm.AsyncClient) -> None:
        self.job = job
        self.network = network
        self.client = client
        self.ledger = Ledger()
        self.stats = Stats()
        self._file_orders = orders
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

    def _orders(self) -> Iterator[qm.Order]:
        if self._file_orders is not None:
            yield from self._file_orders
            return
        traffic = Traffic(self.network, TrafficSpec(seed=self.job.seed, marketplace=0.15))
        while True:
            for order in traffic.draw(200):
                yield order_of(self.network, order, str(next(self._ids)))

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, qm.ApiError):
            self._fail(error.code)
        elif isinstance(error, qm.UnknownOutcome | qm.Unreachable):
            self._fail("unanswered")
        elif error is not None:
            self._fail(type(error).__name__)
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

    async def _order(self, order: qm.Order, intended: float) -> None:
        path = draw_path(self._rng)
        order.order_id = f"{self._run}-{order.order_id}"
        if self._rng.random() < READ_SHARE:
            self._spawn(self._read(order.lines[0].sku))
        made: qm.Allocation | qm.Reservation
        try:
            if path.reserve:
                made = held = await self.client.reserve(order, ttl_s=HOLD_TTL_S)
            else:
                made = await self.client.allocate(order)
        except qm.ApiError as error:
            self._refused(error)
            return
        finally:
            self._samples.append(int((time.monotonic() - intended) * 1e6))
        self._acknowledge(order.order_id)
        self._take(made)
        if path.reserve:
            self.stats.holds_open += 1
            if path.outcome == "expire":
                self._after(HOLD_TTL_S - 0.2, self._expire(held))
            else:
                self._after(min(path.think_s, HOLD_TTL_S - 2.0), self._finish_hold(held, path.outcome, path.ship))
        elif isinstance(made, qm.Allocation) and path.cancel:
            self._after(path.think_s, self._cancel(made))
        elif isinstance(made, qm.Allocation) and path.ship:
            self._after(path.warehouse_s, self._ship(made))

    def _take(self, made: qm.Allocation | qm.Reservation) -> None:
        stats, legs = self.stats, made.legs
        self.ledger.promise(legs)
        stats.orders += 1
        stats.lines += len({line.line_id for leg in legs for line in leg.lines})
        stats.legs += len(legs)
        stats.split += len(legs) > 1
        stats.unfilled_lines += len(made.unfilled)
        stats.cost_minor += made.cost_minor
        stats.rungs[made.rung] = stats.rungs.get(made.rung, 0) + 1

    async def _finish_hold(self, held: qm.Reservation, outcome: str, ship: bool) -> None:
        self.ledger.free(held.legs)
        self.stats.holds_open -= 1
        if outcome == "release":
            await self.client.release(held.reservation_id)
            self.stats.released += 1
            return
        try:
            made = await self.client.commit(held.reservation_id)
        except qm.Conflict as error:
            # Late payments are refused, and then the units are free; anything else is not expected here.
            if error.code != "expired":
                raise
            self.stats.expired += 1
            return
        self.stats.committed += 1
        self.ledger.promise(made.legs)
        if ship:
            self._after(1.0, self._ship(made))

    async def _expire(self, held: qm.Reservation) -> None:
        """The customer never comes back; from its expiry on the engine may sell the units again."""
        self.ledger.free(held.legs)
        self.stats.holds_open -= 1
        await asyncio.sleep(1.2)
        found = await self.client.get_reservation(held.reservation_id)
        if found.state == "expired":
            self.stats.expired += 1
        else:
            self._fail(f"not expired: {found.state}")

    async def _cancel(self, made: qm.Allocation) -> None:
        self.ledger.free(made.legs)
        try:
            cancelled = await self.client.cancel(made.allocation_id, reason="customer")
        except qm.ApiError:
            self.ledger.promise(made.legs)
            raise
        self.stats.cancelled += 1
        self.ledger.promise(cancelled.legs)

    async def _ship(self, made: qm.Allocation) -> None:
        """The way of every leg through its node."""
        for leg in made.legs:
            for step in (self.client.release_leg, self.client.accept_leg, self.client.pick_leg):
                await step(leg.leg_id)
            positions = [position for position, _ in lines_of([leg])]
            self.ledger.moving(positions)
            try:
                tracking = f"T{self._rng.randrange(10**9):09d}"
                await self.client.ship_leg(leg.leg_id, parcels=max(1, leg.parcels), tracking=[tracking])
            finally:
                self.ledger.moved(positions)
            self.ledger.shipped(leg)
            self.stats.shipped += 1

    async def _read(self, sku: str) -> None:
        await self.client.availability(sku)
        self.stats.reads += 1

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
            rows = [qm.CountRow(sku=sku, quantity=self.ledger.shelf[node_id, sku]) for _, sku in still]
            as_of = datetime.now(UTC) - timedelta(milliseconds=100)
            try:
                await self.client.count(
                    node_id, rows, source=f"shelf-{self._run}", source_seq=next(self._counts), as_of=as_of
                )
            except qm.ApiError as error:
                self._fail(error.code)
            except (qm.UnknownOutcome, qm.Unreachable):
                self._fail("unanswered")
            else:
                self.stats.recounts += 1

    async def _restock(self, sku: str) -> None:
        """A truck with what ran out."""
        node_id = self._rng.choice(self._nodes_of[sku])
        position = (node_id, sku)
        self.ledger.moving([position])
        self.ledger.stock([(position, RESTOCK_UNITS)])
        try:
            await self.client.adjust(node_id, sku, "received", RESTOCK_UNITS, reason="restock")
        finally:
            self.ledger.moved([position])
            self._restocking.discard(sku)
        self.stats.restocked += 1

    # -- answers --------------------------------------------------------------------------------------------------

    def _refused(self, error: qm.ApiError) -> None:
        """A customer who goes without. Raises what nobody should see."""
        if error.code not in ("out_of_stock", "no_capable_node"):
            raise error
        self.stats.refused[error.code] = self.stats.refused.get(error.code, 0) + 1
        if isinstance(error, qm.OutOfStock) and self._file_orders is None:
            for short in error.shortages:
                if short.sku in self._nodes_of and short.sku not in self._restocking:
                    self._restocking.add(short.sku)
                    self._after(2.0, self._restock(short.sku))

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


def prepare(job: Job) -> tuple[Network, Iterator[qm.Order] | None]:
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
        return network, (msgspec.convert(body, qm.Order) for body in basket_bodies(file, population))
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


async def _loaded(client: qm.AsyncClient, network: Network, job: Job, stop: asyncio.Event) -> bool:
    """Fill the engine; False = told to stop meanwhile."""
    loading = asyncio.create_task(
        fill(
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
        network, orders = await asyncio.to_thread(prepare, job)
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
    budget = qm.RetryBudget(capacity=PATIENT.attempts * IN_FLIGHT_MAX)
    async with (
        aclosing(PlainTransport(connections=CONNECTIONS)) as transport,
        qm.AsyncClient(
            engine["url"], engine["key"], timeout_s=60.0, retry=PATIENT, budget=budget, transport=transport
        ) as client,
    ):
        try:
            storefront = Storefront(job, network, orders, client)
            if await _loaded(client, network, job, stop):
                say(event="playing")
                await storefront.play(stop)
        except (FillError, qm.QuartermasterError) as error:
            say(event="error", text=str(error))
            raise SystemExit(3) from error
        finally:
            listener.cancel()
    storefront.stats.event = "done"
    sys.stdout.buffer.write(msgspec.json.encode(storefront.stats) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(main())
