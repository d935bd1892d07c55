"""Runs one gateway (`python -m gateway`, which never imports Ray) as a child, so that its restart and place are Ray's."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys

import structlog

from engine.logs import set_up_logging
from engine.settings import Settings

STOP_S = 10.0
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
"""Looked up here: between fork and exec the loader's lock may be held by a thread that is not there any more."""
log = structlog.get_logger(__name__)


def _die_with_parent() -> None:
    """In the child, before exec: the gateway ends with the actor that hosts it (Linux; elsewhere the next one finds the port taken)."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class GatewayHost:
    """A plain class; Ray's part is in options.py."""

    def __init__(self, settings_json: str, port: int) -> None:
        self._settings = Settings.model_validate_json(settings_json)
        self._port = port
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    async def ping(self) -> int:
        """Process id of the gateway, 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    async def run(self) -> int:
        """Run the gateway until it ends; returns its exit code."""
        set_up_logging(self._settings)
        if self._process is not None and self._process.returncode is None:
            return await self._process.wait()  # a restarted supervisor calls again
        environment = {**os.environ, **settings_environment(self._settings)}
        command = [sys.executable, "-m", "gateway", "--port", str(self._port)]
        if self._settings.reserves_ports:
            command.append("--reserved")
        self._process = await asyncio.create_subprocess_exec(*command, env=environment, preexec_fn=_die_with_parent)
        code = await self._process.wait()
        if not self._stopping:
            log.error("gateway ended", port=self._port, code=code)
        return code

    async def stop(self) -> None:
        """Unready, drain, exit; by force after a while."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()


def settings_environment(settings: Settings) -> dict[str, str]:
    """The settings as the environment of a child process."""
    out = {}
    for name, value in settings.model_dump().items():
        if value is None:
            continue
        secret = getattr(value, "get_secret_value", None)
        out["QM_" + name.upper()] = str(secret() if secret is not None else value)
    return out
