"""What must hold of a simulated cluster: after every step of every shard, at every recovery, and when all is quiet.

Numbers are those of reliability.md E1 (I...) and of engine/domain/state.py (S...). The sums are added up here from records alone.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np

from engine.domain import demand
from engine.domain.boxes import pack_box
from engine.domain.config import Node
from engine.domain.events import (
    Cause,
    Event,
    InboundSet,
    LegDriven,
    LegHeld,
    LegShifted,
    OrderPut,
    PositionSet,
    StockCounted,
    StockMoved,
)
from engine.domain.move_events import PartBoxed, PartOpened
from engine.domain.orders import LegState, Method, OrderRecord, OrderState, decode_record
from engine.domain.state import ShardState, leg_key
from engine.domain.stock import trust_fence
from engine.domain.supply import RENEWAL, UNCOUNTED
from engine.protocol.control_core import ControlCore
from engine.protocol.shard_core import ShardCore
from engine.verify.books import Books
from engine.verify.layouts import position_key

_LIVE = (LegState.ALLOCATED, LegState.RELEASED, LegState.ACCEPTED, LegState.PICKING)
_LEFT = (LegState.SHIPPED, LegState.DELIVERED)
_TERMINAL = (OrderState.RELEASED, OrderState.EXPIRED, OrderState.CANCELLED)


def orders_of(state: ShardState) -> dict[int, tuple[str, OrderRecord]]:
    return {
        order_no: (slot, decode_record(packed))
        for slot, part in state.slots.items()
        for order_no, packed in part.orders.items()
    }


def own_positions(state: ShardState) -> dict[tuple[int, int], tuple[int, ...]]:
    """(on hand, held, allocated, safety, fenced, counted) by (node, item) of this shard's own nodes, zeros left out.

    Fenced without what is kept for waiting demand: that is memory, not a function of the journal.
    """
    positions = state.positions
    items = positions.items().tolist()
    out = {}
    for row in range(positions.size):
        node = positions.v_node[row]
        if state.catalog.owns_node(node):
            values = (
                positions.v_on_hand[row],
                positions.v_held[row],
                positions.v_allocated[row],
                positions.v_safety[row],
                trust_fence(state, node, items[row], row),
                positions.v_counted_s[row],
                positions.v_counted_ms[row],
            )
            if any(values):
                out[(node, items[row])] = values
    return out


def digest(state: ShardState) -> dict[str, Any]:
    """Everything that is a function of the journal (S7)."""
    return {
        "orders": {slot: dict(part.orders) for slot, part in sorted(state.slots.items()) if part.orders},
        "keys": {slot: list(part.dedupe.rows()) for slot, part in sorted(state.slots.items()) if len(part.dedupe)},
        "positions": own_positions(state),
        "capacity": {
            node: rows
            for node in range(len(state.catalog.nodes))
            if state.catalog.owns_node(node) and (rows := state.capacity.rows(node))
        },
        "nodes": {
            node: (
                list(part.dedupe.rows()),
                dict(part.feeds),
                part.movements.pack(),
                dict(part.settings),
                dict(sorted(part.foreign.items())),
                dict(sorted(part.inbound.items())),
            )
            for node, part in sorted(state.nodes.items())
            if len(part.dedupe) or part.feeds or len(part.movements) or part.settings or part.foreign or part.inbound
        },
        "short": sorted(key for key in state.short_positions),
        "work": {node: dict(sorted(legs.items())) for node, legs in sorted(state.work.items()) if legs},
        "counts": (state.open_holds, state.open_orders, state.dedupe_count, len(state.foreign_node)),
        "recovered": (state.recovered_at_ms, state.grace_until_ms, state.txn_offset),
        "boxes": {part: pack_box(box) for part, box in sorted(state.boxes.items())},
        "seq": (state.seq, state.time_ms),
    }


def check_core(core: ShardCore) -> None:
    """After every step: counters equal the sums over records (S2, I6), nothing is negative (S3)."""
    state = core.state
    held: Counter[tuple[int, int]] = Counter()
    allocated: Counter[tuple[int, int]] = Counter()
    capacity: Counter[tuple[int, int]] = Counter()
    holds = committed = 0
    for order_no, (slot, record) in orders_of(state).items():
        assert state.order_of_id(slot, record.order_id) is not None, f"order {order_no} is not found by its id"
        holds += record.state == OrderState.HELD
        committed += record.state == OrderState.COMMITTED
        for leg in record.legs:
            # A leg of a node that came, or came back, by a move stays one that the node's part holds.
            assert not leg.local or leg.state >= LegState.SHIPPED or state.catalog.owns_node(leg.node)
            assert (record.state == OrderState.HELD) == (leg.state == LegState.HELD) or leg.state >= LegState.CANCELLED
            if leg.local:
                for i, units in leg.lines:
                    assert units > 0, f"a leg of order {order_no} holds {units} units"
                    into = held if leg.state == LegState.HELD else allocated if leg.state in _LIVE else None
                    if into is not None:
                        into[(leg.node, record.lines[i].item)] += units
                capacity[(leg.node, leg.ship_day)] += leg.capacity_units
        _check_lines(state, order_no, record)
    for node, part in state.nodes.items():
        for key, foreign in part.foreign.items():
            assert state.foreign_node[key] == node
            for item, units in foreign.lines:
                (held if foreign.state == LegState.HELD else allocated)[(node, item)] += units
            capacity[(node, foreign.ship_day)] += foreign.capacity_units
    assert (state.open_holds, state.open_orders) == (holds, committed)
    _check_hold_caps(core)
    _check_demand(core)
    positions = state.positions
    items = positions.items().tolist()
    for row in range(positions.size):
        node, item = positions.v_node[row], items[row]
        assert positions.v_claimed[row] >= 0 and positions.v_safety[row] >= 0
        if not state.catalog.owns_node(node):
            continue
        is_held, is_allocated = positions.v_held[row], positions.v_allocated[row]
        assert (is_held, is_allocated) == (held[(node, item)], allocated[(node, item)]), (
            f"S2: node {node} item {item}: held {is_held}, allocated {is_allocated}; "
            f"records say {held[(node, item)]}, {allocated[(node, item)]}"
        )
        trusted = trust_fence(state, node, item, row)
        kept = positions.v_fenced[row] - trusted
        assert 0 <= kept <= state.kept.get(item << 32 | node, 0), f"Q4: {kept} units of {node}, {item} are kept"
        # A commit elsewhere claims units that its own hold still holds: claims alone make no shortage.
        free = positions.free(row) + positions.v_claimed[row]
        assert kept == 0 or free >= 0, f"Q4: units of {node}, {item} are kept that are not free"
        short = positions.free(row) + positions.v_claimed[row] < 0
        assert ((node, item) in state.short_positions) == short, f"short_positions is wrong about {node}, {item}"
    for node in range(len(state.catalog.nodes)):
        if state.catalog.owns_node(node):
            given = dict(state.capacity.rows(node))
            kept = {day: used for (n, day), used in capacity.items() if n == node and used}
            # What a finished foreign leg used stays given away, although the leg is forgotten.
            assert all(given.get(day, 0) >= used for day, used in kept.items()), (node, given, kept)


def _check_hold_caps(core: ShardCore) -> None:
    """H3: what counts against the caps is what open holds hold."""
    caps = core.hold_caps
    if caps is None:
        return
    by_key: Counter[str] = Counter()
    by_customer: Counter[str] = Counter()
    for _, record in orders_of(core.state).values():
        if record.state == OrderState.HELD:
            units = sum(units for leg in record.legs for _, units in leg.lines)
            by_key[record.held_by] += units
            by_customer[record.customer_id or ""] += units
    for counted, held in ((caps.by_key, by_key), (caps.by_customer, by_customer)):
        del held[""]
        assert +counted == +held, f"H3: counted {counted}, held {held}"


def _check_demand(core: ShardCore) -> None:
    """Q1: what waits in the queue is what the records say, each order once, in its place."""
    queue = core.demand
    records = {no: record for no, (_, record) in orders_of(core.state).items() if demand.waits(record)}
    assert set(queue.entries) == set(records), f"the queue has {set(queue.entries)}, records say {set(records)}"
    assert queue.order == sorted((demand.order_rank(record), no) for no, record in records.items())
    by_item: dict[int, list[tuple[int, int]]] = {}
    for place in queue.order:
        for item in demand.units_by_item(records[place[1]]):
            by_item.setdefault(item, []).append(place)
    assert queue.by_item == by_item


def check_guests(cores: list[ShardCore]) -> None:
    """G1: when all is quiet, every shard knows what waits at the others, and nothing else; no turn is still given."""
    rows = {core.shard: {no: core.demand.visits.row(no) for no in core.demand.entries} for core in cores}
    for core in cores:
        guests, keeping = core.demand.guests, core.demand.keeping
        assert not guests.turns, f"G2: a turn was never given back: {guests.turns}"
        shown = {
            no: (no, guest.place[0], tuple(guest.items.items()), dict(keeping.collected(no)))
            for no, guest in guests.by_order.items()
        }
        told = {}
        for shard, theirs in rows.items():
            if shard != core.shard:
                for no, rank, items, collects in theirs.values():
                    told[no] = (no, rank, items, {item << 32 | node: units for item, node, units in collects})
        assert shown == told, f"G1: shard {core.shard} was shown {shown}, the others have {told}"


def _check_lines(state: ShardState, order_no: int, record: OrderRecord) -> None:
    """I2 for orders: each unit asked for is in a leg, in demand, cancelled, or was never to be covered."""
    units = [line.quantity - line.cancelled for line in record.lines]
    for leg in record.legs:
        for i, have in leg.lines:
            units[i] -= have
    for waiting in record.demand:
        assert waiting.quantity > 0
        units[waiting.line] -= waiting.quantity
    for i, line in enumerate(record.lines):
        item = state.catalog.items[line.item]
        if line.method == Method.DIGITAL or (item is not None and not item.tracked):
            assert 0 <= units[i] <= line.quantity
            units[i] = 0
    if record.state in (OrderState.HELD, OrderState.COMMITTED):
        assert not any(units), f"I2: order {order_no}: units unaccounted for {units}: {record}"
    else:
        assert all(leg.state >= LegState.CANCELLED for leg in record.legs), f"S4: order {order_no} has live legs"


class Transit:
    """What all folds share: parts between two shards, and what is known about orders, whichever shard is their home."""

    def __init__(self) -> None:
        self.nodes: dict[tuple[str, int], tuple[dict[tuple[int, int], int], dict[tuple[int, int], int]]] = {}
        self.boxed: dict[tuple[str, int], int] = {}
        """Shard that boxed a part, by part and move."""
        self.opened: dict[tuple[str, int], int] = {}
        self.keys: dict[tuple[int, int], int] = {}
        """Entry at which a stock fact was taken, by node and key."""
        self.inbound: dict[tuple[int, str], tuple[int, int, int]] = {}
        """(item, units, expected at) by node and inbound id."""
        self.settings: dict[tuple[int, int], tuple[int, str, int, int]] = {}
        """(safety, supply mode, trust, daily cap) by node and item."""
        self.renewed: dict[int, int] = {}
        """Newest day that was begun, by node."""
        self.renewals = self.receipts = 0
        self.versions: dict[int, int] = {}
        self.terminal: dict[int, int] = {}
        self.put_count: Counter[int] = Counter()


class JournalFold:
    """A second, tiny model of a shard's stock: only the stated changes of events, checked for S1 as they are added up."""

    def __init__(self, owned: set[int], transit: Transit | None = None) -> None:
        self._owned = owned
        self._transit = transit = transit or Transit()
        self.on_hand: Counter[tuple[int, int]] = Counter()
        self.promised: Counter[tuple[int, int]] = Counter()
        self.versions = transit.versions
        self.terminal = transit.terminal
        self.put_count = transit.put_count

    def _boxed(self, seq: int, event: PartBoxed) -> None:
        key = (event.part, event.move_id)
        assert key not in self._transit.boxed, f"entry {seq}: {event.part} is boxed twice"
        self._transit.boxed[key] = seq
        kind, _, name = event.part.partition(":")
        if kind != "node":
            return
        node = int(name)
        assert node in self._owned, f"entry {seq} boxes node {node} of another shard"
        self._owned.discard(node)
        moved = tuple(
            {at: counts.pop(at) for at in list(counts) if at[0] == node} for counts in (self.on_hand, self.promised)
        )
        self._transit.nodes[key] = (moved[0], moved[1])

    def _opened(self, seq: int, event: PartOpened) -> None:
        key = (event.part, event.move_id)
        assert key in self._transit.boxed, f"entry {seq} opens {event.part}, which nobody boxed"
        assert key not in self._transit.opened, f"entry {seq}: {event.part} is opened twice"
        self._transit.opened[key] = seq
        kind, _, name = event.part.partition(":")
        if kind == "node":
            self._owned.add(int(name))
            on_hand, promised = self._transit.nodes[key]
            self.on_hand.update(on_hand)
            self.promised.update(promised)

    def add(self, seq: int, events: list[Event]) -> None:
        before: Event | None = None
        for event in events:
            self._stock_fact(seq, event, before)
            self._apply(seq, event, before)
            before = event
        assert not _is_receipt(before), f"B3: entry {seq} receives units that stay expected"

    def _apply(self, seq: int, event: Event, before: Event | None) -> None:
        if isinstance(event, OrderPut):
            self._order(seq, event)
            self._changes(seq, event.stock)
        elif isinstance(event, LegHeld):
            for item, units in event.lines:
                self._changes(seq, (event.node, item, 0, units, 0))
        elif isinstance(event, LegDriven | LegShifted):
            self._changes(seq, event.stock)
        elif isinstance(event, PartBoxed):
            self._boxed(seq, event)
        elif isinstance(event, PartOpened):
            self._opened(seq, event)
        elif isinstance(event, StockMoved):
            for item, _, change in event.moves:
                self.on_hand[(event.node, item)] += change
        elif isinstance(event, StockCounted):
            for item, change in event.rows:
                self.on_hand[(event.node, item)] += change
            if event.source == RENEWAL:
                self._renewed(seq, event, before)
        elif isinstance(event, PositionSet):
            for item, *setting in event.rows:
                self._transit.settings[(event.node, item)] = tuple(setting)  # type: ignore[assignment]

    def _stock_fact(self, seq: int, event: Event, before: Event | None) -> None:
        """A fact is about an own node, is taken once (I3), and a receipt is a movement and the smaller record (B3)."""
        if _is_receipt(before):
            assert isinstance(event, InboundSet), f"B3: entry {seq} receives units that stay expected"
        if not isinstance(event, StockMoved | StockCounted | PositionSet | InboundSet):
            return
        assert event.node in self._owned, f"entry {seq} changes node {event.node} of another shard"
        key = (event.node, event.key_hash)
        if event.key_hash:
            assert key not in self._transit.keys, f"I3: entries {self._transit.keys.get(key)} and {seq} take one key"
            self._transit.keys[key] = seq
        if isinstance(event, InboundSet):
            self._inbound(seq, event, before)

    def _inbound(self, seq: int, event: InboundSet, before: Event | None) -> None:
        inbound = self._transit.inbound
        for inbound_id, item, units, expected_ms in event.rows:
            old = inbound.get((event.node, inbound_id))
            assert units or old, f"B1: entry {seq} ends {inbound_id}, which nobody expected"
            assert old is None or old[0] == item, (
                f"B1: {inbound_id} brought {old}, at entry {seq} it brings item {item}"
            )
            if isinstance(before, StockMoved) and _is_receipt(before):
                ((came, _, received),) = before.moves
                self._transit.receipts += 1
                assert old is not None and (before.node, came) == (event.node, item)
                assert units in (0, max(0, old[1] - received)), (
                    f"B3: entry {seq}: {received} of {old} came, {units} left"
                )
            if units:
                inbound[(event.node, inbound_id)] = (item, units, expected_ms)
            else:
                del inbound[(event.node, inbound_id)]

    def _renewed(self, seq: int, event: StockCounted, before: Event | None) -> None:
        """U1, U2: a day begins once, with what is promised and the cap; new settings change what is left of it."""
        node, day = event.node, event.source_seq
        newest = self._transit.renewed.get(node, -1)
        self._transit.renewed[node] = max(day, newest)
        if isinstance(before, PositionSet) and before.node == node:
            return
        self._transit.renewals += 1
        assert day > newest, f"U2: entry {seq} begins day {day} of node {node}, {newest} had begun"
        for (n, item), (safety, mode, _, cap) in self._transit.settings.items():
            if n == node and mode == UNCOUNTED:
                key = (node, item)
                there, open_units = self.on_hand[key], self.promised[key]
                assert there == open_units + safety + cap, (
                    f"U1: entry {seq}: {there} of {key}, {open_units} are promised"
                )

    def _changes(self, seq: int, stock: tuple[int, ...]) -> None:
        for i in range(0, len(stock), 5):
            node, item, on_hand, held, allocated = stock[i : i + 5]
            assert node in self._owned, f"entry {seq} changes node {node} of another shard"
            key = (node, item)
            self.on_hand[key] += on_hand
            self.promised[key] += held + allocated
            assert self.promised[key] >= 0, f"S3: entry {seq} frees more of {key} than was promised"
            if held + allocated > 0:
                assert self.promised[key] <= self.on_hand[key], f"S1: entry {seq} oversells {key}"

    def _order(self, seq: int, event: OrderPut) -> None:
        record = decode_record(event.record)
        version = self.versions.get(event.order_no, 0)
        if event.cause == Cause.REPEATED:
            assert record.version == version, f"order {event.order_no} is not repeated, its version was {version}"
            return
        assert record.version == version + 1, f"order {event.order_no} went from version {version} to {record.version}"
        self.versions[event.order_no] = record.version
        self.put_count[event.order_no] += 1
        assert event.order_no not in self.terminal, f"S4: entry {seq} changes order {event.order_no}, which had ended"
        if record.state in _TERMINAL:
            self.terminal[event.order_no] = record.state


