"""Counts that come late, out of order and within one second of each other: stock is never made by the order of arrival."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.domain.commands import AdjustStock, CountStock, StockMove
from engine.domain.replies import StockReply
from tests.builders import a_network
from tests.sim.lone_core import LoneCore
from tests.unit.test_domain_legs import position
from tests.unit.test_domain_orders import problem

_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(1, 700)),
        st.tuples(st.just("move"), st.sampled_from(["received", "sold_in_store"]), st.integers(1, 9)),
        st.tuples(st.just("count"), st.sampled_from("ab"), st.integers(0, 30), st.integers(0, 2_500)),
        st.tuples(st.just("empty"), st.sampled_from("ab"), st.just(0), st.integers(0, 2_500)),
    ),
    min_size=2,
    max_size=14,
)


@given(_STEPS)
@settings(max_examples=150, deadline=None)
def test_the_shelf_is_the_newest_count_and_what_moved_since(steps: list[tuple[Any, ...]]) -> None:
    """The count of the newest instant (of equal ones, the last to arrive) and the movements after it; nothing else."""
    shop = LoneCore(a_network(nodes=1, items=1))
    shop.pass_time(10_000)
    moved: list[tuple[int, int]] = []
    counted_ms, counted_units = 0, 0
    seq = {"a": 0, "b": 0}
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 1),)))  # there is a position from the start
    moved.append((shop.now_ms, 1))
    for step in steps:
        shop.pass_time(1)  # a movement of the very instant of a count is before it, or after: nobody can tell
        if step[0] == "wait":
            shop.pass_time(step[1])
        elif step[0] == "move":
            assert isinstance(shop.ask(AdjustStock("N-0", (StockMove("SKU-0", step[1], step[2]),))), StockReply)
            moved.append((shop.now_ms, step[2] if step[1] == "received" else -step[2]))
        else:
            kind, source, units, ago_ms = step
            as_of_ms = shop.now_ms - ago_ms
            seq[source] += 1
            scope, rows = ("full", ()) if kind == "empty" else ("delta", (("SKU-0", units),))
            reply = shop.ask(CountStock("N-0", source, as_of_ms, seq[source], scope, rows))
            assert isinstance(reply, StockReply), problem(reply)
            if as_of_ms >= counted_ms:
                counted_ms, counted_units = as_of_ms, units
        justified = counted_units + sum(units for at_ms, units in moved if at_ms > counted_ms)
        assert position(shop)[0] == justified


def test_a_shelf_that_a_full_count_found_empty_is_not_filled_by_an_older_count() -> None:
    shop = LoneCore(a_network(nodes=1, items=1))
    shop.pass_time(10_000)
    for kind in ("received", "sold_in_store"):  # a position, and nothing in it
        shop.ask(AdjustStock("N-0", (StockMove("SKU-0", kind, 1),)))
    shop.ask(CountStock("N-0", "a", shop.now_ms - 100, 1, "full", ()))
    shop.ask(CountStock("N-0", "b", shop.now_ms - 200, 1, "delta", (("SKU-0", 7),)))
    assert position(shop)[0] == 0
