"""Facts of the shards as Prometheus families: `quartermaster_shard_<what>_<unit>{shard="0"}`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import Problem

PREFIX = "quartermaster_shard_"
_NOT_MEASURED = frozenset(("shard", "pid", "time_ms"))
_COUNTERS = frozenset(
    ("appends", "append_bytes", "decision_bytes", "cpu_s", "snapshots_written", "snapshot_bytes_written")
)
_NAMES = {
    "batch_size_mean": "batch_size_mean_decisions",
    "claims_in_flight": "in_flight_claims",
    "connections": "open_connections",
    "dirty_parts": "snapshot_dirty_parts",
    "legs_driving": "driven_legs",
    "orders_in_flight": "in_flight_orders",
    "transactions_pending": "pending_transactions",
}
"""Facts whose own name does not end in what is counted."""
_HELP = {
    "append_p99_ms": "99th percentile of recent journal appends.",
    "batch_size_mean": "Mean decisions in one journal entry since the start.",
    "view_lag_ms": "Age of the oldest view of another shard.",
    "dedupe_entries": "Idempotency keys remembered.",
    "dedupe_window_ms": "For how long an idempotency key is remembered at least, as full as the memory of them is.",
    "open_holds": "Reservations held.",
    "archive_lag_entries": "Journal entries that no archive segment holds yet.",
    "archive_silence_ms": "Time since the archiver was last heard of.",
    "index_lag_entries": "Journal entries that the index does not show yet.",
    "waiting_orders": "Orders of which some units wait for stock, capacity or a node.",
    "waiting_units": "Units that wait for stock, capacity or a node.",
    "kept_positions": "Positions that keep units for those who wait.",
    "count_demand_units_refused": "Units of lines that fell short in refused orders.",
    "count_demand_units_parked": "Units that were taken although they have to wait.",
    "count_demand_units_partial": "Units left over of orders that were served as far as possible.",
    "count_demand_units_served": "Units that waited and found a node.",
    "redis_used_bytes": "Memory used by the journal's server.",
    "redis_limit_bytes": "Memory limit of the journal's server, 0 = none.",
    "redis_headroom_ratio": "Share of the journal server's memory that is free; 1 where it has no limit.",
}


def shard_families(facts_by_shard: Mapping[int, dict[str, Any] | Problem]) -> Iterator[Metric]:
    """One family for each fact, over all shards that answered; and which did."""
    up = GaugeMetricFamily(PREFIX + "up", "1 where the shard answered.", labels=("shard",))
    by_fact: dict[str, dict[str, float]] = {}
    for shard, facts in facts_by_shard.items():
        label = "control" if shard == CONTROL_SHARD else str(shard)
        up.add_metric((label,), 0 if isinstance(facts, Problem) else 1)
        if isinstance(facts, Problem):
            continue
        for name, value in facts.items():
            if name not in _NOT_MEASURED and isinstance(value, int | float):
                by_fact.setdefault(name, {})[label] = float(value)
        if "redis_used_bytes" in facts:
            limit = facts.get("redis_limit_bytes") or 0
            headroom = 1.0 - facts["redis_used_bytes"] / limit if limit else 1.0
            by_fact.setdefault("redis_headroom_ratio", {})[label] = headroom
    yield up
    for name, values in sorted(by_fact.items()):
        yield _family(name, values)


def _family(name: str, values: dict[str, float]) -> Metric:
    text = _HELP.get(name, f"Fact {name} of a shard's status.")
    scale = 1.0
    metric = _NAMES.get(name, f"{name}_commands" if name.startswith("queue_") else name)
    if name.endswith("_ms"):
        metric, scale = name.removesuffix("_ms") + "_seconds", 0.001
    elif name.endswith("_s"):
        metric = name.removesuffix("_s") + "_seconds"
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily] = GaugeMetricFamily
    if name.startswith("count_") or name in _COUNTERS:
        kind = CounterMetricFamily
        metric = metric.removeprefix("count_")
    family = kind(PREFIX + metric, text, labels=("shard",))
    for label, value in values.items():
        family.add_metric((label,), value * scale)
    return family
