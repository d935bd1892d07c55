"""Configuration documents keep the domain's own structs; here is what surrounds them."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from gateway.schemas import Body, Limit, Shown


class ListQuery(Body, kw_only=True):
    limit: Limit = 100
    cursor: Annotated[str, Meta(max_length=200)] | None = None


class DocumentPage(Shown):
    data: list[Any]
    next_cursor: str | None
    has_more: bool
