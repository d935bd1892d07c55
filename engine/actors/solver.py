"""The solver process: one a machine, at low priority, so that a joint problem never delays an order that has none.

It answers frames of its Unix socket one after another. A request that is overdue when its turn comes is dropped: the shard has
gone on with the greedy plan. So is one that cannot be solved, whatever the reason: the greedy plan stands.

OR-Tools and the compiled search take 140 MB, so they are loaded once orders come and given back, with the process, after a quiet
while (QM_SOLVER_REST_S). A shard says that orders come with its first one; a problem that comes before all is loaded is answered with
nothing, at once.
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
CHECK_S = 1.0
RECYCLE_AFTER = 20_000
"""Answers after which a fresh process takes over: OR-Tools leaks a little, and its memory limit is not enforced."""
KILLED_WITHIN_S = 10.0
EXIT_BROKEN = 71
_decode = msgspec.msgpack.Decoder(SolveRequest).decode
log = structlog.get_logger(__name__)

Answer = Callable[..., bytes]
"""(packed problem, *, deadline_ms) -> packed answer."""


class SolverServer:
    """Answers requests of a socket, one at a time, on the loop's own thread: nothing else runs in this process."""

    def __init__(self, load: Callable[[], Answer]) -> None:
        """load: makes the library ready, in seconds, and gives what answers. Called in a thread."""
        self._load = load
        self._loading: asyncio.Future[Answer] | None = None
        self._answer: Answer | None = None
        self._asked_at_s = 0.0
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
            "loaded": int(self._answer is not None),
            "pid": os.getpid(),
        }

    async def serve(self, path: Path, *, until_solved: int, rest_s: float) -> None:
        """Returns after so many problems, or after so long a time without a request since the library was loaded.

        rest_s: 0 = the library is loaded now and kept; else with the first request. Raises what kept it from being loaded.
        """
        remove_leftover(path)
        if not rest_s:
            self._start_loading()
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: _Connection(self), str(path))
        os.chmod(path, 0o600)
        try:
            while self._solved + self._failed < until_solved:
                try:
                    request, transport = await asyncio.wait_for(self._queue.get(), CHECK_S)
                except TimeoutError:
                    if self._is_loaded() and 0 < rest_s < loop.time() - self._asked_at_s:
                        return
                else:
                    await self._settle(request, transport)
        finally:
            server.close()

    def take(self, request: SolveRequest, transport: asyncio.Transport) -> None:
        """A request arrived; one without a problem only says that some may come."""
        self._asked_at_s = asyncio.get_running_loop().time()
        self._start_loading()
        if not request.problem:
            return
        if self._answer is None or self._queue.full():
            transport.write(frame(SolveAnswer(request.corr, b"")))
        else:
            self._queue.put_nowait((request, transport))

    def _start_loading(self) -> None:
        if self._loading is None:
            self._loading = asyncio.get_running_loop().run_in_executor(None, self._load)
            self._loading.add_done_callback(self._loaded)

    def _loaded(self, loading: asyncio.Future[Answer]) -> None:
        if not loading.cancelled() and loading.exception() is None:
            self._answer = loading.result()

    def _is_loaded(self) -> bool:
        """Raises what kept the library from being loaded."""
        if self._loading is None or not self._loading.done():
            return False
        self._loading.result()
        return True

    async def _settle(self, request: SolveRequest, transport: asyncio.Transport) -> None:
        assert self._answer is not None, "nothing is queued before"
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
        """Serve until the solver library is due for a fresh process (it leaks a little), or is not needed; then end this one."""
        if self._server is None:  # a restarted supervisor calls again
            self._server = SolverServer(_load)
            set_up_logging(self._settings)
            try:
                runtime_dir(self._settings.data_dir, self._path.parent)
                os.nice(max(0, NICENESS - os.nice(0)))
                rest_s = self._settings.solver_rest_s
                await self._server.serve(self._path, until_solved=RECYCLE_AFTER, rest_s=rest_s)
                await _make_place(self._server.facts())
            except Exception:
                # Nothing half-started may live on: Ray starts a fresh process, the log says why this one could not.
                log.exception("the solver ends")
                os._exit(EXIT_BROKEN)
        await asyncio.Event().wait()


async def _make_place(facts: dict[str, int]) -> None:
    """Have Ray end this process and start a fresh one. Of one that ends by itself Ray tells people as of an accident."""
    import ray

    log.info("a fresh solver takes over", **facts)
    ray.kill(ray.get_runtime_context().current_actor, no_restart=False)
    await asyncio.sleep(KILLED_WITHIN_S)
    raise RuntimeError(f"Ray did not end this process within {KILLED_WITHIN_S} s")


def _load() -> Answer:
    """Seconds, when something is still to compile."""
    from solvers.worker import answer, warm

    warm()
    return answer


class _Connection(asyncio.Protocol):
    def __init__(self, server: SolverServer) -> None:
        self._server = server
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop has classes of its own
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            for body in self._reader.feed(data):
                self._server.take(_decode(body), self._transport)
        except (FrameError, msgspec.MsgspecError) as error:
            log.warning("bad frame", error=str(error))
            self._transport.abort()
