"""An order in a currency that no rate card is in is refused before it is planned, with the currencies that there are."""

from __future__ import annotations

from engine.domain.commands import AdjustStock, StockMove
from engine.domain.config import RateCard
from engine.domain.orders import Method
from engine.domain.replies import OrderView, Problem
from tests.builders import a_carrier, a_channel, a_line, a_network, a_node, a_place, a_service, an_order
from tests.sim.lone_core import LoneCore


def a_shop(currency: str) -> LoneCore:
    """A channel that sells in `currency`; the carrier's only card is in dollars."""
    node = a_node("N-0", offers=("ship", "pickup"))
    shop = LoneCore(a_network(nodes=[node], channel=a_channel(currency=currency)))
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 5),)))
    return shop


def test_a_shipped_order_needs_a_card_in_its_currency() -> None:
    reply = a_shop("EUR").ask(a_place(an_order(currency="EUR")))
    assert isinstance(reply, Problem) and reply.code == "currency_not_priced"
    (fault,) = reply.errors
    assert (fault.pointer, fault.facts) == ("/currency", {"currency": "EUR", "priced_in": ["USD"]})
    assert isinstance(a_shop("USD").ask(a_place(an_order())), OrderView)


def test_a_service_level_nobody_serves_is_still_that() -> None:
    reply = a_shop("EUR").ask(a_place(an_order(currency="EUR", service="rocket")))
    assert isinstance(reply, Problem) and reply.code == "unknown_service"


def test_what_is_picked_up_needs_no_card() -> None:
    line = a_line(method=Method.PICKUP, pickup_node_id="N-0")
    assert isinstance(a_shop("EUR").ask(a_place(an_order(lines=[line], currency="EUR"))), OrderView)


def test_a_card_that_comes_later_is_used_from_then_on() -> None:
    shop = a_shop("EUR")
    card = RateCard(break_g=[30_000], price_minor=[[500], [900]], currency="EUR")
    other = a_carrier("other", services=[a_service("parcel", cards=[card])])
    shop.put(other)
    assert isinstance(shop.ask(a_place(an_order(currency="EUR"))), OrderView)
