"""A way for the Python client to send that is cheaper than httpx: its typed calls, keys, retries and budget stay as they are.

HTTP/1.1 on asyncio streams, kept alive; no TLS, no proxies, no chunked bodies: what a gateway on the same network speaks.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import NamedTuple
from urllib.parse import urlsplit

import quartermaster_client as qm

BODY_BYTES_MAX = 1 << 26


class _Origin(NamedTuple):
    """Where a URL without its path leads to."""

    host: str
    port: int
    line: str
    """The Host header."""
    prefix: str
    """The path that the URL has itself."""


@cache
def _origin(url: str) -> _Origin:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{url!r} is not an http:// URL, and nothing else is spoken here")
    return _Origin(parts.hostname, parts.port or 80, f"host: {parts.netloc}\r\n", parts.path)


class PlainTransport:
    """At most `connections` requests at once; more wait for a free one, as long as their timeout."""

    def __init__(self, *, connections: int = 64) -> None:
        self._slots = asyncio.Semaphore(connections)
        self._idle: dict[_Origin, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {}

    async def send(self, outgoing: qm.Outgoing) -> qm.Incoming:
        origin = _origin(outgoing.origin)
        packet = _packet(outgoing, origin)
        if self._slots.locked():
            try:
                await asyncio.wait_for(self._slots.acquire(), outgoing.timeout_s)
            except TimeoutError as error:
                raise qm.NotSent(f"no connection was free for {outgoing.timeout_s:g} s") from error
        else:
            await self._slots.acquire()
        try:
            reader, writer = await self._connection(origin, outgoing.connect_timeout_s)
            return await self._exchange(origin, reader, writer, packet, outgoing.timeout_s)
        finally:
            self._slots.release()

    async def aclose(self) -> None:
        for idle in self._idle.values():
            for _, writer in idle:
                writer.close()
        self._idle.clear()

    async def _connection(self, origin: _Origin, timeout_s: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        idle = self._idle.get(origin, [])
        while idle:
            reader, writer = idle.pop()
            if not reader.at_eof():  # the server may have closed it meanwhile
                return reader, writer
            writer.close()
        try:
            opening = asyncio.open_connection(origin.host, origin.port, limit=BODY_BYTES_MAX)
            return await asyncio.wait_for(opening, timeout_s)
        except OSError as error:  # a TimeoutError is one
            raise qm.NotSent(f"no connection to {origin.host}:{origin.port}: {error!r}") from error

    async def _exchange(
        self,
        origin: _Origin,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        packet: bytes,
        timeout_s: float,
    ) -> qm.Incoming:
        again = False
        try:
            writer.write(packet)
            async with asyncio.timeout(timeout_s):
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head[:-4].decode("latin-1").split("\r\n")
                headers = dict(map(_named, lines))
                if "transfer-encoding" in headers:
                    raise qm.InvalidAnswer(f"a body of unstated size came from {origin.host}:{origin.port}")
                size = int(headers.get("content-length", "0"))
                body = await reader.readexactly(size) if size else b""
            again = headers.get("connection", "").lower() != "close"
            return qm.Incoming(int(first.split(" ", 2)[1]), headers, body)
        except TimeoutError as error:
            raise qm.NotAnswered(f"no answer within {timeout_s:g} s") from error
        except (OSError, EOFError) as error:
            raise qm.NotAnswered(f"the connection broke: {error!r}") from error
        except (ValueError, IndexError, asyncio.LimitOverrunError) as error:
            raise qm.NotAnswered(f"what came is not HTTP: {error!r}") from error
        finally:
            if again:
                self._idle.setdefault(origin, []).append((reader, writer))
            else:
                writer.close()


def _packet(outgoing: qm.Outgoing, origin: _Origin) -> bytes:
    lines = [f"{outgoing.method} {origin.prefix}{outgoing.target} HTTP/1.1\r\n", origin.line]
    lines += [f"{name}: {value}\r\n" for name, value in outgoing.headers.items()]
    if outgoing.body or outgoing.method in ("POST", "PUT"):
        lines.append(f"content-length: {len(outgoing.body)}\r\n")
    return "".join(lines).encode("latin-1") + b"\r\n" + outgoing.body


def _named(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip()
