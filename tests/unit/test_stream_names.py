"""How the live stream finds the names of items: whom it asks, and what it keeps."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from engine.domain.commands import FindItems
from engine.domain.events import StockMoved
from engine.domain.replies import ItemsReply, Reply
from gateway.gateway import ClusterPort
from gateway.stream import live as stream_live
from gateway.stream.live import Live
from tests.builders import a_catalog
from tests.unit.test_stream_told import an_entry


class Shards:
    """Two that serve, and know every name."""

    shards = (0, 2)

    def __init__(self) -> None:
        self.catalog = a_catalog(nodes=1, items=1)
        self.asked: list[int] = []

    def submit(self, shard: int, command: FindItems) -> asyncio.Future[Reply]:
        self.asked.append(shard)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        future.set_result(ItemsReply((), tuple([f"SKU-{item}" for item in command.indexes])))
        return future


async def told_skus(live: Live, shard: int, *items: int) -> list[str]:
    entry = an_entry(StockMoved(0, tuple([(item, "received", 1) for item in items])))
    [event] = (await live.fold(shard, entry)).events
    return [change["sku"] for change in json.loads(event.data)["changes"]]


def a_live(shards: Shards) -> Live:
    return Live(cast(ClusterPort, cast(Any, shards)), None, streams_max=1)


async def test_a_shard_that_has_ended_is_asked_for_no_names() -> None:
    shards = Shards()
    live = a_live(shards)
    assert await told_skus(live, 1, 7) == ["SKU-7"]
    assert await told_skus(live, 2, 8) == ["SKU-8"]
    assert shards.asked == [0, 2]


async def test_names_that_are_forgotten_for_want_of_room_are_still_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_live, "ITEMS_KEPT_MAX", 2)
    shards = Shards()
    live = a_live(shards)
    assert await told_skus(live, 0, 7) == ["SKU-7"]
    assert await told_skus(live, 0, 8) == ["SKU-8"]
    assert await told_skus(live, 0, 7, 9) == ["SKU-7", "SKU-9"]
