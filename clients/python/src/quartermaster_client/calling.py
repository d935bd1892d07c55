"""One call from its first attempt to its answer, without I/O: both clients drive the same steps.

Operation: what to ask, how to read the answer      Config: where, as whom, in which format, how patiently
Calling: outgoing() -> send it -> answered() or broken() -> Done, or seconds to wait before outgoing() again
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar, cast
from urllib.parse import quote, urlencode

import msgspec

from quartermaster_client.errors import InvalidAnswer, UnknownOutcome, Unreachable, error_of
from quartermaster_client.keys import new_key
from quartermaster_client.retry import RETRY_CODES, RETRY_STATUS, RetryBudget, RetryPolicy
from quartermaster_client.transport import Incoming, NotSent, Outgoing, TransportError

JSON = "application/json"
MSGPACK = "application/vnd.msgpack"
NDJSON = "application/x-ndjson"
CONNECT_TIMEOUT_S = 5.0
CODE_BYTES_MAX = 64 * 1024
KEY_CHARS_MAX = 255

Format: TypeAlias = Literal["json", "msgpack"]
T = TypeVar("T")


class Attempt(NamedTuple):
    """What an observer is told after every attempt. `status` is None where no answer came."""

    operation: str
    number: int
    status: int | None
    code: str
    elapsed_s: float
    request_id: str
    replayed: bool
    wait_s: float | None
    """Seconds until the next attempt; None = this was the last one."""


Observer: TypeAlias = Callable[[Attempt], None]


@dataclass(frozen=True)
class Config:
    """What all calls of a client share."""

    url: str
    api_key: str
    packed: bool
    timeout_s: float
    retry: RetryPolicy
    budget: RetryBudget
    observer: Observer | None
    rng: random.Random = field(default_factory=random.SystemRandom)


class Reply(NamedTuple):
    """A 2xx answer as bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    packed: bool
    maybe_done: bool = False
    """An earlier attempt may have been done."""

    def to(self, kind: type[T]) -> T:
        value: T = _decoder(cast(Any, kind), self.packed).decode(self.body)
        return value

    @property
    def version(self) -> int:
        """The version that the ETag names; 0 where there is none."""
        text = self.headers.get("etag", "").strip('"').removesuffix("-m")
        return int(text) if text.isdigit() else 0


@dataclass(frozen=True, kw_only=True)
class Operation(Generic[T]):
    """One thing to ask. `name` is the route, for observers; `key`: None = it takes no idempotency key, "" = make one."""

    name: str
    path: str
    read: Callable[[Reply], T]
    body: object = None
    content_type: str = ""
    """Of a body of bytes that goes as it is; other bodies are encoded in the client's format."""
    params: tuple[tuple[str, str | int], ...] = ()
    key: str | None = None
    after: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    repeatable: bool = False
    """Whether a POST without a key of its own may be sent twice: its body carries keys."""
    maybe_done: bool = False
    """An earlier call with the same keys may have been done."""

    @property
    def method(self) -> str:
        return self.name.partition(" ")[0]


class Done(NamedTuple, Generic[T]):
    value: T


