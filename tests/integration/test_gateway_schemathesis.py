"""Schemathesis over the OpenAPI document against a real gateway: whatever it invents is answered as the document says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import pytest
import schemathesis
from schemathesis import Case
from schemathesis.config import SchemathesisConfig

from gateway.openapi import document
from tests.integration.gateway_engine import GatewayEngine

MAX_EXAMPLES = 8
_MSGPACK = ("application/vnd.msgpack", "application/msgpack", "application/x-msgpack")


@schemathesis.serializer(*_MSGPACK)
def _packed(ctx: Any, value: Any) -> bytes:
    return msgspec.msgpack.encode(value, enc_hook=str)


class Served:
    """The engine and its gateway in a thread with a loop of its own, for a client that blocks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="gateway")
        self._loop: asyncio.AbstractEventLoop
        self.url = ""
        self.token = ""

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        engine = await GatewayEngine(self._folder, body_bytes_max=1024 * 1024).start()
        await engine.stock_up("N-0", "SKU-0", 1_000)
        async with engine.served() as self.url:
            self.token = engine.admin
            self._ready.set()
            await self._stop.wait()
        await engine.door.gateway.jobs.close()
        await engine.close()

    def start(self) -> Served:
        self._thread.start()
        assert self._ready.wait(20.0)
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20.0)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("gw")).start()
    yield served
    served.stop()


schema = schemathesis.openapi.from_dict(
    document(), config=SchemathesisConfig.from_dict({"generation": {"max-examples": MAX_EXAMPLES}})
)


@schema.parametrize()
@hypothesis.settings(
    max_examples=MAX_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
def test_the_document_is_kept(case: Case, served: Served) -> None:
    case.call_and_validate(base_url=served.url, headers={"Authorization": f"Bearer {served.token}"})
