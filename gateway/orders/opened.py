"""New plain orders as the API shows them: from what was asked for and what its shard adds, without the whole view in between.

Holds are rarer and take the longer way, by `whole_view`.
"""

from __future__ import annotations

from engine.domain.labels import LEG_LABELS
from engine.domain.orders import LegState, OrderRequest
from engine.domain.replies import Opened
from engine.domain.views import RUNG_LABELS, promise_opened
from gateway.orders.schemas import (
    Allocation,
    CostParts,
    Leg,
    LegLine,
    OrderedLine,
    Promise,
    id_tail,
    opened_at,
    ship_to_shown,
)
from gateway.times import iso

_ALLOCATED = LEG_LABELS[LegState.ALLOCATED]


def opened_allocation(order: OrderRequest, opened: Opened) -> Allocation:
    """The same as `allocation_shown` of the whole view (domain.views.whole_view); the order is committed, not held."""
    tail = id_tail(opened.slot, opened.order_no)
    lines = order.lines
    legs = []
    for leg_no, leg in enumerate(opened.legs, 1):
        taken = []
        for i, units in leg.lines:
            line = lines[i]
            taken.append(LegLine(line.line_id, line.sku, units))
        parts = leg.cost_parts
        legs.append(
            Leg(
                f"leg_{tail}_{leg_no}",
                leg.node_id,
                _ALLOCATED,
                taken,
                leg.carrier or None,
                leg.service or None,
                leg.parcels,
                iso(leg.ship_by_ms),
                iso(leg.deliver_by_ms),
                sum(parts),
                CostParts(*parts),
            )
        )
    cash, service, policy, opportunity = opened.money_minor
    ship_by_ms, deliver_by_ms = promise_opened(opened)
    return Allocation(
        f"alc_{tail}",
        order.order_id,
        _ALLOCATED,
        order.channel,
        order.customer_id,
        legs,
        [],
        cash,
        service,
        policy,
        opportunity,
        cash + service + policy + opportunity,
        order.currency,
        Promise(iso(ship_by_ms), iso(deliver_by_ms)),
        f"dec_{tail}_0",
        RUNG_LABELS[opened.rung],
        1,
        opened.token,
        opened_at(opened.order_no),
        ship_to_shown(order.ship_to) if order.ship_to is not None else None,
        [OrderedLine(line.line_id, line.sku, line.quantity) for line in lines],
    )
