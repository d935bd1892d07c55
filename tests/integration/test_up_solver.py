"""The solver process of a running engine: its library comes with the first orders and is given back when they stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.engine_process import Engine
from tests.integration.network_over_http import fresh, order, put, receive, set_up_network
from tests.integration.test_up_faults import wait_until

pytestmark = pytest.mark.timeout(1_800)


def solvers(engine: Engine) -> dict[int, bool]:
    """Solver processes of an engine, and whether each has its library."""
    out = {}
    for pid in engine.processes():
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::SolverActor"):
                out[pid] = "ortools" in Path(f"/proc/{pid}/maps").read_text()
        except OSError:
            continue  # it has ended
    return out


def colliding(client: httpx.Client) -> dict[str, dict[str, Any]]:
    """Eight orders that want three units near them, while others lie far away: an allocation by rung."""
    sku = fresh("S")
    put(client, f"/v1/items/{sku}", {"sku": sku, "weight_g": 500, "unit_value_minor": 2_500})
    receive(client, "NYC", sku, 3)
    receive(client, "LAX", sku, 100)
    orders = [order({sku: 1 + n % 2}) | {"idempotency_key": fresh("key")} for n in range(8)]
    answer = client.post("/v1/allocations/batch", json={"orders": orders})
    assert answer.status_code == 200, answer.text
    assert [result["status"] for result in answer.json()["results"]] == [201] * 8
    return {result["body"]["rung"]: result["body"] for result in answer.json()["results"]}


def test_the_solver_loads_its_library_for_orders_and_gives_it_back(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "data", environment={"QM_SOLVER_REST_S": "5"}).start()
    try:
        with engine.client() as client:
            set_up_network(client)
            (first,) = solvers(engine)
            for pid in (first, None):
                if pid is None:  # it rests: a fresh process, in which nothing is loaded
                    wait_until(lambda: len(solvers(engine)) == 1 and first not in solvers(engine))
                assert not any(solvers(engine).values())
                early = colliding(client)  # nobody waits for the library
                assert "greedy" in early
                assert set(early) <= {"greedy", "separable"}
                shown = client.get(f"/v1/decisions/{early['greedy']['decision_id']}").json()
                assert shown["rung"] == "greedy"
                wait_until(lambda: "exact" in colliding(client))
                assert all(solvers(engine).values())
            said = engine.log.read_text()
            assert f'"pid": {first}, "event": "a fresh solver takes over"' in said
            assert "A worker died" not in said, "what is meant to be is no accident"
            metrics = client.get("/metrics").text.splitlines()
            unanswered = [
                line for line in metrics if line.startswith("quartermaster_shard_components_unanswered_total")
            ]
            assert [float(line.split()[-1]) >= 2 for line in unanswered] == [True], unanswered
    finally:
        engine.stop()


def test_a_solver_that_never_rests_has_its_library_before_the_first_order(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "data", environment={"QM_SOLVER_REST_S": "0"}).start()
    try:
        wait_until(lambda: list(solvers(engine).values()) == [True])
        assert list(solvers(engine).values()) == [True], "and keeps it, although nobody orders"
    finally:
        engine.stop()
