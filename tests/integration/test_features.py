"""Every feature over HTTP against real processes, with 1, 2 and 4 shards: the answers do not depend on how stock is cut."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.integration.engine_process import Engine
from tests.integration.network_over_http import (
    NODES,
    SKUS,
    ZIPS,
    fresh,
    order,
    patiently,
    post,
    put,
    receive,
    set_up_network,
)

pytestmark = pytest.mark.timeout(1_800)
"""The first test of a module waits for the engine to start."""


@pytest.fixture(scope="module", params=[1, 2, 4])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(tmp_path_factory.mktemp("engine") / "data", shards=request.param).start()
    with engine.client() as client:
        set_up_network(client, units=1_000)
    yield engine
    assert engine.stop() == 0


@pytest.fixture
def client(engine: Engine) -> Iterator[httpx.Client]:
    with engine.client() as client:
        yield client


def scarce(client: httpx.Client, where: dict[str, int]) -> tuple[str, str]:
    """A fresh SKU with units at the given nodes only; (sku, token that contains them)."""
    sku = fresh("S")
    put(client, f"/v1/items/{sku}", {"sku": sku, "weight_g": 500, "unit_value_minor": 2_500})
    tokens = [receive(client, node_id, sku, units)["token"] for node_id, units in where.items()]
    return sku, merged(tokens)


def merged(tokens: list[str]) -> str:
    """One token for all: a client may join the parts it was given with a semicolon."""
    parts: dict[str, tuple[int, int]] = {}
    for token in tokens:
        for part in token.split(";"):
            shard, epoch, seq = part.split(":")
            parts[shard] = max(parts.get(shard, (0, 0)), (int(epoch), int(seq)))
    return ";".join(f"{shard}:{epoch}:{seq}" for shard, (epoch, seq) in sorted(parts.items()))


def allocate(
    client: httpx.Client, body: dict[str, Any], *, after: str = "", path: str = "/v1/allocations"
) -> httpx.Response:
    headers = {"Idempotency-Key": fresh("key")}
    if after:
        headers["X-QM-After"] = after
    return patiently(lambda: client.post(path, json=body, headers=headers))


def atp(client: httpx.Client, sku: str) -> dict[str, int]:
    answer = client.get("/v1/availability", params={"sku": sku, "consistency": "strict"})
    assert answer.status_code == 200, answer.text
    return {p["node_id"]: p["available_to_promise"] for p in answer.json()["data"]}


def test_what_was_put_can_be_stocked_and_ordered_at_once(client: httpx.Client) -> None:
    """An item just put is known to the shard of every destination, its first unit to the order that names the token."""
    for _ in range(10):
        sku = fresh("S")
        put(client, f"/v1/items/{sku}", {"sku": sku, "weight_g": 500, "unit_value_minor": 2_500})
        for near in NODES:
            assert allocate(client, order({sku: 1}, near=near)).json()["code"] == "out_of_stock"
        token = receive(client, "CHI", sku, 1)["token"]
        placed = allocate(client, order({sku: 1}, near="LAX"), after=token)
        assert placed.status_code == 201, placed.text
        assert [leg["node_id"] for leg in placed.json()["legs"]] == ["CHI"]


def test_the_nearest_node_ships_and_says_why(client: httpx.Client) -> None:
    answer = allocate(client, order({"SKU-1": 1, "SKU-2": 2}, near="LAX"))
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert [leg["node_id"] for leg in body["legs"]] == ["LAX"]
    assert body["cost_minor"] == sum(leg["cost_minor"] for leg in body["legs"])
    why = client.get(f"/v1/decisions/{body['decision_id']}")
    assert why.status_code == 200, why.text
    told = why.json()
    assert [leg["node_id"] for leg in told["legs"]] == ["LAX"]
    assert told["money"]["cash_minor"] == body["cost_minor"]
    assert sum(told["legs"][0]["cost_parts"].values()) == body["cost_minor"]
    assert told["rung"] == body["rung"]
    assert "LAX" in told["sentence"]
    verdicts = {candidate["node_id"]: candidate["verdict"] for candidate in told["candidates"]}
    assert set(verdicts) == set(NODES)
    assert [node_id for node_id, verdict in verdicts.items() if verdict == "chosen"] == ["LAX"]
    assert all(candidate["reason"] for candidate in told["candidates"])
    assert told["runner_up"]["difference"]["score_minor"] >= 0
    assert told["versions"]
    other = client.get(f"/v1/decisions/{body['decision_id']}", params={"node_id": "NYC"})
    assert "$" in other.json()["why"]


def test_an_order_is_split_where_it_must_be_all_or_nothing(client: httpx.Client) -> None:
    """One line is only in New York, the other only in Los Angeles."""
    east, token_east = scarce(client, {"NYC": 2})
    west, token_west = scarce(client, {"LAX": 2})
    token = merged([token_east, token_west])
    answer = allocate(client, order({east: 1, west: 1}), after=token)
    assert answer.status_code == 201, answer.text
    assert sorted(leg["node_id"] for leg in answer.json()["legs"]) == ["LAX", "NYC"]
    refused = allocate(client, order({east: 1, west: 2}), after=answer.json()["token"])
    assert refused.status_code == 409
    assert refused.json()["code"] == "out_of_stock"
    eventually(lambda: atp(client, east) == {"NYC": 1} and atp(client, west) == {"LAX": 1})


def test_a_quantity_is_split_over_nodes(client: httpx.Client) -> None:
    sku, token = scarce(client, {"NYC": 2, "CHI": 2})
    answer = allocate(client, order({sku: 4}), after=token)
    assert answer.status_code == 201, answer.text
    assert sorted((leg["node_id"], leg["lines"][0]["quantity"]) for leg in answer.json()["legs"]) == [
        ("CHI", 2),
        ("NYC", 2),
    ]


def test_a_hold_across_nodes_lives_and_ends_everywhere(client: httpx.Client) -> None:
    """reserve, extend, commit in part: what is not committed comes back at every node."""
    east, token_east = scarce(client, {"NYC": 3})
    west, token_west = scarce(client, {"LAX": 3})
    held = allocate(
        client,
        {**order({east: 3, west: 3}), "ttl_s": 60},
        after=merged([token_east, token_west]),
        path="/v1/reservations",
    )
    assert held.status_code == 201, held.text
    reservation = held.json()
    assert reservation["state"] == "held"
    assert atp(client, east) == {"NYC": 0}
    extended = post(client, f"/v1/reservations/{reservation['reservation_id']}/extend", {"ttl_s": 120})
    assert extended.status_code == 200, extended.text
    assert extended.json()["expires_at"] > reservation["expires_at"]
    committed = post(
        client,
        f"/v1/reservations/{reservation['reservation_id']}/commit",
        {"lines": [{"line_id": "1", "quantity": 2}, {"line_id": "2", "quantity": 1}]},
    )
    assert committed.status_code == 200, committed.text
    eventually(lambda: atp(client, east) == {"NYC": 1} and atp(client, west) == {"LAX": 2})
    again = post(client, f"/v1/reservations/{reservation['reservation_id']}/commit")
    assert again.status_code == 409, again.text


def test_a_hold_expires_by_itself(client: httpx.Client) -> None:
    east, token_east = scarce(client, {"NYC": 1})
    west, token_west = scarce(client, {"LAX": 1})
    held = allocate(
        client,
        {**order({east: 1, west: 1}), "ttl_s": 1},
        after=merged([token_east, token_west]),
        path="/v1/reservations",
    )
    assert held.status_code == 201, held.text
    eventually(lambda: atp(client, east) == {"NYC": 1} and atp(client, west) == {"LAX": 1})
    late = post(client, f"/v1/reservations/{held.json()['reservation_id']}/commit")
    assert late.status_code == 409
    assert late.json()["code"] == "expired"


def test_a_released_hold_is_released_everywhere(client: httpx.Client) -> None:
    east, token_east = scarce(client, {"NYC": 1})
    west, token_west = scarce(client, {"LAX": 1})
    held = allocate(
        client,
        {**order({east: 1, west: 1}), "ttl_s": 60},
        after=merged([token_east, token_west]),
        path="/v1/reservations",
    )
    gone = client.delete(f"/v1/reservations/{held.json()['reservation_id']}", headers={"Idempotency-Key": fresh("key")})
    assert gone.status_code in (200, 204), gone.text
    eventually(lambda: atp(client, east) == {"NYC": 1} and atp(client, west) == {"LAX": 1})


def test_a_cancelled_order_gives_its_units_back(client: httpx.Client) -> None:
    east, token_east = scarce(client, {"NYC": 2})
    west, token_west = scarce(client, {"LAX": 2})
    placed = allocate(client, order({east: 2, west: 2}), after=merged([token_east, token_west])).json()
    part = post(
        client, f"/v1/allocations/{placed['allocation_id']}/cancel", {"lines": [{"line_id": "2", "quantity": 1}]}
    )
    assert part.status_code == 200, part.text
    eventually(lambda: atp(client, west) == {"LAX": 1})
    rest = post(client, f"/v1/allocations/{placed['allocation_id']}/cancel")
    assert rest.status_code == 200, rest.text
    assert rest.json()["state"] == "cancelled"
    eventually(lambda: atp(client, east) == {"NYC": 2} and atp(client, west) == {"LAX": 2})


def test_a_leg_goes_all_the_way_to_delivered(client: httpx.Client) -> None:
    """Legs near and far from the order's home: the shelf goes down when they ship, wherever they are."""
    east, token_east = scarce(client, {"NYC": 2})
    west, token_west = scarce(client, {"LAX": 2})
    placed = allocate(client, order({east: 1, west: 1}), after=merged([token_east, token_west])).json()
    for leg in placed["legs"]:
        for step in ("release", "accept", "pick", "ship", "deliver"):
            answer = post(client, f"/v1/legs/{leg['leg_id']}/{step}")
            assert answer.status_code == 200, (step, answer.text)
        repeat = post(client, f"/v1/legs/{leg['leg_id']}/deliver")
        assert repeat.status_code == 200, repeat.text
    final = client.get(f"/v1/allocations/{placed['allocation_id']}").json()
    assert final["state"] == "delivered"

    def gone() -> bool:
        positions = client.get(
            "/v1/availability", params=[("sku", east), ("sku", west), ("consistency", "strict")]
        ).json()["data"]
        return all((p["on_hand"], p["allocated"]) == (1, 0) for p in positions)

    eventually(gone)


