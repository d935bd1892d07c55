"""Answers about state: orders, work lists, availability, decisions, status, and the auditor's dumps. All are bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import nsmallest
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import structs

from engine.domain import decide_legs
from engine.domain.commands import DumpPart, GetAvailability, GetDecision, GetOrder, GetStatus, ListLegs
from engine.domain.config import Item
from engine.domain.decide_orders import refuse
from engine.domain.ids import EPOCH_2020_MS, shard_of_order_no
from engine.domain.kits import kits_of, tracked_components
from engine.domain.labels import LEG_LABELS
from engine.domain.orders import Method
from engine.domain.problems import CODES
from engine.domain.promising import METHOD_TAGS, could_serve, to_promise
from engine.domain.replies import DecisionAt, DumpReply, LegList, Problem, StatusReply, StockReply, StockView, WorkLeg
from engine.domain.state import LEG_NO_MAX, ShardState, leg_key
from engine.domain.views import leg_view
from engine.protocol.placing import moved
from engine.protocol.reach import nodes_in_reach

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

PAGE_MAX = 5_000
SKUS_MAX = 1_000
CAPACITY_DAYS_BACK = 7
LEGS_SCANNED_MAX = 5_000
"""Legs that one page of a work list looks at; a page may then be short, or empty, with a cursor."""


def split_leg_key(key: int) -> tuple[int, int]:
    """(order number, leg number) of a leg_key."""
    return key >> 12, key & LEG_NO_MAX


def stock_view(core: ShardCore, node: int, item: int, now_ms: int, method: int = Method.SHIP) -> StockView:
    """One position with its numbers and the age of the count behind it."""
    positions, catalog = core.state.positions, core.catalog
    row = positions.find(item, node)
    document = catalog.nodes[node]
    state = document.state if document is not None else "on"
    if row < 0:
        return StockView(catalog.node_id(node), catalog.sku(item), 0, 0, 0, 0, 0, node_state=state)
    kept, to_sell = to_promise(core.state, row, method, now_ms=now_ms)
    part = core.state.nodes.get(node)
    setting = part.settings.get(item) if part else None
    counted_s = positions.v_counted_s[row]
    return StockView(
        catalog.node_id(node),
        catalog.sku(item),
        positions.v_on_hand[row],
        positions.v_held[row],
        positions.v_allocated[row],
        kept,
        to_sell,
        max(0, -positions.free(row) - positions.v_claimed[row]),
        setting[0] if setting else "counted",
        max(0, (now_ms - EPOCH_2020_MS) // 1_000 - counted_s) if counted_s else None,
        state,
    )


def availability(core: ShardCore, conn: int, corr: int, command: GetAvailability, now_ms: int) -> None:
    catalog, positions = core.catalog, core.state.positions
    if command.method not in METHOD_TAGS:
        core.answer(conn, corr, refuse("invalid_field", "/method", f"one of {', '.join(METHOD_TAGS.values())}"))
        return
    if len(command.skus) > SKUS_MAX:
        core.answer(conn, corr, refuse("invalid_field", "/sku", f"at most {SKUS_MAX} SKUs", skus=len(command.skus)))
        return
    if _is_elsewhere(core, conn, corr, command):
        return
    tag = METHOD_TAGS[Method(command.method)]
    views = []
    for n, sku in enumerate(command.skus):
        item = catalog.item_of.get(sku)
        if item is None:
            core.answer(conn, corr, refuse("unknown_sku", f"/sku/{n}", f"no item {sku!r}", sku=sku))
            return
        kit = catalog.items[item]
        if kit is not None and kit.components:
            views += _kit_views(core, kit, command, tag, now_ms)
            continue
        for row in positions.rows(item):
            node = positions.v_node[row]
            document = catalog.nodes[node] if node < len(catalog.nodes) else None
            if document is None or not catalog.owns_node(node):
                continue
            if command.node_id not in (None, document.node_id):
                continue
            if could_serve(document, tag, command.channel):
                views.append(stock_view(core, node, item, now_ms, command.method))
            elif command.node_id is not None:  # whoever names a node is told what lies there, though it is not for sale
                view = stock_view(core, node, item, now_ms, command.method)
                views.append(structs.replace(view, available_to_promise=0))
    if command.ship_to is not None:
        reached = nodes_in_reach(core, command.ship_to, command.channel)
        if isinstance(reached, Problem):
            core.answer(conn, corr, reached)
            return
        views = [structs.replace(view, distance_m=reached[view.node_id]) for view in views if view.node_id in reached]
    views.sort(key=lambda view: (view.sku, view.distance_m, view.node_id))
    seq = core.state.seq
    settled = core.driver.settled(seq)
    core.answer(conn, corr, StockReply(tuple(views), core.shard, core.epoch, seq, core.token(), settled=settled))


def _is_elsewhere(core: ShardCore, conn: int, corr: int, command: GetAvailability) -> bool:
    """Whether a read is turned away: the node that it names is another shard's, or one with stock of its items is on its way.

    Between two shards a node is nobody's: who summed the answers would count it at neither.
    """
    catalog, positions = core.catalog, core.state.positions
    moved_by = catalog.version
    if command.node_id is not None:
        node = catalog.node_of.get(command.node_id, -1)
        if node < 0 or catalog.owns_node(node):
            return False
        problem = refuse("moved", "/node_id", f"{command.node_id} belongs to another shard", version=moved_by)
        core.moves.turn_away(conn, corr, command, problem, node=node)
        return True
    away = [int(part.partition(":")[2]) for part in catalog.away if part.startswith("node:")]
    if not away:
        return False
    items = [catalog.item_of[sku] for sku in command.skus if sku in catalog.item_of]
    for kit in [catalog.items[item] for item in items]:
        items += [item for item, _ in (tracked_components(catalog, kit) or ())] if kit is not None else []
    if not any(positions.find(item, node) >= 0 for item in items for node in away):
        return False
    core.answer(conn, corr, refuse("moved", "", "a node with such stock is on its way", version=moved_by))
    return True


def _kit_views(core: ShardCore, kit: Item, command: GetAvailability, tag: str, now_ms: int) -> list[StockView]:
    """What a kit's components make at each node that has some of all of them: kits on the shelf, and kits to promise."""
    catalog, positions = core.catalog, core.state.positions
    components = tracked_components(catalog, kit)
    if not components:  # nothing that stock limits
        return []
    views = []
    for row in positions.rows(components[0][0]):
        node = positions.v_node[row]
        document = catalog.nodes[node] if node < len(catalog.nodes) else None
        if document is None or not catalog.owns_node(node) or command.node_id not in (None, document.node_id):
            continue
        rows = {item: positions.find(item, node) for item, _ in components}
        serves = could_serve(document, tag, command.channel)
        if min(rows.values()) < 0 or not (serves or command.node_id is not None):
            continue
        to_sell = {item: to_promise(core.state, row, command.method, now_ms=now_ms)[1] for item, row in rows.items()}
        on_hand = kits_of(components, lambda item, rows=rows: positions.v_on_hand[rows[item]])  # type: ignore[misc]
        free = kits_of(components, to_sell.__getitem__)
        views.append(
            StockView(
                document.node_id,
                kit.sku,
                on_hand,
                0,
                0,
                0,
                free if serves else 0,
                supply="kit",
                node_state=document.state,
            )
        )
    return views


