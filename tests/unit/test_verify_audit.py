"""The whole audit against cores and a memory journal: while traffic goes on, after a trim, with every kind of planted drift.

One file: each test audits the same small cluster, and differs in what was done to it before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
import pytest

from engine.domain.commands import AdjustStock, CancelOrder, DumpPart, PutInbound, StockMove
from engine.domain.events import LegHeld, OrderPut
from engine.domain.orders import OrderRecord
from engine.domain.replies import DumpReply, InboundReply, OrderView, Problem
from engine.domain.state import leg_key
from engine.journal.memory import MemoryJournal, MemoryServer
from engine.journal.port import Unavailable
from engine.verify.acknowledged import ClosedOrders, Indexed
from engine.verify.audit import Report, audit
from engine.verify.chain import BrokenChain, Chain
from engine.verify.pages import Ask, Page
from tests.builders import a_place, an_order
from tests.sim.little_cluster import LittleCluster
from tests.unit.test_verify_books import Traffic


class Auditable:
    """A little cluster whose appends go to a memory journal, and what an audit needs of it."""

    def __init__(self, *, shards: int, seed: int = 1, nodes: int = 6) -> None:
        self.cluster = LittleCluster(shards=shards, nodes=nodes, per_day=200)
        self.traffic = Traffic(self.cluster, seed)
        self.server = MemoryServer(now_ms=lambda: self.cluster.now_ms)
        self.journals = [MemoryJournal(self.server, shard) for shard in range(shards)]
        self.written = [0] * shards
        self.asked = 0
        self.during: Callable[[], None] = lambda: None
        """Runs before each page is asked for."""

    async def begin(self, steps: int) -> None:
        for shard, journal in enumerate(self.journals):
            self.server.shard(shard).epoch = 0
            await journal.acquire(f"nonce-{shard}", [])
        self.traffic.run(steps)
        await self.write()

    async def write(self) -> None:
        """Journal what the cores appended since the last time."""
        for shard, journal in enumerate(self.journals):
            for append in self.cluster.entries[shard][self.written[shard] :]:
                tail = self.server.shard(shard).tail
                await journal.append(
                    tail, time_ms=max(append.time_ms, tail.time_ms), payload=append.payload, decisions=append.decisions
                )
                assert self.server.shard(shard).tail.seq == append.seq
            self.written[shard] = len(self.cluster.entries[shard])

    async def snapshot(self, shard: int) -> None:
        core = self.cluster.cores[shard]
        for part in core.dirty_parts():
            seq, data = core.pack_part(part)
            await self.journals[shard].write_part(part, seq, data)

    def ask(self, shard: int) -> Ask:
        async def ask(kind: str, cursor: str, limit: int) -> Page:
            self.asked += 1
            self.during()
            reply = self.cluster.ask(shard, DumpPart(kind, cursor, min(limit, 7)))
            await self.write()
            assert isinstance(reply, DumpReply)
            return Page(reply.rows, reply.cursor, reply.seq)

        return ask

    async def place(self, order_id: str) -> OrderView:
        """One unit in store at N-0, and an order for it."""
        self.cluster.ask(
            self.cluster.cores[0].catalog.owner[0], AdjustStock("N-0", (StockMove("SKU-0", "received", 1),))
        )
        self.traffic.orders += 1
        view = self.cluster.ask(0, a_place(an_order(order_id), key=10**6 + self.traffic.orders))
        assert isinstance(view, OrderView), view
        await self.write()
        return view

    async def close(self, view: OrderView) -> None:
        """Cancel an order, have all that ended indexed, and let the time pass after which it leaves."""
        assert not isinstance(self.cluster.ask(0, CancelOrder(view.slot, view.order_no)), Problem)
        core = self.cluster.cores[0]
        core.archived(core.state.seq, core.state.time_ms, index_is_whole=True)
        self.cluster.now_ms += 3_600_000
        self.cluster.settle()
        assert core.state.order(view.slot, view.order_no) is None
        await self.write()

    async def trim(self) -> None:
        """Two snapshots of every part, and no entry before them."""
        for shard, journal in enumerate(self.journals):
            core = self.cluster.cores[shard]
            for _ in range(2):
                self.cluster.stock_at(shard)
                await self.write()
                for part in [
                    "misc",
                    *map("node:{}".format, core.state.nodes),
                    *map("slot:{}".format, core.state.slots),
                ]:
                    seq, data = core.pack_part(part)
                    await journal.write_part(part, seq, data)
            assert await journal.trim(up_to_seq=10**9) > 10

    async def audit(self, acknowledged: set[str] | None = None, index: ClosedOrders | None = None) -> Report:
        async def no_sleep(_: float) -> None:
            self.cluster.settle()
            await self.write()

        return await audit(
            list(range(self.cluster.shards)),
            lambda shard: self.journals[shard],
            self.ask,
            self.cluster.cores[0].catalog,
            acknowledged=acknowledged,
            closed_orders=index,
            sleep=no_sleep,
        )


class FakeIndex:
    """What the archive's index would say."""

    def __init__(self, *closed: tuple[str, int], seq: int = 10**9, whole: bool = True) -> None:
        self.rows = closed
        self.there = Indexed(seq, whole)
        self.asked: list[str] = []
        self.when_asked: Callable[[], None] = lambda: None

    def indexed(self) -> dict[int, Indexed]:
        return {0: self.there, 1: self.there}

    def closed(self, order_ids: Sequence[str]) -> list[tuple[str, int]]:
        self.asked += order_ids
        self.when_asked()
        return [row for row in self.rows if row[0] in order_ids]


