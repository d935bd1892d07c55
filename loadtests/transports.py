"""Ways for the Python client to send: its typed calls, keys and retries over something cheaper than httpx's own connections.

PlainTransport    HTTP/1.1 on asyncio streams, kept alive; no TLS, no proxies, no chunked bodies: what a gateway on the same network
                  speaks. A call through the client costs a quarter of the CPU that it costs over httpx's pool.
LocustTransport   a locust user's session (geventhttpclient), so that every attempt is in locust's statistics, under its route.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

BODY_BYTES_MAX = 1 << 26
_OURS = frozenset((b"host", b"content-length", b"connection", b"accept-encoding", b"user-agent"))
"""Headers that are set here, or that nobody needs."""


class PlainTransport(httpx.AsyncBaseTransport):
    """At most `connections` requests at once; more wait for a free one, as long as their pool timeout."""

    def __init__(self, *, connections: int = 64) -> None:
        self._slots = asyncio.Semaphore(connections)
        self._idle: dict[tuple[str, int], list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme != "http":
            raise httpx.UnsupportedProtocol(f"{request.url.scheme} is not spoken here", request=request)
        timeout: dict[str, float | None] = request.extensions.get("timeout", {})
        where = request.url.host, request.url.port or 80
        packet = _packet(request, where)
        try:
            await asyncio.wait_for(self._slots.acquire(), timeout.get("pool"))
        except TimeoutError as error:
            raise httpx.PoolTimeout("no connection is free", request=request) from error
        try:
            reader, writer = await self._connection(where, timeout.get("connect"), request)
            return await self._exchange(where, reader, writer, packet, timeout.get("read"), request)
        finally:
            self._slots.release()

    async def _connection(
        self, where: tuple[str, int], timeout_s: float | None, request: httpx.Request
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        idle = self._idle.get(where, [])
        while idle:
            reader, writer = idle.pop()
            if not reader.at_eof():  # the server may have closed it meanwhile
                return reader, writer
            writer.close()
        try:
            return await asyncio.wait_for(asyncio.open_connection(*where, limit=BODY_BYTES_MAX), timeout_s)
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection to {where[0]}:{where[1]}", request=request) from error
        except OSError as error:
            raise httpx.ConnectError(str(error), request=request) from error

    async def _exchange(
        self,
        where: tuple[str, int],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        packet: bytes,
        timeout_s: float | None,
        request: httpx.Request,
    ) -> httpx.Response:
        again = False
        try:
            writer.write(packet)
            async with asyncio.timeout(timeout_s):
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head[:-4].split(b"\r\n")
                headers = [_split(line) for line in lines]
                named = dict(headers)
                if b"transfer-encoding" in named:
                    raise httpx.RemoteProtocolError("chunked bodies are not read here", request=request)
                size = int(named.get(b"content-length", b"0"))
                body = await reader.readexactly(size) if size else b""
            again = named.get(b"connection", b"").lower() != b"close"
            return httpx.Response(int(first.split(b" ", 2)[1]), headers=headers, content=body, request=request)
        except TimeoutError as error:
            raise httpx.ReadTimeout(f"no answer within {timeout_s} s", request=request) from error
        except (OSError, EOFError) as error:
            raise httpx.ReadError(repr(error), request=request) from error
        except (ValueError, IndexError, asyncio.LimitOverrunError) as error:
            raise httpx.RemoteProtocolError(repr(error), request=request) from error
        finally:
            if again:
                self._idle.setdefault(where, []).append((reader, writer))
            else:
                writer.close()

    async def aclose(self) -> None:
        for idle in self._idle.values():
            for _, writer in idle:
                writer.close()
        self._idle.clear()


def _packet(request: httpx.Request, where: tuple[str, int]) -> bytes:
    """The request as bytes. Its body must be in memory already, as the client's always is."""
    body = request.content
    parts = [
        request.method.encode(),
        b" ",
        request.url.raw_path,
        b" HTTP/1.1\r\nhost: %b:%d\r\n" % (where[0].encode(), where[1]),
    ]
    for name, value in request.headers.raw:
        lower = name.lower()
        if lower not in _OURS:
            parts += [lower, b": ", value, b"\r\n"]
    if body or request.method in ("POST", "PUT"):
        parts.append(b"content-length: %d\r\n" % len(body))
    parts += [b"\r\n", body]
    return b"".join(parts)


def _split(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.lower(), value.strip()


class LocustTransport(httpx.BaseTransport):
    """A locust user's session. Refusals with 409 are answers; no answer, and what is told "later", are failures."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        operation = str(request.extensions.get("operation", ""))
        headers = {name: value for name, value in request.headers.items() if name.lower().encode() not in _OURS}
        headers["accept-encoding"] = "identity"
        broken: Exception | None = None
        with self._session.request(
            request.method,
            str(request.url),
            name=operation.partition(" ")[2] or request.url.path,
            data=request.read() or None,
            headers=headers,
            allow_redirects=False,
            catch_response=True,
        ) as got:
            if got.status_code == 0:
                broken = got.error
            elif got.status_code == 409:
                got.success()
            status, body, found = got.status_code, got.content or b"", list((got.headers or {}).items())
        if broken is not None:
            kind = httpx.ConnectError if isinstance(broken, ConnectionRefusedError) else httpx.ReadError
            raise kind(repr(broken), request=request) from broken
        return httpx.Response(status, headers=found, content=body, request=request)
