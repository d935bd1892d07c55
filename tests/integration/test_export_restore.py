"""A running engine exported under traffic, restored elsewhere, verified: drift 0; and what must not be restored."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.engine_process import Engine
from tests.integration.network_over_http import NODES, SKUS, order, post, set_up_network

BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.M | re.S)
SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)
ROOT = Path(__file__).parents[2]


def _stable(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """An answer without what changes from read to read."""
    left_out = ("token", "as_of", *(("version",) if "reservations" in path else ()))
    return {name: value for name, value in body.items() if name not in left_out}


class Original:
    """An engine with a history, its exports, and what it said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.acknowledged: list[str] = []
        self.legs_of: dict[str, Any] = {}
        engine = Engine(folder / "data", shards=2, environment={"QM_ARCHIVE_SEAL_S": "0.2"}).start()
        try:
            with engine.client() as client:
                self._history(client)
                _until(lambda: list((folder / "data" / "archive").glob("s0/*.seg")), "the archiver wrote no segment")
                self.tar = folder / "backup.tar"
                stock = [path for path in self.paths if path.startswith("/v1/availability")]
                at_rest = {path: _stable(path, client.get(path).json()) for path in stock}
                self._under_traffic(engine)
                said = quartermaster("export", "--all", str(folder / "backup"), f"--data-dir={engine.data_dir}")
                assert said.returncode == 0, said.stderr
                for path in stock:  # the traffic's holds end by themselves, those at two shards a little later
                    _until(lambda path=path: _stable(path, client.get(path).json()) == at_rest[path], path)
                self.before = {path: client.get(path).json() for path in self.paths}
        finally:
            engine.stop()

    def _history(self, client: httpx.Client) -> None:
        set_up_network(client)
        self.paths = [f"/v1/nodes/{node_id}" for node_id in NODES]
        self.paths += [f"/v1/availability?sku={sku}&consistency=strict" for sku in SKUS]
        for near in NODES:
            made = post(client, "/v1/allocations", order({"SKU-1": 2, "SKU-2": 1}, near=near)).json()
            self.paths += [f"/v1/allocations/{made['allocation_id']}", f"/v1/decisions/{made['decision_id']}"]
            self.acknowledged.append(made["order_id"])
        wide = post(client, "/v1/allocations", order({"SKU-3": 150}, max_legs=4)).json()
        assert len({leg["node_id"] for leg in wide["legs"]}) > 1
        held = post(client, "/v1/reservations", {**order({"SKU-1": 3}), "ttl_s": 3_600}).json()
        self.reservation_id = held["reservation_id"]
        self.paths += [f"/v1/allocations/{wide['allocation_id']}", f"/v1/reservations/{self.reservation_id}"]
        self.acknowledged += [wide["order_id"], held["order_id"]]

    def _under_traffic(self, engine: Engine) -> None:
        """The tar is written while orders flow; those answered before it began must be in it."""
        stop = threading.Event()

        def shop() -> None:
            with engine.client() as client:
                while not stop.is_set():
                    for near in NODES:
                        post(client, "/v1/reservations", {**order({"SKU-1": 1, "SKU-2": 1}, near=near), "ttl_s": 2})

        shopper = threading.Thread(target=shop)
        shopper.start()
        try:
            said = quartermaster("export", "--all", str(self.tar), f"--data-dir={engine.data_dir}")
        finally:
            stop.set()
            shopper.join(120)
        assert said.returncode == 0, said.stderr
        assert "journals" in said.stdout


