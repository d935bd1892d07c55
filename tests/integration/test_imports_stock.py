"""Stock files of other systems into a real gateway: compared, set, counted as of their instant, refused by line, dry first."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from engine.cli.formats.commerce import SHOPIFY_COLUMNS
from engine.cli.imports import app
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
    found: dict[str, int] = {}
    for method in ("ship", "pickup"):
        answer = (await engine.client.get(f"/v1/availability?sku={sku}&method={method}&consistency=strict")).json()
        found |= {row["node_id"]: row["on_hand"] for row in answer["data"]}
    return found.get(node_id, 0)


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
    assert "3 positions would change (+27 and -3 units)" in dry.output
    assert await on_hand(engine, "NJ-1", "PAN-24") == 10, "a dry run changes nothing"

    real = await run(engine, "stock", str(path), "--report", str(report))
    assert real.exit_code == 1
    assert "3 positions changed (+27 and -3 units), 0 are so already" in real.output
    assert "3 positions taken, 4 rows refused" in real.output
    assert [await on_hand(engine, "NJ-1", sku) for sku in ("PAN-24", "PAN-28", "LID-28")] == [12, 25, 7]
    assert await on_hand(engine, "CHI", "PAN-24") == 0
    with report.open() as file:
        rows = {int(row["line"]): row for row in csv.DictReader(file)}
    assert {line: row["code"] for line, row in rows.items()} == {
        5: "changed",
        6: "unknown_place",
        7: "node_off",
        8: "unknown_sku",
    }
    assert "saw 9, there are 7" in rows[5]["detail"]
    assert "--node 'Paris=NODE'" in rows[6]["detail"]

    again = await run(engine, "stock", str(path), "--node", "Paris=CHI")
    assert "1 positions changed (+1 and -0 units), 3 are so already" in again.output
    assert await on_hand(engine, "CHI", "LID-28") == 1


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
