"""A client of the live stream, written from the standard alone: parses what comes over a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx


class Heard(NamedTuple):
    type: str
    id: str
    data: Any


class Listener:
    """Events of one connection as they come; `last_id` is what a browser would come back with."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.last_id = self._id = ""
        self.heartbeats = 0
        self._lines = response.aiter_lines()

    async def next(self, *, timeout_s: float = 60.0) -> Heard:
        """The next event. EOFError where the stream ended."""
        async with asyncio.timeout(timeout_s):
            type_, data = "message", ""
            async for line in self._lines:
                if not line:
                    self.last_id = self._id
                    if data:
                        return Heard(type_, self.last_id, json.loads(data))
                    type_ = "message"
                    continue
                field, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if not field:
                    self.heartbeats += 1
                elif field == "id":
                    self._id = value
                elif field == "event":
                    type_ = value
                elif field == "data":
                    data += value
        raise EOFError

    async def take(self, count: int) -> list[Heard]:
        return [await self.next() for _ in range(count)]

    async def until(self, type_: str) -> Heard:
        while (heard := await self.next()).type != type_:
            continue
        return heard


@asynccontextmanager
async def listening(url: str, token: str, *, last_id: str = "", **query: Any) -> AsyncIterator[Listener]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    if last_id:
        headers["last-event-id"] = last_id
    async with (
        httpx.AsyncClient(base_url=url, headers=headers, timeout=120.0) as client,
        client.stream("GET", "/v1/stream", params=query) as response,
    ):
        if response.status_code != 200:
            await response.aread()
        yield Listener(response)
