"""The solver process: one a machine, at low priority, so that a joint problem never delays an order that has none.

It answers frames of its Unix socket one after another. A request that is overdue when its turn comes is dropped: the shard has
gone on with the greedy plan. So is one that cannot be solved, whatever the reason: the greedy plan stands.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import structlog

from engine.actors.server import remove_leftover
from engine.actors.solver_client import SolveAnswer, SolveRequest
from engine.journal.runtime import runtime_dir
from engine.logs import set_up_logging
from engine.protocol.wire import FrameError, FrameReader, frame
from engine.settings import Settings

NICENESS = 10
QUEUE_MAX = 256
EXIT_BROKEN = 71
_decode = msgspec.msgpack.Decoder(SolveRequest).decode
log = structlog.get_logger(__name__)

Answer = Callable[..., bytes]
"""(packed problem, *, deadline_ms) -> packed answer."""


class SolverServer:
    """Answers requests of a socket, one at a time, on the loop's own thread: nothing else runs in this process."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._queue: asyncio.Queue[tuple[SolveRequest, asyncio.Transport]] = asyncio.Queue(QUEUE_MAX)
        self._solved = 0
        self._dropped = 0
        self._failed = 0

    def facts(self) -> dict[str, int]:
        return {
            "solved": self._solved,
            "dropped": self._dropped,
            "failed": self._failed,
            "queued": self._queue.qsize(),
            "pid": os.getpid(),
        }

    async def serve(self, path: Path, *, until_solved: int) -> None:
        """Returns after so many problems."""
        remove_leftover(path)
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: _Connection(self._queue), str(path))
        os.chmod(path, 0o600)
        try:
            while self._solved + self._failed < until_solved:
                await self._next()
        finally:
            server.close()

    async def _next(self) -> None:
        request, transport = await self._queue.get()
        left_ms = (request.due_ns - time.monotonic_ns()) // 1_000_000
        if left_ms < 1:
            self._dropped += 1
            return
        try:
            packed = self._answer(request.problem, deadline_ms=left_ms)
            self._solved += 1
        except Exception as error:
            # A problem that the solver cannot take must not keep others from it, and its orders have their greedy plans.
            log.warning("problem not solvable", error=repr(error), bytes=len(request.problem))
            packed = b""
            self._failed += 1
        transport.write(frame(SolveAnswer(request.corr, packed)))
        await asyncio.sleep(0)


class SolverActor:
    """A plain class; Ray's part is in options.py."""

    def __init__(self, settings_json: str, runtime_dir: str) -> None:
        self._settings = Settings.model_validate_json(settings_json)
        self._path = Path(runtime_dir) / "solver.sock"
        self._server: SolverServer | None = None

    async def ping(self) -> int:
        """Process id of the actor."""
        return os.getpid()

    async def status(self) -> dict[str, Any]:
        return self._server.facts() if self._server is not None else {"pid": os.getpid()}

    async def run(self) -> None:
        """Serve until the solver library is due for a fresh process (it leaks a little), then end this one."""
        if self._server is None:  # a restarted supervisor calls again
            from solvers.worker import RECYCLE_AFTER, answer, warm

            self._server = SolverServer(answer)
            set_up_logging(self._settings)
            try:
                runtime_dir(self._settings.data_dir, self._path.parent)
                os.nice(max(0, NICENESS - os.nice(0)))
                await asyncio.to_thread(
                    warm
                )  # seconds, when something is still to compile; shards find no socket until then
                await self._server.serve(self._path, until_solved=RECYCLE_AFTER)
            except Exception:
                # Nothing half-started may live on: Ray starts a fresh process, the log says why this one could not.
                log.exception("the solver ends")
                os._exit(EXIT_BROKEN)
            os._exit(0)  # Ray starts a fresh process in its place
        await asyncio.Event().wait()


class _Connection(asyncio.Protocol):
    def __init__(self, queue: asyncio.Queue[tuple[SolveRequest, asyncio.Transport]]) -> None:
        self._queue = queue
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop has classes of its own
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            for body in self._reader.feed(data):
                request = _decode(body)
                if self._queue.full():
                    self._transport.write(frame(SolveAnswer(request.corr, b"")))
                else:
                    self._queue.put_nowait((request, self._transport))
        except (FrameError, msgspec.MsgspecError) as error:
            log.warning("bad frame", error=str(error))
            self._transport.abort()
