"""Where numbers of stock come from: this gateway's own view of it, or the shards that own it. One way in: `stock_now`, `stock_of`.

Both give the same numbers at the same (epoch, seq); tests/integration/test_gateway_availability.py holds them to that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from engine.domain.commands import GetAvailability
from engine.domain.config import Node
from engine.domain.decide_stock import SUPPLY_MODES
from engine.domain.feed_age import Lateness, is_watched, kept_units, lateness
from engine.domain.ids import EPOCH_2020_MS
from engine.domain.orders import Destination, Method
from engine.domain.promising import METHOD_TAGS, could_serve
from engine.domain.replies import Problem, Reply, StockReply
from engine.protocol.tokens import make_token
from gateway.errors import problem, refuse
from gateway.inventory.schemas import AsOf, Position, position_shown
from gateway.orders.routes import unexpected

if TYPE_CHECKING:
    from engine.client.stock_view import ShardStock
    from gateway.gateway import Gateway

AFTER_WAIT_S = 1.0
ASK_AGAIN_S = 0.02
TABLES_MAX = 1_000
Points = Mapping[int, tuple[int, int]]
_by_node = attrgetter("node_id")
_EPOCH_2020_S = EPOCH_2020_MS // 1_000


class Wanted(NamedTuple):
    """Which positions: of these SKUs, at one node or all; as a channel (None = any) and a method (Method) may have them."""

    skus: tuple[str, ...]
    node_id: str | None = None
    channel: str | None = None
    method: int = Method.SHIP
    ship_to: Destination | None = None
    """Only at nodes that could send there, which only the owners know."""


class Stocks(NamedTuple):
    """Positions by (SKU, node), and the state of which shards they show."""

    positions: list[Position]
    as_of: list[AsOf]
    token: str


class _Place(NamedTuple):
    """A node as one channel and method see it."""

    node_id: str
    owner: int
    serves: bool
    safety: int
    """Units of every position that the method must leave."""
    state: str
    watched: Node | None
    """Its document, where something follows from the age of its newest count."""


class Tables:
    """Nodes by index for each (channel, method), made when first needed and again after a change of the network."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._version = -1
        self._tables: dict[tuple[str | None, int], list[_Place | None]] = {}
        self._changes = -1
        self._token = ""

    def of(self, channel: str | None, method: int) -> list[_Place | None]:
        catalog = self._gateway.cluster.catalog
        if catalog.network_version != self._version or len(self._tables) > TABLES_MAX:
            self._tables.clear()
            self._version = catalog.network_version
        table = self._tables.get((channel, method))
        if table is None:
            tag = METHOD_TAGS[Method(method)]
            table = self._tables[channel, method] = [
                _Place(
                    node.node_id,
                    owner,
                    could_serve(node, tag, channel),
                    node.safety_by_method.get(tag, 0),
                    node.state,
                    node if is_watched(node) else None,
                )
                if node is not None
                else None
                for node, owner in zip(catalog.nodes, catalog.owner, strict=True)
            ]
        return table

    def token(self) -> str:
        """Commit token of everything that the view contains."""
        view = self._gateway.stock
        if view.changes != self._changes:
            self._changes = view.changes
            self._token = make_token({shard.shard: shard.point for shard in view.shards.values()})
        return self._token


def stock_now(gateway: Gateway, wanted: Wanted, after: Points | None = None) -> Stocks | None:
    """What this gateway's own view says; None = it cannot tell now (not followed yet, too old, behind `after`, a new SKU)."""
    view = gateway.stock
    now_s = time.monotonic()
    if not view.ready(now_s=now_s, age_max_s=gateway.settings.availability_age_max_ms / 1_000):
        return None
    only = -1
    if wanted.node_id is not None:
        only = gateway.cluster.catalog.node_of[wanted.node_id]
    if after is not None and not view.contains(after, gateway.cluster.catalog.owner[only] if only >= 0 else None):
        return None
    catalog, table = gateway.cluster.catalog, gateway.tables.of(wanted.channel, wanted.method)
    shards: list[ShardStock] = list(view.shards.values())
    if only >= 0:
        shards = [view.shards[catalog.owner[only]]]
    clock_ms = gateway.now_ms()
    clock_s = clock_ms // 1_000
    positions: list[Position] = []
    for sku in sorted(wanted.skus) if len(wanted.skus) > 1 else wanted.skus:
        item = view.item(sku)
        if item is None:
            return None
        found: list[Position] = []
        for shard in shards:
            columns = shard.columns
            assert columns is not None, "a view that is ready has every picture"
            number = shard.shard
            for node, (on_hand, held, allocated, safety, free, counted_s, supply) in zip(
                *columns.of_item(item), strict=True
            ):
                place = table[node] if node < len(table) else None
                if place is None or place.owner != number or (only >= 0 and node != only):
                    continue
                if not place.serves and only < 0:
                    continue
                kept, serves = safety + place.safety, place.serves
                if place.watched is not None:
                    late = lateness(place.watched, shard.counts.get(node, 0), clock_ms)
                    kept, serves = kept_units(late, kept), serves and late is not Lateness.EXCLUDED
                left = free + safety - kept
                found.append(
                    Position(
                        place.node_id,
                        sku,
                        on_hand,
                        held,
                        allocated,
                        kept,
                        left if left > 0 and serves else 0,
                        -free if free < 0 else 0,
                        SUPPLY_MODES[supply],
                        max(0, clock_s - _EPOCH_2020_S - counted_s) if counted_s else None,
                        place.state,
                    )
                )
        found.sort(key=_by_node)
        positions += found
    as_of = [AsOf(shard.shard, *shard.point, int((now_s - shard.heard_s) * 1_000)) for shard in shards]
    token = gateway.tables.token() if only < 0 else make_token({shard.shard: shard.point for shard in shards})
    return Stocks(positions, as_of, token)


