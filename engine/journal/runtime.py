"""The folder of an engine's sockets on one machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

SOCKET_PATH_MAX = 100
"""Bytes. AF_UNIX takes 107 on Linux and 103 on macOS."""
SOCKET_NAME_MAX = len("/solver.sock")
RAY_SOCKET_BYTES = len("/ray/session_2026-12-31_23-59-59_999999_4194304/sockets/plasma_store")
"""What Ray puts behind the folder it is given."""


class EmbeddedError(RuntimeError):
    """The embedded server cannot be had; the message says what to do."""


def runtime_dir(data_dir: Path, override: Path | None = None) -> Path:
    """A short folder for sockets (ours and Ray's), made 0700, one for each user and data folder.

    Raises EmbeddedError where it is not ours, or the one that was asked for is too long for a socket.
    """
    digest = hashlib.blake2b(str(data_dir.resolve()).encode(), digest_size=5).hexdigest()
    name = f"qm-{os.getuid()}-{digest}"
    folder = override or Path(tempfile.gettempdir()) / name
    if override is None and len(os.fsencode(folder)) + RAY_SOCKET_BYTES > SOCKET_PATH_MAX:
        folder = Path("/tmp") / name  # noqa: S108 - its owner and mode are checked below
    if len(os.fsencode(folder)) + SOCKET_NAME_MAX > SOCKET_PATH_MAX:
        raise EmbeddedError(f"{folder} is too long for a socket: set QM_RUNTIME_DIR to a short folder")
    folder.mkdir(mode=0o700, parents=override is not None, exist_ok=True)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise EmbeddedError(f"{folder} is not a folder of this user: remove it, or set QM_RUNTIME_DIR")
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)
    return folder


def remove_runtime_dir(data_dir: Path) -> None:
    """Remove the folder of a data folder that is gone for good, Ray's logs in it included."""
    shutil.rmtree(runtime_dir(data_dir), ignore_errors=True)
