"""The lean way in: hot routes answered inside uvicorn's HTTP protocol, without a task, an ASGI scope or a second write.

Everything that is out of the ordinary goes the ordinary way (asgi.py), which serves the same routes with the same steps:

N1  Lean only: HTTP/1.1, a hot route by exact path, a plain Content-Length within BODY_MAX, nothing in progress on the connection,
    the client reading its answers. Chunked, Expect, Upgrade, a query string where the route takes none, pipelined or slow-reading
    clients: ordinary.
N2  A connection has at most one request in progress, lean or not. What arrives meanwhile is queued by uvicorn, unread beyond its
    high-water mark, and answered in order: a lean request poses as an unfinished cycle of uvicorn's.
N3  A request that is begun and not completed within the request time-out is answered 400 and the connection closed. Behind a
    request in progress that waits: the client would take it for that request's answer.
N4  An idle or silent connection is closed after the keep-alive time; one timer for each connection, not one for each answer.
N5  A lean request counts as in flight from its last byte to its answer, whatever becomes of the client.
N6  A connection beyond the limit gets one answer, 503, to its first bytes; what it sends is thrown away, and it is closed within
    REFUSED_S. Beyond TURNED_AWAY_MAX of those, new ones are just closed.
N7  HEAD_MAX bytes that are neither the end of a head nor part of a body (an endless head, trailers, chunk extensions) end the
    connection: the parser keeps them all and copies them each time more come.
N8  A client that takes nothing of its answers for UNTAKEN_S is cut off, closing or not: an orderly close would wait for it for ever.

It rests on uvicorn's HttpToolsProtocol (pinned); tests/integration/test_gateway_lean.py shows each of the above over raw sockets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from functools import partial
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engine.domain.replies import Problem, Reply
from gateway.asgi import Door
from gateway.call import Answer, Ask, Call, Route, headers_by_name
from gateway.errors import Refused, problem
from gateway.history.past import ELSEWHERE
from gateway.limits import TURNED_AWAY_MAX
from gateway.pipeline import STANDARD_HEADERS, Rendered, admit, flood, internal, render

BODY_MAX = 256 * 1024
HEAD_MAX = 64 * 1024
REFUSED_S = 1.0
UNTAKEN_S = 60.0
"""More than a stream's heartbeat and SLOW_READER_S: streams are cut off by their own rule, which counts them."""
_STANDARD = b"".join([name + b": " + value + b"\r\n" for name, value in STANDARD_HEADERS])
_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_BAD_HTTP = "the bytes received are not an HTTP request"


class LeanCycle:
    """A lean request in progress; to uvicorn it looks like one of its own request cycles."""

    __slots__ = (
        "body",
        "call",
        "disconnected",
        "keep_alive",
        "message_event",
        "more_body",
        "parts",
        "response_complete",
    )

    def __init__(self, call: Call, keep_alive: bool, message_event: _Nobody) -> None:
        self.call = call
        self.keep_alive = keep_alive
        self.parts: list[bytes] = []
        self.body = bytearray()
        self.disconnected = False
        self.more_body = True
        self.message_event = message_event
        self.response_complete = False


class _Nobody:
    """Stands where uvicorn would wake a task that waits for the body or the end."""

    def set(self) -> None:
        return


_NOBODY = _Nobody()


