"""What a gateway process says of itself when it is scraped, beside the counters of gateway.metrics."""

from __future__ import annotations

import time
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
        "stock_age": GaugeMetricFamily(
            name + "stock_view_age_seconds",
            "Age of the view of a shard's stock that availability is answered from; none while nobody reads.",
            labels=by_shard,
        ),
        "stock_positions": GaugeMetricFamily(
            name + "stock_view_positions", "Positions in the view of stock.", labels=()
        ),
        "stock_bytes": GaugeMetricFamily(name + "stock_view_bytes", "Memory of the view of stock.", labels=()),
        "streams": GaugeMetricFamily(name + "open_streams", "Live streams being served.", labels=()),
        "streams_refused": CounterMetricFamily(
            name + "refused_streams", "Live streams refused beyond QM_STREAMS_MAX.", labels=()
        ),
        "streams_slow": CounterMetricFamily(
            name + "slow_streams", "Live streams cut off because their client did not read.", labels=()
        ),
        "stream_events": CounterMetricFamily(
            name + "stream_events", "Events sent to live streams, to each of them.", labels=()
        ),
        "stream_gaps": CounterMetricFamily(name + "stream_gaps", "Gaps that live streams were told of.", labels=()),
        "stream_lag": GaugeMetricFamily(
            name + "stream_lag_seconds",
            "How far the live streams are behind a shard's journal; none while nobody listens.",
            labels=by_shard,
        ),
    }


def gateway_families(gateway: Gateway) -> Iterator[Metric]:
    """The families with their values of now."""
    found = empty_families()
    found["in_flight"].add_metric((), gateway.in_flight.now)
    found["connections"].add_metric((), gateway.connections.now)
    found["refused"].add_metric((), gateway.connections.refused)
    for shard, link in sorted(gateway.cluster.links().items()):
        found["age"].add_metric(_label(shard), link.oldest_age_s())
        found["pending"].add_metric(_label(shard), link.pending)
    for shard, age_s in gateway.stock.ages_s(time.monotonic()).items():
        found["stock_age"].add_metric(_label(shard), age_s)
    positions, size_bytes = gateway.stock.size()
    found["stock_positions"].add_metric((), positions)
    found["stock_bytes"].add_metric((), size_bytes)
    live = gateway.live
    found["streams"].add_metric((), len(live.streams))
    found["streams_refused"].add_metric((), live.refused)
    found["streams_slow"].add_metric((), live.closed_slow)
    found["stream_events"].add_metric((), live.sent)
    found["stream_gaps"].add_metric((), live.gaps)
    for shard, lag_s in live.lag_s().items():
        found["stream_lag"].add_metric(_label(shard), lag_s)
    yield from found.values()


def _label(shard: int) -> tuple[str]:
    return ("control" if shard == CONTROL_SHARD else str(shard),)