def test_a_rejected_leg_is_re_sourced_never_at_the_same_node(client: httpx.Client) -> None:
    sku, token = scarce(client, {"NYC": 1, "LAX": 1})
    placed = allocate(client, order({sku: 1}), after=token).json()
    first = placed["legs"][0]
    assert first["node_id"] == "NYC"
    assert post(client, f"/v1/legs/{first['leg_id']}/release").status_code == 200
    rejected = post(
        client, f"/v1/legs/{first['leg_id']}/reject", {"reason": "not found", "stock_effect": "zero_until_count"}
    )
    assert rejected.status_code == 200, rejected.text

    def moved() -> bool:
        legs = client.get(f"/v1/allocations/{placed['allocation_id']}").json()["legs"]
        live = [leg["node_id"] for leg in legs if leg["state"] == "allocated"]
        return live == ["LAX"]

    eventually(moved)
    eventually(lambda: atp(client, sku) == {"NYC": 0, "LAX": 0})


def test_a_node_lists_its_work(client: httpx.Client) -> None:
    sku, token = scarce(client, {"CHI": 5})
    placed = [allocate(client, order({sku: 1}, near=near), after=token).json() for near in ("NYC", "LAX", "CHI")]
    wanted = {p["legs"][0]["leg_id"] for p in placed}
    found: set[str] = set()
    cursor = ""
    for _ in range(50):
        page = client.get(
            "/v1/legs", params={"node_id": "CHI", "state": "allocated", "limit": 2, "cursor": cursor}
        ).json()
        found |= {leg["leg_id"] for leg in page["data"]}
        cursor = page["next_cursor"]
        if not page["has_more"]:
            break
    assert wanted <= found


