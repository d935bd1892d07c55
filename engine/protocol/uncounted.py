"""Begins the day of uncounted supply (engine.domain.supply): looks at the own nodes now and then, and journals what is due."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.domain.supply import UNCOUNTED, renewals

if TYPE_CHECKING:
    from engine.domain.state import NodePart
    from engine.protocol.shard_core import ShardCore

LOOK_MS = 1_000


class Supply:
    """The suppliers of one shard that promise so much a day."""

    def __init__(self, core: ShardCore) -> None:
        self._core = core
        self._look_ms = 0
        self._any = False
        """Whether any own position is uncounted."""
        self._counted: dict[int, NodePart] = {}
        """Nodes of whose settings none is uncounted: not looked through again before they change."""

    def look_again(self) -> None:
        """Settings of positions changed, or a node came: look at the next poll, and wake for it."""
        self._look_ms = 0
        self._any = True
        self._counted.clear()

    def tick(self, now_ms: int) -> None:
        """Once a second: begin the day of nodes where a new one has come, as far as the entry has room."""
        if now_ms < self._look_ms:
            return
        self._look_ms = now_ms + LOOK_MS
        core = self._core
        self._any = False
        for node, part in core.state.nodes.items():
            if not part.settings or self._counted.get(node) is part or not core.catalog.owns_node(node):
                continue
            if not any(setting[0] == UNCOUNTED for setting in part.settings.values()):
                self._counted[node] = part
                continue
            self._any = True
            if not core.has_room():
                self._look_ms = now_ms + 1  # the rest when the entry has gone
                return
            self.begin_day(node, now_ms)

    def begin_day(self, node: int, now_ms: int) -> None:
        """Journal a node's renewal where it is due."""
        core = self._core
        for event in renewals(core.state, node, core.time_ms(now_ms)):
            batch = core.batch(now_ms)
            core.put(batch, event)
            batch.size += 16 * len(event.rows)
            core.count("supply_renewed")

    def wake_at_ms(self) -> int | None:
        return self._look_ms if self._any else None
