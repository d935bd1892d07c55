"""A decision in words: the packed record, the catalogue and the order as it is, turned into tables and one plain sentence. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from engine.domain.catalog import Catalog
from engine.domain.decisions import (
    EXCLUSIONS,
    SCOPES,
    Candidate,
    ChosenLeg,
    DecisionRecord,
    Verdict,
    candidates_of,
    decided_at_ms,
    legs_of,
)
from engine.domain.replies import NodeReply, OrderView, Problem, Reply
from engine.domain.views import RUNG_LABELS

_NO_CENTS = frozenset({"JPY", "KRW", "VND", "CLP", "ISK"})
_KINDS = ("cash", "service", "policy", "scarce stock")


class LegText(NamedTuple):
    """A chosen leg. Money in minor units, by kind apart."""

    node: str
    carrier: str
    ships_on: str
    days: int
    parcels: int
    cash_minor: tuple[int, int, int, int]
    """Parcels, handling by line, handling by unit, node surcharge."""
    service_minor: int
    policy_minor: int
    opportunity_minor: int
    lines: tuple[int, ...] = ()
    """Numbers of the lines it ships, from 1; empty = all of them, or too many to be kept."""


class CandidateText(NamedTuple):
    node: str
    km: int
    verdict: str
    reason: str


class Explanation(NamedTuple):
    """Everything `quartermaster explain` shows."""

    sentence: str
    decided_at: datetime
    rung: str
    scope: str
    currency: str
    money_minor: tuple[int, int, int, int]
    """Cash, service, policy, opportunity of the chosen plan."""
    legs: list[LegText]
    runner_up: tuple[str, tuple[int, int, int, int]] | None
    """Its nodes, and its money against the chosen plan's (positive = dearer), by kind."""
    candidates: list[CandidateText]
    looked_at: list[tuple[str, int]]
    """What was counted and how many: nodes with units, nodes looked at, nodes excluded by reason."""
    gap: list[tuple[str, str]]
    """Of an order that collided with others: what the solver says of itself. Empty = it did not."""
    versions: list[tuple[str, str]]


def money(amount_minor: int, currency: str, *, signed: bool = False) -> str:
    """$12.34, 12.34 EUR, 1234 JPY; with a sign where it is a difference."""
    sign = "-" if amount_minor < 0 else ("+" if signed else "")
    number = f"{abs(amount_minor):,}" if currency in _NO_CENTS else f"{abs(amount_minor) / 100:,.2f}"
    return f"{sign}${number}" if currency == "USD" else f"{sign}{number} {currency}"


def explain(
    record: DecisionRecord,
    catalog: Catalog,
    *,
    lines: int,
    unfilled: int,
    currency: str,
    entry: tuple[int, int, int] | None = None,
) -> Explanation:
    """lines, unfilled: how many lines the order has, and how many of them are not wholly covered.

    entry: shard, epoch and sequence the record is stored with, where known.
    """
    legs = legs_of(record)
    chosen = _total(legs)
    runner_up = _runner_up(record, catalog)
    return Explanation(
        sentence(record, catalog, lines=lines, unfilled=unfilled, currency=currency),
        _decided_at(record),
        RUNG_LABELS[record.rung],
        SCOPES[record.scope] if record.scope < len(SCOPES) else f"scope {record.scope}",
        currency,
        chosen,
        [_leg_text(leg, record, catalog) for leg in legs],
        runner_up,
        [_candidate_text(candidate, catalog, currency) for candidate in candidates_of(record)],
        _looked_at(record.counts),
        _gap(record.gap, currency),
        [
            ("configuration", str(record.config)),
            ("kernel", f"{record.kernel:04x}"),
            ("record schema", str(record.schema)),
            *([("journaled with", _point(*entry))] if entry is not None else []),
            *(("saw the stock of", _point(*record.views[n : n + 3])) for n in range(0, len(record.views), 3)),
        ],
    )


