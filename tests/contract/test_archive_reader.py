"""Questions to the index give the rows that a plain look through all of them gives, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import sqlalchemy as sa

from engine.archive.index import connect_index, contents, migrate, sqlite_url
from engine.archive.reader import IndexReader, NoIndex, OrderFilter, Window
from engine.archive.tables import orders
from engine.domain.ids import order_no_time_ms
from tests.contract.test_archive_index import traffic, written
from tests.databases import new_database, postgresql_cluster


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An index of two shards' traffic."""
    if request.param == "sqlite":
        yield filled(sqlite_url(tmp_path_factory.mktemp("index") / "index.db"))
    else:
        with postgresql_cluster() as folder:
            yield filled(new_database(folder))


def filled(url: str) -> str:
    engine = connect_index(url)
    migrate(engine)
    for shard, records in enumerate(traffic(29, 400)):
        written(engine, shard, records)
    engine.dispose()
    return url


@pytest.fixture
def reader(url: str) -> Iterator[IndexReader]:
    made = IndexReader(url)
    yield made
    made.close()


def test_orders_by_every_pair_of_filters(url: str, reader: IndexReader) -> None:
    engine = connect_index(url)
    rows = contents(engine)
    engine.dispose()
    orders = {row[0]: row for row in rows["orders"]}
    at_node = {(row[2], row[0]) for row in rows["order_legs"]}
    with_item = {(row[0], row[1]) for row in rows["order_items"]}
    some = list(orders.values())[len(orders) // 2]
    customers = sorted({row[5] for row in orders.values() if row[5] is not None})
    middle_ms = order_no_time_ms(some[0])
    nodes, items = (
        (None, *sorted({node for node, _ in at_node})[:3]),
        (None, *sorted({item for item, _ in with_item})[:3]),
    )
    states = (None, *sorted({row[3] for row in orders.values()}))
    for node, item, state, newest, ids in product(
        nodes, items, states, (True, False), (None, "order", "customer", "time")
    ):
        wanted = OrderFilter(
            some[2] if ids == "order" else None,
            customers[0] if ids == "customer" and customers else None,
            item,
            node,
            (state,) if state else None,
        )
        window = Window(5, newest, None, None, middle_ms if ids == "time" else None)
        expected = [
            no
            for no, row in sorted(orders.items(), reverse=newest)
            if (wanted.order_id is None or row[2] == wanted.order_id)
            and (wanted.customer_id is None or row[5] == wanted.customer_id)
            and (item is None or (item, no) in with_item)
            and (node is None or (node, no) in at_node)
            and (state is None or row[3] == state)
            and (ids != "time" or order_no_time_ms(no) < middle_ms)
        ]
        assert [row.order_no for row in reader.orders(wanted, window)] == expected[:6], wanted


def test_closed_orders_by_id(url: str, reader: IndexReader) -> None:
    engine = connect_index(url)
    some = contents(engine)["orders"][:40]
    with engine.begin() as connection:
        connection.execute(
            sa.update(orders).where(orders.c.order_no.in_([row[0] for row in some[:30:3]])).values(closed=1)
        )
    rows = contents(engine)["orders"]
    engine.dispose()
    wanted = [*(row[2] for row in some), "none"]
    expected = sorted((row[2], row[0]) for row in rows if row[6] and row[2] in wanted)
    assert 10 <= len(expected) < 40
    assert sorted(reader.closed(wanted)) == expected


def test_pages_of_legs_and_decisions_show_each_once(url: str, reader: IndexReader) -> None:
    engine = connect_index(url)
    rows = contents(engine)
    engine.dispose()
    for newest in (True, False):
        seen, after = [], None
        while page := reader.legs(OrderFilter(), Window(7, newest, after), None)[:7]:
            seen += [(row.order.order_no, row.leg_no) for row in page]
            after = seen[-1]
        assert seen == sorted(((row[0], row[1]) for row in rows["order_legs"]), reverse=newest)
        seen, after = [], None
        while found := reader.decisions(OrderFilter(), Window(7, newest, after), None)[:7]:
            seen += [(row.order_no, row.number) for row in found]
            after = seen[-1]
        assert seen == sorted(((row[0], row[1]) for row in rows["decisions"]), reverse=newest)


def test_balances_add_up_over_every_movement(url: str, reader: IndexReader) -> None:
    engine = connect_index(url)
    rows = contents(engine)
    engine.dispose()
    for node, item, *now in rows["positions"][:6]:
        moves = reader.movements(node, item, limit=10_000)
        assert reader.balance_before(node, item, None) == tuple(now)
        assert [sum(move[i] for move in moves) for i in (5, 6, 7)] == now
        first = moves[-1]
        after_first = reader.balance_before(node, item, (first.at_ms, first.shard, first.seq, first.n))
        assert after_first == (first.on_hand, first.held, first.allocated)
        rest = reader.movements(
            node, item, limit=10_000, before=(moves[0].at_ms, moves[0].shard, moves[0].seq, moves[0].n)
        )
        assert rest == moves[1:]


def test_a_reader_of_a_file_cannot_write(tmp_path: Path) -> None:
    reader = IndexReader(filled(sqlite_url(tmp_path / "index.db")))
    with reader._engine.connect() as connection, pytest.raises(Exception, match="readonly"):
        connection.exec_driver_sql("DELETE FROM orders")
    reader.close()


def test_no_index_is_said_and_none_is_made(tmp_path: Path) -> None:
    reader = IndexReader(sqlite_url(tmp_path / "index.db"))
    with pytest.raises(NoIndex):
        reader.as_of()
    assert list(tmp_path.iterdir()) == []
