"""Stock files of other systems into a real gateway: compared, set, counted as of their instant, refused by line, dry first."""

from __future__ import annotations

import asyncio
import csv
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from engine.cli.formats.commerce import SHOPIFY_COLUMNS, SetRow
from engine.cli.formats.table import BadRow
from engine.cli.imports import app
from engine.cli.stock_uploads import StockUploader
from engine.cli.uploads import Outcome, Uploader
from gateway.jobs import imports
from tests.builders import a_network, a_node, an_item
from tests.conftest import eventually
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed

SKUS = ("PAN-24", "PAN-28", "LID-28", "24-MB01", "24-MB04")


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[GatewayEngine]:
    nodes = [
        a_node("NJ-1", name="Newark Warehouse", postal_code="07101"),
        a_node("CHI", name="Chicago, Wabash Ave", postal_code="60606", offers=("pickup",)),
        a_node("OFF", name="Closed", postal_code="10001", state="off"),
        a_node("DRAIN", name="Closing", postal_code="10001", state="drain"),
        a_node("LOCKER", name="Nothing by itself", postal_code="10001", offers=()),
    ]
    made = await GatewayEngine(tmp_path, shards=2).start(
        a_network(nodes=nodes, items=[an_item(sku, weight_g=900) for sku in SKUS], shards=2)
    )
    yield made
    await made.close()


async def run(engine: GatewayEngine, *arguments: str) -> Result:
    """The command in a thread, against the gateway on a port of its own."""
    async with engine.served() as url:
        words = [*arguments, "--url", url, "--key", engine.admin]
        return await asyncio.to_thread(CliRunner().invoke, app, words)


async def on_hand(engine: GatewayEngine, node_id: str, sku: str) -> int:
    answer = (await engine.client.get(f"/v1/availability?sku={sku}&node_id={node_id}&consistency=strict")).json()
    return sum(row["on_hand"] for row in answer["data"])