def _until(check: Callable[[], object], what: str, within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def quartermaster(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from engine.cli.main import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    return Original(tmp_path_factory.mktemp("export"))


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("name", ["backup.tar", "backup"])
def test_what_is_restored_is_what_was_there(original: Original, tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    said = quartermaster("restore", str(original.folder / name), f"--data-dir={data}")
    assert said.returncode == 0, said.stderr
    assert "start it with: quartermaster up --data-dir" in said.stdout  # which shards it has, its map says
    assert "archive segments" in said.stdout
    for path in (original.folder / "backup" / "archive").glob("s*/*.seg"):
        if name == "backup":
            assert (data / "archive" / path.parent.name / path.name).read_bytes() == path.read_bytes()
    engine = Engine(data, shards=2).start()
    try:
        acknowledged = tmp_path / "acknowledged.txt"
        acknowledged.write_text("\n".join(original.acknowledged))
        checked = quartermaster("verify", f"--data-dir={data}", f"--acknowledged={acknowledged}")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert "drift 0" in checked.stdout
        with engine.client() as client:
            for path, before in original.before.items():
                if name == "backup.tar" and path.startswith("/v1/availability"):
                    continue  # traffic went on after it
                # Holds that ended between the export and the question end here a moment after the start.
                wanted = _stable(path, before)
                _until(lambda path=path, wanted=wanted: _stable(path, client.get(path).json()) == wanted, path)
            made = post(client, f"/v1/reservations/{original.reservation_id}/commit")
            assert made.status_code == 200, "the hold lives on"
            assert post(client, "/v1/allocations", order({"SKU-2": 1})).status_code == 201
        assert "another journal" not in engine.log.read_text(), "archive and journal are of one history"
    finally:
        engine.stop()


def test_a_target_that_has_something_is_replaced_only_by_force(original: Original, tmp_path: Path) -> None:
    data = tmp_path / "data"
    source = str(original.folder / "backup")
    assert quartermaster("restore", source, f"--data-dir={data}").returncode == 0
    again = quartermaster("restore", source, f"--data-dir={data}")
    assert again.returncode == 3
    assert "--force" in again.stderr
    forced = quartermaster("restore", source, f"--data-dir={data}", "--force")
    assert forced.returncode == 0, forced.stderr
    copy = tmp_path / "copy"  # of an engine that is stopped
    said = quartermaster("export", "--all", str(copy), f"--data-dir={data}")
    assert said.returncode == 0, said.stderr
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (original.folder / "backup", copy)]
    assert manifests[0]["segments"] == manifests[1]["segments"]
    for old, new in zip(*[manifest["shards"] for manifest in manifests], strict=True):
        assert new["epoch"] > old["epoch"], "a copy of the old engine is fenced"
        assert {**new, "epoch": 0, "blake2b": "", "size_bytes": 0} == {
            **old,
            "epoch": 0,
            "blake2b": "",
            "size_bytes": 0,
        }


def test_a_changed_or_incomplete_export_is_refused_before_anything_is_written(
    original: Original, tmp_path: Path
) -> None:
    with tarfile.open(original.tar) as tar:
        tar.extractall(tmp_path / "x", filter="data")
    folder = tmp_path / "x"
    assert quartermaster("restore", "--check", str(folder)).returncode == 0
    path = folder / "shard-1.zst"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    said = quartermaster("restore", str(folder), f"--data-dir={tmp_path / 'data'}")
    assert said.returncode == 2
    assert "shard-1.zst was changed" in said.stderr.replace("\n", "")
    assert not (tmp_path / "data").exists()
    (folder / "shard-1.zst").unlink()
    assert quartermaster("restore", "--check", str(folder)).returncode == 2
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"shard": 1', '"shard": 2'))
    assert "does not hash" in quartermaster("restore", "--check", str(folder)).stderr
    manifest.unlink()
    assert "no manifest.json" in quartermaster("restore", "--check", str(folder)).stderr.replace("\n", " ")


def test_targets_and_sources_that_make_no_sense_are_named(tmp_path: Path) -> None:
    nothing = quartermaster("export", "--all", str(tmp_path / "x"), f"--data-dir={tmp_path / 'none'}")
    assert nothing.returncode == 3
    assert "there is no engine" in nothing.stderr
    assert not (tmp_path / "none").exists()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    assert quartermaster("export", "--all", str(tmp_path / "there"), f"--data-dir={tmp_path}").returncode == 2
    assert quartermaster("export", str(tmp_path / "y"), f"--data-dir={tmp_path}").returncode == 2
    (tmp_path / "text.tar").write_text("no tar")
    assert quartermaster("restore", str(tmp_path / "text.tar"), f"--data-dir={tmp_path / 'd'}").returncode == 2


@pytest.mark.parametrize(("page", "steps", "more"), [("move-in-and-out.md", 3, 0), ("back-up.md", 2, 1)])
def test_the_commands_of_the_how_to_work(original: Original, tmp_path: Path, page: str, steps: int, more: int) -> None:
    """In order, in one folder: on an engine that is stopped, then on the one that was restored, then over it."""
    text = (ROOT / "docs" / "how-to" / page).read_text()
    blocks = BLOCK.findall(text)
    assert len(blocks) == steps
    (tmp_path / "data").symlink_to(original.folder / "data")
    said = _shell(tmp_path, "\n".join(blocks))
    assert said.count("3 journals") == 3
    assert "quartermaster up --data-dir" in said
    start, check, *last = "".join(SHELL_BLOCK.findall(text)).splitlines()
    assert len(last) == more
    engine = Engine(tmp_path / "restored", told=start).start()
    try:
        assert "drift 0" in _shell(tmp_path, check)
    finally:
        engine.stop()
    for command in last:
        assert "3 journals" in _shell(tmp_path, command)


def _shell(folder: Path, script: str) -> str:
    """What a script printed in a folder; AssertionError where a command of it failed."""
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout
