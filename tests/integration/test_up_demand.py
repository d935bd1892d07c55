"""Waiting orders on real processes: a shard is killed, units come, and everybody is served; the auditor agrees."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tests.integration.engine_process import Engine, command
from tests.integration.network_over_http import order, post, set_up_network
from tests.integration.test_up_faults import ready, wait_until


def test_what_waits_outlives_a_kill_and_is_served_by_the_real_planner(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "data", shards=2).start()
    try:
        with engine.client() as client:
            set_up_network(client)
            waiting = []
            for n, near in enumerate(("NYC", "LAX") * 3):
                body = order({"SKU-1": 1_000 + n}, near=near, max_legs=8)
                answer = post(client, "/v1/allocations", {**body, "on_short": "park", "priority": n})
                assert answer.status_code == 201, answer.text
                waiting.append(answer.json())
            listed = client.get("/v1/demand").json()["data"]
            assert [line["priority"] for line in listed] == [5, 4, 3, 2, 1, 0]
            for name in ("shard-0", "shard-1"):
                os.kill(engine.pids[name], signal.SIGKILL)
            wait_until(lambda: not ready(engine))
            wait_until(lambda: ready(engine))
            again = client.get("/v1/demand").json()["data"]
            assert [line["demand_id"] for line in again] == [line["demand_id"] for line in listed]
            node = client.get("/v1/nodes").json()["data"][0]["node_id"]
            move = {"node_id": node, "sku": "SKU-1", "kind": "received", "quantity": 10_000}
            assert post(client, "/v1/inventory/adjustments", move).status_code == 200
            wait_until(lambda: client.get("/v1/demand").json()["data"] == [])

            def is_served(allocation: dict[str, Any]) -> bool:
                shown = client.get(f"/v1/allocations/{allocation['allocation_id']}").json()
                return (shown["state"], shown["unfilled"]) == ("allocated", [])

            wait_until(lambda: all(is_served(allocation) for allocation in waiting))
        code, said = command(engine, "verify")
        assert code == 0, said
    finally:
        engine.stop()


def test_an_order_of_another_home_collects_and_is_served_in_its_turn(tmp_path: Path) -> None:
    """Units come one by one to a node whose shard is not the order's home; orders that live there want them, too."""
    engine = Engine(tmp_path / "data", shards=2).start()
    try:
        with engine.client() as client:
            set_up_network(client)
            nodes = client.get("/v1/nodes").json()["data"]
            item = {"sku": "SKU-LATE", "weight_g": 100, "length_mm": 10, "width_mm": 10, "height_mm": 10}
            assert client.put("/v1/items/SKU-LATE", json=item).status_code in (200, 201)

            def place(near: str, units: int, **fields: Any) -> Any:
                body = order({"SKU-LATE": units}, near=near)
                for line in body["lines"]:
                    line["splittable"] = False
                return post(client, "/v1/allocations", {**body, **fields})

            def state(answer: Any) -> str:
                return str(client.get(f"/v1/allocations/{answer.json()['allocation_id']}").json()["state"])

            for node, far, near in ((nodes[0], "LAX", "NYC"), (nodes[-1], "NYC", "LAX")):
                whole = place(far, 3, on_short="park")
                small = place(near, 1, on_short="park")
                assert (whole.status_code, small.status_code) == (201, 201), whole.text + small.text
                for units in range(1, 4):
                    received = {"node_id": node["node_id"], "sku": "SKU-LATE", "kind": "received", "quantity": 1}
                    assert post(client, "/v1/inventory/adjustments", received).status_code == 200
                    for home in (near, far):
                        bought = place(home, 1)
                        assert bought.status_code == 409, f"{home} got one of {units} before who waits: {bought.text}"
                wait_until(lambda whole=whole: state(whole) == "allocated")
                assert state(small) == "parked"
                assert post(client, "/v1/inventory/adjustments", received).status_code == 200
                wait_until(lambda small=small: state(small) == "allocated")
        code, said = command(engine, "verify")
        assert code == 0, said
    finally:
        engine.stop()
