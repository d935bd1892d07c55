"""The example storefront and back office as people run them: commands in a terminal, against a real gateway."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.engine_process import Engine
from tests.integration.network_over_http import put, set_up_network

EXAMPLES = Path(__file__).parents[2] / "examples"


pytestmark = pytest.mark.timeout(1_800)


class Shop:
    """Runs the examples in a folder of their own."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._environment = {**os.environ, "QM_URL": engine.url, "QM_API_KEY": engine.facts["key"]}
        self._folder = folder

    def run(self, example: str, *arguments: str, code: int = 0) -> str:
        """What it printed; it must end with this code."""
        done = subprocess.run(
            [sys.executable, "-W", "error", EXAMPLES / example, *arguments],
            env=self._environment,
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(tmp_path_factory.mktemp("examples") / "data", shards=1).start()
    try:
        with engine.client() as client:
            set_up_network(client, units=10)
        yield engine
    finally:
        engine.stop()


@pytest.fixture
def shop(running: Engine, tmp_path: Path) -> Shop:
    return Shop(running, tmp_path)


def test_a_customer_looks_buys_edits_tracks_and_cancels(shop: Shop) -> None:
    assert shop.run("storefront.py", "stock", "SKU-1", "SKU-2") == "SKU-1: 40 left\nSKU-2: 40 left\n"

    bought = shop.run("storefront.py", "buy", "SKU-1=2", "--to", "10001")
    assert re.search(r"^WEB-1: held until [\d:]+, delivered by \w+ \d+ \w+$", bought, re.M), bought
    assert re.search(r"^  allocated  2 x SKU-1 from \w+, at the door by ", bought, re.M), bought
    assert " for $" in bought, "the decision is told in a sentence"
    again = shop.run("storefront.py", "buy", "SKU-1=2", "--to", "10001", "--order-id", "WEB-1")
    assert again.splitlines() == bought.splitlines()[1:], "the same checkout, the same order, nothing held anew"

    quoted = shop.run("storefront.py", "quote", "SKU-1=2", "SKU-2", "--to", "10001")
    option = re.search(
        r"^(\S+): standard, at the door by (\w+ \d+ \w+), \d+\.\d\d to ship, 1 parcels cheapest", quoted, re.M
    )
    quote = re.search(r"^valid until [\d:]+: (\S+)$", quoted, re.M)
    assert option is not None and quote is not None, quoted
    kept = ("--quote", quote[1], "--option", option[1])
    bought = shop.run("storefront.py", "buy", "SKU-1=2", "SKU-2", "--to", "10001", *kept)
    assert f"delivered by {option[2]}" in bought, "the promise that was quoted"
    assert "WEB-2: cancelled" in shop.run("storefront.py", "cancel", "WEB-2")

    edited = shop.run("storefront.py", "edit", "WEB-1", "--to", "60601", "--line", "1=3")
    assert "cancelled" not in edited, "what was planned before is not shown"
    assert "3 x SKU-1" in edited and re.search(r"^[+-]\d+\.\d\d to ship; 0 parcels", edited, re.M), edited
    short = shop.run("storefront.py", "edit", "WEB-1", "--line", "1=41", code=1)
    assert "of SKU-1 left, 41 wanted" in short, short
    assert "3 x SKU-1" in shop.run("storefront.py", "track", "WEB-1"), "it is as it was"

    assert "WEB-1: cancelled" in shop.run("storefront.py", "cancel", "WEB-1")
    declined = shop.run("storefront.py", "buy", "SKU-1=7", "--to", "90001", "--decline")
    assert "WEB-3: the payment was declined" in declined
    assert shop.run("storefront.py", "stock", "SKU-1", "SKU-2") == "SKU-1: 40 left\nSKU-2: 40 left\n", (
        "nothing is held any more"
    )
    refused = shop.run("storefront.py", "buy", "SKU-1=41", "--to", "10001", code=1)
    assert refused == "only 40 of SKU-1 left, 41 wanted\n"
    assert "WEB-3 was not bought" in shop.run("storefront.py", "track", "WEB-3", code=1)
    assert "say what to change" in shop.run("storefront.py", "edit", "WEB-1", code=1)
    assert "there is no order WEB-9: " in shop.run("storefront.py", "track", "WEB-9", code=1)


def test_a_back_office_counts_ships_rejects_and_sees_what_waits(running: Engine, shop: Shop, tmp_path: Path) -> None:
    with running.client() as client:
        put(client, "/v1/items/SKU-9", {"sku": "SKU-9", "weight_g": 500})
    shelf = tmp_path / "shelf.csv"
    shelf.write_text("node_id,sku,quantity\nLAX,SKU-9,5\nLAX,NO-SUCH,1\n")
    first = shop.run("back_office.py", "counts", "shelf.csv", code=1)
    assert "1 counts taken, 1 refused, as of " in first and "line 3: no item 'NO-SUCH'" in first, first
    assert shop.run("back_office.py", "counts", "shelf.csv", code=1) == first
    assert shop.run("storefront.py", "stock", "SKU-9") == "SKU-9: 5 left\n"

    for _ in range(2):
        shop.run("storefront.py", "buy", "SKU-9", "--to", "10001")
    work = shop.run("back_office.py", "work", "LAX")
    legs = re.findall(r"^(leg_\S+)  allocated .* 1 x SKU-9$", work, re.M)
    assert len(legs) == 2 and "2 legs to ship at LAX" in work, work
    shipped = shop.run("back_office.py", "ship", "LAX", "--most", "1")
    assert f"{legs[0]}: shipped as TRACK-" in shipped and "1 legs shipped" in shipped, shipped
    tracked = shop.run("storefront.py", "track", "WEB-1") + shop.run("storefront.py", "track", "WEB-2")
    assert len(re.findall(r"^  shipped .*TRACK-\w+$", tracked, re.M)) == 1, tracked

    rejected = shop.run("back_office.py", "reject", legs[1], "--reason", "empty shelf", "--phantom")
    assert "rejected; nobody yet, it waits for stock" in rejected, rejected
    waiting = shop.run("back_office.py", "waiting")
    assert re.search(r"^\S+  1 x SKU-9 for WEB-\S+, 0 ahead$", waiting, re.M) and "1 lines wait" in waiting, waiting
    assert "0 legs to ship at LAX" in shop.run("back_office.py", "work", "LAX")
    shelf.write_text("node_id,sku,quantity\nCHI,SKU-9,5\n")
    shop.run("back_office.py", "counts", "shelf.csv")
    deadline_s = time.monotonic() + 120
    while "0 lines wait" not in shop.run("back_office.py", "waiting"):
        assert time.monotonic() < deadline_s, "it has stock now, and is not served"
        time.sleep(0.1)


@pytest.mark.parametrize("example", ["storefront.py", "back_office.py", "checkout.py"])
def test_every_example_says_how_it_is_used(shop: Shop, example: str) -> None:
    said = shop.run(example, "--help")
    assert "QM_URL=" in said and "QM_API_KEY=" in said, said


@pytest.mark.parametrize("step", [["storefront.py", "stock", "X"], ["back_office.py", "waiting"], ["checkout.py"]])
def test_an_example_without_an_engine_says_what_it_needs(tmp_path: Path, step: list[str]) -> None:
    bare = {name: value for name, value in os.environ.items() if name not in ("QM_URL", "QM_API_KEY")}
    done = subprocess.run(
        [sys.executable, EXAMPLES / step[0], *step[1:]],
        env=bare,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2
    assert "set QM_URL and QM_API_KEY" in done.stderr
