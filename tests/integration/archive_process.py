"""An archiver of one shard in a process of its own, to be killed: `python -m tests.integration.archive_process URL FOLDER`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from engine.archive.feed import JournalFeed
from engine.archive.follower import ShardFollower
from engine.archive.index import IndexWriter, connect_index, migrate, sqlite_url
from engine.archive.store import SegmentStore


async def follow(url: str, folder: Path, *, segment_bytes: int = 2_000) -> None:
    """Small segments, sealed often: a kill meets every stage of writing one."""
    engine = connect_index(sqlite_url(folder / "index.db"))
    migrate(engine)
    store = SegmentStore(str(folder / "archive"))
    feed, index = JournalFeed(url, 0), IndexWriter(engine)
    follower = ShardFollower(
        0, feed, store, index, asyncio.Lock(), seal_s=0.01, segment_bytes=segment_bytes, tell_every_s=0.02
    )
    await follower.open()
    print("open", flush=True)
    while True:
        if not await follower.round():
            await asyncio.sleep(0.002)


if __name__ == "__main__":
    asyncio.run(follow(sys.argv[1], Path(sys.argv[2])))