def get_order(core: ShardCore, conn: int, corr: int, command: GetOrder, now_ms: int) -> None:
    if not core.views.owns_slot(command.slot):
        core.moves.turn_away(conn, corr, command, moved(core, command.slot), slot=command.slot)
        return
    record = core.state.order(command.slot, command.order_no)
    if record is None:
        core.answer(conn, corr, refuse("not_found", "", "no such order"))
        return
    core.answer(conn, corr, core.view(command.slot, command.order_no, record))


def get_decision(core: ShardCore, conn: int, corr: int, command: GetDecision, now_ms: int) -> None:
    if command.at is not None:
        core.fetch(conn, corr, command.at)
        return
    if not core.views.owns_slot(command.slot):
        core.answer(conn, corr, moved(core, command.slot))
        return
    record = core.state.order(command.slot, command.order_no)
    if record is None or not 0 <= command.decision < len(record.decided_at):
        core.answer(conn, corr, refuse("not_found", "", "no such decision"))
        return
    # Entry numbers are those of the home that decided: another journal may have another order's record there.
    epoch, seq, place, *said = record.decided_at[command.decision]
    first = shard_of_order_no(command.order_no)
    shard = said[0] if said else first
    if shard == core.shard:
        core.fetch(conn, corr, (epoch, seq, place))
    elif said or not command.decision:
        core.answer(conn, corr, DecisionAt(shard, epoch, seq, place))
    else:  # decided before records named their shard: by the first home or by any after it
        core.answer(conn, corr, refuse("not_found", "", "the archive has what other shards decided about this order"))


