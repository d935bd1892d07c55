"""Facts of the shards as Prometheus families: `quartermaster_shard_<what>_<unit>{shard="0"}`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from engine.domain.config import KEY_FIELD
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import Problem
from gateway.health.metric_help import HELP, KIND_HELP

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


def shard_families(facts_by_shard: Mapping[int, dict[str, Any] | Problem]) -> Iterator[Metric]:
    """One family for each fact, over all shards that answered; and which did."""
    up = up_family()
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


def up_family() -> Metric:
    return GaugeMetricFamily(PREFIX + "up", "1 where the shard answered.", labels=("shard",))


def facts_documented() -> dict[str, str]:
    """Help by fact, of every fact that a shard states."""
    return {**HELP, **{f"documents_{kind}": KIND_HELP for kind in KEY_FIELD}}


def empty_family(fact: str) -> Metric:
    """The family of a fact, with its name, type and help, without values."""
    text = HELP.get(fact) or (KIND_HELP if fact.startswith("documents_") else f"Fact {fact} of a shard's status.")
    metric = _NAMES.get(fact, f"{fact}_commands" if fact.startswith("queue_") else fact)
    for suffix in ("_ms", "_s"):
        if fact.endswith(suffix):
            metric = fact.removesuffix(suffix) + "_seconds"
            break
    if fact.startswith("count_") or fact in _COUNTERS:
        return CounterMetricFamily(PREFIX + metric.removeprefix("count_"), text, labels=("shard",))
    return GaugeMetricFamily(PREFIX + metric, text, labels=("shard",))


def _family(fact: str, values: dict[str, float]) -> Metric:
    family = empty_family(fact)
    scale = 0.001 if fact.endswith("_ms") else 1.0
    for label, value in values.items():
        family.add_metric((label,), value * scale)
    return family
