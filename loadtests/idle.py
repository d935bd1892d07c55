"""What an engine costs that does nothing: `python -m loadtests.idle`. PSS and CPU of the whole process tree, by process.

PSS counts what processes share once: the budget (900 MB, 15 % of a core) is of the machine's memory, not of each process's view.
Run it with no other engine on the machine: of the libraries that both map, each is charged half, up to 130 MB too little.
Exit code 1 = over budget.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from loadtests.proc import command_line, cpu_seconds, proportional_bytes
from loadtests.servers import Engine, stop_on_sigterm

MEMORY_MB_MAX = 900
CPU_PERCENT_MAX = 15.0
SETTLE_S = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtests.idle", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long CPU is counted")
    arguments = parser.parse_args()
    stop_on_sigterm()
    folder = Path(tempfile.mkdtemp(prefix="qm-idle-"))
    engine = Engine("idle", folder / "data", shards=arguments.shards)
    try:
        engine.start()
        time.sleep(SETTLE_S)
        pids = engine.all_pids()
        before = {pid: cpu_seconds(pid) for pid in pids}
        time.sleep(arguments.seconds)
        memory_mb = cpu_percent = 0.0
        for pid in pids:
            mb = proportional_bytes(pid) / 1e6
            percent = (cpu_seconds(pid) - before[pid]) / arguments.seconds * 100
            memory_mb += mb
            cpu_percent += percent
            print(f"{mb:7.1f} MB {percent:5.1f} %  {command_line(pid)[:90]}")
    finally:
        engine.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(
        f"{memory_mb:7.1f} MB {cpu_percent:5.1f} %  all (budget {MEMORY_MB_MAX} MB, {CPU_PERCENT_MAX:.0f} % of a core)"
    )
    sys.exit(1 if memory_mb > MEMORY_MB_MAX or cpu_percent > CPU_PERCENT_MAX else 0)


if __name__ == "__main__":
    main()
