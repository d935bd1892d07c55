"""Uncounted supply: a supplier that nobody counts promises at most `daily_cap` units of an item a day (drop-ship).

U1  Such a position's on hand is a number of ours: what is promised and not shipped, and what may still be promised today. Each local
    day it is set anew to promised + cap; promises, cancellations and shipments of the day then change it like any other stock. So no
    more than the cap is promised in a day beyond what was open when it began, and units cancelled before its end are free again.
U2  The renewal is a count of the source RENEWAL that is numbered by local day: journaled once a day and node, known to every reader
    of counts. Replay reads no clock.
U3  A change of the cap or of safety moves what is left of today with it, never below what is promised already: nothing becomes short.
    Supply that becomes counted sells nothing until it is counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from engine.domain.events import StockCounted
from engine.domain.local_time import EPOCH_ORDINAL, zone_of
from engine.domain.state import NodePart, ShardState

UNCOUNTED = "uncounted"
RENEWAL = " daily cap"
"""No id begins with a space: no feed can name itself so."""
UNITS_MAX = 1_000_000_000
ROWS_MAX = 50_000
Row = tuple[int, int, str, int, int]
"""Item, safety, supply mode, trust in basis points, daily cap: as in events.PositionSet."""


def is_uncounted(part: NodePart | None, item: int) -> bool:
    setting = part.settings.get(item) if part is not None and part.settings else None
    return setting is not None and setting[0] == UNCOUNTED


def day_of(state: ShardState, node: int, now_ms: int) -> int:
    """Local day at a node, days since 1970."""
    document = state.catalog.nodes[node] if node < len(state.catalog.nodes) else None
    zone = zone_of(document.time_zone if document is not None else "UTC")
    return datetime.fromtimestamp(now_ms / 1_000, zone).toordinal() - EPOCH_ORDINAL


def _numbers(state: ShardState, node: int, item: int) -> tuple[int, int, int]:
    """(on hand, units held or allocated, safety) of a position."""
    positions = state.positions
    row = positions.find(item, node)
    if row < 0:
        return 0, 0, 0
    return positions.v_on_hand[row], positions.v_held[row] + positions.v_allocated[row], positions.v_safety[row]


def renewals(state: ShardState, node: int, now_ms: int) -> list[StockCounted]:
    """What begins a new day at a node; nothing where it began already, or where every position is counted."""
    part = state.nodes.get(node)
    if part is None or not part.settings:
        return []
    day = day_of(state, node, now_ms)
    if (
        day <= part.feeds.get(RENEWAL, (-1, 0))[0]
    ):  # asked each second: a supplier may have a hundred thousand positions
        return []
    rows: list[tuple[int, int]] = []
    uncounted = False
    for item, (mode, _, cap) in sorted(part.settings.items()):
        if mode != UNCOUNTED:
            continue
        uncounted = True
        on_hand, promised, safety = _numbers(state, node, item)
        target = min(UNITS_MAX, promised + safety + cap)
        if target != on_hand:
            rows.append((item, target - on_hand))
    if not uncounted:
        return []
    return [_count(node, day, now_ms, rows[n : n + ROWS_MAX]) for n in range(0, max(1, len(rows)), ROWS_MAX)]


def resettled(state: ShardState, node: int, settings: Iterable[Row], now_ms: int) -> StockCounted | None:
    """What new settings of positions do to today's supply (U3), to be applied after them; None = nothing. The node's day has begun
    (`renewals`), or it has no uncounted position yet."""
    part = state.nodes.get(node)
    rows: list[tuple[int, int]] = []
    uncounted = False
    for item, safety, mode, _, cap in {row[0]: row for row in settings}.values():
        was = part.settings.get(item) if part is not None else None
        was_uncounted = was is not None and was[0] == UNCOUNTED
        uncounted = uncounted or mode == UNCOUNTED
        if mode != UNCOUNTED and not was_uncounted:
            continue
        on_hand, promised, safety_was = _numbers(state, node, item)
        target = promised + safety
        if mode == UNCOUNTED and was is not None and was_uncounted:
            target = max(target, on_hand + cap - was[2] + safety - safety_was)
        elif mode == UNCOUNTED:
            target += cap
        rows.append((item, min(UNITS_MAX, target) - on_hand))
    if not rows:
        return None
    began = part.feeds.get(RENEWAL, (-1, 0))[0] if part is not None else -1
    day = max(began, day_of(state, node, now_ms)) if uncounted else began
    return _count(node, day, now_ms, rows)


def _count(node: int, day: int, now_ms: int, rows: list[tuple[int, int]]) -> StockCounted:
    return StockCounted(node, RENEWAL, day, now_ms, "delta", tuple(rows))