def check_agreement(cores: list[ShardCore]) -> None:
    """When all is quiet: every leg at another shard is there exactly as its home's record says, and no other leg is (I5)."""
    wanted: dict[int, tuple[int, int, tuple[tuple[int, int], ...]]] = {}
    for core in cores:
        for order_no, (_, record) in orders_of(core.state).items():
            for leg in record.legs:
                assert not leg.driving, f"order {order_no} leg {leg.leg_no} is still being driven"
                if leg.local or leg.state >= LegState.SHIPPED or leg.source_leg:
                    continue
                units: Counter[int] = Counter()
                for i, have in leg.lines:
                    units[record.lines[i].item] += have
                state = LegState.HELD if leg.state == LegState.HELD else LegState.ALLOCATED
                wanted[leg_key(order_no, leg.leg_no)] = (leg.node, state, tuple(sorted(units.items())))
    there = {
        key: (node, foreign.state, foreign.lines)
        for core in cores
        for node, part in core.state.nodes.items()
        for key, foreign in part.foreign.items()
    }
    assert there == wanted, f"I5: legs held {there}, legs decided {wanted}"
    for core in cores:
        assert core.two_phase.pending_count == 0 and core.driver.count == 0
        assert not core.state.positions.claimed.any(), "claims outlived their plans"
        assert len(core.flights) == 0 and core.claims.waiting == 0
        assert not core.state.boxes, f"I11: {list(core.state.boxes)} are still on their way at shard {core.shard}"


