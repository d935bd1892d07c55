"""The index: what can be asked about the past without reading it. Everything here is a fold of the journals and can be rebuilt.

Rows name items, nodes and channels by the integers of the control shard (`names` resolves them); an order number is unique over all
shards and says when the order was opened. `progress` is written in the same transaction as what it covers, so a batch counts once.
Changes come with an alembic revision (engine/archive/migrations).
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()
_Big = sa.BigInteger().with_variant(sa.INTEGER(), "sqlite")
"""SQLite makes a column the row's own key only where it is called INTEGER."""

progress = sa.Table(
    "progress",
    metadata,
    sa.Column("shard", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", _Big, nullable=False),
    sa.Column("seq", _Big, nullable=False),
    sa.Column("time_ms", _Big, nullable=False),
    sa.Column("first_seq", _Big, nullable=False),
    sa.Column("gaps", sa.Integer, nullable=False),
)
"""How far each shard is folded: `as_of`. `first_seq` > 1 or `gaps` > 0: the fold does not know the beginning, or not all."""

names = sa.Table(
    "names",
    metadata,
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("idx", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.String(256), nullable=False),
    sa.Index("names_by_name", "kind", "name"),
    sqlite_with_rowid=False,
)

orders = sa.Table(
    "orders",
    metadata,
    sa.Column("order_no", _Big, primary_key=True, autoincrement=False),
    sa.Column("slot", sa.String(8), nullable=False),
    sa.Column("order_id", sa.String(256), nullable=False),
    sa.Column("state", sa.String(24), nullable=False),
    sa.Column("channel", sa.Integer, nullable=False),
    sa.Column("customer_id", sa.String(256)),
    sa.Column("closed", sa.Integer, nullable=False),
    sa.Column("shard", sa.Integer, nullable=False),
    sa.Column("seq", _Big, nullable=False),
    sa.Column("changed_ms", _Big, nullable=False),
    sa.Column("record", sa.LargeBinary, nullable=False),
    sa.Column("ended_ms", _Big, nullable=False, server_default="0"),
    sa.Index("orders_by_order_id", "order_id", "ended_ms"),
    sa.Index(
        "orders_by_customer",
        "customer_id",
        "order_no",
        sqlite_where=sa.text("customer_id IS NOT NULL"),
        postgresql_where=sa.text("customer_id IS NOT NULL"),
    ),
    sa.Index("orders_by_state", "state", "order_no", "channel"),
)
"""The newest record of every order, packed as the journal holds it. `closed` = it left the shard's state; `ended_ms` = when all of it
had ended for the first time, 0 = it is open."""

duplicates = sa.Table(
    "duplicates",
    metadata,
    sa.Column("order_no", _Big, primary_key=True, autoincrement=False),
    sa.Column("first_no", _Big, nullable=False),
    sqlite_with_rowid=False,
)
"""Orders that were opened while one of the same id was open in another slot; `first_no` = the oldest such."""

order_items = sa.Table(
    "order_items",
    metadata,
    sa.Column("item", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("order_no", _Big, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

order_legs = sa.Table(
    "order_legs",
    metadata,
    sa.Column("order_no", _Big, primary_key=True, autoincrement=False),
    sa.Column("leg_no", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("node", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Index("order_legs_by_node", "node", "order_no", "leg_no", "state"),
    sqlite_with_rowid=False,
)

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("order_no", _Big, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("shard", sa.Integer, nullable=False),
    sa.Column("epoch", _Big, nullable=False),
    sa.Column("seq", _Big, nullable=False),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("at_ms", _Big, nullable=False),
    sa.Column("rung", sa.String(16), nullable=False),
    sqlite_with_rowid=False,
)
"""Where each decision record is: entry (shard, epoch, seq) and its place in it; the record is read from journal or archive."""

movements = sa.Table(
    "movements",
    metadata,
    sa.Column("node", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("item", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at_ms", _Big, primary_key=True, autoincrement=False),
    sa.Column("shard", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seq", _Big, primary_key=True, autoincrement=False),
    sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(24), nullable=False),
    sa.Column("on_hand", sa.Integer, nullable=False),
    sa.Column("held", sa.Integer, nullable=False),
    sa.Column("allocated", sa.Integer, nullable=False),
    sa.Column("slot", sa.String(8)),
    sa.Column("order_no", _Big),
    sa.Column("note", sa.String(256)),
    sqlite_with_rowid=False,
)
"""Changes of positions; `n` = place within the entry. `note` = a movement's or step's reason, or a count's source and its sequence."""

reasons = sa.Table(
    "reasons",
    metadata,
    sa.Column("order_no", _Big, primary_key=True, autoincrement=False),
    sa.Column("at_ms", _Big, primary_key=True, autoincrement=False),
    sa.Column("shard", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seq", _Big, primary_key=True, autoincrement=False),
    sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(24), nullable=False),
    sa.Column("leg_no", sa.Integer, nullable=False),
    sa.Column("reason", sa.String(256), nullable=False),
    sqlite_with_rowid=False,
)
"""Why orders changed, in the words of who asked for it; `n` = place among those of the entry, leg number 0 = the order as a whole."""

positions = sa.Table(
    "positions",
    metadata,
    sa.Column("node", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("item", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("on_hand", _Big, nullable=False),
    sa.Column("held", _Big, nullable=False),
    sa.Column("allocated", _Big, nullable=False),
    sqlite_with_rowid=False,
)
"""Sums of all movements, so that the balance after each can be shown."""

FOLDED = (progress, names, orders, duplicates, order_items, order_legs, decisions, movements, reasons, positions)
