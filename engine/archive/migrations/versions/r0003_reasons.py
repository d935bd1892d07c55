"""Why orders changed, in the words of who asked for it. Known of what is folded from now on: older entries do not say it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
_BIG = sa.BigInteger().with_variant(sa.INTEGER(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "reasons",
        sa.Column("order_no", _BIG, autoincrement=False, nullable=False),
        sa.Column("at_ms", _BIG, autoincrement=False, nullable=False),
        sa.Column("shard", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", _BIG, autoincrement=False, nullable=False),
        sa.Column("n", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=24), nullable=False),
        sa.Column("leg_no", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(length=256), nullable=False),
        sa.PrimaryKeyConstraint("order_no", "at_ms", "shard", "seq", "n"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("reasons")