def test_parked_and_partial_orders_say_what_is_missing(client: httpx.Client) -> None:
    sku, token = scarce(client, {"ATL": 1})
    partial = allocate(client, order({sku: 3}, on_short="partial"), after=token)
    assert partial.status_code == 201, partial.text
    assert partial.json()["state"] == "partially_allocated"
    assert partial.json()["unfilled"][0]["quantity"] == 2
    parked = allocate(client, order({sku: 3}, on_short="park"), after=partial.json()["token"])
    assert parked.json()["state"] == "parked", parked.text
    assert parked.json()["unfilled"][0]["demand_id"]


def test_a_pickup_line_is_served_by_its_node(client: httpx.Client) -> None:
    body = order({"SKU-1": 1})
    body["lines"][0] |= {"method": "pickup", "pickup_node_id": "LAX"}
    answer = allocate(client, body)
    assert answer.status_code == 201, answer.text
    assert answer.json()["legs"][0]["node_id"] == "LAX"
    assert answer.json()["legs"][0]["ready_at"] == answer.json()["promise"]["ship_by"]


def test_stores_are_found_by_distance_whatever_shard_owns_them(client: httpx.Client) -> None:
    sku, _ = scarce(client, {"NYC": 3, "ATL": 1, "LAX": 9})
    params = {"sku": sku, "quantity": 2, "postal_code": ZIPS["NYC"], "radius_km": 5_000}
    page = client.get("/v1/availability/stores", params=params).json()
    assert [store["node_id"] for store in page["data"]] == ["NYC", "CHI", "ATL", "LAX"]
    assert [store["has_all"] for store in page["data"]] == [True, False, False, True]
    assert [store["ready_at"] is not None for store in page["data"]] == [True, False, False, True]
    near = client.get("/v1/availability/stores", params={**params, "in_stock": "true", "limit": 1}).json()
    assert [store["node_id"] for store in near["data"]] == ["NYC"]
    far = client.get(
        "/v1/availability/stores", params={**params, "in_stock": "true", "limit": 1, "cursor": near["next_cursor"]}
    ).json()
    assert ([store["node_id"] for store in far["data"]], far["has_more"]) == (["LAX"], False)


