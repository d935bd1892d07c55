"""The tutorial, run as it is written: every command of it, in order, in a shell, against an engine of its own. And of all
other pages, every command that starts, asks or changes such an engine; what other tests run is named here. What measures for
minutes is cut short: of what is said twice on a command line, the last counts.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import service_missing
from tests.integration.engine_process import Engine

ROOT = Path(__file__).parents[2]
BIN = Path(sys.prefix) / "bin"
TUTORIAL = ROOT / "docs" / "tutorial" / "first-allocation.md"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "clients").rglob("*.md")]
)
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.M | re.S)
SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)
RUN_HERE = ("--help", "status", "verify", "explain", "nodes", "keys", "shards list")
RUN_ELSEWHERE = {
    r"quartermaster up ": "test_an_engine_starts_as_its_page_says",
    r"quartermaster shards (rebalance|move|drain|add|end)": "test_up_shards",
    r"quartermaster restore .* --force": "test_export_restore",
    r"quartermaster import |export QM_API_KEY=|QM_API_KEY=\S+ \.venv/bin/locust ": "test_commands",
    r"\.venv/bin/python -m loadtests\.": "test_a_measurement_is_called_as_its_page_says",
    r"echo .* \| \.venv/bin/python -m loadtests\.driver$": "test_loadtests_driver",
    r"make |\.venv/bin/uv pip compile |python3 -m pip install \./clients/python$": "whoever sets up, tests, measures or locks",
}
"""What a line looks like: where it runs."""
SHORT = {
    "loadtests.acceptance": "--count 500",
    "loadtests.bench": "--out latest.json",
    "loadtests.chaos_day": "--minutes 1 --hours 2 --kill-every-s 15 --rate 10 --out .",
    "loadtests.idle": "--seconds 1",
    "loadtests.index_bench": "--orders 2000 --repeats 1",
    "loadtests.soak": "--minutes 1 --hours 16 --rate 10 --out .",
}
"""What makes a measurement one of a minute or so, and where it puts its figures."""
FLOORS = ("loadtests.bench", "loadtests.idle", "loadtests.index_bench")
"""Those that end with 1 where a budget is missed, which a test that runs beside others has no opinion about."""
INVOICES = """InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
536365,85123A,HANGING HEART,6,12/1/2010 8:26,2.55,17850,United Kingdom
536365,71053,WHITE LANTERN,6,12/1/2010 8:26,3.39,17850,United Kingdom
536367,84879,BIRD ORNAMENT,3,12/1/2010 8:34,1.69,13047,United Kingdom
"""


def _commands(kinds: tuple[str, ...] | None = None) -> list[str]:
    """Each line of the `sh` blocks of all pages, once; of the given `quartermaster` commands only, if given."""
    found: list[str] = []
    for page in PAGES:
        for body in SHELL_BLOCK.findall(page.read_text("utf-8")):
            lines = re.sub(r"\\\n\s*", " ", body).splitlines()
            found += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    wanted = tuple(f"quartermaster {kind}" for kind in kinds or ())
    return [line for line in dict.fromkeys(found) if kinds is None or line.startswith(wanted)]


MEASUREMENTS = [line for line in _commands() if line.startswith(".venv/bin/python -m loadtests.")]
STARTS = _commands(("up ",))


@pytest.mark.timeout(1_800)  # two starts of a whole engine
def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        service_missing("curl")
    text = TUTORIAL.read_text("utf-8")
    engine = Engine(tmp_path / "data").start()
    try:
        (tmp_path / ".venv").symlink_to(sys.prefix)
        blocks = [block.replace("http://127.0.0.1:8080", engine.url) for block in BLOCK.findall(text)]
        assert len(blocks) >= 8
        last = blocks.pop()
        first = _run(tmp_path, "\n".join(blocks))
        assert '"decision_id"' in first
        assert "out_of_stock" in first
        assert re.search(r"(New York|Chicago).* ships? .* for \$", first), "explain answers in one sentence"

        found = re.search(r"dec_\w+", first)
        assert found is not None
        (tmp_path / "acknowledged.txt").write_text("A-1001\nA-1002\n")
        for command in _commands(RUN_HERE):
            if "KEY_ID" in command:
                command = command.replace("KEY_ID", _key_id(_run(tmp_path, ".venv/bin/quartermaster keys list")))
            command = (
                command.replace("DECISION_ID", found[0]).replace("STORE-17", "NYC").replace("./restored", "./data")
            )
            said = _run(tmp_path, f".venv/bin/{command}")
            assert said.strip(), command

        engine.kill_everything()
        engine.start()
        assert "drift 0" in _run(tmp_path, last)
    finally:
        engine.stop()


def test_every_command_of_the_pages_is_run_somewhere() -> None:
    here = set(_commands(RUN_HERE))
    assert len(here) > 12
    lost = [
        line for line in _commands() if line not in here and not any(re.match(form, line) for form in RUN_ELSEWHERE)
    ]
    assert not lost


@pytest.mark.timeout(900)
@pytest.mark.parametrize("line", STARTS)
def test_an_engine_starts_as_its_page_says(line: str, tmp_path: Path) -> None:
    """But on a free port."""
    found = re.search(r"--data-dir \./(\w+)", line)
    assert found is not None
    engine = Engine(tmp_path / found[1], told=line).start()
    try:
        with engine.client() as client:
            assert client.get("/readyz").status_code == 200
        shards = json.loads(_run(tmp_path, f"{BIN}/quartermaster shards list --json --data-dir ./{found[1]}"))["shards"]
        asked = re.search(r"--shards (\d+)", line)
        assert asked is None or len(shards) == int(asked[1])
    finally:
        ended = engine.stop()
    assert ended == 0


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("line", MEASUREMENTS)
def test_a_measurement_is_called_as_its_page_says(line: str, tmp_path: Path) -> None:
    words = line.split()
    with gzip.open(tmp_path / "invoices.csv.gz", "wt") as file:
        file.write(INVOICES)
    done = subprocess.run(
        [sys.executable, *words[1:], *SHORT[words[2]].split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1_500,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode in ((0, 1) if words[2] in FLOORS else (0,)), said
    assert done.stdout and "Traceback" not in done.stderr, said


def test_the_pages_have_starts_and_measurements() -> None:
    assert len(STARTS) > 2
    assert {line.split()[2] for line in MEASUREMENTS} == set(SHORT)


def _key_id(listed: str) -> str:
    """The id of the key that the how-to has just added, out of `keys list`."""
    [line] = [line for line in listed.splitlines() if "web shop" in line]
    return re.findall(r"\w+", line)[0]


def _run(folder: Path, script: str) -> str:
    """What a bash script printed; AssertionError with all of it where a command failed."""
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, capture_output=True, text=True, timeout=150, check=False
    )
    assert run.returncode == 0, f"exit {run.returncode}\n{run.stdout}\n{run.stderr}"
    return run.stdout
