"""The stock feed of all shards as one reader keeps it: positions in memory, true at (epoch, seq) by shard.

W1  Followed only while somebody reads: begun by the first read, given up after IDLE_S without one.
W2  A picture is built beside the one in use and takes its place when it is complete; until then the point of a shard stays where
    it was, and its age goes on. Values only ever get newer, so a picture contains its point at least. A refusal may stand in the
    place of a push: nothing is taken up and nothing dated after one until the shard begins again.
W3  The age of a picture counts from when its shard was last ASKED what it had then: news that were long on their way, or lay here
    unread, make nothing younger. Asked every PROBE_S.
W4  A position counts where the placement says that its shard owns the node. When a node has another owner, pictures are void.
W5  A commit token names the home of its order. The units of other shards move when home has driven them there: a read contains a
    token when home's picture does, home says which entries of the others settled it, and their pictures contain those.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog

from engine.client.link import ShardLink
from engine.client.stock_columns import StockColumns
from engine.domain.catalog import Catalog
from engine.domain.commands import FindItems, FollowStock, GetStockPage
from engine.domain.config import Placement
from engine.domain.placement import serving_shards
from engine.domain.replies import ItemsReply, Problem, Reply, StockPage, StockUpdate

STOCK_CORR = 2
PAGE_ROWS = 20_000
PAGE_RETRY_S = 0.2
PROBE_S = 0.1
IDLE_S = 60.0
IDLE_CHECK_S = 5.0
ITEMS_KEPT_MAX = 200_000
SETTLING_MAX = 256
log = structlog.get_logger(__name__)


class Settling:
    """How far the picture of another shard contains what orders at home at one did there (W5)."""

    __slots__ = ("_next", "upto")

    def __init__(self) -> None:
        self.upto = (0, 0)
        """(epoch, seq) of home up to which it does."""
        self._next: deque[tuple[tuple[int, int], tuple[int, int]]] = deque()
        """(a point of home, point of the other shard by which it is settled), both ascending."""

    def add(self, home: tuple[int, int], other: tuple[int, int]) -> None:
        if len(self._next) >= SETTLING_MAX:
            self._next.pop()  # the newer one says the same, somewhat later
        if home > (self._next[-1][0] if self._next else self.upto):
            self._next.append((home, other))

    def seen(self, point: tuple[int, int]) -> None:
        """The other shard's picture contains this point."""
        while self._next and self._next[0][1] <= point:
            self.upto = self._next.popleft()[0]


