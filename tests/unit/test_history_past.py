"""What is said of an order that has left its shard is what the shard said before."""

from __future__ import annotations

import pytest

from engine.domain.commands import CancelOrder, CommitHold, GetOrder, ReleaseHold
from engine.domain.decide_orders import refuse
from engine.domain.replies import OrderView, Problem
from gateway.history.past import from_past
from tests.builders import a_network, a_place, an_order
from tests.sim.lone_core import LoneCore
from tests.unit.test_protocol_closing import stocked


class _History:
    """Knows one order."""

    def __init__(self, known: OrderView) -> None:
        self.known = known

    async def order(self, slot: str, order_no: int, *, has_left: bool) -> OrderView | None:
        return self.known if (slot, order_no) == (self.known.slot, self.known.order_no) else None


@pytest.mark.parametrize("command", [CommitHold, ReleaseHold])
async def test_a_hold_that_has_expired_is_called_so_before_and_after_it_is_closed(
    command: type[CommitHold] | type[ReleaseHold],
) -> None:
    lone = stocked(LoneCore(a_network(nodes=2, items=2)))
    held = lone.ask(a_place(an_order(), key=7, ttl_s=60))
    assert isinstance(held, OrderView), held
    lone.pass_time(61_000)
    asked = command(held.slot, held.order_no)
    before = lone.ask(asked)
    assert isinstance(before, Problem)
    expired = lone.ask(GetOrder(held.slot, held.order_no))
    assert isinstance(expired, OrderView)
    missing = refuse("not_found", "", "no such order")
    after = await from_past(_History(expired), held.slot, asked, missing)  # type: ignore[arg-type]
    assert isinstance(after, Problem)
    assert before.code == after.code == "expired"


async def test_nothing_of_a_closed_order_changes() -> None:
    lone = stocked(LoneCore(a_network(nodes=2, items=2)))
    view = lone.ask(a_place(an_order(), key=7))
    assert isinstance(view, OrderView), view
    missing = refuse("not_found", "", "no such order")
    command = CancelOrder(view.slot, view.order_no)
    after = await from_past(_History(view), view.slot, command, missing)  # type: ignore[arg-type]
    assert isinstance(after, Problem)
    assert after.code == "wrong_state"
    assert after.errors[0].facts == {"state": view.state}
