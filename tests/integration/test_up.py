"""`quartermaster up` as a process: restart, orphans, kills. One machine, one folder a test."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest

from engine.client.cluster import Cluster
from engine.domain.commands import GetStatus
from engine.domain.replies import StatusReply
from engine.journal.discovery import Directory
from tests.conftest import eventually
from tests.integration.engine_process import Engine, command
from tests.integration.network_over_http import fresh, order, post, set_up_network

pytestmark = pytest.mark.timeout(1_800)
"""Each starts the whole engine, up to three times."""
CLIENTS = 24
ORDERS_EACH = 40


def wait_until(check, *, within_s: float = 120.0) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.05)


def test_state_survives_an_orderly_restart_and_a_kill_of_everything(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "data", shards=2).start()
    try:
        with engine.client() as client:
            set_up_network(client)
            first = post(client, "/v1/allocations", order({"SKU-1": 1, "SKU-2": 2}))
            assert first.status_code == 201, first.text
        log = engine.log.read_text()
        assert engine.facts["key"] not in log, "a log is no place for it"
        assert "admin.key" in log
        assert engine.stop() == 0

        engine.start()
        with engine.client() as client:
            again = client.get(f"/v1/allocations/{first.json()['allocation_id']}")
            assert again.status_code == 200, again.text
            assert again.json()["legs"] == first.json()["legs"]
            second = post(client, "/v1/allocations", order({"SKU-1": 1}))
            assert second.status_code == 201, second.text
        engine.kill_everything()

        engine.start()
        with engine.client() as client:
            for answer in (first, second):
                again = client.get(f"/v1/allocations/{answer.json()['allocation_id']}")
                assert again.status_code == 200
            seen = client.get("/v1/availability", params={"sku": "SKU-1", "consistency": "strict"}).json()
            assert sum(p["allocated"] for p in seen["data"]) == 2
    finally:
        engine.stop()


def test_an_orphaned_server_is_adopted_never_doubled(tmp_path: Path) -> None:
    """Only the command is killed: the server lives on, and the next start takes it over."""
    engine = Engine(tmp_path / "data").start()
    try:
        with engine.client() as client:
            set_up_network(client)
            placed = post(client, "/v1/allocations", order({"SKU-1": 1})).json()
        server = engine.pids["server"]
        engine.kill_command()
        os.kill(server, 0)  # still there
        engine.start()
        assert engine.pids["server"] == server
        with engine.client() as client:
            assert client.get(f"/v1/allocations/{placed['allocation_id']}").status_code == 200
    finally:
        engine.stop()


def test_two_commands_on_one_folder_is_a_clear_error(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "data").start()
    other = Engine(tmp_path / "data")
    try:
        code, said = other.fails_to_start()
        assert code == 1
        assert "up.lock" in said or "another" in said.lower()
    finally:
        engine.stop()


def test_a_killed_gateway_comes_back_on_its_port_which_nobody_else_gets(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "data").start()
    try:
        host, port = engine.url.removeprefix("http://").split(":")
        before = gateway_process(engine)
        os.kill(before, signal.SIGKILL)

        def serves() -> bool:
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind((host, int(port)))
            try:
                return httpx.get(f"{engine.url}/livez", timeout=5.0).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(serves)
        assert gateway_process(engine) != before
        with engine.client() as client:
            set_up_network(client)
    finally:
        engine.stop()


def gateway_process(engine: Engine) -> int:
    """The process that serves HTTP: a child of the actor that hosts it."""
    (gateway,) = [pid for pid in engine.processes() if b"\0-m\0gateway\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return gateway


def test_shards_killed_under_load_come_back_with_nothing_lost(tmp_path: Path) -> None:
    """kill -9 of each shard while many orders are on their way: all are answered at last, each acknowledged one is there once."""
    engine = Engine(tmp_path / "data", shards=2).start()
    try:
        with engine.client() as client:
            set_up_network(client, units=1_000)
        acknowledged = asyncio.run(_load_with_kills(engine))
        assert len(set(acknowledged.values())) == len(acknowledged) == CLIENTS * ORDERS_EACH
        ids = tmp_path / "acknowledged"
        ids.write_text("".join(f"{order_id}\n" for order_id in acknowledged))
        code, said = command(engine, "verify", "--acknowledged", str(ids))
        assert code == 0, said
        assert "drift 0" in said
        with engine.client() as client:
            seen = client.get("/v1/availability", params={"sku": "SKU-1", "consistency": "strict"}).json()
            assert sum(p["allocated"] for p in seen["data"]) == len(acknowledged)
    finally:
        engine.stop()


async def _load_with_kills(engine: Engine) -> dict[str, str]:
    """Order id -> allocation id of what many clients at once were told, while every shard dies once."""
    acknowledged: dict[str, str] = {}
    waiting = 0

    async def shopper(client: httpx.AsyncClient, n: int) -> None:
        nonlocal waiting
        for k in range(ORDERS_EACH):
            body, key = order({"SKU-1": 1, "SKU-2": 1}, near="NYC" if (n + k) % 2 else "LAX"), fresh("key")
            deadline = time.monotonic() + 300
            while True:
                waiting += 1
                answer = await client.post("/v1/allocations", json=body, headers={"idempotency-key": key})
                waiting -= 1
                if answer.status_code == 201:
                    acknowledged[body["order_id"]] = answer.json()["allocation_id"]
                    break
                assert answer.status_code == 503, answer.text
                assert "retry-after" in answer.headers
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)

    async def kills() -> None:
        for shard in range(2):
            wanted = len(acknowledged) + CLIENTS
            await eventually(lambda wanted=wanted: len(acknowledged) >= wanted, within_s=300)
            pid = await _pid_of_shard(engine.facts["redis_url"], shard)
            await eventually(
                lambda: waiting >= CLIENTS // 2, what="so many orders on their way that a kill shows something"
            )
            os.kill(pid, signal.SIGKILL)

    headers = {"Authorization": f"Bearer {engine.facts['key']}"}
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=engine.url, headers=headers, timeout=60, limits=limits) as client:
        await asyncio.gather(kills(), *(shopper(client, n) for n in range(CLIENTS)))
    return acknowledged


def test_keys_are_made_listed_and_revoked_by_the_command(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "data").start()
    try:
        with engine.client() as client:
            set_up_network(client)
        code, said = command(engine, "keys", "add", "shop", "--scope", "allocate:write", "--channel", "web", "--json")
        assert code == 0, said
        made = json.loads(said)
        with httpx.Client(base_url=engine.url, headers={"Authorization": f"Bearer {made['token']}"}) as shop:

            def status() -> int:
                return post(shop, "/v1/allocations", order({"SKU-1": 1})).status_code

            wait_until(lambda: status() == 201)
            assert shop.get("/v1/nodes").status_code == 403
            _, said = command(engine, "keys", "list", "--json")
            (shown,) = [key for key in json.loads(said) if key["key_id"] == made["key_id"]]
            assert (shown["name"], shown["state"], shown["channels"]) == ("shop", "good", ["web"])
            assert made["token"].rpartition("_")[2] not in said
            assert command(engine, "keys", "revoke", made["key_id"])[0] == 0
            wait_until(lambda: status() == 401)
        assert command(engine, "keys", "add", "typo", "--scope", "allocate:wrong")[0] == 2
        assert command(engine, "keys", "add", "shop", "--scope", "*", "--channel", "nowhere")[0] == 3
        assert command(engine, "keys", "revoke", "nosuchkey")[0] == 3
    finally:
        engine.stop()


def test_a_killed_gateway_comes_back(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "data").start()
    try:
        os.kill(engine.pids[next(name for name in engine.pids if name.startswith("gateway-"))], signal.SIGKILL)

        def ready() -> bool:
            try:
                return httpx.get(engine.url + "/readyz", timeout=2).status_code == 200
            except httpx.HTTPError:
                return False

        wait_until(lambda: not ready())
        wait_until(ready)
        with engine.client() as client:
            assert client.get("/v1/nodes").status_code == 200
    finally:
        engine.stop()


def test_without_its_server_writes_are_refused_and_it_heals(tmp_path: Path) -> None:
    """The embedded server is stopped (SIGSTOP) and goes on again: 503 with Retry-After meanwhile, nothing acknowledged."""
    engine = Engine(tmp_path / "data").start()
    try:
        with engine.client() as client:
            set_up_network(client)
            os.kill(engine.pids["server"], signal.SIGSTOP)
            try:
                body, key = order({"SKU-1": 1}), fresh("key")
                answer = post(client, "/v1/allocations", body, key=key)
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["retry-after"]) >= 1
            finally:
                os.kill(engine.pids["server"], signal.SIGCONT)
            wait_until(lambda: post(client, "/v1/allocations", body, key=key).status_code == 201)
            seen = client.get("/v1/availability", params={"sku": "SKU-1", "consistency": "strict"}).json()
            assert sum(p["allocated"] for p in seen["data"]) == 1
    finally:
        engine.stop()


def test_a_killed_server_is_started_again_with_all_it_had(tmp_path: Path) -> None:
    """kill -9 of the embedded server under a running engine."""
    engine = Engine(tmp_path / "data").start()
    try:
        with engine.client() as client:
            set_up_network(client)
            first = post(client, "/v1/allocations", order({"SKU-1": 1}))
            assert first.status_code == 201
            os.kill(engine.pids["server"], signal.SIGKILL)
            body, key = order({"SKU-1": 1}), fresh("key")
            wait_until(lambda: post(client, "/v1/allocations", body, key=key).status_code == 201)
            again = client.get(f"/v1/allocations/{first.json()['allocation_id']}")
            assert again.status_code == 200
            seen = client.get("/v1/availability", params={"sku": "SKU-1", "consistency": "strict"}).json()
            assert sum(p["allocated"] for p in seen["data"]) == 2
    finally:
        engine.stop()


async def _pid_of_shard(redis_url: str, shard: int) -> int:
    """The process of a shard now, as it says itself."""
    directory = Directory(redis_url)
    cluster = Cluster(directory.find)
    try:
        reply = await cluster.ask(shard, GetStatus(), timeout_s=60.0)
        assert isinstance(reply, StatusReply), reply
        return int(reply.facts["pid"])
    finally:
        await cluster.close()
        await directory.close()
