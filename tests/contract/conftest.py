"""Servers of the journal contract, one of each kind for all tests of a module."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from engine.journal.embedded import EmbeddedServer
from tests.contract.journal_backends import Backend, MemoryBackend, ServerBackend, started


@pytest.fixture(scope="module", params=["memory", "valkey", "redis"])
def qm_journal_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """None for memory, else a running server."""
    if request.param == "memory":
        yield None
        return
    folder: Path = tmp_path_factory.mktemp(request.param)
    server = started(request.param, folder)
    yield server
    server.stop(timeout_s=60)


@pytest.fixture
async def backend(qm_journal_server: EmbeddedServer | None) -> AsyncIterator[Backend]:
    made: Backend = MemoryBackend() if qm_journal_server is None else ServerBackend(qm_journal_server.url)
    yield made
    await made.close()


class Left(Exception):
    """A process would have ended here."""


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Why processes would have ended themselves, in a test that lives on."""
    from engine.actors import runner

    reasons: list[str] = []

    def leave(code: int, why: str, **facts: object) -> None:
        reasons.append(why)
        raise Left(why)

    monkeypatch.setattr(runner, "leave", leave)
    return reasons
