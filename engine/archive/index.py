"""The index in a database: SQLite in the data folder, or PostgreSQL by URL. Blocking: use it from a thread.

X1  A batch and the progress that says so are one transaction, so an entry counts exactly once, whatever is killed when.
X2  A batch goes on exactly where its shard's progress ends; anything else is refused.
X3  There is one writer (the archiver). A second one fails on X2 and reads its progress again.
X5  `duplicates` follows from the rows of `orders` alone, so it is the same whichever shard was folded first.
X4  A batch that opens a part of another shard comes after the entry that boxed it there: an order's rows are written in its order.
"""

from __future__ import annotations

from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from engine.archive.fold import Fold, Row
from engine.archive.tables import FOLDED, metadata, orders, progress
from engine.domain.ids import EPOCH_2020_MS
from engine.domain.placement import CONTROL_SHARD
from engine.journal.port import Misconfigured, Unavailable

if TYPE_CHECKING:
    from alembic.config import Config

SQLITE_CACHE_KIB = 64 * 1024
SQLITE_WAL_PAGES = 16_000
"""64 MiB of log before it is copied into the tables: a page that many transactions change is then copied once."""
BUSY_TIMEOUT_S = 10
IDS_PER_QUERY = 500
ROWS_PER_STATEMENT = 32
"""SQLite takes so many rows at a time: starting a statement costs as much as inserting a small row. (PostgreSQL's driver sends
statements of one row in a pipeline.)"""


class OutOfStep(Exception):
    """X2: the batch does not go on where the index ends."""


class Waits(Exception):
    """X4: another shard's entries, from which a part came, are not in the index yet."""


class Progress(NamedTuple):
    """How far a shard is folded."""

    shard: int
    epoch: int
    seq: int
    time_ms: int
    first_seq: int
    gaps: int

    @property
    def is_whole(self) -> bool:
        """From the first entry on, without a gap."""
        return self.first_seq == 1 and not self.gaps


class Forgotten(NamedTuple):
    """Movements removed, and the position to go on after; None = that was all."""

    removed: int
    next_after: tuple[int, int] | None


def sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"


def connect_index(url: str, *, readers: int = 4) -> sa.Engine:
    """An engine for `sqlite:///path` or `postgresql://user@host/db`. Raises ValueError for any other. Connects on first use."""
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise ValueError("QM_INDEX_URL is no database's address") from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})
        sa.event.listen(engine, "connect", _set_up_sqlite)
        return engine
    if backend == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        return sa.create_engine(
            parsed, pool_size=readers, max_overflow=0, pool_pre_ping=True, pool_timeout=BUSY_TIMEOUT_S
        )
    raise ValueError(f"QM_INDEX_URL: sqlite:///path or postgresql://user@host/database, not {backend}")


def _set_up_sqlite(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    # NORMAL: a power cut may take the newest transactions, progress with them. They are folded again.
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        f"cache_size=-{SQLITE_CACHE_KIB}",
        f"wal_autocheckpoint={SQLITE_WAL_PAGES}",
        "temp_store=MEMORY",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _alembic(connection: sa.Connection | None = None) -> Config:
    from alembic.config import Config  # not above: readers need nothing of alembic, 11 MB

    config = Config()
    config.set_main_option("script_location", str(files("engine.archive").joinpath("migrations")))
    config.attributes["connection"] = connection
    return config


def newest_revision() -> str:
    from alembic.script import ScriptDirectory

    head = ScriptDirectory.from_config(_alembic()).get_current_head()
    assert head is not None
    return head


def migrate(engine: sa.Engine) -> None:
    """Bring the tables to this version. Raises Misconfigured where the database is newer than this version, Unavailable."""
    from alembic import command
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7177)")  # two starting at once take turns
            current = MigrationContext.configure(connection).get_current_revision()
            known = {revision.revision for revision in ScriptDirectory.from_config(_alembic()).walk_revisions()}
            if current is not None and current not in known:
                raise Misconfigured(f"the index is of a newer version ({current}); rebuild it or use that version")
            if current != newest_revision():
                command.upgrade(_alembic(connection), "head")
    except sa.exc.OperationalError as error:
        raise Unavailable(f"the index cannot be reached: {error.orig}") from error


def is_empty(engine: sa.Engine) -> bool:
    """Whether nothing was ever folded into it. Raises Unavailable."""
    try:
        with engine.connect() as connection:
            made = sa.inspect(connection).has_table(progress.name)
            return not made or connection.execute(sa.select(progress.c.shard).limit(1)).first() is None
    except sa.exc.DBAPIError as error:
        raise Unavailable(f"the index cannot be read: {error.orig}") from error


def drop_tables(engine: sa.Engine) -> None:
    """All of it; `migrate` makes it anew. Raises Unavailable."""
    try:
        with engine.begin() as connection:
            metadata.drop_all(connection)
            connection.exec_driver_sql("DROP TABLE IF EXISTS alembic_version")
    except sa.exc.DBAPIError as error:
        raise Unavailable(f"the index cannot be written: {error.orig}") from error


