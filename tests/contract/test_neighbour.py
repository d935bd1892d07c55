"""A second engine on a server finds the first one while it lives, and not after it has ended."""

from __future__ import annotations

from pathlib import Path

from engine.client.neighbour import living_neighbour
from engine.domain.placement import CONTROL_SHARD
from engine.journal.discovery import Found
from engine.journal.memory import MemoryServer
from tests.contract.shard_host import Directory, HostedShard


async def test_a_living_engine_is_found_and_a_stopped_one_is_not(tmp_path: Path) -> None:
    directory = Directory()
    assert await living_neighbour(directory.find, patience_s=0) is None, "nobody ever owned the shard"
    shard = HostedShard(CONTROL_SHARD, tmp_path, MemoryServer(), directory)
    await shard.start()
    where = await living_neighbour(directory.find, patience_s=0)
    assert where is not None and str(tmp_path) in where
    await shard.stop()
    assert await living_neighbour(directory.find, patience_s=0) is None


async def test_an_engine_that_is_ending_is_waited_for(tmp_path: Path) -> None:
    directory = Directory()
    shard = HostedShard(CONTROL_SHARD, tmp_path, MemoryServer(), directory)
    await shard.start()
    asked = 0

    async def find(number: int) -> Found | None:
        """Its owner for two rounds (each looks it up twice); after that nobody's."""
        nonlocal asked
        asked += 1
        return await directory.find(number) if asked <= 4 else None

    assert await living_neighbour(find) is None
    assert asked > 4
    await shard.stop()
