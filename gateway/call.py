"""What a route is and what handling one request needs: Route, Call, Answer, Ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from engine.domain.commands import Command
from engine.domain.replies import Problem, Reply

if TYPE_CHECKING:
    from gateway.auth import Principal
    from gateway.gateway import Gateway

PUBLIC = "public"
"""Scope of a route that needs no key. It has to be said: a route without a scope does not start."""
ANY_KEY = "any_key"
"""Scope of a route that any valid key may use, because it shows that key's own things only."""
VALUES_FREE_BYTES = 128 * 1024


class Answer(NamedTuple):
    """A success. `value` is anything msgspec can encode; bytes are sent as they are with `media_type`."""

    value: Any
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    version: int | None = None
    """Version of the document shown: becomes a strong ETag."""
    media_type: bytes | None = None


class Chunks(Protocol):
    """A body that is made while it is sent. `next` waits for more; None = the end."""

    async def next(self) -> bytes | None: ...

    def close(self) -> None: ...


class Streamed(NamedTuple):
    """A success whose body goes on for as long as the client listens."""

    body: Chunks
    media_type: bytes


class Ask(NamedTuple):
    """One command to the home shard of a slot; `finish` turns the reply into the answer. What nearly every route is."""

    slot: str
    command: Command
    finish: Callable[[Call, Reply], Answer | Problem]


Result = Answer | Problem
Handler = Callable[["Call"], Answer | Problem | Ask | Awaitable[Answer | Problem | Streamed]]


class Route(NamedTuple):
    """One method of one path: the only way to add something to the API. Declared in each resource's routes.py."""

    method: str
    path: str
    scope: str
    handle: Handler
    summary: str
    tag: str
    description: str = ""
    body: type | None = None
    body_required: bool = True
    values_max: int = 50_000
    """Most values (commas) in a JSON body beyond VALUES_FREE_BYTES: a decoder builds a whole array before it finds it too long."""
    body_types: tuple[str, ...] = ()
    """Media types of a body that is not JSON or MessagePack: it is streamed by the handler under the import limit."""
    query: type | None = None
    answer: type | None = None
    answer_type: str = ""
    """Media type of an answer that is not JSON or MessagePack."""
    status: int = 200
    slashes: bool = False
    """The path's last parameter may contain slashes: the ids of documents are the caller's."""
    needs_key: bool = False
    """Needs an Idempotency-Key header."""
    takes_key: bool = False
    finishing: bool = False
    """Frees or settles stock: not shed before new work."""
    takes_after: bool = False
    if_match: bool = False
    etag: bool = False
    item: type | None = None
    """What `data` of a list holds."""
    also: dict[int, type] = {}
    """Answers under other statuses that are no problems."""
    problems: tuple[str, ...] = ()
    """Codes that this route adds to those every route can answer."""
    body_examples: dict[str, Any] = {}
    answer_example: Any = None
    raw_examples: dict[str, str] = {}
    """Example files by media type."""

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


def headers_by_name(pairs: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Of a repeated header the last counts, but tokens to wait for are a list, as RFC 9110 joins it.

    A repeated key, of the caller or of the intent, is refused as malformed: whoever stands between may have read the other one.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        for once, join in ((b"x-qm-after", b","), (b"authorization", b"\n"), (b"idempotency-key", b"\n")):
            if once in found:
                found[once] = join.join([value for name, value in pairs if name == once])
    return found


class Call:
    """One request, from its headers to its answer."""

    __slots__ = (
        "body",
        "close",
        "extra_headers",
        "gateway",
        "headers",
        "key",
        "key_hash",
        "key_ms",
        "packed_in",
        "packed_out",
        "params",
        "query",
        "receive",
        "request_id",
        "route",
        "started",
    )

    def __init__(
        self,
        gateway: Gateway,
        route: Route,
        headers: dict[bytes, bytes],
        query: bytes,
        params: tuple[str, ...],
        started: float,
    ) -> None:
        self.gateway = gateway
        self.route = route
        self.headers = headers
        self.query = query
        self.params = params
        self.started = started
        self.body: bytes = b""
        self.packed_in = False
        self.packed_out = False
        self.request_id = ""
        self.key: Principal | None = None
        self.key_hash = 0
        self.key_ms = 0
        """When the idempotency key says that it was made; 0 = it does not say."""
        self.receive: Any = None
        """ASGI receive, for a handler that streams its body."""
        self.extra_headers: list[tuple[bytes, bytes]] = []
        self.close = False
        """Close the connection after the answer: part of the body was left unread."""

    @property
    def principal(self) -> Principal:
        """Who asks. Only on routes that are not public."""
        assert self.key is not None, "a public route asked who asks"
        return self.key

    def after(self) -> str | None:
        """The commit token of X-QM-After, or several."""
        raw = self.headers.get(b"x-qm-after")
        return raw.decode("latin-1") if raw else None
