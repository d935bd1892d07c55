"""The Python client against a real gateway: every route, both formats, both kinds; and what it does when things break."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import quartermaster_client as qm
from tests.conftest import eventually
from tests.integration.cutting_proxy import CuttingProxy
from tests.integration.engine_process import Engine, command
from tests.integration.gateway_engine import GatewayEngine
from tests.integration.network_over_http import set_up_network


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[tuple[GatewayEngine, str]]:
    engine = await GatewayEngine(tmp_path, shards=2).start()
    await engine.seen_by_all(*[await engine.stock_up(f"N-{node}", "SKU-0", 100) for node in range(4)])
    async with engine.served() as url:
        yield engine, url
    await engine.close()


def an_order(order_id: str, quantity: int = 1, **fields: Any) -> qm.Order:
    return qm.Order(
        order_id=order_id,
        channel="web",
        ship_to=qm.ShipTo(country="US", postal_code="10001"),
        lines=[qm.OrderLine(line_id="1", sku="SKU-0", quantity=quantity)],
        **fields,
    )


@pytest.mark.parametrize("format", ["json", "msgpack"])
async def test_a_quote_is_kept_or_refused_with_both(gateway: tuple[GatewayEngine, str], format: Any) -> None:
    engine, url = gateway

    def blocking() -> None:
        with qm.Client(url, engine.admin, format=format) as client:
            quote = client.quote(an_order("any", 300), ttl_s=60)
            assert quote.valid_until is not None
            assert quote.best is quote.cheapest is quote.fastest is quote.options[0]
            assert quote.best.fills_all
            assert sum(leg.lines[0].quantity for leg in quote.best.legs) == 300
            made = client.allocate(
                an_order("Q-1", 300, quote_id=quote.quote_id, quote_option=quote.best.option_id), after=quote.token
            )
            assert (made.cost_minor, made.promise.deliver_by) == (quote.best.cost_minor, quote.best.deliver_by)

    async with qm.AsyncClient(url, engine.admin, format=format) as client:
        early = await client.quote(an_order("any", 200))
        await asyncio.to_thread(blocking)
        with pytest.raises(qm.QuoteChanged) as caught:
            await client.reserve(an_order("Q-2", 200, quote_id=early.quote_id))
        error = caught.value
        assert error.quoted is not None and error.offered is not None
        assert (error.quoted.unfilled_units, error.offered.unfilled_units) == (0, 100)
        assert error.quoted.deliver_by == early.best.deliver_by
        assert [(short.requested, short.available_to_promise) for short in error.shortages] == [(200, 100)]
        with pytest.raises(qm.InvalidRequest, match="invalid_quote"):
            await client.reserve(an_order("Q-3", quote_id=early.quote_id + "A"))
        with pytest.raises(qm.OutOfStock):
            await client.quote(an_order("any", 101))


@pytest.mark.parametrize("format", ["json", "msgpack"])
async def test_an_order_from_hold_to_delivery(gateway: tuple[GatewayEngine, str], format: Any) -> None:
    engine, url = gateway
    async with qm.AsyncClient(url, engine.admin, format=format) as client:
        before = await client.availability("SKU-0", strict=True)
        assert before.units("SKU-0") == 400

        held = await client.reserve(an_order("H-1", 3), ttl_s=60)
        assert held.state == "held"
        assert held.expires_at is not None
        assert timedelta(seconds=40) < held.expires_at - datetime.now(UTC) <= timedelta(seconds=61)
        longer = await client.extend(held.reservation_id, ttl_s=600)
        assert longer.expires_at is not None
        assert longer.expires_at > held.expires_at

        made = await client.commit(held.reservation_id, lines=[qm.LineQuantity(line_id="1", quantity=2)])
        assert [line.quantity for leg in made.legs for line in leg.lines] == [2]
        assert (await client.get_reservation(held.reservation_id)).allocation_id == made.allocation_id
        assert (await client.availability("SKU-0", after=made.token)).units("SKU-0") == 398

        leg_id = made.legs[0].leg_id
        assert [leg.leg_id async for leg in client.iter_legs(made.legs[0].node_id)] == [leg_id]
        for step in (client.release_leg, client.accept_leg, client.pick_leg):
            await step(leg_id)
        shipped = await client.ship_leg(leg_id, parcels=1, tracking=["1Z"], actual_cost_minor=900)
        assert shipped.leg.tracking == ("1Z",)
        assert (await client.deliver_leg(shipped.leg.leg_id)).leg.state == "delivered"
        assert (await client.get_leg(shipped.leg.leg_id)).order_id == "H-1"

        other = await client.reserve(an_order("H-2"))
        assert (await client.release(other.reservation_id)).state == "released"

        stopped = await client.allocate(an_order("H-5", hold_reasons=("fraud", "address")))
        with pytest.raises(qm.Conflict):
            await client.release_leg(stopped.legs[0].leg_id)
        await client.clear_holds(stopped.allocation_id, reasons=["fraud"], reason="checked")
        await client.clear_holds(stopped.allocation_id)
        assert (await client.release_leg(stopped.legs[0].leg_id)).leg.state == "released"

        direct = await client.allocate(an_order("H-3", 2, placed_at=datetime.now(UTC), customer_id="C-1"))
        assert direct.customer_id == "C-1"
        partly = await client.cancel(direct.allocation_id, lines=[qm.LineQuantity(line_id="1", quantity=1)])
        assert sum(line.quantity for leg in partly.legs for line in leg.lines if leg.state != "cancelled") == 1
        again = await client.allocate(an_order("H-4"))
        rejected = await client.reject_leg(again.legs[0].leg_id, reason="empty shelf", stock_effect="zero_until_count")
        assert rejected.leg.state == "rejected"

        async def moved() -> bool:
            now = await client.get_allocation(again.allocation_id)
            return [leg.node_id != again.legs[0].node_id for leg in now.legs if leg.state == "allocated"] == [True]

        await eventually(moved, what="what a node rejected is planned again elsewhere")


@pytest.mark.parametrize("format", ["json", "msgpack"])
async def test_stock_and_configuration(gateway: tuple[GatewayEngine, str], format: Any) -> None:
    engine, url = gateway
    async with qm.AsyncClient(url, engine.admin, format=format) as client:
        made = await client.put_item(qm.Item(sku="NEW/1", name="Pan", weight_g=900, components=[]))
        assert made.created
        with pytest.raises(qm.VersionMismatch):
            await client.put_item(qm.Item(sku="NEW/1", name="Other"))
        seen = await client.get_item("NEW/1")
        assert seen.document.weight_g == 900
        replaced = await client.put_item(qm.Item(sku="NEW/1", name="Big pan"), if_version=seen.version)
        assert replaced.version > seen.version
        with pytest.raises(qm.VersionMismatch) as caught:
            await client.put_item(qm.Item(sku="NEW/1", name="Late"), if_version=seen.version)
        assert caught.value.faults[0].facts["version"] == replaced.version
        assert "NEW/1" in [item.sku async for item in client.iter_items()]

        nodes = [node async for node in client.iter_nodes()]
        assert len(nodes) == 4
        node = await client.get_node("N-0")
        node.document.name = "Renamed"
        assert (await client.put_node(node.document, if_version=node.version)).document.name == "Renamed"
        channel = await client.get_channel("web")
        assert (await client.put_channel(channel.document, if_version=channel.version)).document == channel.document
        [carrier] = [carrier async for carrier in client.iter_carriers()]
        assert (await client.get_carrier(carrier.carrier_id)).document == carrier
        copy = qm.Carrier(carrier_id="copy", services=carrier.services)
        assert (await client.put_carrier(copy)).created
        assert [channel.channel_id async for channel in client.iter_channels()]

        stock = await client.adjust("N-0", "SKU-1", "received", 7, reason="delivery")
        assert stock.positions[0].on_hand == 7
        await client.adjust_many("N-0", [qm.Move(sku="SKU-1", kind="damaged", quantity=1)])
        with pytest.raises(qm.Conflict) as changed:
            await client.adjust("N-0", "SKU-1", "found", 1, expected_on_hand=7)
        assert (changed.value.code, changed.value.faults[0].facts["on_hand"]) == ("stock_changed", 6)
        rows = [qm.CountRow(sku="SKU-1", quantity=5)]
        counted = await client.count("N-0", rows, source="wms", source_seq=2)
        assert counted.positions[0].on_hand == 5
        with pytest.raises(qm.Conflict) as stale:
            await client.count("N-0", rows, source="wms", source_seq=1)
        assert stale.value.code == "stale_count"
        safe = await client.set_positions("N-0", [qm.PositionSettings(sku="SKU-1", safety_units=2)])
        assert safe.positions[0].available_to_promise == 3

        job = await client.import_documents([qm.Item(sku=f"BULK-{n}", weight_g=n + 1) for n in range(50)])
        done = await client.wait_for(job, timeout_s=60)
        assert (done.state, done.rows_done, done.rows_failed) == ("done", 50, 0)
        dry = await client.wait_for(await client.import_counts([("N-1", "BULK-1", 3)], dry_run=True))
        assert dry.would_change == qm.CountChange(position_count=1, left_out_count=0, units_added=3, units_taken=0)
        counts = await client.import_counts([("N-1", "BULK-1", 3), ("N-1", "NOWHERE", 1)], as_of=datetime.now(UTC))
        done = await client.wait_for(counts, timeout_s=60)
        assert (done.rows_done, done.rows_failed, done.errors[0].line) == (2, 1, 2)

        decided = await client.allocate(an_order("D-1"))
        with pytest.raises(qm.NotFound):
            await client.get_decision("dec_US100_0000000000000_1")
        assert decided.decision_id.startswith("dec_")
        assert (await client.version()).api == "v1"


async def test_what_waits_for_stock_is_listed_moved_ahead_and_given_up(gateway: tuple[GatewayEngine, str]) -> None:
    engine, url = gateway
    async with qm.AsyncClient(url, engine.admin) as client:
        waiting = an_order("W-1", 3, on_short="park", cancel_after=datetime.now(UTC) + timedelta(days=3))
        waiting.lines[0].sku = "SKU-2"
        made = await client.allocate(waiting)
        assert made.state == "parked"
        [line] = (await client.list_demand(sku="SKU-2")).data
        assert (line.order_id, line.quantity, line.priority) == ("W-1", 3, 0)
        assert line.cancel_at is not None
        await client.prioritise_demand(line.demand_id, 900)
        [line] = (await client.list_demand(state="parked")).data
        assert line.priority == 900
        given_up = await client.cancel_demand(line.demand_id, reason="changed mind")
        assert given_up.state == "cancelled"
        assert (await client.list_demand()).data == []
        assert {note.outcome for note in (await client.demand_log()).data} >= {"parked"}
        sold = await client.allocate(an_order("W-2", 5))
        await client.adjust(sold.legs[0].node_id, "SKU-0", "lost", 97)
        short = (await client.short_positions(node_id=sold.legs[0].node_id)).data
        assert [(one.position.sku, one.lacking_units) for one in short] in ([("SKU-0", 2)], [])  # or re-sourced by now


def test_the_synchronous_client_does_the_same(tmp_path: Path) -> None:
    started, stop = threading.Event(), asyncio.Event()
    facts: dict[str, Any] = {}

    async def serve() -> None:
        engine = await GatewayEngine(tmp_path, shards=1).start()
        await engine.stock_up("N-0", "SKU-0", 10)
        async with engine.served() as url:
            facts.update(url=url, key=engine.admin, loop=asyncio.get_running_loop())
            started.set()
            await stop.wait()
        await engine.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(60)
        with qm.Client(facts["url"], facts["key"]) as client:
            held = client.reserve(an_order("S-1", 4))
            made = client.commit(held.reservation_id)
            assert made.state == "allocated"
            with pytest.raises(qm.OutOfStock) as caught:
                client.allocate(an_order("S-2", 7))
            assert caught.value.shortages == [qm.Shortage("/lines/0", "SKU-0", 7, 6, "1")]
            results = client.allocate_batch([an_order(f"B-{n}", 2) for n in range(5)])
            assert [result.ok for result in results] == [True, True, True, False, False]
            assert [item.sku for item in client.iter_items()] == ["SKU-0", "SKU-1", "SKU-2"]
            assert client.wait_for(client.import_counts([("N-0", "SKU-1", 4)])).rows_done == 1
    finally:
        if "loop" in facts:
            facts["loop"].call_soon_threadsafe(stop.set)
        thread.join(60)


async def test_a_key_without_the_scope_and_no_key_at_all(gateway: tuple[GatewayEngine, str]) -> None:
    engine, url = gateway
    reader = await engine.token("inventory:read")
    async with qm.AsyncClient(url, reader) as client:
        with pytest.raises(qm.Forbidden):
            await client.allocate(an_order("F-1"))
    async with qm.AsyncClient(url, "qm_nobody_secret") as client:
        with pytest.raises(qm.Unauthenticated):
            await client.availability("SKU-0")


async def test_batches_of_any_size_have_a_result_for_each_order(gateway: tuple[GatewayEngine, str]) -> None:
    engine, url = gateway
    await engine.stock_up("N-0", "SKU-1", 2_000)
    orders = [an_order(f"M-{n}") for n in range(1_500)]
    for order in orders:
        order.lines[0].sku = "SKU-1"
    orders[700].lines[0].sku = "NO-SUCH"
    async with qm.AsyncClient(url, engine.admin) as client:
        first = await client.allocate_batch(orders)
        assert [result.order_id for result in first] == [order.order_id for order in orders]
        assert [n for n, result in enumerate(first) if not result.ok] == [700]
        error = first[700].error
        assert isinstance(error, qm.InvalidRequest)
        assert error.code == "unknown_sku"
        again = await client.allocate_batch(orders, idempotency_keys=[result.idempotency_key for result in first])
        assert all(result.replayed for result in again if result.ok)
        assert [r.allocation.allocation_id for r in again if r.allocation] == [
            r.allocation.allocation_id for r in first if r.allocation
        ]


async def test_a_connection_cut_after_the_request_arrived_gets_the_first_answer(
    gateway: tuple[GatewayEngine, str],
) -> None:
    """The order is taken, the answer is lost on the way: the retry brings that same answer, and one order is there."""
    engine, url = gateway
    attempts: list[qm.Attempt] = []
    async with (
        CuttingProxy(url) as proxy,
        qm.AsyncClient(proxy.url, engine.admin, observer=attempts.append) as client,
    ):
        proxy.cut_answers = 1
        made = await client.allocate(an_order("CUT-1", 2))
        assert [attempt.status for attempt in attempts] == [None, 201]
        assert attempts[-1].replayed
        assert proxy.cut == 1
        assert (await client.availability("SKU-0", after=made.token)).units("SKU-0") == 398


async def test_a_connection_cut_inside_an_answer_is_no_answer(gateway: tuple[GatewayEngine, str]) -> None:
    engine, url = gateway
    attempts: list[qm.Attempt] = []
    async with (
        CuttingProxy(url) as proxy,
        qm.AsyncClient(proxy.url, engine.admin, observer=attempts.append) as client,
    ):
        proxy.cut_answers, proxy.let_through_bytes = 1, 200
        held = await client.reserve(an_order("CUT-2"))
        assert held.state == "held"
        assert attempts[-1].replayed


async def test_a_commit_token_of_the_future_ends_as_unavailable_after_its_waits(
    gateway: tuple[GatewayEngine, str],
) -> None:
    engine, url = gateway
    retry = qm.RetryPolicy(attempts=2, base_s=0.01, deadline_s=10)
    async with qm.AsyncClient(url, engine.admin, retry=retry) as client:
        now = (await client.availability("SKU-0")).as_of
        ahead = ";".join(f"{state.shard}:{state.epoch}:{state.seq + 1_000}" for state in now)
        with pytest.raises(qm.Unavailable) as caught:
            await client.allocate(an_order("T-1"), after=ahead)
        assert caught.value.code == "view_behind"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(tmp_path_factory.mktemp("client") / "data", shards=1).start()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def web_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine that sells what the example puts there, and nothing else."""
    engine = Engine(tmp_path_factory.mktemp("web_shop") / "data", shards=1).start()
    try:
        said = run_example(engine, "web_shop.py")
        assert "SKU-2 at NYC: 20 on hand" in said
        yield engine
    finally:
        engine.stop()


