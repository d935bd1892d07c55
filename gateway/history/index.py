"""The gateway's way to the index and the archive: questions run in a few threads, never on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from engine.archive.past import Past
from engine.archive.reader import IndexReader
from engine.domain.catalog import Catalog
from engine.domain.replies import DecisionReply, OrderView, Problem
from engine.journal.port import JournalError, Unavailable
from engine.settings import Settings
from gateway.errors import problem

THREADS = 4
WAITING_MAX = 64
"""Questions that wait for a thread; more are answered `overloaded`."""
T = TypeVar("T")


class History:
    """What the past is asked through. Nothing is opened before the first question."""

    def __init__(self, settings: Settings, catalog: Callable[[], Catalog]) -> None:
        self._settings = settings
        self.past = Past(settings, catalog, readers=THREADS)
        self._threads: ThreadPoolExecutor | None = None
        self._asked = 0

    @property
    def is_kept(self) -> bool:
        """False where the settings keep no past."""
        return self._settings.archives

    async def ask(self, question: Callable[[IndexReader], T]) -> T | Problem:
        """Run a question in a thread."""
        return await self._run(lambda: question(self.past.reader))

    async def _run(self, work: Callable[[], T]) -> T | Problem:
        if not self.is_kept:
            return problem("unavailable", "this engine keeps no past (QM_ARCHIVE_URL is off)")
        if self._asked >= THREADS + WAITING_MAX:
            return problem("overloaded", "too many questions about the past at once")
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="history")
        self._asked += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except Unavailable as error:
            return problem("unavailable", str(error), retry_after_ms=1_000)
        finally:
            self._asked -= 1

    async def order(self, slot: str, order_no: int, *, has_left: bool) -> OrderView | Problem | None:
        """An order as the index knows it; None = there is none. has_left: it is in no shard."""
        if not self.is_kept:
            return None
        return await self._run(lambda: self.past.order(slot, order_no, has_left=has_left))

    async def decision(self, order_no: int, number: int) -> DecisionReply | Problem | None:
        """A decision record out of the archive; None where it is not there (yet)."""
        try:
            return await self._run(lambda: self.past.decision(order_no, number))
        except JournalError as error:
            return problem("internal", f"the record of this decision is damaged: {error}")

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self.past.close()