class Calling(Generic[T]):
    """The attempts of one operation. Raises what ends it: an ApiError, UnknownOutcome, Unreachable or InvalidAnswer."""

    def __init__(self, operation: Operation[T], config: Config) -> None:
        self._operation = operation
        self._config = config
        self._retry = config.retry
        self._repeatable = operation.repeatable or operation.key is not None or operation.method in ("GET", "PUT")
        self.key = operation.key or new_key() if operation.key is not None else None
        if self.key is not None and not (
            self.key.isascii() and self.key.isprintable() and len(self.key) <= KEY_CHARS_MAX
        ):
            raise ValueError(
                f"idempotency_key is {self.key!r}, expected 1 to {KEY_CHARS_MAX} printable ASCII characters"
            )
        self._id = f"qmc-{new_key()}"
        self._began_s = time.monotonic()
        self._sent_s = self._began_s
        self._attempt = 0
        self._maybe_done = operation.maybe_done
        packed = config.packed
        headers = {
            "authorization": f"Bearer {config.api_key}",
            "accept": MSGPACK if packed else JSON,
            **dict(operation.headers),
        }
        content = b""
        if isinstance(operation.body, bytes):
            content, headers["content-type"] = operation.body, operation.content_type
        elif operation.body is not None:
            content, headers["content-type"] = encode(operation.body, packed=packed), MSGPACK if packed else JSON
        if self.key is not None:
            headers["idempotency-key"] = self.key
        if operation.after:
            headers["x-qm-after"] = operation.after
        self._content = content
        self._headers = headers
        self._target = operation.path
        if operation.params:
            self._target += "?" + urlencode(operation.params, quote_via=quote)
        config.budget.call()

    def outgoing(self) -> Outgoing:
        """The next attempt."""
        self._attempt += 1
        self._sent_s = time.monotonic()
        left_s = max(0.001, self._began_s + self._retry.deadline_s - self._sent_s)
        timeout_s = min(self._config.timeout_s, left_s)
        return Outgoing(
            self._operation.method,
            self._config.url,
            self._target,
            {**self._headers, "x-request-id": f"{self._id}.{self._attempt}"},
            self._content,
            timeout_s,
            min(CONNECT_TIMEOUT_S, timeout_s),
            self._operation.name,
        )

    def answered(self, response: Incoming) -> Done[T] | float:
        """The value, or seconds to wait before the next attempt."""
        status = response.status
        media = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        reply = Reply(status, response.headers, response.body, "msgpack" in media, self._maybe_done)
        request_id = response.headers.get("x-request-id", f"{self._id}.{self._attempt}")
        if 200 <= status < 300:
            try:
                value = self._operation.read(reply)
            except msgspec.MsgspecError as error:
                raise InvalidAnswer(
                    f"{self._operation.name} answered {status}, {media or 'no media type'}: {error}"
                ) from error
            self._tell(status, "", request_id, None, replayed="idempotent-replayed" in response.headers)
            return Done(value)
        problem = problem_of(reply)
        if not problem and status not in RETRY_STATUS:
            raise InvalidAnswer(f"{self._operation.name} at {self._config.url} answered {status}: {reply.body[:200]!r}")
        found = error_of(
            problem,
            status=status,
            request_id=request_id,
            retry_after_s=retry_after_s(response.headers.get("retry-after")),
            idempotency_key=self.key,
            attempts=self._attempt,
            maybe_done=self._maybe_done,
        )
        self._maybe_done = self._maybe_done or found.outcome_unknown
        wait_s = None
        if status in RETRY_STATUS or found.code in RETRY_CODES:
            wait_s = self._wait(found.retry_after_s)
        self._tell(status, found.code, request_id, wait_s)
        if wait_s is None:
            raise found
        return wait_s

    def broken(self, error: TransportError) -> float:
        """No answer came: seconds to wait before the next attempt."""
        self._maybe_done = self._maybe_done or not isinstance(error, NotSent)
        wait_s = self._wait(None)
        request_id = f"{self._id}.{self._attempt}"
        self._tell(None, type(error).__name__, request_id, wait_s)
        if wait_s is not None:
            return wait_s
        what = f"{self._operation.name} at {self._config.url}: {error}".rstrip()
        if not self._maybe_done:
            raise Unreachable(f"{what} after {self._attempt} attempts; nothing was sent") from error
        raise UnknownOutcome(what, idempotency_key=self.key, request_id=request_id, attempts=self._attempt) from error

    def _wait(self, after_s: float | None) -> float | None:
        """R1, R3 and R4 of retry.py; None = no further attempt."""
        if not self._repeatable or self._attempt >= self._retry.attempts:
            return None
        wait_s = self._retry.wait_s(self._attempt, after_s, rng=self._config.rng)
        if time.monotonic() + wait_s >= self._began_s + self._retry.deadline_s:
            return None
        return wait_s if self._config.budget.take() else None

    def _tell(
        self, status: int | None, code: str, request_id: str, wait_s: float | None, *, replayed: bool = False
    ) -> None:
        if self._config.observer is not None:
            elapsed_s = time.monotonic() - self._sent_s
            self._config.observer(
                Attempt(self._operation.name, self._attempt, status, code, elapsed_s, request_id, replayed, wait_s)
            )


def encode(body: object, *, packed: bool) -> bytes:
    return msgspec.msgpack.encode(body) if packed else msgspec.json.encode(body)


def problem_of(reply: Reply) -> dict[str, Any]:
    """The problem document of an answer; empty where a proxy answered something of its own."""
    if len(reply.body) > CODE_BYTES_MAX:
        return {}
    decode = msgspec.msgpack.decode if reply.packed else msgspec.json.decode
    try:
        value = decode(reply.body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) and "code" in value else {}


def retry_after_s(header: str | None) -> float | None:
    """Seconds that a Retry-After asks for: a number, or a date. None = it asks for nothing we can read."""
    if not header:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


@cache
def _decoder(kind: Hashable, packed: bool) -> Any:
    return msgspec.msgpack.Decoder(cast(Any, kind)) if packed else msgspec.json.Decoder(cast(Any, kind))