def list_legs(core: ShardCore, conn: int, corr: int, command: ListLegs, now_ms: int) -> None:
    """A node's open legs in the order of their numbers. A short page with a cursor is not the last one."""
    node = core.catalog.node_of.get(command.node_id)
    if node is None:
        core.answer(conn, corr, refuse("unknown_node", "/node_id", f"no node {command.node_id!r}"))
        return
    if command.state is not None and command.state not in LEG_LABELS:
        core.answer(conn, corr, refuse("invalid_field", "/state", f"one of {', '.join(LEG_LABELS)}"))
        return
    cursor = _parse_cursor(command.cursor)
    if cursor is None:
        core.answer(conn, corr, Problem("invalid_cursor", CODES["invalid_cursor"].title))
        return
    after = leg_key(*cursor) if command.cursor else -1
    limit = max(1, min(command.limit, PAGE_MAX))
    entries = core.state.work.get(node, {})
    keys = nsmallest(LEGS_SCANNED_MAX, (key for key in entries if key > after))
    page: list[WorkLeg] = []
    last = -1
    for key in keys:
        order_no, leg_no = split_leg_key(key)
        if len(page) == limit:
            break
        last = key
        record = core.state.order(entries[key], order_no)
        leg = decide_legs.find_leg(record, leg_no) if record else None
        if record is None or leg is None or (command.state is not None and LEG_LABELS[leg.state] != command.state):
            continue
        channel = core.catalog.channels[record.channel]
        page.append(
            WorkLeg(
                entries[key],
                order_no,
                record.order_id,
                leg_view(core.catalog, record, leg),
                channel.channel_id if channel else "",
                record.ship_to,
            )
        )
    more = len(keys) == LEGS_SCANNED_MAX or (keys and last != keys[-1])
    core.answer(conn, corr, LegList(tuple(page), "{}-{}".format(*split_leg_key(last)) if more else ""))


def _parse_cursor(cursor: str) -> tuple[int, int] | None:
    if not cursor:
        return (-1, -1)
    parts = cursor.split("-")
    if len(parts) != 2 or not all(p.isascii() and p.isdigit() and len(p) < 25 for p in parts):
        return None
    return (int(parts[0]), int(parts[1]))


def status(core: ShardCore, conn: int, corr: int, command: GetStatus, now_ms: int) -> None:
    state = core.state
    facts: dict[str, Any] = {
        "shard": core.shard,
        "epoch": core.epoch,
        "seq": state.seq,
        "durable_seq": core.durable_seq,
        "config_version": core.catalog.version,
        "positions": state.positions.size,
        "open_holds": state.open_holds,
        "open_orders": state.open_orders,
        "orders": sum(len(part.orders) for part in state.slots.values()),
        "dedupe_entries": state.dedupe_count,
        "dedupe_max": state.dedupe_max,
        "dedupe_window_ms": state.dedupe_window_ms(core.time_ms(now_ms)),
        "short_positions": len(state.short_positions),
        "waiting_orders": len(core.demand),
        "waiting_units": core.demand.units_waiting(),
        "kept_positions": len(state.kept),
        "dirty_parts": len(state.dirty),
        "transactions_pending": core.two_phase.pending_count,
        "legs_driving": core.driver.count,
        "boxed_parts": len(state.boxes),
        "foreign_legs": len(state.foreign_node),
        "claims_in_flight": core.claims.in_flight,
        "orders_in_flight": len(core.flights),
        "view_lag_ms": core.views.lag_ms(now_ms),
        "time_ms": state.time_ms,
    }
    facts.update({f"queue_{name}": length for name, length in core.queue_lengths().items()})
    facts.update({f"count_{name}": value for name, value in sorted(core.counts.items())})
    core.answer(conn, corr, StatusReply({**facts, **core.shell_facts}))


def dump(core: ShardCore, conn: int, corr: int, command: DumpPart, now_ms: int) -> None:
    """Rows for the auditor: `node` = own positions by (item, node); `slot` = orders by number; `foreign` = legs of other
    homes; `capacity` = days of own nodes; `inbound` = what is on its way to own nodes."""
    if command.kind not in _DUMPERS:
        core.answer(conn, corr, refuse("invalid_field", "/kind", f"one of {', '.join(_DUMPERS)}"))
        return
    parse, dumper = _DUMPERS[command.kind]
    after = parse(command.cursor)
    if after is None:
        core.answer(conn, corr, Problem("invalid_cursor", CODES["invalid_cursor"].title))
    else:
        rows, cursor = dumper(core, after, max(1, min(command.limit, PAGE_MAX)))
        core.answer(conn, corr, DumpReply(tuple(rows), cursor, core.state.seq))


_Rows = tuple[list[tuple[Any, ...]], str]


def _dump_positions(core: ShardCore, after: tuple[int, int], limit: int) -> _Rows:
    """(item, node, on hand, held, allocated, safety)"""
    positions = core.state.positions
    positions.merge()
    items = positions.items()
    start = 0
    if after[0] >= 0:
        start = int(items.searchsorted(after[0], "left"))
        while start < positions.size and (int(items[start]), positions.v_node[start]) <= after:
            start += 1
    rows: list[tuple[Any, ...]] = []
    for row in range(start, positions.size):
        node = positions.v_node[row]
        if not core.catalog.owns_node(node):
            continue
        if len(rows) == limit:
            return rows, f"{rows[-1][0]}-{rows[-1][1]}"
        rows.append(
            (
                int(items[row]),
                node,
                positions.v_on_hand[row],
                positions.v_held[row],
                positions.v_allocated[row],
                positions.v_safety[row],
            )
        )
    return rows, ""


