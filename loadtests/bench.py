"""`make bench`: every budget of DESIGN section 10, measured beside its peers in one run. `--quick`: every key in minutes.

Prints the table and the CPU of every process, writes loadtests/results/latest.json. Exit code 0 = every floor holds, 1 = one is
missed, 2 = a run did not count (wrong answers, a foreign port, drift, plans dearer than a peer's may be compared with).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loadtests import bench_archive, bench_core, bench_http, bench_restart, bench_shards, figures
from loadtests.bench_http import OPEN_LOOP
from loadtests.drive import DriverError
from loadtests.figures import Figure, over_rounds
from loadtests.keys import ARCHIVE_KEYS, CORE_KEYS, HTTP_KEYS, KEYS, RESTART_KEYS, SHARD_KEYS, SOLVER_KEYS
from loadtests.runs import Bench, BenchError
from loadtests.servers import ServerError, stop_on_sigterm


def _finish(bench: Bench, wanted: set[str]) -> None:
    bench.finish_engines()


def _solver(bench: Bench, wanted: set[str]) -> None:
    from loadtests.solver_bench import run

    for name, figure in run(bench.quick, bench.seed).items():
        if name in wanted:
            bench.figures[name] = Figure(figure["value"], figure["low"], figure["high"])


PARTS: tuple[tuple[str, tuple[str, ...], Callable[[Bench, set[str]], None]], ...] = (
    ("core", CORE_KEYS, bench_core.measure),
    ("archive", ARCHIVE_KEYS, bench_archive.measure),
    ("solver", SOLVER_KEYS, _solver),
    ("http", HTTP_KEYS, bench_http.measure),
    ("shards", SHARD_KEYS, bench_shards.measure),
    ("verify", (*HTTP_KEYS, *SHARD_KEYS), _finish),
    ("restart", RESTART_KEYS, bench_restart.measure),
)


def show_cpu(bench: Bench) -> None:
    """CPU microseconds per order (or request, for reads) of every process."""
    if not bench.cpu_us:
        return
    roles = sorted({role for spent in bench.cpu_us.values() for role in spent})
    table = Table(title="CPU microseconds an order, by process (median of the rounds)", title_justify="left")
    table.add_column("run")
    for role in roles:
        table.add_column(role, justify="right")
    for label, spent in bench.cpu_us.items():
        table.add_row(label, *(f"{over_rounds(spent[role]).value:.0f}" if role in spent else "" for role in roles))
    bench.out.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="3 rounds of 2 s, sizes / 10")
    parser.add_argument("--only", action="append", choices=list(KEYS), help="only this key (repeatable)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="result file (default: loadtests/results/latest.json)")
    parser.add_argument("--keep", action="store_true", help="keep the folder with data and logs")
    arguments = parser.parse_args()
    stop_on_sigterm()
    wanted = set(arguments.only or KEYS)
    # With --only, an incomplete file must not replace the complete one.
    path = arguments.out or (None if arguments.only else figures.RESULTS / "latest.json")
    out = Console() if sys.stdout.isatty() else Console(width=150)
    folder = Path(tempfile.mkdtemp(prefix="qm-bench-"))
    bench = Bench(arguments.seed, arguments.quick, folder, out)
    scale = "reduced" if arguments.quick else "full"
    started = time.monotonic()
    failed: list[str] = []
    try:
        for name, keys, measure in PARTS:
            part = wanted & set(keys)
            if not part:
                continue
            which = f": {', '.join(sorted(part))}" if part != set(keys) else ""
            bench.say(f"[{time.monotonic() - started:5.0f} s] {name}{which}")
            try:
                measure(bench, part)
            except (BenchError, ServerError, DriverError) as error:
                failed.append(f"{name}: {error}")
                out.print(f"[red]{name} does not count:[/] {error}", highlight=False, markup=True)
    finally:
        bench.close()
        if arguments.keep:
            out.print(f"kept: {folder}", highlight=False)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    out.print()
    all_hold = figures.show(bench.figures, out) if bench.figures else False
    show_cpu(bench)
    if path is not None and not failed:
        notes = {name: bench.notes[name] for name in (OPEN_LOOP,) if name in bench.notes}
        figures.write(bench.figures, seed=arguments.seed, scale=scale, path=path, notes=notes)
        details = {"notes": bench.notes, "cpu_us_per_order": bench.cpu_us}
        path.with_name("details.json").write_text(json.dumps(details, indent=1, default=list) + "\n")
        out.print(f"written: {path}", highlight=False)
    out.print(f"{time.monotonic() - started:.0f} s, scale {scale}, commit {figures.commit()[:12]}", highlight=False)
    sys.exit(2 if failed else 0 if all_hold else 1)


if __name__ == "__main__":
    main()
