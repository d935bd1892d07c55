"""When orders ended, and which were opened while another one in another slot had their id."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
_BIG = sa.BigInteger().with_variant(sa.INTEGER(), "sqlite")


def upgrade() -> None:
    op.add_column("orders", sa.Column("ended_ms", _BIG, nullable=False, server_default="0"))
    op.execute(
        "UPDATE orders SET ended_ms = changed_ms WHERE closed = 1 "
        "OR state IN ('released', 'expired', 'cancelled', 'delivered')"
    )
    op.drop_index("orders_by_order_id", "orders")
    op.create_index("orders_by_order_id", "orders", ["order_id", "ended_ms"], unique=False)
    op.create_table(
        "duplicates",
        sa.Column("order_no", _BIG, autoincrement=False, nullable=False),
        sa.Column("first_no", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("order_no"),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO duplicates (order_no, first_no) SELECT l.order_no, MIN(f.order_no) FROM orders l JOIN orders f "
        "ON f.order_id = l.order_id AND f.slot <> l.slot AND f.order_no < l.order_no "
        "AND (f.ended_ms = 0 OR f.ended_ms > (l.order_no >> 22) + 1577836800000) GROUP BY l.order_no"
    )


def downgrade() -> None:
    op.drop_table("duplicates")
    op.drop_index("orders_by_order_id", "orders")
    op.create_index("orders_by_order_id", "orders", ["order_id"], unique=False)
    op.drop_column("orders", "ended_ms")
