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
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import SchemathesisConfig

from engine.archive.index import connect_index, sqlite_url
from engine.archive.store import SegmentStore
from engine.protocol.tokens import parse_token
from gateway.jobs.reader import TYPES
from gateway.openapi import document
from tests.integration.gateway_engine import GatewayEngine

MAX_EXAMPLES = 8
ANSWER_S = 20.0
"""No input may make the gateway work for long; what a busy machine takes is no matter here."""


def _within_64_bits(value: Any) -> Any:
    """MessagePack has no larger integers."""
    if isinstance(value, dict):
        return {str(k): _within_64_bits(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_within_64_bits(v) for v in value]
    return str(value) if isinstance(value, int) and not -(2**63) <= value < 2**64 else value


@schemathesis.serializer("application/vnd.msgpack")
def _packed(ctx: Any, value: Any) -> bytes:
    return msgspec.msgpack.encode(_within_64_bits(value), enc_hook=str)


@schemathesis.serializer(*TYPES)
def _file(ctx: Any, value: Any) -> bytes:
    return value.encode("utf-8", "replace") if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str)


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
        index_url = sqlite_url(self._folder / "index.db")
        database = connect_index(index_url)
        settings = {"archive_url": str(self._folder / "archive"), "index_url": index_url}
        engine = await GatewayEngine(self._folder, body_bytes_max=1024 * 1024, **settings).start()
        await engine.stock_up("N-0", "SKU-0", 1_000)
        engine.archive(
            SegmentStore(settings["archive_url"]), database
        )  # else an order that never was may be one that it lacks
        async with engine.served() as self.url:
            self.token = engine.admin
            self._ready.set()
            await self._stop.wait()
        await engine.door.gateway.jobs.close()
        await engine.close()

    def start(self) -> Served:
        self._thread.start()
        assert self._ready.wait(60.0)
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60.0)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("gw")).start()
    yield served
    served.stop()


load_all_checks()
# No schema can say that a node exists, a cursor was given out, or a document names what its path names: a request that
# fits its schema may be refused with a typed 4xx. That it is typed, and documented, the other checks see to.
_NOT_SAID = CHECKS.get_one("positive_data_acceptance")
# An item may be called "import", so that path also takes the methods of /v1/items/{sku}.
_SHARED_PATH = CHECKS.get_one("allow_header_conformance")
# A batch and a file are taken as wholes; what is wrong with an order or a row is said in its place of a 200 or of the job.
_BY_ROW = CHECKS.get_one("negative_data_rejection")

schema = schemathesis.openapi.from_dict(
    document(), config=SchemathesisConfig.from_dict({"generation": {"max-examples": MAX_EXAMPLES}})
)


# A stream that is asked for well never ends its answer: tests/integration/test_gateway_stream.py.
@schema.exclude(path="/v1/stream").parametrize()
@hypothesis.settings(
    max_examples=MAX_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
def test_the_document_is_kept(case: Case, served: Served) -> None:
    after = case.headers.get("X-QM-After")
    if after is not None and parse_token(after) is not None:
        del case.headers["X-QM-After"]  # an invented token is of entries that never come: a second's wait, then 503
    excluded = [_NOT_SAID]
    if case.operation.path.endswith("/import"):
        excluded += [_SHARED_PATH, _BY_ROW]
    elif case.operation.path.endswith("/batch"):
        excluded.append(_BY_ROW)
    response = case.call_and_validate(
        base_url=served.url, headers={"Authorization": f"Bearer {served.token}"}, excluded_checks=excluded
    )
    assert response.elapsed < ANSWER_S
