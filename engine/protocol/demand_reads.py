"""Lists of waiting demand and of short positions, and the demand log. All are bounded."""

from __future__ import annotations

from heapq import nlargest, nsmallest
from itertools import islice
from typing import TYPE_CHECKING

from engine.domain import demand
from engine.domain.commands import ListDemand, ListShort, ReadDemandLog
from engine.domain.decide_orders import refuse
from engine.domain.ids import OrderRef, public_id
from engine.domain.orders import LegState, OrderRecord
from engine.domain.replies import DemandList, DemandView, ShortList, ShortView
from engine.protocol.demand_queue import FIRST, Entry
from engine.protocol.reads import stock_view
from engine.protocol.resourcing import legs_at

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

PAGE_MAX = 1_000
ORDERS_SCANNED_MAX = 2_000
"""Waiting orders that one page looks at; it may then be short, or empty, without being the last."""
LEGS_SHOWN_MAX = 100
STATES = ("parked", "partial")


def list_demand(core: ShardCore, conn: int, corr: int, command: ListDemand, now_ms: int) -> None:
    """Waiting units, foremost first."""
    if command.state is not None and command.state not in STATES:
        core.answer(conn, corr, refuse("invalid_field", "/state", f"one of {', '.join(STATES)}"))
        return
    item = core.catalog.item_of.get(command.sku) if command.sku is not None else None
    if command.sku is not None and item is None:
        core.answer(conn, corr, refuse("unknown_sku", "/sku", f"no item {command.sku!r}", sku=command.sku))
        return
    limit = max(1, min(command.limit, PAGE_MAX))
    # the order that the cursor stands in is looked at again: some of its lines may come after it
    start = (command.after[0], command.after[1] - 1) if command.after is not None else FIRST
    rows: list[DemandView] = []
    reached: tuple[int, int, int] | None = None
    looked = 0
    for entry in islice(core.demand.walk(start, item), ORDERS_SCANNED_MAX):
        looked += 1
        reached = (*entry.place, 1 << 30)
        for view in _views(core, entry, command, item):
            if command.after is None or (view.rank, view.order_no, view.no) > command.after:
                rows.append(view)
        if len(rows) > limit:
            break
    more = len(rows) > limit or looked == ORDERS_SCANNED_MAX
    rows = rows[:limit]
    if len(rows) == limit and more:
        reached = (rows[-1].rank, rows[-1].order_no, rows[-1].no)
    core.answer(conn, corr, DemandList(tuple(rows), reached if more else None))


def _views(core: ShardCore, entry: Entry, command: ListDemand, item: int | None) -> list[DemandView]:
    record = core.state.order(entry.slot, entry.order_no)
    assert record is not None, "what waits is an order of this home"
    channel = core.catalog.channels[record.channel]
    channel_id = channel.channel_id if channel is not None else ""
    if command.channels is not None and channel_id not in command.channels:
        return []
    views = []
    for waiting in sorted(demand.by_line(record)):
        state = "parked" if waiting.parked else "partial"
        if command.state not in (None, state) or command.reason not in (None, waiting.reason):
            continue
        if item is not None and item not in _items(record, waiting.line_id):
            continue
        views.append(
            DemandView(
                entry.place[0],
                entry.slot,
                entry.order_no,
                waiting.no,
                record.order_id,
                waiting.line_id,
                core.catalog.sku(waiting.item),
                waiting.quantity,
                waiting.reason,
                state,
                waiting.priority,
                waiting.since_ms,
                waiting.cancel_at_ms,
                entry.due_ms,
                core.demand.ahead_of(entry, waiting.item),
                channel_id,
                record.customer_id,
            )
        )
    return views


def _items(record: OrderRecord, line_id: str) -> list[int]:
    """What a line waits for: a kit, for several items."""
    return [record.lines[d.line].item for d in record.demand if record.lines[d.line].line_id == line_id]


def read_log(core: ShardCore, conn: int, corr: int, command: ReadDemandLog, now_ms: int) -> None:
    core.answer(conn, corr, core.demand_log.page(after=command.after, limit=command.limit))


def list_short(core: ShardCore, conn: int, corr: int, command: ListShort, now_ms: int) -> None:
    """Short positions of this shard's nodes, by node and item, each with the legs that give up first."""
    catalog, state = core.catalog, core.state
    node = catalog.node_of.get(command.node_id) if command.node_id is not None else None
    if command.node_id is not None and node is None:
        core.answer(conn, corr, refuse("unknown_node", "/node_id", f"no node {command.node_id!r}"))
        return
    limit = max(1, min(command.limit, PAGE_MAX))
    keys = [n << 32 | item for n, item in state.short_positions if node is None or n == node]
    chosen = nsmallest(limit + 1, (key for key in keys if key > command.after))
    rows = []
    for key in chosen[:limit]:
        at, item = key >> 32, key & 0xFFFFFFFF
        view = stock_view(core, at, item, now_ms)
        rows.append(ShortView(key, view, core.resourcing.lacking((at, item)), _short_legs(core, at, item)))
    core.answer(conn, corr, ShortList(tuple(rows), len(chosen) > limit))


def _short_legs(core: ShardCore, node: int, item: int) -> tuple[str, ...]:
    """Ids of this home's legs in the order in which they give up, then those of other homes, newest first."""
    own = [(order_no, leg_no, slot) for _, order_no, leg_no, slot, _ in legs_at(core, node, item)]
    part = core.state.nodes.get(node)
    foreign = [
        (leg.order_no, leg.leg_no, leg.slot)
        for leg in (part.foreign.values() if part is not None else ())
        if leg.state == LegState.ALLOCATED and any(have == item for have, _ in leg.lines)
    ]
    legs = own + nlargest(LEGS_SHOWN_MAX, foreign)
    return tuple(
        [public_id("leg", OrderRef(slot, order_no), leg_no) for order_no, leg_no, slot in legs[:LEGS_SHOWN_MAX]]
    )
