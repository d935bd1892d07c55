"""Packing what the kernel said about an order into its decision record."""

from __future__ import annotations

from typing import NamedTuple

from engine.domain.decisions import LINES_KEPT, SCHEMA, Verdict, encode
from engine.domain.ids import EPOCH_2020_MS
from solvers import layout as at
from solvers.calendar import DAY_MS
from solvers.jit import KERNEL_VERSION

_VERDICTS = {
    at.V_CHOSEN: Verdict.CHOSEN,
    at.V_DEARER: Verdict.DEARER,
    at.V_SHORT: Verdict.SHORT,
    at.V_NO_SERVICE: Verdict.NO_SERVICE,
    at.V_FULL: Verdict.NO_CAPACITY,
    at.V_PART: Verdict.IN_PART,
}


class Piece(NamedTuple):
    """The record's lists for one part of an order."""

    scope: int
    legs: list[int]
    runner_up: list[int]
    candidates: list[int]
    counts: list[int]


def leg_numbers(leg: list[int], lines: list[int], now_ms: int) -> list[int]:
    """A leg as the record keeps it: the fields of ChosenLeg, how many lines follow, the lines."""
    return [
        leg[at.G_NODE],
        leg[at.G_SERVICE],
        leg[at.G_SHIP_DAY] - now_ms // DAY_MS,
        leg[at.G_DAYS],
        leg[at.G_PARCELS],
        leg[at.G_CASH],
        leg[at.G_CASH_LINES],
        leg[at.G_CASH_UNITS],
        leg[at.G_CASH_SURCHARGE],
        leg[at.G_LATE],
        leg[at.G_TRANSIT],
        leg[at.G_POLICY],
        leg[at.G_OPPORTUNITY],
        len(lines),
        *lines,
    ]


def part_record(
    row: list[int],
    legs: list[list[int]],
    leg_lines: list[list[int]],
    candidates: list[list[int]],
    own: list[int] | None,
    now_ms: int,
) -> Piece:
    """The lists of one part. `own` = the places of its lines in the request, None = all in order."""
    packed: list[int] = []
    first = row[at.R_LEG]
    count = row[at.R_LEG_COUNT]
    for leg in legs[first : first + count]:
        lines: list[int] = []
        if (count > 1 or own is not None) and leg[at.G_LINE_COUNT] <= LINES_KEPT:
            rows = leg_lines[leg[at.G_LINE] : leg[at.G_LINE] + leg[at.G_LINE_COUNT]]
            lines = [own[row[0]] if own else row[0] for row in rows]
        packed += leg_numbers(leg, lines, now_ms)
    verdicts: list[int] = []
    start = row[at.R_CANDIDATE]
    for node, km, code, a, b, cash, service, policy, opportunity in candidates[
        start : start + row[at.R_CANDIDATE_COUNT]
    ]:
        if code == at.V_CHOSEN:
            verdicts += (node, km, Verdict.CHOSEN, a)
        elif code == at.V_DEARER:
            if policy or opportunity:
                verdicts += (node, km, Verdict.DEARER_BY_PRICE, cash, service, policy, opportunity)
            else:
                verdicts += (node, km, Verdict.DEARER, cash, service)
        elif code == at.V_SHORT:
            verdicts += (node, km, Verdict.SHORT, own[a] if own else a, b)
        else:
            verdicts += (node, km, _VERDICTS[code])
    runner: list[int] = []
    if row[at.R_RUNNER_LEGS]:
        runner = row[at.R_RUNNER_CASH : at.R_RUNNER_CASH + 4]
        runner += row[at.R_RUNNER_NODE : at.R_RUNNER_NODE + row[at.R_RUNNER_LEGS]]
    counts = [row[at.R_SEEN], row[at.R_CONSIDERED], row[at.R_ASSUMED]]
    blocked = row[at.R_BLOCKED : at.R_BLOCKED + at.BLOCKS]
    while blocked and not blocked[-1]:
        blocked.pop()
    return Piece(row[at.R_SCOPE], packed, runner, verdicts, counts + blocked)


def record_of(pieces: list[Piece], *, config: int, now_ms: int, rung: int, gap: list[int] | None = None) -> bytes:
    """The packed record of an order: its parts' legs one after another, the candidates and counts of its largest part."""
    head = (SCHEMA, config, KERNEL_VERSION, now_ms - EPOCH_2020_MS, rung)
    if len(pieces) == 1:
        return encode((*head, *pieces[0], gap)) if gap else encode((*head, *pieces[0]))
    legs: list[int] = []
    for piece in pieces:
        legs += piece.legs
    largest = max(pieces, key=lambda piece: len(piece.candidates))
    scope = max(piece.scope for piece in pieces)
    return encode((*head, scope, legs, largest.runner_up, largest.candidates, largest.counts, gap or []))
