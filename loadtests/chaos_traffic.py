"""A storefront that never gives up: orders that live to their end while processes die, and the storefront's own books about them.

Every request keeps its idempotency key until it has an answer, however many connections break on the way. All durations are the
engine's (a reservation is paid after minutes, a leg delivered after hours); `pace` says how long that really takes.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from engine.pace import Pace
from loadtests.client import Client, Response, Unanswered
from loadtests.ledger import Ledger, Position, lines_of
from loadtests.network import Network
from loadtests.storefront_mix import CANCEL_SHARE, COMMIT_SHARE, READ_SHARE, RESERVE_SHARE
from loadtests.traffic import Renderer, Traffic, TrafficSpec

HOLD_TTL_S = 900
THINK_S = (30.0, 600.0)
WAREHOUSE_S = (600.0, 3_600.0)
"""From the order to its first step in the warehouse."""
STEP_S = (60.0, 600.0)
DELIVERY_S = (1_800.0, 7_200.0)
REJECT_SHARE = 0.01
"""Legs that a node will not ship."""
RESTOCK_S = 900.0
RESTOCK_UNITS = 200
RECOUNT_EVERY_S = 1.0
"""Real seconds, like all that follows."""
RECOUNT_SKUS = 10
SALES_EVERY_S = 2.0
IMPORT_EVERY_S = 20.0
JOB_POLL_S = 0.25
JOB_PATIENCE_S = 180.0
LATE_S = 0.2
"""How long before a hold ends its units are no longer counted as promised."""
GRACES_MAX = 5
"""How often a hold may say that it lives on, its shard having been away."""
PATIENCE_S = 300.0
RETRY_S = (0.05, 1.0)
IN_FLIGHT_MAX = 256
LOOKS_FOR_REPLACEMENT = 4
"""Times that an order with a rejected leg is looked at before the rest is cancelled."""
ENDED = ("cancelled", "rejected", "delivered")
NEXT_STEP = {"allocated": "release", "released": "accept", "accepted": "pick", "picking": "ship", "shipped": "deliver"}
UNKNOWN_CODES = ("unavailable",)
"""Answers that leave open what happened."""


@dataclass
class Tally:
    """Totals since the start."""

    drawn: int = 0
    acknowledged: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    """Answers that nobody should see, by request and code."""
    requests: int = 0
    unknown: int = 0
    """Requests that at some time had no answer, or one that leaves the outcome open."""
    resolved: int = 0
    """Those of them that a repeat with the same key answered."""
    unresolved: int = 0
    later: int = 0
    """Answers 429 and 503 that say nothing was done."""
    committed: int = 0
    released: int = 0
    expired: int = 0
    cancelled: int = 0
    rejected: int = 0
    shipped: int = 0
    delivered: int = 0
    ended: int = 0
    """Orders that are at their end, as the storefront was told."""
    counts: int = 0
    moves: int = 0
    imports: int = 0
    imports_repeated: int = 0
    """Imports whose job died with its gateway, sent again."""
    reads: int = 0
    surprised: int = 0
    """Steps of legs that the engine had changed meanwhile."""


class StubbornClient:
    """Asks until there is an answer, with the same key."""

    def __init__(self, client: Client, tally: Tally) -> None:
        self._client = client
        self._tally = tally
        self.examples: dict[str, str] = {}
        """The first unexpected answer of each kind."""

    async def ask(self, method: str, path: str, body: Any = None, **options: Any) -> Response | None:
        """None = no answer within PATIENCE_S."""
        tally, key = self._tally, options.pop("key", None) or self._client.new_key()
        tally.requests += 1
        deadline, wait_s, unknown = time.monotonic() + PATIENCE_S, RETRY_S[0], False
        while True:
            try:
                response = await self._client.request(method, path, body, key=key, **options)
            except Unanswered:
                response = None
            if response is not None and response.status not in (429, 503):
                tally.resolved += unknown
                return response
            if response is None or response.code in UNKNOWN_CODES:
                tally.unknown += not unknown
                unknown = True
            else:
                tally.later += 1
            if time.monotonic() >= deadline:
                tally.unresolved += 1
                return response
            await asyncio.sleep(wait_s)
            wait_s = min(RETRY_S[1], wait_s * 2)

    def unexpected(self, what: str, response: Response | None) -> None:
        code = "unanswered" if response is None else response.code or str(response.status)
        self._tally.unexpected[f"{what}: {code}"] += 1
        if response is not None:
            self.examples.setdefault(f"{what}: {code}", response.body[:400].decode(errors="replace"))


class Shop:
    """Plays orders at a rate until stopped, then lets every order come to its end."""

    def __init__(self, network: Network, client: Client, pace: Pace, *, rate_per_s: float, seed: int) -> None:
        self.network = network
        self.pace = pace
        self.tally = Tally()
        self.ledger = Ledger()
        self.http = StubbornClient(client, self.tally)
        self.acknowledged: list[str] = []
        self.ends: dict[str, str] = {}
        """Order id -> how its last answer called it, for orders at their end."""
        self._rate_per_s = rate_per_s
        self._rng = random.Random(seed)
        self._ids = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._restocking: set[str] = set()
        self._seqs = itertools.count(time.time_ns() // 1_000_000)
        self._traffic = Traffic(network, TrafficSpec(seed=seed, marketplace=0.15))
        self._renderer = Renderer(network)
        stock = network.stock
        rows = zip(stock.node.tolist(), stock.item.tolist(), stock.units.tolist(), strict=True)
        self.ledger.stock(((network.nodes[node].node_id, network.items[item].sku), units) for node, item, units in rows)
        self._skus_of: dict[str, list[str]] = {}
        self._nodes_of: dict[str, list[str]] = {}
        for node_id, sku in self.ledger.shelf:
            self._skus_of.setdefault(node_id, []).append(sku)
            self._nodes_of.setdefault(sku, []).append(node_id)

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    # -- the day --------------------------------------------------------------------------------------------------

    async def play(self) -> None:
        """Poisson arrivals and everything beside them, until `stop`."""
        beside = [asyncio.create_task(work()) for work in (self._recount, self._sell_in_stores, self._import)]
        orders = self._orders()
        due = time.monotonic()
        try:
            while not self._stop.is_set():
                due += self._rng.expovariate(self._rate_per_s)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                due = max(due, time.monotonic() - 5.0)  # what an outage held up is not all sent at once
                self._spawn(self._order(next(orders)))
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    def stop(self) -> None:
        """No more orders; what is under way goes on, without waiting for carriers."""
        self._stop.set()

    async def drain(self, *, within_s: float) -> bool:
        """Wait until every order is at its end; False = not in time."""
        deadline = time.monotonic() + within_s
        while self._tasks and time.monotonic() < deadline:
            await asyncio.wait(set(self._tasks), timeout=1.0)
        return not self._tasks

    def _orders(self) -> Iterator[dict[str, Any]]:
        while True:
            for order in self._traffic.draw(200):
                body: dict[str, Any] = msgspec.json.decode(self._renderer.body(order, f"day-{next(self._ids):07d}"))
                body["placed_at"] = self._iso(self.pace.now_ms())
                yield body

    def _iso(self, at_ms: int) -> str:
        return datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="milliseconds")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            self.tally.unexpected[f"the storefront itself: {error!r}"[:200]] += 1

    async def _pass(self, low_s: float, high_s: float) -> None:
        """Let some of the engine's time go by; at once when the day is over."""
        if not self._stop.is_set():
            try:
                await asyncio.wait_for(self._stop.wait(), self._rng.uniform(low_s, high_s) / self.pace.speed)
            except TimeoutError:
                pass

    # -- one order ------------------------------------------------------------------------------------------------

    async def _order(self, body: dict[str, Any]) -> None:
        tally, rng = self.tally, self._rng
        tally.drawn += 1
        reserve = rng.random() < RESERVE_SHARE
        if reserve:
            body["ttl_s"] = HOLD_TTL_S
        response = await self.http.ask("POST", "/v1/reservations" if reserve else "/v1/allocations", body)
        if response is None or response.status != 201:
            self._refused(response, body)
            return
        if rng.random() < READ_SHARE:
            await self._read(body["lines"][0]["sku"])
        tally.acknowledged += 1
        self.acknowledged.append(body["order_id"])
        made = response.json()
        if reserve:
            committed = await self._reservation(made)
            if committed is None:
                return
            made = committed
        else:
            self.ledger.promise(made["legs"])
        if rng.random() < CANCEL_SHARE:
            await self._pass(*THINK_S)
            await self._cancel(made)
        else:
            await self._pass(*WAREHOUSE_S)
            await self._fulfil(made)

    async def _after_its_end(self, path: str) -> Response | None:
        """A hold, looked at when it should have ended. Its shard may have been away then: it says so by a later end, and is asked after that."""
        for _ in range(GRACES_MAX):
            await asyncio.sleep(2 * LATE_S + self.pace.real_s(5_000))
            response = await self.http.ask("GET", path)
            if response is None or response.status != 200 or response.json()["state"] != "held":
                break
            ends_ms = int(datetime.fromisoformat(response.json()["expires_at"]).timestamp() * 1_000)
            left_s = self.pace.real_s(ends_ms - self.pace.now_ms())
            if left_s < -LATE_S:
                break
            await asyncio.sleep(max(0.0, left_s))
        return response

    async def _reservation(self, held: dict[str, Any]) -> dict[str, Any] | None:
        """Pay, give up, or forget it; the allocation where it was paid for in time."""
        tally = self.tally
        path = f"/v1/reservations/{held['reservation_id']}"
        ends_ms = int(datetime.fromisoformat(held["expires_at"]).timestamp() * 1_000)
        left_s = self.pace.real_s(ends_ms - self.pace.now_ms()) - LATE_S
        if left_s > 0:  # an answer may come after the hold it speaks of has ended
            self.ledger.promise(held["legs"])
        fate = self._rng.random()
        if fate >= (1 + COMMIT_SHARE) / 2:
            await asyncio.sleep(max(0.0, left_s))
            if left_s > 0:
                self.ledger.free(held["legs"])
            response = await self._after_its_end(path)
            if response is not None and response.status == 200 and response.json()["state"] == "expired":
                tally.expired += 1
                self._is_over(held["order_id"], "expired")
            else:
                self.http.unexpected("a hold that should have expired", response)
            return None
        think_s = self._rng.uniform(*THINK_S) / self.pace.speed
        await asyncio.sleep(max(0.0, min(think_s, left_s)))
        if left_s > 0:
            self.ledger.free(held["legs"])
        if fate < COMMIT_SHARE:
            response = await self.http.ask("POST", path + "/commit", {})
        else:
            response = await self.http.ask("DELETE", path)
        if response is not None and response.code == "expired":
            tally.expired += 1
            self._is_over(held["order_id"], "expired")
            return None
        if response is None or response.status not in (200, 201, 204):
            self.http.unexpected("commit" if fate < COMMIT_SHARE else "release", response)
            return None
        if fate >= COMMIT_SHARE:
            tally.released += 1
            self._is_over(held["order_id"], "released")
            return None
        tally.committed += 1
        made: dict[str, Any] = response.json()
        self.ledger.promise(made["legs"])
        return made

    async def _cancel(self, made: dict[str, Any]) -> None:
        self.ledger.free(made["legs"])
        path = f"/v1/allocations/{made['allocation_id']}/cancel"
        response = await self.http.ask("POST", path, {"reason": "customer"})
        if response is None or response.status != 200:
            self.ledger.promise(made["legs"])
            self.http.unexpected("cancel", response)
            return
        after = response.json()
        self.ledger.promise(after["legs"])
        self.tally.cancelled += 1
        if all(leg["state"] in ENDED for leg in after["legs"]):
            self._is_over(made["order_id"], after["state"])
        else:  # something had left already: that is delivered
            await self._fulfil(after)

    async def _fulfil(self, order: dict[str, Any]) -> None:
        """Every leg to its end. A rejected one comes back as another; what nobody can ship for long is cancelled."""
        first, looked = True, 0
        while True:
            open_legs = [leg for leg in order["legs"] if leg["state"] in NEXT_STEP]
            if open_legs:
                leg = open_legs[0]
                if not first:
                    await self._pass(*(DELIVERY_S if leg["state"] == "shipped" else STEP_S))
                first = False
                after = await self._step(order, leg)
            elif not order["unfilled"] or order["state"] == "cancelled":
                self._is_over(order["order_id"], order["state"])
                return
            elif looked < LOOKS_FOR_REPLACEMENT:
                looked += 1
                await self._pass(*STEP_S)
                after = await self._look(order)
            else:
                await self._cancel(order)
                return
            if after is None:
                return
            order = after

    async def _look(self, order: dict[str, Any]) -> dict[str, Any] | None:
        """The order as the engine has it."""
        response = await self.http.ask("GET", f"/v1/allocations/{order['allocation_id']}")
        if response is None or response.status != 200:
            self.http.unexpected("look", response)
            return None
        after: dict[str, Any] = response.json()
        self.ledger.free(order["legs"])
        self.ledger.promise(after["legs"])
        return after

    async def _step(self, order: dict[str, Any], leg: dict[str, Any]) -> dict[str, Any] | None:
        """One step of one leg; the order as it is then."""
        step = NEXT_STEP[leg["state"]]
        body: dict[str, Any] | None = {}
        if step == "accept" and self._rng.random() < REJECT_SHARE:
            step, body = "reject", {"reason": "not found"}
        elif step == "ship":
            body = {"parcels": max(1, leg["parcels"]), "tracking": [f"T{self._rng.randrange(10**9):09d}"]}
        leaving = lines_of([leg]) if step == "ship" else ()
        units = list(leaving)
        self.ledger.moving(position for position, _ in units)
        if step == "reject":
            self.ledger.free(order["legs"])
        response = await self.http.ask("POST", f"/v1/legs/{leg['leg_id']}/{step}", body)
        if response is None or response.status != 200:
            self.ledger.moved(position for position, _ in units)
            if step == "reject":
                self.ledger.promise(order["legs"])
            if response is not None and response.status in (404, 409) and not self._stop.is_set():
                self.tally.surprised += 1  # the engine served it from elsewhere meanwhile
                return await self._look(order)
            self.http.unexpected(step, response)
            return None
        after: dict[str, Any] = response.json()["allocation"]
        if step != "reject":
            self.ledger.free(order["legs"])
        self.ledger.stock((position, -count) for position, count in units)
        self.ledger.promise(after["legs"])
        self.ledger.moved(position for position, _ in units)
        self.tally.shipped += step == "ship"
        self.tally.delivered += step == "deliver"
        self.tally.rejected += step == "reject"
        return after

    def _is_over(self, order_id: str, state: str) -> None:
        self.tally.ended += 1
        self.ends[order_id] = state

    def _refused(self, response: Response | None, body: dict[str, Any]) -> None:
        code = response.code if response is not None else "unanswered"
        if response is None or code not in ("out_of_stock", "no_capable_node"):
            self.http.unexpected("order", response)
            return
        self.tally.refused[code] += 1
        for error in response.json().get("errors", ()) if code == "out_of_stock" else ():
            sku = error.get("sku")
            if sku in self._nodes_of and sku not in self._restocking and not self._stop.is_set():
                self._restocking.add(sku)
                self._spawn(self._restock(sku))

    async def _read(self, sku: str) -> None:
        response = await self.http.ask("GET", f"/v1/availability?sku={sku}")
        if response is not None and response.status == 200:
            self.tally.reads += 1
        else:
            self.http.unexpected("availability", response)

    # -- stock ----------------------------------------------------------------------------------------------------

    async def _restock(self, sku: str) -> None:
        await self._pass(RESTOCK_S, 2 * RESTOCK_S)
        position = (self._rng.choice(self._nodes_of[sku]), sku)
        self.ledger.stock(
            [(position, RESTOCK_UNITS)]
        )  # before it is asked for: the engine may sell it before it answers
        await self._move(position, "received", RESTOCK_UNITS)
        self._restocking.discard(sku)

    async def _move(self, position: Position, kind: str, quantity: int) -> None:
        self.ledger.moving([position])
        move = {"node_id": position[0], "sku": position[1], "kind": kind, "quantity": quantity, "reason": "chaos day"}
        response = await self.http.ask("POST", "/v1/inventory/adjustments", move)
        self.ledger.moved([position])
        if response is not None and response.status == 200:
            self.tally.moves += 1
        else:
            self.http.unexpected(kind, response)

    async def _sell_in_stores(self) -> None:
        """Tills and breakage take units too, of positions with enough of them."""
        nodes = sorted(self._skus_of)
        while True:
            await asyncio.sleep(SALES_EVERY_S)
            node_id = self._rng.choice(nodes)
            position = (node_id, self._rng.choice(self._skus_of[node_id]))
            if self.ledger.shelf[position] - self.ledger.promised.get(position, 0) < 20:
                continue
            kind = "damaged" if self._rng.random() < 0.3 else "sold_in_store"
            self.ledger.stock([(position, -1)])
            await self._move(position, kind, 1)

    def _still_rows(self, node_id: str, count: int) -> list[tuple[str, int]]:
        skus = self._skus_of[node_id]
        some = self._rng.sample(skus, min(count, len(skus)))
        return [(sku, self.ledger.shelf[node_id, sku]) for sku in some if self.ledger.still((node_id, sku))]

    async def _recount(self) -> None:
        """A store counts some of its shelves: absolute, a little late, as real feeds are."""
        nodes = sorted(self._skus_of)
        while True:
            await asyncio.sleep(RECOUNT_EVERY_S)
            node_id = self._rng.choice(nodes)
            rows = self._still_rows(node_id, RECOUNT_SKUS)
            if not rows:
                continue
            body = {
                "node_id": node_id,
                "source": "shelf",
                "source_seq": next(self._seqs),
                "as_of": self._iso(self.pace.now_ms() - 100 * self.pace.speed),
                "scope": "delta",
                "rows": [{"sku": sku, "quantity": units} for sku, units in rows],
            }
            response = await self.http.ask("POST", "/v1/inventory/counts", body)
            if response is not None and response.status == 200:
                self.tally.counts += 1
            else:
                self.http.unexpected("count", response)

    async def _import(self) -> None:
        """A node's stock file, then some items' documents, as jobs: one that died with its gateway is sent again."""
        nodes = sorted(self._skus_of)
        items = [item for item in self.network.items if not item.components]
        for n in itertools.count():
            await asyncio.sleep(IMPORT_EVERY_S)
            if n % 3 == 2:
                body = msgspec.json.Encoder().encode_lines(self._rng.sample(items, 20))
                await self._job("/v1/items/import", body)
                continue
            node_id = self._rng.choice(nodes)
            rows = [
                {"node_id": node_id, "sku": sku, "quantity": units} for sku, units in self._still_rows(node_id, 100)
            ]
            as_of = self._iso(self.pace.now_ms() - 100 * self.pace.speed).replace("+00:00", "Z")
            query = f"?source=file&source_seq={next(self._seqs)}&scope=delta&as_of={as_of}"
            await self._job("/v1/inventory/import" + query, msgspec.json.Encoder().encode_lines(rows))

    async def _job(self, path: str, body: bytes) -> None:
        key, deadline = f"job-{next(self._seqs)}", time.monotonic() + JOB_PATIENCE_S
        while time.monotonic() < deadline:
            response = await self.http.ask("POST", path, body, key=key, content_type="application/x-ndjson")
            if response is None or response.status != 202:
                self.http.unexpected("import", response)
                return
            job = response.json()
            while job["state"] not in ("done", "failed"):
                await asyncio.sleep(JOB_POLL_S)
                asked = await self.http.ask("GET", f"/v1/jobs/{job['job_id']}")
                if asked is None or asked.status == 404:
                    break
                job = asked.json()
            if job["state"] == "done" and not job["rows_failed"]:
                self.tally.imports += 1
                return
            if job["state"] in ("done", "failed"):
                self.tally.unexpected[f"import: {job['problem']} {job['errors'][:1]}"[:300]] += 1
                return
            self.tally.imports_repeated += 1
        self.tally.unexpected["import: not done in time"] += 1
