"""Decision records as the API shows them."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.domain.catalog import Catalog
from engine.domain.ids import OrderRef, public_id
from engine.domain.replies import OrderView
from gateway.schemas import Shown


class Decision(Shown):
    """One decision of an order. `record` is everything that was noted when it was made."""

    decision_id: str
    number: int
    order_id: str
    allocation_id: str
    channel: str
    record: Any


def decision_shown(decision_id: str, order: OrderView, number: int, record: bytes, catalog: Catalog) -> Decision:
    """Named and unpacked. Raises msgspec.MsgspecError where the record is not one."""
    ref = OrderRef(order.slot, order.order_no)
    shown = msgspec.msgpack.decode(record)
    return Decision(decision_id, number, order.order_id, public_id("alc", ref), order.channel, shown)
