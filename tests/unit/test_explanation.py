"""Decisions in words: the sentence says what the numbers say, and every verdict has a text."""

from __future__ import annotations

import pytest

from engine.domain import explanation
from engine.domain.decisions import _NUMBERS, EXCLUSIONS, Candidate, DecisionRecord, Verdict, encode
from engine.domain.explanation import explain, money, why_not
from engine.domain.ids import EPOCH_2020_MS
from tests.builders import NOW_MS, a_catalog, a_network, a_node

RENO, DALLAS, TULSA = 0, 1, 2
CATALOG = a_catalog(
    documents=a_network(
        nodes=[a_node("WH-1", name="Reno"), a_node("WH-2", name="Dallas"), a_node("ST-9", postal_code="74103")]
    )
)


def a_leg(node: int = RENO, *, cash: int = 940, late: int = 0, transit: int = 0) -> list[int]:
    return [node, 0, 1, 3, 1, cash, 0, 0, 0, late, transit, 0, 0, 0]


def a_record(**fields: object) -> DecisionRecord:
    base: dict[str, object] = {
        "schema": 1,
        "config": 17,
        "kernel": 0xBEEF,
        "at_ms": NOW_MS - EPOCH_2020_MS,
        "rung": 0,
        "scope": 0,
        "legs": a_leg(),
        "runner_up": [110, 0, 0, 0, DALLAS],
        "candidates": [RENO, 12, Verdict.CHOSEN, 1, DALLAS, 800, Verdict.DEARER, 110, 25],
        "counts": [3, 2, 0],
    }
    return DecisionRecord(**{**base, **fields})  # type: ignore[arg-type]


def said(record: DecisionRecord, *, lines: int = 2, unfilled: int = 0, currency: str = "USD") -> str:
    return explain(record, CATALOG, lines=lines, unfilled=unfilled, currency=currency).sentence


def test_the_sentence_names_node_lines_price_and_the_difference_to_the_next_best() -> None:
    assert said(a_record()) == "Reno ships both lines for $9.40: $1.10 cheaper than the next best, Dallas."


@pytest.mark.parametrize(
    ("runner_up", "ending"),
    [
        ([110, 50, 0, 0, DALLAS], "$1.10 cheaper than the next best, Dallas, and sooner at the door (worth $0.50)."),
        ([-30, 90, 0, 0, DALLAS], "$0.30 dearer to ship than the next best, Dallas, and sooner at the door (worth $0.90)."),
        ([0, 0, 0, 190, DALLAS], "as cheap to ship as the next best, Dallas, and sparing scarce stock (worth $1.90)."),
        ([200, -40, 0, 0, DALLAS, TULSA], "$2.00 cheaper than the next best, Dallas + ST-9, though later at the door (worth $0.40)."),
        ([], "no other set of nodes could serve it."),
    ],
)  # fmt: skip
def test_the_sentence_says_what_the_runner_up_would_have_changed(runner_up: list[int], ending: str) -> None:
    assert said(a_record(runner_up=runner_up)) == f"Reno ships both lines for $9.40: {ending}"


def test_split_partial_and_empty_plans_are_said_as_they_are() -> None:
    split = a_record(legs=[*a_leg(RENO, cash=500), *a_leg(DALLAS, cash=650)], runner_up=[])
    assert said(split, lines=5).startswith("Reno and Dallas ship all 5 lines for $11.50:")
    assert said(a_record(), lines=3, unfilled=1).startswith("Reno ships 2 of 3 lines for $9.40:")
    assert said(a_record(), lines=1).startswith("Reno ships the line for")
    assert said(a_record(legs=[], runner_up=[])) == "No node could ship any of it: the candidates below say why."


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_a_reason_with_all_its_numbers(verdict: Verdict) -> None:
    numbers = tuple(range(5, 5 + _NUMBERS[verdict]))
    text = explanation.reason(Candidate(RENO, 10, verdict, numbers), "USD")
    assert text
    shown = text.replace("line 6", "line 5").replace("leg 6", "leg 5")  # both are counted from one
    for number in numbers:
        assert str(number) in shown or money(number, "USD") in shown or money(number, "USD", signed=True) in shown


def test_why_not_a_node_is_answered_from_the_record_or_not_at_all() -> None:
    record = a_record()
    assert why_not(record, CATALOG, DALLAS, "USD") == (
        "Dallas, 800 km away: alone it would cost $1.35 more: +$1.10 cash, +$0.25 service."
    )
    assert why_not(record, CATALOG, TULSA, "USD") is None


def test_counts_by_reason_and_the_solvers_gap_are_shown_with_their_names() -> None:
    record = a_record(counts=[3, 2, 0, 0, 4, 0, 0, 0, 1], gap=[10_200, 10_000, 6, 12_500, 915], rung=2)
    found = explain(record, CATALOG, lines=2, unfilled=0, currency="USD")
    assert found.rung == "time_boxed"
    assert (EXCLUSIONS[1], 4) in found.looked_at
    assert (EXCLUSIONS[5], 1) in found.looked_at
    assert ("gap", "2.00 %") in found.gap
    assert ("no plan is below", "$100.00") in found.gap
    assert found.legs[0].ships_on > found.decided_at.date().isoformat()
    assert found.versions[0] == ("configuration", "17")


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [(123456, "USD", "$1,234.56"), (-5, "USD", "-$0.05"), (1200, "EUR", "12.00 EUR"), (1200, "JPY", "1,200 JPY")],
)
def test_money_is_written_as_its_currency_is(amount: int, currency: str, text: str) -> None:
    assert money(amount, currency) == text


def test_a_record_survives_packing() -> None:
    from engine.domain.decisions import decode

    assert decode(encode(a_record())) == a_record()
