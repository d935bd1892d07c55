"""What a node has still to do, put together from all shards' answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine.domain.replies import NodeWork

_LEFT = ("shipped", "delivered")


def summed(node_id: str, node_state: str, parts: Iterable[NodeWork]) -> dict[str, Any]:
    """Units as the node's owner says, legs of all homes. `finished` = nothing is held or allocated, and no leg waits to be shipped.

    Legs that were not counted hold nothing up: while one of them is to be shipped, its units are allocated at the owner.
    """
    legs: dict[str, int] = {}
    held = allocated = overdue = 0
    more = is_owned = False
    for part in parts:
        held += part.held
        allocated += part.allocated
        overdue += part.overdue
        more = more or part.more
        is_owned = is_owned or part.is_owner
        for state, count in part.legs.items():
            legs[state] = legs.get(state, 0) + count
    to_ship = sum(count for state, count in legs.items() if state not in _LEFT)
    return {
        "node_id": node_id,
        "node_state": node_state,
        "units_held": held,
        "units_allocated": allocated,
        "legs": legs,
        "legs_to_ship": to_ship,
        "legs_overdue": overdue,
        "legs_more": more,
        "finished": is_owned and not (held or allocated or to_ship),
    }
