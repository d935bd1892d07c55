"""The commands that people run beside an engine, as processes of their own against one that `up` started."""

from __future__ import annotations

import asyncio
import csv
import gzip
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from engine.cli.formats.commerce import SHOPIFY_COLUMNS
from loadtests.client import Client
from loadtests.loader import load_network
from loadtests.network import NetworkSpec, build_network
from tests.integration.engine_process import Engine

pytestmark = pytest.mark.timeout(1_800)
ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to" / "import.md"
SKUS = 60
FILES = {
    "items": "sku,name,weight_g,unit_value_minor\nA-1,Mug,400,1200\nA-2,Lamp,900,4500\nA-3,Bad,-4,1\n",
    "nodes": "node_id,postal_code\nWH-1,10001\nWH-2,90001\nWH-3,notazip\n",
    "stock": "node_id,sku,quantity\nWH-1,A-1,50\nWH-2,A-2,40\nWH-9,A-1,3\n",
    "orders": "order_id,sku,quantity,postal_code\nO-1,A-1,2,10001\nO-1,A-2,1,10001\nO-2,A-2,1,94110\nO-3,NOPE,1,94110\n",
}
TAKEN = {"items": 2, "nodes": 2, "stock": 2, "orders": 2}
INVOICES = """InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
536365,85123A,HANGING HEART,6,12/1/2010 8:26,2.55,17850,United Kingdom
536365,71053,WHITE LANTERN,6,12/1/2010 8:26,3.39,17850,United Kingdom
C536379,71053,WHITE LANTERN,-1,12/1/2010 9:41,3.39,14527,United Kingdom
536370,POST,POSTAGE,3,12/1/2010 8:45,18.00,12583,France
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    running = Engine(tmp_path_factory.mktemp("commands") / "data").start()
    try:
        network = build_network(NetworkSpec(seed=1, warehouses=2, stores=2, skus=SKUS))

        async def load() -> None:
            async with Client(running.url, running.facts["key"]) as client:
                await load_network(client, network)

        asyncio.run(load())
        yield running
    finally:
        running.stop()


def _run(engine: Engine, *command: str, **extra: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "QM_URL": engine.url, "QM_API_KEY": engine.facts["key"], **extra}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def _quartermaster(engine: Engine, *arguments: str) -> tuple[int, str]:
    done = _run(engine, "-c", "from engine.cli.main import main; main()", *arguments)
    return done.returncode, done.stdout + done.stderr


def test_files_become_an_order_that_can_be_explained(engine: Engine, tmp_path: Path) -> None:
    for what, text in FILES.items():
        (tmp_path / f"{what}.csv").write_text(text)
        code, said = _quartermaster(engine, "import", what, str(tmp_path / f"{what}.csv"))
        assert code == 1, said  # one row of each is wrong
        assert re.search(rf"{TAKEN[what]} \w+ taken, 1 rows refused", said), said
        assert re.search(r"line \d: .+", said), said
        assert what != "items" or "line 4: weight_g: expected a whole number >= 0" in said, said
    again, said = _quartermaster(engine, "import", "orders", str(tmp_path / "orders.csv"), "--allow-errors")
    assert again == 0 and "2 orders taken" in said, said

    with engine.client() as client:
        seen = client.get("/v1/availability", params={"sku": "A-1", "consistency": "strict"}).json()
        assert sum(position["allocated"] for position in seen["data"]) == 2, "sent twice, taken once"
    code, said = _quartermaster(engine, "status", f"--data-dir={engine.data_dir}")
    assert code == 0 and re.search(r"shard 0 +control", said) and "…" not in said, said
    code, said = _quartermaster(engine, "verify", f"--data-dir={engine.data_dir}")
    assert code == 0 and "drift 0" in said, said


def test_invoices_give_products_and_orders(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "invoices.csv"
    file.write_text(INVOICES)
    code, said = _quartermaster(engine, "import", "items", str(file))
    assert code == 0 and "items taken, 0 rows refused" in said, said
    code, said = _quartermaster(engine, "import", "orders", str(file), "--on-short", "park")
    assert code == 0 and "1 orders taken" in said and "read 1 orders" in said and "1 rows of charges" in said, said


def test_the_commands_of_the_how_to_do_what_it_says(engine: Engine, tmp_path: Path) -> None:
    """Every one of docs/how-to/import.md, in order, in a shell, on files as it describes them."""
    _how_to_files(tmp_path)
    commands = "\n".join(re.findall(r"^```sh\n(.*?)^```$", HOW_TO.read_text("utf-8"), re.M | re.S))
    assert commands.count("quartermaster import ") >= 10
    a_while_ago = datetime.now(UTC) - timedelta(minutes=1)
    commands = commands.replace("export QM_API_KEY=qm_...\n", "").replace(
        "2026-12-01T18:00:00Z", a_while_ago.strftime("%Y-%m-%dT%H:%M:%SZ")
    )
    path = f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "QM_URL": engine.url, "QM_API_KEY": engine.facts["key"]}
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", commands],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "1 positions would change (+5 and -0 units)" in said and "1 positions changed (+5 and -0 units)" in said, (
        said
    )
    assert (tmp_path / "refused.csv").read_text() == "line,code,detail\n"
    # The feed counted before the first file did: what is newer stands.
    with engine.client() as client:
        for sku, units in (("HT-1", {"WH-H": 20, "CHI": 5, "NJ-1": 4}), ("HT-2", {"WH-H": 7})):
            seen = client.get("/v1/availability", params={"sku": sku, "consistency": "strict"}).json()["data"]
            assert {at["node_id"]: at["on_hand"] for at in seen if at["on_hand"]} == units, (sku, seen)


def _how_to_files(folder: Path) -> None:
    columns = [*SHOPIFY_COLUMNS]
    shopify = dict.fromkeys(columns, "0") | {
        "Handle": "ht-1",
        "Title": "HT-1",
        "SKU": "HT-1",
        "Location": "Chicago, Wabash Ave",
        "On hand (current)": "0",
        "On hand (new)": "5",
    }
    with (folder / "inventory_export.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerow(shopify)
    files = {
        "items.csv": "sku,weight_g\nHT-1,400\nHT-2,900\n",
        "nodes.csv": "node_id,postal_code\nWH-H,10001\nCHI,60603\nNJ-1,07102\n",
        "stock.csv": "node_id,sku,quantity\nWH-H,HT-1,20\nWH-H,HT-2,7\n",
        "orders.csv": "order_id,sku,quantity,postal_code\nHT-O-1,HT-1,2,10001\n",
        "wms.csv": "node_id,sku,quantity\nWH-H,HT-1,30\n",
        "stock_sources.csv": "source_code,sku,status,quantity\ndefault,HT-1,1,4\ndefault,HT-2,0,9\n",
        "population.csv": "Zip Code ZCTA,2010 Census Population\n10001,5\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    invoices = INVOICES.replace("85123A", "HT-1").replace("71053", "HT-1").replace("536365", "HT-536365")
    with gzip.open(folder / "invoices.csv.gz", "wt") as zipped:
        zipped.write("\n".join(line for line in invoices.splitlines() if "LANTERN" not in line) + "\n")


def test_every_family_of_metrics_is_documented(engine: Engine) -> None:
    """What only a running engine states, too: its journal, snapshots, archive and clock."""
    with httpx.Client(base_url=engine.url, headers={"authorization": f"Bearer {engine.facts['key']}"}) as client:
        text = client.get("/metrics").raise_for_status().text
    help_of = dict(re.findall(r"^# HELP (quartermaster_\w+) (.+)$", text, re.M))
    assert len(help_of) > 60
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(quartermaster_\w+)` \|.* \| ([^|]+) \|$", page, re.M))
    assert {name: rows.get(name) for name in help_of} == help_of


def test_a_wrong_key_and_no_gateway_are_said_in_a_sentence(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    file.write_text(FILES["items"])
    for arguments in (("--key", "qm_no_no"), ("--url", "http://127.0.0.1:9")):
        code, said = _quartermaster(engine, "import", "items", str(file), *arguments)
        assert code == 3 and "Traceback" not in said and said.strip(), said


def test_the_locust_scenario_plays_the_storefront_mix_through_the_client(engine: Engine) -> None:
    """As its page says, but shorter: what is said twice is taken from the end."""
    page = (ROOT / "docs" / "how-to" / "load-test.md").read_text("utf-8")
    [told] = re.findall(r"^QM_API_KEY=\S+ \.venv/bin/locust (.*)$", page, re.M)
    shorter = ("--host", engine.url, "-u", "8", "-r", "8", "-t", "20s", "--only-summary")
    done = _run(engine, "-m", "locust", *told.split(), *shorter, QM_SKUS=str(SKUS))
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    rows = {
        f"{method} {route}": (int(requests), int(failures))
        for method, route, requests, failures in re.findall(r"^(GET|POST|DELETE) +(/\S+) +(\d+) +(\d+)\(", said, re.M)
    }
    total = re.search(r"^ +Aggregated +(\d+) +(\d+)\(", said, re.M)
    assert total is not None and int(total[1]) > 50 and int(total[2]) == 0, said
    for route in ("/v1/allocations", "/v1/reservations", "/v1/legs/{leg_id}/release", "/v1/legs/{leg_id}/ship"):
        assert rows.get(f"POST {route}", (0, 0))[0] > 0, said
    code, said = _quartermaster(engine, "verify", "--data-dir", str(engine.data_dir))
    assert code == 0 and "drift 0" in said, said
