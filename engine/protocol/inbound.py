"""Commands about inbound supply: put, cancel, receive; and the list of what is expected, with what it meets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from engine.domain import inbound
from engine.domain.commands import CancelInbound, ListInbound, PutInbound
from engine.domain.decide_orders import refuse
from engine.domain.events import InboundSet
from engine.domain.orders import Method
from engine.domain.promising import METHOD_TAGS, could_serve, to_promise_with
from engine.domain.replies import InboundReply, InboundView, Problem
from engine.protocol.stores import free_at

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

ROWS_MAX = 5_000
SKUS_MAX = 100


def change(core: ShardCore, conn: int, corr: int, command: PutInbound | CancelInbound, now_ms: int) -> None:
    """Put or cancel; the caller has dealt with repeats."""
    if isinstance(command, PutInbound):
        event = inbound.put(core.state, command)
    else:
        event = inbound.cancel(core.state, command)
    if isinstance(event, Problem):
        core.answer(conn, corr, event)
        return
    batch = core.batch(now_ms)
    core.put(batch, event)
    batch.size += 64 * len(event.rows)
    rows = tuple([_view(core, event, n) for n in range(len(event.rows))])
    core.answer(conn, corr, InboundReply(rows, False, core.shard, core.epoch, batch.seq, batch.token))


def _view(core: ShardCore, event: InboundSet, n: int) -> InboundView:
    inbound_id, item, quantity, expected_ms = event.rows[n]
    return InboundView(core.catalog.node_id(event.node), inbound_id, core.catalog.sku(item), quantity, expected_ms)


def list_inbound(core: ShardCore, conn: int, corr: int, command: ListInbound, now_ms: int) -> None:
    """Records of own nodes, what is expected next first, and per SKU what is free and what waits."""
    catalog, state = core.catalog, core.state
    if len(command.skus) > SKUS_MAX or command.method not in METHOD_TAGS:
        core.answer(conn, corr, refuse("invalid_field", "/sku", f"at most {SKUS_MAX} SKUs", skus=len(command.skus)))
        return
    items = []
    for n, sku in enumerate(command.skus):
        index = catalog.item_of.get(sku)
        item = catalog.items[index] if index is not None else None
        if index is None or item is None:
            problem = refuse("unknown_sku", f"/sku/{n}", f"no item {sku!r}", sku=sku, parameter="sku")
            core.answer(conn, corr, problem)
            return
        if item.components:
            detail = f"{sku} is a kit: ask for its components"
            core.answer(conn, corr, refuse("invalid_field", f"/sku/{n}", detail, sku=sku, parameter="sku"))
            return
        items.append(index)
    tag = METHOD_TAGS[Method(command.method)]
    limit = max(1, min(command.limit, ROWS_MAX))
    time_ms = core.time_ms(now_ms)
    rows: list[InboundView] = []
    come: dict[tuple[int, int], int] = {}
    """Units by (node, item) that will have come by the instant of the row at hand."""
    more = False
    for node, inbound_id in _places(core, items, command):
        document = catalog.nodes[node] if node < len(catalog.nodes) else None
        if document is None or not catalog.owns_node(node) or command.node_id not in (None, document.node_id):
            continue
        if command.selling and not could_serve(document, tag, command.channel):
            continue
        brings, quantity, expected_ms = state.nodes[node].inbound[inbound_id]
        if command.before_ms and expected_ms >= command.before_ms:
            break
        if len(rows) == limit:
            more = True
            break
        promised = 0
        if command.selling and expected_ms >= time_ms:
            before = come.get((node, brings), 0)
            come[node, brings] = before + quantity
            least, most = (
                to_promise_with(state, node, brings, command.method, units, now_ms=now_ms)
                for units in (before, before + quantity)
            )
            promised = most - least
        rows.append(InboundView(document.node_id, inbound_id, catalog.sku(brings), quantity, expected_ms, promised))
    free = [_free(core, item, command, tag, now_ms) for item in items]
    waiting = [core.demand.waiting_for(item) for item in items]
    reply = InboundReply(
        tuple(rows), more, core.shard, core.epoch, state.seq, core.token(), tuple(free), tuple(waiting)
    )
    core.answer(conn, corr, reply)


def _places(core: ShardCore, items: list[int], command: ListInbound) -> Iterator[tuple[int, str]]:
    """(node, inbound id) of the records that are asked for, in the order of the list, behind `after`; others may be among them."""
    state, catalog = core.state, core.catalog
    if items:
        found: Iterable[tuple[int, str]] = state.expected.of(items)
    elif command.node_id is not None:
        node = catalog.node_of.get(command.node_id, -1)
        part = state.nodes.get(node)
        found = [(node, inbound_id) for inbound_id in part.inbound] if part is not None else []
    else:
        yield from state.expected.after(command.after)
        return
    places = [
        (state.nodes[node].inbound[inbound_id][2], catalog.node_id(node), inbound_id, node)
        for node, inbound_id in found
    ]
    for expected_ms, node_id, inbound_id, node in sorted(places):
        if (expected_ms, node_id, inbound_id) > command.after:
            yield node, inbound_id


def _free(core: ShardCore, item: int, command: ListInbound, tag: str, now_ms: int) -> int:
    """Units of an item that own nodes can promise now."""
    catalog, positions = core.catalog, core.state.positions
    units = 0
    for row in positions.rows(item):
        node = positions.v_node[row]
        document = catalog.nodes[node] if node < len(catalog.nodes) else None
        if document is None or not catalog.owns_node(node) or command.node_id not in (None, document.node_id):
            continue
        if could_serve(document, tag, command.channel):
            units += free_at(core, node, item, command.method, now_ms)
    return units
