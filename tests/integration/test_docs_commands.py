"""The tutorial, run as it is written: every command of it, in order, in a shell, against an engine of its own. And of all
other pages, every command that asks or changes such an engine; what other tests run is named here. What measures for minutes has
its arguments read only.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import service_missing
from tests.integration.engine_process import Engine

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial" / "first-allocation.md"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "clients").rglob("*.md")]
)
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.M | re.S)
SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)
RUN_HERE = ("--help", "status", "verify", "explain", "nodes", "keys", "shards list")
RUN_ELSEWHERE = {
    r"quartermaster up ": "every test that starts an engine_process.Engine",
    r"quartermaster shards (rebalance|move|drain|add|end)": "test_up_shards, test_up_shards_online",
    r"quartermaster restore .* --force": "test_export_restore, test_restore_archive",
    r"quartermaster import |export QM_API_KEY=|QM_API_KEY=\S+ \.venv/bin/locust ": "test_commands",
    r"\.venv/bin/python -m loadtests\.": "test_a_measurement_is_called_as_its_page_says",
    r"echo .* \| \.venv/bin/python -m loadtests\.driver$": "test_loadtests_driver",
    r"make |\.venv/bin/uv pip compile |python3 -m pip install \./clients/python$": "whoever sets up, tests, measures or locks",
}
"""What a line looks like: where it runs."""
SHORT = {"loadtests.index_bench": "--orders 2000 --repeats 1"}
"""What makes a measurement one of seconds. All others start engines and play for minutes."""


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


@pytest.mark.parametrize("line", MEASUREMENTS)
def test_a_measurement_is_called_as_its_page_says(line: str) -> None:
    """Run, where it can be short; else its arguments are read, which `--help` as the last one ends."""
    words = line.split()
    short = SHORT.get(words[2])
    asked = [sys.executable, *words[1:], *(short or "--help").split()]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode in ((0, 1) if short else (0,)), (
        done.stderr
    )  # 1 = slower than its budget, which is no matter here
    assert done.stdout and "Traceback" not in done.stderr, done.stderr
    if not short:  # unknown options are told after the help only
        for word in words[3:]:
            assert not word.startswith("--") or word in done.stdout, f"no option {word}"


def test_every_long_measurement_is_looked_at() -> None:
    assert len(MEASUREMENTS) > 7


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
