"""The audit: journals folded into books, books compared with live shards, shards compared with each other.

Steps, shard by shard, while traffic goes on:
1  the chain of every entry, computed anew (chain.py); the books, from the first entry or from snapshots (books.py)
2  positions, orders, foreign legs, days of capacity and inbound records of the live shard, page by page at the page's own entry (pages.py)
then for all together:
3  legs at other shards: what a home's record says is held there is held there, and nothing is held for nobody
4  acknowledged order ids, where a list is given: each is there exactly once, live or closed (acknowledged.py)

What could not be compared is said, and is not drift.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from contextlib import aclosing
from typing import Any, Protocol

from msgspec import Struct

from engine.journal.port import Corrupt, Entry, PartRef
from engine.verify.acknowledged import ClosedOrders, find
from engine.verify.books import Books
from engine.verify.causes import Cause, newest_causes
from engine.verify.chain import BrokenChain, Chain, checked
from engine.verify.pages import (
    Ask,
    BehindJournal,
    Days,
    Follower,
    ForeignLegs,
    Inbound,
    Key,
    Kind,
    Mismatch,
    Orders,
    Positions,
    compare,
)

DRIFT_KEPT = 200
SETTLE_S = 10.0
SETTLE_EVERY_S = 0.25
RESTARTS_MAX = 3
_PART_OF_KIND = {"node": "position", "slot": "order", "foreign": "leg", "capacity": "day", "inbound": "inbound record"}


class ReadableJournal(Protocol):
    """The reading half of the journal port: an audit takes nothing over."""

    def read(self, *, after_seq: int) -> AsyncIterator[Entry]: ...
    async def read_parts(self) -> dict[str, list[PartRef]]: ...
    async def read_part(self, ref: PartRef) -> bytes: ...


class Names(Protocol):
    """Names of indexes: engine.domain.catalog.Catalog is one."""

    def sku(self, item: int) -> str: ...
    def node_id(self, node: int) -> str: ...


class Drift(Struct):
    """One thing that is not as the journal says."""

    shard: int
    kind: str
    """position, order, leg, day, inbound record, entry, chain, acknowledged."""
    name: str
    booked: str
    live: str
    seq: int
    causes: list[Cause] = []


class ShardReport(Struct):
    shard: int
    seq: int = 0
    first_seq: int = 1
    """Oldest entry read; 1 = the whole history."""
    entries: int = 0
    parts: int = 0
    """Snapshot parts that the books began with; 0 = none were needed."""
    positions: int = 0
    orders: int = 0
    holds: int = 0
    foreign_legs: int = 0
    days: int = 0
    """Ship days of nodes whose capacity was compared."""
    inbound: int = 0
    """Records of what is on its way."""
    drift_count: int = 0


class Report(Struct):
    shards: list[ShardReport] = []
    drift: list[Drift] = []
    """The first ones; `drift_count` counts all."""
    drift_count: int = 0
    acknowledged: int | None = None
    """Order ids that were looked for."""
    acknowledged_live: int = 0
    """Of them, those there exactly once, in a shard."""
    acknowledged_closed: int = 0
    """Of them, those there exactly once that came to their end and left their shard."""
    acknowledged_in_doubt: int = 0
    """Of them, those in no shard that may have been closed: the index that would know did not say. Not drift."""
    not_checked: list[str] = []
    """What could not be checked, and why: sentences."""
    seconds: float = 0.0


Progress = Callable[[str, int, int | None], None]
"""(what is being done, how much is done, of how much where that is known)."""


class _ShardAudit:
    """One shard's books and what was found about it."""

    def __init__(
        self, shard: int, journal: ReadableJournal, names: Names, progress: Progress, wanted: Collection[str] = ()
    ) -> None:
        self.report = ShardReport(shard)
        self.books = Books(wanted)
        self.drift: list[Drift] = []
        self._journal = journal
        self._names = names
        self._progress = progress
        self._chain = Chain()
        self.follower = Follower(self.books, self._read)

    def _read(self, after_seq: int) -> AsyncGenerator[Entry, None]:
        return checked(self._chain, self._journal.read(after_seq=after_seq))

    async def open_books(self) -> None:
        """Begin with the first entry; where that was trimmed, with the newest snapshots. Raises Corrupt, BrokenChain."""
        report, books = self.report, self.books
        if not await self._has_first_entry():
            refs = [refs[0] for refs in (await self._journal.read_parts()).values()]
            for n, ref in enumerate(sorted(refs)):
                books.load_part(ref.part, ref.seq, await self._journal.read_part(ref))
                self._progress(f"shard {report.shard}: reading snapshots", n + 1, len(refs))
            after = min((ref.seq for ref in refs), default=0)
            report.parts, report.first_seq = len(refs), after + 1
            self._chain, books.seq = Chain(after_seq=after), after
        await self.follow()

    async def _has_first_entry(self) -> bool:
        async with aclosing(checked(Chain(), self._journal.read(after_seq=0))) as entries:
            try:
                async for _ in entries:
                    return True
            except (Corrupt, BrokenChain):
                if not await self._journal.read_parts():
                    raise
                return False
        return True

    async def follow(self) -> None:
        """Book everything up to the journal's end at this moment."""
        books, shard = self.books, self.report.shard
        async for entry in self._read(books.seq):
            for _ in books.apply(entry.seq, entry.time_ms, entry.payload):
                pass
            if books.entries % 512 == 0:
                self._progress(f"shard {shard}: folding the journal", books.entries, None)
        self.report.seq, self.report.entries = books.seq, books.entries

    async def follow_or_say(self, what: str, report: Report) -> bool:
        """Book everything up to the journal's end. Where that fails, `what` is not checked; a chain that broke is drift."""
        try:
            await self.follow()
        except (Corrupt, BrokenChain) as error:
            shard, seq = self.report.shard, self.books.seq
            report.not_checked.append(
                f"{what}: the journal of shard {shard} cannot be read beyond entry {seq}: {error}"
            )
            if not any(drift.kind == "chain" for drift in self.drift) and not await _was_trimmed(self._journal, seq):
                self.drift.append(Drift(shard, "chain", "journal", "an unbroken chain", str(error), seq))
            return False
        return True

    def closings_unknown(self) -> int:
        """Entry up to which the books do not know which orders were closed; 0 = they know all."""
        return max(self.report.first_seq - 1, *self.books.slot_seq.values(), 0)

    async def compare(self, ask: Ask) -> None:
        """Everything the live shard shows against the books."""
        report, books = self.report, self.books
        mismatches: list[Mismatch] = []
        kinds: tuple[tuple[Kind, int], ...] = (
            (Positions(), books.position_count),
            (Orders(), books.order_count),
            (ForeignLegs(), len(books.foreign)),
            (Days(), sum(1 for _ in books.days())),
            (Inbound(), len(books.inbound)),
        )
        counts = []
        for kind, total in kinds:
            what = f"shard {report.shard}: comparing {_PART_OF_KIND[kind.name]}s"
            rows, found = await compare(
                kind,
                self.follower,
                ask,
                progress=lambda done, what=what, total=total: self._progress(what, done, max(done, total)),  # type: ignore[misc]
            )
            counts.append(rows)
            mismatches += found
        report.positions, report.orders, report.foreign_legs, report.days, report.inbound = counts
        report.holds = sum(1 for order in books.orders() if order.state == 0)
        report.seq, report.entries = books.seq, books.entries
        await self._explain(mismatches)
        for fault in books.faults:
            name = fault.what if fault.node < 0 else f"{fault.what}: {self._position(fault.item, fault.node)}"
            derived, stated = _changes(fault.derived), _changes(fault.stated)
            self.drift.append(Drift(report.shard, "entry", name, derived, stated, fault.seq))
        report.drift_count = len(mismatches) + books.fault_count

    async def _explain(self, mismatches: list[Mismatch]) -> None:
        if not mismatches:
            return
        kept = mismatches[:DRIFT_KEPT]
        first = self.report.first_seq - 1
        causes = await newest_causes(self._journal.read(after_seq=first), {found.key for found in kept})
        for found in kept:
            self.drift.append(
                Drift(
                    self.report.shard,
                    _PART_OF_KIND[found.kind],
                    self._name(found.kind, found.key),
                    self._value(found.kind, found.booked),
                    self._value(found.kind, found.live),
                    found.seq,
                    causes[found.key],
                )
            )

    def _position(self, item: int, node: int) -> str:
        return f"{self._names.sku(item)} at {self._names.node_id(node)}"

    def _name(self, kind: str, key: Key) -> str:
        if kind == "node":
            return self._position(key >> 32, key & 0xFFFFFFFF)
        if kind == "slot":
            order = self.books.order(key)
            return f"order {order.order_id}" if order else f"order number {key}"
        if kind == "capacity":
            return f"capacity of {self._names.node_id(key[0])} on day {key[1]}"
        if kind == "inbound":
            return f"inbound {key[1]} at {self._names.node_id(key[0])}"
        node, order_no, leg_no = key
        return f"leg {leg_no} of order number {order_no} at {self._names.node_id(node)}"

    def _value(self, kind: str, value: tuple[Any, ...] | None) -> str:
        if value is None:
            return "nothing"
        if kind == "node":
            return "on hand {}, held {}, allocated {}, safety {}".format(*value)
        if kind == "inbound":
            item, units, expected_ms = value
            return f"{units} of {self._names.sku(item)} at {expected_ms} ms"
        return str(value)