def shopify(path: Path, *rows: tuple[str, str, Any, Any]) -> Path:
    """A file of (SKU, location, on hand that was seen, on hand that is wanted)."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(SHOPIFY_COLUMNS)
        for sku, place, seen, wanted in rows:
            row: list[Any] = [sku.lower(), sku, *[""] * 6, sku, "732393", "DE", place, "", 0, 0, 0, seen, seen, wanted]
            writer.writerow(row)
    return path


async def test_shopifys_rows_are_set_only_where_what_they_saw_is_still_true(
    engine: GatewayEngine, tmp_path: Path
) -> None:
    for node_id, sku, units in (("NJ-1", "PAN-24", 10), ("CHI", "PAN-24", 3), ("NJ-1", "LID-28", 7)):
        await engine.stock_up(node_id, sku, units)
    path = shopify(
        tmp_path / "inventory_export.csv",
        ("PAN-24", "Newark Warehouse", 10, 12),
        ("PAN-24", "Chicago, Wabash Ave", 3, 0),
        ("PAN-28", "newark warehouse", "not stocked", 25),
        ("LID-28", "Newark Warehouse", 9, 20),
        ("LID-28", "Paris", 0, 1),
        ("LID-28", "Closed", 0, 1),
        ("NO-SUCH", "Newark Warehouse", 0, 1),
        ("LID-28", "Newark Warehouse", 7, 7),
    )
    report = tmp_path / "report.csv"
    dry = await run(engine, "stock", str(path), "--dry-run", "--report", str(report))
    assert dry.exit_code == 1, dry.output
    assert "4 positions would change (+28 and -3 units)" in dry.output
    assert await on_hand(engine, "NJ-1", "PAN-24") == 10, "a dry run changes nothing"

    real = await run(engine, "stock", str(path), "--report", str(report))
    assert real.exit_code == 1
    assert "4 positions changed (+28 and -3 units), 0 are so already" in real.output
    assert "4 positions taken, 3 rows refused" in real.output
    assert [await on_hand(engine, "NJ-1", sku) for sku in ("PAN-24", "PAN-28", "LID-28")] == [12, 25, 7]
    assert await on_hand(engine, "CHI", "PAN-24") == 0
    assert await on_hand(engine, "OFF", "LID-28") == 1
    with report.open() as file:
        rows = {int(row["line"]): row for row in csv.DictReader(file)}
    assert {line: row["code"] for line, row in rows.items()} == {
        5: "changed",
        6: "unknown_place",
        8: "unknown_sku",
    }
    assert "saw 9, there are 7" in rows[5]["detail"]
    assert "--node 'Paris=NODE'" in rows[6]["detail"]

    again = await run(engine, "stock", str(path), "--node", "Paris=CHI")
    assert "1 positions changed (+1 and -0 units), 4 are so already" in again.output
    assert await on_hand(engine, "CHI", "LID-28") == 1


async def test_a_row_that_can_not_be_booked_keeps_none_of_the_others(engine: GatewayEngine, tmp_path: Path) -> None:
    """A kit has no units of its own, whatever its components make; what a supplier has is not counted."""
    await engine.put(an_item("SET", components={"PAN-24": 1}))
    drop_ship = [{"sku": "24-MB01", "supply": "uncounted", "daily_cap_units": 5}]
    put = await engine.client.put("/v1/inventory/positions", json={"node_id": "NJ-1", "positions": drop_ship})
    assert put.status_code == 200, put.text
    await engine.stock_up("NJ-1", "PAN-24", 4)
    place = "Newark Warehouse"
    rows = (
        ("PAN-24", place, 4, 6),
        ("SET", place, 4, 9),
        ("24-MB01", place, 5, 8),
        ("LID-28", place, "not stocked", 3),
    )
    report = tmp_path / "report.csv"
    done = await run(engine, "stock", str(shopify(tmp_path / "set.csv", *rows)), "--report", str(report))
    assert "2 positions taken, 2 rows refused" in done.output, done.output
    assert [await on_hand(engine, "NJ-1", sku) for sku in ("PAN-24", "LID-28")] == [6, 3]
    with report.open() as file:
        refused = {row["line"]: row["code"] for row in csv.DictReader(file)}
    assert refused == {"3": "kit", "4": "refused"}


@pytest.mark.parametrize("node_id", ["OFF", "DRAIN", "LOCKER"])
async def test_stock_that_is_not_for_sale_is_compared_like_any_other(
    engine: GatewayEngine, tmp_path: Path, node_id: str
) -> None:
    for sku, units in (("PAN-24", 10), ("PAN-28", 4), ("LID-28", 7)):
        await engine.stock_up(node_id, sku, units)
    path = shopify(
        tmp_path / "new.csv",
        ("PAN-24", node_id, 10, 12),
        ("PAN-28", node_id, "not stocked", 25),
        ("LID-28", node_id, 7, 6),
    )
    taken = await run(engine, "stock", str(path))
    assert "2 positions changed (+2 and -1 units), 0 are so already" in taken.output
    assert "the file saw 0, there are 4 by now" in taken.output.replace("\n", " ")
    old = tmp_path / "old.csv"
    old.write_text(f"Handle,SKU,Location,On hand\npan,PAN-24,{node_id},12\npan,PAN-28,{node_id},4\n")
    for _ in range(2):
        again = await run(engine, "stock", str(old))
        assert "0 positions changed (+0 and -0 units), 2 are so already" in again.output
    assert [await on_hand(engine, node_id, sku) for sku in ("PAN-24", "PAN-28", "LID-28")] == [12, 4, 6]


def after_each_look(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Something that happens before the booking."""
    look = StockUploader.on_hand

    def looked(stocks: StockUploader, node_id: str, skus: Iterable[str]) -> dict[str, int]:
        found = look(stocks, node_id, skus)
        happens()
        return found

    monkeypatch.setattr(StockUploader, "on_hand", looked)


