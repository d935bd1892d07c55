"""A small asynchronous HTTP client for requests that are not the public client's to make: broken ones, raw bodies, whole tables.

What plays a storefront speaks through `quartermaster_client`. Both send with `transports.PlainTransport`. Requests that change
something carry an idempotency key, so that a broken connection is retried safely with the same key.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec

import quartermaster_client as qm
from loadtests.transports import PlainTransport

CONNECT_TIMEOUT_S = 5.0


class ClientError(RuntimeError):
    """An answer that the caller did not expect; the message carries it."""


class Response(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        """The problem code of a refusal; empty for anything else."""
        if self.status < 400:
            return ""
        try:
            return str(self.json().get("code", self.status))
        except (msgspec.DecodeError, AttributeError):
            return str(self.status)


class Unanswered(ConnectionError):
    """The connection broke or timed out before an answer: the outcome is unknown."""


class Client:
    """At most `connections` requests at once; more wait. `retries` repeats after a broken connection, with the same key."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        connections: int = 16,
        retries: int = 3,
        timeout_s: float = 60.0,
    ) -> None:
        self._url = url.rstrip("/")
        self._key = key or ""
        self._auth = {"authorization": f"Bearer {key}"} if key else {}
        self._transport = PlainTransport(connections=connections)
        self._retries = retries
        self._timeout_s = timeout_s
        self._key_prefix = secrets.token_hex(6)
        self._keys = itertools.count(1)

    def move_to(self, url: str) -> None:
        """Talk to another address from now on, with the same key."""
        self._url = url.rstrip("/")

    def public(self) -> qm.AsyncClient:
        """The public client over the same connections, for what is its to do; nothing of it needs closing."""
        return qm.AsyncClient(self._url, self._key, timeout_s=self._timeout_s, transport=self._transport)

    def new_key(self) -> str:
        return f"{self._key_prefix}-{next(self._keys)}"

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        key: str | None = None,
        content_type: str = "application/json",
    ) -> Response:
        """One exchange. `body`: bytes as they are, anything else as JSON. POST, PUT and DELETE get an idempotency key.

        Raises Unanswered where no answer came after all retries.
        """
        data = b"" if body is None else body if isinstance(body, bytes) else msgspec.json.encode(body)
        lines = dict(self._auth)
        if data:
            lines["content-type"] = content_type
        if method != "GET":
            lines["idempotency-key"] = key or self.new_key()
        lines.update(headers or {})
        for attempt in range(self._retries + 1):
            outgoing = qm.Outgoing(method, self._url, path, lines, data, self._timeout_s, CONNECT_TIMEOUT_S, "")
            try:
                return Response(*await self._transport.send(outgoing))
            except qm.TransportError as error:
                if attempt == self._retries:
                    raise Unanswered(f"{method} {path}: {error}") from error
                await asyncio.sleep(0.05 * 4**attempt)
        raise AssertionError("the loop above returns or raises")

    async def expect(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """JSON of a 2xx answer; ClientError with the answer otherwise."""
        response = await self.request(method, path, body, **options)
        if not 200 <= response.status < 300:
            raise ClientError(
                f"{method} {path} answered {response.status}: {response.body[:600].decode(errors='replace')}"
            )
        return response.json() if response.body else None

    async def close(self) -> None:
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