async def audit(
    shards: list[int],
    open_journal: Callable[[int], ReadableJournal],
    ask: Callable[[int], Ask],
    names: Names,
    *,
    acknowledged: set[str] | None = None,
    closed_orders: ClosedOrders | None = None,
    chain_only: tuple[int, ...] = (),
    ended: tuple[int, ...] = (),
    progress: Progress = lambda _what, _done, _total: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Report:
    """Audit all shards. `chain_only` = shards whose chain alone is checked (the control shard holds no units), `ended` = likewise,
    because they hold nothing any more; orders that they closed are looked for in the index, `closed_orders`.

    Raises JournalError (Unavailable, Corrupt beyond what can be reported as drift) and AuditError of `ask`.
    """
    started = time.monotonic()
    report = Report()
    audits: list[_ShardAudit] = []
    for shard in shards:
        audits.append(await _audit_shard(shard, open_journal(shard), ask(shard), names, progress, acknowledged or ()))
    stock = audits.copy()
    for shard in (*ended, *chain_only):
        audits.append(await _audit_chain(shard, open_journal(shard), names, progress))
    if len(stock) > 1:
        await _audit_foreign_legs(stock, names, report, progress, sleep)
    if acknowledged is not None:
        beyond = {one.report.shard: one.closings_unknown() for one in stock}
        beyond |= {one.report.shard: one.report.seq for one in audits if one.report.shard in ended}
        beyond = {shard: seq for shard, seq in beyond.items() if seq}
        await _audit_acknowledged(stock, acknowledged, beyond, closed_orders, report, progress, sleep)
    for one in audits:
        one.report.drift_count = max(one.report.drift_count, len(one.drift))  # not every one is kept
        report.drift_count += one.report.drift_count
        report.shards.append(one.report)
        report.drift += one.drift
    report.drift = report.drift[: DRIFT_KEPT * 2]
    report.seconds = round(time.monotonic() - started, 2)
    return report


async def _audit_shard(
    shard: int, journal: ReadableJournal, ask: Ask, names: Names, progress: Progress, wanted: Collection[str]
) -> _ShardAudit:
    """Books and comparison; begun anew where the journal was trimmed past what was read while it was read."""
    for attempt in range(RESTARTS_MAX):
        one = _ShardAudit(shard, journal, names, progress, wanted)
        try:
            await one.open_books()
            await one.compare(ask)
        except (Corrupt, BrokenChain) as error:
            if attempt + 1 < RESTARTS_MAX and await _was_trimmed(journal, one.books.seq):
                continue
            one.drift.append(Drift(shard, "chain", "journal", "an unbroken chain", str(error), one.books.seq))
        except BehindJournal as error:
            one.drift.append(Drift(shard, "chain", "journal", "every entry a shard shows", str(error), one.books.seq))
        break
    return one


async def _was_trimmed(journal: ReadableJournal, seq: int) -> bool:
    """Whether every part has a snapshot newer than `seq`, so that entries after it may have been trimmed rightly."""
    parts = await journal.read_parts()
    return bool(parts) and min(refs[-1].seq for refs in parts.values()) > seq


async def _audit_chain(shard: int, journal: ReadableJournal, names: Names, progress: Progress) -> _ShardAudit:
    """The chain of a journal without units, from its oldest entry on."""
    one = _ShardAudit(shard, journal, names, progress)
    report = one.report
    after = 0
    if not await one._has_first_entry():
        after = min(refs[-1].seq for refs in (await journal.read_parts()).values())
    report.first_seq = after + 1
    try:
        async for entry in checked(Chain(after_seq=after), journal.read(after_seq=after)):
            report.seq = entry.seq
            report.entries += 1
    except (Corrupt, BrokenChain) as error:
        one.drift.append(Drift(shard, "chain", "journal", "an unbroken chain", str(error), report.seq))
    return one


def _expected_foreign(audits: list[_ShardAudit]) -> dict[Key, tuple[bool, tuple[tuple[int, int], ...]]]:
    """(still a hold, units by item) of every leg that the homes' records have at other shards' nodes."""
    expected = {}
    for one in audits:
        for order in one.books.orders():
            for leg in order.legs:
                if leg.local or not leg.lines or leg.state > 4:
                    continue
                units: dict[int, int] = {}
                for line, count in leg.lines:
                    units[order.items[line]] = units.get(order.items[line], 0) + count
                expected[leg.node, order.order_no, leg.leg_no] = (leg.state == 0, tuple(sorted(units.items())))
    return expected


def _actual_foreign(audits: list[_ShardAudit]) -> dict[Key, tuple[bool, tuple[tuple[int, int], ...]]]:
    return {
        key: (leg.state == 0, tuple(sorted(leg.lines.items())))
        for one in audits
        for key, leg in one.books.foreign.items()
        if leg.lines
    }


async def _audit_foreign_legs(
    audits: list[_ShardAudit],
    names: Names,
    report: Report,
    progress: Progress,
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Both ends of every leg across shards agree, or do so within a few seconds (a commit is driven after it is answered)."""
    unsettled: set[Key] | None = None
    expected, actual = {}, {}
    for _ in range(int(SETTLE_S / SETTLE_EVERY_S)):
        for one in audits:
            if not await one.follow_or_say("legs across shards", report):
                return
        expected, actual = _expected_foreign(audits), _actual_foreign(audits)
        differing = {key for key in expected.keys() | actual.keys() if expected.get(key) != actual.get(key)}
        unsettled = differing if unsettled is None else unsettled & differing
        progress("comparing legs across shards", len(expected) - len(unsettled), len(expected))
        if not unsettled:
            return
        await sleep(SETTLE_EVERY_S)
    by_shard = {one.report.shard: one for one in audits}
    for key in sorted(unsettled or ()):
        node, order_no, leg_no = key
        home = (order_no >> 14) & 0xFF
        one = by_shard.get(home, audits[0])
        one.report.drift_count += 1
        one.drift.append(
            Drift(
                one.report.shard,
                "leg",
                f"leg {leg_no} of order number {order_no} at {names.node_id(node)}",
                _foreign_text(expected.get(key)),
                _foreign_text(actual.get(key)),
                one.books.seq,
            )
        )


def _foreign_text(value: tuple[bool, tuple[tuple[int, int], ...]] | None) -> str:
    if value is None:
        return "nothing"
    return f"{'held' if value[0] else 'allocated'} {dict(value[1])}"


async def _audit_acknowledged(
    audits: list[_ShardAudit],
    wanted: set[str],
    beyond: dict[int, int],
    index: ClosedOrders | None,
    report: Report,
    progress: Progress,
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Each acknowledged order id is there exactly once."""

    async def follow(what: str) -> bool:
        return all([await one.follow_or_say(what, report) for one in audits])

    books = [one.books for one in audits]
    found = await find(books, wanted, beyond, index, follow=follow, progress=progress, sleep=sleep)
    report.acknowledged = len(wanted)
    report.acknowledged_live, report.acknowledged_closed = found.live, found.closed
    for order_id, live, closed in found.wrong:
        if not live + closed and found.doubt:
            report.acknowledged_in_doubt += 1
            continue
        text = f"{live} times live, {closed} times closed" if live + closed else "lost"
        report.drift.append(Drift(-1, "acknowledged", f"order {order_id}", "exactly once", text, 0))
    report.drift_count = len(report.drift)
    if report.acknowledged_in_doubt:
        report.not_checked.append(
            f"{report.acknowledged_in_doubt:,} acknowledged orders are in no shard, and whether they were closed is not known: "
            f"{found.doubt}"
        )


def _changes(values: tuple[int, ...]) -> str:
    """Changes of a position in words."""
    if len(values) != 3:
        return str(values) if values else ""
    return "on hand {:+d}, held {:+d}, allocated {:+d}".format(*values)
