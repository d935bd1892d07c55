"""The embedded server: one for a data folder whatever dies, and never two."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.journal.embedded import EmbeddedError, EmbeddedServer, find_binary, runtime_dir, wheel_binary
from engine.journal.redis_journal import RedisJournal
from engine.journal.runtime import remove_runtime_dir
from tests.conftest import eventually

_UP = """
import asyncio, json, sys
from pathlib import Path
from engine.journal.embedded import EmbeddedServer, wheel_binary
from engine.journal.redis_journal import RedisJournal

async def fill(url):
    journal = RedisJournal(url, 0)
    acquired = await journal.acquire("first run", [])
    appended = await journal.append(
        acquired.tail, time_ms=acquired.tail.time_ms, payload=b"acknowledged", decisions=[b"why"])
    await journal.close()
    return appended.tail

server = EmbeddedServer()
server.start(Path(sys.argv[1]), binary=wheel_binary())
tail = asyncio.run(fill(server.url))
print(json.dumps({"pid": server.pid, "adopted": server.adopted, "epoch": tail.epoch, "seq": tail.seq}), flush=True)
sys.stdin.read()
server.stop()
"""


class Up:
    """A command in a process of its own that keeps a server up until its standard input closes."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _UP, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.said = json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data folder; a server that a test leaves behind is stopped."""
    folder = tmp_path / "data"
    yield folder
    if (folder / "server.json").exists():
        left = EmbeddedServer()
        left.start(folder, binary=wheel_binary(), timeout_s=60)
        left.stop(timeout_s=60)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{pid}/stat").exists() or Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1][1] != "Z"


async def read_all(url: str) -> list[bytes]:
    journal = RedisJournal(url, 0)
    read = [entry.payload async for entry in journal.read(after_seq=0)]
    await journal.close()
    return read


async def test_an_orphan_of_a_killed_command_is_adopted_with_its_data(data_dir: Path) -> None:
    up = Up(data_dir)
    up.kill()
    pid = up.said["pid"]
    assert alive(pid)
    server = EmbeddedServer()
    server.start(data_dir, binary=wheel_binary(), timeout_s=60)
    assert (server.adopted, server.pid) == (True, pid)
    assert await read_all(server.url) == [b"\x90", b"acknowledged"]
    server.stop(timeout_s=60)
    await eventually(lambda: not alive(pid))
    assert not (data_dir / "server.json").exists()


async def test_a_server_that_was_killed_is_started_anew_with_its_data(data_dir: Path) -> None:
    up = Up(data_dir)
    up.kill()
    os.kill(up.said["pid"], signal.SIGKILL)
    server = EmbeddedServer()
    server.start(data_dir, binary=wheel_binary(), timeout_s=60)
    assert not server.adopted
    assert server.pid != up.said["pid"]
    assert await read_all(server.url) == [b"\x90", b"acknowledged"]
    journal = RedisJournal(server.url, 0)
    assert await journal.read_decision(up.said["epoch"], up.said["seq"], 0) == b"why"
    await journal.close()
    server.stop(timeout_s=60)


def test_a_second_command_on_the_same_folder_is_told_so(data_dir: Path) -> None:
    up = Up(data_dir)
    second = EmbeddedServer()
    with pytest.raises(EmbeddedError, match=f"in use by another quartermaster \\(process {up.process.pid}\\)"):
        second.start(data_dir, binary=wheel_binary())
    up.close()
    assert up.process.returncode == 0
    assert not alive(up.said["pid"])


async def test_the_data_is_there_after_a_stop_and_a_start(data_dir: Path) -> None:
    Up(data_dir).close()
    server = EmbeddedServer()
    server.start(data_dir, binary=wheel_binary(), timeout_s=60)
    assert not server.adopted
    assert await read_all(server.url) == [b"\x90", b"acknowledged"]
    server.stop(timeout_s=60)


async def test_a_server_that_does_not_answer_is_not_doubled(data_dir: Path) -> None:
    up = Up(data_dir)
    up.kill()
    os.kill(up.said["pid"], signal.SIGSTOP)
    second = EmbeddedServer()
    try:
        with pytest.raises(EmbeddedError, match=f"does not answer.*process {up.said['pid']}"):
            second.start(data_dir, binary=wheel_binary(), timeout_s=0.2)
    finally:
        os.kill(up.said["pid"], signal.SIGCONT)
    again = EmbeddedServer()
    again.start(data_dir, binary=wheel_binary(), timeout_s=60)
    assert again.adopted
    again.stop(timeout_s=60)


def test_a_folder_left_by_detach_is_adopted_in_the_same_process(data_dir: Path) -> None:
    first = EmbeddedServer()
    first.start(data_dir, binary=wheel_binary(), timeout_s=60)
    first.detach()
    second = EmbeddedServer()
    second.start(data_dir, binary=wheel_binary(), timeout_s=60)
    assert (second.adopted, second.pid) == (True, first.pid)
    assert second.alive()
    second.stop(timeout_s=60)
    assert not second.alive()
    first.stop(timeout_s=60)  # nothing is left to stop, and that is no error


def test_a_server_that_cannot_start_says_why(data_dir: Path) -> None:
    (data_dir / "appendonlydir").mkdir(parents=True)
    (data_dir / "appendonlydir" / "appendonly.aof.manifest").write_text("file nonsense seq 1 type b\n")
    server = EmbeddedServer()
    with pytest.raises(EmbeddedError, match=r"the server ended with 1:[\s\S]*AOF"):
        server.start(data_dir, binary=wheel_binary(), timeout_s=60)
    (data_dir / "server.json").unlink()


def test_files_and_sockets_are_for_their_user_alone(data_dir: Path) -> None:
    server = EmbeddedServer()
    server.start(data_dir, binary=wheel_binary(), timeout_s=60)
    socket = Path(server.url.removeprefix("unix://"))
    assert stat.S_IMODE(socket.stat().st_mode) == 0o700
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    server.stop(timeout_s=60)
    assert not socket.parent.exists()


def test_the_runtime_folder_is_short_and_differs_by_data_folder(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    folders = {runtime_dir(deep), runtime_dir(deep), runtime_dir(tmp_path)}
    assert len(folders) == 2
    for folder in folders:
        assert len(str(folder)) < 80
        (folder / "ray").mkdir()
    for data_dir in (deep, tmp_path):
        remove_runtime_dir(data_dir)
    assert not [folder for folder in folders if folder.exists()]


def test_a_runtime_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    link = tmp_path / "runtime"
    link.symlink_to(target)
    with pytest.raises(EmbeddedError, match="not a folder of this user"):
        runtime_dir(tmp_path, link)


def test_a_socket_path_that_is_too_long_is_said_before_anything_starts(data_dir: Path, tmp_path: Path) -> None:
    server = EmbeddedServer()
    with pytest.raises(EmbeddedError, match="too long for a socket"):
        server.start(data_dir, runtime=tmp_path / ("x" * 100), binary=wheel_binary())


def test_a_server_on_path_is_preferred_to_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho 'Redis server v=7.0.15 sha=0'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert find_binary() == str(program)
    program.write_text("#!/bin/sh\necho 'Redis server v=6.2.1 sha=0'\n")
    assert find_binary() == wheel_binary()