class OrderNumbers:
    """Order numbers of all slots in order, kept from one page of a dump to the next: 12 bytes an order."""

    def __init__(self) -> None:
        self._numbers = np.empty(0, np.int64)
        self._closed = 0
        self._slot_of = np.empty(0, np.int32)
        self._slots: list[str] = []

    def after(self, state: ShardState, order_no: int) -> Iterator[tuple[str, int]]:
        """(slot, order number) of every order after one."""
        count = sum(len(part.orders) for part in state.slots.values())
        if count != len(self._numbers) or self._closed != state.closed_orders:
            self._closed = state.closed_orders
            self._slots = list(state.slots)
            sizes = [len(part.orders) for part in state.slots.values()]
            every = chain.from_iterable(part.orders for part in state.slots.values())
            numbers = np.fromiter(every, np.int64, count)
            order = np.argsort(numbers, kind="stable")
            self._numbers = numbers[order]
            self._slot_of = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[order]
        for at in range(int(self._numbers.searchsorted(order_no, "right")), count):
            yield self._slots[self._slot_of[at]], int(self._numbers[at])


def _dump_orders(core: ShardCore, after: tuple[int, int], limit: int) -> _Rows:
    """(slot, order number, order id, state, legs), legs = (leg no, node, local, state, lines)"""
    state = core.state
    rows: list[tuple[Any, ...]] = []
    for slot, order_no in core.order_numbers.after(state, after[0]):
        if len(rows) == limit:
            return rows, f"{rows[-1][1]}-0"
        record = state.order(slot, order_no)
        if record is not None:
            legs = [(leg.leg_no, leg.node, leg.local, leg.state, leg.lines) for leg in record.legs]
            rows.append((slot, order_no, record.order_id, record.state, legs))
    return rows, ""


def _dump_foreign(core: ShardCore, after: tuple[int, int], limit: int) -> _Rows:
    """(node, slot, order number, leg number, state, lines), by (node, order number, leg number)"""
    state = core.state
    keys = nsmallest(limit + 1, (pair for pair in ((n, key) for key, n in state.foreign_node.items()) if pair > after))
    rows: list[tuple[Any, ...]] = []
    for node, key in keys[:limit]:
        leg = state.nodes[node].foreign[key]
        rows.append((node, leg.slot, leg.order_no, leg.leg_no, leg.state, leg.lines))
    return rows, "{}-{}".format(*keys[limit - 1]) if len(keys) > limit else ""


def _dump_capacity(core: ShardCore, after: tuple[int, int], limit: int) -> _Rows:
    """(node, local ship day, units given away) of own nodes, from a week ago on."""
    first = core.state.time_ms // 86_400_000 - CAPACITY_DAYS_BACK
    rows: list[tuple[Any, ...]] = []
    for node in range(max(0, after[0]), len(core.catalog.owner)):
        if not core.catalog.owns_node(node):
            continue
        for day, units in core.state.capacity.rows(node):
            if day >= first and (node, day) > after:
                if len(rows) == limit:
                    return rows, f"{rows[-1][0]}-{rows[-1][1]}"
                rows.append((node, day, units))
    return rows, ""


def _parse_inbound_cursor(cursor: str) -> tuple[int, str] | None:
    node, dash, inbound_id = cursor.partition("-")
    if not cursor:
        return (0, "")
    return (int(node), inbound_id) if dash and node.isascii() and node.isdigit() and len(node) < 10 else None


def _dump_inbound(core: ShardCore, first: tuple[int, str], limit: int) -> _Rows:
    """(node, inbound id, item, units expected, expected at in ms) of all there is; a cursor names the next row, which may be gone by then."""
    rows: list[tuple[Any, ...]] = []
    for node, part in sorted(core.state.nodes.items()):
        if node < first[0] or not part.inbound:
            continue
        ids = (i for i in part.inbound if (node, i) >= first)
        for inbound_id in nsmallest(limit + 1 - len(rows), ids):
            if len(rows) == limit:
                return rows, f"{node}-{inbound_id}"
            rows.append((node, inbound_id, *part.inbound[inbound_id]))
    return rows, ""


_DUMPERS: dict[str, tuple[Callable[[str], Any], Callable[[ShardCore, Any, int], _Rows]]] = {
    "node": (_parse_cursor, _dump_positions),
    "slot": (_parse_cursor, _dump_orders),
    "foreign": (_parse_cursor, _dump_foreign),
    "capacity": (_parse_cursor, _dump_capacity),
    "inbound": (_parse_inbound_cursor, _dump_inbound),
}
"""By kind: what reads a cursor, and what gives the rows from it on."""