def lines_of(order: OrderView) -> tuple[int, int]:
    """(lines that the order was placed with, those not wholly covered): what is cancelled afterwards changes no decision."""
    ordered = {line.line_id for line in order.lines}
    left = {line.line_id for leg in order.legs for line in leg.lines}
    unfilled = {line.line_id for line in order.unfilled}
    return len(ordered | left | unfilled), len(unfilled)


def why_now(reply: Reply | None, order: OrderView, catalog: Catalog, currency: str) -> str:
    """What there is to say of a node that the record is silent about: the shard's answer on the state as it is."""
    silent = "It is not among the candidates that the record keeps."
    if isinstance(reply, NodeReply):
        return f"{silent} If the order were planned now: {verdict_now(reply, catalog, currency)}"
    if isinstance(reply, Problem) and reply.code in ("wrong_state", "not_found"):
        return f"{silent} The order is {order.state}: nothing of it is open, so it is not planned again."
    return silent


def sentence(record: DecisionRecord, catalog: Catalog, *, lines: int, unfilled: int, currency: str) -> str:
    """Why, in one plain sentence: "Reno ships both lines for $9.40: $1.10 cheaper than the next best, Dallas." """
    legs = legs_of(record)
    if not legs:
        return "No node could ship any of it: the candidates below say why."
    names = _unique([node_name(catalog, leg.node) for leg in legs])
    covered = lines - unfilled
    what = (
        {1: "the line", 2: "both lines"}.get(lines, f"all {lines} lines")
        if not unfilled
        else f"{covered} of {lines} lines"
    )
    said = f"{_and(names)} {'ships' if len(names) == 1 else 'ship'} {what} for {money(_total(legs)[0], currency)}"
    runner_up = _runner_up(record, catalog)
    if runner_up is None:
        return f"{said}: no other set of nodes could serve it."
    nodes, (cash, service, policy, opportunity) = runner_up
    if cash > 0:
        said += f": {money(cash, currency)} cheaper than the next best, {nodes}"
    elif cash < 0:
        said += f": {money(-cash, currency)} dearer to ship than the next best, {nodes}"
    else:
        said += f": as cheap to ship as the next best, {nodes}"
    for amount, better, worse in (
        (service, "sooner at the door", "later at the door"),
        (policy, "preferred by rules", "against the preference of rules"),
        (opportunity, "sparing scarce stock", "using scarcer stock"),
    ):
        if amount:
            link = "and" if amount > 0 else "though"
            said += f", {link} {better if amount > 0 else worse} (worth {money(abs(amount), currency)})"
    return f"{said}."


def why_not(record: DecisionRecord, catalog: Catalog, node: int, currency: str) -> str | None:
    """What the record says of one node; None where it is not among the candidates that were kept."""
    name = node_name(catalog, node)
    for candidate in candidates_of(record):
        if candidate.node == node:
            return f"{name}, {candidate.km} km away: {reason(candidate, currency)}."
    return None


def verdict_now(reply: NodeReply, catalog: Catalog, currency: str) -> str:
    """A verdict on the state as it is, in a sentence."""
    node = catalog.node_of.get(reply.node_id)
    name = node_name(catalog, node) if node is not None else reply.node_id
    away = f", {reply.km:,} km away" if reply.km >= 0 else ""
    if reply.verdict == "dearer" and any(reply.numbers):
        total = money(sum(reply.numbers), currency, signed=True)
        parts = [
            f"{money(amount, currency, signed=True)} {kind}"
            for kind, amount in zip(_KINDS, reply.numbers, strict=False)
            if amount
        ]
        return f"{name}{away}: alone it would cost {total} against the best plan ({', '.join(parts)})."
    return f"{name}{away}: {reply.text}."


