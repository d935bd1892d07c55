"""What follows all shards goes on where one is added and where one has ended: links, views of stock, tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec

from engine.client.cluster import Cluster
from engine.client.link import ShardLink
from engine.client.stock_columns import StockColumns
from engine.client.stock_view import StockView
from engine.domain.catalog import Catalog
from engine.domain.commands import Command, GetStatus
from engine.domain.config import Placement
from engine.domain.replies import ConfigDoc, ConfigReply, Reply
from engine.journal.discovery import Found
from engine.protocol.tokens import make_token
from tests.conftest import eventually
from tests.sim.little_cluster import LittleCluster


def a_map(catalog: Catalog, version: int, **fields: Any) -> ConfigReply:
    placement = Placement(**fields)
    doc = ConfigDoc("placement", "", 0, version, msgspec.json.encode(placement))
    return ConfigReply((doc,), version)


class SilentLink:
    """A link to a shard that says nothing."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.is_open = True

    def subscribe(self, corr: int, make: Callable[[], Command], on_reply: Callable[[Reply], None]) -> None: ...

    def tell(self, command: Command, on_reply: Callable[[Reply], None]) -> None: ...

    async def close(self) -> None:
        self.is_open = False


async def test_a_view_of_stock_follows_the_shards_that_serve() -> None:
    catalog = Catalog()
    links: dict[int, SilentLink] = {}

    def new_link(shard: int) -> ShardLink:
        links[shard] = SilentLink(shard)
        return cast(ShardLink, links[shard])

    def apply(reply: ConfigReply) -> None:
        catalog.apply(reply.documents, reply.version)
        view.ready(now_s=0.0, age_max_s=10.0)

    def picture(shard: int, seq: int) -> None:
        view.shards[shard].columns, view.shards[shard].point = StockColumns(), (1, seq)

    view = StockView(lambda: catalog, new_link)
    apply(a_map(catalog, 1, shard_count=2))
    for shard in (0, 1):
        picture(shard, 5)
    assert view.ready(now_s=0.0, age_max_s=10.0)
    apply(a_map(catalog, 2, shard_count=3, joining=[2]))
    assert sorted(view.shards) == [0, 1] and view.ready(now_s=0.0, age_max_s=10.0)
    apply(a_map(catalog, 3, shard_count=3))
    assert sorted(view.shards) == [0, 1, 2] and sorted(view.shards[0].settled) == [1, 2]
    assert not view.ready(now_s=0.0, age_max_s=10.0), "there is no picture of the new one"
    picture(2, 1)
    assert view.ready(now_s=0.0, age_max_s=10.0), "those of the others stayed"
    assert not view.contains({1: (1, 6)})
    apply(a_map(catalog, 4, shard_count=3, ended=[1]))
    assert sorted(view.shards) == [0, 2] and list(view.shards[0].settled) == [2]
    assert view.ready(now_s=0.0, age_max_s=10.0)
    view.shards[0].settled[2].upto = (1, 5)
    assert view.contains({1: (1, 6), 0: (1, 5)}), "what a shard did that has ended is at others"
    await eventually(lambda: not links[1].is_open)
    assert links[0].is_open and links[2].is_open
    await view.close()


async def test_links_to_a_shard_that_has_ended_are_closed_when_nothing_is_asked_any_more() -> None:
    async def nowhere(shard: int) -> Found | None:
        return None

    cluster = Cluster(nowhere, timeout_s=60.0)
    catalog = cluster.catalog
    cluster._config_came(a_map(catalog, 1, shard_count=2))
    link = cluster.link(1)
    asked = link.submit(GetStatus())
    cluster._config_came(a_map(catalog, 2, shard_count=2, ended=[1]))
    assert cluster.shards == [0] and 1 not in cluster.links()
    await asyncio.sleep(0.2)
    assert not asked.done(), "what was asked before may still be answered"
    asked.cancel()
    await cluster.close()
    assert link._closed


def test_a_token_of_a_shard_that_has_ended_holds_nobody_up() -> None:
    cluster = LittleCluster(shards=2)
    core = cluster.cores[0]
    seen = core.views.point(1)
    later = make_token({1: (seen[0], seen[1] + 1)})
    assert core.views.contains(later) is False
    core.catalog.placement = msgspec.structs.replace(core.catalog.placement, ended=[1])
    assert core.views.contains(later) is True
    assert core.views.lag_ms(cluster.now_ms + 60_000) == 0, "nothing of it is late"
