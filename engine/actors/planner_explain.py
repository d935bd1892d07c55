"""Why not that node? Asked of the planner on a state (live, or rebuilt from the journal), for one order and one node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec.structs import replace

from engine.domain.decisions import NodeVerdict
from engine.domain.orders import LineRecord, Method, OnShort
from engine.domain.plan import Plan, PlanRequest
from engine.domain.state import ShardState

_METHOD_TAGS = {Method.SHIP: "ship", Method.PICKUP: "pickup", Method.SHIP_TO_STORE: "ship"}
Plans = Callable[[Sequence[PlanRequest]], list[Plan]]
"""Plans requests, each on the state as it is."""


class Distances(Protocol):
    def __call__(self, request: PlanRequest, node: int) -> int:
        """Kilometres between the order's destination and a node, -1 = unknown."""


def explain_node(
    state: ShardState, plans: Plans, distance: Distances, stale: bool, request: PlanRequest, node: int, *, reach_km: int
) -> NodeVerdict:
    """What becomes of one node. stale = its feed is too old to serve."""
    document = state.catalog.nodes[node] if node < len(state.catalog.nodes) else None
    if document is None:
        return NodeVerdict(node, -1, "excluded", (), "there is no such node")
    km = distance(request, node)
    (chosen,) = plans([request])
    for n, leg in enumerate(chosen.legs):
        if leg.node == node:
            return NodeVerdict(node, km, "chosen", (n,), f"chosen: ships leg {n + 1}")
    why = _exclusion(state, request, node, km, stale, reach_km)
    if why:
        return NodeVerdict(node, km, "excluded", (), why)
    held = [_held(state, line.item, node) for line in request.lines]
    if not any(held):
        return NodeVerdict(node, km, "holds_none", (), "holds none of the goods that could be promised")
    others = tuple(n for n in range(len(state.catalog.nodes)) if n != node)
    partly = replace(request.order, on_short=OnShort.PARTIAL)
    (alone,) = plans([replace(request, order=partly, excluded=others)])
    return _compare(chosen, alone, request, held, node, km)


def _exclusion(state: ShardState, request: PlanRequest, node: int, km: int, stale: bool, reach_km: int) -> str:
    """Why a node may not serve an order at all; empty = it may."""
    document = state.catalog.nodes[node]
    channel = state.catalog.channels[request.channel]
    assert document is not None and channel is not None
    methods = {_METHOD_TAGS[Method(line.method)] for line in request.lines}
    if document.state != "on":
        return f"is switched to {document.state}"
    if document.channels is not None and channel.channel_id not in document.channels:
        return f"does not serve channel {channel.channel_id}"
    if not methods & set(document.offers):
        return f"does not offer {' or '.join(sorted(methods))}"
    if node in request.excluded:
        return "is excluded for this order: it rejected it, or its shard does not answer"
    if stale:
        return "its stock feed is older than it allows"
    if km < 0:
        return "is not on the map, or the destination is not"
    if reach_km and km > reach_km:
        return f"is {km} km away, beyond the reach of {reach_km} km"
    needs = [_tags(state, line) for line in request.lines]
    needed = dict.fromkeys(tag for tags in needs for tag in tags if tag not in document.offers)
    if needed and all(any(tag in needed for tag in tags) for tags in needs):
        return f"cannot handle the goods: {', '.join(needed)}"
    return ""


def _tags(state: ShardState, line: LineRecord) -> tuple[str, ...]:
    """Handling tags of a line: those of its item and its own."""
    item = state.catalog.items[line.item]
    return (*item.tags, *line.tags) if item is not None else line.tags


def _held(state: ShardState, item: int, node: int) -> int:
    row = state.positions.find(item, node)
    return max(0, state.positions.free(row)) if row >= 0 else 0


def _compare(chosen: Plan, alone: Plan, request: PlanRequest, held: list[int], node: int, km: int) -> NodeVerdict:
    """The chosen plan against what the node could do by itself."""
    if alone.legs and not alone.unfilled:
        more = tuple(a - b for a, b in zip(alone.money_minor, chosen.money_minor, strict=True))
        if not chosen.legs or chosen.unfilled:
            return NodeVerdict(node, km, "dearer", more, "could serve it all alone")
        cash, service, policy, opportunity = more
        text = f"alone it would cost {cash:+} in cash, {service:+} in service"
        if policy or opportunity:
            text += f", {policy:+} by rules, {opportunity:+} in scarce stock"
        if sum(more) < 0:
            text += "; it was not among the nearest nodes that are looked at"
        return NodeVerdict(node, km, "dearer", more, text)
    for line, units, reason in alone.unfilled:
        there = min(held[line], request.lines[line].quantity - units) if units < request.lines[line].quantity else 0
        if reason == "capacity":
            return NodeVerdict(node, km, "no_capacity", (), "has no capacity left on the ship days ahead")
        if held[line] >= request.lines[line].quantity and reason == "no_node":
            return NodeVerdict(node, km, "no_service", (), "no carrier service takes these goods from there")
        has = max(there, held[line])
        if has < request.lines[line].quantity:
            wanted = request.lines[line].quantity
            text = f"has {has} of line {request.lines[line].line_id}, which asks {wanted}"
            return NodeVerdict(node, km, "short", (line, has), text)
    return NodeVerdict(node, km, "max_legs", (), "would be one leg too many")
