"""Prepared requests are well-formed HTTP: lengths fit, ids and keys are where they belong and never repeat."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests.network import Network, NetworkSpec, build_network
from loadtests.pools import Requests, fixed_pool, load_pool, make_pool, save_pool
from loadtests.traffic import Traffic, TrafficSpec


@pytest.fixture(scope="module")
def network() -> Network:
    return build_network(NetworkSpec(seed=5, warehouses=2, stores=2, skus=50))


def _parse(data: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert int(headers.get("content-length", "0")) == len(body)
    return first, headers, body


def _requests(network: Network, tmp_path: Path, batch: int) -> Requests:
    orders = Traffic(network, TrafficSpec(seed=1)).draw(100)
    pool = make_pool(network, orders, path="/v1/x", headers={"authorization": "Bearer k"}, batch=batch)
    return Requests(load_pool(save_pool(pool, tmp_path / "pool")), host="h:1", id_prefix="run-")


def test_single_orders(network: Network, tmp_path: Path) -> None:
    requests = _requests(network, tmp_path, 1)
    for i in range(250):  # more than the pool holds: bodies come again, ids do not
        first, headers, body = _parse(requests.build(i, 1_000 + i))
        order = json.loads(body)
        assert first == "POST /v1/x HTTP/1.1"
        assert headers["idempotency-key"] == order["order_id"] == f"run-{1_000 + i:09d}"
        assert headers["authorization"] == "Bearer k"
        assert "idempotency_key" not in order


def test_batches_give_every_order_its_own_key(network: Network, tmp_path: Path) -> None:
    requests = _requests(network, tmp_path, 30)
    assert len(requests) == 3  # what does not fill a batch is left out
    _, headers, body = _parse(requests.build(4, 500))
    orders = json.loads(body)["orders"]
    assert [order["order_id"] for order in orders] == [f"run-{n:09d}" for n in range(500, 530)]
    assert all(order["idempotency_key"] == order["order_id"] for order in orders)
    assert headers["idempotency-key"] == "run-000000500"


def test_fixed_requests_with_and_without_keys() -> None:
    entries = [("/a?b=1", b""), ("/c", b"{}")]
    plain = Requests(fixed_pool(entries, method="GET", headers={}, keyed=False), host="h", id_prefix="")
    assert _parse(plain.build(0, 7))[0] == "GET /a?b=1 HTTP/1.1"
    assert _parse(plain.build(1, 7))[2] == b"{}"
    keyed = Requests(fixed_pool(entries[1:], method="POST", headers={}, keyed=True), host="h", id_prefix="p")
    first, headers, body = _parse(keyed.build(0, 7))
    assert (first, headers["idempotency-key"], body) == ("POST /c HTTP/1.1", "p000000007", b"{}")
