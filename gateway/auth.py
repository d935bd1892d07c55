"""API keys: `Authorization: Bearer qm_<key id>_<secret>`. Only the hash of a secret is stored, in a document of the configuration.

A header that was verified once is remembered together with the document it was verified against. A key that is revoked or
changed has another document, so the memory is void in the moment the change arrives.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import sha256

from engine.domain.api_keys import PREFIX
from engine.domain.config import ApiKey
from gateway.call import ANY_KEY, PUBLIC

REMEMBERED_MAX = 10_000
TOKEN_BYTES_MAX = 512
_BEARER = b"bearer "
_NO_KEY = ApiKey(key_id="none", secret_sha256="0" * 64, scopes=[])


class Principal:
    """A verified key: what it may do."""

    __slots__ = ("all_scopes", "channels", "document", "expires_at_ms", "hash_prefix", "key_id", "scopes")

    def __init__(self, document: ApiKey) -> None:
        self.document = document
        self.key_id = document.key_id
        self.scopes = frozenset(document.scopes)
        self.all_scopes = "*" in self.scopes
        self.channels = None if document.channels is None else frozenset(document.channels)
        self.expires_at_ms = document.expires_at_ms
        self.hash_prefix = document.key_id.encode() + b"\0"

    def may(self, scope: str) -> bool:
        return scope in (PUBLIC, ANY_KEY) or self.all_scopes or scope in self.scopes

    def may_channel(self, channel: str) -> bool:
        return self.channels is None or channel in self.channels


class Keys:
    """Looks keys up in the configuration and remembers verified headers."""

    def __init__(self, documents: Callable[[], dict[str, ApiKey]]) -> None:
        self._documents = documents
        self._verified: dict[bytes, Principal] = {}

    def principal(self, header: bytes | None, *, now_ms: int) -> Principal | None:
        """Who sent this Authorization header; None = nobody we know, or not any more."""
        if header is None:
            return None
        found = self._verified.get(header)
        if found is None or self._documents().get(found.key_id) is not found.document:
            found = self._verify(header)
            if found is None:
                self._verified.pop(header, None)
                return None
            if len(self._verified) >= REMEMBERED_MAX:
                self._verified.clear()
            self._verified[header] = found
        if found.expires_at_ms is not None and now_ms >= found.expires_at_ms:
            return None
        return found

    def _verify(self, header: bytes) -> Principal | None:
        if header[: len(_BEARER)].lower() != _BEARER or len(header) > TOKEN_BYTES_MAX:
            return None
        token = header[len(_BEARER) :].strip().decode("latin-1")
        if not token.startswith(PREFIX):
            return None
        key_id, _, secret = token[len(PREFIX) :].partition("_")
        document = self._documents().get(key_id)
        # An unknown id costs the same comparison as a wrong secret.
        expected = (document or _NO_KEY).secret_sha256
        same = hmac.compare_digest(sha256(secret.encode("latin-1")).hexdigest(), expected)
        if document is None or not same or document.revoked or not secret:
            return None
        return Principal(document)
