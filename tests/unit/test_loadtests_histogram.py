"""The histogram agrees with HdrHistogram, whose layout it has, and merging loses nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from loadtests.histogram import Histogram, merged


def _values(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.exp(rng.normal(7, 2.5, 20_000)).astype(np.int64)


@pytest.mark.parametrize("percent", [1, 50, 90, 99, 99.9, 100])
def test_percentiles_agree_with_hdrhistogram(percent: float) -> None:
    values = _values(1)
    mine = Histogram()
    mine.record(values)
    theirs = HdrHistogram(1, 2**36, 3)
    for value in values.tolist():
        theirs.record_value(value)
    assert mine.percentile_us(percent) == pytest.approx(theirs.get_value_at_percentile(percent), rel=2e-3, abs=1)


def test_percentiles_are_within_a_per_mille_of_the_exact_ones() -> None:
    values = np.sort(_values(2))
    mine = Histogram()
    mine.record(values)
    for percent in (10, 50, 99):
        exact = values[int(np.ceil(len(values) * percent / 100)) - 1]
        assert mine.percentile_us(percent) == pytest.approx(exact, rel=2e-3, abs=1)


def test_merging_equals_recording_together() -> None:
    parts = [_values(seed) for seed in (3, 4, 5)]
    together = Histogram()
    together.record(np.concatenate(parts))
    single = []
    for part in parts:
        histogram = Histogram()
        histogram.record(part)
        single.append(Histogram.unpacked(json.loads(json.dumps(histogram.packed()))))
    joined = merged(single)
    assert np.array_equal(joined.counts, together.counts)
    assert joined.summary_ms() == together.summary_ms()
    assert joined.total == 60_000


def test_an_empty_histogram_answers_zero() -> None:
    assert Histogram().percentile_us(99) == 0
    assert Histogram().mean_us == 0
