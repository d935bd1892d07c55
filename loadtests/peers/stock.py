"""What the Redis peers share: the network they serve, their stock in Redis, the script, and the keys of one order."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import redis

from loadtests.network import Network, NetworkSpec, build_network

SPEC_ENV = "QM_PEER_NETWORK"
REDIS_ENV = "QM_PEER_REDIS"
IDEMPOTENCY_S = "86400"
RETRIES = 3
SCRIPT = (Path(__file__).parent / "reserve.lua").read_text()


def peer_network() -> Network:
    """The network that the bench generated, made again from its spec."""
    return build_network(msgspec.json.decode(os.environ[SPEC_ENV], type=NetworkSpec))


def position_key(node: int, item: int) -> str:
    return f"s:{node}:{item}"


def load_stock(url: str, network: Network) -> None:
    """Set every position; done by the bench before the peers start."""
    client = redis.Redis.from_url(url)
    stock = network.stock
    rows = list(zip(stock.node.tolist(), stock.item.tolist(), stock.units.tolist(), strict=True))
    for first in range(0, len(rows), 5_000):
        client.mset({position_key(node, item): units for node, item, units in rows[first : first + 5_000]})
    client.close()
