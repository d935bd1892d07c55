"""What actors write reaches standard error: whole lines, each once, without Ray's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import bootstrap_logs
from engine.bootstrap_logs import ActorLogs


def test_lines_are_passed_on_once_they_are_whole_and_once(tmp_path: Path) -> None:
    seen: list[bytes] = []
    logs = ActorLogs(seen.append)
    file = tmp_path / "worker-1.err"
    file.write_bytes(b":job_id:01000000\n:actor_name:ShardActor\none\ntw")
    (tmp_path / "log_monitor.err").write_bytes(b"nobody asked\n")
    logs.pass_on(tmp_path)
    assert seen == [b"one\n"]
    with file.open("ab") as more:
        more.write(b"o\nthr")
    logs.pass_on(tmp_path)
    assert seen == [b"one\n", b"two\n"]
    assert logs.pass_on(tmp_path) == 0
    logs.pass_on(tmp_path, whole_lines=False)
    assert seen == [b"one\n", b"two\n", b"thr\n"]


def test_much_is_passed_on_in_parts_and_a_line_without_end_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap_logs, "READ_BYTES", 8)
    monkeypatch.setattr(bootstrap_logs, "LINE_BYTES_MAX", 6)
    seen: list[bytes] = []
    logs = ActorLogs(seen.append)
    (tmp_path / "worker-1.out").write_bytes(b"one\ntwo\nthree\nnever-ending")
    while logs.pass_on(tmp_path):
        pass
    assert seen == [b"one\ntwo\n", b"three\n", b"never-en\n"]


def test_files_that_are_rotated_emptied_or_removed_are_followed_on(tmp_path: Path) -> None:
    seen: list[bytes] = []
    logs = ActorLogs(seen.append)
    file = tmp_path / "worker-1.err"
    file.write_bytes(b"one\n")
    logs.pass_on(tmp_path)
    with file.open("ab") as more:
        more.write(b"two\n")
    file.rename(tmp_path / "worker-1.1.err")  # as Ray does it, with what nobody has read yet
    file.write_bytes(b"three\n")
    logs.pass_on(tmp_path)
    assert sorted(seen) == [b"one\n", b"three\n", b"two\n"]
    file.write_bytes(b"4\n")  # the same file, emptied
    logs.pass_on(tmp_path)
    assert seen[3:] == [b"4\n"]
    for gone in tmp_path.iterdir():
        gone.unlink()
    assert logs.pass_on(tmp_path) == 0
    file.write_bytes(b"five\n")  # maybe with the inode of the one that was removed
    logs.pass_on(tmp_path)
    assert seen[4:] == [b"five\n"]


def test_a_file_that_is_gone_or_another_one_when_it_is_read_is_left_to_the_next_call(tmp_path: Path) -> None:
    file = tmp_path / "worker-1.err"
    file.write_bytes(b"one\n")
    ((path, found),) = bootstrap_logs._files(tmp_path)
    assert bootstrap_logs._read(path, found.st_ino, 0) == b"one\n"
    assert bootstrap_logs._read(path, found.st_ino + 1, 0) == b""
    listed = bootstrap_logs._files(tmp_path)
    file.unlink()
    assert list(listed) == []
    assert bootstrap_logs._read(path, found.st_ino, 0) == b""


def test_what_is_there_at_the_end_is_passed_on(tmp_path: Path) -> None:
    seen: list[bytes] = []
    logs = ActorLogs(seen.append)
    logs.stop()  # nothing was started
    logs = ActorLogs(seen.append)
    (tmp_path / "worker-1.err").write_bytes(b"last words")
    logs.start(tmp_path)
    logs.stop()
    assert seen == [b"last words\n"]
