"""Python's collector of cycles in processes that decide or answer orders: rarely, and never over what is there from the start."""

from __future__ import annotations

import gc

GC_THRESHOLD = 50_000
"""New objects after which cycles are looked for; Python's own 700 are those of a few orders, and an order makes no cycles."""


def quiet_collector() -> None:
    """Collect once, then leave everything that is alive now alone. Call it when the state is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
