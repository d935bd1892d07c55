"""`quartermaster up` where something is not as it should be: what it says, and that it goes on where it can."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from engine.journal.embedded import EmbeddedServer
from engine.journal.keys import Keys
from tests.contract.journal_backends import flipped
from tests.integration.engine_process import Engine
from tests.integration.network_over_http import order, post, set_up_network

RAY_STARTED = "Ray runtime started"
RAY_TRIES = 4
"""Ray gives its own processes 15 s and no more; a machine that is busy may need another try."""


def wait_until(check: Callable[[], object], *, within_s: float = 240.0) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.1)


def ready(engine: Engine) -> bool:
    try:
        return httpx.get(engine.url + "/readyz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server of the user's own."""
    server = EmbeddedServer()
    server.start(tmp_path / "server")
    yield server
    server.stop()


def own(server: EmbeddedServer) -> dict[str, str]:
    return {"QM_REDIS_URL": server.url}


def test_a_killed_supervisor_comes_back_and_still_keeps_the_shards(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "data").start()
    try:
        with engine.client() as client:
            set_up_network(client)
            pids = engine.pids
            os.kill(pids["supervisor"], signal.SIGKILL)
            assert post(client, "/v1/allocations", order({"SKU-1": 1})).status_code == 201  # nobody needs it for that
            os.kill(pids["shard-0"], signal.SIGKILL)
            os.kill(pids["solver"], signal.SIGKILL)
            os.kill(pids[next(name for name in pids if name.startswith("gateway-"))], signal.SIGKILL)
            wait_until(lambda: not ready(engine))
            wait_until(lambda: ready(engine))
            assert post(client, "/v1/allocations", order({"SKU-1": 1})).status_code == 201
    finally:
        engine.stop()


def test_a_shard_whose_journal_is_damaged_says_so_and_the_others_serve(tmp_path: Path, server: EmbeddedServer) -> None:
    engine = Engine(tmp_path / "data", shards=2, environment=own(server)).start()
    try:
        with engine.client() as client:
            set_up_network(client)
        assert engine.stop() == 0
        raw: Any = redis.Redis.from_url(server.url)
        entries = Keys(1).entries
        (entry_id, fields), *_ = raw.xrange(entries, "2", "+", count=1)
        later = raw.xrange(entries, f"({entry_id.decode()}", "+")
        raw.xtrim(entries, maxlen=0)
        raw.delete(entries)
        for kept_id, kept in [(b"1-1", None), (entry_id, {b"e": flipped(fields[b"e"], -1)}), *later]:
            if kept is not None:
                raw.xadd(entries, kept, id=kept_id)
        raw.delete(Keys(1).parts)
        raw.close()
        engine.start()
        answer = httpx.get(engine.url + "/readyz", timeout=5)
        assert answer.status_code == 503
        states = {shard["shard"]: shard["state"] for shard in answer.json()["shards"]}
        assert states == {"0": "serving", "1": "frozen", "control": "serving"}
        with engine.client() as client:
            assert post(client, "/v1/allocations", order({"SKU-1": 1}, near="NYC")).status_code == 201
            refused = post(client, "/v1/allocations", order({"SKU-1": 1}, near="LAX"))
            assert refused.status_code == 503
            assert refused.json()["code"] == "frozen"
        assert "NOT ALL IS WELL" in engine.log.read_text()
    finally:
        engine.stop()


def test_on_a_server_of_ones_own_too_a_folder_is_one_commands(tmp_path: Path, server: EmbeddedServer) -> None:
    engine = Engine(tmp_path / "data", environment=own(server)).start()
    try:
        assert "server" not in engine.pids
        code, said = Engine(tmp_path / "data", environment=own(server)).fails_to_start()
        assert code == 1
        assert "in use by another quartermaster" in said
        key = (tmp_path / "data" / "admin.key").read_text()
        assert engine.stop() == 0
        redis.Redis.from_url(server.url).flushall()  # another journal under the old folder
        engine.start()
        with engine.client() as client:
            assert client.get("/v1/nodes").status_code == 200
        assert (tmp_path / "data" / "admin.key").read_text() == key
    finally:
        engine.stop()