def check_books(cores: list[ShardCore], books: dict[int, Books]) -> None:
    """When all is quiet, the auditor's books of every journal show what the shard shows."""
    for core in cores:
        mine, state = books[core.shard], core.state
        assert not mine.faults, f"shard {core.shard}: {mine.faults[:3]}"
        live = {position_key(item, node): values[:4] for (node, item), values in own_positions(state).items()}
        booked = {key: tuple(mine.position(key)) for key in mine.positions() if any(mine.position(key))}
        assert booked == {key: values for key, values in live.items() if any(values)}, f"books of shard {core.shard}"
        assert set(mine.order_numbers()) == set(orders_of(state)), f"orders in the books of shard {core.shard}"
        legs = {(node, leg.order_no, leg.leg_no) for node, part in state.nodes.items() for leg in part.foreign.values()}
        assert set(mine.foreign) == legs, f"legs in the books of shard {core.shard}"
        for node in range(len(core.catalog.nodes)):
            if core.catalog.owns_node(node):
                for day, used in state.capacity.rows(node):
                    assert mine.capacity(node, day) == used, f"capacity of node {node} on day {day}"
        assert not mine.boxed


def _is_receipt(event: Event | None) -> bool:
    return isinstance(event, StockMoved) and event.reason.startswith("inbound ")