class NoIndexAtAll:
    def indexed(self) -> dict[int, Indexed]:
        raise Unavailable("the index does not answer")

    def closed(self, order_ids: Sequence[str]) -> list[tuple[str, int]]:
        raise Unavailable("the index does not answer")


def counts(report: Report) -> tuple[int, int, int]:
    return report.acknowledged_live, report.acknowledged_closed, report.acknowledged_in_doubt


def said(report: Report) -> list[tuple[int, str, str, str, str]]:
    return [(d.shard, d.kind, d.name, d.booked, d.live) for d in report.drift]


@pytest.mark.parametrize("shards", [1, 2])
async def test_a_quiet_cluster_has_no_drift(shards: int) -> None:
    it = Auditable(shards=shards)
    await it.begin(150)
    report = await it.audit()
    assert said(report) == []
    assert report.drift_count == 0
    assert sum(one.orders for one in report.shards) == sum(
        len(part.orders) for core in it.cluster.cores for part in core.state.slots.values()
    )
    assert all(one.entries == it.server.shard(one.shard).tail.seq for one in report.shards)
    assert all(one.first_seq == 1 and one.positions > 0 for one in report.shards)
    assert all(one.days > 0 for one in report.shards), "no node with a daily capacity gave any away: proves nothing"
    assert [one.inbound for one in report.shards] == [
        sum(len(part.inbound) for part in core.state.nodes.values()) for core in it.cluster.cores
    ]
    assert sum(one.inbound for one in report.shards) > 0, "nothing was on its way: proves nothing"


def _expect(it: Auditable, records: int) -> None:
    """N-1 expects so many records more, which take several pages."""
    rows = tuple((f"PO-{n:03}-x", f"SKU-{n % 6}", n + 1, it.cluster.now_ms + n) for n in range(records))
    shard = it.cluster.cores[0].catalog.owner[1]
    assert isinstance(it.cluster.ask(shard, PutInbound("N-1", rows)), InboundReply)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("records", [7, 8, 40])
async def test_what_is_on_its_way_is_compared_page_by_page(shards: int, records: int) -> None:
    it = Auditable(shards=shards)
    await it.begin(5)
    _expect(it, records)
    await it.write()
    report = await it.audit()
    assert said(report) == []
    assert sum(one.inbound for one in report.shards) == sum(
        len(part.inbound) for core in it.cluster.cores for part in core.state.nodes.values()
    )


async def test_a_live_shard_that_expects_something_else_is_drift() -> None:
    it = Auditable(shards=1)
    await it.begin(5)
    _expect(it, 30)
    await it.write()
    inbound = it.cluster.cores[0].state.nodes[1].inbound
    item, units, at_ms = inbound["PO-010-x"]
    inbound["PO-010-x"] = (item, units + 1, at_ms)
    lost = inbound.pop("PO-020-x")
    inbound["PO-099"] = (2, 4, at_ms)
    report = await it.audit()
    assert report.drift_count == 3
    assert [(d.kind, d.name, d.booked, d.live) for d in report.drift] == [
        ("inbound record", "inbound PO-010-x at N-1", f"11 of SKU-4 at {at_ms} ms", f"12 of SKU-4 at {at_ms} ms"),
        ("inbound record", "inbound PO-020-x at N-1", f"21 of SKU-2 at {lost[2]} ms", "nothing"),
        ("inbound record", "inbound PO-099 at N-1", "nothing", f"4 of SKU-2 at {at_ms} ms"),
    ]
    assert [cause.text for cause in report.drift[1].causes] == [f"21 expected at {lost[2]} ms"]


async def test_what_a_node_of_another_shard_expects_is_drift_where_it_was_left_behind() -> None:
    it = Auditable(shards=2)
    await it.begin(5)
    assert not it.cluster.cores[0].catalog.owns_node(1)
    it.cluster.cores[0].state.node(1).inbound["PO-OLD"] = (2, 4, 9)
    assert said(await it.audit()) == [(0, "inbound record", "inbound PO-OLD at N-1", "nothing", "4 of SKU-2 at 9 ms")]


async def test_inbound_rows_are_asked_for_with_a_cursor_or_refused() -> None:
    it = Auditable(shards=1)
    await it.begin(5)
    _expect(it, 3)
    ask = it.cluster.ask
    page = ask(0, DumpPart("inbound", "1-PO-001-x", 1))
    assert isinstance(page, DumpReply)
    assert (page.rows[0][:2], page.cursor) == ((1, "PO-001-x"), "1-PO-002-x")
    for cursor in ("1", "-PO-1", "x-PO-1", "99999999999-PO"):
        refused = ask(0, DumpPart("inbound", cursor, 1))
        assert isinstance(refused, Problem)
        assert refused.code == "invalid_cursor"


async def test_a_live_shard_that_gave_away_other_capacity_is_drift() -> None:
    it = Auditable(shards=1)
    await it.begin(40)
    capacity = it.cluster.cores[0].state.capacity
    node, (day, used) = next((n, rows[0]) for n in range(6) if (rows := capacity.rows(n)))
    capacity.add(node, day, 3)
    report = await it.audit()
    name = f"capacity of N-{node} on day {day}"
    assert said(report) == [(0, "day", name, f"({used},)", f"({used + 3},)")]


async def test_capacity_that_only_the_journal_knows_is_drift() -> None:
    it = Auditable(shards=1)
    await it.begin(40)
    capacity = it.cluster.cores[0].state.capacity
    node, (day, used) = next((n, rows[0]) for n in range(6) if (rows := capacity.rows(n)))
    capacity.put(node, day, 0)
    assert [(d.kind, d.booked, d.live) for d in (await it.audit()).drift] == [("day", f"({used},)", "nothing")]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shards", [1, 2])
async def test_shards_that_move_on_while_they_are_read_have_no_drift(shards: int, seed: int) -> None:
    it = Auditable(shards=shards, seed=seed)
    await it.begin(60)

    def traffic() -> None:
        """Commands in the same queue as the dump, so that pages are taken in the middle of entries."""
        if it.traffic.orders < 600:
            for _ in range(3):
                it.traffic._step()
            orders = it.traffic.orders
            it.traffic._place()
            assert it.traffic.orders > orders

    it.during = traffic
    report = await it.audit()
    assert said(report) == []
    assert it.asked > 20


async def test_a_page_taken_in_the_middle_of_an_entry_is_compared_at_that_moment() -> None:
    it = Auditable(shards=1)
    await it.begin(40)
    core = it.cluster.cores[0]
    torn = 0

    async def ask(kind: str, cursor: str, limit: int) -> Page:
        """Hold the outstanding entry back, so that the page falls between two events of the entry being built."""
        nonlocal torn

        def place(n: int) -> None:
            it.traffic.orders += 1
            it.cluster.send(
                0, a_place(an_order(f"B-{it.traffic.orders}", {f"SKU-{n % 6}": 1}), key=it.traffic.orders + 10**6)
            )

        for n in range(2):
            place(n)
            first = core.poll(now_ms=it.cluster.now_ms)
            if first.append is not None:
                it.cluster.entries[0].append(first.append)
                it.cluster._due.append((0, first.append))
        corr = it.cluster.send(0, DumpPart(kind, cursor, 5))
        core.poll(now_ms=it.cluster.now_ms)
        before = core.state.seq
        place(3)
        core.poll(now_ms=it.cluster.now_ms)
        torn += core.state.seq == before
        it.cluster.settle()
        await it.write()
        reply = it.cluster.replies.pop(corr)
        assert isinstance(reply, DumpReply)
        return Page(reply.rows, reply.cursor, reply.seq)

    it.ask = lambda shard: ask  # type: ignore[method-assign,assignment]
    report = await it.audit()
    assert torn > 10, "no page fell into the middle of an entry"
    assert said(report) == []


async def test_after_a_trim_the_books_begin_with_snapshots() -> None:
    it = Auditable(shards=2, seed=3)
    await it.begin(60)
    for _ in range(3):
        for shard in range(2):
            await it.snapshot(shard)
        it.traffic.run(30)
        await it.write()
    parts = [await journal.read_parts() for journal in it.journals]
    for shard, journal in enumerate(it.journals):
        for refs in parts[shard].values():
            if len(refs) < 2:  # a part that was never touched again allows no trim: write it once more
                core = it.cluster.cores[shard]
                seq, data = core.pack_part(refs[0].part)
                await journal.write_part(refs[0].part, seq, data)
        assert await journal.trim(up_to_seq=10**9) > 10
    report = await it.audit()
    assert said(report) == []
    assert all(one.parts > 0 and one.first_seq > 1 for one in report.shards)


async def test_a_position_that_the_shard_has_wrong_is_named_with_both_numbers_and_causes() -> None:
    it = Auditable(shards=1, seed=5)
    await it.begin(100)
    positions = it.cluster.cores[0].state.positions
    row = next(row for row in range(positions.size) if positions.v_allocated[row])
    item, node = int(positions.items()[row]), positions.v_node[row]
    was = positions.v_allocated[row]
    positions.v_allocated[row] += 2
    report = await it.audit()
    assert report.drift_count == 1
    drift = report.drift[0]
    assert (drift.kind, drift.name) == ("position", f"SKU-{item} at N-{node}")
    assert f"allocated {was}," in drift.booked
    assert f"allocated {was + 2}," in drift.live
    assert drift.causes
    assert drift.causes[0].seq == max(cause.seq for cause in drift.causes)


async def test_a_position_that_the_shard_lost_is_found() -> None:
    it = Auditable(shards=1, seed=6)
    await it.begin(60)
    positions = it.cluster.cores[0].state.positions
    positions.merge()
    row = next(row for row in range(positions.size) if positions.v_on_hand[row])
    for column in (positions.v_on_hand, positions.v_held, positions.v_allocated, positions.v_safety):
        column[row] = 0
    report = await it.audit()
    assert [(d.kind, d.live) for d in report.drift] == [("position", "nothing")]


async def test_an_order_that_the_shard_lost_or_changed_is_found() -> None:
    it = Auditable(shards=1, seed=7)
    await it.begin(100)
    slots = it.cluster.cores[0].state.slots
    (_, first), (slot, second) = list(slots.items())[:2]
    lost = next(iter(first.orders))
    lost_id = msgspec.msgpack.decode(first.orders[lost], type=OrderRecord).order_id
    del first.orders[lost]
    changed = next(iter(second.orders))
    record = msgspec.msgpack.decode(second.orders[changed], type=OrderRecord)
    record.state = 3 if record.state != 3 else 2
    second.orders[changed] = msgspec.msgpack.encode(record)
    report = await it.audit()
    assert {(d.kind, d.name) for d in report.drift} == {
        ("order", f"order {lost_id}"),
        ("order", f"order {record.order_id}"),
    }
    assert slot


async def test_units_held_for_nobody_are_found() -> None:
    it = Auditable(shards=2, seed=8)
    await it.begin(50)
    core = it.cluster.cores[1]
    positions = core.state.positions
    nodes = [n for n, owner in enumerate(core.catalog.owner) if owner == 1]
    free = {(node, item): positions.free(positions.find(item, node)) for node in nodes for item in range(6)}
    node, item = max(free, key=lambda at: free[at])
    assert free[node, item] >= 3, "this traffic leaves too little: choose another seed"
    batch = core.batch(it.cluster.now_ms)
    order_no = core.next_order_no(batch.time_ms) & ~(0xFF << 14)  # a number that shard 0 could have made
    core.put(batch, LegHeld(0, 12345, "US000", order_no, 1, node, 0, 0, ((item, 3),)))
    core.state.node(node).foreign[leg_key(order_no, 1)].resolved = True  # so that it does not ask home and heal itself
    it.cluster.settle()
    await it.write()
    report = await it.audit()
    assert [(d.kind, d.booked, d.live) for d in report.drift] == [("leg", "nothing", f"held {{{item}: 3}}")]


async def test_acknowledged_orders_are_there_exactly_once() -> None:
    it = Auditable(shards=2, seed=9)
    await it.begin(80)
    there = {
        record.order_id
        for core in it.cluster.cores
        for slot, part in core.state.slots.items()
        for order_no in part.orders
        if (record := core.state.order(slot, order_no)) is not None
    }
    assert said(await it.audit(there)) == []
    report = await it.audit(there | {"A-LOST"})
    assert said(report) == [(-1, "acknowledged", "order A-LOST", "exactly once", "lost")]
    assert report.acknowledged == len(there) + 1
    assert counts(report) == (len(there), 0, 0)


async def _one_closed(*, trimmed: bool) -> tuple[Auditable, OrderView]:
    """A-LIVE is live, A-GONE has come to its end and left its shard."""
    it = Auditable(shards=1, seed=12)
    await it.begin(10)
    await it.place("A-LIVE")
    gone = await it.place("A-GONE")
    await it.close(gone)
    if trimmed:
        await it.trim()
    return it, gone


async def test_an_acknowledged_order_that_was_closed_is_found_in_the_journal() -> None:
    it, _ = await _one_closed(trimmed=False)
    report = await it.audit({"A-LIVE", "A-GONE"}, NoIndexAtAll())
    assert (said(report), report.not_checked, counts(report)) == ([], [], (1, 1, 0))
    report = await it.audit({"A-GONE", "A-LOST"})
    assert said(report) == [(-1, "acknowledged", "order A-LOST", "exactly once", "lost")], "the journal knows all"
    assert (report.not_checked, counts(report)) == ([], (0, 1, 0))


async def test_an_acknowledged_order_that_was_closed_before_the_first_entry_is_found_in_the_index() -> None:
    it, gone = await _one_closed(trimmed=True)
    report = await it.audit({"A-LIVE", "A-GONE", "A-LOST"}, FakeIndex(("A-GONE", gone.order_no)))
    assert said(report) == [(-1, "acknowledged", "order A-LOST", "exactly once", "lost")]
    assert (report.shards[0].first_seq > 1, report.not_checked, counts(report)) == (True, [], (1, 1, 0))


