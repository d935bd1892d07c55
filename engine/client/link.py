"""One connection to one shard: smart batching, credits, correlation, reconnection.

A frame is whatever was submitted while earlier frames were in flight; a lone command leaves at once, a flood amortises
everything. There is no timer. Each shard grants CREDITS frames at a time and gives a credit back once it has dealt with one;
all but one are kept for frames of ITEMS_PER_FRAME_WANTED and more: a smaller one leaves when nothing else is under way. A full
one leaves at once, in the middle of a turn of the loop: so the shard decides the first of a crowd while the gateway still reads the others.

K1  What was sent and not answered when the connection breaks has an unknown outcome. A command that is safe to repeat (a read,
    or one with an idempotency key) is sent again, unchanged, on the next connection; any other is answered `unavailable`.
K2  Correlation ids are never used twice by a link, and answers belong to the connection they came on.
K3  A shard that owes an answer or a credit and gives no sign of life for STALL_S is looked up again. So is one that says
    `unavailable`: it may have been cut off and replaced, and cannot know.
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
    FRAME_BYTES_MAX,
    FRAME_BYTES_WANTED,
    PROTOCOL_VERSION,
    FrameError,
    FrameReader,
    Hello,
    decode_replies,
    decode_welcome,
    frame,
)

ITEMS_PER_FRAME_MAX = 512
ITEMS_PER_FRAME_WANTED = 24
CREDITS_KEPT = CREDITS - 1
QUEUE_MAX = 50_000
CONNECT_TIMEOUT_S = 2.0
RETRY_MIN_S = 0.02
RETRY_MAX_S = 0.5
RESUBSCRIBE_MIN_S = 0.1
RESUBSCRIBE_MAX_S = 2.0
SWEEP_S = 0.1
STALL_S = 5.0
DOUBT_S = 1.0
"""How often a shard that answers `unavailable` is looked up."""
KEEPALIVE_IDLE_S = 10
KEEPALIVE_PROBES = 3

Finder = Callable[[int], Awaitable[Found | None]]
log = structlog.get_logger(__name__)


def unavailable(detail: str = "") -> Problem:
    """The outcome is unknown: the same key, sent again, tells it."""
    return Problem("unavailable", detail or CODES["unavailable"].title, (), retry_after_ms=500)


def host_id() -> str:
    """Names this machine in `unix:` addresses, so that nobody tries a socket of another one."""
    return socket.gethostname()


class Told:
    """Stands in the place of a future: calls with the reply at once, so in the order in which replies and pushes came."""

    __slots__ = ("_done", "_on_reply")

    def __init__(self, on_reply: Callable[[Reply], None]) -> None:
        self._on_reply = on_reply
        self._done = False

    def done(self) -> bool:
        return self._done

    def set_result(self, reply: Reply) -> None:
        self._done = True
        self._on_reply(reply)


class Waiting:
    """One submitted command."""

    __slots__ = ("command", "deadline", "future", "retry", "sent")

    def __init__(self, command: Command, future: asyncio.Future[Reply] | Told, deadline: float, retry: bool) -> None:
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
        self.again_s = RESUBSCRIBE_MIN_S


class ShardLink:
    """A shard as its askers see it. `submit` never blocks; the future always ends, at the latest at its deadline."""

    def __init__(self, shard: int, find: Finder, *, token: str = "", peer: int = -1, timeout_s: float = 10.0) -> None:
        self.shard = shard
        self.epoch = 0
        """Of the copy that is connected; 0 = it did not have one yet."""
        self._find = find
        self._token = token
        self._peer = peer
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._credits = 0
        self._owed_since_s = 0.0
        """Since when the shard owes a sign of life, while credits are out."""
        self._doubted = False
        self._looked_up_s = 0.0
        self._looking: asyncio.Future[None] = self._loop.create_future()
        self._looking.cancel()  # none is under way
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

    @property
    def queued(self) -> int:
        """Commands that were not sent yet."""
        return len(self._queue)

    def oldest_age_s(self) -> float:
        """How long the oldest unanswered command has waited."""
        for waiting in self._waiting.values():
            return max(0.0, self._loop.time() - (waiting.deadline - self._timeout_s))
        return 0.0

    def submit(self, command: Command, *, retry: bool | None = None) -> asyncio.Future[Reply]:
        """Send a command; the future ends with the reply or with a Problem. `retry` None = where it is safe to repeat."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._put(command, future, retry)
        return future

    def tell(self, command: Command, on_reply: Callable[[Reply], None], *, retry: bool | None = None) -> None:
        """The same for who must see the reply in its order among the pushes of a subscription: a future is seen later."""
        self._put(command, Told(on_reply), retry)

    def _put(self, command: Command, future: asyncio.Future[Reply] | Told, retry: bool | None) -> None:
        if len(self._waiting) >= QUEUE_MAX or self._closed:
            future.set_result(Problem("overloaded", CODES["overloaded"].title, (), retry_after_ms=500))
            return
        if retry is None:
            retry = getattr(command, "key_hash", 0) != 0 or isinstance(command, READS)
        self._corr += 1
        self._waiting[self._corr] = Waiting(command, future, self._loop.time() + self._timeout_s, retry)
        self._queue.append(self._corr)
        if len(self._queue) >= ITEMS_PER_FRAME_WANTED:
            if self._credits > 0:
                self._flush()
        elif not self._flush_due and self._credits > CREDITS_KEPT:
            self._flush_due = True
            self._loop.call_soon(self._flush_in_turn)

    def subscribe(self, corr: int, make: Callable[[], Command], on_reply: Callable[[Reply], None]) -> None:
        """Keep a subscription alive over reconnections. `corr` below 1000, one each."""
        self._subscriptions[corr] = Subscription(make, on_reply)
        if self._transport is not None:
            self._write(self._transport, frame([(corr, make())]))

    async def wait_connected(self, timeout_s: float) -> bool:
        try:
            await asyncio.wait_for(self._connected.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        self._closed = True
        tasks = (self._task, self._sweeper, self._looking)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_result(unavailable("the connection was closed"))
        self._waiting.clear()

    # -- frames ---------------------------------------------------------------------------------------------------

    def _write(self, transport: asyncio.Transport, data: bytes) -> None:
        if self._credits == CREDITS:
            self._owed_since_s = self._loop.time()
        self._credits -= 1
        transport.write(data)

    def _flush_in_turn(self) -> None:
        self._flush_due = False
        self._flush()

    def _flush(self) -> None:
        while (
            self._queue
            and self._transport is not None
            and self._credits > (0 if len(self._queue) >= ITEMS_PER_FRAME_WANTED else CREDITS_KEPT)
        ):
            items: list[tuple[int, Command]] = []
            while self._queue and len(items) < ITEMS_PER_FRAME_MAX:
                corr = self._queue.popleft()
                waiting = self._waiting.get(corr)
                if waiting is None:
                    continue
                if waiting.future.done():
                    del self._waiting[corr]  # nobody waits for it, and it is not under way
                    continue
                items.append((corr, waiting.command))
            data = self._fitting(items)
            if items:
                for corr, _ in items:
                    self._waiting[corr].sent = True
                self._write(self._transport, data)

    def _fitting(self, items: list[tuple[int, Command]]) -> bytes:
        """One frame of the first items, as many as make a frame of bearable size; the others are put back."""
        data = frame(items)
        while len(data) > FRAME_BYTES_WANTED and len(items) > 1:
            kept = len(items) // 2
            self._queue.extendleft(corr for corr, _ in reversed(items[kept:]))
            del items[kept:]
            data = frame(items)
        if len(data) > FRAME_BYTES_MAX:
            (corr, _), *_ = items
            items.clear()
            self._waiting.pop(corr).future.set_result(
                Problem("body_too_large", f"a command of {len(data)} bytes, at most {FRAME_BYTES_MAX} can be sent")
            )
        return data

    def frame_received(self, body: bytes) -> None:
        replies = decode_replies(body)
        self._credits += replies.credits
        self._owed_since_s = self._loop.time()
        if self._queue:
            self._flush()  # first of all: the shard may have nothing to do
        waiting_of, subscriptions = self._waiting, self._subscriptions
        for corr, reply in replies.items:
            waiting = waiting_of.pop(corr, None)
            if waiting is not None:
                if type(reply) is Problem and reply.code == "unavailable":
                    self._doubted = True
                if not waiting.future.done():
                    waiting.future.set_result(reply)
            elif corr in subscriptions:
                subscription = subscriptions[corr]
                if type(reply) is Problem:  # the shard is recovering, or cut off: it forgets who asked
                    self._loop.call_later(subscription.again_s, self._subscribe_again, corr, self._transport)
                    subscription.again_s = min(RESUBSCRIBE_MAX_S, subscription.again_s * 2)
                else:
                    subscription.again_s = RESUBSCRIBE_MIN_S
                subscription.on_reply(reply)

    def _subscribe_again(self, corr: int, transport: asyncio.Transport | None) -> None:
        if transport is not None and transport is self._transport:
            self._write(transport, frame([(corr, self._subscriptions[corr].make())]))

    def connection_made(self, transport: asyncio.Transport, epoch: int) -> None:
        self._transport = transport
        self.epoch = epoch
        self._credits = CREDITS
        self._doubted = False
        for corr, subscription in self._subscriptions.items():
            subscription.again_s = RESUBSCRIBE_MIN_S
            self._write(transport, frame([(corr, subscription.make())]))
        self._connected.set()
        self._flush()

    def connection_lost(self, transport: asyncio.Transport | None) -> None:
        """K1: what was sent is unknown; queue again what may be repeated, answer the rest."""
        if transport is None or transport is not self._transport:
            return  # an attempt that was given up, or a connection that was replaced
        self._transport = None
        self._credits = 0
        self._connected.clear()
        self._queue.clear()
        for corr, waiting in list(self._waiting.items()):
            if waiting.future.done():
                del self._waiting[corr]
            elif waiting.sent and not waiting.retry:
                del self._waiting[corr]
                waiting.future.set_result(unavailable("the connection broke before an answer came"))
            else:
                self._queue.append(corr)

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
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    if not await self._open(address, protocol):
                        continue
                    protocol.send_hello(Hello(PROTOCOL_VERSION, self.shard, self._token, self._peer))
                    await protocol.welcomed
            except (OSError, TimeoutError, ValueError, msgspec.MsgspecError) as error:
                log.debug("cannot connect", shard=self.shard, address=address, error=repr(error))
                protocol.abort()
                continue
            except asyncio.CancelledError:
                protocol.abort()
                raise
            return lost
        return None

    async def _open(self, address: str, protocol: _LinkProtocol) -> bool:
        """False = not an address for this machine. Raises OSError, ValueError."""
        kind, _, rest = address.partition(":")
        if kind == "unix":
            host, _, path = rest.partition(":")
            if host != host_id():
                return False
            await self._loop.create_unix_connection(protocol.itself, path)
        elif kind == "tcp":
            name, _, port = rest.rpartition(":")
            transport, _ = await self._loop.create_connection(protocol.itself, name, int(port))
            keep_alive(transport)
        else:
            return False
        return True

    async def _sweep(self) -> None:
        """Answer what is past its deadline, its outcome unknown, and look after the connection (K3)."""
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
            while self._queue and self._queue[0] not in self._waiting:
                self._queue.popleft()
            if self._transport is not None:
                if self._credits < CREDITS and now - self._owed_since_s > STALL_S:
                    log.warning("no sign of life, looking the shard up again", shard=self.shard)
                    self._transport.abort()
                elif self._doubted and self._looking.done() and now - self._looked_up_s > DOUBT_S:
                    self._looked_up_s = now
                    self._doubted = False
                    self._looking = self._loop.create_task(self._look_for_a_newer_copy())  # may take seconds

    async def _look_for_a_newer_copy(self) -> None:
        transport = self._transport
        try:
            found = await self._find(self.shard)
        except Exception as error:
            # As in _connect: no answer says nothing about the copy that is connected.
            log.debug("shard not found", shard=self.shard, error=repr(error))
            return
        if found is not None and found.epoch > self.epoch and transport is not None and transport is self._transport:
            log.warning("another copy took the shard over", shard=self.shard, epoch=found.epoch)
            transport.abort()


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Let the kernel notice within a minute that the other machine is gone, on a connection where nothing is said."""
    raw = transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_IDLE_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        if hasattr(socket, option):  # not all of them everywhere
            raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


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
        """Give the attempt up; nobody waits for its outcome any more."""
        self.welcomed.cancel()
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
        self._link.connection_lost(self._transport)
        if not self._lost.done():
            self._lost.set_result(None)
