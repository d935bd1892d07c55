"""What `verify` and `status` print, and what they do where there is no engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from typer.testing import CliRunner

from engine.archive.index import connect_index, migrate, sqlite_url
from engine.archive.tables import progress
from engine.cli import status, verify
from engine.journal.port import Unavailable
from engine.settings import Settings
from engine.verify.acknowledged import Indexed
from engine.verify.audit import Drift, Report, ShardReport
from engine.verify.causes import Cause


@pytest.fixture(autouse=True)
def _wide_plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


def test_no_drift_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    shards = [ShardReport(0, seq=10, entries=10, positions=4, orders=3, holds=1), ShardReport(255, entries=7)]
    verify.show(Report(shards=shards, acknowledged=3, acknowledged_live=2, acknowledged_closed=1, seconds=0.5))
    said = capsys.readouterr().out
    assert "shard 0: 10 entries from the first entry; 4 positions, 3 orders, 1 open holds" in said
    assert "control: 7 entries, chain unbroken" in said
    assert "acknowledged orders: 3 looked for, 2 live, 1 closed, 0 not there exactly once" in said
    assert "drift 0 (0.5 s)" in said


def test_drift_is_shown_with_both_numbers_and_its_causes(capsys: pytest.CaptureFixture[str]) -> None:
    drift = Drift(1, "position", "SKU-1 at NYC", "on hand 5", "on hand 6", 42, [Cause(40, 0, "received +5")])
    verify.show(Report(drift=[drift], drift_count=61))
    said = capsys.readouterr().out
    assert "position SKU-1 at NYC (shard 1, entry 42)" in said
    assert "the journal says: on hand 5" in said
    assert "found:            on hand 6" in said
    assert "entry 40: received +5" in said
    assert "and 60 more" in said
    assert "drift 61" in said


def test_what_was_not_checked_is_said_and_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(acknowledged=9, acknowledged_live=2, acknowledged_closed=1, acknowledged_in_doubt=5)
    report.not_checked = ["5 acknowledged orders are in no shard: [why]"]
    verify.show(report)
    said = capsys.readouterr().out
    assert "acknowledged orders: 9 looked for, 2 live, 1 closed, 1 not there exactly once" in said
    assert "not checked: 5 acknowledged orders are in no shard: [why]" in said


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (Report(), 0),
        (Report(not_checked=["legs"]), 3),
        (Report(drift_count=1), 1),
        (Report(drift_count=1, not_checked=["legs"]), 1),
    ],
)
def test_the_exit_code_tells_drift_from_what_was_not_checked(
    report: Report, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import typer

    async def audited(*_: object, **__: object) -> Report:
        return report

    monkeypatch.setattr(verify, "_verify", audited)
    app = typer.Typer()
    app.command()(verify.verify)
    for options in ([], ["--json"]):
        assert CliRunner().invoke(app, ["--data-dir", str(tmp_path), *options]).exit_code == code


def test_the_index_is_the_data_folders_or_the_one_that_is_named(tmp_path: Path) -> None:
    engine = connect_index(sqlite_url(tmp_path / "index.db"))
    migrate(engine)
    with engine.begin() as connection:
        for shard, first_seq, gaps in ((0, 1, 0), (1, 7, 0), (2, 1, 1)):
            connection.execute(sa.insert(progress).values((shard, 1, 99, 5, first_seq, gaps)))
    engine.dispose()
    named = Settings(data_dir=tmp_path / "none", index_url=SecretStr(sqlite_url(tmp_path / "index.db")))
    for settings in (Settings(data_dir=tmp_path), named):
        index = verify.Index(settings)
        assert index.indexed() == {0: Indexed(99, True), 1: Indexed(99, False), 2: Indexed(99, False)}
        assert index.closed(["A-1"]) == []
        index.close()


@pytest.mark.parametrize("url", [None, "sqlite:////none/index.db", "mysql://x/y", "no address"])
def test_an_index_that_cannot_be_read_is_unavailable(url: str | None, tmp_path: Path) -> None:
    index = verify.Index(Settings(data_dir=tmp_path, index_url=SecretStr(url) if url else None))
    with pytest.raises(Unavailable):
        index.indexed()
    with pytest.raises(Unavailable):
        index.closed(["A-1"])
    index.close()
    assert not (tmp_path / "index.db").exists(), "asking makes none"


@pytest.mark.parametrize("command", ["verify", "status"])
def test_without_an_engine_it_says_how_to_start_one(command: str, tmp_path: Path) -> None:
    import typer

    app = typer.Typer()
    app.command("verify")(verify.verify)
    app.command("status")(status.status)
    result = CliRunner().invoke(app, [command, "--data-dir", str(tmp_path)])
    assert result.exit_code == 3
    assert "no engine is running" in result.output
    assert "quartermaster up --data-dir" in result.output


def test_a_list_of_acknowledged_orders_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    import typer

    app = typer.Typer()
    app.command()(verify.verify)
    result = CliRunner().invoke(app, ["--acknowledged", str(tmp_path / "none.txt")])
    assert result.exit_code == 3
    assert "none.txt cannot be read" in result.output


def test_status_shows_silent_shards_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {
        "config_version": 12,
        "nodes": 3,
        "shards": [
            {"shard": 0, "epoch": 1_790_000_001, "seq": 1_234, "durable_seq": 1_233, "redis_used_bytes": 5 * 1024**2},
            {"shard": 1, "problem": "The shard or its journal cannot be reached"},
            {"shard": 255, "epoch": 2},
        ],
    }
    status.show(facts)
    said = capsys.readouterr().out
    assert "1,234" in said
    assert "5 MiB" in said
    assert "cannot be reached" in said
    assert "control" in said
    assert "configuration 12, 3 nodes" in said
