"""Compile the kernel before it is needed: `python -m solvers.warm` after an installation, `warm()` before a shard is ready.

Compiling takes ten to thirty seconds once, loading what was compiled a fraction of one. Processes that start together wait for
the first of them instead of all doing the same work.
"""

from __future__ import annotations

import fcntl
import sys
import time
from pathlib import Path

import numba
import numpy as np

from solvers import layout as at
from solvers.kernel import plan_batch
from solvers.network import Compiled
from solvers.numba_load import load_numba
from solvers.places import exact_km, sphere
from solvers.ways import enumerate_ways, own_optima
from solvers.zips import US_ZIPS

_done = False


def warm() -> None:
    """Compile or load everything that planning calls. Once a process; further calls return at once."""
    global _done
    if _done:
        return
    folder = Path(numba.config.CACHE_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        load_numba()
        _plan_nothing()
        US_ZIPS.load()
    _done = True


def _plan_nothing() -> None:
    compiled = Compiled([], [], [])
    compiled.refresh(0)
    long, short = np.zeros(2, np.int64), np.zeros(1, np.int32)
    stock = at.Stock(long, short, short, short, short, short, short, short, short, short, short[:0])
    ring = np.zeros((1, at.RING), np.int32)
    load = at.Load(ring, ring, ring, np.zeros(1, np.uint8))
    batch = at.Batch(
        np.zeros((0, at.ORDER_COLUMNS), np.int64),
        np.zeros((0, at.LINE_COLUMNS), np.int64),
        np.zeros(0, np.int32),
        np.zeros((0, 2)),
        sphere(np.zeros(1), np.zeros(1)),
        compiled.flags,
        np.zeros((0, at.ITEM_COLUMNS), np.int64),
    )
    scratch = at.make_scratch(nodes=1, lines=1, batch_lines=1)
    plan_batch(compiled.atlas, stock, load, batch, scratch, at.make_outcome(parts=1, lines=1), 24, 0)
    chosen = np.zeros(0, np.int64)
    enumerate_ways(compiled.atlas, stock, load, batch, scratch, chosen, at.make_ways(parts=1, takes=1), 24, 0, 8, 1)
    own_optima(compiled.atlas, stock, load, batch, scratch, chosen, chosen, 24, 0)
    exact_km(0.0, 0.0, 0.0, 0.0)


if __name__ == "__main__":
    from solvers import worker  # OR-Tools: shards, which import this module too, do without its 60 MB

    started = time.monotonic()
    sys.stdout.write("Compiling the kernel (once)... ")
    sys.stdout.flush()
    warm()
    worker.warm()
    sys.stdout.write(f"{time.monotonic() - started:.1f} s\n")
