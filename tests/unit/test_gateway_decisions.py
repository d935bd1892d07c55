"""A decision over HTTP says what `quartermaster explain` says."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from engine.domain.decisions import encode
from engine.domain.explanation import explain
from engine.domain.ids import OrderRef, public_id
from engine.domain.replies import DecisionReply, LegLineView, LegView, NodeReply, OrderLineView, OrderView, Problem
from gateway.decisions.shown import Decision, decision_shown
from tests.unit.test_explanation import CATALOG, DALLAS, RENO, a_record

REF = OrderRef("US100", 123_456_789)
ORDER = OrderView(
    REF.slot,
    REF.order_no,
    "A-1",
    "allocated",
    (LegView(1, "WH-1", "allocated", (LegLineView("1", "SKU-0", 1), LegLineView("2", "SKU-1", 1))),),
    channel="web",
)
DECISION_ID = public_id("dec", REF, 0)


def shown(node_id: str | None = None) -> Decision:
    made = decision_shown(DECISION_ID, ORDER, DecisionReply(encode(a_record())), CATALOG, node_id)
    assert isinstance(made, Decision)
    return made


def test_it_carries_the_sentence_the_money_and_the_ids() -> None:
    made = shown()
    told = explain(a_record(), CATALOG, lines=2, unfilled=0, currency="USD")
    assert made.sentence == told.sentence
    assert made.allocation_id == public_id("alc", REF)
    assert (made.money.cash_minor, made.money.score_minor) == (told.money_minor[0], sum(told.money_minor))
    assert [(leg.node_id, leg.cost_parts.parcels_minor) for leg in made.legs] == [("WH-1", 940)]
    assert [c.node_id for c in made.candidates] == ["WH-1", "WH-2"]
    assert made.runner_up is not None
    assert made.runner_up.difference.cash_minor == 110
    assert made.decided_at.endswith("Z")
    msgspec.json.encode(made)


def test_it_answers_for_one_node() -> None:
    assert shown().why is None
    assert (shown("WH-2").why or "").startswith("Dallas, 800 km away:")
    assert shown("ST-9").why == "It is not among the candidates that the record keeps."
    now = NodeReply("ST-9", 12, "dearer", (250, 0, 0, 40), "alone it would cost more")
    asked = decision_shown(DECISION_ID, ORDER, DecisionReply(encode(a_record())), CATALOG, "ST-9", now)
    assert isinstance(asked, Decision) and asked.why is not None
    assert "If the order were planned now" in asked.why
    assert "12 km away: alone it would cost +$2.90" in asked.why
    unknown = decision_shown(DECISION_ID, ORDER, DecisionReply(encode(a_record())), CATALOG, "NO")
    assert isinstance(unknown, Problem)
    assert unknown.code == "unknown_node"
    assert (RENO, DALLAS) == (0, 1)


def test_a_record_of_another_version_is_not_guessed_at() -> None:
    for packed in (encode(a_record(schema=99)), b"why", b""):
        made = decision_shown(DECISION_ID, ORDER, DecisionReply(packed), CATALOG, None)
        assert isinstance(made, Problem)
        assert made.code == "not_found"


def test_what_is_cancelled_afterwards_changes_no_sentence() -> None:
    (leg,) = ORDER.legs
    one_left = replace(
        ORDER,
        legs=(replace(leg, lines=leg.lines[:1]),),
        lines=(OrderLineView("1", "SKU-0", 1), OrderLineView("2", "SKU-1", 1, cancelled=1)),
    )
    made = decision_shown(DECISION_ID, one_left, DecisionReply(encode(a_record())), CATALOG, None)
    assert isinstance(made, Decision)
    assert made.sentence == shown().sentence


def test_of_an_order_that_has_left_it_says_that_it_is_not_planned_again() -> None:
    left = replace(ORDER, state="shipped")
    made = decision_shown(
        DECISION_ID, left, DecisionReply(encode(a_record())), CATALOG, "ST-9", Problem("wrong_state", "")
    )
    assert isinstance(made, Decision)
    assert made.why == (
        "It is not among the candidates that the record keeps. The order is shipped: nothing of it is open, so it is not "
        "planned again."
    )