def test_a_second_engine_on_a_server_refuses_while_the_first_one_lives(tmp_path: Path, server: EmbeddedServer) -> None:
    engine = Engine(tmp_path / "one", environment=own(server)).start()
    try:
        code, said = Engine(tmp_path / "two", environment=own(server)).fails_to_start()
        assert code == 1
        assert "another engine works on this server" in said
        with engine.client() as client:
            assert client.get("/v1/nodes").status_code == 200, "the first one is not disturbed"
    finally:
        engine.stop()


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [("maxmemory-policy", "allkeys-lru", "noeviction"), ("appendfsync", "everysec", "must be always")],
)
def test_a_server_that_is_not_fit_is_said_at_once(
    tmp_path: Path, server: EmbeddedServer, setting: str, value: str, said: str
) -> None:
    raw: Any = redis.Redis.from_url(server.url)
    raw.config_set(setting, value)
    code, text = Engine(tmp_path / "data", environment=own(server)).fails_to_start()
    assert code == 1
    assert said in text
    assert "starting Ray" not in text
    raw.close()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"QM_REDIS_URL": "http://somewhere"}, "starts with redis://"),
        ({"QM_REDIS_URL": "redis://127.0.0.1:1"}, "cannot be reached"),
        ({"QM_RUNTIME_DIR": "/tmp/" + "x" * 100}, "too long for a socket"),
    ],
)
def test_settings_that_cannot_work_are_said_at_once(tmp_path: Path, environment: dict[str, str], said: str) -> None:
    code, text = Engine(tmp_path / "data", environment=environment).fails_to_start()
    assert code == 1
    assert said in text
    assert "Traceback" not in text


def test_a_command_that_is_stopped_while_it_starts_leaves_nothing_running(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "data")
    engine.data_dir.mkdir()
    with engine.log.open("ab") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from engine.cli.main import main; main()",
                "up",
                f"--data-dir={engine.data_dir}",
                "--port=0",
            ],
            stderr=log,
            start_new_session=True,
        )
    wait_until(lambda: "starting Ray" in engine.log.read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(240) == 0

    def left() -> str:
        return subprocess.run(["pgrep", "-f", str(engine.data_dir)], capture_output=True, text=True, check=False).stdout

    wait_until(lambda: left() == "")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A Ray cluster of one machine that others run."""
    import tempfile

    folder = tempfile.mkdtemp(prefix="qm-ray-")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("QM_", "RAY_"))}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.3"),
        *("--port=26379", "--num-cpus=2", '--resources={"shard_slot": 100}', "--include-dashboard=false"),
        *("--object-store-memory=80000000", f"--temp-dir={folder}", "--disable-usage-stats"),
    ]
    said = tmp_path / "ray.log"
    for _ in range(RAY_TRIES):
        with said.open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, start_new_session=True)
        wait_until(lambda p=process: RAY_STARTED in said.read_text(errors="replace") or p.poll() is not None)
        if process.poll() is None:
            break
    yield "127.0.0.3:26379"
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(60)
    shutil.rmtree(folder, ignore_errors=True)


def test_a_cluster_that_is_joined_is_left_as_it_was(tmp_path: Path, server: EmbeddedServer, cluster: str) -> None:
    """Stopped in order, or killed: the next command finds the names free, and the orders where they were."""
    environment = {**own(server), "QM_RAY_ADDRESS": cluster, "RAY_AUTH_MODE": "disabled"}
    engine = Engine(tmp_path / "data", environment=environment).start()
    try:
        with engine.client() as client:
            set_up_network(client)
            placed = post(client, "/v1/allocations", order({"SKU-1": 1})).json()
        assert engine.stop() == 0
        engine.start()
        engine.kill_command()
        engine.start()
        with engine.client() as client:
            assert client.get(f"/v1/allocations/{placed['allocation_id']}").status_code == 200
    finally:
        engine.stop()
