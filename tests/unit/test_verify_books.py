"""The auditor's books agree with the shards that wrote the journal, through every kind of event, and find planted faults."""

from __future__ import annotations

import random

import msgspec
import pytest

from engine.domain.commands import (
    ActOnLeg,
    AdjustStock,
    CancelOrder,
    Command,
    CommitHold,
    CountStock,
    ExtendHold,
    PutInbound,
    ReceiveInbound,
    ReleaseHold,
    SetPosition,
    StockMove,
)
from engine.domain.orders import OnShort
from engine.domain.replies import OrderView, Problem
from engine.verify.books import Books
from engine.verify.layouts import position_key
from tests.builders import a_destination, a_place, an_order
from tests.sim.little_cluster import LittleCluster


def _fold(cluster: LittleCluster, shard: int, books: Books | None = None) -> Books:
    books = books or Books()
    for append in cluster.entries[shard]:
        if append.seq > books.seq or books.entries == 0:
            for _ in books.apply(append.seq, append.time_ms, append.payload):
                pass
    return books


def _live(cluster: LittleCluster, shard: int) -> dict[int, tuple[int, int, int, int]]:
    """The shard's own positions by key, those with any number in them."""
    core = cluster.cores[shard]
    p = core.state.positions
    found = {}
    for row, item in enumerate(p.items().tolist()):
        node = p.v_node[row]
        values = (p.v_on_hand[row], p.v_held[row], p.v_allocated[row], p.v_safety[row])
        if core.catalog.owns_node(node) and any(values):
            found[position_key(item, node)] = values
    return found


def _booked(books: Books) -> dict[int, tuple[int, int, int, int]]:
    return {key: tuple(books.position(key)) for key in books.positions() if any(books.position(key))}  # type: ignore[misc]


def assert_agree(cluster: LittleCluster, shard: int, books: Books) -> None:
    assert books.faults == []
    assert _booked(books) == _live(cluster, shard)
    state = cluster.cores[shard].state
    assert books.order_count == sum(len(part.orders) for part in state.slots.values())
    for slot, part in state.slots.items():
        for order_no in part.orders:
            record, order = state.order(slot, order_no), books.order(order_no)
            assert record is not None
            assert order is not None
            assert (order.slot, order.order_id, order.state) == (slot, record.order_id, record.state)
            assert [(leg.leg_no, leg.node, leg.state) for leg in order.legs] == [
                (leg.leg_no, leg.node, leg.state) for leg in record.legs
            ]
    live_foreign = {
        (node, leg.order_no, leg.leg_no): (leg.state, dict(leg.lines), dict(leg.shipped))
        for node, part in state.nodes.items()
        for leg in part.foreign.values()
    }
    assert {key: (leg.state, leg.lines, leg.shipped) for key, leg in books.foreign.items()} == live_foreign
    live_inbound = {(node, i): record for node, part in state.nodes.items() for i, record in part.inbound.items()}
    assert books.inbound == live_inbound


class Traffic:
    """Seeded commands of every kind against a little cluster."""

    def __init__(self, cluster: LittleCluster, seed: int) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)
        self.open: list[OrderView] = []
        self.orders = 0
        self.source_seq = 0

    def run(self, steps: int) -> None:
        for node in range(self.cluster.nodes):
            moves = tuple(StockMove(f"SKU-{item}", "received", 30) for item in range(self.cluster.items - 1))
            assert not isinstance(self._ask(self._node_shard(node), AdjustStock(f"N-{node}", moves)), Problem)
        for _ in range(steps):
            self._step()

    def _node_shard(self, node: int) -> int:
        return self.cluster.cores[0].catalog.owner[node]

    def _ask(self, shard: int, command: Command) -> object:
        return self.cluster.ask(shard, command)

    def _step(self) -> None:
        kind = self.random.choices(
            ("place", "change", "move", "count", "set", "inbound", "wait"),
            (40, 45, 8, 4, 2, 4, 3 if self.cluster.shards == 1 else 0),
        )[0]
        if kind == "place":
            self._place()
        elif kind == "change" and self.open:
            self._change()
        elif kind == "wait":
            self.cluster.now_ms += self.random.choice((1_000, 70_000))
            self.cluster.settle()
        else:
            self._stock(kind)

    def _place(self) -> None:
        commands = []
        shard = self.random.randrange(self.cluster.shards)
        for _ in range(self.random.randint(1, 4)):
            self.orders += 1
            skus = self.random.sample(range(self.cluster.items), self.random.randint(1, 3))
            order = an_order(
                f"A-{self.orders}",
                {f"SKU-{sku}": self.random.randint(1, 9) for sku in skus},
                ship_to=a_destination(f"{shard * 1_000 // self.cluster.shards + self.random.randrange(3):03d}01"),
                on_short=self.random.choice((OnShort.REFUSE, OnShort.PARTIAL, OnShort.PARK)),
            )
            commands.append(a_place(order, ttl_s=self.random.choice((0, 0, 60, 600)), key=self.orders))
        for reply in self.cluster.ask_each(shard, commands):
            if isinstance(reply, OrderView):
                self.open.append(reply)

    def _change(self) -> None:
        view = self.random.choice(self.open)
        shard = self.cluster.cores[0].catalog.owner_of_slot(view.slot)
        at = (view.slot, view.order_no)
        if view.state == "held":
            some = tuple((line.line_id, 1) for leg in view.legs for line in leg.lines)[:1] or None
            command: Command = self.random.choice(
                (CommitHold(*at), CommitHold(*at, some), ReleaseHold(*at), ExtendHold(*at, 900), CancelOrder(*at))
            )
        else:
            legs = [leg for leg in view.legs if leg.lines] or list(view.legs)
            if not legs:
                return
            leg = self.random.choice(legs)
            one = tuple((line.line_id, 1) for line in leg.lines)[:1] or None
            action = self.random.choice(("release", "release", "accept", "pick", "ship", "ship", "deliver", "reject"))
            effect = self.random.choice(("none", "write_off", "zero_until_count"))
            lines = self.random.choice((None, one)) if action in ("ship", "reject") else None
            command = self.random.choice(
                (ActOnLeg(*at, leg.leg_no, action, lines, action, effect),) * 6
                + (CancelOrder(*at), CancelOrder(*at, one, "some"))
            )
        reply = self._ask(shard, command)
        if isinstance(reply, OrderView):
            self.open[self.open.index(view)] = reply

    def _stock(self, kind: str) -> None:
        node = self.random.randrange(self.cluster.nodes)
        sku = f"SKU-{self.random.randrange(self.cluster.items)}"
        units = self.random.randint(1, 20)
        if kind == "count":
            self.source_seq += 1
            as_of_ms = self.cluster.now_ms - self.random.choice((0, 5))
            command: Command = CountStock(
                f"N-{node}",
                "wms",
                as_of_ms,
                self.source_seq,
                self.random.choice(("delta", "delta", "full")),
                ((sku, units),),
            )
        elif kind == "set":
            mode = "uncounted" if sku == f"SKU-{self.cluster.items - 1}" and units % 4 else "counted"
            command = SetPosition(f"N-{node}", ((sku, units % 3, mode, 10_000, units if mode == "uncounted" else 0),))
        elif kind == "inbound":
            inbound_id = f"PO-{sku}"
            command = PutInbound(f"N-{node}", ((inbound_id, sku, units, self.cluster.now_ms + 86_400_000),))
            if units % 2:
                command = ReceiveInbound(f"N-{node}", inbound_id, units // 2 + 1, units % 3 == 0)
        else:
            movement = self.random.choice(("received", "received", "damaged", "sold_in_store", "found"))
            command = AdjustStock(f"N-{node}", (StockMove(sku, movement, units),))
        self._ask(self._node_shard(node), command)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_books_equal_the_shards_after_traffic_of_every_kind(seed: int, shards: int) -> None:
    cluster = LittleCluster(shards=shards)
    traffic = Traffic(cluster, seed)
    traffic.run(250)
    assert traffic.orders > 100
    for shard in range(shards):
        assert_agree(cluster, shard, _fold(cluster, shard))
    every = [_fold(cluster, shard) for shard in range(shards)]
    assert any(books.inbound for books in every), "nothing was on its way: proves nothing"
    if shards > 1:
        assert any(books.foreign for books in every)


@pytest.mark.parametrize("shards", [1, 2])
def test_books_that_start_from_parts_of_different_age_equal_those_from_the_beginning(shards: int) -> None:
    cluster = LittleCluster(shards=shards)
    traffic = Traffic(cluster, 11)
    parts: list[dict[str, tuple[int, bytes]]] = [{} for _ in range(shards)]
    traffic.run(60)
    for round_no in range(3):
        for shard in range(shards):
            core = cluster.cores[shard]
            for part in core.dirty_parts()[round_no::2] if round_no < 2 else core.dirty_parts():
                parts[shard][part] = core.pack_part(part)
        traffic.run(60)
    for shard in range(shards):
        books = Books()
        for part, (seq, data) in parts[shard].items():
            books.load_part(part, seq, data)
        first = min(seq for seq, _ in parts[shard].values())
        for append in cluster.entries[shard]:
            if append.seq > first:
                for _ in books.apply(append.seq, append.time_ms, append.payload):
                    pass
        assert_agree(cluster, shard, books)


def _corrupt(cluster: LittleCluster, shard: int, kind: int, change: object) -> int:
    """Apply `change` to the first event of a kind that it says it changed; returns the entry's sequence."""
    for n, append in enumerate(cluster.entries[shard]):
        events = msgspec.msgpack.decode(append.payload)
        for event in events:
            if event[0] == kind and change(event):  # type: ignore[operator]
                cluster.entries[shard][n] = append._replace(payload=msgspec.msgpack.encode(events))
                return append.seq
    raise AssertionError("no such event in this traffic")


def test_an_entry_whose_stock_change_is_not_what_its_record_says_is_a_fault() -> None:
    cluster = LittleCluster()
    Traffic(cluster, 3).run(100)

    def one_more_held(event: list) -> bool:  # type: ignore[type-arg]
        if event[5]:
            event[5][3 if event[5][3] else 4] += 1
        return bool(event[5])

    seq = _corrupt(cluster, 0, 1, one_more_held)
    books = _fold(cluster, 0)
    assert [fault.seq for fault in books.faults] == [seq]
    assert books.faults[0].stated != books.faults[0].derived


def test_a_changed_movement_shows_as_a_position_that_differs_from_the_shard() -> None:
    cluster = LittleCluster()
    Traffic(cluster, 4).run(100)

    def one_more_received(event: list) -> bool:  # type: ignore[type-arg]
        event[2][0][2] += 1
        return True

    _corrupt(cluster, 0, 2, one_more_received)
    booked, live = _booked(_fold(cluster, 0)), _live(cluster, 0)
    differing = {key for key in booked.keys() | live.keys() if booked.get(key) != live.get(key)}
    assert len(differing) == 1


def test_a_shard_that_forgets_a_release_is_found() -> None:
    """The shard's memory is wrong, its journal is right: the books side with the journal."""
    cluster = LittleCluster()
    Traffic(cluster, 5).run(100)
    key, values = next((k, v) for k, v in _live(cluster, 0).items() if v[2])
    positions = cluster.cores[0].state.positions
    positions.v_allocated[positions.find(key >> 32, key & 0xFFFFFFFF)] += 2
    assert _booked(_fold(cluster, 0))[key] == values
    assert _live(cluster, 0)[key] != values


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (["PO-2", 0, 0, 9], "ends and was not expected"),
        (["PO-1", 1, 4, 9], "another item"),
        (["PO-1", 0, -1, 9], "below 0"),
    ],
)
def test_an_inbound_record_that_cannot_be_is_a_fault(row: list[object], what: str) -> None:
    books = Books()
    for seq, rows in ((1, [["PO-1", 0, 5, 9]]), (2, [row])):
        for _ in books.apply(seq, seq, msgspec.msgpack.encode([[37, 3, rows, 0, 0]])):
            pass
    assert [(fault.seq, fault.node) for fault in books.faults] == [(2, 3)], what


def test_an_unknown_event_is_a_fault_not_a_crash() -> None:
    books = Books()
    for _ in books.apply(1, 1, msgspec.msgpack.encode([[99, "new"]])):
        pass
    assert [fault.what for fault in books.faults] == ["an event of unknown kind 99"]
