"""States of orders and legs as answers name them."""

from __future__ import annotations

from engine.domain.orders import LegState, OrderRecord, OrderState, nothing_left

STATE_LABELS = tuple(state.name.lower() for state in OrderState)
LEG_LABELS = tuple(state.name.lower() for state in LegState)
_GONE = (int(LegState.CANCELLED), int(LegState.REJECTED))
_SHIPPED = int(LegState.SHIPPED)
_COMMITTED = int(OrderState.COMMITTED)


def order_label(record: OrderRecord) -> str:
    """held, released, expired, cancelled; a committed order by its legs and demand."""
    if record.state != _COMMITTED:
        return STATE_LABELS[record.state]
    live = [leg.state for leg in record.legs if leg.state not in _GONE]
    if record.demand:
        return "partially_allocated" if live else "parked"
    if not live:
        return "cancelled" if nothing_left(record) else "allocated"
    lowest = min(live)
    return LEG_LABELS[lowest] if lowest >= _SHIPPED else "allocated"
