"""The index on SQLite and PostgreSQL: the same rows however entries are cut, each entry once, and a rebuild equals it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from engine.archive.fold import Fold
from engine.archive.index import (
    IndexWriter,
    OutOfStep,
    connect_index,
    contents,
    drop_tables,
    is_empty,
    migrate,
    newest_revision,
    sqlite_url,
)
from engine.archive.reader import IndexReader, OrderFilter, Window
from engine.archive.segment import Record
from engine.archive.tables import metadata, progress
from engine.domain.commands import AdjustStock, CancelOrder, StockMove
from engine.domain.events import ConfigPut, OrdersClosed, StockMoved
from engine.domain.ids import slot_of
from engine.domain.replies import OrderView
from engine.journal.chain import EPOCH_BEGIN
from engine.journal.port import SCHEMA_VERSION, Entry, Misconfigured
from tests.archive_entries import chained
from tests.builders import a_destination, a_place, an_order
from tests.databases import new_database, postgresql_cluster
from tests.sim.little_cluster import LittleCluster
from tests.unit.test_verify_books import Traffic

CONTROL = 255


@pytest.fixture(scope="module")
def socket_folder() -> Iterator[str]:
    with postgresql_cluster() as folder:
        yield folder


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "index.db")
    return new_database(request.getfixturevalue("socket_folder"))


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    made = connect_index(url)
    migrate(made)
    yield made
    made.dispose()


def written(engine: sa.Engine, shard: int, records: Sequence[Record], cuts: random.Random | None = None) -> None:
    """Fold records into the index, in batches of random size."""
    writer = IndexWriter(engine)
    at = 0
    while at < len(records):
        size = cuts.randint(1, 12) if cuts is not None else len(records)
        fold = Fold(shard)
        for record in records[at : at + size]:
            fold.add(record.unpacked())
        writer.write(fold)
        at += size


def traffic(seed: int, steps: int = 250) -> list[list[Record]]:
    """Journals of two shards with orders, counts, moves, steps of legs, cancellations and replans, some across shards."""
    cluster = LittleCluster(shards=2)
    Traffic(cluster, seed).run(steps)
    return [
        chained([EPOCH_BEGIN, *(a.payload for a in entries)], decisions=[[], *(a.decisions for a in entries)])
        for entries in cluster.entries
    ]


def test_an_index_that_is_dropped_is_made_anew(engine: sa.Engine, url: str) -> None:
    assert is_empty(engine)
    (records, _) = traffic(3, steps=30)
    written(engine, 0, records)
    assert not is_empty(engine)
    rows = contents(engine)
    drop_tables(engine)
    assert is_empty(engine), "without tables, too"
    migrate(engine)
    written(engine, 0, records)
    assert contents(engine) == rows


@pytest.mark.parametrize("seed", [3, 17])
def test_rows_are_the_same_however_entries_are_cut(engine: sa.Engine, tmp_path: Path, seed: int) -> None:
    journals = traffic(seed)
    cuts = random.Random(seed)
    for shard, records in enumerate(journals):
        written(engine, shard, records, cuts)
    with closing_engine(sqlite_url(tmp_path / "rebuilt.db")) as rebuilt:
        for shard, records in enumerate(journals):
            written(rebuilt, shard, records)
        live, again = contents(engine), contents(rebuilt)
    assert {name: len(rows) for name, rows in live.items() if not rows} == {"names": 0, "duplicates": 0}
    for name, rows in live.items():
        assert rows == again[name], name


def test_a_gap_counts_however_entries_are_cut(engine: sa.Engine) -> None:
    records = chained([msgspec.msgpack.encode([])] * 9)
    before, after = records[:3], records[6:]
    written(engine, 0, before)
    written(engine, 0, after)
    written(engine, 1, before + after)
    assert [row[-2:] for row in contents(engine)["progress"]] == [(1, 1), (1, 1)]


def test_a_balance_is_of_one_state_of_the_index(engine: sa.Engine, url: str) -> None:
    records = chained([msgspec.msgpack.encode([StockMoved(0, ((0, "received", 10),))])] * 6)
    written(engine, 0, records[:5])
    reader = IndexReader(url)
    newest, _ = reader.movements(0, 0, limit=1)

    @sa.event.listens_for(reader._engine, "after_cursor_execute", once=True)
    def meanwhile(*_: object) -> None:
        written(engine, 0, records[5:])

    assert reader.balance_before(0, 0, newest[:4]) == (50, 0, 0)
    assert reader.balance_before(0, 0, None) == (60, 0, 0)
    reader.close()


def closing_engine(url: str) -> closing[sa.Engine]:
    made = connect_index(url)
    migrate(made)
    return closing(_Closable(made))  # type: ignore[arg-type]


class _Closable:
    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def close(self) -> None:
        self._engine.dispose()


def test_balances_are_the_shards_own_stock(engine: sa.Engine) -> None:
    cluster = LittleCluster(shards=2)
    Traffic(cluster, 5).run(300)
    for shard, entries in enumerate(cluster.entries):
        written(engine, shard, chained([a.payload for a in entries]))
    booked = {(row[0], row[1]): tuple(row[2:]) for row in contents(engine)["positions"] if any(row[2:])}
    live = {}
    for core in cluster.cores:
        held = core.state.positions
        for row in range(held.size):
            node, item = held.v_node[row], int(held.items()[row])
            values = (held.v_on_hand[row], held.v_held[row], held.v_allocated[row])
            if core.catalog.owns_node(node) and any(values):
                live[node, item] = values
    assert booked == live


def test_an_entry_counts_once(engine: sa.Engine) -> None:
    """X1, X2: a batch that is written again is refused, and nothing of it counts."""
    records = traffic(7, 60)[0]
    written(engine, 0, records)
    before = contents(engine)
    with pytest.raises(OutOfStep):
        written(engine, 0, records[-5:])
    assert contents(engine) == before
    assert (IndexWriter(engine).progress(0) or progress)[2] == len(records)
    assert IndexWriter(engine).progress(1) is None


def test_a_batch_that_fails_half_way_leaves_nothing(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    records = traffic(9, 60)[0]
    written(engine, 0, records[:10])
    before = contents(engine)
    writer = IndexWriter(engine)
    broken = dict(writer._sql, movements="INSERT INTO nowhere VALUES (1)")
    monkeypatch.setattr(writer, "_sql", broken)
    fold = Fold(0)
    for record in records[10:]:
        fold.add(record.unpacked())
    with pytest.raises(Exception, match="nowhere"):
        writer.write(fold)
    assert contents(engine) == before


def test_closed_orders_are_marked(engine: sa.Engine) -> None:
    records = traffic(11, 40)[0]
    written(engine, 0, records)
    rows = contents(engine)["orders"]
    order_no, slot = rows[0][0], rows[0][1]
    tail = records[-1].unpacked()
    from engine.journal.port import Tail

    after = Tail(tail.epoch, tail.seq, tail.hash, tail.time_ms)
    closing_entry = msgspec.msgpack.encode([OrdersClosed(slot, (order_no,))])
    written(engine, 0, chained([closing_entry], after=after))
    marked = {row[0]: row[6] for row in contents(engine)["orders"]}
    assert marked.pop(order_no) == 1 and set(marked.values()) <= {0}


def test_names_come_from_the_control_shard(engine: sa.Engine) -> None:
    put = ConfigPut("item", ((0, "SKU-A", 1, b"{}"), (1, "SKU-B", 2, b"{}")))
    again = ConfigPut("node", ((0, "Reno", 3, b"{}"),))
    keys = ConfigPut("key", ((0, "secret", 4, b"{}"),))
    payloads = [EPOCH_BEGIN, *(msgspec.msgpack.encode([event]) for event in (put, again, keys))]
    written(engine, CONTROL, chained(payloads))
    assert contents(engine)["names"] == [("item", 0, "SKU-A"), ("item", 1, "SKU-B"), ("node", 0, "Reno")]


def test_retention_removes_old_movements_and_keeps_balances(engine: sa.Engine) -> None:
    written(engine, 0, traffic(13)[0])
    before = contents(engine)
    times = sorted(row[2] for row in before["movements"])
    cut_ms = times[len(times) // 2]
    writer, after, removed = IndexWriter(engine), (-1, -1), 0
    while True:
        done = writer.forget(before_ms=cut_ms, after=after, positions_max=3)
        removed += done.removed
        if done.next_after is None:
            break
        after = done.next_after
    now = contents(engine)
    assert removed == sum(ms < cut_ms for ms in times) > 0
    assert len(now["movements"]) == len(times) - removed
    assert now["positions"] == before["positions"]


def test_migrations_make_the_tables_that_the_code_uses(engine: sa.Engine) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == newest_revision()
        assert compare_metadata(context, metadata) == []
    migrate(engine)  # again changes nothing


def test_an_index_of_a_newer_version_is_refused(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Misconfigured, match="newer version"):
        migrate(engine)


@pytest.mark.parametrize("bad", ["mysql://h/db", "no url"])
def test_another_kind_of_database_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="QM_INDEX_URL"):
        connect_index(bad)


# -- orders of the same id in several slots -----------------------------------------------------------------------


def sold_twice(*, cancel_first: bool = False, places: int = 2) -> tuple[LittleCluster, list[OrderView]]:
    """One order id placed in several slots, one after another; the first is cancelled before the second where told so."""
    cluster = LittleCluster(shards=2)
    cluster.ask(0, AdjustStock("N-0", (StockMove("SKU-0", "received", 9),)))
    cluster.ask(1, AdjustStock("N-1", (StockMove("SKU-0", "received", 9),)))
    placed: list[OrderView] = []
    for postal_code in ("10001", "90001", "60601")[:places]:
        owner = cluster.cores[0].catalog.owner_of_slot(slot_of("US", postal_code))
        view = cluster.ask(owner, a_place(an_order("SAME", ship_to=a_destination(postal_code=postal_code))))
        assert isinstance(view, OrderView), view
        placed.append(view)
        if cancel_first and len(placed) == 1:
            cluster.ask(owner, CancelOrder(view.slot, view.order_no))
    return cluster, placed


def folded(engine: sa.Engine, cluster: LittleCluster, order_of_shards: Sequence[int], cuts: random.Random) -> None:
    """Write the journals of the shards one after the other, from where the index ends, with their entries' own instants."""
    for shard in order_of_shards:
        have = IndexWriter(engine).progress(shard)
        at = len([a for a in cluster.entries[shard] if have is not None and a.seq <= have.seq])
        entries = [Entry(a.seq, 1, a.time_ms, SCHEMA_VERSION, b"", a.payload, b"") for a in cluster.entries[shard]]
        while at < len(entries):
            size = cuts.randint(1, 4)
            fold = Fold(shard)
            for entry in entries[at : at + size]:
                fold.add(entry)
            IndexWriter(engine).write(fold)
            at += size


