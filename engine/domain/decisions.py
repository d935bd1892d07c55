"""Decision records: why an order went where it went, small enough to be stored with every order.

A record is a msgpack array of integers and flat lists. Nodes and services are indexes; money is minor units; candidates carry
only the difference of their money to the chosen plan's, which packs into one to three bytes. What can be recomputed from the
journal at that sequence (the full table, "why not store X?") is not stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import msgspec

from engine.domain.ids import EPOCH_2020_MS

SCHEMA = 1
LEG_FIELDS = 13


class Verdict(IntEnum):
    """What became of a candidate; the numbers that follow it in the record stand behind each."""

    CHOSEN = 0
    """leg number"""
    DEARER = 1
    """cash, service: as the only node, against the chosen plan"""
    SHORT = 2
    """line, units it has"""
    NO_SERVICE = 3
    NO_CAPACITY = 4
    IN_PART = 5
    """could serve all or a part, within a plan that is dearer or leaves more open"""
    DEARER_BY_PRICE = 6
    """cash, service, policy, opportunity: as DEARER, where rules or scarce stock count"""


_NUMBERS = (1, 2, 2, 0, 0, 0, 4)

REASONS: dict[int, str] = {
    Verdict.CHOSEN: "chosen: ships leg {0}",
    Verdict.DEARER: "alone it would cost {0:+} in cash and {1:+} in service",
    Verdict.SHORT: "has only {1} of line {0}",
    Verdict.NO_SERVICE: "no carrier service takes these goods from there to the destination",
    Verdict.NO_CAPACITY: "has no capacity left on the ship days ahead",
    Verdict.IN_PART: "could serve a part, in a plan that is dearer or leaves more open",
    Verdict.DEARER_BY_PRICE: "alone it would cost {0:+} in cash, {1:+} in service, {2:+} by rules, {3:+} in scarce stock",
}
"""Code -> text; the numbers are those of the verdict, in its order."""

EXCLUSIONS = (
    "switched off or draining",
    "excluded for this order (it rejected it, or its shard is silent)",
    "its stock feed is too old",
    "beyond reach, or not on the map",
    "banned by a rule",
    "cannot handle the goods",
    "does not serve the channel",
    "does not offer the method, or is not the place asked for",
)
"""Reasons counted in `counts[3:]`: nodes that hold units and may not serve."""

SCOPES = ("all ways to give groups to at most three candidates", "the columns that the search built")


class DecisionRecord(msgspec.Struct, array_like=True, gc=False):
    """Packed with `encode`. Adding a field = appending one with a default."""

    schema: int
    config: int
    """Configuration version the plan was made with."""
    kernel: int
    """First 16 bits of the hash of the compiled decision's sources."""
    at_ms: int
    """Since 2020."""
    rung: int
    scope: int
    """What `rung` is claimed within (SCOPES)."""
    legs: list[int]
    """LEG_FIELDS numbers a leg (see ChosenLeg), how many lines follow, the lines: those of several legs, where they are few."""
    runner_up: list[int]
    """Best plan with another set of nodes: its money against the chosen one's (cash, service, policy, opportunity), then its
    nodes. Empty = none was found."""
    candidates: list[int]
    """node, km, verdict, then the verdict's numbers; repeated."""
    counts: list[int]
    """Nodes that hold units and may serve; nodes looked at; lines of assumed weight; then excluded nodes by reason."""
    gap: list[int] = []
    """Contended orders: score of the component, its bound, orders in it, microseconds, solver version. Empty = separable."""
    views: list[int] = []
    """What the decision saw of other shards' stock: shard, epoch, seq; repeated. Its own shard's is the entry it is stored with."""


class ChosenLeg(NamedTuple):
    node: int
    service: int
    ship_in_days: int
    """From the UTC day of the decision."""
    days: int
    """From the order to the door."""
    parcels: int
    cash_parcels: int
    cash_lines: int
    cash_units: int
    cash_surcharge: int
    late: int
    transit: int
    policy: int
    opportunity: int
    lines: tuple[int, ...] = ()
    """Indexes into the planned lines; empty = not repeated here."""


class Candidate(NamedTuple):
    node: int
    km: int
    verdict: Verdict
    numbers: tuple[int, ...]

    @property
    def text(self) -> str:
        """The verdict in words, with its numbers."""
        return REASONS[self.verdict].format(*self.numbers)


class NodeVerdict(NamedTuple):
    """Why an order would or would not go to one node, on a state as it was or is: recomputed, never stored."""

    node: int
    km: int
    """-1 = the destination or the node is not on the map."""
    verdict: str
    """chosen | dearer | short | no_service | no_capacity | max_legs | holds_none | excluded"""
    numbers: tuple[int, ...]
    """chosen: leg; dearer: cash, service, policy, opportunity against the chosen plan; short: line, units it has."""
    text: str


encode = msgspec.msgpack.Encoder().encode
_DECODER = msgspec.msgpack.Decoder(DecisionRecord)


class UnknownSchema(ValueError):
    """A record of a schema this version does not read."""


def decode(packed: bytes) -> DecisionRecord:
    """Raises UnknownSchema, or msgspec.DecodeError where the bytes are no record at all."""
    record = _DECODER.decode(packed)
    if record.schema != SCHEMA:
        raise UnknownSchema(f"decision record of schema {record.schema}")
    return record


def decided_at_ms(record: DecisionRecord) -> int:
    """The instant of the decision."""
    return record.at_ms + EPOCH_2020_MS


def legs_of(record: DecisionRecord) -> list[ChosenLeg]:
    """The chosen legs: LEG_FIELDS numbers each, then a count of lines and the lines."""
    numbers = record.legs
    out = []
    at = 0
    while at < len(numbers):
        fields = numbers[at : at + LEG_FIELDS]
        count = numbers[at + LEG_FIELDS]
        at += LEG_FIELDS + 1
        out.append(ChosenLeg._make([*fields, tuple(numbers[at : at + count])]))
        at += count
    return out


def candidates_of(record: DecisionRecord) -> Iterator[Candidate]:
    """The candidates with their verdicts, the chosen ones first."""
    numbers = record.candidates
    at = 0
    while at < len(numbers):
        node, km, code = numbers[at : at + 3]
        at += 3
        count = _NUMBERS[code]
        yield Candidate(node, km, Verdict(code), tuple(numbers[at : at + count]))
        at += count
