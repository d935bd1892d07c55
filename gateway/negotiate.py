"""Content negotiation: JSON or MessagePack in, JSON or MessagePack out. Headers repeat, so verdicts are remembered."""

from __future__ import annotations

from functools import lru_cache

JSON = b"application/json"
MSGPACK = b"application/vnd.msgpack"
_MSGPACK_NAMES = frozenset((MSGPACK, b"application/msgpack", b"application/x-msgpack"))


@lru_cache(maxsize=256)
def body_is_packed(content_type: bytes | None) -> bool | None:
    """False = JSON, True = MessagePack, None = neither (415)."""
    if content_type is None:
        return None
    name = media_type(content_type)
    if name == JSON:
        return False
    return True if name in _MSGPACK_NAMES else None


@lru_cache(maxsize=256)
def media_type(content_type: bytes) -> bytes:
    """A Content-Type without its parameters, in lower case."""
    return content_type.partition(b";")[0].strip().lower()


@lru_cache(maxsize=256)
def answer_is_packed(accept: bytes | None) -> bool | None:
    """False = JSON (also where nothing is asked for), True = MessagePack, None = neither can be sent (406).

    The best quality wins, JSON on equal terms; a media range that names a type exactly beats a wildcard for that type.
    """
    if not accept or accept.strip() == b"*/*":
        return False
    exact: dict[bytes, float] = {}
    for part in accept.split(b","):
        pieces = part.split(b";")
        name = pieces[0].strip().lower()
        exact[name] = max(exact.get(name, 0.0), _quality(pieces[1:]))
    wildcard = exact.get(b"application/*", exact.get(b"*/*", 0.0))
    json = exact.get(JSON, exact.get(b"application/problem+json", wildcard))
    packed = max((q for name, q in exact.items() if name in _MSGPACK_NAMES), default=wildcard)
    if json <= 0.0 and packed <= 0.0:
        return None
    return packed > json


@lru_cache(maxsize=256)
def accepts(accept: bytes | None, name: bytes) -> bool:
    """Whether a media type other than those two may be sent."""
    if not accept:
        return True
    ranges = {name, name.partition(b"/")[0] + b"/*", b"*/*"}
    for part in accept.split(b","):
        pieces = part.split(b";")
        if pieces[0].strip().lower() in ranges and _quality(pieces[1:]) > 0.0:
            return True
    return False


def _quality(parameters: list[bytes]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition(b"=")
        if name.strip().lower() == b"q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
