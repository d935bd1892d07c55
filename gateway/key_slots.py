"""Where this gateway last sent each idempotency key: the way to find a key that comes again with another destination.

A key is remembered by the home of the order that it made (docs/adr/0011-a-key-is-known-where-its-order-lives.md). The same key with
a destination in another slot goes to another home, which never heard of it. So the first home is asked before the second
one decides; a key that does not come again costs one look-up here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.domain.commands import FindKey, PlaceOrder, PlaceQuoted
from engine.domain.replies import Done, Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from gateway.call import Answer, Ask, Call
    from gateway.gateway import Gateway

KEYS_PER_GENERATION = 100_000


class KeySlots:
    """Slot by key hash, of the last `limit` to twice as many keys."""

    __slots__ = ("_limit", "_new", "_old")

    def __init__(self, limit: int = KEYS_PER_GENERATION) -> None:
        self._limit = limit
        self._new: dict[int, str] = {}
        self._old: dict[int, str] = {}

    def sent(self, key_hash: int, slot: str) -> str:
        """The slot that a key belongs to: this one, unless it was sent to another one before."""
        known = self._new.get(key_hash)
        if known is None:
            known = self._new[key_hash] = self._old.get(key_hash, slot)
            if len(self._new) >= self._limit:
                self._old, self._new = self._new, {}
        return known

    def moved(self, key_hash: int, *, old: str, new: str) -> str:
        """The key made nothing in `old`, so it belongs to `new`; unless another request said so first. Returns the slot."""
        known = self.sent(key_hash, old)
        if known == old:
            self._new[key_hash] = known = new
        return known


def once(call: Call, ask: Ask) -> Ask | Awaitable[Answer]:
    """The same, or, where the key was sent to another slot before, the answer after asking there."""
    command = ask.command
    assert type(command) is PlaceOrder or type(command) is PlaceQuoted
    known = call.gateway.key_slots.sent(command.key_hash, ask.slot)
    return ask if known == ask.slot else _answer(call, ask, known)


async def _answer(call: Call, ask: Ask, known: str) -> Answer:
    reply = await place_elsewhere(call.gateway, ask, known)
    return ask.finish(call, reply)  # type: ignore[return-value]


async def place_elsewhere(gateway: Gateway, ask: Ask, known: str) -> Reply:
    """Place an order whose key was sent to `known` before: only if it made nothing there."""
    command = ask.command
    assert type(command) is PlaceOrder or type(command) is PlaceQuoted
    while known != ask.slot:
        asked = FindKey(known, command.key_hash, command.fingerprint, command.key_ms)
        found = await gateway.ask_slot(known, asked)
        if type(found) is not Done:
            return found  # the key's first answer, `key_reused`, or why nobody can tell
        known = gateway.key_slots.moved(command.key_hash, old=known, new=ask.slot)
    return await gateway.ask_slot(ask.slot, command)
