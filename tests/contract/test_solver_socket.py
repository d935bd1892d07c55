"""A shard's line to the solver process: what is answered, what is dropped, and that it never holds anybody up."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from engine.actors import solver as solver_module
from engine.actors import solver_client
from engine.actors.solver import Answer, SolverServer
from engine.actors.solver_client import SolverClient, SolveRequest
from engine.protocol.effects import Solve
from tests.conftest import eventually


class Solver:
    """The process in this one, with a solver that does what the problem says."""

    def __init__(self, path: Path) -> None:
        self.server = SolverServer(self.load)
        self.problems: list[bytes] = []
        self.loads = 0
        self.may_load = threading.Event()
        self.may_load.set()
        self.path = path
        self._task = asyncio.create_task(self.server.serve(path, until_solved=1_000, rest_s=900))

    def load(self) -> Answer:
        self.loads += 1
        self.may_load.wait(30)
        return self.answer

    @property
    def loaded(self) -> bool:
        return bool(self.server.facts()["loaded"])

    def answer(self, problem: bytes, *, deadline_ms: int) -> bytes:
        self.problems.append(problem)
        if problem == b"slow":
            time.sleep(0.1)  # as the solver does: nothing else runs in its process
        if problem == b"bad":
            raise ZeroDivisionError("a bug")
        return b"answer to " + problem

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def solver(tmp_path: Path) -> AsyncIterator[Solver]:
    solver = Solver(tmp_path / "solver.sock")
    yield solver
    await solver.close()


@pytest.fixture
async def client(solver: Solver) -> AsyncIterator[SolverClient]:
    client = SolverClient(solver.path)
    await eventually(lambda: client.connected_now)
    client.orders_come()
    await eventually(lambda: solver.loaded)
    yield client
    await client.close()


def solve(problem: bytes) -> Solve:
    return Solve(1, 0, problem)


async def test_a_problem_is_answered(client: SolverClient) -> None:
    assert await client.solve(solve(b"one"), 60_000) == b"answer to one"


async def test_a_problem_that_breaks_the_solver_is_answered_none_and_the_next_one_is_solved(
    client: SolverClient, solver: Solver
) -> None:
    assert await client.solve(solve(b"bad"), 60_000) is None
    assert await client.solve(solve(b"good"), 60_000) == b"answer to good"
    assert solver.server.facts()["failed"] == 1


async def test_the_library_is_loaded_once_orders_come_and_nobody_waits_for_it(solver: Solver) -> None:
    solver.may_load.clear()
    client = SolverClient(solver.path)
    await eventually(lambda: client.connected_now)
    assert solver.loads == 0  # an engine that does nothing does without it
    client.orders_come()
    client.orders_come()
    await eventually(lambda: solver.loads == 1)
    assert await asyncio.wait_for(client.solve(solve(b"early"), 60_000), 30) is None  # the greedy plan, at once
    solver.may_load.set()
    await eventually(lambda: solver.loaded)
    assert await client.solve(solve(b"one"), 60_000) == b"answer to one"
    assert (solver.loads, solver.problems) == (1, [b"one"])
    await client.close()


async def test_a_problem_loads_the_library_too(solver: Solver) -> None:
    client = SolverClient(solver.path)
    await eventually(lambda: client.connected_now)
    assert await client.solve(solve(b"first"), 60_000) is None
    await eventually(lambda: solver.loaded)
    assert await client.solve(solve(b"next"), 60_000) == b"answer to next"
    await client.close()


async def test_a_solver_that_has_worked_ends_after_a_quiet_while_and_one_that_has_not_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solver_module, "CHECK_S", 0.01)
    server = SolverServer(lambda: lambda problem, *, deadline_ms: b"answer")
    serving = asyncio.create_task(server.serve(tmp_path / "solver.sock", until_solved=9, rest_s=0.01))
    client = SolverClient(tmp_path / "solver.sock")
    await eventually(lambda: client.connected_now)
    assert not serving.done()
    client.orders_come()
    await asyncio.wait_for(serving, 30)
    assert server.facts()["loaded"]
    await client.close()


async def test_a_solver_that_never_rests_loads_its_library_at_the_start_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solver_module, "CHECK_S", 0.01)
    server = SolverServer(lambda: lambda problem, *, deadline_ms: b"answer")
    serving = asyncio.create_task(server.serve(tmp_path / "solver.sock", until_solved=1, rest_s=0))
    await eventually(lambda: server.facts()["loaded"])
    client = SolverClient(tmp_path / "solver.sock")
    await eventually(lambda: client.connected_now)
    assert not serving.done()  # many checks later
    assert await client.solve(solve(b"first"), 60_000) == b"answer"
    await asyncio.wait_for(serving, 30)
    await client.close()


@pytest.mark.parametrize(("rest_s", "said"), [(0.0, 1), (900.0, 1), (0.03, 3)])
async def test_a_shard_says_that_orders_come_often_enough_for_the_solver_not_to_rest(
    solver: Solver, monkeypatch: pytest.MonkeyPatch, rest_s: float, said: int
) -> None:
    words: list[SolveRequest] = []
    monkeypatch.setattr(solver.server, "take", lambda request, transport: words.append(request))
    client = SolverClient(solver.path, rest_s=rest_s)
    await eventually(lambda: client.connected_now)
    for _ in range(6):
        client.orders_come()
        await asyncio.sleep(0.006)  # two of them are more than a third of 0.03 s
    await client.close()
    await eventually(lambda: len(words) >= said)
    assert {word.problem for word in words} == {b""}
    assert len(words) == 1 or rest_s == 0.03


async def test_a_library_that_cannot_be_loaded_ends_the_solver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver_module, "CHECK_S", 0.01)

    def breaks() -> Answer:
        raise ImportError("no library")

    serving = asyncio.create_task(SolverServer(breaks).serve(tmp_path / "solver.sock", until_solved=9, rest_s=900))
    client = SolverClient(tmp_path / "solver.sock")
    await eventually(lambda: client.connected_now)
    client.orders_come()
    with pytest.raises(ImportError):
        await asyncio.wait_for(serving, 30)
    await client.close()


async def test_what_is_overdue_when_its_turn_comes_is_not_solved(client: SolverClient, solver: Solver) -> None:
    """Also where it waited unread in the socket: else a busy solver would work for nobody but those who have left."""
    answers = await asyncio.gather(
        client.solve(solve(b"slow"), 60_000), client.solve(solve(b"late"), 40), client.solve(solve(b"patient"), 60_000)
    )
    assert answers == [b"answer to slow", None, b"answer to patient"]
    assert solver.problems == [b"slow", b"patient"]
    assert solver.server.facts()["dropped"] == 1


async def test_without_a_solver_and_without_time_the_answer_is_none_at_once(
    tmp_path: Path, client: SolverClient
) -> None:
    assert client.solve(solve(b"one"), 0).result() is None
    alone = SolverClient(tmp_path / "nobody.sock")
    assert alone.solve(solve(b"one"), 60_000).result() is None
    await alone.close()


async def test_a_solver_that_ends_leaves_nobody_waiting_and_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "solver.sock"
    connections: list[asyncio.StreamWriter] = []

    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.read(1)
        writer.transport.abort()

    server = await asyncio.start_unix_server(dies, str(path))
    client = SolverClient(path)
    await eventually(lambda: client.connected_now)
    assert await asyncio.wait_for(client.solve(solve(b"one"), 60_000), 30) is None
    server.close()
    solver = Solver(path)
    await eventually(lambda: client.connected_now)
    client.orders_come()  # the fresh process has not heard of it
    await eventually(lambda: solver.loaded)
    assert await client.solve(solve(b"two"), 60_000) == b"answer to two"
    await client.close()
    await solver.close()


async def test_a_solver_that_reads_nothing_does_not_fill_the_shards_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solver_client, "UNREAD_BYTES_MAX", 100_000)

    mute: list[asyncio.Transport] = []

    class Mute(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            mute.append(cast(asyncio.Transport, transport))
            mute[-1].pause_reading()

    server = await asyncio.get_running_loop().create_unix_server(Mute, str(tmp_path / "mute.sock"))
    client = SolverClient(tmp_path / "mute.sock")
    await eventually(lambda: client.connected_now)
    futures = [client.solve(solve(bytes(50_000)), 60_000) for _ in range(200)]
    assert sum(not future.done() for future in futures) < 50
    await client.close()
    server.close()
    for transport in mute:
        transport.abort()
    await asyncio.sleep(0)
