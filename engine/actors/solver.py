"""The solver process: one a machine, at low priority, so that a joint problem never delays an order that has none.

It answers frames of its Unix socket one after another. A request whose budget ran out while it waited is dropped: the shard
has gone on with the greedy plan.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import cast

import msgspec
import structlog

from engine.actors.logs import set_up_logging
from engine.actors.solver_client import SolveAnswer, SolveRequest
from engine.protocol.wire import FrameError, FrameReader, frame
from engine.settings import Settings

NICENESS = 10
QUEUE_MAX = 256
_decode = msgspec.msgpack.Decoder(SolveRequest).decode
log = structlog.get_logger(__name__)


class SolverActor:
    """A plain class; Ray's part is in options.py."""

    def __init__(self, settings_json: str, runtime_dir: str) -> None:
        self._settings = Settings.model_validate_json(settings_json)
        self._path = Path(runtime_dir) / "solver.sock"
        self._queue: asyncio.Queue[tuple[float, SolveRequest, asyncio.Transport]] = asyncio.Queue(QUEUE_MAX)
        self._started = False
        self._solved = 0
        self._dropped = 0

    async def ping(self) -> int:
        """Process id of the actor."""
        return os.getpid()

    async def status(self) -> dict[str, int]:
        return {"solved": self._solved, "dropped": self._dropped, "queued": self._queue.qsize(), "pid": os.getpid()}

    async def run(self) -> None:
        """Serve until the solver library is due for a fresh process (it leaks a little), then return."""
        if self._started:  # a restarted supervisor calls again
            await asyncio.Event().wait()
        self._started = True
        from solvers.worker import RECYCLE_AFTER, answer, warm

        set_up_logging(self._settings)
        os.nice(max(0, NICENESS - os.nice(0)))
        await asyncio.to_thread(warm)  # seconds, when something is still to compile; shards find no socket until then
        self._path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: _Connection(self._queue), str(self._path))
        os.chmod(self._path, 0o600)
        while self._solved < RECYCLE_AFTER:
            due, request, transport = await self._queue.get()
            left_ms = int((due - time.monotonic()) * 1_000)
            if left_ms < 1:
                self._dropped += 1
                continue
            try:
                packed = answer(request.problem, deadline_ms=left_ms)
            except (msgspec.MsgspecError, ValueError) as error:
                log.warning("problem not solvable", error=str(error), bytes=len(request.problem))
                packed = b""
            self._solved += 1
            transport.write(frame(SolveAnswer(request.corr, packed)))
            await asyncio.sleep(0)
        server.close()
        os._exit(0)  # Ray starts a fresh process in its place


class _Connection(asyncio.Protocol):
    def __init__(self, queue: asyncio.Queue[tuple[float, SolveRequest, asyncio.Transport]]) -> None:
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
                    continue
                due = time.monotonic() + request.budget_ms / 1_000
                self._queue.put_nowait((due, request, self._transport))
        except (FrameError, msgspec.MsgspecError) as error:
            log.warning("bad frame", error=str(error))
            self._transport.abort()
