"""Journaling what a decision changed of an open order, under the key of the command that asked for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.domain.decide_legs import Change
    from engine.domain.orders import OrderRecord
    from engine.protocol.shard_core import ShardCore


def put_change(
    core: ShardCore,
    command: Any,
    record: OrderRecord,
    change: Change,
    now_ms: int,
    reason: str = "",
    leg_no: int = 0,
) -> None:
    """Into the entry being built. `command` names the order and the key."""
    core.put_order(
        core.batch(now_ms),
        change.cause,
        command.slot,
        command.order_no,
        record,
        change.stock,
        change.capacity,
        command.key_hash,
        command.fingerprint,
        reason,
        leg_no,
    )
