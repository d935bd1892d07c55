"""What has left the shards, read from the index and the archive with the names of the catalogue at hand.

Everything here blocks: gateways ask in threads, the command line as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from engine.archive.places import archive_url, index_url
from engine.archive.reader import IndexReader, OrderRow
from engine.archive.store import SegmentStore
from engine.domain.catalog import Catalog
from engine.domain.ids import order_no_time_ms, shard_of_order_no
from engine.domain.orders import decode_record, has_ended
from engine.domain.replies import DecisionReply, OrderView
from engine.domain.views import order_view
from engine.journal.chain import unpack_decision
from engine.journal.port import Unavailable
from engine.settings import Settings


class Past:
    """Nothing is opened before the first question. Methods raise Unavailable, and Corrupt where the archive is damaged."""

    def __init__(self, settings: Settings, catalog: Callable[[], Catalog], *, readers: int = 1) -> None:
        self._settings = settings
        self._catalog = catalog
        self._readers = readers
        self._reader: IndexReader | None = None
        self._store: SegmentStore | None = None

    @property
    def reader(self) -> IndexReader:
        if self._reader is None:
            self._reader = IndexReader(index_url(self._settings), readers=self._readers)
        return self._reader

    def order(self, slot: str, order_no: int, *, has_left: bool = True) -> OrderView | None:
        """An order as the index knows it; None = there is none. Raises Unavailable also where an index that is being made has not got so far.

        has_left: it is in no shard, so it has ended, and a record that says otherwise is not its last.
        """
        row = self.reader.order(order_no)
        if row is None:
            self._must_have_passed(order_no)
            row = self.reader.order(order_no)  # which may have come meanwhile
        if row is None or row.slot != slot:
            return None
        if has_left and not has_ended(decode_record(row.record)):
            raise Unavailable("the index does not have the end of this order yet")
        return self.views([row])[0]

    def _must_have_passed(self, order_no: int) -> None:
        """Raises Unavailable unless the index is beyond the instant at which an order of this number was opened, if one was."""
        shard, opened_ms = shard_of_order_no(order_no), order_no_time_ms(order_no)
        if shard >= self._catalog().placement.shard_count or opened_ms > self._settings.pace.now_ms():
            return
        if not any(point.shard == shard and point.time_ms > opened_ms for point in self.reader.as_of()):
            raise Unavailable("the index has not got to the time of this order yet")

    def views(self, rows: Iterable[OrderRow]) -> list[OrderView]:
        """Records with their names."""
        decoded = [(row, decode_record(row.record)) for row in rows]
        items = {line.item for _, record in decoded for line in record.lines}
        items |= {line.kit for _, record in decoded for line in record.lines if line.kit >= 0}
        named = Named(self._catalog(), self.reader.names_of("item", items))
        return [order_view(named, row.slot, row.order_no, record, token="") for row, record in decoded]  # type: ignore[arg-type]

    def decision(self, order_no: int, number: int) -> DecisionReply | None:
        """A decision record out of the archive; None where it is not there (yet)."""
        place = self.reader.decision(order_no, number)
        if place is None:
            return None
        if self._store is None:
            self._store = SegmentStore(archive_url(self._settings))
        shard, epoch, seq, at = place
        record = self._store.find(shard, seq)
        if record is None or record.epoch != epoch or not record.decisions:
            return None
        packed = unpack_decision(record.decisions, at)
        return DecisionReply(packed, (shard, epoch, seq)) if packed is not None else None

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


class Named:
    """A catalogue that need not have items, with the SKUs of one answer."""

    def __init__(self, catalog: Catalog, skus: dict[int, str]) -> None:
        self._skus = skus
        self.channels = catalog.channels
        self.node_id = catalog.node_id
        self.service_name = catalog.service_name

    def sku(self, item: int) -> str:
        return self._skus.get(item, f"#{item}")