@pytest.mark.parametrize("shards", [(0, 1), (1, 0)])
def test_an_order_id_that_is_open_in_another_slot_makes_a_duplicate(engine: sa.Engine, shards: tuple[int, int]) -> None:
    """X5: whichever shard was folded first, and however it was cut."""
    cluster, placed = sold_twice(places=3)
    folded(engine, cluster, shards, random.Random(1))
    first, second, third = (view.order_no for view in placed)
    assert contents(engine)["duplicates"] == [(second, first), (third, first)]


@pytest.mark.parametrize("shards", [(0, 1), (1, 0)])
def test_an_order_id_that_is_used_again_after_its_order_ended_makes_none(
    engine: sa.Engine, shards: tuple[int, int]
) -> None:
    cluster, placed = sold_twice(cancel_first=True, places=3)
    folded(engine, cluster, shards, random.Random(2))
    assert contents(engine)["duplicates"] == [(placed[2].order_no, placed[1].order_no)]


def test_what_is_to_be_cancelled_is_read_from_the_index_alone(engine: sa.Engine, url: str) -> None:
    cluster, placed = sold_twice(places=3)
    folded(engine, cluster, (0, 1), random.Random(3))
    first, second, third = (view.order_no for view in placed)
    reader = IndexReader(url)
    try:
        pairs, after = reader.open_duplicates(after_no=0, limit=1)
        assert ([(p.order.order_no, p.older.order_no) for p in pairs], after) == ([(second, first)], second)
        pairs, after = reader.open_duplicates(after_no=second, limit=2)
        assert [(p.order.order_no, p.older.order_no) for p in pairs] == [(third, first), (third, second)]
        assert after is None
        owner = cluster.cores[0].catalog.owner_of_slot(placed[2].slot)
        cluster.ask(owner, CancelOrder(placed[2].slot, third, is_duplicate=True))
        folded(engine, cluster, (owner,), random.Random(4))
        assert reader.open_duplicates(after_no=second, limit=2) == ([], None)
        listed = reader.duplicates(OrderFilter(order_id="SAME"), Window(10))
        assert [(row.order.order_no, row.order.state, row.first.order_no) for row in listed] == [
            (third, "cancelled", first),
            (second, "allocated", first),
        ]
        ended = [row.order.order_no for row in reader.duplicates(OrderFilter(), Window(10), is_open=False)]
        still_open = [row.order.order_no for row in reader.duplicates(OrderFilter(), Window(10), is_open=True)]
        assert (ended, still_open) == ([third], [second])
    finally:
        reader.close()


def test_an_index_of_the_first_version_learns_its_duplicates(engine: sa.Engine) -> None:
    from alembic import command

    from engine.archive.index import _alembic

    cluster, _ = sold_twice(places=3)
    folded(engine, cluster, (0, 1), random.Random(4))
    before = contents(engine)
    with engine.begin() as connection:
        command.downgrade(_alembic(connection), "0001")
    migrate(engine)
    assert contents(engine) == before