def test_goods_are_sent_to_a_store_of_another_shard_and_ready_after_they_came(client: httpx.Client) -> None:
    sku, token = scarce(client, {"NYC": 3})
    store = fresh("STORE")
    document = {"node_id": store, "postal_code": "90003", "lat": 33.96, "lon": -118.27, "offers": ["ship_to_store"]}
    put(client, f"/v1/nodes/{store}", {**document, "time_zone": "America/Los_Angeles", "working_days": list(range(7))})
    body = order({sku: 2}, near="LAX")
    body["lines"][0] |= {"method": "ship_to_store", "pickup_node_id": store}
    placed: dict[str, Any] = {}

    def is_placed() -> bool:  # the store has just been made
        answer = allocate(client, body, after=token)
        placed.update(answer.json())
        return answer.status_code == 201

    eventually(is_placed)
    (leg,) = placed["legs"]
    assert (leg["node_id"], leg["carrier"]) == ("NYC", "acme")
    assert leg["ready_at"] > leg["deliver_by"] > leg["ship_by"]
    assert placed["promise"]["deliver_by"] == leg["ready_at"]
    body = order({sku: 1})
    body["lines"][0] |= {"method": "pickup", "pickup_node_id": store}
    refused = allocate(client, body)
    assert (refused.status_code, refused.json()["errors"][0]["offers"]) == (409, ["ship_to_store"])


def test_a_supplier_promises_its_cap_and_no_more(client: httpx.Client) -> None:
    sku, _ = scarce(client, {})
    row = {"sku": sku, "supply": "uncounted", "daily_cap_units": 3}
    capped = client.put("/v1/inventory/positions", json={"node_id": "CHI", "positions": [row]})
    assert capped.json()["positions"][0]["available_to_promise"] == 3, capped.text
    token = capped.json()["token"]
    placed = allocate(client, order({sku: 2}, near="LAX"), after=token)
    assert placed.status_code == 201, placed.text
    refused = allocate(client, order({sku: 2}, near="NYC"), after=merged([token, placed.json()["token"]]))
    assert refused.json()["errors"][0]["available_to_promise"] == 1, refused.text


def test_what_is_on_its_way_is_dated_and_serves_who_waits_when_it_comes(client: httpx.Client) -> None:
    sku, _ = scarce(client, {})
    rows = [{"inbound_id": f"{sku}-1", "sku": sku, "quantity": 5, "expected_at": "2040-01-02T00:00:00Z"}]
    stated = client.put("/v1/inventory/inbound", json={"node_id": "LAX", "inbound": rows})
    assert stated.status_code == 200, stated.text
    parked = allocate(client, order({sku: 2}, on_short="park"))
    assert parked.json()["state"] == "parked", parked.text
    (row,) = client.get("/v1/availability/dated", params={"sku": sku}).json()["data"]
    assert (row["available_to_promise"], row["waiting_units"]) == (0, 2)
    assert [(step["at"], step["available_to_promise"]) for step in row["steps"]] == [("2040-01-02T00:00:00Z", 3)]
    received = post(client, "/v1/inventory/inbound/receive", {"node_id": "LAX", "inbound_id": f"{sku}-1"})
    assert received.status_code == 200, received.text
    path = f"/v1/allocations/{parked.json()['allocation_id']}"
    eventually(lambda: client.get(path).json()["state"] == "allocated")
    eventually(lambda: atp(client, sku) == {"LAX": 3})