def check_supply(cores: list[ShardCore], transit: Transit) -> None:
    """When all is quiet, what is expected and what nobody counts are as they were stated last, wherever their nodes went."""
    inbound, settings = {}, {}
    for core in cores:
        for node, part in core.state.nodes.items():
            assert core.catalog.owns_node(node) or not (part.inbound or part.settings), f"node {node} is elsewhere"
            inbound.update({(node, inbound_id): record for inbound_id, record in part.inbound.items()})
            settings.update({(node, item): setting for item, setting in part.settings.items()})
    assert inbound == transit.inbound, f"B1: expected {inbound}, stated {transit.inbound}"
    stated = {key: tuple(setting) for key, (_, *setting) in transit.settings.items() if setting[0] != "counted"}
    assert settings == stated, f"U1: settings {settings}, stated {stated}"


def check_configuration(cores: list[ShardCore], control: ControlCore) -> None:
    """When all is quiet, every shard has the documents that the control shard has made durable."""
    assert control.durable_version == control.state.version
    nodes = control.state.kinds["node"].docs
    for core in cores:
        catalog = core.catalog
        assert catalog.version == control.durable_version, f"shard {core.shard} has version {catalog.version}"
        for index, stored in enumerate(nodes):
            if stored is not None:
                assert catalog.node_of[stored.name] == index
                assert catalog.nodes[index] == msgspec.json.decode(stored.document, type=Node)


