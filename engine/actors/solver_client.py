"""A shard's line to the solver process of its machine: one request a component, answered or overdue."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import cast

import msgspec
import structlog

from engine.protocol.effects import Solve
from engine.protocol.wire import FrameError, FrameReader, frame

RECONNECT_S = 0.5
SAY_EVERY_S = 60.0
"""Between two words to the solver that orders still come, at the most: a third of the time after which it rests."""
UNREAD_BYTES_MAX = 8 * 1024 * 1024
"""Problems that a solver process has not read yet; past it there is no use in sending more."""
log = structlog.get_logger(__name__)


class SolveRequest(msgspec.Struct, array_like=True, frozen=True):
    corr: int
    due_ns: int
    """On the monotonic clock, which the processes of a machine share: a budget would start anew when the request is read."""
    problem: bytes
    """Empty = no problem, only a word that orders come: it is not answered."""


class SolveAnswer(msgspec.Struct, array_like=True, frozen=True):
    """`answer` empty = the solver failed on this problem; the greedy plan stands."""

    corr: int
    answer: bytes


_decode = msgspec.msgpack.Decoder(SolveAnswer).decode


class SolverClient:
    """Never blocks and never fails: without a solver every component is answered None at once."""

    def __init__(self, path: Path, *, rest_s: float = 0.0) -> None:
        """rest_s: without a word for so long, the solver gives its library back; 0 = never."""
        self._path = path
        self._say_every_s = min(SAY_EVERY_S, rest_s / 3) if rest_s else SAY_EVERY_S
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._corr = 0
        self._say_at_s = 0.0
        self._waiting: dict[int, asyncio.Future[bytes | None]] = {}
        self._task = self._loop.create_task(self._keep_connected(), name="solver-link")

    @property
    def connected_now(self) -> bool:
        return self._transport is not None

    def solve(self, solve: Solve, budget_ms: int) -> asyncio.Future[bytes | None]:
        """The packed answer, or None at the end of the budget."""
        future: asyncio.Future[bytes | None] = self._loop.create_future()
        transport = self._transport
        if transport is None or budget_ms <= 0 or transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            future.set_result(None)
            return future
        self._corr += 1
        corr = self._corr
        self._waiting[corr] = future
        due_ns = time.monotonic_ns() + budget_ms * 1_000_000
        transport.write(frame(SolveRequest(corr, due_ns, solve.problem)))
        self._loop.call_later(budget_ms / 1_000, self._answered, corr, None)
        return future

    def orders_come(self) -> None:
        """Have the solver load its library before two orders want the same units. Call it as often as orders come."""
        now_s = self._loop.time()
        if self._transport is not None and now_s >= self._say_at_s:
            self._say_at_s = now_s + self._say_every_s
            self._transport.write(frame(SolveRequest(0, 0, b"")))

    def _answered(self, corr: int, answer: bytes | None) -> None:
        future = self._waiting.pop(corr, None)
        if future is not None and not future.done():
            future.set_result(answer)

    def frame_received(self, body: bytes) -> None:
        reply = _decode(body)
        self._answered(reply.corr, reply.answer or None)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._transport is not None:
            self._transport.abort()

    def connected(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._say_at_s = 0.0  # a fresh process has heard of nothing

    def lost(self) -> None:
        self._transport = None
        for corr in list(self._waiting):
            self._answered(corr, None)

    async def _keep_connected(self) -> None:
        while True:
            ended: asyncio.Future[None] = self._loop.create_future()
            try:
                protocol = _SolverProtocol(self, ended)
                await self._loop.create_unix_connection(protocol.itself, str(self._path))
            except OSError:
                ended.cancel()
            else:
                await ended
            await asyncio.sleep(RECONNECT_S)


class _SolverProtocol(asyncio.Protocol):
    def __init__(self, client: SolverClient, ended: asyncio.Future[None]) -> None:
        self._client = client
        self._ended = ended
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None

    def itself(self) -> _SolverProtocol:
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop has classes of its own
        self._transport = transport
        self._client.connected(transport)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._reader.feed(data):
                self._client.frame_received(body)
        except (FrameError, msgspec.MsgspecError) as error:
            log.warning("bad frame from the solver", error=str(error))
            assert self._transport is not None
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.lost()
        if not self._ended.done():
            self._ended.set_result(None)
