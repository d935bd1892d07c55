"""The documentation is true: links lead somewhere, commands exist, generated pages are up to date."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
import yaml

from gateway.health.shard_metrics import facts_documented

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _anchors(page: Path) -> set[str]:
    """Anchors that GitHub makes of a page's headings."""
    text = FENCE.sub("", page.read_text("utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{_name(page)} links to {target}"
        assert ROOT in found.parents or found == ROOT, f"{_name(page)} links out of the repository: {target}"
        if anchor:
            assert anchor in _anchors(found), f"{_name(page)} links to {target}: no such heading"


def _commands() -> list[tuple[str, str]]:
    """(page, command) of every line in `sh` blocks; lines that end in a backslash are joined."""
    found = []
    for page in PAGES:
        for language, body in FENCE.findall(page.read_text("utf-8")):
            if language == "sh":
                lines = re.sub(r"\\\n\s*", " ", body).splitlines()
                found += [(_name(page), line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    return found


@cache
def _quartermaster() -> Any:
    """The command tree. Typer carries its own copy of click, so what is what is told by attributes."""
    from engine.cli.main import build

    return typer.main.get_command(build())


def _check_quartermaster(words: list[str]) -> None:
    """Every sub-command, option and argument of a command line exists. Does not run it."""
    command = _quartermaster()
    while words and hasattr(command, "commands"):
        if words[0] == "--help":
            return
        name = words.pop(0)
        assert name in command.commands, f"no command {name!r}"
        command = command.commands[name]
    options = {name: option for option in command.params for name in (*option.opts, *option.secondary_opts)}
    arguments = [option for option in command.params if option.param_type_name == "argument"]
    while words:
        word = words.pop(0)
        if word == "--help":
            continue
        if word.startswith("--"):
            assert word in options, f"no option {word!r}"
            if not options[word].is_flag:
                assert words, f"{word} needs a value"
                words.pop(0)
        else:
            assert arguments, f"no argument for {word!r}"
            arguments.pop(0)
    assert not [a.name for a in arguments if a.required], "an argument is missing"


@pytest.mark.parametrize(("page", "line"), _commands(), ids=lambda value: value[:60])
def test_commands_in_the_documentation_exist(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    program = words.pop(0).removeprefix(".venv/bin/")
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.M))
        variables = set(re.findall(r"^([A-Z]+) \?=", (ROOT / "Makefile").read_text("utf-8"), re.M))
        for word in words:
            assert word.partition("=")[0] in (variables if "=" in word else targets), f"{page}: {line}"
    elif program == "quartermaster":
        _check_quartermaster(words)
    elif program == "python":
        assert words[0] == "-m" and (ROOT / words[1].replace(".", "/")).with_suffix(".py").exists(), f"{page}: {line}"
    elif program == "locust":
        assert (ROOT / words[words.index("-f") + 1]).exists(), f"{page}: {line}"
    else:
        assert program in {"curl", "uv", "export", "kill", "echo"}, (
            f"{page}: a command this test knows nothing about: {line}"
        )


def _tool(name: str) -> ModuleType:
    return importlib.import_module(f"docs.tools.{name}")


def test_the_settings_page_is_made_from_the_settings() -> None:
    tool = _tool("settings")
    assert tool.PAGE.read_text("utf-8") == tool.page(), "run: .venv/bin/python -m docs.tools.settings"


def test_the_metrics_page_is_made_from_the_families() -> None:
    tool = _tool("metrics")
    assert tool.PAGE.read_text("utf-8") == tool.page(), "run: .venv/bin/python -m docs.tools.metrics"


def test_all_that_a_shard_counts_is_documented() -> None:
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "engine" / "protocol").glob("*.py"))
    counted = set(re.findall(r'\bcount\(\s*"(\w+)"', sources)) | set(re.findall(r'\bcounts\[\s*"(\w+)"', sources))
    assert len(counted) > 30
    told = set(facts_documented())
    assert {f"count_{what}" for what in counted} <= told, "say in gateway/health/metric_help.py what it means"
    demand = {fact.removeprefix("count_demand_units_") for fact in told if fact.startswith("count_demand_units_")}
    assert {fact.removeprefix("count_") for fact in told if fact.startswith("count_")} - counted == {
        f"demand_units_{what}" for what in demand
    }, "nothing is documented that is not counted"


def test_the_alert_rules_are_about_families_that_exist() -> None:
    """Families, labels and pages that they name. Whether their expressions are well formed is not tested: that takes Prometheus'
    own `promtool check rules`.
    """
    tool = _tool("metrics")
    known = {tool.exposed_name(family): tool.labels(family) for family in tool.gateway_families()}
    known |= {tool.exposed_name(family): ("shard",) for family in tool.shard_families()}
    groups = yaml.safe_load((ROOT / "docs" / "reference" / "alert-rules.yml").read_text("utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 10
    for rule in rules:
        named = re.findall(r"quartermaster_\w+", rule["expr"])
        assert named, rule
        for family in named:
            assert family in known, rule
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            assert label in known[named[0]], rule
        for page in re.findall(r"docs/[\w/-]+\.md", rule["annotations"]["action"]):
            assert (ROOT / page).exists(), rule
        for family in re.findall(r"quartermaster_\w+", rule["annotations"]["action"]):
            assert family in known, rule
        assert rule["labels"]["severity"] in ("critical", "warning")


RESULTS = {
    "commit": "0123456789abcdef",
    "machine": {"cpu": "two cores"},
    "seed": 7,
    "scale": "reduced",
    "figures": {
        "single_vs_fastapi_echo": {"value": 2.5, "low": 2.1, "high": 2.9, "floor": 1.8, "goal": 3.5},
        "restart_s": {"value": 7.0, "low": 6.5, "high": 8.0, "floor": 6, "goal": 3},
    },
}


def test_the_figures_table_says_what_was_missed_and_how_to_measure_it() -> None:
    table = _tool("figures").table(RESULTS)
    rows = {line.split("|")[1].strip()[:20]: line for line in table.splitlines() if line.startswith("| ")}
    assert "**2.50**" in rows["Single orders/s, dur"]
    assert "missed" not in rows["Single orders/s, dur"]
    assert "missed" in rows["Kill -9 of a shard t"]
    assert "make bench QUICK=1" in table
    assert "0123456789ab" in table


def test_the_readme_shows_the_figures_last_measured() -> None:
    tool = _tool("figures")
    readme = (ROOT / "README.md").read_text("utf-8")
    assert tool.with_figures(readme, RESULTS) != readme, "the block exists"
    if tool.RESULTS.exists():
        results = json.loads(tool.RESULTS.read_text("utf-8"))
        assert tool.with_figures(readme, results) == readme, "run: .venv/bin/python -m docs.tools.figures"
