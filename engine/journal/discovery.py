"""Where shards are: the addresses that each stored with its newest epoch. Read-only, for gateways, peers and the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from engine.journal.connection import Connection, connect, parse_url
from engine.journal.keys import Keys
from engine.journal.port import Corrupt, Unavailable

_addresses = msgspec.msgpack.Decoder(tuple[str, ...])


class Found(NamedTuple):
    """The newest owner of a shard. Addresses: `unix:HOSTID:/path/to.sock`, `tcp:host:port`."""

    shard: int
    epoch: int
    addresses: tuple[str, ...]


class Directory:
    """Looks shards up over one connection, opened when needed and again after a break; calls may overlap."""

    def __init__(self, url: str, *, timeout_s: float = 2.0) -> None:
        self._address = parse_url(url)
        self._timeout_s = timeout_s
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    async def find(self, shard: int) -> Found | None:
        """The newest owner, None where nobody has owned the shard yet. Raises Unavailable, Misconfigured, Corrupt."""
        connection = await self._connected()
        epoch, packed = await connection.call("HMGET", Keys(shard).meta, "e", "a")
        if epoch is None or packed is None:
            return None
        try:
            return Found(shard, int(epoch), _addresses.decode(packed))
        except (ValueError, msgspec.MsgspecError) as error:
            raise Corrupt(f"the addresses of shard {shard} cannot be read: {error}") from error

    async def close(self) -> None:
        self._closed = True
        if self._connection is not None:
            self._connection.close()

    async def _connected(self) -> Connection:
        async with self._opening:
            if self._closed:
                raise Unavailable("this directory is closed")
            if self._connection is None or self._connection.closed:
                self._connection = await connect(self._address, timeout_s=self._timeout_s, name="qm-directory")
            return self._connection


async def find(redis_url: str, shards: Iterable[int]) -> dict[int, Found]:
    """Owners of several shards; those that nobody has owned are left out."""
    directory = Directory(redis_url)
    try:
        found = await asyncio.gather(*(directory.find(shard) for shard in shards))
    finally:
        await directory.close()
    return {one.shard: one for one in found if one is not None}
