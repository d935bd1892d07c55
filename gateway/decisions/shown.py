"""Decision records as the API shows them: what `quartermaster explain` prints, as data."""

from __future__ import annotations

import msgspec

from engine.domain import explanation
from engine.domain.catalog import Catalog
from engine.domain.decisions import UnknownSchema, candidates_of, decode, legs_of
from engine.domain.ids import OrderRef, public_id
from engine.domain.replies import DecisionReply, OrderView, Problem, Reply
from gateway.errors import problem, refuse
from gateway.orders.schemas import CostParts
from gateway.schemas import Body, Id, Shown
from gateway.times import iso


class DecisionQuery(Body, kw_only=True):
    """`node_id`: also say why this node was chosen or not."""

    node_id: Id | None = None


class MoneyShown(Shown):
    """The four kinds of money that a plan is weighed by; `score_minor` is their sum."""

    cash_minor: int
    service_minor: int
    policy_minor: int
    opportunity_minor: int
    score_minor: int


class DecidedLeg(Shown):
    """A leg of the chosen plan, as it was planned."""

    node_id: str
    carrier: str | None
    service: str | None
    ships_on: str
    days_to_door: int
    parcels: int
    cost_parts: CostParts
    service_minor: int
    policy_minor: int
    opportunity_minor: int


class RunnerUp(Shown):
    """The best plan with another set of nodes; its money against the chosen one's (positive = dearer)."""

    nodes: str
    difference: MoneyShown


class CandidateShown(Shown):
    """A node that was looked at, and what became of it, with its numbers."""

    node_id: str
    distance_km: int
    verdict: str
    reason: str


class Looked(Shown):
    what: str
    count: int


class Fact(Shown):
    name: str
    value: str


class Decision(Shown):
    """Why an order went where it went. `rung`: separable, exact, time_boxed or greedy, claimed within `scope`; `solver` says
    what the solver found where orders collided; `why` answers `node_id`."""

    decision_id: str
    order_id: str
    allocation_id: str
    channel: str
    sentence: str
    decided_at: str
    rung: str
    scope: str
    currency: str
    money: MoneyShown
    legs: list[DecidedLeg]
    runner_up: RunnerUp | None
    candidates: list[CandidateShown]
    looked_at: list[Looked]
    solver: list[Fact]
    versions: list[Fact]
    why: str | None


def decision_shown(
    decision_id: str,
    order: OrderView,
    found: DecisionReply,
    catalog: Catalog,
    node_id: str | None,
    now: Reply | None = None,
) -> Decision | Problem:
    """The record with names for its indexes; a problem where this version cannot read it or there is no such node.

    now: what the shard says of the node as things are, for where the record says nothing.
    """
    try:
        record = decode(found.record)
    except (UnknownSchema, msgspec.DecodeError) as error:
        return problem("not_found", f"the record was written by another version: {error}")
    why = None
    if node_id is not None:
        node = catalog.node_of.get(node_id)
        if node is None:
            return refuse("unknown_node", "/node_id", f"no node {node_id!r}", parameter="node_id")
        why = explanation.why_not(record, catalog, node, order.currency) or explanation.why_now(
            now, order, catalog, order.currency
        )
    lines, unfilled = explanation.lines_of(order)
    told = explanation.explain(
        record, catalog, lines=lines, unfilled=unfilled, currency=order.currency, entry=found.entry
    )
    legs = []
    for leg, text in zip(legs_of(record), told.legs, strict=True):
        carrier, service = catalog.service_name(leg.service)
        legs.append(
            DecidedLeg(
                catalog.node_id(leg.node),
                carrier or None,
                service or None,
                text.ships_on,
                text.days,
                text.parcels,
                CostParts(*text.cash_minor),
                text.service_minor,
                text.policy_minor,
                text.opportunity_minor,
            )
        )
    candidates = [
        CandidateShown(catalog.node_id(candidate.node), candidate.km, text.verdict, text.reason)
        for candidate, text in zip(candidates_of(record), told.candidates, strict=True)
    ]
    runner_up = RunnerUp(told.runner_up[0], _money(told.runner_up[1])) if told.runner_up is not None else None
    return Decision(
        decision_id,
        order.order_id,
        public_id("alc", OrderRef(order.slot, order.order_no)),
        order.channel,
        told.sentence,
        iso(int(told.decided_at.timestamp() * 1_000)) or "",
        told.rung,
        told.scope,
        told.currency,
        _money(told.money_minor),
        legs,
        runner_up,
        candidates,
        [Looked(what, count) for what, count in told.looked_at],
        [Fact(name, value) for name, value in told.gap],
        [Fact(name, value) for name, value in told.versions],
        why,
    )


def _money(kinds: tuple[int, int, int, int]) -> MoneyShown:
    return MoneyShown(*kinds, sum(kinds))
