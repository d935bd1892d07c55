"""Where room runs out on real processes: idempotency keys, and the memory of the journal's server. What is refused, what goes on, and how it heals."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.integration.engine_process import Engine, command
from tests.integration.network_over_http import fresh, order, post, set_up_network
from tests.integration.test_up_faults import wait_until

BATCH = 100
KEYS_MAX = 1_000
SPEED = 90
"""An hour of the engine's time in 40 seconds: the table is filled in a few of them."""
HOUR_MS = 3_600_000
FILLED_BYTES = 8 * 1024 * 1024


def fill(client: httpx.Client, count: int) -> list[httpx.Response]:
    """The answers to so many batches of orders."""

    def one() -> dict[str, Any]:
        return {**order({"SKU-1": 1}), "idempotency_key": fresh("key")}

    return [client.post("/v1/allocations/batch", json={"orders": [one() for _ in range(BATCH)]}) for _ in range(count)]


def write_past(client: httpx.Client, count: int) -> None:
    """Movements to and fro: they fill the journal, and nothing that has to be kept in snapshots grows."""
    moves = [{"sku": "SKU-1", "kind": "received", "quantity": 1}, {"sku": "SKU-1", "kind": "lost", "quantity": 1}] * 250
    for _ in range(count):
        answer = post(client, "/v1/inventory/adjustments", {"node_id": "NYC", "moves": moves})
        assert answer.status_code == 200, answer.text


def facts_of(engine: Engine) -> dict[str, Any]:
    """What shard 0 says of itself."""
    code, said = command(engine, "status", "--json")
    assert code == 0, said
    facts: dict[str, Any] = next(facts for facts in json.loads(said)["shards"] if facts["shard"] == 0)
    return facts


@pytest.mark.timeout(1_800)
def test_a_full_table_of_keys_forgets_the_oldest_but_none_of_the_last_hour(tmp_path: Path) -> None:
    since_ms = time.time_ns() // 1_000_000
    environment = {
        "QM_DEDUPE_MAX": str(KEYS_MAX),
        "QM_CLOCK_SPEED": str(SPEED),
        "QM_CLOCK_SINCE_MS": str(since_ms),
        "QM_SOLVER_DEADLINE_MS": str(40 * SPEED),
    }
    engine = Engine(tmp_path / "data", environment=environment).start()
    try:
        with engine.client() as client:
            set_up_network(client, units=1_000_000)
            body, key = order({"SKU-2": 1}), fresh("key")
            first = client.post("/v1/allocations", json=body, headers={"Idempotency-Key": key})
            assert first.status_code == 201, first.text
            taken, refused = 0, None
            while refused is None:
                (answer,) = fill(client, 1)
                statuses = [item["status"] for item in answer.json()["results"]]
                assert set(statuses) <= {201, 429}, answer.text
                taken += statuses.count(201)
                refused = next((item for item in answer.json()["results"] if item["status"] == 429), None)
            # nothing that was ordered within the hour was forgotten for it
            assert taken <= KEYS_MAX
            assert refused["problem"]["code"] == "dedupe_full"
            alone = post(client, "/v1/allocations", order({"SKU-1": 1}))
            assert alone.status_code == 429
            assert int(alone.headers["Retry-After"]) > 0
            again = client.post("/v1/allocations", json=body, headers={"Idempotency-Key": key})
            assert again.status_code == 201
            assert again.json()["allocation_id"] == first.json()["allocation_id"]
            # finishing needs no room
            made = first.json()["allocation_id"]
            cancelled = post(client, f"/v1/allocations/{made}/cancel", {"reason": "customer"})
            assert cancelled.status_code == 200, cancelled.text
            wait_until(lambda: post(client, "/v1/allocations", order({"SKU-1": 1})).status_code == 201)
        facts = facts_of(engine)
        assert facts["dedupe_entries"] <= KEYS_MAX
        assert HOUR_MS <= facts["dedupe_window_ms"] < 24 * HOUR_MS
    finally:
        engine.stop()


@pytest.mark.timeout(1_800)
def test_a_full_journal_takes_no_new_work_lets_work_finish_and_heals(tmp_path: Path) -> None:
    """The archiver stands still, so that nothing may be trimmed: the server fills. It goes on, and room comes back by itself."""
    engine = Engine(tmp_path / "data", environment={"QM_SNAPSHOT_INTERVAL_S": "1"}).start()
    server = redis.Redis.from_url(engine.facts["redis_url"])
    try:
        with engine.client() as client:
            set_up_network(client, units=1_000_000)
            made = post(client, "/v1/allocations", order({"SKU-2": 1})).json()
            shipped = post(client, "/v1/allocations", order({"SKU-2": 1})).json()
            os.kill(engine.pids["archiver"], signal.SIGSTOP)
            empty_bytes = server.info("memory")["used_memory"]
            while server.info("memory")["used_memory"] < empty_bytes + FILLED_BYTES:
                write_past(client, 20)

            def accepts() -> bool:
                return post(client, "/v1/allocations", order({"SKU-1": 1})).status_code == 201

            # four fifths full: it trims what it may, and takes orders
            server.config_set("maxmemory", int(server.info("memory")["used_memory"] / 0.82))
            assert accepts()

            # nine tenths: no new work. What the server uses for a moment only is not counted twice: the limit follows
            def is_full() -> bool:
                server.config_set("maxmemory", int(server.info("memory")["used_memory"] / 0.93))
                return not accepts()

            def is_shown_full() -> bool:
                states = {shard["shard"]: shard["state"] for shard in client.get("/readyz").json()["shards"]}
                return states["0"] == "journal_full"

            move = {"node_id": "NYC", "sku": "SKU-1", "kind": "received", "quantity": 1}
            wait_until(lambda: is_full() and is_shown_full())
            for path, body in (("/v1/allocations", order({"SKU-1": 1})), ("/v1/inventory/adjustments", move)):
                wait_until(is_full)
                refused = post(client, path, body)
                assert refused.status_code == 503
                assert refused.json()["code"] == "journal_full"
                assert int(refused.headers["Retry-After"]) > 0
            # what finishes goes on
            cancelled = post(client, f"/v1/allocations/{made['allocation_id']}/cancel", {"reason": "customer"})
            assert cancelled.status_code == 200, cancelled.text
            leg = shipped["legs"][0]["leg_id"]
            for step in ("release", "accept", "pick", "ship", "deliver"):
                body = {"parcels": 1, "tracking": ["T-1"]} if step == "ship" else {}
                done = post(client, f"/v1/legs/{leg}/{step}", body)
                assert done.status_code == 200, done.text
            # the past is archived again: the journal is trimmed, and there is room
            before = server.info("memory")["used_memory"]
            os.kill(engine.pids["archiver"], signal.SIGCONT)
            wait_until(accepts)
            wait_until(lambda: server.info("memory")["used_memory"] < before)  # trimming and snapshots take turns
        code, said = command(engine, "verify")
        assert code == 0, said
    finally:
        server.close()
        engine.stop()
