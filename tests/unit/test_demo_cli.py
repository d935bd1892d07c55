"""`quartermaster demo` where something of it is missing."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from engine.cli.main import build


@pytest.mark.parametrize("arguments", [[], ["--story"]], ids=["traffic", "story"])
def test_without_the_python_client_the_demo_says_how_to_install_it(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip install .` installs the engine alone."""
    monkeypatch.setitem(sys.modules, "quartermaster_client", None)  # as if it were not there
    for name in [name for name in sys.modules if name.startswith("loadtests.")]:
        monkeypatch.delitem(sys.modules, name)
    done = CliRunner().invoke(build(), ["demo", *arguments])
    assert done.exit_code == 2, done.output
    assert f"{sys.executable} -m pip install ./clients/python" in done.output
