"""What the fold reads of a record is what the record says."""

from __future__ import annotations

import msgspec
import pytest

from engine.archive.fold import FoldedRecord, decode_folded
from engine.domain.events import Event, OrderPut
from engine.domain.labels import order_label
from engine.domain.orders import OrderRecord, decode_record, has_ended
from tests.sim.little_cluster import LittleCluster
from tests.unit.test_verify_books import Traffic

_events = msgspec.msgpack.Decoder(list[Event])


def told(record: OrderRecord | FoldedRecord) -> dict[str, object]:
    """All that rows are made of."""
    whole = record.as_record() if isinstance(record, FoldedRecord) else record
    return {
        "order_id": record.order_id,
        "channel": record.channel,
        "customer_id": record.customer_id,
        "rung": record.rung,
        "decided_at": record.decided_at,
        "items": [line.item for line in record.lines],
        "legs": [(leg.leg_no, leg.node, leg.state) for leg in record.legs],
        "label": order_label(whole),
        "ended": has_ended(whole),
    }


@pytest.mark.parametrize("seed", [3, 17])
def test_a_folded_record_tells_what_the_whole_one_does(seed: int) -> None:
    cluster = LittleCluster(shards=2)
    Traffic(cluster, seed).run(250)
    labels = set()
    for append in (one for entries in cluster.entries for one in entries):
        for event in _events.decode(append.payload):
            if isinstance(event, OrderPut):
                record = decode_record(event.record)
                labels.add(order_label(record))
                assert told(decode_folded(event.record)) == told(record)
    assert len(labels) > 4, labels


def test_a_folded_record_has_the_fields_of_the_whole_one_in_their_places() -> None:
    names = FoldedRecord.__struct_fields__
    assert names == OrderRecord.__struct_fields__[: len(names)]
