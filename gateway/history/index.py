"""The gateway's way to the index and the archive: questions run in a few threads, never on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from engine.archive.places import archive_url, index_url
from engine.archive.reader import IndexReader, NoIndex, OrderRow
from engine.archive.store import SegmentStore
from engine.domain.catalog import Catalog
from engine.domain.orders import decode_record
from engine.domain.replies import OrderView, Problem
from engine.domain.views import order_view
from engine.journal.chain import unpack_decision
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
        self._catalog = catalog
        self._reader: IndexReader | None = None
        self._store: SegmentStore | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._asked = 0

    @property
    def is_kept(self) -> bool:
        """False where the settings keep no past."""
        return self._settings.archives

    async def ask(self, question: Callable[[IndexReader], T]) -> T | Problem:
        """Run a question in a thread."""
        return await self._run(lambda: question(self._opened()))

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

    def _opened(self) -> IndexReader:
        if self._reader is None:
            self._reader = IndexReader(index_url(self._settings), readers=THREADS)
        return self._reader

    async def order(self, order_no: int) -> OrderView | Problem | None:
        """An order as the index knows it; None = it does not know it."""

        def question(reader: IndexReader) -> OrderView | None:
            try:
                row = reader.order(order_no)
            except NoIndex:  # so nothing has ever left a shard
                return None
            return self.views(reader, [row])[0] if row is not None else None

        return await self.ask(question) if self.is_kept else None

    def views(self, reader: IndexReader, rows: Iterable[OrderRow]) -> list[OrderView]:
        """Records with their names; in a thread."""
        decoded = [(row, decode_record(row.record)) for row in rows]
        items = {line.item for _, record in decoded for line in record.lines}
        named = Named(self._catalog(), reader.names_of("item", items))
        return [order_view(named, row.slot, row.order_no, record, token="") for row, record in decoded]  # type: ignore[arg-type]

    async def decision(self, order_no: int, number: int) -> bytes | Problem | None:
        """A decision record out of the archive; None where it is not there (yet)."""

        def work() -> bytes | None:
            place = self._opened().decision(order_no, number)
            if place is None:
                return None
            if self._store is None:
                self._store = SegmentStore(archive_url(self._settings))
            shard, epoch, seq, at = place
            record = self._store.find(shard, seq)
            if record is None or record.epoch != epoch or not record.decisions:
                return None
            return unpack_decision(record.decisions, at)

        try:
            return await self._run(work)
        except JournalError as error:
            return problem("internal", f"the record of this decision is damaged: {error}")

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        if self._reader is not None:
            self._reader.close()


class Named:
    """The gateway's catalogue, which has no items, with the SKUs of one answer."""

    def __init__(self, catalog: Catalog, skus: dict[int, str]) -> None:
        self._skus = skus
        self.channels = catalog.channels
        self.node_id = catalog.node_id
        self.service_name = catalog.service_name

    def sku(self, item: int) -> str:
        return self._skus.get(item, f"#{item}")
