"""The socket side of a shard: accepts connections, checks the hello, cuts frames, gives credits back. No decisions here."""

from __future__ import annotations

import asyncio
import hmac
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import structlog

from engine.client.link import keep_alive
from engine.domain.commands import Command
from engine.domain.replies import Reply
from engine.protocol.wire import (
    FRAME_BYTES_MAX,
    FRAME_BYTES_WANTED,
    PROTOCOL_VERSION,
    FrameError,
    FrameReader,
    Replies,
    Welcome,
    decode_commands,
    decode_hello,
    frame,
)

WRITE_BUFFER_MAX = 64 * 1024 * 1024
"""An asker that left so much unread is disconnected. One answer may be larger."""
HELLO_BYTES_MAX = 4 * 1024
HELLO_TIMEOUT_S = 5.0
BACKLOG = 512
log = structlog.get_logger(__name__)


class Connection(asyncio.Protocol):
    """One asker. Answers are collected and leave as one frame a loop turn."""

    def __init__(self, server: ShardServer) -> None:
        self._server = server
        self._reader = FrameReader(bytes_max=HELLO_BYTES_MAX)
        self._transport: asyncio.Transport | None = None
        self._welcomed = False
        self._patience: asyncio.TimerHandle | None = None
        self.number = -1
        self.frames_taken = 0
        """Frames whose credit has not been given back."""
        self.out: list[tuple[int, Reply]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop has classes of its own
        self._transport = transport
        self._patience = asyncio.get_running_loop().call_later(HELLO_TIMEOUT_S, self.abort)
        if transport.get_extra_info("socket").family != socket.AF_UNIX:
            keep_alive(transport)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._reader.feed(data):
                if self._welcomed:
                    self.frames_taken += 1
                    self._server.on_commands(self.number, decode_commands(body))
                elif not self._welcome(body):
                    return
        except (FrameError, msgspec.MsgspecError) as error:
            log.warning("bad frame", connection=self.number, error=str(error))
            self.abort()

    def _welcome(self, body: bytes) -> bool:
        assert self._transport is not None
        server = self._server
        hello = decode_hello(body)
        error = ""
        if hello.version != PROTOCOL_VERSION:
            error = f"protocol version {hello.version}, this shard speaks {PROTOCOL_VERSION}"
        elif hello.shard != server.shard:
            error = f"this is shard {server.shard}"
        elif not hmac.compare_digest(hello.token.encode(), server.token.encode()):
            error = "wrong token"
        self._transport.write(frame(Welcome(PROTOCOL_VERSION, server.shard, server.epoch, error)))
        if error:
            log.warning("connection refused", error=error)
            self._transport.close()
            return False
        self._welcomed = True
        self._reader.bytes_max = FRAME_BYTES_MAX
        if self._patience is not None:
            self._patience.cancel()
        self.number = server.joined(self)
        return True

    def flush(self) -> None:
        """Send what is ready and give back the credits of the frames that were dealt with."""
        transport = self._transport
        if transport is None or not (self.out or self.frames_taken):
            return
        if transport.get_write_buffer_size() > WRITE_BUFFER_MAX:
            log.warning("asker does not read its answers", connection=self.number)
            transport.abort()
            return
        items, self.out = self.out, []
        credits, self.frames_taken = self.frames_taken, 0
        data = frame(Replies(credits, items))
        if len(data) > FRAME_BYTES_WANTED and len(items) > 1:
            self._write_apart(transport, items, credits)
        else:
            transport.write(data)

    def _write_apart(self, transport: asyncio.Transport, items: list[tuple[int, Reply]], credits: int) -> None:
        """The same answers in several frames; the credits go with the first."""
        data = frame(Replies(credits, items))
        if len(data) <= FRAME_BYTES_WANTED or len(items) == 1:
            transport.write(data)
            return
        half = len(items) // 2
        self._write_apart(transport, items[:half], credits)
        self._write_apart(transport, items[half:], 0)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._patience is not None:
            self._patience.cancel()
        if self._welcomed:
            self._server.left(self.number)


class ShardServer:
    """Listens on a Unix socket and, where asked, on TCP."""

    def __init__(
        self,
        shard: int,
        *,
        token: str,
        on_commands: Callable[[int, list[tuple[int, Command]]], None],
        on_left: Callable[[int], None],
    ) -> None:
        self.shard = shard
        self.token = token
        self.epoch = 0
        self.on_commands = on_commands
        self._on_left = on_left
        self._numbers = 0
        self.connections: dict[int, Connection] = {}
        self._servers: list[asyncio.AbstractServer] = []

    def joined(self, connection: Connection) -> int:
        self._numbers += 1
        self.connections[self._numbers] = connection
        return self._numbers

    def left(self, number: int) -> None:
        self.connections.pop(number, None)
        self._on_left(number)

    def flush(self) -> None:
        for connection in self.connections.values():
            connection.flush()

    async def listen_unix(self, path: Path) -> None:
        """The socket is made with mode 0600; a leftover of a killed run is removed first."""
        remove_leftover(path)
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_unix_server(lambda: Connection(self), str(path), backlog=BACKLOG))
        os.chmod(path, 0o600)

    async def listen_tcp(self, host: str, port: int = 0) -> int:
        """Listen on this port, or on a free one (0); returns it."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(self), host, port, backlog=BACKLOG)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for connection in list(self.connections.values()):
            connection.abort()


def remove_leftover(path: Path) -> None:
    """Unlink the socket that a killed process left; anything else at this place stays, and makes the bind fail."""
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()
