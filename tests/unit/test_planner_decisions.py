"""Decision records: packed small, read back whole, of a schema that is refused when it is unknown."""

from __future__ import annotations

import msgspec
import pytest

from engine.domain.decisions import (
    EXCLUSIONS,
    LEG_FIELDS,
    REASONS,
    SCHEMA,
    SCOPES,
    Candidate,
    ChosenLeg,
    DecisionRecord,
    UnknownSchema,
    Verdict,
    candidates_of,
    decided_at_ms,
    decode,
    encode,
    legs_of,
)
from solvers import layout as at
from solvers.pack import DEARER_BY_PRICE, LEG_NUMBERS


def a_record(**fields: object) -> DecisionRecord:
    plain = DecisionRecord(SCHEMA, 7, 0xBEEF, 212_163_200_000, 0, 0, [], [], [], [3, 2, 0])
    return msgspec.structs.replace(plain, **fields)


def test_legs_and_candidates_come_back_as_they_went_in() -> None:
    one = [4, 65, 0, 3, 1, 900, 25, 10, 0, 0, 45, 0, 0]
    two = [9, -1, 2, 1, 0, 0, 0, 0, 0, 0, 0, -7, 12]
    record = decode(
        encode(a_record(legs=[*one, 2, 0, 2, *two, 1, 1], candidates=[4, 12, 0, 0, 9, 800, 2, 1, 5, 3, 77, 3]))
    )
    assert legs_of(record) == [ChosenLeg(*one, (0, 2)), ChosenLeg(*two, (1,))]
    assert list(candidates_of(record)) == [
        Candidate(4, 12, Verdict.CHOSEN, (0,)),
        Candidate(9, 800, Verdict.SHORT, (1, 5)),
        Candidate(3, 77, Verdict.NO_SERVICE, ()),
    ]
    assert [candidate.text for candidate in candidates_of(record)] == [
        "chosen: ships leg 0",
        "has only 5 of line 1",
        "no carrier service takes these goods from there to the destination",
    ]
    assert decided_at_ms(record) == 1_790_000_000_000


def test_an_unknown_schema_is_refused_and_so_are_other_bytes() -> None:
    with pytest.raises(UnknownSchema):
        decode(encode(a_record(schema=SCHEMA + 1)))
    with pytest.raises(msgspec.DecodeError):
        decode(b"why")


def test_a_record_of_a_later_version_with_more_fields_can_be_read() -> None:
    fields = [*msgspec.structs.astuple(a_record()), "new"]
    assert decode(encode(fields)) == a_record()


def test_the_kernel_and_the_record_mean_the_same_by_their_codes() -> None:
    pairs = {
        at.V_CHOSEN: Verdict.CHOSEN,
        at.V_DEARER: Verdict.DEARER,
        at.V_SHORT: Verdict.SHORT,
        at.V_NO_SERVICE: Verdict.NO_SERVICE,
        at.V_FULL: Verdict.NO_CAPACITY,
        at.V_PART: Verdict.IN_PART,
        DEARER_BY_PRICE: Verdict.DEARER_BY_PRICE,
    }
    assert all(int(code) == int(verdict) for code, verdict in pairs.items())
    assert set(REASONS) == set(Verdict)
    assert LEG_NUMBERS == LEG_FIELDS + 1 == len(ChosenLeg._fields)
    assert len(EXCLUSIONS) == at.BLOCKS and len(SCOPES) == 2
