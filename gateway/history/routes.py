"""Lists and searches: allocations, legs, decisions and movements of all time, out of the index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from engine.archive.index import Progress
from engine.archive.reader import IndexReader, OrderEnd, OrderFilter, Window
from engine.domain.catalog import Catalog
from engine.domain.commands import GetOrder
from engine.domain.ids import OrderRef, order_no_time_ms, public_id
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import Problem
from gateway.call import Answer, Call, Route
from gateway.cursors import decode_cursor, encode_cursor
from gateway.errors import Refused, problem, refused
from gateway.history import examples
from gateway.history.schemas import (
    AllocationsPage,
    AllocationsQuery,
    DecisionListed,
    DecisionsPage,
    DecisionsQuery,
    ExceptionListed,
    ExceptionOrder,
    ExceptionsPage,
    ExceptionsQuery,
    IndexAsOf,
    LegHistoryPage,
    LegHistoryQuery,
    Listed,
    Movement,
    MovementsPage,
    MovementsQuery,
    ReasonGiven,
    ReasonsPage,
    ReasonsQuery,
)
from gateway.legs.schemas import OrderLeg, order_leg
from gateway.orders.routes import ref_of, shown_order
from gateway.orders.schemas import HOLD_STATES, allocation_shown
from gateway.schemas import query_of
from gateway.times import iso, ms_of

_HOLDS = tuple(sorted(HOLD_STATES))
_INT_MAX = (1 << 63) - 1
T = TypeVar("T")


class _Asked(NamedTuple):
    """A list's filters that need no look-up in the index, and its window."""

    wanted: OrderFilter
    window: Window
    sku: str | None


def _asked(call: Call, query: Listed, **filters: Any) -> _Asked:
    """Raises Refused."""
    catalog = call.gateway.cluster.catalog
    node = None
    if query.node_id is not None:
        node = catalog.node_of.get(query.node_id)
        if node is None:
            raise refused("unknown_node", "/node_id", f"no node {query.node_id!r}", parameter="node_id")
    channels = _channels(call, query.channel)
    wanted = OrderFilter(query.order_id, query.customer_id, None, node, channels=channels, **filters)
    return _Asked(wanted, _window(query), query.sku)


def _channels(call: Call, wanted: str | None) -> tuple[int, ...] | None:
    """The channels to look at, None = all; raises Refused."""
    catalog, names = call.gateway.cluster.catalog, call.principal.channels
    if wanted is not None:
        if not call.principal.may_channel(wanted):
            raise Refused(problem("forbidden", f"this key is not for channel {wanted!r}"))
        if wanted not in catalog.channel_of:
            raise refused("unknown_channel", "/channel", f"no channel {wanted!r}", parameter="channel")
        names = frozenset((wanted,))
    if names is None:
        return None
    return tuple(sorted(catalog.channel_of[name] for name in names if name in catalog.channel_of))


def _window(query: Listed | ExceptionsQuery) -> Window:
    """Raises Refused."""
    newest_first = query.sort == "-opened_at"
    after = _decode(query.cursor, 3)
    if after is not None and bool(after[2]) != newest_first:
        raise Refused(problem("invalid_cursor", "the cursor is of a list that was sorted the other way"))
    return Window(
        query.limit, newest_first, after[:2] if after else None, _instant(query.opened_from), _instant(query.opened_to)
    )


def _instant(at: datetime | None) -> int | None:
    return ms_of(at) if at is not None else None


def _with_item(reader: IndexReader, asked: _Asked) -> OrderFilter:
    """The filter with the SKU's index; raises Refused."""
    if asked.sku is None:
        return asked.wanted
    return asked.wanted._replace(item=_item(reader, asked.sku))


def _item(reader: IndexReader, sku: str) -> int:
    item = reader.index_of("item", sku)
    if item is None:
        raise refused("unknown_sku", "/sku", f"no item {sku!r}", parameter="sku", sku=sku)
    return item


def _encode(*numbers: int) -> str:
    return encode_cursor(".".join(map(str, numbers)))


