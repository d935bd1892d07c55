"""Stores by distance: which nodes hand goods to customers near a place, what they have and when it is ready.

Answered by the owners, as the place on the map, kits and the ready time of a node are theirs to know. A number to show, never a
promise: nothing is held. Quotes look at other shards' nodes too, by their views: what is placed later is asked of the owner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.domain.commands import FindStores
from engine.domain.config import Node
from engine.domain.decide_orders import Prepared, not_on_the_map, refuse
from engine.domain.feed_age import Lateness, lateness_at
from engine.domain.kits import tracked_components
from engine.domain.orders import Destination, Method, OnShort
from engine.domain.promising import METHOD_TAGS, could_serve, extra_safety, to_promise
from engine.domain.ready import first_ready
from engine.domain.replies import Problem, StoresReply, StoreView

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

EARTH_M = 6_371_000.0
STORES_MAX = 1_000
SKUS_MAX = 100
UNLIMITED = (1 << 31) - 1
"""What stock does not limit: an item that is not tracked."""


def distances_m(nodes: list[Node], lat: float, lon: float) -> np.ndarray:
    """Great-circle distance of each node from a point, whole metres."""
    points = np.radians(np.array([(node.lat, node.lon) for node in nodes], np.float64).reshape(-1, 2))
    at_lat, at_lon = np.radians(lat), np.radians(lon)
    h = np.sin((points[:, 0] - at_lat) / 2) ** 2
    h += np.cos(points[:, 0]) * np.cos(at_lat) * np.sin((points[:, 1] - at_lon) / 2) ** 2
    metres: np.ndarray = np.rint(2 * EARTH_M * np.arcsin(np.minimum(1.0, np.sqrt(h)))).astype(np.int64)
    return metres


def find_stores(core: ShardCore, conn: int, corr: int, command: FindStores, now_ms: int) -> None:
    core.answer(conn, corr, _found(core, command, now_ms))


def _found(core: ShardCore, command: FindStores, now_ms: int) -> StoresReply | Problem:
    catalog = core.catalog
    if command.method not in (Method.PICKUP, Method.SHIP_TO_STORE):
        return refuse("invalid_field", "/method", "pickup or ship_to_store")
    if not 0 < len(command.wanted) <= SKUS_MAX:
        return refuse("invalid_field", "/sku", f"1 to {SKUS_MAX} SKUs", skus=len(command.wanted))
    parts = _parts_of(core, command)
    if isinstance(parts, Problem):
        return parts
    point = core.planner.locate(Destination(command.country, command.postal_code, lat=command.lat, lon=command.lon))
    if point is None:
        return not_on_the_map(command.country, command.postal_code, "/postal_code", parameter="postal_code")
    near = [
        store
        for store in _near(core, point, command.radius_km, command.method, command.channel)
        if catalog.owns_node(store[2]) and store[:2] > command.after
    ]
    units = _units(core, parts, [index for _, _, index in near], command.method, now_ms)
    needs = np.array([need for _, need in command.wanted], np.int64)
    has_all: np.ndarray = np.all(units >= needs[:, None], axis=0)
    chosen = np.flatnonzero(has_all) if command.in_stock else np.arange(len(near))
    limit = max(1, min(command.limit, STORES_MAX))
    rows = []
    for place in chosen[:limit].tolist():
        metres, node_id, index = near[place]
        ready_ms = _ready_ms(core, index, command, now_ms) if has_all[place] else 0
        rows.append(StoreView(node_id, metres, tuple(units[:, place].tolist()), ready_ms))
    return StoresReply(tuple(rows), len(chosen) > limit, core.shard, core.epoch, core.state.seq)


def stores_for(core: ShardCore, prepared: Prepared, radius_km: int, limit: int, now_ms: int) -> list[tuple[int, str]]:
    """(metres, node id) of at most `limit` nodes near its destination at which the shipped lines of an order could be collected.

    Other shards' nodes too, as this one sees them. First come those that have everything, nearest first; then those that
    have something, unless the order is all or nothing. None for orders of more than SKUS_MAX items.
    """
    order, point = prepared.request.order, prepared.request.point
    needs: dict[int, int] = {}
    for line in prepared.request.lines:
        if line.method == Method.SHIP:
            needs[line.item] = needs.get(line.item, 0) + line.quantity
    if point is None or not 0 < len(needs) <= SKUS_MAX:  # as `find` does: each item is looked for at each store
        return []
    near = _near(core, point, radius_km, Method.PICKUP, order.channel)
    units = _units(core, [[(item, 1)] for item in needs], [index for _, _, index in near], Method.PICKUP, now_ms)
    has_all: np.ndarray = np.all(units >= np.array(list(needs.values()), np.int64)[:, None], axis=0)
    chosen = np.flatnonzero(has_all).tolist()
    if prepared.on_short != OnShort.REFUSE:
        chosen += np.flatnonzero(~has_all & np.any(units, axis=0)).tolist()
    return [near[place][:2] for place in chosen[:limit]]


def _near(
    core: ShardCore, point: tuple[float, float], radius_km: int, method: int, channel: str | None
) -> list[tuple[int, str, int]]:
    """(metres, node id, index) of the nodes of all shards near a point that take work of a method, nearest first."""
    tag = METHOD_TAGS[Method(method)]
    serving = [
        (index, node)
        for index, node in enumerate(core.catalog.nodes)
        if node is not None and could_serve(node, tag, channel)
    ]
    far_m = distances_m([node for _, node in serving], *point).tolist()
    return sorted(
        (metres, node.node_id, index)
        for metres, (index, node) in zip(far_m, serving, strict=True)
        if metres <= radius_km * 1_000
    )


def _parts_of(core: ShardCore, command: FindStores) -> list[list[tuple[int, int]]] | Problem:
    """What stock limits each SKU: (item, units in one), of a kit its components."""
    catalog = core.catalog
    parts = []
    for n, (sku, _) in enumerate(command.wanted):
        index = catalog.item_of.get(sku)
        item = catalog.items[index] if index is not None else None
        components = None if index is None or item is None else [(index, 1)] if item.tracked else []
        if item is not None and item.components:
            components = tracked_components(catalog, item)
        if components is None:
            return refuse("unknown_sku", f"/sku/{n}", f"no item {sku!r}", sku=sku, parameter="sku")
        parts.append(components)
    return parts


def _units(
    core: ShardCore, parts: list[list[tuple[int, int]]], nodes: list[int], method: int, now_ms: int
) -> np.ndarray:
    """Units of each SKU (rows) that each node (columns) could hand out: all at once, as a hundred SKUs at a thousand stores, one
    by one, held the shard for a second."""
    state = core.state
    positions = state.positions
    columns = np.full(len(core.catalog.nodes), -1, np.int64)
    columns[nodes] = np.arange(len(nodes))
    extra = np.array([extra_safety(state, node, method) for node in nodes], np.int64)
    late = np.array([lateness_at(state, node, now_ms) for node in nodes], np.int64)
    units = np.full((len(parts), len(nodes)), UNLIMITED, np.int64)
    for n, components in enumerate(parts):
        for item, each in components:
            rows = np.fromiter(positions.rows(item), np.int64)
            at = positions.node[rows]
            known = at < len(columns)
            rows, place = rows[known], columns[at[known]]
            rows, place = rows[place >= 0], place[place >= 0]
            taken = positions.held[rows] + positions.allocated[rows] + positions.claimed[rows] + positions.fenced[rows]
            free, safety = np.zeros(len(nodes), np.int64), np.zeros(len(nodes), np.int64)
            free[place], safety[place] = positions.on_hand[rows] - taken, positions.safety[rows]
            kept = np.where(late == Lateness.KEEPS_MORE, np.maximum(1, 2 * (safety + extra)), safety + extra)
            free[late == Lateness.EXCLUDED] = 0
            np.minimum(units[n], np.maximum(0, free - kept) // each, out=units[n])
    return units


def free_at(core: ShardCore, node: int, item: int, method: int, now_ms: int) -> int:
    """Units of a position that a method may take; never below 0."""
    row = core.state.positions.find(item, node)
    return to_promise(core.state, row, method, now_ms=now_ms)[1] if row >= 0 else 0


def _ready_ms(core: ShardCore, index: int, command: FindStores, now_ms: int) -> int:
    """When an order that is placed now could be collected; 0 = no day within reach has room."""
    node = core.catalog.nodes[index]
    assert node is not None
    capacity = node.capacity
    amount = {"orders": 1, "lines": len(command.wanted), "units": sum(need for _, need in command.wanted)}

    def has_room(day: int) -> bool:
        if capacity is None or not capacity.hard:
            return True
        return core.state.capacity.get(index, day) + amount[capacity.unit] <= capacity.per_day

    return first_ready(node, core.time_ms(now_ms), has_room) or 0
