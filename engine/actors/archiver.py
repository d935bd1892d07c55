"""The archiver as an actor, one process. Ray's part is in options.py, the work in archiving.py.

That is imported by `run` alone: the supervisor, which makes this actor, needs neither SQLAlchemy nor fsspec (30 MB) for it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from engine.large_pages import keep_making
from engine.logs import set_up_logging
from engine.settings import Settings

if TYPE_CHECKING:
    from engine.actors.archiving import Archiving

NICENESS = 19
"""It works in time that nobody else wants: orders before their past."""


class Archiver:
    """A plain class. Its calls come one by one on the loop of the actor's process."""

    def __init__(self, settings_json: str) -> None:
        self._settings = Settings.model_validate_json(settings_json)
        self._archiving: Archiving | None = None

    async def ping(self) -> int:
        """Process id of the actor."""
        return os.getpid()

    async def run(self) -> None:
        """Follow, for as long as the process lives."""
        if self._archiving is not None:  # a restarted supervisor calls again
            await self._archiving.wait()
            return
        from engine.actors.archiving import Archiving

        set_up_logging(self._settings)
        os.nice(NICENESS)
        keep_making(wanted=self._settings.large_pages)
        self._archiving = Archiving(self._settings)
        await self._archiving.run()

    async def stop(self) -> None:
        """Seal what was taken, so that the next start has less to read again."""
        if self._archiving is not None:
            await self._archiving.stop()

    async def facts(self) -> dict[str, Any]:
        """By shard: entries archived, indexed, segments, gaps, why the index is behind."""
        return self._archiving.facts() if self._archiving is not None else {}
