"""Python's collector of cycles in processes that decide or answer orders: rarely, and never over what is there from the start."""

from __future__ import annotations

import gc

GC_THRESHOLD = 50_000
"""New objects after which cycles are looked for; Python's own 700 are those of a few orders, and an order makes no cycles."""
ARCHIVER_GC_THRESHOLD = 500_000
"""In the archiver, where a batch of 15,000 orders is 200,000 rows, none of them part of a cycle: looking at them costs 1 us an order."""


def quiet_collector(threshold: int = GC_THRESHOLD) -> None:
    """Collect once, then leave everything that is alive now alone. Call it when the state is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(threshold)
