"""Lists, searches and closed orders through the gateway, over an index and an archive folded from the shards' own journals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.archive.fold import Fold
from engine.archive.index import IndexWriter, connect_index, drop_tables, migrate, sqlite_url
from engine.archive.store import SegmentStore
from engine.domain.ids import parse_public_id
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import DecisionReply
from engine.protocol.shard_core import ShardCore
from tests.conftest import eventually
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed


class Past:
    """An engine, and an archiver that works when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.url = sqlite_url(folder / "index.db")
        self.engine = GatewayEngine(folder, archive_url=str(folder / "archive"), index_url=self.url)
        self.store = SegmentStore(str(folder / "archive"))
        self._database = connect_index(self.url)

    async def start(self) -> Past:
        await self.engine.start(nodes=4, items=3)
        stocked = [await self.engine.stock_up("N-0", "SKU-0", 50), await self.engine.stock_up("N-2", "SKU-1", 50)]
        await self.engine.seen_by_all(*stocked)
        return self

    def fold(self) -> None:
        """Archive and index all that is durable."""
        self.engine.archive(self.store, self._database)

    async def close_ended(self) -> None:
        """Have the shards drop every order that is at its end."""
        self.fold()
        for shard in self.engine.stock:
            core = shard.core
            assert isinstance(core, ShardCore) and shard.runner is not None
            core.closing._after_ms = -1
            core.closing._queue = type(core.closing._queue)()
            for slot, part in core.state.slots.items():
                for order_no in part.orders:
                    record = core.state.order(slot, order_no)
                    assert record is not None
                    core.closing.changed(slot, order_no, record, core.state.time_ms)
            core.archived(core.state.seq, core.state.time_ms)
            shard.runner.wake()
        await eventually(lambda: sum(s.core.counts["closed"] for s in self.engine.stock) > 0)  # type: ignore[union-attr]
        self.fold()

    def forget(self, segments: int) -> None:
        """The index is being made anew, and has so many segments of every shard so far."""
        drop_tables(self._database)
        if not segments:
            return
        migrate(self._database)
        for shard in (CONTROL_SHARD, 0, 1):
            fold = Fold(shard)
            for first_seq in self.store.first_seqs(shard)[:segments]:
                for record in self.store.load(shard, first_seq).records():
                    fold.add(record.unpacked())
            IndexWriter(self._database).write(fold)

    async def get(self, path: str, **params: Any) -> Any:
        answer = await self.engine.client.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def allocated(self, n: int, **fields: Any) -> dict[str, Any]:
        body = an_order_body(f"A-{n}", **fields)
        answer = await self.engine.client.post("/v1/allocations", json=body, headers=keyed(f"key-{n}"))
        assert answer.status_code == 201, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    async def cancelled(self, n: int, **fields: Any) -> dict[str, Any]:
        shown = await self.allocated(n, **fields)
        path = f"/v1/allocations/{shown['allocation_id']}/cancel"
        assert (await self.engine.client.post(path, json={}, headers=keyed(f"cancel-{n}"))).status_code == 200
        return shown

    async def close(self) -> None:
        self.engine.door.gateway.history.close()
        self._database.dispose()
        await self.engine.close()


@pytest.fixture
async def past(tmp_path: Path) -> AsyncIterator[Past]:
    made = await Past(tmp_path).start()
    yield made
    await made.close()


def ids(page: Any) -> list[str]:
    return [row["order_id"] for row in page["data"]]


async def test_allocations_are_found_by_what_they_are(past: Past) -> None:
    await past.allocated(1, customer_id="C-1")
    await past.allocated(2, sku="SKU-1", customer_id="C-2")
    await past.cancelled(3, customer_id="C-1")
    await past.engine.client.post("/v1/reservations", json={**an_order_body("H-1"), "ttl_s": 60}, headers=keyed("h"))
    past.fold()
    found = await past.get("/v1/allocations")
    assert ids(found) == ["A-3", "A-2", "A-1"]  # holds are no allocations
    assert (found["has_more"], found["next_cursor"]) == (False, None)
    assert ids(await past.get("/v1/allocations", sort="opened_at")) == ["A-1", "A-2", "A-3"]
    assert ids(await past.get("/v1/allocations", customer_id="C-1")) == ["A-3", "A-1"]
    assert ids(await past.get("/v1/allocations", customer_id="C-1", state="cancelled")) == ["A-3"]
    assert ids(await past.get("/v1/allocations", order_id="A-2")) == ["A-2"]
    assert ids(await past.get("/v1/allocations", sku="SKU-1")) == ["A-2"]
    assert ids(await past.get("/v1/allocations", node_id="N-2", channel="web")) == ["A-2"]
    assert ids(await past.get("/v1/allocations", opened_to="2020-01-02T00:00:00Z")) == []
    assert ids(await past.get("/v1/allocations", opened_from="2020-01-02T00:00:00Z")) == ["A-3", "A-2", "A-1"]


