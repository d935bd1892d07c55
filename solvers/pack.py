"""The decision record's body, packed (msgpack) where its numbers are: in compiled code. What the numbers mean, and the head that
goes before them: engine.domain.decisions.

Body = scope, legs, runner-up, candidates, counts; each but the scope an array of integers.
"""

from __future__ import annotations

from solvers.jit import inner
from solvers.layout import (
    BLOCKS,
    G_CASH,
    G_CASH_LINES,
    G_CASH_SURCHARGE,
    G_CASH_UNITS,
    G_DAYS,
    G_LATE,
    G_LINE,
    G_LINE_COUNT,
    G_NODE,
    G_OPPORTUNITY,
    G_PARCELS,
    G_POLICY,
    G_SERVICE,
    G_SHIP_DAY,
    G_TRANSIT,
    K_LINE,
    R_ASSUMED,
    R_BLOCKED,
    R_CANDIDATE,
    R_CANDIDATE_COUNT,
    R_CONSIDERED,
    R_LEG,
    R_LEG_COUNT,
    R_RUNNER_CASH,
    R_RUNNER_LEGS,
    R_RUNNER_NODE,
    R_SCOPE,
    R_SEEN,
    U8,
    V_A,
    V_B,
    V_CASH,
    V_CHOSEN,
    V_CODE,
    V_DEARER,
    V_KM,
    V_NODE,
    V_OPPORTUNITY,
    V_POLICY,
    V_SERVICE,
    V_SHORT,
    Outcome,
)

LINES_KEPT = 32
"""Legs of longer orders do not repeat their lines: the order's record has them."""
LEG_NUMBERS = 14
"""Thirteen fields of a leg and how many lines follow."""
DEARER_BY_PRICE = 6
"""The verdict that V_DEARER becomes where policy or opportunity money differ."""
_INT_BYTES = 9


@inner
def _put_big_endian(buf: U8, at: int, value: int, size: int) -> int:
    for n in range(size):
        buf[at + n] = (value >> (8 * (size - 1 - n))) & 255
    return at + size


@inner
def put_int(buf: U8, at: int, value: int) -> int:
    """Pack an integer in its shortest form; where the next byte goes."""
    if value >= 0:
        if value < 128:
            buf[at] = value
            return at + 1
        if value < 256:
            buf[at] = 0xCC
            return _put_big_endian(buf, at + 1, value, 1)
        if value < 65_536:
            buf[at] = 0xCD
            return _put_big_endian(buf, at + 1, value, 2)
        if value < 4_294_967_296:
            buf[at] = 0xCE
            return _put_big_endian(buf, at + 1, value, 4)
        buf[at] = 0xCF
        return _put_big_endian(buf, at + 1, value, 8)
    if value >= -32:
        buf[at] = value & 255
        return at + 1
    if value >= -128:
        buf[at] = 0xD0
        return _put_big_endian(buf, at + 1, value, 1)
    if value >= -32_768:
        buf[at] = 0xD1
        return _put_big_endian(buf, at + 1, value, 2)
    if value >= -2_147_483_648:
        buf[at] = 0xD2
        return _put_big_endian(buf, at + 1, value, 4)
    buf[at] = 0xD3
    return _put_big_endian(buf, at + 1, value, 8)


@inner
def put_array(buf: U8, at: int, count: int) -> int:
    """Pack the head of an array of `count` elements (below 65,536)."""
    if count < 16:
        buf[at] = 0x90 | count
        return at + 1
    buf[at] = 0xDC
    return _put_big_endian(buf, at + 1, count, 2)


@inner
def _kept_lines(outcome: Outcome, leg: int, alone: bool) -> int:
    lines = outcome.legs[leg, G_LINE_COUNT]
    return 0 if alone or lines > LINES_KEPT else int(lines)


@inner
def record_room(outcome: Outcome, first_leg: int, legs: int) -> int:
    """Bytes that a record may take at most."""
    numbers = 80 + LEG_NUMBERS * legs
    for leg in range(first_leg, first_leg + legs):
        numbers += _kept_lines(outcome, leg, False)
    return numbers * _INT_BYTES