def reason(candidate: Candidate, currency: str) -> str:
    """A verdict in words, with its numbers as a person reads them."""
    numbers = candidate.numbers
    verdict = candidate.verdict
    if verdict == Verdict.CHOSEN:
        return f"chosen: leg {numbers[0] + 1} of the plan"
    if verdict in (Verdict.DEARER, Verdict.DEARER_BY_PRICE):
        parts = [
            f"{money(amount, currency, signed=True)} {kind}"
            for kind, amount in zip(_KINDS, numbers, strict=False)
            if amount
        ]
        total = money(sum(numbers), currency)
        if len(parts) == 1:
            return f"alone it would cost {parts[0]} against the chosen plan"
        return f"alone it would cost {total} more: {', '.join(parts)}" if parts else "alone it would cost the same"
    if verdict == Verdict.SHORT:
        return f"has {f'only {numbers[1]:,}' if numbers[1] else 'none'} of line {numbers[0] + 1}"
    return candidate.text


def node_name(catalog: Catalog, node: int) -> str:
    """The name of a node, with its id where that says something else."""
    document = catalog.nodes[node] if node < len(catalog.nodes) else None
    if document is None:
        return f"node #{node}"
    return document.name or document.node_id


def _leg_text(leg: ChosenLeg, record: DecisionRecord, catalog: Catalog) -> LegText:
    carrier, service = catalog.service_name(leg.service)
    ships = _decided_at(record).date() + timedelta(days=leg.ship_in_days)
    return LegText(
        node_name(catalog, leg.node),
        f"{carrier} {service}".strip() or "-",
        ships.isoformat(),
        leg.days,
        leg.parcels,
        (leg.cash_parcels, leg.cash_lines, leg.cash_units, leg.cash_surcharge),
        leg.late + leg.transit,
        leg.policy,
        leg.opportunity,
        tuple([line + 1 for line in leg.lines]),
    )


def _candidate_text(candidate: Candidate, catalog: Catalog, currency: str) -> CandidateText:
    verdict = candidate.verdict.name.lower().replace("_", " ")
    return CandidateText(node_name(catalog, candidate.node), candidate.km, verdict, reason(candidate, currency))


def _total(legs: Sequence[ChosenLeg]) -> tuple[int, int, int, int]:
    return (
        sum(leg.cash_parcels + leg.cash_lines + leg.cash_units + leg.cash_surcharge for leg in legs),
        sum(leg.late + leg.transit for leg in legs),
        sum(leg.policy for leg in legs),
        sum(leg.opportunity for leg in legs),
    )


def _runner_up(record: DecisionRecord, catalog: Catalog) -> tuple[str, tuple[int, int, int, int]] | None:
    if not record.runner_up:
        return None
    cash, service, policy, opportunity, *nodes = record.runner_up
    return " + ".join(_unique([node_name(catalog, node) for node in nodes])), (cash, service, policy, opportunity)


def _looked_at(counts: Sequence[int]) -> list[tuple[str, int]]:
    labels = ("nodes that hold units and may serve", "nodes looked at closely", "lines of assumed weight")
    rows = list(zip(labels, counts, strict=False))
    rows += [(label, count) for label, count in zip(EXCLUSIONS, counts[len(labels) :], strict=False) if count]
    return rows


def _gap(gap: Sequence[int], currency: str) -> list[tuple[str, str]]:
    if not gap:
        return []
    score, bound, orders, microseconds, *solver = gap
    part = (score - bound) / bound * 100 if bound > 0 else 0.0
    rows = [
        ("orders that collided", f"{orders:,}"),
        ("score together", money(score, currency)),
        ("no plan is below", money(bound, currency)),
        ("gap", f"{part:.2f} %"),
        ("solver time", f"{microseconds / 1_000:.1f} ms"),
    ]
    return [*rows, *(("solver version", str(version)) for version in solver)]


def _point(shard: int, epoch: int, seq: int) -> str:
    return f"shard {shard}, epoch {epoch}, entry {seq:,}"


def _decided_at(record: DecisionRecord) -> datetime:
    return datetime.fromtimestamp(decided_at_ms(record) / 1_000, UTC)


def _unique(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
