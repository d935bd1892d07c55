"""Split orders are planned again before the wave that would release them: what has come in since may serve them for less.

B1  Only orders of which nothing is released, driven or waiting, and only for a plan that costs less cash and is promised no later.
    It is taken with one entry (exchange.py), or not at all: nothing is retried, and the wave does not wait for it.
B2  LEAD_MS before a wave, the newest LOOKS_MAX legs of the node are looked at (older ones are the likeliest to have left), and
    ORDERS_MAX orders planned, the oldest of them first. One node a turn: many have a wave at the same minute.
"""

from __future__ import annotations

from heapq import nlargest
from typing import TYPE_CHECKING

from engine.domain.decide_edit import MOVABLE
from engine.domain.decide_legs import units_in_legs
from engine.domain.events import Cause
from engine.domain.orders import LegState, OrderRecord, OrderState
from engine.domain.plan import Plan
from engine.protocol.exchange import Exchange, plan_with_own
from engine.protocol.recommit import prepare_again

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

LEAD_MS = 60_000
LOOKS_MAX = 512
ORDERS_MAX = 32
_ENDED = (int(LegState.CANCELLED), int(LegState.REJECTED))


class _Better(Exchange):
    """One attempt to serve an order for less."""

    cause = int(Cause.REPLANNED)
    reason = "improved"

    def done(self, core: ShardCore, record: OrderRecord, *, now_ms: int) -> None:
        core.count("orders_improved")

    def overtaken(self, core: ShardCore, *, now_ms: int) -> None:
        """The order stays as it has become."""

    def planned_again(self, core: ShardCore, plan: Plan, *, now_ms: int) -> None:
        """The order stays as it is."""


def improve(core: ShardCore, node: int, *, now_ms: int) -> None:
    """Plan the split orders with legs at a node again (B2)."""
    work = core.state.work.get(node, {})
    tried: dict[int, None] = {}
    for key in reversed(nlargest(LOOKS_MAX, work)):
        slot = work.get(key)
        if slot is None:
            continue  # of an order that has just been planned again
        if len(tried) == ORDERS_MAX or not core.has_room():
            return
        order_no = key >> 12
        record = core.state.order(slot, order_no) if order_no not in tried else None
        if record is not None and _is_open(core, slot, order_no, record):
            tried[order_no] = None
            _try(core, slot, order_no, record, now_ms)


def _is_open(core: ShardCore, slot: str, order_no: int, record: OrderRecord) -> bool:
    """B1."""
    legs = [leg for leg in record.legs if leg.state not in _ENDED]
    return (
        record.state == OrderState.COMMITTED
        and len(legs) > 1
        and not record.demand
        and all(leg.state == LegState.ALLOCATED and not leg.driving for leg in legs)
        and core.two_phase.pending_of(order_no) is None
        and not core.replans.is_busy(order_no)
        and not (core.moves.watching and core.moves.is_closing(slot))
    )


def _try(core: ShardCore, slot: str, order_no: int, record: OrderRecord, now_ms: int) -> None:
    gone = tuple([leg.leg_no for leg in record.legs if leg.state in MOVABLE])
    prepared = prepare_again(core, slot, record, record.ship_to, units_in_legs(record, MOVABLE))
    plan = plan_with_own(core, record, gone, prepared.request, now_ms=now_ms)
    is_cheaper = plan.money_minor[0] < record.money_minor[0]
    if plan.unfilled or not is_cheaper or plan.promise_ms[1] > record.promise[1]:
        return
    _Better(slot, order_no, record.version, prepared, gone).use(core, record, plan, now_ms=now_ms)