def check_views(cores: list[ShardCore]) -> None:
    """When all is quiet, every view shows what its owner has."""
    for core in cores:
        positions = core.state.positions
        items = positions.items()
        seen = {
            (int(items[row]), positions.v_node[row]): positions.free(row)
            for row in range(positions.size)
            if not core.catalog.owns_node(positions.v_node[row])
        }
        for other in cores:
            if other is core:
                continue
            theirs = other.state.positions
            for item, node in zip(theirs.items().tolist(), theirs.node[: theirs.size].tolist(), strict=True):
                if other.catalog.owns_node(node):
                    free = theirs.free(theirs.find(item, node))
                    assert seen.get((item, node), 0) == free, (
                        f"view of shard {core.shard}: node {node} item {item} shows {seen.get((item, node))}, is {free}"
                    )
            for node in range(len(core.catalog.nodes)):
                if other.catalog.owns_node(node):
                    assert core.state.capacity.rows(node) == other.state.capacity.rows(node)


def conserved(cores: list[ShardCore]) -> np.ndarray:
    """On hand by item over all shards' own nodes."""
    totals = np.zeros(max(len(core.catalog.items) for core in cores), np.int64)
    for core in cores:
        for (_, item), values in own_positions(core.state).items():
            totals[item] += values[0]
    return totals
