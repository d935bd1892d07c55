"""All shards as one asker sees them: links by shard, the configuration kept up to date, routing by slot and node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import structlog
from msgspec.structs import replace

from engine.client.link import Finder, ShardLink, unavailable
from engine.domain.catalog import Catalog
from engine.domain.commands import Command, FollowConfig, GetDecision
from engine.domain.placement import CONTROL_SHARD, serving_shards
from engine.domain.problems import CODES
from engine.domain.replies import ConfigDoc, ConfigReply, DecisionAt, Problem, Reply

CONFIG_CORR = 1
MOVED_RETRIES = 5
MOVED_WAIT_S = 0.1
LEAVE_CHECK_S = 0.05
log = structlog.get_logger(__name__)


class Cluster:
    """Start it, then ask. `catalog` follows the control shard; `kinds` limits it (a gateway needs no items)."""

    def __init__(
        self,
        find: Finder,
        *,
        kinds: tuple[str, ...] | None = None,
        token: str = "",
        peer: int = -1,
        timeout_s: float = 10.0,
        catalog: Catalog | None = None,
    ) -> None:
        self.catalog = catalog if catalog is not None else Catalog(peer)
        self.on_config: Callable[[Iterable[ConfigDoc], int], None] = self.catalog.apply
        """What is done with each change; a shard puts its core's method here."""
        self._find = find
        self._kinds = kinds
        self._token = token
        self._peer = peer
        self._timeout_s = timeout_s
        self._links: dict[int, ShardLink] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._configured = asyncio.Event()
        self.refusal: Problem | None = None
        """Why the control shard cannot be followed, as it says itself."""

    async def start(self) -> None:
        """Begin to connect; returns at once. `wait_configured` tells when the configuration is complete."""
        control = self.link(CONTROL_SHARD)
        control.subscribe(CONFIG_CORR, lambda: FollowConfig(self.catalog.version, self._kinds), self._config_came)

    async def close(self) -> None:
        leaving = list(self._leaving)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*(link.close() for link in self._links.values()), *leaving, return_exceptions=True)

    async def wait_configured(self, timeout_s: float) -> bool:
        """Whether the whole configuration arrived in time."""
        try:
            await asyncio.wait_for(self._configured.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def _config_came(self, reply: Reply) -> None:
        if isinstance(reply, ConfigReply):
            self.refusal = None
            self.on_config(reply.documents, reply.version)
            self._leave_ended()
            if not reply.more:
                self.catalog.point = reply.point
                self._configured.set()
        elif isinstance(reply, Problem):
            self.refusal = reply
            log.info("the control shard cannot be followed yet", code=reply.code, detail=reply.detail)

    def _leave_ended(self) -> None:
        """A shard that has ended is asked nothing more; what was asked before is still answered."""
        for shard in self.catalog.placement.ended:
            link = self._links.pop(shard, None)
            if link is not None:
                task = asyncio.get_running_loop().create_task(self._leave(link))
                self._leaving.add(task)
                task.add_done_callback(self._leaving.discard)

    async def _leave(self, link: ShardLink) -> None:
        until_s = time.monotonic() + self._timeout_s
        try:
            while True:
                if not link.pending or time.monotonic() > until_s:
                    return
                await asyncio.sleep(LEAVE_CHECK_S)
        finally:
            await link.close()

    # -- routing --------------------------------------------------------------------------------------------------

    @property
    def shards(self) -> list[int]:
        """Stock shards that serve."""
        return serving_shards(self.catalog.placement)

    def shard_of_slot(self, slot: str) -> int:
        return self.catalog.owner_of_slot(slot)

    def shard_of_node(self, node_id: str) -> int | None:
        node = self.catalog.node_of.get(node_id)
        return None if node is None else self.catalog.owner[node]

    def link(self, shard: int) -> ShardLink:
        link = self._links.get(shard)
        if link is None:
            link = self._links[shard] = self.new_link(shard)
        return link

    def new_link(self, shard: int) -> ShardLink:
        """Another connection to a shard, the caller's to close: for what must not stand before commands."""
        return ShardLink(shard, self._find, token=self._token, peer=self._peer, timeout_s=self._timeout_s)

    def links(self) -> dict[int, ShardLink]:
        return self._links

    # -- asking ---------------------------------------------------------------------------------------------------

    def submit(self, shard: int, command: Command) -> asyncio.Future[Reply]:
        """The hot path: no await, no retry over `moved`. The future ends at the latest at the cluster's time-out."""
        return self.link(shard).submit(command)

    def tell(self, shard: int, command: Command, on_reply: Callable[[Reply], None]) -> None:
        """The same without a future: `on_reply` is called once, in the turn in which the reply comes."""
        self.link(shard).tell(command, on_reply)

    async def ask(self, shard: int, command: Command, *, timeout_s: float | None = None) -> Reply:
        """One answer; Problem("unavailable") where none came in time (the outcome is unknown)."""
        future = self.link(shard).submit(command)
        if timeout_s is None:
            return await future
        try:
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            return unavailable()

    async def ask_owner(self, owner: Callable[[], int], command: Command, *, timeout_s: float | None = None) -> Reply:
        """Ask whoever owns it; a shard that answers `moved` did nothing, so the newer map is awaited and asked again."""
        reply = await self.ask(owner(), command, timeout_s=timeout_s)
        for _ in range(MOVED_RETRIES):
            if not isinstance(reply, Problem) or reply.code != "moved":
                break
            await asyncio.sleep(MOVED_WAIT_S)
            reply = await self.ask(owner(), command, timeout_s=timeout_s)
        return reply

    async def ask_decision(self, command: GetDecision, *, timeout_s: float | None = None) -> Reply:
        """A decision record, from the journal that has it: the home names the shard where the order's slot has moved since."""
        reply = await self.ask_owner(lambda: self.shard_of_slot(command.slot), command, timeout_s=timeout_s)
        if not isinstance(reply, DecisionAt):
            return reply
        if reply.shard not in self.shards:  # it has ended, so all of its journal is archived
            return Problem("not_found", CODES["not_found"].title)
        return await self.ask(
            reply.shard, replace(command, at=(reply.epoch, reply.seq, reply.place)), timeout_s=timeout_s
        )

    async def ask_all(self, command: Command, *, timeout_s: float | None = None) -> dict[int, Reply]:
        """The answer of every stock shard."""
        shards = list(self.shards)
        replies = await asyncio.gather(*(self.ask(shard, command, timeout_s=timeout_s) for shard in shards))
        return dict(zip(shards, replies, strict=True))
