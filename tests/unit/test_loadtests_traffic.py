"""Traffic is what its spec states, and its JSON is an order."""

from __future__ import annotations

import json

import numpy as np
import pytest

from loadtests.network import Network, NetworkSpec, band_of, build_network
from loadtests.traffic import ORDER_HEAD, Renderer, Traffic, TrafficSpec, arrival_times_s


@pytest.fixture(scope="module")
def network() -> Network:
    return build_network(NetworkSpec(seed=5, warehouses=16, stores=16, skus=400, regions=4))


@pytest.fixture(scope="module")
def plain() -> Network:
    return build_network(NetworkSpec(seed=5, warehouses=4, stores=4, skus=300))


def test_the_same_seed_gives_the_same_orders(plain: Network) -> None:
    spec = TrafficSpec(seed=9)
    assert Traffic(plain, spec).draw(500) == Traffic(plain, spec).draw(500)
    assert Traffic(plain, spec).draw(500) != Traffic(plain, TrafficSpec(seed=10)).draw(500)


def test_a_body_is_an_order_of_distinct_skus(plain: Network) -> None:
    renderer = Renderer(plain)
    for n, order in enumerate(Traffic(plain, TrafficSpec(seed=1)).draw(300)):
        body = json.loads(ORDER_HEAD + b"A-%d" % n + renderer.tail(order, b',"ttl_s":60'))
        assert body["order_id"] == f"A-{n}"
        assert body["ttl_s"] == 60
        assert [line["sku"] for line in body["lines"]] == [plain.items[item].sku for item, _ in order.lines]
        assert len({line["sku"] for line in body["lines"]}) == len(body["lines"])
        assert body["ship_to"]["postal_code"] == plain.places.rows[order.place].postal_code


def test_popular_skus_are_ordered_more(plain: Network) -> None:
    orders = Traffic(plain, TrafficSpec(seed=2)).draw(5_000)
    drawn = np.bincount([item for order in orders for item, _ in order.lines], minlength=300)
    assert drawn[:30].sum() > 4 * drawn[-30:].sum()


def test_fixed_lines_and_hot_set(plain: Network) -> None:
    orders = Traffic(plain, TrafficSpec(seed=2, lines=3, hot_skus=20)).draw(1_000)
    assert {len(order.lines) for order in orders} == {3}
    assert {item for order in orders for item, _ in order.lines} == set(range(20))


@pytest.mark.parametrize("cross", [0.0, 0.1, 0.4])
def test_the_share_of_orders_that_cross_regions_is_the_stated_one(network: Network, cross: float) -> None:
    orders = Traffic(network, TrafficSpec(seed=3, lines=3, cross=cross)).draw(4_000)
    crossing = 0
    for order in orders:
        home = band_of(network.places.rows[order.place].postal_code, 4)
        crossing += any(item % 4 != home for item, _ in order.lines)
    assert crossing / len(orders) == pytest.approx(cross, abs=0.03)


def test_more_lines_than_skus_is_refused(plain: Network) -> None:
    with pytest.raises(ValueError, match="as many SKUs"):
        Traffic(plain, TrafficSpec(lines=21, hot_skus=20))


@pytest.mark.parametrize("burst", [1.0, 10.0])
def test_arrivals_keep_their_mean_rate_and_burst(burst: float) -> None:
    times = arrival_times_s(200, 100, [1, 2], burst_factor=burst)
    assert (np.diff(times) >= 0).all()
    assert len(times) == pytest.approx(20_000, rel=0.05)
    in_last_tenth = np.mean((times % 10) >= 9)
    assert in_last_tenth == pytest.approx(burst / (burst + 9), abs=0.02)
