"""Figures of a run: a value with its range over the rounds, the table for people, the file for programs."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from loadtests.keys import KEYS

RESULTS = Path(__file__).parent / "results"


class Figure(NamedTuple):
    """Median, smallest and largest over the rounds."""

    value: float
    low: float
    high: float


def over_rounds(values: Sequence[float]) -> Figure:
    """Raises ValueError where there are none."""
    if not values:
        raise ValueError("no rounds were measured")
    return Figure(statistics.median(values), min(values), max(values))


def ratios(top: Sequence[float], bottom: Sequence[float]) -> Figure:
    """Round by round: what was measured next to each other is compared with each other."""
    return over_rounds([a / b for a, b in zip(top, bottom, strict=True)])


def commit() -> str:
    """The commit that was measured, with `-dirty` where the tree differs."""
    root = Path(__file__).parent.parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("-dirty" if status.stdout.strip() else "")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or "unknown",
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _field(path: str, name: str) -> str:
    try:
        for line in Path(path).read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    except OSError:
        return ""
    return ""


def write(
    figures: dict[str, Figure], *, seed: int, scale: str, path: Path, notes: dict[str, dict[str, Any]] | None = None
) -> None:
    """`latest.json`: the figures with floors and goals; keys in the order of DESIGN section 10. `notes` have no floor."""
    document = {
        "commit": commit(),
        "machine": machine(),
        "seed": seed,
        "scale": scale,
        "figures": {
            name: {
                "value": _rounded(figures[name].value),
                "low": _rounded(figures[name].low),
                "high": _rounded(figures[name].high),
                "floor": key.floor,
                "goal": key.goal,
            }
            for name, key in KEYS.items()
            if name in figures
        },
        "notes": notes or {},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def show(figures: dict[str, Figure], out: Console) -> bool:
    """The table; returns whether every floor holds."""
    table = Table(title="Budgets (DESIGN section 10)", title_justify="left")
    for name in ("key", "value", "low", "high", "floor", "goal", ""):
        table.add_column(name, justify="left" if name in ("key", "") else "right")
    all_hold = True
    for name, key in KEYS.items():
        if name not in figures:
            continue
        figure = figures[name]
        holds = key.holds(figure.value)
        all_hold &= holds
        verdict = "[green]goal[/]" if key.reaches(figure.value) else "[cyan]ok[/]" if holds else "[red]MISSED[/]"
        sign = "<=" if key.lower_is_better else ">="
        numbers = (figure.value, figure.low, figure.high)
        table.add_row(
            name, *(f"{number:.4g}" for number in numbers), f"{sign} {key.floor:g}", f"{sign} {key.goal:g}", verdict
        )
    out.print(table)
    return all_hold
