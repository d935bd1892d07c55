"""The door: raw ASGI around the FastAPI app. Hot routes are found by one look-up and served here; the rest is routed by FastAPI
and comes back here to be served the same way. Bodies are counted as they arrive, before anything parses them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from engine.domain.replies import Problem
from gateway.call import Call, Chunks, Route, Streamed, headers_by_name
from gateway.errors import problem
from gateway.gateway import Gateway
from gateway.pipeline import STANDARD_HEADERS, Rendered, admit, expects_body, over_limit, render, work

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

UNREAD_BODY_MAX = 64 * 1024
"""A refused body up to this size is drained to keep the connection; beyond it the connection is closed."""
CLOSE = (b"connection", b"close")
NO_BUFFERING = (b"x-accel-buffering", b"no")
"""A proxy passes each event on as it comes."""
SLOW_READER_S = 30.0
"""A client of a stream that takes nothing for so long is cut off."""
LINGER_S = 1.0
LINGER_BYTES = 64 * 1024 * 1024


class Disconnected(Exception):
    """The client went away while its request was being read: there is nobody to answer."""


class Server:
    """Serves declared routes over ASGI."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    async def serve(self, route: Route, params: tuple[str, ...], scope: Scope, receive: Receive, send: Send) -> None:
        """One request of one route, from headers to answer."""
        started = time.monotonic()
        gateway = self.gateway
        headers = headers_by_name(scope["headers"])
        call = Call(gateway, route, headers, scope["query_string"], params, started)
        refusal = admit(call)
        close = False
        streamed: Streamed | None = None
        if refusal is not None:
            close = _has_large_body(headers)
            rendered = render(call, refusal)
        else:
            in_flight = gateway.in_flight
            in_flight.now += 1
            try:
                if expects_body(route):
                    refusal = await self._read_body(call, receive)
                    close = refusal is not None
                else:
                    call.receive = receive
                result = refusal if refusal is not None else await work(call)
                if type(result) is Streamed:
                    streamed = result
                else:
                    rendered = render(call, result)
            except Disconnected:
                return
            finally:
                in_flight.now -= 1
        if streamed is not None:
            gateway.metrics.done(route.name, 200, time.monotonic() - started)
            await _stream(call, streamed, send, receive, head=scope["method"] == "HEAD")
            return
        await _send(rendered, send, receive, close=close or call.close, head=scope["method"] == "HEAD")
        gateway.metrics.done(route.name, rendered.status, time.monotonic() - started)

    async def _read_body(self, call: Call, receive: Receive) -> Problem | None:
        """The whole body into the call, or why not: it is too large, or does not arrive."""
        limit = self.gateway.settings.body_bytes_max
        length = call.headers.get(b"content-length")
        if length is not None and (not length.isdigit() or int(length) > limit):
            return over_limit(limit)
        try:
            async with asyncio.timeout(self.gateway.settings.request_timeout_ms / 1_000):
                message = await receive()
                if not message.get("more_body") and message["type"] == "http.request":
                    call.body = message.get("body", b"")
                    return None if len(call.body) <= limit else over_limit(limit)
                parts: list[bytes] = []
                size = 0
                while True:
                    if message["type"] != "http.request":
                        raise Disconnected
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        return over_limit(limit)
                    if not message.get("more_body"):
                        break
                    message = await receive()
        except TimeoutError:
            return problem("malformed_body", "the body did not arrive in time")
        call.body = b"".join(parts)
        return None


class Door:
    """The ASGI application: hot routes first, then the app."""

    def __init__(self, server: Server, hot: dict[tuple[str, str], Route], app: App) -> None:
        self._server = server
        self.exact = {key: route for key, route in hot.items() if "{" not in key[1]}
        self.by_prefix = _prefixes(hot)
        self.app = app
        self.gateway = server.gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            found = self.find(scope["method"], scope["path"])
            if found is not None:
                await self._server.serve(found[0], found[1], scope, receive, send)
                return
        await self.app(scope, receive, send)

    def find(self, method: str, path: str) -> tuple[Route, tuple[str, ...]] | None:
        """The hot route of a request and its path parameters."""
        route = self.exact.get((method, path))
        if route is not None:
            return route, ()
        for prefix, suffix, candidates in self.by_prefix:
            if path.startswith(prefix) and path.endswith(suffix):
                value = path[len(prefix) : len(path) - len(suffix)]
                route = candidates.get(method)
                if route is not None and value and "/" not in value:
                    return route, (value,)
        return None


def _prefixes(hot: dict[tuple[str, str], Route]) -> list[tuple[str, str, dict[str, Route]]]:
    """(text before, text after, route by method) of the hot paths with one parameter."""
    found: dict[tuple[str, str], dict[str, Route]] = {}
    for (method, path), route in hot.items():
        if "{" in path:
            prefix, _, rest = path.partition("{")
            found.setdefault((prefix, rest.partition("}")[2]), {})[method] = route
    return [(prefix, suffix, routes) for (prefix, suffix), routes in found.items()]


def _has_large_body(headers: dict[bytes, bytes]) -> bool:
    length = headers.get(b"content-length", b"0")
    return b"transfer-encoding" in headers or not length.isdigit() or int(length) > UNREAD_BODY_MAX


async def _send(rendered: Rendered, send: Send, receive: Receive, *, close: bool, head: bool) -> None:
    status, headers, body = rendered
    if status not in (204, 304):
        headers.append((b"content-length", b"%d" % len(body)))
    given = {name for name, _ in headers}
    headers += [header for header in STANDARD_HEADERS if header[0] not in given]
    if close:
        headers.append(CLOSE)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if not close:
        await send({"type": "http.response.body", "body": b"" if head else body})
        return
    await send({"type": "http.response.body", "body": b"" if head else body, "more_body": True})
    await _linger(receive)
    await send({"type": "http.response.body", "body": b""})


async def _stream(call: Call, streamed: Streamed, send: Send, receive: Receive, *, head: bool) -> None:
    """A body as it is made, for as long as the client listens and reads."""
    body = streamed.body
    headers = [(b"x-request-id", call.request_id.encode()), (b"content-type", streamed.media_type), NO_BUFFERING]
    gone = asyncio.get_running_loop().create_task(_gone(receive, body))
    try:
        await send({"type": "http.response.start", "status": 200, "headers": [*headers, *STANDARD_HEADERS]})
        while not head and (chunk := await body.next()) is not None:
            async with asyncio.timeout(SLOW_READER_S):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if not gone.done():
            await send({"type": "http.response.body", "body": b""})
    except TimeoutError:
        call.gateway.live.closed_slow += 1
        # What the client did not read is still in the transport's buffer: an orderly close would wait for it for ever.
        transport = getattr(getattr(send, "__self__", None), "transport", None)
        if transport is not None:
            transport.abort()
    finally:
        body.close()
        gone.cancel()


async def _gone(receive: Receive, body: Chunks) -> None:
    """End a body whose client has left."""
    while (await receive())["type"] != "http.disconnect":
        continue
    body.close()


async def _linger(receive: Receive) -> None:
    """Throw away what the client is still sending, for a moment: closing on unread bytes resets the connection, and the reset
    can overtake the answer that says why."""
    size = 0
    try:
        async with asyncio.timeout(LINGER_S):
            while size < LINGER_BYTES:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
                size += len(message.get("body", b""))
    except TimeoutError:
        return
