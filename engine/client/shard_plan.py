"""Which parts should move where: plans for draining a shard and for evening out the load. Pure.

Load is counted twice, because a part of one kind cannot make up for one of the other: slots by the orders they hold, nodes by the
bytes of their stock and the legs on their lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

LEG_BYTES = 200
SLACK = 0.1
"""A shard within a tenth of the mean is as it should be: moves cost more than they bring."""


class Part(NamedTuple):
    """One part as operators call it ("slot:US100", "node:N-1", "band:0")."""

    name: str
    size_bytes: int
    load: int
    """Orders of a slot, legs of a node, slots with orders of a band."""

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]

    @property
    def weight(self) -> int:
        return self.size_bytes + LEG_BYTES * self.load + 1


class PlannedMove(NamedTuple):
    part: str
    source: int
    target: int


Owned = Mapping[int, Sequence[Part]]
"""Parts by the shard that owns them."""


def _loads(owned: Owned) -> dict[str, dict[int, int]]:
    return {
        kind: {shard: sum(part.weight for part in parts if part.kind == kind) for shard, parts in sorted(owned.items())}
        for kind in ("band", "slot", "node")
    }


def plan_drain(owned: Owned, shard: int) -> list[PlannedMove]:
    """Everything of a shard, to whichever other shard has least of its kind; bands first, so that nothing new comes meanwhile."""
    loads = _loads(owned)
    moves = []
    for kind in ("band", "slot", "node"):
        load = {other: weight for other, weight in loads[kind].items() if other != shard}
        for part in sorted(
            (part for part in owned[shard] if part.kind == kind), key=lambda part: (-part.weight, part.name)
        ):
            target = min(load, key=lambda other: (load[other], other))
            load[target] += part.weight
            moves.append(PlannedMove(part.name, shard, target))
    return moves


def plan_rebalance(owned: Owned) -> list[PlannedMove]:
    """Moves of slots and nodes from the fullest to the emptiest shard, as long as one of them brings the two closer together."""
    moves = []
    loads = _loads(owned)
    for kind in ("slot", "node"):
        load = loads[kind]
        parts = {
            shard: sorted((p for p in owned[shard] if p.kind == kind), key=lambda p: (-p.weight, p.name))
            for shard in load
        }
        mean = sum(load.values()) / max(1, len(load))
        moved: dict[str, int] = {}
        while True:
            full, empty = max(load, key=lambda s: (load[s], -s)), min(load, key=lambda s: (load[s], s))
            gap = load[full] - load[empty]
            fits = [part for part in parts[full] if part.weight < gap and part.name not in moved]
            if load[full] <= mean * (1 + SLACK) or not fits:
                break
            part = min(fits, key=lambda p: (abs(gap - 2 * p.weight), p.name))
            parts[full].remove(part)
            moved[part.name] = empty
            load[full] -= part.weight
            load[empty] += part.weight
            moves.append(PlannedMove(part.name, full, empty))
    return moves