class ShardStock:
    """What is known of one shard's positions."""

    def __init__(self, shard: int, link: ShardLink, changed: Callable[[ShardStock], None]) -> None:
        self.shard = shard
        self.link = link
        self.columns: StockColumns | None = None
        """The picture in use; None = there is none yet."""
        self.point = (0, 0)
        """(epoch, seq) that `columns` contain at least."""
        self.heard_s = 0.0
        """Monotonic time (W3): `columns` contain all that the shard had acknowledged by then."""
        self.counts: dict[int, int] = {}
        """Instant (ms) of the newest count by node of the shard (domain/feed_age.py)."""
        self.pictures = 0
        self.settled: dict[int, Settling] = {}
        """How far the pictures of other shards contain what this one's orders did there (W5)."""
        self._building: StockColumns | None = None
        self._refused = False
        """The shard's newest word is a refusal: it is recovering, or cut off (W2)."""
        self._newest = (0, 0)
        self._changed = changed
        self._retry: asyncio.TimerHandle | None = None
        self._probing = False
        self._probe_timer = asyncio.get_running_loop().call_later(PROBE_S, self._probe_forever)
        link.subscribe(STOCK_CORR, FollowStock, self._came)

    def _came(self, reply: Reply) -> None:
        if type(reply) is not StockUpdate:  # the link asks again
            self._refused, self._building = True, None
            return
        if self._refused and not reply.begin:
            return
        self._refused = False
        self._newest = (reply.epoch, reply.seq)
        self._settling(reply)
        self.counts.update(reply.counts)
        if reply.begin:
            self.fetch()
            self._changed(self)
            return
        if self._building is not None:
            self._building.put(reply.rows)
        if self.columns is not None:
            self.columns.put(reply.rows)
            if self._building is None:
                self.point = self._newest
        self._changed(self)

    def _settling(self, update: StockUpdate) -> None:
        """W5. A shard that is not named has settled all."""
        named = {shard: (settled, (epoch, seq)) for shard, settled, epoch, seq in update.settled}
        for shard, settling in self.settled.items():
            settled, point = named.get(shard, (update.seq, (0, 0)))
            if settled:
                settling.add((update.epoch, settled), point)

    def probe(self) -> None:
        """Ask for what is due, and date what there is by it (W3)."""
        if not self._probing:
            self._probing = True
            asked_s = time.monotonic()
            self.link.tell(GetStockPage(0, 0), lambda reply: self._probed(asked_s, reply))

    def _probed(self, asked_s: float, reply: Reply) -> None:
        # What was due came before the reply, over the same connection. A new connection has begun a new picture first.
        self._probing = False
        if type(reply) is StockPage and not self._refused and self._building is None and self.columns is not None:
            self.heard_s = max(self.heard_s, asked_s)

    def _probe_forever(self) -> None:
        self.probe()
        self._probe_timer = asyncio.get_running_loop().call_later(PROBE_S, self._probe_forever)

    def fetch(self) -> None:
        """Ask for the whole picture, from the first page on (W2)."""
        if self._refused:
            return  # it begins with one
        self._building = StockColumns()
        self._ask(self._building, -1)

    def drop(self) -> None:
        """What there is, is void: nothing is answered from it any more."""
        self.columns = None

    def _ask(self, building: StockColumns, after: int) -> None:
        asked_s = time.monotonic()
        self.link.tell(GetStockPage(after, PAGE_ROWS), lambda reply: self._page(building, after, asked_s, reply))

    def _page(self, building: StockColumns, after: int, asked_s: float, reply: Reply) -> None:
        if building is not self._building:
            return  # a picture that was begun again
        if type(reply) is not StockPage:
            log.debug("no page of the stock feed", shard=self.shard, reply=repr(reply))
            self._retry = asyncio.get_running_loop().call_later(PAGE_RETRY_S, self._again, building, after)
            return
        building.put(reply.rows)
        if reply.next >= 0:
            self._ask(building, reply.next)
            return
        self.columns, self._building = building, None
        self.pictures += 1
        self.heard_s = asked_s
        self.point = max(self._newest, (reply.epoch, reply.seq))
        self._changed(self)

    def _again(self, building: StockColumns, after: int) -> None:
        if building is self._building:
            self._ask(building, after)

    async def close(self) -> None:
        self._building = None
        self._probe_timer.cancel()
        if self._retry is not None:
            self._retry.cancel()
        await self.link.close()


