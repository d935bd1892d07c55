"""A batch of requests as the kernel's rows: parts, lines, excluded nodes."""

from __future__ import annotations

from collections.abc import Sequence

from engine.actors.planner_network import NetworkView
from engine.domain.orders import LineRecord, Method, OnShort, OrderRequest, way_of
from engine.domain.plan import PlanRequest
from solvers import layout as at
from solvers.calendar import add_business_days
from solvers.layout import DAY_MS

LATE_MINOR_MAX = 1_000_000_000
VALUE_MAX = 1_000_000_000_000
_PROMISES_KEPT = 1_024
_SHIP = int(Method.SHIP)


class Part:
    """Some lines of a request: one method and, where it has one, one store."""

    __slots__ = ("lines", "method", "store")

    def __init__(self, method: int, store: int) -> None:
        self.method = method
        self.store = store
        self.lines: list[int] = []


class Flat:
    """A batch as the kernel reads it; `first_part` by request, `longest` = lines of the longest request, 1 at least."""

    __slots__ = ("excluded", "first_part", "lines", "longest", "parts")

    def __init__(self) -> None:
        self.parts: list[int] = []
        self.lines: list[int] = []
        self.excluded: list[int] = []
        self.first_part: list[int] = []
        self.longest = 1


class Flattener:
    """Turns requests into rows against one network."""

    def __init__(self, view: NetworkView) -> None:
        self._view = view
        self._promise: dict[tuple[int, int], int] = {}

    def flatten(self, requests: Sequence[PlanRequest], now_ms: int) -> Flat:
        flat = Flat()
        channels, destinations = self._view.channels, self._view.destinations
        destinations.start()
        number, put, need = destinations.number, destinations.put, self._view.compiled.need
        parts, lines, excluded, first_part = flat.parts, flat.lines, flat.excluded, flat.first_part
        part_count = line_count = 0
        heads: dict[tuple[int, str, str, bool, int, int | None], tuple[int, ...]] = {}
        """Of orders without dates and terms of their own: one for many of a batch."""
        for request in requests:
            order, asked, channel_index = request.order, request.lines, request.channel
            without, max_legs = request.excluded, request.max_legs
            first_part.append(part_count)
            ship_to = order.ship_to
            if ship_to is not None:
                country, residential = ship_to.country, ship_to.residential
                if request.point is not None:
                    dest = put(request.point)
                else:
                    dest = number(country, ship_to.postal_code, ship_to.lat, ship_to.lon)
            else:
                channel = channels[channel_index]
                assert channel is not None, "the core looks the channel up"
                country, residential = channel.centre[0], True
                dest = number(*channel.centre)
            if order.paid or order.quote_id is not None or not (order.promised_by_ms is order.ship_after_ms is None):
                head = self._head(order, channel_index, country, residential, max_legs, now_ms)
            else:
                key = channel_index, order.service, country, residential, max_legs, order.on_short
                known = heads.get(key)
                if known is None:
                    known = heads[key] = self._head(order, channel_index, country, residential, max_legs, now_ms)
                head = known
            plain = True
            place = 0
            for line in asked:
                if line.method:
                    plain = False
                value = line.unit_price_minor
                lines += (
                    line.item,
                    line.quantity,
                    value if value < VALUE_MAX else VALUE_MAX,
                    line.group,
                    line.splittable,
                    need(line.tags) if line.tags else 0,
                    place,
                )
                place += 1
            if plain:
                parts += (1, dest, *head, _SHIP, -1, 0, line_count, place, len(excluded), len(without), 0)
                part_count += 1
            else:
                tail = (len(excluded), len(without), 0)
                part_count += self._flatten_mixed(flat, asked, (dest, *head), tail, line_count)
            excluded += without
            line_count += place
            if place > flat.longest:
                flat.longest = place
        return flat

    def _head(
        self, order: OrderRequest, channel_index: int, country: str, residential: bool, max_legs: int, now_ms: int
    ) -> tuple[int, ...]:
        """Columns O_COUNTRY to O_ATOMIC of an order. One with a quote id has a date that must be kept, whatever it costs."""
        channel = self._view.channels[channel_index]
        assert channel is not None, "the core looks the channel up"
        level, level_count = channel.levels.get(order.service, (0, 0))
        ready_ms = max(now_ms, order.ship_after_ms or 0)
        atomic = channel.atomic if order.on_short is None else order.on_short == OnShort.REFUSE
        return (
            self._view.compiled.country_of.get(country, 0),
            channel_index,
            level,
            level_count,
            residential,
            ready_ms,
            self._promise_day(order, channel.promise_days, ready_ms),
            LATE_MINOR_MAX if order.quote_id is not None else min(channel.late_minor, LATE_MINOR_MAX),
            channel.transit_bp,
            max_legs,
            atomic and not order.paid,
        )

    def _flatten_mixed(
        self,
        flat: Flat,
        asked: Sequence[LineRecord],
        head: tuple[int, ...],
        tail: tuple[int, ...],
        first_line: int,
    ) -> int:
        """Parts of a request whose lines differ in method or store; how many. Its lines are put into the parts' order."""
        found: dict[tuple[int, int], Part] = {}
        for i, line in enumerate(asked):
            key = way_of(line)
            if key not in found:
                found[key] = Part(*key)
            found[key].lines.append(i)
        width = at.LINE_COLUMNS
        start = first_line * width
        own = flat.lines[start:]
        del flat.lines[start:]
        for n, part in enumerate(found.values()):
            for i in part.lines:
                flat.lines += own[i * width : (i + 1) * width]
            place, country, *rest = head
            if part.store >= 0:
                place = self._view.destinations.number(*self._view.node_places[part.store])
                country = self._view.compiled.country_of.get(self._view.node_places[part.store][0], 0)
            flat.parts += (
                n == len(found) - 1,
                place,
                country,
                *rest,
                part.method,
                part.store,
                part.method == Method.PICKUP,
                first_line,
                len(part.lines),
                *tail,
            )
            first_line += len(part.lines)
        return len(found)

    def _promise_day(self, order: OrderRequest, promise_days: dict[str, int], ready_ms: int) -> int:
        """The day by which the order is promised: its own date, else the channel's business days for the service."""
        if order.promised_by_ms is not None:
            return (order.promised_by_ms - 1) // DAY_MS
        days = promise_days.get(order.service)
        if days is None:
            return at.NO_PROMISE
        key = (ready_ms // DAY_MS, days)
        found = self._promise.get(key)
        if found is None:
            if len(self._promise) > _PROMISES_KEPT:
                self._promise.clear()
            found = self._promise[key] = add_business_days(*key)
        return found
