"""The check that every peer makes of the Authorization header: key id, SHA-256 of the secret, constant time, remembered."""

from __future__ import annotations

import hmac
import os
from hashlib import sha256
from typing import Annotated

from fastapi import Header, HTTPException

KEY_ENV = "QM_PEER_KEY"
_verified: set[str] = set()


def known_key() -> tuple[str, str]:
    """(key id, SHA-256 of the secret) of the one key, from the environment."""
    _, key_id, secret = os.environ[KEY_ENV].split("_", 2)
    return key_id, sha256(secret.encode()).hexdigest()


def authorized(authorization: Annotated[str, Header()], idempotency_key: Annotated[str, Header()]) -> str:
    """The idempotency key of a request with a valid API key; 401 otherwise."""
    if authorization not in _verified:
        key_id, digest = known_key()
        scheme, _, token = authorization.partition(" ")
        prefix, _, rest = token.partition("_")
        given_id, _, secret = rest.partition("_")
        right = hmac.compare_digest(sha256(secret.encode()).hexdigest(), digest)
        if scheme.lower() != "bearer" or prefix != "qm" or given_id != key_id or not right:
            raise HTTPException(401, "unauthenticated")
        _verified.add(authorization)
    return idempotency_key
