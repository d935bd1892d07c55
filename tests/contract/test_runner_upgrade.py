"""A shard that starts on a journal of an older schema upgrades what it reads, and leaves what is stored alone."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine.domain.commands import GetAvailability
from engine.domain.replies import StockReply
from engine.journal import upgrade
from engine.journal.chain import entry_hash
from engine.journal.memory import MemoryServer
from engine.journal.port import SCHEMA_VERSION
from tests.contract.shard_host import Engine


def _age(server: MemoryServer, shard: int, *, schema: int = 0) -> None:
    """Make the journal one of another schema, in which every event was wrapped in a list of its own; snapshots are gone."""
    stored = server.shard(shard)
    prev = bytes(16)
    for seq, entry in sorted(stored.entries.items()):
        events = msgspec.msgpack.decode(entry.payload)
        payload = msgspec.msgpack.encode([[event] for event in events])
        digest = entry_hash(prev, epoch=entry.epoch, seq=seq, time_ms=entry.time_ms, schema=schema, payload=payload)
        stored.entries[seq] = entry._replace(schema=schema, payload=payload, prev_hash=prev, hash=digest)
        prev = digest
    stored.tail = stored.tail._replace(hash=prev)
    stored.parts.clear()
    stored.snapshots.clear()


def _unwrap(payload: bytes) -> bytes:
    return msgspec.msgpack.encode([event for [event] in msgspec.msgpack.decode(payload)])


async def test_recovery_takes_old_entries_up_to_todays_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = await Engine(tmp_path, 1, snapshot_interval_s=600).start()
    try:
        await engine.stock_up("N-0", "SKU-0", 12)
        await engine.stock[0].stop()
        _age(engine.server, 0)
        aged = dict(engine.server.shard(0).entries)
        monkeypatch.setitem(upgrade.ENTRY_STEPS, 0, _unwrap)
        await engine.restart(0)
        reply = await engine.cluster.ask(0, GetAvailability(("SKU-0",), "N-0"), timeout_s=60.0)
        assert isinstance(reply, StockReply)
        assert reply.positions[0].on_hand == 12
        now = engine.server.shard(0).entries
        assert all(now[seq] == entry for seq, entry in aged.items())
    finally:
        await engine.close()


async def test_without_a_way_up_the_shard_refuses_and_names_the_schema(tmp_path: Path) -> None:
    engine = await Engine(tmp_path, 1, snapshot_interval_s=600).start()
    try:
        await engine.stock_up("N-0", "SKU-0", 12)
        await engine.stock[0].stop()
        _age(engine.server, 0)
        shard = await engine.restart(0)
        assert shard.runner is not None
        assert "schema 0" in shard.runner.frozen
    finally:
        await engine.close()


async def test_entries_of_a_newer_version_freeze_the_shard_instead_of_starting_it_over_and_over(tmp_path: Path) -> None:
    engine = await Engine(tmp_path, 1, snapshot_interval_s=600).start()
    try:
        await engine.stock_up("N-0", "SKU-0", 12)
        await engine.stock[0].stop()
        _age(engine.server, 0, schema=SCHEMA_VERSION + 1)
        shard = await engine.restart(0)
        assert shard.runner is not None
        assert f"schema {SCHEMA_VERSION + 1}" in shard.runner.frozen
    finally:
        await engine.close()
