"""Shards that are added to a running engine and ended, while orders flow, with kills between the steps: nothing is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.client.cluster import Cluster
from engine.domain.commands import GetStatus
from engine.domain.move_commands import AddShard
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import ConfigReply, StatusReply
from engine.journal.discovery import Directory
from tests.conftest import eventually
from tests.integration.engine_process import Engine, command
from tests.integration.network_over_http import fresh, order, set_up_network

pytestmark = pytest.mark.timeout(1_800)
CLIENTS = 6
PAUSE_S = 0.05
"""Between a client's orders: the new shard's process has to start beside them."""


def _said(engine: Engine, *arguments: str) -> str:
    code, said = command(engine, *arguments, timeout_s=600)
    assert code == 0, (arguments, said)
    return said


def _listed(engine: Engine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_said(engine, "shards", "list", "--json"))
    return found


def _owned(engine: Engine) -> dict[int, list[str]]:
    return {row["shard"]: [part["name"] for part in row["parts"]] for row in _listed(engine)["shards"]}


async def _pid(engine: Engine, shard: int) -> int:
    directory = Directory(engine.facts["redis_url"])
    cluster = Cluster(directory.find, kinds=("placement",))
    try:
        status = await cluster.ask(shard, GetStatus(), timeout_s=120.0)
        assert isinstance(status, StatusReply), status
        return int(status.facts["pid"])
    finally:
        await cluster.close()
        await directory.close()


async def _added_and_killed(engine: Engine, number: int) -> None:
    """The control shard dies right after it journaled that there is one more, the supervisor while it starts it."""
    directory = Directory(engine.facts["redis_url"])
    cluster = Cluster(directory.find, kinds=("placement",))
    control = await _pid(engine, CONTROL_SHARD)
    try:
        added = await cluster.ask(CONTROL_SHARD, AddShard(number), timeout_s=30.0)
        assert isinstance(added, ConfigReply), added
        os.kill(control, signal.SIGKILL)
        os.kill(engine.pids["supervisor"], signal.SIGKILL)
    finally:
        await cluster.close()
        await directory.close()


def _is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_shards_come_and_go_while_orders_flow(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "data", shards=2).start()
    try:
        with engine.client() as client:
            set_up_network(client, units=5_000)
        acknowledged = asyncio.run(_orders_while_shards_change(engine))
        assert len(set(acknowledged.values())) == len(acknowledged) > CLIENTS
        ids = tmp_path / "acknowledged"
        ids.write_text("".join(f"{order_id}\n" for order_id in acknowledged))
        assert "drift 0" in _said(engine, "verify", "--acknowledged", str(ids))
        owned = _owned(engine)
        assert sorted(owned) == [0, 2] and any(owned[2]), owned
        engine.kill_everything()

        engine.start()  # with --shards 2, as before
        listed = _listed(engine)
        assert _owned(engine) == owned and (listed["ended"], listed["joining"]) == ([1, 3], [])
        assert "drift 0" in _said(engine, "verify", "--acknowledged", str(ids))
        assert "shard-1" not in engine.pids
        with engine.client() as client:
            assert [shard["shard"] for shard in client.get("/readyz").json()["shards"]] == ["0", "2", "control"]
            for order_id in list(acknowledged)[:: max(1, len(acknowledged) // 20)]:
                found = client.get(f"/v1/allocations/{acknowledged[order_id]}")
                assert found.status_code == 200, found.text
    finally:
        engine.stop()


async def _orders_while_shards_change(engine: Engine) -> dict[str, str]:
    """Order id -> allocation id of what clients were told, while a shard is added, filled, another one drained and ended."""
    acknowledged: dict[str, str] = {}
    done = asyncio.Event()

    async def shopper(client: httpx.AsyncClient, n: int) -> None:
        while not done.is_set():
            body, key = order({"SKU-1": 1, "SKU-2": 1}, near="NYC" if n % 2 else "LAX"), fresh("key")
            deadline = time.monotonic() + 240
            while True:
                answer = await client.post("/v1/allocations", json=body, headers={"idempotency-key": key})
                if answer.status_code == 201:
                    acknowledged[body["order_id"]] = answer.json()["allocation_id"]
                    await asyncio.sleep(PAUSE_S)
                    break
                assert answer.status_code == 503, answer.text
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)

    async def run(*arguments: str) -> str:
        return await asyncio.to_thread(_said, engine, *arguments)

    def is_there(shard: int) -> Callable[[], Awaitable[bool]]:
        async def check() -> bool:
            return shard in await asyncio.to_thread(_owned, engine)

        return check

    async def orders_go_on() -> None:
        have = len(acknowledged)
        await eventually(lambda: len(acknowledged) >= have + CLIENTS, within_s=240)

    async def changes(client: httpx.AsyncClient) -> None:
        try:
            await eventually(lambda: len(acknowledged) >= CLIENTS, within_s=180)
            assert "shard 2 serves" in await run("shards", "add")
            assert (await asyncio.to_thread(_owned, engine))[2] == []
            assert "none was added" in await run("shards", "add", "--total", "3")
            await run("shards", "rebalance")
            assert (await asyncio.to_thread(_owned, engine))[2], "the new shard has its share"
            await orders_go_on()
            seen = await client.get("/v1/availability", params={"sku": "SKU-1", "consistency": "strict"})
            assert [at["shard"] for at in seen.json()["as_of"]] == [0, 1, 2]

            code, said = await asyncio.to_thread(command, engine, "shards", "end", "1")
            assert code == 1 and "shard 1 still has" in said, "what is left is named"
            pid = await _pid(engine, 1)
            await run("shards", "drain", "1")
            assert "shard 1 has ended" in await run("shards", "end", "1")
            assert "shard 1 has ended" in await run("shards", "end", "1"), "repeating it changes nothing"
            await eventually(lambda: not _is_alive(pid), within_s=180)
            await orders_go_on()
            code, said = await asyncio.to_thread(command, engine, "shards", "move", "node:NYC", "--to", "1")
            assert code == 1 and "shard 1 does not serve" in said
            seen = await client.get("/v1/availability", params={"sku": "SKU-1", "consistency": "strict"})
            assert [at["shard"] for at in seen.json()["as_of"]] == [0, 2]

            await _added_and_killed(engine, 3)  # its number is not the one of the shard that ended
            await eventually(is_there(3), within_s=240)
            os.kill(await _pid(engine, 3), signal.SIGKILL)
            await orders_go_on()
            await run("shards", "end", "3")
            told = '"event": "archived to its end"'
            await eventually(lambda: engine.log.read_text().count(told) >= 2, within_s=240, every_s=0.5)
        finally:
            done.set()

    headers = {"Authorization": f"Bearer {engine.facts['key']}"}
    async with httpx.AsyncClient(base_url=engine.url, headers=headers, timeout=30) as client:
        await asyncio.gather(changes(client), *(shopper(client, n) for n in range(CLIENTS)))
    return acknowledged