async def set_units(engine: GatewayEngine, rows: list[SetRow | BadRow]) -> Outcome:
    async with engine.served() as url:
        up = Uploader(url, engine.admin)
        try:
            await asyncio.to_thread(lambda: StockUploader(up, {}, dry_run=False).set_units(rows))
        finally:
            up.close()
    return up.outcome


async def test_what_moves_between_the_look_and_the_booking_is_seen_by_the_shard(
    engine: GatewayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of a call that still hold are booked, one that does not is left alone, one that compares nothing is set."""
    for sku in ("PAN-24", "PAN-28", "LID-28"):
        await engine.stock_up("NJ-1", sku, 10)
    loop = asyncio.get_running_loop()

    def arrive() -> None:
        for sku in ("PAN-28", "LID-28"):
            asyncio.run_coroutine_threadsafe(engine.stock_up("NJ-1", sku, 5), loop).result(10)

    after_each_look(monkeypatch, arrive)
    rows: list[SetRow | BadRow] = [
        SetRow(2, "NJ-1", "PAN-24", 10, 12),
        SetRow(3, "NJ-1", "PAN-28", 10, 12),
        SetRow(4, "NJ-1", "LID-28", None, 12),
        SetRow(5, "NJ-1", "LID-28", 12, 13),
    ]
    outcome = await set_units(engine, rows)
    assert (outcome.taken, outcome.codes) == (3, {"changed": 1})
    assert "PAN-28 at NJ-1: the file saw 10, there are 15 by now" in outcome.errors[0].detail
    assert [await on_hand(engine, "NJ-1", sku) for sku in ("PAN-24", "PAN-28", "LID-28")] == [12, 15, 13]


async def test_a_file_that_is_imported_twice_at_once_is_booked_once(
    engine: GatewayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.stock_up("NJ-1", "PAN-24", 10)
    both_looked = threading.Barrier(2, timeout=10)
    rows: list[SetRow | BadRow] = [SetRow(2, "NJ-1", "PAN-24", 10, 12), SetRow(3, "NJ-1", "PAN-28", None, 4)]
    after_each_look(monkeypatch, both_looked.wait)
    outcomes = await asyncio.gather(set_units(engine, rows), set_units(engine, rows))
    assert [outcome.taken for outcome in outcomes] == [2, 2]
    assert [await on_hand(engine, "NJ-1", sku) for sku in ("PAN-24", "PAN-28")] == [12, 4]


async def test_magentos_sources_become_nodes_and_status_0_sells_nothing(engine: GatewayEngine) -> None:
    await engine.stock_up("NJ-1", "24-MB04", 9)
    path = Path(__file__).parents[1] / "unit" / "files" / "stock_sources.csv"
    dry = await run(engine, "stock", str(path), "--node", "default=NJ-1", "--node", "nj_warehouse=CHI", "--dry-run")
    assert "3 positions would change (+112 and -9 units)" in dry.output
    real = await run(engine, "stock", str(path), "--node", "default=NJ-1", "--node", "nj_warehouse=CHI")
    assert real.exit_code == 1
    assert "3 positions taken, 4 rows refused" in real.output
    assert "line 5: quantity is '2.5000'" in real.output
    assert await on_hand(engine, "NJ-1", "24-MB01") == 100
    assert await on_hand(engine, "NJ-1", "24-MB04") == 0
    assert await on_hand(engine, "CHI", "24-MB01") == 12
    unmapped = await run(engine, "stock", str(path))
    assert "no node is called 'default'" in unmapped.output.replace("\n", "")


async def test_a_count_of_an_hour_ago_keeps_what_was_booked_since(engine: GatewayEngine, tmp_path: Path) -> None:
    await engine.stock_up("NJ-1", "PAN-24", 10)
    counted_at = datetime.now(UTC)
    await eventually(
        lambda: datetime.now(UTC) > counted_at + timedelta(seconds=1), what="movements are kept by the second"
    )
    await engine.stock_up("NJ-1", "PAN-24", 5)
    body = an_order_body("A-1", sku="PAN-24", quantity=2)
    assert (await engine.client.post("/v1/allocations", json=body, headers=keyed("k"))).status_code == 201
    path = tmp_path / "wms.csv"
    path.write_text(
        "node_id,sku,quantity,as_of\n"
        f"NJ-1,PAN-24,8,{counted_at.isoformat()}\n"
        f"NJ-1,PAN-28,4,{(counted_at - timedelta(minutes=5)).isoformat()}\n"
        "NJ-1,LID-28,4,yesterday\n"
        "NJ-1,LID-28,4,2026-11-01T10:00:00\n"
    )
    taken = await run(engine, "stock", str(path), "--source", "wms")
    assert "line 4: as_of is 'yesterday'" in taken.output
    assert "line 5: as_of is '2026-11-01T10:00:00': say the offset" in taken.output.replace("\n", "")
    assert await on_hand(engine, "NJ-1", "PAN-24") == 13, "8 were there, 5 came after"

    late = tmp_path / "late.csv"
    late.write_text("node_id,sku,quantity\nNJ-1,PAN-24,1\n")
    old = (counted_at - timedelta(hours=1)).isoformat()
    refused = await run(engine, "stock", str(late), "--source", "wms", "--as-of", old)
    assert refused.exit_code == 1
    assert "stale_count" in refused.output
    assert await on_hand(engine, "NJ-1", "PAN-24") == 13


async def test_a_full_count_says_that_the_rest_is_gone(engine: GatewayEngine, tmp_path: Path) -> None:
    for sku in SKUS:
        await engine.stock_up("NJ-1", sku, 3)
        await engine.stock_up("CHI", sku, 3)
    path = tmp_path / "full.csv"
    path.write_text("node_id,sku,quantity\nNJ-1,PAN-24,2\nCHI,PAN-24,1\nNJ-1,PAN-28,2\n")
    taken = await run(engine, "stock", str(path), "--scope", "full")
    assert taken.exit_code == 0, taken.output
    assert [await on_hand(engine, "NJ-1", sku) for sku in SKUS] == [2, 2, 0, 0, 0]
    assert [await on_hand(engine, "CHI", sku) for sku in SKUS] == [1, 0, 0, 0, 0]


async def test_a_full_count_of_a_file_that_cannot_be_read_wholly_takes_nothing(
    engine: GatewayEngine, tmp_path: Path
) -> None:
    await engine.stock_up("NJ-1", "PAN-28", 3)
    path = tmp_path / "torn.csv"
    path.write_text("node_id,sku,quantity\nNJ-1,PAN-24,2\nNJ-1,PAN-28,three\n")
    refused = await run(engine, "stock", str(path), "--scope", "full")
    assert refused.exit_code == 1
    assert "needs every row" in refused.output
    assert await on_hand(engine, "NJ-1", "PAN-28") == 3


async def test_a_job_that_failed_is_tried_again_under_its_key(
    engine: GatewayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "RETRY_FOR_S", 0.0)
    runner = engine.stock[engine.cluster.shard_of_node("NJ-1")].runner
    headers = {**keyed("file-7"), "content-type": "application/x-ndjson"}

    async def send(units: int = 5) -> tuple[Any, str]:
        body = b'{"node_id": "NJ-1", "sku": "PAN-24", "quantity": %d}\n' % units
        answer = await engine.client.post("/v1/inventory/import", content=body, headers=headers)

        async def ended() -> str | None:
            state = (await engine.client.get(answer.headers["location"])).json()["state"]
            return state if state in ("done", "failed") else None

        return answer, await eventually(ended) if answer.status_code == 202 else ""

    runner.unfit = "the journal's server is not durable any more"
    assert (await send())[1] == "failed"
    runner.unfit = ""
    assert (await send(units=6))[0].json()["code"] == "key_reused"
    answer, state = await send()
    assert (state, "idempotent-replayed" in answer.headers) == ("done", False)
    assert await on_hand(engine, "NJ-1", "PAN-24") == 5
    again, _ = await send()
    assert (again.headers["location"], "idempotent-replayed" in again.headers) == (answer.headers["location"], True)


async def test_safety_of_a_file_leaves_trust_and_uncounted_supply_as_they_are(
    engine: GatewayEngine, tmp_path: Path
) -> None:
    settings = [
        {"sku": "PAN-24", "supply": "trusted", "trust_bp": 5_000},
        {"sku": "PAN-28", "supply": "uncounted", "daily_cap_units": 50},
    ]
    put = await engine.client.put("/v1/inventory/positions", json={"node_id": "NJ-1", "positions": settings})
    assert put.status_code == 200, put.text
    path = tmp_path / "stock.csv"
    path.write_text("node_id,sku,quantity,safety\nNJ-1,PAN-24,10,1\nNJ-1,PAN-28,10,1\n")
    taken = await run(engine, "stock", str(path))
    assert taken.exit_code == 0, taken.output
    answer = await engine.client.get("/v1/availability?sku=PAN-24&sku=PAN-28&node_id=NJ-1&consistency=strict")
    rows = [(row["supply"], row["safety"], row["available_to_promise"]) for row in answer.json()["data"]]
    assert rows == [("trusted", 1, 4), ("uncounted", 1, 50)]


async def test_a_dry_run_says_what_a_full_count_would_take(engine: GatewayEngine, tmp_path: Path) -> None:
    """It is decided as the count itself is: what the file leaves out, what came since, what a source said later."""
    for sku in SKUS:
        await engine.stock_up("NJ-1", sku, 3)
    await engine.stock_up("OFF", "PAN-24", 3)
    counted_at = datetime.now(UTC)
    await eventually(
        lambda: datetime.now(UTC) > counted_at + timedelta(seconds=1), what="movements are kept by the second"
    )
    await engine.stock_up("NJ-1", "PAN-28", 5)
    path = tmp_path / "full.csv"
    path.write_text("node_id,sku,quantity,safety\nNJ-1,PAN-24,2,1\nOFF,PAN-24,3,\nNJ-1,PAN-28,4,\nMARS,PAN-28,4,\n")
    words = ("stock", str(path), "--scope", "full", "--as-of", counted_at.isoformat(), "--source", "wms")
    dry = await run(engine, *words, "--dry-run")
    assert "5 positions would change (+1 and -10 units), 1 are so already" in dry.output
    assert "3 of them are not in the file" in dry.output
    assert "3 positions taken, 1 rows refused" in dry.output
    assert "no node 'MARS'" in dry.output.replace("\n", " ")
    assert [await on_hand(engine, "NJ-1", sku) for sku in SKUS] == [3, 8, 3, 3, 3], "a dry run changes nothing"

    taken = await run(engine, *words)
    assert "would change" not in taken.output
    assert [await on_hand(engine, "NJ-1", sku) for sku in SKUS] == [2, 9, 0, 0, 0]
    late = await run(engine, *words, "--dry-run")
    assert "0 positions would change" in late.output
    assert "stale_count" in late.output, "what the count would be refused for, its dry run is"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--node", "Newark"], "expected NAME=NODE"),
        (["--node", "default=MARS"], "there is no node MARS"),
        (["--scope", "all"], "expected delta, full or nonzero"),
        (["--as-of", "now"], "expected an instant"),
        (["--source-seq", "3"], "say --source too"),
    ],
)
async def test_options_that_make_no_sense_are_named(
    engine: GatewayEngine, tmp_path: Path, options: list[str], what: str
) -> None:
    path = tmp_path / "stock.csv"
    path.write_text("node_id,sku,quantity\nNJ-1,PAN-24,2\n")
    said = await run(engine, "stock", str(path), *options)
    assert said.exit_code in (2, 3)
    assert what in said.output.replace("\n", " ")
    assert await on_hand(engine, "NJ-1", "PAN-24") == 0