def lean_protocol(door: Door) -> type[HttpToolsProtocol]:
    """The protocol class for uvicorn, bound to a door."""
    exact = {name: route for name, route in door.exact.items() if not route.answer_type}  # a stream is no single write
    hot = {(method.encode(), path.encode()): route for (method, path), route in exact.items()}
    prefixes = [
        (prefix.encode(), suffix.encode(), {m.encode(): r for m, r in routes.items()})
        for prefix, suffix, routes in door.by_prefix
    ]
    gateway = door.gateway
    connections = gateway.connections
    request_s = gateway.settings.request_timeout_ms / 1_000

    def find(method: bytes, url: bytes) -> tuple[Route, tuple[str, ...], bytes] | None:
        """(route, path parameters, query string) of a request that may be lean."""
        route = hot.get((method, url))
        if route is not None:
            return route, (), b""
        path, mark, query = url.partition(b"?")
        if mark:
            route = hot.get((method, path))
            return (route, (), query) if route is not None and route.query is not None and b"#" not in query else None
        for prefix, suffix, routes in prefixes:
            if url.startswith(prefix) and url.endswith(suffix):
                value = url[len(prefix) : len(url) - len(suffix)]
                found = routes.get(method)
                if found is not None and value and value.replace(b"_", b"").isalnum():
                    return found, (value.decode("ascii"),), b""
        return None

    class LeanProtocol(HttpToolsProtocol):
        """One connection."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._lean: LeanCycle | None = None
            """The lean request whose bytes are arriving."""
            self._begun = False
            """A request's bytes are arriving that no ASGI task waits for."""
            self._late_timer: asyncio.TimerHandle | None = None
            self._idle_timer: asyncio.TimerHandle | None = None
            self._idle_since = 0.0
            self._untaken = 0
            """N8: bytes of answers that the client has not taken, when last looked at, and the last moment when they were others."""
            self._taken_s = 0.0
            self._head: tuple[Any, bytes] = (None, b"")
            self._served = False
            """N6: whether it is within the limit of connections."""
            self._told = False
            self._unread = 0
            """N7: bytes since a head was complete, a body went on or a request ended."""

        # -- in ---------------------------------------------------------------------------------------------------

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._served = connections.enter()
            if self._served:
                self._idle_since = self.loop.time()
                self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._idle)
                return
            connections.leaving += 1
            if connections.leaving > TURNED_AWAY_MAX:
                transport.abort()
            else:
                self._late_timer = self.loop.call_later(REFUSED_S, transport.close)

        def data_received(self, data: bytes) -> None:
            if not self._served:
                self._turn_away()
                return
            self._unread += len(data)
            super().data_received(data)
            if self._unread > HEAD_MAX:
                self._never_ends()
            if self._begun:
                if self._late_timer is None:
                    self._late_timer = self.loop.call_later(request_s, self._too_late)
            elif self._late_timer is not None:
                self._late_timer.cancel()
                self._late_timer = None

        def on_message_begin(self) -> None:
            # The ASGI scope is made only for requests that turn out to need one.
            self.url = b""
            self.expect_100_continue = False
            self.headers = []
            self._begun = True

        def on_headers_complete(self) -> None:
            self._unread = 0
            cycle = self.cycle
            if (cycle is None or cycle.response_complete) and not self.flow.write_paused:
                found = find(self.parser.get_method(), self.url)
                if found is not None and self._start(*found):
                    return
            url, headers, expects = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url, self.headers, self.expect_100_continue = url, headers, expects
            self.scope["headers"] = headers
            self._begun = False
            super().on_headers_complete()

        def _start(self, route: Route, params: tuple[str, ...], query: bytes) -> bool:
            """Begin a lean request; False = it must go the ordinary way (N1)."""
            headers = headers_by_name(self.headers)
            length = headers.get(b"content-length", b"0")
            if (
                not length.isdigit()
                or len(length) > 7
                or int(length) > BODY_MAX
                or b"transfer-encoding" in headers
                or self.expect_100_continue
                or self.parser.should_upgrade()
                or self.parser.get_http_version() != "1.1"
            ):
                return False
            call = Call(gateway, route, headers, query, params, time.monotonic())
            self._lean = self.cycle = LeanCycle(call, self.parser.should_keep_alive(), _NOBODY)  # type: ignore[assignment]
            return True

        def on_body(self, body: bytes) -> None:
            self._unread = 0
            if self._lean is not None:
                self._lean.parts.append(body)
            else:
                super().on_body(body)

        def on_message_complete(self) -> None:
            self._unread = 0
            cycle = self._lean
            if cycle is None:
                super().on_message_complete()
                return
            self._lean = None
            self._begun = False
            cycle.more_body = False
            call = cycle.call
            call.body = cycle.parts[0] if len(cycle.parts) == 1 else b"".join(cycle.parts)
            self._work(cycle, call)

        def _never_ends(self) -> None:
            """N7."""
            self._begun = False
            if self.transport.is_closing():
                return
            if self.cycle is not None and not self.cycle.response_complete:
                self.transport.abort()
            else:
                detail = f"the head of the request is longer than {HEAD_MAX} bytes"
                self._say_and_close(render(self._nothing(), problem("malformed_body", detail)))

        def _turn_away(self) -> None:
            """N6: the answer to a connection's first bytes; closing at once could reset it before the client has read why."""
            if not self._told:
                self._told = True
                found = problem("overloaded", f"{connections.now} connections are open", retry_after_ms=1_000)
                self.transport.write(self._bytes_of(render(self._nothing(), found), keep_alive=False))

        # -- work -------------------------------------------------------------------------------------------------

        def _work(self, cycle: LeanCycle, call: Call) -> None:
            try:
                result: Any = admit(call)
            except Exception as error:
                result = internal(call, error)
            if result is None:
                gateway.in_flight.now += 1
                try:
                    result = flood(call) or call.route.handle(call)
                    if type(result) is Ask:
                        cluster = gateway.cluster
                        on_reply = partial(self._replied, cycle, result)
                        cluster.tell(cluster.shard_of_slot(result.slot), result.command, on_reply)
                        return
                except Refused as refused:
                    result = refused.problem
                except Exception as error:
                    result = internal(call, error)
                if isinstance(result, Awaitable):
                    self._spawn(cycle, result)
                    return
                gateway.in_flight.now -= 1
            self._answer(cycle, result)

        def _replied(self, cycle: LeanCycle, ask: Ask, reply: Reply) -> None:
            call = cycle.call
            try:
                if type(reply) is Problem and reply.code in ELSEWHERE:
                    self._spawn(cycle, self._moved(call, ask))
                    return
                result = ask.finish(call, reply)
            except Exception as error:
                result = internal(call, error)
            gateway.in_flight.now -= 1
            self._answer(cycle, result)

        async def _moved(self, call: Call, ask: Ask) -> Answer | Problem:
            return ask.finish(call, await gateway.ask_slot(ask.slot, ask.command))

        def _spawn(self, cycle: LeanCycle, work: Awaitable[Answer | Problem]) -> None:
            """The rare request that must wait for more than one reply gets a task after all."""

            async def run() -> None:
                try:
                    result = await work
                except Refused as refused:
                    result = refused.problem
                except Exception as error:
                    result = internal(cycle.call, error)
                finally:
                    gateway.in_flight.now -= 1
                self._answer(cycle, result)

            task = self.loop.create_task(run())
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

        def on_response_complete(self) -> None:
            self._idle_since = self.loop.time()
            super().on_response_complete()

        # -- out --------------------------------------------------------------------------------------------------

        def _answer(self, cycle: LeanCycle, result: Answer | Problem) -> None:
            call = cycle.call
            try:
                rendered = render(call, result)
            except Exception as error:
                rendered = render(call, internal(call, error))
            gateway.metrics.done(call.route.name, rendered.status, time.monotonic() - call.started)
            cycle.response_complete = True
            if cycle.disconnected or self.transport.is_closing():
                return
            self.transport.write(self._bytes_of(rendered, keep_alive=cycle.keep_alive))
            if not cycle.keep_alive:
                self.transport.close()
                return
            if self.pipeline:
                self.on_response_complete()
                return
            self.server_state.total_requests += 1
            self.flow.resume_reading()
            self._idle_since = self.loop.time()
            if self._idle_timer is None:
                self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._idle)

        def _bytes_of(self, rendered: Rendered, *, keep_alive: bool) -> bytes:
            status, headers, body = rendered
            defaults = self.server_state.default_headers
            if self._head[0] is not defaults:  # uvicorn makes a new list when the second changes
                self._head = (defaults, b"".join([n + b": " + v + b"\r\n" for n, v in defaults]) + _STANDARD)
            out = [_STATUS[status], self._head[1]]
            for name, value in headers:
                out += (name, b": ", value, b"\r\n")
            if not keep_alive:
                out.append(b"connection: close\r\n")
            if status == 304:
                out.append(b"\r\n")
            else:
                out += (b"content-length: %d\r\n\r\n" % len(body), body)
            return b"".join(out)

        def send_400_response(self, msg: str) -> None:
            """Bytes that are no HTTP, as a typed problem too. Behind a request in progress they just end the connection: the
            client would take our complaint for that request's answer."""
            if self.cycle is not None and not self.cycle.response_complete:
                self.transport.close()
                return
            self._say_and_close(render(self._nothing(), problem("malformed_body", _BAD_HTTP)))

        def _nothing(self) -> Call:
            """What is answered where no request was read."""
            call = Call(gateway, Route("", "unknown", "", _never, "", ""), {}, b"", (), 0.0)
            call.request_id = gateway.new_request_id()
            return call

        # -- time -------------------------------------------------------------------------------------------------

        def _too_late(self) -> None:
            """N3."""
            self._late_timer = None
            if not self._begun or self.transport.is_closing():
                return
            if self._lean is None and self.cycle is not None and not self.cycle.response_complete:
                self._late_timer = self.loop.call_later(request_s, self._too_late)
                return
            self._begun = False
            call = self._nothing()
            if self._lean is not None:
                call.route = self._lean.call.route
            rendered = render(call, problem("malformed_body", "the body did not arrive in time"))
            gateway.metrics.done(call.route.name, rendered.status, request_s)
            self._say_and_close(rendered)

        def _say_and_close(self, rendered: Rendered) -> None:
            self.transport.write(self._bytes_of(rendered, keep_alive=False))
            self.transport.close()

        def _idle(self) -> None:
            """N4 and N8: close what has been idle long enough, cut off who does not read, look again later at the rest."""
            self._idle_timer = None
            now_s, untaken = self.loop.time(), self.transport.get_write_buffer_size()
            if untaken != self._untaken or not untaken:
                self._untaken, self._taken_s = untaken, now_s
            elif now_s - self._taken_s >= UNTAKEN_S:
                self.transport.abort()
                return
            busy = self._begun or (self.cycle is not None and not self.cycle.response_complete)
            left_s = self._idle_since + self.timeout_keep_alive - now_s
            if not busy and left_s <= 0:
                self.transport.close()
            if untaken or not self.transport.is_closing():
                self._idle_timer = self.loop.call_later(max(left_s, 1.0), self._idle)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._served:
                connections.now -= 1
            else:
                connections.leaving -= 1
            for timer in (self._late_timer, self._idle_timer):
                if timer is not None:
                    timer.cancel()
            self._late_timer = self._idle_timer = None
            self._begun = False
            super().connection_lost(exc)

    return LeanProtocol


def _never(call: Call) -> Any:
    raise AssertionError("a route that only names what is no request")
