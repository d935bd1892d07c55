"""Comparing the books with a live shard, page by page, while the shard moves on.

A page of a dump is true at some moment inside entry S, the page's sequence: it contains everything up to S - 1 and perhaps only
the first events of S. So the books are brought to S - 1, the page is compared, and compared again after each event of S; it
agrees if it agrees at one of these moments. What never agrees is asked for once more on its own, some entries later, before
it is called drift.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

from engine.verify.books import Books, Touched
from engine.verify.layouts import Order, position_key

PAGE_ROWS = 2_000
CANDIDATES_MAX = 200
"""Rows that are asked for again one by one; more than this and the first ones speak for all."""
CONFIRMATIONS = 3
DAY_MS = 86_400_000
DAYS_BACK = 7
"""Older days are history: a claim, which no journal shows, may have made a shard forget them (books.py, B4)."""
_LEG_BITS = 12
"""Cursors of foreign legs are (node, order number << 12 | leg number)."""

Key = Any
"""An integer, (node, order number, leg number) or (node, inbound id): sortable within a kind."""


class Page(NamedTuple):
    """One answer of a shard: its rows as they came, the cursor of the next page ("" = this was the last), its sequence."""

    rows: Iterable[tuple[Any, ...]]
    cursor: str
    seq: int


class JournalEntry(Protocol):
    @property
    def seq(self) -> int: ...
    @property
    def time_ms(self) -> int: ...
    @property
    def payload(self) -> bytes: ...


Ask = Callable[[str, str, int], Awaitable[Page]]
"""(kind of dump, cursor, rows at most) -> page."""
Read = Callable[[int], AsyncGenerator[JournalEntry, None]]
"""Entries after a sequence, up to the journal's end at this moment, chain verified."""


class BehindJournal(Exception):
    """A shard showed a state that its journal does not contain yet or any more: it answers from memory."""


class Mismatch(NamedTuple):
    """A row that differs: its key, what the books say and what the shard shows, at a sequence."""

    kind: str
    key: Key
    booked: tuple[Any, ...] | None
    live: tuple[Any, ...] | None
    seq: int


class Kind(Protocol):
    """What is compared: how a dump names rows of one kind, and where the books have them."""

    @property
    def name(self) -> str: ...
    def row(self, row: tuple[Any, ...]) -> tuple[Key, tuple[Any, ...] | None]: ...
    def booked(self, books: Books, key: Key) -> tuple[Any, ...] | None: ...
    def keys(self, books: Books) -> list[Key]: ...
    def touched(self, touched: Touched) -> set[Key]: ...
    def cursor_before(self, key: Key) -> str: ...


class Positions:
    """Rows (item, node, on hand, held, allocated, safety). A position of zeros equals one that is not there."""

    name = "node"

    def row(self, row: tuple[Any, ...]) -> tuple[int, tuple[Any, ...] | None]:
        item, node, *values = row
        return position_key(item, node), tuple(values) if any(values) else None

    def booked(self, books: Books, key: int) -> tuple[Any, ...] | None:
        position = books.position(key)
        return tuple(position) if any(position) else None

    def keys(self, books: Books) -> list[int]:
        return sorted(books.positions())

    def touched(self, touched: Touched) -> set[int]:
        return touched.positions

    def cursor_before(self, key: int) -> str:
        item, node = key >> 32, key & 0xFFFFFFFF
        if node:
            return f"{item}-{node - 1}"
        return f"{item - 1}-{0xFFFFFFFF}" if item else ""


class Orders:
    """Rows (slot, order number, order id, state, legs): every order of the shard's slots, holds included."""

    name = "slot"

    def row(self, row: tuple[Any, ...]) -> tuple[int, tuple[Any, ...] | None]:
        slot, order_no, order_id, state, legs = row
        return order_no, (slot, order_id, state, tuple(_leg(*leg) for leg in legs))

    def booked(self, books: Books, key: int) -> tuple[Any, ...] | None:
        order = books.order(key)
        return None if order is None else _order_row(order)

    def keys(self, books: Books) -> list[int]:
        return sorted(books.order_numbers())

    def touched(self, touched: Touched) -> set[int]:
        return touched.orders

    def cursor_before(self, key: int) -> str:
        return f"{key - 1}-0"