async def test_a_closing_that_journal_and_index_know_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    it, gone = await _one_closed(trimmed=True)
    later = await it.place("A-LATER")
    await it.close(later)
    monkeypatch.setattr("engine.verify.acknowledged.IDS_PER_QUESTION", 1)
    index = FakeIndex(("A-GONE", gone.order_no), ("A-LATER", later.order_no))
    report = await it.audit({"A-LATER", "A-GONE", "A-LIVE"}, index)
    assert (said(report), counts(report)) == ([], (1, 2, 0))
    assert index.asked == ["A-GONE", "A-LATER", "A-LIVE"]


@pytest.mark.parametrize(
    ("index", "why"),
    [
        (None, "there is no index to ask"),
        (NoIndexAtAll(), "the index does not answer"),
        (FakeIndex(seq=9), "the index has shard 0 up to entry 9, not "),
        (FakeIndex(whole=False), "the index does not know all of the past of shard 0"),
    ],
)
async def test_where_the_index_does_not_say_an_order_is_not_lost_but_not_checked(
    index: ClosedOrders | None, why: str
) -> None:
    it, _ = await _one_closed(trimmed=True)
    report = await it.audit({"A-LIVE", "A-GONE"}, index)
    assert (said(report), report.drift_count, counts(report)) == ([], 0, (1, 0, 1))
    (sentence,) = report.not_checked
    assert sentence.startswith("1 acknowledged orders are in no shard")
    assert why in sentence


@pytest.mark.parametrize("trimmed", [False, True])
async def test_an_id_that_is_there_twice_is_drift_wherever_it_is(trimmed: bool) -> None:
    it = Auditable(shards=1, seed=12)
    await it.begin(10)
    rows = []
    for order_id in ("A-CLOSED-TWICE", "A-CLOSED-TWICE", "A-BOTH"):
        view = await it.place(order_id)
        await it.close(view)
        rows.append((order_id, view.order_no))
    await it.place("A-BOTH")
    if trimmed:
        await it.trim()
    report = await it.audit({"A-BOTH", "A-CLOSED-TWICE"}, FakeIndex(*rows))
    assert said(report) == [
        (-1, "acknowledged", "order A-BOTH", "exactly once", "1 times live, 1 times closed"),
        (-1, "acknowledged", "order A-CLOSED-TWICE", "exactly once", "0 times live, 2 times closed"),
    ]
    assert counts(report) == (0, 0, 0)


async def test_an_order_that_is_live_in_two_shards_is_drift() -> None:
    it = Auditable(shards=2, seed=12)
    await it.begin(10)
    view = await it.place("A-TWICE")
    home = next(core for core in it.cluster.cores if core.state.order(view.slot, view.order_no) is not None)
    record = home.state.order(view.slot, view.order_no)
    assert record is not None
    record.legs = []
    other = it.cluster.cores[1 - home.shard]
    batch = other.batch(it.cluster.now_ms)
    other.put(batch, OrderPut(0, view.slot, view.order_no, msgspec.msgpack.encode(record)))
    it.cluster.settle()
    await it.write()
    found = [drift for drift in (await it.audit({"A-TWICE"})).drift if drift.kind == "acknowledged"]
    assert [drift.live for drift in found] == ["2 times live, 0 times closed"]


async def test_an_order_that_leaves_while_the_index_is_asked_is_there_once() -> None:
    """Live in the books, closed in the index: it has left them once they go on. Where it has not, it is there twice."""
    it, gone = await _one_closed(trimmed=True)
    view = await it.place("A-LEAVES")
    wanted = {"A-LEAVES", "A-GONE"}
    index = FakeIndex(("A-GONE", gone.order_no), ("A-LEAVES", view.order_no))
    assert [(d.name, d.live) for d in (await it.audit(wanted, index)).drift] == [
        ("order A-LEAVES", "1 times live, 1 times closed")
    ]
    index.when_asked = lambda: asyncio.run(it.close(view))
    report = await it.audit(wanted, index)
    assert (said(report), report.not_checked, counts(report)) == ([], [], (0, 2, 0))


