"""The tutorial, run as it is written: every command of it, in order, in a shell, against an engine of its own."""

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
HOW_TO = ROOT / "docs" / "how-to"
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.M | re.S)
ASKING = re.compile(r"^quartermaster (?:status|verify|explain|nodes) .*$", re.M)


@pytest.mark.timeout(400)  # two starts of a whole engine
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
        told = [(HOW_TO / page).read_text("utf-8") for page in ("operate.md", "tune.md")]
        for command in dict.fromkeys(ASKING.findall("\n".join(told))):
            command = command.replace("DECISION_ID", found[0]).replace("STORE-17", "NYC")
            said = _run(tmp_path, f".venv/bin/{command}")
            assert said.strip(), command

        engine.kill_everything()
        engine.start()
        assert "drift 0" in _run(tmp_path, last)
    finally:
        engine.stop()


def _run(folder: Path, script: str) -> str:
    """What a bash script printed; AssertionError with all of it where a command failed."""
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, capture_output=True, text=True, timeout=150, check=False
    )
    assert run.returncode == 0, f"exit {run.returncode}\n{run.stdout}\n{run.stderr}"
    return run.stdout