def test_a_kit_leaves_from_one_node_and_takes_its_components(client: httpx.Client) -> None:
    left, token_left = scarce(client, {"NYC": 4, "CHI": 4})
    right, token_right = scarce(client, {"CHI": 2})
    kit = fresh("KIT")
    put(
        client,
        f"/v1/items/{kit}",
        {"sku": kit, "components": [{"sku": left, "quantity": 2}, {"sku": right, "quantity": 1}]},
    )
    answer = allocate(client, order({kit: 2}), after=merged([token_left, token_right]))
    assert answer.status_code == 201, answer.text
    assert [leg["node_id"] for leg in answer.json()["legs"]] == ["CHI"]
    assert atp(client, kit) == {"CHI": 0}
    assert atp(client, left) == {"NYC": 4, "CHI": 0}
    assert atp(client, right) == {"CHI": 0}


def test_a_repeat_gets_the_first_answer_and_another_body_is_refused(client: httpx.Client) -> None:
    body, key = order({"SKU-3": 1}), fresh("key")
    first = post(client, "/v1/allocations", body, key=key)
    again = post(client, "/v1/allocations", body, key=key)
    assert again.status_code in (200, 201)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["allocation_id"] == first.json()["allocation_id"]
    other = post(client, "/v1/allocations", order({"SKU-3": 2}), key=key)
    assert other.status_code == 422
    assert other.json()["code"] == "key_reused"
    same_id = post(client, "/v1/allocations", body)
    assert same_id.status_code == 409
    assert same_id.json()["code"] == "duplicate_order"


def test_a_batch_is_answered_item_by_item(client: httpx.Client) -> None:
    orders = [{**order({"SKU-1": 1}, near=list(NODES)[n % 4]), "idempotency_key": fresh("key")} for n in range(250)]
    orders[7]["lines"][0]["sku"] = "no-such-sku"
    answer = client.post("/v1/allocations/batch", json={"orders": orders})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert len(results) == 250
    assert [r["status"] for r in results].count(201) == 249
    assert results[7]["status"] == 422


def test_a_count_from_before_a_shipment_does_not_put_units_back(client: httpx.Client) -> None:
    sku, token = scarce(client, {"NYC": 5})
    counted_at = time.time()
    time.sleep(0.01)  # the shipment below is later than the count by the clock of the feed
    placed = allocate(client, order({sku: 2}), after=token).json()
    leg_id = placed["legs"][0]["leg_id"]
    for step in ("release", "ship"):
        assert post(client, f"/v1/legs/{leg_id}/{step}").status_code == 200
    as_of = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(counted_at)) + f".{int(counted_at % 1 * 1000):03d}Z"
    count = post(
        client,
        "/v1/inventory/counts",
        {
            "node_id": "NYC",
            "source": fresh("feed"),
            "as_of": as_of,
            "source_seq": 1,
            "scope": "delta",
            "rows": [{"sku": sku, "quantity": 5}],
        },
    )
    assert count.status_code == 200, count.text
    eventually(lambda: atp(client, sku) == {"NYC": 3})


def test_stock_facts_may_leave_a_position_short_and_it_sells_nothing(client: httpx.Client) -> None:
    sku, token = scarce(client, {"NYC": 3})
    assert allocate(client, order({sku: 3}), after=token).status_code == 201
    lost = post(
        client,
        "/v1/inventory/adjustments",
        {"node_id": "NYC", "sku": sku, "kind": "damaged", "quantity": 2, "reason": "flood"},
    )
    assert lost.status_code == 200, lost.text
    position = lost.json()["positions"][0]  # availability may show later that the legs went elsewhere
    assert (position["available_to_promise"], position["short_by"]) == (0, 2)
    assert allocate(client, order({sku: 1}), after=lost.json()["token"]).status_code == 409


def test_a_node_that_is_switched_off_gets_no_new_orders(client: httpx.Client) -> None:
    sku, token = scarce(client, {"ATL": 5})
    seen = client.get("/v1/nodes/ATL")
    document = seen.json()
    switched = client.put(
        "/v1/nodes/ATL", json={**document, "state": "off"}, headers={"If-Match": seen.headers["etag"]}
    )
    assert switched.status_code == 200, switched.text
    try:

        def refused() -> bool:
            return allocate(client, order({sku: 1}), after=token).status_code == 409

        eventually(refused)
    finally:
        client.put("/v1/nodes/ATL", json=document, headers={"If-Match": switched.headers["etag"]})
    eventually(lambda: allocate(client, order({sku: 1}), after=token).status_code == 201)


def test_nothing_is_left_over(client: httpx.Client, engine: Engine) -> None:
    """After all of the above the independent model finds no drift."""
    import subprocess
    import sys

    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from engine.cli.main import main; main()",
            "verify",
            f"--redis-url={engine.facts['redis_url']}",
        ],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(SKUS) == 3


def eventually(check: Any, *, within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.02)