async def test_what_ended_shards_closed_only_the_index_knows() -> None:
    it, _ = await _one_closed(trimmed=False)
    ended = MemoryJournal(it.server, 1)
    it.server.shard(1).epoch = 0
    await ended.acquire("nonce-1", [])
    journals = [it.journals[0], ended]

    async def audited(index: ClosedOrders) -> Report:
        catalog = it.cluster.cores[0].catalog
        return await audit(
            [0],
            lambda shard: journals[shard],
            it.ask,
            catalog,
            acknowledged={"A-THERE"},
            closed_orders=index,
            ended=(1,),
        )

    assert counts(await audited(FakeIndex(("A-THERE", 5)))) == (0, 1, 0)
    report = await audited(NoIndexAtAll())
    assert (said(report), counts(report)) == ([], (0, 0, 1))


async def _broken_while_legs_settle(it: Auditable) -> Report:
    """Both shards are read; then shard 1's journal has another entry that cannot be read."""
    last = it.ask(1)

    async def ask(kind: str, cursor: str, limit: int) -> Page:
        page = await last(kind, cursor, limit)
        if kind == "inbound" and not page.cursor:
            it.cluster.stock_at(1)
            await it.write()
            shard = it.server.shard(1)
            seq = shard.tail.seq
            shard.entries[seq] = shard.entries[seq]._replace(payload=b"\x91\x01")
        return page

    asks = [it.ask(0), ask]
    it.ask = lambda shard: asks[shard]  # type: ignore[method-assign,assignment]
    return await it.audit()


async def test_legs_across_shards_that_could_not_be_compared_are_named() -> None:
    it = Auditable(shards=2, seed=8)
    await it.begin(50)
    report = await _broken_while_legs_settle(it)
    assert [(d.shard, d.kind) for d in report.drift] == [(1, "chain")], "a journal that broke is drift too"
    assert report.drift_count == 1
    (sentence,) = report.not_checked
    assert sentence.startswith("legs across shards: the journal of shard 1 cannot be read beyond entry ")


async def test_legs_are_not_compared_where_a_journal_was_trimmed_past_what_was_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    it = Auditable(shards=2, seed=8)
    await it.begin(50)

    async def trimmed(*_: object) -> bool:
        return True

    monkeypatch.setattr("engine.verify.audit._was_trimmed", trimmed)
    report = await _broken_while_legs_settle(it)
    assert (said(report), report.drift_count, len(report.not_checked)) == ([], 0, 1)


async def test_a_changed_byte_in_the_journal_breaks_the_chain() -> None:
    it = Auditable(shards=1, seed=10)
    await it.begin(30)
    shard = it.server.shard(0)
    entry = shard.entries[9]
    shard.entries[9] = entry._replace(payload=entry.payload[:-1] + bytes([entry.payload[-1] ^ 1]))
    report = await it.audit()
    assert [(d.kind, d.name) for d in report.drift] == [("chain", "journal")]
    assert "entry 9" in report.drift[0].live


async def test_the_chain_is_computed_here_and_not_taken_from_the_journals_own_check() -> None:
    it = Auditable(shards=1, seed=10)
    await it.begin(10)
    entries = list(it.server.shard(0).entries.values())
    chain = Chain()
    for entry in entries:
        chain.check(entry)
    for n, changed in (
        (3, entries[3]._replace(time_ms=entries[3].time_ms + 1)),
        (4, entries[4]._replace(payload=b"\x90")),
        (5, entries[5]._replace(epoch=entries[5].epoch + 1)),
        (6, entries[7]),
    ):
        chain = Chain()
        for entry in entries[:n]:
            chain.check(entry)
        with pytest.raises(BrokenChain, match="entry"):
            chain.check(changed)


async def test_a_shard_that_shows_more_than_its_journal_has_is_found() -> None:
    it = Auditable(shards=1, seed=11)
    await it.begin(30)
    it.server.lose_tail(0, 2)

    async def no_writing() -> None:
        """The lost entries stay lost."""

    it.write = no_writing  # type: ignore[method-assign]
    report = await it.audit()
    assert [d.kind for d in report.drift] == ["chain"]
    assert "its journal ends at" in report.drift[0].live
