"""Idempotency-Key: checked here, remembered by the shard that decides (in the same entry as the effect).

A key is scoped to its API key. Its 64-bit hash travels with the command, and so does a fingerprint of what the request asks
for: the route and the decoded body in one canonical form, so that spacing, field order and JSON or MessagePack do not count.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from engine.domain.ids import EPOCH_2020_MS
from engine.domain.replies import Problem
from gateway.errors import KEY_POINTER, problem, refuse

KEY_BYTES_MAX = 255
WINDOW_MS = 24 * 3_600_000
"""How long shards remember a key at most. A key that says it is older cannot be told from one that was forgotten.

A shard without room remembers for less: it judges by the time that goes with the command.
"""
_CROCKFORD = {c: i for i, c in enumerate("0123456789ABCDEFGHJKMNPQRSTVWXYZ")}
_pack = msgspec.msgpack.Encoder().encode


def hash_key(scope: bytes, key: bytes) -> int:
    """64 bits of a key within its scope (an API key); never 0, which means "no key"."""
    return int.from_bytes(blake2b(scope + key, digest_size=8).digest(), "big") or 1


def fingerprint(route: bytes, value: object) -> int:
    """64 bits of what is asked: the route (with its path parameters) and the decoded body."""
    return int.from_bytes(blake2b(route + _pack(value), digest_size=8).digest(), "big")


def key_time(key: bytes | None, *, now_ms: int, pointer: str = KEY_POINTER) -> int | Problem:
    """When a key says that it was made, in ms (0 = it does not say), or why it cannot be used."""
    if not key:
        return problem("idempotency_key_required")
    if len(key) > KEY_BYTES_MAX or not (key.isascii() and key.decode("ascii").isprintable()):
        return refuse("invalid_field", pointer, f"1 to {KEY_BYTES_MAX} printable ASCII characters")
    if len(key) in (26, 36):
        made_ms = time_of(key)
        if made_ms is not None and made_ms >= EPOCH_2020_MS:
            if made_ms < now_ms - WINDOW_MS:
                detail = "this time-ordered key was made before the window in which keys are remembered"
                return refuse("key_too_old", pointer, detail, made_at_ms=made_ms, window_ms=WINDOW_MS)
            return made_ms
    return 0


def time_of(key: bytes) -> int | None:
    """Milliseconds since 1970 that a UUIDv7 or a ULID carries; None = the key is opaque."""
    text = key.decode("ascii").upper()
    if len(text) == 36:
        if text[8] + text[13] + text[18] + text[23] != "----" or text[14] != "7" or text[19] not in "89AB":
            return None
        digits = text.replace("-", "")
        if len(digits) != 32 or any(c not in "0123456789ABCDEF" for c in digits):
            return None
        return int(digits[:12], 16)
    if text[0] > "7" or any(c not in _CROCKFORD for c in text):
        return None
    value = 0
    for c in text[:10]:
        value = value << 5 | _CROCKFORD[c]
    return value
