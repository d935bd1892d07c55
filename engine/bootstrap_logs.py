"""What our actors write, passed on to standard error line by line. Ray keeps it in files of its session; its own log monitor, which
would pass it on, is a process of 47 MB.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_S = 0.25
READ_BYTES = 1 << 20
"""Of a file at a time: a process that writes much does not keep the lines of the others back."""
LINE_BYTES_MAX = 1 << 16
"""A longer one is passed on in pieces."""
_FOLLOWED = (("worker", ".out"), ("worker", ".err"), ("raylet", ".err"), ("gcs_server", ".err"))
_RAYS_OWN = (b":job_id:", b":actor_name:", b":task_name:")
"""How lines begin by which Ray tells its log monitor whose the next ones are."""


def to_stderr(data: bytes) -> None:
    sys.stderr.buffer.write(data)
    sys.stderr.buffer.flush()


class ActorLogs:
    """Follows the files of one Ray session in a thread of its own: whoever does not read standard error holds up no actor.

    A file is known by its inode: where Ray rotates files (RAY_ROTATION_MAX_BYTES), a name goes over to another one.
    """

    def __init__(self, write: Callable[[bytes], None] = to_stderr) -> None:
        self._write = write
        self._offsets: dict[int, int] = {}
        """What was passed on of each file that is there, by inode."""
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, folder: Path) -> None:
        self._thread = threading.Thread(target=self._follow, args=(folder,), name="actor-logs", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Pass on what is there, and end. Safe without a start."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _follow(self, folder: Path) -> None:
        while not self._ending.wait(POLL_S):
            self.pass_on(folder)
        while self.pass_on(folder, whole_lines=False):
            pass

    def pass_on(self, folder: Path, *, whole_lines: bool = True) -> int:
        """What was written since the last call, a part of it where that is much. Returns its bytes.

        whole_lines: the begin of a line waits for its end; False = nobody will write it any more.
        """
        passed = 0
        known, self._offsets = self._offsets, {}
        for path, found in _files(folder):
            offset = known.get(found.st_ino, 0)
            if offset > found.st_size:  # emptied, or a new file in the place of one that was removed
                offset = 0
            data = _read(path, found.st_ino, offset) if found.st_size > offset else b""
            if whole_lines and len(data) - (data.rfind(b"\n") + 1) < LINE_BYTES_MAX:
                data = data[: data.rfind(b"\n") + 1]
            self._offsets[found.st_ino] = offset + len(data)
            passed += len(data)
            ours = b"".join(line for line in data.splitlines(keepends=True) if not line.startswith(_RAYS_OWN))
            if ours:
                self._write(ours if ours.endswith(b"\n") else ours + b"\n")
        return passed


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    for entry in os.scandir(folder):
        if any(entry.name.startswith(start) and entry.name.endswith(end) for start, end in _FOLLOWED):
            try:
                yield entry.path, entry.stat()
            except FileNotFoundError:
                continue  # rotated away since the folder was listed


def _read(path: str, inode: int, offset: int) -> bytes:
    """What a file has beyond an offset; nothing where the path is another file's by now: the next call finds both."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_ino != inode:
                return b""
            file.seek(offset)
            return file.read(READ_BYTES)
    except FileNotFoundError:
        return b""
