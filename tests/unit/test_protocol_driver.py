"""The second phase at home: what an acknowledgement costs the journal (D3 of engine/protocol/driver.py)."""

from __future__ import annotations

import msgspec

from engine.domain.commands import AdjustStock, StockMove
from engine.domain.events import DriveAcked, Event, OrderPut
from engine.domain.replies import OrderView
from engine.protocol.driver import ACK_WAIT_MS
from tests.builders import a_place, an_order
from tests.sim.little_cluster import LittleCluster


def _cluster() -> LittleCluster:
    """Shard 0 decides; the only units are at a node of shard 1."""
    cluster = LittleCluster(shards=2, nodes=4, items=2)
    away = next(n for n, owner in enumerate(cluster.cores[0].catalog.owner) if owner == 1)
    cluster.ask(1, AdjustStock(f"N-{away}", (StockMove("SKU-0", "received", 5),)))
    cluster.now_ms += 100  # views are pushed every few milliseconds
    cluster.settle()
    return cluster


def _home_events(cluster: LittleCluster, after: int) -> list[list[type]]:
    decode = msgspec.msgpack.Decoder(list[Event]).decode
    return [[type(event) for event in decode(entry.payload)] for entry in cluster.entries[0][after:]]


def _place(cluster: LittleCluster, n: int) -> None:
    assert isinstance(cluster.ask(0, a_place(an_order(f"A-{n}"), key=n)), OrderView)


def test_an_acknowledgement_shares_the_entry_of_the_next_order() -> None:
    cluster = _cluster()
    before = len(cluster.entries[0])
    _place(cluster, 1)
    _place(cluster, 2)
    assert _home_events(cluster, before) == [[OrderPut], [OrderPut, DriveAcked]]


def test_an_acknowledgement_without_company_is_journaled_after_a_while() -> None:
    cluster = _cluster()
    before = len(cluster.entries[0])
    _place(cluster, 1)
    assert _home_events(cluster, before) == [[OrderPut]]
    cluster.now_ms += ACK_WAIT_MS
    cluster.settle()
    assert _home_events(cluster, before) == [[OrderPut], [DriveAcked]]