def _insert(table: sa.Table, mark: str, rows: int, rest: str = "") -> str:
    columns = [column.name for column in table.columns]
    row = f"({', '.join([mark] * len(columns))})"
    return f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES {', '.join([row] * rows)} {rest}"  # noqa: S608


def _replace(table: sa.Table, mark: str, rows: int, **kept: str) -> str:
    """Insert, or set all other columns; `kept` = how, where not simply to what is inserted."""
    keys = [column.name for column in table.primary_key.columns]
    others = [column.name for column in table.columns if column.name not in keys]
    sets = ", ".join(kept.get(name) or f"{name} = excluded.{name}" for name in others)
    return _insert(table, mark, rows, f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {sets}")


def _inserts(mark: str, rows: int) -> dict[str, str]:
    """The writer's statements that take whole rows, so many at a time. No two of them have the same key."""
    tables = metadata.tables
    sums = ", ".join(f"{name} = positions.{name} + excluded.{name}" for name in ("on_hand", "held", "allocated"))
    return {
        "names": _replace(tables["names"], mark, rows),
        "orders": _replace(tables["orders"], mark, rows, ended_ms=_FIRST_END),
        "items": _insert(tables["order_items"], mark, rows, "ON CONFLICT DO NOTHING"),
        "legs": _replace(tables["order_legs"], mark, rows),
        "decisions": _insert(tables["decisions"], mark, rows, "ON CONFLICT DO NOTHING"),
        "movements": _insert(tables["movements"], mark, rows),
        "reasons": _insert(tables["reasons"], mark, rows),
        "positions": _insert(tables["positions"], mark, rows, f"ON CONFLICT (node, item) DO UPDATE SET {sums}"),
        "progress": _replace(tables["progress"], mark, rows),
    }


def _statements(mark: str) -> dict[str, str]:
    """The writer's statements, by what they take rows of. Written out: building 14 rows an order from dicts costs as much again."""
    return _inserts(mark, 1) | {
        "replanned": f"DELETE FROM order_legs WHERE order_no = {mark}",  # noqa: S608
        "closed": f"UPDATE orders SET closed = 1 WHERE order_no = {mark}",  # noqa: S608
        "judged": f"DELETE FROM duplicates WHERE order_no = {mark}",  # noqa: S608
        "duplicates": (
            "INSERT INTO duplicates (order_no, first_no) SELECT l.order_no, MIN(f.order_no) FROM orders l JOIN orders f "  # noqa: S608
            "ON f.order_id = l.order_id AND f.slot <> l.slot AND f.order_no < l.order_no "
            f"AND (f.ended_ms = 0 OR f.ended_ms > (l.order_no >> 22) + {EPOCH_2020_MS}) "
            f"WHERE l.order_no = {mark} GROUP BY l.order_no"
        ),
    }


_FIRST_END = "ended_ms = CASE WHEN orders.ended_ms > 0 THEN orders.ended_ms ELSE excluded.ended_ms END"


class IndexWriter:
    """Writes batches of entries. Used by one thread at a time."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        sqlite = engine.dialect.name == "sqlite"
        self._sql = _statements("?" if sqlite else "%s")
        self._many = _inserts("?", ROWS_PER_STATEMENT) if sqlite else {}
        self.judged = 0
        """Goes up with each batch after which there may be other duplicates."""

    def progress(self, shard: int) -> Progress | None:
        """How far a shard is folded; None = nothing of it yet. Raises Unavailable."""
        try:
            with self._engine.connect() as connection:
                row = connection.execute(sa.select(progress).where(progress.c.shard == shard)).one_or_none()
        except sa.exc.DBAPIError as error:
            raise Unavailable(f"the index cannot be read: {error.orig}") from error
        return Progress(*row) if row is not None else None

    def is_whole(self) -> bool:
        """Whether all that is folded of every shard is so from its first entry on: orders move between them. Raises Unavailable."""
        p = progress.c
        lacking = sa.select(p.shard).where(p.shard != CONTROL_SHARD, sa.or_(p.first_seq != 1, p.gaps > 0)).limit(1)
        try:
            with self._engine.connect() as connection:
                return connection.execute(lacking).first() is None
        except sa.exc.DBAPIError as error:
            raise Unavailable(f"the index cannot be read: {error.orig}") from error

    def write(self, fold: Fold) -> Progress:
        """X1, X2. Raises OutOfStep, Waits, Unavailable (nothing of it was written, or all of it: `progress` tells)."""
        last = fold.last
        assert last is not None, "an empty batch is not written"
        changes = fold.changes()
        try:
            with self._engine.begin() as connection:
                query = sa.select(progress).where(progress.c.shard == fold.shard).with_for_update()
                found = connection.execute(query).one_or_none()
                have = Progress(*found) if found is not None else None
                if have is not None and fold.first_seq <= have.seq:
                    raise OutOfStep(
                        f"shard {fold.shard} is folded up to {have.seq}, the batch begins at {fold.first_seq}"
                    )
                for shard, seq in fold.after:
                    query = sa.select(progress.c.seq).where(progress.c.shard == shard)
                    there = connection.execute(query).scalar()
                    if there is None or there < seq:
                        raise Waits(f"shard {fold.shard} waits for entry {seq} of shard {shard}")
                gap = have is not None and fold.first_seq > have.seq + 1

                def run(what: str, rows: list[Row]) -> None:
                    _run(connection, self._sql[what], self._many.get(what), rows)

                run("names", changes.names)
                run("replanned", changes.replanned)
                run("orders", changes.orders)
                # In the order of their keys: neighbours are written into the page that is at hand.
                run("items", changes.items)
                run("legs", changes.legs)
                run("decisions", changes.decisions)
                run("movements", changes.movements)
                run("reasons", changes.reasons)
                run("positions", changes.positions)
                run("closed", changes.closed)
                judged = _touched_by(connection, changes.same_id)
                run("judged", judged)
                run("duplicates", judged)
                now = Progress(
                    fold.shard,
                    last.epoch,
                    last.seq,
                    last.time_ms,
                    have.first_seq if have is not None else fold.first_seq,
                    (have.gaps if have is not None else 0) + gap + fold.gaps,
                )
                run("progress", [tuple(now)])
        except sa.exc.DBAPIError as error:
            if isinstance(error, sa.exc.IntegrityError | sa.exc.ProgrammingError | sa.exc.DataError):
                raise  # a bug or a damaged database, not weather
            raise Unavailable(f"the index cannot be written: {error.orig}") from error
        self.judged += bool(judged)
        return now

    def forget(self, *, before_ms: int, after: tuple[int, int] = (-1, -1), positions_max: int = 1_000) -> Forgotten:
        """Retention: remove movements before an instant, a bounded number of positions at a time. Orders and balances stay."""
        tables = metadata.tables
        p, m = tables["positions"].c, tables["movements"]
        page = (
            sa.select(p.node, p.item)
            .where(sa.tuple_(p.node, p.item) > sa.tuple_(*(sa.literal(n) for n in after)))
            .order_by(p.node, p.item)
            .limit(positions_max)
        )
        removed = 0
        try:
            with self._engine.begin() as connection:
                found = connection.execute(page).all()
                for node, item in found:
                    old = m.delete().where(m.c.node == node, m.c.item == item, m.c.at_ms < before_ms)
                    removed += connection.execute(old).rowcount
        except sa.exc.OperationalError as error:
            raise Unavailable(f"the index cannot be written: {error.orig}") from error
        return Forgotten(removed, (found[-1][0], found[-1][1]) if len(found) == positions_max else None)


def _run(connection: sa.Connection, one: str, many: str | None, rows: list[Row]) -> None:
    """A statement for each row, or `many`, which takes ROWS_PER_STATEMENT of them, as often as that goes."""
    done = 0
    if many is not None:
        done = len(rows) - len(rows) % ROWS_PER_STATEMENT
        starts = range(0, done, ROWS_PER_STATEMENT)
        if done:
            flat = [tuple(chain.from_iterable(rows[at : at + ROWS_PER_STATEMENT])) for at in starts]
            connection.exec_driver_sql(many, flat)
    if done < len(rows):
        connection.exec_driver_sql(one, rows[done:])


_SHARED_IDS = (
    f"SELECT order_id FROM orders WHERE order_id IN ({', '.join('?' * IDS_PER_QUERY)}) "  # noqa: S608
    "GROUP BY order_id HAVING COUNT(*) > 1"
)
_SHARED_IDS_ANY = "SELECT order_id FROM orders WHERE order_id = ANY(%s) GROUP BY order_id HAVING COUNT(*) > 1"


def _touched_by(connection: sa.Connection, same_id: list[Row]) -> list[Row]:
    """(order number,) of the orders of which it must be found out again whether they are duplicates (X5)."""
    by_id: dict[str, list[int]] = {}
    for order_no, order_id in same_id:
        by_id.setdefault(order_id, []).append(order_no)
    ids = sorted(by_id)
    touched: set[int] = set()
    sqlite = connection.dialect.name == "sqlite"
    for at in range(0, len(ids), IDS_PER_QUERY):
        some = ids[at : at + IDS_PER_QUERY]
        if sqlite:
            some += some[-1:] * (IDS_PER_QUERY - len(some))  # one statement, whatever their number
            found = connection.exec_driver_sql(_SHARED_IDS, tuple(some))
        else:
            found = connection.exec_driver_sql(_SHARED_IDS_ANY, (some,))
        for order_id in found.scalars().all():
            c = orders.c  # an order says something of itself and of those opened after it
            later = sa.select(c.order_no).where(c.order_id == order_id, c.order_no >= min(by_id[order_id]))
            touched.update(connection.execute(later).scalars())
    return [(order_no,) for order_no in sorted(touched)]


def contents(engine: sa.Engine) -> dict[str, list[Row]]:
    """Every row of every table in the order of its keys: for comparing a rebuilt index with a live one."""
    out = {}
    with engine.connect() as connection:
        for table in FOLDED:
            query = sa.select(table).order_by(*table.primary_key.columns)
            out[table.name] = [tuple(row) for row in connection.execute(query)]
    return out
