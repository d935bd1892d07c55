"""Measurements of one gateway process: plain counters on the hot path, turned into Prometheus families when scraped.

Labels are bounded: route templates and statuses, never an id or a SKU.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
BATCH_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)


class _Histogram:
    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        found: list[tuple[str, float]] = []
        running = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            found.append(("+Inf" if bound == float("inf") else str(bound), running))
        return found


class Metrics:
    """A Prometheus collector over the gateway's own counters."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = {}
        """By (route, status)."""
        self._latency: dict[str, _Histogram] = {}
        self._batch = _Histogram(BATCH_BUCKETS)
        self.replayed = 0
        self.problems: dict[str, int] = {}

    def done(self, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        key = (route, status)
        requests = self.requests
        requests[key] = requests.get(key, 0) + 1
        histogram = self._latency.get(route)
        if histogram is None:
            histogram = self._latency[route] = _Histogram(BUCKETS_S)
        histogram.observe(seconds)

    def refused(self, code: str) -> None:
        self.problems[code] = self.problems.get(code, 0) + 1

    def batch(self, orders: int) -> None:
        self._batch.observe(orders)

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "quartermaster_gateway_requests", "Requests answered, by route and status.", labels=("route", "status")
        )
        for (route, status), count in sorted(self.requests.items()):
            requests.add_metric((route, str(status)), count)
        yield requests
        problems = CounterMetricFamily(
            "quartermaster_gateway_problems", "Problems answered, by code.", labels=("code",)
        )
        for code, count in sorted(self.problems.items()):
            problems.add_metric((code,), count)
        yield problems
        latency = HistogramMetricFamily(
            "quartermaster_gateway_request_seconds", "Time from a request's headers to its answer.", labels=("route",)
        )
        for route, histogram in sorted(self._latency.items()):
            latency.add_metric((route,), histogram.cumulative(), histogram.total)
        yield latency
        batch = HistogramMetricFamily("quartermaster_gateway_batch_orders", "Orders in a batch request.")
        batch.add_metric((), self._batch.cumulative(), self._batch.total)
        yield batch
        replayed = CounterMetricFamily(
            "quartermaster_gateway_replayed_answers", "Answers given again to a repeated key."
        )
        replayed.add_metric((), self.replayed)
        yield replayed
