"""The storefront's own books: an oversell shows, and what is uncertain is not called one."""

from __future__ import annotations

import random
from typing import Any

from loadtests.ledger import Ledger, Recent
from loadtests.storefront_mix import CANCEL_SHARE, RESERVE_SHARE, draw_path


def _leg(units: int, *, node: str = "N", sku: str = "A", state: str = "allocated") -> dict[str, Any]:
    return {"node_id": node, "state": state, "lines": [{"line_id": "1", "sku": sku, "quantity": units}]}


def _ledger(units: int = 10) -> Ledger:
    ledger = Ledger()
    ledger.stock([(("N", "A"), units)])
    return ledger


def test_promises_up_to_the_shelf_are_fine_and_one_more_is_an_oversell() -> None:
    ledger = _ledger()
    ledger.promise([_leg(6), _leg(4)])
    assert not ledger.oversold
    ledger.promise([_leg(1)])
    assert ledger.oversold == {("N", "A"): 1}


def test_an_oversell_is_not_forgotten_when_units_come_free() -> None:
    ledger = _ledger(1)
    ledger.promise([_leg(3)])
    ledger.free([_leg(3)])
    assert ledger.oversold == {("N", "A"): 2}


def test_units_that_were_asked_to_be_freed_may_be_sold_again() -> None:
    ledger = _ledger(5)
    ledger.promise([_leg(5)])
    ledger.free([_leg(5)])
    ledger.promise([_leg(5)])
    assert not ledger.oversold


def test_shipped_units_leave_shelf_and_promise() -> None:
    ledger = _ledger(5)
    ledger.promise([_leg(3)])
    ledger.shipped(_leg(3))
    assert (ledger.shelf["N", "A"], ledger.promised["N", "A"]) == (2, 0)
    ledger.promise([_leg(3)])
    assert ledger.oversold


def test_legs_that_hold_nothing_promise_nothing() -> None:
    ledger = _ledger(1)
    ledger.promise([_leg(9, state="cancelled"), _leg(9, state="shipped"), _leg(9, state="rejected")])
    assert not ledger.oversold


def test_a_shelf_is_counted_only_while_nothing_moves() -> None:
    ledger = _ledger()
    position = ("N", "A")
    assert ledger.still(position)
    ledger.moving([position])
    assert not ledger.still(position)
    ledger.moved([position])
    assert not ledger.still(position), "too shortly after"


def test_the_rate_is_that_of_the_last_seconds() -> None:
    recent = Recent(window_s=2.0)
    for second in range(10):
        recent.add(float(second), 100 * second if second < 5 else 400 + 10 * (second - 4))
    assert recent.per_s() == 10.0


def test_orders_take_the_ways_that_are_stated() -> None:
    rng = random.Random(1)
    paths = [draw_path(rng) for _ in range(20_000)]
    assert abs(sum(path.reserve for path in paths) / 20_000 - RESERVE_SHARE) < 0.01
    assert {path.outcome for path in paths} == {"allocate", "commit", "release", "expire"}
    assert all(path.outcome in ("allocate", "commit") for path in paths if path.cancel or path.ship)
    assert not any(path.cancel and path.ship for path in paths)
    assert abs(sum(path.cancel for path in paths) / 20_000 - CANCEL_SHARE) < 0.01
