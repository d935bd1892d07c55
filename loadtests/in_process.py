"""One shard without its shell: the deciding core on a generated network, fed and polled here, its journal a counter of bytes.

For what has to be measured without sockets and processes: CPU of a decision, bytes of state and of journal.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from engine.actors.collector import quiet_collector
from engine.actors.planner import SolverPlanner
from engine.domain.catalog import Catalog
from engine.domain.commands import Command, CountStock, PlaceOrder
from engine.domain.config import Document, Placement
from engine.domain.orders import Destination, LineRequest, OrderRequest
from engine.domain.replies import ConfigDoc, Opened, OrderView, Problem, Reply
from engine.large_pages import LargePages
from engine.protocol.effects import Append
from engine.protocol.shard_core import ShardCore
from engine.settings import Settings
from loadtests.network import Network
from loadtests.traffic import Order

PLACED_AT_MS = int(datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp() * 1_000)


def catalog_of(network: Network, *, shard: int = 0, shards: int = 1) -> Catalog:
    """The configuration as the control shard would have pushed it."""
    documents: list[tuple[str, str, Document]] = [("placement", "", Placement(shard_count=shards))]
    documents += [("channel", channel.channel_id, channel) for channel in network.channels]
    documents += [("carrier", carrier.carrier_id, carrier) for carrier in network.carriers]
    documents += [("node", node.node_id, node) for node in network.nodes]
    documents += [("item", item.sku, item) for item in network.items]
    index: dict[str, int] = {}
    docs = []
    for version, (kind, name, document) in enumerate(documents, 1):
        at = index[kind] = index.get(kind, -1) + 1
        docs.append(ConfigDoc(kind, name, at, version, msgspec.Raw(msgspec.json.encode(document))))
    catalog = Catalog(shard)
    catalog.apply(docs, len(docs))
    return catalog


class LocalShard:
    """A core that owns the whole network. `place` decides a batch as one entry, as the runner would."""

    def __init__(self, network: Network, *, stocked: bool = True) -> None:
        self.network = network
        self.core = ShardCore(0, catalog_of(network), lambda state: SolverPlanner(state, Settings.model_validate({})))
        self.wal_bytes = 0
        self.entries: list[Append] | None = None
        """The journal since somebody put a list here; None = it is not kept."""
        self.pages = LargePages()
        """For who measures: what a shard makes by and by in a thread of its own."""
        self._corr = 0
        self.core.recovered(epoch=1, seq=0, time_ms=0, now_ms=_now_ms())
        if stocked:
            self.load_stock()
        quiet_collector()  # as the runner does when a shard begins to serve

    def load_stock(self) -> None:
        """Count every node."""
        network = self.network
        skus = [item.sku for item in network.items]
        for node, rows in network.stock.by_node():
            pairs = tuple(
                (skus[item], units)
                for item, units in zip(
                    network.stock.item[rows].tolist(), network.stock.units[rows].tolist(), strict=True
                )
            )
            command = CountStock(network.nodes[node].node_id, "loader", _now_ms(), 1, "delta", pairs)
            (reply,) = self.run([command])
            if isinstance(reply, Problem):
                raise RuntimeError(f"the count of {network.nodes[node].node_id} was refused: {reply}")
        self.core.state.positions.merge()

    def run(self, commands: Sequence[Command]) -> list[Reply]:
        """Feed commands, poll until all are answered; every entry counts as durable at once."""
        core, now_ms = self.core, _now_ms()
        first = self._corr
        self._corr += len(commands)
        for corr, command in enumerate(commands, first):
            core.receive(1, corr, command, now_ms=now_ms)
        replies: dict[int, Reply] = {}
        while len(replies) < len(commands):
            effects = core.poll(now_ms=now_ms)
            if effects.append is not None:
                self.wal_bytes += len(effects.append.payload) + sum(map(len, effects.append.decisions))
                if self.entries is not None:
                    self.entries.append(effects.append)
                core.appended(effects.append.seq)
            replies.update([(answer.corr, answer.reply) for answer in effects.answers])
        return [replies[corr] for corr in range(first, self._corr)]

    def place(self, commands: Sequence[PlaceOrder]) -> int:
        """Decide; returns how many were placed."""
        return placed_of(self.run(commands))


def placed_of(replies: Sequence[Reply]) -> int:
    """How many orders of these answers were placed."""
    return sum(type(reply) in (Opened, OrderView) for reply in replies)


def commands_of(
    network: Network, orders: Sequence[Order], *, prefix: str, first: int = 0, ttl_s: int = 0
) -> list[PlaceOrder]:
    """Orders as the gateway hands them over, each with a key of its own."""
    out = []
    items, places = network.items, network.places.rows
    for n, order in enumerate(orders, first):
        place = places[order.place]
        lines = tuple(
            LineRequest(str(i), items[item].sku, units, items[item].unit_value_minor)
            for i, (item, units) in enumerate(order.lines, 1)
        )
        request = OrderRequest(
            f"{prefix}{n:09d}",
            order.channel,
            order.service,
            Destination("US", place.postal_code, place.region, True),
            lines,
            "USD",
            PLACED_AT_MS,
            f"C-{order.customer:07d}",
            0,
        )
        # Any 64 bits do for a key: what counts is that each is another one.
        key = (hash((prefix, n)) & 0x7FFF_FFFF_FFFF_FFFF) | 1
        out.append(PlaceOrder(request, ttl_s, key, key ^ 0x5555, brief=True))
    return out


class PlainLine(msgspec.Struct, frozen=True, gc=False):
    line_id: str
    sku: str
    quantity: int
    unit_price_minor: int
    method: str


class PlainShipTo(msgspec.Struct, frozen=True, gc=False):
    country: str
    region: str
    postal_code: str
    residential: bool


class PlainOrder(msgspec.Struct, frozen=True, gc=False):
    """The order without a single constraint: the yardstick of `decide_vs_decode`."""

    order_id: str
    channel: str
    service: str
    placed_at: str
    customer_id: str
    ship_to: PlainShipTo
    lines: tuple[PlainLine, ...]
    currency: str
    on_short: str


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
