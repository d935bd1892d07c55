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
