"""The first index: orders, their items and legs, decisions, movements."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
_BIG = sa.BigInteger().with_variant(sa.INTEGER(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "decisions",
        sa.Column("order_no", _BIG, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("epoch", _BIG, nullable=False),
        sa.Column("seq", _BIG, nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("at_ms", _BIG, nullable=False),
        sa.Column("rung", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("order_no", "number"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "movements",
        sa.Column("node", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("item", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at_ms", _BIG, autoincrement=False, nullable=False),
        sa.Column("shard", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", _BIG, autoincrement=False, nullable=False),
        sa.Column("n", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=24), nullable=False),
        sa.Column("on_hand", sa.Integer(), nullable=False),
        sa.Column("held", sa.Integer(), nullable=False),
        sa.Column("allocated", sa.Integer(), nullable=False),
        sa.Column("slot", sa.String(length=8), nullable=True),
        sa.Column("order_no", _BIG, nullable=True),
        sa.Column("note", sa.String(length=256), nullable=True),
        sa.PrimaryKeyConstraint("node", "item", "at_ms", "shard", "seq", "n"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "names",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("idx", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.PrimaryKeyConstraint("kind", "idx"),
        sqlite_with_rowid=False,
    )
    op.create_index("names_by_name", "names", ["kind", "name"], unique=False)
    op.create_table(
        "order_items",
        sa.Column("item", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("order_no", _BIG, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("item", "order_no"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "order_legs",
        sa.Column("order_no", _BIG, autoincrement=False, nullable=False),
        sa.Column("leg_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("node", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("order_no", "leg_no"),
        sqlite_with_rowid=False,
    )
    op.create_index("order_legs_by_node", "order_legs", ["node", "order_no", "leg_no", "state"], unique=False)
    op.create_table(
        "orders",
        sa.Column("order_no", _BIG, autoincrement=False, nullable=False),
        sa.Column("slot", sa.String(length=8), nullable=False),
        sa.Column("order_id", sa.String(length=256), nullable=False),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("channel", sa.Integer(), nullable=False),
        sa.Column("customer_id", sa.String(length=256), nullable=True),
        sa.Column("closed", sa.Integer(), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("seq", _BIG, nullable=False),
        sa.Column("changed_ms", _BIG, nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("order_no"),
    )
    op.create_index(
        "orders_by_customer",
        "orders",
        ["customer_id", "order_no"],
        unique=False,
        sqlite_where=sa.text("customer_id IS NOT NULL"),
        postgresql_where=sa.text("customer_id IS NOT NULL"),
    )
    op.create_index("orders_by_order_id", "orders", ["order_id"], unique=False)
    op.create_index("orders_by_state", "orders", ["state", "order_no", "channel"], unique=False)
    op.create_table(
        "positions",
        sa.Column("node", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("item", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("on_hand", _BIG, nullable=False),
        sa.Column("held", _BIG, nullable=False),
        sa.Column("allocated", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("node", "item"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "progress",
        sa.Column("shard", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", _BIG, nullable=False),
        sa.Column("seq", _BIG, nullable=False),
        sa.Column("time_ms", _BIG, nullable=False),
        sa.Column("first_seq", _BIG, nullable=False),
        sa.Column("gaps", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("shard"),
    )


def downgrade() -> None:
    for name in ("progress", "positions", "orders", "order_legs", "order_items", "names", "movements", "decisions"):
        op.drop_table(name)
