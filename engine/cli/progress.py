"""One line of progress for commands that may take long, shown once they have taken two seconds."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

SHOW_AFTER_S = 2.0


class Line:
    """`update` as often as you like; nothing is drawn where it is `quiet` or quickly over."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._started = time.monotonic()
        self._quiet = quiet
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, what: str, done: int, total: int) -> None:
        if self._progress is None:
            if self._quiet or time.monotonic() - self._started < SHOW_AFTER_S:
                return
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[rows]}"),
                TimeElapsedColumn(),
            )
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.add_task("", rows="")
            self._progress.start()
        task = self._progress.task_ids[0]
        self._progress.update(task, description=what, completed=done, total=total, rows=f"{done:,} of {total:,}")
