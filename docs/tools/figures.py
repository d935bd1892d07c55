"""Writes the figures table of README.md from loadtests/results/latest.json. Run after `make bench`: .venv/bin/python docs/tools/figures.py"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
RESULTS = ROOT / "loadtests" / "results" / "latest.json"
BEGIN, END = "<!-- figures: made by docs/tools/figures.py -->", "<!-- end of figures -->"

MEANING = {
    "single_vs_fastapi_echo": "Single orders a second, durable, c=64 / a FastAPI + pydantic echo of the same order",
    "single_vs_fastapi_redis_lua": "The same / FastAPI + pydantic + scoring + one Redis Lua check-and-decrement an order",
    "single_vs_batched_redis_lua": "The same / Redis Lua in pipelined batches behind our own HTTP path",
    "fsync_vs_everysec": "Orders a second with every answer on disk first / with the disk once a second",
    "batch_vs_fastapi_echo": "Orders a second in batches of 100 / the single-order FastAPI echo",
    "availability_vs_fastapi_echo": "Availability reads a second / the FastAPI echo",
    "p50_vs_redis_write": "Median of one lone allocation / one Lua write through redis-py, same server",
    "solver_vs_cpsat": "Full CP-SAT / our joint solver, 64 orders, 100 nodes, normal stock",
    "solver_vs_cpsat_tight": "CP-SAT after the same decomposition / ours, 64 orders, 20 nodes, tight stock",
    "single_contended": "Single orders a second on a hot set with 30 % refusals / on normal stock",
    "gap_tight_pct": "Cost over the proven optimum, tight stock, mean of 20 seeds, per cent",
    "decide_vs_decode": "CPU to decide, apply and record a 3-line order / to decode it",
    "cpu_by_shards": "CPU an order with 4 shards / with 1, a tenth of orders across shards",
    "cpu_by_catalogue": "CPU an order with 1,000,000 positions / with 10,000",
    "bytes_per_position": "Resident bytes a stocked position at 1,000,000",
    "bytes_per_open_hold": "Resident bytes an open 3-line hold at 1,000,000",
    "wal_bytes_per_order": "Journal and decision bytes a 3-line order",
    "archive_vs_decide": "CPU of archiving an order / of deciding it",
    "restart_s": "Seconds from kill -9 of a shard with 1,000,000 positions to serving",
}
LOWER_IS_BETTER = {
    "p50_vs_redis_write", "gap_tight_pct", "decide_vs_decode", "cpu_by_shards", "cpu_by_catalogue", "bytes_per_position",
    "bytes_per_open_hold", "wal_bytes_per_order", "archive_vs_decide", "restart_s",
}  # fmt: skip


def table(results: dict[str, Any]) -> str:
    """The Markdown of one run: a row a figure, then what it was measured on."""
    rows = ["| Figure | Measured | Range | Budget | |", "| --- | ---: | ---: | ---: | --- |"]
    for key, meaning in MEANING.items():
        figure = results["figures"].get(key)
        if figure is None:
            continue
        value, floor = figure["value"], figure["floor"]
        good = value <= floor if key in LOWER_IS_BETTER else value >= floor
        sign = "≤" if key in LOWER_IS_BETTER else "≥"
        spread = f"{_number(figure['low'])} to {_number(figure['high'])}"
        mark = "" if good else "missed"
        rows.append(f"| {meaning} | **{_number(value)}** | {spread} | {sign} {_number(floor)} | {mark} |")
    scale = results.get("scale", "full")
    told = "make bench QUICK=1" if scale == "reduced" else "make bench"
    machine = results["machine"]
    where = machine if isinstance(machine, str) else ", ".join(f"{name} {value}" for name, value in machine.items())
    rows += ["", f"Measured by `{told}` at commit `{results['commit'][:12]}`, seed {results['seed']}, on: {where}."]
    return "\n".join(rows)


def _number(value: float) -> str:
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def with_figures(readme: str, results: dict[str, Any]) -> str:
    """The README with its figures block replaced. ValueError where it has none."""
    block = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.S)
    if not block.search(readme):
        raise ValueError(f"README.md has no block between {BEGIN} and {END}")
    return block.sub(lambda _: f"{BEGIN}\n{table(results)}\n{END}", readme)


if __name__ == "__main__":
    README.write_text(with_figures(README.read_text("utf-8"), json.loads(RESULTS.read_text("utf-8"))), encoding="utf-8")
