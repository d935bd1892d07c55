"""Availability for a destination as one shard answers: only what could be sent there at all, nearest first."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from engine.actors.planner import SolverPlanner
from engine.domain.commands import AdjustStock, GetAvailability, StockMove
from engine.domain.config import Carrier, Document, RateCard
from engine.domain.orders import Destination
from engine.domain.replies import OrderView, Problem, StockReply
from engine.domain.state import ShardState
from engine.settings import Settings
from tests.builders import a_channel, a_destination, a_network, a_node, a_place, a_service, an_item, an_order
from tests.sim.lone_core import LoneCore

NEW_YORK = a_destination()
TORONTO = Destination("CA", "M5V", lat=43.64, lon=-79.39)


def a_coast(*, band_km: int = 9_000, reach_km: int = 0, currency: str = "USD", **service: Any) -> LoneCore:
    """Nodes in Los Angeles, Philadelphia (133 km from New York) and New York, in this order, and one carrier's service."""

    def a_planner(state: ShardState) -> SolverPlanner:
        return SolverPlanner(state, Settings(reach_km=reach_km))

    nodes = [
        a_node("LAX", postal_code="90001", lat=33.97, lon=-118.25),
        a_node("PHL", postal_code="19103", lat=39.95, lon=-75.17),
        a_node("NYC"),
    ]
    items = [an_item("SKU-0", weight_g=400), an_item("SKU-1"), an_item("KIT", components={"SKU-0": 2, "SKU-1": 1})]
    documents: list[Document] = [*a_network(nodes=nodes, items=items)]
    card = RateCard(break_g=[30_000], price_minor=[[700], [900]], currency=currency)
    documents[2] = Carrier(
        carrier_id="acme", services=[a_service(band_km=[50, band_km], transit_days=[1, 3], cards=[card], **service)]
    )
    documents.append(a_channel("euro", currency="EUR"))
    shop = LoneCore(documents, make_planner=a_planner)
    for node in ("LAX", "PHL", "NYC"):
        moves = tuple(StockMove(sku, "received", 4) for sku in ("SKU-0", "SKU-1"))
        assert not isinstance(shop.ask(AdjustStock(node, moves)), Problem)
    return shop


def reached(shop: LoneCore, ship_to: Destination | None = NEW_YORK, *skus: str, **fields: Any) -> list[tuple[str, int]]:
    reply = shop.ask(GetAvailability(skus or ("SKU-0",), ship_to=ship_to, **fields))
    assert isinstance(reply, StockReply), reply
    return [(view.node_id, round(view.distance_m / 1_000)) for view in reply.positions]


def test_nodes_come_nearest_first_with_their_distance() -> None:
    shop = a_coast()
    near, middle, far = reached(shop)
    assert (near[0], middle, far[0]) == ("NYC", ("PHL", 133), "LAX")
    assert near[1] < 10 < 3_900 < far[1]
    assert [node for node, _ in reached(shop, NEW_YORK, "KIT", "SKU-0")] == ["NYC", "PHL", "LAX"] * 2
    assert [node for node, _ in reached(shop, None)] == ["LAX", "NYC", "PHL"]
    assert reached(shop, node_id="PHL") == [("PHL", 133)]


@pytest.mark.parametrize(
    ("network", "channel", "wanted"),
    [
        ({"band_km": 132}, None, ["NYC"]),
        ({"band_km": 133}, None, ["NYC", "PHL"]),
        ({"reach_km": 132}, None, ["NYC"]),
        ({"reach_km": 133}, None, ["NYC", "PHL"]),
        ({"countries": ["US"]}, None, ["NYC", "PHL", "LAX"]),
        ({"countries": ["CA"]}, None, []),
        ({}, "web", ["NYC", "PHL", "LAX"]),
        ({}, "euro", []),
        ({"currency": "EUR"}, "euro", ["NYC", "PHL", "LAX"]),
    ],
)
def test_nodes_that_no_plan_could_send_from_are_left_out(
    network: dict[str, Any], channel: str | None, wanted: list[str]
) -> None:
    """What is shown is what orders get: one at a time from each node alone."""
    shop = a_coast(**network)
    assert [node for node, _ in reached(shop, channel=channel)] == wanted
    served = []
    order = an_order(channel=channel or "web", currency="EUR" if channel == "euro" else "USD")
    for node in ("NYC", "PHL", "LAX"):
        for other in ("NYC", "PHL", "LAX"):
            kind = "received" if other == node else "damaged"
            assert not isinstance(shop.ask(AdjustStock(other, (StockMove("SKU-0", kind, 50),))), Problem)
        placed = shop.ask(a_place(structs.replace(order, order_id=f"A-{node}")))
        served += [leg.node_id for leg in placed.legs] if isinstance(placed, OrderView) else []
        for other in ("NYC", "PHL", "LAX"):
            kind = "damaged" if other == node else "received"
            assert not isinstance(shop.ask(AdjustStock(other, (StockMove("SKU-0", kind, 50),))), Problem)
    assert served == wanted


def test_a_carrier_that_goes_abroad_reaches_from_afar() -> None:
    assert [node for node, _ in reached(a_coast(countries=["CA"]), TORONTO)] == ["PHL", "NYC", "LAX"]
    assert reached(a_coast(countries=["US"]), TORONTO) == []


def test_a_destination_that_is_nowhere_is_refused() -> None:
    refused = a_coast().ask(GetAvailability(("SKU-0",), ship_to=Destination("FR", "75001")))
    assert isinstance(refused, Problem)
    assert (refused.code, refused.errors[0].pointer) == ("unknown_destination", "/postal_code")
    assert refused.errors[0].facts["parameter"] == "postal_code"
