"""The hash chain, computed a second time: not one byte of the journal counts that the chain does not cover."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from hashlib import blake2b
from typing import Protocol, TypeVar

GENESIS = bytes(16)


class ChainedEntry(Protocol):
    """An entry as the journal hands it out."""

    @property
    def seq(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def time_ms(self) -> int: ...
    @property
    def schema(self) -> int: ...
    @property
    def prev_hash(self) -> bytes: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def hash(self) -> bytes: ...


E = TypeVar("E", bound=ChainedEntry)


class BrokenChain(Exception):
    """An entry was changed, lost or put elsewhere; the message names it."""


class Chain:
    """The end of what was checked so far. Give it every entry once, in order."""

    def __init__(self, *, after_seq: int = 0) -> None:
        self.seq = after_seq
        self.epoch = 0
        self.time_ms = 0
        self._hash: bytes | None = GENESIS if after_seq == 0 else None

    def check(self, entry: ChainedEntry) -> None:
        """Raises BrokenChain."""
        if entry.seq != self.seq + 1:
            raise BrokenChain(f"entry {self.seq + 1} is missing: the next one there is {entry.seq}")
        if self._hash is not None and entry.prev_hash != self._hash:
            raise BrokenChain(f"entry {entry.seq} does not follow entry {self.seq}")
        if entry.epoch < self.epoch or entry.time_ms < self.time_ms:
            raise BrokenChain(f"entry {entry.seq} goes back in epoch or time")
        said = entry.prev_hash
        for number, size in ((entry.epoch, 8), (entry.seq, 8), (entry.time_ms, 8), (entry.schema, 2)):
            said += number.to_bytes(size, "big")
        if blake2b(said + entry.payload, digest_size=16).digest() != entry.hash:
            raise BrokenChain(f"entry {entry.seq} does not hash to what it says")
        self.seq, self.epoch, self.time_ms, self._hash = entry.seq, entry.epoch, entry.time_ms, entry.hash


async def checked(chain: Chain, entries: AsyncIterator[E]) -> AsyncGenerator[E, None]:
    """The same entries, each checked before it is handed on."""
    try:
        async for entry in entries:
            chain.check(entry)
            yield entry
    finally:
        if isinstance(entries, AsyncGenerator):
            await entries.aclose()
