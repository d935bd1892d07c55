"""A histogram of durations with three significant digits at every scale, merged by adding: the layout of HdrHistogram.

Recording is in bulk (NumPy), so that a driver only appends numbers while it measures. Percentiles are never averaged:
merge the histograms, then ask. One per mille is the largest error of a value that comes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

_HALF_BITS = 10
_MAX_POWER = 26  # up to 2**37 us, more than a day
_SIZE = (_MAX_POWER + 2) << _HALF_BITS


class Histogram:
    """Counts of durations in whole microseconds."""

    def __init__(self) -> None:
        self.counts = np.zeros(_SIZE, np.int64)
        self.max_us = 0
        self.sum_us = 0

    def record(self, values_us: Sequence[int] | np.ndarray) -> None:
        """Add durations in microseconds; negative ones count as 0."""
        values = np.maximum(np.asarray(values_us, np.int64), 0)
        if not len(values):
            return
        self.max_us = max(self.max_us, int(values.max()))
        self.sum_us += int(values.sum())
        power = np.maximum(np.frexp(values.astype(np.float64))[1] - (_HALF_BITS + 1), 0)
        index = np.minimum((power << _HALF_BITS) + (values >> power), _SIZE - 1)
        self.counts += np.bincount(index, minlength=_SIZE)

    def merge(self, other: Histogram) -> None:
        self.counts += other.counts
        self.max_us = max(self.max_us, other.max_us)
        self.sum_us += other.sum_us

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    @property
    def mean_us(self) -> float:
        total = self.total
        return self.sum_us / total if total else 0.0

    def percentile_us(self, percent: float) -> int:
        """The duration that `percent` of all recorded ones do not exceed (upper edge of its bucket); 0 where empty."""
        total = self.total
        if not total:
            return 0
        wanted = max(1, int(np.ceil(total * percent / 100 - 1e-9)))
        index = int(np.searchsorted(np.cumsum(self.counts), wanted))
        power = max(0, (index >> _HALF_BITS) - 1)
        low = (index - (power << _HALF_BITS)) << power
        return min(low + (1 << power) - 1, self.max_us)

    def summary_ms(self) -> dict[str, float]:
        """p50, p90, p99, p99.9, the largest and the mean, in milliseconds."""
        out = {f"p{p:g}": self.percentile_us(p) / 1_000 for p in (50, 90, 99, 99.9)}
        return out | {"max": self.max_us / 1_000, "mean": self.mean_us / 1_000}

    def packed(self) -> dict[str, Any]:
        """A small JSON form: only buckets that hold something."""
        index = np.flatnonzero(self.counts)
        return {
            "buckets": [[int(i), int(self.counts[i])] for i in index],
            "max_us": self.max_us,
            "sum_us": self.sum_us,
        }

    @classmethod
    def unpacked(cls, data: dict[str, Any]) -> Histogram:
        made = cls()
        for index, count in data["buckets"]:
            made.counts[index] = count
        made.max_us, made.sum_us = data["max_us"], data["sum_us"]
        return made


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """One histogram of all."""
    out = Histogram()
    for histogram in histograms:
        out.merge(histogram)
    return out
