"""The engine as its users run it: `quartermaster up` in a process of its own, on free ports and a folder of its own."""

from __future__ import annotations

import atexit
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from engine.journal.runtime import remove_runtime_dir

READY_TIMEOUT_S = 600.0


class Engine:
    """A running `quartermaster up`. `stop` ends it in order, `kill_everything` with -9."""

    def __init__(
        self,
        data_dir: Path,
        *,
        shards: int = 1,
        gateways: int = 1,
        environment: dict[str, str] | None = None,
        told: str = "",
    ) -> None:
        self.data_dir = data_dir
        self._told = told
        """A page's line that starts it, for a shell that stands beside the data folder; "" = made of the rest."""
        atexit.register(remove_runtime_dir, data_dir)
        self.shards = shards
        self.gateways = gateways
        self.port = 0
        """Of the first gateway; 0 = a free one at each start."""
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self.facts: dict[str, Any] = {}
        self.log = data_dir / "up.log"
        self.exit_code = 0

    def start(self) -> Engine:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        ready = self.data_dir / "ready.json"
        ready.unlink(missing_ok=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("QM_", "RAY_"))}
        own = ["up", f"--data-dir={self.data_dir}", f"--shards={self.shards}", f"--gateways={self.gateways}"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from engine.cli.main import main; main()",
                    *(shlex.split(self._told)[1:] or own),
                    f"--port={self.port}",
                    f"--ready-file={ready}",
                ],
                stdout=log,
                stderr=log,
                env={**clean, **self._environment},
                cwd=self.data_dir.parent if self._told else None,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = self.log.read_text(errors="replace")[-4_000:]
                self.exit_code = self.stop() or 0
                raise AssertionError(f"the engine did not start:\n{tail}")
            time.sleep(0.05)
        self.facts = json.loads(ready.read_text())
        return self

    @property
    def url(self) -> str:
        return str(self.facts["urls"][0])

    @property
    def pids(self) -> dict[str, int]:
        """Process id by name, as of the start."""
        return dict(self.facts["pids"])

    def processes(self) -> list[int]:
        """Ids of all processes that the command started, as of now."""
        assert self._process is not None
        return _descendants(self._process.pid)

    def client(self, gateway: int = 0) -> httpx.Client:
        return httpx.Client(
            base_url=self.facts["urls"][gateway],
            headers={"Authorization": f"Bearer {self.facts['key']}"},
            timeout=60.0,
        )

    def stop(self) -> int | None:
        """SIGTERM, then wait; returns the exit code."""
        process = self._process
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(240)
            except subprocess.TimeoutExpired:
                self.kill_everything()
        self._process = None
        return process.returncode

    def kill_command(self) -> None:
        """kill -9 of the command and Ray's processes; the embedded server is left an orphan."""
        assert self._process is not None
        server = self.facts["pids"].get("server")
        for pid in [self._process.pid, *_descendants(self._process.pid)]:
            if pid != server:
                _kill(pid)
        self._process.wait(60)
        self._process = None

    def fails_to_start(self) -> tuple[int, str]:
        """(exit code, what it said) of a start that must fail."""
        try:
            self.start()
        except AssertionError as error:
            return self.exit_code, str(error)
        self.stop()
        raise AssertionError("it started")

    def kill_everything(self) -> None:
        """kill -9 of every process of this engine, the embedded server included."""
        assert self._process is not None
        pids = _descendants(self._process.pid)
        server = self.facts.get("pids", {}).get("server")
        for pid in [self._process.pid, *pids, *([server] if server else [])]:
            _kill(pid)
        self._process.wait(60)
        self._process = None


def command(engine: Engine, *arguments: str, timeout_s: float = 400.0) -> tuple[int, str]:
    """(exit code, what it said) of a `quartermaster` command on the folder of a running engine."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("QM_", "RAY_"))}
    ran = subprocess.run(
        [sys.executable, "-c", "from engine.cli.main import main; main()", *arguments, f"--data-dir={engine.data_dir}"],
        capture_output=True,
        text=True,
        env=clean,
        timeout=timeout_s,
    )
    return ran.returncode, ran.stdout if ran.returncode == 0 else ran.stdout + ran.stderr


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has ended already


def _descendants(root: int) -> list[int]:
    """Children of children, read from /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    out: list[int] = []
    queue = [root]
    while queue:
        for child in children.get(queue.pop(), []):
            out.append(child)
            queue.append(child)
    return out
