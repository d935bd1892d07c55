"""The generated network is the same for a seed, valid as configuration, and its stock covers the demand it states."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from engine.domain.config import Carrier, Channel, Item, Node
from loadtests.network import Network, NetworkSpec, build_network
from loadtests.places import us_places

SPEC = NetworkSpec(seed=7, warehouses=6, stores=24, skus=800, orders=5_000, kit_share=0.01, capacity_slack=2.0)


@pytest.fixture(scope="module")
def network() -> Network:
    return build_network(SPEC)


def test_the_same_seed_gives_the_same_network(network: Network) -> None:
    again = build_network(SPEC)
    encode = msgspec.json.encode
    assert encode(again.nodes) == encode(network.nodes)
    assert encode(again.items) == encode(network.items)
    for mine, theirs in zip(network.stock, again.stock, strict=True):
        assert np.array_equal(mine, theirs)


def test_another_seed_gives_another_network(network: Network) -> None:
    other = build_network(NetworkSpec(**{**vars(SPEC), "seed": 8}))
    assert [n.postal_code for n in other.nodes] != [n.postal_code for n in network.nodes]


@pytest.mark.parametrize(
    ("field", "kind"), [("nodes", Node), ("items", Item), ("channels", Channel), ("carriers", Carrier)]
)
def test_documents_are_valid_configuration(network: Network, field: str, kind: type) -> None:
    for document in getattr(network, field):
        assert msgspec.json.decode(msgspec.json.encode(document), type=kind) == document


def test_every_sku_without_components_is_stocked_and_kits_are_not(network: Network) -> None:
    stocked = set(network.stock.item.tolist())
    kits = {i for i, item in enumerate(network.items) if item.components}
    assert kits
    assert stocked == set(range(len(network.items))) - kits


def test_stock_covers_demand_times_coverage(network: Network) -> None:
    units = np.zeros(len(network.items))
    np.add.at(units, network.stock.item, network.stock.units)
    wanted = network.popularity * SPEC.orders * SPEC.units_per_order * SPEC.coverage
    plain = np.array([not item.components for item in network.items])
    assert (units[plain] >= np.floor(wanted[plain])).all()
    assert units.sum() < 2 * wanted.sum() + len(network.stock.node)


def test_positions_are_unique_and_only_warehouses_take_handling_tags(network: Network) -> None:
    pairs = list(zip(network.stock.node.tolist(), network.stock.item.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    tagged = {i for i, item in enumerate(network.items) if item.tags}
    assert tagged
    assert all(network.nodes[node].kind == "warehouse" for node, item in pairs if item in tagged)


def test_by_node_yields_every_position_once(network: Network) -> None:
    rows = np.concatenate([rows for _, rows in network.stock.by_node()])
    assert sorted(rows.tolist()) == list(range(len(network.stock.node)))


def test_regions_keep_stock_where_their_shard_is() -> None:
    network = build_network(NetworkSpec(seed=3, warehouses=16, stores=16, skus=400, regions=4))
    for node, item in zip(network.stock.node.tolist(), network.stock.item.tolist(), strict=True):
        assert int(network.nodes[node].postal_code[:3]) * 4 // 1_000 == item % 4


def test_destinations_follow_the_weights() -> None:
    places = us_places()
    drawn = places.draw(np.random.default_rng(1), 200_000)
    states = np.array([row.region for row in places.rows])
    share = np.mean(states[drawn] == "CA")
    assert share == pytest.approx(places.weight[states == "CA"].sum(), abs=0.005)


def test_real_populations_replace_the_weights_and_unknown_codes_are_left_out() -> None:
    places = us_places().reweighted({"10001": 3, "60614": 1, "99999": 50})
    assert [row.postal_code for row in places.rows] == ["10001", "60614"]
    assert places.weight.tolist() == [0.75, 0.25]
    with pytest.raises(ValueError, match="no postal code"):
        us_places().reweighted({"00000": 5})


def test_a_network_prints_as_json_documents(network: Network) -> None:
    assert json.loads(msgspec.json.encode(network.nodes[0]))["node_id"] == "WH-0001"
