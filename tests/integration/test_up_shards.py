"""Parts that move between the shards of a running engine, shards that are added, and one that is drained: nothing is lost."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from pathlib import Path

import httpx
import msgspec
import pytest

from engine.client.cluster import Cluster
from engine.domain.commands import GetConfig, GetStatus
from engine.domain.config import Placement
from engine.domain.move_commands import BeginMove
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import ConfigReply, StatusReply
from engine.journal.discovery import Directory
from tests.conftest import eventually
from tests.integration.engine_process import Engine, command
from tests.integration.network_over_http import fresh, order, post, set_up_network

pytestmark = pytest.mark.timeout(1_800)
CLIENTS = 8
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-and-drain-shards.md"
TOLD = re.findall(r"^quartermaster (?:shards|verify).*$", PAGE.read_text("utf-8"), re.M)
"""Every command of the page, in its order."""
MOVES = (("node:NYC", 1), ("slot:US100", 1), ("node:NYC", 0), ("slot:US900", 0), ("band:1", 0), ("slot:US100", 0))


def test_parts_move_under_load_and_a_killed_source_loses_nothing(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "data", shards=2).start()
    try:
        with engine.client() as client:
            set_up_network(client, units=5_000)
            body, key = order({"SKU-1": 1}, near="NYC"), fresh("key")
            first = client.post("/v1/allocations", json=body, headers={"idempotency-key": key})
            assert first.status_code == 201, first.text
        acknowledged = asyncio.run(_load_with_moves(engine))
        assert len(set(acknowledged.values())) == len(acknowledged) > CLIENTS
        with engine.client() as client:
            again = client.post("/v1/allocations", json=body, headers={"idempotency-key": key})
            assert again.json()["allocation_id"] == first.json()["allocation_id"], (
                "a repeat after moves is the first order"
            )
            seen = client.get("/v1/availability", params={"sku": "SKU-1", "consistency": "strict"}).json()
            assert sum(p["allocated"] for p in seen["data"]) == len(acknowledged) + 1
        ids = tmp_path / "acknowledged"
        ids.write_text("".join(f"{order_id}\n" for order_id in [body["order_id"], *acknowledged]))
        code, said = command(engine, "verify", "--acknowledged", str(ids))
        assert code == 0, said
        assert "drift 0" in said
    finally:
        engine.stop()


async def _load_with_moves(engine: Engine) -> dict[str, str]:
    """Order id -> allocation id of what clients were told, while parts move and the source of one move is killed."""
    acknowledged: dict[str, str] = {}
    done = asyncio.Event()

    async def shopper(client: httpx.AsyncClient, n: int) -> None:
        while not done.is_set():
            body, key = order({"SKU-1": 1, "SKU-2": 1}, near="NYC" if n % 2 else "LAX"), fresh("key")
            deadline = time.monotonic() + 300
            while True:
                answer = await client.post("/v1/allocations", json=body, headers={"idempotency-key": key})
                if answer.status_code == 201:
                    acknowledged[body["order_id"]] = answer.json()["allocation_id"]
                    break
                assert answer.status_code == 503, answer.text
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)

    async def moves() -> None:
        try:
            await eventually(lambda: len(acknowledged) >= CLIENTS, within_s=300)
            for part, target in MOVES:
                code, said = await asyncio.to_thread(command, engine, "shards", "move", part, "--to", str(target))
                assert code == 0, said
                have = len(acknowledged)
                await eventually(lambda have=have: len(acknowledged) > have, within_s=300)
            code, said = await asyncio.to_thread(command, engine, "shards", "move", MOVES[-1][0], "--to", "0")
            assert (code, said) == (0, "0 moved\n"), "repeating it changes nothing"
            await _kill_source(engine, "slot:US100", 0, 1)
            have = len(acknowledged)
            await eventually(lambda: len(acknowledged) >= have + CLIENTS, within_s=300)
        finally:
            done.set()

    headers = {"Authorization": f"Bearer {engine.facts['key']}"}
    async with httpx.AsyncClient(base_url=engine.url, headers=headers, timeout=60) as client:
        await asyncio.gather(moves(), *(shopper(client, n) for n in range(CLIENTS)))
    return acknowledged


async def _kill_source(engine: Engine, part: str, source: int, target: int) -> None:
    """kill -9 of the source while its part is on its way; then the move is made or given up, never half."""
    directory = Directory(engine.facts["redis_url"])
    cluster = Cluster(directory.find, kinds=("placement",))
    try:
        status = await cluster.ask(source, GetStatus(), timeout_s=60.0)
        assert isinstance(status, StatusReply), status
        begun = await cluster.ask(CONTROL_SHARD, BeginMove(part, target), timeout_s=60.0)
        assert isinstance(begun, ConfigReply), begun
        os.kill(int(status.facts["pid"]), signal.SIGKILL)
        deadline = time.monotonic() + 300
        while (await _map(cluster)).moving is not None:
            assert time.monotonic() < deadline, "the move neither ended nor was given up"
            await asyncio.sleep(0.05)
        assert (await _map(cluster)).slots["US100"] in (source, target)
    finally:
        await cluster.close()
        await directory.close()


async def _map(cluster: Cluster) -> Placement:
    reply = await cluster.ask(CONTROL_SHARD, GetConfig("placement", ""), timeout_s=60.0)
    assert isinstance(reply, ConfigReply), reply
    return msgspec.json.decode(reply.documents[0].document, type=Placement)


def _owned(engine: Engine) -> dict[int, list[str]]:
    code, said = command(engine, "shards", "list", "--json")
    assert code == 0, said
    return {row["shard"]: [part["name"] for part in row["parts"]] for row in json.loads(said)["shards"]}


def test_a_shard_is_added_filled_and_drained(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "data", shards=2).start()
    try:
        with engine.client() as client:
            set_up_network(client)
            placed = [post(client, "/v1/allocations", order({"SKU-1": 1}, near=near)) for near in ("NYC", "LAX") * 5]
            assert all(answer.status_code == 201 for answer in placed)
        for line in TOLD:
            code, said = command(engine, *line.split()[1:])
            assert code == 0, (line, said)
            if line == "quartermaster shards add":
                assert _owned(engine)[2] == [], "a new shard owns nothing yet"
            if line == "quartermaster shards rebalance":
                filled = _owned(engine)[2]
                assert any(part.startswith("node:") for part in filled), filled
                with engine.client() as client:
                    for answer in placed:
                        again = client.get(f"/v1/allocations/{answer.json()['allocation_id']}")
                        assert again.json()["legs"] == answer.json()["legs"]
                    more = [post(client, "/v1/allocations", order({"SKU-1": 1}, near=near)) for near in ("NYC", "LAX")]
                    assert all(answer.status_code == 201 for answer in more)
                    assert client.get("/readyz").json()["status"] == "ready"
        assert "drift 0" in said, "the page ends with verify"
        owned = _owned(engine)
        assert 1 not in owned and "node:NYC" in owned[2]
        with engine.client() as client:
            last = post(client, "/v1/allocations", order({"SKU-1": 1}, near="LAX"))
            assert last.status_code == 201, last.text
        engine.kill_everything()

        engine.start()
        with engine.client() as client:
            for answer in (*placed, *more, last):
                again = client.get(f"/v1/allocations/{answer.json()['allocation_id']}")
                assert again.json()["legs"] == answer.json()["legs"]
        assert sorted(_owned(engine)) == [0, 2]

        for arguments, says in (
            (("move", "node:NOWHERE", "--to", "0"), "PART: no node 'NOWHERE'"),
            (("move", "shelf:7", "--to", "0"), "PART: slot:US100, node:NODE or band:0"),
            (("move", "node:NYC", "--to", "9"), "--to: shard 9 does not serve"),
            (("drain", "9"), "shard 9 does not serve"),
        ):
            code, said = command(engine, "shards", *arguments)
            assert code in (1, 2) and says in said, said
        engine.stop()
        engine.shards = 4
        engine.start()
        assert sorted(_owned(engine)) == [0, 2, 3], "it had three, four were asked for"
    finally:
        engine.stop()
