"""Questions to the index. Blocking, read-only, every answer bounded; for gateways, from threads.

Lists are ordered by order number, which is the order of opening, and go on after the last one shown. A list is as true as `as_of`
says: one point for each shard, read before the rows, so that the rows contain at least that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from engine.archive.index import Progress, connect_index
from engine.archive.tables import (
    decisions,
    duplicates,
    movements,
    names,
    order_items,
    order_legs,
    orders,
    positions,
    progress,
    reasons,
)
from engine.domain.ids import EPOCH_2020_MS
from engine.journal.port import Unavailable

STATEMENT_TIMEOUT_MS = 10_000
Query = sa.Select[*tuple[Any, ...]]


class NoIndex(Unavailable):
    """Nothing has been indexed yet: there is no database, or it has no tables."""


class OrderRow(NamedTuple):
    order_no: int
    slot: str
    closed: bool
    record: bytes


class LegRow(NamedTuple):
    leg_no: int
    order: OrderRow


class DecisionRow(NamedTuple):
    order_no: int
    number: int
    shard: int
    epoch: int
    seq: int
    place: int
    at_ms: int
    rung: str
    slot: str
    order_id: str
    channel: int


class MovementRow(NamedTuple):
    at_ms: int
    shard: int
    seq: int
    n: int
    kind: str
    on_hand: int
    held: int
    allocated: int
    slot: str | None
    order_no: int | None
    note: str | None
    order_id: str | None
    channel: int | None
    """Of the order, where the index knows it."""


class ReasonRow(NamedTuple):
    at_ms: int
    shard: int
    seq: int
    n: int
    kind: str
    leg_no: int
    reason: str


class OrderEnd(NamedTuple):
    """An order as far as it says whether it is open."""

    order_no: int
    slot: str
    state: str
    ended_ms: int


class DuplicateRow(NamedTuple):
    """`order` was opened while `first`, in another slot, was open under the same id."""

    order_id: str
    channel: int
    order: OrderEnd
    first: OrderEnd


class Pair(NamedTuple):
    """An open order, and an older open one in another slot that has its id."""

    order: OrderEnd
    older: OrderEnd


class Window(NamedTuple):
    """Which part of a list: opened in [from_ms, to_ms), after the order number (and leg or decision number) shown last."""

    limit: int
    newest_first: bool = True
    after: tuple[int, int] | None = None
    from_ms: int | None = None
    to_ms: int | None = None


class OrderFilter(NamedTuple):
    """What orders must be; None = anything. Nodes, items and channels by index."""

    order_id: str | None = None
    customer_id: str | None = None
    item: int | None = None
    node: int | None = None
    states: tuple[str, ...] | None = None
    not_states: tuple[str, ...] = ()
    channels: tuple[int, ...] | None = None


def first_order_no(ms: int) -> int:
    """The least order number of an instant (UTC ms)."""
    return min((1 << 63) - 1, max(0, ms - EPOCH_2020_MS) << 22)  # instants beyond the last number there can be


class IndexReader:
    """One connection pool. Raises Unavailable wherever the index cannot answer (yet)."""

    def __init__(self, url: str, *, readers: int = 4) -> None:
        self._engine = connect_index(url, readers=readers)
        sqlite = self._engine.dialect.name == "sqlite"
        self._file = Path(self._engine.url.database or "") if sqlite else None
        limit = "PRAGMA query_only=ON" if sqlite else f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}"

        @sa.event.listens_for(self._engine, "connect")
        def restrict(connection: Any, record: Any) -> None:
            cursor = connection.cursor()
            cursor.execute(limit)
            cursor.close()
            connection.commit()

    def close(self) -> None:
        self._engine.dispose()

    def _rows(self, *queries: Query) -> list[Sequence[Any]]:
        if self._file is not None and not self._file.exists():
            raise NoIndex("there is no index yet")  # asking would make an empty one
        try:
            with self._engine.connect() as connection:
                return [connection.execute(query).all() for query in queries]
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            if "no such table" in str(error) or "UndefinedTable" in str(error):
                raise NoIndex("there is no index yet, or the archiver has not brought it up to this version") from error
            raise Unavailable(f"the index does not answer: {getattr(error, 'orig', error)}") from error

    def as_of(self) -> list[Progress]:
        """How far each shard is folded."""
        (rows,) = self._rows(sa.select(progress).order_by(progress.c.shard))
        return [Progress(*row) for row in rows]

    def names_of(self, kind: str, indexes: Iterable[int]) -> dict[int, str]:
        """Names by index; those that are not known are left out."""
        wanted = sorted(set(indexes))
        if not wanted:
            return {}
        (rows,) = self._rows(sa.select(names.c.idx, names.c.name).where(names.c.kind == kind, names.c.idx.in_(wanted)))
        return {row[0]: row[1] for row in rows}

    def index_of(self, kind: str, name: str) -> int | None:
        (rows,) = self._rows(sa.select(names.c.idx).where(names.c.kind == kind, names.c.name == name))
        return int(rows[0][0]) if rows else None

    def order(self, order_no: int) -> OrderRow | None:
        (rows,) = self._rows(_order_columns().where(orders.c.order_no == order_no))
        return _order_row(rows[0]) if rows else None

    def closed(self, order_ids: Sequence[str]) -> list[tuple[str, int]]:
        """(order id, order number) of all orders with these ids that have left their shard's state."""
        c = orders.c
        (rows,) = self._rows(sa.select(c.order_id, c.order_no).where(c.order_id.in_(order_ids), c.closed == 1))
        return [(row[0], row[1]) for row in rows]

    def orders(self, wanted: OrderFilter, window: Window) -> list[OrderRow]:
        """Newest or oldest first; one more than the limit where there are more."""
        # Driven by the index whose order is the list's, so that a page reads little more than itself; the rest is looked up.
        query, key = _order_columns(), orders.c.order_no
        if wanted.item is not None:
            query = query.join(order_items, order_items.c.order_no == key).where(order_items.c.item == wanted.item)
            key = order_items.c.order_no
            if wanted.node is not None:
                query = query.where(_has_leg_at(wanted.node, key))
        elif wanted.node is not None:
            query = query.join(order_legs, order_legs.c.order_no == key).where(order_legs.c.node == wanted.node)
            key = order_legs.c.order_no
            other = order_legs.alias()
            earlier = sa.select(other.c.leg_no).where(
                other.c.order_no == key, other.c.node == wanted.node, other.c.leg_no < order_legs.c.leg_no
            )
            query = query.where(~earlier.exists())  # an order with two legs there is one row
        query = _filtered(query, wanted)
        (rows,) = self._rows(_windowed(query, window, key))
        return [_order_row(row) for row in rows]

    def legs(self, wanted: OrderFilter, window: Window, leg_state: str | None) -> list[LegRow]:
        """Legs with their orders, by order number and leg number; one more than the limit where there are more."""
        query: Query = sa.select(
            order_legs.c.leg_no, orders.c.order_no, orders.c.slot, orders.c.closed, orders.c.record
        ).join_from(order_legs, orders, orders.c.order_no == order_legs.c.order_no)
        if wanted.node is not None:
            query = query.where(order_legs.c.node == wanted.node)
        if leg_state is not None:
            query = query.where(order_legs.c.state == leg_state)
        query = _filtered(query, wanted)
        if wanted.item is not None:
            found = sa.select(order_items.c.item).where(
                order_items.c.item == wanted.item, order_items.c.order_no == order_legs.c.order_no
            )
            query = query.where(found.exists())
        (rows,) = self._rows(_windowed(query, window, order_legs.c.order_no, order_legs.c.leg_no))
        return [LegRow(row[0], _order_row(row[1:])) for row in rows]

    def decisions(self, wanted: OrderFilter, window: Window, rung: str | None) -> list[DecisionRow]:
        """Decisions by order number and their own number; one more than the limit where there are more."""
        query: Query = sa.select(*decisions.c, orders.c.slot, orders.c.order_id, orders.c.channel).join_from(
            decisions, orders, orders.c.order_no == decisions.c.order_no
        )
        if rung is not None:
            query = query.where(decisions.c.rung == rung)
        if wanted.node is not None:
            query = query.where(_has_leg_at(wanted.node, decisions.c.order_no))
        if wanted.item is not None:
            found = sa.select(order_items.c.item).where(
                order_items.c.item == wanted.item, order_items.c.order_no == decisions.c.order_no
            )
            query = query.where(found.exists())
        query = _filtered(query, wanted)
        (rows,) = self._rows(_windowed(query, window, decisions.c.order_no, decisions.c.number))
        return [DecisionRow(*row) for row in rows]

    def decision(self, order_no: int, number: int) -> tuple[int, int, int, int] | None:
        """(shard, epoch, seq, place) of a decision record."""
        c = decisions.c
        query = sa.select(c.shard, c.epoch, c.seq, c.place).where(c.order_no == order_no, c.number == number)
        (rows,) = self._rows(query)
        return (rows[0][0], rows[0][1], rows[0][2], rows[0][3]) if rows else None

    def duplicates(self, wanted: OrderFilter, window: Window, *, is_open: bool | None = None) -> list[DuplicateRow]:
        """Orders whose id was in use in another slot, by their order number; one more than the limit where there are more.

        is_open: True = both are open still, False = one of them has ended.
        """
        first = orders.alias("first")
        query = (
            sa.select(orders.c.order_id, orders.c.channel, *_end_columns(orders), *_end_columns(first))
            .join_from(duplicates, orders, orders.c.order_no == duplicates.c.order_no)
            .join(first, first.c.order_no == duplicates.c.first_no)
        )
        if is_open is not None:
            both = sa.and_(orders.c.ended_ms == 0, first.c.ended_ms == 0)
            query = query.where(both if is_open else ~both)
        if wanted.channels is not None:  # who may not see an order does not hear its number either
            query = query.where(first.c.channel.in_(wanted.channels))
        (rows,) = self._rows(_windowed(_filtered(query, wanted), window, duplicates.c.order_no))
        return [DuplicateRow(row[0], row[1], OrderEnd(*row[2:6]), OrderEnd(*row[6:10])) for row in rows]

    def open_duplicates(self, *, after_no: int, limit: int) -> tuple[list[Pair], int | None]:
        """Open orders that were duplicates when they were opened, with each older open one of its id; by order numbers.

        Looks at `limit` such orders; the number to go on after is None where there are no more.
        """
        some = (
            sa.select(duplicates.c.order_no)
            .join_from(duplicates, orders, orders.c.order_no == duplicates.c.order_no)
            .where(duplicates.c.order_no > after_no, orders.c.ended_ms == 0)
            .order_by(duplicates.c.order_no)
            .limit(limit)
        )
        (found,) = self._rows(some)
        if not found:
            return [], None
        older = orders.alias("older")
        same = sa.and_(
            older.c.order_id == orders.c.order_id,
            older.c.ended_ms == 0,
            older.c.order_no < orders.c.order_no,
            older.c.slot != orders.c.slot,
        )
        query = (
            sa.select(*_end_columns(orders), *_end_columns(older))
            .join_from(orders, older, same)
            .where(orders.c.order_no.in_([row[0] for row in found]))
            .order_by(orders.c.order_no, older.c.order_no)
        )
        (rows,) = self._rows(query)
        pairs = [Pair(OrderEnd(*row[:4]), OrderEnd(*row[4:])) for row in rows]
        return pairs, found[-1][0] if len(found) == limit else None

    def movements(
        self,
        node: int,
        item: int,
        *,
        limit: int,
        kind: str | None = None,
        before: tuple[int, int, int, int] | None = None,
        from_ms: int | None = None,
        to_ms: int | None = None,
    ) -> list[MovementRow]:
        """Changes of one position, newest first; one more than the limit where there are more."""
        c = movements.c
        query = (
            sa.select(
                c.at_ms,
                c.shard,
                c.seq,
                c.n,
                c.kind,
                c.on_hand,
                c.held,
                c.allocated,
                c.slot,
                c.order_no,
                c.note,
                orders.c.order_id,
                orders.c.channel,
            )
            .outerjoin(orders, orders.c.order_no == c.order_no)
            .where(c.node == node, c.item == item)
        )
        if kind is not None:
            query = query.where(c.kind == kind)
        if from_ms is not None:
            query = query.where(c.at_ms >= from_ms)
        if to_ms is not None:
            query = query.where(c.at_ms < to_ms)
        place = sa.tuple_(c.at_ms, c.shard, c.seq, c.n)
        if before is not None:
            query = query.where(place < sa.tuple_(*map(sa.literal, before)))
        query = query.order_by(c.at_ms.desc(), c.shard.desc(), c.seq.desc(), c.n.desc()).limit(limit + 1)
        (rows,) = self._rows(query)
        return [MovementRow(*row) for row in rows]

    def reasons(self, order_no: int, *, limit: int, before: tuple[int, int, int, int] | None = None) -> list[ReasonRow]:
        """Why an order changed, newest first; one more than the limit where there are more."""
        c = reasons.c
        place = (c.at_ms, c.shard, c.seq, c.n)
        query: Query = sa.select(*place, c.kind, c.leg_no, c.reason).where(c.order_no == order_no)
        if before is not None:
            query = query.where(sa.tuple_(*place) < sa.tuple_(*map(sa.literal, before)))
        (rows,) = self._rows(query.order_by(*(column.desc() for column in place)).limit(limit + 1))
        return [ReasonRow(*row) for row in rows]

    def balance_before(self, node: int, item: int, at: tuple[int, int, int, int] | None) -> tuple[int, int, int] | None:
        """(on hand, held, allocated) of a position after everything up to `at`, itself included (None = up to the end); None =
        the position is not known."""
        c, p = movements.c, positions.c
        sums = (sa.func.coalesce(sa.func.sum(of), 0).label(of.name) for of in (c.on_hand, c.held, c.allocated))
        newer = sa.select(*sums).where(c.node == node, c.item == item)
        if at is not None:
            newer = newer.where(sa.tuple_(c.at_ms, c.shard, c.seq, c.n) > sa.tuple_(*map(sa.literal, at)))
        else:
            newer = newer.where(sa.false())
        # One statement, so one state of the database: what is written between two would be taken off and was never in the sum.
        taken_off = newer.subquery()
        n = taken_off.c
        query = (
            sa.select(p.on_hand - n.on_hand, p.held - n.held, p.allocated - n.allocated)
            .join_from(positions, taken_off, sa.true())
            .where(p.node == node, p.item == item)
        )
        (rows,) = self._rows(query)
        return (int(rows[0][0]), int(rows[0][1]), int(rows[0][2])) if rows else None


