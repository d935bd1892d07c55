"""One connection to a Redis or Valkey server: commands go out, replies come back in order. No retries, ever.

Why not redis-py's connection on this path: a call there costs several times the CPU of an append (docs/reference/journal.md has
the figures), and its habit of sending again is exactly what a journal must not do unasked.

N1  Replies belong to calls by order alone. A cancelled call keeps its place and its reply is dropped, so a cancellation cannot
    shift the replies of others; a call that waits too long closes the connection.
N2  After any failure the connection stays closed; the owner opens a new one. What was under way has an unknown outcome.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from engine.journal.port import Corrupt, Full, JournalError, Misconfigured, Unavailable

_PASSING = frozenset(
    ("LOADING", "BUSY", "MISCONF", "MASTERDOWN", "READONLY", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "UNKILLABLE")
)
_DENIED = frozenset(("NOPERM", "NOAUTH", "WRONGPASS"))
Arg = bytes | str | int


@dataclass(frozen=True)
class Address:
    """Where a server is and how to log in."""

    path: str | None
    host: str
    port: int
    username: str | None
    password: str | None
    db: int
    tls: ssl.SSLContext | None


def parse_url(url: str) -> Address:
    """redis://[user][:password]@host[:port][/db], rediss:// (TLS; ?ca=FILE), unix://[user][:password]@/path[?db=N].

    Raises ValueError without repeating the URL: it may hold a password.
    """
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("a server's address starts with redis://, rediss:// or unix://")
    known = {"unix": {"db"}, "rediss": {"ca"}}.get(parts.scheme, set())
    if unknown := query.keys() - known:
        raise ValueError(f"unknown option in the server's address: {', '.join(sorted(unknown))}")
    path, tls, db_text = None, None, "0"
    if parts.scheme == "unix":
        path = unquote(parts.path)
        db_text = query.get("db", ["0"])[0]
        if not path:
            raise ValueError("unix:// needs the path of a socket")
    else:
        db_text = parts.path.strip("/") or "0"
        if parts.scheme == "rediss":
            tls = ssl.create_default_context(cafile=query.get("ca", [None])[0])
    if not db_text.isdecimal():
        raise ValueError("the database of a server is a number")
    return Address(
        path,
        parts.hostname or "127.0.0.1",
        parts.port or 6379,
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
        int(db_text),
        tls,
    )


pack = cast("Callable[[tuple[Arg, ...]], bytes]", hiredis.pack_command)
"""Bytes of one command. (hiredis declares its argument as a tuple of one.)"""


class LibraryMissing(Unavailable):
    """The server does not know our functions (yet): it was replaced or emptied. Load them and call again."""


def failure(reply: Exception) -> JournalError:
    """What an error reply means. What is not known here is a bug or damage, not weather: it is never retried."""
    text = str(reply)
    code = text.partition(" ")[0]
    if code == "OOM":
        return Full(text)
    if code in _PASSING or text.startswith("ERR max number of clients"):
        return Unavailable(text)
    if text.startswith("ERR Function not found"):
        return LibraryMissing(text)
    if code in _DENIED or text.startswith("ERR unknown command"):
        return Misconfigured(text)
    if code == "WRONGTYPE" or text.startswith("ERR The ID specified in XADD"):
        return Corrupt(f"the journal's keys contradict each other: {text}")
    return JournalError(text)


class Connection(asyncio.Protocol):
    """Open with `connect`. `call` gives a future of the reply; several may be under way."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self.closed = False

    def call(self, *args: Arg) -> asyncio.Future[Any]:
        """Send one command. Error replies raise what `failure` says; a closed connection raises Unavailable at once."""
        return self.send(pack(args))

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """Send one command that is packed already."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.closed or self._transport is None:
            future.set_exception(Unavailable("the connection to the journal's server is closed"))
            return future
        self._waiting.append((future, self._loop.time()))
        self._transport.write(packed)
        return future

    def close(self, why: str = "closed") -> None:
        """Close now. Calls under way raise Unavailable: nobody knows whether the server ran them."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self.closed = True
        if self._transport is not None:
            self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(Unavailable(f"no answer from the journal's server: {why}"))

    # -- asyncio.Protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._watch = self._loop.call_later(self._timeout_s / 4, self._look)

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                future, _ = waiting.popleft()
                if future.done():  # N1: cancelled by its caller
                    continue
                if isinstance(reply, Exception):
                    future.set_exception(failure(reply))
                else:
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            self.close(f"not a reply: {error!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.close(f"connection lost{f': {exc}' if exc else ''}")

    def _look(self) -> None:
        """One timer for the connection instead of one for each call."""
        now = self._loop.time()
        waiting = self._waiting
        if waiting and now - waiting[0][1] > self._timeout_s:
            self.close(f"nothing for {self._timeout_s:g} s")
            return
        self._watch = self._loop.call_later(self._timeout_s / 4, self._look)


async def connect(address: Address, *, timeout_s: float, name: str) -> Connection:
    """A logged-in connection. Raises Unavailable, Misconfigured (wrong password or rights)."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            if address.path is not None:
                _, connection = await loop.create_unix_connection(lambda: Connection(timeout_s), address.path)
            else:
                transport, connection = await loop.create_connection(
                    lambda: Connection(timeout_s), address.host, address.port, ssl=address.tls
                )
                raw = transport.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except (OSError, TimeoutError) as error:
        raise Unavailable(f"the journal's server cannot be reached: {error or 'timeout'}") from error
    try:
        if address.password is not None:
            user = () if address.username is None else (address.username,)
            await connection.call("AUTH", *user, address.password)
        if address.db:
            await connection.call("SELECT", address.db)
        await connection.call("CLIENT", "SETNAME", name)
    except BaseException:
        connection.close()
        raise
    return connection
