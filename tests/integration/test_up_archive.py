"""The archiver beside a whole running engine: lists within moments, ended orders leave memory, and all is there after a restart."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.archive.store import SegmentStore
from tests.integration.engine_process import Engine, command
from tests.integration.network_over_http import fresh, order, post, set_up_network

pytestmark = pytest.mark.timeout(1_800)


def until(check: Callable[[], Any], *, within_s: float = 120.0) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.05)
    return found


def closed_orders(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("quartermaster_shard_closed_total"))


def test_what_ended_leaves_memory_and_is_still_read(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    engine = Engine(folder, shards=2, environment={"QM_CLOSE_AFTER_S": "1"}).start()
    try:
        with engine.client() as client:
            set_up_network(client)
            body, key = order({"SKU-1": 1, "SKU-2": 2}), fresh("archive")
            placed = post(client, "/v1/allocations", body, key=key).json()
            path = f"/v1/allocations/{placed['allocation_id']}"
            listed = until(lambda: client.get("/v1/allocations").json().get("data"))
            assert [row["allocation_id"] for row in listed] == [placed["allocation_id"]]
            assert post(client, path + "/cancel", {}).status_code == 200
            until(lambda: closed_orders(client) == 1)
            assert client.get(path).json()["state"] == "cancelled"
            again = post(client, "/v1/allocations", body, key=key)
            assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
            assert again.json()["allocation_id"] == placed["allocation_id"]

            os.kill(engine.pids["archiver"], signal.SIGKILL)
            other = post(client, "/v1/allocations", order({"SKU-1": 1})).json()
            query = {"order_id": other["order_id"]}
            until(lambda: client.get("/v1/allocations", params=query).json().get("data"))
            where = {"node_id": placed["legs"][0]["node_id"], "sku": "SKU-1"}
            live = client.get("/v1/availability", params={**where, "consistency": "strict"}).json()["data"][0]

            def balance() -> tuple[int, int]:
                newest = client.get("/v1/inventory/movements", params=where).json()["data"][0]
                return newest["balance_on_hand"], newest["balance_allocated"]

            until(lambda: balance() == (live["on_hand"], live["allocated"]))
            decision = client.get(f"/v1/decisions/{other['decision_id']}").json()
        assert engine.stop() == 0
        store = SegmentStore(str(folder / "archive"))
        assert store.shards() == [0, 1, 255]
        for shard in store.shards():
            assert list(store.records(shard)), f"nothing of shard {shard} was sealed"

        engine.start()
        with engine.client() as client:
            assert client.get(path).json()["state"] == "cancelled"
            assert client.get(f"/v1/decisions/{other['decision_id']}").json() == decision
            old = client.get(f"/v1/decisions/{placed['decision_id']}")
            assert (old.status_code, old.json()["order_id"]) == (200, placed["order_id"])
        code, said = command(engine, "explain", placed["decision_id"])
        assert code == 0, said
        assert placed["order_id"] in said and "(cancelled)" in said, "its order has left; the archive knows it"
        ids = tmp_path / "acknowledged"
        ids.write_text(f"{placed['order_id']}\n{other['order_id']}\n")
        code, said = command(engine, "verify", "--acknowledged", str(ids))
        assert (code, "2 looked for, 1 live, 1 closed, 0 not" in said) == (0, True), said
    finally:
        engine.stop()