async def test_a_listed_allocation_is_the_one_that_is_read(past: Past) -> None:
    shown = await past.allocated(1, quantity=2)
    past.fold()
    (listed,) = (await past.get("/v1/allocations"))["data"]
    assert {**listed, "token": ""} == {**shown, "token": ""}


async def test_as_of_says_how_far_the_list_is_true(past: Past) -> None:
    await past.allocated(1)
    past.fold()
    await past.allocated(2)
    found = await past.get("/v1/allocations")
    assert ids(found) == ["A-1"]
    points = {point["shard"]: point for point in found["as_of"]}
    assert points.keys() == {"0", "1", "control"}
    assert points["0"]["seq"] < past.engine.server.shard(0).tail.seq
    assert all(point["complete"] for point in points.values())


@pytest.mark.parametrize("sort", ["opened_at", "-opened_at"])
async def test_pages_show_everything_once_while_orders_come(past: Past, sort: str) -> None:
    for n in range(7):
        await past.allocated(n)
    past.fold()
    seen, cursor = [], ""
    while True:
        page = await past.get("/v1/allocations", limit=3, sort=sort, **({"cursor": cursor} if cursor else {}))
        seen += ids(page)
        if not page["has_more"]:
            break
        cursor = page["next_cursor"]
        if len(seen) == 3:
            await past.allocated(100)
            past.fold()
    expected = [f"A-{n}" for n in range(7)]
    assert seen == (expected[::-1] if sort == "-opened_at" else [*expected, "A-100"])


async def test_legs_and_decisions_are_listed(past: Past) -> None:
    await past.allocated(1)
    await past.allocated(2, sku="SKU-1")
    await past.cancelled(3)
    past.fold()
    assert ids(await past.get("/v1/legs/history")) == ["A-3", "A-2", "A-1"]
    assert ids(await past.get("/v1/legs/history", state="cancelled")) == ["A-3"]
    assert ids(await past.get("/v1/legs/history", node_id="N-2", sku="SKU-1")) == ["A-2"]
    decisions = await past.get("/v1/decisions", rung="separable", order_id="A-1")
    assert ids(decisions) == ["A-1"]
    found = parse_public_id(decisions["data"][0]["decision_id"], "dec", has_suffix=True)
    assert found is not None
    order_no, number = found[0].order_no, found[1]
    reply = await past.engine.door.gateway.history.decision(order_no, number)
    assert isinstance(reply, DecisionReply) and reply.entry is not None
    assert any(reply.record in kept for n in (0, 1) for kept in past.engine.server.shard(n).decisions.values())
    assert await past.engine.door.gateway.history.decision(order_no, 1) is None


async def test_movements_say_why_a_position_holds_what_it_holds(past: Past) -> None:
    await past.allocated(1, quantity=3)
    await past.cancelled(2, quantity=1)
    past.fold()
    found = await past.get("/v1/inventory/movements", node_id="N-0", sku="SKU-0")
    rows = [(row["kind"], row["allocated"], row["balance_on_hand"], row["balance_allocated"]) for row in found["data"]]
    assert rows == [
        ("cancelled", -1, 50, 3),
        ("allocated", 1, 50, 4),
        ("allocated", 3, 50, 3),
        ("received", 0, 50, 0),
    ]
    assert [row["order_id"] for row in found["data"]] == ["A-2", "A-2", "A-1", None]
    live = (await past.get("/v1/availability", sku="SKU-0", node_id="N-0", consistency="strict"))["data"][0]
    assert (live["on_hand"], live["allocated"]) == (rows[0][2], rows[0][3])
    second = await past.get("/v1/inventory/movements", node_id="N-0", sku="SKU-0", limit=2)
    rest = await past.get("/v1/inventory/movements", node_id="N-0", sku="SKU-0", cursor=second["next_cursor"])
    assert [*second["data"], *rest["data"]] == found["data"]
    (only,) = (await past.get("/v1/inventory/movements", node_id="N-0", sku="SKU-0", kind="received"))["data"]
    assert (only["on_hand"], only["balance_on_hand"]) == (50, 50)


