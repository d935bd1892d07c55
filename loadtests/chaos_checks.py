"""What must be true after a day of chaos, asked from the outside: books, acknowledged orders, archive."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from engine.archive.feed import JournalFeed
from engine.archive.follower import rebuild, write_batch
from engine.archive.index import IndexWriter, connect_index, migrate, sqlite_url
from engine.archive.store import SegmentStore
from engine.archive.tables import FOLDED, orders
from engine.cli.connect import connected, engine_settings
from engine.cli.verify import ask_shard
from engine.domain.placement import CONTROL_SHARD
from loadtests.ledger import Ledger
from loadtests.servers import Engine

PAGE_ROWS = 5_000


async def positions(engine: Engine) -> dict[tuple[str, str], tuple[int, int, int]]:
    """(on hand, held, allocated) of every position by (node, SKU), asked of the live shards."""
    out = {}
    async with connected(engine_settings(engine.data_dir, None)) as live:
        catalog = live.cluster.catalog
        for shard in live.cluster.shards:
            ask, cursor = ask_shard(live.cluster, shard), ""
            while True:
                page = await ask("node", cursor, PAGE_ROWS)
                for item, node, on_hand, held, allocated, *_ in page.rows:
                    out[catalog.node_id(node), catalog.sku(item)] = (on_hand, held, allocated)
                cursor = page.cursor
                if not cursor:
                    break
    return out


def compare_books(ledger: Ledger, found: dict[tuple[str, str], tuple[int, int, int]]) -> list[str]:
    """Positions whose shelf or promises are not what the storefront's own books say."""
    wrong = []
    for position in sorted(ledger.shelf.keys() | found.keys()):
        on_hand, held, allocated = found.get(position, (0, 0, 0))
        shelf, promised = ledger.shelf.get(position, 0), ledger.promised.get(position, 0)
        if (shelf, promised) != (on_hand, held + allocated):
            wrong.append(
                f"{position[1]} at {position[0]}: the storefront says {shelf} on the shelf, {promised} promised; "
                f"the engine {on_hand}, {held} held + {allocated} allocated"
            )
    return wrong


def check_acknowledged(index: str, acknowledged: Iterable[str]) -> tuple[list[str], list[str]]:
    """(lost, doubled) order ids: each acknowledged one must be in the index exactly once."""
    engine = connect_index(index)
    seen: dict[str, int] = {}
    with engine.connect() as connection:
        for (order_id,) in connection.execute(sa.select(orders.c.order_id)).yield_per(PAGE_ROWS):
            seen[order_id] = seen.get(order_id, 0) + 1
    engine.dispose()
    wanted = list(acknowledged)
    return [one for one in wanted if one not in seen], [one for one in wanted if seen.get(one, 0) > 1]


async def rebuild_index(
    target: Path, archive: str, redis_url: str, shards: Sequence[int]
) -> dict[int, tuple[int, int]]:
    """A second index from nothing: all segments, then what only the journal has. By shard: entries from each."""
    engine = connect_index(sqlite_url(target))
    migrate(engine)
    index, store = IndexWriter(engine), SegmentStore(archive)
    out = {}
    for shard in (CONTROL_SHARD, *shards):
        archived = seq = await asyncio.to_thread(rebuild, index, store, shard)
        feed = JournalFeed(redis_url, shard)
        while records := (await feed.page(after_seq=seq)).records:
            entries = [record.unpacked() for record in records]
            seq = (await asyncio.to_thread(write_batch, index, shard, entries)).seq
        await feed.close()
        out[shard] = (archived, seq - archived)
    engine.dispose()
    return out


def compare_indexes(one: str, other: str) -> tuple[dict[str, int], list[str]]:
    """Rows by table, and differences: every table, row for row, in the order of its keys."""
    first, second = connect_index(one), connect_index(other)
    counts: dict[str, int] = {}
    wrong: list[str] = []
    with first.connect() as left, second.connect() as right:
        for table in FOLDED:
            query = sa.select(table).order_by(*table.primary_key.columns)
            rows = zip_longest(left.execute(query).yield_per(PAGE_ROWS), right.execute(query).yield_per(PAGE_ROWS))
            counts[table.name] = 0
            for a, b in rows:
                counts[table.name] += 1
                if a is None or b is None or tuple(a) != tuple(b):
                    wrong.append(f"{table.name}: live {_shown(a)}, rebuilt {_shown(b)}")
    first.dispose()
    second.dispose()
    return counts, wrong


def _shown(row: Any) -> str:
    return "nothing" if row is None else str(tuple(value for value in row if not isinstance(value, bytes)))
