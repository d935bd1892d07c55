"""What customers wanted and did not get at once: for prices and forecasts, which must learn from demand, not from what was accepted.

In memory, bounded, lost with the process: the journal has the orders themselves. Orders that were served at once are not noted
here, they are the journal's; nor is anything that cost them time.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from engine.domain.decide_orders import Prepared
from engine.domain.orders import DemandRecord, OrderRecord, OrderState
from engine.domain.plan import Plan
from engine.domain.replies import DemandNote, DemandNotes
from engine.protocol.flights import Flight

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

NOTES_MAX = 10_000
PAGE_MAX = 5_000
QUOTED_PER_S = 20
"""Lines of quotes that are noted in one second."""
_Note = tuple[int, str, int, str, int, int, int]
"""(instant in ms, outcome, item, slot, channel, units, waited ms)"""


class DemandLog:
    """The newest NOTES_MAX notes of one shard, numbered from 1."""

    def __init__(self, core: ShardCore) -> None:
        self._core = core
        self._notes: deque[_Note] = deque(maxlen=NOTES_MAX)
        self._count = 0
        self._second = self._noted = 0

    def _add(self, note: _Note) -> None:
        self._notes.append(note)
        self._count += 1
        self._tally(note[1], note[5])

    def _tally(self, outcome: str, units: int) -> None:
        self._core.counts[f"demand_units_{outcome}"] += units

    def refused(self, flight: Flight, plan: Plan, at_ms: int) -> None:
        """An order was refused: all lines that fell short, with all that they asked."""
        request = flight.prepared.request
        for index in dict.fromkeys(index for index, _, _ in plan.unfilled):
            line = request.lines[index]
            self._add((at_ms, "refused", line.item, flight.prepared.slot, request.channel, line.quantity, 0))

    def quoted(self, prepared: Prepared, at_ms: int) -> None:
        """Delivery options of an order were asked. All are counted; of a flood of them few a second are noted, so that they leave
        room for the rest."""
        second = at_ms // 1_000
        if second != self._second:
            self._second, self._noted = second, 0
        request = prepared.request
        for line in request.lines:
            if self._noted < QUOTED_PER_S:
                self._noted += 1
                self._add((at_ms, "quoted", line.item, prepared.slot, request.channel, line.quantity, 0))
            else:
                self._tally("quoted", line.quantity)

    def waits(self, slot: str, record: OrderRecord, at_ms: int) -> None:
        """An order was taken although some of it has to wait."""
        if record.state != OrderState.COMMITTED:
            return
        for demand in record.demand:
            self.begins(slot, record, demand, at_ms)

    def begins(self, slot: str, record: OrderRecord, demand: DemandRecord, at_ms: int) -> None:
        """Some units of an order have to wait."""
        outcome = "parked" if demand.parked else "partial"
        self._add((at_ms, outcome, record.lines[demand.line].item, slot, record.channel, demand.quantity, 0))

    def served(self, slot: str, record: OrderRecord, demand: DemandRecord, units: int, at_ms: int) -> None:
        """Units that waited found a node."""
        if units:
            waited_ms = max(0, at_ms - demand.since_ms)
            self._add((at_ms, "served", record.lines[demand.line].item, slot, record.channel, units, waited_ms))

    def page(self, *, after: int, limit: int) -> DemandNotes:
        """Notes with numbers beyond `after`, oldest first."""
        first = self._count - len(self._notes) + 1
        catalog = self._core.catalog
        start = max(0, after + 1 - first)
        notes = []
        for n in range(start, min(len(self._notes), start + max(1, min(limit, PAGE_MAX)))):
            at_ms, outcome, item, slot, channel, units, waited_ms = self._notes[n]
            document = catalog.channels[channel]
            name = document.channel_id if document is not None else ""
            notes.append(DemandNote(first + n, at_ms, outcome, catalog.sku(item), slot, name, units, waited_ms))
        return DemandNotes(tuple(notes), first, self._count + 1, self._core.epoch)