class ForeignLegs:
    """Rows (node, slot, order number, leg number, state, lines): legs held for other homes."""

    name = "foreign"

    def row(self, row: tuple[Any, ...]) -> tuple[tuple[int, int, int], tuple[Any, ...] | None]:
        node, slot, order_no, leg_no, state, lines = row
        return (node, order_no, leg_no), (slot, state, tuple(sorted((item, units) for item, units in lines)))

    def booked(self, books: Books, key: tuple[int, int, int]) -> tuple[Any, ...] | None:
        leg = books.foreign.get(key)
        return None if leg is None else (leg.slot, leg.state, tuple(sorted(leg.lines.items())))

    def keys(self, books: Books) -> list[tuple[int, int, int]]:
        return sorted(books.foreign)

    def touched(self, touched: Touched) -> set[tuple[int, int, int]]:
        return touched.foreign

    def cursor_before(self, key: tuple[int, int, int]) -> str:
        node, order_no, leg_no = key
        return f"{node}-{(order_no << _LEG_BITS | leg_no) - 1}"


class Days:
    """Rows (node, local ship day, units given away) of the days from a week ago on, zeros left out."""

    name = "capacity"

    def row(self, row: tuple[Any, ...]) -> tuple[tuple[int, int], tuple[Any, ...] | None]:
        node, day, units = row
        return (node, day), (units,) if units else None

    def booked(self, books: Books, key: tuple[int, int]) -> tuple[Any, ...] | None:
        node, day = key
        units = books.capacity(node, day) if day >= books.time_ms // DAY_MS - DAYS_BACK else 0
        return (units,) if units else None

    def keys(self, books: Books) -> list[tuple[int, int]]:
        return sorted(books.days())

    def touched(self, touched: Touched) -> set[tuple[int, int]]:
        return touched.capacity

    def cursor_before(self, key: tuple[int, int]) -> str:
        node, day = key
        return f"{node}-{day - 1}"


class Inbound:
    """Rows (node, inbound id, item, units expected, expected at in ms). A cursor names the first row of a page, and not the last of the
    one before: no id comes just before another."""

    name = "inbound"

    def row(self, row: tuple[Any, ...]) -> tuple[tuple[int, str], tuple[Any, ...] | None]:
        node, inbound_id, *record = row
        return (node, inbound_id), tuple(record)

    def booked(self, books: Books, key: tuple[int, str]) -> tuple[Any, ...] | None:
        return books.inbound.get(key)

    def keys(self, books: Books) -> list[tuple[int, str]]:
        return sorted(books.inbound)

    def touched(self, touched: Touched) -> set[tuple[int, str]]:
        return touched.inbound

    def cursor_before(self, key: tuple[int, str]) -> str:
        node, inbound_id = key
        return f"{node}-{inbound_id}"


def _leg(leg_no: int, node: int, local: bool, state: int, lines: Iterable[Iterable[int]]) -> tuple[Any, ...]:
    return leg_no, node, bool(local), state, tuple(tuple(line) for line in lines)


def _order_row(order: Order) -> tuple[Any, ...]:
    legs = tuple(_leg(leg.leg_no, leg.node, leg.local, leg.state, leg.lines) for leg in order.legs)
    return order.slot, order.order_id, order.state, legs