def _decode(cursor: str | None, width: int) -> tuple[Any, ...] | None:
    """The numbers of a cursor, None for the beginning; raises Refused where it is none of ours."""
    if not cursor:
        return None
    try:
        numbers = tuple(int(part) for part in (decode_cursor(cursor) or "").split("."))
    except ValueError:
        raise Refused(problem("invalid_cursor")) from None
    if len(numbers) != width or not all(-_INT_MAX <= number <= _INT_MAX for number in numbers):
        raise Refused(problem("invalid_cursor"))
    return numbers


def _cut(rows: list[T], window: Window, place: Callable[[T], tuple[int, int]]) -> tuple[list[T], str | None]:
    """The page, and the cursor where there is more."""
    if len(rows) <= window.limit:
        return rows, None
    page = rows[: window.limit]
    return page, _encode(*place(page[-1]), int(window.newest_first))


def _points(progress: Sequence[Progress]) -> list[IndexAsOf]:
    return [
        IndexAsOf(
            "control" if point.shard == CONTROL_SHARD else str(point.shard),
            point.epoch,
            point.seq,
            iso(point.time_ms),
            point.is_whole,
        )
        for point in progress
    ]


async def list_allocations(call: Call) -> Answer | Problem:
    query = query_of(call, AllocationsQuery)
    states = (query.state,) if query.state is not None else None
    asked = _asked(call, query, states=states, not_states=() if states else _HOLDS)
    history = call.gateway.history

    def question(reader: IndexReader) -> AllocationsPage:
        as_of = reader.as_of()
        rows, cursor = _cut(
            reader.orders(_with_item(reader, asked), asked.window), asked.window, lambda row: (row.order_no, 0)
        )
        data = [allocation_shown(view) for view in history.past.views(rows)]
        return AllocationsPage(data, cursor, cursor is not None, _points(as_of))

    return _answer(await history.ask(question))


async def list_legs(call: Call) -> Answer | Problem:
    query = query_of(call, LegHistoryQuery)
    asked = _asked(call, query)
    history = call.gateway.history

    def question(reader: IndexReader) -> LegHistoryPage:
        as_of = reader.as_of()
        found = reader.legs(_with_item(reader, asked), asked.window, query.state)
        rows, cursor = _cut(found, asked.window, lambda row: (row.order.order_no, row.leg_no))
        views = history.past.views([row.order for row in rows])
        data: list[OrderLeg] = []
        for row, view in zip(rows, views, strict=True):
            leg = next((leg for leg in view.legs if leg.leg_no == row.leg_no), None)
            if leg is not None:
                ref = OrderRef(view.slot, view.order_no)
                data.append(
                    order_leg(
                        ref, view.order_id, leg, channel=view.channel, ship_to=view.ship_to, order_state=view.state
                    )
                )
        return LegHistoryPage(data, cursor, cursor is not None, _points(as_of))

    return _answer(await history.ask(question))


async def list_decisions(call: Call) -> Answer | Problem:
    query = query_of(call, DecisionsQuery)
    asked = _asked(call, query)
    catalog = call.gateway.cluster.catalog

    def question(reader: IndexReader) -> DecisionsPage:
        as_of = reader.as_of()
        found = reader.decisions(_with_item(reader, asked), asked.window, query.rung)
        rows, cursor = _cut(found, asked.window, lambda row: (row.order_no, row.number))
        data = []
        for row in rows:
            ref = OrderRef(row.slot, row.order_no)
            ids = public_id("dec", ref, row.number), public_id("alc", ref)
            data.append(
                DecisionListed(
                    *ids, row.order_id, _channel_id(catalog, row.channel), row.number, row.rung, iso(row.at_ms)
                )
            )
        return DecisionsPage(data, cursor, cursor is not None, _points(as_of))

    return _answer(await call.gateway.history.ask(question))


def _channel_id(catalog: Catalog, index: int) -> str:
    channel = catalog.channels[index] if index < len(catalog.channels) else None
    return channel.channel_id if channel is not None else f"#{index}"


