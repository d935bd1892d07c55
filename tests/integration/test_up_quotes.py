"""Quotes on real processes: several shards, two gateways, a restart and a restore, all reading each other's ids."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.engine_process import Engine, command
from tests.integration.network_over_http import NODES, fresh, order, patiently, post, put, receive, set_up_network

pytestmark = pytest.mark.timeout(1_800)


def set_up(client: httpx.Client) -> None:
    """The network of the tests, with one midnight everywhere, and a second service level by air: one day anywhere."""
    set_up_network(client, units=20)
    for node_id in NODES:
        node = client.get(f"/v1/nodes/{node_id}").json()
        changed = {**node, "time_zone": "UTC", "cut_off": "23:59"}
        answer = client.put(f"/v1/nodes/{node_id}", json=changed, headers={"if-match": "*"})
        assert answer.status_code == 200, answer.text
    card = {"break_g": [30_000], "price_minor": [[2_400], [3_600]]}
    air = {
        "service_id": "air",
        "levels": ["express"],
        "band_km": [1_000, 6_000],
        "transit_days": [1, 1],
        "cards": [card],
    }
    put(client, "/v1/carriers/wings", {"carrier_id": "wings", "services": [air]})


@pytest.fixture(scope="module", params=[1, 2])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(tmp_path_factory.mktemp("quotes") / "data", shards=request.param, gateways=2).start()
    with engine.client() as client:
        set_up(client)
    yield engine
    assert engine.stop() == 0


@pytest.fixture(autouse=True)
def one_day() -> None:
    """A quote made before the cut-off and spent after it has changed: these tests are about other changes."""
    left_s = 86_340 - time.time() % 86_400
    if -60 <= left_s < 60:
        time.sleep(left_s + 61)


def scarce(client: httpx.Client, where: dict[str, int]) -> tuple[str, str]:
    """(a fresh SKU with units at the given nodes only, a token that contains all of them)."""
    sku = fresh("S")
    put(client, f"/v1/items/{sku}", {"sku": sku, "weight_g": 500, "unit_value_minor": 2_500})
    return sku, ",".join([receive(client, node_id, sku, units)["token"] for node_id, units in where.items()])


def quote(client: httpx.Client, body: dict[str, Any], *, after: str = "") -> dict[str, Any]:
    answer = patiently(lambda: client.post("/v1/quotes", json=body, headers={"x-qm-after": after} if after else {}))
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def test_options_by_service_are_marked_and_taken_up_at_the_other_gateway(engine: Engine) -> None:
    with engine.client(0) as here, engine.client(1) as there:
        body = order({"SKU-1": 1, "SKU-2": 1}, near="LAX")
        shown = quote(here, body)
        by_id = {option["option_id"]: option for option in shown["options"]}
        assert list(by_id) == ["standard", "express"]
        assert (by_id["standard"]["cheapest"], by_id["express"]["cheapest"]) == (True, False)
        assert by_id["standard"]["cost_minor"] < by_id["express"]["cost_minor"]
        for n, (option_id, option) in enumerate(by_id.items()):
            path = ("/v1/allocations", "/v1/reservations")[n % 2]
            spent = {**body, "order_id": fresh("Q"), "quote_id": shown["quote_id"], "quote_option": option_id}
            made = post(there, path, spent)
            assert made.status_code == 201, made.text
            answer = made.json()
            assert answer["promise"] == {"ship_by": option["ship_by"], "deliver_by": option["deliver_by"]}
            assert answer["cost_minor"] == option["cost_minor"]


def test_a_date_that_cannot_be_kept_is_refused_with_both_and_express_keeps_it(engine: Engine) -> None:
    with engine.client() as client:
        sku, token = scarce(client, {"LAX": 5, "NYC": 1})
        body = order({sku: 1}, near="NYC")
        shown = quote(client, body, after=token)
        standard, express = (
            next(o for o in shown["options"] if o["option_id"] == name) for name in ("standard", "express")
        )
        assert [leg["node_id"] for leg in standard["legs"]] == ["NYC"]
        gone = client.post(
            "/v1/inventory/adjustments",
            json={"node_id": "NYC", "sku": sku, "kind": "damaged", "quantity": 1},
            headers={"idempotency-key": fresh("adj")},
        )
        after = gone.json()["token"]
        headers = {"idempotency-key": fresh("key"), "x-qm-after": after}
        spent = {**body, "quote_id": shown["quote_id"], "quote_option": "standard"}
        refused = patiently(lambda: client.post("/v1/allocations", json=spent, headers=headers))
        problem = refused.json()
        assert (refused.status_code, problem["code"]) == (409, "quote_changed"), refused.text
        (error,) = problem["errors"]
        assert error["quoted"]["deliver_by"] == standard["deliver_by"] < error["offered"]["deliver_by"]
        assert error["quoted"]["cost_minor"] == standard["cost_minor"] < error["offered"]["cost_minor"]
        left = client.get("/v1/availability", params={"sku": sku, "consistency": "strict"}).json()["totals"][0][
            "available_to_promise"
        ]
        assert left == 5
        headers = {"idempotency-key": fresh("key"), "x-qm-after": after}
        taken = {**body, "quote_id": shown["quote_id"], "quote_option": "express"}
        kept = patiently(lambda: client.post("/v1/allocations", json=taken, headers=headers))
        assert kept.status_code == 201, kept.text
        assert kept.json()["promise"]["deliver_by"] <= express["deliver_by"]
        assert [leg["node_id"] for leg in kept.json()["legs"]] == ["LAX"]


def test_an_order_over_shards_keeps_its_quote(engine: Engine) -> None:
    with engine.client() as client:
        sku, token = scarce(client, {"NYC": 2, "ATL": 2, "CHI": 2, "LAX": 2})
        body = order({sku: 8}, near="CHI", max_legs=4)
        shown = quote(client, body, after=token)
        best = next(option for option in shown["options"] if option["best"])
        assert len(best["legs"]) == 4
        made = post(client, "/v1/allocations", {**body, "quote_id": shown["quote_id"]})
        assert made.status_code == 201, made.text
        assert made.json()["promise"]["deliver_by"] == best["deliver_by"]
        again = post(client, "/v1/allocations", {**body, "order_id": fresh("Q"), "quote_id": shown["quote_id"]})
        assert (again.status_code, again.json()["code"]) == (409, "quote_changed")


@pytest.mark.timeout(1_800)  # three starts of a whole engine
def test_a_quote_lives_through_kill_restart_and_restore(engine: Engine, tmp_path: Path) -> None:
    """And the restored books are right with quotes in them."""
    with engine.client() as client:
        body = order({"SKU-3": 1}, near="ATL")
        quote_id = quote(client, {**body, "ttl_s": 900})["quote_id"]
    exported = tmp_path / "backup.tar"
    code, said = command(engine, "export", "--all", str(exported))
    assert code == 0, said
    engine.kill_everything()
    engine.start()
    with engine.client() as client:
        made = post(client, "/v1/allocations", {**body, "quote_id": quote_id})
        assert made.status_code == 201, made.text
    data = tmp_path / "data"
    restored = subprocess.run(
        [
            sys.executable,
            "-c",
            "from engine.cli.main import main; main()",
            "restore",
            str(exported),
            f"--data-dir={data}",
        ],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert restored.returncode == 0, restored.stderr
    other = Engine(data, shards=engine.shards).start()
    try:
        with other.client() as client:
            made = post(client, "/v1/allocations", {**body, "order_id": fresh("R"), "quote_id": quote_id})
            assert made.status_code == 201, made.text
        code, said = command(other, "verify")
        assert code == 0 and "drift 0" in said, said
    finally:
        other.stop()
