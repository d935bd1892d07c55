"""One order id sold for two places at once, on a whole running engine: the later order is cancelled, and both are shown."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.engine_process import Engine, command
from tests.integration.network_over_http import ZIPS, fresh, order, post, set_up_network
from tests.integration.test_up_archive import until

pytestmark = pytest.mark.timeout(1_800)


def only(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows once there is one of them, else none."""
    return rows if len(rows) == 1 else []


def placed(client: httpx.Client, order_id: str, place: str, **fields: Any) -> dict[str, Any]:
    body = {**order({"SKU-1": 2}), "order_id": order_id, "ship_to": {"country": "US", "postal_code": ZIPS[place]}}
    answer = post(client, "/v1/allocations", {**body, **fields}, key=fresh("dup"))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def exceptions(client: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    answer = client.get("/v1/exceptions", params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"])


def state(client: httpx.Client, allocation: dict[str, Any]) -> str:
    return str(client.get(f"/v1/allocations/{allocation['allocation_id']}").json()["state"])


def free(client: httpx.Client) -> int:
    rows = client.get("/v1/availability", params={"sku": "SKU-1", "consistency": "strict"}).json()["data"]
    return sum(row["available_to_promise"] for row in rows)


def test_the_later_of_two_orders_of_one_id_is_cancelled(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "data", shards=2, environment={"QM_ARCHIVE_LAG_S": "0"}).start()
    try:
        with engine.client() as client:
            set_up_network(client)
            before = free(client)
            first, later = placed(client, "TWICE", "NYC"), placed(client, "TWICE", "LAX")
            until(lambda: state(client, later) == "cancelled")
            assert state(client, first) == "allocated"
            until(lambda: free(client) == before - 2)
            (shown,) = until(lambda: exceptions(client, order_id="TWICE", is_open=False))
            assert (shown["kind"], shown["is_open"]) == ("duplicate_order", False)
            assert (shown["order"]["allocation_id"], shown["order"]["state"]) == (later["allocation_id"], "cancelled")
            assert (shown["first"]["allocation_id"], shown["first"]["ended_at"]) == (first["allocation_id"], None)

            # An id is free again once its order has ended: nothing is wrong with this one.
            assert post(client, f"/v1/allocations/{first['allocation_id']}/cancel", {}).status_code == 200
            again = placed(client, "TWICE", "CHI")

            # Found while no archiver was there: what has been released to a node stays, and is shown.
            os.kill(engine.pids["archiver"], signal.SIGKILL)
            kept, both = placed(client, "BOTH", "NYC"), placed(client, "BOTH", "LAX")
            (leg,) = both["legs"]
            assert post(client, f"/v1/legs/{leg['leg_id']}/release", {}).status_code == 200
            held, hold = placed(client, "HELD", "NYC"), order({"SKU-1": 1})
            hold |= {"order_id": "HELD", "ship_to": {"country": "US", "postal_code": ZIPS["LAX"]}, "ttl_s": 600}
            answer = post(client, "/v1/reservations", hold, key=fresh("dup"))
            assert answer.status_code == 201, answer.text
            path = f"/v1/reservations/{answer.json()['reservation_id']}"
            until(lambda: client.get(path).json()["state"] == "released")
            (open_one,) = until(lambda: only(exceptions(client, is_open=True)))  # the index is a moment behind
            assert (open_one["order_id"], open_one["order"]["state"]) == ("BOTH", "allocated")
            assert [state(client, one) for one in (kept, both, held, again)] == ["allocated"] * 4
            page = client.get("/v1/exceptions", params={"limit": 2}).json()
            rest = exceptions(client, limit=2, cursor=page["next_cursor"])
            assert [row["order_id"] for row in (*page["data"], *rest)] == ["HELD", "BOTH", "TWICE"]
            assert page["data"][0]["order"]["reservation_id"] == answer.json()["reservation_id"]
        code, said = command(engine, "verify")
        assert code == 0, said
    finally:
        engine.stop()
