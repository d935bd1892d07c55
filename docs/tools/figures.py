"""Writes the figures table of README.md from loadtests/results/latest.json. Run after `make bench`: .venv/bin/python -m docs.tools.figures"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from loadtests.keys import KEYS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
RESULTS = ROOT / "loadtests" / "results" / "latest.json"
BEGIN, END = "<!-- figures: made by docs/tools/figures.py -->", "<!-- end of figures -->"


def table(results: dict[str, Any]) -> str:
    """The Markdown of one run: a row a figure, then what it was measured on."""
    rows = ["| Figure | Measured | Range | Budget | |", "| --- | ---: | ---: | ---: | --- |"]
    for name, key in KEYS.items():
        figure = results["figures"].get(name)
        if figure is None:
            continue
        value = figure["value"]
        spread = f"{_number(figure['low'])} to {_number(figure['high'])}"
        sign = "≤" if key.lower_is_better else "≥"
        mark = "goal" if key.reaches(value) else ("" if key.holds(value) else "missed")
        what = key.what[0].upper() + key.what[1:]
        rows.append(f"| {what} | **{_number(value)}** | {spread} | {sign} {_number(key.floor)} | {mark} |")
    scale = results.get("scale", "full")
    told = "make bench QUICK=1" if scale == "reduced" else "make bench"
    where = ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in results["machine"].items())
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
