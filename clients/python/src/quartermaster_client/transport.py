"""What carries a call: one attempt out, one answer back. httpx is the one that comes with the client; bring your own where it does not fit.

A transport sends what it is given, once, and reports one of three things: an answer, whatever its status; `NotSent`, when no
byte of the request can have reached a server; `NotAnswered`, when it may have. Retries, keys, deadlines and the meaning of an
answer are the client's. Every attempt gets its timeout with it. Anything else that a transport raises ends the call as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol


class Outgoing(NamedTuple):
    """One attempt. Header names are lower case; the body is in memory, and there is no other framing to add than its length."""

    method: str
    origin: str
    """`http://host:port`, and the path that the client's URL has, if any."""
    target: str
    """Path and query, percent-encoded."""
    headers: Mapping[str, str]
    body: bytes
    timeout_s: float
    """Of sending and of waiting for the answer, once there is a connection."""
    connect_timeout_s: float
    operation: str
    """`POST /v1/legs/{leg_id}/ship`: for transports that count by route."""

    @property
    def url(self) -> str:
        return self.origin + self.target


class Incoming(NamedTuple):
    """An answer. Headers are found by lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class TransportError(Exception):
    """Base of what a transport reports instead of an answer."""


class NotSent(TransportError):
    """No connection: nothing can have been done."""


class NotAnswered(TransportError):
    """The request may have arrived; its answer did not."""


class Transport(Protocol):
    """For `Client`. Threads may call `send` at once."""

    def send(self, outgoing: Outgoing) -> Incoming: ...

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """For `AsyncClient`. Tasks call `send` at once."""

    async def send(self, outgoing: Outgoing) -> Incoming: ...

    async def aclose(self) -> None: ...