def _order_columns() -> Query:
    return sa.select(orders.c.order_no, orders.c.slot, orders.c.closed, orders.c.record)


def _end_columns(table: Any) -> list[Any]:
    return [table.c.order_no, table.c.slot, table.c.state, table.c.ended_ms]


def _has_leg_at(node: int, order_no: Any) -> Any:
    return sa.select(order_legs.c.leg_no).where(order_legs.c.order_no == order_no, order_legs.c.node == node).exists()


def _order_row(row: Sequence[Any]) -> OrderRow:
    return OrderRow(row[0], row[1], bool(row[2]), bytes(row[3]))


def _filtered(query: Query, wanted: OrderFilter) -> Query:
    c = orders.c
    if wanted.order_id is not None:
        query = query.where(c.order_id == wanted.order_id)
    if wanted.customer_id is not None:
        query = query.where(c.customer_id == wanted.customer_id)
    if wanted.states is not None:
        query = query.where(c.state.in_(wanted.states))
    if wanted.not_states:
        query = query.where(c.state.not_in(wanted.not_states))
    if wanted.channels is not None:
        query = query.where(c.channel.in_(wanted.channels))
    return query


def _windowed(query: Query, window: Window, key: Any, second: Any = None) -> Query:
    """Order, go on after the last one shown, and take one more than asked for."""
    keys = (key,) if second is None else (key, second)
    if window.from_ms is not None:
        query = query.where(key >= first_order_no(window.from_ms))
    if window.to_ms is not None:
        query = query.where(key < first_order_no(window.to_ms))
    if window.after is not None:
        last = [sa.literal(number) for number in window.after[: len(keys)]]
        here = sa.tuple_(*keys) if second is not None else key
        there = sa.tuple_(*last) if second is not None else last[0]
        query = query.where(here < there if window.newest_first else here > there)
    return query.order_by(*((k.desc() if window.newest_first else k.asc()) for k in keys)).limit(window.limit + 1)