@inner
def _put_legs(outcome: Outcome, first_leg: int, legs: int, alone: bool, today: int, at: int) -> int:
    buf = outcome.record
    count = LEG_NUMBERS * legs
    for leg in range(first_leg, first_leg + legs):
        count += _kept_lines(outcome, leg, alone)
    at = put_array(buf, at, count)
    for n in range(first_leg, first_leg + legs):
        leg = outcome.legs[n]
        at = put_int(buf, at, leg[G_NODE])
        at = put_int(buf, at, leg[G_SERVICE])
        at = put_int(buf, at, leg[G_SHIP_DAY] - today)
        at = put_int(buf, at, leg[G_DAYS])
        at = put_int(buf, at, leg[G_PARCELS])
        at = put_int(buf, at, leg[G_CASH])
        at = put_int(buf, at, leg[G_CASH_LINES])
        at = put_int(buf, at, leg[G_CASH_UNITS])
        at = put_int(buf, at, leg[G_CASH_SURCHARGE])
        at = put_int(buf, at, leg[G_LATE])
        at = put_int(buf, at, leg[G_TRANSIT])
        at = put_int(buf, at, leg[G_POLICY])
        at = put_int(buf, at, leg[G_OPPORTUNITY])
        lines = _kept_lines(outcome, n, alone)
        at = put_int(buf, at, lines)
        for k in range(leg[G_LINE], leg[G_LINE] + lines):
            at = put_int(buf, at, outcome.leg_lines[k, K_LINE])
    return at


@inner
def _put_candidates(outcome: Outcome, part: int, first_leg: int, at: int) -> int:
    buf = outcome.record
    result = outcome.parts[part]
    first = result[R_CANDIDATE]
    end = first + result[R_CANDIDATE_COUNT]
    count = 0
    for n in range(first, end):
        row = outcome.candidates[n]
        count += 3
        if row[V_CODE] == V_CHOSEN:
            count += 1
        elif row[V_CODE] == V_DEARER:
            count += 4 if row[V_POLICY] != 0 or row[V_OPPORTUNITY] != 0 else 2
        elif row[V_CODE] == V_SHORT:
            count += 2
    at = put_array(buf, at, count)
    for n in range(first, end):
        row = outcome.candidates[n]
        at = put_int(buf, at, row[V_NODE])
        at = put_int(buf, at, row[V_KM])
        code = row[V_CODE]
        by_price = code == V_DEARER and (row[V_POLICY] != 0 or row[V_OPPORTUNITY] != 0)
        at = put_int(buf, at, DEARER_BY_PRICE if by_price else code)
        if code == V_CHOSEN:
            at = put_int(buf, at, row[V_A] + result[R_LEG] - first_leg)
        elif code == V_DEARER:
            at = put_int(buf, at, row[V_CASH])
            at = put_int(buf, at, row[V_SERVICE])
            if by_price:
                at = put_int(buf, at, row[V_POLICY])
                at = put_int(buf, at, row[V_OPPORTUNITY])
        elif code == V_SHORT:
            at = put_int(buf, at, row[V_A])
            at = put_int(buf, at, row[V_B])
    return at


@inner
def pack_record(outcome: Outcome, first_part: int, last_part: int, today: int, at: int) -> int:
    """Pack the body of an order's record; where it ends.

    Legs are those of all parts; runner-up, candidates and counts those of the part with most candidates. `today` = the UTC day.
    There must be `record_room` bytes.
    """
    buf = outcome.record
    first_leg = outcome.parts[first_part, R_LEG]
    legs = 0
    scope = 0
    shown = first_part
    for part in range(first_part, last_part + 1):
        legs += outcome.parts[part, R_LEG_COUNT]
        scope = max(scope, outcome.parts[part, R_SCOPE])
        if outcome.parts[part, R_CANDIDATE_COUNT] > outcome.parts[shown, R_CANDIDATE_COUNT]:
            shown = part
    at = put_int(buf, at, scope)
    at = _put_legs(outcome, first_leg, legs, legs == 1 and first_part == last_part, today, at)
    result = outcome.parts[shown]
    runner = result[R_RUNNER_LEGS]
    at = put_array(buf, at, 4 + runner if runner > 0 else 0)
    if runner > 0:
        for n in range(4):
            at = put_int(buf, at, result[R_RUNNER_CASH + n])
        for n in range(runner):
            at = put_int(buf, at, result[R_RUNNER_NODE + n])
    at = _put_candidates(outcome, shown, first_leg, at)
    blocks = BLOCKS
    while blocks > 0 and result[R_BLOCKED + blocks - 1] == 0:
        blocks -= 1
    at = put_array(buf, at, 3 + blocks)
    at = put_int(buf, at, result[R_SEEN])
    at = put_int(buf, at, result[R_CONSIDERED])
    at = put_int(buf, at, result[R_ASSUMED])
    for n in range(blocks):
        at = put_int(buf, at, result[R_BLOCKED + n])
    return at