async def test_why_an_order_changed_can_be_read_later(past: Past) -> None:
    shown = await past.allocated(1, quantity=3, hold_reasons=["fraud"])
    path, leg_id = f"/v1/allocations/{shown['allocation_id']}", shown["legs"][0]["leg_id"]
    for n, (step, body) in enumerate(
        (
            (f"{path}/clear-holds", {"reason": "checked"}),
            (f"/v1/legs/{leg_id}/release", {}),
            (f"/v1/legs/{leg_id}/reject", {"reason": "not found on shelf"}),
            (f"{path}/cancel", {"reason": "changed their mind"}),
        )
    ):
        answer = await past.engine.client.post(step, json=body, headers=keyed(f"why-{n}"))
        assert answer.status_code == 200, answer.text
    past.fold()
    found = await past.get(f"{path}/reasons")
    assert [(row["kind"], row["leg_id"], row["reason"]) for row in found["data"]] == [
        ("cancelled", None, "changed their mind"),
        ("leg_rejected", leg_id, "not found on shelf"),
        ("holds_cleared", None, "checked"),
    ]
    first = await past.get(f"{path}/reasons", limit=2)
    rest = await past.get(f"{path}/reasons", cursor=first["next_cursor"])
    assert [*first["data"], *rest["data"]] == found["data"]
    assert not rest["has_more"]
    moves = await past.get("/v1/inventory/movements", node_id="N-0", sku="SKU-0", kind="leg_rejected")
    assert [row["note"] for row in moves["data"]] == ["not found on shelf"]
    await past.close_ended()
    assert (await past.get(f"{path}/reasons"))["data"] == found["data"]
    stranger = past.engine.client_for(await past.engine.token("allocate:read", channels=["other"]))
    async with stranger:
        assert (await stranger.get(f"{path}/reasons")).status_code == 404


async def test_a_closed_order_is_read_as_before(past: Past) -> None:
    shown = await past.cancelled(1)
    before = await past.get(f"/v1/allocations/{shown['allocation_id']}")
    await past.close_ended()
    after = await past.get(f"/v1/allocations/{shown['allocation_id']}")
    assert {**after, "token": ""} == {**before, "token": ""}
    leg = await past.get(f"/v1/legs/{shown['legs'][0]['leg_id']}")
    assert leg["state"] == "cancelled"
    assert ids(await past.get("/v1/allocations")) == ["A-1"]


async def test_a_repeat_of_a_closed_orders_key_gets_the_order(past: Past) -> None:
    shown = await past.cancelled(1)
    await past.close_ended()
    body = an_order_body("A-1")
    again = await past.engine.client.post("/v1/allocations", json=body, headers=keyed("key-1"))
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.json()["allocation_id"] == shown["allocation_id"]
    async with past.engine.served() as base_url:  # and on the fast path
        import httpx

        headers = {**keyed("key-1"), "authorization": f"Bearer {past.engine.admin}"}
        async with httpx.AsyncClient(base_url=base_url) as client:
            fast = await client.post("/v1/allocations", json=body, headers=headers)
    assert (fast.status_code, fast.json()["allocation_id"]) == (201, shown["allocation_id"])


async def test_a_batch_sent_again_gets_the_orders_that_have_left_the_shard_too(past: Past) -> None:
    shown = await past.cancelled(1)
    await past.close_ended()
    orders = [an_order_body(f"A-{n}", idempotency_key=f"key-{n}") for n in (1, 2)]
    answer = await past.engine.client.post("/v1/allocations/batch", json={"orders": orders})
    again, new = answer.json()["results"]
    assert (again["status"], again["replayed"]) == (201, True), again
    assert again["body"]["allocation_id"] == shown["allocation_id"]
    assert (new["status"], new["replayed"]) == (201, False), new


