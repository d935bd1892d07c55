"""The "must hold" runs as commands: `python -m loadtests.acceptance crash|race|input|large|same|all`.

    crash   100,000 orders through the batch API, kill -9 of ALL processes, restart: every acknowledged one exactly once, drift 0
    race    500 clients race for one unit, 20 times: one winner, the others 409 out_of_stock with the numbers
    input   bad input: a typed problem that names the field, in under 50 ms, no memory growth, nothing half done
    large   orders of 500 lines: answered, split where they must be; p50 and p99
    same    the same orders with 1, 2 and 4 shards, 1 and 2 gateways give the same plans and costs

Each prints what it found and ends with 0 only if it holds. `--orders FILE` plays the baskets of an invoice file.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from loadtests.accept_crash import crash
from loadtests.accept_input import bad_input
from loadtests.accept_large import large
from loadtests.accept_race import race
from loadtests.accept_same import same
from loadtests.accepting import Acceptance, Failed
from loadtests.servers import stop_on_sigterm

RUNS: dict[str, Callable[[Acceptance], Awaitable[None]]] = {
    "race": race,
    "input": bad_input,
    "large": large,
    "same": same,
    "crash": crash,
}


@dataclass
class Outcome:
    name: str
    held: bool
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtests.acceptance", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", choices=[*RUNS, "all"])
    parser.add_argument("--orders", type=Path, help="invoices whose baskets are played (crash)")
    parser.add_argument("--count", type=int, default=100_000, help="orders of the crash run")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    stop_on_sigterm()
    out = Console(width=150) if not sys.stdout.isatty() else Console()
    outcomes = []
    for name in RUNS if arguments.run == "all" else [arguments.run]:
        folder = Path(tempfile.mkdtemp(prefix="qm-accept-"))
        started = time.monotonic()
        held = True
        out.print(f"[bold]{name}[/]")
        try:
            asyncio.run(RUNS[name](Acceptance(out, folder, arguments.seed, arguments.orders, arguments.count)))
        except Failed as error:
            held = False
            out.print(f"[red]does not hold:[/] {error}", highlight=False)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        outcomes.append(Outcome(name, held, time.monotonic() - started))
    for outcome in outcomes:
        verdict = "[green]holds[/]" if outcome.held else "[red]DOES NOT HOLD[/]"
        out.print(f"{outcome.name:6} {verdict} ({outcome.seconds:.0f} s)", highlight=False)
    sys.exit(0 if all(outcome.held for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