class Follower:
    """The books of one shard and the journal they are kept from."""

    def __init__(self, books: Books, read: Read) -> None:
        self.books = books
        self._read = read

    async def to(self, seq: int, seen: Callable[[Touched], None] | None = None) -> None:
        """Book up to entry `seq`. `seen` is told of each event of that last entry. Raises BehindJournal."""
        books = self.books
        if books.seq >= seq:
            return
        async with aclosing(self._read(books.seq)) as entries:
            async for entry in entries:
                for touched in books.apply(entry.seq, entry.time_ms, entry.payload):
                    if seen is not None and entry.seq == seq:
                        seen(touched)
                if entry.seq >= seq:
                    return
        raise BehindJournal(f"the shard shows entry {seq}, its journal ends at {books.seq}")


class PageCheck:
    """One page against the books, at every moment inside the page's last entry."""

    def __init__(self, kind: Kind, books: Books, live: dict[Key, tuple[Any, ...] | None]) -> None:
        self._kind = kind
        self._books = books
        self._live = live
        self._differs: set[Key] = set()
        self._fewest: dict[Key, tuple[Any, ...] | None] = {}

    def begin(self) -> None:
        """The books are at the entry before the page's (or at it, where nothing was left to book)."""
        books, booked = self._books, self._kind.booked
        self._differs = {key for key, live in self._live.items() if booked(books, key) != live}
        self._keep()

    def seen(self, touched: Touched) -> None:
        """One more event of the page's entry is booked."""
        keys = self._kind.touched(touched) & self._live.keys()
        for key in keys:
            if self._kind.booked(self._books, key) == self._live[key]:
                self._differs.discard(key)
            else:
                self._differs.add(key)
        if keys and len(self._differs) < len(self._fewest):
            self._keep()

    def _keep(self) -> None:
        self._fewest = {key: self._kind.booked(self._books, key) for key in self._differs}

    def mismatches(self, seq: int) -> list[Mismatch]:
        """What differed at the moment when least did."""
        return [
            Mismatch(self._kind.name, key, booked, self._live[key], seq) for key, booked in sorted(self._fewest.items())
        ]


async def compare(
    kind: Kind, follower: Follower, ask: Ask, *, progress: Callable[[int], None] | None = None
) -> tuple[int, list[Mismatch]]:
    """Compare all rows of a kind. Returns (rows compared, mismatches that stood when asked again).

    progress: told after each page how many rows were compared so far.
    """
    expected = kind.keys(follower.books)
    low, cursor, rows = 0, "", 0
    candidates: list[Mismatch] = []
    while True:
        page = await ask(kind.name, cursor, PAGE_ROWS)
        live = dict(kind.row(row) for row in page.rows)
        rows += len(live)
        cursor = page.cursor
        high = bisect_right(expected, max(live)) if cursor and live else len(expected)
        for key in expected[low:high]:
            live.setdefault(key, None)
        low = max(low, high)
        candidates += await _check(kind, follower, live, page.seq)
        if progress is not None:
            progress(rows)
        if not cursor:
            break
    confirmed = [found for one in candidates[:CANDIDATES_MAX] if (found := await _confirm(kind, follower, ask, one))]
    if len(confirmed) == CANDIDATES_MAX:
        confirmed += candidates[CANDIDATES_MAX:]
    return rows, confirmed


async def _check(kind: Kind, follower: Follower, live: dict[Key, tuple[Any, ...] | None], seq: int) -> list[Mismatch]:
    check = PageCheck(kind, follower.books, live)
    await follower.to(seq - 1)
    check.begin()
    await follower.to(seq, check.seen)
    return check.mismatches(seq)


async def _confirm(kind: Kind, follower: Follower, ask: Ask, candidate: Mismatch) -> Mismatch | None:
    """Ask for one row again; None once it agrees."""
    key = candidate.key
    for _ in range(CONFIRMATIONS):
        page = await ask(kind.name, kind.cursor_before(key), 1)
        found = dict(kind.row(row) for row in page.rows)
        mismatches = await _check(kind, follower, {key: found.get(key)}, page.seq)
        if not mismatches:
            return None
        candidate = mismatches[0]
    return candidate
