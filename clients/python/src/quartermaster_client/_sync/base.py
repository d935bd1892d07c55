# Made from ../_async by clients/python/tools/unasync.py: change that, not this.
"""Sending: the loop over attempts that every call goes through."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self, TypeVar

import httpx

from quartermaster_client._sync.over_httpx import OverHttpx
from quartermaster_client.calling import Calling, Config, Format, Observer, Operation
from quartermaster_client.retry import RetryBudget, RetryPolicy
from quartermaster_client.transport import Transport, TransportError

T = TypeVar("T")


class Base:
    """Connections and settings of a client.

    url, api_key: of a gateway. timeout_s: of one attempt; `retry` says how many and for how long in all. budget: give several
    clients of one process the same one. observer: called after every attempt, for logs and metrics; it must not block or raise.
    http: an httpx client of your own (proxies, TLS). transport: something else to send with (transport.py). Either stays yours to close.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        format: Format = "json",
        timeout_s: float = 12.0,
        retry: RetryPolicy = RetryPolicy(),
        budget: RetryBudget | None = None,
        observer: Observer | None = None,
        connections_max: int = 100,
        http: httpx.Client | None = None,
        transport: Transport | None = None,
    ) -> None:
        if http is not None and transport is not None:
            raise ValueError("give http or transport, not both")
        if format not in ("json", "msgpack"):
            raise ValueError(f"format is {format!r}, expected json or msgpack")
        if transport is None and not url.startswith(("http://", "https://")):
            raise ValueError(f"url is {url!r}, expected http://... or https://...")
        self._config = Config(
            url=url.rstrip("/"),
            api_key=api_key,
            packed=format == "msgpack",
            timeout_s=timeout_s,
            retry=retry,
            budget=budget or RetryBudget(),
            observer=observer,
        )
        self._closed = threading.Event()
        self._owned = transport is None
        self._transport = transport or OverHttpx(http, connections_max=connections_max)

    def close(self) -> None:
        """Give the connections back. Streams end at once, in other threads as well."""
        self._closed.set()
        if self._owned:
            self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, operation: Operation[T]) -> T:
        """The answer to an operation: what every method here does, and the way to a route that has no method yet."""
        calling = Calling(operation, self._config)
        while True:
            try:
                response = self._transport.send(calling.outgoing())
            except TransportError as error:
                wait_s = calling.broken(error)
            else:
                outcome = calling.answered(response)
                if not isinstance(outcome, float):
                    return outcome.value
                wait_s = outcome
            self._sleep(wait_s)

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)
