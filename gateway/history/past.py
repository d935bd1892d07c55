"""Orders that have left their shard: what the shard no longer knows is answered from the index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.domain.commands import Command, GetOrder
from engine.domain.replies import Problem, Reply
from gateway.errors import problem, refuse

if TYPE_CHECKING:
    from gateway.history.index import History

ELSEWHERE = frozenset(("moved", "not_found"))
"""Codes after which a command is asked again by the long way: another shard has the slot, or the order has left it."""


async def from_past(history: History, slot: str, command: Command, reply: Problem) -> Reply:
    """What `not_found` becomes where the index knows the order: the order for who reads it or repeats the key that made it, and
    `wrong_state` or `expired` for who wants to change it. Nothing of a closed order changes."""
    facts = reply.errors[0].facts if reply.errors else {}
    order_no = facts.get("order_no") or getattr(command, "order_no", None)
    if not isinstance(order_no, int):
        return reply
    is_of_key = "order_no" in facts
    found = await history.order(slot, order_no, has_left=is_of_key or isinstance(command, GetOrder))
    if isinstance(found, Problem):
        return found
    if found is None and is_of_key:  # never that there is none: who hears that may place the order again
        detail = "this key made an order that has left its shard, and the index does not have it"
        return problem("unavailable", detail, retry_after_ms=1_000)
    if found is None:
        return reply
    if is_of_key:
        return replace(found, replayed=True)
    if isinstance(command, GetOrder):
        return found
    code = "expired" if found.state == "expired" else "wrong_state"  # as before it was closed
    return refuse(code, "", f"the order is {found.state}, and closed", state=found.state)