def _ended_order(order: OrderEnd) -> ExceptionOrder:
    ref = OrderRef(order.slot, order.order_no)
    is_hold = order.state in HOLD_STATES
    return ExceptionOrder(
        None if is_hold else public_id("alc", ref),
        public_id("res", ref) if is_hold else None,
        order.state,
        iso(order_no_time_ms(order.order_no)),
        iso(order.ended_ms) if order.ended_ms else None,
    )


async def list_exceptions(call: Call) -> Answer | Problem:
    query = query_of(call, ExceptionsQuery)
    wanted, window = OrderFilter(query.order_id, channels=_channels(call, query.channel)), _window(query)
    catalog = call.gateway.cluster.catalog

    def question(reader: IndexReader) -> ExceptionsPage:
        as_of = reader.as_of()
        found = reader.duplicates(wanted, window, is_open=query.is_open)
        rows, cursor = _cut(found, window, lambda row: (row.order.order_no, 0))
        data = [
            ExceptionListed(
                "duplicate_order",
                row.order_id,
                _channel_id(catalog, row.channel),
                not (row.order.ended_ms or row.first.ended_ms),
                _ended_order(row.order),
                _ended_order(row.first),
            )
            for row in rows
        ]
        return ExceptionsPage(data, cursor, cursor is not None, _points(as_of))

    return _answer(await call.gateway.history.ask(question))


async def list_movements(call: Call) -> Answer | Problem:
    query = query_of(call, MovementsQuery)
    node = call.gateway.cluster.catalog.node_of.get(query.node_id)
    if node is None:
        raise refused("unknown_node", "/node_id", f"no node {query.node_id!r}", parameter="node_id")
    before = _decode(query.cursor, 4)
    channels = _channels(call, None)

    def question(reader: IndexReader) -> MovementsPage:
        as_of = reader.as_of()
        item = _item(reader, query.sku)
        rows = reader.movements(
            node,
            item,
            limit=query.limit,
            kind=query.kind,
            before=before,
            from_ms=_instant(query.at_from),
            to_ms=_instant(query.at_to),
        )
        page = rows[: query.limit]
        cursor = None
        if len(rows) > query.limit:
            last = page[-1]
            cursor = _encode(last.at_ms, last.shard, last.seq, last.n)
        known = all(point.is_whole for point in as_of if point.shard != CONTROL_SHARD)
        data = []
        for row in page:
            # One by one only where a filter hides what lies between; else each follows from the one above it.
            at = (row.at_ms, row.shard, row.seq, row.n)
            balance = reader.balance_before(node, item, at) if known and (query.kind or not data) else None
            if known and balance is None and data:
                above, last = data[-1], page[len(data) - 1]
                balance = (
                    (above.balance_on_hand or 0) - last.on_hand,
                    (above.balance_held or 0) - last.held,
                    (above.balance_allocated or 0) - last.allocated,
                )
            if row.order_no is not None and channels is not None and row.channel not in channels:
                row = row._replace(
                    order_no=None, order_id=None, note=None
                )  # the units are there for all, the order is not
            ref = OrderRef(row.slot, row.order_no) if row.slot is not None and row.order_no is not None else None
            data.append(
                Movement(
                    iso(row.at_ms),
                    row.kind,
                    row.on_hand,
                    row.held,
                    row.allocated,
                    *(balance if balance is not None else (None, None, None)),
                    row.order_id,
                    public_id("alc", ref) if ref is not None else None,
                    row.note,
                    f"{row.shard}:{row.seq}",
                )
            )
        return MovementsPage(data, cursor, cursor is not None, _points(as_of))

    return _answer(await call.gateway.history.ask(question))