@pytest.mark.parametrize("up_to", ["nothing", "the time before", "its opening"])
async def test_while_the_index_is_made_anew_nobody_hears_that_a_closed_order_is_none(past: Past, up_to: str) -> None:
    before = await past.allocated(1)
    past.fold()
    opened = await past.allocated(2)
    past.fold()
    path = f"/v1/allocations/{opened['allocation_id']}"
    await past.engine.client.post(f"{path}/cancel", json={}, headers=keyed("cancel"))
    await past.close_ended()
    past.forget({"nothing": 0, "the time before": 1, "its opening": 2}[up_to])
    read = await past.engine.client.get(path)
    again = await past.engine.client.post("/v1/allocations", json=an_order_body("A-2"), headers=keyed("key-2"))
    for answer in (read, again):
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable"), answer.text
    assert (await past.get(f"/v1/allocations/{before['allocation_id']}"))["order_id"] == "A-1"


async def test_nothing_of_a_closed_order_changes(past: Past) -> None:
    shown = await past.cancelled(1)
    await past.close_ended()
    path = f"/v1/allocations/{shown['allocation_id']}/cancel"
    answer = await past.engine.client.post(path, json={"reason": "late"}, headers=keyed("other"))
    assert (answer.status_code, answer.json()["code"]) == (409, "wrong_state")


async def test_movements_name_no_order_of_a_channel_that_the_key_is_not_for(past: Past) -> None:
    shown = await past.allocated(1, quantity=3)
    path = f"/v1/allocations/{shown['allocation_id']}/cancel"
    await past.engine.client.post(path, json={"reason": "said in private"}, headers=keyed("cancel"))
    past.fold()
    asked = {"node_id": "N-0", "sku": "SKU-0"}
    whole = (await past.get("/v1/inventory/movements", **asked))["data"]
    assert [row["note"] for row in whole] == ["said in private", None, None]
    for channel, expected in (
        ("web", whole),
        ("other", [row | {"order_id": None, "allocation_id": None, "note": None} for row in whole]),
    ):
        async with past.engine.client_for(await past.engine.token("inventory:read", channels=[channel])) as client:
            answer = await client.get("/v1/inventory/movements", params=asked)
            assert answer.json()["data"] == expected


async def test_a_key_of_one_channel_sees_only_that(past: Past) -> None:
    await past.allocated(1)
    past.fold()
    stranger = past.engine.client_for(await past.engine.token("allocate:read", channels=["other"]))
    assert (await stranger.get("/v1/allocations")).json()["data"] == []
    refused = await stranger.get("/v1/allocations", params={"channel": "web"})
    assert refused.status_code == 403
    await stranger.aclose()


@pytest.mark.parametrize(
    ("path", "params", "status", "code"),
    [
        ("/v1/allocations", {"sku": "NO"}, 422, "unknown_sku"),
        ("/v1/allocations", {"node_id": "NO"}, 422, "unknown_node"),
        ("/v1/allocations", {"cursor": "!"}, 400, "invalid_cursor"),
        ("/v1/allocations", {"cursor": "MS4y"}, 400, "invalid_cursor"),
        ("/v1/allocations", {"limit": "0"}, 422, "invalid_field"),
        ("/v1/allocations", {"state": "lost"}, 422, "invalid_field"),
        ("/v1/allocations", {"opened_from": "yesterday"}, 422, "invalid_field"),
        ("/v1/inventory/movements", {"node_id": "N-0"}, 422, "invalid_field"),
        ("/v1/inventory/movements", {"node_id": "N-0", "sku": "NO"}, 422, "unknown_sku"),
    ],
)
async def test_what_cannot_be_asked_is_said(past: Past, path: str, params: Any, status: int, code: str) -> None:
    past.fold()
    answer = await past.engine.client.get(path, params=params)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


async def test_without_an_index_lists_are_unavailable_and_reads_are_not(past: Past) -> None:
    shown = await past.allocated(1)
    listed = await past.engine.client.get("/v1/allocations")
    assert (listed.status_code, listed.json()["code"]) == (503, "unavailable")
    assert (await past.get(f"/v1/allocations/{shown['allocation_id']}"))["order_id"] == "A-1"
    unknown = await past.engine.client.get("/v1/allocations/alc_US100_0000000000001")
    assert (unknown.status_code, unknown.json()["code"]) == (503, "unavailable"), "it may have left its shard"
    past.fold()
    unknown = await past.engine.client.get("/v1/allocations/alc_US100_0000000000001")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
