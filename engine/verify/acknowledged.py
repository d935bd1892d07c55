"""Acknowledged orders: each is there exactly once, in a shard's books or among what has left them.

An order that came to its end leaves its shard (`OrdersClosed`), and later snapshots do not have it. What was closed after the
snapshot that books began with is seen in the journal; of what was closed before, and at shards that have ended, only the archive's
index knows. An order is its number: an id under two numbers is there twice, and so is a number at two places.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from engine.journal.port import Unavailable
from engine.verify.books import Books

IDS_PER_QUESTION = 500
INDEX_WAIT_S = 60.0
INDEX_ASKED_EVERY_S = 1.0


class Indexed(NamedTuple):
    """How far the index has a shard."""

    seq: int
    whole: bool
    """From the first entry on, without a gap."""


class ClosedOrders(Protocol):
    """What the archive's index knows. Blocking: asked from threads. Raises Unavailable."""

    def indexed(self) -> dict[int, Indexed]:
        """By shard."""
        ...

    def closed(self, order_ids: Sequence[str]) -> list[tuple[str, int]]:
        """(order id, order number) of all orders with these ids that have left their shard."""
        ...


class Found(NamedTuple):
    live: int
    """Ids that are there once, in a shard; `closed` = once, and closed."""
    closed: int
    wrong: list[tuple[str, int, int]]
    """(order id, times live, times closed) of ids that are not there exactly once; some may be in doubt, see below."""
    doubt: str
    """Why ids that were found nowhere may be closed all the same; empty = they are lost."""


async def find(
    books: list[Books],
    wanted: set[str],
    beyond: dict[int, int],
    index: ClosedOrders | None,
    *,
    follow: Callable[[str], Awaitable[bool]],
    progress: Callable[[str, int, int | None], None],
    sleep: Callable[[float], Awaitable[None]],
) -> Found:
    """Look for each id. `beyond` = entry, by shard, up to which the books do not know what was closed; empty = they know all.

    follow: brings the books up to the journals' ends; False = could not, and that was reported for what it is given.
    """
    live: Counter[str] = Counter()
    closed: Counter[str] = Counter()
    at_home: set[int] = set()
    gone: set[int] = set()
    for n, one in enumerate(books):
        for order in one.orders():
            if order.order_id in wanted:
                live[order.order_id] += 1
                at_home.add(order.order_no)
        for order_id, order_no in one.closed:
            closed[order_id] += 1
            gone.add(order_no)
        progress("looking for acknowledged orders", n + 1, len(books))
    doubt = ""
    if beyond:
        between: list[tuple[str, int]] = []
        try:
            if index is None:
                raise Unavailable("there is no index to ask")
            if len(live.keys() | closed.keys()) < len(wanted):
                doubt = await _wait(index, beyond, sleep)
            ids = sorted(wanted)
            for at in range(0, len(ids), IDS_PER_QUESTION):
                for order_id, order_no in await asyncio.to_thread(index.closed, ids[at : at + IDS_PER_QUESTION]):
                    if order_no in at_home:
                        between.append((order_id, order_no))
                    elif order_no not in gone:
                        closed[order_id] += 1
                progress("asking the index for acknowledged orders", min(at + IDS_PER_QUESTION, len(ids)), len(ids))
        except Unavailable as error:
            doubt = str(error)
        # The index may know of a closing that came after the books were read: the order has left them once they go on.
        if between and await follow(f"{len(between):,} acknowledged orders that were closed meanwhile"):
            for order_id, order_no in between:
                closed[order_id] += 1
                live[order_id] -= all(one.order(order_no) is None for one in books)
    wrong = [(one, live[one], closed[one]) for one in sorted(wanted) if live[one] + closed[one] != 1]
    once = sum(1 for one, times in live.items() if times == 1 and not closed[one])
    return Found(once, len(wanted) - len(wrong) - once, wrong, doubt)


async def _wait(index: ClosedOrders, beyond: dict[int, int], sleep: Callable[[float], Awaitable[None]]) -> str:
    """Until the index has what the books do not; says why it has not, or may never."""
    said = ""
    for _ in range(int(INDEX_WAIT_S / INDEX_ASKED_EVERY_S)):
        there = await asyncio.to_thread(index.indexed)
        said = ""
        for shard, seq in beyond.items():
            have = there.get(shard, Indexed(0, True))
            if have.seq < seq:
                said = f"the index has shard {shard} up to entry {have.seq}, not {seq}"
        if not said:
            parts = [shard for shard in beyond if not there[shard].whole]
            return f"the index does not know all of the past of shard {parts[0]}" if parts else ""
        await sleep(INDEX_ASKED_EVERY_S)
    return said