async def list_reasons(call: Call) -> Answer | Problem:
    ref = ref_of(call, "alc", "allocation")
    if isinstance(ref, Problem):
        return ref
    query = query_of(call, ReasonsQuery)
    before = _decode(query.cursor, 4)
    shown = shown_order(call, await call.gateway.ask_slot(ref.slot, GetOrder(ref.slot, ref.order_no)))
    if isinstance(shown, Problem):  # no such order, or none of this key
        return shown

    def question(reader: IndexReader) -> ReasonsPage:
        as_of = reader.as_of()
        rows = reader.reasons(ref.order_no, limit=query.limit, before=before)
        page = rows[: query.limit]
        cursor = None
        if len(rows) > query.limit:
            last = page[-1]
            cursor = _encode(last.at_ms, last.shard, last.seq, last.n)
        data = [
            ReasonGiven(
                iso(row.at_ms),
                row.kind,
                public_id("leg", ref, row.leg_no) if row.leg_no else None,
                row.reason,
                f"{row.shard}:{row.seq}",
            )
            for row in page
        ]
        return ReasonsPage(data, cursor, cursor is not None, _points(as_of))

    return _answer(await call.gateway.history.ask(question))


def _answer(found: Any) -> Answer | Problem:
    return found if isinstance(found, Problem) else Answer(found)


_NAMING = ("unknown_sku", "unknown_node", "unknown_channel", "invalid_cursor")
_TRUE_AS_OF = (
    "Out of the index, which follows the journals within two seconds, or within `QM_ARCHIVE_LAG_S` while the machine is busy; `as_of` says "
    "how far. Pages go by `cursor` and stay true to the sort while new orders come."
)
ROUTES = [
    Route(
        "GET",
        "/v1/allocations",
        "allocate:read",
        list_allocations,
        "List and search allocations",
        "allocations",
        f"Open and closed ones, newest first. `sku` finds every order that ever had a line of it. {_TRUE_AS_OF}",
        query=AllocationsQuery,
        answer=AllocationsPage,
        problems=_NAMING,
        answer_example=examples.ALLOCATIONS,
    ),
    Route(
        "GET",
        "/v1/legs/history",
        "legs:read",
        list_legs,
        "List and search legs of all time",
        "legs",
        f"Shipped, delivered, cancelled and rejected ones too. `GET /v1/legs` is a node's work list. {_TRUE_AS_OF}",
        query=LegHistoryQuery,
        answer=LegHistoryPage,
        problems=_NAMING,
        answer_example=examples.LEGS,
    ),
    Route(
        "GET",
        "/v1/decisions",
        "decisions:read",
        list_decisions,
        "List and search decisions",
        "decisions",
        f"In short; `GET /v1/decisions/{{decision_id}}` tells one whole. {_TRUE_AS_OF}",
        query=DecisionsQuery,
        answer=DecisionsPage,
        problems=_NAMING,
        answer_example=examples.DECISIONS,
    ),
    Route(
        "GET",
        "/v1/exceptions",
        "allocate:read",
        list_exceptions,
        "List what people should look at",
        "allocations",
        "`duplicate_order`: an order was opened while one with the same `order_id` was open for another part of the country. The later one is "
        "cancelled as far as it was not released to a node; where both are open still (`is_open`), somebody must decide. "
        f"{_TRUE_AS_OF}",
        query=ExceptionsQuery,
        answer=ExceptionsPage,
        problems=("unknown_channel", "invalid_cursor"),
        answer_example=examples.EXCEPTIONS,
    ),
    Route(
        "GET",
        "/v1/inventory/movements",
        "inventory:read",
        list_movements,
        "Why a position holds what it holds",
        "inventory",
        "Every change of one position, newest first, with the balance after each. Orders of channels that the key is not for are not named. "
        f"{_TRUE_AS_OF}",
        query=MovementsQuery,
        answer=MovementsPage,
        problems=("unknown_sku", "unknown_node", "invalid_cursor"),
        answer_example=examples.MOVEMENTS,
    ),
    Route(
        "GET",
        "/v1/allocations/{allocation_id}/reasons",
        "allocate:read",
        list_reasons,
        "Read why an allocation changed",
        "allocations",
        f"The `reason` of each cancellation, edit, rejection and other step that was given one, newest first. {_TRUE_AS_OF}",
        query=ReasonsQuery,
        answer=ReasonsPage,
        problems=("not_found", "invalid_cursor"),
        answer_example=examples.REASONS,
    ),
]