def run_example(engine: Engine, name: str, *arguments: str) -> str:
    """What an example printed, with the engine's admin key."""
    environment = {**os.environ, "QM_URL": engine.url, "QM_API_KEY": engine.facts["key"]}
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(1_800)
async def test_a_gateway_killed_under_traffic_loses_and_doubles_nothing(running: Engine) -> None:
    """kill -9 of the gateway while orders are in flight: each call ends well, and stock says each was taken once."""
    async with qm.AsyncClient(
        running.url,
        running.facts["key"],
        retry=qm.RetryPolicy(attempts=40, deadline_s=90),
        budget=qm.RetryBudget(capacity=10_000),
    ) as client:
        with running.client() as plain:
            set_up_network(plain)
        await client.put_item(qm.Item(sku="SKU-0", weight_g=500))
        await client.adjust("NYC", "SKU-0", "received", 1_000)

        done: list[str] = []

        async def shopper(name: int) -> None:
            for n in range(25):
                made = await client.allocate(an_order(f"K-{name}-{n}"))
                done.append(made.allocation_id)

        shoppers = [asyncio.create_task(shopper(name)) for name in range(8)]
        await eventually(lambda: len(done) >= 20)
        gateway = next(pid for name, pid in running.pids.items() if name.startswith("gateway"))
        os.kill(gateway, signal.SIGKILL)
        await asyncio.gather(*shoppers)
        assert len(set(done)) == 200
        assert (await client.availability("SKU-0")).units("SKU-0") == 800
        decision = (await client.get_allocation(done[0])).decision_id
        assert "NYC" in (await client.get_decision(decision)).sentence
        assert (await client.ready()).status == "ready"


