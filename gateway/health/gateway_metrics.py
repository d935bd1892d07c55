"""What a gateway process says of itself when it is scraped, beside the counters of gateway.metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from engine.domain.placement import CONTROL_SHARD

if TYPE_CHECKING:
    from gateway.gateway import Gateway


def empty_families() -> dict[str, Metric]:
    """Each family without values, by what it tells."""
    name = "quartermaster_gateway_"
    by_shard = ("shard",)
    return {
        "in_flight": GaugeMetricFamily(name + "in_flight_requests", "Requests being worked on.", labels=()),
        "connections": GaugeMetricFamily(name + "open_connections", "Connections being served.", labels=()),
        "refused": CounterMetricFamily(
            name + "refused_connections", "Connections turned away beyond the limit.", labels=()
        ),
        "age": GaugeMetricFamily(
            name + "queue_age_seconds", "Age of the oldest unanswered command, by shard.", labels=by_shard
        ),
        "pending": GaugeMetricFamily(
            name + "pending_commands", "Commands sent or waiting to be sent, by shard.", labels=by_shard
        ),
    }


def gateway_families(gateway: Gateway) -> Iterator[Metric]:
    """The families with their values of now."""
    found = empty_families()
    found["in_flight"].add_metric((), gateway.in_flight.now)
    found["connections"].add_metric((), gateway.connections.now)
    found["refused"].add_metric((), gateway.connections.refused)
    for shard, link in sorted(gateway.cluster.links().items()):
        label = "control" if shard == CONTROL_SHARD else str(shard)
        found["age"].add_metric((label,), link.oldest_age_s())
        found["pending"].add_metric((label,), link.pending)
    yield from found.values()
