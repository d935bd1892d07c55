"""Servers of a run: started as processes on free ports in temporary folders, known by pid, ended by pid."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from engine.journal.runtime import remove_runtime_dir
from loadtests.proc import alive, cpu_seconds, descendants, free_port, owns_port, threads_cpu_seconds

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0


def stop_on_sigterm() -> None:
    """SIGTERM unwinds like Ctrl-C, so that every server that was started is ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


class ServerError(RuntimeError):
    """A server did not start, died, or does not own its port."""


class Server:
    """One HTTP server process. `processes` = role -> pid, for CPU per role."""

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, port: int = 0
    ) -> None:
        self.name = name
        self.ports = [port or free_port()]
        self.headers: dict[str, str] = {}
        self.log = log
        self._command = [part.replace("{port}", str(self.ports[0])) for part in command]
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.processes: dict[str, int] = {}

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def spawn(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env, start_new_session=True
            )
        self.processes = {"peer": self._process.pid}

    def start(self) -> None:
        """Start and wait until it answers on its own port. Raises ServerError with the end of its log."""
        self.spawn()
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            self.check_alive()
            try:
                if httpx.get(f"http://127.0.0.1:{self.ports[0]}/livez", timeout=2.0).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} does not answer: {self.log_end()}")
            time.sleep(0.05)
        self.check()

    def check_alive(self) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            raise ServerError(f"{self.name} ended with {self._process.returncode}: {self.log_end()}")

    def check(self) -> None:
        """Alive, and the one that listens on its ports."""
        self.check_alive()
        for port in self.ports:
            if not owns_port(self.pid, port):
                raise ServerError(f"port {port} does not belong to {self.name} (pid {self.pid})")

    def log_end(self) -> str:
        try:
            return self.log.read_text(errors="replace")[-2_000:]
        except OSError:
            return "(no log)"

    def cpu(self) -> dict[str, float]:
        """CPU seconds by role so far."""
        return {role: threads_cpu_seconds(pid) for role, pid in self.processes.items()}

    def stop(self) -> None:
        """SIGTERM, then SIGKILL; children too. Safe to call twice."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        below = descendants(process.pid)
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in below:
            if alive(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


class Engine(Server):
    """`quartermaster up` on a data folder of its own: gateways, shards, control, solver, Ray and the journal's server."""

    def __init__(
        self,
        name: str,
        data_dir: Path,
        *,
        shards: int = 1,
        gateways: int = 1,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        atexit.register(remove_runtime_dir, data_dir)
        self.shards = shards
        self.ready_file = data_dir.parent / f"{data_dir.name}.ready.json"
        command = [sys.executable, "-c", "from engine.cli.main import main; main()"]
        command += ["up", "--data-dir", str(data_dir), "--port", "0"]
        command += ["--shards", str(shards), "--gateways", str(gateways), "--ready-file", str(self.ready_file)]
        super().__init__(
            name,
            command,
            log=data_dir.parent / f"{data_dir.name}.log",
            env={"QM_LOG_LEVEL": "warning", **(env or {})},
            port=1,
        )
        self.ports = []
        self.facts: dict[str, Any] = {}

    def start(self) -> None:
        self.ready_file.unlink(missing_ok=True)
        self.spawn()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.ready_file.exists():
            self.check_alive()
            if time.monotonic() > deadline:
                self.stop()
                raise ServerError(f"{self.name} does not become ready: {self.log_end()}")
            time.sleep(0.05)
        self.facts = json.loads(self.ready_file.read_text())
        self.ports = [int(url.rsplit(":", 1)[1]) for url in self.facts["urls"]]
        self.headers = {"authorization": f"Bearer {self.facts['key']}"}
        pids = {role: pid for role, pid in self.facts["pids"].items() if pid}
        self.processes = {**_named_gateways(pids), "up": self.pid}
        self.processes |= {f"ray:{pid}": pid for pid in descendants(self.pid) if pid not in self.processes.values()}
        self.check()

    @property
    def url(self) -> str:
        return str(self.facts["urls"][0])

    @property
    def key(self) -> str:
        return str(self.facts["key"])

    @property
    def redis_url(self) -> str:
        return str(self.facts["redis_url"])

    def cpu(self) -> dict[str, float]:
        """CPU seconds by role; everything that is Ray's own is one role."""
        out: dict[str, float] = {}
        for role, pid in self.processes.items():
            name = "ray" if role.startswith("ray:") else role
            read = cpu_seconds if name == "ray" else threads_cpu_seconds
            out[name] = out.get(name, 0.0) + read(pid)
        return out

    def all_pids(self) -> list[int]:
        """Every process of this engine, the journal's server included."""
        return list(dict.fromkeys([self.pid, *descendants(self.pid), *(pid for pid in self.processes.values())]))

    def kill_all(self) -> None:
        """kill -9 of every process, and wait until all are gone."""
        pids = self.all_pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while any(alive(pid) for pid in pids):
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name}: processes survive SIGKILL: {[p for p in pids if alive(p)]}")
            time.sleep(0.02)


def _named_gateways(pids: dict[str, int]) -> dict[str, int]:
    """An actor hosts each gateway's process: the role is the child that serves, the host counts as Ray's."""
    out: dict[str, int] = {}
    for role, pid in pids.items():
        if role.startswith("gateway-"):
            below = descendants(pid)
            out["gateway" if len([r for r in pids if r.startswith("gateway-")]) == 1 else role] = (below or [pid])[-1]
            if below:
                out[f"ray:{role}"] = pid
        elif role == "server":
            out["redis"] = pid
        else:
            out[role] = pid
    return out
