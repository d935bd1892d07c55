"""One connection to one shard: smart batching, credits, correlation, reconnection.

A frame is whatever was submitted while earlier frames were in flight; a lone command leaves at once, a flood amortises
everything. There is no timer. Each shard grants CREDITS frames at a time and gives a credit back once it has dealt with one.

What was sent and not answered when the connection breaks has an unknown outcome. A command that is safe to repeat (a read, or
one with an idempotency key) is sent again, unchanged, on the next connection; any other is answered `unavailable`.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import cast

import msgspec
import structlog

from engine.domain.commands import READS, Command
from engine.domain.problems import CODES
from engine.domain.replies import Problem, Reply
from engine.journal.discovery import Found
from engine.protocol.wire import (
    CREDITS,
    PROTOCOL_VERSION,
    FrameError,
    FrameReader,
    Hello,
    decode_replies,
    decode_welcome,
    frame,
)

ITEMS_PER_FRAME_MAX = 512
QUEUE_MAX = 50_000
CONNECT_TIMEOUT_S = 2.0
RETRY_MIN_S = 0.02
RETRY_MAX_S = 0.5
RESUBSCRIBE_S = 0.1
SWEEP_S = 0.1

Finder = Callable[[int], Awaitable[Found | None]]
log = structlog.get_logger(__name__)


def unavailable(detail: str = "") -> Problem:
    """The outcome is unknown: the same key, sent again, tells it."""
    return Problem("unavailable", detail or CODES["unavailable"].title, (), retry_after_ms=500)


def host_id() -> str:
    """Names this machine in `unix:` addresses, so that nobody tries a socket of another one."""
    return socket.gethostname()


class Waiting:
    """One submitted command."""

    __slots__ = ("command", "deadline", "future", "retry", "sent")

    def __init__(self, command: Command, future: asyncio.Future[Reply], deadline: float, retry: bool) -> None:
        self.command = command
        self.future = future
        self.deadline = deadline
        self.retry = retry
        self.sent = False


class Subscription:
    """A command that is sent again on every new connection and answered many times."""

    def __init__(self, make: Callable[[], Command], on_reply: Callable[[Reply], None]) -> None:
        self.make = make
        self.on_reply = on_reply


class ShardLink:
    """A shard as its askers see it. `submit` never blocks; the future always ends, at the latest at its deadline."""

    def __init__(self, shard: int, find: Finder, *, token: str = "", peer: int = -1, timeout_s: float = 10.0) -> None:
        self.shard = shard
        self.epoch = 0
        self.on_lost: Callable[[], None] | None = None
        self._find = find
        self._token = token
        self._peer = peer
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._credits = 0
        self._corr = 1_000
        """Numbers below are for subscriptions."""
        self._queue: deque[int] = deque()
        self._waiting: dict[int, Waiting] = {}
        self._subscriptions: dict[int, Subscription] = {}
        self._flush_due = False
        self._closed = False
        self._connected = asyncio.Event()
        self._task = self._loop.create_task(self._keep_connected(), name=f"link-{shard}")
        self._sweeper = self._loop.create_task(self._sweep(), name=f"link-sweep-{shard}")

    # -- asking ---------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self._transport is not None

    @property
    def pending(self) -> int:
        return len(self._waiting)

    def oldest_age_s(self) -> float:
        """How long the oldest unanswered command has waited."""
        for waiting in self._waiting.values():
            return max(0.0, self._loop.time() - (waiting.deadline - self._timeout_s))
        return 0.0

    def submit(self, command: Command, *, retry: bool | None = None) -> asyncio.Future[Reply]:
        """Send a command; the future ends with the reply or with a Problem. `retry` None = where it is safe to repeat."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        if len(self._waiting) >= QUEUE_MAX or self._closed:
            future.set_result(Problem("overloaded", CODES["overloaded"].title, (), retry_after_ms=500))
            return future
        if retry is None:
            retry = isinstance(command, READS) or getattr(command, "key_hash", 0) != 0
        self._corr += 1
        self._waiting[self._corr] = Waiting(command, future, self._loop.time() + self._timeout_s, retry)
        self._queue.append(self._corr)
        if not self._flush_due and self._credits:
            self._flush_due = True
            self._loop.call_soon(self._flush)
        return future

    def subscribe(self, corr: int, make: Callable[[], Command], on_reply: Callable[[Reply], None]) -> None:
        """Keep a subscription alive over reconnections. `corr` below 1000, one each."""
        self._subscriptions[corr] = Subscription(make, on_reply)
        if self._transport is not None:
            self._transport.write(frame([(corr, make())]))
            self._credits -= 1

    async def wait_connected(self, timeout_s: float) -> bool:
        try:
            await asyncio.wait_for(self._connected.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def reconnect(self) -> None:
        """Drop the connection and look the shard up again."""
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        self._closed = True
        for task in (self._task, self._sweeper):
            task.cancel()
        await asyncio.gather(self._task, self._sweeper, return_exceptions=True)
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_result(unavailable("the connection was closed"))
        self._waiting.clear()

    # -- frames ---------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flush_due = False
        while self._queue and self._credits > 0 and self._transport is not None:
            items: list[tuple[int, Command]] = []
            while self._queue and len(items) < ITEMS_PER_FRAME_MAX:
                corr = self._queue.popleft()
                waiting = self._waiting.get(corr)
                if waiting is None:
                    continue
                if waiting.future.cancelled() and not waiting.sent:
                    del self._waiting[corr]  # nobody waits and the shard has not heard of it
                    continue
                waiting.sent = True
                items.append((corr, waiting.command))
            if not items:
                return
            self._credits -= 1
            self._transport.write(frame(items))

    def frame_received(self, body: bytes) -> None:
        replies = decode_replies(body)
        self._credits += replies.credits
        waiting_of, subscriptions = self._waiting, self._subscriptions
        for corr, reply in replies.items:
            waiting = waiting_of.pop(corr, None)
            if waiting is not None:
                if not waiting.future.done():
                    waiting.future.set_result(reply)
            elif corr in subscriptions:
                if type(reply) is Problem:  # the shard is recovering, or cut off: it forgets who asked
                    self._loop.call_later(RESUBSCRIBE_S, self._subscribe_again, corr, self._transport)
                subscriptions[corr].on_reply(reply)
        if self._queue:
            self._flush()

    def _subscribe_again(self, corr: int, transport: asyncio.Transport | None) -> None:
        if transport is not None and transport is self._transport:
            transport.write(frame([(corr, self._subscriptions[corr].make())]))
            self._credits -= 1

    def connection_made(self, transport: asyncio.Transport, epoch: int) -> None:
        self._transport = transport
        self.epoch = epoch
        self._credits = CREDITS
        for corr, subscription in self._subscriptions.items():
            transport.write(frame([(corr, subscription.make())]))
            self._credits -= 1
        self._connected.set()
        self._flush()

    def connection_lost(self) -> None:
        """What was sent is unknown: queue again what may be repeated, answer the rest."""
        if self._transport is None:
            return
        self._transport = None
        self._credits = 0
        self._connected.clear()
        self._queue.clear()
        for corr, waiting in list(self._waiting.items()):
            if waiting.sent and not waiting.retry:
                del self._waiting[corr]
                if not waiting.future.done():
                    waiting.future.set_result(unavailable("the connection broke before an answer came"))
            else:
                self._queue.append(corr)
        if self.on_lost is not None:
            self.on_lost()

    # -- the connection -------------------------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        delay_s = RETRY_MIN_S
        while not self._closed:
            lost = await self._connect()
            if lost is not None:
                delay_s = RETRY_MIN_S
                await lost
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(RETRY_MAX_S, delay_s * 2)

    async def _connect(self) -> asyncio.Future[None] | None:
        """Connect to the shard's newest address; the future returned ends when the connection does."""
        try:
            found = await self._find(self.shard)
        except Exception as error:
            # Whatever kept the directory from answering (server away, time-out), the cure is to look again.
            log.debug("shard not found", shard=self.shard, error=repr(error))
            return None
        for address in found.addresses if found is not None else ():
            lost: asyncio.Future[None] = self._loop.create_future()
            protocol = _LinkProtocol(self, lost)
            make = protocol.itself
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    kind, _, rest = address.partition(":")
                    if kind == "unix":
                        host, _, path = rest.partition(":")
                        if host != host_id():
                            continue
                        await self._loop.create_unix_connection(make, path)
                    else:
                        name, _, port = rest.rpartition(":")
                        await self._loop.create_connection(make, name, int(port))
                    protocol.send_hello(Hello(PROTOCOL_VERSION, self.shard, self._token, self._peer))
                    await protocol.welcomed
            except (OSError, TimeoutError, FrameError, msgspec.MsgspecError) as error:
                log.debug("cannot connect", shard=self.shard, address=address, error=repr(error))
                protocol.abort()
                continue
            return lost
        return None

    async def _sweep(self) -> None:
        """Answer what is past its deadline: its outcome is unknown."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = self._loop.time()
            overdue = []
            for corr, waiting in self._waiting.items():
                if waiting.deadline > now:
                    break
                overdue.append(corr)
            for corr in overdue:
                waiting = self._waiting.pop(corr)
                if not waiting.future.done():
                    waiting.future.set_result(unavailable())


class _LinkProtocol(asyncio.Protocol):
    def __init__(self, link: ShardLink, lost: asyncio.Future[None]) -> None:
        self._link = link
        self._lost = lost
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self.welcomed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop has classes of its own
        self._transport = transport

    def itself(self) -> _LinkProtocol:
        return self

    def send_hello(self, hello: Hello) -> None:
        assert self._transport is not None
        self._transport.write(frame(hello))

    def abort(self) -> None:
        if self.welcomed.done() and not self.welcomed.cancelled():
            self.welcomed.exception()
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            for body in self._reader.feed(data):
                if not self.welcomed.done():
                    welcome = decode_welcome(body)
                    if welcome.error or welcome.shard != self._link.shard:
                        raise FrameError(welcome.error or f"shard {welcome.shard} answers for {self._link.shard}")
                    self.welcomed.set_result(None)
                    self._link.connection_made(self._transport, welcome.epoch)
                else:
                    self._link.frame_received(body)
        except (FrameError, msgspec.MsgspecError) as error:
            log.warning("bad frame", shard=self._link.shard, error=str(error))
            if not self.welcomed.done():
                self.welcomed.set_exception(FrameError(str(error)))
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.welcomed.done():
            self.welcomed.set_exception(FrameError("the shard closed the connection"))
        elif not self._lost.done():
            self._link.connection_lost()
        if not self._lost.done():
            self._lost.set_result(None)
