"""Query of GET /v1/stream."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from engine.domain.config import Id
from gateway.schemas import Body, ShortText

CURSOR_MAX = 16_384


class StreamQuery(Body, kw_only=True):
    kind: Annotated[list[ShortText], Meta(max_length=50)] = []
    channel: Id | None = None
    node_id: Id | None = None
    after: Annotated[str, Meta(max_length=CURSOR_MAX)] | None = None
