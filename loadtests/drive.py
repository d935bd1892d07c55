"""The driver from outside: a second process that takes one run after another, so that rounds can be interleaved cheaply."""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType
from typing import Self

import msgspec

from loadtests.driver import Result, Run


class DriverError(RuntimeError):
    """The driver process ended."""


class DriverProcess:
    """`python -m loadtests.driver`, for one thread of callers."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loadtests.driver"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def begin(self, run: Run) -> None:
        """Start a run; `end` gives its result. Whatever else is measured can be read meanwhile."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(run) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise DriverError("the load driver has ended; see its message above") from error

    def end(self) -> Result:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise DriverError("the load driver has ended; see its message above")
        return msgspec.json.decode(line, type=Result)

    def run(self, run: Run) -> Result:
        self.begin(run)
        return self.end()

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
