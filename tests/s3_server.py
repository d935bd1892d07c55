"""A store that speaks S3 over HTTP: SeaweedFS, all its parts in one process, on ports of the loopback address."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import fsspec
import pytest

from loadtests.proc import free_port
from tests.conftest import service_missing

KEY, SECRET = "qm-archive", "not-a-secret"
_PARTS = ("master", "volume", "filer", "s3")
_names = count()


class S3Server:
    """Started when made. `end` is a kill -9; `start` brings it back on the same folder and ports."""

    def __init__(self, folder: Path) -> None:
        # Beside the interpreter: that is where the wheel puts it, whether or not the environment is on PATH.
        program = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
        if program is None:
            service_missing("weed (SeaweedFS)")
        assert program is not None
        self._folder = folder
        ports = {name: free_port() for part in _PARTS for name in (f"{part}.port", f"{part}.port.grpc")}
        self.endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        self._sockets = [Path(f"/tmp/seaweedfs-{part}-grpc-{ports[f'{part}.port.grpc']}.sock") for part in _PARTS]
        access = {"credentials": [{"accessKey": KEY, "secretKey": SECRET}], "name": "qm", "actions": ["Admin"]}
        (folder / "s3.json").write_text(json.dumps({"identities": [access]}))
        (folder / "data").mkdir()
        self._command = [
            *(program, "-logtostderr", "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *("-filer", "-s3", f"-s3.config={folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            # It would tell its makers that it was started. The rest makes it ready in seconds, with little disk.
            *("-master.telemetry=false", "-master.electionTimeout=500ms", "-master.volumeSizeLimitMB=64"),
            *("-volume.max=8", f"-filer.localSocket={folder / 'filer.sock'}", f"-s3.localSocket={folder / 's3.sock'}"),
            *(f"-{name}={port}" for name, port in ports.items()),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self._folder)
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < deadline, (self._folder / "log").read_text()[
                -2_000:
            ]
            time.sleep(0.1)

    def end(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=30)
        for socket in self._sockets:
            socket.unlink(missing_ok=True)

    def _answers(self) -> bool:
        try:
            urlopen(self.endpoint, timeout=5).close()
        except HTTPError as error:
            return error.code == 403  # it wants a signature: it is up
        except (URLError, OSError):
            return False
        return True

    def environment(self, patch: pytest.MonkeyPatch) -> None:
        """What an operator would set, for file systems that are made from now on."""
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        patch.setenv("AWS_ENDPOINT_URL_S3", self.endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")

    def new_url(self) -> str:
        """A folder of its own. Of one bucket: this store gives each bucket volumes of its own, and there are few."""
        return f"s3://quartermaster/archive-{next(_names)}"
