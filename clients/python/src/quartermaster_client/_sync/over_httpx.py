# Made from ../_async by clients/python/tools/unasync.py: change that, not this.
"""The transport that comes with the client: httpx, with its pools, proxies and TLS."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from weakref import WeakSet

import httpx

from quartermaster_client.transport import Incoming, NotAnswered, NotSent, Outgoing

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_NEVER = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
"""Faults of the caller: no attempt will end differently."""


class Opened:
    """An answer whose body is read as it comes. Raises NotAnswered where it breaks off."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self._response = response

    def chunks(self) -> Iterator[bytes]:
        try:
            yield from self._response.iter_bytes()
        except httpx.RequestError as error:
            raise NotAnswered(f"{type(error).__name__} {error}".rstrip()) from error

    def body(self) -> bytes:
        try:
            return self._response.read()
        except httpx.RequestError as error:
            raise NotAnswered(f"{type(error).__name__} {error}".rstrip()) from error

    def cut(self) -> None:
        """End it from wherever: closing a socket does not wake a thread that reads from it, shutting it down does."""
        stream = self._response.extensions.get("network_stream")
        found = stream.get_extra_info("socket") if stream is not None else None
        if found is not None:
            with suppress(OSError):  # it has ended by itself
                found.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._response.close()


class OverHttpx:
    """An httpx client of its own with at most `connections_max` connections, or yours: that stays yours to close."""

    def __init__(self, http: httpx.Client | None = None, *, connections_max: int = 100) -> None:
        limits = httpx.Limits(max_connections=connections_max, max_keepalive_connections=connections_max)
        self._owned = http is None
        self._http = http or httpx.Client(limits=limits)
        self._opened: WeakSet[Opened] = WeakSet()

    def send(self, outgoing: Outgoing) -> Incoming:
        timeout = httpx.Timeout(outgoing.timeout_s, connect=outgoing.connect_timeout_s)
        try:
            response = self._http.request(
                outgoing.method,
                outgoing.url,
                headers=dict(outgoing.headers),
                content=outgoing.body or None,
                timeout=timeout,
            )
        except _NEVER:
            raise
        except _NOT_SENT as error:
            raise NotSent(f"{type(error).__name__} {error}".rstrip()) from error
        except httpx.RequestError as error:
            raise NotAnswered(f"{type(error).__name__} {error}".rstrip()) from error
        return Incoming(response.status_code, response.headers, response.content)

    def open(self, outgoing: Outgoing, *, idle_s: float) -> Opened:
        """The same, but for the body: it is read as it comes, and may be silent for `idle_s`."""
        timeout = httpx.Timeout(outgoing.timeout_s, connect=outgoing.connect_timeout_s, read=idle_s)
        request = self._http.build_request(
            outgoing.method, outgoing.url, headers=dict(outgoing.headers), timeout=timeout
        )
        try:
            opened = Opened(self._http.send(request, stream=True))
        except _NEVER:
            raise
        except _NOT_SENT as error:
            raise NotSent(f"{type(error).__name__} {error}".rstrip()) from error
        except httpx.RequestError as error:
            raise NotAnswered(f"{type(error).__name__} {error}".rstrip()) from error
        self._opened.add(opened)
        return opened

    def close(self) -> None:
        for opened in list(self._opened):
            opened.cut()
        if self._owned:
            self._http.close()