class StockView:
    """The feeds of all shards. `ready` begins to follow and says whether reads can be answered from here now."""

    def __init__(self, catalog: Callable[[], Catalog], new_link: Callable[[int], ShardLink]) -> None:
        self._catalog = catalog
        self._new_link = new_link
        self.shards: dict[int, ShardStock] = {}
        """By number, those that serve: more of them when one was added, fewer when one has ended."""
        self._placement: Placement | None = None
        self._used_s = 0.0
        self._owner: list[int] = []
        self._idle: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._waiters: dict[asyncio.Future[bool], tuple[Mapping[int, tuple[int, int]], int | None]] = {}
        self._item_of: dict[str, int] = {}
        self._version = 0
        self.changes = 0
        """Goes up with every update: what was made of the points is then stale."""

    # -- following ------------------------------------------------------------------------------------------------

    def ready(self, *, now_s: float, age_max_s: float) -> bool:
        """Whether every shard's picture is complete and at most so old. The first call begins to follow (W1)."""
        self._used_s = now_s
        catalog = self._catalog()
        if catalog.placement is not self._placement or not self.shards:
            self._placement = catalog.placement
            self._shards_changed(serving_shards(catalog.placement))
        if catalog.owner is not self._owner:
            self._owners_changed(catalog)
        oldest_s = now_s - age_max_s
        return all(shard.columns is not None and shard.heard_s >= oldest_s for shard in self.shards.values())

    def _shards_changed(self, serving: list[int]) -> None:
        """Begin to follow those that came, leave those that ended: the others' pictures stay."""
        if not self.shards:
            self._owner = self._catalog().owner
        for shard in [shard for shard in self.shards if shard not in serving]:
            self._leave(self.shards.pop(shard))
        for shard in serving:
            if shard not in self.shards:
                self.shards[shard] = ShardStock(shard, self._new_link(shard), self._changed)
        for home in self.shards.values():
            home.settled = {other: home.settled.get(other) or Settling() for other in serving if other != home.shard}
        self.changes += 1
        if self._idle is None:
            self._idle = asyncio.get_running_loop().call_later(IDLE_CHECK_S, self._look_idle)

    def _owners_changed(self, catalog: Catalog) -> None:
        """W4. Nodes that were added at the end change nothing."""
        if catalog.owner[: len(self._owner)] != self._owner:
            for shard in self.shards.values():
                shard.drop()
                shard.fetch()
        self._owner = catalog.owner

    def _look_idle(self) -> None:
        self._idle = None
        if time.monotonic() - self._used_s >= IDLE_S:
            log.info("nobody reads availability: the stock feeds are given up")
            self._drop_links()
            return
        self._idle = asyncio.get_running_loop().call_later(IDLE_CHECK_S, self._look_idle)

    def _drop_links(self) -> None:
        for shard in self.shards.values():
            self._leave(shard)
        self.shards = {}
        self.changes += 1

    def _leave(self, shard: ShardStock) -> None:
        task = asyncio.get_running_loop().create_task(shard.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _changed(self, changed: ShardStock) -> None:
        self.changes += 1
        shards = self.shards
        for home in shards.values():
            for other, settling in home.settled.items():
                settling.seen(shards[other].point)
        for waiter, (wanted, only) in list(self._waiters.items()):
            if not waiter.done() and self.contains(wanted, only):
                waiter.set_result(True)

    async def close(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._drop_links()
        if self._closing:
            await asyncio.gather(*self._closing)

    # -- tokens ---------------------------------------------------------------------------------------------------

    def contains(self, points: Mapping[int, tuple[int, int]], only: int | None = None) -> bool:
        """Whether the pictures contain these points, and what they did at other shards (W5), or at `only` one. A newer epoch
        contains every acknowledged entry of the ones before; what is no stock shard of this engine is nothing that positions
        could contain."""
        shards = self.shards
        for number, point in points.items():
            home = shards.get(number)
            if home is None:
                continue
            if home.columns is None or home.point < point:
                return False
            for other, settling in home.settled.items():
                if only in (None, other) and (settling.upto < point or shards[other].columns is None):
                    return False
        return True

    async def wait(self, points: Mapping[int, tuple[int, int]], *, only: int | None = None, timeout_s: float) -> bool:
        """Until the pictures contain these points, as `contains` says; False = not in time."""
        if self.contains(points, only):
            return True
        for shard, point in points.items():
            home = self.shards.get(shard)
            if home is not None and home.point < point:
                home.probe()
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = (points, only)
        try:
            return await asyncio.wait_for(waiter, timeout_s)
        except TimeoutError:
            return False
        finally:
            del self._waiters[waiter]

    # -- items ----------------------------------------------------------------------------------------------------

    def item(self, sku: str) -> int | None:
        """Index of a SKU that was looked up since the last change of the configuration; an item may become a kit."""
        version = self._catalog().version
        if version != self._version:
            self._version = version
            self._item_of.clear()
        return self._item_of.get(sku)

    async def find_items(self, skus: Iterable[str]) -> None:
        """Look up SKUs that are not known yet. Kits, and those that the engine does not know, stay unknown."""
        wanted = tuple([sku for sku in skus if self.item(sku) is None])
        if not wanted or not self.shards:
            return
        first = next(iter(self.shards.values()))
        reply = await first.link.submit(FindItems(wanted))
        if type(reply) is ItemsReply:
            found = {sku: index for sku, index in zip(wanted, reply.indexes, strict=True) if index >= 0}
            if len(self._item_of) + len(found) > ITEMS_KEPT_MAX:
                self._item_of.clear()
            self._item_of.update(found)
        else:
            assert isinstance(reply, Problem), reply

    # -- measurements ---------------------------------------------------------------------------------------------

    def ages_s(self, now_s: float) -> dict[int, float]:
        """Age of each shard's picture in use."""
        return {shard.shard: now_s - shard.heard_s for shard in self.shards.values() if shard.columns is not None}

    def size(self) -> tuple[int, int]:
        """(positions, bytes of their columns)"""
        kept: Sequence[StockColumns] = [shard.columns for shard in self.shards.values() if shard.columns is not None]
        return sum(len(columns) for columns in kept), sum(columns.nbytes for columns in kept)
