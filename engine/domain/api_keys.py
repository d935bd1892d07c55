"""API keys: the token that is handed out once, and the document that is stored of it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from hashlib import sha256

from engine.domain.config import ApiKey

PREFIX = "qm_"
KEY_ID_BYTES = 4
SECRET_BYTES = 32
SCOPES = (
    "allocate:read",
    "allocate:write",
    "config:read",
    "config:write",
    "decisions:read",
    "inventory:read",
    "inventory:write",
    "legs:read",
    "legs:write",
    "metrics:read",
)
"""All that routes ask for; `*` = every one, those of later versions too."""


def new_key(
    key_id: str,
    scopes: Sequence[str],
    *,
    name: str = "",
    channels: Sequence[str] | None = None,
    expires_at_ms: int | None = None,
) -> tuple[str, ApiKey]:
    """(token to hand out once, document to store) of a fresh key."""
    secret = secrets.token_urlsafe(SECRET_BYTES)
    document = ApiKey(
        key_id=key_id,
        name=name,
        secret_sha256=sha256(secret.encode()).hexdigest(),
        scopes=list(scopes),
        channels=None if channels is None else list(channels),
        expires_at_ms=expires_at_ms,
    )
    return f"{PREFIX}{key_id}_{secret}", document
