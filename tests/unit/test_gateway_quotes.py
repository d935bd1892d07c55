"""What an order without an option gets of a quote that offers stores too."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from engine.domain.commands import Quoted
from engine.domain.config import QUOTE_SECRET
from engine.domain.orders import OrderRequest, collected_at
from engine.domain.replies import OptionView, QuoteReply
from gateway.call import Answer
from gateway.orders.schemas import Order, order_request
from gateway.quotes.routes import _quoted
from gateway.quotes.schemas import Quote
from gateway.quotes.sealed import take_up

CATALOG: Any = SimpleNamespace(secrets={QUOTE_SECRET: b"5a" * 16})
CALL: Any = SimpleNamespace(gateway=SimpleNamespace(cluster=SimpleNamespace(catalog=CATALOG)))


def an_option(service: str, cash: int, policy: int, node_id: str = "") -> OptionView:
    return OptionView(service, (), (), 0, (cash, 0, policy, 0), 1_000, 2_000, "separable", node_id)


def an_asked_order(**fields: Any) -> tuple[Order, OrderRequest]:
    lines = [{"line_id": "1", "sku": "SKU-0", "quantity": 1}]
    body = {"order_id": "A-1", "channel": "web", "lines": lines, **fields}
    order = msgspec.convert(body, Order)
    request = order_request(order, max_lines=10, needs_destination=False)
    assert isinstance(request, OrderRequest)
    return order, request


def a_quote(*options: OptionView) -> Quote:
    reply = QuoteReply(options, "US100", 0, 1, 1, 1, 5_000, len(options), 0)
    answer = _quoted(an_asked_order()[1], 900, CALL, reply)
    assert isinstance(answer, Answer) and isinstance(answer.value, Quote)
    return answer.value


@pytest.mark.parametrize(
    ("node_id", "service", "wanted"),
    [
        ("", "standard", "express"),
        ("S-1", "standard", "S-1"),
        ("", "express", "express"),
        ("S-2", "standard", "S-2"),
    ],
)
def test_an_order_that_names_no_option_gets_the_best_for_its_lines(node_id: str, service: str, wanted: str) -> None:
    quote = a_quote(
        an_option("standard", 500, 400),
        an_option("express", 600, 0),
        an_option("standard", 0, 0, "S-1"),
        an_option("standard", 10, 0, "S-2"),
    )
    assert [option.option_id for option in quote.options if option.best] == ["S-1"]
    order, request = an_asked_order(quote_id=quote.quote_id, service=service)
    found = take_up(CATALOG, order, collected_at(request, node_id) if node_id else request)
    assert isinstance(found, tuple), found
    assert isinstance(found[1], Quoted)
    assert found[1].option == wanted
