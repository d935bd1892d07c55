"""Journals of older versions are read to the state that they meant; and the chain that upgrades them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from engine.journal import chain, upgrade
from engine.journal.port import SCHEMA_VERSION, Misconfigured
from tests.golden.golden_files import facts, folders, load, recover

FOLDERS = folders()
KINDS_OF_SCHEMA_1 = {1, 2, 3, 4, 5, 6, 7, 8, 20}
"""What a shard and the control shard could write when that journal was made; kinds that came since need no upgrade."""


def _name(folder: Path) -> str:
    return folder.name


@pytest.mark.parametrize("from_parts", [False, True], ids=["entries", "snapshots"])
@pytest.mark.parametrize("folder", FOLDERS, ids=_name)
def test_a_golden_journal_means_what_it_meant(folder: Path, from_parts: bool) -> None:
    expected = json.loads((folder / "expected.json").read_text())
    found = facts(recover(folder, from_parts=from_parts))
    assert found.keys() == expected.keys()
    for kind, rows in expected.items():
        assert found[kind].keys() == rows.keys(), kind
        for name, row in rows.items():
            assert found[kind][name] == row, f"{kind} {name}"


def test_there_is_a_golden_journal_of_todays_schema() -> None:
    assert FOLDERS
    schemas = {entry.schema for folder in FOLDERS for path in folder.glob("shard-*.jsonl") for entry in load(path)[0]}
    assert SCHEMA_VERSION in schemas, "run: python -m tests.golden.write tests/golden/schema-N"
    assert schemas == set(range(min(schemas), SCHEMA_VERSION + 1)), "a schema between has no golden journal"
    assert set(upgrade.ENTRY_STEPS) == set(range(min(schemas), SCHEMA_VERSION)), "each older schema needs its step up"


def test_the_golden_day_has_every_kind_of_event_of_its_time() -> None:
    kinds = {
        event[0]
        for path in FOLDERS[0].glob("shard-*.jsonl")
        for entry in load(path)[0]
        for event in msgspec.msgpack.decode(entry.payload)
    }
    assert kinds == KINDS_OF_SCHEMA_1


def test_the_second_golden_life_has_the_kinds_that_came_since() -> None:
    kinds = {
        event[0]
        for path in (FOLDERS[0].parent / "schema-1-breadth").glob("shard-*.jsonl")
        for entry in load(path)[0]
        for event in msgspec.msgpack.decode(entry.payload)
    }
    assert kinds >= {9, 10, 33, 37, 50, 51, 52, 53, 54}


def test_an_old_entry_goes_up_one_schema_at_a_time() -> None:
    steps = {1: lambda payload: payload + b"2", 2: lambda payload: payload + b"3", 3: lambda payload: payload + b"4"}
    assert upgrade.entry_payload(1, b"1", steps=steps, to=4) == b"1234"
    assert upgrade.entry_payload(3, b"3", steps=steps, to=4) == b"34"
    assert upgrade.entry_payload(4, b"4", steps=steps, to=4) == b"4"


def test_a_schema_that_nothing_leads_from_is_named() -> None:
    steps = {2: lambda payload: payload}
    with pytest.raises(Misconfigured, match="schema 1: this version reads 2 to 3"):
        upgrade.entry_payload(1, b"", steps=steps, to=3)
    with pytest.raises(Misconfigured, match="schema 4"):
        upgrade.entry_payload(4, b"", steps=steps, to=3)
    with pytest.raises(Misconfigured, match="snapshot of node:1"):
        upgrade.part_data("node:1", chain.PART_SCHEMA + 1, b"")