async def stock_of(
    gateway: Gateway, wanted: Wanted, *, after: Points | None = None, strict: bool = False
) -> Stocks | Problem:
    """The same, whatever it takes: waits for the view at most a second where it is behind `after`, asks the owners where there is
    no view or `strict` is wanted. Problems: unknown_sku, unknown_node, view_behind, unavailable."""
    if wanted.node_id is not None and gateway.cluster.shard_of_node(wanted.node_id) is None:
        return refuse("unknown_node", "/node_id", f"no node {wanted.node_id!r}", parameter="node_id")
    view = gateway.stock
    age_max_s = gateway.settings.availability_age_max_ms / 1_000
    if not strict and view.ready(now_s=time.monotonic(), age_max_s=age_max_s):
        only = gateway.cluster.shard_of_node(wanted.node_id) if wanted.node_id is not None else None
        if after is not None and not await view.wait(after, only=only, timeout_s=AFTER_WAIT_S):
            return _behind()
        await view.find_items(wanted.skus)
        stocks = stock_now(gateway, wanted, after)
        if stocks is not None:
            return stocks
    until_s = time.monotonic() + AFTER_WAIT_S
    while True:
        asked = await _asked(gateway, wanted, after)
        if asked is not None:
            return asked
        if time.monotonic() >= until_s:
            return _behind()
        await asyncio.sleep(ASK_AGAIN_S)


async def _asked(gateway: Gateway, wanted: Wanted, after: Points | None) -> Stocks | Problem | None:
    """The owners' own answer; None = what `after` names has not reached all of them yet, or a node is on its way between two."""
    cluster = gateway.cluster
    command = GetAvailability(wanted.skus, wanted.node_id, wanted.channel, wanted.method, wanted.ship_to)
    asked_s = time.monotonic()
    homes: list[Reply] = []
    if wanted.node_id is not None:
        first = [cluster.submit(shard, GetAvailability(())) for shard in after or () if shard in cluster.shards]
        reply = await gateway.ask_node(wanted.node_id, command)
        if reply is None:
            return refuse("unknown_node", "/node_id", f"no node {wanted.node_id!r}", parameter="node_id")
        replies: list[Reply] = [reply]
        homes = [await future for future in first]
    else:
        futures = [cluster.submit(shard, command) for shard in cluster.shards]
        homes = replies = [await future for future in futures]
    age_ms = int((time.monotonic() - asked_s) * 1_000)
    positions: list[Position] = []
    points: dict[int, tuple[int, int]] = {}
    as_of = []
    for reply in replies:
        if type(reply) is Problem and reply.code == "moved":
            return None
        if type(reply) is not StockReply:
            return unexpected(reply)
        positions += [position_shown(view) for view in reply.positions]
        points[reply.shard] = (reply.epoch, reply.seq)
        as_of.append(AsOf(reply.shard, reply.epoch, reply.seq, age_ms))
    if after:
        for home in homes:
            if type(home) is not StockReply:
                return unexpected(home)
            point = after.get(home.shard, (0, 0))
            # Owners show their newest entry, so only a token of an epoch or an entry that is none of theirs is refused.
            if (home.epoch, home.seq) < point:
                return _behind()
            if home.shard in after and not _settled(home, point, points):
                return None
    positions.sort(key=lambda position: (position.sku, position.distance_km or 0.0, position.node_id))
    return Stocks(positions, as_of, make_token(points))


def _settled(home: StockReply, point: tuple[int, int], points: Points) -> bool:
    """Whether the owners that answered contain what home's entries up to this point did there."""
    return all(
        shard not in points
        or shard == home.shard
        or (settled > 0 and (home.epoch, settled) >= point and points[shard] >= (epoch, seq))
        for shard, settled, epoch, seq in home.settled
    )


def _behind() -> Problem:
    return problem("view_behind", retry_after_ms=100)
