"""Orders that have left their shard: what the shard no longer knows is answered from the index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.domain.commands import Command, GetOrder
from engine.domain.replies import Problem, Reply
from gateway.errors import refuse

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
    found = await history.order(order_no)
    if isinstance(found, Problem):
        return found
    if found is None or found.slot != slot:
        return reply
    if "order_no" in facts:
        return replace(found, replayed=True)
    if isinstance(command, GetOrder):
        return found
    code = "expired" if found.state == "expired" else "wrong_state"  # as before it was closed
    return refuse(code, "", f"the order is {found.state}, and closed", state=found.state)
