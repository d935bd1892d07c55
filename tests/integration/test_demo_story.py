"""`quartermaster demo --story` as people run it: seven scenes on real processes, each with its facts, exit code 0."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(1_800)


def _story(*arguments: str) -> tuple[int, str]:
    """(exit code, what it printed)."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("QM_", "RAY_"))}
    command = [sys.executable, "-c", "from engine.cli.main import main; main()", "demo", "--story", *arguments]
    done = subprocess.run(
        command, env=clean, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_every_scene_of_the_story_holds() -> None:
    code, said = _story("--no-pause", "--port", "0", "--rate", "20")
    assert code == 0, said
    assert "FAILED" not in said
    scenes = re.findall(r"^   ok   (\d)\. ", said, re.M)
    assert scenes == list("1234567"), said
    assert max(map(len, said.splitlines())) <= 80, "it fits a terminal of 80 columns"
    flat = " ".join(said.split())
    for fact in (
        "rule cash an order cost of days together split late filled",
        "Why not",
        "one winner, 499 answered with numbers",
        "was back by itself after",
        "a paid order is parked, not refused",
        "drift 0: every position, order and hold is what the journal says",
    ):
        assert fact in flat, said
    found = re.search(r"lost acknowledgements 0 \(of ([\d,]+) looked for\)", flat)
    assert found is not None and int(found[1].replace(",", "")) > 100, said


def test_a_story_has_its_own_network_and_folder() -> None:
    code, said = _story("--orders", __file__)
    assert code == 2
    assert "leave out --orders, --nodes and --data-dir" in " ".join(said.split())
