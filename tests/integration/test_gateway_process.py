"""`python -m gateway` as a process: finds its shards through the journal's server, serves, drains, exits. Never imports Ray."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from engine.journal.discovery import Directory
from engine.journal.embedded import EmbeddedServer
from engine.journal.redis_journal import RedisJournal
from engine.protocol import shard_core
from tests.conftest import eventually
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed


@asynccontextmanager
async def engine_on_a_server(folder: Path) -> AsyncIterator[tuple[GatewayEngine, str]]:
    """Shards of this process that journal on a real server, where other processes find them."""
    server = EmbeddedServer()
    await asyncio.to_thread(server.start, folder / "data")
    directory = Directory(server.url)
    engine = GatewayEngine(folder, shards=1)
    try:
        for shard in (engine.control, *engine.stock):
            shard.journal = RedisJournal(server.url, shard.shard)
        await engine.start()
        yield engine, server.url
    finally:
        await engine.close()
        await directory.close()
        await asyncio.to_thread(server.stop)


@asynccontextmanager
async def gateway(url: str, **settings: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("QM_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "gateway",
        "--port",
        str(port),
        env={**clean, "QM_REDIS_URL": url, **settings},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60.0) as client:
            yield process, client
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.timeout(1_800)
async def test_it_serves_drains_and_exits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_core, "AFTER_WAIT_MS", 5_000)
    async with engine_on_a_server(tmp_path) as (engine, url), gateway(url) as (process, client):
        assert process.stderr is not None
        said = asyncio.create_task(process.stderr.read())
        await eventually(lambda: ready(client), within_s=60.0, every_s=0.05)
        await engine.stock_up("N-0", "SKU-0", 5)
        bearer = f"Bearer {engine.admin}"
        answer = await client.post("/v1/allocations", json=an_order_body(), headers=keyed("k-1", authorization=bearer))
        assert answer.status_code == 201, answer.text
        held_up = asyncio.create_task(
            client.post(
                "/v1/allocations",
                json=an_order_body("A-2"),
                headers=keyed("k-2", authorization=bearer, **{"x-qm-after": "1:9999999999:1"}),
            )
        )

        async def in_flight() -> bool:
            text = (await client.get("/metrics", headers={"authorization": bearer})).text
            return "quartermaster_gateway_in_flight_requests 2.0" in text

        await eventually(in_flight)
        process.send_signal(signal.SIGTERM)
        assert (await held_up).json()["code"] == "view_behind"
        assert await asyncio.wait_for(process.wait(), 120.0) == 0
        loaded = (await said).decode()
        imported = {line.rpartition("|")[2].strip() for line in loaded.splitlines() if line.startswith("import time:")}
        assert "gateway.app" in imported
        assert not imported & {"ray", "ortools", "numba", "engine.actors"}
