"""The repository agrees with itself: dependency lists, locks, empty packages, licence, the commands CI runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _requirements(name: str) -> list[str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith(("#", "-"))]


def _pins(name: str) -> dict[str, str]:
    """Version by package name of a lock. A package that is pinned per platform counts with all its versions."""
    pins: dict[str, str] = {}
    for match in re.finditer(r"^([a-z0-9._-]+)==([^ ;\\]+)", (ROOT / "requirements" / name).read_text(), re.M):
        pins[match[1]] = ",".join(sorted({*filter(None, pins.get(match[1], "").split(",")), match[2]}))
    return pins


def _packages() -> list[Path]:
    roots = [ROOT / name for name in ("engine", "solvers", "gateway", "loadtests")]
    return sorted(found for root in roots for found in root.rglob("__init__.py"))


def test_base_in_lists_exactly_the_dependencies_of_the_project() -> None:
    assert _requirements("base.in") == PROJECT["dependencies"]


@pytest.mark.parametrize("lock", ["base.lock", "dev.lock"])
def test_every_locked_package_is_pinned_with_hashes_and_names_no_registry(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert len(blocks) > 40
    for block in blocks:
        assert re.match(r"^[a-z0-9._-]+==\S+", block), block.splitlines()[0]
        assert "--hash=sha256:" in block, block.splitlines()[0]
    assert "://" not in text


def test_the_development_lock_contains_the_runtime_lock() -> None:
    runtime, development = _pins("base.lock"), _pins("dev.lock")
    assert {name: development.get(name) for name in runtime} == runtime


@pytest.mark.parametrize(("source", "lock"), [("base.in", "base.lock"), ("dev.in", "dev.lock")])
def test_every_requirement_is_locked(source: str, lock: str) -> None:
    names = {re.split(r"[<>=! ]", line)[0].lower() for line in _requirements(source)}
    assert names <= _pins(lock).keys()


def test_what_an_extra_needs_is_there_for_the_tests() -> None:
    extras = PROJECT["optional-dependencies"].values()
    assert {requirement for extra in extras for requirement in extra} <= set(_requirements("dev.in"))


@pytest.mark.parametrize("package", _packages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_packages_are_empty(package: Path) -> None:
    assert package.read_text().strip() == "", "importing a package must run nothing"


def test_the_licence_is_the_one_the_project_states() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]


def test_ci_runs_the_test_command_of_the_readme_and_nothing_else() -> None:
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if "make" in line and line[0] != "#"]
    assert len(commands) == 1
    assert commands[0].endswith("make test")


def test_make_has_the_settled_commands() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    assert targets == {"setup", "demo", "run", "test", "check", "bench", "clean", "help"}
