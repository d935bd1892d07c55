"""Counts that come too late: how old a node's newest count may be, and what follows when it is older.

A1  The newest count of a node is the youngest instant ("as of") that any of its feeds counted at; the daily renewal of a supplier's
    cap is none. A node that was never counted has no feed that could be late.
A2  Only the owner of a node has its feeds. It tells the other shards and the gateways of each newest count, and everybody finds its
    age by their own clock: what others have heard last is never younger than what is true.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING

from engine.domain.config import Node
from engine.domain.supply import RENEWAL

if TYPE_CHECKING:
    from engine.domain.state import ShardState

Counts = tuple[tuple[int, int], ...]
"""(node, instant of its newest count in ms) of some nodes."""


class Lateness(IntEnum):
    """What follows from the age of a node's newest count."""

    FRESH = 0
    EXCLUDED = 1
    KEEPS_MORE = 2


def is_watched(node: Node) -> bool:
    """Whether anything follows from the age of a node's newest count."""
    return bool(node.max_feed_age_s) and node.on_stale != "serve"


def lateness(node: Node, newest_ms: int, now_ms: int) -> Lateness:
    """`newest_ms` = 0: never counted."""
    if not newest_ms or not is_watched(node) or now_ms - newest_ms <= (node.max_feed_age_s or 0) * 1_000:
        return Lateness.FRESH
    return Lateness.EXCLUDED if node.on_stale == "exclude" else Lateness.KEEPS_MORE


def lateness_at(state: ShardState, node: int, now_ms: int) -> Lateness:
    """By a node's index, of whatever owner."""
    document = state.catalog.nodes[node]
    if document is None or not is_watched(document):
        return Lateness.FRESH
    return lateness(document, newest_count_ms(state, node), now_ms)


def newest_count_ms(state: ShardState, node: int) -> int:
    """A1, 0 = never: of an own node by its feeds, of another's as its owner said last."""
    part = state.nodes.get(node)
    feeds = part.feeds if part is not None else {}
    own = max([as_of_ms for source, (_, as_of_ms) in feeds.items() if source != RENEWAL], default=0)
    return max(own, state.heard_counts.get(node, 0))


def kept_units(late: Lateness, units: int) -> int:
    """Units of a position that stay on the shelf, of what stays there while counts are fresh: twice as many, and one at the least."""
    return max(1, 2 * units) if late is Lateness.KEEPS_MORE else units


def counts_of(state: ShardState, nodes: Iterable[int]) -> Counts:
    """What others are told of these nodes: of own ones that were ever counted."""
    owns_node = state.catalog.owns_node
    found = [(node, newest_count_ms(state, node)) for node in nodes if owns_node(node)]
    return tuple([(node, at_ms) for node, at_ms in found if at_ms])