PYTHON = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["docs/how-to/embed-in-a-storefront.md", "clients/python/README.md"])
@pytest.mark.timeout(1_800)
def test_the_snippets_of_the_documentation_run(web_shop: Engine, tmp_path: Path, page: str) -> None:
    """All of a page as one program, against the shop that the page asks for."""
    blocks = PYTHON.findall((ROOT / page).read_text())
    program = tmp_path / "page.py"
    program.write_text("\n\n".join(blocks).replace("WEB-", f"{tmp_path.name}-").replace("checkout-7f3a", tmp_path.name))
    environment = {**os.environ, "QM_URL": web_shop.url, "QM_API_KEY": web_shop.facts["key"]}
    if "QM_BUYERS_KEY" in program.read_text():  # with the keys that the page names, not with one that may do all
        text = (ROOT / page).read_text()
        for variable, pattern in (
            ("QM_API_KEY", r"^quartermaster (keys add storefront [^`]*?)\n```"),
            ("QM_BUYERS_KEY", r"`quartermaster (keys add buyers [^`]*?)`"),
        ):
            (asked,) = re.findall(pattern, text, re.M)
            code, said = command(web_shop, *asked.replace("\\\n", " ").split(), "--json")
            assert code == 0, said
            environment[variable] = json.loads(said)["token"]
    run = subprocess.run(
        [sys.executable, "-W", "error", program],
        capture_output=True,
        text=True,
        env=environment,
        timeout=200,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    assert len(blocks) >= 2
    assert " for $" in run.stdout, "the decision is told in a sentence"


def test_the_example_shop_put_in_again_changes_nothing(web_shop: Engine) -> None:
    with qm.Client(web_shop.url, web_shop.facts["key"]) as client:
        before = client.get_item("SKU-2")
        stale = client.get_item("SKU-1")
        client.put_item(qm.Item(sku="SKU-1", weight_g=700), if_version=stale.version)
        said = run_example(web_shop, "web_shop.py").splitlines()
        assert said == [
            "channel web: in place",
            "carrier acme: in place",
            "item SKU-1: another one is there, left as it is",
            "item SKU-2: in place",
            "node NYC: in place",
            "shelf of NYC: counted already",
        ]
        assert client.get_item("SKU-2") == before
        assert client.get_item("SKU-1").document.weight_g == 700


@pytest.mark.timeout(1_800)
def test_the_patience_that_the_page_advises_outlasts_a_restart_of_everything(web_shop: Engine) -> None:
    """kill -9 of every process between a hold and its commit: one call of a worker, and the hold is an allocation."""
    page = (ROOT / "docs/how-to/embed-in-a-storefront.md").read_text()
    ((attempts, deadline_s),) = re.findall(r"`retry=qm\.RetryPolicy\(attempts=(\d+), deadline_s=(\d+)\)`", page)
    patience = qm.RetryPolicy(attempts=int(attempts), deadline_s=float(deadline_s))
    told: list[qm.Attempt] = []
    with (
        qm.Client(web_shop.url, web_shop.facts["key"], retry=patience, observer=told.append) as worker,
        ThreadPoolExecutor(1) as thread,
    ):
        order = an_order("R-1")
        order.lines[0].sku = "SKU-1"
        held = worker.reserve(order, ttl_s=600)
        web_shop.port = int(web_shop.url.rpartition(":")[2])
        web_shop.kill_everything()
        told.clear()
        commit = thread.submit(worker.commit, held.reservation_id, idempotency_key="restart-commit")
        web_shop.start()
        assert commit.result(float(deadline_s) + 30).state == "allocated"
        assert len(told) > qm.RetryPolicy().attempts, "the default patience would have ended"
        worker.commit(held.reservation_id, idempotency_key="restart-commit")
        assert told[-1].replayed


@pytest.mark.timeout(1_800)
def test_the_example_checkout_sells_and_a_second_run_of_it_changes_nothing(running: Engine) -> None:
    with running.client() as client:
        if client.get("/v1/items/SKU-1").status_code == 404:
            set_up_network(client)

    def run() -> tuple[str, int]:
        said = run_example(running, "checkout.py", "--shoppers=30", "--run=example")
        with running.client() as client:
            answer = client.get("/v1/availability?sku=SKU-1&sku=SKU-2&sku=SKU-3").json()
        return said.splitlines()[-2], sum(row["available_to_promise"] for row in answer["totals"])

    said, left = run()
    assert re.search(r"\d+ bought", said)
    assert run() == (said, left)
